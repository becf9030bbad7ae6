"""Looks up the ids of tokens that a logit bias names by their text.

This needs the tokenizer alone, no model and no torch.
"""

from __future__ import annotations

from dataclasses import replace

from attncli.config import SampleConfig
from attncli.errors import UsageProblem
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer

_MOST_SHOWN = 8  # the most tokens that an error lists for a text of several tokens


def with_token_ids(config: SampleConfig, tokenizer: Tokenizer) -> SampleConfig:
    """Returns the config with each text in its logit bias replaced by the id of the token that has this text.

    Raises UsageProblem for an id that the tokenizer lacks, and for a text that is not exactly one token.
    """
    return replace(config, logit_bias=tuple((_id(tokenizer, token), bias) for token, bias in config.logit_bias))


def _id(tokenizer: Tokenizer, token: int | str) -> int:
    if isinstance(token, int):
        if token < tokenizer.vocab_size:
            return token
        raise UsageProblem.naming(
            lambda name: (
                f"{name('logit_bias')}: there is no token #{token}; this model has #0 to #{tokenizer.vocab_size - 1}.",
                "attncli tokenize TEXT shows the ids of a text.",
            )
        )
    if token == END_OF_TEXT and tokenizer.end_of_text is not None:
        return tokenizer.end_of_text  # the tokenizer encodes this name as several tokens of plain text
    pieces = tokenizer.pieces_within(token)
    if len(pieces) == 1:
        return pieces[0].id
    shown = ", ".join(f"{piece.text!r} #{piece.id}" for piece in pieces[:_MOST_SHOWN])
    more = ", …" if len(pieces) > _MOST_SHOWN else ""
    raise UsageProblem.naming(
        lambda name: (
            f"{name('logit_bias')}: {token!r} is {len(pieces)} tokens: {shown}{more}.",
            "Give one token, by its text or its #id.",
        )
    )
