"""Builds a dataclass from JSON that was made with `dataclasses.asdict`. Checks all types, also in nested records.

The type of each JSON value must match the annotation of its field; an error names the field that does not match. Errors
from `__post_init__` of the dataclass are reported in the same form. This module reads no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from attncli.config import shown_value
from attncli.errors import BadCheckpoint, UsageProblem

_INTEGERS = 1 << 63  # a signed 64-bit integer is at least -_INTEGERS and below _INTEGERS
_AGAIN = "It was changed, or another version wrote it. Copy it again, or train again."
Record = TypeVar("Record")
_types: dict[type, dict[str, Any]] = {}


def types_of(kind: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields by their names. They are kept: to evaluate them takes a millisecond."""
    if kind not in _types:
        _types[kind] = get_type_hints(kind)
    return _types[kind]


def record_from_json(kind: type[Record], value: object, where: str, extra: bool = False) -> Record:
    """Returns the dataclass `kind` with the values of a JSON object.

    Raises BadCheckpoint for a value that is missing, has the wrong type, or exceeds a limit of the dataclass. Without
    `extra`, an unknown key is an error too; with `extra`, it is ignored. The error names the field; `where` names the
    JSON object.
    """
    if not isinstance(value, dict):
        raise _misfit(where, value, "an object")
    types = types_of(kind)
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for name in value.keys() - known.keys() if not extra else ():
        raise BadCheckpoint(f"{where} holds {shown_value(name)}, which is no known field.", _AGAIN)
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise BadCheckpoint(f"{where} lacks {name}.", _AGAIN)
    values = {name: checked(types[name], value[name], f"{where}: {name}") for name in known if name in value}
    try:
        return kind(**values)
    except UsageProblem as problem:
        raise BadCheckpoint(f"{where}: {problem.message}", _AGAIN) from None


def checked(kind: Any, value: object, where: str) -> Any:
    """Returns a JSON value in the type that `kind` requires: [1, 2] -> (1, 2) for a tuple. Raises BadCheckpoint."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (kind,) = (option for option in arguments if option is not NoneType)
        return checked(kind, value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _misfit(where, value, " or ".join(map(repr, arguments)))
        return value
    if origin in (tuple, list):
        return _sequence(origin, arguments, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _misfit(where, value, "an object")
        return {name: checked(arguments[1], one, f"{where}: {shown_value(name)}") for name, one in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return record_from_json(kind, value, where)
    return _plain(kind, value, where)


def _sequence(kind: Any, arguments: tuple[Any, ...], value: object, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _misfit(where, value, "a list")
    if kind is tuple and arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise _misfit(where, value, f"a list of {len(arguments)}")
    repeated = kind is list or arguments[-1] is Ellipsis
    return kind(
        checked(arguments[0 if repeated else at], one, f"{where}, number {at + 1}") for at, one in enumerate(value)
    )


def _plain(kind: Any, value: object, where: str) -> object:
    """Returns a JSON value of type `kind`: bool, 64-bit int, finite float or str. Raises BadCheckpoint for others."""
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if -_INTEGERS <= value < _INTEGERS or (isinstance(value, float) and math.isfinite(value)):
            return float(value)
        raise _misfit(where, value, "a finite number")
    if kind is int and type(value) is int and not -_INTEGERS <= value < _INTEGERS:
        raise _misfit(where, value, "an integer of 64 bits")
    if type(value) is not kind:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise _misfit(where, value, names[kind])
    return value


def _misfit(where: str, value: object, rule: str) -> BadCheckpoint:
    return BadCheckpoint(f"{where} is {shown_value(value)}, and must be {rule}.", _AGAIN)
