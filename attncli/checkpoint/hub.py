"""Models of the Hugging Face hub: which files of a repository are needed, and having them in the hub's own cache.

Owns what can go wrong on the way, as errors that a user can act on. The work is done by `huggingface_hub`, which is
imported when a model of the hub is asked for and not before; it heeds HF_HUB_OFFLINE, HF_HOME and HF_TOKEN. No torch.
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

NEWEST = "main"
Progress = Callable[[int, int], None]  # bytes there, bytes in all

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_of_hub(name: str) -> bool:
    """Whether a name can only be that of a model of the hub: owner/name, and nothing here is called so."""
    if _NAME.fullmatch(name) is None or exists(name) or present(MODELS_FOLDER / name) is not None:
        return False
    return present(Path(name)) is None and name.split("/")[0] != MODELS_FOLDER.name


def fetch(name: str, revision: str | None, weights: bool, progress: Progress) -> Path:
    """The directory, in the hub's cache, of a model; what is missing there is downloaded.

    Without `weights` only what says of the model what it is, and its tokenizer.

    Raises:
        BadCheckpoint: no such model or revision, one that may not be read, one without what is needed, no connection.
        OutOfRoom: the cache cannot be written.
    """
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    revision = revision or NEWEST
    try:
        if constants.HF_HUB_OFFLINE:
            return _cached(name, revision, weights, "HF_HUB_OFFLINE is set")
        return _downloaded(name, revision, weights, progress)
    except errors.GatedRepoError:
        raise BadCheckpoint(
            f"{name} is gated: its owner gives it to those who accept its terms.",
            f"Accept them at {constants.ENDPOINT}/{name}, and set HF_TOKEN to a token of yours.",
        ) from None
    except errors.RevisionNotFoundError:
        raise BadCheckpoint(
            f"{name} has no revision {revision!r}.", "Give a branch, a tag or a commit of it, or leave --revision out."
        ) from None
    except errors.RepositoryNotFoundError:
        raise BadCheckpoint(
            f"There is no model {name!r}: no such directory, and none on the hub that may be read.",
            "Check the name; a private model needs HF_TOKEN.",
        ) from None
    except (errors.HFValidationError, UnicodeError):
        raise UsageProblem(f"{name} at {revision!r} is not what the hub calls a model.", "Say owner/name.") from None
    except _Nonsense:
        return _cached(name, revision, weights, f"what answers at {constants.ENDPOINT} is not the hub")
    except errors.HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", "an error")
        return _cached(name, revision, weights, f"the hub answers {status}")
    except OSError as problem:
        if problem.errno is not None and problem.errno in (*_NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutOfRoom(
                f"{name} cannot be kept in {constants.HF_HUB_CACHE}: {problem.strerror}.",
                "Free some space, or set HF_HOME to another place.",
            ) from None
        return _cached(name, revision, weights, "the hub cannot be reached")
    except Exception as problem:
        if isinstance(problem, BadCheckpoint) or type(problem).__module__.partition(".")[0] not in _CLIENTS:
            raise
        return _cached(name, revision, weights, "the hub cannot be reached")


class _Nonsense(Exception):
    """An answer that is not one of the hub: a login page of the network, or a broken mirror."""


@contextmanager
def _answers() -> Iterator[None]:
    """Raises _Nonsense where the library fails to make sense of an answer."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, errors.HFValidationError, UnicodeEncodeError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as problem:
        if type(problem).__module__.partition(".")[0] in _CLIENTS:
            raise
        raise _Nonsense from None


_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3")  # of a connection and its ends


def _cached(name: str, revision: str, weights: bool, why: str) -> Path:
    """What an earlier download left. Raises BadCheckpoint, with `why` no new one is possible, when that is not all."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, CONFIG, revision=revision)
    if isinstance(found, str):
        folder = Path(found).parent
        names = _names(folder)
        expected = names | {CONFIG, TOKENIZER} | (set() if INDEX in names else {WEIGHTS})
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
        told = HfApi().model_info(name, revision=revision, files_metadata=True)
        commit = _COMMIT.fullmatch(told.sha or "")
        sizes = {file.rfilename: int(file.size or 0) for file in told.siblings or ()}
    if commit is None:
        raise _Nonsense
    folder = _folder_of(try_to_load_from_cache(name, CONFIG, revision=commit[0]))
    counter = _Counter(progress)

    def download(file: str) -> Path:
        given = {"tqdm_class": counter.bar} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}
        with _answers():  # the revision by its name, which is then known offline too
            path = hf_hub_download(name, file, revision=revision, **given)
        counter.file_is_there(sizes[file])
        return Path(path).parent

    if weights and WEIGHTS not in sizes and INDEX in sizes and not (folder and (folder / INDEX).exists()):
        folder = download(INDEX)
    files = _needed(name, sizes.keys(), weights, folder)
    if folder is not None and files <= _names(folder) and _folder_of(_known(name, revision)) == folder:
        return folder
    if lost := files - sizes.keys():
        raise BadCheckpoint(f"{name} names {ascii(sorted(lost)[0])[:80]} and does not hold it.", "Try another model.")
    counter.begin(sum(sizes[file] for file in files))
    folders = {download(file) for file in sorted(files, key=sizes.__getitem__)}
    if len(folders) != 1:
        raise BadCheckpoint(f"{name} was changed on the hub while it was read.", "Try again.")
    return folders.pop()


def _known(name: str, revision: str) -> object:
    from huggingface_hub import try_to_load_from_cache

    return try_to_load_from_cache(name, CONFIG, revision=revision)


def _folder_of(cached: object) -> Path | None:
    """The directory of a file that is in the cache."""
    return Path(cached).parent if isinstance(cached, str) else None


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if is_file(path)}


def _needed(name: str, names: Collection[str], weights: bool, folder: Path | None) -> set[str]:
    """Which files of a repository are needed, of those it has; the index of shards, if any, lies in `folder`.

    Raises BadCheckpoint when it cannot be read here, whatever is downloaded.
    """
    for file in (CONFIG, TOKENIZER):
        if file not in names:
            raise BadCheckpoint(f"{name} has no {file}, without which it cannot be read.", "Try another model.")
    needed = {CONFIG, TOKENIZER} | ({GENERATION, TOKENIZER_CONFIG, CHAT_TEMPLATE} & set(names))
    if not weights:
        return needed
    if WEIGHTS in names:
        return needed | {WEIGHTS}
    if INDEX in names and folder is not None:
        return needed | {INDEX} | set(shards(read_json(folder / INDEX), folder / INDEX).values())
    if any(file.endswith(_PICKLES) for file in names):
        raise BadCheckpoint(
            f"{name} has its weights only as pickles, which can run code and so are never read.",
            "Try another revision or model: one with model.safetensors.",
        )
    raise BadCheckpoint(f"{name} has no {WEIGHTS}.", "Try another model.")


class _Counter:
    """Adds up the bytes of a download, in place of the library's own bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.begin(0)
        counter = self

        class Bar:
            """What the library tells of one file; of its bar only the count matters."""

            def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
                self.update(initial)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, more: float | None = 1) -> None:
                counter.more(int(more or 0))

            def update_transfer(self, more: float | None = 1) -> None:
                """Bytes on their way, which are counted when they are written."""

            def __getattr__(self, _: str) -> Callable[..., None]:
                return lambda *_, **__: None

        self.bar: Any = Bar

    def begin(self, total: int) -> None:
        """A download of so many bytes begins, or of an unknown number, which is 0."""
        self._total = total
        self._there = 0  # of files that are complete
        self._of_this = 0  # of the one that is not

    def more(self, received: int) -> None:
        """So many bytes of a file have come."""
        self._of_this += received
        self._progress(self._there + self._of_this, self._total)

    def file_is_there(self, size: int) -> None:
        """A file is complete, downloaded now or before."""
        self._there, self._of_this = self._there + size, 0
        self._progress(self._there, self._total)
