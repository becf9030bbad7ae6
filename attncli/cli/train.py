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
_FROM = "Fine-tune this model: keep its shape and tokenizer, start from its weights."
_WATCH = "Score the attention heads at every evaluation; attncli plot --heads draws the scores."
_PLACE = "Where the model is saved"

# The options that --resume allows.
_FREE = frozenset({"val_file", "name", "out", "resume", "device", "tensorboard", "watch_heads", "json"})


@dataclass(frozen=True, kw_only=True)
class Place:
    """The directory of the model, and what to do with a model that is already in this directory."""

    name: str | None = option(
        None, "The model's name in ./checkpoints. Unset: the name of the first file.", panel=_PLACE
    )
    out: Path | None = option(
        None, "The model's directory, instead of a name.", "--out", "-o", metavar="DIR", panel=_PLACE
    )
    resume: bool = option(False, "Resume a run that was stopped.", panel=_PLACE)
    force: bool = option(False, "Replace a model of the same name; keep its README.md if you edited it.", panel=_PLACE)


def train(
    *,
    files: tuple[str, ...] = argument((), _FILES, metavar="FILE"),
    pinned: TrainConfig,
    start: str | None = option(None, _FROM, "--from", metavar="MODEL", suggestions=model_names, panel="The model"),
    corpus: CorpusConfig,
    val_file: str | None = option(
        None,
        "Validate on this text, instead of the end of the training text.",
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
    from attncli.cli.bodies.train import Request, directory_of, run, show_plan

    request = Request(files, val_file, start, place.resume, place.force, watch_heads)
    target = directory_of(request, place.name, place.out)
    if place.resume:
        given.refuse(sorted(given.keys() - _FREE), "A resumed run keeps its plan")
    if start is not None:
        given.refuse(("size", "tokenizer", "vocab_size"), "The model of --from brings its own")
    if plan:
        show_plan(request, target, corpus, pinned, json)
    else:
        run(request, target, corpus, pinned, json, tensorboard)
