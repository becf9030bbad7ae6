"""Parses JSON that may be hostile: only objects, only finite numbers, and an error instead of a crash.

Python's own parser accepts NaN and 1e999, and fails with RecursionError on deep nesting. Knows nothing of files: `path`
is for error messages.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from attncli.errors import BadCheckpoint

COPY_AGAIN = "Copy it again from its source."


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises BadCheckpoint for invalid JSON, and for another value than an object."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        reason = "nested too deep" if isinstance(problem, RecursionError) else str(problem)[:120]
        raise BadCheckpoint(f"{path} is not valid JSON: {reason}.", COPY_AGAIN) from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds no JSON object.", COPY_AGAIN)
    return value


def parse_object_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one on each line; an unfinished last line, still being written, is skipped.

    Raises BadCheckpoint, naming the first line that holds no object.
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
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    """The number; '1e999' is valid JSON and becomes infinite as a float, which no JSON can express."""
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits[:40])
