"""Prints the result of a command, and writes it as a picture, a table or arrays."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from attncli.cli.outputs import write_file
from attncli.cli.shared import PageFile, Pictures
from attncli.render.console import output, print_json, print_note, show
from attncli.render.picture import Draw
from attncli.render.status import status
from attncli.render.themes import DEFAULT_THEME


def show_result(
    document: Callable[[], object], draw: Draw, *, json: bool, title: str = "", pictures: Pictures | None = None
) -> None:
    """Draws a result on standard output, or with `json` prints it as a JSON document; then writes its pictures."""
    if json:
        print_json(document())
    else:
        console = output()
        show(console, draw(console))
    if pictures is not None:
        write_pictures(draw, title, pictures)


def write_pictures(draw: Draw, title: str, pictures: Pictures) -> None:
    """Writes a screen as pictures to the files of --svg and --html, if they are given."""
    if pictures.svg is None and pictures.html is None:
        return
    from attncli.render.picture import html_picture, svg_picture

    theme = pictures.theme or DEFAULT_THEME
    write_asked(pictures.svg, "--svg", lambda file: file.write(svg_picture(draw, title, theme=theme).encode()))
    write_asked(pictures.html, "--html", lambda file: file.write(html_picture(draw, title, theme=theme).encode()))


def write_page(page: PageFile, html: Callable[[], str]) -> None:
    """Writes the interactive page to the file of --page, and opens it in a browser with --open."""
    if page.page is None:
        return
    status("making the page")
    text = html()
    write_asked(page.page, "--page", lambda file: file.write(text.encode()))
    if page.open and not webbrowser.open(page.page.absolute().as_uri()):
        print_note("no browser was found: open the file yourself")


def write_asked(file: Path | None, option: str, write: Callable[[BinaryIO], object]) -> None:
    """Writes the file that an option names, and prints a note with its path; does nothing if `file` is None."""
    if file is not None:
        write_file(file, option, write)
        print_note(f"written: {file}")
