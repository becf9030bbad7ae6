"""How well a model predicts a text, as one record and its four figures. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text: `nats` summed over the `scored` tokens."""

    nats: float
    scored: int
    characters: float  # those of the scored part of the text
    bytes: float

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
        """Bits per byte of UTF-8, comparable between tokenizers and with compressors."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """exp(nats per token): among how many tokens the model seems to choose."""
        return math.exp(min(self.per_token, 700.0))

    def figures(self) -> dict[str, float]:
        """The four figures by name, for records on disk and for programs."""
        return {
            "nats_per_token": self.per_token,
            "nats_per_character": self.per_character,
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
        }
