"""A model's score beside what gzip, xz and a 5-gram model make of the same text, and what it copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attncli.evaluation.baselines import Yardsticks
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.memorization import WINDOW, Memorization
from attncli.evaluation.score import Score
from attncli.render.escape import fit, one_line
from attncli.render.numbers import bar, count, percent, plural, size
from attncli.render.passing import passing_bar

_WIDEST_BAR = 40
_BESIDE_BAR = 20  # cells of a row of the table that are not its bar
_QUOTED = 60  # cells of a copied stretch shown
_CLOSE = 0.005  # a smaller relative difference is none
_LEAST_COMPARED = 1000  # bytes; with fewer, what gzip and xz write is mostly tables and literals
_TIMES = 10  # as many bits: from there on no percentage


def honesty_screen(
    honesty: Judgement, width: int, given: str = "the training text", share: float = 1.0, shown: int | None = None
) -> RenderableType:
    """What there is, each part only where it was measured.

    `given` names the text that the yardsticks had before, `share` is how much of the text the model's score is of,
    `shown` how many tokens of the sample stand above.
    """
    parts: list[RenderableType] = []
    if honesty.yardsticks is not None:
        parts += [
            yardsticks_table(honesty.score, honesty.yardsticks, width),
            Text(measured_on(honesty.yardsticks, given, share), style="dim"),
            Text(),
            Text(comparison(honesty.score, honesty.yardsticks, given, share)),
        ]
    if honesty.memorization is not None:
        parts += [Text(line) for line in memorization_lines(honesty.memorization, shown)]
    return Group(*parts, *(Text(sentence) for sentence in honesty.diagnosis))


def yardsticks_table(score: Score, yardsticks: Yardsticks, width: int) -> RenderableType:
    """Bits per byte of the model and of each yardstick, with bars."""
    rows = [("model", score.bits_per_byte), *_named(yardsticks)]
    most = max(bits for _, bits in rows)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    room = max(min(_WIDEST_BAR, width - _BESIDE_BAR), 0)
    for index, (name, bits) in enumerate(rows):
        style = "bold" if index == 0 else ""
        drawn = bar(bits / most if most > 0 else 0.0, room)
        table.add_row(Text(name, style), Text(f"{bits:.3f}", style), Text(drawn, "cyan" if index == 0 else "dim"))
    return Group(Text("bits per byte, less is better", style="dim"), table)


def _named(yardsticks: Yardsticks) -> list[tuple[str, float]]:
    counted = [("5-gram", yardsticks.ngram)] if yardsticks.ngram is not None else []
    return [*counted, ("xz -9", yardsticks.xz), ("gzip -9", yardsticks.gzip)]


def measured_on(yardsticks: Yardsticks, given: str, share: float = 1.0) -> str:
    """Which text the yardsticks had, and how much of it; and the model, where that is another part."""
    sampled = "" if share == 1 else f"; the model: an even {percent(share)} of this text"
    part = "" if yardsticks.scored >= yardsticks.scored_of else f" the first {size(yardsticks.scored)} of"
    if not yardsticks.given:
        return f"xz and gzip:{part} this text alone{sampled}"
    before = given if yardsticks.given >= yardsticks.given_of else f"the last {size(yardsticks.given)} of {given}"
    if yardsticks.counted == yardsticks.given:
        return f"xz, gzip and the 5-gram:{part} this text, given {before}{sampled}"
    counted = "all" if yardsticks.counted >= yardsticks.given_of else f"the last {size(yardsticks.counted)}"
    return f"xz, gzip and the 5-gram:{part} this text; xz and gzip given {before}, the 5-gram {counted} of it{sampled}"


def comparison(score: Score, yardsticks: Yardsticks, given: str = "the training text", share: float = 1.0) -> str:
    """The closing line: 'The model needs 34% fewer bits than xz -9 and 8% fewer than a 5-gram model of …'.

    Of xz and gzip it names the better one: on a few thousand bytes that is gzip. It says how much text the 5-gram had.
    """
    read = yardsticks.given + yardsticks.scored
    if read < _LEAST_COMPARED:
        least = f"gzip and xz need {_LEAST_COMPARED:,} bytes to learn from"
        return f"The text is too short for a comparison: {least}, and had {read:,}."
    model = "The model" if share == 1 else "Roughly, since not on the same part of the text, the model"
    packed, packer = min((yardsticks.xz, "xz -9"), (yardsticks.gzip, "gzip -9"))
    line = f"{model} needs {_relative(score.bits_per_byte, packed, packer, ' bits')}"
    if yardsticks.ngram is not None:
        line += "," if packed <= 0 < score.bits_per_byte else ""  # after "which needs none"
        counted, of = size(yardsticks.counted), size(yardsticks.given_of)
        all_of_it = yardsticks.counted >= yardsticks.given_of
        had = f"all {of} of {given}" if all_of_it else f"the last {counted} (of {of}) of {given}"
        name = f"a 5-gram model of the same tokens, given {had}"
        line += f" and {_relative(score.bits_per_byte, yardsticks.ngram, name)}"
    return line + "."


def _relative(bits: float, other: float, name: str, unit: str = "") -> str:
    """(0.8, 1.0, 'xz -9', ' bits') -> '20% fewer bits than xz -9'."""
    if abs(bits - other) <= _CLOSE * other or max(bits, other) <= 0:
        return f"as many{unit} as {name}"
    if other <= 0:
        return f"more{unit} than {name}, which needs none"
    if bits > _TIMES * other:
        return f"{bits / other:,.0f} times as many{unit} as {name}"
    share = abs(1 - bits / other)
    if bits < other:
        return f"{_whole(share) if share < 0.9995 or bits <= 0 else 'over 99.9%'} fewer{unit} than {name}"
    return f"{percent(share)} more{unit} than {name}"


def memorization_lines(found: Memorization, shown: int | None = None) -> list[str]:
    """At most two sentences: how much of a sample is in the training text; `shown` tokens of it are on the screen."""
    sample = found.sample
    whole = shown is None or sample.tokens <= shown
    of = "the sample" if whole else f"a sample of {sample.tokens:,} tokens (it begins as above)"
    place = f", from token {sample.start + 1:,} on" if sample.tokens > sample.length else ""
    quoted = fit(one_line(found.longest), _QUOTED)
    lines = [
        f"The longest stretch that {of} shares with the training text has {plural(sample.length, 'token')}, "
        f"{plural(len(found.longest), 'character')}{place}: {quoted}"
        if sample.length
        else f"No token of {of} occurs in the training text."
    ]
    if sample.new_share is not None:
        beside = (
            ""
            if found.unseen_new_share is None
            else f"; of those of real text kept from training, {_whole(found.unseen_new_share)}"
        )
        lines.append(
            f"{_whole(sample.new_share)} of its {WINDOW}-token windows do not occur in the training text{beside}."
        )
    return lines


def _whole(share: float) -> str:
    """A share in percent that says 100% only of all: 0.998 -> '99.8%'."""
    return f"{share:.1%}" if 0.99 <= share < 1 else percent(share)


def honesty_document(honesty: Judgement) -> dict[str, Any]:
    """What stands beside a score, for programs; null for what was not measured."""
    yardsticks, found = honesty.yardsticks, honesty.memorization
    return {
        "yardsticks": yardsticks
        and {
            "gzip_bits_per_byte": yardsticks.gzip,
            "xz_bits_per_byte": yardsticks.xz,
            "ngram_bits_per_byte": yardsticks.ngram,
            "given_bytes": yardsticks.given,
            "given_of_bytes": yardsticks.given_of,
            "counted_bytes": yardsticks.counted,
            "scored_bytes": yardsticks.scored,
            "scored_of_bytes": yardsticks.scored_of,
        },
        "memorization": found
        and {
            "sample_tokens": found.sample.tokens,
            "longest_start": found.sample.start,
            "longest_tokens": found.sample.length,
            "longest_text": found.longest,
            "windows": found.sample.windows,
            "new_windows": found.sample.new,
            "unseen_new_share": found.unseen_new_share,
        },
        "diagnosis": list(honesty.diagnosis),
    }


def evaluation_screen(model: str, text: str, honesty: Judgement, width: int, given: str) -> RenderableType:
    """`attncli eval`: a model's score of a text, and what stands beside it."""
    score = honesty.score
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, figure in (
        ("nats per token", f"{score.per_token:.4f} (perplexity {score.perplexity:,.1f})"),
        ("nats per character", f"{score.per_character:.4f}"),
        ("bits per byte", f"{score.bits_per_byte:.4f}"),
    ):
        table.add_row(label, Text(figure))
    head = f"{model} on {text}: {plural(round(score.characters), 'character')}, {plural(score.scored, 'token')} scored"
    return Group(Text(one_line(head), style="bold"), table, Text(), honesty_screen(honesty, width, given))


def evaluation_document(model: str, sources: Sequence[str], honesty: Judgement, seconds: float) -> dict[str, Any]:
    """The same for programs."""
    score = honesty.score
    return {
        "model": model,
        "sources": list(sources),
        "characters": round(score.characters),
        "bytes": round(score.bytes),
        "scored_tokens": score.scored,
        **score.figures(),
        "seconds": seconds,
        **honesty_document(honesty),
    }


@contextmanager
def evaluation_progress(console: Console, tokens: int) -> Iterator[Callable[[int], None]]:
    """A bar while a text of so many tokens is scored, on a terminal; it is told how many have been."""
    columns = TextColumn("{task.fields[done]}"), BarColumn(20), TimeRemainingColumn(compact=True)
    with passing_bar(console, *columns) as bar:
        task = bar.add_task("", total=tokens, done="")

        def show(scored: int) -> None:
            bar.update(task, completed=scored, done=f"{count(scored)} tokens scored")

        yield show
