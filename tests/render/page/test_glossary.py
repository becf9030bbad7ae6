"""The glossary of the page in a browser."""

from pathlib import Path

from attncli.render.page import assemble
from tests.support.browser import needs_chromium

pytestmark = needs_chromium
TEXTS = Path(assemble.__file__).parent / "web" / "texts"
OPEN = "return document.querySelector('dialog').open"


def test_the_glossary_is_opened_and_closed_with_the_keyboard_in_each_language(browser, page):
    for language in ("en", "de"):
        texts = assemble.texts_of(TEXTS / f"{language}.json")
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
