"""`attncli heads`: scores every head on repeated random tokens."""

from __future__ import annotations

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.explain.defaults import HEAD_TEXTS, AttentionPart
from attncli.explain.model_heads import scores_by_part
from attncli.render.heads import heads_document, heads_screen, part_heads_document, part_heads_screen
from attncli.views import refuse_part


def run(
    source: ModelSource,
    length: int | None,
    repeats: int | None,
    seed: int,
    part: AttentionPart | None,
    *,
    everyone: bool,
    json: bool,
) -> None:
    """Prints the best heads of each kind; with `everyone`, also prints all heads.

    Raises UsageProblem for a `length` that is too large, or a `part` that the model does not have.
    """
    loaded = load(source)
    refuse_part(loaded, part)
    sequences = HEAD_TEXTS if repeats is None else repeats
    findings = scores_by_part(loaded, length=length, sequences=sequences, seed=seed)
    if loaded.translates:
        chosen = findings if part is None else {part: findings[part]}
        show_result(
            lambda: part_heads_document(chosen, loaded.name),
            lambda console: part_heads_screen(
                chosen, loaded.name, console.width, everyone=everyone, named=source.again
            ),
            json=json,
        )
        return
    (finding,) = findings.values()
    show_result(
        lambda: heads_document(finding, loaded.name),
        lambda console: heads_screen(finding, loaded.name, console.width, everyone=everyone, named=source.again),
        json=json,
    )
