"""From a prompt to text that streams.

Owns prefill (read the prompt, fill the cache), decode (one token more), going on past the context, and cutting the text
where a stop string or the end of the document comes. Yields events; prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.events import Event, Finished, Reason, Reread, Text, Token
from attncli.generation.sampling import Seen, generators, needs_seen, next_token, uniforms
from attncli.generation.seeing import Watch, tokens
from attncli.model.cache import KVCache
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import DecodeStream, Tokenizer

_DRAWN_TOGETHER = 256  # random numbers of a sample, so that few calls draw them and a long text needs no more memory


def prefill(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """Reads ids (B, T) into the cache -> logits for the next token (B, V)."""
    return model.unembed(model.hidden(ids, cache)[:, -1])


def decode(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """Reads one more token per row, ids (B,) -> logits for the next (B, V)."""
    return prefill(model, cache, ids[:, None])


def refuse_unreadable(model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
    """Raises BadInput for a prompt that is empty or longer than the context."""
    if not prompt:
        raise BadInput("The prompt has no tokens.", "Give at least one character, or leave the prompt out.")
    if len(prompt) > model.config.context:
        raise BadInput(
            f"The prompt has {len(prompt)} tokens, and the model reads at most {model.config.context}.",
            f"Give its end: the last {len(tokenizer.decode(prompt[-model.config.context :]))} characters fit.",
        )


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    config: SampleConfig,
    end_ids: frozenset[int] | None = None,
    watch: Watch | None = None,
) -> Iterator[Event]:
    """Continues a prompt of at least one token, `config.num_samples` times, all samples together.

    A text ends with any of `end_ids`; None is what the tokenizer calls the end of a document. With `watch`, a Token
    comes before the text of each token.

    Raises BadInput at once for a prompt that is empty or longer than the context.
    """
    refuse_unreadable(model, tokenizer, prompt)
    if end_ids is None:
        end_ids = frozenset() if tokenizer.end_of_text is None else frozenset({tokenizer.end_of_text})
    samples = [_Sample(i, tokenizer, config.stop, end_ids) for i in range(config.num_samples)]
    return _generate(samples, _steps(model, tokenizer, prompt, config, watch))


def _generate(samples: list[_Sample], steps: Iterator[Sequence[int | Token] | Reread]) -> Iterator[Event]:
    for step in steps:
        if isinstance(step, Reread):
            yield step
            continue
        for sample, drawn in zip(samples, step, strict=True):
            if not sample.finished:
                yield from sample.take(drawn)
        if all(sample.finished for sample in samples):
            return
    for sample in samples:
        if not sample.finished:
            yield from sample.close("length")


@torch.inference_mode()
def _steps(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], config: SampleConfig, watch: Watch | None
) -> Iterator[Sequence[int | Token] | Reread]:
    """The ids of every sample, as tokens with `watch`, step by step; a Reread wherever the context was full.

    Only ids that the tokenizer has are drawn: some models have more, without meaning, to fill their matrices.
    """
    vocab_size = tokenizer.vocab_size
    device, context = model.embedding.weight.device, model.config.context
    recent = torch.tensor(prompt, device=device).repeat(config.num_samples, 1)  # as many as a reread may need
    streams = generators(config.seed, config.num_samples)
    seen = Seen.of([prompt] * config.num_samples, vocab_size, device) if needs_seen(config) else None
    text_of = lru_cache(lambda id_: tokenizer.decode([id_]))
    cache = model.new_cache()
    logits = prefill(model, cache, recent)
    for step in range(config.max_new_tokens):
        if step % _DRAWN_TOGETHER == 0:
            draws = uniforms(streams, _DRAWN_TOGETHER).to(device)
        ids = next_token(logits[:, :vocab_size], config, draws[:, step % _DRAWN_TOGETHER], seen)
        yield tokens(logits[:, :vocab_size], ids, config, watch, text_of, seen) if watch else ids.tolist()
        if step + 1 == config.max_new_tokens:
            return
        if seen is not None:
            seen.add(ids)
        recent = torch.cat((recent, ids[:, None]), 1)[:, -max(context // 2, 1) :]
        if cache.length == context:
            cache.truncate(0)
            yield Reread(recent.shape[1])
            logits = prefill(model, cache, recent)
        else:
            logits = decode(model, cache, ids)


class _Sample:
    """One sample's ids turned into text, held back where it might be the beginning of a stop string."""

    def __init__(self, index: int, tokenizer: Tokenizer, stop: tuple[str, ...], end_ids: frozenset[int]) -> None:
        self.finished = False
        self._index = index
        self._ids: list[int] = []
        self._stream: DecodeStream = tokenizer.stream()
        self._end_ids = end_ids
        self._stop = stop
        self._held = ""

    def take(self, drawn: int | Token) -> Iterator[Event]:
        """Takes the next id or token; gives the token, the text that is now certain, and the end when it comes."""
        id_ = drawn.id if isinstance(drawn, Token) else drawn
        self._ids.append(id_)
        new = "" if id_ in self._end_ids else self._stream.push(id_)
        if isinstance(drawn, Token):
            yield replace(drawn, sample=self._index, characters=len(new))
        if id_ in self._end_ids:
            yield from self.close("end")
            return
        self._held += new
        if (at := self._stop_at()) is not None:
            yield from self._finish(self._held[:at], "stop")
            return
        ready = len(self._held) - self._could_begin_stop()
        if ready:
            yield Text(self._index, self._held[:ready])
            self._held = self._held[ready:]

    def close(self, reason: Reason) -> Iterator[Event]:
        """Ends the sample, with whatever was held back."""
        self._held += self._stream.flush()
        at = self._stop_at()
        yield from self._finish(self._held if at is None else self._held[:at], reason if at is None else "stop")

    def _finish(self, rest: str, reason: Reason) -> Iterator[Event]:
        self.finished = True
        if rest:
            yield Text(self._index, rest)
        yield Finished(self._index, reason, tuple(self._ids))

    def _stop_at(self) -> int | None:
        """Where the first stop string begins, in the text held."""
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found, default=None)

    def _could_begin_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        return max((n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
