"""`attncli next`."""

from __future__ import annotations

from attncli.cli.shared import JSON, ModelSource
from attncli.cli.texts import text_or_file_end
from attncli.config import TRAIN_DTYPES
from attncli.config.limits import at_least
from attncli.config.option import argument, option
from attncli.errors import UsageProblem

_TEMPERATURES = "The temperatures to compare, separated by commas; at 0 the most probable token has probability 1."
_DTYPE = "auto, float32, bfloat16 or float16; auto is bfloat16 on CUDA, else float32."


def next_(
    *,
    text: str | None = argument(None, "The text so far, or a file that contains it; - reads standard input."),
    source: ModelSource,
    temperatures: str = option("0,0.5,1,2", _TEMPERATURES, "--temperatures", "-t", metavar="T,T"),
    top_k: int = option(10, "How many tokens to show.", "--top-k", "-k", limit=at_least(1)),
    pair: str | None = option(None, "The second text of a pair, for BERT.", metavar="TEXT", rare=True),
    target: str | None = option(None, "The beginning of the translation, for a model that translates.", metavar="TEXT"),
    truncate: bool = option(False, "Keep only the end of a text that is longer than the context."),
    dtype: str = option("auto", _DTYPE, suggestions=("auto", *TRAIN_DTYPES, "float16"), rare=True),
    json: bool = JSON,
) -> None:
    """Show the most probable next tokens, also of a translation; with BERT, the words that [MASK] may stand for.

    attncli next "The little cat sat on the old mat. The little"
    attncli next "Once upon a" --temperatures 0.2,1,5 -k 5
    """
    numbers = _numbers(temperatures)
    given = text_or_file_end(text, 'attncli next "The little cat sat on the old mat. The little"')
    from attncli.cli.bodies.next import run

    run(given, source, dtype, numbers, top_k, pair=pair, target=target, truncate=truncate, json=json)


def _numbers(temperatures: str) -> tuple[float, ...]:
    """Parses a list of temperatures: '0,0.5,1' -> (0.0, 0.5, 1.0). Raises UsageProblem."""
    try:
        found = tuple(float(part) for part in temperatures.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= temperature < float("inf") for temperature in found):
        raise UsageProblem(
            f"--temperatures {temperatures!r} is not a list of numbers of at least 0.",
            "For example: --temperatures 0,0.5,1,2",
        )
    return found
