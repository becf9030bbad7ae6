"""Stores the ids of pairs in the token cache, and reads them. The texts of the pairs are not stored.

An entry has the tokenizer, and two files for each side of each part: the ids, and the number of ids of every text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attncli.errors import BadCheckpoint, BadInput
from attncli.text.encode import dtype_of
from attncli.text.ids import StoredIds
from attncli.text.pair_tokens import IdLists, PairTokens
from attncli.text.pairs import Pairs
from attncli.text.token_cache import write_entry
from attncli.text.tokenizer import Tokenizer

_LENGTHS = np.dtype("<u4")


class TokenizedPairs(NamedTuple):
    """The parts of pairs as tokens, by the name of the part, and the tokenizer."""

    parts: dict[str, PairTokens]
    tokenizer: Tokenizer


def store_pairs(entry: Path, parts: Mapping[str, PairTokens], tokenizer: Tokenizer) -> TokenizedPairs:
    """Writes the ids of pairs into a new cache entry, and returns the content of the entry, read back from the disk.

    Raises OutOfRoom if the entry cannot be written.
    """
    described = tokenizer.to_json()
    sides = {f"{name}.source": part.source for name, part in parts.items()}
    sides |= {f"{name}.target": part.target for name, part in parts.items()}
    needed = len(described.encode()) + sum(
        lists.ids.nbytes + len(lists) * _LENGTHS.itemsize for lists in sides.values()
    )
    written = 0

    def write(folder: Path) -> None:
        nonlocal written
        for name, lists in sides.items():
            for suffix, values in (("ids", lists.ids), ("lengths", lists.lengths.astype(_LENGTHS))):
                (folder / f"{name}.{suffix}").write_bytes(values.data)
                written += values.nbytes
        (folder / "tokenizer.json").write_text(described, encoding="utf-8")

    pairs = {name: part.pairs for name, part in parts.items()}
    return write_entry(entry, write, lambda place: read_pair_entry(place, pairs), lambda: (needed, written))


def read_pair_entry(entry: Path, pairs: Mapping[str, Pairs]) -> TokenizedPairs | None:
    """Returns the ids of an entry with the texts of the pairs, or None if the entry does not exist or is damaged."""
    try:
        tokenizer = Tokenizer.load(entry)
        parts = {name: _part(entry / name, part, tokenizer) for name, part in pairs.items()}
    except (OSError, ValueError, BadCheckpoint, BadInput):
        return None
    return TokenizedPairs(parts, tokenizer)


def _part(path: Path, pairs: Pairs, tokenizer: Tokenizer) -> PairTokens:
    """Reads one part. `path` is the prefix of the part's files. Raises the errors of `_stored`."""
    source, target = (_stored(f"{path}.{side}", len(pairs), tokenizer) for side in ("source", "target"))
    return PairTokens(pairs, source, target)


def _stored(path: str, count: int, tokenizer: Tokenizer) -> IdLists:
    """Reads the ids of one side of a part. Raises ValueError, BadInput or OSError if the files are damaged."""
    ids = StoredIds(Path(f"{path}.ids"), dtype_of(tokenizer))[:]
    lengths = StoredIds(Path(f"{path}.lengths"), _LENGTHS)[:].astype(np.int64)
    whole = len(lengths) == count and int(lengths.sum()) == len(ids) and int(lengths.min()) >= 1
    if not whole or int(ids.max()) >= tokenizer.vocab_size:
        raise ValueError(path)
    return IdLists.of(ids, lengths)
