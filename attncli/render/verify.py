"""The screen of --verify: a row for each way in which the same texts were generated again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from attncli.generation.events import Check, Difference
from attncli.render.escape import fit, fold, id_label, pad
from attncli.render.numbers import plural
from attncli.render.palette import TITLE

_LABEL = 19  # cells of the name of a way
_TOKEN = 14  # cells of a token

_SAME = "same: the same tokens and the same text as above"
_INEXACT = (
    "PyTorch's matrix products depend on the batch size and on how many tokens are read at once, so a text may differ. "
    "This is not an error"
)
_PYTORCH = (
    "PyTorch sums in another order, so the last digits of logits differ. If two tokens are nearly equal, the text may "
    "differ too"
)


def verification_head(width: int) -> Text:
    """Returns the heading above the rows."""
    return Text("\n").append(fit("Generated again in other ways", width), TITLE)


def verification_row(check: Check, text_of: Callable[[int], str], width: int) -> Text:
    """Returns the row of one check, in at most `width` cells. `width` is at least 40.

    `text_of` returns the text of a token id.
    """
    row = Text("  ").append(pad(way(check), _LABEL)).append("  ")
    failing = "bold red" if check.fails else "yellow"
    if check.difference is None:
        row.append("same", failing if check.fails else "green")
        facts = [_guesses(check.guesses)] if check.guesses is not None else []
    else:
        row.append(f"from token {check.difference.token + 1:,} on", failing)
        facts = [_instead(check.difference, text_of)]
        if check.samples > 1:
            facts.append(f"{check.differing} of {plural(check.samples, 'sample')}")
            facts.append(f"sample {check.difference.sample + 1}" if check.differing == 1 else "")
    if check.logit_difference is not None:
        apart = f"logits {check.logit_difference:.2g} apart, at most {check.logit_tolerance or 0:.2g} is rounding"
        facts.append(apart if check.logits_differ else f"logits within {check.logit_difference:.2g}")
    for fact in filter(None, facts):
        joint = "  " if row.plain.rpartition("\n")[2][-1:] != " " else ""
        if cell_len(row.plain.rpartition("\n")[2]) + len(joint) + cell_len(fact) > width:
            row.append("\n" + " " * 4)
            joint = ""
        row.append(joint).append(fit(fact, width - 4), "dim")
    return row


def way(check: Check) -> str:
    """Returns how a check generated the texts: 'in a batch of 4'."""
    threads = " and ".join(map(str, check.threads or ()))
    return {
        "alone": "each alone",
        "batch": f"in a batch of {check.batch}",
        "uncached": "without the cache",
        "guesses": "guessing ahead",
        "decoded": "decoded at once",
        "threads": f"on {threads} threads",
        "pytorch": "PyTorch, float32",
    }[check.name]


def verification_legend(checks: Sequence[Check], exact: bool, width: int) -> Text:
    """Returns what was compared, what 'same' means, and why texts may differ."""
    first = checks[0]
    lines = [f"{plural(first.tokens, 'token')} of {plural(first.samples, 'sample')} · {_SAME}"]
    if not exact:
        lines.append(_INEXACT)
    if any(check.name == "pytorch" and (check.differing or check.logit_difference) for check in checks):
        lines.append(_PYTORCH)
    return Text("\n".join(fold(line, width) for line in lines), "dim")


def verification_document(checks: Sequence[Check], exact: bool) -> dict[str, Any]:
    """Returns the checks as a JSON-ready dictionary in full precision."""
    return {"exact": exact, "holds": not any(check.fails for check in checks), "checks": [*map(_document, checks)]}


def _document(check: Check) -> dict[str, Any]:
    difference, tolerance = (
        number if number is not None and math.isfinite(number) else None
        for number in (check.logit_difference, check.logit_tolerance)
    )
    return {
        "name": check.name,
        "required": check.required,
        "samples": check.samples,
        "tokens": check.tokens,
        "differing": check.differing,
        "first_difference": None if check.difference is None else asdict(check.difference),
        "batch": check.batch,
        "threads": None if check.threads is None else list(check.threads),
        "guesses": check.guesses,
        "logit_difference": difference,
        "logit_tolerance": tolerance,
    }


def _guesses(count: int) -> str:
    return f"{plural(count, 'token')} guessed" if count else "nothing to guess"


def _instead(difference: Difference, text_of: Callable[[int], str]) -> str:
    """Returns the token found and the token expected, '␣the, not ␣a'; empty for equal tokens with different texts."""
    if difference.expected == difference.found:
        return ""
    found, expected = (
        "the end" if id_ is None else fit(id_label(id_, text_of(id_)), _TOKEN)
        for id_ in (difference.found, difference.expected)
    )
    return f"{found}, not {expected}"
