"""Files of text to batches of tokens.

Owns reading text from files, directories and standard input, splitting it into a training and a validation part,
turning both into memory-mapped files of token ids (kept in a cache, by content), and the batch of every step.
Knows nothing of models; arrays are NumPy's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from attncli.config import CorpusConfig
from attncli.errors import BadCheckpoint, BadInput, OutOfRoom
from attncli.text.tokenizer import END_OF_TEXT, Tokenizer, checked_text, stretches, train_tokenizer

STDIN = "-"
SMALLEST_TRAINING = 64  # tokens: below this there is nothing to learn from
_SEPARATOR = re.compile(rf"^{re.escape(END_OF_TEXT)}[ \t]*(?:\r?\n|\Z)", re.MULTILINE)
_ENCODE_AT_ONCE = 32  # stretches whose tokens are held in memory together
_CACHE_VERSION = 1
_UNFINISHED = ".writing-"
_ABANDONED = 86_400  # seconds


@dataclass(frozen=True)
class Documents:
    """Texts in order, where they came from, and the files of a directory that are not text."""

    texts: tuple[str, ...]
    sources: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def characters(self) -> int:
        """The characters of all texts."""
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class Tokens:
    """One part of a corpus: its ids, and what they stand for."""

    ids: NDArray[np.unsignedinteger]
    characters: int
    bytes: int
    documents: int

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


def read_text(path: str, encoding: str = CorpusConfig.encoding) -> str:
    """The text of a file, or of standard input for '-'. Line ends stay as they are; a byte order mark goes.

    Raises:
        BadInput: for a file that is missing, unreadable, binary, or not in the encoding (with the byte's offset).
    """
    name = "standard input" if path == STDIN else path
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"There is no file {name}.", "Check the path.") from None
    except OSError as problem:
        raise BadInput(
            f"{name} cannot be read: {problem.strerror or problem}.", "Check the path and its permissions."
        ) from None
    return _decoded(data, name, encoding)


def _decoded(data: bytes, name: str, encoding: str) -> str:
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        if (at := data.find(b"\0")) >= 0:
            raise BadInput(
                f"{name} is not text: byte {at} is a NUL.",
                "Give a text file. To train on UTF-16, say --encoding utf-16.",
            )
        encoding = "utf-8-sig"  # reads UTF-8 with or without a byte order mark
    try:
        return checked_text(data.decode(encoding))
    except UnicodeDecodeError as problem:
        # The utf-8-sig codec counts from behind the mark.
        at = problem.start + (3 if encoding == "utf-8-sig" and data.startswith(b"\xef\xbb\xbf") else 0)
        found = f"0x{data[at]:02x}" if at < len(data) else "the end"
        raise BadInput(
            f"{name} is not {encoding.removesuffix('-sig').upper()}: byte {at} is {found} ({problem.reason}).",
            "Convert it to UTF-8. To train on it as it is, name its encoding, such as --encoding latin-1.",
        ) from None
    except UnicodeError as problem:
        raise BadInput(f"{name} is not {encoding}: {problem}.", "Name another --encoding.") from None


def read_documents(paths: Sequence[str], encoding: str = CorpusConfig.encoding) -> Documents:
    """Every document of files, directories and '-', in order; `<|endoftext|>` lines separate those of a file.

    In a directory, files are taken by name, hidden ones left out, and what is not text is skipped and listed.

    Raises:
        BadInput: for a named file that is not text, a directory without text, or no text at all.
    """
    texts: list[str] = []
    skipped: list[str] = []
    for path in paths:
        if path != STDIN and Path(path).is_dir():
            found, not_text = _read_directory(Path(path), encoding)
            texts += found
            skipped += not_text
        else:
            texts += _split_documents(read_text(path, encoding))
    if not any(text.strip() for text in texts):
        raise BadInput(
            f"{', '.join(paths)} is empty: it holds no text.", "Give a text file, a few thousand words or more."
        )
    return Documents(tuple(texts), tuple(paths), tuple(skipped))


def _read_directory(folder: Path, encoding: str) -> tuple[list[str], list[str]]:
    texts, skipped = [], []
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
            continue
        try:
            texts += _split_documents(read_text(str(file), encoding))
        except BadInput:
            skipped.append(str(file))
    if not any(text.strip() for text in texts):
        raise BadInput(
            f"{folder} is a directory without text files.", "Give a text file, or a directory that holds some."
        )
    return texts, skipped


def _split_documents(text: str) -> list[str]:
    """'a\\n<|endoftext|>\\nb' -> ['a\\n', 'b']; white space alone is no document."""
    return [part for part in _SEPARATOR.split(text) if part.strip()]


def split_by_position(texts: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """The first characters to train on and the last `fraction` of them to validate on; a document may be cut."""
    total = sum(map(len, texts))
    keep = total - round(total * fraction)
    train, val = [], []
    for text in texts:
        train.append(text[: max(keep, 0)])
        val.append(text[max(keep, 0) :])
        keep -= len(text)
    return [text for text in train if text], [text for text in val if text]


def default_vocab_size(characters: int) -> int:
    """A vocabulary for this much text: the power of two nearest its square root, from 512 to 8192.

    1 million characters -> 1024, as measured best on such a text; 50 million -> 8192.
    """
    return int(min(max(2 ** round(np.log2(max(characters, 1)) / 2), 512), 8192))


def prepare(
    documents: Documents,
    config: CorpusConfig,
    val_documents: Documents | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Splits, learns the tokenizer from the training part alone unless one is given, and tokenizes.

    The result is cached by the content of everything it depends on, and read back as memory maps.

    Raises:
        BadInput: for too little text.
        UsageProblem: for a vocabulary that the kind of tokenizer cannot have.
    """
    parts = _split(documents, config.val_fraction) if val_documents is None else _as_given(documents, val_documents)
    digest = _digest(parts)
    entry = cache_folder() / "tokens" / _entry_name(digest, config)
    cached = _from_cache(entry, digest, documents.sources)
    if tokenizer is not None and (cached is None or cached.tokenizer.to_json() != tokenizer.to_json()):
        # A tokenizer from elsewhere: its ids are another entry.
        entry = entry.with_name(f"{entry.name}-{hashlib.sha256(tokenizer.to_json().encode()).hexdigest()[:16]}")
        cached = _from_cache(entry, digest, documents.sources)
    if cached is not None:
        return cached
    if tokenizer is None:
        train_texts = parts["train"].texts
        vocab_size = config.vocab_size
        if vocab_size is None and config.tokenizer == "bpe":
            vocab_size = default_vocab_size(sum(map(len, train_texts)))
        tokenizer = train_tokenizer(train_texts, config.tokenizer, vocab_size)
    return _tokenize(parts, tokenizer, entry, digest, documents.sources)


@dataclass(frozen=True)
class _Part:
    """The texts of one part. With `ends`, a token that ends a document follows each, but for a `cut` last one."""

    texts: tuple[str, ...]
    ends: bool
    cut: bool = False


def _split(documents: Documents, fraction: float) -> dict[str, _Part]:
    """Parts by position. Only where documents are several is their end marked: of one alone it could not be learned."""
    train, val = split_by_position(documents.texts, fraction)
    several = len(documents.texts) > 1
    cut = len(train) + len(val) > len(documents.texts)
    return {"train": _Part(tuple(train), several, cut), "val": _Part(tuple(val), several)}


def _as_given(train: Documents, val: Documents) -> dict[str, _Part]:
    several = len(train.texts) > 1 or len(val.texts) > 1
    return {"train": _Part(train.texts, several), "val": _Part(val.texts, several)}


def cache_folder() -> Path:
    """Where tokenized text is kept: ATTNCLI_CACHE, else attncli/ in the user's cache folder."""
    if "ATTNCLI_CACHE" in os.environ:
        return Path(os.environ["ATTNCLI_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "attncli"


def _digest(parts: dict[str, _Part]) -> str:
    total = hashlib.sha256()
    for name, part in parts.items():
        total.update(f"{name} {len(part.texts)} {part.ends} {part.cut}\n".encode())
        for text in part.texts:
            data = text.encode()
            total.update(f"{len(data)}\n".encode())
            total.update(data)
    return total.hexdigest()


def _entry_name(digest: str, config: CorpusConfig) -> str:
    import tokenizers

    key = f"{_CACHE_VERSION} {digest} {tokenizers.__version__} {config.tokenizer} {config.vocab_size}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _tokenize(
    parts: dict[str, _Part], tokenizer: Tokenizer, entry: Path, digest: str, sources: tuple[str, ...]
) -> Corpus:
    """Writes the cache entry beside its place, then renames it there: a reader sees all of it or nothing."""
    folder = _writable_folder(entry.parent)
    try:
        facts = {name: _write_tokens(folder / f"{name}.ids", part, tokenizer) for name, part in parts.items()}
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
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _writable_folder(parent: Path) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{_UNFINISHED}*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        return Path(mkdtemp(prefix=_UNFINISHED, dir=parent))
    except OSError as problem:
        raise OutOfRoom(
            f"The token cache {parent} cannot be written: {problem.strerror}.",
            "Set ATTNCLI_CACHE to a folder that can be.",
        ) from None


@dataclass(frozen=True)
class _Facts:
    tokens: int
    characters: int
    bytes: int
    documents: int
    dtype: str


def _write_tokens(path: Path, part: _Part, tokenizer: Tokenizer) -> _Facts:
    """Writes the ids of a part, holding only some stretches at a time."""
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    count = 0
    last = len(part.texts) - 1
    with path.open("wb") as file:
        for index, text in enumerate(part.texts):
            pending = list(stretches(text))
            for start in range(0, len(pending), _ENCODE_AT_ONCE):
                for ids in tokenizer.encode_batch(pending[start : start + _ENCODE_AT_ONCE]):
                    file.write(np.asarray(ids, dtype).tobytes())
                    count += len(ids)
            if part.ends and tokenizer.end_of_text is not None and not (part.cut and index == last):
                file.write(np.asarray([tokenizer.end_of_text], dtype).tobytes())
                count += 1
    characters, size = sum(map(len, part.texts)), sum(len(text.encode()) for text in part.texts)
    return _Facts(count, characters, size, len(part.texts), dtype)


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
        facts = {name: _Facts(**fact) for name, fact in json.loads((entry / "facts.json").read_text()).items()}
        tokenizer = Tokenizer.load(entry)
        parts = {name: _mapped(entry / f"{name}.ids", fact, tokenizer.vocab_size) for name, fact in facts.items()}
        return Corpus(parts["train"], parts["val"], tokenizer, digest, sources)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadCheckpoint):
        return None


def _mapped(path: Path, facts: _Facts, vocab_size: int) -> Tokens:
    """One part of a cache entry. Raises ValueError when it is not what was written."""
    ids = np.memmap(path, facts.dtype, "r")
    if len(ids) != facts.tokens or int(ids.max()) >= vocab_size:
        raise ValueError(path)
    return Tokens(ids, facts.characters, facts.bytes, facts.documents)


def batch(
    ids: NDArray[np.unsignedinteger],
    *,
    seed: int,
    step: int,
    batch_size: int,
    context: int,
    rank: int = 0,
    ranks: int = 1,
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
