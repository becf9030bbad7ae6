"""`attncli plot`."""

from __future__ import annotations

from pathlib import Path

from attncli.cli.completing import model_names
from attncli.cli.outputs import refuse_files
from attncli.cli.shared import JSON
from attncli.config.limits import Limit
from attncli.config.option import argument, option
from attncli.config.values import COUNT
from attncli.errors import UsageProblem

_RUNS = "Names in ./checkpoints, model directories, or metrics.jsonl files. Unset: the newest model."
_UP = "loss is nats per token, bits is bits per byte. Unset: loss if all runs share a tokenizer, else bits."
_HEADS = "Plot the scores of attention heads instead of losses, for one run that was trained with --watch-heads."
_CELLS = Limit("from 1 to 1,000", lambda cells: 1 <= cells <= 1000)


def plot(
    *,
    runs: tuple[str, ...] = argument((), _RUNS, metavar="RUN", suggestions=model_names),
    x: str = option("step", "The x axis.", choices=("step", "tokens", "time")),
    y: str | None = option(None, _UP, choices=("loss", "bits")),
    heads: bool = option(False, _HEADS),
    out: Path | None = option(None, "Write the chart to a .svg or .png file.", "--out", "-o", metavar="FILE"),
    force: bool = option(False, "Replace a file that exists.", rare=True),
    width: int | None = option(
        None, "Width of the chart in columns. Unset: the width of the terminal.", format=COUNT, limit=_CELLS, rare=True
    ),
    height: int | None = option(
        None,
        "Height of the chart in rows. Unset: chosen by the height of the terminal.",
        format=COUNT,
        limit=_CELLS,
        rare=True,
    ),
    json: bool = JSON,
) -> None:
    """Plot the loss curves of training runs: training and validation loss.

    attncli plot
    attncli plot first second --x time --out curves.svg
    """
    if heads and (y is not None or len(runs) > 1):
        what, hint = ("--y", "Leave --y out.") if y is not None else (f"{len(runs)} runs", "Name one run.")
        raise UsageProblem(f"--heads plots the head scores of one run, so {what} cannot be given.", hint)
    from attncli.cli.bodies.plot import ChartOutput, plot_curves, plot_heads

    chart = ChartOutput(out, width, height, json)
    refuse_files({"--out": out}, force)
    if heads:
        plot_heads(runs[0] if runs else None, x, chart)
    else:
        plot_curves(runs, x, y, chart)
