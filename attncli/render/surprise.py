"""Tints generated text by its surprise: -log2 of the probability of each token, in bits.

This module assigns streamed text to its tokens, and defines the colors with their legend. If several tokens form one
character, the surprise of the character is the sum of their surprises.
"""

from __future__ import annotations

from collections import deque

from rich.console import Console
from rich.style import Style
from rich.text import Text

from attncli.generation.events import Token
from attncli.render.palette import heat

_EDGES = (1, 2, 4, 8)  # bits at which the next color begins


class Surprises:
    """The surprise of each span of one sample's text. Token events arrive before the text they produce."""

    def __init__(self) -> None:
        self._spans: deque[tuple[int, float]] = deque()  # number of characters that will arrive, and their bits
        self._unfinished = 0.0  # bits of the tokens since the last whole character

    def take(self, token: Token) -> None:
        """Records the next token of the sample."""
        self._unfinished += token.bits
        if token.characters:
            self._spans.append((token.characters, self._unfinished))
            self._unfinished = 0.0

    def split(self, text: str) -> list[tuple[str, float]]:
        """Splits the next text of the sample into spans, each with its bits: 'a cat' -> [('a', 3.1), (' cat', 7.9)]."""
        spans = []
        while text:
            count, bits = self._spans.popleft() if self._spans else (len(text), self._unfinished)
            spans.append((text[:count], bits))
            if len(text) < count:
                self._spans.appendleft((count - len(text), bits))
            text = text[count:]
        return spans


def why_no_colors(console: Console) -> str | None:
    """Returns why text cannot be tinted on a console, or None if it can."""
    if console.no_color:
        return "NO_COLOR is set"
    if not console.is_terminal and console.color_system is None:
        return "standard output is no terminal"
    return None if console.color_system in ("truecolor", "256") else "this terminal has no 256 colors"


def tint(bits: float, color_system: str | None) -> Style:
    """Returns the style of a text with this surprise; no style below one bit."""
    level = sum(bits >= edge for edge in _EDGES)
    return heat(level / len(_EDGES), color_system) if level else Style()


def legend(color_system: str | None) -> Text:
    """Returns the legend: each color with its bits, in at most 40 cells."""
    text = Text().append("surprise in bits ", "dim")
    for low, high in zip((0, *_EDGES), (*_EDGES, None), strict=True):
        label = f" {low}–{high} " if high else f" {low}+ "
        text.append(label if low else f" <{high} ", tint(low, color_system))
    return text
