"""Pictures are self-contained, show the screen in its columns, and escape hostile text."""

import re
import xml.etree.ElementTree as tree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from attncli.cli.outputs import write_file
from attncli.errors import OutOfRoom
from attncli.render.first_screen import explanation_screen
from attncli.render.picture import html_picture, svg_picture
from attncli.render.themes import THEMES
from tests.support.explanations import ENGLISH, explanation
from tests.support.screens import harmless, screen
from tests.support.texts import HOSTILE

MARKUP = "</text></svg></pre><script>alert(1)</script>&amp;\"'\x00\x1b[31m\x85\u202e\ud800\ufffe{styles}%s"
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Collects the tags and the text of a page, as a browser reads them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.body, self.title = [], [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.tags[-1:] == ["title"]:
            self.title += data.strip()
        elif "pre" in self.tags:
            self.body += data


def drawn(found):
    console = screen(100)
    console.print(explanation_screen(found, "tiny", console))
    return [line.rstrip() for line in console.file.getvalue().split("\n")]


def both(found, title="a title"):
    """Returns the tree of the SVG and the HTML page of an explanation."""

    def draw(console):
        return explanation_screen(found, "tiny", console)

    return tree.fromstring(svg_picture(draw, title)), Page(html_picture(draw, title))


BLOCKS = {1: "▏▎▍▌▋▊▉█", 0.5: "▒"}  # by the opacity of a bar


def bar_of(rect):
    """Returns the block characters that a rectangle replaces."""
    eighths = round(float(rect.get("width")) / 8.4 * 8)
    blocks = BLOCKS[float(rect.get("fill-opacity", 1))]
    return blocks[-1] * (eighths // 8) + (blocks[eighths % 8 - 1] if eighths % 8 else "")


def test_a_picture_has_every_character_of_the_screen_in_its_place():
    found = explanation([*ENGLISH, "東京", " naïve"])
    svg, page = both(found)
    assert [line.rstrip() for line in page.body.strip("\n").split("\n")] == drawn(found)[:-1]
    rows = {}
    for text in svg.iter(f"{SVG}text"):
        assert float(text.get("textLength")) == pytest.approx(cell_len(text.text) * 8.4, abs=1e-2)
        rows.setdefault(float(text.get("y")) - 14, []).append((float(text.get("x")), text.text))
    for rect in svg.iter(f"{SVG}rect"):
        if rect.get("height") == "13":
            rows.setdefault(float(rect.get("y")) - 3, []).append((float(rect.get("x")), bar_of(rect)))
    shown = []
    for top in sorted(rows):
        line = ""
        for x, text in sorted(rows[top]):
            line += " " * (round((x - 16) / 8.4) - cell_len(line)) + text
        shown.append(line)
    assert shown == [line for line in drawn(found) if line]


def test_bars_are_rectangles_that_end_at_an_eighth_of_a_cell():
    svg = tree.fromstring(svg_picture(lambda _: Text("a ██▌ ▒▒ b", "cyan"), "t"))
    bars = [rect for rect in svg.iter(f"{SVG}rect") if rect.get("height") == "13"]
    assert [float(bar.get("x")) for bar in bars] == pytest.approx([16 + 2 * 8.4, 16 + 6 * 8.4])
    assert [float(bar.get("width")) for bar in bars] == pytest.approx([2.5 * 8.4, 2 * 8.4])
    assert [bar.get("fill-opacity") for bar in bars] == [None, "0.5"]
    assert [text.text for text in svg.iter(f"{SVG}text")] == ["a", "b"]


def test_bold_text_is_bold_in_the_picture():
    svg = svg_picture(lambda _: Text("a", "bold"), "t")
    assert [text.get("font-weight") for text in tree.fromstring(svg).iter(f"{SVG}text")] == ["bold"]
    assert "font:" not in svg  # a CSS rule would override the attribute


def luminance(color):
    """Returns the relative luminance of a color in hexadecimal (WCAG 2)."""
    channels = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("style", "least"), [("", 4.5), ("dim", 3)])
@pytest.mark.parametrize("color", ["default", "red", "green", "yellow", "blue", "magenta", "cyan"])
def test_every_color_has_enough_contrast_on_its_page(theme, style, least, color):
    svg = tree.fromstring(svg_picture(lambda _: Text("a", f"{style} {color}"), "t", theme=theme))
    page = svg.find(f"{SVG}rect").get("fill")
    ink = svg.find(f"{SVG}text").get("fill", svg.get("fill"))
    low, high = sorted((luminance(page), luminance(ink)))
    assert (high + 0.05) / (low + 0.05) >= least


def test_a_theme_changes_only_colors():
    found = explanation(ENGLISH)
    light, dark = (
        svg_picture(lambda console: explanation_screen(found, "tiny", console), "t", theme=theme) for theme in THEMES
    )
    assert light != dark
    same = [re.sub(' fill="#[0-9a-f]{6}"', "", picture) for picture in (light, dark)]
    assert same[0] == same[1]


def test_a_picture_loads_no_other_file():
    svg, page = both(explanation(ENGLISH))
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} == {"svg", "title", "style", "rect", "text"}
    assert set(page.tags) == {"html", "head", "meta", "title", "style", "body", "pre", "span"}
    for text in (svg_picture(lambda _: Text("a"), "t"), html_picture(lambda _: Text("a"), "t")):
        assert not re.search(r"url\(|@import|@font-face|href|src=|javascript", text.replace("style-src", ""))
        assert set(re.findall(r"\w+://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_a_map_in_a_picture_keeps_its_colors():
    svg, page = both(explanation(ENGLISH))
    cells = [rect for rect in svg.iter(f"{SVG}rect") if rect.get("height") == "19"]
    assert len(cells) == 7 * 8 // 2
    assert len({cell.get("fill") for cell in cells}) > 7
    grounds = re.findall(r"background: (#\w{6})", str(page.attributes))
    assert grounds == [cell.get("fill") for cell in cells]


@pytest.mark.parametrize("hostile", [MARKUP, HOSTILE, "]]>", "<!--", "&#0;", "a\r\nb"])
def test_hostile_text_adds_no_elements_to_a_picture(hostile):
    valid = hostile.encode("utf-8", "ignore").decode()
    found = explanation([valid, "a", valid], next_tokens=[(hostile, 0.5)])
    svg, page = both(found, hostile)
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} == {"svg", "title", "style", "rect", "text"}
    assert "script" not in page.tags
    assert all(harmless(element.text) for element in svg.iter(f"{SVG}text"))
    assert harmless(page.title)
    assert svg.find(f"{SVG}title").text == page.title.strip()


@given(st.text())
def test_any_text_gives_a_well_formed_picture(text):
    def draw(console):
        return Text(text)

    svg = tree.fromstring(svg_picture(draw, text))
    assert all(harmless(element.text) for element in svg.iter(f"{SVG}text"))
    page = html_picture(draw, text)
    page.encode()
    assert set(Page(page).tags) <= {"html", "head", "meta", "title", "style", "body", "pre", "span"}


def test_a_picture_does_not_depend_on_the_terminal(monkeypatch):
    def draw(console):
        return explanation_screen(explanation(ENGLISH), "tiny", console)

    before = svg_picture(draw, "t"), html_picture(draw, "t")
    for name, value in (("NO_COLOR", "1"), ("COLUMNS", "30"), ("TERM", "dumb"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
    assert (svg_picture(draw, "t"), html_picture(draw, "t")) == before


def test_a_file_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "x.svg"
    file.write_text("mine")

    def fail(opened):
        opened.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutOfRoom, match="No space left"):
        write_file(file, "--svg", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]
    assert file.read_text() == "mine"
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(13, "Permission denied")))
    with pytest.raises(OutOfRoom, match="Permission denied"):
        write_file(file, "--svg", lambda opened: opened.write(b"whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]
    monkeypatch.undo()
    write_file(file, "--svg", lambda opened: opened.write(b"whole"))
    assert file.read_text() == "whole"


def test_the_console_of_a_picture_does_not_parse_markup():
    assert "[red]x[/red]" in html_picture(lambda _: "[red]x[/red]", "t", 40)
