"""The screen of `attncli tokenize`: the text with tinted tokens, and a table with a row for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fold, one_line, token_label
from attncli.render.numbers import plural
from attncli.render.palette import TOKEN_TINTS
from attncli.text.tokenizer import Piece

_MOST_ROWS = 200
_MOST_TINTED = 4000


def tokens_screen(
    pieces: Sequence[Piece],
    characters: int,
    tokenizer: str,
    width: int,
    opening: Sequence[Piece] = (),
    closing: Sequence[Piece] = (),
) -> RenderableType:
    """Returns the text with tinted tokens, a row per token, and totals.

    `opening` and `closing` are the tokens that the tokenizer adds before and after the text. They are not counted.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("#", "token", "id", "bytes", "characters"):
        table.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    label_room = max(width - 29 - len(str(len(pieces))), 8)

    def add_rows(added: Sequence[Piece], first: int) -> None:
        for at, piece in enumerate(added, first):
            table.add_row(str(at), Text(token_label(piece, label_room)), str(piece.id), "–", "–", style="dim")

    add_rows(opening, 0)
    for at, piece in enumerate(pieces[:_MOST_ROWS], len(opening)):
        label = Text(token_label(piece, label_room), TOKEN_TINTS[at % 2])
        table.add_row(str(at), label, str(piece.id), str(piece.bytes), str(len(piece.completed)))
    if len(pieces) <= _MOST_ROWS:
        add_rows(closing, len(opening) + len(pieces))
    parts: list[RenderableType] = [_tinted(pieces, width), Text(), table]
    for added, where in ((opening, "before"), (closing, "after")):
        if added:
            put = " ".join(token_label(piece) for piece in added)
            is_, it = ("is", "it") if len(added) == 1 else ("are", "them")
            said = f"{put} {is_} not part of the text: the tokenizer adds {it} {where} every text"
            parts.append(Text(fold(said, width), "dim"))
    if len(pieces) > _MOST_ROWS:
        parts.append(Text(f"… {len(pieces) - _MOST_ROWS:,} more tokens: --ids or --json gives them all", "dim"))
    return Group(*parts, Text(), totals(len(pieces), characters, sum(piece.bytes for piece in pieces), tokenizer))


def totals(tokens: int, characters: int, size: int, tokenizer: str) -> Text:
    """Returns the line of totals: '7 tokens · 29 characters · 29 bytes · 4.14 characters per token'."""
    per_token = f"{characters / tokens:.2f}" if tokens else "0"
    counted = (plural(tokens, "token"), plural(characters, "character"), plural(size, "byte"))
    facts = f"{' · '.join(counted)} · {per_token} characters per token"
    return Text(facts, "bold").append(f" · {one_line(tokenizer)}", "not bold dim")


def _tinted(pieces: Sequence[Piece], width: int) -> Text:
    """Returns the tinted tokens in lines that break between tokens."""
    text, used = Text(overflow="fold"), 0
    for at, piece in enumerate(pieces[:_MOST_TINTED]):
        label = token_label(piece)
        used += cell_len(label)
        if used > width and used > cell_len(label):
            text.append("\n")
            used = cell_len(label)
        text.append(label, TOKEN_TINTS[at % 2])
        used %= width
    return text


def tokens_document(
    pieces: Sequence[Piece],
    characters: int,
    tokenizer: str,
    opening: Sequence[Piece] = (),
    closing: Sequence[Piece] = (),
) -> dict[str, Any]:
    """Returns the tokens as a JSON-ready dictionary.

    `of_text` is false for tokens that the tokenizer adds before or after the text.
    """
    return {
        "tokenizer": tokenizer,
        "tokens": [
            {
                "id": piece.id,
                "text": piece.text,
                "bytes": piece.bytes,
                "part": list(piece.part),
                "of_text": len(opening) <= at < len(opening) + len(pieces),
            }
            for at, piece in enumerate((*opening, *pieces, *closing))
        ],
        "characters": characters,
        "bytes": sum(piece.bytes for piece in pieces),
        "characters_per_token": characters / len(pieces) if pieces else 0.0,
    }
