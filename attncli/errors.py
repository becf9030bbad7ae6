"""The errors that a user can fix, and the exit code of each.

The command line prints such an error in one or two lines on standard error. This module does not know where the errors
are raised or how they are printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Self

Naming = Callable[[str], str]  # spells the name of a field for a reader: top_k -> --top-k

# The messages of out-of-memory errors that PyTorch and Python raise as RuntimeError.
_NO_MEMORY = re.compile("out of memory|can't allocate memory|can't start new thread|bad_alloc", re.IGNORECASE)
COPY_AGAIN = "Copy it again from its source."  # the hint for a damaged file


def lacks_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory has run out."""
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError) and _NO_MEMORY.search(str(problem)) is not None
    )


def hint_in(naming: Naming, command: str, call: str) -> str:
    """Returns the hint `command` for a user of the command line, or the hint `call` for a user of the Python library.

    The command line passes a `naming` that spells options: 'name' -> '--name'. The library's `naming` changes nothing.
    """
    return call if naming("name") == "name" else command


class AttnError(Exception):
    """An error that a user can fix, with a message (what and where) and a hint (what to do next)."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self._text: Callable[[Naming], tuple[str, str]] | None = None

    @classmethod
    def naming(cls, text: Callable[[Naming], tuple[str, str]]) -> Self:
        """Returns an error whose message and hint name settings.

        `text` returns the message and the hint. Its argument is a function that spells the name of a setting.
        """
        error = cls(*text(str))
        error._text = text
        return error

    def texts(self, naming: Naming) -> tuple[str, str]:
        """Returns the message and the hint. The function `naming` spells the name of each setting in them."""
        return (self.message, self.hint) if self._text is None else self._text(naming)

    def spell(self, naming: Naming) -> None:
        """Rewrites the message and the hint so that `naming` spells the names of settings, for example as options.

        Only the first call has an effect: the handler nearest to the error knows which names the user typed.
        """
        self.message, self.hint = self.texts(naming)
        self._text = None
        self.args = (self.message,)


class UsageProblem(AttnError):
    """An option or argument that is wrong, or that cannot be combined with another one."""

    exit_code = 2


class BadInput(AttnError):
    """A text that cannot be used."""


class BadCheckpoint(AttnError):
    """A model directory that is missing, damaged or unsafe, or that attncli does not support."""


class OutOfRoom(AttnError):
    """The disk is full, memory or file descriptors have run out, or a path cannot be written."""

    exit_code = 4


class Diverged(AttnError):
    """Training reached a loss or a gradient that is not a finite number."""

    exit_code = 5


class BrokenInstallation(AttnError):
    """A library that attncli needs cannot be imported."""

    exit_code = 1


class Inexact(AttnError):
    """A check found different texts or logits where attncli promises equal ones. This is a bug of attncli."""

    exit_code = 1
