"""The token cache: files with the ids of a corpus, in a folder named by a hash of the text, settings and tokenizer.

Writes are atomic: an entry is written to a temporary folder, which is then renamed. A reader finds a whole entry or no
entry. Ids are read from the files in slices.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple, Protocol, TypeVar

from attncli.config import CorpusConfig
from attncli.errors import BadCheckpoint, BadInput, OutOfRoom
from attncli.folders import cache_folder, make_private
from attncli.paths import NO_ROOM, read_regular, reason
from attncli.text.encode import dtype_of
from attncli.text.ids import StoredIds
from attncli.text.parts import Part
from attncli.text.progress import Listener, Progress, ProgressMeter
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokens import Tokens, encoded, first_token

T = TypeVar("T")
SMALLEST_TRAINING = 64  # the smallest number of training tokens; a shorter text is refused
_READ_AT_ONCE = 1 << 22  # ids that are checked at once
_CACHE_VERSION = 2
_LARGEST_FACTS = 1 << 20  # the largest size of facts.json, in bytes
_UNFINISHED = ".writing-"  # the prefix of the name of a folder that is being written
_ABANDONED = 86_400  # seconds after which an unfinished folder of a killed process is removed


class _Content(Protocol):
    """The content of an entry."""

    @property
    def tokenizer(self) -> Tokenizer: ...


C = TypeVar("C", bound=_Content)


class Tokenized(NamedTuple):
    """The training and the validation part of a corpus as tokens, and the tokenizer."""

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer


def entry_of(digest: str, config: CorpusConfig) -> Path:
    """Returns the cache folder of a corpus, named by a hash of its text, the settings and the library's version."""
    import tokenizers

    chosen = f"{config.tokenizer} {config.vocab_size} {config.most_characters}"
    key = f"{_CACHE_VERSION} {digest} {tokenizers.__version__} {chosen}"
    return cache_folder() / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:32]


def find_entry(
    digest: str, config: CorpusConfig, tokenizer: Tokenizer | None, read: Callable[[Path], C | None]
) -> tuple[Path, C | None]:
    """Returns the cache folder of a corpus, and its content: None if it does not exist or is damaged.

    A given tokenizer that is not the one that would be trained on the corpus has a folder of its own. `read` returns
    the content of a folder, or None.
    """
    entry = entry_of(digest, config)
    found = read(entry)
    if tokenizer is None or (found is not None and found.tokenizer.to_json() == tokenizer.to_json()):
        return entry, found
    entry = entry.with_name(f"{entry.name}-{hashlib.sha256(tokenizer.to_json().encode()).hexdigest()[:16]}")
    return entry, read(entry)


def tokenize(train: Part, val: Part, tokenizer: Tokenizer, entry: Path, progress: Listener | None) -> Tokenized:
    """Tokenizes both parts into a new cache entry, and returns the content of the entry, read back from the disk.

    Raises BadInput for a text that is too short, and OutOfRoom if the entry cannot be written.
    """
    parts = {"train": train, "val": val}
    writer = _Writer(tokenizer, sum(part.bytes for part in parts.values()), progress)

    def write(folder: Path) -> None:
        facts = {name: writer.write(folder / f"{name}.ids", part) for name, part in parts.items()}
        _check_lengths(facts)
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        (folder / "facts.json").write_text(
            json.dumps({name: asdict(fact) for name, fact in facts.items()}), encoding="utf-8"
        )

    return write_entry(entry, write, read_entry, writer.needed)


def write_entry(
    entry: Path, write: Callable[[Path], None], read: Callable[[Path], T | None], needed: Callable[[], tuple[int, int]]
) -> T:
    """Writes an entry of the cache atomically, and returns what `read` reads from the entry.

    Args:
        entry: the folder of the entry.
        write: writes the files of the entry into a folder.
        read: returns the content of an entry, or None if the entry does not exist or is damaged.
        needed: returns how many bytes the entry needs, and how many were written, for the error if the disk is full.

    Raises OutOfRoom if the entry cannot be written, and the errors of `write`.
    """
    folder = _writable_folder(entry.parent)
    try:
        write(folder)
        try:
            folder.rename(entry)
        except OSError:  # another process has written the entry, or a damaged entry exists
            if read(entry) is None:
                shutil.rmtree(entry, ignore_errors=True)
                folder.rename(entry)
        content = read(entry)
        assert content is not None
        return content
    except OSError as problem:
        raise _not_written(entry.parent, problem, *needed()) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _not_written(place: Path, problem: OSError, needed: int, written: int) -> OutOfRoom:
    """Returns the error for a failed write. If the disk is full, the error tells how many bytes are needed."""
    if problem.errno not in NO_ROOM:
        return OutOfRoom(
            f"The token cache {place} cannot be written: {reason(problem)}.",
            "Set ATTNCLI_CACHE to a folder that can be written.",
        )
    return OutOfRoom(
        f"The token cache {place} has no room: about {needed:,} bytes are needed, {written:,} were written "
        f"before it was full ({reason(problem)}).",
        "Free some space, or set ATTNCLI_CACHE to a folder on another disk.",
    )


def _writable_folder(parent: Path) -> Path:
    """Makes and returns a temporary folder in the cache. Also removes the unfinished folders of killed processes.

    Raises OutOfRoom if the cache cannot be written.
    """
    try:
        make_private(parent)
        for left in parent.glob(f"{_UNFINISHED}*"):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        return Path(mkdtemp(prefix=_UNFINISHED, dir=parent))
    except OSError as problem:
        raise OutOfRoom(
            f"The token cache {parent} cannot be written: {problem.strerror}.",
            "Set ATTNCLI_CACHE to a folder that can be written.",
        ) from None


@dataclass(frozen=True)
class _Facts:
    """The facts that facts.json records about the ids of one part."""

    tokens: int
    characters: int
    bytes: int
    documents: int
    left_out: int
    dtype: str


class _Writer:
    """Writes the ids of both parts into files, one group of chunks at a time."""

    def __init__(self, tokenizer: Tokenizer, size: int, progress: Listener | None) -> None:
        self._tokenizer = tokenizer
        self._size = size  # bytes of text, estimated
        self._read = self._written = 0  # the bytes of text that were read, and the bytes of ids that were written
        self._meter = ProgressMeter(progress, Progress("tokenizing", 0, size))

    def write(self, path: Path, part: Part) -> _Facts:
        """Writes the ids of one part, and returns the facts about them. Raises OSError if they cannot be written."""
        tokens = size = documents = 0
        with path.open("wb") as file:
            for some in encoded(part, self._tokenizer):
                file.write(some.ids.data)
                tokens, size, documents = tokens + len(some.ids), size + some.bytes, documents + some.documents
                self._read, self._written = self._read + some.bytes, self._written + some.ids.nbytes
                self._meter.add(some.bytes)
        return _Facts(tokens, part.characters, size, documents, part.left_out, dtype_of(self._tokenizer).name)

    def needed(self) -> tuple[int, int]:
        """Returns an estimate of the bytes that the entry needs, and the bytes that were written."""
        ids = max(round(self._written * self._size / max(self._read, 1)), self._written)
        return ids + len(self._tokenizer.to_json().encode()), self._written


def read_entry(entry: Path) -> Tokenized | None:
    """Returns the corpus of an entry, or None if the entry does not exist or is damaged."""
    try:
        facts = {
            name: _Facts(**fact)
            for name, fact in json.loads(read_regular(entry / "facts.json", _LARGEST_FACTS)).items()
        }
        tokenizer = Tokenizer.load(entry)
        parts = {name: _stored(entry / f"{name}.ids", fact, tokenizer) for name, fact in facts.items()}
        return Tokenized(parts["train"], parts["val"], tokenizer)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadCheckpoint, BadInput):
        return None


def _stored(path: Path, facts: _Facts, tokenizer: Tokenizer) -> Tokens:
    """Reads one part of an entry. Raises ValueError, BadInput or OSError if the part is damaged."""
    ids = StoredIds(path, facts.dtype)
    if len(ids) != facts.tokens:
        raise ValueError(path)
    for start in range(0, len(ids), _READ_AT_ONCE):
        if int(ids[start : start + _READ_AT_ONCE].max()) >= tokenizer.vocab_size:
            raise ValueError(path)
    lead = first_token(ids, tokenizer)
    return Tokens(ids, facts.characters, facts.bytes, facts.documents, facts.left_out, lead)


def _check_lengths(facts: dict[str, _Facts]) -> None:
    """Raises BadInput for a text that is too short to learn from."""
    if facts["train"].tokens < SMALLEST_TRAINING or facts["val"].tokens < 2:
        total = facts["train"].characters + facts["val"].characters
        raise BadInput(
            f"The text is too short to learn from: {total:,} characters, {facts['train'].tokens} tokens to train on "
            f"and {facts['val'].tokens} to validate on; at least {SMALLEST_TRAINING} and 2 are needed.",
            "Give more text: a few thousand words are enough for a first model.",
        )
