"""Builds what the screens of explanations share: the first line, a title with its facts, and the labels of tokens.

It also builds what the JSON documents of explanations share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from attncli.explain.question import Floats, MapAxes, Subject
from attncli.render.escape import fit, fold, label_text, one_line, token_label
from attncli.render.numbers import plural
from attncli.render.palette import TITLE
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.first_screen import Explanation
    from attncli.explain.next_token import NextToken

LABEL = 14  # cells of a token's label
ATTENTIONS = {"encoder": "the encoder", "decoder": "the decoder's self-attention", "cross": "cross-attention"}
_ROWS = {
    "cross": "row: a token as it is predicted, column: a token of the source",
    "decoder": "row: a token as it is predicted, column: a token before it",
}


def shape_of(model: str, layers: int, heads: int, encoder_layers: int = 0) -> str:
    """Returns a model's name and its shape: 'stories · 4 layers x 6 heads', 'en-de · 2 + 3 layers x 4 heads'."""
    encoder = f"{encoder_layers} + " if encoder_layers else ""
    return f"{one_line(model)} · {encoder}{plural(layers, 'layer')} x {plural(heads, 'head')}"


def of_attention(axes: MapAxes) -> str:
    """Names the attention of an encoder-decoder: ' of cross-attention'; empty for other models."""
    return f" of {ATTENTIONS[axes.part]}" if axes.part in ATTENTIONS else ""


def part_option(axes: MapAxes, default: str) -> str:
    """Returns the option for this attention: '--part encoder '; empty if a view shows this attention by default."""
    return f"--part {axes.part} " if axes.part in ATTENTIONS and axes.part != default else ""


def row_and_column(axes: MapAxes) -> str:
    """Says what the rows and columns of a map are."""
    return _ROWS.get(axes.part or "", "row looks at column")


def heading(
    axes: MapAxes, layers: int, heads: int, model: str, width: int, tokens: int | None = None, encoder_layers: int = 0
) -> Text:
    """Returns the model, its shape, the number of tokens, and as much of the text as fits the line.

    If the text is counted in words, `tokens` is the number of its tokens. `encoder_layers` adds the encoder to the
    shape.
    """
    unit, counted = "token" if tokens is None else "word", plural(len(axes.columns), "token")
    if axes.part in ("cross", "both"):
        counted = f"{axes.sources or len(axes.columns)} → {plural(len(axes.rows), unit)}"
    elif tokens is not None:
        counted = f"{plural(len(axes.columns), 'word')} of {plural(tokens, 'token')}"
    facts = f"{shape_of(model, layers, heads, encoder_layers)} · {counted}"
    text = Text(fold(facts, width), style="bold")
    room = width - cell_len(facts) - 3
    if room >= 20:
        text.append("   " + _texts(axes, room), style="not bold dim")
    return text


def _texts(axes: MapAxes, room: int) -> str:
    """Returns as much of the text as fits `room` cells; of a translation, both texts: 'A|␣dog → Ein|␣Hund'."""
    if axes.part not in ("cross", "both"):
        return fit("|".join(map(token_label, axes.columns)), room)
    source = axes.columns[: axes.sources] if axes.part == "both" else axes.columns
    texts = ["|".join(token_label(piece) for piece in pieces if not piece.special) for pieces in (source, axes.rows)]
    half = (room - 3) // 2
    most = [max(half, room - 3 - cell_len(texts[1])), max(half, room - 3 - cell_len(texts[0]))]
    return fit(" → ".join(fit(text, cells) for text, cells in zip(texts, most, strict=True)), room)


def explanation_heading(finding: Explanation, model: str, width: int) -> Text:
    """Returns the first line of an explanation, which may be counted in words."""
    tokens = len(finding.tokens) if finding.words else None
    return heading(finding.axes, finding.layers, finding.heads, model, width, tokens)


def subject_heading(subject: Subject, model: str, width: int) -> Text:
    """Returns the first line of a view, from its subject."""
    return heading(subject.axes, subject.layers, subject.heads, model, width)


def titled(title: str, facts: str, width: int, gap: int = 2) -> Text:
    """Returns a title with the meaning of the numbers beside it, or below it on a narrow screen."""
    text = Text(fold(title, width), style=TITLE)
    joint = " " * gap if cell_len(title + facts) + gap <= width else "\n"
    return text.append(joint + fold(facts, width), style="not bold dim")


def named(subject: Subject, row: int, width: int = LABEL) -> str:
    """Returns the token of a row with its index: '␣bank [6]'."""
    return named_row(subject.axes, row, width)


def named_row(axes: MapAxes, row: int, width: int = LABEL) -> str:
    """Returns the token or word of a row with its index: '␣bank [6]'."""
    return f"{token_label(axes.rows[row], width)} [{axes.row_index(row)}]"


def named_source(axes: MapAxes, column: int, width: int = LABEL) -> str:
    """Returns the token or word of a column with its index: '␣bank [6]'."""
    return f"{token_label(axes.columns[column], width)} [{axes.column_index(column)}]"


def indexed(axes: MapAxes, column: int) -> str:
    """Returns the index of a column; with its text, if the columns are of two texts: '6', 'source 6'."""
    text = axes.text_of(column)
    return f"{f'{text} ' if text else ''}{axes.column_index(column)}"


def prediction_of(axes: MapAxes, row: int, width: int = LABEL) -> str:
    """Names what a row predicts: 'What follows ␣bank [6]', or 'Candidates for ␣Hund [2]' in a translation."""
    return f"{'What follows' if axes.predicts_next else 'Candidates for'} {named_row(axes, row, width)}"


def next_label(token: NextToken, width: int) -> str:
    """Returns the label of a next token. Tokens that are parts of a character look alike, so their ids are added."""
    number = f" #{token.id}" if "\N{REPLACEMENT CHARACTER}" in token.text else ""
    return fit(label_text(token.text) + number, width)


def pieces_document(pieces: Sequence[Piece], first: int = 0) -> list[dict[str, Any]]:
    """Returns the tokens of a text as JSON values, with indices from `first`.

    `part` is [i, n] for the i-th of n tokens that share a character.
    """
    return [
        {"index": at, "id": piece.id, "text": piece.text, "part": list(piece.part)}
        for at, piece in enumerate(pieces, first)
    ]


def heading_document(
    axes: MapAxes,
    layers: int,
    heads: int,
    model: str,
    tokens: Sequence[Piece] | None = None,
    sources: int | None = None,
) -> dict[str, Any]:
    """Returns the model and the tokens of a text as a JSON-ready dictionary.

    If the axes are counted in words, `tokens` are the tokens of the columns, and `sources` is the number of tokens of
    the source text. For an encoder-decoder, `attention` is the attention shown, and `queries` are the rows.
    """
    columns = axes.columns if tokens is None else tokens
    if axes.part is None:
        return {"model": model, "layers": layers, "heads": heads, "tokens": pieces_document(columns)}
    count = axes.sources if sources is None else sources
    listed = [*pieces_document(columns[:count]), *pieces_document(columns[count:])]
    if axes.part == "both":
        listed = [{**token, "of": "source" if at < count else "target"} for at, token in enumerate(listed)]
    rows = pieces_document(axes.rows, axes.first)
    shape = {"layers": layers, "heads": heads}
    return {"model": model, "attention": axes.part, **shape, "tokens": listed, "queries": rows}


def explanation_heading_document(finding: Explanation, model: str) -> dict[str, Any]:
    """Returns the heading of an explanation as JSON values.

    If the text is counted in words, each word has its first and last token.
    """
    axes, words = finding.axes, finding.words
    if words is None:
        return heading_document(axes, finding.layers, finding.heads, model)
    sources = words.spans[axes.sources].start if axes.sources else 0
    document = heading_document(axes, finding.layers, finding.heads, model, words.tokens, sources)
    document["words"] = [
        {
            "index": axes.column_index(at),
            "text": piece.text,
            "tokens": [end if end < sources else end - sources for end in (span[0], span[-1])],
        }
        for at, (piece, span) in enumerate(zip(axes.columns, words.spans, strict=True))
    ]
    return document


def subject_document(subject: Subject, model: str, view: str) -> dict[str, Any]:
    """Returns the heading of a view as JSON values: the view's name, the model, the text, and the row in focus."""
    return {
        "view": view,
        **heading_document(subject.axes, subject.layers, subject.heads, model),
        "focus": subject.axes.row_index(subject.focus),
    }


def up_to(reach: int, figures: Floats) -> list[float | None]:
    """Returns the figures of all sources as JSON values; null for masked sources, whose index is `reach` or more."""
    return [float(value) if at < reach else None for at, value in enumerate(figures)]


def token_document(token: NextToken) -> dict[str, Any]:
    """Returns a next token as a JSON-ready dictionary."""
    return {"id": token.id, "text": token.text, "probability": token.probability}
