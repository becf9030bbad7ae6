"""Prints the first help page and the help page of each command, and adds Typer's context to a parser error.

--help shows the common options, --help-all shows every option. An option declared with `rare=True` is in a panel whose
title has the type `Rare`, and only --help-all shows such a panel.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from attncli.render.help import HelpRow, Sections

HELP_OPTIONS = ["-h", "--help", "--help-all"]
EVERYTHING = "--help-all"
_HELP: HelpRow = ("-h, --help", "", "Show this page and exit.")
# The class UsageError of click, found by its name, because Typer contains a copy of click since version 0.27.
USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
_NUMBERS = {"int": "N", "float": "X"}
_WHICH_MODEL = (
    "-m MODEL is a directory, a file that ends in .gguf, a name in ./checkpoints or ATTNCLI_MODELS, or owner/name on "
    "the Hugging Face hub. "
    "Unset: the model that ATTNCLI_MODEL names, else the newest in ./checkpoints or ATTNCLI_MODELS, else the model "
    "that comes with attncli."
)


class Rare(str):
    """The title of a panel whose options only --help-all shows."""


MORE = Rare("More options")


class Command(TyperCommand):
    """A command with two help pages: --help shows the common options, --help-all every option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, and records whether --help-all is among them."""
        ctx.meta[EVERYTHING] = EVERYTHING in args
        return _parsed(super().parse_args, ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the help page: with --help-all all options, else the common ones."""
        from attncli.render.console import output
        from attncli.render.help import show_page

        everything = ctx.meta.get(EVERYTHING, False)
        params = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        rare = [param for param in params if isinstance(_panel(param), Rare)]
        sections = _sections(params if everything else [param for param in params if param not in rare], everything)
        closing = []
        if rare and not everything:
            closing = [f"{ctx.command_path} {EVERYTHING} shows {len(rare)} more option{'s' if len(rare) > 1 else ''}."]
        if everything and any("--model" in param.opts for param in params):
            closing = [_WHICH_MODEL]
        show_page(output(), self.help or "", sections, closing, usage(ctx, params))


class FirstPage(TyperGroup):
    """The first help page: the commands in the order in which a newcomer needs them, then the options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, and treats 'help train' as 'train --help'."""
        if args[:1] == ["help"]:
            args = [*(word for word in args if word != "help"), "--help"]
        return _parsed(super().parse_args, ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Returns the commands that begin with the typed text, `help` included."""
        found = super().shell_complete(ctx, incomplete)
        return [*found, *(type(item)("help") for item in found[:1])] if "help".startswith(incomplete) else found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the first page: the commands by panel, then the options."""
        from attncli.render.console import output
        from attncli.render.help import show_page

        sections: dict[str, list[HelpRow]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            does = re.split("[,;:]", command.get_short_help_str(200))[0].removesuffix(".")
            sections.setdefault(command.rich_help_panel, []).append((name, "", f"{does}."))
        show_page(output(), self.help or "", {**sections, **_sections(self.get_params(ctx), False)}, self.closing(ctx))

    def closing(self, ctx: Any) -> list[str]:
        """Returns the remarks at the end of the page."""
        return [_WHICH_MODEL, "attncli COMMAND --help, or attncli help COMMAND, explains a command, with examples."]


class GroupPage(FirstPage):
    """The help page of a group of commands: its commands, then the options."""

    def closing(self, ctx: Any) -> list[str]:
        """Returns the remark at the end of the page."""
        return [f"{ctx.command_path} COMMAND --help explains a command, with examples."]


def _parsed(parse: Callable[[Any, list[str]], list[str]], ctx: Any, args: list[str]) -> list[str]:
    """Returns the result of `parse(ctx, args)`.

    If `parse` raises a usage error, adds the context and the arguments to the error.
    """
    words = list(args)
    try:
        return parse(ctx, args)
    except USAGE_ERROR as problem:
        problem.ctx, problem.words = problem.ctx or ctx, words
        raise


def _sections(params: list[Any], by_panel: bool) -> Sections:
    """Returns the sections of a page: arguments, then options.

    With `by_panel`, each panel of options is a section, and MORE is the last section.
    """
    sections: dict[str, list[HelpRow]] = {"Arguments": [], "Options": []}
    for param in params:
        if param.param_type_name == "argument":
            sections["Arguments"].append((argument_name(param), "", _help(param)))
        else:
            sections.setdefault((by_panel and _panel(param)) or "Options", []).append(_option(param))
    if MORE in sections:
        sections[MORE] = sections.pop(MORE)
    return {title: entries for title, entries in sections.items() if entries}


def _panel(param: Any) -> str | None:
    return getattr(param, "rich_help_panel", None)


def _option(param: Any) -> HelpRow:
    if "--help" in param.opts:
        return _HELP
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names = f"{names}/{', '.join(param.secondary_opts)}"
    return names, "" if param.is_flag else value_name(param), _help(param)


def value_name(param: Any) -> str:
    """Returns the placeholder for a value in the help.

    This is the declared placeholder, else 'N' for an integer, 'X' for a float, or the option's name in capitals.
    """
    if param.metavar:
        return str(param.metavar)
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None) or getattr(param, "type", None)
    kind = str(getattr(annotation, "__name__", None) or getattr(annotation, "name", ""))
    number = next((number for name, number in _NUMBERS.items() if kind.startswith(name)), None)
    return number or max(param.opts, key=len).lstrip("-").upper()


def argument_name(param: Any) -> str:
    """Returns the name of an argument in the usage line."""
    return str(param.metavar or param.name.upper())


def usage(ctx: Any, params: list[Any]) -> str:
    """Returns the usage line of a command: 'attncli explain [OPTIONS] [TEXT]'."""
    words = [_usage_of(param) for param in params if param.param_type_name == "argument"]
    return " ".join([ctx.command_path, "[OPTIONS]", *words])


def _usage_of(param: Any) -> str:
    """Returns an argument for the usage line: 'TEXT'; '[TEXT]' if optional; '[FILE]...' if it may be repeated."""
    name = argument_name(param)
    name = name if param.required or name.startswith("[") else f"[{name}]"
    return f"{name}..." if param.nargs == -1 else name


def _help(param: Any) -> str:
    """Returns the help text of a parameter, followed by its default unless the default is hidden."""
    default = param.show_default if isinstance(param.show_default, str) else _default(param)
    return f"{param.help or ''} [default: {default}]".strip() if default else param.help or ""


def _default(param: Any) -> str:
    if not param.show_default or param.default is None or param.default is False or callable(param.default):
        return ""
    return max(param.opts, key=len).lstrip("-") if param.default is True else str(param.default)


def docstring(command: Callable[..., object]) -> str:
    """Returns the docstring of a command. Under `python -OO`, which drops docstrings, reads it from the source."""
    if command.__doc__:
        return inspect.getdoc(command) or ""
    import ast

    (function,) = ast.parse(inspect.getsource(command)).body
    return ast.get_docstring(function) or "" if isinstance(function, ast.FunctionDef) else ""
