"""Measures word alignment of English and German: the alignment error rate of each method.

usage: python benchmarks/align.py FOLDER [--eflomal BIN/eflomal-align] [--fast-align BUILD/fast_align]
           [--model DIRECTORY]

FOLDER contains tatoeba-en-de.train.tsv.xz and tatoeba-en-de.test.tsv.xz (English, tab, German), and
align-de-en.gold.tsv: sentences of Europarl in German and English, with links. Every method gets the same pairs, in
lower case: those of both gold alignments, then the training pairs. It links the words in both directions. Then it gets
the pairs of each gold alignment alone. The second gold alignment, align_gold.tsv beside this script, contains the links
of 50 lines of the test file, and no text.

With --model, also measures the methods of `attncli align` with a model that translates English to German: combined,
with and without the training pairs; predictions; attention of the heads that are chosen without gold links on the gold
pairs themselves; and attention of every head at both positions.

eflomal (pip install eflomal) and fast_align (github.com/clab/fast_align) run if the paths of their programs are given.
"""

import argparse
import hashlib
import lzma
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from attncli.evaluation.alignment import (
    AlignmentScore,
    GoldLinks,
    GoldPair,
    Links,
    diagonal,
    grow_diagonal_final,
    intersection,
    parse_links,
    read_gold,
    score_links,
)
from attncli.evaluation.bitext import WordPair
from attncli.evaluation.ibm import Aligner
from attncli.text.words import split_words

GOLD = Path(__file__).with_name("align_gold.tsv")
TRAIN, TEST, EUROPARL = "tatoeba-en-de.train.tsv.xz", "tatoeba-en-de.test.tsv.xz", "align-de-en.gold.tsv"
UNITED = {"intersection": intersection, "grow-diag-final-and": grow_diagonal_final}
Both = tuple[list[Links], list[Links]]  # the links of the first pairs, in both directions
Method = Callable[[Sequence[WordPair], int], Both]  # gets all pairs, and the number of pairs whose links are wanted


def europarl_gold(path: Path) -> list[GoldPair]:
    """Returns the gold pairs of Europarl as English and German: the file has the German sentence first."""

    def flipped(links: Links) -> Links:
        return frozenset((j, i) for i, j in links)

    with path.open(encoding="utf-8") as lines:
        return [
            GoldPair(pair.target, pair.source, GoldLinks(flipped(pair.links.sure), flipped(pair.links.possible)))
            for pair in read_gold(lines, path.name)
        ]


def tatoeba_gold(test: Path) -> list[GoldPair]:
    """Returns the gold pairs of the test file."""
    links = [parse_links(row.split("\t")[2]) for row in gold_rows()]
    return [
        GoldPair(tuple(split_words(source)), tuple(split_words(target)), some)
        for (source, target), some in zip(tatoeba_texts(test), links, strict=True)
    ]


def tatoeba_texts(test: Path) -> list[tuple[str, str]]:
    """Returns the source and target of each line of the test file that was aligned by hand."""
    lines, texts = lines_of(test), []
    for row in gold_rows():
        number, digest, _ = row.split("\t")
        line = lines[int(number) - 1]
        if hashlib.sha256(line.encode()).hexdigest()[:16] != digest:
            raise SystemExit(f"{test}, line {number} is not the line that was aligned by hand.")
        source, target = line.split("\t")[:2]
        texts.append((source, target))
    return texts


def gold_rows() -> list[str]:
    """Returns the rows of align_gold.tsv: the number of a line, its digest, and its links."""
    return GOLD.read_text(encoding="utf-8").splitlines()[1:]


def lines_of(path: Path) -> list[str]:
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n") for line in file]


def lowered(words: Sequence[str]) -> list[str]:
    return [word.lower() for word in words]


def by_diagonal(pairs: Sequence[WordPair], most: int) -> Both:
    found = [diagonal(len(source), len(target)) for source, target in pairs[:most]]
    return found, found


def by_model1(pairs: Sequence[WordPair], most: int) -> Both:
    return Aligner(pairs, "model1").links(most)


def by_hmm(pairs: Sequence[WordPair], most: int) -> Both:
    return Aligner(pairs, "hmm").links(most)


def links_of(path: Path, most: int) -> list[Links]:
    with path.open(encoding="utf-8") as lines:
        return [parse_links(line).sure for line, _ in zip(lines, range(most), strict=False)]


def by_fast_align(program: Path, pairs: Sequence[WordPair], most: int) -> Both:
    with tempfile.TemporaryDirectory() as folder:
        text, found = Path(folder, "pairs"), (Path(folder, "forward"), Path(folder, "backward"))
        text.write_text("".join(f"{' '.join(one)} ||| {' '.join(other)}\n" for one, other in pairs), encoding="utf-8")
        for path, options in zip(found, ("-dov", "-dovr"), strict=True):
            with path.open("wb") as out:
                subprocess.run([program, "-i", text, options], check=True, stdout=out, stderr=subprocess.DEVNULL)
        return links_of(found[0], most), links_of(found[1], most)


def by_eflomal(program: Path, pairs: Sequence[WordPair], most: int) -> Both:
    with tempfile.TemporaryDirectory() as folder:
        texts, found = (Path(folder, "en"), Path(folder, "de")), (Path(folder, "forward"), Path(folder, "backward"))
        for path, side in zip(texts, (0, 1), strict=True):
            path.write_text("".join(f"{' '.join(pair[side])}\n" for pair in pairs), encoding="utf-8")
        command = [program, "-s", texts[0], "-t", texts[1], "-f", found[0], "-r", found[1]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return links_of(found[0], most), links_of(found[1], most)


def measure_model(
    path: Path,
    golds: Sequence[Sequence[GoldPair]],
    texts: Sequence[Sequence[tuple[str, str]]],
    train: Sequence[WordPair],
) -> None:
    """Prints the error rates of each method with a model, of all heads, and of the heads chosen without gold links."""
    import torch

    from attncli.checkpoint.load import load_model
    from attncli.evaluation.aligning import Alignment, align_by_attention, align_combined, predicted_pairs
    from attncli.evaluation.head_choice import choose_heads, selections_of
    from attncli.evaluation.pair_words import words_of_pair

    loaded = load_model(path, torch.device("cpu"), torch.float32)
    model, candidates = loaded.model, selections_of(loaded.model)
    golds_and_pairs = [
        (gold, [words_of_pair(*line, loaded, split) for line in lines])
        for gold, lines, split in zip(golds, texts, ("spaces", "words"), strict=True)
    ]
    predicted = [list(predicted_pairs(model, pairs)) for _, pairs in golds_and_pairs]
    with_training = align_combined([one for some in predicted for one in some], train)
    for at, (name, (gold, pairs)) in enumerate(zip(("Europarl", "Tatoeba"), golds_and_pairs, strict=True)):

        def shown(found: Iterable[Alignment], gold: Sequence[GoldPair] = gold) -> AlignmentScore:
            return score_links([frozenset(one.links) for one in found], [pair.links for pair in gold])

        first = sum(map(len, golds[:at]))
        rows = {
            "combined, with the training pairs": shown(with_training[first : first + len(gold)]),
            "combined, the gold pairs alone": shown(align_combined(predicted[at])),
            "predictions": shown(one.alignment for one in predicted[at]),
        }
        rates = {one: shown(align_by_attention(model, pairs, one)) for one in candidates}
        choice, best = choose_heads(model, pairs, candidates), min(rates, key=lambda one: rates[one].error_rate)
        rows |= {f"attention, chosen: {choice.selected}": rates[choice.selected]}
        rows |= {f"attention, best with gold: {best}": rates[best]}
        print(f"\n{name}\n" + "\n".join(f"{row}: {percentages(score)}" for row, score in rows.items()))
        for shift in ("output", "input"):
            for layer in range(model.config.layers):
                row = [rates[one].error_rate for one in candidates if one.shift == shift and one.layers == {layer}]
                print(f"{shift}, layer {layer}: {' '.join(f'{100 * rate:.1f}' for rate in row)} (the last: their mean)")


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of the programs that it ran."""
    return sum(os.times()[:4])


def percentages(score: AlignmentScore) -> str:
    """Returns the error rate, and in parentheses precision and recall."""
    return f"{100 * score.error_rate:.1f} ({100 * score.precision:.0f}, {100 * score.recall:.0f})"


def scores_of(method: Method, pairs: Sequence[WordPair], golds: Sequence[Sequence[GoldPair]]) -> list[str]:
    """Returns the error rates of a method on each gold alignment. The gold pairs are the first pairs, in order."""
    forward, backward = method(pairs, sum(map(len, golds)))
    cells, first = [], 0
    for gold in golds:
        part = slice(first, first := first + len(gold))
        for unite in UNITED.values():
            found = [unite(*both) for both in zip(forward[part], backward[part], strict=True)]
            cells.append(percentages(score_links(found, [pair.links for pair in gold])))
    return cells


def measure(
    name: str, method: Method, pairs: Sequence[Sequence[WordPair]], golds: Sequence[Sequence[GoldPair]]
) -> None:
    """Prints two rows of error rates: with all pairs at once, and with the pairs of each gold alignment alone.

    `pairs` are those of each gold alignment, then the training pairs.
    """
    began = cpu_seconds()
    cells = scores_of(method, [pair for some in pairs for pair in some], golds)
    seconds = cpu_seconds() - began
    print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} s |", flush=True)
    alone = [cell for some, gold in zip(pairs, golds, strict=False) for cell in scores_of(method, some, [gold])]
    print(f"| {name}, the gold pairs alone | {' | '.join(alone)} | |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--eflomal", type=Path)
    parser.add_argument("--fast-align", type=Path)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args(arguments)
    golds = [europarl_gold(given.folder / EUROPARL), tatoeba_gold(given.folder / TEST)]
    train = [line.split("\t")[:2] for line in lines_of(given.folder / TRAIN)]
    split = [(split_words(source), split_words(target)) for source, target in train]
    pairs = [[(lowered(pair.source), lowered(pair.target)) for pair in gold] for gold in golds]
    pairs.append([(lowered(source), lowered(target)) for source, target in split])
    print(f"{len(golds[0])} pairs of Europarl, {len(golds[1])} of Tatoeba, {len(train):,} training pairs;", end=" ")
    print("the alignment error rate in %, in parentheses precision and recall")
    print(
        "| | "
        + " | ".join(f"{text}: {unite}" for text in ("Europarl", "Tatoeba") for unite in UNITED)
        + " | CPU time |"
    )
    print("| --- " * (2 * len(UNITED) + 2) + "|")
    measure("diagonal", by_diagonal, pairs, golds)
    measure("IBM Model 1", by_model1, pairs, golds)
    measure("HMM, trained by agreement", by_hmm, pairs, golds)
    if given.fast_align is not None:
        measure("fast_align", partial(by_fast_align, given.fast_align), pairs, golds)
    if given.eflomal is not None:
        measure("eflomal", partial(by_eflomal, given.eflomal), pairs, golds)
    if given.model is not None:
        europarl = [(" ".join(pair.source), " ".join(pair.target)) for pair in golds[0]]
        measure_model(given.model, golds, [europarl, tatoeba_texts(given.folder / TEST)], split)


if __name__ == "__main__":
    main()
