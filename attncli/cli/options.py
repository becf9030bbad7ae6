"""Makes Typer's arguments and options from the parameters of a command; each field of a config becomes an option.

    def generate(*, prompt: str | None = argument(None, "The prompt."), sampling: SampleConfig) -> None: ...

`for_typer(generate)` returns a function whose signature Typer reads: PROMPT, then --temperature, --top-k and the other
fields of SampleConfig. The returned function builds the configs, which check their values, and calls `generate`. The
fields and parameters describe their options as in attncli/config/option.py. A parameter of type `Given` receives the
options that were given on the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from attncli.cli.completing import one_of
from attncli.cli.help import MORE, Rare
from attncli.config.option import REQUIRED, Option, option_of, options_of
from attncli.errors import AttnError, Naming, UsageProblem

_CONTEXT = "typer_context"


class Given(dict[str, str]):
    """The options that were given: maps the name of a field or parameter to its option as typed, such as --no-cache."""

    def refuse(self, names: Iterable[str], why: str) -> None:
        """Raises UsageProblem if an option of these fields or parameters was given; `why` begins the message."""
        for name in names:
            if name in self:
                raise UsageProblem(f"{why}, so {self[name]} cannot be given.", f"Leave {self[name]} out.")


@dataclass(frozen=True)
class _Setting:
    """An argument or option of a command, made from a field of a config or from a parameter."""

    name: str
    kind: Any  # the type of the field or parameter
    default: Any
    option: Option

    @property
    def repeated(self) -> bool:
        """Whether the option may be given several times."""
        return get_origin(self.kind) is tuple

    @property
    def value_type(self) -> Any:
        """The type of one value: int for `int`, `int | None` and `tuple[int, ...]`; str for any other generic type."""
        kinds = get_args(self.kind) if get_origin(self.kind) in (Union, UnionType, tuple) else (self.kind,)
        kind = next(kind for kind in kinds if kind is not NoneType)
        return kind if isinstance(kind, type) else str

    @property
    def switched(self) -> bool:
        """Whether the option has a name for on and a name for off, such as --compile and --no-compile."""
        return self.value_type is bool and "/" in max(self.names, key=len)

    @property
    def names(self) -> tuple[str, ...]:
        """The declared names of the option. If none is declared, the name is made from the name of the field."""
        name = option_name(self.name)
        has_negative = self.value_type is bool and self.default is not False
        return self.option.names or (f"{name}/--no-{name.removeprefix('--')}" if has_negative else name,)

    @property
    def called(self) -> str:
        """The name of the argument or option in an error message: --no-NAME for a switch that is on by default."""
        if self.option.positional:
            return self.option.metavar or self.name.upper()
        positive, _, negative = max(self.names, key=len).partition("/")
        return negative if negative and self.default else positive

    def parameter(self) -> inspect.Parameter:
        """Returns the parameter from which Typer makes the argument or option."""
        default = None if self.repeated or self.switched or self.option.unset else self.default
        kind = GenericAlias(list, (self.value_type,)) if self.repeated or self.switched else self.value_type
        declared = self._argument() if self.option.positional else self._option(default)
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is REQUIRED else default,
            annotation=Annotated[kind | None if default is None else kind, declared],
        )

    def _argument(self) -> Any:
        metavar, completion = self.option.metavar or None, self._completion()
        return typer.Argument(metavar=metavar, help=self.option.help, show_default=False, autocompletion=completion)

    def _option(self, default: Any) -> Any:
        option, form = self.option, self.option.format
        panel = Rare(option.panel or MORE) if option.rare else option.panel or None
        shown = default is not None and (form.show(default) if form else True)
        if self.switched and self.default is True:
            shown = max(self.names, key=len).partition("/")[0].lstrip("-")
        return typer.Option(
            *self.names,
            help=option.help,
            metavar=option.metavar or "|".join(option.choices) or (form.metavar if form else None),
            parser=_parser(form.parse) if form else None,
            show_default=shown,
            rich_help_panel=panel,
            autocompletion=self._completion(),
        )

    def _completion(self) -> Callable[[str], Any] | None:
        values = self.option.choices or self.option.suggestions
        return values if callable(values) else one_of(values) if values else None

    def value(self, given: Any) -> Any:
        """Converts `given`, the value from Typer, to the value of the field or parameter.

        Raises UsageProblem if an option and its opposite are both given.
        """
        if self.repeated:
            return tuple(given or ())
        if self.switched:
            if given and len(set(given)) > 1:
                both = " and ".join(max(self.names, key=len).split("/"))
                raise UsageProblem(f"{both} exclude each other.", "Give one of them.")
            return given[-1] if given else self.default
        return self.option.unset() if given is None and self.option.unset else given


def _parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Returns a parser for Typer that applies `parse` to text and leaves a default unchanged.

    The parser turns a ValueError into a BadParameter, to which Typer adds the name of the option.
    """

    def parsed(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except ValueError as problem:
            raise typer.BadParameter(str(problem)) from None

    return parsed


@dataclass(frozen=True)
class _Part:
    """A parameter of a command. `build` makes the value of the parameter from the values of its settings."""

    settings: list[_Setting]
    build: Callable[[Mapping[str, Any]], Any]


def _part(name: str, kind: Any, default: Any) -> _Part:
    if is_dataclass(kind):
        config: Any = kind
        settings = _settings(config)
        return _Part(settings, lambda values: config(**{one.name: values[one.name] for one in settings}))
    option = option_of(default)
    assert option is not None, f"{name} is neither an option nor a config"
    setting = _Setting(name, kind, default.default, option)

    def checked(values: Mapping[str, Any]) -> Any:
        value = values[name]
        if value is not None:
            option.check(name, value)
        return value

    return _Part([setting], checked)


@lru_cache
def _settings(config: Any) -> list[_Setting]:
    """Returns the settings of a config, in the order of its fields."""
    hints, options = get_type_hints(config), options_of(config)
    return [
        _Setting(field.name, hints[field.name], field.default, options[field.name])
        for field in fields(config)
        if field.name in options
    ]


def option_name(field: str) -> str:
    """Returns the default option name of a field: 'batch_size' -> '--batch-size'."""
    return f"--{field.strip('_').replace('_', '-')}"


def option_names(config: type) -> Naming:
    """Returns a function that maps a field of a config to the name of its option: 'seconds' -> '--time'."""
    called = {setting.name: setting.called for setting in _settings(config)}
    return called.__getitem__


def for_typer(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a function whose signature Typer reads. The function builds the configs and calls `command`."""
    parameters, hints = inspect.signature(command).parameters, get_type_hints(command)
    parts = {
        name: _part(name, hints[name], parameters[name].default) for name in parameters if hints[name] is not Given
    }
    settings = {setting.name: setting for part in parts.values() for setting in part.settings}

    def called(**values: Any) -> None:
        context = values.pop(_CONTEXT)
        with _naming_options(settings, f"See {context.command_path} --help"):
            typed = {name: setting.value(values[name]) for name, setting in settings.items()}
            built = {name: part.build(typed) for name, part in parts.items()}
        with _naming_options(settings):
            command(**built, **{name: _given(context) for name in parameters.keys() - parts.keys()})

    context = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    signature = inspect.Signature([context, *(setting.parameter() for setting in settings.values())])
    function: Any = called
    function.__name__, function.__signature__ = command.__name__, signature
    function.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return called


@contextmanager
def _naming_options(settings: Mapping[str, _Setting], hint: str = "") -> Iterator[None]:
    """Replaces fields by option names in an error that the block raises. Adds `hint` if the error has no hint."""
    try:
        yield
    except AttnError as problem:
        problem.spell(lambda name: settings[name].called if name in settings else option_name(name))
        problem.hint = problem.hint or hint
        raise


def _given(context: typer.Context) -> Given:
    found = Given()
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is not None and source.name == "COMMANDLINE" and param.param_type_name == "option":
            value = context.params[param.name]
            off = False in value if isinstance(value, list | tuple) else value is False
            found[param.name] = max((off and param.secondary_opts) or param.opts, key=len)
    return found
