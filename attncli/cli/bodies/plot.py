"""`attncli plot`: plots the loss curves of runs, or the head scores of one run, as a chart, a file or JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attncli.cli.bodies.results import write_asked
from attncli.errors import UsageProblem
from attncli.render.chart import STEPS, TIME, TOKENS, Picture, ascii_only
from attncli.render.console import output, print_json, print_note, show
from attncli.render.curves import BITS, LOSS, Axes, curves_document, curves_screen
from attncli.render.figure import FORMATS, curves_figure, watched_figure
from attncli.render.watched import along_axis, watched_document, watched_screen
from attncli.training.curves import read_curves, read_heads

_ROWS = 20
_ALONG = {"step": STEPS, "tokens": TOKENS, "time": TIME}


@dataclass(frozen=True)
class ChartOutput:
    """The output of a chart: a file, JSON, or the terminal with `width` columns and `height` rows."""

    out: Path | None
    width: int | None
    height: int | None
    json: bool

    def __post_init__(self) -> None:
        """Raises UsageProblem if `out` is neither a .svg nor a .png file."""
        if self.out is not None and self.out.suffix[1:].lower() not in FORMATS:
            raise UsageProblem(f"--out {self.out} is neither .svg nor .png.", "Choose a name such as curves.svg.")

    def show(
        self,
        figure: Callable[[str], bytes],
        document: Callable[[], object],
        screen: Callable[[int, int, bool], Picture],
        legend: int,
    ) -> None:
        """Writes the figure to the file of --out and prints the document with --json; without both, draws the screen.

        On a terminal, the screen leaves `legend` rows free for the legend below the plot.
        """
        if self.out is not None:
            data = figure(self.out.suffix[1:].lower())
            write_asked(self.out, "--out", lambda file: file.write(data))
        if self.json:
            print_json(document())
        elif self.out is None:
            console = output()
            fitting = min(_ROWS, max(console.height - legend - 1, 1)) if console.is_terminal else _ROWS
            show(console, screen(self.width or console.width, self.height or fitting, ascii_only(console)))


def plot_curves(runs: Sequence[str], x: str, y: str | None, chart: ChartOutput) -> None:
    """Plots the loss curves of the named runs, or of the newest run."""
    found = [read_curves(name) for name in runs] if runs else [read_curves(None)]
    comparable = len(found) == 1 or len({run.tokenizer or run.path for run in found}) == 1
    axes = Axes(_ALONG[x], y or (LOSS if comparable else BITS))
    if not comparable and not chart.json:
        print_note(
            "nats per token cannot be compared between tokenizers; bits per byte can, with --y bits"
            if axes.up == LOSS
            else "the runs have different tokenizers, so the curves are in bits per byte"
        )
    for run in found:
        if (missing := axes.missing(run)) is not None:
            raise UsageProblem(f"{run.path} does not contain its {missing}.", "Choose another --x or --y.")
    chart.show(
        lambda kind: curves_figure(found, axes, kind),
        lambda: curves_document(found),
        lambda width, height, ascii: curves_screen(found, axes, width, height, ascii),
        len(found),
    )


def plot_heads(run: str | None, x: str, chart: ChartOutput) -> None:
    """Plots the head scores of a run that was trained with --watch-heads."""
    found, along = read_heads(run), _ALONG[x]
    if not any(math.isfinite(at) for at in along_axis(found, along).tolist()):
        raise UsageProblem(f"{found.path} does not contain its {along}.", "Choose another --x.")
    chart.show(
        lambda kind: watched_figure(found, along, kind),
        lambda: watched_document(found),
        lambda width, height, ascii: watched_screen(found, along, width, height, ascii),
        len(found.kinds),
    )
