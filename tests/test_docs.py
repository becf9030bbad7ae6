"""The pages show what their commands print and draw, and the page on JSON explains every key."""

import functools
import importlib.util
import json
import re
import shlex
from itertools import zip_longest

import pytest

from attncli.checkpoint.families.registry import FAMILIES
from attncli.checkpoint.load import load_model
from attncli.cli import loading
from attncli.generation.sampling import FILTERS, LOGIT_STEPS
from attncli.views import NAMED_VIEWS
from tests.support.commands import keys_of
from tests.support.places import ROOT
from tests.support.texts import story

NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e-?\d+)?|\.\d+")
FLOAT32_DIGITS = 7
COLOR = re.compile("#[0-9a-f]{6}")
TEXT = re.compile("<text[^>]*>([^<]*)</text>")
WITHOUT_OUTPUT = {"library", "limits", "page", "serving"}  # pages that show no output of a command
BARS = re.compile(r"[█▏▎▍▌▋▊▉▒░ ]+")


def script(name):
    """Imports a script of docs."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh, page_pictures = script("refresh"), script("page_pictures")

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    pytest.param(*command, id=f"{page.stem}-{at}")
    for page in PAGES
    for at, command in enumerate(refresh.commands(page.read_text(encoding="utf-8")))
]


def words(text):
    """Returns the words of a text with 0 for every number. Bars and blanks are removed: their lengths may differ."""
    return BARS.sub(" ", NUMBER.sub("0", text)).split()


def rounded_alike(ours, theirs):
    """Returns whether two figures differ by at most one in the last digit, in which processors differ.

    Figures with more digits than float32 has may differ by 1e-5 of their value.
    """
    one, other = (float(figure.replace(",", "")) for figure in (ours, theirs))
    if "e-" in ours and "e-" in theirs:  # rounding errors
        return max(one, other) < 1e-4
    digits = len(ours.partition(".")[2])
    if digits > FLOAT32_DIGITS:
        return one == pytest.approx(other, rel=1e-5)
    return abs(one - other) <= 1.01 * 10**-digits


def differing_figures(ours, theirs):
    """Returns the pairs of figures of two texts that differ by more than one in the last digit."""
    figures = zip_longest(NUMBER.findall(ours), NUMBER.findall(theirs), fillvalue="-1")
    return [pair for pair in figures if not rounded_alike(*pair)]


@functools.cache
def read_once(*arguments):
    return load_model(*arguments)


@pytest.fixture
def page_screen(monkeypatch):
    """Sets the working directory and the environment in which docs/refresh.py runs commands.

    Each model is read once for all commands that do not generate. None of them changes its weights.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loading, "load_model", read_once)
    for name, value in refresh.SCREEN.items():
        monkeypatch.setenv(name, value)


def test_every_page_has_a_command():
    assert PAGES
    assert all(refresh.commands(page.read_text(encoding="utf-8")) for page in PAGES if page.stem not in WITHOUT_OUTPUT)


@pytest.mark.parametrize(("arguments", "shown"), SHOWN)
@pytest.mark.usefixtures("page_screen")
def test_a_command_prints_what_the_page_shows(arguments, shown):
    printed = refresh.excerpt(refresh.printed(arguments), shown)
    assert words(printed) == words(shown)
    assert differing_figures(printed, shown) == []


def test_a_refreshed_excerpt_keeps_its_number_of_lines():
    page = "```console\n$ attncli a\nold\n…\n```\n\n```console\n$ attncli b\nold\n```\n"
    assert refresh.refreshed(page, lambda name: f"{name} 1\n{name} 2\n") == (
        "```console\n$ attncli a\na 1\n…\n```\n\n```console\n$ attncli b\nb 1\nb 2\n```\n"
    )


def first_cells(page, header):
    """Returns the words between backticks in the first cell of each row of the table with this header."""
    table = (ROOT / "docs" / page).read_text(encoding="utf-8").split(header)[1].split("\n\n")[0]
    return [re.findall(r"`([^` ]+)", line.split(" | ")[0]) for line in table.splitlines()[2:]]


def test_the_table_of_views_lists_every_view():
    assert first_cells("explaining.md", "| `--view` | shows |") == [[name] for name in NAMED_VIEWS]


def test_the_table_of_sampling_lists_every_step_in_order():
    steps = [step.name for step in LOGIT_STEPS] + ["temperature"] + [step.name for step in FILTERS]
    assert first_cells("generating.md", "| option | effect | off |") == [[f"--{name}"] for name in steps]


def test_the_page_on_checkpoints_names_every_family():
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").lower().replace("-", "")
    assert [name for name in FAMILIES if name not in text] == []


def test_the_python_in_the_readme_is_on_the_page_of_the_library():
    """`tests/test_library.py` runs the code on that page."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert [line for line in code.splitlines() if line not in page] == []


@pytest.mark.parametrize("name", refresh.PICTURES)
@pytest.mark.usefixtures("page_screen")
def test_a_picture_equals_the_output_of_its_command(name):
    """Colors and lengths are not compared: they follow from figures, whose last digits depend on the processor."""
    shown, written = (ROOT / name).read_text(encoding="utf-8"), refresh.picture(refresh.PICTURES[name])
    assert words(COLOR.sub("", written)) == words(COLOR.sub("", shown))
    said = [" ".join(TEXT.findall(picture)) for picture in (written, shown)]
    assert differing_figures(*said) == []


def test_the_readme_shows_each_picture_for_its_color_scheme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r'<source media="\(prefers-color-scheme: (\w+)\)" srcset="([^"]+)">', readme)
    assert sorted(name for _, name in shown) == sorted([*refresh.PICTURES, *page_pictures.PICTURES])
    assert all(name.rpartition("-")[2].startswith(scheme) for scheme, name in shown)
    light = [name for scheme, name in shown if scheme == "light"]
    assert re.findall(r'<img [^>]*src="([^"]+)"', readme) == light


SENTENCE = "The little dog sat by the river's bank"
PARTS = ("encoder", "decoder", "cross")
BRIEF = ["--steps", "1", "--size", "1x32", "--context", "16", "--batch-size", "2", "--tokenizer", "byte"]
DOCUMENTS = [
    *(["explain", SENTENCE, *more] for more in ([], ["--words"], ["--generate", "2"])),
    *(["explain", SENTENCE, "--view", view] for view in NAMED_VIEWS),
    ["heads", "--repeats", "1"],
    ["ablate", SENTENCE],
    ["circuit", "patch", SENTENCE, f"{SENTENCE[:-4]}boat", "--target", "#40", "--against", "#41"],
    ["circuit", "find", "Tom", "Tim", "--target", "#40", "--against", "#41", "--method", "eap", "--keep", "0.3"],
    ["circuit", "why", SENTENCE, "--head", "3.1"],
    ["circuit", "compose", "--no-check"],
    ["circuit", "tasks", "--task", "agreement", "--count", "1", "--keep", "0.3"],
    ["faithful", *[f"{SENTENCE} again"] * 8],
    ["compare", SENTENCE, "He put his money in the bank", "--token", "bank"],
    ["neighbors", "dog"],
    ["analogy", "dog", "cat", "boy", "--expect", "girl"],
    ["next", "Once"],
    ["generate", "Once", "-n", "2", "--stats", "--trace", "--logprobs", "2"],
    ["generate", "Once", "-n", "2", "--verify"],
    ["tokenize", "Once"],
    ["info"],
    ["models"],
    ["export", "--gguf", "{folder}/stories.gguf"],
    ["bench", "--time", "0.01"],
    ["eval", "{folder}/text.txt", "--last", "0.5"],
    ["train", "{folder}/text.txt", *BRIEF, "--plan"],
    ["train", "{folder}/text.txt", *BRIEF, "--out", "{folder}/run"],
    ["generate", "The dog sleeps.", "-m", "translate", "--beams", "2", "--num-samples", "2"],
    ["next", "The dog sleeps.", "-m", "translate", "--target", "Der"],
    ["explain", "The dog sleeps.", "-m", "translate"],
    *(["explain", "The dog sleeps.", "-m", "translate", "--view", "map", "--part", part] for part in PARTS),
    ["align", "docs/pairs.tsv", "-m", "translate"],
    ["eval", "translate", "docs/pairs.tsv"],
    ["plot", "stories"],
    ["plot", "stories", "--heads"],
]


def explained_keys(command):
    """Returns the keys that the page explains for a command: in its section, and before the first section."""
    general, *sections = (ROOT / "docs" / "json.md").read_text(encoding="utf-8").split("\n## attncli ")
    own = [section for section in sections if command in section.partition("\n")[0].split()]
    return set(re.findall(r"`([\w-]+)`", general + "".join(own)))


@pytest.mark.parametrize("arguments", DOCUMENTS, ids=lambda arguments: " ".join(arguments)[:40])
@pytest.mark.usefixtures("page_screen")
def test_every_key_of_a_document_is_explained(arguments, tmp_path):
    (tmp_path / "text.txt").write_text(story(400))
    command = shlex.join([*(word.format(folder=tmp_path) for word in arguments), "--json"])
    assert keys_of(json.loads(refresh.printed(command))) - explained_keys(arguments[0]) == set()
