"""`attncli compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from attncli.cli.options import (
    DeviceOption,
    ForceOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    SvgOption,
    ThemeOption,
    unset,
)
from attncli.cli.outputs import refuse_files, tell

_TOKEN = "The word, or the index of a token; twice for one in each text. Unset: the one word that both share."
_LAYER = "Measure the difference after so many layers; 0 is the embedding. Unset: after all."


# fmt: off
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The first text.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The second.", show_default=False)],
    model: ModelOption = None,
    revision: RevisionOption = None,
    token: Annotated[list[str] | None, unset(help=_TOKEN)] = None,
    layer: Annotated[int | None, unset(help=_LAYER)] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    svg: SvgOption = None,
    html: HtmlOption = None,
    theme: ThemeOption = "light",
    force: ForceOption = False,
) -> None:
    # fmt: on
    """Show how alike a word is to itself in two texts, layer by layer, and which tokens pulled the two apart.

    attncli compare "He could not bear" "She saw a big brown bear"
    attncli compare "his right hand, then his left" "sad when her mom left"
    """
    refuse_files({"--svg": svg, "--html": html}, force)
    from attncli.cli.loading import load
    from attncli.explain.context import compare as compared
    from attncli.explain.context import find_words
    from attncli.render.context import comparison_document, comparison_screen

    loaded = load(model, device, "float32", revision)
    texts = [loaded.pieces(text) for text in (a, b)]
    found = compared(loaded.model, texts, find_words(texts, token or []), layer)
    tell(
        lambda: comparison_document(found, loaded.name),
        lambda console: comparison_screen(found, loaded.name, console),
        "attncli compare", json=json, svg=svg, html=html, theme=theme,
    )  # fmt: skip
