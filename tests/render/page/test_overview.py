"""The overview of all heads in a browser: thumbnails, the kinds of heads, their order."""

import numpy as np
import pytest

from attncli.explain.model_heads import scores_by_part
from attncli.explain.page import document
from attncli.render.page.assemble import page_file
from attncli.render.page.payload import payload
from tests.support.browser import needs_chromium
from tests.support.checkpoints import load

pytestmark = needs_chromium

TEXT = "The small cat sat near the river. The small"
LAST_COLOR = [253, 231, 37]
_DRAWN = """
const done = arguments[0];
const wait = () => {
  if (document.querySelector(".overview").ariaBusy === "false") done(null);
  else requestAnimationFrame(wait);
};
wait();
"""
# The colors of the pixels of a thumbnail, and whether its pixels above the diagonal are transparent.
_PIXELS = """
const canvas = document.querySelector(`[data-head="${arguments[0]}"] canvas`);
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
const pixels = [...Array(canvas.width * canvas.height).keys()].map((at) => [...data.slice(4 * at, 4 * at + 4)]);
return [canvas.width, canvas.height, pixels];
"""


@pytest.fixture(scope="module")
def scores(model_folder):
    return scores_by_part(load(model_folder / "checkpoints/m"))["decoder"]


def opened(browser, file, address):
    browser.open(file, address)
    browser.driver.execute_async_script(_DRAWN)


def heads(browser):
    return browser.run("return [...document.querySelectorAll('.thumb')].map((each) => each.dataset.head)")


def pixels(browser, head):
    width, height, flat = browser.run(_PIXELS, head)
    return np.array(flat).reshape(height, width, 4)


def test_every_head_has_a_thumbnail_of_its_weights(browser, page, model_folder):
    import attncli

    opened(browser, page(TEXT), "#view=heads&measure=raw")
    assert heads(browser) == [f"{layer}.{head}" for layer in range(3) for head in range(4)]
    colors = pixels(browser, "1.2")
    opaque = colors[..., 3] == 255
    assert (opaque == np.tri(*opaque.shape, dtype=bool)).all()  # masked cells are transparent
    model = attncli.load(model_folder / "checkpoints/m")
    rows = [model.explain(TEXT, token=row, head="1.2", weights="raw").sources.shares for row in range(len(opaque))]
    largest = np.unravel_index(np.argmax(np.array(rows)), opaque.shape)
    assert colors[largest].tolist() == [*LAST_COLOR, 255]
    assert ((colors[..., :3] == LAST_COLOR).all(-1)).sum() == 1


def test_a_hidden_first_token_is_left_out_of_thumbnails(browser, page):
    opened(browser, page(TEXT), "#view=heads&measure=raw&idle=false")
    colors = pixels(browser, "1.2")
    assert (colors[:, 0, 3] == 0).all()
    assert (colors[..., :3] == LAST_COLOR).all(-1).any()


def test_a_pixel_of_a_long_text_is_hidden_with_its_first_token(browser, model_folder, tmp_path, monkeypatch):
    loaded = load(model_folder / "checkpoints/m")
    monkeypatch.setattr(document, "MOST_CELLS", 1)
    found = document.page_document(loaded, loaded.pieces(TEXT * 4))
    pool = found.attentions[0].thumbnails.pool
    assert pool > 1
    (tmp_path / "long.html").write_text(page_file(payload([found]), "long"))
    opened(browser, tmp_path / "long.html", "#view=heads&idle=false")
    assert "as a whole" in browser.texts(".overview-scroll + .note")[0]
    opaque = pixels(browser, "1.2")[..., 3] == 255
    assert (opaque.any(0) == (np.arange(opaque.shape[1]) > 0)).all()
    weights = found.attentions[0].thumbnails.weights[1, 2][:, 1:]
    most = np.unravel_index(np.argmax(weights), weights.shape)
    assert pixels(browser, "1.2")[most[0], most[1] + 1, :3].tolist() == LAST_COLOR


def test_one_scale_for_all_heads_has_the_last_color_once(browser, page):
    opened(browser, page(TEXT), "#view=heads&measure=raw&idle=false&common=true")
    last = {name: int((pixels(browser, name)[..., :3] == LAST_COLOR).all(-1).sum()) for name in heads(browser)}
    assert 1 <= sum(last.values()) <= 3


def test_the_table_has_the_scores_of_the_library(browser, page, scores):
    opened(browser, page(TEXT), "#view=heads")
    names, *rows = browser.table(".behind")
    assert names[1::2] == [*scores.kinds, "stands out as"]
    for name, *cells, _ in rows:
        layer, head = map(int, name.split("."))
        shown = [float(cell.rstrip("%")) / 100 for cell in cells]
        assert shown[::2] == pytest.approx(scores.scores[:, layer, head].tolist(), abs=0.00051)
        assert shown[1::2] == pytest.approx(scores.chances[:, layer].tolist(), abs=0.00051)


def test_heads_are_labelled_with_the_kind_at_which_they_stand_out(browser, page, scores):
    opened(browser, page(TEXT), "#view=heads")
    for name in heads(browser):
        layer, head = map(int, name.split("."))
        margins = {kind: scores.margin(kind, layer, head) for kind in scores.kinds}
        best = max(margins, key=margins.get)
        (label,) = browser.texts(f'[data-head="{name}"] .thumb-kind')
        assert label == (f"{best} {scores.score(best, layer, head):.0%}" if margins[best] > 0.05 else "")
    found = scores.worth_a_look()
    (sentence,) = browser.texts(".overview-first")
    assert ("head {}.{}".format(*found[1:]) if found else "No head stands out") in sentence


def test_heads_are_sorted_by_their_score_for_a_kind(browser, page, scores):
    opened(browser, page(TEXT), "#view=heads")
    browser.choose("sort", "induction")
    assert heads(browser) == [f"{layer}.{head}" for layer, head in scores.ranked("induction")]
    _, *rows = browser.table(".behind")
    assert [name for name, *_ in rows] == heads(browser)


def test_heads_are_sorted_by_their_share_of_the_chosen_edge(browser, page, model_folder):
    import attncli

    opened(browser, page(TEXT), "#view=heads&measure=raw&row=6&column=3")
    browser.choose("sort", "edge")
    model = attncli.load(model_folder / "checkpoints/m")
    head, *rows = browser.table(".behind")
    assert head[1].startswith("attention weight, ") and "[6] → " in head[1]
    shares = [float(cells[1].rstrip("%")) / 100 for cells in rows]
    assert shares == sorted(shares, reverse=True)
    assert [cells[0] for cells in rows] == heads(browser)
    for (name, *_), share, shown in zip(rows, shares, browser.texts(".thumb-share"), strict=True):
        expected = model.explain(TEXT, token=6, head=name, weights="raw").sources.shares[3]
        assert share == pytest.approx(expected, abs=0.00006)
        assert float(shown.rstrip("%").lstrip("<")) / 100 == pytest.approx(expected, abs=0.0051)


def test_the_chosen_row_and_the_chosen_cell_are_framed(browser, page):
    opened(browser, page(TEXT), "#view=heads&row=6")
    grid = "document.querySelector('.overview')"
    count = len(browser.texts(".strip .token"))
    high = browser.run("return document.querySelector('.thumb canvas').getBoundingClientRect().height") / count
    places = f"return ['--top', '--left'].map((name) => parseFloat({grid}.style.getPropertyValue(name)))"
    assert browser.run(places) == pytest.approx([6 * high, 0], abs=0.01)
    assert not browser.all(".with-edge")
    opened(browser, page(TEXT), "#view=heads&row=6&column=3")
    assert browser.run(places) == pytest.approx([6 * high, 3 * high], abs=0.01)
    assert browser.all(".with-edge")


def test_the_keyboard_chooses_several_heads_and_enlarges_one(browser, page):
    opened(browser, page(TEXT), "#view=heads&heads=0.1")
    browser.run("document.querySelector('.thumb[tabindex=\"0\"]').focus()")
    assert browser.run("return document.activeElement.dataset.head") == "0.1"
    browser.press("ArrowDown", "Shift+Enter")
    assert browser.run("return location.hash") == "#view=heads&heads=0.1%2C1.1"
    chosen = browser.run(
        "return [...document.querySelectorAll('.thumb[aria-pressed=true]')].map((e) => e.dataset.head)"
    )
    assert chosen == ["0.1", "1.1"]
    assert browser.run("return document.activeElement.dataset.head") == "1.1"
    browser.press("ArrowRight", "Enter")
    assert browser.run("return location.hash") == "#view=map&heads=1.2"
    assert browser.run("return document.activeElement.dataset.view") == "map"


def test_the_overview_fits_a_narrow_window(browser, page):
    browser.resize(390, 800)
    opened(browser, page(TEXT), "#view=heads")
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    assert (browser.requests(), browser.messages()) == ([], [])
