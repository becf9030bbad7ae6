"""Turns an error of Typer's parser into a message that says what is wrong and suggests a correction.

The kind of an error is the name of its class, which is the same in all versions of Typer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise, takewhile
from typing import Any

from attncli.cli.help import argument_name, usage, value_name
from attncli.errors import UsageProblem

_SHORTEST_BEGINNING = 4  # characters, including dashes, of an abbreviated option
_MOST_COMMANDS = 4


def usage_problem(problem: Any) -> UsageProblem:
    """Returns the UsageProblem for a parser error. Its hint ends with the command line that shows the help."""
    context, words = getattr(problem, "ctx", None), getattr(problem, "words", ())
    if context is None:
        return UsageProblem(problem.format_message(), "See attncli --help")
    options = _options(context.command.get_params(context))
    message, hint = _told(problem, context, options, words)
    dashed = (word for word in takewhile("--".__ne__, words) if word[:1] == "-" != word[1:2])
    one_dash = next((word for word in dashed if f"-{word.partition('=')[0]}" in options), None)
    if one_dash is not None:
        message, hint = f"{one_dash} has one dash.", f"Did you mean -{one_dash}?"
    return UsageProblem(message, f"{hint} See {context.command_path} --help".strip())


def _told(problem: Any, context: Any, options: dict[str, Any], words: Sequence[str]) -> tuple[str, str]:
    """Returns the message and the hint for a parser error, without the reference to the help."""
    kind, message = type(problem).__name__, problem.format_message()
    if kind == "NoSuchOption":
        return f"There is no option {problem.option_name}.", _meant(problem.option_name, context, options)
    if kind == "BadOptionUsage" and (param := options.get(problem.option_name)) is not None:
        value = {"N": "a whole number", "X": "a number"}.get(value_name(param), value_name(param))
        return f"{problem.option_name} {'takes no value' if param.is_flag else f'needs a value: {value}'}.", ""
    if kind == "MissingParameter" and problem.param is not None:
        name = argument_name(problem.param)
        return f"{name} is missing.", f"Usage: {usage(context, context.command.get_params(context))}."
    if kind == "BadParameter" and problem.param is not None:
        return _bad_value(problem.param, problem.message, words), ""
    if extra := re.search(r"extra arguments?(?:\(s\))? \((.*)\)", message):
        return _extra(extra[1], context, options, words)
    return message, ""


def _options(params: Sequence[Any]) -> dict[str, Any]:
    """Returns a map from every option name to the parameter of the option."""
    named = [param for param in params if param.param_type_name == "option"]
    return {name: param for param in named for name in (*param.opts, *param.secondary_opts)}


def _meant(name: str, context: Any, options: dict[str, Any]) -> str:
    """Returns a hint for an unknown option.

    Suggests the option of this command that begins with `name`, else the commands that have this option, else the most
    similar option of this command.
    """
    begun = [option for option in options if len(name) >= _SHORTEST_BEGINNING and option.startswith(name)]
    if begun:
        return f"Did you mean {begun[0]}?"
    commands: dict[str, Any] = getattr(context.find_root().command, "commands", {})
    having = [called for called, command in commands.items() if name in _options(command.params)]
    if having:
        listed = ", ".join(having[:_MOST_COMMANDS]) + (" and others" if len(having) > _MOST_COMMANDS else "")
        return f"It is an option of {listed}{', after the command' if context.parent is None else ''}."
    close = get_close_matches(name, options, 1)
    return f"Did you mean {close[0]}?" if close else ""


def _bad_value(param: Any, message: str, words: Sequence[str]) -> str:
    """Returns the message for an invalid value: '--layer 'x' is not a whole number.'"""
    is_option = param.param_type_name == "option"
    name = max(param.opts, key=len) if is_option else argument_name(param)
    given = _given(param.opts, words) if is_option else None
    value = "" if given is None else f" {given!r}"
    for word, thing in (("integer", "a whole number"), ("number", "a number"), ("float", "a number")):
        if f"valid {word}" in message:
            return f"{name}{value} is not {thing}."
    return f"{name} {message}" if message.startswith(("'", '"')) else f"{name}: {message}"


def _given(names: Sequence[str], words: Sequence[str]) -> str | None:
    """Returns the value of an option in `words`: '--name value', '--name=value', '-nvalue' -> 'value'. Else None."""
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word in names:
            return after
        if (name := word.partition("=")[0]) in names:
            return word.removeprefix(f"{name}=")
        if word[:2] in names and word[1:2] != "-":
            return word[2:]
    return None


def _extra(extra: str, context: Any, options: dict[str, Any], words: Sequence[str]) -> tuple[str, str]:
    """Returns the message and the hint for an argument `extra` that the command does not take."""
    flags = [flag for flag, after in pairwise(words) if after == extra and flag in options]
    if flags and options[flags[0]].is_flag:
        return f"{flags[0]} takes no value, but {extra!r} follows it.", f"Leave {extra!r} out."
    arguments = [param for param in context.command.params if param.param_type_name == "argument"]
    hint = "Put a text of several words in quotes." if arguments else "Leave them out."
    return f"There are more arguments than {context.command_path} takes: {extra}", hint
