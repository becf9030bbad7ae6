"""What will happen, decided before the first step: size, context, batch, learning rate, number of steps.

Chooses what the user left open, from the amount of text, the time and a short measurement of the device, and gives the
reason for each choice. Knows nothing of how steps are taken beyond timing a few.
"""

from __future__ import annotations

import math
import time

import torch

from attncli.config import DEFAULT_TRAINING_SECONDS, ModelConfig, TrainConfig, parse_size
from attncli.errors import BadInput
from attncli.model.count import count_parameters
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
_WARMUP_SHARE = 0.05
_REPORT_SECONDS = 0.5
_DEFAULT_CONTEXT = 128
_DEFAULT_BATCH = 16
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
    context = _context(config, corpus, reasons)
    batch_size = config.batch_size or _DEFAULT_BATCH
    seconds = config.seconds
    if config.steps is None and config.epochs is None and seconds is None:
        seconds = DEFAULT_TRAINING_SECONDS
    size, step_seconds = _size(config, corpus, context, batch_size, seconds or DEFAULT_TRAINING_SECONDS, device, dtype, reasons)
    model = shape(*parse_size(size), corpus.tokenizer.vocab_size, context)
    evaluation = _evaluation_seconds(step_seconds, batch_size * context, len(corpus.val))
    steps = _steps(config, len(corpus.train), batch_size * context)
    if steps is None:
        assert seconds is not None
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
        eval_every=max(1, round(steps / _EVALUATIONS / report_every)) * report_every,
        report_every=report_every,
        seed=config.seed,
        device=device.type,
        dtype=dtype_name(dtype),
        threads=torch.get_num_threads(),
        seconds=seconds if config.steps is None and config.epochs is None else None,
        step_seconds=step_seconds,
        closing_evaluation_seconds=evaluation,
        memory_bytes=_memory_bytes(model, batch_size),
        train_tokens=len(corpus.train),
        reasons=reasons,
    )


def shape(layers: int, width: int, vocab_size: int, context: int) -> ModelConfig:
    """A model of our own default kind: heads 32 wide up to a width of 256, then 64; the SwiGLU width 8/3 of the model's."""
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


def sampled_windows(corpus: Corpus, plan: Plan) -> int:
    """How many windows of the validation part an evaluation during the run scores, so that it takes little of the time."""
    seconds_each = plan.closing_evaluation_seconds / max(len(corpus.val) / plan.model.context, 1)
    total = plan.seconds or plan.step_seconds * plan.schedule.steps
    return max(16, int(_EVALUATION_SHARE * total / seconds_each))


def _context(config: TrainConfig, corpus: Corpus, reasons: dict[str, str]) -> int:
    tokens = len(corpus.train)
    if config.context is not None:
        if config.context >= tokens:
            raise BadInput(
                f"--context is {config.context}, and the text to train on has {tokens} tokens.",
                "Give more text or a smaller --context.",
            )
        return config.context
    context = _DEFAULT_CONTEXT
    while context > 8 and context * 8 > tokens:
        context //= 2
    reasons["context"] = "default" if context == _DEFAULT_CONTEXT else "short text"
    return context


def _size(
    config: TrainConfig,
    corpus: Corpus,
    context: int,
    batch_size: int,
    seconds: float,
    device: torch.device,
    dtype: torch.dtype,
    reasons: dict[str, str],
) -> tuple[str, float]:
    """The size asked for, or the one for this machine and time; and its measured seconds per step."""
    vocab_size = corpus.tokenizer.vocab_size

    def measured(size: str) -> float:
        return measure_step(shape(*parse_size(size), vocab_size, context), corpus, batch_size, device, dtype)

    if config.size is not None:
        return config.size, measured(config.size)
    raise NotImplementedError


def measure_step(model_config: ModelConfig, corpus: Corpus, batch_size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds that a training step takes on this device: the least of a few, on a model that is thrown away."""
    model = Transformer(model_config, dropout=0.1)
    initialize(model, torch.Generator().manual_seed(_SEED_OF_MEASUREMENT))
    model.to(device).train()
    optimizer = make_optimizer(model, WEIGHT_DECAY)
    times = []
    for step in range(4):
        rows = batch(corpus.train.ids, seed=_SEED_OF_MEASUREMENT, step=step, batch_size=batch_size, context=model_config.context)
        began = time.monotonic()
        ids = torch.from_numpy(rows).to(device)
        train_step(model, optimizer, ids, step=step, seed=_SEED_OF_MEASUREMENT, lr=0.0, dtype=dtype)
        times.append(time.monotonic() - began)
    return min(times[1:])


def _evaluation_seconds(step_seconds: float, step_tokens: int, tokens: int) -> float:
    """A forward pass takes about a third of a step's time per token."""
    return step_seconds / 3 * tokens / step_tokens


def _steps(config: TrainConfig, tokens: int, step_tokens: int) -> int | None:
    if config.steps is not None:
        return config.steps
    if config.epochs is not None:
        return max(1, round(config.epochs * tokens / step_tokens))
    return None


def _dropout(config: TrainConfig, epochs: float, reasons: dict[str, str]) -> float:
    if config.dropout is not None:
        return config.dropout
    reasons["dropout"] = f"the text is seen {epochs:.1f} times"
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
