"""`TOKEN=BIAS`, as a user writes it, to a token's id and a number.

Owns how a token is named: by its text, spaces included, or as #ID. Knows the tokenizer; no model and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attncli.errors import UsageProblem
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer

_OPTION = "--logit-bias"
_EXAMPLES = f"Such as {_OPTION} ' cat=2.5', or {_OPTION} '#12=-inf' for the token with that id, never to come."
_MOST_SHOWN = 8  # tokens of a text that is several


def parse_bias(text: str) -> tuple[str, float]:
    """' cat=2.5' -> (' cat', 2.5); '==-inf' -> ('=', -inf). Raises UsageProblem for what is not TOKEN=BIAS."""
    token, equals, number = text.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        equals = ""
    if not equals or not token:
        raise UsageProblem(f"{_OPTION} {text!r} is not a token, an equals sign and a number.", _EXAMPLES)
    return token, bias


def token_biases(tokenizer: Tokenizer, biases: Iterable[tuple[str, float]]) -> tuple[tuple[int, float], ...]:
    """The tokens by their ids. Raises UsageProblem for an unknown id, or a text that is not exactly one token."""
    return tuple((_id(tokenizer, token), bias) for token, bias in biases)


def _id(tokenizer: Tokenizer, token: str) -> int:
    if named := re.fullmatch(r"#(\d{1,18})", token):
        if (id_ := int(named[1])) < tokenizer.vocab_size:
            return id_
        raise UsageProblem(
            f"{_OPTION}: there is no token {token}; this model has #0 to #{tokenizer.vocab_size - 1}.",
            "attncli tokenize TEXT shows the ids of a text.",
        )
    if token == END_OF_TEXT and tokenizer.end_of_text is not None:
        return tokenizer.end_of_text  # as plain text this is never one token
    pieces = tokenizer.pieces_within(token)
    if len(pieces) == 1:
        return pieces[0].id
    shown = ", ".join(f"{piece.text!r} #{piece.id}" for piece in pieces[:_MOST_SHOWN])
    more = ", …" if len(pieces) > _MOST_SHOWN else ""
    raise UsageProblem(
        f"{_OPTION}: {token!r} is {len(pieces)} tokens: {shown}{more}.", "Give one token, by its text or its #id."
    )
