"""The page of two texts: `attncli compare --page`."""

import pytest

from attncli.explain.compare import compare, find_words
from attncli.pages import html_comparison
from tests.support.browser import needs_chromium
from tests.support.checkpoints import load
from tests.support.commands import ask

pytestmark = needs_chromium
TEXTS = "The small cat sat near the river", "A big cat slept"


@pytest.fixture(scope="module")
def compared(model_folder, tmp_path_factory):
    """Returns the page of two texts, and the comparison that it shows."""
    loaded = load(model_folder / "checkpoints/m")
    pieces = [loaded.pieces(text) for text in TEXTS]
    finding = compare(loaded.model, pieces, find_words(pieces, ["cat"]))
    file = tmp_path_factory.mktemp("comparison") / "c.html"
    file.write_text(html_comparison(loaded, pieces, finding))
    return file, finding


def test_both_texts_start_at_the_word_and_show_the_same_head(browser, compared):
    file, finding = compared
    browser.open(file)
    locked = browser.texts('.token[aria-pressed="true"]')
    assert len(locked) == 2
    assert all(
        finding.words[at].pieces[finding.words[at].at].text in text.replace("␣", " ") for at, text in enumerate(locked)
    )
    assert (browser.requests(), browser.messages()) == ([], [])


def test_cosines_and_pulls_equal_those_of_the_comparison(browser, compared):
    file, finding = compared
    browser.open(file)
    _, *rows = browser.table(".comparison .behind")
    assert [float(row[1]) for row in rows] == pytest.approx(finding.cosines.tolist(), abs=0.00005)
    figures = [float(each.replace("−", "-")) for each in browser.texts(".comparison > div:last-child .figure")]
    assert sum(figures) == pytest.approx(finding.distance, abs=0.005 * len(figures))


def test_a_locked_row_belongs_to_one_text(browser, compared):
    browser.open(compared[0])
    browser.click('.text:nth-child(2) .token[data-start="1"]')
    assert "row2=1" in browser.driver.current_url
    assert len(browser.texts('.token[aria-pressed="true"]')) == 2


def test_an_edge_belongs_to_one_text(browser, compared):
    browser.open(compared[0], "#row=5&row2=2")
    browser.click('.text:nth-child(2) .columns [data-start="1"]')
    assert "column2=1" in browser.driver.current_url
    assert not browser.all(".text:nth-child(1) .columns [aria-pressed=true]")
    assert browser.texts(".text:nth-child(2) .columns [aria-pressed=true] .label")


def test_compare_writes_the_page(in_model_folder, capsys):
    code, _, err = ask(capsys, "compare", *TEXTS, "--token", "cat", "-m", "m", "--page", "c.html")
    assert (code, "written: c.html" in err) == (0, True)
    assert (in_model_folder / "c.html").read_text().startswith("<!DOCTYPE html>")
