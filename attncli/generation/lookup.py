"""Guesses the next tokens of a text from its own repetitions: prompt lookup decoding (Saxena, 2023).

This is a form of speculative decoding. If the last three tokens occurred earlier in the text, the guess is the tokens
that followed the earlier occurrence. A guess adds a few rows to a step, which reads all weights anyway. The rates with
and without guesses are measured; guessing is suspended while it is slower. A guess never changes the text: each token
is drawn as usual. If the guess was right, the token is already in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LENGTH = 3  # the number of tokens that must match an earlier place in the text
_MOST = 5  # the largest number of tokens in a guess
_DECAY = 0.9  # weight of the earlier measurements in the running mean of a rate
_RETRY_AFTER = 8  # skipped guesses while guessing is slower; then one guess measures the rate again


class Lookup:
    """Makes guesses for one text during its generation."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # three tokens -> the position after their last occurrence
        self._known = 0
        self._rates: dict[bool, float] = {}  # tokens per second, with guesses and without
        self._skipped = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Returns the tokens that followed the previous occurrence of the final three tokens.

        Returns at most `most` tokens, and often none.
        """
        for end in range(max(self._known, _LENGTH), len(ids)):
            self._after[tuple(ids[end - _LENGTH : end])] = end
        self._known = len(ids)
        at = self._after.get(tuple(ids[-_LENGTH:])) if len(ids) >= _LENGTH else None
        if at is None or most < 1 or not self._pays():
            return []
        return list(ids[at : at + min(_MOST, most)])

    def restart(self) -> None:
        """Discards the text, because its beginning was truncated; keeps the measured rates."""
        self._after, self._known = {}, 0

    def measure(self, guessed: bool, tokens: int, seconds: float) -> None:
        """Records the duration of a step and the number of tokens that the step yielded."""
        rate = tokens / seconds
        self._rates[guessed] = _DECAY * self._rates.get(guessed, rate) + (1 - _DECAY) * rate

    def _pays(self) -> bool:
        """Whether to guess: guessing has not slowed generation down, or its rate is due to be measured again."""
        if self._rates.get(True, math.inf) >= self._rates.get(False, 0.0) or self._skipped >= _RETRY_AFTER:
            self._skipped = 0
            return True
        self._skipped += 1
        return False
