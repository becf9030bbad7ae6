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
_FROM = "Fine-tune this model: start from its weights, with its shape and its tokenizer."
_WATCH = "Score the attention heads at every evaluation; attncli plot --heads draws the scores."
_PLACE = "Where the model is saved"

# The options that may be given with --resume.
_FREE = frozenset({"val_file", "name", "out", "resume", "device", "tensorboard", "watch_heads", "json"})


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
    pinned: TrainConfig,
    start: str | None = option(None, _FROM, "--from", metavar="MODEL", suggestions=model_names, panel="The model"),
    corpus: CorpusConfig,
    val_file: str | None = option(
        None,
        "The text to validate on. Unset: the end of the training text.",
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
    """Train a model on your own text.

    attncli train corpus.txt
    attncli train book.txt notes/ --time 3m --name mine
    """
    from attncli.cli.bodies.train import TrainArguments, directory_of, run, show_plan

    arguments = TrainArguments(files, val_file, start, place.resume, place.force, watch_heads)
    target = directory_of(arguments, place.name, place.out)
    if place.resume:
        given.refuse(sorted(given.keys() - _FREE), "A resumed run keeps its plan")
    if start is not None:
        given.refuse(("size", "tokenizer", "vocab_size"), "The model of --from keeps its shape and tokenizer")
    if plan:
        show_plan(arguments, target, corpus, pinned, json)
    else:
        run(arguments, target, corpus, pinned, json, tensorboard)
