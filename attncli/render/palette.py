"""Colours for a value from 0 to 1, in what the terminal can show.

24-bit: viridis (van der Walt and Smith, 2015), lighter is more at every step, also without colour vision. 256: a
hand-picked ramp that does the same. Fewer colours: none, since the numbers or shades carry the value.
"""

from __future__ import annotations

from rich.color import Color
from rich.style import Style

_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
_RAMP_256 = (232, 235, 54, 90, 126, 167, 203, 209, 222, 229)
TOKEN_TINTS = ("on #23395b", "on #4b2e39")  # two dark grounds in turn, so that boundaries show


def heat(value: float, color_system: str | None) -> Style:
    """The style of a cell of this value: the colour behind, and readable digits on it."""
    value = max(0.0, min(value, 1.0))
    if color_system == "truecolor":
        at = value * (len(_VIRIDIS) - 1)
        low = min(int(at), len(_VIRIDIS) - 2)
        red, green, blue = (
            round(a + (b - a) * (at - low))
            for a, b in zip(_channels(_VIRIDIS[low]), _channels(_VIRIDIS[low + 1]), strict=True)
        )
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        return Style(color="white" if dark else "black", bgcolor=Color.from_rgb(red, green, blue))
    if color_system == "256":
        index = round(value * (len(_RAMP_256) - 1))
        return Style(color="white" if index < 6 else "black", bgcolor=Color.from_ansi(_RAMP_256[index]))
    return Style()


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[:2], 16), int(color[2:4], 16), int(color[4:], 16)
