"""The help pages at several widths, the hints of parser errors, and the completion of values."""

import re

import pytest
from typer.main import get_command

from attncli.cli.help import EVERYTHING, Rare
from attncli.cli.main import app, run
from attncli.config import SIZES
from attncli.views import NAMED_VIEWS

COMMANDS = get_command(app).commands


@pytest.fixture
def told(monkeypatch, capsys):
    """Returns a function that runs a command line at a width in columns and returns its standard output."""

    def take(*words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run(list(words)) == 0
        return capsys.readouterr().out

    return take


def options(name, common_only):
    return [
        param
        for param in COMMANDS[name].params
        if param.param_type_name == "option"
        and not param.hidden
        and not (common_only and isinstance(param.rich_help_panel, Rare))
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_help_all_shows_every_option(name, told):
    short, long = told(name, "--help"), told(name, EVERYTHING)
    assert len(short.splitlines()) <= 40
    for page, common_only in ((short, True), (long, False)):
        listed = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", page))
        assert {option for param in options(name, common_only) for option in param.opts} <= listed
        assert page.count(f"\n  attncli {name}") == 2  # the examples
        assert max(map(len, page.splitlines())) <= 80
        assert all(len(line) <= 76 for line in page.splitlines() if line.startswith("  attncli "))
    rare = len(options(name, False)) - len(options(name, True))
    assert (f"attncli {name} --help-all shows {rare} more option" in short) == bool(rare)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_a_value_exactly_for_options_that_take_one(name, told):
    rows = re.findall(r"^  ((?:--?\w[\w-]*, )*--\S+)(?: (\S+))?(?:  |$)", told(name, EVERYTHING), re.MULTILINE)
    takes = {opts.split(", ")[-1].split("/")[0]: bool(value) for opts, value in rows}
    assert takes.pop("--help") is False
    assert takes == {max(param.opts, key=len): not param.is_flag for param in options(name, False)}


@pytest.mark.parametrize("name", ["generate", "train", "explain"])
def test_help_truncates_no_name_on_a_narrow_screen(name, told):
    page = told(name, EVERYTHING, columns=40)
    assert page.count(f"\n  attncli {name} ") == 2  # the examples, each on a line of its own
    names = [option for param in options(name, False) for option in param.opts]
    assert len(names) > 20
    assert [option for option in names if option not in page] == []
    assert max(map(len, page.splitlines())) <= 40


def test_help_has_no_colors_without_a_terminal(told, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    plain = told("explain", "-h")
    monkeypatch.setenv("FORCE_COLOR", "1")
    colored = told("explain", "-h")
    assert "\x1b[" not in plain
    assert [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", colored).splitlines()] == plain.splitlines()


def test_help_is_also_a_command(told):
    assert told("help", "train") == told("train", "--help")
    assert told("help", "train", EVERYTHING) == told("train", EVERYTHING)
    assert told("help") == told("help", "help") == told("--help") == told("-h")
    assert "attncli help COMMAND" in told("help")
    assert run(["help", "trian"]) == 2


def test_the_version_has_a_short_option(told):
    assert told("-V") == told("--version")


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("explain --html", "--html needs a value: FILE.", ""),
        ("explain x --weights", "--weights needs a value: norm|raw.", ""),
        ("generate x -n", "-n needs a value: a whole number.", ""),
        ("generate x -t", "-t needs a value: a number.", ""),
        ("train x.txt --plan=yes", "--plan takes no value.", ""),
        ("explain x --json yes", "--json takes no value, but 'yes' follows it.", "Leave 'yes' out. "),
        ("explain x --viw map", "There is no option --viw.", "Did you mean --view? "),
        ("generate x --temp 1", "There is no option --temp.", "Did you mean --temperature? "),
        ("generate x --help-al", "There is no option --help-al.", "Did you mean --help-all? "),
        ("generate x --plan", "There is no option --plan.", "It is an option of train. "),
        ("explain x -q", "There is no option -q.", ""),
        ("generate x -temperature 1", "-temperature has one dash.", "Did you mean --temperature? "),
        (
            "explain -- x -token",
            "There are more arguments than attncli explain takes: -token",
            "Put a text of several words in quotes. ",
        ),
        ("explain x --layer y", "--layer 'y' is not a whole number.", ""),
        ("explain x --layer=y", "--layer 'y' is not a whole number.", ""),
        ("generate x -ty", "--temperature 'y' is not a number.", ""),
        ("explain x --generate -1", "--generate is -1, and must be a whole number of at least 0.", ""),
        ("next x -k 0", "--top-k is 0, and must be a whole number of at least 1.", ""),
        ("next x --top-k=0", "--top-k is 0, and must be a whole number of at least 1.", ""),
        ("train --steps many", "--steps 'many' is not a whole number such as 500, 25.6k or 1M.", ""),
        ("train --time soon", "--time 'soon' is not a time such as 90s, 5m or 1h.", ""),
        ("neighbors", "WORD is missing.", "Usage: attncli neighbors [OPTIONS] WORD. "),
        ("analogy man king", "C is missing.", "Usage: attncli analogy [OPTIONS] A B C. "),
        (
            "generate Once upon a",
            "There are more arguments than attncli generate takes: upon a",
            "Put a text of several words in quotes. ",
        ),
        ("models all", "There are more arguments than attncli models takes: all", "Leave them out. "),
        ("--frobnicate", "There is no option --frobnicate.", ""),
        ("--preset gpt2 info", "There is no option --preset.", "It is an option of info, after the command. "),
        ("explian x", "No such command 'explian'.", ""),
    ],
)
def test_an_error_of_the_parser_suggests_a_correction_and_names_the_help_page(line, message, hint, capsys):
    assert run(line.split()) == 2
    told, below = capsys.readouterr().err.splitlines()
    command = next((f"attncli {word}" for word in line.split()[:1] if word in COMMANDS), "attncli")
    assert told.startswith(f"error: {message}")
    assert below == f"  {hint}See {command} --help"


# Completion


@pytest.fixture
def completed(monkeypatch, capsys):
    """Returns the values that a shell offers for the last word of a command line."""

    def take(*words, shell="bash"):
        monkeypatch.setenv("_ATTNCLI_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(words))
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        with pytest.raises(SystemExit) as ended:
            run([])
        found = capsys.readouterr()
        assert (ended.value.code, found.err) == (0, "")
        if shell == "zsh":
            return re.findall(r'^(?:_arguments .*\(\()?"([^"]*)"', found.out, re.MULTILINE)
        return [line.split("\t")[0] for line in found.out.splitlines() if line]

    return take


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("explain --view", list(NAMED_VIEWS)),
        ("explain text --view g", ["grid"]),
        ("explain --weights", ["norm", "raw"]),
        ("train --size", list(SIZES)),
        ("train a.txt --tokenizer b", ["bpe", "byte"]),
        ("train --optimizer", ["muon", "adamw"]),
        ("train --dtype", ["auto", "float32", "bfloat16"]),
        ("train --save-dtype f", ["float32"]),
        ("generate --dtype i", ["int8"]),
        ("generate --device c", ["cpu", "cuda"]),
        ("info --preset gpt2-", ["gpt2-xl"]),
        ("ablate --with z", ["zero"]),
        ("neighbors --among", ["vocabulary", "text"]),
        ("plot --x t", ["tokens", "time"]),
        ("plot --y", ["loss", "bits"]),
        ("generate -m mi", ["mine"]),
        ("info mi", ["mine"]),
        ("train --from mi", ["mine"]),
        ("explain --html", []),  # then the shell completes file names
        ("train", []),
        ("generate --temperature", []),
        ("help tr", ["train"]),
        ("he", ["heads", "help"]),
        ("--version he", ["heads", "help"]),
    ],
)
def test_a_shell_completes_values(words, values, shell, completed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints/mine").mkdir(parents=True)
    (tmp_path / "checkpoints/mine/config.json").write_text("{}")
    line = ["attncli", *words.split()]
    whole = line[-1].startswith("-") or words == "train"  # an option followed by a space
    assert completed(*line, *([""] if whole else []), shell=shell) == values


def test_a_broken_folder_of_models_completes_without_an_error(completed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints"
    for name, config in (("good", "{}"), ("broken", "{"), ("$(odd) name", "{}"), ("list", "[]")):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(config)
    (folder / "a-link").symlink_to("nowhere")
    (folder / "a-file").write_text("")
    assert completed("attncli", "generate", "-m", "") == ["good"]
    monkeypatch.setattr("attncli.checkpoint.catalog.known_models", lambda: (folder / "a-file").iterdir())
    assert completed("attncli", "generate", "-m", "") == []
