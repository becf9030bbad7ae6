"""`attncli compare`: compares the residual stream of a word in two texts."""

from __future__ import annotations

from collections.abc import Sequence

from attncli.cli.bodies.results import show_result, write_page
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, PageFile, Pictures
from attncli.explain.compare import compare, find_words
from attncli.pages import html_comparison
from attncli.render.compare import comparison_document, comparison_screen


def run(
    texts: tuple[str, str],
    source: ModelSource,
    tokens: Sequence[str],
    layer: int | None,
    json: bool,
    page: PageFile,
    pictures: Pictures,
) -> None:
    """Prints how similar a word's vectors are in two texts. Raises UsageProblem for a word that one text lacks."""
    loaded = load(source)
    pieces = [loaded.pieces(text) for text in texts]
    finding = compare(loaded.model, pieces, find_words(pieces, tokens), layer)
    write_page(page, lambda: html_comparison(loaded, pieces, finding))  # before the screen, whose pipe may be closed
    show_result(
        lambda: comparison_document(finding, loaded.name),
        lambda console: comparison_screen(finding, loaded.name, console),
        json=json,
        title="attncli compare",
        pictures=pictures,
    )
