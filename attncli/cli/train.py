"""`attncli train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attncli.cli.completing import model_names
from attncli.cli.options import Given
from attncli.cli.shared import JSON
from attncli.config import CorpusConfig, TrainConfig
from attncli.config.option import argument, option

_FILES = (
    "Text files, directories, or - for standard input. A file named twice is seen twice as often, and needs --val-file."
)
_PAIRS = (
    "A file of pairs, to train a model that translates: lines of a source, a tab and a target, or JSON Lines. May be "
    "given several times. A .tsv or .jsonl file of pairs needs no option."
)
_SOURCE = "With --target: a file of sources, one a line."
_TARGET = "With --source: a file of their translations, line by line."
_FROM = "Fine-tune this model: start from its weights, with its shape and its tokenizer."
_WATCH = "Score the attention heads at every evaluation; attncli plot --heads draws the scores."
_PLACE = "Where the model is saved"

# The options that may be given with --resume.
_FREE = frozenset(
    {"pairs", "source", "target", "val_file", "name", "out", "resume", "device", "tensorboard", "watch_heads", "json"}
)


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """The options that name files of pairs."""

    pairs: tuple[str, ...] = option((), _PAIRS, metavar="FILE", panel="The text", rare=True)
    source: str | None = option(None, _SOURCE, metavar="FILE", panel="The text", rare=True)
    target: str | None = option(None, _TARGET, metavar="FILE", panel="The text", rare=True)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The options that name the model's directory and say what to do with a model that is already there."""

    name: str | None = option(
        None, "The model's name in ./checkpoints. Unset: the name of the first file.", panel=_PLACE
    )
    out: Path | None = option(
        None, "The model's directory. Unset: a directory in ./checkpoints.", "--out", "-o", metavar="DIR", panel=_PLACE
    )
    resume: bool = option(False, "Continue a run that was stopped.", panel=_PLACE)
    force: bool = option(
        False, "Replace an existing model of this name; a README.md that you edited is kept.", panel=_PLACE
    )


def train(
    *,
    files: tuple[str, ...] = argument((), _FILES, metavar="FILE"),
    paired: PairFiles,
    pinned: TrainConfig,
    start: str | None = option(None, _FROM, "--from", metavar="MODEL", suggestions=model_names, panel="The model"),
    corpus: CorpusConfig,
    val_file: str | None = option(
        None,
        "The text or the pairs to validate on. Unset: a part of the training text, which is not trained on.",
        metavar="FILE",
        panel="The text",
        rare=True,
    ),
    place: Place,
    plan: bool = option(False, "Print the plan of the run without training."),
    tensorboard: bool = option(False, "Also write TensorBoard events beside the model.", rare=True),
    watch_heads: bool = option(False, _WATCH, rare=True),
    json: bool = JSON,
    given: Given,
) -> None:
    """Train a model on your own text, or on pairs of sentences to translate.

    attncli train corpus.txt
    attncli train pairs.tsv --time 10m --name mine
    """
    from attncli.cli.bodies.train import TrainArguments, directory_of, run, show_plan
    from attncli.text.pair_inputs import files_and_kind

    given_files, kind = files_and_kind(files, paired.pairs, paired.source, paired.target)
    arguments = TrainArguments(given_files, kind, val_file, start, place.resume, place.force, watch_heads)
    directory = directory_of(arguments, place.name, place.out)
    if place.resume:
        given.refuse(sorted(given.keys() - _FREE), "A resumed run keeps its plan")
    if start is not None:
        given.refuse(("size", "tokenizer", "vocab_size"), "The model of --from keeps its shape and tokenizer")
    if plan:
        show_plan(arguments, directory, corpus, pinned, json)
    else:
        run(arguments, directory, corpus, pinned, json, tensorboard)
