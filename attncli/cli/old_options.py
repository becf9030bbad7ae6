"""The options of the commands that declare them as Typer does; they move to attncli/cli/shared.py."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from attncli.cli.completing import model_names, one_of
from attncli.cli.help import MORE
from attncli.cli.texts import note_if_like_a_file, prompt_or_file, required_text, text_or_file, text_or_file_end
from attncli.config import TOKENIZER_KINDS, TRAIN_DTYPES, alternatives, draw_seed
from attncli.config.values import parse_count as _parse_count
from attncli.config.values import parse_seconds as _parse_seconds

__all__ = [
    "GENERATION_DTYPES",
    "CsvOption",
    "DeviceOption",
    "DtypeOption",
    "ForceOption",
    "GenerationDtypeOption",
    "HtmlOption",
    "JsonOption",
    "ModelArgument",
    "ModelOption",
    "NpzOption",
    "PlainOption",
    "RevisionOption",
    "SeedOption",
    "SvgOption",
    "ThemeOption",
    "TokenizerOption",
    "VocabSizeOption",
    "alternatives",
    "choice",
    "count",
    "draw_seed",
    "note_if_like_a_file",
    "parse_count",
    "parse_seconds",
    "prompt_or_file",
    "required_text",
    "text_or_file",
    "text_or_file_end",
    "unset",
]


def parse_count(text: str | int) -> int:
    """As values.parse_count."""
    if isinstance(text, int):
        return text
    try:
        return _parse_count(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


def parse_seconds(text: str | float) -> float:
    """As values.parse_seconds."""
    if isinstance(text, int | float):
        return float(text)
    try:
        return _parse_seconds(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


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


def parse_theme(name: str) -> str:
    """The name of a theme of pictures, checked."""
    if name not in THEMES:
        raise typer.BadParameter(f"{name!r} is neither {' nor '.join(THEMES)}.")
    return name


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
