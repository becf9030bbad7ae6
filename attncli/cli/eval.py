"""`attncli eval`."""

from __future__ import annotations

from dataclasses import replace

from attncli.cli.shared import GENERATION_DTYPES, JSON, ModelSource
from attncli.config import CorpusConfig
from attncli.config.limits import Limit
from attncli.config.option import argument, option, option_from
from attncli.errors import UsageProblem
from attncli.render.status import status

_FILES = "Text files, directories, or - for standard input. The first argument may be a model, instead of -m."
_LAST = "Score only this share of the text, at its end, and train the baselines on the rest."
_TRAIN = "Train the baselines on this file, the model's training text. May be given several times."
_DTYPE = "The type of the weights: float32, bfloat16, float16 or int8. Other programs report scores for float32."


def eval(
    *,
    files: tuple[str, ...] = argument((), _FILES, metavar="[MODEL] FILE"),
    source: ModelSource,
    last: float = option(1.0, _LAST, limit=Limit("above 0 and at most 1", lambda share: 0 < share <= 1)),
    train_file: tuple[str, ...] = option((), _TRAIN, metavar="FILE"),
    encoding: str = option_from(CorpusConfig, "encoding", panel=""),
    dtype: str = option("float32", _DTYPE, suggestions=GENERATION_DTYPES, rare=True),
    json: bool = JSON,
) -> None:
    """Score a model on a text, and compare it with baselines: compressors and an n-gram model.

    attncli eval book.txt
    attncli eval my-model corpus.txt --last 0.1
    """
    if not files:
        raise UsageProblem("There is no text to score.", "For example: attncli eval book.txt")
    reading = CorpusConfig(encoding=encoding)
    from attncli.cli.bodies.eval_texts import model_and_files, read_texts

    model, paths = model_and_files(files, source.model)
    status("reading the text")
    texts = read_texts(paths, train_file, last, reading)
    status("importing PyTorch")
    from attncli.cli.bodies.eval import run

    run(replace(source, model=model), dtype, texts, json=json)
