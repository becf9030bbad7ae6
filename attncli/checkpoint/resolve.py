"""The directory of a model, by the name that a user gives: on the command line with -m, in the library to `load`.

A name is a directory, a model of ./checkpoints or of the user's folder, one that ships, or owner/name on the Hugging
Face hub. No name stands for ATTNCLI_MODEL, else the newest model. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from attncli.checkpoint import hub
from attncli.checkpoint.catalog import find_model
from attncli.errors import UsageProblem

Downloading = Callable[[str], AbstractContextManager[hub.Progress]]  # the model's name -> what is told the progress


def _silent(name: str) -> AbstractContextManager[hub.Progress]:
    return nullcontext(lambda received, total: None)


def resolve_model(
    name: str | None, revision: str | None = None, *, weights: bool = True, downloading: Downloading = _silent
) -> Path:
    """The directory of a model, downloaded if it is on the hub alone. What is here is taken without asking the hub.

    Without `weights` a model of the hub may lack them. Raises BadCheckpoint, UsageProblem or OutOfRoom.
    """
    name = name or os.environ.get("ATTNCLI_MODEL") or ""
    if hub.is_of_hub(name):
        with downloading(name) as progress:
            return hub.fetch(name, revision, weights, progress)
    if revision is not None:
        raise UsageProblem.naming(
            lambda named: (f"{named('revision')} is of a model of the hub.", "Name one as owner/name, or leave it out.")
        )
    return find_model(name)
