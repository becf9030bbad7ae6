"""Options that several commands share, and how numbers and times are read."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from attncli.cli.completing import model_names, one_of
from attncli.cli.help import MORE
from attncli.config import TOKENIZER_KINDS, TRAIN_DTYPES
from attncli.errors import BadInput

_LARGEST_COUNT = 10**15
_LONGEST_NAME = 4096  # of a file
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_count(text: str | int) -> int:
    """'25.6k' -> 25600, '1M' -> 1000000. A default, which is a number already, stays."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", text.strip().replace("_", "").replace(",", ""), re.IGNORECASE)
    value = Decimal(found[1]) * _UNITS[found[2].lower()] if found else None
    if value is None or value != int(value) or value > _LARGEST_COUNT:
        raise typer.BadParameter(f"{text!r} is not a positive whole number such as 500, 25.6k or 1M.")
    return int(value)


def parse_seconds(text: str | float) -> float:
    """'90s' -> 90.0, '5m' -> 300.0, '1h30m' -> 5400.0; a bare number is seconds."""
    if isinstance(text, int | float):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise typer.BadParameter(f"{text!r} is not a time such as 90s, 5m or 1h.")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_theme(name: str) -> str:
    """The name of a theme of pictures, checked."""
    if name not in THEMES:
        raise typer.BadParameter(f"{name!r} is neither {' nor '.join(THEMES)}.")
    return name


def draw_seed() -> int:
    """A seed for a run that was given none; small enough to type."""
    return secrets.randbelow(10**6)


def text_argument(argument: str | None) -> str | None:
    """The text meant: the argument, what is piped in, or both, piped text first; '-' is standard input alone."""
    from attncli.text.files import STDIN, read_text
    from attncli.text.tokenizer import checked_text

    if argument == STDIN:
        return _without_last_newline(read_text(STDIN))
    piped = _without_last_newline(read_text(STDIN)) if _is_piped() else ""
    if argument is None:
        return piped or None
    return checked_text(f"{piped} {argument}" if piped else argument)


def required_text(argument: str | None, example: str) -> str:
    """Like `text_argument`. Raises BadInput, with an example, when there is none."""
    text = text_argument(argument)
    if not text:
        raise BadInput("There is no text.", f"Give one: {example}")
    return text


def note_if_like_a_file(text: str) -> None:
    """A note on a text that is a URL, or looks like the name of a file that is not there."""
    from attncli.render.console import print_note
    from attncli.text.files import is_url

    if is_url(text):
        print_note(f"{text} is a URL, which is not fetched: it is taken as a text itself")
    elif re.search(r"^[^\s]*(/|\.(txt|md|py|json))[^\s]*$", text):
        print_note(f"there is no file {text}, so this is taken as a text")


def text_of_file(argument: str | None) -> str | None:
    """The content of the file that the argument names, or None when it names none, with a note if it looks like it.

    Raises BadInput for a file that is empty or not text, and for a directory.
    """
    from attncli.text.files import read_text

    if not argument or argument == "-" or len(argument) >= _LONGEST_NAME:
        return None
    try:
        if Path(argument).is_file():
            text = read_text(argument)
            if not text:
                raise BadInput(f"{argument} is empty: it holds no text.", "Give a file with some.")
            return text
        if Path(argument).is_dir():
            raise BadInput(f"{argument} is a directory.", "Give a file of it, or a text.")
        note_if_like_a_file(argument)
    except (OSError, ValueError):
        pass  # not a path: a text
    return None


def text_or_file(argument: str | None, example: str) -> str:
    """The content of a file when the argument names one, else the text itself. Raises BadInput when there is none."""
    text = text_of_file(argument)
    return required_text(argument, example) if text is None else text


def text_or_file_end(argument: str | None, example: str) -> str:
    """The same without the line end that a file ends with, as piped text is read."""
    return _without_last_newline(text_or_file(argument, example))


def prompt_or_file(argument: str | None, piped: bool = True) -> str:
    """The text to continue, or the content of the file that is named; may be empty. `piped` puts piped text first."""
    text = text_of_file(argument)
    if text is not None:
        return _without_last_newline(text)
    return (text_argument(argument) if piped else argument) or ""


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file; not a terminal, nor a device such as /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _without_last_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def alternatives(names: Iterable[str]) -> str:
    """'a, b or c'."""
    *before, last = names
    return f"{', '.join(before)} or {last}"


def unset(*names: str, help: str, **more: Any) -> Any:
    """An option that is chosen for the user when not given, so that no default is shown; the help says from what."""
    return typer.Option(*names, help=help, show_default=False, **more)


def count(*names: str, help: str, **more: Any) -> Any:
    """The same for a number such as 500, 25.6k or 1M."""
    return unset(*names, help=help, parser=parse_count, metavar="N", **more)


def choice(*names: str, among: Iterable[str], help: str, **more: Any) -> Any:
    """An option that takes one of a few values, which the help names and a shell completes."""
    values = tuple(among)
    return typer.Option(*names, metavar="|".join(values), autocompletion=one_of(values), help=help, **more)


_AUTO = "auto takes the best there is"
_MODEL = "A directory, a name that attncli models lists, or owner/name of the hub."  # more on the first page of help
_DEVICES = ("auto", "cpu", "cuda", "mps")
GENERATION_DTYPES = ("auto", *TRAIN_DTYPES, "float16", "int8")
_DTYPE = (
    "auto, float32, bfloat16 or (not to train) float16; auto is what is fast: bfloat16 on CUDA, and to train on a CPU "
    "with units for it."
)

ModelOption = Annotated[str | None, unset("--model", "-m", metavar="MODEL", help=_MODEL, autocompletion=model_names)]
ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="The same as -m.", show_default=False, autocompletion=model_names),
]
_REVISION = "A branch, tag or commit of a model of the hub. Unset: main."
RevisionOption = Annotated[str | None, unset("--revision", metavar="REV", help=_REVISION, rich_help_panel=MORE)]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", help=f"auto, cpu, cuda or mps; {_AUTO}.", rich_help_panel=MORE, autocompletion=one_of(_DEVICES)
    ),
]
_GENERATION_DTYPE = (
    "auto, float32, bfloat16, float16 or, on a CPU, int8; auto is bfloat16 on CUDA, and on a CPU the type stored."
)
_dtype = partial(typer.Option, "--dtype", rich_help_panel=MORE)
DtypeOption = Annotated[str, _dtype(help=_DTYPE, autocompletion=one_of(("auto", *TRAIN_DTYPES)))]
GenerationDtypeOption = Annotated[str, _dtype(help=_GENERATION_DTYPE, autocompletion=one_of(GENERATION_DTYPES))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SvgOption = Annotated[
    Path | None, unset("--svg", metavar="FILE", help="Also write the screen as an SVG picture.", rich_help_panel=MORE)
]
HtmlOption = Annotated[
    Path | None, unset("--html", metavar="FILE", help="Also write the screen as a web page in one file.")
]
THEMES = ("light", "dark")
ThemeOption = Annotated[
    str,
    choice("--theme", among=THEMES, help="The colors of --svg and --html.", parser=parse_theme, rich_help_panel=MORE),
]
CsvOption = Annotated[
    Path | None, unset("--csv", metavar="FILE", help="Also write a row for each source.", rich_help_panel=MORE)
]
NpzOption = Annotated[
    Path | None,
    unset(
        "--npz",
        metavar="FILE",
        help="Also write the raw weights of all layers and heads, for NumPy.",
        rich_help_panel=MORE,
    ),
]
PlainOption = Annotated[bool, typer.Option("--plain", help="Sentences instead of tables.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that exist.", rich_help_panel=MORE)]
SeedOption = Annotated[
    int | None, unset("--seed", "-s", help="The same seed gives the same result. Unset: drawn, and printed.")
]
TokenizerOption = Annotated[str, choice(among=TOKENIZER_KINDS, help="The kind of tokenizer to make.")]
VocabSizeOption = Annotated[int | None, count(help="How many token ids to make. Unset: by the amount of text.")]
