"""Everything on the page works with the keyboard alone."""

import pytest

from tests.support.browser import needs_chromium

pytestmark = needs_chromium
FOCUSED = """
const at = document.activeElement;
if (!at || at === document.body) return null;
const group = at.closest(".tokens, .tabs");
return [at.tagName, at.name || at.dataset.setting || "", group ? group.className : ""];
"""
CONTROLS = """
const shown = [...document.querySelectorAll("select, input")].filter((control) => control.offsetParent);
return shown.map((control) => control.name || control.dataset.setting || "");
"""
VIEWS = ("lines", "map", "heads", "steps", "layers")


def stops(browser, most=80):
    """Presses Tab until the focus leaves the page, and returns the elements that got the focus."""
    found = []
    browser.run("document.activeElement.blur()")
    for _ in range(most):
        browser.press("Tab")
        at = browser.run(FOCUSED)
        if at is None:
            break
        found.append(tuple(at))
    return found


def focus(browser, selector):
    """Presses Tab until an element that matches has the focus."""
    for _ in range(80):
        if browser.run("return document.activeElement.matches(arguments[0])", selector):
            return
        browser.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")


@pytest.mark.parametrize("view", VIEWS)
def test_tab_reaches_every_control_and_leaves_the_page(browser, page, view):
    browser.open(page(), f"#view={view}")
    found = stops(browser)
    assert 0 < len(found) < 80
    names = {name for _, name, _ in found}
    assert set(browser.run(CONTROLS)) - names == set()
    groups = [group for _, _, group in found]
    assert sum("tokens" in group for group in groups) == 1  # a group of tokens is one stop
    assert sum("tabs" in group for group in groups) == 1


def test_arrow_keys_choose_a_token_a_view_and_a_head(browser, page):
    browser.open(page(), "#row=8&heads=1.2")
    focus(browser, ".tokens button")
    browser.press("Home", "ArrowRight", "ArrowRight", "Enter")
    assert "row=2" in browser.driver.current_url
    focus(browser, ".tabs button")
    browser.press("ArrowRight", "Enter")
    assert "view=map" in browser.driver.current_url
    focus(browser, "summary")
    browser.press("Enter")
    focus(browser, ".chooser button")
    browser.press("Home", "Enter")
    assert "heads=all" in browser.driver.current_url
    browser.press("ArrowRight", "Shift+Enter")
    assert "heads=all%2CL0" in browser.driver.current_url


def test_keys_choose_the_edge_of_a_line(browser, page):
    browser.open(page(), "#row=5&heads=1.2")
    focus(browser, ".lines-side.columns button")
    browser.press("Home", "ArrowDown", "Enter")
    assert "column=1" in browser.driver.current_url
    assert "cut=edge" in browser.driver.current_url


def test_keys_change_lists_boxes_and_sliders(browser, page):
    browser.open(page())
    focus(browser, "select[name=measure]")
    browser.press("ArrowDown")
    assert "measure=raw" in browser.driver.current_url
    focus(browser, "input[name=words]")
    browser.press("Space")
    assert "words=true" in browser.driver.current_url
    focus(browser, "input[type=range][data-setting=temperature]")
    browser.press("ArrowLeft", "ArrowLeft")
    assert "temperature=0.9" in browser.driver.current_url


def test_the_focus_stays_on_a_control_that_is_built_again(browser, page):
    browser.open(page(), "#view=steps&heads=1.2")
    focus(browser, "select[name=language]")
    browser.press("ArrowUp")
    assert browser.run("return [document.documentElement.lang, document.activeElement.name]") == ["de", "language"]
    focus(browser, "[data-help=measure]")
    browser.press("Enter")
    focus(browser, "input[name=idle]")
    browser.press("Space")
    assert browser.run("return document.activeElement.name") == "idle"
    assert browser.find("[data-help=measure]").get_attribute("aria-expanded") == "true"  # stays open
    focus(browser, "[data-key=everything]")
    browser.press("Enter")
    assert browser.run("return document.activeElement.dataset.key") == "back"  # there are no more steps
