"""Declares options: a field of a config states the help, names, limit and panel of the option that sets the field.

    top_k: int = option(0, "Sample from the k most probable tokens; 0 is off.", limit=at_least(0), off=0)

is an ordinary dataclass field with the default 0. This line defines the option --top-k with its help, default and panel
(cli/options.py), the setting top-k of `generate -i` (cli/generating/settings.py), and the error for a value that is not
allowed (`check`). A parameter of a command is declared in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from attncli.config.limits import Limit, one_of, plain_number
from attncli.config.values import Format

T = TypeVar("T")
Suggestion = str | tuple[str, str]  # a value that a shell completes, or a value and its meaning
Suggestions = Iterable[Suggestion] | Callable[[str], Iterable[Suggestion]]
REQUIRED: Any = dataclasses.MISSING  # the default of an argument that must be given
_KEY = "option"
_A_TUPLE = Limit("a tuple", lambda value: isinstance(value, tuple))


@dataclass(frozen=True, kw_only=True)
class Option:
    """The description of an option. Its type and its default are those of the field that declares it.

    A field of type `tuple[X, ...]` makes an option that may be given several times. A bool field whose default is True
    or None also gets the option --no-NAME.
    """

    help: str
    names: tuple[str, ...] = ()  # such as ("--temperature", "-t"); if empty, made from the field: top_k -> --top-k
    positional: bool = False  # it is an argument, not an option
    metavar: str = ""  # the placeholder for the value in help
    panel: str = ""  # the heading above the option in --help-all
    rare: bool = False  # shown only by --help-all
    format: Format | None = None  # parses the value; if None, the type of the field does
    choices: tuple[str, ...] = ()  # if not empty, no other values are allowed
    suggestions: Suggestions = ()  # values that a shell completes; others are allowed
    limit: Limit | None = None
    off: Any = None  # the value that switches the setting off
    letter: str = ""  # a short name in `generate -i`, for an option without one
    example: str = ""  # a value to show in error messages; if empty, the default is shown
    unset: Callable[[], Any] | None = None  # returns the value of an option that is not given
    secret: bool = False  # an error does not repeat the value

    def check(self, name: str, value: Any) -> None:
        """Raises UsageProblem for a value that is not allowed; the error names the field, the value and the rule."""
        for limit in (self.limit, one_of(self.choices) if self.choices else None):
            for one in value if isinstance(value, tuple) else (value,):
                if limit is not None:
                    limit.check(name, one, secret=self.secret)


def option(default: T, help: str, *names: str, **more: Any) -> T:
    """Declares a dataclass field or a parameter of a command as an option; `more` sets other fields of `Option`."""
    return dataclasses.field(default=default, metadata={_KEY: Option(help=help, names=names, **more)})


def argument(default: T, help: str, **more: Any) -> T:
    """Declares a parameter of a command as a positional argument; `more` sets other fields of `Option`."""
    return option(default, help, positional=True, **more)


def option_from(config: type, name: str, **changes: Any) -> Any:
    """Returns a copy of the field `name` of `config`, for a command that needs no other field of the config.

    `changes` replace fields of its `Option`.
    """
    return dataclasses.field(
        default=getattr(config, name), metadata={_KEY: dataclasses.replace(options_of(config)[name], **changes)}
    )


def option_of(field: dataclasses.Field[Any]) -> Option | None:
    """Returns the option that a dataclass field declares, or None if the field declares no option."""
    return field.metadata.get(_KEY)


@lru_cache
def options_of(config: type) -> dict[str, Option]:
    """Returns the options of a config by field name, in the order of the fields."""
    found = {field.name: option_of(field) for field in dataclasses.fields(config)}
    return {name: option for name, option in found.items() if option is not None}


def check(config: Any) -> None:
    """Checks each field of a config with its option. Raises UsageProblem for the first value that is not allowed.

    Also converts numbers of other libraries, such as NumPy, to int and float.
    """
    for field in dataclasses.fields(config):
        value = plain_number(getattr(config, field.name))
        object.__setattr__(config, field.name, value)  # the config may be frozen
        option = option_of(field)
        if option is not None and not (value is None and field.default is None):
            if isinstance(field.default, tuple):
                _A_TUPLE.check(field.name, value)
            option.check(field.name, value)
