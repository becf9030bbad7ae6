"""Checks of the page by other tools: the types of its scripts by TypeScript, its accessibility by axe-core."""

import re
import subprocess

import pytest

from attncli.render.page import assemble
from tests.support.browser import needs_chromium
from tests.support.places import ROOT

TOOLS = ROOT / "build" / "node" / "node_modules"
WEB = ROOT / "attncli" / "render" / "page" / "web"
needs_tools = pytest.mark.skipif(not TOOLS.is_dir(), reason="`make node` installs tsc and axe-core")
AXE = "axe.run(document, arguments[0]).then((results) => arguments[1](results.violations))"
MOST_BYTES = 64_000


@needs_tools
def test_the_types_of_the_scripts_agree():
    config = ROOT / "tests" / "render" / "page" / "checks" / "tsconfig.json"
    done = subprocess.run([TOOLS / ".bin" / "tsc", "-p", config], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@needs_tools
@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark", "contrast"])
def test_axe_finds_no_violation(browser, page, theme):
    """Every rule is checked in the light theme. The other themes differ in their colors alone."""
    browser.open(page(), f"#theme={theme}")
    axe = (TOOLS / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    rules = {} if theme == "light" else {"runOnly": ["color-contrast"]}
    for view in browser.run("return [...document.querySelectorAll('[data-view]')].map((tab) => tab.dataset.view)"):
        browser.click(f'[data-view="{view}"]')
        found = browser.driver.execute_async_script(AXE, rules)
        assert [(view, one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []


@needs_tools
@needs_chromium
def test_axe_finds_no_violation_in_the_open_glossary(browser, page):
    browser.open(page())
    browser.click("[name=glossary]")
    axe = (TOOLS / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    found = browser.driver.execute_async_script(AXE, {})
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []


def test_the_script_is_small():
    assert len(assemble.compressed_script()) <= MOST_BYTES


def test_every_language_has_every_text():
    texts = {file.stem: assemble.texts_of(file) for file in sorted((WEB / "texts").glob("*.json"))}
    english = texts.pop("en")
    for language, own in texts.items():
        assert own.keys() == english.keys(), language
        for key, text in own.items():
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), (language, key)


def test_every_text_of_the_scripts_is_defined_and_used():
    code = "".join(file.read_text(encoding="utf-8") for file in sorted(WEB.glob("*.js")))
    keys = assemble.texts_of(WEB / "texts" / "en.json").keys()
    named = set(re.findall(r'(?:\btext|labelled|tick)\(\s*"([\w.]+)"', code))
    assert named - keys - {"part", "idle", "everywhere"} <= {"words", "common"} | keys
    stems = {re.split(r"\$\{", found)[0] for found in re.findall(r"`([a-z_.]+\.\$\{[^`]*)`", code)}
    unused = [key for key in keys if f'"{key}"' not in code and not key.startswith(tuple(stems))]
    assert unused == []
