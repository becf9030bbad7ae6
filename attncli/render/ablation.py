"""What heads and edges are worth to a prediction: one of them in full, or every head in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fit, fold, label_text, one_line, token_label
from attncli.render.heading import pieces_document
from attncli.render.numbers import bar, percent, plural

if TYPE_CHECKING:
    from attncli.explain.ablation import Ablation, Effect
    from attncli.explain.next_token import NextToken

_LABEL = 14  # cells of a token's label
_NAMED = 10  # heads shown by name
_WIDEST_BAR = 30
_REPLACED_BY = {"zero": "zeros", "mean": "its mean over the text"}
_CAUTION = "Heads stand in for one another: what is little alone may be much together."


def ablation_screen(found: Ablation, model: str, width: int, *, everything: bool) -> RenderableType:
    """The prediction before and after; with `everything` the heads that matter most, and all of them as a grid."""
    head = f"{one_line(model)} · {plural(found.layers, 'layer')} x {plural(found.heads, 'head')}"
    focus = token_label(found.pieces[found.token], _LABEL)
    question = f"What follows {focus} [{found.token}]?"
    parts: list[RenderableType] = [Text(fold(head, width), "bold"), Text(), Text(fold(question, width), "bold cyan")]
    if not everything:
        return Group(*parts, _side_by_side(found, found.effects[0], width), Text(), *_verdict(found, width))
    predicted = f"{_named(found.predicted)} {percent(found.before.probability)}, with every head in place"
    parts += [Text(fold(predicted, width)), Text(), _ranking_title(found, width), _ranking(found, width)]
    if (grid := _grid(found, width)) is not None:
        parts += [Text(), Text(fit("Every head", width), "bold cyan").append("  change in nats", "not bold dim"), grid]
    caution = _CAUTION if len(_CAUTION) <= width else "Heads can stand in for one another."
    return Group(*parts, Text(), Text(fold(caution, width), "dim"))


def _named(token: NextToken) -> str:
    """A token's label; of bytes that are no character also the id, since they look alike."""
    number = f" #{token.id}" if "\N{REPLACEMENT CHARACTER}" in token.text else ""
    return fit(label_text(token.text) + number, _LABEL)


def _removed(effect: Effect, room: int) -> str:
    """'head 2.3', 'edge 6:4', 'heads 2.3, 1.0'; where that is too long '6 edges'."""
    kind, names = _names(effect)
    whole = f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return whole if cell_len(whole) <= room else plural(len(names), kind)


def _names(effect: Effect) -> tuple[str, list[str]]:
    """What was taken away: 'head' and '2.3', …, or 'edge' and '6:4', …"""
    if effect.heads:
        return "head", [f"{layer}.{head}" for layer, head in effect.heads]
    return "edge", [f"{query}:{source}" for query, source in effect.edges]


def _side_by_side(found: Ablation, effect: Effect, width: int) -> Table:
    """The most probable tokens before and after."""
    room = max(min((width - 4) // 2, 40), 8)
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True, width=room, overflow="ellipsis")
    table.add_row(Text("as it is", "dim"), Text(fit(f"without {_removed(effect, room - 8)}", room), "dim"))
    for before, after in zip(found.before.next_tokens, effect.next_tokens, strict=True):
        table.add_row(_token_row(before, room), _token_row(after, room))
    return table


def _token_row(token: NextToken, room: int) -> Text:
    label = min(_LABEL, room - 6)
    name, share = fit(_named(token), label), percent(token.probability)
    text = Text(name + " " * (label - cell_len(name)) + f"{share:>6}")
    drawn = bar(token.probability, max(room - label - 7, 0))
    return text.append(f" {drawn}", "green") if drawn else text


def _verdict(found: Ablation, width: int) -> list[Text]:
    """What it is worth, and what stood in its place."""
    effect = found.effects[0]
    drop = found.drop(effect)
    change = f"{percent(found.before.probability)} → {percent(effect.probability)}, {_nats(drop)} nats"
    lines = [f"P({_named(found.predicted)}) {change}"]
    if effect.heads:
        of = "what it gives" if len(effect.heads) == 1 else "what each gives"
        lines.append(f"{of}, replaced by {_REPLACED_BY[found.replacement]}")
    else:
        paths = "cut in all heads of all layers; other paths remain"
        lines.append(paths if len(paths) <= width else "cut in all heads and layers")
    kind, names = _names(effect)
    if len(names) > 1:
        lines.append(f"{len(names)} {kind}s: {' '.join(names)}")
    return [Text(fold(line, width), "dim" if at else "bold") for at, line in enumerate(lines)]


def _nats(drop: float) -> str:
    """The change of the log-probability: -0.42 for a loss."""
    return f"{-drop:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00")


def _ranking_title(found: Ablation, width: int) -> Text:
    title = Text("Without one head", "bold cyan")
    facts = f"its output replaced by {_REPLACED_BY[found.replacement]}"
    joint = "  " if cell_len(title.plain + facts) + 2 <= width else "\n"
    return title.append(joint + fold(facts, width), "not bold dim")


def _ranking(found: Ablation, width: int) -> Table:
    """The heads whose absence changes most, in either direction."""
    ranked = sorted(found.effects, key=lambda effect: -abs(found.drop(effect)))[:_NAMED]
    widest = max((abs(found.drop(effect)) for effect in ranked), default=0.0) or 1.0
    room = max(0, min(_WIDEST_BAR, width - 40))
    table = Table.grid(padding=(0, 1))
    for justify in ("right", "right", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    table.add_row(*(Text(name, "dim") for name in ("head", "nats", f"P({fit(_named(found.predicted), 6)})")), "", "")
    for effect in ranked:
        drop = found.drop(effect)
        now = effect.next_tokens[0]
        turned = "" if now.id == found.predicted.id else f"now {_named(now)}"
        drawn = Text(bar(abs(drop) / widest, room), "cyan" if drop > 0 else "yellow")
        name = f"{effect.heads[0][0]}.{effect.heads[0][1]}"
        table.add_row(name, _nats(drop), percent(effect.probability), drawn, Text(turned, "dim"))
    return table


def _grid(found: Ablation, width: int) -> Table | None:
    """Layers x heads, where that fits."""
    if 7 + 6 * found.heads > width:
        return None
    table = Table.grid(padding=(0, 0))
    table.add_column(justify="right", no_wrap=True, width=7)
    for _ in range(found.heads):
        table.add_column(justify="right", no_wrap=True, width=6)
    table.add_row(Text("layer", "dim"), *(Text(f".{head}", "dim") for head in range(found.heads)))
    by_head = {effect.heads[0]: found.drop(effect) for effect in found.effects}
    for layer in range(found.layers):
        cells = (_nats(by_head[layer, head]) for head in range(found.heads))
        table.add_row(Text(str(layer), "dim"), *cells)
    return table


def ablation_document(found: Ablation, model: str) -> dict[str, Any]:
    """The same for programs."""
    predicted = found.predicted
    return {
        "model": model,
        "tokens": pieces_document(found.pieces),
        "token": found.token,
        "replacement": found.replacement,
        "predicted": {"id": predicted.id, "text": predicted.text},
        "before": _effect_document(found, found.before),
        "effects": [
            {"heads": [list(head) for head in effect.heads], "edges": [list(edge) for edge in effect.edges]}
            | _effect_document(found, effect)
            for effect in found.effects
        ],
    }


def _effect_document(found: Ablation, effect: Effect) -> dict[str, Any]:
    return {
        "probability": effect.probability,
        "log_probability": effect.log_probability,
        "drop_nats": found.drop(effect),
        "next_tokens": [{"id": t.id, "text": t.text, "probability": t.probability} for t in effect.next_tokens],
    }
