"""`attncli align`."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.cli.options import Given
from attncli.cli.shared import JSON, ModelSource, parse_head
from attncli.config import CorpusConfig
from attncli.config.limits import at_least
from attncli.config.option import argument, check, option, option_from
from attncli.errors import UsageProblem
from attncli.evaluation.alignment import FEWEST_COMBINED, LINK_METHODS, SHIFTS, LinkMethod, Shift
from attncli.evaluation.pair_words import SPLITS, Split

_FILES = "Files of pairs: lines of a source, a tab and a target, or JSON Lines; - for standard input."
_SOURCE = "With --target: a file of sources, one a line."
_TARGET = "With --source: a file of their translations, line by line."
_GOLD = "Align the pairs of this file instead, and print the error rate. Its lines have a source, a target and links."
_TRAIN = "Also train the HMM, and with --gold IBM Model 1, on this file of pairs."
_SPLIT = "What is aligned: words and punctuation marks, the words between spaces, or the tokens of the model."
_METHOD = (
    "How words are linked: by what predictions lose without a source word combined with an HMM, by these predictions "
    f"alone, or by attention. Unset: combined; predictions if fewer than {FEWEST_COMBINED} pairs train the HMM; "
    "attention if heads are given."
)
_HEAD = "Read this head of cross-attention, such as 2.3 for head 3 of layer 2. Several heads are averaged."
_LAYER = "Read the mean of all heads of this layer."
_SHIFT = "Read the attention of a target word at the position that predicts it (output) or that reads it (input)."
_EXAMPLE = "For example: attncli align pairs.tsv -m my-model"


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The options that choose how words are linked, and which heads of cross-attention are read at which position."""

    method: LinkMethod | None = option(None, _METHOD, choices=LINK_METHODS)
    head: tuple[str, ...] = option((), _HEAD, metavar="L.H")
    layer: int | None = option(None, _LAYER, limit=at_least(0), rare=True)
    shift: Shift | None = option(None, _SHIFT, choices=SHIFTS, rare=True)

    def __post_init__(self) -> None:
        check(self)
        if self.head and self.layer is not None:
            raise UsageProblem("--head and --layer cannot be combined.", "Give one of them.")
        if self.method not in (None, "attention") and self.attention:
            raise UsageProblem(
                f"--method {self.method} reads no attention, and --head, --layer and --shift choose where it is read.",
                "Leave them out, or give --method attention.",
            )

    @property
    def attention(self) -> bool:
        """Whether an option restricts the choice of heads."""
        return bool(self.head) or self.layer is not None or self.shift is not None

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
    method: MethodOptions,
    encoding: str = option_from(CorpusConfig, "encoding", panel="", rare=True),
    json: bool = JSON,
    given: Given,
) -> None:
    """Link the words of sentence pairs by the predictions or the cross-attention of a model that translates.

    attncli align pairs.tsv -m my-model
    attncli align --gold gold.tsv -m my-model
    """
    if sum((bool(files), bool(source or target), gold is not None)) != 1:
        raise UsageProblem("Give pairs in one way: FILE, --source with --target, or --gold.", _EXAMPLE)
    if (source is None) != (target is None):
        raise UsageProblem("--source and --target are given together.", "Add the other file.")
    chosen = method.method or ("attention" if method.attention else None)
    if gold is None and chosen not in (None, "combined"):
        given.refuse(("train_file",), f"The method {chosen} trains nothing")
    if split == "tokens":
        given.refuse(("train_file",), "The HMM is trained on words, and --split tokens links tokens")
    if gold is not None:
        given.refuse(("split",), "Gold links count the words between spaces")
    heads = method.heads
    from attncli.cli.bodies.align import Asked, read_gold_pairs, read_pairs_to_align, run

    config = CorpusConfig(encoding=encoding)
    if gold is not None:
        pairs = read_gold_pairs(gold, train_file, config)
    else:
        pairs = read_pairs_to_align(files, source, target, split, train_file, config)
    run(model_source, pairs, Asked(chosen, heads, method.layer, method.shift), json=json)
