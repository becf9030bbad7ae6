"""Chooses the color of a value from 0 to 1, from the colors that a terminal has.

With 24 bits, the colors are viridis (van der Walt and Smith, 2015): a larger value is always lighter, so the order is
visible without color vision. With 256 colors, a hand-picked ramp is used, in which a larger value is also lighter.
With fewer colors, a value has no color, only its number.
"""

from __future__ import annotations

from rich.color import Color
from rich.style import Style

_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
_RAMP_256 = (232, 235, 54, 90, 126, 167, 203, 209, 222, 229)
TITLE = "bold cyan"
BAR = "cyan"  # and shades and examples
FOCUS = "bold"  # the token in focus, in a map
TOKEN_TINTS = ("on #23395b", "on #4b2e39")  # alternating dark backgrounds that show token boundaries


def heat(value: float, color_system: str | None) -> Style:
    """Returns the style of a cell: the background for the value, and a readable text color."""
    value = max(0.0, min(value, 1.0))
    if color_system == "truecolor":
        at = value * (len(_VIRIDIS) - 1)
        low = min(int(at), len(_VIRIDIS) - 2)
        red, green, blue = (
            round(a + (b - a) * (at - low))
            for a, b in zip(_channels(_VIRIDIS[low]), _channels(_VIRIDIS[low + 1]), strict=True)
        )
        return _legible(Color.from_rgb(red, green, blue))
    if color_system == "256":
        return _legible(Color.from_ansi(_RAMP_256[round(value * (len(_RAMP_256) - 1))]))
    return Style()


def _legible(ground: Color) -> Style:
    """Returns black or white text on a background, whichever has more contrast (relative luminance of WCAG 2)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in ground.get_truecolor()]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # 24-bit white and black, because a terminal's own may be tinted.
    return Style(color="#ffffff" if luminance < 0.179 else "#000000", bgcolor=ground)


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[:2], 16), int(color[2:4], 16), int(color[4:], 16)
