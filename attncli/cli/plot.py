"""`attncli plot`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attncli.cli.completing import model_names
from attncli.cli.help import MORE
from attncli.cli.options import JsonOption, choice, count, unset
from attncli.cli.outputs import refuse_files, write_asked
from attncli.errors import UsageProblem

if TYPE_CHECKING:
    from attncli.render.chart import Picture

_RUNS = "Names in ./checkpoints, model directories, or metrics.jsonl files. Unset: the newest model."
_UP = "Nats per token, or bits per byte. Unset: loss where all runs have one tokenizer, else bits."
_HEADS = "Draw instead what the attention heads came to do, of one run that was trained with --watch-heads."
_ALONG, _MEASURES = ("step", "tokens", "time"), ("loss", "bits")
_ROWS = 20


# fmt: off
def plot(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help=_RUNS, show_default=False, autocompletion=model_names)] = None,  # noqa: E501
    x: Annotated[str, choice("--x", among=_ALONG, help="What runs along the x axis.")] = "step",
    y: Annotated[str | None, choice("--y", among=_MEASURES, help=_UP, show_default=False)] = None,
    heads: Annotated[bool, typer.Option("--heads", help=_HEADS)] = False,
    out: Annotated[Path | None, unset("--out", "-o", metavar="FILE", help="Write a .svg or .png file instead.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.", rich_help_panel=MORE)] = False,
    width: Annotated[int | None, count(help="Columns of the chart. Unset: those of the terminal.", rich_help_panel=MORE)] = None,  # noqa: E501
    height: Annotated[int | None, count(help="Rows of the chart. Unset: by the terminal.", rich_help_panel=MORE)] = None,  # noqa: E501
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Draw how runs went: the loss in training, and on the validation part.

    attncli plot
    attncli plot first second --x time --out curves.svg
    """
    _refuse(x, y, width, height)
    if out is not None:
        _refuse_out(out, force)
    if heads:
        _heads(runs or [], x, y, out, width, height, json)
        return
    from attncli.render.console import print_note
    from attncli.render.curves import BITS, LOSS, Axes, curves_document, curves_screen
    from attncli.render.figure import curves_figure
    from attncli.training.curves import read_curves

    found = [read_curves(name) for name in runs] if runs else [read_curves(None)]
    comparable = len(found) == 1 or len({run.tokenizer or run.path for run in found}) == 1
    axes = Axes(_along(x), y or (LOSS if comparable else BITS))
    if not comparable and not json:
        print_note(
            "nats per token of different tokenizers cannot be compared; --y bits can"
            if axes.up == LOSS
            else "in bits per byte, since the tokenizers differ"
        )
    for run in found:
        if (missing := axes.missing(run)) is not None:
            raise UsageProblem(f"{run.path} does not say its {missing}.", "Choose another --x or --y.")
    _tell(
        lambda kind: curves_figure(found, axes, kind),
        lambda: curves_document(found),
        lambda *of: curves_screen(found, axes, *of),
        out, json, width, height, below=len(found),
    )  # fmt: skip


def _heads(
    runs: list[str], x: str, y: str | None, out: Path | None, width: int | None, height: int | None, json: bool
) -> None:
    """The same for the heads of a run."""
    if y is not None or len(runs) > 1:
        what = "--y" if y is not None else f"{len(runs)} runs"
        raise UsageProblem(f"--heads draws the scores of one run's heads, so {what} cannot be given.", "Name one run.")
    from attncli.render.figure import watched_figure
    from attncli.render.watched import along_axis, watched_document, watched_screen
    from attncli.training.curves import read_heads

    found = read_heads(runs[0] if runs else None)
    along = _along(x)
    if not any(math.isfinite(at) for at in along_axis(found, along).tolist()):
        raise UsageProblem(f"{found.path} does not say its {along}.", "Choose another --x.")
    _tell(
        lambda kind: watched_figure(found, along, kind),
        lambda: watched_document(found),
        lambda *of: watched_screen(found, along, *of),
        out, json, width, height, below=len(found.kinds),
    )  # fmt: skip


def _along(x: str) -> str:
    from attncli.render.chart import STEPS, TIME, TOKENS

    return {"step": STEPS, "tokens": TOKENS, "time": TIME}[x]


def _tell(
    figure: Callable[[str], bytes],
    document: Callable[[], object],
    screen: Callable[[int, int, bool], Picture],
    out: Path | None,
    json: bool,
    width: int | None,
    height: int | None,
    below: int,
) -> None:
    """A chart as a file of some kind, as a document, or on a screen of width x height, `below` being rows of legend."""
    from attncli.render.chart import ascii_only
    from attncli.render.console import output, print_json, show

    if out is not None:
        data = figure(out.suffix[1:].lower())
        write_asked(out, "--out", lambda file: file.write(data))
    if json:
        print_json(document())
    elif out is None:
        console = output()
        fitting = min(_ROWS, max(console.height - below - 1, 1)) if console.is_terminal else _ROWS
        show(console, screen(width or console.width, height or fitting, ascii_only(console)))


def _refuse(x: str, y: str | None, width: int | None, height: int | None) -> None:
    if x not in _ALONG:
        raise UsageProblem(f"--x {x!r} is not an axis.", "Use step, tokens or time.")
    if y not in (None, *_MEASURES):
        raise UsageProblem(f"--y {y!r} is not a measure.", "Use loss (nats per token) or bits (per byte).")
    for option, cells in (("--width", width), ("--height", height)):
        if cells is not None and not 1 <= cells <= 1000:
            raise UsageProblem(f"{option} {cells} is not between 1 and 1,000.", f"Leave {option} out for what fits.")


def _refuse_out(out: Path, force: bool) -> None:
    from attncli.render.figure import FORMATS

    if out.suffix[1:].lower() not in FORMATS:
        raise UsageProblem(f"--out {out} is neither .svg nor .png.", "Name the file such as curves.svg.")
    refuse_files({"--out": out}, force)
