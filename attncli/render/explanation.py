"""The first screen of an explanation: bars for the token in focus, one head's map, what comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.findings import NAMED, EdgeChecks, Explanation, Floats, HeadMap, NextToken, Sources
from attncli.render.escape import fit, label_text, one_line, pad, token_label
from attncli.render.numbers import bar, percent, plural
from attncli.render.palette import heat
from attncli.text.tokenizer import Piece

_LABEL = 14  # cells of a token's label
_SAYS_CUT, _SAYS_BEFORE = 76, 50  # columns from which the numbers of a cut explain themselves
_NEXT = 5
_SHADES = "·░▒▓█"
_MOST_MAP_ROWS = 40


def explanation_screen(found: Explanation, model: str, console: Console) -> RenderableType:
    """Everything `attncli explain` shows, for the width and colours of a console."""
    width = console.width
    return Group(
        _heading(found, model, width),
        Text(),
        _sources_heading(found, width),
        _bars(found, width),
        Text(),
        *_map(found, console),
        Text(),
        _next_tokens(found, width),
        Text(),
        _closing(found, width),
    )


def _heading(found: Explanation, model: str, width: int) -> Text:
    facts = f"{one_line(model)} · {found.layers} layers x {found.heads} heads · {plural(len(found.pieces), 'token')}"
    text = Text(fit(facts, width), style="bold")
    room = width - cell_len(facts) - 3
    if room >= 20:
        text.append("   " + fit("|".join(token_label(piece) for piece in found.pieces), room), style="not bold dim")
    return text


def _scope(sources: Sources, found: Explanation) -> str:
    layers = "all layers" if len(sources.layers) == found.layers else f"layer {sources.layers[0]}"
    heads = "all heads" if sources.head is None else f"head {sources.head}"
    if layers == "all layers" and heads == "all heads":
        return "all layers and heads"
    return f"{layers}, {heads}"


def _sources_heading(found: Explanation, width: int) -> Text:
    sources = found.sources
    focus = token_label(found.pieces[sources.focus], _LABEL)
    question = f"Where does {focus} [{sources.focus}] get its information?"
    kind = "share of information" if sources.weights == "norm" else "raw attention weight"
    measure = f"{kind}, {_scope(sources, found)}"
    text = Text(fit(question, width), style="bold cyan")
    gap = width - cell_len(question) - cell_len(measure)
    if gap >= 2:
        return text.append(" " * gap + measure, style="not bold dim")
    return text.append("\n" + fit(measure, width), style="not bold dim")


def _bars(found: Explanation, width: int, rows: int = NAMED) -> RenderableType:
    """Sources by share; those too many to name together; the first token, where idle heads look, apart.

    Beside each, where it was checked, what cutting it off leaves of the prediction; below, a random cut.
    """
    sources, pieces, checks = found.sources, found.pieces, found.checks
    cuts = _cuts(checks, width)
    named = sources.named(rows)
    # Cells of a row that are neither its bar nor a remark: index, label, share, cut, and what is between them.
    taken = _LABEL + 18 if checks is None else 10 + max(map(len, map(str, named)))
    if checks is not None:
        labels = [f"{len(pieces)} more", *(token_label(pieces[at], _LABEL) for at in named)]
        taken += max(map(cell_len, cuts.values())) + max(map(cell_len, labels))
    room = max(8, min(40, width - taken - 12))
    spare = width - taken - room
    widest = max(float(sources.shares.max()), 1e-9)
    table = Table.grid(padding=(0, 1))
    for at in range(6 if cuts else 5):
        table.add_column(justify="right" if at in (0, 3) else "left", no_wrap=True, overflow="ellipsis")
    ranked = sources.ranked()
    for at in ranked[:rows]:
        share = float(sources.shares[at])
        note = "itself" if at == sources.focus and (checks is None or spare >= 6) else ""
        drawn = bar(share / widest, room)
        table.add_row(*_bar_cells(at, pieces[at], share, drawn), *_notes(cuts, at, note, "dim"))
    if rest := ranked[rows:]:
        share = float(sources.shares[rest].sum())
        table.add_row("", Text(f"{len(rest)} more"), Text(), Text(percent(share)))
    if sources.first_is_apart:
        share = float(sources.shares[0])
        cells = _bar_cells(0, pieces[0], share, bar(share / widest, room, "▒"))
        table.add_row(*cells, *_notes(cuts, 0, _first_note(sources, checks, spare)), style="dim")
    return Group(table, *_random_cut(checks, pieces[sources.focus], width)) if checks else table


def _bar_cells(at: int, piece: Piece, share: float, drawn: str) -> tuple[Text, Text, Text, Text]:
    return Text(str(at), "dim"), Text(token_label(piece, _LABEL)), Text(drawn, "cyan"), Text(percent(share))


def _first_note(sources: Sources, checks: EdgeChecks | None, spare: int) -> str:
    """What the first token is called, in the cells that are left."""
    whole = f"first token: {percent(float(sources.raw[0]))} of the raw attention"
    if checks is None:
        return whole if spare + 4 >= len(whole) else "first token"
    return next((note for note in (whole, "first token") if len(note) <= spare), "")


def _notes(cuts: Mapping[int, str], at: int, note: str, style: str = "") -> list[Text]:
    """What stands beside a bar: what a cut does, if there are cuts, and a remark."""
    return [*([Text(cuts.get(at, ""))] if cuts else []), Text(note, style)]


def _cuts(checks: EdgeChecks | None, width: int) -> dict[int, str]:
    """For every source that was cut off 'cut: P(␣and) 21% → 9%', or less of it in less room."""
    if checks is None:
        return {}
    before = percent(checks.token.probability)
    label = fit(label_text(checks.token.text), 10)
    said = "→ " if width < _SAYS_BEFORE else f"{before} → "
    if width >= _SAYS_CUT:
        said = f"cut: P({label}) {before} → "
    return {at: said + percent(left) for at, left in zip(checks.sources, checks.probabilities, strict=True)}


def _random_cut(checks: EdgeChecks, focus: Piece, width: int) -> list[Text]:
    """What the numbers beside the bars are, where they do not say it themselves, and the random cut once."""
    before, lines = percent(checks.token.probability), []
    if width < _SAYS_CUT:
        label = fit(label_text(checks.token.text), max(width - 26, 1))
        lines.append(f"→: P({label}) {before} with it cut off")
    if checks.random is not None:
        drawn = f" of {checks.random_of}" if checks.random_cuts < checks.random_of else ""
        line = f"a random cut: {before} → {percent(checks.random)}"
        for more in (f" (mean of {checks.random_cuts}{drawn} others)", " in all heads and layers"):
            line += more if cell_len(line + more) <= width else ""
        lines.append(line)
    return [Text(fit(line, width), "dim") for line in lines]


def _map(found: Explanation, console: Console) -> list[RenderableType]:
    head = found.map
    title = Text("Head " if head.asked_for else "Busiest head ", style="bold cyan")
    title.append(f"{head.layer}.{head.head}")
    facts = "row looks at column, % of row"
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = (f"{value:.2f}".lstrip("0") for value in (head.previous_token, head.previous_token_chance))
        facts += f" · looks at the token before: {score}, chance {chance}"
    joint = "  " if cell_len(title.plain + facts) + 2 <= console.width else "\n"
    title.append(joint + fit(facts, console.width), style="not bold dim")
    cells = (console.width - _LABEL - 5) // 4
    drawn = _number_map(found, console) if len(found.pieces) <= cells else _shade_map(found.pieces, head, console.width)
    return [title, drawn]


def _number_map(found: Explanation, console: Console) -> Table:
    """Two digits of per cent a cell; what the mask forbids is blank."""
    table = Table.grid(padding=(0, 0))
    table.add_column(justify="left", no_wrap=True)
    for _ in found.pieces:
        table.add_column(justify="right", no_wrap=True, width=4)
    table.add_row("", *(Text(str(at), "dim") for at in range(len(found.pieces))))
    weights = found.map.weights
    for row, piece in enumerate(found.pieces):
        label = Text(f"{row:>3} ", "dim").append(
            token_label(piece, _LABEL) + " ", style="bold" if row == found.sources.focus else "not dim"
        )
        values = [float(weights[row, column]) for column in range(row + 1)]
        table.add_row(
            label, *(Text(f"{round(value * 100):>3} ", heat(value, console.color_system)) for value in values)
        )
    return table


def _shade_map(pieces: tuple[Piece, ...], head: HeadMap, width: int) -> Group:
    """A shade a cell, for more tokens than numbers fit; pooled by maximum where even those do not fit."""
    labels = min(_LABEL, max(width - 12, 1))
    room = max(width - labels - 6, 1)
    pool = max(math.ceil(len(pieces) / room), math.ceil(len(pieces) / _MOST_MAP_ROWS))
    pooled = _pool(head.weights, pool)
    wide = 2 if len(pooled) * 2 <= room else 1
    lines = [Text(" " * (labels + 5) + _ruler(len(pooled), pool, wide), style="dim")]
    for row, values in enumerate(pooled):
        first = row * pool
        line = Text(f"{first:>4} ", "dim").append(pad(token_label(pieces[first]), labels), style="not dim")
        shades = (_SHADES[math.ceil(value * 4 - 0.05) if value > 0.0125 else 0] for value in values[: row + 1])
        lines.append(
            line.append("".join(shade.ljust(wide, " " if shade == "·" else shade) for shade in shades), style="cyan")
        )
    legends = ["· 0%  ░ up to 25%  ▒ 50%  ▓ 75%  █ 100%"]
    if pool > 1:
        legends.append(f"each cell: the largest of {pool} x {pool}")
    indent = " " * min(labels + 5, max(width - cell_len(legends[0]), 0))
    return Group(*lines, *(Text(fit(indent + legend, width), style="dim") for legend in legends))


def _pool(weights: Floats, size: int) -> Floats:
    """(T, T) -> (ceil(T / size), same), the maximum of each square: a mean would hide sharp peaks."""
    count = math.ceil(len(weights) / size)
    padded = np.zeros((count * size, count * size))
    padded[: len(weights), : len(weights)] = weights
    pooled: Floats = padded.reshape(count, size, count, size).max((1, 3))
    return pooled


def _ruler(columns: int, pool: int, wide: int) -> str:
    """Token indices above every few columns, each whole or not at all."""
    line = ""
    for column in range(0, columns, 5):
        at = str(column * pool)
        start = column * wide
        if start >= len(line) + bool(line) and start + len(at) <= columns * wide:
            line = line.ljust(start) + at
    return line


def _next_tokens(found: Explanation, width: int) -> Group:
    focus = found.sources.focus
    last = focus == len(found.pieces) - 1
    title = "Next token" if last else f"Next token after {token_label(found.pieces[focus], _LABEL)} [{focus}]"
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, width=_LABEL)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    room = max(8, min(40, width - _LABEL - 10))
    for token in found.next_tokens[:_NEXT]:
        # Bytes that are no character look alike, so their ids tell them apart.
        number = f" #{token.id}" if "\N{REPLACEMENT CHARACTER}" in token.text else ""
        shown = fit(label_text(token.text) + number, _LABEL)
        table.add_row(
            Text(shown), Text(bar(token.probability, room).ljust(room), "green"), Text(percent(token.probability))
        )
    return Group(Text(title, "bold cyan").append("   temperature 1", "not bold dim"), table)


def _closing(found: Explanation, width: int) -> Group:
    caution = "A share says where information comes from, not what it is worth to the prediction"
    caution += ": that is what a cut shows." if found.checks else "."
    token = max(found.sources.focus - 1, 0)
    more = f"More: --token {token} · --head {found.map.layer}.{found.map.head} · --layer 0 · --weights raw · --json"
    return Group(Text(caution, "dim"), Text(more if cell_len(more) <= width else "More: --help", "dim"))


def explanation_document(found: Explanation, model: str) -> dict[str, Any]:
    """The same findings for programs: stable keys, full precision."""
    sources, head = found.sources, found.map
    return {
        "model": model,
        "layers": found.layers,
        "heads": found.heads,
        "tokens": [{"index": at, "id": piece.id, "text": piece.text} for at, piece in enumerate(found.pieces)],
        "sources": {
            "focus": sources.focus,
            "weights": sources.weights,
            "layers": list(sources.layers),
            "head": sources.head,
            "shares": sources.shares.tolist(),
            "raw": sources.raw.tolist(),
            "by_layer": sources.by_layer.tolist(),
        },
        "map": {
            "layer": head.layer,
            "head": head.head,
            "weights": head.weights.tolist(),
            "previous_token": head.previous_token,
            "previous_token_chance": head.previous_token_chance,
        },
        "next_tokens": [_token_document(token) for token in found.next_tokens],
        "checks": found.checks and _checks_document(found.checks),
    }


def _token_document(token: NextToken) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "probability": token.probability}


def _checks_document(checks: EdgeChecks) -> dict[str, Any]:
    cuts = zip(checks.sources, checks.probabilities, strict=True)
    return {
        "token": _token_document(checks.token),
        "cuts": [{"source": at, "probability": probability} for at, probability in cuts],
        "random": {"probability": checks.random, "cuts": checks.random_cuts, "of": checks.random_of},
    }
