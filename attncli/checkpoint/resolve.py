"""Finds the directory of a model by the name that a user gives on the command line or to `load`.

A name means a directory, a model in ./checkpoints or in the user's folder, a shipped model, or, as owner/name, a
model of the Hugging Face hub. Without a name, the model in ATTNCLI_MODEL is used, else the newest. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from attncli.checkpoint import hub
from attncli.checkpoint.catalog import find_model
from attncli.errors import UsageProblem

Downloading = Callable[[str], AbstractContextManager[hub.Progress]]  # the model's name -> a progress callback


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
