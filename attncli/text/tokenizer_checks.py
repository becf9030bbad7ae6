"""Refuses a hostile `tokenizer.json` before the `tokenizers` library loads it; checks whether the library may panic.

The library executes every step of the file, and aborts the process when memory runs out. So this module limits the ids,
the growth of a text, the steps and the added tokens. A malformed file is not refused here: the library reports it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from attncli.errors import COPY_AGAIN, BadCheckpoint

_LARGEST_ID = 1 << 22
_MOST_GROWTH = 16  # the largest factor by which the steps of a pipeline may lengthen a text
_MOST_STEPS = 64  # the largest number of steps in the file
_MOST_ADDED = 64  # the largest number of tokens that the post-processor may add to a text
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_NESTED = ("normalizers", "pretokenizers", "processors", "decoders")
# Kinds of steps in which the library never panics on any text, if their patterns are plain strings.
_NEVER_PANIC = frozenset(
    {
        *("BPE", "ByteLevel", "ByteFallback", "Fuse", "Replace", "Split", "NFC", "NFD", "NFKC", "NFKD", "Lowercase"),
        *("Sequence", "Prepend", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "Metaspace"),
        "TemplateProcessing",
    }
)
_ANY_CHARACTER = {"Regex": r"[\s\S]"}


def refuse_hostile(text: str, where: str) -> bool:
    """Raises BadCheckpoint for a file that would exhaust time or memory.

    For any other file, returns whether the library may panic.
    """
    try:
        document = json.loads(text)
        vocabulary = document["model"]["vocab"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return True
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    if any(isinstance(id_, int) and id_ > _LARGEST_ID for id_ in ids):
        raise BadCheckpoint(f"{where} has a token whose id is above {_LARGEST_ID:,}.", COPY_AGAIN)
    growth = max(_growth([document.get("normalizer"), document.get("pre_tokenizer")]), _growth(document.get("decoder")))
    if growth > _MOST_GROWTH:
        times = f"{growth:,}" if growth < 1 << 20 else "over a million"
        raise BadCheckpoint(f"{where} would make a text up to {times} times as long.", COPY_AGAIN)
    steps = [step for name in _STEPS for step in _steps(document.get(name))]
    if len(steps) > _MOST_STEPS:
        raise BadCheckpoint(f"{where} has {len(steps):,} steps; at most {_MOST_STEPS} are allowed.", COPY_AGAIN)
    for step in steps:
        if (wrong := _fault(step)) is not None:
            raise BadCheckpoint(f"{where} {wrong}.", COPY_AGAIN)
    return any(_may_panic(step) for step in (*steps, document["model"]))


def _steps(step: object) -> Iterator[dict[str, Any]]:
    """Yields a step of a pipeline, and all steps nested in it."""
    pending = [step]
    while pending:
        step = pending.pop()
        if isinstance(step, list):
            pending += step
        elif isinstance(step, dict):
            pending += [step.get(name) for name in _NESTED]
            yield step


def _growth(steps: object) -> int:
    """Returns an upper bound of the factor by which a pipeline of steps can lengthen a text.

    A replacement multiplies the length of the text by the length of the replacement. A prefix is added at most once per
    character. A byte-level step multiplies the length by two, since most of its characters take two bytes.
    """
    growth = 1
    for step in _steps(steps):
        growth *= max(len(str(step.get("content", ""))), 1) * (2 if step.get("type") == "ByteLevel" else 1)
        growth *= 1 + len(str(step.get("prepend", "")))
    return growth


def _fault(step: dict[str, Any]) -> str | None:
    """Returns why a step of the pipeline is refused, or None if it is accepted."""
    kind = step.get("type")
    if kind == "TemplateProcessing":
        return _template_fault(step.get("single"), step.get("special_tokens"))
    if kind == "Precompiled" and not _is_whole_table(step.get("precompiled_charsmap")):
        return "has a table of characters that is incomplete"
    if kind == "FixedLength" and step.get("length") == 0:
        return "cuts a text into pieces of no length"
    return None


def _template_fault(single: object, special: object) -> str | None:
    """Returns why a post-processor is refused, or None. It is refused if it adds a second text or too many tokens."""
    if not isinstance(single, list) or not isinstance(special, dict):
        return None
    texts = [part["Sequence"] for part in single if isinstance(part, dict) and "Sequence" in part]
    if len(texts) > 1 or any(isinstance(text, dict) and text.get("id") != "A" for text in texts):
        return "puts other texts around a text"
    added = 0
    for part in single:
        named = part.get("SpecialToken") if isinstance(part, dict) else None
        token = special.get(str(named.get("id"))) if isinstance(named, dict) else None
        ids = token.get("ids") if isinstance(token, dict) else None
        added += len(ids) if isinstance(ids, list) else 0
    return f"puts {added:,} tokens around a text; at most {_MOST_ADDED} are allowed" if added > _MOST_ADDED else None


def _is_whole_table(encoded: object) -> bool:
    """Whether a normalization table in base64 is complete. The table begins with the length of its trie."""
    try:
        table = base64.b64decode(encoded if isinstance(encoded, str) else "", validate=True)
    except ValueError:
        return True
    size = int.from_bytes(table[:4], "little")
    return len(table) > 4 and size % 4 == 0 and size <= len(table) - 4


def _may_panic(step: object) -> bool:
    """Whether there may be a text on which the library panics in this step."""
    if not isinstance(step, dict):
        return True
    kind, pattern = step.get("type"), step.get("pattern")
    plain = pattern is None or pattern == _ANY_CHARACTER or (isinstance(pattern, dict) and "String" in pattern)
    return not plain or not isinstance(kind, str) or kind not in _NEVER_PANIC
