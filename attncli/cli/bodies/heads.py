"""`attncli heads`: scores every head on repeated random tokens."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.explain.defaults import HEAD_TEXTS, AttentionPart
from attncli.explain.encoder_heads import Frame, heads_by_part
from attncli.explain.heads import HeadScores, head_scores
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
    if loaded.translates:
        findings = heads_by_part(loaded.model, _frame(loaded), length=length, sequences=sequences, seed=seed)
        chosen = findings if part is None else {part: findings[part]}
        show_result(
            lambda: part_heads_document(chosen, loaded.name),
            lambda console: part_heads_screen(
                chosen, loaded.name, console.width, everyone=everyone, named=source.again
            ),
            json=json,
        )
        return
    finding = _of_one_stack(loaded, length, sequences, seed)
    show_result(
        lambda: heads_document(finding, loaded.name),
        lambda console: heads_screen(finding, loaded.name, console.width, everyone=everyone, named=source.again),
        json=json,
    )


def _of_one_stack(loaded: LoadedModel, length: int | None, sequences: int, seed: int) -> HeadScores:
    """Returns the scores of a decoder alone, or of an encoder alone."""
    if not loaded.model.config.causal:
        found = heads_by_part(loaded.model, _frame(loaded), length=length, sequences=sequences, seed=seed)
        return found["encoder"]
    known = min(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size)
    return head_scores(loaded.model, loaded.start_of_text, known, length=length, sequences=sequences, seed=seed)


def _frame(loaded: LoadedModel) -> Frame:
    """Returns the tokens around the texts of a model with an encoder, and the ids of its ordinary tokens."""
    tokenizer = loaded.tokenizer
    ordinary = [id_ for id_ in range(tokenizer.vocab_size) if id_ not in tokenizer.special_ids]
    start = tuple(loaded.target()) if loaded.translates else ()
    return Frame(tuple(tokenizer.opening), tuple(tokenizer.closing), start, ordinary)
