"""The screen of `attncli circuit patch`: what one patched activation restores, by position and layer, and by head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.text import Text

from attncli.render.circuit_ends import ends_document, ends_lines, share_table
from attncli.render.escape import fold, token_label
from attncli.render.heading import pieces_document, shape_of, titled
from attncli.render.numbers import plural

if TYPE_CHECKING:
    from attncli.circuits.defaults import Direction, Place
    from attncli.circuits.patching import ActivationPatching

_MOST_ROWS = 40
_TITLES: dict[Place, str] = {
    "residual": "The residual stream, before each layer",
    "attention": "The output of attention",
    "mlp": "The output of the MLP",
    "head": "The output of each head, at all positions",
}
_EXPLAINED: dict[Direction, tuple[str, str]] = {
    "denoising": (
        "what one clean activation restores in the corrupt run",
        "Denoising: one activation of the clean run replaces its counterpart in the corrupt run. 100% means that this "
        "one activation is enough for the clean prediction.",
    ),
    "noising": (
        "what one corrupt activation leaves in the clean run",
        "Noising: one activation of the corrupt run replaces its counterpart in the clean run. 0% means that the clean "
        "prediction needs this activation.",
    ),
}


def patch_screen(finding: ActivationPatching, model: str, console: Console) -> RenderableType:
    """Draws the two ends, then a table for each kind of activation."""
    width, pair = console.width, finding.pair
    of = " of the encoder" if finding.of_encoder else ""
    facts = f"{shape_of(model, finding.layers, finding.heads)}{of} · {plural(len(pair.clean), 'token')}"
    parts: list[RenderableType] = [Text(fold(facts, width), "bold"), Text()]
    parts += ends_lines(finding.ends, pair.clean, pair.corrupt, width)
    told, sentence = _EXPLAINED[finding.direction]
    for place in finding.tables:
        parts += [Text(), titled(_TITLES[place], f"in %: {told}", width), *_table(finding, place, console)]
    parts += [Text(), Text(fold(sentence, width), "dim")]
    return Group(*parts)


def _table(finding: ActivationPatching, place: Place, console: Console) -> list[Text]:
    shares = finding.shares(place)
    layers = [str(layer) for layer in range(len(shares))]
    if place == "head":
        heads = [f".{head}" for head in range(finding.heads)]
        return share_table(layers, heads, shares, console, "row: layer, column: head")
    return [*_by_position(finding, shares, layers, console)]


def _by_position(finding: ActivationPatching, shares: Any, layers: list[str], console: Console) -> list[Text]:
    """Draws a table with a row for each token, without the tokens before the first change, which are equal."""
    pair, base = finding.pair, 0.0 if finding.direction == "denoising" else 1.0
    moved = np.flatnonzero((np.abs(shares - base) >= 0.005).any(0))
    first = min([*pair.changed, *moved.tolist()], default=0)
    shown = list(range(first, len(pair.units)))
    if len(shown) > _MOST_ROWS:
        largest = np.argsort(-np.abs(shares - base).max(0), kind="stable")[:_MOST_ROWS]
        shown = sorted(largest.tolist())
    labels = [pair.labels(clean) for clean in (True, False)]
    names = []
    for at in shown:
        clean, corrupt = (token_label(side[at], 8) for side in labels)
        names.append(f"{at} {clean}" + (f"/{corrupt}" if at in pair.changed else ""))
    lines = share_table(names, layers, shares.T[shown], console, "row: clean/corrupt token, column: layer")
    if (left := len(pair.units) - len(shown)) > 0:
        told = f"{plural(left, 'token')} before the first change or with smaller effects: not shown"
        lines.append(Text(fold(told, console.width), "dim"))
    return lines


def patch_document(finding: ActivationPatching, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary."""
    pair = finding.pair
    return {
        "model": model,
        "layers": finding.layers,
        "heads": finding.heads,
        "tokens": pieces_document(pair.clean),
        "corrupt_tokens": pieces_document(pair.corrupt),
        "units": [[list(one), list(other)] for one, other in pair.units],
        "direction": finding.direction,
        "ends": ends_document(finding.ends),
        "shares": {place: finding.shares(place).tolist() for place in finding.tables},
    }
