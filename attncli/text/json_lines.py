"""Documents out of lines of JSON with a text each, as `attncli generate --jsonl` writes them.

Knows nothing of files: text comes in blocks, and goes out as one text whose documents are separated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain

from attncli.errors import BadInput
from attncli.text.tokenizer import END_OF_TEXT, checked_text

Blocks = Iterator[tuple[str, bool]]  # some text, and whether it is the last

SUFFIXES = (".jsonl", ".ndjson")
_LONGEST_LINE = 64 << 20  # characters, which are held in memory


def with_first_line(blocks: Blocks) -> tuple[str, Blocks]:
    """The first line, or as much as was looked at where it begins no object or is too long; and all blocks again."""
    seen = [next(blocks)]
    length = len(seen[0][0])
    while seen[0][0].lstrip().startswith("{") and "\n" not in seen[-1][0] and not seen[-1][1]:
        if length > _LONGEST_LINE:
            break
        seen.append(next(blocks))
        length += len(seen[-1][0])
    return "".join(text for text, _ in seen).lstrip().partition("\n")[0], chain(seen, blocks)


def document_of(line: str) -> str | None:
    """'{"prompt": "Once", "text": " upon"}' -> 'Once upon'; None for a line that is no object with a text."""
    prompt, text = _prompt_and_text(line)
    return None if text is None else (prompt or "") + text


def prompts_of(lines: Sequence[str], name: str) -> list[str] | None:
    """The documents of lines to continue, and prompts without a text; None where the first line is none of both.

    Raises BadInput for another line that is none of both, with its number.
    """
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        given = [part for part in _prompt_and_text(line) if part is not None]
        if not given and not prompts:
            return None
        if not given:
            raise BadInput(
                f'{name}, line {number} is not a JSON object with a "prompt" or a "text", as its first line is.',
                "Mend that line, or take it out.",
            )
        prompts.append(checked_text("".join(given)))
    return prompts


def _prompt_and_text(line: str) -> tuple[str | None, str | None]:
    """Of a line of JSON; None for what it does not have."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(record, dict):
        return None, None
    prompt, text = record.get("prompt"), record.get("text")
    return prompt if isinstance(prompt, str) else None, text if isinstance(text, str) else None


def separated(blocks: Blocks, name: str) -> Blocks:
    """The documents of all lines, with a line that separates them after each but the last. Lines may be empty.

    Raises BadInput for a line that is too long or no object with a text, with its number.
    """
    before = ""
    for number, line in enumerate(_lines(blocks, name), 1):
        if not line.strip():
            continue
        document = document_of(line)
        if document is None:
            raise BadInput(
                f'{name}, line {number} is not a JSON object with a "text", as its first line is.',
                "Mend that line, or take it out.",
            )
        try:
            checked_text(document)
        except BadInput as problem:
            raise BadInput(f"{name}, line {number}: {problem.message}", problem.hint) from None
        if document and not document.isspace():
            yield before + document, False
            before = ("" if document.endswith("\n") else "\n") + END_OF_TEXT + "\n"
    yield "", True


def _lines(blocks: Blocks, name: str) -> Iterator[str]:
    """Raises BadInput for a line that is too long."""
    held: list[str] = []  # of a line that goes on
    number = 1
    for text, _ in blocks:
        *whole, rest = text.split("\n")
        for line in whole:
            yield "".join((*held, line))
            held = []
        held.append(rest)
        number += len(whole)
        if sum(map(len, held)) > _LONGEST_LINE:
            raise BadInput(
                f"{name}, line {number} has more than {_LONGEST_LINE:,} characters.",
                "Write a shorter document on each line, or give the text as a .txt file.",
            )
    yield "".join(held)
