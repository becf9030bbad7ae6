"""The screen of `attncli compare`: the cosine of a word's two streams by layer, and what moved the streams apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fit, fold, label_text, token_label
from attncli.render.heading import LABEL, pieces_document, shape_of, titled
from attncli.render.numbers import bar, percent, plural, signed
from attncli.render.palette import BAR, TITLE

if TYPE_CHECKING:
    from attncli.explain.compare import Comparison, WordInText

NAMES = "A", "B"
_WIDEST_BAR = 30
_MOST_LAYERS = 16  # rows of the table of layers
_MOST_SOURCES = 12  # sources shown by name, of both texts together


def comparison_screen(finding: Comparison, model: str, console: Console) -> RenderableType:
    """Returns the screen of `attncli compare`, for the width of a console."""
    width = console.width
    first = finding.words[0]
    word = label_text("".join(piece.completed for piece in first.pieces[first.first : first.at + 1]))
    facts = f"{shape_of(model, finding.layers, finding.heads)} · {fit(word, 2 * LABEL)} in two texts"
    parts: list[RenderableType] = [Text(fold(facts, width), "bold")]
    parts += [_quoted(name, text, width) for name, text in zip(NAMES, finding.words, strict=True)]
    parts += [Text(note, "dim") for note in _notes(finding)]
    parts += [Text(), titled("How alike are the two?", "cosine of the word's two residual streams, by layer", width, 3)]
    parts += [_layers(finding, width), Text()]
    return Group(*parts, *_apart(finding, width))


def _quoted(name: str, text: WordInText, width: int) -> Text:
    """Shows one text on one line: the end of the text before the word, the word, and the dimmed text after the word."""
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


def _notes(finding: Comparison) -> list[str]:
    notes = []
    tokens = max(text.at - text.first + 1 for text in finding.words)
    if tokens > 1:
        notes.append(f"The word has {tokens} tokens. The last one is compared, because it attends to the others.")
    if finding.of_encoder:
        notes.append("The encoder reads both texts, each as a whole.")
    if any(len(text.pieces) > len(text.shares) for text in finding.words):
        notes.append("The tokens after the word cannot affect it.")
    return notes


def _layers(finding: Comparison, width: int) -> Table:
    """Returns one row for the embedding and for each layer, or for an evenly spaced sample of many layers."""
    rows = np.unique(np.linspace(0, finding.layers, min(finding.layers + 1, _MOST_LAYERS)).round().astype(int))
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    roomy = width >= 60
    room = max(4, min(_WIDEST_BAR, width - (50 if roomy else 32)))
    for row in rows.tolist():
        cosine = float(finding.cosines[row])
        beside = ""
        if finding.others is not None:
            beside = ("other pairs of tokens " if roomy else "others ") + _cosine(float(finding.others[row]))
        name = "embedding" if row == 0 else plural(row, "layer")
        table.add_row(Text(name), Text(bar(cosine, room), BAR), Text(_cosine(cosine)), Text(beside, "dim"))
    return table


def _cosine(value: float) -> str:
    """Formats a cosine with three decimals; '1' only if it is exactly 1."""
    return "1" if value == 1 else f"{value:.3f}"


def _apart(finding: Comparison, width: int) -> list[RenderableType]:
    at = "of the embeddings" if finding.layer == 0 else f"after {plural(finding.layer, 'layer')}"
    question = "What pulled the two apart?"
    if finding.distance == 0:
        return [
            titled(question, f"distance {at}: 0", width, 3),
            Text(
                "Nothing: the two embeddings are equal."
                if finding.layer == 0
                else "Nothing: the word attends to the same tokens in both texts."
            ),
        ]
    if finding.embedding is None:
        why = "A norm follows every sum of this model, so the distance is not a sum of contributions."
        return [titled(question, f"distance {at}: {finding.distance:.3g}", width, 3), Text(why)]
    definition = (
        "pull: what a token contributes to the distance between the two streams, relative to the mean of both texts; "
        "all rows sum to the distance. share: of what attention brings"
    )
    signs = Text("█", BAR).append(" pulls apart  ", "dim").append("▒", "red").append(" pulls together", "dim")
    signs.truncate(width)
    return [
        titled(question, f"distance {at}: {finding.distance:.3g}", width, 3),
        Text(definition, "dim"),
        _pulls(finding, width),
        signs,
    ]


@dataclass(frozen=True)
class _Term:
    """A row of the table of what moved the two words apart: a token of one text, or a component of the model."""

    text: str
    index: str
    label: str
    pull: float
    share: str = ""


def _terms(finding: Comparison, width: int) -> list[_Term]:
    """Returns the contributions to the distance, the largest first.

    For each text, the sources with smaller contributions are summed in one row.
    """
    said = "share " if width >= 55 else ""
    sources = [
        _Term(name, str(at), token_label(text.pieces[at], LABEL), float(pull), said + percent(float(text.shares[at])))
        for name, text in zip(NAMES, finding.words, strict=True)
        for at, pull in enumerate(() if text.pulls is None else text.pulls)
    ]
    sources.sort(key=lambda term: -abs(term.pull))
    named, rest = sources[:_MOST_SOURCES], sources[_MOST_SOURCES:]
    for name in NAMES:
        if others := [term.pull for term in rest if term.text == name]:
            named.append(_Term(name, "", f"{len(others)} more", sum(others)))
    components = (("feed-forward", finding.feed_forward), ("embedding", finding.embedding))
    named += [_Term("", "", name, pull) for name, pull in components if pull is not None]
    return sorted(named, key=lambda term: -abs(term.pull))


def _pulls(finding: Comparison, width: int) -> Table:
    terms = _terms(finding, width)
    widest = max(abs(term.pull) for term in terms) or 1.0
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    room = max(4, min(_WIDEST_BAR, width - 45))
    for term in terms:
        apart = term.pull >= 0
        table.add_row(
            Text(term.text, TITLE),
            Text(term.index, "dim"),
            Text(term.label),
            Text(bar(abs(term.pull) / widest, room, "█" if apart else "▒"), BAR if apart else "red"),
            Text(signed(term.pull / finding.distance), "" if apart else "red"),
            Text(term.share, "dim"),
        )
    return table


def comparison_document(finding: Comparison, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary, in full precision."""
    return {
        "model": model,
        **({"attention": "encoder"} if finding.of_encoder else {}),
        "layers": finding.layers,
        "heads": finding.heads,
        "cosines": finding.cosines.tolist(),
        "cosines_of_other_pairs": None if finding.others is None else finding.others.tolist(),
        "after_layers": finding.layer,
        "distance": finding.distance,
        "feed_forward": finding.feed_forward,
        "embedding": finding.embedding,
        "texts": [_text_document(text) for text in finding.words],
    }


def _text_document(text: WordInText) -> dict[str, Any]:
    return {
        "tokens": pieces_document(text.pieces),
        "word": {"first": text.first, "last": text.at},
        "pulls": None if text.pulls is None else text.pulls.tolist(),
        "shares": text.shares.tolist(),
    }
