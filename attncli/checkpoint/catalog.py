"""Finds models by name and lists them: the models in ./checkpoints, in the user's folder, and the shipped models.

One of the shipped models is the default if there is no other model. The others are used only by their names, also in a
copy of the repository, whose ./checkpoints contains them.

Listing a model reads its config.json and run.json. Of a GGUF file it reads the first bytes alone, since the header of
a file takes a second to read if the vocabulary is large. Unreadable directories and files are skipped. No torch, so
that `attncli models` starts fast.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attncli.checkpoint.atomic import model_name_of, present
from attncli.checkpoint.directory import ADAPTER_CONFIG, CONFIG, RUN, TRAIN_FIRST, WEIGHTS, file_status, read_json
from attncli.checkpoint.gguf.layout import MAGIC
from attncli.checkpoint.lock import is_held
from attncli.errors import BadCheckpoint
from attncli.folders import models_folder
from attncli.paths import is_file, is_folder, look, open_regular, real, unreadable

MODELS_FOLDER = Path("checkpoints")
GGUF = ".gguf"  # the end of the name of a model in one file
DEFAULT = "stories"  # the shipped model that is used if there is no other model
SHIPPED = (DEFAULT, "translate")  # the models that ship with attncli
_HERE = Path(__file__).resolve().parent.parent
_SHIPPED_FOLDERS = (_HERE / MODELS_FOLDER, _HERE.parent / MODELS_FOLDER)  # in an installed package; in a checkout


@dataclass(frozen=True)
class ModelEntry:
    """A model directory or a GGUF file as `attncli models` lists it.

    `path` is the directory that is read: the previous save if a crash left the model's directory missing. `run` is the
    content of run.json; it is empty if attncli did not train the model. `config` is empty for a GGUF file.
    """

    name: str
    path: Path
    bytes: int
    modified: float  # seconds since the epoch
    status: str
    config: dict[str, Any]
    run: dict[str, Any]


def find_model(name: str | None) -> Path:
    """Returns the directory or the GGUF file of a model by its name, which may also be a path.

    Searches the path itself, ./checkpoints, the user's folder and the shipped models, in this order. Without a name,
    uses the name in ATTNCLI_MODEL. If ATTNCLI_MODEL is not set, returns the newest model of the first place that has a
    model; among the shipped models, the default.

    Raises BadCheckpoint if no model has this name. The error lists the existing models.
    """
    name = name or os.environ.get("ATTNCLI_MODEL") or None
    if name is None:
        return _default_model()
    found, problem = _look_up(name)
    if found is not None:
        return found
    if is_file(name):
        raise BadCheckpoint(
            f"{name} is a file; a model is a directory with {CONFIG} and {WEIGHTS}, or a file that ends in {GGUF}.",
            "Give the directory.",
        )
    if problem is not None:
        raise problem
    if (shipped := shipped_model(name)) is not None:
        return shipped
    known = ", ".join(entry.name for entry in known_models())
    folder = models_folder()
    users_folder = f" or {folder}" if folder is not None and is_folder(folder) else ""
    raise BadCheckpoint(
        f"There is no model {name!r}: no such directory, and none of this name in ./{MODELS_FOLDER}{users_folder}.",
        f"There is: {known}." if known else TRAIN_FIRST,
    )


def _default_model() -> Path:
    if (newest := newest_model()) is not None:
        return newest.path
    if (shipped := shipped_model()) is not None:
        return shipped
    raise BadCheckpoint(f"There is no model in ./{MODELS_FOLDER} yet.", TRAIN_FIRST)


def _look_up(name: str) -> tuple[Path | None, BadCheckpoint | None]:
    """Returns the directory or GGUF file of this name, and the error of a folder that cannot be searched.

    Each may be None. A directory with a config has precedence over one without, because a folder of text may have the
    name of a model.
    """
    found, problem, users = None, None, models_folder()
    for folder in (Path(), MODELS_FOLDER, *(() if users is None else (users,))):
        if _is_gguf(folder / name):
            return folder / name, None
        try:
            place = present(folder / name)
            if place is not None and is_model(place):
                return place, None
            found = found or place
        except BadCheckpoint as unknown:
            problem = problem or (None if folder is users else unknown)
    return found, problem


def find_adapter(name: str) -> Path:
    """Returns the directory of an adapter by its name, which may also be a path; searches as `find_model` does.

    Raises BadCheckpoint if no adapter has this name.
    """
    users = models_folder()
    found = None
    for folder in (Path(), MODELS_FOLDER, *(() if users is None else (users,))):
        place = present(folder / name)
        if place is not None and file_status(place / ADAPTER_CONFIG) is not None:
            return place
        found = found or place
    if found is not None:
        raise BadCheckpoint(
            f"{found} is no adapter: it holds no {ADAPTER_CONFIG}.", "Give the directory of an adapter."
        )
    raise BadCheckpoint(f"There is no adapter {name!r}: no such directory.", "Give the directory of an adapter.")


def _is_gguf(path: Path) -> bool:
    """Whether a path is a file whose name ends as those of GGUF files do."""
    return path.name.lower().endswith(GGUF) and is_file(path)


def is_model(path: Path) -> bool:
    """Whether a directory contains a config. Raises BadCheckpoint if the directory cannot be read."""
    return file_status(path / CONFIG) is not None


def shipped_model(name: str = DEFAULT) -> Path | None:
    """Returns the directory of a model that ships with attncli, or None if none of this name is installed."""
    if name not in SHIPPED:
        return None
    return next((folder / name for folder in _SHIPPED_FOLDERS if is_file(folder / name / CONFIG)), None)


def is_never_default(entry: ModelEntry) -> bool:
    """Whether a model is used only by its name: a shipped model other than the default.

    If the package was installed from a copy of the repository, the package and the copy each contain the model. Such a
    copy is recognized by its config and its training run.
    """
    shipped = shipped_model(entry.name)
    if entry.name == DEFAULT or shipped is None:
        return False
    if real(entry.path) == real(shipped):
        return True
    installed = _entry(shipped.parent, entry.name)
    return installed is not None and (entry.config, entry.run) == (installed.config, installed.run)


def newest_model() -> ModelEntry | None:
    """Returns the newest model in ./checkpoints. If there is none, returns the newest model in the user's folder.

    Leaves out the models that are used only by their names.
    """
    here = [entry for entry in list_models() if not is_never_default(entry)]
    return max(here or _users_models(), key=lambda entry: entry.modified, default=None)


def known_models() -> list[ModelEntry]:
    """Returns the models in ./checkpoints, the models in the user's folder, and the shipped models.

    If several models have the same name, returns only the first, in this order.
    """
    entries = {entry.name: entry for entry in list_models()}
    for entry in _users_models():
        entries.setdefault(entry.name, entry)
    for name in SHIPPED:
        shipped = shipped_model(name)
        if name not in entries and shipped is not None and (found := _entry(shipped.parent, name)) is not None:
            entries[name] = found
    return list(entries.values())


def _users_models() -> list[ModelEntry]:
    """Returns the models in the user's folder.

    Returns an empty list if the folder cannot be read, for example in another user's home.
    """
    folder = models_folder()
    with suppress(BadCheckpoint):
        return [] if folder is None else list_models(folder)
    return []


def list_models(folder: Path = MODELS_FOLDER, kind: str = CONFIG) -> list[ModelEntry]:
    """Returns the models in `folder` that have a readable config, the file `kind`, and GGUF files, sorted by name.

    Includes models that have only a previous save. Raises BadCheckpoint if `folder` cannot be read.
    """
    status = file_status(folder)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return []
    try:
        names = {model_name_of(path) for path in folder.iterdir()}
    except OSError as problem:
        raise unreadable(folder, problem) from None
    entries = (_entry(folder, name, kind) for name in sorted(names) if not name.startswith("."))
    return [entry for entry in entries if entry is not None]


def stopped_runs() -> list[ModelEntry]:
    """Returns the runs in ./checkpoints that can be resumed, of models and of adapters."""
    runs = (*list_models(), *list_models(kind=ADAPTER_CONFIG))
    return [entry for entry in runs if entry.status in ("stopped", "interrupted")]


def _entry(folder: Path, name: str, kind: str = CONFIG) -> ModelEntry | None:
    """Returns the entry of the model with this name, or None if there is no readable model."""
    try:
        if _is_gguf(folder / name):
            return _gguf_entry(folder / name) if kind == CONFIG else None
        path = present(folder / name)
        if path is None or file_status(path / kind) is None:
            return None
        config = read_json(path / kind)
        run = read_json(path / RUN) if file_status(path / RUN) is not None else {}
        statuses = [status for file in path.rglob("*") if (status := look(file, follow=False)) is not None]
        size = sum(status.st_size for status in statuses if stat.S_ISREG(status.st_mode))
        modified = (path / kind).stat().st_mtime
        return ModelEntry(name, path, size, modified, status_of(folder / name, run), config, run)
    except (BadCheckpoint, OSError):
        return None


def _gguf_entry(path: Path) -> ModelEntry | None:
    """Returns the entry of a GGUF file; None for a file that does not begin as one. Raises OSError."""
    with open_regular(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        status = os.fstat(file.fileno())
    return ModelEntry(path.name, path, status.st_size, status.st_mtime, status_of(path, {}), {}, {})


def status_of(path: Path, run: dict[str, Any]) -> str:
    """Returns the status of a model's run: 'running', 'stopped', 'finished', 'interrupted' or 'elsewhere'.

    'interrupted' means that the run crashed. 'elsewhere' means that attncli did not train the model.
    """
    status = str(run.get("status", "elsewhere"))
    return "interrupted" if status == "running" and not is_held(path) else status
