"""`attncli eval`: scores a model on a text, beside the baselines."""

from __future__ import annotations

import math
from time import monotonic

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.eval_texts import Texts
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load_to_score
from attncli.cli.shared import ModelSource
from attncli.errors import BadCheckpoint, BadInput
from attncli.evaluation.baselines import measure
from attncli.evaluation.evaluate import evaluate
from attncli.evaluation.excerpt import Excerpt, ends_of, first_of
from attncli.evaluation.judgement import Judgement
from attncli.evaluation.score import Score
from attncli.render.console import messages, print_note
from attncli.render.evaluation import evaluation_document, evaluation_progress, evaluation_screen
from attncli.render.numbers import count, plural
from attncli.render.status import status
from attncli.text.parts import Part
from attncli.text.tokens import Tokens, tokens_of

_ENOUGH_TO_TIME = 1000  # tokens


def run(source: ModelSource, dtype: str, texts: Texts, *, json: bool) -> None:
    """Prints the score of the model beside the scores of the baselines."""
    loaded = load_to_score(source, dtype)
    tokens = tokens_of(texts.scored, loaded.tokenizer)
    score, seconds = _score(loaded, tokens.opened(loaded.tokenizer.opening))
    scored = first_of(tokens, loaded.tokenizer)
    status("measuring the baselines")
    given, counted = ends_of(texts.before, loaded.tokenizer) if texts.before is not None else (None, None)
    judgement = Judgement(score, measure(scored, loaded.tokenizer.vocab_size, given, counted))
    _print_notes(texts.scored, scored, score, seconds)
    show_result(
        lambda: evaluation_document(loaded.name, texts.paths, judgement, seconds),
        lambda console: evaluation_screen(loaded.name, texts.title, judgement, console.width, texts.origin),
        json=json,
    )


def _score(loaded: LoadedModel, tokens: Tokens) -> tuple[Score, float]:
    """Returns the score, and the seconds that scoring took. Raises BadInput for a text that is too short."""
    if tokens.to_score < 1:
        counted = plural(len(tokens), "token")
        raise BadInput(f"The text has {counted}, and the first is not scored.", "Give a longer one.")
    began = monotonic()
    with evaluation_progress(messages(), tokens.to_score) as progress:
        score = evaluate(loaded.model, tokens, progress=progress)
    if not math.isfinite(score.nats):
        raise BadCheckpoint(f"{loaded.path} gives probabilities that are not numbers.", "Try --dtype float32.")
    return score, monotonic() - began


def _print_notes(part: Part, scored: Excerpt, score: Score, seconds: float) -> None:
    """Prints a note if the tokenizer loses characters, and a note of the speed."""

    back = scored.data.decode().rstrip("\N{REPLACEMENT CHARACTER}")  # the excerpt may end within a character
    start, stop = part.passages[0]
    if "".join(text for text, _ in part.documents.read(start, min(start + len(back), stop))) != back:
        print_note("this tokenizer does not give the text back exactly: figures per byte and character are approximate")
    if score.scored >= _ENOUGH_TO_TIME:
        print_note(f"{count(score.scored / seconds)} tokens/s")
