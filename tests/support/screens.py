"""A console of a given width whose output is a string, and checks of the output."""

import io
import unicodedata

from rich.cells import cell_len
from rich.console import Console

from tests.support.texts import INVISIBLE


def screen(width, colors=None):
    """Returns a console of a given width whose output is a string, configured like the console for results."""
    return Console(
        width=width, file=io.StringIO(), force_terminal=colors is not None, color_system=colors, legacy_windows=False,
        markup=False, highlight=False, emoji=False,
    )  # fmt: skip


def shown(drawn, width):
    console = screen(width)
    console.print(drawn)
    return console.file.getvalue()


def widest(text):
    return max(map(cell_len, text.split("\n")))


def harmless(drawn):
    return not [char for char in drawn if char != "\n" and unicodedata.category(char) in INVISIBLE]
