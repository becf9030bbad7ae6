"""`attncli eval` for a model that translates: the loss on the targets of pairs, BLEU and chrF2, beside a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load_to_score
from attncli.cli.shared import ModelSource
from attncli.config import CorpusConfig
from attncli.errors import BadInput, UsageProblem
from attncli.evaluation.evaluate_pairs import score_pairs
from attncli.evaluation.translation import references_of
from attncli.evaluation.translation_judgement import judge_translations
from attncli.generation.loading import backend_for
from attncli.render.console import messages, print_note
from attncli.render.evaluation import evaluation_progress
from attncli.render.numbers import plural
from attncli.render.status import status
from attncli.render.translation import pair_evaluation_document, pair_evaluation_screen
from attncli.text.names import listed
from attncli.text.pair_inputs import InputKind
from attncli.text.pair_split import shared_sources
from attncli.text.pair_tokens import tokenize_pairs
from attncli.text.pairs import Pairs, read_pairs, read_parallel
from attncli.text.progress import Progress, ProgressMeter
from attncli.training.translations import translate


@dataclass(frozen=True)
class PairsToScore:
    """The files of `attncli eval` for pairs. None as the kind means files that were given without a kind."""

    files: tuple[str, ...]
    kind: InputKind | None
    train_files: tuple[str, ...]  # pairs for the baseline


def run(source: ModelSource, dtype: str, given: PairsToScore, reading: CorpusConfig, beams: int, *, json: bool) -> None:
    """Prints the score of a model on pairs. With `beams` above 1, beam search finds the translations."""
    status("reading the pairs")
    pairs = _read(given.files, given.kind, reading)
    training = read_pairs(given.train_files, reading) if given.train_files else None
    loaded = load_to_score(source, dtype)
    if not loaded.model.config.encoder_layers:
        raise UsageProblem(f"{loaded.name} does not translate, so it has no score on pairs.", "Give it a text.")
    began = monotonic()
    meter = ProgressMeter(None, Progress("tokenizing", 0, pairs.bytes))
    tokens = tokenize_pairs(pairs, loaded.tokenizer, meter, loaded.forced).within(loaded.model.config.context)
    if not len(tokens):
        raise BadInput("Every pair has more tokens than the context.", "Give shorter sentences.")
    with evaluation_progress(messages(), tokens.to_score) as progress:
        score = score_pairs(loaded, tokens, progress)
    if tokens.too_long:
        print_note(f"{tokens.too_long:,} pairs have a side with more tokens than the context, and are not scored")
    status("translating")
    found = judge_translations(
        partial(translate, loaded, backend_for(loaded.model), beams=beams),
        references_of(tokens.pairs),
        [] if training is None else list(training),
        progress=lambda count: status(f"translating: {count:,} sources"),
    )
    if _trained_on(loaded, pairs):
        print_note(f"{loaded.name} was trained on these pairs: its score does not measure generalization")
    if training is not None and (shared := shared_sources(training, pairs)):
        of = f"{shared:,} of {plural(len(pairs), 'pair')} have a source that is also in {listed(given.train_files)}"
        print_note(f"{of}: the baseline knows their targets, so its scores are too high")
    seconds, title = monotonic() - began, listed(given.files)
    show_result(
        lambda: pair_evaluation_document(loaded.name, given.files, len(tokens), score, found, beams, seconds),
        lambda console: pair_evaluation_screen(loaded.name, title, len(tokens), score, found, beams),
        json=json,
    )


def _trained_on(loaded: LoadedModel, pairs: Pairs) -> bool:
    """Whether run.json says that the model was trained on these pairs, or on a part of them."""
    corpus = loaded.run.get("corpus")
    return isinstance(corpus, dict) and corpus.get("text_digest") == pairs.digest


def _read(files: Sequence[str], kind: InputKind | None, reading: CorpusConfig) -> Pairs:
    if kind == "parallel":
        return read_parallel(files[0], files[1], reading)
    return read_pairs(files, reading)
