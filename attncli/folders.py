"""Where attncli keeps what it can make again, tokenized text and its C source compiled, and what was typed."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """ATTNCLI_CACHE, else attncli/ in the user's cache folder. Raises RuntimeError for a user without a home."""
    if os.environ.get("ATTNCLI_CACHE"):
        return Path(os.environ["ATTNCLI_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "attncli"
