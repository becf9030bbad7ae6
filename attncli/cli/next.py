"""`attncli next`."""

from __future__ import annotations

from typing import Annotated

import typer

from attncli.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption, RevisionOption, text_or_file_end
from attncli.errors import UsageProblem

_TEXT = "The text so far, or a file with it; - reads standard input."
_TRUNCATE = "Keep the end of a text longer than the context."
_TEMPERATURES = "The temperatures to compare, with commas between; 0 is the most probable token alone."


# fmt: off
def next_(
    text: Annotated[str | None, typer.Argument(help=_TEXT, show_default=False)] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    temperatures: Annotated[str, typer.Option("--temperatures", "-t", metavar="T,T", help=_TEMPERATURES)] = "0,0.5,1,2",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many tokens to show.")] = 10,
    truncate: Annotated[bool, typer.Option("--truncate", help=_TRUNCATE)] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Show what may come next: the most probable tokens, at several temperatures.

    attncli next "The little cat sat on the old mat. The little"
    attncli next "Once upon a" --temperatures 0.2,1,5 -k 5
    """
    asked = _temperatures(temperatures)
    given = text_or_file_end(text, 'attncli next "The little cat sat on the old mat. The little"')
    from attncli.cli.loading import load
    from attncli.cli.truncating import truncated
    from attncli.generation.candidates import candidates
    from attncli.render.candidates import candidates_document, candidates_screen
    from attncli.render.console import output, print_json, show

    loaded = load(model, device, dtype, revision)
    prompt = loaded.prompt(given)
    if truncate:
        (given,), (prompt,) = truncated(loaded.model.config, loaded.tokenizer, [given], [prompt])
    pieces = loaded.pieces(given)
    found = candidates(loaded.model, loaded.tokenizer, prompt, asked, top_k)
    if json:
        print_json(candidates_document(found, loaded.name, given))
    else:
        console = output()
        show(console, candidates_screen(found, pieces, loaded.name, console.width))


def _temperatures(text: str) -> tuple[float, ...]:
    """'0,0.5,1' -> (0.0, 0.5, 1.0)."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= temperature < float("inf") for temperature in found):
        raise UsageProblem(
            f"--temperatures {text!r} is not a list of numbers from 0 on.", "Give some: --temperatures 0,0.5,1,2"
        )
    return found
