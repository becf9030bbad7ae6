"""`attncli align`: reads pairs, links their words, and prints the links or their error rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attncli.checkpoint.load import LoadedModel
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.config import CorpusConfig
from attncli.evaluation.aligning import Alignment, align_by_attention, align_combined, align_pairs, predicted_pairs
from attncli.evaluation.alignment import GoldPair, LinkMethod, Shift, default_method, format_links, read_gold
from attncli.evaluation.alignment_baselines import AlignmentComparison, compare_with_baselines
from attncli.evaluation.bitext import WordPair
from attncli.evaluation.cross_attention import require_encoder_decoder
from attncli.evaluation.head_choice import Choice, choose_heads, sample_of, selections_of
from attncli.evaluation.link_matrices import HeadIndex
from attncli.evaluation.pair_words import Split, WordsOfPair, words_of_pair
from attncli.render.aligning import alignment_progress, alignments_document, comparison_screen, links_note
from attncli.render.console import messages, output, print_json, print_lines, print_note, show
from attncli.render.status import status
from attncli.text.files import read_text
from attncli.text.pairs import place_of_pair, read_pairs, read_parallel
from attncli.text.reading import name_of
from attncli.text.words import split_words


@dataclass(frozen=True)
class PairsToAlign:
    """The pairs to align, and how they are split into words. With gold links, the pairs are those of the gold file."""

    count: int
    pair: Callable[[int], tuple[str, str]]
    place: Callable[[int], str]  # the file and the line of a pair, for errors
    split: Split
    gold: tuple[GoldPair, ...] = ()
    training: tuple[WordPair, ...] = ()  # further pairs that the HMM and the baselines are trained on
    name: str = ""


@dataclass(frozen=True)
class Asked:
    """How words are linked: the method, or None for the default, and what restricts the choice of heads."""

    method: LinkMethod | None
    heads: tuple[HeadIndex, ...] = ()
    layer: int | None = None
    shift: Shift | None = None


def read_pairs_to_align(
    files: tuple[str, ...],
    source: str | None,
    target: str | None,
    split: Split,
    train_files: tuple[str, ...],
    config: CorpusConfig,
) -> PairsToAlign:
    """Reads the pairs of `files`, or of the two files `source` and `target`, and the pairs of `train_files`."""
    pairs = read_pairs(files, config) if source is None or target is None else read_parallel(source, target, config)
    paths = files if source is None else (source,)
    training = _training_pairs(train_files, split, config)
    return PairsToAlign(
        len(pairs), pairs.__getitem__, lambda at: place_of_pair(paths, at, config), split, training=training
    )


def read_gold_pairs(file: str, train_files: tuple[str, ...], config: CorpusConfig) -> PairsToAlign:
    """Reads the pairs and links of a gold file, and the pairs that the baselines are trained on."""
    lines, name = read_text(file, config.encoding).split("\n"), name_of(file)
    gold = read_gold(lines, name)
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    return PairsToAlign(
        len(gold),
        lambda at: (" ".join(gold[at].source), " ".join(gold[at].target)),
        lambda at: f"{name}, line {numbers[at]}",
        "spaces",
        tuple(gold),
        _training_pairs(train_files, "words", config),
        name,
    )


def _training_pairs(files: tuple[str, ...], split: Split, config: CorpusConfig) -> tuple[WordPair, ...]:
    """Returns the words of all pairs of the files."""
    divide = str.split if split == "spaces" else split_words
    return tuple((divide(source), divide(target)) for source, target in read_pairs(files, config)) if files else ()


def run(source: ModelSource, to_align: PairsToAlign, asked: Asked, *, json: bool) -> None:
    """Prints the links of each pair; with gold links, prints the error rate of every method instead."""
    loaded = load(source)
    require_encoder_decoder(loaded.model, loaded.name)
    trained_on = to_align.count + len(to_align.training)
    method = asked.method or default_method(trained_on)
    choice = _choice(loaded, to_align, asked)
    print_note(links_note(method, choice, trained_on, default=asked.method is None))
    with alignment_progress(messages(), to_align.count) as progress:
        if to_align.gold:
            by_method = _by_every_method(loaded, to_align, choice, progress)
        else:
            found = _aligned(loaded, to_align, method, choice, progress)
            if not json:
                print_lines(format_links(alignment.links) for alignment in found)
                return
            by_method = {method: list(found)}
    comparison = _compared(by_method, to_align) if to_align.gold else None
    if json:
        print_json(alignments_document(by_method[method], method, choice, loaded.name, comparison))
    elif comparison is not None:
        console = output()
        show(console, comparison_screen(comparison, method, choice, loaded.name, to_align.name, console.width))


def _choice(loaded: LoadedModel, to_align: PairsToAlign, asked: Asked) -> Choice | None:
    """Returns the heads that attention is read from, or None if it is not read."""
    if asked.method != "attention" and not to_align.gold:
        return None
    candidates = selections_of(loaded.model, asked.heads, asked.layer, asked.shift)
    compared = [_words(loaded, to_align, at) for at in sample_of(to_align.count)] if len(candidates) > 1 else []
    status("choosing the heads")
    return choose_heads(loaded.model, compared, candidates)


def _words(loaded: LoadedModel, to_align: PairsToAlign, at: int) -> WordsOfPair:
    """Returns the words of a pair. Raises BadInput, which names the file and the line."""
    return words_of_pair(*to_align.pair(at), loaded, to_align.split, lambda: to_align.place(at))


def _aligned(
    loaded: LoadedModel,
    to_align: PairsToAlign,
    method: LinkMethod,
    choice: Choice | None,
    progress: Callable[[int], None],
) -> Iterable[Alignment]:
    """Returns the alignment of each pair."""
    pairs = (_words(loaded, to_align, at) for at in range(to_align.count))
    selected = None if choice is None else choice.selected
    return align_pairs(loaded.model, pairs, method, selected, to_align.training, progress)


def _by_every_method(
    loaded: LoadedModel, to_align: PairsToAlign, choice: Choice | None, progress: Callable[[int], None]
) -> dict[LinkMethod, list[Alignment]]:
    """Returns the alignments of all pairs by every method. The predictions are computed once."""
    assert choice is not None
    pairs = [_words(loaded, to_align, at) for at in range(to_align.count)]
    predicted = list(predicted_pairs(loaded.model, pairs, progress))
    return {
        "combined": align_combined(predicted, to_align.training),
        "predictions": [one.alignment for one in predicted],
        "attention": list(align_by_attention(loaded.model, pairs, choice.selected)),
    }


def _compared(by_method: dict[LinkMethod, list[Alignment]], to_align: PairsToAlign) -> AlignmentComparison:
    """Returns the scores of the links and of the baselines."""
    status("training the baselines")
    links = {method: [frozenset(one.links) for one in found] for method, found in by_method.items()}
    return compare_with_baselines(links, to_align.gold, to_align.training)
