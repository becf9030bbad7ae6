"""`attncli align`: reads pairs, chooses the heads, and prints the links."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from attncli.checkpoint.load import LoadedModel
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.config import CorpusConfig
from attncli.evaluation.aligning import Alignment, HeadIndex, align_pairs
from attncli.evaluation.alignment import GoldPair, format_links, read_gold
from attncli.evaluation.alignment_baselines import AlignmentComparison, compare_with_baselines
from attncli.evaluation.bitext import WordPair
from attncli.evaluation.cross_attention import require_encoder_decoder
from attncli.evaluation.head_choice import Choice, choose_heads, sample_of, selections_of
from attncli.evaluation.pair_words import Split, WordsOfPair, words_of_pair
from attncli.render.aligning import alignment_progress, alignments_document, choice_note, comparison_screen
from attncli.render.console import messages, output, print_json, print_lines, print_note, show
from attncli.render.status import status
from attncli.text.files import read_text
from attncli.text.pairs import place_of_pair, read_pairs, read_parallel
from attncli.text.reading import name_of
from attncli.text.words import split_words


@dataclass(frozen=True)
class Texts:
    """The pairs to align, and how they are split into words. With gold links, the pairs are those of the gold file."""

    count: int
    pair: Callable[[int], tuple[str, str]]
    place: Callable[[int], str]  # the file and the line of a pair, for errors
    split: Split
    gold: tuple[GoldPair, ...] = ()
    training: tuple[WordPair, ...] = ()  # further pairs that the baselines are trained on
    name: str = ""


def read_texts(
    files: tuple[str, ...], source: str | None, target: str | None, split: Split, config: CorpusConfig
) -> Texts:
    """Reads the pairs of `files`, or of the two files `source` and `target`."""
    pairs = read_pairs(files, config) if source is None or target is None else read_parallel(source, target, config)
    paths = files if source is None else (source,)
    return Texts(len(pairs), pairs.__getitem__, lambda at: place_of_pair(paths, at, config), split)


def read_gold_texts(file: str, train_files: tuple[str, ...], config: CorpusConfig) -> Texts:
    """Reads the pairs and links of a gold file, and the pairs that the baselines are trained on."""
    lines, name = read_text(file, config.encoding).split("\n"), name_of(file)
    gold = read_gold(lines, name)
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    training = read_pairs(train_files, config) if train_files else ()
    return Texts(
        len(gold),
        lambda at: (" ".join(gold[at].source), " ".join(gold[at].target)),
        lambda at: f"{name}, line {numbers[at]}",
        "spaces",
        tuple(gold),
        tuple((split_words(source), split_words(target)) for source, target in training),
        name,
    )


def run(
    source: ModelSource, texts: Texts, heads: tuple[HeadIndex, ...], layer: int | None, shift: str | None, *, json: bool
) -> None:
    """Prints the links of each pair; with gold links, prints the error rate beside the baselines instead."""
    loaded = load(source)
    require_encoder_decoder(loaded.model, loaded.name)
    candidates = selections_of(loaded.model, heads, layer, shift)
    compared = [_words(loaded, texts, at) for at in sample_of(texts.count)] if len(candidates) > 1 else []
    status("choosing the heads")
    choice = choose_heads(loaded.model, compared, candidates)
    print_note(choice_note(choice))
    with alignment_progress(messages(), texts.count) as progress:
        found = _aligned(loaded, texts, choice, progress)
        if not json and not texts.gold:
            print_lines(format_links(alignment.links) for alignment in found)
            return
        alignments = list(found)
    comparison = _compared(alignments, texts) if texts.gold else None
    if json:
        print_json(alignments_document(alignments, choice, loaded.name, comparison))
    elif comparison is not None:
        console = output()
        show(console, comparison_screen(comparison, choice, loaded.name, texts.name, console.width))


def _words(loaded: LoadedModel, texts: Texts, at: int) -> WordsOfPair:
    """Returns the words of a pair. Raises BadInput, which names the file and the line."""
    return words_of_pair(*texts.pair(at), loaded, texts.split, lambda: texts.place(at))


def _aligned(loaded: LoadedModel, texts: Texts, choice: Choice, progress: Callable[[int], None]) -> Iterator[Alignment]:
    """Yields the alignment of each pair."""
    pairs = (_words(loaded, texts, at) for at in range(texts.count))
    return align_pairs(loaded.model, pairs, choice.selected, progress)


def _compared(alignments: list[Alignment], texts: Texts) -> AlignmentComparison:
    """Returns the scores of the links and of the baselines."""
    status("training the baselines")
    return compare_with_baselines([frozenset(one.links) for one in alignments], texts.gold, texts.training)
