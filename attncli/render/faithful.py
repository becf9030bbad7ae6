"""The screen of `attncli faithful`: the drops for each ranking, compared with a random ranking, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from rich.text import Text

from attncli.explain.question import Floats
from attncli.explain.verdict import COMPARISONS, RANKINGS, Ranking
from attncli.render.escape import fold, one_line
from attncli.render.numbers import plural
from attncli.render.palette import TITLE
from attncli.render.progress_bar import passing_bar

if TYPE_CHECKING:
    from attncli.explain.faithful import Faithfulness

_MEANING: dict[Ranking, str] = {
    "raw": "attention weight, mean of all heads",
    "norm": "length of the contributed vector",
    "rollout": "weights multiplied through the layers",
    "logit": "direct effect on the predicted logit",
    "random": "mean of several random rankings",
}
_NAME = 8  # cells of a ranking's name


def faithful_screen(finding: Faithfulness, model: str, drawn: str, width: int) -> RenderableType:
    """Shows the drops of each ranking, its advantage over random, and the verdict.

    `drawn` names the origin of the texts.
    """
    head = f"{one_line(model)} · {plural(finding.texts, 'text')} of {finding.mean_tokens:.0f} tokens"
    whole = f"{head}, {one_line(drawn)}"
    parts: list[RenderableType] = [Text(fold(whole, width), "bold")]
    for heading, drops in (
        ("the first k sources cut", finding.comprehensiveness),
        ("all but the first k cut", finding.sufficiency),
    ):
        title = Text("Nats lost, ", TITLE).append(heading)
        note = "  more is better" if drops is finding.comprehensiveness else "  less is better"
        parts += [Text(), title.append(note if cell_len(title.plain + note) <= width else "", "not bold dim")]
        parts.append(_drops(finding, drops, width))
    parts += [Text(), Text(fold("Ahead of random, nats ± standard error", width), TITLE), _ahead(finding, width)]
    return Group(*parts, Text(), *(Text(fold(line, width), style) for line, style in _verdict(finding, width)))


def _drops(finding: Faithfulness, drops: Floats, width: int) -> Table:
    """Returns a table of the drops, with a row per ranking and a column per number k of sources.

    If there is room, a row ends with the meaning of its ranking.
    """
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, width=_NAME)
    for _ in finding.sizes:
        table.add_column(justify="right", no_wrap=True, width=5)
    table.add_column(no_wrap=True)
    room = width - _NAME - 6 * len(finding.sizes) - 2
    table.add_row("", *(Text(f"k={size}", "dim") for size in finding.sizes), "")
    for ranking, row in zip(RANKINGS, drops.mean(0), strict=True):
        meaning = f" {_MEANING[ranking]}"
        cells = (f"{value:.2f}" for value in row.tolist())
        dim = "dim" if ranking == "random" else ""
        table.add_row(ranking, *cells, Text(meaning if cell_len(meaning) <= room else "", "dim"), style=dim)
    return table


def _ahead(finding: Faithfulness, width: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, width=_NAME)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True, width=13)
    table.add_row("", Text("cut", "dim"), Text("kept", "dim"))
    for ranking in RANKINGS[:-1]:
        ways = (finding.verdict.advantage(ranking, sufficient=sufficient) for sufficient in (False, True))
        style = "bold" if ranking == finding.verdict.best else ""
        table.add_row(Text(ranking, style), *(Text(_figure(mean, error), style) for mean, error in ways))
    return table


def _figure(mean: float, error: float) -> str:
    return f"{mean:+.2f} ± {error:.2f}"


def _verdict(finding: Faithfulness, width: int) -> list[tuple[str, str]]:
    """Returns lines with their styles: the verdict, then notes on the test, the rankings and the cuts."""
    best = finding.verdict.best
    if best is not None and finding.verdict.rivals:
        tied = f"{best} and {', '.join(finding.verdict.rivals)}"
        line = f"{tied} cannot be told apart on {plural(finding.texts, 'text')}; {best} is furthest ahead of random."
        short = f"{tied} are tied."
    elif best is not None:
        line = f"{best} is the view to believe: ahead of a random ranking and of every other view."
        short = f"Believe {best}: ahead of all others."
    else:
        line, short = "No view is significantly ahead of a random ranking.", "No view clearly beats random."
    notes = [
        (
            f"Ahead: by a one-sided t test over the texts, at 5% for all {COMPARISONS} comparisons.",
            f"Ahead: t test, 5% for {COMPARISONS} comparisons.",
        ),
        ("logit knows which token is predicted, the other views do not.", "logit alone knows the prediction."),
        ("Cut: edges from the last token to others, in all heads and layers.", "Cut: edges from the last token."),
    ]
    lines = [(line, short, "bold"), *((*note, "dim") for note in notes)]
    return [(whole if cell_len(whole) <= width else short, style) for whole, short, style in lines]


def faithful_document(
    finding: Faithfulness, model: str, sources: list[str], characters_read: int | None = None
) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary, with means, standard errors and the drops of every text."""
    return {
        "model": model,
        "sources": sources,
        "characters_read": characters_read,
        "texts": finding.texts,
        "mean_tokens": finding.mean_tokens,
        "seed": finding.seed,
        "k": list(finding.sizes),
        "comparisons": COMPARISONS,
        "standard_errors_needed": finding.verdict.needed,
        "best": finding.verdict.best,
        "rivals": list(finding.verdict.rivals),
        "rankings": {ranking: _ranking_document(finding, ranking) for ranking in RANKINGS},
    }


def _ranking_document(finding: Faithfulness, ranking: Ranking) -> dict[str, Any]:
    at = RANKINGS.index(ranking)
    document: dict[str, Any] = {}
    for name, drops in (("comprehensiveness", finding.comprehensiveness), ("sufficiency", finding.sufficiency)):
        mean, error = finding.verdict.advantage(ranking, sufficient=name == "sufficiency")
        document[name] = {
            "mean": drops[:, at].mean(0).tolist(),
            "by_text": drops[:, at].tolist(),
            "ahead_of_random": mean,
            "standard_error": error,
        }
    return document


@contextmanager
def faithful_progress(console: Console, texts: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on a terminal; yields a function that takes the number of texts that are done."""
    with passing_bar(console, TextColumn("{task.completed} of {task.total} texts"), BarColumn(20)) as bar:
        task = bar.add_task("", total=texts)
        yield lambda done: bar.update(task, completed=done)
