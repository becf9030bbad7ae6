"""The screen of `attncli ablate`: the prediction before and after an ablation, or a table of every head's effect."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.ranking import ranked
from attncli.render.escape import fit, fold, token_label
from attncli.render.heading import (
    ATTENTIONS,
    LABEL,
    heading,
    heading_document,
    named_row,
    next_label,
    pieces_document,
    prediction_of,
    shape_of,
    titled,
    token_document,
)
from attncli.render.numbers import bar, percent, plural
from attncli.render.palette import BAR, TITLE

if TYPE_CHECKING:
    from attncli.explain.ablation import Ablation, Effect
    from attncli.explain.defaults import AttentionPart
    from attncli.explain.next_token import NextToken

_NAMED = 10  # heads shown by name, or tokens of a translation
_WIDEST_BAR = 30
_REPLACED_BY = {"zero": "zeros", "mean": "its mean over the text"}
_CAUTION = "Heads can replace one another: small effects may add up to a large one."
_TRANSLATION = "translation"  # what is measured, if it is not one token


def ablation_screen(finding: Ablation, model: str, width: int, *, everything: bool) -> RenderableType:
    """Shows the prediction before and after one ablation.

    If `everything` is true, shows instead the heads with the largest effects, and a grid of all heads if it fits.
    """
    parts: list[RenderableType] = [
        _heading(finding, model, width),
        Text(),
        Text(fold(_question(finding), width), TITLE),
    ]
    if not everything:
        effect = finding.effects[0]
        table = _side_by_side if finding.token is not None else _token_by_token
        return Group(*parts, table(finding, effect, width), Text(), *_verdict(finding, width))
    measured = "" if finding.predicted is None else f"{next_label(finding.predicted, LABEL)} "
    nats = f", {finding.before.log_probability:.2f} nats" if finding.predicted is None else ""
    predicted = f"{measured}{percent(finding.before.probability)}{nats}, with every head in place"
    parts += [Text(fold(predicted, width)), Text(), _ranking_title(finding, width), _ranking(finding, width)]
    if (grids := list(_grids(finding, width))) != []:
        parts += [Text(), titled("Every head", "change in nats", width), *grids]
    caution = _CAUTION if len(_CAUTION) <= width else "Heads can replace one another."
    return Group(*parts, Text(), Text(fold(caution, width), "dim"))


def _heading(finding: Ablation, model: str, width: int) -> Text:
    if finding.axes.part is None:
        return Text(fold(shape_of(model, finding.layers, finding.heads), width), "bold")
    encoder = finding.parts.get("encoder", 0)
    return heading(finding.axes, finding.layers, finding.heads, model, width, encoder_layers=encoder)


def _question(finding: Ablation) -> str:
    """Returns the title of the screen, which says what is measured."""
    if finding.token is None:
        return "How probable is the translation?"
    if finding.axes.part is not None:
        return f"How probable is {named_row(finding.axes, finding.token)}?"
    title = prediction_of(finding.axes, finding.token)
    return f"{title}?" if title.startswith("What") else title


def _removed(finding: Ablation, effect: Effect, room: int) -> str:
    """Returns what is ablated in words: 'head 2.3', 'cross heads 2.3, 1.0', or '6 edges' if the names are too long."""
    kind, names = _names(finding, effect)
    whole = f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
    whole = whole if effect.part is None else f"{effect.part} {whole}"
    return whole if cell_len(whole) <= room else plural(len(names), kind)


def _names(finding: Ablation, effect: Effect) -> tuple[str, list[str]]:
    """Returns the kind and the names of the ablated parts: 'head' and ['2.3', …], or 'edge' and ['6:4', …]."""
    if effect.heads:
        return "head", [f"{layer}.{head}" for layer, head in effect.heads]
    return "edge", [f"{query}:{source}" for query, source in finding.named_edges(effect)]


def _side_by_side(finding: Ablation, effect: Effect, width: int) -> Table:
    """Returns the most probable tokens before and after the ablation, in two columns."""
    room = max(min((width - 4) // 2, 40), 8)
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True, width=room, overflow="ellipsis")
    removed = _removed(finding, effect, room - 8)
    table.add_row(Text("unchanged", "dim"), Text(fit(f"without {removed}", room), "dim"))
    for before, after in zip(finding.before.next_tokens, effect.next_tokens, strict=True):
        table.add_row(_token_row(before, room), _token_row(after, room))
    return table


def _token_row(token: NextToken, room: int) -> Text:
    label = min(LABEL, room - 6)
    name, share = fit(next_label(token, LABEL), label), percent(token.probability)
    text = Text(name + " " * (label - cell_len(name)) + f"{share:>6}")
    drawn = bar(token.probability, max(room - label - 7, 0))
    return text.append(f" {drawn}", "green") if drawn else text


def _token_by_token(finding: Ablation, effect: Effect, width: int) -> Table:
    """Returns the probability of each token of a translation before and after the ablation.

    The tokens are in the order of the text. Of a long translation, only those that change most are shown.
    """
    changes = np.subtract(effect.by_token, finding.before.by_token)
    shown = sorted(ranked(np.abs(changes))[:_NAMED])
    widest = float(np.abs(changes).max()) or 1.0
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    removed = _removed(finding, effect, max(width - 50, 10))
    table.add_row(Text(), *(Text(name, "dim") for name in ("unchanged", "without", "nats", removed)))
    for at in shown:
        before, after = (percent(math.exp(one.by_token[at])) for one in (finding.before, effect))
        name = named_row(finding.axes, finding.measured[at], min(LABEL, max(width - 34, 4)))
        drawn = bar(abs(float(changes[at])) / widest, max(0, min(_WIDEST_BAR, width - 50)))
        table.add_row(
            name, before, after, _nats(-float(changes[at])), Text(drawn, BAR if changes[at] < 0 else "yellow")
        )
    if (left := len(changes) - len(shown)) > 0:
        table.add_row(Text(f"{left} more", "dim"), *[Text()] * 4)
    return table


def _measured_label(finding: Ablation, width: int) -> str:
    """Returns the name of what is measured: the label of a token, or 'translation'."""
    return _TRANSLATION if finding.predicted is None else fit(next_label(finding.predicted, LABEL), width)


def _verdict(finding: Ablation, width: int) -> list[Text]:
    """Returns the lines below the table.

    The first line says how the probability changed. The second line says what replaced the outputs of ablated heads or,
    for edges, in which heads they are cut. If several heads or edges are ablated, the last line lists them.
    """
    effect = finding.effects[0]
    drop = finding.drop(effect)
    change = f"{percent(finding.before.probability)} → {percent(effect.probability)}, {_nats(drop)} nats"
    lines = [f"P({_measured_label(finding, LABEL)}) {change}"]
    if effect.heads:
        of = "its output" if len(effect.heads) == 1 else "each output"
        lines.append(f"{of}, replaced by {_REPLACED_BY[finding.replacement]}")
    else:
        of = "" if effect.part is None else f" of {ATTENTIONS[effect.part]}"
        paths = f"cut in all heads{of or ' of all layers'}; other paths remain"
        lines.append(paths if cell_len(paths) <= width else f"cut in all heads{of or ' and layers'}")
    kind, names = _names(finding, effect)
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
    named = finding.axes.part is not None
    room = max(0, min(_WIDEST_BAR, width - (48 if named else 40)))
    table = Table.grid(padding=(0, 1))
    if named:
        table.add_column(no_wrap=True)
    for justify in ("right", "right", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    probability = "P" if finding.predicted is None else f"P({_measured_label(finding, 6)})"
    names = *([""] if named else []), "head", "nats", probability, "", _last_column(finding)
    table.add_row(*(Text(name, "dim") for name in names))
    for effect in (finding.effects[at] for at in order):
        drop = finding.drop(effect)
        drawn = Text(bar(abs(drop) / widest, room), BAR if drop > 0 else "yellow")
        head = [*([effect.part] if effect.part else []), f"{effect.heads[0][0]}.{effect.heads[0][1]}"]
        turned = Text(_consequence(finding, effect), "dim")
        table.add_row(*head, _nats(drop), percent(effect.probability), drawn, turned)
    return table


def _last_column(finding: Ablation) -> str:
    return "most of it on" if finding.token is None else ""


def _consequence(finding: Ablation, effect: Effect) -> str:
    """Returns the new most probable token, if it has changed; for a translation, the token that changes most."""
    if finding.token is None:
        changes = np.abs(np.subtract(effect.by_token, finding.before.by_token))
        return token_label(finding.axes.rows[finding.measured[int(changes.argmax())]], LABEL)
    now = effect.next_tokens[0]
    return "" if now.id == finding.before.next_tokens[0].id else f"now {next_label(now, LABEL)}"


def _grids(finding: Ablation, width: int) -> Iterator[Table]:
    """Yields a table (layers x heads) for each attention: the change when each head is ablated.

    Yields nothing if a table would be wider than the screen.
    """
    cell = max(6, 1 + max(len(_nats(finding.drop(effect))) for effect in finding.effects))
    if 7 + cell * finding.heads > width:
        return
    stacks: list[tuple[AttentionPart | None, int]] = [*finding.parts.items()] or [(None, finding.layers)]
    for part, layers in stacks:
        table = Table.grid(padding=(0, 0))
        table.add_column(justify="right", no_wrap=True, width=7)
        for _ in range(finding.heads):
            table.add_column(justify="right", no_wrap=True, width=cell)
        table.add_row(Text(part or "layer", "dim"), *(Text(f".{head}", "dim") for head in range(finding.heads)))
        by_head = {effect.heads[0]: finding.drop(effect) for effect in finding.effects if effect.part == part}
        for layer in range(layers):
            cells = (_nats(by_head[layer, head]) for head in range(finding.heads))
            table.add_row(Text(str(layer), "dim"), *cells)
        yield table


def ablation_document(finding: Ablation, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary."""
    predicted, axes = finding.predicted, finding.axes
    one_stack = {"model": model, "tokens": pieces_document(axes.columns)}
    shape = finding.layers, finding.heads
    return {
        **(one_stack if axes.part is None else _translation_document(finding, heading_document(axes, *shape, model))),
        "token": None if finding.token is None else axes.row_index(finding.token),
        "replacement": finding.replacement,
        "predicted": None if predicted is None else {"id": predicted.id, "text": predicted.text},
        "before": _effect_document(finding, finding.before),
        "effects": [
            ({} if effect.part is None else {"part": effect.part})
            | {
                "heads": [list(head) for head in effect.heads],
                "edges": [list(edge) for edge in finding.named_edges(effect)],
            }
            | _effect_document(finding, effect)
            for effect in finding.effects
        ],
    }


def _translation_document(finding: Ablation, heading: dict[str, Any]) -> dict[str, Any]:
    """Returns the heading of a translation: the tokens of both texts, and the numbers of layers by attention."""
    return {
        "model": heading["model"],
        "layers": dict(finding.parts),
        "heads": finding.heads,
        "tokens": heading["tokens"],
        "queries": heading["queries"],
    }


def _effect_document(finding: Ablation, effect: Effect) -> dict[str, Any]:
    document = {
        "probability": effect.probability,
        "log_probability": effect.log_probability,
        "drop_nats": finding.drop(effect),
        "next_tokens": [token_document(token) for token in effect.next_tokens],
    }
    if finding.token is not None:
        return document
    tokens = [
        {"index": finding.axes.row_index(row), "log_probability": nats}
        for row, nats in zip(finding.measured, effect.by_token, strict=True)
    ]
    return document | {"by_token": tokens}
