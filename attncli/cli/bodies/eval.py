"""`attncli eval`: scores a model on a text, beside the baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.eval_texts import Texts
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load_to_score
from attncli.cli.shared import ModelSource
from attncli.evaluation.baselines import measure
from attncli.evaluation.evaluate import opened_to_score, score_text
from attncli.evaluation.excerpt import Excerpt, contains_scored, ends_of, first_of
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.score import Score
from attncli.render.console import messages, print_note
from attncli.render.evaluation import comparison, evaluation_document, evaluation_progress, evaluation_screen
from attncli.render.numbers import count
from attncli.render.status import status
from attncli.text.names import and_more
from attncli.text.parts import Part
from attncli.text.reading import name_of
from attncli.text.tokens import tokens_of
from attncli.training.provenance import characters_trained_on

_ENOUGH_TO_TIME = 1000  # scored tokens from which on the speed is printed


def run(source: ModelSource, dtype: str, texts: Texts, *, json: bool) -> None:
    """Prints the score of the model beside the scores of the baselines."""
    loaded = load_to_score(source, dtype)
    tokens = tokens_of(texts.scored, loaded.tokenizer)
    began = monotonic()
    opened = opened_to_score(tokens, loaded.tokenizer)
    with evaluation_progress(messages(), opened.to_score) as progress:
        score = score_text(loaded, opened, progress)
    seconds = monotonic() - began
    scored = first_of(tokens, loaded.tokenizer)
    status("measuring the baselines")
    given, counted = ends_of(texts.before, loaded.tokenizer) if texts.before is not None else (None, None)
    baselines = measure(scored, loaded.tokenizer.vocab_size, given, counted)
    judgement = Judgement(score, baselines)
    _print_notes(texts.scored, scored, score, seconds)
    warnings = tuple(_warnings(loaded, texts))
    for warning in warnings:
        print_note(warning)
    diagnosis = (comparison(score, baselines, texts.origin), *warnings)
    show_result(
        lambda: evaluation_document(loaded.name, texts.paths, replace(judgement, diagnosis=diagnosis), seconds),
        lambda console: evaluation_screen(loaded.name, texts.title, judgement, console.width, texts.origin),
        json=json,
    )


def _warnings(loaded: LoadedModel, texts: Texts) -> Iterator[str]:
    """Yields a warning if the model was trained on the scored text, and another if the baselines were trained on it."""
    if trained := characters_trained_on(loaded.run, texts.scored):
        part = "part of " if trained < texts.scored.characters else ""
        yield f"{loaded.name} was trained on {part}{texts.title}: its score does not measure generalization."
    if texts.train_files and texts.before is not None and contains_scored(texts.before, texts.scored):
        files = and_more([name_of(path) for path in texts.train_files])
        why = "the baselines read the scored text in advance, so their figures are too low"
        yield f"{texts.title} is contained in {files}: {why}."


def _print_notes(part: Part, scored: Excerpt, score: Score, seconds: float) -> None:
    """Prints a note if the tokenizer does not reproduce the text.

    For a long text, also prints how many tokens were scored per second.
    """
    back = scored.data.decode().rstrip("\N{REPLACEMENT CHARACTER}")  # the excerpt may end within a character
    start, stop = part.passages[0]
    if "".join(text for text, _ in part.documents.read(start, min(start + len(back), stop))) != back:
        print_note(
            "this tokenizer does not reproduce the text exactly, so figures per byte and per character are approximate"
        )
    if score.scored >= _ENOUGH_TO_TIME:
        print_note(f"{count(score.scored / seconds)} tokens/s")
