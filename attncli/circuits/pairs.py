"""Pairs of prompts: a clean one, and a corrupt one that differs in what the prediction depends on.

Patching replaces a value of one run by the value of the other run at the same place of the text, so every token of one
prompt needs a counterpart in the other one. Prompts align token by token, or word by word: then the last tokens of two
words with different numbers of tokens are counterparts, and the first tokens of the longer word have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncli.circuits.defaults import Align
from attncli.errors import BadInput
from attncli.explain.question import refuse_length
from attncli.explain.words import joined, words
from attncli.text.tokenizer import Piece

_SHOWN = 40  # tokens of a prompt in an error


@dataclass(frozen=True)
class PromptPair:
    """Two prompts, and the counterparts in their tokens."""

    clean: tuple[Piece, ...]
    corrupt: tuple[Piece, ...]
    units: tuple[tuple[range, range], ...]  # tokens or words: the counterparts in the clean and the corrupt prompt
    align: Align = "token"

    @property
    def changed(self) -> list[int]:
        """The units whose tokens differ."""
        return [
            at
            for at, (one, other) in enumerate(self.units)
            if [self.clean[i].id for i in one] != [self.corrupt[i].id for i in other]
        ]

    def labels(self, clean: bool) -> list[Piece]:
        """Returns the units of a prompt as pieces, which have the text of all counterparts of a word."""
        pieces, side = (self.clean, 0) if clean else (self.corrupt, 1)
        if self.align == "token":
            return list(pieces)
        return joined(pieces, [_whole(unit[side], pieces) for unit in self.units])


def _whole(span: range, pieces: Sequence[Piece]) -> range:
    """Returns the whole word of which `span` contains the last tokens."""
    return next(word for word in words(pieces) if word.stop == span.stop)


def paired(clean: Sequence[Piece], corrupt: Sequence[Piece], context: int, align: Align = "token") -> PromptPair:
    """Returns the pair of two prompts.

    Raises BadInput for prompts that do not align, are equal, empty, or longer than the context.
    """
    for pieces in (clean, corrupt):
        refuse_length(pieces, context)
    if [piece.id for piece in clean] == [piece.id for piece in corrupt]:
        raise BadInput("The two prompts are equal.", "Change what the prediction depends on in the second prompt.")
    if align == "word":
        units = _by_word(clean, corrupt)
    elif len(clean) == len(corrupt):
        units = [(range(at, at + 1), range(at, at + 1)) for at in range(len(clean))]
    else:
        raise BadInput.naming(
            lambda name: (
                f"The prompts have {len(clean)} and {len(corrupt)} tokens: {_listed(clean)} and {_listed(corrupt)}.",
                "Use words with equally many tokens"
                + (f", or {name('align')} word for activation patching." if name("align") != "align" else "."),
            )
        )
    return PromptPair(tuple(clean), tuple(corrupt), tuple(units), align)


def _by_word(clean: Sequence[Piece], corrupt: Sequence[Piece]) -> list[tuple[range, range]]:
    spans = words(clean), words(corrupt)
    if len(spans[0]) != len(spans[1]):
        listed = (_listed(joined(pieces, of)) for pieces, of in zip((clean, corrupt), spans, strict=True))
        raise BadInput(
            f"The prompts have {len(spans[0])} and {len(spans[1])} words: {' and '.join(listed)}.",
            "Use prompts with equally many words.",
        )
    common = [min(len(one), len(other)) for one, other in zip(*spans, strict=True)]
    return [(one[-n:], other[-n:]) for one, other, n in zip(*spans, common, strict=True)]


def _listed(pieces: Sequence[Piece]) -> str:
    shown = "|".join(piece.text.replace(" ", "␣") for piece in pieces[:_SHOWN])
    return shown + ("|…" if len(pieces) > _SHOWN else "")
