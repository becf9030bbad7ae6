"""Draws the output of `attncli align`: links, where they come from, and the error rate beside the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fold, one_line
from attncli.render.numbers import plural
from attncli.render.palette import TITLE
from attncli.render.progress_bar import passing_bar

if TYPE_CHECKING:
    from attncli.evaluation.aligning import Alignment
    from attncli.evaluation.alignment import AlignmentScore, LinkMethod
    from attncli.evaluation.alignment_baselines import AlignmentComparison
    from attncli.evaluation.head_choice import Choice
    from attncli.evaluation.link_matrices import HeadSelection

_READ_WHERE = {
    "output": "where a target word is predicted (shift output)",
    "input": "where a target word is read (shift input)",
}

_DROPS = "what each prediction loses without each source word"
_NAMED = 8  # heads that are listed by name
_REFERENCES = {"hmm": "an HMM that was trained on the pairs", "prediction": _DROPS}


def links_note(method: LinkMethod, choice: Choice | None, pairs: int, default: bool = False) -> str:
    """Returns in a sentence where the links come from: for attention, the choice of heads with its criterion.

    `pairs` is the number of pairs that the HMM of "combined" is trained on. `default` says that no method was chosen.
    """
    if method == "combined":
        return f"links are those of an HMM, trained on {plural(pairs, 'pair')}, whose prior is {_DROPS}"
    if method == "predictions" or choice is None:
        why = f"; {plural(pairs, 'pair')} are too few for --method combined" if default else ""
        return f"links are read from {_DROPS}{why}"
    note = f"links are read from cross-attention of {_heads(choice.selected)}, {_READ_WHERE[choice.selected.shift]}"
    if choice.value is None or choice.criterion is None:
        return note
    measured = f"F1 {choice.value:.2f} on {plural(choice.pairs, 'pair')}"
    return (
        f"{note}: of {choice.candidates} selections, this agrees best with {_REFERENCES[choice.criterion]} ({measured})"
    )


def _heads(selection: HeadSelection) -> str:
    """Returns heads in words: 'head 2.3', 'heads 1.0, 1.2', or '12 heads of layers 0 to 2' if the list is long."""
    names, layers = [f"{layer}.{head}" for layer, head in selection.heads], sorted(selection.layers)
    if len(names) <= _NAMED:
        return f"head {names[0]}" if len(names) == 1 else f"heads {', '.join(names)}"
    of = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    return f"{len(names)} heads of {of}"


def comparison_screen(
    comparison: AlignmentComparison, method: LinkMethod, choice: Choice | None, model: str, file: str, width: int
) -> RenderableType:
    """Shows the alignment error rate, precision and recall of each method's links and of the baselines' links."""
    title = f"{one_line(model)} · {plural(comparison.methods[method].pairs, 'pair')} of {one_line(file)}"
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", *(Text(name, TITLE) for name in ("error rate", "precision", "recall")))
    for name, score in (*comparison.methods.items(), *comparison.baselines.items()):
        figures = (f"{100 * part:.1f}%" for part in (score.error_rate, score.precision, score.recall))
        table.add_row(Text(name), *figures, style="bold" if name == method else "")
    notes = [
        f"predictions: {_DROPS}.",
        "combined: the HMM, with the predictions as its prior.",
        f"IBM Model 1 and both HMMs were trained on {plural(comparison.trained_on, 'pair')}, these included.",
        "The error rate counts missing sure links and wrong links: 0 is perfect.",
    ]
    if choice is not None:
        notes.insert(0, f"attention: {_heads(choice.selected)}, {_READ_WHERE[choice.selected.shift]}.")
    return Group(
        Text(fold(title, width), "bold"), Text(), table, Text(), *(Text(fold(note, width), "dim") for note in notes)
    )


def alignments_document(
    alignments: list[Alignment],
    method: LinkMethod,
    choice: Choice | None,
    model: str,
    comparison: AlignmentComparison | None,
) -> dict[str, Any]:
    """Returns the links of all pairs, the method, the choice of heads and the scores as a JSON-ready dictionary."""
    return {
        "model": model,
        "method": method,
        "choice": None if choice is None else choice_document(choice),
        "scores": None if comparison is None else _comparison_document(comparison, method),
        "pairs": [_alignment_document(alignment) for alignment in alignments],
    }


def choice_document(choice: Choice) -> dict[str, Any]:
    """Returns the choice of heads as a JSON-ready dictionary."""
    return {
        "heads": [list(head) for head in choice.selected.heads],
        "shift": choice.selected.shift,
        "criterion": choice.criterion,
        "value": choice.value,
        "candidates": choice.candidates,
        "pairs_compared": choice.pairs,
    }


def _alignment_document(alignment: Alignment) -> dict[str, Any]:
    return {
        "source": list(alignment.source),
        "target": list(alignment.target),
        "links": [list(link) for link in alignment.links],
        "weights": list(alignment.link_weights),
    }


def _comparison_document(comparison: AlignmentComparison, method: LinkMethod) -> dict[str, Any]:
    return {
        "model": _score_document(comparison.methods[method]),
        "methods": {name: _score_document(score) for name, score in comparison.methods.items()},
        "baselines": {name: _score_document(score) for name, score in comparison.baselines.items()},
        "trained_on": comparison.trained_on,
    }


def _score_document(score: AlignmentScore) -> dict[str, float]:
    return {"error_rate": score.error_rate, "precision": score.precision, "recall": score.recall}


@contextmanager
def alignment_progress(console: Console, pairs: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on a terminal; yields a function that takes the number of pairs that are done."""
    with passing_bar(console, TextColumn("{task.completed:,} of {task.total:,} pairs"), BarColumn(20)) as bar:
        task = bar.add_task("", total=pairs)
        yield lambda done: bar.update(task, completed=done)
