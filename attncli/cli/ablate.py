"""`attncli ablate`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attncli.cli.help import MORE
from attncli.cli.options import DeviceOption, JsonOption, ModelOption, RevisionOption, choice, text_or_file_end, unset
from attncli.errors import UsageProblem

if TYPE_CHECKING:
    from attncli.explain.ablation import Edge
    from attncli.text.tokenizer import Piece

_TOKEN = "Whose prediction it is, by index or word. Unset: the last token's."
_HEAD = "Do without this head, such as 2.3 for head 3 of layer 2; several times for several together."
_EDGE = (
    "Cut this edge, such as 6:4 (6 no longer looks at 4), by index, or by word in all its tokens; several times for "
    "several together."
)
_WITH = "What stands in the place of a head: zero, or mean, what it gives on average over the text."
_REPLACEMENTS = ("zero", "mean")
_EXAMPLE = 'attncli ablate "The little cat sat on the old mat. The little"'


# fmt: off
def ablate(
    text: Annotated[str | None, typer.Argument(help="The text, or a file with it; - reads standard input.", show_default=False)] = None,  # noqa: E501
    model: ModelOption = None,
    revision: RevisionOption = None,
    head: Annotated[list[str] | None, unset(metavar="L.H", help=_HEAD)] = None,
    edge: Annotated[list[str] | None, unset(metavar="QUERY:SOURCE", help=_EDGE)] = None,
    token: Annotated[str | None, unset(help=_TOKEN)] = None,
    with_: Annotated[str, choice("--with", among=_REPLACEMENTS, help=_WITH, rich_help_panel=MORE)] = "zero",
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Take heads or edges of attention away, and see what the prediction loses; unset: every head in turn.

    attncli ablate "The little cat sat on the old mat. The little"
    attncli ablate "The little cat sat down. The little" --edge 7:cat
    """
    if with_ not in _REPLACEMENTS:
        raise UsageProblem(f"--with {with_!r} is no replacement.", "Use zero or mean.")
    if head and edge:
        raise UsageProblem("--head and --edge each say what to do without.", "Give one of them.")
    heads = tuple(_parse_head(one) for one in head or ())
    given = text_or_file_end(text, _EXAMPLE)
    from attncli.cli.loading import load
    from attncli.explain.ablation import Without
    from attncli.explain.ablation import ablate as ablated
    from attncli.explain.locate import find_token
    from attncli.render.ablation import ablation_document, ablation_screen
    from attncli.render.console import output, print_json, show

    loaded = load(model, device, "float32", revision)
    pieces = loaded.pieces(given)
    edges = tuple(dict.fromkeys(pair for one in edge or () for pair in _parse_edge(one, pieces)))
    found = ablated(
        loaded.model,
        loaded.tokenizer,
        pieces,
        [Without(heads, edges)] if heads or edges else None,
        token=find_token(pieces, token) if token is not None else None,
        replacement="mean" if with_ == "mean" else "zero",
    )
    if json:
        print_json(ablation_document(found, loaded.name))
    else:
        console = output()
        show(console, ablation_screen(found, loaded.name, console.width, everything=not (heads or edges)))


def _parse_head(head: str) -> tuple[int, int]:
    """'2.3' -> (2, 3)."""
    found = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", head)
    if found is None:
        raise UsageProblem(f"--head {head!r} is not a head.", "Use LAYER.HEAD such as 2.3, both counted from 0.")
    return int(found[1]), int(found[2])


def _parse_edge(edge: str, pieces: Sequence[Piece]) -> tuple[Edge, ...]:
    """'6:4' -> ((6, 4),); 'mat:cat' -> from every token of the one word to every token of the other."""
    from attncli.explain.ablation import edges_between

    query, colon, source = edge.partition(":")
    if not (query and colon and source):
        raise UsageProblem(f"--edge {edge!r} is not an edge.", "Use QUERY:SOURCE such as 6:4: 6 no longer looks at 4.")
    return edges_between(pieces, query, source)
