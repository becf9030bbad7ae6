"""Where attncli keeps a user's models, and what it can make again: tokens of texts, C compiled, what was typed.

Also who else could change what is kept there.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """ATTNCLI_CACHE, else attncli/ in the user's cache folder. Raises RuntimeError for a user without a home."""
    if os.environ.get("ATTNCLI_CACHE"):
        return Path(os.environ["ATTNCLI_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "attncli"


def models_folder() -> Path | None:
    """Where a user keeps models for every working directory; None for a user without a home. It need not be there.

    ATTNCLI_MODELS, else attncli/models/ in the user's data folder.
    """
    if os.environ.get("ATTNCLI_MODELS"):
        return Path(os.environ["ATTNCLI_MODELS"])
    try:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return Path(base) / "attncli" / "models"


def make_private(folder: Path) -> None:
    """Makes a folder, and those above it, where there is none: open to its owner alone. Raises OSError."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def exposed(folder: Path) -> Path | None:
    """Returns the first of a folder and its parents that another user can change, or None where nobody else can.

    Each must be a directory, not a link, of root or this user. Others may write to a parent that is sticky, like /tmp:
    they cannot replace there what is not theirs. Raises OSError where one cannot be looked at.
    """
    for place in (folder, *folder.parents):
        found = place.lstat()
        sticky = place != folder and found.st_mode & stat.S_ISVTX
        if not stat.S_ISDIR(found.st_mode) or not (only_ours(found) or (sticky and _is_owner(found))):
            return place
    return None


def only_ours(found: os.stat_result) -> bool:
    """Whether root or this user owns what was found, and nobody else can write to it."""
    writable = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private(found.st_gid))
    return _is_owner(found) and not writable


def _is_owner(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())


def _is_private(group: int) -> bool:
    """Whether a group is this user's own, with no other member, as where the umask is 002."""
    import grp
    import pwd

    with suppress(KeyError):
        user, listed = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        return group == user.pw_gid and listed.gr_name == user.pw_name and set(listed.gr_mem) <= {user.pw_name}
    return False
