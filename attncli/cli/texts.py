"""Reads the text that a command works on: its argument, the file that the argument names, or piped text."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

from attncli.errors import BadInput, UsageProblem

_LONGEST_NAME = 4096  # characters of a path


def text_argument(argument: str | None) -> str | None:
    """Returns the piped text and the argument, joined by a space if there are both; None if there is neither.

    The argument '-' stands for standard input.
    """
    from attncli.text.files import read_text
    from attncli.text.reading import STDIN
    from attncli.text.tokenizer import checked_text

    if argument == STDIN:
        return _without_last_newline(read_text(STDIN))
    piped = _without_last_newline(read_text(STDIN)) if _is_piped() else None
    if argument is None:
        return piped  # empty for an empty pipe
    return checked_text(f"{piped} {argument}" if piped else argument)


def required_text(argument: str | None, example: str) -> str:
    """Returns the text of `text_argument`. Raises UsageProblem for no text, BadInput for an empty text.

    The hint of both errors shows `example`.
    """
    text = text_argument(argument)
    if text is None:
        raise UsageProblem("There is no text.", f"For example: {example}")
    if not text:
        raise BadInput("The text is empty.", f"For example: {example}")
    return text


def note_if_like_a_file(text: str) -> None:
    """Prints a note about a text that is a URL or looks like the name of a missing file."""
    from attncli.render.console import print_note
    from attncli.text.reading import is_url

    if is_url(text):
        print_note(f"{text} is a URL, which is not fetched: the URL itself is used as the text")
    elif re.search(r"^[^\s]*(/|\.(txt|md|py|json))[^\s]*$", text):
        print_note(f"there is no file {text}, so the name itself is used as the text")


def text_of_file(argument: str | None) -> str | None:
    """Returns the content of the file that the argument names, or None if it names no file.

    Prints a note if the argument looks like the name of a missing file. Raises BadInput for a file that is empty or not
    text, and for a directory.
    """
    from attncli.text.files import read_text

    if not argument or argument == "-" or len(argument) >= _LONGEST_NAME:
        return None
    try:
        if Path(argument).is_file():
            text = read_text(argument)
            if not text:
                raise BadInput(f"{argument} is an empty file.", "Give a file that contains text.")
            return text
        if Path(argument).is_dir():
            raise BadInput(f"{argument} is a directory.", "Give a file in it, or a text.")
        note_if_like_a_file(argument)
    except (OSError, ValueError):
        pass  # the argument cannot be a path, so it is a text
    return None


def text_or_file(argument: str | None, example: str) -> str:
    """Returns the content of the file that the argument names; if it names no file, the text of `text_argument`.

    Raises UsageProblem for no text, BadInput for an empty text; the hint shows `example`.
    """
    text = text_of_file(argument)
    return required_text(argument, example) if text is None else text


def text_or_file_end(argument: str | None, example: str) -> str:
    """Returns the text of `text_or_file` without a final newline, which in a file only ends the last line."""
    return _without_last_newline(text_or_file(argument, example))


def prompt_or_file(argument: str | None, piped: bool = True) -> str:
    """Returns the prompt, or the content of the file that it names; '' without a prompt.

    With `piped`, piped text is put before a prompt that is not a file.
    """
    text = text_of_file(argument)
    if text is not None:
        return _without_last_newline(text)
    return (text_argument(argument) if piped else argument) or ""


def prompts_of_file(file: str) -> list[str]:
    """Returns the prompts of a file: one per line, in a .jsonl file as JSON. Raises BadInput for an empty file."""
    from attncli.text.files import read_text
    from attncli.text.formats.json_lines import SUFFIXES, prompts_of

    texts = [line.removesuffix("\r") for line in read_text(file).removesuffix("\n").split("\n")]
    if texts == [""]:
        raise BadInput(f"{file} contains no prompts.", "Give a file with one prompt on each line.")
    of_json = prompts_of(texts, file) if file.endswith(SUFFIXES) else None
    return of_json or texts


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file, and not a terminal or a device such as /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _without_last_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
