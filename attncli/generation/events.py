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


@dataclass(frozen=True)
class Candidate:
    """A token that may come next, and how probable it is at each temperature."""

    id: int
    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Candidates:
    """What may come next, most probable first; the rest of each temperature's probability is that of other tokens."""

    temperatures: tuple[float, ...]
    tokens: tuple[Candidate, ...]

    @property
    def rest(self) -> tuple[float, ...]:
        """What the other tokens have together, at each temperature."""
        columns = zip(*(token.probabilities for token in self.tokens), strict=True)
        return tuple(max(1 - sum(column), 0.0) for column in columns)


Event = Text | Finished | Reread
