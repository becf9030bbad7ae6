"""Guesses the next tokens of a text from its own repetitions: prompt lookup decoding (Saxena, 2023), a form of
speculative decoding.

If the last three tokens occurred earlier in the text, the tokens that followed them there are the guess. A guess adds a
few rows to a step, which reads all weights anyway. The rates with and without guesses are measured; while guessing is
slower, it is suspended. A guess never changes the text: every token is drawn as usual, and if a guess was right, its
token is already in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LENGTH = 3  # how many tokens must match an earlier place in the text
_MOST = 5  # the largest number of tokens in a guess
_DECAY = 0.9  # weight of the earlier measurements in the running mean of a rate
_RETRY_AFTER = 8  # guesses skipped because guessing was slower; then one guess is made to measure its rate again


class Lookup:
    """Guesses for one text while it is generated."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # three tokens -> the position after their last occurrence
        self._known = 0
        self._rates: dict[bool, float] = {}  # tokens per second, with guesses and without
        self._skipped = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Returns the tokens that followed the last occurrence of the final three tokens.

        There are at most `most`, often none.
        """
        for end in range(max(self._known, _LENGTH), len(ids)):
            self._after[tuple(ids[end - _LENGTH : end])] = end
        self._known = len(ids)
        at = self._after.get(tuple(ids[-_LENGTH:])) if len(ids) >= _LENGTH else None
        if at is None or most < 1 or not self._pays():
            return []
        return list(ids[at : at + min(_MOST, most)])

    def restart(self) -> None:
        """Forgets the text, since its beginning was truncated, but keeps the measured rates."""
        self._after, self._known = {}, 0

    def measure(self, guessed: bool, tokens: int, seconds: float) -> None:
        """Records the duration of a step and the number of tokens that it yielded."""
        rate = tokens / seconds
        self._rates[guessed] = _DECAY * self._rates.get(guessed, rate) + (1 - _DECAY) * rate

    def _pays(self) -> bool:
        """Whether to guess: guessing was at least as fast as not guessing, or it is time to measure it again."""
        if self._rates.get(True, math.inf) >= self._rates.get(False, 0.0) or self._skipped >= _RETRY_AFTER:
            self._skipped = 0
            return True
        self._skipped += 1
        return False
