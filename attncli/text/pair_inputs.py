"""Returns the files that a run trains on, and their kind: text, files of pairs, or two parallel files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attncli.errors import Naming, UsageProblem

InputKind = Literal["text", "pairs", "parallel"]  # parallel: line i of the second file translates line i of the first


def files_and_kind(
    files: Sequence[str], pairs: Sequence[str], source: str | None, target: str | None
) -> tuple[tuple[str, ...], InputKind | None]:
    """Returns the files of a run, and their kind; None if the files have to be recognized.

    `files` are given without a kind, `pairs` as files of pairs, `source` and `target` as parallel files. Raises
    UsageProblem if they are combined, or if one of the parallel files is missing.
    """
    if (source is None) != (target is None):
        raise UsageProblem.naming(_half)
    if sum(map(bool, (files, pairs, source))) > 1:
        raise UsageProblem.naming(_several)
    if source is not None and target is not None:
        return (source, target), "parallel"
    return (tuple(pairs), "pairs") if pairs else (tuple(files), None)


def _half(named: Naming) -> tuple[str, str]:
    return f"{named('source')} and {named('target')} belong together.", "Give both, or one file of pairs."


def _several(named: Naming) -> tuple[str, str]:
    both = f"{named('source')} with {named('target')}"
    return (f"A run trains on files, on {named('pairs')} or on {both}, not on several of them.", "Give one of them.")
