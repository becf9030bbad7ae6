"""Pairs: sentences and their translations, read from files into two arrays of UTF-8 bytes.

All pairs are in memory, at about their size in the file. `pair_formats` reads the lines of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attncli.config import CorpusConfig
from attncli.errors import BadInput, UsageProblem
from attncli.text.files import refuse_missing, size_of
from attncli.text.formats import OpenFile
from attncli.text.formats.base import lines_of
from attncli.text.pair_formats import Pair, is_pair_file, pairs_of, pairs_of_lines
from attncli.text.progress import Listener, Progress, ProgressMeter
from attncli.text.reading import STDIN, name_of, opened, reading_errors
from attncli.text.string_array import StringArray, StringArrayBuilder


@dataclass(frozen=True, eq=False)
class Pairs:
    """Texts and their translations: text i of `source` is translated by text i of `target`.

    `paths` are the files as they were given. `digest` is a hash of all texts, independent of the format of the
    files. A selection of pairs keeps both.
    """

    source: StringArray
    target: StringArray
    paths: tuple[str, ...]
    digest: str

    def take(self, indices: NDArray[np.int64]) -> Pairs:
        """Returns the pairs with these indices, in their order. The texts are not copied."""
        return replace(self, source=self.source.take(indices), target=self.target.take(indices))

    @property
    def characters(self) -> int:
        """The number of characters of both sides."""
        return self.source.characters + self.target.characters

    @property
    def bytes(self) -> int:
        """The size of both sides in bytes."""
        return self.source.bytes + self.target.bytes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.source[index], self.target[index])

    def __iter__(self) -> Iterator[Pair]:
        return map(Pair, self.source, self.target)


def are_pair_files(paths: Sequence[str], config: CorpusConfig | None = None) -> bool:
    """Whether `attncli train` reads the files as pairs without being told: every one must be a file of pairs.

    The rule is in `is_pair_file`. A file of pairs among files of text is read as text.
    """
    encoding = (config or CorpusConfig()).encoding
    return bool(paths) and all(is_pair_file(path, encoding) for path in paths)


def read_pairs(paths: Sequence[str], config: CorpusConfig | None = None, progress: Listener | None = None) -> Pairs:
    """Returns the pairs of tab-separated or JSON Lines files, in order. '-' is standard input.

    `config` sets the encoding. The formats are described in `pair_formats`.

    Raises:
        BadInput: for a line that is not a pair, a file that is missing or not text, or files without pairs.
        UsageProblem: for a path that is empty, or standard input that is named twice.
    """
    meter = _refused_or_metered(paths, progress)

    def read() -> Iterator[Pair]:
        for path in paths:
            with reading_errors(name_of(path)), opened(path) as file:
                yield from pairs_of(OpenFile(path, file, b"", (config or CorpusConfig()).encoding, meter))

    return pairs_from(read(), paths)


def read_parallel(
    source: str, target: str, config: CorpusConfig | None = None, progress: Listener | None = None
) -> Pairs:
    """Returns the pairs of two files with the same number of lines: line i of `target` translates line i of `source`.

    `config` sets the encoding of both. Raises the errors of `read_pairs`, and BadInput for different numbers of lines.
    """
    meter, encoding = _refused_or_metered([source, target], progress), (config or CorpusConfig()).encoding

    def read() -> Iterator[Pair]:
        with (
            reading_errors(name_of(source)),
            opened(source) as left,
            reading_errors(name_of(target)),
            opened(target) as right,
        ):
            files = OpenFile(source, left, b"", encoding, meter), OpenFile(target, right, b"", encoding, meter)
            yield from pairs_of_lines(*files)

    return pairs_from(read(), (source, target))


def place_of_pair(paths: Sequence[str], index: int, config: CorpusConfig | None = None) -> str:
    """Returns the file and the line of a pair of `read_pairs`, for an error: 'pairs.tsv, line 7'.

    Reads the files again. For standard input, which cannot be read again, counts the pairs: 'standard input, pair 7'.
    For the pairs of `read_parallel`, `paths` is the file of the sources.
    """
    encoding, left = (config or CorpusConfig()).encoding, index
    for path in paths:
        if path == STDIN:
            return f"{name_of(path)}, pair {left + 1}"
        with reading_errors(name_of(path)), opened(path) as file:
            lines = lines_of(OpenFile(path, file, b"", encoding, None).blocks, name_of(path), "")
            for number, line in enumerate(lines, 1):
                left -= bool(line.strip())
                if left < 0:
                    return f"{name_of(path)}, line {number}"
    return f"pair {index + 1}"


def _refused_or_metered(paths: Sequence[str], progress: Listener | None) -> ProgressMeter:
    """Returns the meter for reading the files. Raises the errors of missing files and of '-' that is named twice."""
    if [*paths].count(STDIN) > 1:
        raise UsageProblem("Standard input is named twice, and can be read once.", "Save it as a file first.")
    refuse_missing(paths)
    return ProgressMeter(progress, Progress("reading", 0, size_of(paths)))


def pairs_from(pairs: Iterable[Pair], paths: Sequence[str]) -> Pairs:
    """Returns pairs that are read one at a time. Raises BadInput if there are none."""
    source, target = StringArrayBuilder(), StringArrayBuilder()
    for pair in pairs:
        source.add(pair.source)
        target.add(pair.target)
    arrays = source.build(), target.build()
    if not len(arrays[0]):
        raise BadInput(
            f"{', '.join(map(name_of, paths))} contains no pairs.",
            "Write one pair a line: the source, a tab, the target.",
        )
    digest = hashlib.sha256()
    for array in arrays:  # the sizes tell where a text ends, so different pairs have different digests
        digest.update(array.sizes.astype("<i8").tobytes())
        digest.update(array.data.data)
    return Pairs(*arrays, tuple(paths), digest.hexdigest())
