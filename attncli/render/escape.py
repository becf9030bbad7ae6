"""Escapes text from files and models, so that a terminal shows control characters and does not obey them.

Control codes, bidirectional overrides and invisible characters are replaced by visible characters. Callers build Rich's
Text objects from the result, never markup strings, so nothing in it is parsed as markup.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

from attncli.text.tokenizer import Piece

# Letters and marks without a glyph: fillers, grapheme joiners, variation selectors.
_INVISIBLE = frozenset(
    (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10), 0xFFA0)
) | frozenset(range(0xE0100, 0xE01F0))
_JOINERS = "\u200c\u200d"  # part of words in some scripts, and of emoji


def visible(text: str) -> str:
    """Escapes running text; keeps line ends, tabs and joiners. 'a\\x1b[2J' -> 'a␛[2J'."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(char if char in "\n\t" or char in _JOINERS else _stand_in(char) for char in text)


def one_line(text: str) -> str:
    """Escapes a name or a message, including line ends, tabs and joiners."""
    return "".join(_stand_in(char) for char in text)


def token_label(piece: Piece, width: int | None = None) -> str:
    """Returns a token with visible spaces, cut at `width` cells: '␣the'.

    A token that is one of two parts of a character is marked: '東·1/2'.
    """
    label = label_text(piece.text)
    part = "" if piece.part == (1, 1) else f"·{piece.part[0]}/{piece.part[1]}"
    if width is None or cell_len(label + part) <= width:
        return label + part
    return fit(label, width - len(part)) + part if width > len(part) else fit(label + part, width)


def label_text(text: str) -> str:
    """Returns the text of a token with every space shown as ␣."""
    if text.isascii() and text.isprintable():  # as most of the hundreds of tokens that the page names
        return text.replace(" ", "␣") or "∅"
    return "".join("␣" if char == " " else _stand_in(char) for char in text) or "∅"


def id_label(id_: int, text: str) -> str:
    """Returns the label of a token id. Tokens that are parts of a character look alike, so their ids are added."""
    return label_text(text) + (f" #{id_}" if "\N{REPLACEMENT CHARACTER}" in text else "")


def fit(text: str, width: int) -> str:
    """Cuts a text that is wider than `width` cells, and ends it with '…'. At width 0, the result is '…'."""
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def fold(text: str, width: int) -> str:
    """Breaks a text between words and at ' · ' into lines of at most `width` cells. A longer word is cut."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        elif lines and word == "·":
            continue  # the line break separates the two facts
        else:
            lines.append(fit(word, width))
    return "\n".join(line.removesuffix(" ·") for line in lines)


def pad(text: str, width: int) -> str:
    """Cuts or pads a text to exactly `width` cells."""
    return set_cell_size(fit(text, width), width)


def _stand_in(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ to ␟
    if code == 0x7F:
        return "␡"
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or code in _INVISIBLE:
        return f"‹{code:X}›"
    return char
