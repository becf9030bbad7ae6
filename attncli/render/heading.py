"""Builds what the screens of explanations share: the first line, a title with its facts, and the labels of tokens.

It also builds what the JSON documents of explanations share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from attncli.explain.question import Floats, Subject
from attncli.render.escape import fit, fold, label_text, one_line, token_label
from attncli.render.numbers import plural
from attncli.render.palette import TITLE
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.first_screen import Explanation
    from attncli.explain.next_token import NextToken

LABEL = 14  # cells of a token's label


def shape_of(model: str, layers: int, heads: int) -> str:
    """Returns a model's name and its shape: 'stories · 4 layers x 6 heads'."""
    return f"{one_line(model)} · {plural(layers, 'layer')} x {plural(heads, 'head')}"


def heading(
    pieces: Sequence[Piece], layers: int, heads: int, model: str, width: int, counted: str | None = None
) -> Text:
    """Returns the model, its shape, the number of tokens, and as much of the text as fits the line.

    If `counted` is given, it replaces the number of tokens.
    """
    facts = f"{shape_of(model, layers, heads)} · {counted or plural(len(pieces), 'token')}"
    text = Text(fold(facts, width), style="bold")
    room = width - cell_len(facts) - 3
    if room >= 20:
        text.append("   " + fit("|".join(token_label(piece) for piece in pieces), room), style="not bold dim")
    return text


def explanation_heading(finding: Explanation, model: str, width: int) -> Text:
    """Returns the first line of an explanation, which may be counted in words."""
    words = (
        f"{plural(len(finding.pieces), 'word')} of {plural(len(finding.tokens), 'token')}" if finding.words else None
    )
    return heading(finding.pieces, finding.layers, finding.heads, model, width, words)


def subject_heading(subject: Subject, model: str, width: int) -> Text:
    """Returns the first line of a view, from its subject."""
    return heading(subject.pieces, subject.layers, subject.heads, model, width)


def titled(title: str, facts: str, width: int, gap: int = 2) -> Text:
    """Returns a title with the meaning of the numbers beside it, or below it on a narrow screen."""
    text = Text(fold(title, width), style=TITLE)
    joint = " " * gap if cell_len(title + facts) + gap <= width else "\n"
    return text.append(joint + fold(facts, width), style="not bold dim")


def named(subject: Subject, at: int, width: int = LABEL) -> str:
    """Returns a token of the text with its index: '␣bank [6]'."""
    return f"{token_label(subject.pieces[at], width)} [{at}]"


def next_label(token: NextToken, width: int) -> str:
    """Returns the label of a next token. Tokens that are parts of a character look alike, so their ids are added."""
    number = f" #{token.id}" if "\N{REPLACEMENT CHARACTER}" in token.text else ""
    return fit(label_text(token.text) + number, width)


def pieces_document(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Returns the tokens of a text as JSON values; `part` is [i, n] for the i-th of n tokens that share a character."""
    return [
        {"index": at, "id": piece.id, "text": piece.text, "part": list(piece.part)} for at, piece in enumerate(pieces)
    ]


def heading_document(pieces: Sequence[Piece], layers: int, heads: int, model: str) -> dict[str, Any]:
    """Returns the model and the tokens of a text as a JSON-ready dictionary."""
    return {"model": model, "layers": layers, "heads": heads, "tokens": pieces_document(pieces)}


def explanation_heading_document(finding: Explanation, model: str) -> dict[str, Any]:
    """Returns the heading of an explanation as JSON values.

    If the text is counted in words, each word has its first and last token.
    """
    document = heading_document(finding.tokens, finding.layers, finding.heads, model)
    if finding.words is not None:
        spans = zip(finding.pieces, finding.words.spans, strict=True)
        document["words"] = [
            {"index": at, "text": piece.text, "tokens": [span[0], span[-1]]} for at, (piece, span) in enumerate(spans)
        ]
    return document


def subject_document(subject: Subject, model: str, view: str) -> dict[str, Any]:
    """Returns the heading of a view as JSON values: the view's name, the model, the text, and the token in focus."""
    return {
        "view": view,
        **heading_document(subject.pieces, subject.layers, subject.heads, model),
        "focus": subject.focus,
    }


def up_to(focus: int, figures: Floats) -> list[float | None]:
    """Returns a figure for every source, as JSON values: null for tokens after the focus, which are masked."""
    return [float(value) if at <= focus else None for at, value in enumerate(figures)]


def token_document(token: NextToken) -> dict[str, Any]:
    """Returns a next token as a JSON-ready dictionary."""
    return {"id": token.id, "text": token.text, "probability": token.probability}
