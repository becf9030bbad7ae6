"""The glossary of the page in a browser."""

from attncli.render.page import assemble
from tests.render.page.test_checks import AXE, TOOLS, WEB, needs_tools
from tests.support.browser import needs_chromium

pytestmark = needs_chromium
OPEN = "return document.querySelector('dialog').open"


def test_the_glossary_is_opened_and_closed_with_the_keyboard_in_each_language(browser, page):
    for language in ("en", "de"):
        texts = assemble.texts_of(WEB / "texts" / f"{language}.json")
        means = [text for key, text in texts.items() if key.startswith("word.") and key.endswith(".means")]
        browser.open(page(), f"#language={language}")
        browser.run("document.querySelector('[name=glossary]').focus()")
        browser.press("Enter")
        assert browser.run(OPEN)
        assert browser.texts("dialog dd") == means
        assert browser.run("return document.querySelector('dialog').contains(document.activeElement)")
        browser.press("Escape")
        assert not browser.run(OPEN)
        assert browser.run("return document.activeElement.name") == "glossary"
        browser.press("Enter")
        browser.click("dialog > button")
        assert not browser.run(OPEN)


@needs_tools
def test_axe_finds_no_violation_in_the_open_glossary(browser, page):
    browser.open(page())
    browser.click("[name=glossary]")
    axe = (TOOLS / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    found = browser.driver.execute_async_script(AXE, {})
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []
