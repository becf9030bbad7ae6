"""Generated text tinted by its surprise: the bits that the model needs to tell each token.

Owns which text belongs to which tokens while it streams, and the colours with their legend. A character that is spread
over several tokens has the surprise of all of them: that of the character.
"""

from __future__ import annotations

from collections import deque

from rich.console import Console
from rich.style import Style
from rich.text import Text

from attncli.generation.events import Token
from attncli.render.palette import heat

_EDGES = (1, 2, 4, 8)  # bits at which the next colour begins


class Surprises:
    """The surprise of every stretch of one sample's text, from its tokens, which come before their text does."""

    def __init__(self) -> None:
        self._stretches: deque[tuple[int, float]] = deque()  # characters to come, and their bits
        self._unfinished = 0.0  # bits of the tokens since the last whole character

    def take(self, token: Token) -> None:
        """Takes the next token of the sample."""
        self._unfinished += token.bits
        if token.characters:
            self._stretches.append((token.characters, self._unfinished))
            self._unfinished = 0.0

    def split(self, text: str) -> list[tuple[str, float]]:
        """The next text of the sample in stretches with their bits. 'a cat' -> [('a', 3.1), (' cat', 7.9)]."""
        found = []
        while text:
            count, bits = self._stretches.popleft() if self._stretches else (len(text), self._unfinished)
            found.append((text[:count], bits))
            if len(text) < count:
                self._stretches.appendleft((count - len(text), bits))
            text = text[count:]
        return found


def why_no_colors(console: Console) -> str | None:
    """Why nothing can be tinted here, or None where it can."""
    if console.no_color:
        return "NO_COLOR is set"
    if not console.is_terminal and console.color_system is None:
        return "standard output is no terminal"
    return None if console.color_system in ("truecolor", "256") else "this terminal has no 256 colours"


def tint(bits: float, color_system: str | None) -> Style:
    """The style of a text of this surprise; what was expected has none."""
    level = sum(bits >= edge for edge in _EDGES)
    return heat(level / len(_EDGES), color_system) if level else Style()


def legend(color_system: str | None) -> Text:
    """Every colour with the bits it stands for, in at most 40 cells."""
    text = Text().append("surprise in bits ", "dim")
    for low, high in zip((0, *_EDGES), (*_EDGES, None), strict=True):
        label = f" {low}–{high} " if high else f" {low}+ "
        text.append(label if low else f" <{high} ", tint(low, color_system))
    return text
