"""Guesses of what comes next, from what came before: prompt lookup (Saxena, 2023).

Where the last tokens of a text stood in it before, what followed them then is guessed to follow now. A guess costs a
few rows more in a step that reads all weights anyway; whether that pays is measured while it goes. A guess never
changes the text: each token is drawn as it would be without it, and the guess only says what could be read in advance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LENGTH = 3  # tokens that must have stood together before
_MOST = 5  # tokens guessed at once
_KEPT = 0.9  # of what was measured before, at each new measurement
_TRY_AGAIN = 8  # places at which guessing does not seem to pay, and then one more try


class Lookup:
    """The guesses for one text, as it grows."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # three tokens -> the position after their last occurrence
        self._known = 0
        self._rates: dict[bool, float] = {}  # tokens per second, with guesses and without
        self._skipped = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """What followed the last tokens of the text when they came before: at most `most` tokens, often none."""
        for end in range(max(self._known, _LENGTH), len(ids)):
            self._after[tuple(ids[end - _LENGTH : end])] = end
        self._known = len(ids)
        at = self._after.get(tuple(ids[-_LENGTH:])) if len(ids) >= _LENGTH else None
        if at is None or most < 1 or not self._pays():
            return []
        return list(ids[at : at + min(_MOST, most)])

    def restart(self) -> None:
        """Forgets the text, not what was measured: its beginning was cut off."""
        self._after, self._known = {}, 0

    def measure(self, guessed: bool, tokens: int, seconds: float) -> None:
        """Takes how long a step took that gave so many tokens."""
        rate = tokens / seconds
        self._rates[guessed] = _KEPT * self._rates.get(guessed, rate) + (1 - _KEPT) * rate

    def _pays(self) -> bool:
        if self._rates.get(True, math.inf) >= self._rates.get(False, 0.0) or self._skipped >= _TRY_AGAIN:
            self._skipped = 0
            return True
        self._skipped += 1
        return False
