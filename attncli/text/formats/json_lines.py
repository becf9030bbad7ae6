"""JSON Lines: each line is a JSON object whose "text" is a document, as `attncli generate --jsonl` writes.

If the object has a "prompt", the document is the prompt followed by the text. The documents of a file are joined into
one text, separated by `<|endoftext|>` lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from attncli.errors import BadInput
from attncli.text.formats.base import Blocks, FileFormat, OpenFile, lines_of, placed
from attncli.text.names import and_more
from attncli.text.tokenizer import END_OF_TEXT, checked_text

SUFFIXES = (".jsonl", ".ndjson")
_TOO_LONG = "Write a shorter document on each line, or give the text as a .txt file."


def document_of(line: str) -> str | None:
    """Returns the document of a line, or None if the line has no text.

    '{"prompt": "Once", "text": " upon"}' -> 'Once upon'
    """
    prompt, text = _prompt_and_text(line)
    return None if text is None else (prompt or "") + text


def prompts_of(lines: Sequence[str], name: str) -> list[str] | None:
    """Returns one string for each line of JSON that is not blank: the prompt of the line, followed by its text.

    Returns None if the first line has neither a prompt nor a text. Raises BadInput, which names the line, if a later
    line has neither.
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
                "Correct that line, or remove it.",
            )
        prompts.append(checked_text("".join(given)))
    return prompts


def _prompt_and_text(line: str) -> tuple[str | None, str | None]:
    """Returns the prompt and the text of a line of JSON; each is None if the line lacks it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(record, dict):
        return None, None
    prompt, text = record.get("prompt"), record.get("text")
    return prompt if isinstance(prompt, str) else None, text if isinstance(text, str) else None


def separated(blocks: Blocks, name: str) -> Blocks:
    """Yields the documents of all lines that are not empty, separated by `<|endoftext|>` lines.

    Raises BadInput, which names the line, for a line that is too long or is not an object with a text.
    """
    before = ""
    for number, line in enumerate(lines_of(blocks, name, _TOO_LONG), 1):
        if not line.strip():
            continue
        document = document_of(line)
        if document is None:
            raise BadInput(
                f'{name}, line {number} is not a JSON object with a "text", as its first line is.',
                "Correct that line, or remove it.",
            )
        try:
            checked_text(document)
        except BadInput as problem:
            raise placed(f"{name}, line {number}", problem) from None
        if document and not document.isspace():
            yield before + document, False
            before = ("" if document.endswith("\n") else "\n") + END_OF_TEXT + "\n"
    yield "", True


def _documents(file: OpenFile) -> Blocks | None:
    """Returns the documents of standard input or a .jsonl or .ndjson file; None if the first line has no "text"."""
    if file.suffix not in SUFFIXES and not file.is_stdin:
        return None
    return separated(file.blocks, file.name) if document_of(file.first_line()) is not None else None


FORMAT = FileFormat(
    "JSON lines", _documents, lambda names: f"each line of {and_more(names)} is a document: its prompt, then its text"
)
