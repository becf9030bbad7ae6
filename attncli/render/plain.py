"""The first screen as sentences, one a line: for screen readers and logs. No boxes, no bars, no colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from attncli.explain.findings import Explanation, HeadMap
from attncli.render.console import output
from attncli.render.escape import one_line
from attncli.render.explanation import scope
from attncli.render.numbers import percent, plural
from attncli.text.tokenizer import Piece

_SOURCES = 8  # named, as on the screen
_ROWS = 40  # of the map
_NEXT = 5
_BLANKS = {" ": "space", "\n": "line end", "\t": "tab", "\r": "carriage return"}
_LEAST = 0.05  # of a row of the map that is told


def print_sentences(sentences: Sequence[str]) -> None:
    """One a line on standard output; a terminal gets long ones cut between words."""
    console = output()
    for sentence in sentences:
        console.print(Text(sentence), soft_wrap=not console.is_terminal)


def explanation_sentences(found: Explanation, model: str) -> list[str]:
    """Everything that the first screen says."""
    names = _names(found.pieces, found.unit)
    layers, heads = plural(found.layers, "layer"), plural(found.heads, "head")
    counted = plural(len(found.tokens), "token") + (f", {plural(len(found.pieces), 'word')}" if found.words else "")
    return [
        f"The model {one_line(model)} has {layers} of {heads}. The text has {counted}.",
        *_shares(found, names),
        *_map(found.map, names, found.unit),
        *_next(found, names),
        "A share says where information comes from, not what it is worth to the prediction.",
    ]


def spoken(text: str) -> str:
    """A token's text as it is said: 'river', '"."', 'a space', '2 line ends'."""
    word = text.strip()
    if word:
        shown = one_line(word)
        return shown if any(char.isalnum() for char in word) else f'"{shown}"'
    if not text:
        return "nothing"
    kinds = set(text)
    if len(kinds) > 1:
        return "white space"
    blank = _BLANKS.get(text[0], "blank")
    return f"a {blank}" if len(text) == 1 else f"{len(text)} {blank}s"


def _names(pieces: Sequence[Piece], unit: str) -> list[str]:
    """What each token is called: with its index where two would be called the same."""
    names = [spoken(piece.text) for piece in pieces]
    for at, piece in enumerate(pieces):
        if piece.part != (1, 1):
            names[at] += f", part {piece.part[0]} of {piece.part[1]}"
    common = Counter(names)
    return [f"{name} ({unit} {at})" if common[name] > 1 else name for at, name in enumerate(names)]


def _shares(found: Explanation, names: Sequence[str]) -> list[str]:
    sources, focus = found.sources, names[found.sources.focus]
    measure = "shares of information" if sources.weights == "norm" else "raw attention weights"
    apart = sources.focus > 1
    ranked = sorted(range(1 if apart else 0, sources.focus + 1), key=lambda at: -sources.shares[at])
    lines = [
        f"Where does {focus}, {found.unit} {sources.focus}, get its information? In {measure}, {scope(sources, found)}:"
    ]
    for at in ranked[:_SOURCES]:
        source = "itself" if at == sources.focus else names[at]
        lines.append(f"{focus} takes {percent(float(sources.shares[at]))} from {source}.")
    if rest := ranked[_SOURCES:]:
        others = f"another {found.unit}" if len(rest) == 1 else f"{len(rest)} other {found.unit}s"
        lines.append(f"{focus} takes {percent(float(sources.shares[rest].sum()))} from {others}.")
    if apart:
        share, raw = percent(float(sources.shares[0])), percent(float(sources.raw[0]))
        lines.append(
            f"{focus} takes {share} from the first {found.unit}, {names[0]}, which has {raw} of the raw attention."
        )
    return lines


def _map(head: HeadMap, names: Sequence[str], unit: str) -> list[str]:
    asked = "you asked for" if head.asked_for else f"that brings most from other {unit}s"
    lines = [f"In head {head.layer}.{head.head}, the one {asked}:"]
    rows = range(head.first_row, head.first_row + len(head.weights))
    for row in rows[:_ROWS]:
        weights = head.weights[row - head.first_row, : row + 1]
        told = sorted(range(row + 1), key=lambda at: -weights[at])[:2]
        seen = [
            f"at {'itself' if at == row else names[at]} with {percent(float(weights[at]))}"
            for at in told
            if at == told[0] or weights[at] >= _LEAST
        ]
        lines.append(f"{names[row]} looks {' and '.join(seen)}.")
    if len(rows) < len(names):
        lines.append(f"These are {unit}s {rows[0]} to {rows[-1]} of {len(names):,}.")
    elif len(names) > _ROWS:
        lines.append(f"There are {len(names) - _ROWS:,} more; --json gives all.")
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = percent(head.previous_token), percent(head.previous_token_chance)
        lines.append(f"On average a {unit} looks at the one before with {score}; even attention would give {chance}.")
    return lines


def _next(found: Explanation, names: Sequence[str]) -> list[str]:
    focus = found.sources.focus
    lines = [f"What may come after {names[focus]}, at temperature 1:"]
    for token in found.next_tokens[:_NEXT]:
        number = f", id {token.id}," if "\N{REPLACEMENT CHARACTER}" in token.text else ""
        lines.append(f"{spoken(token.text)}{number} with {percent(token.probability)}.")
    return lines
