"""The screen of `attncli heads`: the best heads of each kind, the chance level, and the head to look at next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fold, one_line
from attncli.render.heading import ATTENTIONS, shape_of, titled
from attncli.render.numbers import bar, decimal, percent, plural
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.explain.defaults import AttentionPart
    from attncli.explain.heads import HeadKind, HeadScores

LOOKS_AT: dict[HeadKind, str] = {
    "previous": "the token before",
    "duplicate": "the same token, before",
    "induction": "what followed the same token before",
    "sink": "the first token",
    "next": "the token after",
    "itself": "the token itself",
    "end": "the last token",
    "output": "the place of the predicted token",
    "input": "the place of the token just read",
}
_NAMED = 3  # heads of a kind
_WIDEST_BAR = 40
_BESIDE_BAR = 33  # cells of a row without its bar
_WITH_PLACES = 72  # columns from which a table of kinds also says where each kind looks
_WHOLE_NAMES = 44  # columns from which a table names the kinds in full
_EXAMPLES = '"The cat sat on the mat. The cat"', "TEXT"  # the first that fits


def looks_at(finding: HeadScores, kind: HeadKind) -> str:
    """Says where a head of a kind looks. Without a mask, the same token may also come later."""
    return "the same token elsewhere" if kind == "duplicate" and "next" in finding.kinds else LOOKS_AT[kind]


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
    parts += _by_kind(finding, width)
    if everyone:
        parts += [Text(), titled("Every head", "% of its attention", width), _all(finding, width)]
    return Group(*parts, Text(), *_next(finding, width, named))


def _measured_on(finding: HeadScores, width: int, *, errors: bool = True) -> str:
    """Returns the line that says how the scores were measured, in the longest form that fits.

    `errors` is whether the screen shows standard errors.
    """
    texts = f"{plural(finding.sequences, 'text')} of {finding.length} random tokens, twice"
    error = " ± standard error" if errors and finding.errors is not None else ""
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
    shown = [(kind, *head) for kind in finding.kinds for head in finding.ranked(kind)[:_NAMED]]
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
    for _ in finding.kinds:
        table.add_column(justify="right", no_wrap=True, min_width=6)
    named = (kind if width >= _WHOLE_NAMES else kind[:4] for kind in finding.kinds)
    table.add_row("", *(Text(name, "dim") for name in named))
    alike = all(np.array_equal(finding.chances[:, 0], chances, equal_nan=True) for chances in finding.chances.T)
    for layer in range(finding.layers):
        for head in range(finding.heads):
            table.add_row(f"{layer}.{head}", *(_cell(finding.score(kind, layer, head)) for kind in finding.kinds))
        if not alike or layer == finding.layers - 1:
            table.add_row("chance", *(_cell(finding.chance(kind, layer)) for kind in finding.kinds), style="dim")
    return table


def _cell(value: float) -> str:
    return percent(value) if math.isfinite(value) else "–"


def _next(finding: HeadScores, width: int, named: str, examples: Sequence[str] = _EXAMPLES) -> list[RenderableType]:
    """Returns the head to look at next, the reason, and the command for it, with the first example that fits."""
    which = finding.worth_a_look()
    if which is None:
        return [Text(fold("No head stands out from chance, sinks aside.", width), style="dim")]
    kind, layer, head = which
    title = Text("Look next at head ").append(f"{layer}.{head}", "bold")
    score, chance = finding.score(kind, layer, head), finding.chance(kind, layer)
    why = f"  {percent(score)} of its attention is on {looks_at(finding, kind)}, by chance {percent(chance)}"
    joined = cell_len(title.plain + why) <= width
    title.append(why if joined else f"\n{fold(why.strip(), width)}", "dim")
    commands = [f"  attncli explain {text} --head {layer}.{head}{one_line(named)}" for text in examples]
    return [
        title,
        Text(next((line for line in commands if cell_len(line) <= width), fold(commands[-1].strip(), width))),
    ]


def part_heads_screen(
    findings: Mapping[AttentionPart, HeadScores], model: str, width: int, *, everyone: bool = False, named: str = ""
) -> RenderableType:
    """Shows the best head of each kind in every attention of an encoder-decoder, with the score expected by chance.

    For a single attention, shows what `heads_screen` shows. If `everyone` is true, also shows all heads.
    """
    first, *others = findings.values()
    encoder = findings["encoder"].layers if others else 0
    shape = shape_of(model, (others[-1] if others else first).layers, first.heads, encoder)
    parts: list[RenderableType] = [
        Text(fold(shape, width), style="bold"),
        Text(fold(_measured_on(first, width, errors=not others), width), style="dim"),
    ]
    for part, finding in findings.items():
        if others:
            parts += [Text(), titled(ATTENTIONS[part], "best head of each kind", width), _best_of_kinds(finding, width)]
        else:
            parts += _by_kind(finding, width, f" · {ATTENTIONS[part]}")
        if everyone:
            parts += [
                Text(),
                titled(f"Every head of {ATTENTIONS[part]}", "% of its attention", width),
                _all(finding, width),
            ]
    return Group(*parts, Text(), *_next_part(findings, width, named))


def _by_kind(finding: HeadScores, width: int, of: str = "") -> list[RenderableType]:
    """Returns the best heads of each kind, one kind below the other."""
    lines: list[RenderableType] = []
    for kind in finding.kinds:
        lines += [Text(), titled(kind, f"looks at {looks_at(finding, kind)}{of}", width), _best(finding, kind, width)]
    return lines


def _best_of_kinds(finding: HeadScores, width: int) -> Table:
    """Returns a table with a row for each kind: the best head, its score, chance, and if it fits, where it looks."""
    table = Table.grid(padding=(0, 1))
    wide = width >= _WITH_PLACES
    for justify in ("left", "right", "right", "left", "left", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    room = max(4, min(_WIDEST_BAR, (width - _WITH_PLACES) // 2 + 4 if wide else width - 31))
    for kind in finding.kinds:
        best = finding.best(kind)
        if best is None:
            continue
        drawn = bar(finding.score(kind, *best), room).ljust(room)
        chance = Text(f"chance {decimal(finding.chance(kind, best[0]))}", "dim")
        head, score = f"{best[0]}.{best[1]}", decimal(finding.score(kind, *best))
        place = looks_at(finding, kind) if wide else ""
        table.add_row(kind.ljust(9), head, score, Text(drawn, BAR), chance, Text(place, "dim"))
    return table


def _next_part(findings: Mapping[AttentionPart, HeadScores], width: int, named: str) -> list[RenderableType]:
    """Returns the head to look at next in any attention, and the commands for it and for word alignment."""
    best = best_part(findings)
    lines: list[RenderableType] = []
    if best is None:
        lines = _next(next(iter(findings.values())), width, named)
    else:
        lines = _next(findings[best], width, f" --part {best}{named}", ('"A dog runs."', "TEXT"))
    if "cross" in findings:
        lines.append(Text(fold(f"Which heads align words: attncli align PAIRS{one_line(named)}", width), "dim"))
    return lines


def best_part(findings: Mapping[AttentionPart, HeadScores]) -> AttentionPart | None:
    """Returns the attention with the head to look at next; None if no head stands out."""
    margins: list[tuple[float, AttentionPart]] = [
        (one.margin(*which), part) for part, one in findings.items() if (which := one.worth_a_look())
    ]
    return max(margins)[1] if margins else None


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
        "kinds": {kind: _kind_document(finding, kind) for kind in finding.kinds},
    }


def part_heads_document(findings: Mapping[AttentionPart, HeadScores], model: str) -> dict[str, Any]:
    """Returns the findings for the attentions of an encoder-decoder as a JSON-ready dictionary."""
    first, best = next(iter(findings.values())), best_part(findings)
    which = None if best is None else findings[best].worth_a_look()
    return {
        "model": model,
        "heads": first.heads,
        "length": first.length,
        "sequences": first.sequences,
        "seed": first.seed,
        "next": which and dict(zip(("part", "kind", "layer", "head"), (best, *which), strict=True)),
        "parts": {
            part: {"layers": finding.layers, "kinds": {kind: _kind_document(finding, kind) for kind in finding.kinds}}
            for part, finding in findings.items()
        },
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
