"""Finds the directory of the model that --model and --revision name; downloads a model of the hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from attncli.checkpoint.catalog import MODELS_FOLDER, is_never_default, known_models, newest_model

if TYPE_CHECKING:
    from attncli.checkpoint.resolve import Places
    from attncli.cli.shared import AdaptedChoice


def find(model: str | None, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns the directory of a model. If the model is on the hub, downloads it and shows a progress bar.

    If `weights` is False, the download leaves out the weights. Raises BadCheckpoint, UsageProblem or OutOfRoom.
    """
    from attncli.checkpoint.resolve import resolve_model

    return resolve_model(model, revision, weights=weights, downloading=_downloading)


def find_adapted(source: AdaptedChoice, *, weights: bool = True) -> Places:
    """Returns the directories of the model and of the adapter that the options choose. Downloads as `find` does."""
    from attncli.checkpoint.resolve import resolve_adapted

    return resolve_adapted(source.model, source.adapter, source.revision, weights=weights, downloading=_downloading)


def _downloading(name: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Returns a context manager that shows a progress bar during the download of the model `name`."""
    from attncli.render.console import messages
    from attncli.render.progress_bar import downloading_bar

    return downloading_bar(messages(), name)


def require_chat_template(source: AdaptedChoice) -> None:
    """Raises UsageProblem for a model without a chat template, BadCheckpoint for an invalid one."""
    from attncli.checkpoint.chat import required_chat_template

    required_chat_template(find_adapted(source).model)


def note_default(model: str | None) -> None:
    """Prints a note that names the default model, unless it is in ./checkpoints and no other could be the default."""
    from attncli.render.console import print_note

    if model or os.environ.get("ATTNCLI_MODEL"):
        return
    newest = newest_model()
    here = newest is not None and newest.path.parent == MODELS_FOLDER
    if newest is None or (here and sum(not is_never_default(entry) for entry in known_models()) == 1):
        return
    folder = f"./{MODELS_FOLDER}" if here else newest.path.parent
    run = "" if newest.status in ("finished", "elsewhere") else f", its run {newest.status}"
    print_note(f"model {newest.name}, the newest in {folder}{run}")
