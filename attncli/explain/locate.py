"""Finds the token or word of a text that a user names by an index or by its text. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from attncli.errors import UsageProblem
from attncli.explain.question import refuse_missing
from attncli.text.tokenizer import Piece

Span = tuple[int, int]  # the first and the last token of a word
TextKind = Literal["text", "source text", "target text"]
_LISTED = 24  # tokens named in an error


def find_token(pieces: Sequence[Piece], name: str, first: int = 0, text: TextKind = "text") -> int:
    """Returns the index in `pieces` of the token that a user names by an index or by a word.

    If the word has several tokens, returns the index of the last one. The user counts the tokens from `first`.

    Raises UsageProblem when the text has no such token, or several.
    """
    return find_span(pieces, name, first, text)[1]


def find_span(pieces: Sequence[Piece], name: str, counted_from: int = 0, text: TextKind = "text") -> Span:
    """Returns the indices of the first and the last token of the word that a user names.

    If the user gives the index of a token, counted from `counted_from`, both indices are of this token. `text`
    names the text in errors. Raises UsageProblem when the text has no such token, or several.
    """
    if re.fullmatch(r"-?[0-9]{1,9}", name):
        index = int(name) - counted_from
        refuse_missing("token", index, len(pieces), counted_from)
        return index, index
    spelled = _spans_spelling(pieces, name.strip())
    spans = [span for span in spelled if _is_word(pieces, *span)] or spelled  # whole words, else parts of words
    if len(spans) == 1:
        return spans[0]
    if spans:
        found = " or ".join(str(last + counted_from) for _, last in spans)
        raise UsageProblem(f"{name!r} occurs {len(spans)} times.", f"Name the token by its index: {found}.")
    listed = " ".join(f"{at}:{piece.text.strip() or '␣'}" for at, piece in enumerate(pieces[:_LISTED], counted_from))
    more = " …" if len(pieces) > _LISTED else ""
    raise UsageProblem(f"There is no token {name!r} in the {text}.", f"The tokens are {listed}{more}.")


def _spans_spelling(pieces: Sequence[Piece], word: str) -> list[Span]:
    """Returns every run of whole tokens that spells the word. White space around the word is ignored."""
    spans = []
    for first in range(len(pieces)):
        spelled = ""
        for last in range(first, len(pieces)):
            spelled += pieces[last].completed
            if word and spelled.strip() == word:
                spans.append((first, last))
            if len(spelled.strip()) >= len(word):
                break
    return [(first, last) for first, last in spans if pieces[first].completed.strip() or first == last]


def _is_word(pieces: Sequence[Piece], first: int, last: int) -> bool:
    """Returns whether the tokens are a whole word: no letter or digit is directly before or after them.

    So 'at' is not found inside 'sat'.
    """
    before = "" if first == 0 or pieces[first].text[:1].isspace() else pieces[first - 1].text[-1:]
    after = "" if last + 1 == len(pieces) else pieces[last + 1].text[:1]
    return not (before.isalnum() or after.isalnum())
