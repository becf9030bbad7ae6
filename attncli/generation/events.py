"""What happens while text is generated: frozen records without torch, for whoever draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["length", "stop", "end"]


@dataclass(frozen=True)
class Text:
    """More text of a sample, certain to stay."""

    sample: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A sample is complete: the most tokens were reached, a stop string came, or the document ended."""

    sample: int
    reason: Reason
    ids: tuple[int, ...]  # everything generated, a stop string or the end token included


@dataclass(frozen=True)
class Reread:
    """The context was full: the model goes on from the most recent `kept` tokens. Said each time."""

    kept: int


Event = Text | Finished | Reread
