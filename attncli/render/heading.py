"""What every view of an explanation opens with: the model, the text as tokens, and the token in focus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from attncli.explain.question import Floats, Question
from attncli.render.escape import fit, fold, label_text, one_line, token_label
from attncli.render.numbers import plural
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.first_screen import Explanation
    from attncli.explain.next_token import NextToken

LABEL = 14  # cells of a token's label


def heading(
    pieces: Sequence[Piece], layers: int, heads: int, model: str, width: int, counted: str | None = None
) -> Text:
    """The model, its shape, how many tokens or what is `counted`, and as much of the text as there is room for."""
    counted = counted or plural(len(pieces), "token")
    facts = f"{one_line(model)} · {plural(layers, 'layer')} x {plural(heads, 'head')} · {counted}"
    text = Text(fold(facts, width), style="bold")
    room = width - cell_len(facts) - 3
    if room >= 20:
        text.append("   " + fit("|".join(token_label(piece) for piece in pieces), room), style="not bold dim")
    return text


def explanation_heading(found: Explanation, model: str, width: int) -> Text:
    """The same for an explanation, which may be in words."""
    words = f"{plural(len(found.pieces), 'word')} of {plural(len(found.tokens), 'token')}" if found.words else None
    return heading(found.pieces, found.layers, found.heads, model, width, words)


def question_heading(asked: Question, model: str, width: int) -> Text:
    """The same for a view."""
    return heading(asked.pieces, asked.layers, asked.heads, model, width)


def titled(title: str, facts: str, width: int) -> Text:
    """A view's title, and what its numbers are beside it or, in less room, below."""
    text = Text(fold(title, width), style="bold cyan")
    joint = "  " if cell_len(title + facts) + 2 <= width else "\n"
    return text.append(joint + fold(facts, width), style="not bold dim")


def named(asked: Question, at: int, width: int = LABEL) -> str:
    """A token of the text with its index: '␣bank [6]'."""
    return f"{token_label(asked.pieces[at], width)} [{at}]"


def next_label(token: NextToken, width: int) -> str:
    """A token that may follow; bytes that are no character look alike, so their ids tell them apart."""
    number = f" #{token.id}" if "\N{REPLACEMENT CHARACTER}" in token.text else ""
    return fit(label_text(token.text) + number, width)


def pieces_document(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """The tokens of a text, for programs; `part` is [i, n] for the i-th of n tokens that share a character."""
    return [
        {"index": at, "id": piece.id, "text": piece.text, "part": list(piece.part)} for at, piece in enumerate(pieces)
    ]


def heading_document(pieces: Sequence[Piece], layers: int, heads: int, model: str) -> dict[str, Any]:
    """The model and the tokens, for programs."""
    return {"model": model, "layers": layers, "heads": heads, "tokens": pieces_document(pieces)}


def explanation_heading_document(found: Explanation, model: str) -> dict[str, Any]:
    """The same for an explanation, which may be in words: each with its first and its last token."""
    document = heading_document(found.tokens, found.layers, found.heads, model)
    if found.words is not None:
        spans = zip(found.pieces, found.words.spans, strict=True)
        document["words"] = [
            {"index": at, "text": piece.text, "tokens": [span[0], span[-1]]} for at, (piece, span) in enumerate(spans)
        ]
    return document


def question_document(asked: Question, model: str, view: str) -> dict[str, Any]:
    """The same for a view, with its name and the token in focus."""
    return {"view": view, **heading_document(asked.pieces, asked.layers, asked.heads, model), "focus": asked.focus}


def up_to(focus: int, figures: Floats) -> list[float | None]:
    """A figure for every source, for programs: null after the focus, which cannot see what comes later."""
    return [float(value) if at <= focus else None for at, value in enumerate(figures)]


def token_document(token: NextToken) -> dict[str, Any]:
    """A token that may follow, for programs."""
    return {"id": token.id, "text": token.text, "probability": token.probability}
