"""`attncli analogy`."""

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

_EXPECT = "The answer you hope for: shows where it comes."


# fmt: off
def analogy(
    a: Annotated[str, typer.Argument(metavar="A", help="As this word", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="is to this one,", show_default=False)],
    c: Annotated[str, typer.Argument(metavar="C", help="so is this one to the answer.", show_default=False)],
    model: ModelOption = None,
    revision: RevisionOption = None,
    expect: Annotated[str | None, unset("--expect", metavar="WORD", help=_EXPECT)] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many to show.")] = 10,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    svg: SvgOption = None,
    html: HtmlOption = None,
    theme: ThemeOption = "light",
    force: ForceOption = False,
) -> None:
    # fmt: on
    """Show what is to C as B is to A: the tokens nearest to B - A + C in the embedding, beside chance.

    attncli analogy man king woman --expect queen
    attncli analogy boy he girl --expect she
    """
    refuse_files({"--svg": svg, "--html": html}, force)
    from attncli.cli.loading import load
    from attncli.explain.geometry import analogy as answers
    from attncli.explain.geometry import spell
    from attncli.render.geometry import analogy_document, analogy_screen

    loaded = load(model, device, "float32", revision)
    tokenizer = loaded.tokenizer
    words = spell(tokenizer, a), spell(tokenizer, b), spell(tokenizer, c)
    expected = spell(tokenizer, expect) if expect is not None else None
    found = answers(loaded.model, tokenizer, words, expected, count=top_k)
    tell(
        lambda: analogy_document(found, loaded.name),
        lambda console: analogy_screen(found, loaded.name, console),
        "attncli analogy", json=json, svg=svg, html=html, theme=theme,
    )  # fmt: skip
