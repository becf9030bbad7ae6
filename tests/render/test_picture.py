"""Pictures stand alone, show what the screen shows in its columns, and nothing hostile comes through."""

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
from attncli.render.explanation import explanation_screen
from attncli.render.picture import html_picture, svg_picture
from tests.render.test_render import HOSTILE, WORDS, explanation, harmless, screen

MARKUP = "</text></svg></pre><script>alert(1)</script>&amp;\"'\x00\x1b[31m\x85\u202e\ud800\ufffe{styles}%s"
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """What a browser would see of a page: its tags and its text."""

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
    """The SVG's tree and the page of an explanation."""

    def draw(console):
        return explanation_screen(found, "tiny", console)

    return tree.fromstring(svg_picture(draw, title)), Page(html_picture(draw, title))


def test_a_picture_holds_every_character_of_the_screen_in_its_place():
    found = explanation([*WORDS, "東京", " naïve"])
    svg, page = both(found)
    assert [line.rstrip() for line in page.body.strip("\n").split("\n")] == drawn(found)[:-1]
    rows = {}
    for text in svg.iter(f"{SVG}text"):
        left = (float(text.get("x")) - 16) / 8.4
        assert float(text.get("textLength")) == pytest.approx(cell_len(text.text) * 8.4, abs=1e-2)
        rows.setdefault(float(text.get("y")), []).append((left, text.text))
    shown = []
    for y in sorted(rows):
        line = ""
        for left, text in rows[y]:
            line += " " * (round(left) - cell_len(line)) + text
        shown.append(line.rstrip())
    assert shown == [line for line in drawn(found) if line]


def test_a_picture_asks_for_nothing_from_outside():
    svg, page = both(explanation(WORDS))
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} == {"svg", "title", "style", "rect", "text"}
    assert set(page.tags) == {"html", "head", "meta", "title", "style", "body", "pre", "span"}
    for text in (svg_picture(lambda _: Text("a"), "t"), html_picture(lambda _: Text("a"), "t")):
        assert not re.search(r"url\(|@import|@font-face|href|src=|javascript", text.replace("style-src", ""))
        assert set(re.findall(r"\w+://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_a_map_keeps_its_colours():
    svg, page = both(explanation(WORDS))
    cells = [rect for rect in svg.iter(f"{SVG}rect") if rect.get("height") == "19"]
    assert len(cells) == 7 * 8 // 2
    assert len({cell.get("fill") for cell in cells}) > 7
    grounds = re.findall(r"background: (#\w{6})", str(page.attributes))
    assert grounds == [cell.get("fill") for cell in cells]


@pytest.mark.parametrize("hostile", [MARKUP, HOSTILE, "]]>", "<!--", "&#0;", "a\r\nb"])
def test_hostile_text_is_text(hostile):
    valid = hostile.encode("utf-8", "ignore").decode()
    found = explanation([valid, "a", valid], next_tokens=[(hostile, 0.5)])
    svg, page = both(found, hostile)
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} == {"svg", "title", "style", "rect", "text"}
    assert "script" not in page.tags
    assert all(harmless(element.text) for element in svg.iter(f"{SVG}text"))
    assert harmless(page.title)
    assert svg.find(f"{SVG}title").text == page.title.strip()


@given(st.text())
def test_any_text_that_nobody_escaped_is_well_formed_all_the_same(text):
    def draw(console):
        return Text(text)

    svg = tree.fromstring(svg_picture(draw, text))
    assert all(harmless(element.text) for element in svg.iter(f"{SVG}text"))
    page = html_picture(draw, text)
    page.encode()
    assert set(Page(page).tags) <= {"html", "head", "meta", "title", "style", "body", "pre", "span"}


def test_a_picture_is_the_same_whatever_the_terminal(monkeypatch):
    def draw(console):
        return explanation_screen(explanation(WORDS), "tiny", console)

    before = svg_picture(draw, "t"), html_picture(draw, "t")
    for name, value in (("NO_COLOR", "1"), ("COLUMNS", "30"), ("TERM", "dumb"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
    assert (svg_picture(draw, "t"), html_picture(draw, "t")) == before


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
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


def test_the_console_of_a_picture_reads_no_markup():
    assert "[red]x[/red]" in html_picture(lambda _: "[red]x[/red]", "t", 40)
