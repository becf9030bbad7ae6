"""The mistakes a user can fix, and the exit code of each.

Owns the exception types that the command line turns into one or two lines on standard error.
Knows nothing of where they are raised or how they are printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

Naming = Callable[[str], str]  # the name of a field -> what a user calls it, such as top_k -> --top-k


class AttnError(Exception):
    """A problem with a message (what and where) and a hint (what to do next)."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self._text: Callable[[Naming], tuple[str, str]] | None = None

    @classmethod
    def naming(cls, text: Callable[[Naming], tuple[str, str]]) -> Self:
        """An error whose message and hint name settings: `text` is given the function that spells a setting's name."""
        error = cls(*text(str))
        error._text = text
        return error

    def spell(self, naming: Naming) -> None:
        """Names the settings in the message and the hint as another surface does, such as by their options."""
        if self._text is not None:
            self.message, self.hint = self._text(naming)
            self.args = (self.message,)


class UsageProblem(AttnError):
    """An option or argument that cannot be meant as given."""

    exit_code = 2


class BadInput(AttnError):
    """A text that cannot be used."""


class BadCheckpoint(AttnError):
    """A model directory that is missing, foreign, damaged or unsafe."""


class OutOfRoom(AttnError):
    """No disk, no memory, or no permission to write."""

    exit_code = 4


class Diverged(AttnError):
    """Training reached a loss or a gradient that is not a finite number."""

    exit_code = 5


class BrokenInstallation(AttnError):
    """A library that attncli needs cannot be imported."""

    exit_code = 1


class Inexact(AttnError):
    """A text that is not what it is promised to be: a fault of attncli's own, found by its own check."""

    exit_code = 1
