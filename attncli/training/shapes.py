"""Chooses the shape of a new model, its layers and width, from the number of tokens or the time of the run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attncli.config import ModelConfig, TrainConfig, parse_size
from attncli.model.count import count_parameters, matrix_parameters
from attncli.training import recipe
from attncli.training.decision import Decision, duration_words
from attncli.training.measure import StepTimer
from attncli.training.memory import fits
from attncli.training.step_setup import StepSetup


def shape(layers: int, width: int, vocab_size: int, context: int) -> ModelConfig:
    """Returns the config of a new model. The recipe sets the width of heads and of the feed-forward layer.

    There are as many key/value heads as query heads.
    """
    head_width = recipe.SMALL_HEAD_WIDTH if width % recipe.HEAD_WIDTH else recipe.HEAD_WIDTH
    heads = width // head_width
    return ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=head_width,
        feed_forward_width=math.ceil(width * recipe.FEED_FORWARD_RATIO / 32) * 32,
        context=context,
    )


def pair_shape(layers: int, width: int, vocab_size: int, context: int) -> ModelConfig:
    """Returns the config of a new model that translates: the shape of M2M100, with `layers` layers in each stack.

    The recipe sets the widths of heads and of the feed-forward part.
    """
    heads = width // recipe.PAIR_HEAD_WIDTH
    return ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        encoder_layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=recipe.PAIR_HEAD_WIDTH,
        feed_forward_width=math.ceil(width * recipe.PAIR_FEED_FORWARD_RATIO / 32) * 32,
        context=context,
        norm="layer",
        norm_eps=1e-5,
        norm_bias=True,
        positions="sinusoidal",
        position_offset=2,  # the first position is the id of the padding token + 1
        inclusive_sinusoid=True,
        scaled_embedding=True,
        qk_norm=False,
        qkv_bias=True,
        output_bias=True,
        gated=False,
        activation="relu",
        feed_forward_bias=True,
    )


def choose_model(
    config: TrainConfig, timer: StepTimer, seconds: float, steps: int | None, start: ModelConfig | None
) -> Decision[ModelConfig]:
    """Chooses the shape of the model.

    The shape is `start` if a model is fine-tuned, else the size that the user gave, else a size that suits the number
    of steps or the time. If the number of steps is given, nothing is measured, so equal seeds give equal models on
    every machine.
    """
    setup = timer.setup
    if start is not None:
        return Decision(start, "the shape of the model to fine-tune")
    if config.size is not None:
        return Decision(_model(config.size, setup))
    if steps is not None:
        tokens = steps * setup.step_tokens
        return Decision(_model(_size_for_tokens(setup, tokens), setup), f"for {tokens:,} tokens")
    return Decision(_model(_size_for_time(timer, seconds), setup), f"for {duration_words(max(seconds, 0))} here")


def _model(size: str, setup: StepSetup) -> ModelConfig:
    """Returns the config of a size, with the run's vocabulary and context."""
    return setup.task.shape(*parse_size(size), setup.context)


def _sizes(setup: StepSetup) -> Iterator[tuple[str, int]]:
    """Yields pairs of a size and its number of parameters, the largest first.

    Leaves out the sizes for which the text is too short, except the smallest size.
    """
    tuning = setup.task.tuning
    most_tokens = tuning.most_epochs * setup.task.train_tokens
    for size in reversed(tuning.shapes):
        parameters = sum(count_parameters(_model(size, setup)).values())
        if tuning.tokens_per_parameter * parameters <= most_tokens or size == tuning.shapes[0]:
            yield size, parameters


def _size_for_tokens(setup: StepSetup, tokens: int) -> str:
    """Returns the largest size that a run on this many tokens can train well, or else the smallest size."""
    tuning = setup.task.tuning
    long_enough = (size for size, parameters in _sizes(setup) if tokens >= tuning.tokens_per_parameter * parameters)
    return next(long_enough, tuning.shapes[0])


def _size_for_time(timer: StepTimer, seconds: float) -> str:
    """Returns the largest size that sees enough tokens on this device in `seconds`, or else the smallest size.

    On a CPU, the time of a step grows with the parameters, so one measurement predicts which sizes are too slow, and
    these are not measured. On a GPU, a small model takes as long as a larger model, so every size is measured.
    """
    setup, tuning = timer.setup, timer.setup.task.tuning
    first = _model(tuning.measured_first, setup)
    if not fits(first, setup):
        return tuning.measured_first
    per_work = timer.step_seconds(first) / matrix_parameters(first)
    for size, parameters in _sizes(setup):
        model = _model(size, setup)
        steps = tuning.tokens_per_parameter * parameters / setup.step_tokens
        predicted = steps * per_work * matrix_parameters(model)
        too_slow = setup.device.type == "cpu" and predicted > seconds * recipe.GAIN_OF_SIZE
        if not too_slow and fits(model, setup) and steps * timer.step_seconds(model) <= seconds:
            return size
    return tuning.shapes[0]
