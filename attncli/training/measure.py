"""What a training step costs on this device: its time, measured on a model thrown away, and its memory, counted.

Knows the shapes of our own models by size; decides nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from attncli.config import ModelConfig, OptimizerKind, parse_size
from attncli.evaluation.evaluate import evaluate, windows_at_once
from attncli.model.count import count_parameters, matrix_parameters
from attncli.model.device import physical_memory
from attncli.model.fused import logits_at_once
from attncli.model.transformer import Transformer, initialize
from attncli.text.corpus import Corpus, batch
from attncli.training.step import Trainee

MEMORY_SHARE = 0.8  # of the machine's memory that a run may plan to use
_SEED_OF_MEASUREMENT = 0
_LEAST_MEASURED, _MOST_MEASURED = 3, 10  # steps that are timed
_TICK = 1e-9  # seconds: no step takes less
_MOST_TIMED = {"cpu": 1 << 13}  # tokens of a step that is timed; of a larger one a part is, and the rest reckoned
_MOST_TIMED_ELSEWHERE = 1 << 17
_FASTER = 0.97  # of the time with twice the threads, or less: then fewer are taken


@dataclass(frozen=True)
class Room:
    """Where steps are taken, and on what: everything about a step but the shape of the model."""

    corpus: Corpus
    device: torch.device
    dtype: torch.dtype
    optimizer: OptimizerKind
    context: int
    batch_size: int  # windows of the context's length in a step
    measuring: float  # seconds that timing a shape may take
    taken: int  # bytes of memory that the process holds before there is a model

    @property
    def step_tokens(self) -> int:
        """Tokens in a step."""
        return self.batch_size * self.context


def shape(layers: int, width: int, vocab_size: int, context: int) -> ModelConfig:
    """A model of our own kind: heads 64 wide where that fits, else 32; the feed-forward part 8/3 as wide."""
    head_width = 32 if width % 64 else 64
    heads = width // head_width
    return ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=head_width,
        feed_forward_width=math.ceil(width * 8 / 3 / 32) * 32,
        context=context,
    )


def memory_of(device: torch.device) -> int:
    """Bytes of memory that the device has, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()


def memory_bytes(model: ModelConfig, tokens: int, room: Room, again: bool = False) -> int:
    """What a step over so many tokens at once takes: weights, gradients, optimizer state, activations. An estimate.

    Counted with them are what the update holds meanwhile, the best weights so far, a save that is being written, and
    what the process has taken before.
    """
    parameters = sum(count_parameters(model).values())
    matrices = matrix_parameters(model) - model.vocab_size * model.width if room.optimizer == "muon" else 0
    size = room.dtype.itemsize
    working = 0 if room.dtype == torch.float32 else 2 * size  # a copy of each weight, and its gradient
    state = 4 * matrices + 8 * (parameters - matrices)
    weights = model.heads * room.context if room.device.type == "cpu" else 0  # of attention; on a GPU never held
    per_token = model.layers * (16 * model.width + 4 * model.feed_forward_width + weights)
    if again:
        per_token = per_token // model.layers + model.layers * model.width
    update = (8 + 3 * size) * matrices // 2  # of the largest stack of matrices
    update += 12 * min(tokens * model.vocab_size, logits_at_once(room.device.type))
    on_cpu = room.device.type == "cpu"  # elsewhere what is kept lies in other memory
    kept = 8 * parameters + state if on_cpu else 0  # the best weights so far; weights and state for a save
    rows = 8 * room.batch_size * (room.context + 1)
    return room.taken + (8 + working) * parameters + state + update + kept + rows + size * tokens * per_token


class StepTime(NamedTuple):
    """Seconds of a step, and how many times the CPU time of its main thread that is: about 1 on an idle machine."""

    seconds: float
    busy: float


class Measure:
    """Seconds of a training step by size, each measured when first asked for."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.busy = 1.0  # of the step that was measured last
        self._known: dict[tuple[ModelConfig, int, bool], StepTime] = {}

    def shape(self, size: str) -> ModelConfig:
        """The model of that size for this text."""
        return shape(*parse_size(size), self.room.corpus.tokenizer.vocab_size, self.room.context)

    def step_seconds(self, model: ModelConfig, parts: int = 1, again: bool = False) -> float:
        """Its seconds per step, taken in parts, activations computed again or not."""
        key = model, parts, again
        if key not in self._known:
            self._known[key] = measure_step(model, self.room, parts, again)
        self.busy = self._known[key].busy
        return self._known[key].seconds

    def fastest_threads(self, model: ModelConfig, parts: int = 1, again: bool = False) -> tuple[int, float]:
        """With how many threads a step takes least, and its seconds: as many as there are, a half of that, a quarter…

        Fewer are faster for a small model on many cores, and where other programs take a part of the cores.
        """
        most = count = torch.get_num_threads()
        best, seconds = count, self.step_seconds(model, parts, again)
        try:
            while (count := count // 2) > 0:
                torch.set_num_threads(count)
                found = measure_step(model, self.room, parts, again)
                if found.seconds > _FASTER * seconds:
                    break
                best, seconds, self.busy = count, *found
        finally:
            torch.set_num_threads(most)
        return best, seconds

    def fits(self, model: ModelConfig) -> bool:
        """Whether a step of this shape, whole, fits the memory: else it is not even timed."""
        needed = memory_bytes(model, self.room.step_tokens, self.room)
        return needed <= MEMORY_SHARE * memory_of(self.room.device)


def measure_step(model_config: ModelConfig, room: Room, parts: int = 1, again: bool = False) -> StepTime:
    """What a training step takes on this device: the median of a few, on a model that is thrown away.

    Of a step of very many windows only some are computed, and the time is in proportion: a whole one could take hours.
    """
    most = _MOST_TIMED.get(room.device.type, _MOST_TIMED_ELSEWHERE)
    windows = max(min(room.batch_size, most // room.context), 1)
    share = windows / room.batch_size
    parts = math.ceil(parts * share)
    model = Transformer(model_config, dropout=0.1)
    model.checkpoint_activations = again
    initialize(model, torch.Generator().manual_seed(_SEED_OF_MEASUREMENT))
    trainee = Trainee(model.to(room.device).train(), room.optimizer, 0.0, room.dtype)
    times: list[float] = []
    computing: list[float] = []  # seconds of the CPU
    random = torch.random.get_rng_state()
    while len(times) < _LEAST_MEASURED or (len(times) < _MOST_MEASURED and sum(times) < room.measuring):
        step = len(times)
        rows = batch(
            room.corpus.train.ids, seed=_SEED_OF_MEASUREMENT, step=step, batch_size=windows, context=room.context
        )
        began, computed = time.monotonic(), time.thread_time()
        ids = torch.from_numpy(rows).to(room.device)
        outcome = trainee.step(ids, step=step, seed=_SEED_OF_MEASUREMENT, lr=0.0, adam_lr=0.0, parts=parts)
        assert outcome is not None
        outcome[0].item()  # waits for the device
        times.append(time.monotonic() - began)
        computing.append(time.thread_time() - computed)
    torch.random.set_rng_state(random)  # the steps drew from the process's own
    # The first one also prepares. A thread that waits for a GPU computes nothing.
    busy = sum(times[1:]) / max(sum(computing[1:]), _TICK) if room.device.type == "cpu" else 1.0
    return StepTime(statistics.median(times[1:]) / share, max(busy, 1.0))


def measure_window(model_config: ModelConfig, room: Room) -> float:
    """Seconds that scoring a window of the validation part takes on this device, in float32 as the last evaluation."""
    model = Transformer(model_config)
    initialize(model, torch.Generator().manual_seed(_SEED_OF_MEASUREMENT))
    model.to(room.device)
    times = []
    for _ in range(2):
        began = time.monotonic()
        scored = evaluate(model, room.corpus.val, windows=windows_at_once(room.device, model_config.context)).scored
        times.append((time.monotonic() - began) * model_config.context / scored)
    return min(times)
