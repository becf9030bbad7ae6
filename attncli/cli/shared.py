"""The options that several commands share."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from attncli.cli.completing import model_names
from attncli.cli.outputs import Files, refuse_files
from attncli.config import TRAIN_DTYPES, TrainConfig
from attncli.config.option import argument, check, option, option_from
from attncli.errors import UsageProblem
from attncli.render.themes import DEFAULT_THEME, THEMES

GENERATION_DTYPES = ("auto", *TRAIN_DTYPES, "float16", "int8")

JSON: bool = option(False, "Print the result as JSON.")
MODEL_ARGUMENT: str | None = argument(
    None, "The model; the same as -m MODEL.", metavar="[MODEL]", suggestions=model_names
)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The options that choose a model. None means the default model, as `checkpoint.catalog.find_model` chooses it."""

    model: str | None = option(
        None,
        "A directory, a GGUF file, a name that attncli models lists, or owner/name of the hub.",  # --help-all says more
        "--model",
        "-m",
        suggestions=model_names,
    )
    revision: str | None = option(
        None, "A branch, tag or commit of a model of the hub. Unset: main.", metavar="REV", rare=True
    )

    @property
    def again(self) -> str:
        """The option that chooses the same model in another command: ' -m NAME'; empty for the default model."""
        return "" if self.model is None else f" -m {shlex.quote(self.model)}"

    def named(self, name: str | None) -> Self:
        """Returns a copy of this choice whose model is `name`. If `name` is None, the copy is unchanged.

        Raises UsageProblem if -m names another model.
        """
        if name is not None and self.model is not None and name != self.model:
            raise UsageProblem(f"{name} and -m {self.model} name two models.", "Name one of them.")
        return replace(self, model=name if self.model is None else self.model)


@dataclass(frozen=True, kw_only=True)
class AdaptedChoice(ModelChoice):
    """The options that choose a model and an adapter to merge into it."""

    adapter: str | None = option(
        None,
        "Merge this LoRA adapter into the model. Without -m, into the model that it was trained for.",
        metavar="DIR",
        rare=True,
    )

    @property
    def again(self) -> str:
        """The options that choose the same model and adapter in another command."""
        return super().again + ("" if self.adapter is None else f" --adapter {shlex.quote(self.adapter)}")


@dataclass(frozen=True, kw_only=True)
class ModelSource(AdaptedChoice):
    """The options that choose a model, an adapter, and the device to load the model on."""

    device: str = option_from(TrainConfig, "device")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The options for pictures: the SVG and HTML files to write, their theme, and whether to replace existing files."""

    svg: Path | None = option(None, "Also write the screen as an SVG picture.", metavar="FILE", rare=True)
    html: Path | None = option(None, "Also write the screen as a web page in one file.", metavar="FILE", rare=True)
    theme: str | None = option(
        None, f"The colors of --svg and --html. Unset: {DEFAULT_THEME}.", choices=tuple(THEMES), rare=True
    )
    force: bool = option(False, "Replace files that exist.", rare=True)

    def __post_init__(self) -> None:
        check(self)

    def refuse(self, more: Files | None = None) -> None:
        """Raises UsageProblem or OutOfRoom if a picture, or a file in `more`, cannot be written.

        Also raises UsageProblem for a theme without a picture, and for --force without a file.
        """
        pictures: Files = {"--svg": self.svg, "--html": self.html}
        if self.theme is not None and not any(pictures.values()):
            raise UsageProblem("--theme is for pictures, and no picture is written.", "Add --svg FILE or --html FILE.")
        refuse_files({**(more or {}), **pictures}, self.force)


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """The options for the interactive page: the HTML file to write, and whether a browser opens it."""

    page: Path | None = option(None, "Also write an interactive page, in one HTML file.", metavar="FILE")
    open: bool = option(False, "Open the file of --page in a browser.", rare=True)

    def __post_init__(self) -> None:
        check(self)
        if self.open and self.page is None:
            raise UsageProblem("--open opens a page, and no page is written.", "Add --page FILE.html.")


def parse_head(head: str) -> tuple[int, int]:
    """Returns layer and head: '2.3' -> (2, 3). Raises UsageProblem for any other text."""
    found = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", head)
    if found is None:
        raise UsageProblem(f"--head {head!r} is not a head.", "Use LAYER.HEAD such as 2.3, both counted from 0.")
    return int(found[1]), int(found[2])
