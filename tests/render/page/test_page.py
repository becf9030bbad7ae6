"""The page in a browser: what is on the screen equals what the library computes."""

import pytest

from tests.support.browser import needs_chromium

pytestmark = needs_chromium


def test_the_page_opens_without_a_request_or_a_message(browser, page):
    browser.open(page())
    assert browser.texts("h1") == ["m"]
    assert (browser.requests(), browser.messages()) == ([], [])


@pytest.mark.parametrize("measure", ["raw", "norm"])
def test_shares_of_a_head_equal_those_of_explain(browser, page, model_folder, measure):
    import attncli

    found = attncli.load(model_folder / "checkpoints/m").explain(
        "The small cat sat near the river. The small", token=4, head="1.2", weights=measure
    )
    browser.open(page(), f"#row=4&heads=1.2&measure={measure}")
    _, *rows = browser.table(".behind")
    assert len(rows) == found.sources.reach
    shown = [float(cells[1].rstrip("%")) / 100 for cells in rows]
    assert shown == pytest.approx(found.sources.shares[: len(rows)].tolist(), abs=0.000_013)


def test_a_click_on_a_line_chooses_its_edge(browser, page):
    browser.open(page(), "#row=4&heads=1.2")
    rows = browser.table(".behind")[1:]
    strongest = max(range(len(rows)), key=lambda at: float(rows[at][1].rstrip("%")))
    script = """
    const picture = document.querySelector(".lines-picture");
    const {left, top, width} = picture.getBoundingClientRect();
    const [kind, share, row] = arguments;
    const height = picture.getBoundingClientRect().height / document.querySelectorAll(".columns .line-token").length;
    const place = {clientX: left + share * width, clientY: top + (row + 0.5) * height, bubbles: true};
    picture.dispatchEvent(new PointerEvent(kind, place));
    """
    browser.run(script, "pointermove", 0.99, strongest)
    browser.settle()
    (title,) = browser.texts(".lines-picture title")
    assert title.startswith(f"{browser.texts('.rows .line-token')[4][1:]} → {rows[strongest][0].split(' [')[0]}: ")
    browser.run(script, "click", 0.99, strongest)
    browser.settle()
    assert f"column={strongest}" in browser.driver.current_url
    assert browser.texts('.columns [aria-pressed="true"] .label') == [rows[strongest][0].split(" [")[0]]


def test_a_row_is_isolated_while_the_pointer_is_on_its_token(browser, page):
    browser.open(page(), "#row=8&heads=1.2")
    before = browser.texts(".columns .share")
    browser.hover('.rows [data-start="4"]')
    assert browser.run("return document.querySelector('.lines-picture').classList.contains('isolated')")
    hovered = browser.texts(".columns .share")
    assert hovered != before
    assert sum(text != "" for text in hovered) == 5  # later tokens are masked
    browser.hover("h1")
    assert browser.texts(".columns .share") == before
    browser.click('.rows [data-start="4"]')
    browser.hover("h1")
    assert browser.texts(".columns .share") == hovered
    assert "row=4" in browser.driver.current_url


def test_words_group_the_tokens_of_a_word(browser, page, model_folder):
    import attncli

    text = "The small cat sat near the river. The small"
    found = attncli.load(model_folder / "checkpoints/m").explain(text, token=4, head="1.2", words=True, weights="raw")
    browser.open(page(), "#heads=1.2&measure=raw&words=true")
    browser.click(f".rows .line-token:nth-child({found.sources.focus + 1})")
    _, *rows = browser.table(".behind")
    shown = [float(cells[1].rstrip("%")) / 100 for cells in rows]
    assert len(browser.texts(".columns .line-token")) == len(found.axes.columns)
    assert shown == pytest.approx(found.sources.shares[: len(rows)].tolist(), abs=0.000_08)


def test_several_heads_have_colors_of_their_own(browser, page):
    browser.open(page(), "#heads=0.1,2.3,L1,all")
    head, *_ = browser.table(".behind")
    assert head[1:] == ["head 0.1", "head 2.3", "layer 1", "all heads"]
    colors = browser.run(
        "return [...document.querySelectorAll('.strong path')].map((path) => path.getAttribute('stroke'))"
    )
    assert set(colors) == {f"var(--head-{at})" for at in range(4)}
