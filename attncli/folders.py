"""The cache folder and the models folder of a user, and whether another user could change a folder.

The cache holds tokenized texts, the compiled network and the history of `generate -i`.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder that ATTNCLI_CACHE names, by default attncli/ in the user's cache folder.

    Raises RuntimeError if the user has no home folder.
    """
    if os.environ.get("ATTNCLI_CACHE"):
        return Path(os.environ["ATTNCLI_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "attncli"


def models_folder() -> Path | None:
    """Returns the folder that ATTNCLI_MODELS names, by default attncli/models/ in the user's data folder.

    The models in this folder are found from every working directory. The folder may be missing. Returns None for a user
    without a home folder.
    """
    if os.environ.get("ATTNCLI_MODELS"):
        return Path(os.environ["ATTNCLI_MODELS"])
    try:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return Path(base) / "attncli" / "models"


def make_private(folder: Path) -> None:
    """Creates a folder and its parents with access for the owner alone, unless they exist. Raises OSError."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def exposed(folder: Path) -> Path | None:
    """Returns the first directory that another user can change; None if the folder and all its parents are safe.

    A directory is safe if root or this user owns it and nobody else can write to it. A parent to which others can write
    is also safe if it is sticky, like /tmp, because in a sticky directory nobody can replace a file of another user. A
    link is never safe. Raises OSError if a directory cannot be examined.
    """
    for place in (folder, *folder.parents):
        status = place.lstat()
        sticky = place != folder and status.st_mode & stat.S_ISVTX
        if not stat.S_ISDIR(status.st_mode) or not (only_ours(status) or (sticky and _is_owner(status))):
            return place
    return None


def only_ours(status: os.stat_result) -> bool:
    """Whether root or this user owns a file or folder, and nobody else can write to it."""
    writable = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid))
    return _is_owner(status) and not writable


def _is_owner(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _is_private(group: int) -> bool:
    """Whether this user is the only member of a group. Systems with a umask of 002 make such a group for each user."""
    import grp
    import pwd

    with suppress(KeyError):
        user, listed = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        return group == user.pw_gid and listed.gr_name == user.pw_name and set(listed.gr_mem) <= {user.pw_name}
    return False
