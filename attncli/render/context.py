"""A word in two sentences: how alike it is to itself layer by layer, and what pulled the two apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fit, fold, label_text, one_line, token_label
from attncli.render.heading import pieces_document
from attncli.render.numbers import bar, percent, plural, signed

if TYPE_CHECKING:
    from attncli.explain.context import Comparison, WordInText

NAMES = "A", "B"
_LABEL = 14  # cells of a token's label
_WIDEST_BAR = 30
_MOST_LAYERS = 16  # rows of the table of layers
_MOST_SOURCES = 12  # named, of both texts


def comparison_screen(found: Comparison, model: str, console: Console) -> RenderableType:
    """Everything `attncli compare` shows, for the width of a console."""
    width = console.width
    first = found.words[0]
    word = label_text("".join(piece.completed for piece in first.pieces[first.first : first.at + 1]))
    facts = f"{one_line(model)} · {plural(found.layers, 'layer')} x {plural(found.heads, 'head')} · "
    facts += f"{fit(word, 2 * _LABEL)} in two texts"
    parts: list[RenderableType] = [Text(fold(facts, width), "bold")]
    parts += [_quoted(name, text, width) for name, text in zip(NAMES, found.words, strict=True)]
    parts += [Text(note, "dim") for note in _notes(found)]
    parts += [Text(), _title("How alike are the two?", "cosine of its residual stream after so many layers", width)]
    parts += [_layers(found, width), Text()]
    return Group(*parts, *_apart(found, width))


def _title(question: str, measure: str, width: int) -> Text:
    joint = "   " if cell_len(question + measure) + 3 <= width else "\n"
    return Text(fold(question, width), "bold cyan").append(joint + fold(measure, width), "not bold dim")


def _quoted(name: str, text: WordInText, width: int) -> Text:
    """The text up to the word, from as far back as fits; then what comes after it, dim."""
    before, word, after = (
        "".join(f"{token_label(piece)}|" for piece in pieces)
        for pieces in (text.pieces[: text.first], text.pieces[text.first : text.at + 1], text.pieces[text.at + 1 :])
    )
    word = fit(word.rstrip("|"), max(width - 6, 1))
    room = max(width - 3 - cell_len(word), 0)
    if cell_len(before) > room:
        while before and cell_len(before) > room - 1:
            before = before[1:]
        before = "…" + before if room else ""
    line = Text(f"{name}  ", "dim").append(before, "not dim").append(word, "bold not dim")
    room -= cell_len(before)
    return line.append(fit("|" + after.rstrip("|"), room)) if after and room > 1 else line


def _notes(found: Comparison) -> list[str]:
    notes = []
    tokens = max(text.at - text.first + 1 for text in found.words)
    if tokens > 1:
        notes.append(f"The word is {tokens} tokens: its last is compared, which has seen the others.")
    if any(len(text.pieces) > text.at + 1 for text in found.words):
        notes.append("What comes after the word cannot reach it.")
    return notes


def _layers(found: Comparison, width: int) -> Table:
    """A row for the embedding and for each layer; of very many some, evenly spaced."""
    rows = np.unique(np.linspace(0, found.layers, min(found.layers + 1, _MOST_LAYERS)).round().astype(int))
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    roomy = width >= 60
    room = max(4, min(_WIDEST_BAR, width - (50 if roomy else 32)))
    for row in rows.tolist():
        cosine = float(found.cosines[row])
        beside = ""
        if found.others is not None:
            beside = ("other pairs of tokens " if roomy else "others ") + _cosine(float(found.others[row]))
        name = "embedding" if row == 0 else plural(row, "layer")
        table.add_row(Text(name), Text(bar(cosine, room), "cyan"), Text(_cosine(cosine)), Text(beside, "dim"))
    return table


def _cosine(value: float) -> str:
    """'1' is exactly that."""
    return "1" if value == 1 else f"{value:.3f}"


def _apart(found: Comparison, width: int) -> list[RenderableType]:
    at = "of the embeddings" if found.layer == 0 else f"after {plural(found.layer, 'layer')}"
    question = "What pulled the two apart?"
    if found.distance == 0:
        return [
            _title(question, f"distance {at}: 0", width),
            Text(
                "Nothing yet: the embedding is the same wherever a word stands."
                if found.layer == 0
                else "Nothing: all that the word can see is the same in both."
            ),
        ]
    definition = (
        "pull: how far what a token gives the word moves it along the line between the two streams, from the midpoint "
        "of what both texts give; all parts sum to the distance. share: of what attention brings"
    )
    signs = Text("█", "cyan").append(" pulls apart  ", "dim").append("▒", "red").append(" pulls together", "dim")
    signs.truncate(width)
    return [
        _title(question, f"distance {at}: {found.distance:.3g}", width),
        Text(definition, "dim"),
        _pulls(found, width),
        signs,
    ]


@dataclass(frozen=True)
class _Part:
    """A row of the table of pulls: of a text, by name, or of the model."""

    text: str
    index: str
    label: str
    pull: float
    share: str = ""


def _parts(found: Comparison, width: int) -> list[_Part]:
    """Every part of the distance, the largest first; the sources of a text too many to name together."""
    said = "share " if width >= 55 else ""
    sources = [
        _Part(
            name,
            str(at),
            token_label(text.pieces[at], _LABEL),
            float(text.pulls[at]),
            said + percent(float(text.shares[at])),
        )
        for name, text in zip(NAMES, found.words, strict=True)
        for at in range(text.at + 1)
    ]
    sources.sort(key=lambda part: -abs(part.pull))
    named, rest = sources[:_MOST_SOURCES], sources[_MOST_SOURCES:]
    for name in NAMES:
        if others := [part.pull for part in rest if part.text == name]:
            named.append(_Part(name, "", f"{len(others)} more", sum(others)))
    named += [_Part("", "", "feed-forward", found.feed_forward), _Part("", "", "embedding", found.embedding)]
    return sorted(named, key=lambda part: -abs(part.pull))


def _pulls(found: Comparison, width: int) -> Table:
    parts = _parts(found, width)
    widest = max(abs(part.pull) for part in parts) or 1.0
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    room = max(4, min(_WIDEST_BAR, width - 45))
    for part in parts:
        apart = part.pull >= 0
        table.add_row(
            Text(part.text, "bold cyan"),
            Text(part.index, "dim"),
            Text(part.label),
            Text(bar(abs(part.pull) / widest, room, "█" if apart else "▒"), "cyan" if apart else "red"),
            Text(signed(part.pull / found.distance), "" if apart else "red"),
            Text(part.share, "dim"),
        )
    return table


def comparison_document(found: Comparison, model: str) -> dict[str, Any]:
    """The same findings for programs: stable keys, full precision."""
    return {
        "model": model,
        "layers": found.layers,
        "heads": found.heads,
        "cosines": found.cosines.tolist(),
        "cosines_of_other_pairs": None if found.others is None else found.others.tolist(),
        "after_layers": found.layer,
        "distance": found.distance,
        "feed_forward": found.feed_forward,
        "embedding": found.embedding,
        "texts": [_text_document(text) for text in found.words],
    }


def _text_document(text: WordInText) -> dict[str, Any]:
    return {
        "tokens": pieces_document(text.pieces),
        "word": {"first": text.first, "last": text.at},
        "pulls": text.pulls.tolist(),
        "shares": text.shares.tolist(),
    }
