"""The score of a model on a text, and the figures derived from it. This module imports no torch.

To add a figure (a row of `attncli eval`, a key of its JSON and of metrics.jsonl), add one entry to FIGURES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text. `nats` is the negative log-likelihood, summed over the `scored` tokens."""

    nats: float
    scored: int
    characters: float  # characters of the scored part of the text
    bytes: float  # UTF-8 bytes of the scored part of the text

    @property
    def per_token(self) -> float:
        """Nats per token: the loss."""
        return self.nats / self.scored

    @property
    def per_character(self) -> float:
        """Nats per character."""
        return self.nats / self.characters

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8: comparable across tokenizers and with compressors."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """exp(nats per token): the number of equally probable tokens that would be as hard to predict."""
        return math.exp(min(self.per_token, 700.0))

    def figures(self) -> dict[str, float]:
        """Returns every figure by its key, for files and programs."""
        return {figure.key: figure.of(self) for figure in FIGURES}


@dataclass(frozen=True)
class Figure:
    """One number of a score: its key in JSON, its label and format on the screen, and how it is computed."""

    key: str
    label: str
    format: str
    of: Callable[[Score], float]
    beside: str = ""  # the key of the figure in whose row it is shown, in parentheses; empty for a row of its own


FIGURES = (
    Figure("nats_per_token", "nats per token", ".4f", lambda score: score.per_token),
    Figure("nats_per_character", "nats per character", ".4f", lambda score: score.per_character),
    Figure("bits_per_byte", "bits per byte", ".4f", lambda score: score.bits_per_byte),
    Figure("perplexity", "perplexity", ",.1f", lambda score: score.perplexity, beside="nats_per_token"),
)
