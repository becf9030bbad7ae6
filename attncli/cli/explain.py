"""`attncli explain`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from attncli.cli.options import DeviceOption, JsonOption, ModelOption, required_text, unset
from attncli.errors import UsageProblem

_TOKEN = "The token in focus, by index or word. Unset: the last, which predicts what comes next."
_HEAD = "Only this head, such as 2.3 for head 3 of layer 2. Unset: all, and the busiest as a map."
_WEIGHTS = "Measure a source by the length of the vector it contributes, or by its attention weight alone."
_CHECK = "Cut every source off in turn, and show what is left of the prediction."
_EXAMPLE = 'attncli explain "He sat on the river\'s bank"'


# fmt: off
def explain(
    text: Annotated[str | None, typer.Argument(help="What to explain; - reads it from standard input.", show_default=False)] = None,  # noqa: E501
    model: ModelOption = None,
    token: Annotated[str | None, unset(help=_TOKEN)] = None,
    layer: Annotated[int | None, unset(help="Only this layer, counted from 0. Unset: the mean of all.")] = None,
    head: Annotated[str | None, unset(metavar="[L.]H", help=_HEAD)] = None,
    weights: Annotated[str, typer.Option(metavar="norm|raw", help=_WEIGHTS)] = "norm",
    check: Annotated[bool, typer.Option(help=_CHECK)] = True,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Show where a token gets its information, one head's attention, and what may come next.

    attncli explain "He sat on the river's bank"
    attncli explain "To be or not to be" --token not --head 1.2
    """
    layer, head_index = _parse_head(head, layer)
    if weights not in ("norm", "raw"):
        raise UsageProblem(f"--weights {weights!r} is not a measure.", "Use norm or raw.")
    given = required_text(text, _EXAMPLE)
    from attncli.cli.loading import load
    from attncli.explain.first_screen import Focus, find_token
    from attncli.explain.first_screen import explain as explained
    from attncli.render.console import output, print_json, show
    from attncli.render.explanation import explanation_document, explanation_screen

    loaded = load(model, device, "float32")
    pieces = loaded.tokenizer.pieces(given)
    index = find_token(pieces, token) if token is not None else None
    focus = Focus(index, layer, head_index, "raw" if weights == "raw" else "norm")
    found = explained(loaded.model, loaded.tokenizer, pieces, focus, check=check)
    if json:
        print_json(explanation_document(found, loaded.name))
    else:
        console = output()
        show(console, explanation_screen(found, loaded.name, console))


def _parse_head(head: str | None, layer: int | None) -> tuple[int | None, int | None]:
    """'2.3' -> (2, 3); '3' with --layer 2 -> (2, 3); '3' alone -> (None, 3): head 3 of every layer."""
    if head is None:
        return layer, None
    first, dot, second = head.partition(".")
    numbers = [first, second] if dot else [first]
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
        raise UsageProblem(f"--head {head!r} is not a head.", "Use LAYER.HEAD such as 2.3, both counted from 0.")
    if dot and layer is not None and layer != int(first):
        raise UsageProblem(f"--head {head} and --layer {layer} name different layers.", "Leave --layer out.")
    return (int(first), int(second)) if dot else (layer, int(first))
