"""Documents to batches of tokens.

Owns splitting documents into a training and a validation part, taking passages of one that is too large, learning a
tokenizer, turning both parts into files of token ids (kept in a cache, by content), and the batch of
every step. Never holds a whole text. Knows nothing of models; arrays are NumPy's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attncli.config import CorpusConfig
from attncli.errors import BadCheckpoint, BadInput, OutOfRoom
from attncli.folders import cache_folder, make_private
from attncli.paths import NO_ROOM, read_regular, reason
from attncli.text.encode import Encoder, Piece, batches, dtype_of, stretched
from attncli.text.files import Documents, Listener, Meter, Progress
from attncli.text.ids import StoredIds, TokenIds
from attncli.text.tokenizer import Tokenizer, train_tokenizer

SMALLEST_TRAINING = 64  # tokens: below this there is nothing to learn from
_LEARN_FROM = 10_000_000  # characters: a vocabulary learned from more is no better
_PASSAGES = 256  # of a text of which not all is used, as long as these limits allow
_SHORTEST, _LONGEST = 1 << 16, 1 << 20  # characters
_READ_AT_ONCE = 1 << 22  # ids
_LONGEST_CHARACTER = 4  # bytes, so tokens
_CACHE_VERSION = 2
_LARGEST_FACTS = 1 << 20  # bytes
_UNFINISHED = ".writing-"
_ABANDONED = 86_400  # seconds


class Lead(NamedTuple):
    """The tokens at the beginning that are read and not scored, and the characters and bytes of text they stand for."""

    tokens: int = 1
    characters: int = 0
    bytes: int = 0


_FIRST = Lead()


@dataclass(frozen=True)
class Tokens:
    """One part of a corpus: its ids, and what they stand for. `left_out` characters of the part were not taken.

    `lead` is the first token of the text, which nothing predicts, or what `opened` put before the text.
    """

    ids: TokenIds
    characters: int
    bytes: int
    documents: int
    left_out: int = 0
    lead: Lead = _FIRST
    begins: tuple[int, ...] = ()  # where each document after the first begins, of a foreign tokenizer

    def opened(self, opening: Sequence[int]) -> Tokens:
        """The same after the tokens that the tokenizer puts before a text, if any: they then predict the first."""
        if not opening:
            return self
        ids = np.concatenate([np.asarray(opening, self.ids.dtype), self.ids])
        begins = tuple(len(opening) + at for at in self.begins)
        return replace(self, ids=ids, lead=Lead(len(opening)), begins=begins)

    @property
    def to_score(self) -> int:
        """How many tokens are scored."""
        return len(self) - self.lead.tokens

    def share_of(self, scored: int) -> float:
        """How much of the part so many scored tokens are; 1 is all of it."""
        return scored / self.to_score * self.characters / (self.characters + self.left_out)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """A training and a validation part under one tokenizer. `digest` is of the text and of how it was split."""

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer
    digest: str
    sources: tuple[str, ...]

    def opening(self, limit: int) -> str:
        """The first `limit` characters of the first document that is trained on; less when it is shorter.

        Out of the ids, as the file may be gone. Takes more of them until they give more characters than asked for.
        """
        count = limit // 2 + 8
        while True:
            taken = self.train.ids[:count]
            ends = np.flatnonzero(taken == self.tokenizer.end_of_text)
            text = self.tokenizer.decode(taken[: ends[0] if len(ends) else count].tolist())
            # The characters beyond the limit make sure that none at its border is cut.
            if len(ends) or len(text) > limit + 4 or count >= len(self.train):
                return text[:limit]
            count *= 2


def default_vocab_size(characters: int) -> int:
    """A vocabulary for this much text: the power of two nearest its square root, from 512 to 8192.

    1 million characters -> 1024, as measured best on such a text; 50 million -> 8192. Of two as near, the smaller.
    """
    return int(min(max(2 ** np.ceil(np.log2(max(characters, 1)) / 2 - 0.5), 512), 8192))


def prepare(
    documents: Documents,
    config: CorpusConfig,
    val_documents: Documents | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Listener | None = None,
) -> Corpus:
    """Splits, learns the tokenizer from the training part alone unless one is given, and tokenizes.

    The result is cached by the content of everything it depends on, and read back a part at a time.

    Raises:
        BadInput: for too little text, or a file that changed since it was first read.
        UsageProblem: for a vocabulary that the kind of tokenizer cannot have.
        OutOfRoom: when the cache cannot be written.
    """
    if val_documents is None:
        train, val = split_by_position(documents, config.val_fraction)
        digest = _digest(documents.digest, train.characters)
    else:
        train, val = _as_given(documents, val_documents)
        digest = _digest(documents.digest, val_documents.digest)
    entry = cache_folder() / "tokens" / _entry_name(digest, config)
    cached = _from_cache(entry, digest, documents.sources)
    if tokenizer is not None and (cached is None or cached.tokenizer.to_json() != tokenizer.to_json()):
        # A tokenizer from elsewhere: its ids are another entry.
        entry = entry.with_name(f"{entry.name}-{hashlib.sha256(tokenizer.to_json().encode()).hexdigest()[:16]}")
        cached = _from_cache(entry, digest, documents.sources)
    if cached is not None:
        return cached
    if config.most_characters is not None:
        train, val = spread(train, config.most_characters), spread(val, config.most_characters)
    if tokenizer is None:
        tokenizer = learn_tokenizer(train, config, progress)
    return _tokenize({"train": train, "val": val}, tokenizer, entry, digest, documents.sources, progress)


@dataclass(frozen=True)
class Part:
    """Passages of documents, each from one character to another. `ends`: an id follows each document that ends there.

    Characters that lie between the passages are `left_out`.
    """

    documents: Documents
    passages: tuple[tuple[int, int], ...]
    ends: bool = False
    left_out: int = 0

    @classmethod
    def whole(cls, documents: Documents, ends: bool = False) -> Part:
        """All of the documents."""
        return cls(documents, ((0, documents.characters),), ends)

    def last(self, most: int) -> Part:
        """The last `most` characters of the last passage, or all of it."""
        start, stop = self.passages[-1]
        return Part(self.documents, ((max(start, stop - most), stop),), self.ends)

    @property
    def characters(self) -> int:
        """The characters of all passages."""
        return sum(stop - start for start, stop in self.passages)

    @property
    def bytes(self) -> int:
        """About the size of all passages in the file."""
        return round(self.characters * self.documents.bytes / max(self.documents.characters, 1))

    def pieces(self) -> Iterator[Iterator[Piece]]:
        """The text of each passage, in stretches that can be tokenized one by one."""
        return (stretched(self.documents.read(*passage)) for passage in self.passages)


def split_by_position(documents: Documents, fraction: float) -> tuple[Part, Part]:
    """The first characters to train on and the last `fraction` of them to validate on; a document may be cut.

    Only where documents are several is their end marked: of one alone it could not be learned.
    """
    total = documents.characters
    keep = total - round(total * fraction)
    several = documents.count > 1
    return Part(documents, ((0, keep),), several), Part(documents, ((keep, total),), several)


def _as_given(train: Documents, val: Documents) -> tuple[Part, Part]:
    several = train.count > 1 or val.count > 1
    return Part.whole(train, several), Part.whole(val, several)


def spread(part: Part, most: int) -> Part:
    """At most `most` characters of a part, in passages evenly spread over it.

    A passage has at least 64 Ki characters, as far as `most` allows, before its ends are moved inwards, by a quarter of
    it at most, to where a document ends, or else a line.
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
    """A passage without the cut documents at its ends, or else the cut lines. `begins`: its beginning is no cut."""
    pieces = list(documents.read(start, stop))
    text = "".join(piece for piece, _ in pieces)
    ends = [at for at, (_, ended) in zip(accumulate(len(piece) for piece, _ in pieces), pieces, strict=True) if ended]
    quarter = len(text) // 4
    first = next((at for at in ends if at <= quarter), 0) or text.find("\n", 0, quarter) + 1
    last = next((at for at in reversed(ends) if at >= 3 * quarter), 0) or text.rfind("\n", 3 * quarter) + 1
    return (start if begins else start + first), start + (last or len(text))


def learn_tokenizer(part: Part, config: CorpusConfig, progress: Listener | None = None) -> Tokenizer:
    """The tokenizer of a text; one whose vocabulary merges words learns from passages where the text is large.

    Raises UsageProblem for a vocabulary that the kind of tokenizer cannot have.
    """
    vocab_size = config.vocab_size
    if config.tokenizer == "bpe":
        vocab_size = default_vocab_size(part.characters) if vocab_size is None else vocab_size
        part = spread(part, _LEARN_FROM)
    meter = Meter(progress, Progress("learning the vocabulary", 0, part.bytes))

    def texts() -> Iterator[str]:
        for pieces in part.pieces():
            for text, _ in pieces:
                yield text
                meter.add(len(text.encode()))

    return train_tokenizer(texts(), config.tokenizer, vocab_size)


def _digest(documents: str, rest: str | int) -> str:
    """Of the digest of the documents, and of where they are split or the digest of the validation documents."""
    return hashlib.sha256(f"{documents} {rest}".encode()).hexdigest()


def _entry_name(digest: str, config: CorpusConfig) -> str:
    import tokenizers

    chosen = f"{config.tokenizer} {config.vocab_size} {config.most_characters}"
    key = f"{_CACHE_VERSION} {digest} {tokenizers.__version__} {chosen}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _tokenize(
    parts: dict[str, Part],
    tokenizer: Tokenizer,
    entry: Path,
    digest: str,
    sources: tuple[str, ...],
    progress: Listener | None,
) -> Corpus:
    """Writes the cache entry beside its place, then renames it there: a reader sees all of it or nothing."""
    folder = _writable_folder(entry.parent)
    writer = _Writer(folder, tokenizer, sum(part.bytes for part in parts.values()), progress)
    try:
        facts = {name: writer.write(name, part) for name, part in parts.items()}
        _check_lengths(facts)
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        (folder / "facts.json").write_text(
            json.dumps({name: asdict(fact) for name, fact in facts.items()}), encoding="utf-8"
        )
        try:
            folder.rename(entry)
        except OSError:  # somebody else was first, or it cannot be kept: read what was just written
            if _from_cache(entry, digest, sources) is None:
                shutil.rmtree(entry, ignore_errors=True)
                folder.rename(entry)
        corpus = _from_cache(entry, digest, sources)
        assert corpus is not None
        return corpus
    except OSError as problem:
        raise writer.not_written(problem) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _writable_folder(parent: Path) -> Path:
    try:
        make_private(parent)
        for left in parent.glob(f"{_UNFINISHED}*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        return Path(mkdtemp(prefix=_UNFINISHED, dir=parent))
    except OSError as problem:
        raise OutOfRoom(
            f"The token cache {parent} cannot be written: {problem.strerror}.",
            "Set ATTNCLI_CACHE to a folder that can be.",
        ) from None


class _Encoded(NamedTuple):
    """The ids of some of a part, the bytes of its text, and the documents that begin in it."""

    ids: NDArray[np.unsignedinteger]
    bytes: int
    documents: int
    ends: Sequence[int]  # how many of the ids are before each end of a document


def _encoded(part: Part, tokenizer: Tokenizer) -> Iterator[_Encoded]:
    """The ids of a part in order, about a million characters at a time."""
    encoder = Encoder(tokenizer, part.ends)
    for passage in part.pieces():
        begins = True
        for pieces in batches(passage):
            *begun, begins = (begins, *(ended for _, ended in pieces))
            ids = encoder.encode(pieces)
            yield _Encoded(ids, sum(len(text.encode()) for text, _ in pieces), sum(begun), encoder.ends)


def tokens_of(part: Part, tokenizer: Tokenizer) -> Tokens:
    """The tokens of a part, held in memory: of a long text two or four bytes each."""
    encoded = list(_encoded(part, tokenizer))
    ids = np.concatenate([np.empty(0, dtype_of(tokenizer)), *(some.ids for some in encoded)])
    size, documents = sum(some.bytes for some in encoded), sum(some.documents for some in encoded)
    before = accumulate((len(some.ids) for some in encoded), initial=0)
    begins = tuple(start + end for start, some in zip(before, encoded, strict=False) for end in some.ends)
    return Tokens(ids, part.characters, size, documents, part.left_out, _first_token(ids, tokenizer), begins)


def _first_token(ids: TokenIds, tokenizer: Tokenizer) -> Lead:
    """The first token of a text; those after it are looked at since they may share a character with it."""
    first = ids[:_LONGEST_CHARACTER].tolist()
    if not first or first[0] == tokenizer.end_of_text:
        return _FIRST
    piece = tokenizer.pieces_of(first)[0]
    return Lead(1, len(piece.completed), piece.bytes)


def count_tokens(part: Part, tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens of a part, and its bytes."""
    tokens = size = 0
    for some in _encoded(part, tokenizer):
        tokens, size = tokens + len(some.ids), size + some.bytes
    return tokens, size


@dataclass(frozen=True)
class _Facts:
    tokens: int
    characters: int
    bytes: int
    documents: int
    left_out: int
    dtype: str


class _Writer:
    """Writes the ids of the parts into a folder, holding some stretches at a time."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, size: int, progress: Listener | None) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._size = size  # bytes of text, about
        self._read = self._written = 0  # bytes of text, bytes of ids
        self._meter = Meter(progress, Progress("tokenizing", 0, size))

    def write(self, name: str, part: Part) -> _Facts:
        """One part. Raises OSError when it cannot be written."""
        tokens = size = documents = 0
        with (self._folder / f"{name}.ids").open("wb") as file:
            for some in _encoded(part, self._tokenizer):
                file.write(some.ids.data)
                tokens, size, documents = tokens + len(some.ids), size + some.bytes, documents + some.documents
                self._read, self._written = self._read + some.bytes, self._written + some.ids.nbytes
                self._meter.add(some.bytes)
        return _Facts(tokens, part.characters, size, documents, part.left_out, dtype_of(self._tokenizer).name)

    def not_written(self, problem: OSError) -> OutOfRoom:
        """What to tell the user, from what was written so far."""
        place = self._folder.parent
        if problem.errno not in NO_ROOM:
            return OutOfRoom(
                f"The token cache {place} cannot be written: {reason(problem)}.",
                "Set ATTNCLI_CACHE to a folder that can be.",
            )
        needed = max(round(self._written * self._size / max(self._read, 1)), self._written)
        needed += len(self._tokenizer.to_json().encode())
        return OutOfRoom(
            f"The token cache {place} has no room: about {needed:,} bytes are needed, {self._written:,} were written "
            f"before it was full ({reason(problem)}).",
            "Free some space, or set ATTNCLI_CACHE to a folder on another disk.",
        )


def _check_lengths(facts: dict[str, _Facts]) -> None:
    if facts["train"].tokens < SMALLEST_TRAINING or facts["val"].tokens < 2:
        total = facts["train"].characters + facts["val"].characters
        raise BadInput(
            f"The text is too short to learn from: {total:,} characters, {facts['train'].tokens} tokens to train on "
            f"and {facts['val'].tokens} to validate on, where at least {SMALLEST_TRAINING} and 2 are needed.",
            "Give more text: a few thousand words make a first model.",
        )


def _from_cache(entry: Path, digest: str, sources: tuple[str, ...]) -> Corpus | None:
    """The corpus kept at `entry`, or None when it is not there, whole."""
    try:
        facts = {
            name: _Facts(**fact)
            for name, fact in json.loads(read_regular(entry / "facts.json", _LARGEST_FACTS)).items()
        }
        tokenizer = Tokenizer.load(entry)
        parts = {name: _stored(entry / f"{name}.ids", fact, tokenizer) for name, fact in facts.items()}
        return Corpus(parts["train"], parts["val"], tokenizer, digest, sources)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadCheckpoint, BadInput):
        return None


def _stored(path: Path, facts: _Facts, tokenizer: Tokenizer) -> Tokens:
    """One part of a cache entry. Raises ValueError or BadInput when it is not what was written, or OSError."""
    ids = StoredIds(path, facts.dtype)
    if len(ids) != facts.tokens:
        raise ValueError(path)
    for start in range(0, len(ids), _READ_AT_ONCE):
        if int(ids[start : start + _READ_AT_ONCE].max()) >= tokenizer.vocab_size:
            raise ValueError(path)
    lead = _first_token(ids, tokenizer)
    return Tokens(ids, facts.characters, facts.bytes, facts.documents, facts.left_out, lead)


def batch(
    ids: TokenIds, *, seed: int, step: int, batch_size: int, context: int, rank: int = 0, ranks: int = 1
) -> NDArray[np.int64]:
    """The batch of a step, a pure function of its arguments: (batch_size, context + 1) ids.

    Each epoch cuts the ids into windows from a new offset and visits every window once, in a new order. The first
    `context` columns are inputs, the last `context` their targets. `rank` of `ranks` takes its own slice of the
    step's windows, `batch_size` being that of one rank.
    """
    fitting = (len(ids) - 1) // context
    if fitting == 0:
        raise BadInput(
            f"{len(ids)} tokens are too few for a context of {context}.", "Give more text or a smaller --context."
        )
    windows = max(fitting - 1, 1)  # one less than fits, so that an epoch may start anywhere in a window
    first = (step * ranks + rank) * batch_size
    rows = np.empty((batch_size, context + 1), np.int64)
    for row in range(batch_size):
        epoch, index = divmod(first + row, windows)
        offset, order = _epoch(seed, epoch, windows, len(ids) - 1 - windows * context)
        start = offset + int(order[index]) * context
        rows[row] = ids[start : start + context + 1]
    return rows


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, windows: int, slack: int) -> tuple[int, NDArray[np.int64]]:
    """Where the windows of an epoch start (0 to `slack`), and their order."""
    generator = np.random.default_rng((seed, epoch))
    return int(generator.integers(slack + 1)), generator.permutation(windows)
