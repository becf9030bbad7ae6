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
from attncli.render.first_screen import averaged, elsewhere, not_counted, scope
from attncli.render.head_map import others
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
    names = _names(finding.pieces, finding.unit)
    layers, heads = plural(finding.layers, "layer"), plural(finding.heads, "head")
    counted = plural(len(finding.tokens), "token") + (
        f", {plural(len(finding.pieces), 'word')}" if finding.words else ""
    )
    return [
        f"The model {one_line(model)} has {layers} of {heads}. {_text(finding, counted)}",
        *_shares(finding, names),
        *(_random_cut(finding.checks, scope(finding.sources, finding), finding.unit) if finding.checks else []),
        f"{not_counted(finding.sources).capitalize()}.",
        *_map(finding, names),
        *_next(finding, names),
        "A share says how much attention brings from a token, not whether the prediction needs it"
        + (": that is what a cut shows." if finding.checks else "."),
        f"To go on, add one of: {', '.join([*elsewhere(finding), '--json'])}; "
        "or without --plain: --view grid, --view logit, --view lens.",
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
    """Returns a sentence that lists the tokens or words of the text, with the numbers that --token takes."""
    listed = ", ".join(f"{at} {spoken(piece.text)}" for at, piece in enumerate(finding.pieces[:_ROWS]))
    more = f" and {len(finding.pieces) - _ROWS:,} more" if len(finding.pieces) > _ROWS else ""
    return f"The text has {counted}: {listed}{more}."


def _names(pieces: Sequence[Piece], unit: str) -> list[str]:
    """Returns the name of each token. The index is added if two tokens would have the same name."""
    names = [_name(piece) for piece in pieces]
    common = Counter(names)
    return [_name(piece, f"{unit} {at}" if common[names[at]] > 1 else "") for at, piece in enumerate(pieces)]


def _name(piece: Piece, at: str = "") -> str:
    """Returns the spoken name of a token: 'river', 'the (token 4)', '東 (part 1 of 3)'."""
    notes = [f"part {piece.part[0]} of {piece.part[1]}"] if piece.part != (1, 1) else []
    notes += [at] if at else []
    return spoken(piece.text) + (f" ({', '.join(notes)})" if notes else "")


def _shares(finding: Explanation, names: Sequence[str]) -> list[str]:
    sources, focus = finding.sources, names[finding.sources.focus]
    measure = "shares of what attention brings" if sources.weights == "norm" else "raw attention weights"
    ranked = sources.ranked()
    question = (
        f"Where does {finding.unit} {sources.focus}, {_name(finding.pieces[sources.focus])}, get its information?"
    )
    lines = [f"{question} In {measure}, {scope(sources, finding)}:"]
    if finding.checks:
        likely, now = _likely(finding.checks), percent(finding.checks.token.probability)
        lines.append(
            f"The most probable next token is {likely}, with {now}; each cut shows the probability that is left."
        )
    cuts = _cuts(finding.checks)
    for at in ranked[: finding.named]:
        source = "itself" if at == sources.focus else names[at]
        lines.append(f"{focus} takes {percent(float(sources.shares[at]))} from {source}{cuts.get(at, '')}.")
    if rest := ranked[finding.named :]:
        others = f"another {finding.unit}" if len(rest) == 1 else f"{len(rest)} other {finding.unit}s"
        lines.append(f"{focus} takes {percent(float(sources.shares[rest].sum()))} from {others}.")
    if sources.first_is_apart:
        share, raw = percent(float(sources.shares[0])), percent(float(sources.raw[0]))
        first = f"the first {finding.unit}, {names[0]}, which has {raw} of the raw attention"
        lines.append(f"{focus} takes {share} from {first}{cuts.get(0, '')}.")
    return lines


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


def _random_cut(checks: EdgeChecks, where: str, unit: str) -> list[str]:
    lines = [f"Cut off means that the {unit} can no longer look there, in {where}."]
    if checks.random is not None:
        of = averaged(checks, unit).removeprefix("the ")
        lines.append(f"With a source at random cut off, {_left(checks, checks.random)}: the {of} it.")
    return lines


def _map(finding: Explanation, names: Sequence[str]) -> list[str]:
    head = finding.map
    if head.asked_for:
        chosen = "the one you asked for"
    elif finding.sources.focus == 0:
        chosen = f"which like all heads brings nothing from {others(finding)}"
    else:
        chosen = f"the one that brings most from {others(finding)}"
    lines = [f"In head {head.layer}.{head.head}, {chosen}, by attention weight:"]
    rows = range(head.first_row, head.first_row + len(head.weights))
    for row in rows[:_ROWS]:
        weights = head.weights[row - head.first_row, : row + 1]
        most, *second = ranked(weights)[:2]
        seen = [
            f"at {'itself' if at == row else names[at]} with {percent(float(weights[at]))}"
            for at in (most, *(at for at in second if weights[at] >= _LEAST))
        ]
        lines.append(f"{finding.unit.capitalize()} {row}, {_name(finding.pieces[row])}, looks {' and '.join(seen)}.")
    if len(rows) < len(names):
        lines.append(f"These are {finding.unit}s {rows[0]} to {rows[-1]} of {len(names):,}.")
    elif len(names) > _ROWS:
        lines.append(f"There are {len(names) - _ROWS:,} more; --json gives all.")
    if head.previous_token is not None and head.previous_token_chance is not None:
        score, chance = percent(head.previous_token), percent(head.previous_token_chance)
        lines.append(
            f"On average a {finding.unit} looks at the one before with {score}; even attention would give {chance}."
        )
    return lines


def _next(finding: Explanation, names: Sequence[str]) -> list[str]:
    focus = finding.sources.focus
    lines = [f"What may come after {names[focus]}, at temperature {finding.temperature:g}:"]
    for token in finding.next_tokens[:_NEXT]:
        number = f", id {token.id}," if "\N{REPLACEMENT CHARACTER}" in token.text else ""
        lines.append(f"{spoken(token.text)}{number} with {percent(token.probability)}.")
    return lines
