"""From the options --model and --revision to a directory; for a model of the hub by downloading it."""

from __future__ import annotations

import os
from pathlib import Path

from attncli.checkpoint.catalog import MODELS_FOLDER, find_model, known_models, newest_model
from attncli.errors import UsageProblem


def find(model: str | None, revision: str | None = None, *, weights: bool = True) -> Path:
    """The directory of a model. What is here is taken without a look at the hub.

    Without `weights` a model of the hub may lack them. Raises BadCheckpoint, UsageProblem or OutOfRoom.
    """
    from attncli.checkpoint import hub

    name = model or os.environ.get("ATTNCLI_MODEL") or ""
    if hub.is_of_hub(name):
        from attncli.render.console import messages
        from attncli.render.passing import downloading_bar

        with downloading_bar(messages(), name) as progress:
            return hub.fetch(name, revision, weights, progress)
    if revision is not None:
        raise UsageProblem("--revision is of a model of the hub.", "Name one with -m owner/name, or leave it out.")
    return find_model(model)


def require_chat_template(model: str | None, revision: str | None) -> None:
    """Raises UsageProblem for a model without a chat template, BadCheckpoint for an invalid one."""
    from attncli.checkpoint.chat import required_chat_template

    required_chat_template(find(model, revision))


def note_default(model: str | None) -> None:
    """Says which model was taken where none is named: of ./checkpoints if there are others, from elsewhere always."""
    from attncli.render.console import print_note

    if model or os.environ.get("ATTNCLI_MODEL"):
        return
    newest = newest_model()
    here = newest is not None and newest.path.parent == MODELS_FOLDER
    if newest is None or (here and len(known_models()) == 1):
        return
    folder = f"./{MODELS_FOLDER}" if here else newest.path.parent
    run = "" if newest.status in ("finished", "elsewhere") else f", its run {newest.status}"
    print_note(f"model {newest.name}, the newest in {folder}{run}")
