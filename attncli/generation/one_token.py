"""Draws one token at a time, for a caller that decides after each token how to go on.

The draws are those of `engine.generate`: with the same prompt, seed and settings, step n draws the n-th token of a
generation. The caller passes the ids that were drawn before, so nothing but the cache is remembered between two calls.
The cache contains the last text that was read; a call reads only the tokens that differ from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.batch import UNIFORMS_PER_DRAW
from attncli.generation.engine import refuse_unreadable
from attncli.generation.sampling import Seen, best, filtered, generators, needs_seen, next_token, uniforms
from attncli.model.backend import Backend, Segment

_CHUNK = 256  # tokens; between two chunks, `between` may end a long prefill


@dataclass(frozen=True)
class DrawChance:
    """A possible token: its probability in the model's own distribution, and in the one that the draw was from."""

    id: int
    text: str  # the text of this token alone; an incomplete character is U+FFFD
    model: float  # at temperature 1, before the sampling steps
    drawn: float  # after the sampling steps; 0 for a token that they removed


@dataclass(frozen=True)
class OneToken:
    """A drawn token, and the distribution that it was drawn from."""

    id: int
    step: int  # the number of tokens that were drawn before
    ends: bool  # whether this token ends the text
    uniform: float | None  # the random number in [0, 1) of the draw; None at temperature 0
    chances: tuple[DrawChance, ...]  # the most probable tokens of the model's own distribution, and the drawn token
    left: int  # the number of tokens that the sampling steps left
    written: str  # the text of all drawn tokens, this one included


def window(prompt: Sequence[int], generated: Sequence[int], context: int) -> list[int]:
    """Returns the ids that the model reads after generated tokens: the most recent half if the context was full."""
    ids = list(prompt)
    for id_ in generated:
        full = len(ids) == context
        ids.append(id_)
        if full:
            del ids[: -max(context // 2, 1)]
    return ids


class OneByOne:
    """Draws tokens of a model one at a time."""

    def __init__(self, loaded: LoadedModel, backend: Backend, between: Callable[[], None] = lambda: None) -> None:
        """`between` is called before each chunk of a text is read, and may raise an exception to stop."""
        self._loaded, self._backend, self._between = loaded, backend, between
        self._cache = backend.new_cache(1)
        self._read: list[int] = []  # the ids in the cache
        self._source: list[int] | None = None

    @torch.inference_mode()
    def draw(
        self,
        prompt: Sequence[int],
        generated: Sequence[int],
        config: SampleConfig,
        source: Sequence[int] | None = None,
        count: int = 20,
    ) -> OneToken:
        """Returns the token that follows the prompt and the generated ids, with the `count` most probable ones.

        An encoder-decoder needs the ids of a `source`; the prompt is then the beginning of the target. Raises BadInput
        for a prompt or a source that is empty or longer than the context, and for an id that the tokenizer lacks.
        """
        shape, tokenizer = self._loaded.model.config, self._loaded.tokenizer
        refuse_unreadable(shape, tokenizer, prompt, target=source is not None)
        if source is not None:
            refuse_unreadable(shape, tokenizer, source)
            if len(prompt) + len(generated) > shape.context:
                raise BadInput("The translation has filled the context.", "Start again with an empty translation.")
        tokenizer.decode(generated)  # raises BadInput for an unknown id
        ids = window(prompt, generated, shape.context)
        logits = self._logits(ids, source)[:, : tokenizer.vocab_size].float()
        seen = _seen([] if source is not None else prompt, generated, config, logits)
        uniform = _uniform(config, len(generated))
        draws = torch.empty(0) if uniform is None else torch.tensor([uniform], device=logits.device)
        id_ = int(next_token(logits, config, draws, seen))
        if source is not None and config.forced_end is not None and len(ids) == shape.context:
            id_ = config.forced_end
        left = filtered(logits, config, seen)
        return OneToken(
            id_,
            len(generated),
            id_ in self._loaded.end_ids or (source is not None and len(ids) == shape.context),
            uniform,
            self._chances(logits, left, id_, count),
            int((left > -torch.inf).sum()),
            self._written([*generated, id_], prompt, source is not None),
        )

    def _logits(self, ids: Sequence[int], source: Sequence[int] | None) -> Tensor:
        """Returns the logits (1, V) after the ids. Reads the ids from the first one that is not in the cache.

        An exception in a forward pass, such as one that a hook of the network raises, may leave only some tokens of a
        chunk in the cache. Therefore `_read` is cut to the tokens before the chunk before the chunk is read, and gets
        the tokens of the chunk afterwards.
        """
        if source is not None and list(source) != self._source:
            self._between()
            self._read, self._source = [], None
            self._backend.read_sources(self._cache, {0: source})
            self._source = list(source)
        same = next((at for at, pair in enumerate(zip(self._read, ids, strict=False)) if pair[0] != pair[1]), None)
        start = min(len(self._read), len(ids) - 1) if same is None else same
        for at in range(start, len(ids), _CHUNK):
            self._between()
            self._read = list(ids[:at])
            logits = self._backend.read(self._cache, [Segment(0, at, ids[at : at + _CHUNK])])
            self._read = list(ids[: at + _CHUNK])
        return logits

    def _chances(self, logits: Tensor, left: Tensor, id_: int, count: int) -> tuple[DrawChance, ...]:
        """Returns the chances of the `count` most probable tokens of logits (1, V), and of the drawn token."""
        listed = best(logits, count)[0].tolist()
        listed = listed if id_ in listed else [*listed, id_]
        model, drawn = (row[0].double().softmax(-1)[listed].tolist() for row in (logits, left))
        name = self._loaded.tokenizer.name
        return tuple(DrawChance(i, name(i), p, q) for i, p, q in zip(listed, model, drawn, strict=True))

    def _written(self, ids: Sequence[int], prompt: Sequence[int], translates: bool) -> str:
        hidden = self._loaded.end_ids | (self._loaded.tokenizer.special_ids if translates else frozenset())
        return self._loaded.tokenizer.decode([id_ for id_ in ids if id_ not in hidden], prompt)


def _uniform(config: SampleConfig, step: int) -> float | None:
    """Returns the uniform random number that draws the token of a step; None at temperature 0."""
    if config.temperature == 0:
        return None
    (stream,) = generators(config.seed, 1)
    for _ in range(step // UNIFORMS_PER_DRAW + 1):
        drawn = uniforms([stream], UNIFORMS_PER_DRAW)
    return float(drawn[0, step % UNIFORMS_PER_DRAW])


def _seen(prompt: Sequence[int], generated: Sequence[int], config: SampleConfig, logits: Tensor) -> Seen | None:
    """Returns the masks of the tokens of the prompt and of the generated text, if a penalty needs them."""
    if not needs_seen(config):
        return None
    seen = Seen.of([prompt], logits.shape[-1], logits.device)
    for id_ in generated:
        seen.add(torch.tensor([id_]))
    return seen
