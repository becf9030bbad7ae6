"""`attncli neighbors`."""

from __future__ import annotations

from typing import Annotated

import typer

from attncli.cli.help import MORE
from attncli.cli.options import (
    DeviceOption,
    ForceOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    SvgOption,
    ThemeOption,
    choice,
    unset,
)
from attncli.cli.outputs import refuse_files, tell
from attncli.errors import UsageProblem

_WORD = "A word; with --in, a word of that text or the index of a token."
_IN = "A text with the word in it: compares its residual stream there. Unset: the word's embedding."
_LAYER = "With --in: the stream after so many layers; 0 is the embedding. Unset: after all."
_PLACES = ("vocabulary", "text")
_AMONG = "With --in: compare with all token embeddings, or with the text's other tokens."


# fmt: off
def neighbors(
    word: Annotated[str, typer.Argument(help=_WORD, show_default=False)],
    model: ModelOption = None,
    revision: RevisionOption = None,
    inside: Annotated[str | None, unset("--in", metavar="TEXT", help=_IN)] = None,
    layer: Annotated[int | None, unset(help=_LAYER)] = None,
    among: Annotated[str, choice(among=_PLACES, help=_AMONG, rich_help_panel=MORE)] = "vocabulary",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many to show.")] = 10,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    svg: SvgOption = None,
    html: HtmlOption = None,
    theme: ThemeOption = "light",
    force: ForceOption = False,
) -> None:
    # fmt: on
    """Show the tokens nearest to a word, by the cosine, beside what chance would give.

    attncli neighbors dog
    attncli neighbors bear --in "He could not bear" --layer 4
    """
    if among not in _PLACES:
        raise UsageProblem(f"--among {among!r} is nothing to compare with.", "Use vocabulary or text.")
    if inside is None and (layer is not None or among == "text"):
        raise UsageProblem("--layer and --among text need a text.", f"Give one: --in 'a text with {word} in it'.")
    refuse_files({"--svg": svg, "--html": html}, force)
    from attncli.cli.loading import load
    from attncli.explain.geometry import neighbors as near
    from attncli.explain.geometry import neighbors_in_text, spell
    from attncli.render.geometry import neighbors_document, neighbors_screen

    loaded = load(model, device, "float32", revision)
    network, tokenizer = loaded.model, loaded.tokenizer
    if inside is None:
        found = near(network, tokenizer, spell(tokenizer, word), count=top_k)
    else:
        place = "text" if among == "text" else "vocabulary"
        text = loaded.pieces(inside)
        found = neighbors_in_text(network, tokenizer, text, word, layer=layer, among=place, count=top_k)  # type: ignore[arg-type]
    tell(
        lambda: neighbors_document(found, loaded.name),
        lambda console: neighbors_screen(found, loaded.name, console),
        "attncli neighbors", json=json, svg=svg, html=html, theme=theme,
    )  # fmt: skip
