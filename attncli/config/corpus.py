"""CorpusConfig: how text becomes tokens to train on. Every default and limit stands here once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attncli.config.limits import require
from attncli.errors import UsageProblem

TokenizerKind = Literal["bpe", "char", "byte"]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = ("bpe", "char", "byte")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How text becomes tokens to train on; None leaves the vocabulary to the amount of text."""

    tokenizer: TokenizerKind = "bpe"
    vocab_size: int | None = None
    val_fraction: float = 0.1  # of the characters, at the end
    encoding: str = "utf-8"
    most_characters: int | None = None  # of either part; of a larger one only passages spread over it are used

    def __post_init__(self) -> None:
        require(0 < self.val_fraction <= 0.5, "--val-fraction", self.val_fraction, "above 0 and at most 0.5")
        most = self.most_characters
        require(most is None or most >= 1, "most_characters", most, "at least 1")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):  # also for a NUL in the name
            raise UsageProblem(
                f"--encoding {self.encoding!r} is not an encoding that Python knows.", "Try latin-1, cp1252 or utf-16."
            ) from None
