"""Guesses the next tokens of a text from its own repetitions: prompt lookup (Saxena, 2023), speculative decoding.

If the last three tokens occurred in the text before, the tokens that followed them then are guessed to follow now. A
guess adds a few rows to a step, which reads all weights anyway; the rates with and without guesses are measured, and
guessing stops while it is slower. A guess never changes the text: every token is drawn as without it, and a correct
guess only means that the token has been read already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LENGTH = 3  # tokens that must have occurred before
_MOST = 5  # tokens in a guess
_DECAY = 0.9  # weight of the earlier measurements in the running mean of a rate
_RETRY_AFTER = 8  # guesses omitted because they were slower; then one is made to measure again


class Lookup:
    """The guesses for one text, as it grows."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # three tokens -> the position after their last occurrence
        self._known = 0
        self._rates: dict[bool, float] = {}  # tokens per second, with guesses and without
        self._skipped = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """The tokens that followed the last three when they occurred before: at most `most`, often none."""
        for end in range(max(self._known, _LENGTH), len(ids)):
            self._after[tuple(ids[end - _LENGTH : end])] = end
        self._known = len(ids)
        at = self._after.get(tuple(ids[-_LENGTH:])) if len(ids) >= _LENGTH else None
        if at is None or most < 1 or not self._pays():
            return []
        return list(ids[at : at + min(_MOST, most)])

    def restart(self) -> None:
        """Forgets the text, whose beginning was cut off, but not the measured rates."""
        self._after, self._known = {}, 0

    def measure(self, guessed: bool, tokens: int, seconds: float) -> None:
        """Records the duration of a step that yielded so many tokens."""
        rate = tokens / seconds
        self._rates[guessed] = _DECAY * self._rates.get(guessed, rate) + (1 - _DECAY) * rate

    def _pays(self) -> bool:
        """Whether guessing has been as fast as not guessing, or is to be measured again."""
        if self._rates.get(True, math.inf) >= self._rates.get(False, 0.0) or self._skipped >= _RETRY_AFTER:
            self._skipped = 0
            return True
        self._skipped += 1
        return False
