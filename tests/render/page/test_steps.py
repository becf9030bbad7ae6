"""The view of steps in a browser: its numbers equal those of `attncli explain --view steps`."""

import re

import numpy as np
import pytest

import attncli
from attncli.explain.page import document
from attncli.pages import html_page
from attncli.views import ViewOptions, text_of
from tests.support.browser import needs_chromium
from tests.support.checkpoints import load
from tests.support.page import numbers, stated

pytestmark = needs_chromium

TEXT = "The small cat sat near the river. The small"
SOURCES = (
    "return [...document.querySelectorAll('button.source')].map((each) => [...each.children].map((c) => c.textContent))"
)


@pytest.fixture(scope="module")
def model(model_folder):
    return attncli.load(model_folder / "checkpoints/m")


def names(browser):
    """Returns the names of the steps that are unfolded."""
    return [each.get_attribute("data-step") for each in browser.all(".step")]


def errors(browser):
    """Returns the rounding errors that the page states: of query, key, value and scores."""
    (note,) = [text for text in browser.texts(".steps .note") if "Rounded" in text]
    return stated(note)


def test_vectors_equal_those_of_explain_within_the_stated_rounding(browser, page, model):
    expected = model.explain(TEXT, view="steps", token=6, head="1.2")
    browser.open(page(), "#view=steps&step=9&row=6&column=3&heads=1.2")
    rows = numbers([cells[1:] for cells in browser.table(".behind")[1:]])
    query, key, product, value, weighted, mixed = rows.T
    assert all(0 < error < 0.01 for error in errors(browser))
    of_query, of_key, of_value, _ = (error + 0.00011 for error in errors(browser))  # the table has four decimals
    assert query == pytest.approx(expected.query, abs=of_query)
    assert key == pytest.approx(expected.keys[3], abs=of_key)
    assert value == pytest.approx(expected.values[3], abs=of_value)
    assert product == pytest.approx(query * key, abs=0.01)
    assert weighted == pytest.approx(expected.weights[3] * expected.values[3], abs=of_value)
    assert mixed == pytest.approx(expected.mixed, abs=0.002)


def test_scores_weights_and_lengths_equal_those_of_explain(browser, page, model):
    expected = model.explain(TEXT, view="steps", token=6, head="1.2")
    browser.open(page(), "#view=steps&step=9&row=6&column=3&heads=1.2")
    weight, share = (numbers(found) / 100 for found in re.findall(r"[\d.]+(?=%)", browser.find(".pair-shares").text))
    assert weight == pytest.approx(expected.weights[3], abs=0.0051)
    shares = model.explain(TEXT, token=6, head="1.2").sources.shares
    assert share == pytest.approx(shares[3], abs=0.0051)
    shown = browser.run(SOURCES)
    assert [cells[1] for cells in shown[7:]] == ["−∞"] * len(shown[7:])
    assert numbers([cells[1] for cells in shown[:7]]) == pytest.approx(expected.scores[:7], abs=0.006)
    assert numbers([cells[3] for cells in shown[:7]]) / 100 == pytest.approx(expected.weights[:7], abs=0.0051)
    product, scaled, masked, written = (numbers(text.split()[-1]) for text in browser.texts(".result"))
    assert product == pytest.approx(expected.products[3], abs=0.01)
    assert (scaled, masked) == (pytest.approx(expected.scores[3], abs=0.006), scaled)
    assert written == pytest.approx(np.linalg.norm(expected.written), abs=0.0006)


def test_a_later_token_is_masked(browser, page, model):
    expected = model.explain(TEXT, view="steps", token=2, head="1.2")
    browser.open(page(), "#view=steps&step=9&row=2&column=3&heads=1.2")
    assert "comes later" in browser.find('[data-step="mask"]').text
    before, after = browser.texts('[data-step="mask"] .result')[0].split(" → ")
    assert numbers(before) == pytest.approx(expected.scores[3], abs=0.01)
    assert (after, expected.weights[3]) == ("−∞", 0)
    assert browser.run(SOURCES)[3][3] == "0%"


def test_steps_unfold_by_buttons_and_by_keys(browser, page):
    browser.open(page(), "#view=steps&heads=1.2")
    assert names(browser) == ["query"]
    browser.click('[data-key="next"]')
    browser.press("ArrowRight")
    assert names(browser) == ["query", "key", "product"]
    assert browser.find('[role="status"].sr-only').get_attribute("textContent") == "3. Query · key"
    browser.press("End")
    assert len(names(browser)) == 9
    assert browser.run("return document.activeElement.dataset.key") == "back"  # "next" is disabled now
    browser.press("Enter")
    assert len(names(browser)) == 8
    assert "step=8" in browser.driver.current_url


def test_the_keyboard_reads_every_number_and_chooses_a_source(browser, page, model):
    expected = model.explain(TEXT, view="steps", token=6, head="1.2")
    browser.open(page(), "#view=steps&step=9&row=6&column=3&heads=1.2")
    browser.run("document.querySelector('[data-key=\"source\"]').focus()")
    browser.press("Tab", "ArrowRight", "ArrowRight")
    query = browser.run("return document.activeElement.getAttribute('aria-valuetext')")
    assert query.startswith("number 3: ")
    assert numbers(query.split()[-1]) == pytest.approx(expected.query[2], abs=0.006)
    assert browser.texts(".readout")[1].startswith("number 3: ")  # the key below shows the number at the same place
    browser.run("document.querySelector('button.source[aria-pressed=true]').focus()")
    browser.press("ArrowUp", "Enter")
    assert "column=2" in browser.driver.current_url
    assert browser.run("return document.activeElement.dataset.key") == "source2"


def test_heads_and_rows_that_are_not_stored_offer_the_nearest(browser, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "VECTOR_NUMBERS", 3000)
    loaded, file = load(model_folder / "checkpoints/m"), tmp_path / "long.html"
    text = text_of(loaded, "the cat sat. " * 8, ViewOptions())
    file.write_text(html_page(loaded, text, "0", ViewOptions()))
    browser.open(file, "#view=steps&step=9&heads=all&row=3")
    assert len(browser.all(".offers button")) in (1, 2, 3, 4)
    browser.click(".offers button")
    assert len(browser.all(".step")) == 9
    last = browser.run("return document.querySelectorAll('.strip button').length") - 1
    browser.click(f'.strip [data-start="{last}"]')
    assert "not for" in browser.find(".steps").text
    browser.click(".offers button")
    assert len(browser.all(".step")) == 9


def test_steps_of_words_say_which_tokens_they_show(browser, page, model_folder):
    loaded = load(model_folder / "checkpoints/m")
    words = document.page_document(loaded, loaded.pieces(TEXT)).attentions[0].words.rows
    long = next(word for word in words if len(word) > 1)
    address = f"#view=steps&heads=1.2&row={words[-1][-1]}&column={long[-1]}"
    browser.open(page(), f"{address}&words=true")
    assert f"[{words[-1][-1]}]" in browser.find(".words-note").text
    assert f"[{long[-1]}]" in browser.find(".words-note").text
    assert "no picture to save" in browser.texts(".main > div > .note")[-1]
    browser.click('[name="words"]')
    assert not browser.all(".words-note")
