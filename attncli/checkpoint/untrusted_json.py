"""Parses untrusted JSON: accepts only objects and finite numbers, and raises BadCheckpoint for all other data.

Python's own parser accepts NaN and 1e999, and raises RecursionError for deep nesting. Opens no files: `path` is used
for error messages only.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from attncli.config import shown_value
from attncli.errors import COPY_AGAIN, BadCheckpoint


def parse_object(data: bytes, path: Path, *, unique: bool = False) -> dict[str, Any]:
    """Returns the JSON object in the data of a file.

    Raises BadCheckpoint if the data is not valid JSON or not an object. The error says where the data is not valid.
    With `unique`, a name that an object has twice is an error too; without, its last value counts.
    """
    pairs = _unique if unique else None
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as problem:
        raise BadCheckpoint(f"{path} {_reason(data, problem)}.", COPY_AGAIN) from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds no JSON object.", COPY_AGAIN)
    return value


def _reason(data: bytes, problem: Exception) -> str:
    """Returns why data is not valid JSON, given the exception of the parser."""
    if not data.strip():
        return "is empty, and must be a JSON object"
    if isinstance(problem, json.JSONDecodeError):
        fault = "ends too early" if problem.pos >= len(problem.doc.rstrip()) else "is wrong"
        return f"is not valid JSON: it {fault} at line {problem.lineno}, column {problem.colno}"
    if isinstance(problem, UnicodeDecodeError):
        return f"is not valid JSON: byte {problem.start:,} is not {problem.encoding.upper()}"
    if isinstance(problem, RecursionError):
        return "is not valid JSON: it is nested too deeply"
    return f"is not valid JSON: {problem}" if isinstance(problem, _Refused) else "has a number of too many digits"


class _Refused(ValueError):
    """Raised for what Python's parser accepts: a number that is not finite, and a name that occurs twice."""


def parse_object_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Returns the JSON objects in the data of a file, one per line.

    Skips an incomplete last line, because a run may still be writing it. For any other line that is not an object,
    raises BadCheckpoint with the line's number.
    """
    objects = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            value = None
        if not isinstance(value, dict):
            raise BadCheckpoint(f"{path}: line {number} is no JSON object.", "Give the metrics.jsonl of a run.")
        objects.append(value)
    return objects


def _refuse_constant(name: str) -> float:
    raise _Refused(f"{name} is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object with these names and values. Raises ValueError for a name that occurs twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _Refused(f"an object has the name {shown_value(twice)} twice")
    return values


def _finite(digits: str) -> float:
    """Returns the digits as a float. Raises ValueError for '1e999', which is valid JSON but an infinite float."""
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits[:40])
