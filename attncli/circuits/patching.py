"""Activation patching: copies one activation of a run into the other run, and measures how the prediction moves.

Denoising copies from the clean run into the corrupt run, and shows what is enough to restore the prediction. Noising
copies from the corrupt run into the clean run, and shows what the prediction needs (Heimersheim and Nanda, 2024, arXiv
2404.15255). A patched run begins at the layer of its patch. Works in every stack: for an encoder-decoder the prompts
are source texts, and its encoder is patched.

Letters: N runs, T tokens, P units of the text, H heads, D head width, C model width, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from attncli.circuits.defaults import LEAST_DIFFERENCE, Direction, MeasureKind, Place
from attncli.circuits.measure import Answer
from attncli.circuits.network import TOKENS_AT_ONCE
from attncli.circuits.pairs import PromptPair
from attncli.circuits.running import resume
from attncli.errors import BadInput
from attncli.explain.logit import token_named
from attncli.explain.next_token import NextToken, most_probable
from attncli.explain.question import Floats, default_row
from attncli.explain.reading import Reading, text_stack
from attncli.model.stack import Block, Stack
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import Piece, Tokenizer

Progress = Callable[[int, int], None]  # runs done, runs in all


@dataclass(frozen=True)
class Ends:
    """The values of a measure in the clean run and in the corrupt run, and the tokens that it compares."""

    clean: float
    corrupt: float
    target: NextToken  # with its probability in the clean run
    against: NextToken  # with its probability in the corrupt run
    kind: MeasureKind

    @property
    def difference(self) -> float:
        """The effect of the corruption on the measure, in nats."""
        return self.clean - self.corrupt

    def share(self, measured: Floats) -> Floats:
        """Returns measures on a scale from 0, the corrupt run, to 1, the clean run."""
        shares: Floats = (measured - self.corrupt) / self.difference
        return shares

    @property
    def answer(self) -> Answer:
        """The measure as a function of logits."""
        return Answer(self.target.id, self.against.id, self.kind)


@dataclass(frozen=True)
class ActivationPatching:
    """Where one activation moves the prediction from one run to the other."""

    pair: PromptPair
    layers: int  # of the stack that is patched
    heads: int
    ends: Ends
    direction: Direction
    tables: Mapping[Place, Floats]  # residual (L + 1, P), attention (L, P), mlp (L, P), head (L, H): measures in nats
    of_encoder: bool = False

    def shares(self, place: Place) -> Floats:
        """Returns a table on a scale from 0, the corrupt run, to 1, the clean run."""
        return self.ends.share(self.tables[place])


def ends_of(
    logits: tuple[Tensor, Tensor], tokenizer: Tokenizer, target: str | None, against: str | None, kind: MeasureKind
) -> Ends:
    """Returns the two ends of a pair, from the logits (V,) of the clean and the corrupt run.

    By default, the tokens are the most probable ones of each run. Raises UsageProblem for a name that is not one token,
    and BadInput for two equal tokens.
    """
    clean, corrupt = (each[: tokenizer.vocab_size] for each in logits)
    chosen = token_named(tokenizer, target, clean) if target is not None else most_probable(clean, tokenizer, 1)[0]
    other = token_named(tokenizer, against, corrupt) if against is not None else most_probable(corrupt, tokenizer, 1)[0]
    if chosen.id == other.id and kind == "logit-difference":
        raise BadInput.naming(
            lambda name: (
                f"Both prompts are continued by {chosen.text!r}, so there is no difference of two logits.",
                f"Choose the two tokens with {name('target')} and {name('against')}.",
            )
        )
    answer = Answer(chosen.id, other.id, kind)
    one, two = (float(answer.of(each[None])) for each in (clean, corrupt))
    return Ends(one, two, chosen, other, kind)


def refuse_equal_ends(clean: float, corrupt: float) -> None:
    """Raises BadInput if the measures of the clean and the corrupt run do not differ."""
    if abs(clean - corrupt) < LEAST_DIFFERENCE:
        raise BadInput(
            f"The measure is {clean:.3f} in the clean run and {corrupt:.3f} in the corrupt run: there is no effect.",
            "Use prompts that the model continues differently, or other tokens.",
        )


@dataclass(frozen=True)
class _Run:
    """One run of a prompt: every activation that can be patched."""

    streams: list[Tensor]  # by layer, and once after the last, (T, C)
    attention: list[Tensor]  # by layer, (T, C): the output of attention
    mlp: list[Tensor]  # by layer, (T, C)
    mixed: list[Tensor]  # by layer, (T, H, D): the outputs of the heads
    logits: Tensor  # (V,)


def patch_activations(
    model: Transformer,
    tokenizer: Tokenizer,
    pair: PromptPair,
    *,
    start: Sequence[int] = (),
    places: Sequence[Place] = ("residual", "head"),
    direction: Direction = "denoising",
    target: str | None = None,
    against: str | None = None,
    kind: MeasureKind = "logit-difference",
    progress: Progress | None = None,
) -> ActivationPatching:
    """Patches every place of a kind in turn.

    `start` are the ids with which the decoder of an encoder-decoder begins; the measured prediction follows them.

    Raises BadInput and UsageProblem as `ends_of` does, BadInput if the ends do not differ, and UsageProblem for a
    model without predictions.
    """
    with torch.inference_mode():
        runs = [_Patchable(model, pieces, start) for pieces in (pair.clean, pair.corrupt)]
        clean, corrupt = (run.run() for run in runs)
        ends = ends_of((clean.logits, corrupt.logits), tokenizer, target, against, kind)
        refuse_equal_ends(ends.clean, ends.corrupt)
        denoising = direction == "denoising"
        base, other = (corrupt, clean) if denoising else (clean, corrupt)
        units = [unit[::-1] if denoising else unit for unit in pair.units]  # in the base run, in the other run
        patches = _Patches(runs[int(denoising)], base, other, units, ends.answer)
        patches.plan(places, progress)
        tables = {place: patches.table(place) for place in places}
    stack = runs[0].stack
    return ActivationPatching(
        pair, len(stack.blocks), model.config.heads, ends, direction, tables, model.encoder is not None
    )


@dataclass(frozen=True)
class _Patchable:
    """A prompt in the stack that reads it, with the rest of the model that makes a prediction of it."""

    model: Transformer
    pieces: Sequence[Piece]
    start: Sequence[int]

    @property
    def stack(self) -> Stack:
        """The stack that reads the prompt."""
        return text_stack(self.model)

    def block(self, layer: int) -> Block:
        """Returns the block of a layer."""
        return cast(Block, self.stack.blocks[layer])

    def run(self) -> _Run:
        """Runs the prompt, and keeps its activations."""
        reading = Reading.of(self.model, self.pieces)
        if self.model.encoder is None:
            reading.require_prediction()
        streams: list[Tensor] = []
        kept: dict[str, list[Tensor]] = {"attention": [], "mlp": [], "mixed": []}
        with _hooks() as hooks:
            for block in map(self.block, range(len(self.stack.blocks))):
                hooks(block.register_forward_pre_hook(lambda _, given: streams.append(given[0][0])))
                hooks(block.attention.register_forward_hook(lambda *call: kept["attention"].append(call[2][0])))
                hooks(block.feed_forward.register_forward_hook(lambda *call: kept["mlp"].append(call[2][0])))
                hooks(
                    block.attention.output.register_forward_pre_hook(lambda _, given: kept["mixed"].append(given[0][0]))
                )
            hooks(self.stack.norm.register_forward_pre_hook(lambda _, given: streams.append(given[0][0])))
            hidden = self._stack_output(reading)
        heads = self.model.config.heads
        mixed = [each.view(len(each), heads, -1) for each in kept["mixed"]]
        return _Run(streams, kept["attention"], kept["mlp"], mixed, self.predict(hidden)[0])

    def _stack_output(self, reading: Reading) -> Tensor:
        ids = torch.tensor([[piece.id for piece in self.pieces]], device=self.model.device)
        if self.model.encoder is not None:
            return self.model.encode(ids)
        return self.model.hidden(ids, segments=reading.segments)

    def predict(self, hidden: Tensor) -> Tensor:
        """Returns the logits (N, V) that are measured, from the output (N, T, C) of the stack."""
        if self.model.encoder is None:
            return self.model.unembed(hidden[:, default_row(Reading.of(self.model, self.pieces).axes)])
        source = self.model.source_of(hidden)
        ids = torch.tensor([list(self.start)], device=hidden.device).expand(len(hidden), -1)
        return self.model.unembed(self.model.hidden(ids, source=source)[:, -1])


@dataclass
class _Patches:
    """Patches one place after another."""

    prompt: _Patchable
    base: _Run
    other: _Run
    units: Sequence[tuple[range, range]]
    answer: Answer
    progress: Progress | None = None
    done: int = 0
    total: int = 0

    def plan(self, places: Sequence[Place], progress: Progress | None) -> None:
        """Counts the runs before the first one."""
        layers, units, heads = len(self.base.mlp), len(self.units), self.base.mixed[0].shape[1]
        runs = {"residual": (layers + 1) * units, "attention": layers * units, "mlp": layers * units}
        self.total, self.progress = sum(runs.get(place, layers * heads) for place in places), progress

    def table(self, place: Place) -> Floats:
        """Returns the measures (layers, units or heads) of the patched runs."""
        layers = len(self.base.streams) if place == "residual" else len(self.base.mlp)
        return np.stack([torch.cat(list(self._layer(place, layer))).double().cpu().numpy() for layer in range(layers)])

    def _layer(self, place: Place, layer: int) -> Iterator[Tensor]:
        count = self.base.mixed[0].shape[1] if place == "head" else len(self.units)
        tokens = len(self.base.streams[0])
        at_once = max(TOKENS_AT_ONCE // tokens, 1)
        for first in range(0, count, at_once):
            rows = range(first, min(first + at_once, count))
            yield self.answer.of(self._patched(place, layer, rows))
            self.done += len(rows)
            if self.progress is not None:
                self.progress(self.done, self.total)

    def _patched(self, place: Place, layer: int, rows: range) -> Tensor:
        """Returns the logits (N, V) of runs, in each of which one unit or one head of a layer is patched."""
        stream = self.base.streams[layer].expand(len(rows), -1, -1)
        with _hooks() as hooks:
            if place == "residual":
                stream = self._at_units(stream, self.other.streams[layer], rows)
            else:
                block = self.prompt.block(layer)
                if place == "head":
                    hooks(
                        block.attention.output.register_forward_pre_hook(
                            lambda _, given: (self._heads(given[0], layer, rows),)
                        )
                    )
                else:
                    module: nn.Module = block.attention if place == "attention" else block.feed_forward
                    value = (self.other.attention if place == "attention" else self.other.mlp)[layer]
                    hooks(module.register_forward_hook(lambda *call: self._at_units(call[2], value, rows)))
            hidden = resume(self.prompt.stack, layer, stream)
        return self.prompt.predict(hidden)

    def _at_units(self, own: Tensor, value: Tensor, rows: range) -> Tensor:
        """Replaces the tokens of one unit in each row of `own` (N, T, C) by those of the other run (T', C)."""
        patched = own.clone()
        for row, at in enumerate(rows):
            here, there = self.units[at]
            patched[row, here.start : here.stop] = value[there.start : there.stop]
        return patched

    def _heads(self, own: Tensor, layer: int, rows: range) -> Tensor:
        """Replaces the output of one head in each row of `own` (N, T, H x D), at all tokens with a counterpart."""
        value = self.other.mixed[layer]  # (T', H, D)
        patched = own.reshape(*own.shape[:2], *value.shape[1:]).clone()
        here = [at for unit in self.units for at in unit[0]]
        there = [at for unit in self.units for at in unit[1]]
        for row, head in enumerate(rows):
            patched[row, here, head] = value[there, head]
        return patched.flatten(-2)


@contextmanager
def _hooks() -> Iterator[Callable[[torch.utils.hooks.RemovableHandle], None]]:
    """Yields a function that takes the handle of a hook; removes all hooks at the end."""
    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        yield handles.append
    finally:
        for handle in handles:
            handle.remove()
