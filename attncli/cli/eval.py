"""`attncli eval`."""

from __future__ import annotations

from dataclasses import replace

from attncli.cli.compiling import begin_compiling
from attncli.cli.shared import GENERATION_DTYPES, JSON, ModelSource
from attncli.config import CorpusConfig, SampleConfig
from attncli.config.limits import Limit
from attncli.config.option import argument, option, option_from
from attncli.errors import UsageProblem
from attncli.render.status import status

_FILES = (
    "Text files, directories, or - for standard input; files of pairs for a model that translates. The first argument "
    "may be a model, instead of -m."
)
_LAST = "Score only this share of the text, at its end, and train the baselines on the rest."
_TRAIN = "Train the baselines on this file: the model's training text or pairs. May be given several times."
_PAIRS = "A file of pairs, for a model that translates. May be given several times."
_SOURCE = "With --target: a file of sources, one a line, for a model that translates."
_TARGET = "With --source: a file of their translations, line by line."
_DTYPE = "The type of the weights: float32, bfloat16, float16 or int8. Other programs report scores for float32."


def eval(
    *,
    files: tuple[str, ...] = argument((), _FILES, metavar="[MODEL] FILE"),
    source: ModelSource,
    pairs: tuple[str, ...] = option((), _PAIRS, metavar="FILE", rare=True),
    source_file: str | None = option(None, _SOURCE, "--source", metavar="FILE", rare=True),
    target_file: str | None = option(None, _TARGET, "--target", metavar="FILE", rare=True),
    beams: int = option_from(SampleConfig, "beams", help="For pairs: beam search with N beams; 1 is greedy.", panel=""),
    last: float = option(1.0, _LAST, limit=Limit("above 0 and at most 1", lambda share: 0 < share <= 1)),
    train_file: tuple[str, ...] = option((), _TRAIN, metavar="FILE"),
    encoding: str = option_from(CorpusConfig, "encoding", panel=""),
    dtype: str = option("float32", _DTYPE, suggestions=GENERATION_DTYPES, rare=True),
    json: bool = JSON,
) -> None:
    """Score a model on a text or on pairs, and compare it with baselines.

    attncli eval book.txt
    attncli eval my-model corpus.txt --last 0.1
    """
    from attncli.text.pair_inputs import files_and_kind

    given, kind = files_and_kind((), pairs, source_file, target_file)
    if not files and not given:
        raise UsageProblem("There is no text to score.", "For example: attncli eval book.txt")
    reading = CorpusConfig(encoding=encoding)
    from attncli.cli.bodies.eval_texts import model_and_files, model_beside_pairs, read_texts, translates

    model, paths = model_beside_pairs(files, source.model) if given else model_and_files(files, source.model)
    source = replace(source, model=model)
    if given or translates(source):
        if last < 1:
            raise UsageProblem("--last is for text, and this model is scored on pairs.", "Leave --last out.")
        begin_compiling(source.device)
        status("importing PyTorch")
        from attncli.cli.bodies.eval_pairs import PairsToScore
        from attncli.cli.bodies.eval_pairs import run as run_pairs

        run_pairs(source, dtype, PairsToScore(given or tuple(paths), kind, train_file), reading, beams, json=json)
        return
    if beams > 1:
        raise UsageProblem("--beams is for a model that translates.", "Leave --beams out.")
    status("reading the text")
    texts = read_texts(paths, train_file, last, reading)
    status("importing PyTorch")
    from attncli.cli.bodies.eval import run

    run(source, dtype, texts, json=json)
