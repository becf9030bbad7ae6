"""The colors of the themes for SVG and HTML pictures, in hexadecimal. Imports no Rich, so help pages can list them."""

from __future__ import annotations

from typing import NamedTuple


class Theme(NamedTuple):
    """The colors of a page: background, text, and the colors black, red, green, yellow, blue, magenta, cyan, white."""

    page: str
    text: str
    ansi: str


# Every color that a screen uses has a contrast of at least 4.5 to 1 with its page (WCAG 2, level AA).
THEMES = {
    "light": Theme("ffffff", "1f2328", "1f2328 cf222e 1a7f37 946200 0969da 8250df 0d6b75 59636e"),
    "dark": Theme("0d1117", "e6edf3", "484f58 ff7b72 3fb950 d29922 58a6ff bc8cff 39c5cf b1bac4"),
}
DEFAULT_THEME = "light"
