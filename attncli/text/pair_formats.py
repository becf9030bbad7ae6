"""Reads the lines of a file as pairs of texts, and recognizes files of pairs.

A file of pairs is in one of two formats:

- tab-separated: each line is a source, a tab and a target;
- JSON Lines: each line is an object with two texts, such as {"source": …, "target": …}, {"en": …, "de": …} or
  {"translation": {"en": …, "de": …}}. The first line decides which keys are read. The first text is the source.

Blank lines are skipped. The texts are not normalized.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from attncli.errors import BadInput
from attncli.paths import is_file
from attncli.text.formats import OpenFile
from attncli.text.formats.base import lines_of, placed
from attncli.text.formats.json_lines import SUFFIXES as JSON_SUFFIXES
from attncli.text.reading import STDIN, opened, reading_errors
from attncli.text.tokenizer import checked_text

TAB_SUFFIX = ".tsv"
_LOOKED_AT = 100  # lines at the beginning of a .tsv file that decide whether the file has pairs
_TOO_LONG = "Write a shorter text on each line."
_FORMS = '{"source": …, "target": …} or {"en": …, "de": …}'
_NESTED = "translation"  # the key of an object that contains the texts by language
_ROLES = (("source", "target"), ("src", "tgt"))
_LANGUAGE = re.compile(r"[a-z]{2}([_-][A-Za-z]{2,4})?|[a-z]{3}_[A-Z][a-z]{3}")  # such as en, pt_BR, zh-Hans, deu_Latn


class Pair(NamedTuple):
    """A text and its translation."""

    source: str
    target: str


def is_pair_file(path: str, encoding: str) -> bool:
    """Whether a file is read as pairs, if the user does not say whether it contains pairs or text.

    The name of the file must end with .tsv, .jsonl or .ndjson, so a text with a tab in each line remains text. In
    addition:

    - in a .tsv file, more than half of the first 100 lines have exactly one tab, with text on both sides;
    - the first line of a JSON Lines file is an object with no "text", and with the texts "source" and "target", or
      "src" and "tgt", or two texts whose keys are language codes, such as "en" and "pt_BR", or a "translation" that is
      such an object.

    Blank lines do not count. Standard input, directories, pipes and files that cannot be read are not files of pairs.
    """
    suffix = Path(path).suffix.lower()
    if path == STDIN or suffix not in (TAB_SUFFIX, *JSON_SUFFIXES) or not is_file(Path(path)):
        return False
    try:
        with reading_errors(path), opened(path) as file:
            open_file = OpenFile(path, file, b"", encoding, None)
            if suffix in JSON_SUFFIXES:
                return _is_plainly_a_pair(open_file.first_line())
            lines = next(open_file.blocks)[0].split("\n")
    except BadInput:  # the file is then read as text, which reports the error
        return False
    first = list(islice(filter(str.strip, lines), _LOOKED_AT))
    return 2 * sum(len(_fields(line)) == 2 and all(map(str.strip, _fields(line))) for line in first) > len(first)


def _is_plainly_a_pair(line: str) -> bool:
    """Whether the keys of a JSON object say that its texts are a pair."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    texts = _texts(record)
    if not texts or "text" in record:
        return False
    return any(texts.keys() >= set(role) for role in _ROLES) or (
        len(texts) == 2 and all(map(_LANGUAGE.fullmatch, texts))
    )


def pairs_of(file: OpenFile) -> Iterator[Pair]:
    """Yields the pairs of a file, which is in JSON Lines or tab-separated.

    The suffix decides between the formats. In any other file and on standard input, a first line that begins with '{'
    and has no tab means JSON Lines.

    Raises BadInput, which names the file and the line, for a line that is not a pair.
    """
    first = file.first_line()
    as_json = first.startswith("{") and "\t" not in first and file.suffix != TAB_SUFFIX
    read = _json_reader(file.name) if as_json or file.suffix in JSON_SUFFIXES else _tab_reader(file)
    for number, line in enumerate(lines_of(file.blocks, file.name, _TOO_LONG), 1):
        if line.strip():
            where = f"{file.name}, line {number}"
            yield _checked(*read(line.removesuffix("\r"), where), where)


def pairs_of_lines(source: OpenFile, target: OpenFile) -> Iterator[Pair]:
    """Yields the pairs of two files: line i of the first and line i of the second. Skips lines that are blank in both.

    Raises BadInput for files with different numbers of lines, and for a line that is blank in only one file.
    """
    left, right = (lines_of(file.blocks, file.name, _TOO_LONG) for file in (source, target))
    counts = [0, 0]  # the numbers of the last lines that are not blank
    wrong: BadInput | None = None
    for number, texts in enumerate(zip_longest(left, right, fillvalue=""), 1):
        blank = [not text.strip() for text in texts]
        counts = [count if none else number for count, none in zip(counts, blank, strict=True)]
        if wrong is None and any(blank) and not all(blank):
            file, other = (source, target) if blank[0] else (target, source)
            wrong = BadInput(
                f"{file.name}, line {number} is empty, but line {number} of {other.name} is not.",
                "Write both texts, or remove the line from both files.",
            )
        if wrong is None and not any(blank):
            yield Pair(*(text.removesuffix("\r") for text in texts))
    if counts[0] != counts[1]:
        raise BadInput(
            f"{source.name} has {counts[0]:,} lines and {target.name} has {counts[1]:,}, and line i of the one must "
            "translate line i of the other.",
            "Give two files with the same number of lines.",
        )
    if wrong is not None:
        raise wrong


def _fields(line: str) -> list[str]:
    return line.removesuffix("\r").split("\t")


def _tab_reader(file: OpenFile) -> Callable[[str, str], Pair]:
    """Returns a function that splits a line at its tab. The second argument names the line in an error."""
    named = "FILE" if file.is_stdin else shlex.quote(file.name)

    def read(line: str, where: str) -> Pair:
        fields = _fields(line)
        if len(fields) == 1:
            raise BadInput(f"{where} has no tab.", "Write one pair a line: the source, a tab, the target.")
        if len(fields) > 2:
            raise BadInput(
                f"{where} has {len(fields):,} fields, and a pair has 2: the source, a tab, the target.",
                f"Keep two of the fields, such as the first two: cut -f1,2 {named} > pairs.tsv",
            )
        return Pair(*fields)

    return read


def _json_reader(name: str) -> Callable[[str, str], Pair]:
    """Returns a function that reads a line of JSON. The keys of the first line are required in every line."""
    keys: list[str] = []

    def read(line: str, where: str) -> Pair:
        texts = _texts(_parsed(line, where))
        keys[:] = keys or _keys(texts, where)
        missing = [key for key in keys if key not in texts]
        if missing:
            raise BadInput(
                f'{where} has no text "{missing[0]}", as the first line of {name} has.', "Correct or remove the line."
            )
        try:
            return Pair(*(checked_text(texts[key]) for key in keys))
        except BadInput as problem:
            raise placed(where, problem) from None

    return read


def _parsed(line: str, where: str) -> Any:
    """Parses a line of JSON. Raises BadInput, which names the column, for a line that is not a JSON object."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as problem:
        what = f"{where} is not JSON: {problem.msg.removesuffix(' at')} at column {problem.colno}."
        raise BadInput(what, "Correct or remove the line.") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits, or thousands of brackets
        raise BadInput(f"{where} has JSON that is too large to parse.", "Correct or remove the line.") from None
    if not isinstance(record, dict):
        raise BadInput(f"{where} is not a JSON object.", f"Write an object with two texts: {_FORMS}")
    return record


def _texts(record: Any) -> dict[str, str]:
    """Returns the strings of a JSON object, or of its "translation", by key. Empty for any other value."""
    nested = record.get(_NESTED) if isinstance(record, dict) else None
    inner = nested if isinstance(nested, dict) else record
    return {key: text for key, text in inner.items() if isinstance(text, str)} if isinstance(inner, dict) else {}


def _keys(texts: dict[str, str], where: str) -> list[str]:
    """Returns the keys of the source and of the target. Raises BadInput if an object does not have exactly two texts.

    An object with a "source" and a "target", or a "src" and a "tgt", may have other texts.
    """
    for role in _ROLES:
        if texts.keys() >= set(role):
            return list(role)
    if len(texts) != 2:
        found = f"{len(texts)} texts" if len(texts) != 1 else "1 text"
        named = f" ({', '.join(texts)})" if len(texts) > 2 else ""
        raise BadInput(f"{where} has {found}{named}, and a pair has 2.", f"Write an object with two texts: {_FORMS}")
    return list(texts)


def _checked(source: str, target: str, where: str) -> Pair:
    for side, text in (("source", source), ("target", target)):
        if not text.strip():
            raise BadInput(f"{where} has an empty {side}.", "Write both texts, or remove the line.")
    return Pair(source, target)
