"""What will happen, decided before the first step: precision, size, context, batch, rates, number of steps.

Chooses what the user left open, from the amount of text, the time and a short measurement of the device, and gives the
reason for each choice. Knows nothing of how steps are taken beyond timing a few.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from attncli.config import DEFAULT_TRAINING_SECONDS, ModelConfig, OptimizerKind, TrainConfig
from attncli.errors import BadInput, OutOfRoom, UsageProblem
from attncli.evaluation.excerpt import COUNTED_TOKENS
from attncli.model.count import count_parameters, matrix_parameters
from attncli.model.device import cpu_multiplies_bfloat16, dtype_name, pick_device, pick_dtype, resident_memory
from attncli.text.corpus import Corpus
from attncli.training.measure import MEMORY_SHARE, Measure, Room, measure_window, memory_bytes, memory_of
from attncli.training.reports import Plan
from attncli.training.schedule import Schedule

# What else takes time at the end: the last save and reading it back, sampling text, and looking for it in the training
# part. Measured on one machine, so rough; for small models and texts it is next to nothing.
_SAVING_SECONDS, _SAVED_BYTES_PER_SECOND = 0.3, 200e6
_SAMPLED_TOKENS, _WEIGHT_BYTES_PER_SECOND = 400, 5e9
_METERED_TOKENS_PER_SECOND = 5e6
_COUNTED_TOKENS_PER_SECOND = 800_000  # by the 5-gram model beside the score
_COUNTED_PER_SECOND = 16_000  # tokens of training text for each second of the run: about 2 % of its time
_MOST_COUNTED = 6_000_000  # tokens, which take about a gigabyte
_CLOSING_SHARE = 0.05  # of the time of a run that its last evaluation may take
_JUDGING_SHARE = 0.025  # and the sample of text, the yardsticks and the meter, of at most
_JUDGING_SECONDS = 1.5
_EVALUATIONS = 12  # in a run
_EVALUATION_SHARE = 0.003  # of the time of a run that one evaluation may take
_LEAST_SCORED = 16  # windows
_MOST_SCORED = 1 << 20  # tokens, by the last evaluation of a run without a deadline
_STEP_PER_FORWARD = 3  # a step takes about three times as long as a forward pass over the same tokens
_WARMUP_SHARE = 0.05
_FEWEST_STEPS = 20  # that a run too short is advised to take
_REPORT_SECONDS = 0.5
# Up to so many seconds: the context, and the tokens of a step. Short runs learn more from many small steps.
_CPU_WINDOWS = ((20, 64, 512), (45, 128, 1024), (600, 256, 1024), (3600, 256, 2048), (math.inf, 512, 4096))
_GPU_WINDOWS = ((30, 256, 4096), (math.inf, 256, 16384))
_SHORTEST_CONTEXT = 8
_WINDOWS_AT_LEAST = 8  # in the text
# The shapes chosen among, by parameters. Three layers at least where there is time: what repeats itself needs them.
_SHAPES = (
    *("2x64", "2x128", "3x128", "4x128", "3x192", "4x192", "4x256", "6x256", "5x320", "6x384", "8x384", "8x512"),
    *("10x640", "12x768"),
)
_TOKENS_PER_PARAMETER = 1.5
MOST_EPOCHS = 72  # of a run with a deadline: more only memorize, whatever the dropout and the decay
_MEASURED_FIRST = "2x128"
_OPTIMISM = 1.5  # a larger model computes more per second than the one measured first
_MEASURING_SHARE, _MEASURING_SECONDS = 0.01, 0.4  # of the time of a run for timing one shape, and at most
_COMPILED_FROM = {"cpu": 600.0, "cuda": 120.0}  # seconds of a run; elsewhere never
_MUON_LR, _MUON_ADAM_LR, _ADAMW_LR = 0.03, 3e-3, 3e-3
_FINE_TUNING_LR, _FINE_TUNING_MUON_LR = 3e-4, 3e-3  # a tenth, to keep what the model knows
_UNHURRIED = 1_500_000  # tokens from which on these are best; fewer want larger ones, up to so many times
_MOST_HURRY, _MOST_MUON_HURRY = 10 / 3, 5 / 3
_DECAY, _MOST_DECAY, _FEW_EPOCHS = 0.1, 2.0, 10
_DROPOUTS = ((6, 0.0), (20, 0.1), (50, 0.2), (math.inf, 0.3))  # below so many epochs


def make_plan(config: TrainConfig, corpus: Corpus, spent: float = 0.0, start: ModelConfig | None = None) -> Plan:
    """Decides a run. `spent` seconds of the time given are gone already; `start` is the shape of a model to go on from.

    Raises:
        BadInput: for a text shorter than the context asked for.
        UsageProblem: for a device or type that is not there, or a context longer than that of `start`.
        OutOfRoom: for a model that does not fit the memory.
    """
    began = time.monotonic() - spent
    reasons: dict[str, str] = {}
    seconds = config.seconds or DEFAULT_TRAINING_SECONDS
    room = _room(config, corpus, seconds, start, reasons)
    measure = Measure(room)
    steps = _steps(config, len(corpus.train), room.step_tokens)
    if start is not None:
        reasons["size"] = "that of the model it starts from"
    model = start if start is not None else _model(config, measure, seconds - spent, steps, reasons)
    parts, again, memory = _fitted(config, model, room, reasons)
    threads, step_seconds = torch.get_num_threads(), measure.step_seconds(model, parts, again)
    if config.timed and room.device.type == "cpu":
        threads, step_seconds = measure.fastest_threads(model, parts, again)
        if threads < torch.get_num_threads():
            reasons["threads"] = f"{torch.get_num_threads()} are no faster here now"
    busy = measure.busy
    windows, closing = _closing(config, seconds, step_seconds, model, room)
    most_steps = max(math.floor(MOST_EPOCHS * len(corpus.train) / room.step_tokens), 1)
    if steps is None:
        gone = time.monotonic() - began
        steps = min(_affordable_steps(seconds, gone, closing, step_seconds), most_steps)
        if steps == most_steps:
            reasons["steps"] = f"{MOST_EPOCHS} epochs are enough: more would only memorize"
    epochs = steps * room.step_tokens / len(corpus.train)
    lr, adam_lr = _rates(config, room.optimizer, steps * room.step_tokens, start is not None, reasons)
    return Plan(
        model=model,
        parameters=sum(count_parameters(model).values()),
        context=room.context,
        batch_size=room.batch_size,
        grad_accum=parts,
        checkpoint_activations=again,
        optimizer=room.optimizer,
        adam_lr=adam_lr,
        dropout=_dropout(config, epochs, reasons),
        weight_decay=_weight_decay(config, epochs, reasons),
        schedule=Schedule(lr, max(1, round(_WARMUP_SHARE * steps)), ((0, steps),)),
        eval_every=max(1, round(steps / _EVALUATIONS)),  # by steps alone: the same seed gives the same model
        report_every=max(1, min(round(_REPORT_SECONDS / step_seconds), steps // _EVALUATIONS)),
        seed=config.seed,
        device=str(room.device),
        dtype=dtype_name(room.dtype),
        compiled=_compiled(config, room.device, seconds, reasons),
        threads=threads,
        seconds=seconds if config.timed else None,
        most_steps=most_steps if config.timed else None,
        step_seconds=step_seconds,
        closing_windows=windows,
        closing_seconds=closing,
        memory_bytes=memory,
        train_tokens=len(corpus.train),
        train_bytes=corpus.train.bytes,
        reasons=reasons,
        save_dtype=config.save_dtype,
        busy=busy,
    )


def _room(
    config: TrainConfig, corpus: Corpus, seconds: float, start: ModelConfig | None, reasons: dict[str, str]
) -> Room:
    device = pick_device(config.device)
    context = _context(config, len(corpus.train), seconds, device, start, reasons)
    return Room(
        corpus,
        device,
        _dtype(config, device, reasons),
        config.optimizer or ("muon" if start is None else "adamw"),
        context,
        config.batch_size or max(_windows(device, seconds)[1] // context, config.grad_accum or 1),
        min(_MEASURING_SHARE * seconds, _MEASURING_SECONDS),
        resident_memory() if device.type == "cpu" else 0,
    )


def _affordable_steps(seconds: float, gone: float, closing: float, step_seconds: float) -> int:
    """How many steps there is time for when so much is gone already, and so much is kept for the end.

    Raises UsageProblem when there is time for none.
    """
    each = step_seconds * (1 + _EVALUATIONS * _EVALUATION_SHARE)
    steps = int((seconds - gone - closing) / each)
    if steps < 1:
        # With more time the end may take more of it, by about these shares.
        growing = _CLOSING_SHARE + _JUDGING_SHARE + _COUNTED_PER_SECOND / _COUNTED_TOKENS_PER_SECOND
        least = math.ceil((gone + closing - growing * seconds + _FEWEST_STEPS * each) / (1 - growing))
        raise UsageProblem(
            f"--time {seconds:g}s is too short: setting up took {gone:.1f} s, closing takes {closing:.1f} s, "
            f"and a step {step_seconds:.2g} s.",
            f"Give --time {least}s or more, or a smaller --size.",
        )
    return steps


def _compiled(config: TrainConfig, device: torch.device, seconds: float, reasons: dict[str, str]) -> bool:
    """Whether torch.compile makes up for the time it takes itself, and can work here."""
    if config.compile is not None:
        return config.compile
    least = _COMPILED_FROM.get(device.type, math.inf)
    if not config.timed or seconds < least or not can_compile(device):
        return False
    reasons["compiled"] = f"pays from {duration_words(least)} on"
    return True


def can_compile(device: torch.device) -> bool:
    """Whether what torch.compile needs for a device is here: Triton, or a C++ compiler."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _closing(
    config: TrainConfig, seconds: float, step_seconds: float, model: ModelConfig, room: Room
) -> tuple[int | None, float]:
    """How many windows of the validation part the last evaluation scores, None being all; seconds kept for the end."""
    windows = math.ceil(len(room.corpus.val) / model.context)
    if config.timed:
        per_window = measure_window(model, room)
        affordable = _CLOSING_SHARE * seconds / per_window
    else:
        per_window = step_seconds / _STEP_PER_FORWARD * model.context / room.step_tokens
        affordable = _MOST_SCORED / model.context
    judging = min(_JUDGING_SHARE * seconds, _JUDGING_SECONDS)
    taken = min(windows, max(round(affordable), 1))
    weights = 4 * sum(count_parameters(model).values())
    counted = min(counted_tokens(seconds if config.timed else None), len(room.corpus.train))
    judging += counted / _COUNTED_TOKENS_PER_SECOND
    judging += _SAMPLED_TOKENS * weights / _WEIGHT_BYTES_PER_SECOND
    judging += len(room.corpus.train) / _METERED_TOKENS_PER_SECOND
    saving = _SAVING_SECONDS + 2 * weights / _SAVED_BYTES_PER_SECOND
    return (None if taken == windows else taken), taken * per_window + judging + saving


def counted_tokens(seconds: float | None) -> int:
    """How many tokens of training text the 5-gram model is given after a run of that time, or of no set time."""
    return COUNTED_TOKENS if seconds is None else min(int(seconds * _COUNTED_PER_SECOND), _MOST_COUNTED)


def sampled_windows(plan: Plan) -> int:
    """How many windows of the plan's context an evaluation during the run scores, to take little of the time."""
    share = _EVALUATION_SHARE * _STEP_PER_FORWARD * plan.schedule.steps
    return round(max(share * plan.batch_size, _LEAST_SCORED))


def _dtype(config: TrainConfig, device: torch.device, reasons: dict[str, str]) -> torch.dtype:
    """On a CPU, bfloat16 where it has units for its products: some do, most do not."""
    if config.dtype != "auto" or device.type != "cpu":
        return pick_dtype(config.dtype, device)
    if cpu_multiplies_bfloat16():
        reasons["dtype"] = "this CPU has units for its matrix products"
        return torch.bfloat16
    return torch.float32


def _context(
    config: TrainConfig,
    tokens: int,
    seconds: float,
    device: torch.device,
    start: ModelConfig | None,
    reasons: dict[str, str],
) -> int:
    """Short for a short run, since more and smaller windows learn faster at first; never a large part of the text."""
    if config.context is not None:
        if start is not None and config.context > start.context:
            raise UsageProblem(
                f"--context is {config.context}, and the model it starts from has a context of {start.context}.",
                "Give a smaller --context.",
            )
        if config.context >= tokens:
            raise BadInput(
                f"--context is {config.context}, and the text to train on has {tokens:,} tokens.",
                "Give more text or a smaller --context.",
            )
        return config.context
    context, _ = _windows(device, seconds)
    reasons["context"] = f"for {duration_words(seconds)} on {device.type}" if config.timed else f"on {device.type}"
    if start is not None and start.context < context:
        context, reasons["context"] = start.context, "that of the model it starts from"
    while context > _SHORTEST_CONTEXT and context * _WINDOWS_AT_LEAST > tokens:
        context //= 2
        reasons["context"] = f"the text has only {tokens:,} tokens to train on"
    return context


def _windows(device: torch.device, seconds: float) -> tuple[int, int]:
    """The context, and the tokens of a step, for a run of that length."""
    table = _CPU_WINDOWS if device.type == "cpu" else _GPU_WINDOWS
    return next((context, tokens) for limit, context, tokens in table if seconds <= limit)


def duration_words(seconds: float) -> str:
    """90 -> '1.5 min'."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.3g} min"


def _model(
    config: TrainConfig, measure: Measure, seconds: float, steps: int | None, reasons: dict[str, str]
) -> ModelConfig:
    """The shape of a new model."""
    size = config.size or _size(measure, seconds, steps, reasons)
    return measure.shape(size)


def _size(measure: Measure, seconds: float, steps: int | None, reasons: dict[str, str]) -> str:
    if steps is not None:  # nothing measured: the same seed gives the same model
        tokens = steps * measure.room.step_tokens
        reasons["size"] = f"for {tokens:,} tokens"
        return _size_for_tokens(measure, tokens)
    reasons["size"] = f"for {duration_words(max(seconds, 0))} here"
    return _size_for_time(measure, seconds)


def _sizes(measure: Measure) -> Iterator[tuple[str, int]]:
    """The sizes that this much text is enough for, with their parameters, largest first; at least the smallest."""
    for size in reversed(_SHAPES):
        parameters = sum(count_parameters(measure.shape(size)).values())
        if _TOKENS_PER_PARAMETER * parameters <= MOST_EPOCHS * len(measure.room.corpus.train) or size == _SHAPES[0]:
            yield size, parameters


def _size_for_tokens(measure: Measure, tokens: int) -> str:
    """The largest size for which a run over so many tokens is long enough, else the smallest."""
    size = ""
    for size, parameters in _sizes(measure):  # noqa: B007
        if tokens >= _TOKENS_PER_PARAMETER * parameters:
            break
    return size


def _size_for_time(measure: Measure, seconds: float) -> str:
    """The largest size that sees enough tokens in the time on this device, else the smallest.

    The work of a step grows with the parameters, so one measurement predicts which sizes are worth measuring.
    """
    first = measure.shape(_MEASURED_FIRST)
    if not measure.fits(first):
        return _MEASURED_FIRST
    per_work = measure.step_seconds(first) / matrix_parameters(first)
    size = ""
    for size, parameters in _sizes(measure):
        least = _TOKENS_PER_PARAMETER * parameters / measure.room.step_tokens  # steps
        predicted = least * per_work * matrix_parameters(measure.shape(size))
        too_slow = measure.room.device.type == "cpu" and predicted > seconds * _OPTIMISM  # a GPU is not predicted so
        if too_slow or not measure.fits(measure.shape(size)):
            continue
        if least * measure.step_seconds(measure.shape(size)) <= seconds:
            break
    return size


def _steps(config: TrainConfig, tokens: int, step_tokens: int) -> int | None:
    if config.steps is not None:
        return config.steps
    if config.tokens is not None:
        return max(1, math.ceil(config.tokens / step_tokens))
    if config.epochs is not None:
        return max(1, round(config.epochs * tokens / step_tokens))
    return None


def _dropout(config: TrainConfig, epochs: float, reasons: dict[str, str]) -> float:
    if config.dropout is not None:
        return config.dropout
    reasons["dropout"] = f"for {epochs:.1f} epochs"
    return next(dropout for limit, dropout in _DROPOUTS if epochs < limit)


def _rates(
    config: TrainConfig, optimizer: OptimizerKind, tokens: int, tuning: bool, reasons: dict[str, str]
) -> tuple[float, float]:
    """The peak rate of the matrices, and that of the rest: larger for a run of few tokens."""
    if config.lr is None:
        reasons["lr"] = "to go on from a model" if tuning else f"for {tokens:,} tokens"
    if optimizer == "adamw":
        if config.adam_lr is not None:
            raise UsageProblem(
                "--adam-lr is the second rate beside Muon's, and AdamW goes on from a model.", "Give --lr."
            )
        lr = config.lr or (_FINE_TUNING_LR if tuning else _ADAMW_LR)
        return lr, lr
    if tuning:
        return config.lr or _FINE_TUNING_MUON_LR, config.adam_lr or _FINE_TUNING_LR
    hurry = min(max(math.sqrt(_UNHURRIED / tokens), 1.0), _MOST_HURRY)
    return config.lr or _MUON_LR * min(hurry, _MOST_MUON_HURRY), config.adam_lr or _MUON_ADAM_LR * hurry


def _weight_decay(config: TrainConfig, epochs: float, reasons: dict[str, str]) -> float:
    """The more often the text is seen, the stronger."""
    if config.weight_decay is not None:
        return config.weight_decay
    if epochs > _FEW_EPOCHS:
        reasons["weight_decay"] = f"for {epochs:.1f} epochs"
    return min(_DECAY * math.pow(max(epochs / _FEW_EPOCHS, 1.0), 1.5), _MOST_DECAY)


def _fitted(config: TrainConfig, model: ModelConfig, room: Room, reasons: dict[str, str]) -> tuple[int, bool, int]:
    """Parts of a step, whether activations are computed again, and the bytes: what fits the memory of the device.

    Raises OutOfRoom when nothing does, before the system kills the process for it.
    """
    memory = memory_of(room.device)
    parts, again = config.grad_accum or 1, bool(config.checkpoint_activations)
    while True:
        needed = memory_bytes(model, math.ceil(room.batch_size / parts) * room.context, room, again)
        if needed <= MEMORY_SHARE * memory:
            return parts, again, needed
        if config.grad_accum is None and parts < room.batch_size:
            parts = min(parts * 2, room.batch_size)
            reasons["grad_accum"] = f"to fit {memory / 1e9:.0f} GB of memory"
        elif config.checkpoint_activations is None and not again:
            again = True
            reasons["checkpoint_activations"] = reasons["grad_accum"] = f"to fit {memory / 1e9:.0f} GB of memory"
        else:
            raise OutOfRoom(
                f"This needs about {needed / 1e9:.1f} GB of memory; the machine has {memory / 1e9:.1f} GB.",
                "Try a smaller --batch-size, --context or --size.",
            )
