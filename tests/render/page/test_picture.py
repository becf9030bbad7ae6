"""Saved and printed pictures: valid, complete, and without references to anything outside of the file."""

import base64
import re
import struct
from xml.etree import ElementTree

import pytest

from tests.support.browser import needs_chromium

pytestmark = needs_chromium

TEXT = "The small cat sat near the river. The small"
HOSTILE = "</script><b>&amp;'\"]]>\u2028\u202e\u200b\ufffe\x07<img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"
VIEWS = ["lines", "map", "heads", "layers"]
OF_ALL_HEADS = ["heads", "layers"]
SHAPES = {"rect", "path", "line", "polyline", "circle", "text", "image"}
KNOWN = SHAPES | {"svg", "title", "desc", "defs", "linearGradient", "stop", "pattern", "g"}

# Keeps the files that the page saves, instead of saving them: name and bytes.
_CATCH = """
window.saved = [];
const real = URL.createObjectURL;
let last = null;
URL.createObjectURL = (blob) => real.call(URL, (last = blob));
HTMLAnchorElement.prototype.click = function () { window.saved.push([this.download, last]); };
"""
_SAVED = """
const done = arguments[0];
const wait = () => {
  if (!window.saved.length) return requestAnimationFrame(wait);
  const [name, blob] = window.saved.shift();
  const reader = new FileReader();
  reader.onload = () => done([name, reader.result.split(",")[1]]);
  reader.readAsDataURL(blob);
};
wait();
"""
# The color of a pixel of a PNG file, and its size.
_PIXEL = """
const [data, x, y, done] = arguments;
const image = new Image();
image.onload = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  done([...context.getImageData(x, y, 1, 1).data]);
};
image.src = `data:image/png;base64,${data}`;
"""


def saved(browser, kind):
    """Saves the picture that is shown, and returns the name of the file and its bytes."""
    browser.run(_CATCH)
    browser.click(f'[data-save="{kind}"]')
    name, data = browser.driver.execute_async_script(_SAVED)
    return name, base64.b64decode(data)


def texts(root):
    return [element.text for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("view", VIEWS)
def test_a_saved_svg_stands_alone(browser, page, view):
    browser.open(page(TEXT), f"#view={view}&heads=0.1,1.2&theme=dark")
    name, data = saved(browser, "svg")
    assert name == (f"m-{view}.svg" if view in OF_ALL_HEADS else f"m-{view}-0.1-1.2.svg")
    root = ElementTree.fromstring(data)
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text.startswith("m: ")
    description = root.find(f"{SVG}desc").text
    assert "Text: The ␣small ␣cat" in description
    assert (view in OF_ALL_HEADS) != ("Heads: 0.1, 1.2" in description)
    assert b"var(" not in data
    assert b"#14161b" in data  # the background of the dark theme
    references = [value for each in root.iter() for key, value in each.items() if key.endswith("href")]
    assert all(value.startswith("data:image/png") for value in references)
    assert b"http" not in data.replace(b"http://www.w3.org/", b"")
    assert not re.search(rb"\sstyle=", data)


def test_saved_lines_mark_the_chosen_row_and_the_chosen_source(browser, page):
    browser.open(page(TEXT), "#view=lines&heads=1.2&row=6&column=3")
    tokens = browser.texts(".strip .token")
    root = ElementTree.fromstring(saved(browser, "svg")[1])
    bold = [each.text for each in root.iter(f"{SVG}text") if each.get("font-weight") == "bold"]
    assert bold == [tokens[6], tokens[3]]
    assert [each.get("stroke-width") for each in root.iter(f"{SVG}rect") if each.get("stroke")] == ["2"]


@pytest.mark.parametrize("view", VIEWS)
def test_a_saved_picture_says_below_it_what_it_shows(browser, page, view):
    browser.open(page(TEXT), f"#view={view}&heads=1.2&row=6&measure=raw&column=3")
    root = ElementTree.fromstring(saved(browser, "svg")[1])
    height = float(root.get("viewBox").split()[3])
    caption = " ".join(each.text for each in root.iter(f"{SVG}text") if each.get("class") == "caption")
    assert f"m: {'All heads' if view == 'heads' else view.capitalize()} · " in caption
    assert (view in OF_ALL_HEADS) != ("Heads: 1.2" in caption)
    tokens = browser.texts(".strip .token")
    assert f"attention weight, row {tokens[6]} [6] · Source: {tokens[3]} [3]" in caption
    assert caption.endswith("Text: " + " ".join(tokens))
    assert all(float(each.get("y", 0)) < height for each in root.iter(f"{SVG}text"))


def test_saved_lines_and_maps_contain_the_tokens(browser, page):
    for view in ("lines", "map"):
        browser.open(page(TEXT), f"#view={view}&heads=1.2")
        tokens = browser.texts(".strip .token")
        shown = texts(ElementTree.fromstring(saved(browser, "svg")[1]))
        assert all(shown.count(token) == 2 * tokens.count(token) for token in tokens)


def test_a_saved_map_has_the_colors_of_the_map(browser, page):
    browser.open(page(TEXT), "#view=map&heads=1.2&measure=raw")
    root = ElementTree.fromstring(saved(browser, "svg")[1])
    colors = [each.get("fill") for each in root.iter(f"{SVG}rect") if (each.get("fill") or "").startswith("rgb")]
    count = len(browser.texts(".strip .token"))
    assert len(colors) == count * (count + 1) / 2
    assert colors.count("rgb(253, 231, 37)") == 1


@pytest.mark.parametrize("view", VIEWS)
def test_a_saved_png_has_twice_the_size_of_the_svg(browser, page, view):
    browser.open(page(TEXT), f"#view={view}&heads=1.2&theme=dark")
    root = ElementTree.fromstring(saved(browser, "svg")[1])
    name, data = saved(browser, "png")
    assert name.endswith(".png")
    assert struct.unpack(">II", data[16:24]) == (2 * float(root.get("width")), 2 * float(root.get("height")))
    background = browser.driver.execute_async_script(_PIXEL, base64.b64encode(data).decode(), 2, 2)
    assert background == [0x14, 0x16, 0x1B, 255]
    assert (browser.requests(), browser.messages()) == ([], [])


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_tokens_are_text_in_a_saved_svg(browser, page, view):
    browser.open(page(HOSTILE), f"#view={view}")
    root = ElementTree.fromstring(saved(browser, "svg")[1])
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= KNOWN
    assert not [key for each in root.iter() for key in each.attrib if key.startswith("on")]
    assert "<" in root.find(f"{SVG}desc").text
    assert browser.messages() == []


def test_the_picture_is_printed_in_light_colors(browser, page):
    browser.open(page(TEXT), "#view=map&heads=1.2&theme=dark")
    browser.run("window.addEventListener('beforeprint', () => { window.printed = document.body.cloneNode(true); })")
    theme = "document.documentElement.dataset.theme"
    browser.run(f"window.addEventListener('beforeprint', () => {{ window.theme = {theme}; }})")
    browser.driver.print_page()
    assert browser.run("return [window.theme, window.printed.querySelectorAll('.on-paper svg').length]") == ["light", 1]
    assert browser.run(f"return [{theme}, document.querySelectorAll('.on-paper svg').length]") == ["dark", 0]


def test_only_views_with_a_picture_can_be_saved(browser, page):
    browser.open(page(TEXT), "#view=steps")
    assert browser.all("[data-save]") == []
    browser.open(page(TEXT), "#language=de")
    assert browser.texts(".save .control-name") == ["Dieses Bild speichern"]
