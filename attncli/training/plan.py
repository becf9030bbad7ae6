"""What will happen, decided before the first step: size, context, batch, learning rate, number of steps.

Chooses what the user left open, from the amount of text, the time and a short measurement of the device, and gives the
reason for each choice. Knows nothing of how steps are taken beyond timing a few.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator

import torch

from attncli.config import DEFAULT_TRAINING_SECONDS, SIZES, ModelConfig, TrainConfig, parse_size
from attncli.errors import BadInput, OutOfRoom
from attncli.model.count import count_parameters, matrix_parameters
from attncli.model.device import dtype_name, pick_device, pick_dtype
from attncli.model.transformer import Transformer, initialize
from attncli.text.corpus import Corpus, batch
from attncli.training.optimizer import WEIGHT_DECAY, make_optimizer
from attncli.training.reports import Plan
from attncli.training.schedule import Schedule
from attncli.training.step import train_step

CLOSING_SECONDS = 1.5  # the last save and the sample of text, beside the last evaluations
_EVALUATIONS = 12  # in a run
_EVALUATION_SHARE = 0.01  # of the time of a run that one evaluation may take
_STEP_PER_FORWARD = 3  # a step takes about three times as long as a forward pass over the same tokens
_WARMUP_SHARE = 0.05
_REPORT_SECONDS = 0.5
_CPU_BATCH, _GPU_BATCH = 8, 64
_CONTEXTS = ((60, 64), (600, 128), (math.inf, 256))  # up to so many seconds on a CPU, this context
_GPU_CONTEXT = 256
_SHORTEST_CONTEXT = 8
_WINDOWS_AT_LEAST = 8  # in the text
# On 1 MB of text, at 1, 2 and 3 minutes, the next size up was worse below this ratio and about even above it.
_TOKENS_PER_PARAMETER = 1.0
_PARAMETERS_PER_TRAIN_TOKEN = 20
_MEASURED_FIRST = "tiny"
_OPTIMISM = 1.5  # a larger model computes more per second than the one measured first
_SEED_OF_MEASUREMENT = 0


def make_plan(config: TrainConfig, corpus: Corpus, spent: float = 0.0) -> Plan:
    """Decides a run. `spent` seconds of the time given are gone already.

    Raises:
        BadInput: for a text shorter than the context asked for.
        UsageProblem: for a device or type that is not there.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    reasons: dict[str, str] = {}
    began = time.monotonic()
    given = config.steps is not None or config.epochs is not None
    seconds = config.seconds or DEFAULT_TRAINING_SECONDS
    context = _context(config, len(corpus.train), seconds, device, reasons)
    batch_size = config.batch_size or (_CPU_BATCH if device.type == "cpu" else _GPU_BATCH)
    measure = _Measure(corpus, context, batch_size, device, dtype)
    steps = _steps(config, len(corpus.train), batch_size * context)
    size = config.size
    if size is None and steps is not None:  # nothing measured: the same seed gives the same model
        size = _size_for_tokens(measure, steps * batch_size * context, len(corpus.train))
        reasons["size"] = f"for {steps * batch_size * context:,} tokens"
    elif size is None:
        size = _size_for_time(measure, seconds - spent, batch_size * context, len(corpus.train))
        reasons["size"] = f"for {duration_words(seconds)} here"
    step_seconds = measure.step_seconds(size)
    model = measure.shape(size)
    evaluation = _evaluation_seconds(step_seconds, batch_size * context, len(corpus.val))
    if steps is None:
        left = seconds - spent - (time.monotonic() - began) - CLOSING_SECONDS - evaluation
        steps = max(int(left / (step_seconds * (1 + _EVALUATIONS * _EVALUATION_SHARE))), 1)
    report_every = max(1, min(round(_REPORT_SECONDS / step_seconds), steps // _EVALUATIONS))
    epochs = steps * batch_size * context / len(corpus.train)
    dropout = _dropout(config, epochs, reasons)
    return Plan(
        model=model,
        parameters=sum(count_parameters(model).values()),
        batch_size=batch_size,
        dropout=dropout,
        weight_decay=WEIGHT_DECAY,
        schedule=Schedule(_lr(config, model.width, reasons), max(1, round(_WARMUP_SHARE * steps)), ((0, steps),)),
        eval_every=max(1, round(steps / _EVALUATIONS)),  # by steps alone: the same seed gives the same model
        report_every=report_every,
        seed=config.seed,
        device=str(device),
        dtype=dtype_name(dtype),
        threads=torch.get_num_threads(),
        seconds=None if given else seconds,
        step_seconds=step_seconds,
        closing_evaluation_seconds=evaluation,
        memory_bytes=_memory_bytes(model, batch_size),
        train_tokens=len(corpus.train),
        train_bytes=corpus.train.bytes,
        reasons=reasons,
    )


def shape(layers: int, width: int, vocab_size: int, context: int) -> ModelConfig:
    """A model of our own kind: heads 32 wide up to a width of 256, then 64; the feed-forward part 8/3 as wide."""
    head_width = 32 if width <= 256 or width % 64 else 64
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


def sampled_windows(plan: Plan) -> int:
    """How many windows of the validation part an evaluation during the run scores, to take little of the time."""
    return max(16, round(_EVALUATION_SHARE * _STEP_PER_FORWARD * plan.schedule.steps * plan.batch_size))


def _context(config: TrainConfig, tokens: int, seconds: float, device: torch.device, reasons: dict[str, str]) -> int:
    """Short for a short run, since more and smaller windows learn faster at first; never a large part of the text."""
    if config.context is not None:
        if config.context >= tokens:
            raise BadInput(
                f"--context is {config.context}, and the text to train on has {tokens} tokens.",
                "Give more text or a smaller --context.",
            )
        return config.context
    context = (
        next(context for limit, context in _CONTEXTS if seconds <= limit) if device.type == "cpu" else _GPU_CONTEXT
    )
    reasons["context"] = f"for {device.type}" if device.type != "cpu" else f"for {duration_words(seconds)} on a CPU"
    while context > _SHORTEST_CONTEXT and context * _WINDOWS_AT_LEAST > tokens:
        context //= 2
        reasons["context"] = f"the text has only {tokens:,} tokens to train on"
    return context


def duration_words(seconds: float) -> str:
    """90 -> '1.5 min'."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.3g} min"


def _refuse_too_large(model: ModelConfig, batch_size: int, device: torch.device) -> None:
    """Refuses what would not fit the memory of this machine, before the system kills the process for it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = _memory_bytes(model, batch_size)
    if device.type == "cpu" and needed > memory:
        raise OutOfRoom(
            f"This needs about {needed / 1e9:.1f} GB of memory; the machine has {memory / 1e9:.1f} GB.",
            "Try a smaller --batch-size, --context or --size.",
        )


class _Measure:
    """Seconds of a training step by size, each measured when first asked for."""

    def __init__(self, corpus: Corpus, context: int, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self._corpus, self._context, self._batch_size = corpus, context, batch_size
        self._device, self._dtype = device, dtype
        self._known: dict[str, float] = {}

    def shape(self, size: str) -> ModelConfig:
        """The model of that size for this text."""
        return shape(*parse_size(size), self._corpus.tokenizer.vocab_size, self._context)

    def step_seconds(self, size: str) -> float:
        """Its seconds per step."""
        if size not in self._known:
            _refuse_too_large(self.shape(size), self._batch_size, self._device)
            self._known[size] = measure_step(
                self.shape(size), self._corpus, self._batch_size, self._device, self._dtype
            )
        return self._known[size]


def _sizes(measure: _Measure, train_tokens: int) -> Iterator[tuple[str, int]]:
    """The sizes that this much text is enough for, with their parameters, largest first; at least the smallest."""
    smallest = next(iter(SIZES))
    for size in reversed(SIZES):
        parameters = sum(count_parameters(measure.shape(size)).values())
        if parameters <= _PARAMETERS_PER_TRAIN_TOKEN * train_tokens or size == smallest:
            yield size, parameters


def _size_for_tokens(measure: _Measure, tokens: int, train_tokens: int) -> str:
    """The largest size for which a run over so many tokens is long enough, else the smallest."""
    size = ""
    for size, parameters in _sizes(measure, train_tokens):  # noqa: B007
        if tokens >= _TOKENS_PER_PARAMETER * parameters:
            break
    return size


def _size_for_time(measure: _Measure, seconds: float, step_tokens: int, train_tokens: int) -> str:
    """The largest size that sees enough tokens in the time on this device, else the smallest.

    The work of a step grows with the parameters, so one measurement predicts which sizes are worth measuring.
    """
    per_work = measure.step_seconds(_MEASURED_FIRST) / matrix_parameters(measure.shape(_MEASURED_FIRST))
    size = ""
    for size, parameters in _sizes(measure, train_tokens):
        least = _TOKENS_PER_PARAMETER * parameters / step_tokens  # steps
        predicted = least * per_work * matrix_parameters(measure.shape(size))
        if predicted <= seconds * _OPTIMISM and least * measure.step_seconds(size) <= seconds:
            break
    return size


def measure_step(
    model_config: ModelConfig, corpus: Corpus, batch_size: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Seconds that a training step takes on this device: the least of a few, on a model that is thrown away."""
    model = Transformer(model_config, dropout=0.1)
    initialize(model, torch.Generator().manual_seed(_SEED_OF_MEASUREMENT))
    model.to(device).train()
    optimizer = make_optimizer(model, WEIGHT_DECAY)
    times = []
    for step in range(4):
        rows = batch(
            corpus.train.ids, seed=_SEED_OF_MEASUREMENT, step=step, batch_size=batch_size, context=model_config.context
        )
        began = time.monotonic()
        ids = torch.from_numpy(rows).to(device)
        train_step(model, optimizer, ids, step=step, seed=_SEED_OF_MEASUREMENT, lr=0.0, dtype=dtype)
        times.append(time.monotonic() - began)
    return min(times[1:])


def _evaluation_seconds(step_seconds: float, step_tokens: int, tokens: int) -> float:
    return step_seconds / _STEP_PER_FORWARD * tokens / step_tokens


def _steps(config: TrainConfig, tokens: int, step_tokens: int) -> int | None:
    if config.steps is not None:
        return config.steps
    if config.epochs is not None:
        return max(1, round(config.epochs * tokens / step_tokens))
    return None


def _dropout(config: TrainConfig, epochs: float, reasons: dict[str, str]) -> float:
    if config.dropout is not None:
        return config.dropout
    reasons["dropout"] = f"for {epochs:.1f} epochs"
    return 0.0 if epochs < 3 else 0.1


def _lr(config: TrainConfig, width: int, reasons: dict[str, str]) -> float:
    if config.lr is not None:
        return config.lr
    reasons["lr"] = f"for a width of {width}"
    return 3e-3 * math.sqrt(128 / max(width, 128))


def _memory_bytes(model: ModelConfig, batch_size: int) -> int:
    """Weights, gradients and two moments in float32, and what a step keeps for its backward pass."""
    parameters = sum(count_parameters(model).values())
    per_token = model.layers * (16 * model.width + 4 * model.feed_forward_width) + 3 * model.vocab_size
    return 4 * (4 * parameters + batch_size * model.context * per_token)
