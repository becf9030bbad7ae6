"""`attncli eval`."""

from __future__ import annotations

import math
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from attncli.cli.completing import one_of
from attncli.cli.help import MORE
from attncli.cli.options import GENERATION_DTYPES, DeviceOption, JsonOption, ModelOption, RevisionOption, unset
from attncli.config import CorpusConfig
from attncli.errors import BadCheckpoint, BadInput, UsageProblem
from attncli.paths import exists, is_file
from attncli.render.status import status

if TYPE_CHECKING:
    from attncli.checkpoint.load import LoadedModel
    from attncli.evaluation.excerpt import Excerpt
    from attncli.evaluation.score import Score
    from attncli.text.parts import Part
    from attncli.text.tokens import Tokens

_FILES = "A model, if -m gives none and more follows; then text files, directories, or - for standard input."
_LAST = "Score only this share of the characters, at the end; the baselines are given what comes before."
_TRAIN = "The text that the model was trained on, for the baselines; may be given several times."
_DTYPE = "The type of the weights: float32, as any other program scores, bfloat16, float16 or int8."

_ENOUGH_TO_TIME = 1000  # tokens
_LONGEST_NAME = 200  # characters of a part of a path; a text that was given for a file has more


# fmt: off
def eval(
    files: Annotated[list[str] | None, typer.Argument(metavar="[MODEL] FILE", help=_FILES, show_default=False)] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    last: Annotated[float, typer.Option(help=_LAST)] = 1.0,
    train_file: Annotated[list[str] | None, unset(metavar="FILE", help=_TRAIN)] = None,
    encoding: Annotated[str, typer.Option(help="The encoding of the text.", rich_help_panel=MORE)] = CorpusConfig.encoding,  # noqa: E501
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE, rich_help_panel=MORE, autocompletion=one_of(GENERATION_DTYPES))] = "float32",  # noqa: E501
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Score a model on a text, beside what gzip, xz and a 5-gram model make of it.

    attncli eval book.txt
    attncli eval my-model corpus.txt --last 0.1
    """
    name, paths = _model_and_files(files or [], model)
    status("reading the text")
    part, before = _parts(paths, train_file or [], last, CorpusConfig(encoding=encoding).encoding)
    status("importing PyTorch")
    from attncli.cli.loading import load_to_score
    from attncli.evaluation.baselines import measure
    from attncli.evaluation.excerpt import ends_of, first_of
    from attncli.evaluation.judgement import Judgement
    from attncli.render.console import output, print_json, show
    from attncli.render.evaluation import evaluation_document, evaluation_screen
    from attncli.text.tokens import tokens_of

    loaded = load_to_score(name, device, dtype, revision)
    tokens = tokens_of(part, loaded.tokenizer)
    score, seconds = _score(loaded, tokens.opened(loaded.tokenizer.opening))
    scored = first_of(tokens, loaded.tokenizer)
    status("measuring gzip, xz and a 5-gram model")
    given, counted = ends_of(before, loaded.tokenizer) if before is not None else (None, None)
    judgement = Judgement(score, measure(scored, loaded.tokenizer.vocab_size, given, counted))
    _tell(part, scored, score, seconds)
    named = ", ".join("standard input" if path == "-" else path for path in paths)
    named += f", the last {last * 100:g}%" if last < 1 else ""
    if json:
        print_json(evaluation_document(loaded.name, paths, judgement, seconds))
    else:
        console = output()
        of = "the training text" if train_file else "the text before it"
        show(console, evaluation_screen(loaded.name, named, judgement, console.width, of))


def _model_and_files(words: list[str], model: str | None) -> tuple[str | None, list[str]]:
    """Of several words the first is a model, unless it is a text or -m names one."""
    from attncli.checkpoint.catalog import MODELS_FOLDER, find_model, known_models
    from attncli.checkpoint.directory import CONFIG
    from attncli.checkpoint.hub import is_of_hub

    if not words:
        raise UsageProblem("There is no text to score.", "Give a file: attncli eval book.txt")
    first, *more = words
    if max(map(len, first.split("/"))) > _LONGEST_NAME:
        raise BadInput(f"There is no file {first[:40]}…: the name is too long.", "Pipe a text in, and say - for it.")
    if model is not None or not first or is_file(first):
        return model, words
    is_model = any(is_file(folder / CONFIG) for folder in (Path(first), MODELS_FOLDER / first))
    is_model = is_model or any(first == entry.name for entry in known_models()) or bool(more and is_of_hub(first))
    if is_model and more:
        return first, more
    if (is_model and not exists(first)) or is_file(Path(first) / CONFIG):
        raise UsageProblem(f"{first} is a model, and a text is needed too.", f"Say attncli eval {first} FILE")
    if more and first != "-" and not exists(first):
        find_model(first)  # says which models there are
    return None, words


def _parts(paths: list[str], train_files: list[str], last: float, encoding: str) -> tuple[Part, Part | None]:
    """The text to score, and the text that the baselines are given."""
    from attncli.render.console import print_note
    from attncli.text.files import read_documents
    from attncli.text.parts import Part, split_by_position

    if not 0 < last <= 1:
        raise UsageProblem(f"--last is {last}, and must be above 0 and at most 1.", "0.1 is the last tenth.")
    documents = read_documents(paths, encoding)
    for note in documents.notes:
        print_note(note)
    before, part = split_by_position(documents, last)
    if train_files:
        before = Part.whole(read_documents(train_files, encoding))
    return part, before if before.characters else None


def _score(loaded: LoadedModel, tokens: Tokens) -> tuple[Score, float]:
    """The score, and how many seconds it took."""
    from attncli.evaluation.evaluate import evaluate
    from attncli.render.console import messages
    from attncli.render.evaluation import evaluation_progress
    from attncli.render.numbers import plural

    if tokens.to_score < 1:
        counted = plural(len(tokens), "token")
        raise BadInput(f"The text has {counted}, and the first is not scored.", "Give a longer one.")
    began = monotonic()
    with evaluation_progress(messages(), tokens.to_score) as progress:
        score = evaluate(loaded.model, tokens, progress=progress)
    if not math.isfinite(score.nats):
        raise BadCheckpoint(f"{loaded.path} gives probabilities that are not numbers.", "Try --dtype float32.")
    return score, monotonic() - began


def _tell(part: Part, scored: Excerpt, score: Score, seconds: float) -> None:
    """What is worth a note on standard error."""
    from attncli.render.console import print_note
    from attncli.render.numbers import count

    back = scored.data.decode().rstrip("\N{REPLACEMENT CHARACTER}")  # the excerpt may end within a character
    start, stop = part.passages[0]
    if "".join(text for text, _ in part.documents.read(start, min(start + len(back), stop))) != back:
        print_note("this tokenizer does not give the text back exactly: figures per byte and character are approximate")
    if score.scored >= _ENOUGH_TO_TIME:
        print_note(f"{count(score.scored / seconds)} tokens/s")
