"""`attncli heads`: scores every head on repeated random tokens."""

from __future__ import annotations

import shlex

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.explain.defaults import HEAD_TEXTS
from attncli.explain.heads import head_scores
from attncli.render.heads import heads_document, heads_screen


def run(source: ModelSource, length: int | None, repeats: int | None, seed: int, *, everyone: bool, json: bool) -> None:
    """Prints the best heads of each kind; with `everyone`, also prints all heads.

    Raises UsageProblem for a `length` that is too large.
    """
    loaded = load(source)
    loaded.refuse_translator("scores the heads of a model with one kind of attention")
    finding = head_scores(
        loaded.model,
        loaded.start_of_text,
        min(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size),
        length=length,
        sequences=HEAD_TEXTS if repeats is None else repeats,
        seed=seed,
    )
    named = "" if source.model is None else f" -m {shlex.quote(source.model)}"
    show_result(
        lambda: heads_document(finding, loaded.name),
        lambda console: heads_screen(finding, loaded.name, console.width, everyone=everyone, named=named),
        json=json,
    )
