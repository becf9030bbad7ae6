"""The screens and documents of a model's score: baselines, copied text in a sample, and a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attncli.evaluation.baselines import BASELINES, Baselines
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.memorization import WINDOW, Memorization
from attncli.evaluation.score import FIGURES, Score
from attncli.render.escape import fit, one_line
from attncli.render.numbers import bar, count, percent, plural, size
from attncli.render.palette import BAR
from attncli.render.progress_bar import passing_bar

_WIDEST_BAR = 40
_BESIDE_BAR = 20  # cells that the label and the figure of a table row take
_QUOTED = 60  # the most cells of a copied stretch
_CLOSE = 0.005  # a relative difference below this counts as equal
_LEAST_COMPARED = 1000  # bytes; for a shorter text, compressors write mostly tables and literals
_TIMES = 10  # a larger ratio of bits is shown as a factor, not in percent


def judgement_screen(
    judgement: Judgement, width: int, given: str = "the training text", share: float = 1.0, shown: int | None = None
) -> RenderableType:
    """Shows the measured parts of a judgement: table of baselines, comparison, copied text, diagnosis.

    Args:
        judgement: the judgment to draw.
        width: of the screen, in cells.
        given: the name of the text that the baselines read before the scored text.
        share: the share of the text that the model scored.
        shown: the number of tokens of the sample that the screen already shows.
    """
    parts: list[RenderableType] = []
    if judgement.baselines is not None:
        parts += [
            baselines_table(judgement.score, judgement.baselines, width),
            Text(measured_on(judgement.baselines, given, share), style="dim"),
            Text(),
            Text(comparison(judgement.score, judgement.baselines, given, share)),
        ]
    if judgement.memorization is not None:
        parts += [Text(line) for line in memorization_lines(judgement.memorization, shown)]
    return Group(*parts, *(Text(sentence) for sentence in judgement.diagnosis))


def baselines_table(score: Score, baselines: Baselines, width: int) -> RenderableType:
    """Returns bits per byte of the model and of each baseline, with bars."""
    rows = [("model", score.bits_per_byte)]
    rows += [(baseline.label, bits) for baseline, bits in reversed(baselines.measured())]
    most = max(bits for _, bits in rows)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    cells = max(min(_WIDEST_BAR, width - _BESIDE_BAR), 0)
    for index, (name, bits) in enumerate(rows):
        style = "bold" if index == 0 else ""
        drawn = bar(bits / most if most > 0 else 0.0, cells)
        table.add_row(Text(name, style), Text(f"{bits:.3f}", style), Text(drawn, BAR if index == 0 else "dim"))
    return Group(Text("bits per byte, less is better", style="dim"), table)


def measured_on(baselines: Baselines, given: str, share: float = 1.0) -> str:
    """Returns the line that says which text the baselines scored and which text they read before it.

    If the model scored another part of the text, the line names that part too.
    """
    compressors = [baseline.name for baseline in reversed(BASELINES) if not baseline.counts_tokens]
    models = [f"the {baseline.name}" for baseline in reversed(BASELINES) if baseline.counts_tokens]
    sampled = "" if share == 1 else f"; the model: an even {percent(share)} of this text"
    part = "" if baselines.scored >= baselines.scored_of else f" the first {size(baselines.scored)} of"
    if not baselines.given:
        return f"{_listed(compressors)}:{part} this text alone{sampled}"
    everything = _listed([*compressors, *models])
    before = given if baselines.given >= baselines.given_of else f"the last {size(baselines.given)} of {given}"
    if baselines.counted == baselines.given:
        return f"{everything}:{part} this text, given {before}{sampled}"
    counted = "all" if baselines.counted >= baselines.given_of else f"the last {size(baselines.counted)}"
    had = f"{_listed(compressors)} given {before}, {_listed(models)} {counted} of it"
    return f"{everything}:{part} this text; {had}{sampled}"


def _listed(names: Sequence[str]) -> str:
    """Joins names: ['xz', 'gzip', 'the 5-gram'] -> 'xz, gzip and the 5-gram'."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def comparison(score: Score, baselines: Baselines, given: str = "the training text", share: float = 1.0) -> str:
    """Returns the closing line: 'The model needs 34% fewer bits than xz -9 and 8% fewer than a 5-gram model of …'.

    The model is compared with the best compressor and, if an n-gram model was measured, with the best n-gram model. For
    texts that are too short for a comparison, the line says so instead.
    """
    read = baselines.given + baselines.scored
    compressors = [(bits, one.label) for one, bits in baselines.measured() if not one.counts_tokens]
    models = [(bits, one.name) for one, bits in baselines.measured() if one.counts_tokens]
    if read < _LEAST_COMPARED:
        names = _listed([baseline.name for baseline in BASELINES if not baseline.counts_tokens])
        least = f"{names} need {_LEAST_COMPARED:,} bytes to learn from"
        return f"The text is too short for a comparison: {least}, and had {read:,}."
    packed, packer = min(compressors)
    line = f"{_compared(baselines, share)} needs {_relative(score.bits_per_byte, packed, packer, ' bits')}"
    if models:
        line += "," if packed <= 0 < score.bits_per_byte else ""  # after "which needs none"
        counted, of = size(baselines.counted), size(baselines.given_of)
        all_of_it = baselines.counted >= baselines.given_of
        had = f"all {of} of {given}" if all_of_it else f"the last {counted} (of {of}) of {given}"
        bits, name = min(models)
        line += f" and {_relative(score.bits_per_byte, bits, f'a {name} model of the same tokens, given {had}')}"
    return line + "."


def _compared(baselines: Baselines, share: float) -> str:
    """Returns the subject of the closing line, such as 'The model'.

    If the model and the baselines scored different parts of the text, the subject names both parts.
    """
    whole = baselines.scored >= baselines.scored_of
    if share == 1 and whole:
        return "The model"
    part = "all of the text" if share == 1 else f"an even {percent(share)} of the text"
    other = "all of it" if whole else f"its first {size(baselines.scored)}"
    return f"Roughly, since the model scored {part} and the baselines {other}, the model"


def _relative(bits: float, other: float, name: str, unit: str = "") -> str:
    """Compares two numbers of bits in words: (0.8, 1.0, 'xz -9', ' bits') -> '20% fewer bits than xz -9'."""
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
    """Returns at most two sentences about how much of a sample also occurs in the training text.

    The first `shown` tokens of the sample are on the screen; None means all tokens.
    """
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
            else f"; for real text kept from training, the share is {_whole(found.unseen_new_share)}"
        )
        lines.append(
            f"{_whole(sample.new_share)} of its {WINDOW}-token windows do not occur in the training text{beside}."
        )
    return lines


def _whole(share: float) -> str:
    """Formats a share in per cent: 0.998 -> '99.8%'. Only a share of exactly 1 is shown as 100%."""
    return f"{share:.1%}" if 0.99 <= share < 1 else percent(share)


def judgement_document(judgement: Judgement) -> dict[str, Any]:
    """Returns the judgment as JSON values; null for what was not measured."""
    baselines, found = judgement.baselines, judgement.memorization
    return {
        "yardsticks": baselines and _baselines_document(baselines),
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
        "diagnosis": list(judgement.diagnosis),
    }


def _baselines_document(baselines: Baselines) -> dict[str, Any]:
    return {
        **{f"{baseline.key}_bits_per_byte": baselines.figures.get(baseline.key) for baseline in BASELINES},
        "given_bytes": baselines.given,
        "given_of_bytes": baselines.given_of,
        "counted_bytes": baselines.counted,
        "scored_bytes": baselines.scored,
        "scored_of_bytes": baselines.scored_of,
    }


def evaluation_screen(model: str, text: str, judgement: Judgement, width: int, given: str) -> RenderableType:
    """Returns the screen of `attncli eval`: a model's score on a text, and the judgment of the score."""
    score = judgement.score
    table = score_table(score)
    head = f"{model} on {text}: {plural(round(score.characters), 'character')}, {plural(score.scored, 'token')} scored"
    return Group(Text(one_line(head), style="bold"), table, Text(), judgement_screen(judgement, width, given))


def score_table(score: Score) -> Table:
    """Returns the figures of a score, one in each row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for figure in FIGURES:
        if not figure.beside:
            beside = [f"{one.label} {one.of(score):{one.format}}" for one in FIGURES if one.beside == figure.key]
            shown = f"{figure.of(score):{figure.format}}"
            table.add_row(figure.label, Text(shown + (f" ({', '.join(beside)})" if beside else "")))
    return table


def evaluation_document(model: str, sources: Sequence[str], judgement: Judgement, seconds: float) -> dict[str, Any]:
    """Returns the evaluation as a JSON-ready dictionary."""
    score = judgement.score
    return {
        "model": model,
        "sources": list(sources),
        "characters": round(score.characters),
        "bytes": round(score.bytes),
        "scored_tokens": score.scored,
        **score.figures(),
        "seconds": seconds,
        **judgement_document(judgement),
    }


@contextmanager
def evaluation_progress(console: Console, tokens: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar while `tokens` tokens are scored; yields a function that takes the number scored so far."""
    columns = TextColumn("{task.fields[done]}"), BarColumn(20), TimeRemainingColumn(compact=True)
    with passing_bar(console, *columns) as bar:
        task = bar.add_task("", total=tokens, done="")

        def show(scored: int) -> None:
            bar.update(task, completed=scored, done=f"{count(scored)} tokens scored")

        yield show
