"""What every head is for: the best of each kind, all of them as a table, and which to look at next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fold, one_line
from attncli.render.numbers import bar, decimal, percent, plural

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
_BESIDE_BAR = 33  # cells of a row that are not its bar
_WHOLE_NAMES = 44  # columns from which a table names the kinds in full
_EXAMPLES = '"The cat sat on the mat. The cat"', "TEXT"  # the first that fits


def heads_screen(
    found: HeadScores, model: str, width: int, *, everyone: bool = False, named: str = ""
) -> RenderableType:
    """The best heads of each kind beside chance; with `everyone` all. `named` is how a command names the model."""
    shape = f"{one_line(model)} · {plural(found.layers, 'layer')} x {plural(found.heads, 'head')}"
    parts: list[RenderableType] = [
        Text(fold(shape, width), style="bold"),
        Text(fold(_measured_on(found, width), width), style="dim"),
    ]
    for kind in LOOKS_AT:
        looks = f"  looks at {LOOKS_AT[kind]}"
        looks = looks if cell_len(kind + looks) <= width else "\n" + fold(looks.strip(), width)
        parts += [Text(), Text(kind, "bold cyan").append(looks, "not bold dim"), _best(found, kind, width)]
    if everyone:
        parts += [Text(), Text("Every head", "bold cyan").append("  % of its attention", "not bold dim")]
        parts.append(_all(found, width))
    return Group(*parts, Text(), *_next(found, width, named))


def _measured_on(found: HeadScores, width: int) -> str:
    """What the scores are means over."""
    texts = f"{plural(found.sequences, 'text')} of {found.length} random tokens, twice"
    error = "" if found.errors is None else " ± standard error"
    means = [f"mean weight on the pattern{error}, {texts}", f"mean weight{error}, {texts}"]
    ways = [*means, texts, f"{found.sequences} x {found.length} random tokens, twice"]
    lines = [f"{way} · seed {found.seed}" for way in ways]
    return next((line for line in lines if cell_len(line) <= width), lines[-1])


def _best(found: HeadScores, kind: HeadKind, width: int) -> RenderableType:
    ranked = found.ranked(kind)
    if not ranked:
        return Text(fold("out of every window: lower --length", width), style="dim")
    room = max(4, min(_WIDEST_BAR, width - _BESIDE_BAR))
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "left", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for layer, head in ranked[:_NAMED]:
        score, chance, error = found.score(kind, layer, head), found.chance(kind, layer), found.error(kind, layer, head)
        drawn = bar(score, room).ljust(room)
        name = Text(f"{layer}.{head}".rjust(7))
        table.add_row(
            name,
            decimal(score),
            Text(_margin(error), "dim"),
            Text(drawn, "cyan"),
            Text(f"chance {decimal(chance)}", "dim"),
        )
    return table


def _margin(error: float | None) -> str:
    """A standard error: '±.014'."""
    if error is None:
        return ""
    return "±<.001" if error < 0.0005 else f"±{error:.3f}".replace("±0.", "±.")


def _all(found: HeadScores, width: int) -> Table:
    """A row a head, the kinds side by side; below them chance, after every layer where the windows of layers differ."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True, min_width=7)
    for _ in LOOKS_AT:
        table.add_column(justify="right", no_wrap=True, min_width=6)
    named = (kind if width >= _WHOLE_NAMES else kind[:4] for kind in LOOKS_AT)
    table.add_row("", *(Text(name, "dim") for name in named))
    alike = all(np.array_equal(found.chances[:, 0], chances, equal_nan=True) for chances in found.chances.T)
    for layer in range(found.layers):
        for head in range(found.heads):
            table.add_row(f"{layer}.{head}", *(_cell(found.score(kind, layer, head)) for kind in LOOKS_AT))
        if not alike or layer == found.layers - 1:
            table.add_row("chance", *(_cell(found.chance(kind, layer)) for kind in LOOKS_AT), style="dim")
    return table


def _cell(value: float) -> str:
    return percent(value) if math.isfinite(value) else "–"


def _next(found: HeadScores, width: int, named: str) -> list[RenderableType]:
    """The head to look at next, why, and the command."""
    which = found.worth_a_look()
    if which is None:
        return [Text(fold("No head stands out from chance, sinks aside.", width), style="dim")]
    kind, layer, head = which
    title = Text("Look next at head ").append(f"{layer}.{head}", "bold")
    score, chance = found.score(kind, layer, head), found.chance(kind, layer)
    why = f"  {percent(score)} of its attention is on {LOOKS_AT[kind]}, by chance {percent(chance)}"
    joined = cell_len(title.plain + why) <= width
    title.append(why if joined else f"\n{fold(why.strip(), width)}", "dim")
    commands = [f"  attncli explain {text} --head {layer}.{head}{one_line(named)}" for text in _EXAMPLES]
    return [
        title,
        Text(next((line for line in commands if cell_len(line) <= width), fold(commands[-1].strip(), width))),
    ]


def heads_document(found: HeadScores, model: str) -> dict[str, Any]:
    """The same for programs; null where there is no score."""
    which = found.worth_a_look()
    return {
        "model": model,
        "layers": found.layers,
        "heads": found.heads,
        "length": found.length,
        "sequences": found.sequences,
        "seed": found.seed,
        "next": None if which is None else dict(zip(("kind", "layer", "head"), which, strict=True)),
        "kinds": {kind: _kind_document(found, kind) for kind in LOOKS_AT},
    }


def _kind_document(found: HeadScores, kind: HeadKind) -> dict[str, Any]:
    """The best head of a kind, every score by layer and head, and chance by layer."""
    best = found.best(kind)
    return {
        "best": best
        and {
            "layer": best[0],
            "head": best[1],
            "score": found.score(kind, *best),
            "standard_error": found.error(kind, *best),
        },
        "chance": [_plain(found.chance(kind, layer)) for layer in range(found.layers)],
        "scores": found.table(kind),
        "standard_errors": [
            [found.error(kind, layer, head) for head in range(found.heads)] for layer in range(found.layers)
        ],
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
