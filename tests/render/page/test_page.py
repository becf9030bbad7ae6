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


def test_rollout_is_one_column_whatever_heads_are_selected(browser, page):
    browser.open(page(), "#measure=rollout&heads=0.1,1.2&row=4")
    head, *_ = browser.table(".behind")
    assert head[1:] == ["rollout"]
    colors = browser.run(
        "return [...document.querySelectorAll('.strong path')].map((path) => path.getAttribute('stroke'))"
    )
    assert set(colors) == {"var(--accent)"}


def test_the_focus_of_the_keyboard_isolates_a_row(browser, page):
    browser.open(page(), "#row=8&heads=1.2")
    before = browser.texts(".columns .share")
    browser.run("document.querySelector('.tokens [aria-pressed=true]').focus()")
    browser.press("Home", "ArrowRight")
    assert sum(text != "" for text in browser.texts(".columns .share")) == 2
    browser.press("Tab")
    assert browser.texts(".columns .share") == before


@pytest.mark.parametrize(
    "address",
    ["measure=attention", "column=2.5&cut=edge", "row=-3", "row=1e9", "heads=9.9,L77,x", "heads=", "view=x", "words=x"],
)
def test_invalid_values_of_an_address_are_ignored(browser, page, address):
    browser.open(page(), f"#{address}")
    assert browser.texts(".columns .share")
    assert browser.messages() == []


def test_a_link_to_another_view_of_the_same_page_is_followed(browser, page):
    browser.open(page(), "#row=3")
    browser.run("document.body.dataset.old = true; location.hash = '#row=5&view=map'")
    from selenium.webdriver.support.ui import WebDriverWait

    script = "return document.body.dataset.ready && !document.body.dataset.old"
    WebDriverWait(browser.driver, 30).until(lambda driver: driver.execute_script(script))
    assert browser.texts(".tokens [aria-pressed=true]") == browser.texts(".tokens .token:nth-child(6)")
    assert browser.find('[data-view="map"]').get_attribute("aria-pressed") == "true"


def test_a_slider_changes_the_address_a_limited_number_of_times(browser, page):
    """Safari refuses more than 100 changes in 30 seconds, and Chromium ignores them."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.open(page())
    browser.run(
        "const real = history.replaceState; window.writes = 0;"
        "history.replaceState = (...all) => { window.writes += 1; real.apply(history, all); };"
    )
    browser.driver.execute_async_script("""
    const [done] = arguments, slider = document.querySelector("input[type=range]");
    let at = 0;
    const drag = () => {
      if (at === 120) return done();
      slider.value = 0.1 + 0.05 * (at++ % 30);
      slider.dispatchEvent(new Event("input"));
      requestAnimationFrame(drag);
    };
    drag();
    """)
    browser.run(
        "arguments[0].value = 1.7; arguments[0].dispatchEvent(new Event('input'))", browser.find("input[type=range]")
    )
    WebDriverWait(browser.driver, 30).until(lambda driver: driver.current_url.endswith("temperature=1.7"))
    seconds = browser.run("return performance.now() / 1000")
    assert browser.run("return window.writes") <= 21 + seconds / 0.4


TINTS = """
const tokens = [...document.querySelectorAll(arguments[0])];
return tokens.map((token) => Number(token.firstChild.style.getPropertyValue("--share")));
"""


def test_surprise_belongs_to_the_predicted_tokens_of_a_translation(browser, translated):
    """A row of the decoder is named by the token that it predicts; the source text is not predicted."""
    *_, file = translated
    tints = {}
    for part in ("decoder", "cross"):
        browser.open(file, f"#part={part}&tint=surprise")
        tints[part] = browser.run(TINTS, ".token[data-kind=row]")
        assert any(tints[part])
        assert set(browser.run(TINTS, ".token[data-kind=column]")) == {0}
    assert tints["decoder"] == tints["cross"]
    browser.open(file, "#part=encoder&tint=surprise")
    assert set(browser.run(TINTS, ".token")) == {0}


def test_the_shares_of_lines_fit_a_narrow_window(browser, page):
    browser.resize(390, 844)
    browser.open(page(), "#row=8&heads=1.2")
    edges = browser.run(
        "return ['.lines', '.columns .share'].map((one) => document.querySelector(one).getBoundingClientRect().right)"
    )
    assert edges[1] <= edges[0] <= 390


@pytest.mark.parametrize("language", ["en", "de"])
def test_lines_of_four_heads_fit_wide_and_narrow_windows(browser, page, language):
    file = page()
    for width in (1280, 390):
        browser.resize(width)
        browser.open(file, f"#heads=0.0,0.1,1.0,1.1&language={language}")
        lines = "document.querySelector('.lines')"
        assert browser.run(f"return {lines}.scrollWidth - {lines}.clientWidth") == 0, width
    browser.resize()
