"""`attncli ablate`."""

from __future__ import annotations

from attncli.cli.options import Given
from attncli.cli.shared import JSON, ModelSource, parse_head
from attncli.cli.texts import text_or_file_end
from attncli.config.option import argument, option
from attncli.errors import UsageProblem
from attncli.explain.defaults import PARTS, REPLACEMENTS, AttentionPart, Replacement

_TEXT = "The text, or a file that contains it; - reads standard input."
_PART = "For a model that translates: which attention to ablate. Unset: all three, each head in turn."
_TARGET = "For a model that translates: the translation to measure. Unset: the model's own."
_TOKEN = (
    "The token whose prediction is measured, by index or word. Unset: the last, or for a model that translates the "
    "whole translation."
)
_HEAD = "Ablate this head, such as 2.3 for head 3 of layer 2. Several heads are ablated together."
_EDGE = (
    "Mask this edge: with 6:4, token 6 no longer attends to token 4. A word stands for all of its tokens. Several "
    "edges are masked together."
)
_WITH = "Replace the output of a head by zero, or by its mean over the text."
_EXAMPLE = 'attncli ablate "The little cat sat on the old mat. The little"'


def ablate(
    *,
    text: str | None = argument(None, _TEXT),
    source: ModelSource,
    head: tuple[str, ...] = option((), _HEAD, metavar="L.H"),
    edge: tuple[str, ...] = option((), _EDGE, metavar="QUERY:SOURCE"),
    part: AttentionPart | None = option(None, _PART, choices=PARTS),
    token: str | None = option(None, _TOKEN),
    target: str | None = option(None, _TARGET, metavar="TEXT", rare=True),
    pair: str | None = option(None, "For BERT: the second text of a pair.", metavar="TEXT", rare=True),
    with_: Replacement = option("zero", _WITH, choices=REPLACEMENTS, rare=True),
    json: bool = JSON,
    given: Given,
) -> None:
    """Ablate attention heads or edges, and show what the prediction loses. By default, ablate each head in turn.

    attncli ablate "The little cat sat on the old mat. The little"
    attncli ablate "The little cat sat down. The little" --edge 7:cat
    """
    if head and edge:
        raise UsageProblem("--head and --edge cannot be combined.", "Give one of them.")
    if edge:
        given.refuse(("with_",), "--edge masks attention and replaces no output")
    heads = tuple(parse_head(one) for one in head)
    read = text_or_file_end(text, _EXAMPLE)
    from attncli.cli.bodies.ablate import run

    run(read, source, heads, edge, token, with_, part, target, pair, json=json)
