"""Finds the directory of a model by the name that a user gives on the command line or to `load`.

A name means a directory, a model in ./checkpoints or in the user's folder, a shipped model, or, as owner/name, a
model of the Hugging Face hub. Without a name, the model in ATTNCLI_MODEL is used, else the newest. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from attncli.checkpoint import hub
from attncli.checkpoint.adapter_config import read_adapter_config
from attncli.checkpoint.catalog import find_adapter, find_model, is_model
from attncli.checkpoint.directory import ADAPTER_CONFIG, read_json
from attncli.errors import BadCheckpoint, UsageProblem
from attncli.paths import is_file, is_folder

Downloading = Callable[[str], AbstractContextManager[hub.Progress]]  # the model's name -> a progress callback


class Places(NamedTuple):
    """The directory of a model, and the directory of the adapter to merge into its weights, if there is one."""

    model: Path
    adapter: Path | None = None


def _silent(name: str) -> AbstractContextManager[hub.Progress]:
    return nullcontext(lambda received, total: None)


def resolve_model(
    name: str | None, revision: str | None = None, *, weights: bool = True, downloading: Downloading = _silent
) -> Path:
    """Returns the directory of a local model, or downloads a model of the hub and returns its directory in the cache.

    If `weights` is False, the weights of a model of the hub are not downloaded. Raises BadCheckpoint, UsageProblem or
    OutOfRoom.
    """
    name = name or os.environ.get("ATTNCLI_MODEL") or ""
    if hub.is_of_hub(name):
        with downloading(name) as progress:
            return hub.fetch(name, revision, weights, progress)
    if revision is not None:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('revision')} is for models of the hub.",
                f"Name a model as owner/name, or leave out {named('revision')}.",
            )
        )
    return find_model(name)


def resolve_adapted(
    name: str | None,
    adapter: str | None,
    revision: str | None = None,
    *,
    weights: bool = True,
    downloading: Downloading = _silent,
) -> Places:
    """Returns the directories of a model and of an adapter. Without a name, returns the model that the adapter names.

    That model must be on this machine, so that no file decides what is downloaded. Raises the errors of `resolve_model`
    and `find_adapter`.
    """
    place = None if adapter is None else find_adapter(adapter)
    if name is None and place is not None:
        name = _base_of(place)
    return Places(resolve_model(name, revision, weights=weights, downloading=downloading), place)


def _base_of(adapter: Path) -> str:
    """Returns the directory of the model that an adapter names. Raises UsageProblem if it is not on this machine."""
    where = adapter / ADAPTER_CONFIG
    base = read_adapter_config(read_json(where), str(where)).base
    try:
        if base is not None and (is_file(base) or (is_folder(base) and is_model(Path(base)))):
            return base
    except BadCheckpoint:
        pass
    changes = "does not say which model it changes" if base is None else f"changes {base}, which is not on this machine"
    raise UsageProblem.naming(
        lambda named: (f"The adapter {adapter} {changes}.", f"Name the model with {named('model')}.")
    )
