"""The screen of `attncli next`: the candidates for the next token, a row per token and a column per temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.generation.events import Candidate, Candidates
from attncli.render.escape import fit, id_label, one_line, token_label
from attncli.render.numbers import bar, percent, plural
from attncli.render.palette import BAR, TITLE
from attncli.text.tokenizer import Piece

_LABEL, _SHORT_LABEL, _WIDE = 14, 10, 60  # cells of a token's label; the short label on screens narrower than _WIDE
_NUMBER = 5  # cells of a probability
_LEAST_BAR, _MOST_BAR = 3, 16


def candidates_screen(
    candidates: Candidates, pieces: Sequence[Piece], model: str, width: int, target: Sequence[Piece] = ()
) -> RenderableType:
    """Returns the screen. Leaves out temperatures that do not fit, and the bars if there is no room.

    `target` are the tokens of a translation so far.
    """
    label = max(cell_len(text) for text in ("others", *map(_label, candidates.tokens)))
    label = min(label, _LABEL if width >= _WIDE else _SHORT_LABEL)
    columns = min(len(candidates.temperatures), max((width - label) // (_NUMBER + 2), 1))
    room = (width - label) // columns - _NUMBER - 3
    bars = 0 if room < _LEAST_BAR else min(room, _MOST_BAR)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    for _ in range(columns):
        table.add_column(no_wrap=True, justify="left" if bars else "right")
    table.add_row("", *(Text(f"T {temperature:g}", "dim") for temperature in candidates.temperatures[:columns]))
    for token in candidates.tokens:
        cells = (_cell(probability, bars) for probability in token.probabilities[:columns])
        table.add_row(Text(fit(_label(token), label)), *cells)
    table.add_row(Text("others", "dim"), *(_cell(rest, bars, "dim") for rest in candidates.rest[:columns]))
    facts = f"{one_line(model)} · {plural(len(pieces), 'token')}"
    return Group(
        Text(fit(facts, width), "bold"),
        Text(fit("|".join(token_label(piece) for piece in pieces), width), "dim"),
        *([Text(fit(f"→ {'|'.join(map(token_label, target))}", width), "dim")] if target else []),
        Text(),
        Text(fit(_title(candidates, pieces), width), TITLE),
        table,
    )


def _title(candidates: Candidates, pieces: Sequence[Piece]) -> str:
    """Returns the title of the table, with the number of the mask if the text has several masks."""
    if candidates.mask is None:
        return "What may come next, by temperature"
    name = pieces[candidates.mask].text.strip()
    masks = [at for at, piece in enumerate(pieces) if piece.id == pieces[candidates.mask].id]
    which = name if len(masks) == 1 else f"{name} number {masks.index(candidates.mask) + 1}"
    return f"What {which} may stand for, by temperature"


def masks_screen(masks: Sequence[Candidates], pieces: Sequence[Piece], model: str, width: int) -> RenderableType:
    """Returns the screen for the masks of a text: a table for each mask."""
    screens = [candidates_screen(found, pieces, model, width) for found in masks]
    return Group(*(part for screen in screens for part in (Text(), screen)[screen is screens[0] :]))


def _label(token: Candidate) -> str:
    return id_label(token.id, token.text)


def _cell(probability: float, bars: int, style: str = BAR) -> Text:
    cell = Text(f"{percent(probability):>{_NUMBER}}")
    return cell.append(f" {bar(probability, bars):<{bars}}", style) if bars else cell


def candidates_document(candidates: Candidates, model: str, text: str, target: str | None = None) -> dict[str, Any]:
    """Returns the candidates as a JSON-ready dictionary in full precision; with a `target`, for a translation."""
    named = {"model": model, "text": text} | ({} if target is None else {"target": target})
    return {**named, "temperatures": list(candidates.temperatures), **_columns(candidates)}


def masks_document(masks: Sequence[Candidates], model: str, text: str) -> dict[str, Any]:
    """Returns the candidates for each mask of a text as a JSON-ready dictionary in full precision."""
    return {
        "model": model,
        "text": text,
        "temperatures": list(masks[0].temperatures),
        "masks": [{"index": found.mask, **_columns(found)} for found in masks],
    }


def _columns(candidates: Candidates) -> dict[str, Any]:
    return {
        "tokens": [
            {"id": token.id, "text": token.text, "probabilities": list(token.probabilities)}
            for token in candidates.tokens
        ],
        "others": list(candidates.rest),
    }
