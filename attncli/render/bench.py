"""The screen of `attncli bench`: prefill, decode, batches, generation with and without the cache, memory bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from rich.text import Text

from attncli.generation.measurements import Bandwidth, Bench, Generation, Part, Step, Timing
from attncli.render.escape import fold, one_line
from attncli.render.numbers import bar, count, percent, plural, size
from attncli.render.palette import BAR, TITLE
from attncli.render.progress_bar import passing_bar

_WIDEST_BAR, _LEAST_BAR = 40, 4
_PAD = 2  # cells between columns
_WIDE = 60  # cells: on a screen of at least this width, weights and cache have a column each
_PARTS: dict[Part, str] = {
    "bandwidth": "the memory",
    "prefill": "a prompt of {}",
    "decode": "a token after {}",
    "batches": "{} texts together",
    "generation": "{} with and without the cache",
}
_LEFT_OUT: dict[Part, str] = {
    "bandwidth": "",
    "prefill": "prompts of {} tokens and more",
    "decode": "tokens after {} and more",
    "batches": "{} texts and more together",
    "generation": "texts of {} tokens and more",
}


def bench_screen(found: Bench, model: str, width: int) -> RenderableType:
    """Returns a table per measurement, with bars if there is room."""
    shape = f"{one_line(model)} · {count(found.parameters)} parameters · context {found.context:,}"
    parts: list[RenderableType] = [
        Text(fold(shape, width), "bold"),
        Text(fold(_how(found), width), "dim"),
        *_part("Prefill", "a prompt read at once", _prefill(found, width), width),
        *_part("Decode", "one token, by the number of tokens before it", _decode(found, width), width),
    ]
    if found.batches:
        after = f"one token for each text of a batch, after {found.batches[0].before:,}"
        parts += _part("Batches", after, _batches(found, width), width)
    if found.generation:
        parts += _part("Cache", "a text generated with and without the cache", _generation(found, width), width)
        if line := _growth(found.generation):
            parts.append(Text(fold(line, width), "dim"))
    parts += _part("Memory", "bytes read for a token", _memory(found, width), width)
    parts += [Text(fold(line, width), "dim") for line in _remarks(found)]
    return Group(*parts)


def _how(found: Bench) -> str:
    """Returns the device, the types and the number of runs in one line."""
    fewest, most = found.repetitions
    runs = plural(most, "run") if fewest == most else f"{fewest} to {plural(most, 'run')}"
    facts = [
        f"{found.device} {'in C' if found.engine == 'native' else 'by PyTorch'}",
        *_threads(found),
        found.types.matrices,
        f"medians of {runs}",
        f"random tokens, seed {found.seed}",
    ]
    return " · ".join(facts)


def _threads(found: Bench) -> list[str]:
    if found.threads is None or found.most_threads is None:
        return []
    more = found.most_threads > found.threads
    return [plural(found.threads, "thread") + (f", {found.most_threads} for many tokens" if more else "")]


def _part(title: str, what: str, table: RenderableType, width: int) -> list[RenderableType]:
    together = len(title) + _PAD + len(what) <= width
    heading = Text(title, TITLE).append(f"  {what}" if together else f"\n{fold(what, width)}", "not bold dim")
    return [Text(), heading, table]


def _table(names: Sequence[str], rows: Sequence[tuple[Sequence[str], float]], width: int) -> Table:
    """Returns a table with right-aligned figures and a bar in each row.

    Each of `rows` consists of its figures and the filled share of its bar.
    """
    cells = [names, *(row for row, _ in rows)]
    wide = [max(len(row[column]) for row in cells) for column in range(len(names))]
    room = min(width - sum(wide) - _PAD * (len(names) + 1), _WIDEST_BAR)
    table = Table.grid(padding=(0, 0, 0, _PAD), pad_edge=True)
    for _ in names:
        table.add_column(justify="right", no_wrap=True)
    table.add_row(*(Text(name, "dim") for name in names))
    for row, share in rows:
        drawn = [Text(bar(share, room), BAR)] if room >= _LEAST_BAR else []
        table.add_row(*row, *drawn)
    return table


def _prefill(found: Bench, width: int) -> Table:
    most = max(one.tokens_per_second for one in found.prefill)
    rows = [((f"{one.tokens:,}", rate(one.tokens_per_second)), one.tokens_per_second / most) for one in found.prefill]
    return _table(("tokens", "tokens/s"), rows, width)


def _decode(found: Bench, width: int) -> Table:
    most = max(one.tokens_per_second for one in found.decode)
    rows = [((f"{one.before:,}", rate(one.tokens_per_second)), one.tokens_per_second / most) for one in found.decode]
    return _table(("before", "tokens/s"), rows, width)


def _batches(found: Bench, width: int) -> Table:
    most, alone = max(one.tokens_per_second for one in found.batches), found.batches[0].tokens_per_second
    rows = [
        (
            (f"{one.texts}", rate(one.tokens_per_second), f"{one.tokens_per_second / alone:.1f}x"),
            one.tokens_per_second / most,
        )
        for one in found.batches
    ]
    return _table(("texts", "tokens/s", "of one"), rows, width)


def _generation(found: Bench, width: int) -> Table:
    most = max(one.times for one in found.generation)
    rows = [
        (
            (f"{one.tokens:,}", span(one.cached.seconds), span(one.uncached.seconds), f"{one.times:.1f}x"),
            one.times / most,
        )
        for one in found.generation
    ]
    return _table(("tokens", "with", "without", "times"), rows, width)


def _growth(texts: Sequence[Generation]) -> str:
    """Returns how fast the time grows with the length of the text, computed from the two longest texts."""
    if len(texts) < 2:
        return ""
    half, whole = texts[-2:]
    more = f"{whole.tokens / half.tokens:g} times the tokens take"
    with_, without = (whole.cached.seconds / half.cached.seconds, whole.uncached.seconds / half.uncached.seconds)
    return f"From {half.tokens:,} to {whole.tokens:,}: {more} {with_:.1f} times as long cached, {without:.1f} uncached."


def _memory(found: Bench, width: int) -> Table:
    """Returns a table of the bytes that each step reads: per token, and per second."""
    rows = []
    for step in (*found.decode, *(step for step in found.batches if step.texts > 1)):
        read = step.weight_bytes_per_token, step.cache_bytes_per_token
        each = (size(read[0]), size(read[1])) if width >= _WIDE else (size(sum(read)),)
        speed = gigabytes(step.bytes_per_second), percent(found.share(step))
        rows.append(((f"{step.texts}", f"{step.before:,}", *each, *speed), found.share(step)))
    named = ("weights", "cache") if width >= _WIDE else ("bytes",)
    return _table(("texts", "before", *named, "GB/s", "share"), rows, width)


def _remarks(found: Bench) -> Iterator[str]:
    """Yields remarks: the bandwidth that counts as 100%, why a share can be larger, and what was not measured."""
    yield f"100% is {_bandwidth(found.bandwidth)}."
    if any(found.share(step) > 1 for step in (*found.decode, *found.batches)):
        yield "More than 100%: data in the processor's caches is read faster than data in memory."
    if found.left_out:
        named = "; ".join(_LEFT_OUT[one.part].format(f"{one.size:,}") for one in found.left_out)
        yield f"Not measured within {found.given:g}s: {named}. Set a longer --time."


def _bandwidth(measured: Bandwidth) -> str:
    speed = f"{gigabytes(measured.bytes_per_second)} GB/s"
    if measured.way == "copy":
        return f"{speed}: {size(measured.bytes / 2)} copied, counted as read and written"
    by = "" if measured.threads is None else f" by {plural(measured.threads, 'thread')}"
    return f"{speed}: {size(measured.bytes)} summed{by}"


def rate(per_second: float) -> str:
    """Formats tokens per second with three digits: 7.234 -> '7.23', 12345 -> '12.3k'."""
    return f"{per_second:.3g}" if per_second < 99.95 else count(per_second)


def gigabytes(number: float) -> str:
    """Formats bytes in gigabytes: 10.82e9 -> '10.8', 3350e9 -> '3,350'."""
    return f"{number / 1e9:,.1f}" if number < 99.95e9 else f"{number / 1e9:,.0f}"


def span(seconds: float) -> str:
    """Formats a short time with three digits: 0.01234 -> '12.3 ms', 2.5 -> '2.5 s'."""
    for unit, name in ((1e-6, "µs"), (1e-3, "ms")):
        if seconds < 999.5 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def bench_document(found: Bench, model: str) -> dict[str, Any]:
    """Returns the measurements as a JSON-ready dictionary."""
    return {
        "model": model,
        "device": found.device,
        "engine": found.engine,
        "threads": found.threads,
        "most_threads": found.most_threads,
        "types": {"matrices": found.types.matrices, "vectors": found.types.vectors, "cache": found.types.cache},
        "parameters": found.parameters,
        "context": found.context,
        "seed": found.seed,
        "time": found.given,
        "bandwidth": {
            "way": found.bandwidth.way,
            "bytes": found.bandwidth.bytes,
            "threads": found.bandwidth.threads,
            "bytes_per_second": found.bandwidth.bytes_per_second,
            **_timing(found.bandwidth.timing),
        },
        "prefill": [
            {"tokens": one.tokens, "tokens_per_second": one.tokens_per_second, **_timing(one.timing)}
            for one in found.prefill
        ],
        "decode": [_step(found, step) for step in found.decode],
        "batches": [_step(found, step) for step in found.batches],
        "generation": [
            {"tokens": one.tokens, "cached": _timing(one.cached), "uncached": _timing(one.uncached), "times": one.times}
            for one in found.generation
        ],
        "left_out": [{"part": one.part, "size": one.size} for one in found.left_out],
    }


def _step(found: Bench, step: Step) -> dict[str, Any]:
    return {
        "texts": step.texts,
        "before": step.before,
        "tokens_per_second": step.tokens_per_second,
        **_timing(step.timing),
        "weight_bytes_per_token": step.weight_bytes_per_token,
        "cache_bytes_per_token": step.cache_bytes_per_token,
        "bytes_per_second": step.bytes_per_second,
        "bandwidth_share": found.share(step),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    return {"seconds": timing.seconds, "repetitions": timing.repetitions}


@contextmanager
def bench_progress(console: Console) -> Iterator[Callable[[Part, int, float], None]]:
    """Shows a bar of the elapsed time on a terminal; yields a function that shows which part and size is measured."""
    with passing_bar(console, TextColumn("{task.fields[now]}"), BarColumn(20)) as shown:
        task = shown.add_task("", total=1.0, now="")

        def show(part: Part, at: int, share: float) -> None:
            what = f"{at}" if part == "batches" else plural(at, "token")
            shown.update(task, completed=share, now=_PARTS[part].format(what))

        yield show
