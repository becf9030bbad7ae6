"""Splits a text into a training and a validation part, and takes evenly spread passages of a part that is too large."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from attncli.text.documents import Documents
from attncli.text.encode import Chunk, stretched

_PASSAGES = 256  # the number of passages, if it gives each passage a length between the limits below
_SHORTEST, _LONGEST = 1 << 16, 1 << 20  # the limits of the length of a passage, in characters


@dataclass(frozen=True)
class Part:
    """Passages of documents. Each passage is a range of characters of the whole text.

    If `ends`, a special token marks the end of every document. `left_out` is the number of characters that `spread`
    left out.
    """

    documents: Documents
    passages: tuple[tuple[int, int], ...]
    ends: bool = False
    left_out: int = 0

    @classmethod
    def whole(cls, documents: Documents, ends: bool = False) -> Part:
        """Returns the part that contains all documents."""
        return cls(documents, ((0, documents.characters),), ends)

    def last(self, most: int) -> Part:
        """Returns a part with one passage: the last `most` characters of the last passage.

        If the last passage is shorter, the part contains the whole passage.
        """
        start, stop = self.passages[-1]
        return Part(self.documents, ((max(start, stop - most), stop),), self.ends)

    @property
    def characters(self) -> int:
        """The number of characters of all passages."""
        return sum(stop - start for start, stop in self.passages)

    @property
    def bytes(self) -> int:
        """The size of all passages in bytes, estimated from the mean bytes per character of the documents."""
        return round(self.characters * self.documents.bytes / max(self.documents.characters, 1))

    def chunks(self) -> Iterator[Iterator[Chunk]]:
        """Yields an iterator of chunks for each passage. The chunks can be tokenized one by one."""
        return (stretched(self.documents.read(*passage)) for passage in self.passages)


def split_by_position(documents: Documents, fraction: float) -> tuple[Part, Part]:
    """Splits documents into two parts: the last `fraction` of the characters for validation, the others for training.

    Returns the training part and the validation part. The border may be inside a document. The ends of documents are
    marked only if there are several documents, because the training part does not contain the end of a single document.
    """
    total = documents.characters
    keep = total - round(total * fraction)
    several = documents.count > 1
    return Part(documents, ((0, keep),), several), Part(documents, ((keep, total),), several)


def both_given(train: Documents, val: Documents) -> tuple[Part, Part]:
    """Returns the training part and the validation part for two separate texts."""
    several = train.count > 1 or val.count > 1
    return Part.whole(train, several), Part.whole(val, several)


def spread(part: Part, most: int) -> Part:
    """Returns a part of at most `most` characters: passages that are spread evenly over the given part.

    All passages first have the same length: 64 Ki to 1 Mi characters, but at most `most`. Then both ends of a passage
    move inwards by up to a quarter of the length, to an end of a document, or else to an end of a line.
    """
    if part.characters <= most:
        return part
    length = min(max(most // _PASSAGES, _SHORTEST), _LONGEST, most)
    count = most // length
    before = [0, *accumulate(stop - start for start, stop in part.passages)]
    passages: list[tuple[int, int]] = []
    for at in (i * part.characters // count for i in range(count)):
        index = bisect_right(before, at) - 1
        start, stop = part.passages[index]
        begin = max(min(start + at - before[index], stop - length), start, passages[-1][1] if passages else 0)
        passages.append(_trimmed(part.documents, begin, min(begin + length, stop), begin == start))
    taken = sum(stop - start for start, stop in passages)
    return Part(part.documents, tuple(passages), part.ends, part.left_out + part.characters - taken)


def _trimmed(documents: Documents, start: int, stop: int, begins: bool) -> tuple[int, int]:
    """Shortens a passage, so that it begins and ends between two documents, or else between two lines, if possible.

    At most a quarter of the length is removed at the start, and at most a quarter at the end. If `begins`, the start
    does not move.
    """
    chunks = list(documents.read(start, stop))
    text = "".join(chunk for chunk, _ in chunks)
    ends = [at for at, (_, ended) in zip(accumulate(len(chunk) for chunk, _ in chunks), chunks, strict=True) if ended]
    quarter = len(text) // 4
    first = next((at for at in ends if at <= quarter), 0) or text.find("\n", 0, quarter) + 1
    last = next((at for at in reversed(ends) if at >= 3 * quarter), 0) or text.rfind("\n", 3 * quarter) + 1
    return (start if begins else start + first), start + (last or len(text))
