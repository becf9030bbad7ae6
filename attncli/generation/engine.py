"""Generates texts from prompts, many samples in a batch, and streams them as events.

`Batch` computes the steps. When a quarter of its slots are free, waiting samples join it. The engine yields events and
prints nothing.

For an encoder-decoder, each prompt has a source, which is encoded once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from attncli.config import EngineConfig, ModelConfig, SampleConfig
from attncli.errors import BadInput
from attncli.generation.batch import Batch, RunningSample
from attncli.generation.beams import search
from attncli.generation.ending import SampleText
from attncli.generation.events import Event
from attncli.generation.sampling import generators
from attncli.generation.token_details import TokenDetails
from attncli.model.backend import Backend
from attncli.text.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4  # bytes of UTF-8
_ADMITTED_SHARE = 4  # waiting samples enter when 1/4 of the slots are free: reading many prompts at once is faster


def refuse_unreadable(
    config: ModelConfig, tokenizer: Tokenizer, prompt: Sequence[int], *, target: bool = False
) -> None:
    """Raises BadInput for a prompt that is empty or longer than the context.

    For a model with an encoder, the prompt is the text that the encoder reads. With `target`, it is the beginning of
    a translation.
    """
    if not prompt:
        raise BadInput("The prompt has no tokens.", "Give at least one character, or leave the prompt out.")
    if target and len(prompt) > config.context:
        raise BadInput(
            f"The beginning of the translation has {len(prompt)} tokens, and the model reads at most {config.context}.",
            "Give a shorter one.",
        )
    if len(prompt) > config.context:
        what, fitting = "text" if config.encoder_layers else "prompt", last_that_fit(config, tokenizer, prompt)
        kept = fitting[: len(fitting) - len(tokenizer.closing)] if config.encoder_layers else fitting
        raise BadInput(
            f"The {what} has {len(prompt)} tokens, and the model reads at most {config.context}.",
            f"Give its end: the last {len(tokenizer.decode(kept))} characters fit.",
        )


def last_that_fit(config: ModelConfig, tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """Truncates a prompt to the context: keeps the tokens that open every text, and as many final tokens as fit.

    The kept final tokens begin with a complete character. A prompt that fits is returned unchanged.
    """
    if len(prompt) <= config.context:
        return list(prompt)
    opening = len(tokenizer.opening)
    first = len(prompt) - max(config.context - opening, 1)
    within = _LONGEST_CHARACTER - 1  # of the kept tokens, at most this many continue a cut character
    while (
        within
        and first + 1 < len(prompt)
        and tokenizer.decode(prompt[first : first + _LONGEST_CHARACTER]).startswith("\ufffd")
    ):
        first, within = first + 1, within - 1
    return [*prompt[:opening], *prompt[first:]]


def generate(
    backend: Backend,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    end_ids: frozenset[int] | None = None,
    details: TokenDetails | None = None,
    how: EngineConfig | None = None,
    sources: Sequence[Sequence[int]] | None = None,
) -> Iterator[Event]:
    """Generates `config.num_samples` samples of each prompt and yields their events.

    Samples are numbered prompt by prompt. A sample depends only on its prompt, the seed and its index among the
    prompt's samples. A text ends at any of `end_ids`, by default at the tokenizer's end-of-text token. With `details`,
    yields a Token event for each token.

    An encoder-decoder needs `sources`, one for each prompt. A prompt is then the beginning of the target, and special
    tokens that the model generates have no text.

    With `config.beams` above 1, beam search finds the texts instead (`beams.search`).

    Raises BadInput, before the first event, for a prompt or a source that is empty or longer than the context.
    """
    for prompt in prompts:
        refuse_unreadable(backend.config, tokenizer, prompt, target=sources is not None)
    for source in sources or ():
        refuse_unreadable(backend.config, tokenizer, source)
    if end_ids is None:
        end_ids = frozenset() if tokenizer.end_of_text is None else frozenset({tokenizer.end_of_text})
    if config.beams > 1:
        return search(backend, tokenizer, prompts, config, end_ids, details, how, sources)
    hidden = frozenset[int]() if sources is None else tokenizer.special_ids
    how = how or EngineConfig()
    streamed = how.streamed or details is not None
    waiting: deque[RunningSample] = deque()
    for prompt, source in zip(prompts, [()] * len(prompts) if sources is None else sources, strict=True):
        for stream in generators(config.seed, config.num_samples):
            text = SampleText(len(waiting), tokenizer, config, end_ids, prompt, hidden, streamed=streamed)
            waiting.append(RunningSample(list(prompt), text, config, stream, details, tuple(source)))
    return _run(backend, tokenizer, waiting, how)


def _run(backend: Backend, tokenizer: Tokenizer, waiting: deque[RunningSample], how: EngineConfig) -> Iterator[Event]:
    """Generates all samples. A waiting sample gets the slot of a finished sample."""
    slots = min(len(waiting), how.at_once)
    longest = max((len(sample.ids) + sample.config.max_new_tokens for sample in waiting), default=1)
    batch = Batch(backend, tokenizer, slots, how, positions=min(longest, backend.config.context))
    while waiting or batch.running:
        if batch.free * _ADMITTED_SHARE >= slots:
            while batch.free and waiting:
                batch.join(waiting.popleft())
        yield from batch.step()
