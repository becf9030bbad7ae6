"""`attncli align`."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.cli.options import Given
from attncli.cli.shared import JSON, ModelSource, parse_head
from attncli.config import CorpusConfig
from attncli.config.limits import at_least
from attncli.config.option import argument, check, option, option_from
from attncli.errors import UsageProblem
from attncli.evaluation.pair_words import SPLITS, Split

_FILES = "Files of pairs: lines of a source, a tab and a target, or JSON Lines; - for standard input."
_SOURCE = "With --target: a file of sources, one a line."
_TARGET = "With --source: a file of their translations, line by line."
_GOLD = "Align the pairs of this file instead, and print the error rate. Its lines have a source, a target and links."
_TRAIN = "With --gold: also train the baselines on this file of pairs."
_SPLIT = "What is aligned: words and punctuation marks, the words between spaces, or the tokens of the model."
_HEAD = "Read this head of cross-attention, such as 2.3 for head 3 of layer 2. Several heads are averaged."
_LAYER = "Read the mean of all heads of this layer."
_SHIFT = "Read the attention of a target word at the position that predicts it (output) or that reads it (input)."
_EXAMPLE = "For example: attncli align pairs.tsv -m my-model"


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """The options that choose which heads of cross-attention are read, and at which position."""

    head: tuple[str, ...] = option((), _HEAD, metavar="L.H")
    layer: int | None = option(None, _LAYER, limit=at_least(0), rare=True)
    shift: str | None = option(None, _SHIFT, choices=("output", "input"), rare=True)

    def __post_init__(self) -> None:
        check(self)
        if self.head and self.layer is not None:
            raise UsageProblem("--head and --layer cannot be combined.", "Give one of them.")

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """The layer and the index of each head. Raises UsageProblem for a value of --head that is not a head."""
        return tuple(parse_head(head) for head in self.head)


def align(
    *,
    files: tuple[str, ...] = argument((), _FILES, metavar="FILE"),
    model_source: ModelSource,
    source: str | None = option(None, _SOURCE, metavar="FILE"),
    target: str | None = option(None, _TARGET, metavar="FILE"),
    gold: str | None = option(None, _GOLD, metavar="FILE"),
    train_file: tuple[str, ...] = option((), _TRAIN, metavar="FILE"),
    split: Split = option("words", _SPLIT, choices=SPLITS),
    chosen: HeadOptions,
    encoding: str = option_from(CorpusConfig, "encoding", panel="", rare=True),
    json: bool = JSON,
    given: Given,
) -> None:
    """Link the words of sentence pairs by the cross-attention of a model that translates.

    attncli align pairs.tsv -m my-model
    attncli align --gold gold.tsv -m my-model
    """
    if sum((bool(files), bool(source or target), gold is not None)) != 1:
        raise UsageProblem("Give pairs in one way: FILE, --source with --target, or --gold.", _EXAMPLE)
    if (source is None) != (target is None):
        raise UsageProblem("--source and --target are given together.", "Add the other file.")
    if gold is None:
        given.refuse(("train_file",), "Baselines are measured with --gold only")
    else:
        given.refuse(("split",), "Gold links count the words between spaces")
    heads = chosen.heads
    from attncli.cli.bodies.align import read_gold_texts, read_texts, run

    config = CorpusConfig(encoding=encoding)
    if gold is not None:
        texts = read_gold_texts(gold, train_file, config)
    else:
        texts = read_texts(files, source, target, split, config)
    run(model_source, texts, heads, chosen.layer, chosen.shift, json=json)
