"""The panel "What comes next" and the view of layers in a browser: their numbers are those of the library."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import attncli
from attncli.config import SampleConfig
from attncli.explain.page.document import page_document
from attncli.generation.sampling import filtered
from attncli.model.distribution import distribution
from attncli.pages import html_page
from attncli.render.escape import id_label
from attncli.render.page.assemble import page_file
from attncli.render.page.payload import payload
from attncli.views import ViewOptions, text_of
from tests.support.browser import needs_chromium
from tests.support.checkpoints import load
from tests.support.encoders import write_bert
from tests.support.page import numbers

pytestmark = needs_chromium

TEXT = "The small cat sat near the river. The small"
NEXT = ".next .behind"
OFF = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0}
FILTERS = [
    "temperature=0.7", "temperature=1.7", "top_k=3", "top_k=70", "top_p=0.5", "top_p=0.99", "min_p=0.1",
    "temperature=0",
    "temperature=1.5&top_k=40&top_p=0.8&min_p=0.02", "temperature=0.3&top_k=1", "top_p=0.01",
    "temperature=0.5&top_p=0.9",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(model_folder):
    return load(model_folder / "checkpoints/m")


@pytest.fixture(scope="module")
def logits(loaded):
    """The logits (T, V) of the text."""
    ids = torch.tensor([[piece.id for piece in loaded.pieces(TEXT)]])
    with torch.inference_mode():
        return loaded.model(ids)[0, :, : loaded.tokenizer.vocab_size]


def tabled(browser):
    """Returns the tokens of the table, their probabilities, and those after the filters; the last row is the others."""
    _, *rows = browser.table(NEXT)
    return [row[0] for row in rows], *numbers([row[1:] for row in rows]).T / 100


def stated_error(browser):
    """Returns the greatest error of a probability that the page states, and the rounding of the table."""
    facts = browser.texts('[data-fact="error"]')
    return 0.000_006 + (numbers(facts[0].split()[-3]) / 100 if facts else 0)


def test_the_distribution_is_that_of_the_model(browser, page, loaded, logits):
    browser.open(page(), "#row=6")
    labels, probabilities, _ = tabled(browser)
    expected = logits[6].softmax(-1)
    order = expected.argsort(descending=True)[: len(labels) - 1].tolist()
    assert labels[:-1] == [id_label(each, loaded.tokenizer.name(each)) for each in order]
    assert probabilities[:-1] == pytest.approx(expected[order].numpy(), abs=0.000_006)
    assert probabilities[-1] == pytest.approx(1 - expected[order].sum().item(), abs=0.000_006)
    actual, entropy = browser.texts('[data-fact="actual"]')[0], browser.texts('[data-fact="entropy"]')[0]
    assert numbers(actual.split()[-1].rstrip(".")) / 100 == pytest.approx(
        expected[loaded.pieces(TEXT)[7].id].item(), rel=0.05, abs=0.0001
    )
    assert numbers(entropy.split()[1]) == pytest.approx(-(expected * expected.log()).sum().item(), abs=0.006)


@pytest.mark.parametrize("settings", FILTERS)
def test_filters_keep_what_generation_keeps(browser, ties, settings):
    file, rows = ties
    browser.open(file, f"#row=0&{settings}")
    given = {name: float(value) for name, value in (each.split("=") for each in settings.split("&"))}
    config = SampleConfig(**{**OFF, **given, "top_k": int(given.get("top_k", 0))})
    error = stated_error(browser)
    labels, probabilities, drawn = tabled(browser)
    ids = [int(label.removeprefix("t")) for label in labels[:-1]]
    expected = distribution(rows[0], config.temperature or 1)  # the bars of temperature 0 are those of temperature 1
    assert probabilities[:-1] == pytest.approx(expected[ids].numpy(), abs=error)
    after = filtered(rows[:1], config)[0].softmax(-1)
    if "top_k" in given:  # which of several tokens with the k-th logit is kept is arbitrary
        assert sorted(drawn[:-1]) == pytest.approx(sorted(after[ids].tolist()), abs=2 * error)
    else:
        assert drawn[:-1] == pytest.approx(after[ids].numpy(), abs=2 * error)
        assert ((drawn[:-1] > 0) == (after[ids].numpy() > 0.000_005)).all()
    assert drawn[-1] == pytest.approx(1 - after[ids].sum().item(), abs=0.02 if drawn[-1] else 2 * error)


@pytest.fixture(scope="module")
def ties(loaded, tmp_path_factory):
    """Returns a page whose first row predicts tokens with logits in steps of 1/4, many equal, and its logits."""
    document = page_document(loaded, loaded.pieces(TEXT))
    found, size = document.predictions, loaded.tokenizer.vocab_size
    logits = (torch.randn(1, size, generator=torch.Generator().manual_seed(3)) * 10).round() / 4
    order = logits[0].sort(descending=True, stable=True).indices
    kept, rest = order[: found.ids.shape[1]], order[found.ids.shape[1] :]
    offsets = logits[0] - logits.max()
    ids, values, tail = found.ids.copy(), found.logits.copy(), np.zeros((len(found.ids), 400), np.int32)
    ids[0], values[0] = kept.int(), offsets[kept]
    np.add.at(tail[0], (offsets[rest] / -found.tail_width).int().numpy(), 1)
    share = found.probability_of_kept.copy()
    share[0] = logits[0].double().softmax(-1)[kept].sum()
    predictions = replace(found, ids=ids, logits=values, tail=tail, probability_of_kept=share)
    changed = replace(document, predictions=predictions, vocabulary={each: f"t{each}" for each in range(size)})
    file = tmp_path_factory.mktemp("ties") / "page.html"
    file.write_text(page_file(payload([changed]), "ties"))
    return file, logits


def test_what_the_filters_remove_is_shaded_and_stated(browser, page, logits):
    browser.open(page(), "#row=6&top_k=4")
    expected = logits[6].softmax(-1).sort(descending=True).values
    assert len(browser.all(".chance:not(.removed)")) == 4
    (fact,) = browser.texts('[data-fact="mass"]')
    assert numbers(fact.split()[3]) / 100 == pytest.approx(1 - expected[:4].sum().item(), abs=0.006)
    assert "4 tokens are left" in fact
    browser.click(".reset")
    assert not browser.all(".chance.removed")
    assert "top_k" not in browser.driver.current_url


def test_temperature_0_shows_what_it_takes_the_first_token_from(browser, page, logits):
    browser.open(page(), "#row=6&temperature=0&min_p=0.1")
    best = logits[6].softmax(-1).max().item()
    assert numbers(browser.texts(".chance .share")[0]) / 100 == pytest.approx(best, abs=0.006)
    assert browser.texts(".drawn-share")[:2] == ["100%", "removed"]
    assert "most probable token" in browser.find('[data-fact="greedy"]').text
    assert not browser.all('[data-fact="mass"]')


def test_reset_returns_to_the_start(browser, page):
    browser.open(page(temperature=0.5), "#top_k=4&temperature=1.2")
    browser.click(".reset")
    value = "return Number(document.querySelector(`input[type=range][data-setting=${arguments[0]}]`).value)"
    assert [browser.run(value, name) for name in ("temperature", "top_k")] == [0.5, 0]
    assert not browser.find(".reset").is_enabled()


def test_the_temperature_is_set_by_the_keyboard_and_by_typing(browser, page, logits):
    browser.open(page(), "#row=6")
    browser.run("document.querySelector('input[type=range][data-setting=temperature]').focus()")
    browser.press("ArrowLeft", "ArrowLeft")
    assert "temperature=0.9" in browser.driver.current_url
    browser.press("Tab", "Control+a", "1", ".", "5", "Tab")
    assert "temperature=1.5" in browser.driver.current_url
    _, probabilities, _ = tabled(browser)
    expected = distribution(logits[6], 1.5).max().item()
    assert probabilities[0] == pytest.approx(expected, abs=stated_error(browser))


def test_layers_equal_the_lens_of_explain(browser, page, model_folder):
    expected = attncli.load(model_folder / "checkpoints/m").explain(TEXT, view="lens", token=5)
    browser.open(page(), "#view=layers&row=5")
    _, *rows = browser.table(".view .behind")
    assert len(rows) == len(expected.rows)
    for shown, row in zip(rows, expected.rows, strict=True):
        assert numbers(shown[1]) / 100 == pytest.approx(row.probability, abs=0.000_001)
        assert int(shown[2]) == row.rank
        assert shown[3::2] == [id_label(each.id, each.text) for each in row.top[: len(shown[3::2])]]
        assert numbers(shown[4::2]) / 100 == pytest.approx([each.probability for each in row.top[:5]], abs=0.000_001)


def test_layers_fit_a_window_of_1280_pixels(browser, page):
    browser.open(page(), "#view=layers&row=5")
    table = "document.querySelector('.lens-scroll')"
    assert browser.run(f"return {table}.scrollWidth - {table}.clientWidth") == 0
    browser.click('[data-help="view.layers"]')
    assert "logit lens" in browser.find(".layers .help").text


def test_bert_shows_the_candidates_for_a_masked_word(browser, tmp_path):
    (tmp_path / "bert").mkdir()
    write_bert(tmp_path / "bert")
    loaded, options = load(tmp_path / "bert"), ViewOptions()
    (tmp_path / "page.html").write_text(html_page(loaded, text_of(loaded, "the [MASK] sat", options), None, options))
    expected = attncli.load(tmp_path / "bert").explain("the [MASK] sat", view="lens").rows[-1].top[:5]
    browser.open(tmp_path / "page.html")
    assert browser.texts(".next h2") == ["Candidates for ␣[MASK] [2]"]
    labels, probabilities, _ = tabled(browser)
    assert labels[:5] == [id_label(each.id, each.text) for each in expected]
    assert probabilities[:5] == pytest.approx([each.probability for each in expected], abs=0.000_006)
    assert not browser.all('[data-fact="actual"]')
