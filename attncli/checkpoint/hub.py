"""Downloads models from the Hugging Face hub into the hub's own cache; skips files that attncli does not need.

The library `huggingface_hub` downloads the files and respects HF_HUB_OFFLINE, HF_HOME and HF_TOKEN. It is imported when
a model of the hub is first requested. Its exceptions are converted to errors that tell a user what to do. If the hub
cannot be reached, a model that is complete in the cache is used. No torch.
"""

from __future__ import annotations

import errno
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attncli.checkpoint.atomic import present
from attncli.checkpoint.catalog import MODELS_FOLDER
from attncli.checkpoint.directory import (
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION,
    INDEX,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    read_json,
    shards,
)
from attncli.errors import BadCheckpoint, OutOfRoom, UsageProblem
from attncli.paths import exists, is_file
from attncli.text.sentence_pieces import SOURCE, TARGET, VOCABULARY

NEWEST = "main"
Progress = Callable[[int, int], None]  # bytes received, bytes in total

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
_CLIENTS = (
    "huggingface_hub",
    "httpx",
    "httpx2",
    "httpcore",
    "requests",
    "urllib3",
)  # the modules that raise connection errors


def is_of_hub(name: str) -> bool:
    """Whether a name means a model of the hub: it has the form owner/name, and no local file or model has this name."""
    if _NAME.fullmatch(name) is None or exists(name) or present(MODELS_FOLDER / name) is not None:
        return False
    return present(Path(name)) is None and name.split("/")[0] != MODELS_FOLDER.name


def fetch(name: str, revision: str | None, weights: bool, progress: Progress) -> Path:
    """Downloads the files that are missing in the hub's cache, and returns the model's directory in the cache.

    If `weights` is False, downloads only the config and the tokenizer. If the hub cannot be reached, uses the cache.

    Raises:
        BadCheckpoint: for a model or revision that is missing, not readable, incomplete, or not reachable.
        OutOfRoom: if the cache cannot be written.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    be_quiet: Callable[[], None] = logging.set_verbosity_error
    be_quiet()
    revision = revision or NEWEST
    try:
        if constants.HF_HUB_OFFLINE:
            return _cached(name, revision, weights, "HF_HUB_OFFLINE is set")
        return _downloaded(name, revision, weights, progress)
    except Exception as problem:
        _raise_refusal(name, revision, problem)
        reason = _unreachable(problem)
        if reason is None:
            raise
        return _cached(name, revision, weights, reason)


def _raise_refusal(name: str, revision: str, problem: Exception) -> None:
    """Raises an error for a problem that the cache cannot solve, such as a missing model or permission, or a full disk.

    Does nothing for any other problem.
    """
    from huggingface_hub import constants, errors

    if isinstance(problem, errors.GatedRepoError):
        raise BadCheckpoint(
            f"{name} is gated: it can be downloaded after you accept its terms.",
            f"Accept the terms at {constants.ENDPOINT}/{name}, and set HF_TOKEN to your token.",
        ) from None
    if isinstance(problem, errors.RevisionNotFoundError):
        raise BadCheckpoint.naming(
            lambda named: (
                f"{name} has no revision {revision!r}.",
                f"Give one of its branches, tags or commits, or leave out {named('revision')}.",
            )
        ) from None
    if isinstance(problem, errors.RepositoryNotFoundError):
        raise BadCheckpoint(
            f"There is no model {name!r}: no such directory, and none on the hub that you can read.",
            "Check the name; a private model needs HF_TOKEN.",
        ) from None
    if isinstance(problem, errors.HFValidationError | UnicodeError):
        raise UsageProblem(
            f"{name} at {revision!r} is not a valid model name of the hub.", "Give it as owner/name."
        ) from None
    if isinstance(problem, OSError) and problem.errno in _UNWRITABLE and not isinstance(problem, errors.HfHubHTTPError):
        raise OutOfRoom(
            f"{name} cannot be stored in {constants.HF_HUB_CACHE}: {problem.strerror}.",
            "Free some space, or set HF_HOME to another place.",
        ) from None


def _unreachable(problem: Exception) -> str | None:
    """Returns the reason why the hub cannot be reached, or None if the exception is not a connection error."""
    from huggingface_hub import constants, errors

    if isinstance(problem, _ForeignAnswer):
        return f"what answers at {constants.ENDPOINT} is not the hub"
    if isinstance(problem, errors.HfHubHTTPError):
        return f"the hub answers {getattr(problem.response, 'status_code', 'an error')}"
    if isinstance(problem, OSError):
        return "the hub cannot be reached"
    if isinstance(problem, BadCheckpoint) or type(problem).__module__.partition(".")[0] not in _CLIENTS:
        return None
    return "the hub cannot be reached"


class _ForeignAnswer(Exception):
    """An answer that is not from the hub but, for example, from the login page of a network or from a broken mirror."""


@contextmanager
def _answers() -> Iterator[None]:
    """Converts the library's exceptions for an answer that it cannot parse to _ForeignAnswer."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, errors.HFValidationError, UnicodeEncodeError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as problem:
        if type(problem).__module__.partition(".")[0] in _CLIENTS:
            raise
        raise _ForeignAnswer from None


def _cached(name: str, revision: str, weights: bool, why: str) -> Path:
    """Returns the model's directory in the cache. Raises BadCheckpoint if the directory is missing or incomplete.

    `why` is the reason why only the cache is used, for the error.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, CONFIG, revision=revision)
    if isinstance(found, str):
        folder = Path(found).parent
        names = _names(folder)
        expected = names | {CONFIG} | _tokenizer_files(names) | (set() if INDEX in names else {WEIGHTS})
        if not (lacking := _needed(name, expected, weights, folder) - names):
            return folder
        raise BadCheckpoint(
            f"{name} is in the hub's cache without its {sorted(lacking)[0]}, and {why}.", "Try again with a connection."
        )
    raise BadCheckpoint(
        f"{name} is not in the hub's cache, and {why}.",
        "Try again with a connection and without HF_HUB_OFFLINE, or give a directory.",
    )


def _downloaded(name: str, revision: str, weights: bool, progress: Progress) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    with _answers():
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        commit = _COMMIT.fullmatch(info.sha or "")
        sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    if commit is None:
        raise _ForeignAnswer
    folder = _folder_of(try_to_load_from_cache(name, CONFIG, revision=commit[0]))
    counter = _Counter(progress)

    def download(file: str) -> Path:
        given = {"tqdm_class": counter.bar} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}
        with _answers():  # passes the revision's name, so that the cache can resolve the name offline
            path = hf_hub_download(name, file, revision=revision, **given)
        counter.file_is_there(sizes[file])
        return Path(path).parent

    if weights and WEIGHTS not in sizes and INDEX in sizes and not (folder and (folder / INDEX).exists()):
        folder = download(INDEX)
    files = _needed(name, sizes.keys(), weights, folder)
    if folder is not None and files <= _names(folder) and _folder_of(_known(name, revision)) == folder:
        return folder
    if lost := files - sizes.keys():
        raise BadCheckpoint(
            f"{name} names {ascii(sorted(lost)[0])[:80]}, which it does not contain.", "Try another model."
        )
    counter.begin(sum(sizes[file] for file in files))
    folders = {download(file) for file in sorted(files, key=sizes.__getitem__)}
    if len(folders) != 1:
        raise BadCheckpoint(f"{name} was changed on the hub while it was read.", "Try again.")
    return folders.pop()


def _known(name: str, revision: str) -> object:
    from huggingface_hub import try_to_load_from_cache

    return try_to_load_from_cache(name, CONFIG, revision=revision)


def _folder_of(cached: object) -> Path | None:
    """Returns the directory of a cached file, or None if the file is not in the cache."""
    return Path(cached).parent if isinstance(cached, str) else None


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if is_file(path)}


def _tokenizer_files(names: Collection[str]) -> set[str]:
    """Returns the tokenizer's files: Marian's if the repository has them and no tokenizer.json, else tokenizer.json."""
    return {TOKENIZER} if TOKENIZER in names or SOURCE not in names else {SOURCE, TARGET, VOCABULARY}


def _needed(name: str, names: Collection[str], weights: bool, folder: Path | None) -> set[str]:
    """Returns the names of the files that loading a model needs. `names` are all files of the repository.

    If `weights` is False, the weights are not needed. `folder` contains the index of the shards, if there is one.
    Raises BadCheckpoint if a needed file is missing or the weights are stored only as pickles.
    """
    tokenizer = _tokenizer_files(names)
    for file in (CONFIG, *sorted(tokenizer)):
        if file not in names:
            raise BadCheckpoint(f"{name} has no {file}, so it cannot be read.", "Try another model.")
    needed = {CONFIG} | tokenizer | ({GENERATION, TOKENIZER_CONFIG, CHAT_TEMPLATE} & set(names))
    if not weights:
        return needed
    if WEIGHTS in names:
        return needed | {WEIGHTS}
    if INDEX in names and folder is not None:
        return needed | {INDEX} | set(shards(read_json(folder / INDEX), folder / INDEX).values())
    if any(file.endswith(_PICKLES) for file in names):
        raise BadCheckpoint(
            f"{name} has its weights only as pickles, which are never read, because they can run code.",
            "Try another revision or model with model.safetensors.",
        )
    raise BadCheckpoint(f"{name} has no {WEIGHTS}.", "Try another model.")


class _Counter:
    """Counts the bytes of a download, in place of the library's progress bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.begin(0)
        counter = self

        class Bar:
            """The progress bar that the library updates while it downloads a file. Counts bytes and draws nothing."""

            def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
                self.update(initial)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, more: float | None = 1) -> None:
                counter.more(int(more or 0))

            def update_transfer(self, more: float | None = 1) -> None:
                """Does nothing, because bytes are counted when they are written, not when they are received."""

            def __getattr__(self, _: str) -> Callable[..., None]:
                return lambda *_, **__: None

        self.bar: Any = Bar

    def begin(self, total: int) -> None:
        """Starts to count a download of `total` bytes; 0 means an unknown size."""
        self._total = total
        self._complete = 0  # bytes of the complete files
        self._of_this = 0  # bytes of the current file

    def more(self, received: int) -> None:
        """Adds received bytes of the current file."""
        self._of_this += received
        self._progress(self._complete + self._of_this, self._total)

    def file_is_there(self, size: int) -> None:
        """Counts a complete file of `size` bytes, whether it was downloaded now or earlier."""
        self._complete, self._of_this = self._complete + size, 0
        self._progress(self._complete, self._total)
