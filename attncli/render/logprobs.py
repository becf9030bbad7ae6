"""The screen of --logprobs: a row per generated token, with log-probabilities of the token and its alternatives."""

from __future__ import annotations

import math
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from attncli.generation.events import Token, TokenLogprob
from attncli.render.escape import fit, id_label, pad
from attncli.render.numbers import percent
from attncli.render.trace import trace_document

_WIDE = 60  # cells: a screen of at least this width also shows the probability
_LABEL, _SHORT_LABEL = 14, 10  # cells of a token
_NUMBER = 4  # cells of the count of tokens


def logprobs_head(width: int) -> Text:
    """Returns the column names."""
    wide = width >= _WIDE
    label = _LABEL if wide else _SHORT_LABEL
    head = f"{'':<{_NUMBER + 1}}{'token':<{label}}{'log p':>8}{'p':>7}  best" if wide else ""
    return Text(fit(head or f"{'':<{_NUMBER + 1}}{'token':<{label}}{'log p':>8}  best", width), "dim")


def logprobs_row(number: int, token: Token, width: int) -> Text:
    """Returns the row of the `number`-th token, with log-probabilities in nats.

    A row has at most `width` cells; `width` is at least 40.
    """
    wide = width >= _WIDE
    label = _LABEL if wide else _SHORT_LABEL
    row = Text(f"{number:>{_NUMBER}} ").append(pad(id_label(token.id, token.text), label), "bold")
    row.append(f"{_nats(token.logprob, 3):>8}")
    if wide:
        row.append(f"{percent(math.exp(token.logprob)):>7}")
    indent, used = row.cell_len + 2, 0
    for at, choice in enumerate(token.top):
        value = f" {_nats(choice.logprob, 2)}"
        shown = fit(id_label(choice.id, choice.text), min(_SHORT_LABEL - 1, width - indent - len(value))) + value
        if at and used + 2 + cell_len(shown) > width - indent:
            row.append("\n" + " " * (indent - 2))
            used = 0
        row.append("  ").append(shown, "bold green" if choice.id == token.id else "dim")
        used += cell_len(shown) + (2 if used else 0)
    return row


def _nats(value: float, digits: int) -> str:
    """Formats a log-probability: -1.234, or four digits below -100. A value that rounds to zero has no sign."""
    text = f"{value:.{digits}f}" if value > -100 else f"{value:.4g}"
    return text if float(text) else text.removeprefix("-")


def token_document(token: Token) -> dict[str, Any]:
    """Returns a token as a JSON-ready dictionary in full precision, with its trace if it has one."""
    document = _choice(token) | {"top": [_choice(choice) for choice in token.top]}
    return document if token.trace is None else document | {"trace": trace_document(token.trace)}


def _choice(choice: TokenLogprob | Token) -> dict[str, Any]:
    """Returns a token as JSON values. An impossible token has the log-probability null: JSON has no infinity."""
    logprob = choice.logprob if math.isfinite(choice.logprob) else None
    return {"id": choice.id, "text": choice.text, "logprob": logprob}
