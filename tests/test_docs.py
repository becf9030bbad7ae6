"""What the pages of docs show is what the commands print."""

import importlib.util
import re
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e-?\d+)?|\.\d+")
BARS = re.compile(r"[█▏▎▍▌▋▊▉▒░ ]+")

_spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
refresh = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(refresh)

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    pytest.param(*command, id=f"{page.stem}-{at}")
    for page in PAGES
    for at, command in enumerate(refresh.commands(page.read_text(encoding="utf-8")))
]


def words(text):
    """What is said beside numbers, without bars and blanks, which follow from the numbers."""
    return BARS.sub(" ", NUMBER.sub("0", text)).split()


def rounded_alike(ours, theirs):
    """Whether two figures are equal but for the last digit shown; processors differ there."""
    one, other = (float(figure.replace(",", "")) for figure in (ours, theirs))
    if "e-" in ours and "e-" in theirs:  # what rounding leaves
        return max(one, other) < 1e-4
    digits = len(ours.partition(".")[2])
    return abs(one - other) <= 1.01 * 10**-digits


def test_there_is_a_command_on_every_page():
    assert PAGES
    assert all(refresh.commands(page.read_text(encoding="utf-8")) for page in PAGES)


@pytest.mark.parametrize(("arguments", "shown"), SHOWN)
def test_a_command_prints_what_the_page_shows(arguments, shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, value in refresh.SCREEN.items():
        monkeypatch.setenv(name, value)
    printed = refresh.printed(arguments)
    assert words(printed) == words(shown)
    figures = zip_longest(NUMBER.findall(printed), NUMBER.findall(shown), fillvalue="-1")
    assert [pair for pair in figures if not rounded_alike(*pair)] == []
