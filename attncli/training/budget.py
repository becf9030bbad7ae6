"""Divides the time of a run among its steps, the evaluations, and the work after the last step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attncli.config import ModelConfig, TrainConfig
from attncli.errors import UsageProblem
from attncli.evaluation.excerpt import COUNTED_TOKENS
from attncli.model.count import count_parameters
from attncli.training import recipe
from attncli.training.decision import Decision
from attncli.training.measure import measure_window
from attncli.training.reports import Plan
from attncli.training.step_setup import StepSetup

_ENOUGH = "{} epochs are enough: more would only memorize the text"


@dataclass(frozen=True)
class Closing:
    """The work after the last step.

    `windows` is the number of validation windows or pairs to score, or None for all. `seconds` is the estimated time
    of all the work.
    """

    windows: int | None
    seconds: float


def requested_steps(config: TrainConfig, tokens: int, step_tokens: int) -> int | None:
    """Returns the steps of a run whose length is given in steps, tokens or epochs; None for a timed run.

    An epoch has `tokens` tokens.
    """
    if config.steps is not None:
        return config.steps
    if config.tokens is not None:
        return max(1, math.ceil(config.tokens / step_tokens))
    if config.epochs is not None:
        return max(1, round(config.epochs * tokens / step_tokens))
    return None


def most_steps(setup: StepSetup) -> int:
    """Returns the largest number of steps that a timed run may take: as many as `most_epochs` epochs have."""
    return max(math.floor(setup.task.tuning.most_epochs * setup.task.train_tokens / setup.step_tokens), 1)


def affordable_steps(
    seconds: float, gone: float, closing: float, step_seconds: float, setup: StepSetup
) -> Decision[int]:
    """Returns the number of steps that fit into `seconds`, at most `most_steps`.

    Of this time, `gone` seconds have passed, and `closing` seconds are reserved for the work after the last step.

    Raises UsageProblem if there is no time for one step.
    """
    each = step_seconds * (1 + recipe.EVALUATIONS * recipe.EVALUATION_SHARE)
    steps = int((seconds - gone - closing) / each)
    if steps < 1:
        # The time of these parts of the closing work grows with the time of the run.
        counting = recipe.COUNTED_TOKENS_PER_SECOND / recipe.COUNTING_SPEED
        growing = recipe.FINAL_EVALUATION_SHARE + recipe.JUDGEMENT_SHARE + counting
        needed = gone + closing - growing * seconds + recipe.FEWEST_ADVISED_STEPS * each
        least = math.ceil(needed / (1 - growing))
        took = f"setting up took {gone:.1f} s, closing takes {closing:.1f} s, and a step {step_seconds:.2g} s"
        raise UsageProblem.naming(
            lambda named: (
                f"{named('seconds')} {seconds:g}s is too short: {took}.",
                f"Give {named('seconds')} {least}s or more, or a smaller {named('size')}.",
            )
        )
    if steps < most_steps(setup):
        return Decision(steps)
    return Decision(most_steps(setup), _ENOUGH.format(setup.task.tuning.most_epochs))


def plan_closing(
    config: TrainConfig, seconds: float, step_seconds: float, model: ModelConfig, setup: StepSetup
) -> Closing:
    """Returns how many windows the final evaluation scores, and the estimated time of all work after the last step."""
    task, context = setup.task, model.context
    windows, window_tokens = task.unit_count(context), task.unit_tokens(context)
    if config.timed:
        per_window = measure_window(model, setup)
        affordable = recipe.FINAL_EVALUATION_SHARE * seconds / per_window
    else:
        per_window = step_seconds / recipe.FORWARD_PASSES_PER_STEP * window_tokens / setup.step_tokens
        affordable = recipe.MOST_FINAL_TOKENS / window_tokens
    taken = min(windows, max(round(affordable), 1))
    weights = 4 * sum(count_parameters(model).values())  # bytes
    judging = task.judging_seconds(seconds, timed=config.timed)
    judging += recipe.FINAL_SAMPLE_TOKENS * weights / recipe.READING_SPEED
    saving = recipe.SAVE_START_SECONDS + 2 * weights / recipe.SAVE_SPEED  # written, and read back
    return Closing(None if taken == windows else taken, taken * per_window + judging + saving)


def counted_tokens(seconds: float | None) -> int:
    """Returns how many training tokens the 5-gram model counts after a run of `seconds`.

    `seconds` is None for an untimed run.
    """
    if seconds is None:
        return COUNTED_TOKENS
    return min(int(seconds * recipe.COUNTED_TOKENS_PER_SECOND), recipe.MOST_COUNTED_TOKENS)


def evaluation_windows(plan: Plan) -> int:
    """Returns how many windows an evaluation during the run scores.

    Scoring this many windows takes a small share of the run's time.
    """
    share = recipe.EVALUATION_SHARE * recipe.FORWARD_PASSES_PER_STEP * plan.schedule.steps
    return round(max(share * plan.batch_size, recipe.FEWEST_EVALUATION_WINDOWS))
