"""Commands for Typer: fields of configs become options, values are checked, and errors name the option."""

import inspect
import re
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Literal, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from attncli.cli import main
from attncli.cli.options import Given, for_typer
from attncli.config.limits import Limit, at_least
from attncli.config.option import REQUIRED, argument, check, option, options_of
from attncli.config.values import COUNT, SECONDS
from attncli.errors import UsageProblem


@dataclass(frozen=True, kw_only=True)
class Oven:
    """A config with an option of every kind."""

    degrees: int = option(200, "How hot.", "--degrees", "-d", limit=at_least(1))
    seconds: float = option(60.0, "How long.", "--time", format=SECONDS)
    eggs: int | None = option(None, "How many.", format=COUNT)
    fan: bool = option(True, "Blow.")
    light: bool | None = option(None, "Shine.", "--light/--dark")
    quiet: bool = option(False, "No bell.")
    rack: Literal["low", "high"] = option("low", "Where.", choices=("low", "high"))
    herbs: tuple[str, ...] = option((), "Which.", limit=Limit("at least a", "a".__le__))
    draws: int = option(0, "Unset: drawn.", unset=lambda: 7)
    secret: int = 5

    def __post_init__(self):
        check(self)
        if self.quiet and self.light:
            raise UsageProblem.naming(lambda name: (f"{name('quiet')} and {name('light')} exclude one another.", ""))


@pytest.fixture
def baked():
    """Returns a function that runs a command line and returns the arguments of the command, or raises its error."""
    found = []

    def bake(
        *,
        dish: str = argument(REQUIRED, "What."),
        oven: Oven,
        count: int = option(1, "How often.", limit=at_least(1)),
        given: Given,
    ) -> None:
        found.append((dish, oven, count, dict(given)))

    app = typer.Typer()
    app.command()(for_typer(bake))

    def run(line):
        done = CliRunner().invoke(app, line.split())
        if isinstance(done.exception, UsageProblem):
            raise done.exception
        assert done.exit_code == 0, done.output
        return found.pop()

    return run


def test_the_defaults_of_options_are_the_defaults_of_the_config(baked):
    assert baked("cake") == ("cake", Oven(draws=7), 1, {})


def test_every_kind_of_option_sets_its_field(baked):
    line = "cake -d 180 --time 5m --eggs 1k --no-fan --dark --quiet --rack high --herbs a --herbs b --draws 3 --count 2"
    oven = Oven(
        degrees=180,
        seconds=300.0,
        eggs=1000,
        fan=False,
        light=False,
        quiet=True,
        rack="high",
        herbs=("a", "b"),
        draws=3,
    )
    dish, found, count, given = baked(line)
    assert (dish, found, count) == ("cake", oven, 2)
    assert given == {
        "degrees": "--degrees", "seconds": "--time", "eggs": "--eggs", "fan": "--no-fan", "light": "--dark",
        "quiet": "--quiet", "rack": "--rack", "herbs": "--herbs", "draws": "--draws", "count": "--count",
    }  # fmt: skip


def test_a_switch_and_its_opposite_exclude_each_other(baked):
    for line in ("cake --light --dark", "cake --dark --light"):
        with pytest.raises(UsageProblem, match=r"^--light and --dark exclude each other"):
            baked(line)
    assert baked("cake --dark --dark")[1].light is False
    with pytest.raises(UsageProblem, match=r"^--fan and --no-fan exclude each other"):
        baked("cake --no-fan --fan")
    assert baked("cake --fan --fan")[1].fan is True


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cake -d 0", "--degrees is 0, and must be a whole number of at least 1."),
        ("cake --rack top", "--rack is 'top', and must be low or high."),
        ("cake --count 0", "--count is 0, and must be a whole number of at least 1."),
        ("cake --herbs b --herbs A", "--herbs is 'A', and must be at least a."),
        ("cake --quiet --light", "--quiet and --light exclude one another."),
    ],
)
def test_an_error_of_the_command_line_names_the_option(baked, line, message):
    with pytest.raises(UsageProblem) as caught:
        baked(line)
    assert caught.value.message == message
    assert caught.value.hint.endswith(" --help")


def test_an_error_of_a_config_names_the_field():
    for value in (0, "hot", None):
        with pytest.raises(UsageProblem, match=f"^degrees is {value!r}, and must be a whole number of at least 1"):
            Oven(degrees=value)
    with pytest.raises(UsageProblem, match=r"^quiet and light exclude"):
        Oven(quiet=True, light=True)
    assert Oven(eggs=None).eggs is None


def test_a_given_option_can_be_refused():
    with pytest.raises(UsageProblem, match=r"^All is set, so --no-fan cannot be given"):
        Given(fan="--no-fan").refuse(["degrees", "fan"], "All is set")
    Given(fan="--no-fan").refuse(["degrees"], "All is set")


def test_every_config_with_a_limit_checks_itself():
    """The command line builds a config and relies on the config to check its values."""
    hints = [get_type_hints(command) for listed in main._COMMANDS.values() for command in listed]
    configs = {kind for hint in hints for kind in hint.values() if is_dataclass(kind)}
    limited = {kind for kind in configs if any(one.limit or one.choices for one in options_of(kind).values())}
    assert len(limited) > 3
    assert [kind for kind in limited if "check(self)" not in inspect.getsource(kind)] == []


def test_no_command_has_more_than_twelve_parameters():
    commands = [command for listed in main._COMMANDS.values() for command in listed]
    assert {command.__name__ for command in commands if len(inspect.signature(command).parameters) > 12} == set()
    for file in Path(main.__file__).parent.rglob("*.py"):
        assert not re.search("noqa: E501|fmt: (off|skip)", file.read_text()), file
