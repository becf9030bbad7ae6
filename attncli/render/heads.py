"""The screen of `attncli heads`: the best heads of each kind, the chance level, and the head to look at next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fold, one_line
from attncli.render.heading import shape_of, titled
from attncli.render.numbers import bar, decimal, percent, plural
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.explain.heads import HeadKind, HeadScores

LOOKS_AT: dict[HeadKind, str] = {  # every kind, in the order of the scores
    "previous": "the token before",
    "duplicate": "the same token, before",
    "induction": "what followed the same token before",
    "sink": "the first token",
}
_NAMED = 3  # heads of a kind
_WIDEST_BAR = 40
_BESIDE_BAR = 33  # cells of a row without its bar
_WHOLE_NAMES = 44  # columns from which a table names the kinds in full
_EXAMPLES = '"The cat sat on the mat. The cat"', "TEXT"  # the first that fits


def heads_screen(
    finding: HeadScores, model: str, width: int, *, everyone: bool = False, named: str = ""
) -> RenderableType:
    """Shows the best heads of each kind with the score expected by chance. If `everyone` is true, also shows all heads.

    `named` is the option that selects the model, for the command at the end.
    """
    shape = shape_of(model, finding.layers, finding.heads)
    parts: list[RenderableType] = [
        Text(fold(shape, width), style="bold"),
        Text(fold(_measured_on(finding, width), width), style="dim"),
    ]
    for kind in LOOKS_AT:
        parts += [Text(), titled(kind, f"looks at {LOOKS_AT[kind]}", width), _best(finding, kind, width)]
    if everyone:
        parts += [Text(), titled("Every head", "% of its attention", width), _all(finding, width)]
    return Group(*parts, Text(), *_next(finding, width, named))


def _measured_on(finding: HeadScores, width: int) -> str:
    """Returns the line that says how the scores were measured, in the longest form that fits."""
    texts = f"{plural(finding.sequences, 'text')} of {finding.length} random tokens, twice"
    error = "" if finding.errors is None else " ± standard error"
    means = [f"mean weight on the pattern{error}, {texts}", f"mean weight{error}, {texts}"]
    ways = [*means, texts, f"{finding.sequences} x {finding.length} random tokens, twice"]
    lines = [f"{way} · seed {finding.seed}" for way in ways]
    return next((line for line in lines if cell_len(line) <= width), lines[-1])


def _best(finding: HeadScores, kind: HeadKind, width: int) -> RenderableType:
    ranked = finding.ranked(kind)
    if not ranked:
        return Text(fold("out of every window: lower --length", width), style="dim")
    room = max(4, min(_WIDEST_BAR, width - _BESIDE_BAR))
    table = Table.grid(padding=(0, 1))
    score_cells, error_cells = _widest(finding)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=score_cells)
    table.add_column(no_wrap=True, min_width=error_cells)
    for layer, head in ranked[:_NAMED]:
        score, chance, error = (
            finding.score(kind, layer, head),
            finding.chance(kind, layer),
            finding.error(kind, layer, head),
        )
        drawn = bar(score, room).ljust(room)
        name = Text(f"{layer}.{head}".rjust(7))
        table.add_row(
            name,
            decimal(score),
            Text(_margin(error), "dim"),
            Text(drawn, BAR),
            Text(f"chance {decimal(chance)}", "dim"),
        )
    return table


def _widest(finding: HeadScores) -> tuple[int, int]:
    """Returns the cells of the longest score and of the longest standard error shown, so that all bars are aligned."""
    shown = [(kind, *head) for kind in LOOKS_AT for head in finding.ranked(kind)[:_NAMED]]
    scores = (decimal(finding.score(*head)) for head in shown)
    errors = (_margin(finding.error(*head)) for head in shown)
    return max(map(len, scores)), max(map(len, errors))


def _margin(error: float | None) -> str:
    """Formats a standard error: '±.014'."""
    if error is None:
        return ""
    return "±<.001" if error < 0.0005 else f"±{error:.3f}".replace("±0.", "±.")


def _all(finding: HeadScores, width: int) -> Table:
    """Returns a table with a row per head and a column per kind.

    The last row gives the chance level. If chance differs between layers, each layer instead ends with its own chance
    row.
    """
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True, min_width=7)
    for _ in LOOKS_AT:
        table.add_column(justify="right", no_wrap=True, min_width=6)
    named = (kind if width >= _WHOLE_NAMES else kind[:4] for kind in LOOKS_AT)
    table.add_row("", *(Text(name, "dim") for name in named))
    alike = all(np.array_equal(finding.chances[:, 0], chances, equal_nan=True) for chances in finding.chances.T)
    for layer in range(finding.layers):
        for head in range(finding.heads):
            table.add_row(f"{layer}.{head}", *(_cell(finding.score(kind, layer, head)) for kind in LOOKS_AT))
        if not alike or layer == finding.layers - 1:
            table.add_row("chance", *(_cell(finding.chance(kind, layer)) for kind in LOOKS_AT), style="dim")
    return table


def _cell(value: float) -> str:
    return percent(value) if math.isfinite(value) else "–"


def _next(finding: HeadScores, width: int, named: str) -> list[RenderableType]:
    """Returns the head to look at next, the reason, and the command for it."""
    which = finding.worth_a_look()
    if which is None:
        return [Text(fold("No head stands out from chance, sinks aside.", width), style="dim")]
    kind, layer, head = which
    title = Text("Look next at head ").append(f"{layer}.{head}", "bold")
    score, chance = finding.score(kind, layer, head), finding.chance(kind, layer)
    why = f"  {percent(score)} of its attention is on {LOOKS_AT[kind]}, by chance {percent(chance)}"
    joined = cell_len(title.plain + why) <= width
    title.append(why if joined else f"\n{fold(why.strip(), width)}", "dim")
    commands = [f"  attncli explain {text} --head {layer}.{head}{one_line(named)}" for text in _EXAMPLES]
    return [
        title,
        Text(next((line for line in commands if cell_len(line) <= width), fold(commands[-1].strip(), width))),
    ]


def heads_document(finding: HeadScores, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary; null if a head has no score."""
    which = finding.worth_a_look()
    return {
        "model": model,
        "layers": finding.layers,
        "heads": finding.heads,
        "length": finding.length,
        "sequences": finding.sequences,
        "seed": finding.seed,
        "next": None if which is None else dict(zip(("kind", "layer", "head"), which, strict=True)),
        "kinds": {kind: _kind_document(finding, kind) for kind in LOOKS_AT},
    }


def _kind_document(finding: HeadScores, kind: HeadKind) -> dict[str, Any]:
    """Returns the best head of a kind, every score by layer and head, and chance by layer."""
    best = finding.best(kind)
    return {
        "best": best
        and {
            "layer": best[0],
            "head": best[1],
            "score": finding.score(kind, *best),
            "standard_error": finding.error(kind, *best),
        },
        "chance": [_plain(finding.chance(kind, layer)) for layer in range(finding.layers)],
        "scores": finding.table(kind),
        "standard_errors": [
            [finding.error(kind, layer, head) for head in range(finding.heads)] for layer in range(finding.layers)
        ],
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
