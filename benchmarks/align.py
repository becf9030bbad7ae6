"""Measures word alignment of English and German without a neural network: the alignment error rate of each method.

usage: python benchmarks/align.py FOLDER [--eflomal BIN/eflomal-align] [--fast-align BUILD/fast_align]
           [--model DIRECTORY]

FOLDER contains tatoeba-en-de.train.tsv.xz and tatoeba-en-de.test.tsv.xz (English, tab, German), and
align-de-en.gold.tsv: sentences of Europarl in German and English, with links. Every method gets the same pairs, in
lower case: those of both gold alignments, then the training pairs. It links the words in both directions. The second
gold alignment, align_gold.tsv beside this script, contains the links of 50 lines of the test file, and no text.

With --model, also measures the cross-attention of a model that translates English to German: every head at both
positions, and the heads that are chosen without gold links on the gold pairs themselves, as by `attncli align --gold`.

eflomal (pip install eflomal) and fast_align (github.com/clab/fast_align) run if the paths of their programs are given.
"""

import argparse
import hashlib
import lzma
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from attncli.evaluation.alignment import (
    SYMMETRIZATIONS,
    GoldLinks,
    GoldPair,
    Links,
    diagonal,
    parse_links,
    read_gold,
    score_links,
)
from attncli.evaluation.bitext import WordPair
from attncli.evaluation.ibm import Aligner
from attncli.text.words import split_words

GOLD = Path(__file__).with_name("align_gold.tsv")
TRAIN, TEST, EUROPARL = "tatoeba-en-de.train.tsv.xz", "tatoeba-en-de.test.tsv.xz", "align-de-en.gold.tsv"
UNITED = ("intersection", "grow-diag-final-and")
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


def measure_model(path: Path, golds: Sequence[Sequence[GoldPair]], texts: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Prints the error rates of all heads of a model, and of the heads that are chosen without gold links."""
    import torch

    from attncli.checkpoint.load import load_model
    from attncli.evaluation.aligning import align_pairs
    from attncli.evaluation.head_choice import choose_heads, selections_of
    from attncli.evaluation.pair_words import words_of_pair

    loaded = load_model(path, torch.device("cpu"), torch.float32)
    model, candidates = loaded.model, selections_of(loaded.model)
    for name, gold, lines in zip(("Europarl", "Tatoeba"), golds, texts, strict=True):
        pairs = [words_of_pair(*line, loaded, "words" if name == "Tatoeba" else "spaces") for line in lines]
        rates = {}
        for selection in candidates:
            found = [frozenset(alignment.links) for alignment in align_pairs(model, pairs, selection)]
            rates[selection] = 100 * score_links(found, [pair.links for pair in gold]).error_rate
        choice, best = choose_heads(model, pairs, candidates), min(rates, key=rates.__getitem__)
        print(f"\n{name}: chosen {choice.selected}: {rates[choice.selected]:.1f}")
        print(f"best with gold {best}: {rates[best]:.1f}")
        for shift in ("output", "input"):
            for layer in range(model.config.layers):
                row = [rates[one] for one in candidates if one.shift == shift and one.layers == {layer}]
                print(f"{shift}, layer {layer}: {' '.join(f'{rate:.1f}' for rate in row)} (the last: their mean)")


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of the programs that it ran."""
    return sum(os.times()[:4])


def measure(name: str, method: Method, pairs: Sequence[WordPair], golds: Sequence[Sequence[GoldPair]]) -> None:
    """Prints the error rates of a method on each gold alignment. The gold pairs are the first pairs, in order."""
    began = cpu_seconds()
    forward, backward = method(pairs, sum(map(len, golds)))
    seconds = cpu_seconds() - began
    cells, first = [], 0
    for gold in golds:
        part = slice(first, first := first + len(gold))
        for unite in UNITED:
            found = [SYMMETRIZATIONS[unite](*both) for both in zip(forward[part], backward[part], strict=True)]
            score = score_links(found, [pair.links for pair in gold])
            cells.append(f"{100 * score.error_rate:.1f} ({100 * score.precision:.0f}, {100 * score.recall:.0f})")
    print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} s |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--eflomal", type=Path)
    parser.add_argument("--fast-align", type=Path)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args(arguments)
    golds = [europarl_gold(given.folder / EUROPARL), tatoeba_gold(given.folder / TEST)]
    train = [line.split("\t")[:2] for line in lines_of(given.folder / TRAIN)]
    pairs = [(lowered(pair.source), lowered(pair.target)) for gold in golds for pair in gold]
    pairs += [(lowered(split_words(source)), lowered(split_words(target))) for source, target in train]
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
        measure_model(given.model, golds, [europarl, tatoeba_texts(given.folder / TEST)])


if __name__ == "__main__":
    main()
