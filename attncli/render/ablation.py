"""The screen of `attncli ablate`: the prediction before and after an ablation, or a table of every head's effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.ranking import ranked
from attncli.render.escape import fit, fold, token_label
from attncli.render.heading import LABEL, next_label, pieces_document, shape_of, titled, token_document
from attncli.render.numbers import bar, percent, plural
from attncli.render.palette import BAR, TITLE

if TYPE_CHECKING:
    from attncli.explain.ablation import Ablation, Effect
    from attncli.explain.next_token import NextToken

_NAMED = 10  # heads shown by name
_WIDEST_BAR = 30
_REPLACED_BY = {"zero": "zeros", "mean": "its mean over the text"}
_CAUTION = "Heads can replace one another: small effects may add up to a large one."


def ablation_screen(finding: Ablation, model: str, width: int, *, everything: bool) -> RenderableType:
    """Shows the prediction before and after one ablation.

    If `everything` is true, shows instead the heads with the largest effects, and a grid of all heads if it fits.
    """
    head = shape_of(model, finding.layers, finding.heads)
    focus = token_label(finding.pieces[finding.token], LABEL)
    question = f"What follows {focus} [{finding.token}]?"
    parts: list[RenderableType] = [Text(fold(head, width), "bold"), Text(), Text(fold(question, width), TITLE)]
    if not everything:
        return Group(*parts, _side_by_side(finding, finding.effects[0], width), Text(), *_verdict(finding, width))
    predicted = (
        f"{next_label(finding.predicted, LABEL)} {percent(finding.before.probability)}, with every head in place"
    )
    parts += [Text(fold(predicted, width)), Text(), _ranking_title(finding, width), _ranking(finding, width)]
    if (grid := _grid(finding, width)) is not None:
        parts += [Text(), titled("Every head", "change in nats", width), grid]
    caution = _CAUTION if len(_CAUTION) <= width else "Heads can replace one another."
    return Group(*parts, Text(), Text(fold(caution, width), "dim"))


def _removed(effect: Effect, room: int) -> str:
    """Returns the ablated parts in words: 'head 2.3', 'heads 2.3, 1.0', or '6 edges' if the names are too long."""
    kind, names = _names(effect)
    whole = f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return whole if cell_len(whole) <= room else plural(len(names), kind)


def _names(effect: Effect) -> tuple[str, list[str]]:
    """Returns the kind and the names of the ablated parts: 'head' and ['2.3', …], or 'edge' and ['6:4', …]."""
    if effect.heads:
        return "head", [f"{layer}.{head}" for layer, head in effect.heads]
    return "edge", [f"{query}:{source}" for query, source in effect.edges]


def _side_by_side(finding: Ablation, effect: Effect, width: int) -> Table:
    """Returns the most probable tokens before and after the ablation, in two columns."""
    room = max(min((width - 4) // 2, 40), 8)
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True, width=room, overflow="ellipsis")
    table.add_row(Text("unchanged", "dim"), Text(fit(f"without {_removed(effect, room - 8)}", room), "dim"))
    for before, after in zip(finding.before.next_tokens, effect.next_tokens, strict=True):
        table.add_row(_token_row(before, room), _token_row(after, room))
    return table


def _token_row(token: NextToken, room: int) -> Text:
    label = min(LABEL, room - 6)
    name, share = fit(next_label(token, LABEL), label), percent(token.probability)
    text = Text(name + " " * (label - cell_len(name)) + f"{share:>6}")
    drawn = bar(token.probability, max(room - label - 7, 0))
    return text.append(f" {drawn}", "green") if drawn else text


def _verdict(finding: Ablation, width: int) -> list[Text]:
    """Returns the lines below the table.

    The first line says how the probability changed. The second line says what replaced the outputs of ablated heads or,
    for edges, that they are cut in all heads. If several heads or edges are ablated, the last line lists them.
    """
    effect = finding.effects[0]
    drop = finding.drop(effect)
    change = f"{percent(finding.before.probability)} → {percent(effect.probability)}, {_nats(drop)} nats"
    lines = [f"P({next_label(finding.predicted, LABEL)}) {change}"]
    if effect.heads:
        of = "its output" if len(effect.heads) == 1 else "each output"
        lines.append(f"{of}, replaced by {_REPLACED_BY[finding.replacement]}")
    else:
        paths = "cut in all heads of all layers; other paths remain"
        lines.append(paths if len(paths) <= width else "cut in all heads and layers")
    kind, names = _names(effect)
    if len(names) > 1:
        lines.append(f"{len(names)} {kind}s: {' '.join(names)}")
    return [Text(fold(line, width), "dim" if at else "bold") for at, line in enumerate(lines)]


def _nats(drop: float) -> str:
    """Returns the change of the log-probability in nats: '-0.42' for a drop of 0.42."""
    return f"{-drop:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00")


def _ranking_title(finding: Ablation, width: int) -> Text:
    return titled("Without one head", f"its output replaced by {_REPLACED_BY[finding.replacement]}", width)


def _ranking(finding: Ablation, width: int) -> Table:
    """Returns the heads whose ablation changes the prediction most, in either direction."""
    drops = np.array([abs(finding.drop(effect)) for effect in finding.effects])
    order = ranked(drops)[:_NAMED]
    widest = max(drops[order].tolist(), default=0.0) or 1.0
    room = max(0, min(_WIDEST_BAR, width - 40))
    table = Table.grid(padding=(0, 1))
    for justify in ("right", "right", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    table.add_row(
        *(Text(name, "dim") for name in ("head", "nats", f"P({fit(next_label(finding.predicted, LABEL), 6)})")), "", ""
    )
    for effect in (finding.effects[at] for at in order):
        drop = finding.drop(effect)
        now = effect.next_tokens[0]
        turned = "" if now.id == finding.predicted.id else f"now {next_label(now, LABEL)}"
        drawn = Text(bar(abs(drop) / widest, room), BAR if drop > 0 else "yellow")
        name = f"{effect.heads[0][0]}.{effect.heads[0][1]}"
        table.add_row(name, _nats(drop), percent(effect.probability), drawn, Text(turned, "dim"))
    return table


def _grid(finding: Ablation, width: int) -> Table | None:
    """Returns a table (layers x heads): the change when each head is ablated. None if it is wider than the screen."""
    if 7 + 6 * finding.heads > width:
        return None
    table = Table.grid(padding=(0, 0))
    table.add_column(justify="right", no_wrap=True, width=7)
    for _ in range(finding.heads):
        table.add_column(justify="right", no_wrap=True, width=6)
    table.add_row(Text("layer", "dim"), *(Text(f".{head}", "dim") for head in range(finding.heads)))
    by_head = {effect.heads[0]: finding.drop(effect) for effect in finding.effects}
    for layer in range(finding.layers):
        cells = (_nats(by_head[layer, head]) for head in range(finding.heads))
        table.add_row(Text(str(layer), "dim"), *cells)
    return table


def ablation_document(finding: Ablation, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary."""
    predicted = finding.predicted
    return {
        "model": model,
        "tokens": pieces_document(finding.pieces),
        "token": finding.token,
        "replacement": finding.replacement,
        "predicted": {"id": predicted.id, "text": predicted.text},
        "before": _effect_document(finding, finding.before),
        "effects": [
            {"heads": [list(head) for head in effect.heads], "edges": [list(edge) for edge in effect.edges]}
            | _effect_document(finding, effect)
            for effect in finding.effects
        ],
    }


def _effect_document(finding: Ablation, effect: Effect) -> dict[str, Any]:
    return {
        "probability": effect.probability,
        "log_probability": effect.log_probability,
        "drop_nats": finding.drop(effect),
        "next_tokens": [token_document(token) for token in effect.next_tokens],
    }
