"""Draws parts of the screens of `attncli circuit`: the clean and the corrupt run, and tables of shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from attncli.explain.question import Floats
from attncli.render.cells import map_colors
from attncli.render.escape import fit, fold, pad, token_label
from attncli.render.heading import next_label
from attncli.render.numbers import percent
from attncli.render.palette import heat
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.circuits.patching import Ends
    from attncli.explain.next_token import NextToken

_NUMBER = 5  # cells of a number, with its sign and a space
_MOST_LABEL = 18
_LABEL = 12  # cells of a token in a line


def measure_words(ends: Ends) -> str:
    """Returns what is measured: 'logit(␣girl) - logit(␣boy)' or 'log P(␣girl)'."""
    target, against = (next_label(token, _LABEL) for token in (ends.target, ends.against))
    return f"log P({target})" if ends.kind == "log-probability" else f"logit({target}) - logit({against})"


def doubt_lines(clean: float, corrupt: float, width: int, *, compares: bool) -> list[Text]:
    """Returns a warning if the clean run does not have the answer; `compares` whether the measure compares two tokens.

    `clean` and `corrupt` are the measures of the two runs.
    """
    if clean <= corrupt:
        told = "The clean run prefers the target less than the corrupt run: exchange the prompts or the tokens."
    elif compares and clean <= 0:
        told = "The clean run prefers the other token: the model does not do this task, so its circuit means little."
    elif compares and corrupt >= 0:
        told = "The corrupt run prefers the target too, so the difference of the two runs is only a part of the answer."
    else:
        return []
    return [Text(line, "bold") for line in fold(told, width).split("\n")]


def ends_lines(ends: Ends, clean: Sequence[Piece], corrupt: Sequence[Piece], width: int) -> list[Text]:
    """Returns a line for each run: its prompt, its measure, and its place on the scale of per cent."""
    sides = (("clean", clean, ends.clean, "100%"), ("corrupt", corrupt, ends.corrupt, "0%"))
    lines = [Text(fold(measure_words(ends) + ", in nats", width))]
    for name, pieces, value, at in sides:
        figures = f"{value:+.2f} = {at:>4}"
        room = max(width - len(figures) - 10, 4)
        prompt = _end_of("|".join(map(token_label, pieces)), room)
        line = Text(f"{name:<8}", "bold").append(prompt + " " * (room - cell_len(prompt)), "dim")
        lines.append(line.append(f"  {figures}"))
    return lines + doubt_lines(ends.clean, ends.corrupt, width, compares=ends.kind == "logit-difference")


def _end_of(text: str, width: int) -> str:
    """Returns the end of a text that is too long, which contains what a prompt asks for."""
    if cell_len(text) <= width:
        return text
    shown = fit(text[::-1], width)[::-1]
    return shown if cell_len(shown) <= width else fit(text, width)


def share_table(rows: Sequence[str], columns: Sequence[str], shares: Floats, console: Console, of: str) -> list[Text]:
    """Draws shares (R, C) as per cents, or as cells where numbers do not fit; `of` names the rows' and columns' axes.

    The colors go from 0% to 100%; a share beyond either end has the color of this end.
    """
    colors, width = map_colors(console), console.width
    label = min(max((cell_len(row) for row in rows), default=1), _MOST_LABEL, max(width // 3, 4))
    numbers = label + 1 + _NUMBER * len(columns) <= width
    wide = _NUMBER if numbers else max(1, (width - label - 1) // len(columns))
    pool = 1 if numbers else -(-len(columns) // max(width - label - 1, 1))
    if pool > 1:
        shares = _largest_of(shares, pool)
        columns = columns[::pool]
    lines = [Text(fit(of, width), "dim")]
    lines.append(Text(" " * (label + 1) + _ruler(columns, wide, numbers), "dim"))
    for row, values in zip(rows, shares, strict=True):
        line = Text(pad(row, label) + " ")
        for value in values:
            text = f"{value * 100:.0f}".replace("-0", "0") if abs(value) < 0.005 else f"{value * 100:.0f}"
            style = heat(float(value), colors) if colors else ""
            shown = text.rjust(wide - 1) + " " if numbers else (" " if colors else _shade(value)) * wide
            line.append(shown if len(shown) == wide else shown[:wide], style)
        lines.append(line)
    if pool > 1:
        lines.append(Text(fit(f"each cell: the largest of {pool} columns", width), "dim"))
    if not numbers and not colors:
        lines.append(Text(fit("· 0%  ░ to 25%  ▒ 50%  ▓ 75%  █ 100%", width), "dim"))
    return lines


def _shade(value: float) -> str:
    return "·" if value < 0.0125 else "░▒▓█"[min(int(np.ceil(min(value, 1.0) * 4 - 0.05)), 4) - 1]


def _ruler(columns: Sequence[str], wide: int, numbers: bool) -> str:
    """Returns the names of the columns above their cells; of narrow cells, those that fit."""
    if numbers:
        return "".join(f"{fit(name, wide - 1):>{wide - 1}} " for name in columns).rstrip()
    text = ""
    for at, name in enumerate(columns):
        if len(text) <= at * wide:
            text = text.ljust(at * wide) + name + " "
    return text.rstrip()[: wide * len(columns)]


def _largest_of(values: Floats, pool: int) -> Floats:
    """Returns the value with the largest absolute value of each run of `pool` columns."""
    parts = np.split(values, range(pool, values.shape[1], pool), axis=1)
    picked: Floats = np.stack([part[np.arange(len(part)), np.abs(part).argmax(1)] for part in parts], 1)
    return picked


def ends_document(ends: Ends) -> dict[str, Any]:
    """Returns the ends of a measure as JSON values."""

    def token(one: NextToken) -> dict[str, Any]:
        return {"id": one.id, "text": one.text}

    return {
        "measure": ends.kind,
        "target": token(ends.target),
        "against": token(ends.against),
        "clean": ends.clean,
        "corrupt": ends.corrupt,
    }


def signed_share(share: float) -> str:
    """Formats a share of the effect with two digits: '-12%', '104%'."""
    return f"-{percent(-share)}" if share < -0.0005 else percent(max(share, 0.0))
