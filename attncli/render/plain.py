"""The first screen as sentences, one on each line, without bars and colors: for screen readers and logs.

A screen reader skips a lone comma, so punctuation is called by its Unicode name.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from attncli.explain.ranking import ranked
from attncli.render.console import output
from attncli.render.escape import one_line
from attncli.render.first_screen import apart_name, averaged, candidate_of, elsewhere, further_views, not_counted, scope
from attncli.render.head_map import others
from attncli.render.heading import of_attention
from attncli.render.numbers import percent, plural
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.checks import EdgeChecks
    from attncli.explain.first_screen import Explanation

_ROWS = 40  # the most rows of the map, and the most tokens listed
_NEXT = 5
_BLANKS = {" ": "space", "\n": "line end", "\t": "tab", "\r": "carriage return"}
_LEAST = 0.05  # the least weight that a sentence about a row of the map mentions


def print_sentences(sentences: Sequence[str]) -> None:
    """Prints one sentence on each line. On a terminal, long sentences are wrapped between words."""
    console = output()
    for sentence in sentences:
        console.print(Text(sentence), soft_wrap=not console.is_terminal)


def explanation_sentences(finding: Explanation, model: str) -> list[str]:
    """Returns the content of the first screen, sentence by sentence."""
    names = _names(finding)
    layers, heads = plural(finding.layers, "layer"), plural(finding.heads, "head")
    counted = plural(len(finding.tokens), "token") + (
        f", {plural(len(finding.pieces), 'word')}" if finding.words else ""
    )
    return [
        f"The model {one_line(model)} has {layers} of {heads}. {_text(finding, counted)}",
        *_shares(finding, names),
        *(_random_cut(finding, finding.checks, scope(finding.sources, finding)) if finding.checks else []),
        f"{not_counted(finding.sources, finding.axes).capitalize()}.",
        *_map(finding),
        *(_next(finding) if finding.next_tokens else []),
        "A share says how much attention brings from a token, not whether the prediction needs it"
        + (": that is what a cut shows." if finding.checks else "."),
        _more(finding),
    ]


def spoken(text: str) -> str:
    """Returns a token's text as a screen reader should say it: 'river', 'comma', '"!?"', 'a space', '2 line ends'."""
    word = text.strip()
    if word:
        shown = one_line(word)
        if any(char.isalnum() for char in word):
            return shown
        return unicodedata.name(word, f'"{shown}"').lower() if len(word) == 1 else f'"{shown}"'
    if not text:
        return "nothing"
    kinds = set(text)
    if len(kinds) > 1:
        return "white space"
    blank = _BLANKS.get(text[0], "blank")
    return f"a {blank}" if len(text) == 1 else f"{len(text)} {blank}s"


def _text(finding: Explanation, counted: str) -> str:
    """Returns sentences that list the tokens or words of the texts, with the numbers that --token takes."""
    axes, unit = finding.axes, finding.unit
    if axes.part in ("cross", "both"):
        source = axes.columns[: axes.sources] if axes.part == "both" else axes.columns
        count = plural(len(source), unit), plural(len(axes.rows), unit)
        return (
            f"The source has {count[0]}: {_listed(source, 0)}. "
            f"The target has {count[1]}: {_listed(axes.rows, axes.first)}."
        )
    if axes.part == "decoder":
        return f"The target has {plural(len(axes.rows), unit)}: {_listed(axes.rows, axes.first)}."
    text = "source" if axes.part == "encoder" else "text"
    return f"The {text} has {counted}: {_listed(axes.columns, 0)}."


def _listed(pieces: Sequence[Piece], first: int) -> str:
    """Returns the tokens with their numbers: '0 he, 1 sat'."""
    listed = ", ".join(f"{at} {spoken(piece.text)}" for at, piece in enumerate(pieces[:_ROWS], first))
    return listed + (f" and {len(pieces) - _ROWS:,} more" if len(pieces) > _ROWS else "")


def _names(finding: Explanation) -> list[str]:
    """Returns the name of each source; in a translation with its text, such as 'dog of the source'."""
    axes, unit = finding.axes, finding.unit
    if not axes.sources:
        return _distinct(axes.columns, unit)
    texts = axes.columns[: axes.sources], axes.columns[axes.sources :]
    return [
        f"{name} of the {text}"
        for text, pieces in zip(("source", "target"), texts, strict=True)
        for name in _distinct(pieces, unit)
    ]


def _distinct(pieces: Sequence[Piece], unit: str, first: int = 0) -> list[str]:
    """Returns the name of each token. The index is added if two tokens would have the same name."""
    names = [_name(piece) for piece in pieces]
    common = Counter(names)
    return [
        _name(piece, f"{unit} {at}" if common[name] > 1 else "")
        for at, (piece, name) in enumerate(zip(pieces, names, strict=True), first)
    ]


def _name(piece: Piece, at: str = "") -> str:
    """Returns the spoken name of a token: 'river', 'the (token 4)', '東 (part 1 of 3)'."""
    notes = [f"part {piece.part[0]} of {piece.part[1]}"] if piece.part != (1, 1) else []
    notes += [at] if at else []
    return spoken(piece.text) + (f" ({', '.join(notes)})" if notes else "")


def _shares(finding: Explanation, names: Sequence[str]) -> list[str]:
    sources, axes, unit = finding.sources, finding.axes, finding.unit
    focus, own = _focus_name(finding), axes.itself(sources.focus)
    measure = "shares of what attention brings" if sources.weights == "norm" else "raw attention weights"
    ranked = sources.ranked()
    goal = "get its information" if axes.first == 0 else "come from"
    question = f"Where does {unit} {axes.row_index(sources.focus)}, {_name(finding.focus)}, {goal}?"
    lines = [f"{question} In {measure}, {scope(sources, finding)}:"]
    if finding.checks:
        likely, now = _likely(finding.checks), percent(finding.checks.token.probability)
        predicted = f"The most probable next token is {likely}, with {now}"
        if axes.first:
            predicted = f"The probability of {likely} is {now}"
        lines.append(f"{predicted}; each cut shows the probability that is left.")
    cuts = _cuts(finding.checks)
    for at in ranked[: finding.named]:
        source = "itself" if at == own else names[at]
        lines.append(f"{focus} takes {percent(float(sources.shares[at]))} from {source}{cuts.get(at, '')}.")
    if rest := ranked[finding.named :]:
        others = f"another {unit}" if len(rest) == 1 else f"{len(rest)} other {unit}s"
        lines.append(f"{focus} takes {percent(float(sources.shares[rest].sum()))} from {others}.")
    kind = apart_name(finding)
    for at in sources.apart:
        share, raw = percent(float(sources.shares[at])), percent(float(sources.raw[at]))
        apart = f"the {kind}, {names[at]}, which has {raw} of the raw attention"
        lines.append(f"{focus} takes {share} from {apart}{cuts.get(at, '')}.")
    return lines


def _focus_name(finding: Explanation) -> str:
    """Returns the name of the token in focus, with its index if another row has the same name."""
    axes = finding.axes
    return _distinct(axes.rows, finding.unit, axes.first)[finding.sources.focus]


def _likely(checks: EdgeChecks) -> str:
    number = f", id {checks.token.id}" if "\N{REPLACEMENT CHARACTER}" in checks.token.text else ""
    return spoken(checks.token.text) + number


def _cuts(checks: EdgeChecks | None) -> dict[int, str]:
    """Returns the end of the sentence on each source that was cut: '; with it cut off, river has 9%, not 21%'."""
    if checks is None:
        return {}
    cuts = zip(checks.sources, checks.probabilities, strict=True)
    return {at: f"; with it cut off, {_left(checks, probability)}" for at, probability in cuts}


def _left(checks: EdgeChecks, probability: float) -> str:
    before, left = percent(checks.token.probability), percent(probability)
    return f"{_likely(checks)} " + (f"still has {before}" if left == before else f"has {left}, not {before}")


def _random_cut(finding: Explanation, checks: EdgeChecks, where: str) -> list[str]:
    unit = finding.unit
    lines = [f"Cut off means that the {unit} can no longer look there, in {where}."]
    if checks.random is not None:
        of = averaged(checks, finding).removeprefix("the ")
        it = " it" if of.endswith("before") else ""
        lines.append(f"With a source at random cut off, {_left(checks, checks.random)}: the {of}{it}.")
    return lines


def _map(finding: Explanation) -> list[str]:
    head, unit = finding.map, finding.unit
    axes = head.axes
    names, rows = _distinct(axes.columns, unit), range(head.first_row, head.first_row + len(head.weights))
    looks = "is predicted by looking" if axes.first else "looks"
    lines = [f"In head {head.layer}.{head.head}{of_attention(axes)}, {_chosen(finding)}, by attention weight:"]
    for row in rows[:_ROWS]:
        weights = head.weights[row - head.first_row, : axes.reach[row]]
        most, *second = ranked(weights)[:2]
        seen = [
            f"at {'itself' if at == axes.itself(row) else names[at]} with {percent(float(weights[at]))}"
            for at in (most, *(at for at in second if weights[at] >= _LEAST))
        ]
        token = f"{unit.capitalize()} {axes.row_index(row)}, {_name(axes.rows[row])}"
        lines.append(f"{token}, {looks} {' and '.join(seen)}.")
    if len(rows) < len(axes.rows):
        lines.append(
            f"These are {unit}s {axes.row_index(rows[0])} to {axes.row_index(rows[-1])} of {len(axes.rows):,}."
        )
    elif len(axes.rows) > _ROWS:
        lines.append(f"There are {len(axes.rows) - _ROWS:,} more; --json gives all.")
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = percent(head.previous_token), percent(head.previous_token_chance)
        lines.append(f"On average a {unit} looks at the one before with {score}; even attention would give {chance}.")
    return lines


def _chosen(finding: Explanation) -> str:
    """Says why the head of the map is shown."""
    if finding.map.aligning is not None:
        agrees = "whose links agree best with what the predictions lose without each source token"
        return agrees if finding.map.agrees else "which is sharp and covers the source"
    if finding.map.asked_for:
        return "the one you asked for"
    if finding.sources.reach == 1:
        return f"which like all heads brings nothing from {others(finding)}"
    return f"the one that brings most from {others(finding)}"


def _next(finding: Explanation) -> list[str]:
    focus = _focus_name(finding)
    of = f"{candidate_of(finding)} " if finding.words else ""
    said = f"What may come after {focus}" if finding.axes.predicts_next else f"Candidates for {of}{focus}"
    lines = [f"{said}, at temperature {finding.temperature:g}:"]
    for token in finding.next_tokens[:_NEXT]:
        number = f", id {token.id}," if "\N{REPLACEMENT CHARACTER}" in token.text else ""
        lines.append(f"{spoken(token.text)}{number} with {percent(token.probability)}.")
    return lines


def _more(finding: Explanation) -> str:
    """Returns the options to try next."""
    views = further_views(finding)
    others = f"; or without --plain: {', '.join(views)}" if views else ""
    return f"To go on, add one of: {', '.join([*elsewhere(finding), '--json'])}{others}."
