"""What the pages of docs show is what the commands print."""

import importlib.util
import json
import re
import shlex
from itertools import zip_longest

import pytest

from tests.support.commands import keys_of
from tests.support.places import ROOT

NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e-?\d+)?|\.\d+")
FLOAT32_DIGITS = 7
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
    """Whether two figures are equal but for the last digit shown; processors differ there.

    Where more digits are shown than float32 has, to a hundred thousandth of the figure.
    """
    one, other = (float(figure.replace(",", "")) for figure in (ours, theirs))
    if "e-" in ours and "e-" in theirs:  # what rounding leaves
        return max(one, other) < 1e-4
    digits = len(ours.partition(".")[2])
    if digits > FLOAT32_DIGITS:
        return one == pytest.approx(other, rel=1e-5)
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


SENTENCE = "The little dog sat by the river's bank"
DOCUMENTS = [
    *(["explain", SENTENCE, *more] for more in ([], ["--words"], ["--generate", "2"])),
    *(["explain", SENTENCE, "--view", view] for view in ("map", "grid", "steps", "lens", "logit", "rollout")),
    ["heads", "--repeats", "1"],
    ["ablate", SENTENCE],
    ["faithful", f"{SENTENCE} and looked at the water"],
    ["compare", SENTENCE, "He put his money in the bank", "--token", "bank"],
    ["neighbors", "dog"],
    ["analogy", "dog", "cat", "boy"],
    ["generate", "Once", "-n", "2"],
    ["generate", "Once", "-n", "2", "--verify"],
    ["tokenize", "Once"],
    ["info"],
    ["bench", "--time", "0.01"],
]


@pytest.mark.parametrize("arguments", DOCUMENTS, ids=lambda arguments: " ".join(arguments)[:40])
def test_every_key_of_a_document_is_explained(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, value in refresh.SCREEN.items():
        monkeypatch.setenv(name, value)
    found = keys_of(json.loads(refresh.printed(shlex.join([*arguments, "--json"]))))
    names = {"raw", "norm", "rollout", "random", "float32", "bfloat16", "weights", "cache_per_token"}  # said otherwise
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "json.md").read_text(encoding="utf-8")))
    assert found - names - explained == set()
