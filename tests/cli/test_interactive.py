"""`generate -i`: turns from a pipe and from a terminal, settings that change the sampling, Ctrl-C, the history."""

import codecs
import io
import os
import pty
import re
import select
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli.generating.interactive import _COMMANDS
from attncli.cli.generating.lines import Lines
from attncli.cli.generating.settings import SETTINGS, changed, setting
from attncli.cli.main import run
from attncli.config import SampleConfig
from attncli.errors import UsageProblem
from attncli.generation.sampling import Seen, filtered
from attncli.render.talk import commands_screen, settings_screen
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.forking import ForkedCommand
from tests.support.models import tiny_model
from tests.support.screens import harmless, widest
from tests.support.texts import HOSTILE, story

TOKENIZER = train_tokenizer([story(300)], "bpe", 300)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a random model, written once."""
    folder = tmp_path_factory.mktemp("talk")
    with torch.random.fork_rng():
        model = tiny_model(vocab_size=TOKENIZER.vocab_size, context=64, tied=False)
    write_checkpoint(folder / "checkpoints/m", Checkpoint(model.config, model.state_dict(), TOKENIZER, start_of_text=1))
    return folder


@pytest.fixture
def say(home, monkeypatch, capsys):
    """Returns a function that runs `generate -i` on piped lines and returns its standard output and error."""
    monkeypatch.chdir(home)

    def take(*lines, options=("-n", "12", "-s", "5")):
        piped = io.TextIOWrapper(io.BytesIO(b"".join(f"{line}\n".encode("utf-8", "surrogateescape") for line in lines)))
        monkeypatch.setattr(sys, "stdin", piped)
        code = run(["generate", "-i", *options])
        found = capsys.readouterr()
        assert bool(code) == ("error: " in found.err)  # an error in a pipe shows only in the exit code
        return found

    return take


@pytest.fixture
def alone(home, monkeypatch, capsys):
    """Returns a function that runs `attncli generate` without -i and returns its standard output."""
    monkeypatch.chdir(home)

    def take(prompt, *options):
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        assert run(["generate", prompt, "-n", "12", "-s", "5", *options]) == 0
        return capsys.readouterr().out

    return take


# A pipe


def test_a_line_is_continued_as_by_generate(say, alone):
    found = say("The cat", "The dog")
    assert found.out == alone("The cat") + alone("The dog")
    assert found.err == "seed 5\nseed 5\n"


def test_a_prompt_argument_is_the_first_turn_and_never_a_command(say, alone):
    assert say("The dog", options=("The cat", "-n", "12", "-s", "5")).out == alone("The cat") + alone("The dog")
    assert say(options=("/quit", "-n", "12", "-s", "5")).out == alone("/quit")


def test_an_empty_line_continues_the_text_with_the_next_seed(say, alone):
    first = alone("The cat").removesuffix("\n")
    whole = alone(first, "-s", "6")
    found = say("The cat", "", "/text")
    assert found.out == f"{first}\n{whole.removeprefix(first)}{whole}"
    assert found.err == "seed 5\nseed 6\n"


def test_an_empty_first_line_begins_a_new_text(say, alone):
    assert say("").out == alone("")


def test_again_repeats_the_prompt_with_the_next_seed(say, alone):
    texts = [alone("The cat", "-s", seed) for seed in "567"]
    assert len(set(texts)) == 3
    assert say("The cat", "/again", "/AGAIN").out == "".join(texts)
    assert say("The cat", "/again", "/text").out == texts[0] + texts[1] * 2


def test_again_after_an_empty_line_replaces_only_the_last_continuation(say, alone):
    first = alone("The cat").removesuffix("\n")
    assert say("The cat", "", "/again", "/text").out.endswith(alone(first, "-s", "7"))


def test_add_appends_words_to_the_text(say, alone):
    first = alone("The cat").removesuffix("\n")
    found = say("The cat", "/add and then", "/text").out
    gap = "" if first[-1].isspace() else " "
    assert found.endswith(alone(f"{first}{gap}and then", "-s", "6"))


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("/set temperature 0", ("-t", "0")),
        ("/set -t=0.3", ("-t", "0.3")),
        ("/set Top_K: 1", ("--top-k", "1")),
        ("/set topp 0.1", ("--top-p", "0.1")),
        ("/set min-p .5", ("--min-p", "0.5")),
        ("/set typ 0.2", ("--typical", "0.2")),
        ("/set --repetition-penalty 3", ("--repetition-penalty", "3")),
        ("/set presence-penalty -9", ("--presence-penalty", "-9")),
        ("/set n 3", ("-n", "3")),
        ("/set seed 8", ("-s", "8")),
        ("/seed 8", ("-s", "8")),
        ("/set logit-bias #40=90", ("--logit-bias", "#40=90")),
        ('/set logit-bias "#40=9", "#41=9"', ("--logit-bias", "#40=9", "--logit-bias", "#41=9")),
    ],
)
def test_a_setting_has_the_effect_of_its_option(line, option, say, alone):
    assert alone("The cat", *option) != alone("The cat")
    assert say(line, "The cat").out == alone("The cat", *option)


def test_a_stop_string_ends_a_text_until_it_is_switched_off(say, alone):
    plain = alone("The cat")
    stop = plain[12:14]
    assert "\n" not in stop
    stopped = alone("The cat", "--stop", stop)
    assert len(stopped) < len(plain)
    assert say(f"/set stop {stop}", "The cat", "/set stop off", "The cat").out == stopped + plain


def test_a_mistake_gives_an_error_and_keeps_the_text_and_the_settings(say, alone):
    first = alone("The cat")
    mistakes = [
        "/set temperature -1",
        "/set top 3",
        "/set foo 1",
        "/set top-k 1.5",
        "/set temperature",
        "/wat",
        "/s",
        "/",
    ]
    mistakes += ["/seed x", "/set min-p nan", "/save", "/save .", "/save no/where", '/set stop "a', "/set 7", "/add"]
    mistakes += ["The cat " * 100, "\udcff", "/set logit-bias The cat=1"]
    for mistake in mistakes:
        found = say("The cat", mistake, "/text", "/set")
        errors = found.err.removeprefix("seed 5\n").splitlines()
        assert errors[0].startswith("error: "), mistake
        assert len(errors) <= 2
        assert found.out.startswith(first * 2)
        assert "temperature         1.0" in found.out
    assert say("/again").err.startswith("error: There is no text yet.")
    for line, meant in (
        ("/temperature 0", "It is a setting: /set temperature VALUE. /help lists"),
        ("/temprature 0", "Did you mean /set temperature VALUE? /help lists"),
        ("/set temprature 0", "Did you mean temperature? /set alone lists"),
        ("/hepl", "Did you mean /help? /help lists"),
        ("/", "\n  /help lists"),
    ):
        assert meant in say(line).err, line


def test_settings_are_listed_with_their_values(say):
    found = say("/set temperature 0.25", '/set stop "\\n\\n", "x"', "/set logit-bias #40=-inf", "/set")
    assert found.err == 'temperature 0.25\nstop "\\n\\n" "x"\n' + f"logit-bias {TOKENIZER.decode([40])}=-inf\n"
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in found.out.splitlines())
    assert list(rows) == [name.replace("_", "-") for name in SETTINGS]
    assert rows["temperature"] == "0.25"
    assert rows["top-k"] == "0 (off)"
    assert rows["stop"] == '"\\n\\n" "x"'


def test_help_names_every_command_and_quit_ends_the_session(say):
    found = say("/help", "/quit", "The cat")
    assert {name for name in _COMMANDS if f"/{name}" in found.out} == set(_COMMANDS)
    assert "The cat" not in found.out


def test_a_double_slash_begins_a_text_with_a_slash(say, alone):
    assert say("//quit").out == alone("/quit")


def test_a_text_is_saved_without_replacing_another_file(say, alone, home):
    other = home / "other.txt"
    other.write_text("mine")
    found = say("The cat", "/save new.txt", "/again", "/save new.txt", "/save other.txt")
    assert (home / "new.txt").read_bytes().decode() == alone("The cat", "-s", "6").removesuffix("\n")
    assert other.read_text() == "mine"
    assert "error: other.txt exists." in found.err
    (home / "new.txt").unlink()
    other.unlink()


def test_a_text_past_the_context_continues_from_its_end(say):
    found = say("The cat", *[""] * 7, "/text")
    assert "past the context: went on from the most recent 32 tokens" in found.err
    assert "error" not in found.err
    assert len(TOKENIZER.encode(found.out.splitlines()[-1])) > 64 or "\n" in found.out.rstrip("\n")


def test_log_probabilities_are_shown_in_every_turn(say):
    found = say("The cat", "/again", options=("-n", "3", "-s", "5", "--logprobs", "1"))
    assert found.out.count("log p") == 2


@pytest.mark.parametrize("option", [("--json",), ("--verify",), ("--num-samples", "2")])
def test_options_that_do_not_fit_a_session_are_refused(option, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert run(["generate", "-i", *option]) == 2
    assert "--interactive generates one text at a time" in capsys.readouterr().err


# A terminal


class Terminal:
    """A process with its own terminal. Its output is read up to an expected text."""

    def __init__(self, folder, *options, **environment):
        given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        given |= {"TERM": "xterm", "COLUMNS": "80", "ATTNCLI_NATIVE": "0", **environment}
        self.terminal, child = pty.openpty()
        streams = {"stdin": child, "stdout": child, "stderr": child}
        self.process = ForkedCommand(
            "generate", "-i", *options, folder=folder, environment=given, terminal=True, **streams
        )
        os.close(child)
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character

    def until(self, expected):
        """Returns the output before `expected`. Fails if `expected` is not written."""
        while (at := self.seen.find(expected)) < 0:
            ready, _, _ = select.select([self.terminal], [], [], 60)
            assert ready, self.seen
            try:
                part = os.read(self.terminal, 4096)
            except OSError:
                part = b""  # the process has closed the terminal
            assert part, f"{expected!r} did not come: {self.seen}"
            self.seen += self._decoder.decode(part)
        before, self.seen = self.seen[:at], self.seen[at + len(expected) :]
        return before

    def type(self, text):
        os.write(self.terminal, text.encode())

    def ended(self):
        """Returns the exit code of the process."""
        try:
            while os.read(self.terminal, 4096):
                pass
        except OSError:
            pass
        os.close(self.terminal)
        return self.process.wait()


def test_ctrl_c_stops_a_text_but_not_the_session(home, tmp_path):
    terminal = Terminal(home, "-n", "1000000", "-s", "5", ATTNCLI_CACHE=str(tmp_path))
    assert "/help" in terminal.until("> ")
    terminal.type("The cat\n")
    terminal.until("The cat\r\n")  # the echo of the typed line
    terminal.until("The cat")  # the prompt before its continuation
    terminal.until("a")
    terminal.type("\x03")
    terminal.until("seed 5 · stopped")
    terminal.until("> ")
    terminal.type("/set n 3\n")
    terminal.until("max-new-tokens 3")
    terminal.until("> ")
    terminal.type("The dog\n")
    assert "stopped" not in terminal.until("seed 5")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_ctrl_c_at_the_prompt_gives_a_new_prompt(say, alone, monkeypatch):
    class Pressed(Lines):
        said = iter((KeyboardInterrupt, "The cat", KeyboardInterrupt, "The dog", None))

        def __init__(self):
            self.typed = True

        def next(self):
            line = next(self.said)
            if line is KeyboardInterrupt:
                raise line
            return line

    first, second = alone("The cat"), alone("The dog")
    monkeypatch.setattr("attncli.cli.generating.interactive.Lines", Pressed)
    assert say().out == f"\n{first}\n{second}"


def test_a_session_restores_the_history_of_the_previous_session(home, tmp_path):
    pytest.importorskip("readline")
    for number in (1, 2):
        terminal = Terminal(home, "-n", "2", "-s", "5", ATTNCLI_CACHE=str(tmp_path))
        terminal.until("> ")
        if number == 1:
            terminal.type("/set temperature 0.75\n")
            terminal.until("0.75\r\n")  # the echo of the typed line
        else:
            terminal.type("\x1b[A\x1b[A\x7f\x7f25\n")  # goes up two lines and edits 75 to 25
        terminal.until(f"temperature 0.{75 if number == 1 else 25}")
        terminal.until("> ")
        terminal.type("/quit\n")
        assert terminal.ended() == 0
    history = tmp_path / "history"
    assert history.read_text().splitlines() == [
        "/set temperature 0.75", "/quit", "/set temperature 0.25", "/quit",
    ]  # fmt: skip
    assert history.stat().st_mode & 0o777 == 0o600


def test_the_history_is_bounded(home, tmp_path):
    pytest.importorskip("readline")
    (tmp_path / "history").write_text("".join(f"line {number}\n" for number in range(1500)))
    terminal = Terminal(home, "-n", "2", ATTNCLI_CACHE=str(tmp_path))
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.ended() == 0
    lines = (tmp_path / "history").read_text().splitlines()
    assert len(lines) == 1000
    assert lines[-2:] == ["line 1499", "/quit"]


def test_a_session_works_without_readline_and_without_a_history_file(home, tmp_path):
    (tmp_path / "readline.py").write_text("raise ImportError")
    (tmp_path / "no-folder").write_text("a file")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    for environment in ({"PYTHONPATH": path}, {"ATTNCLI_CACHE": str(tmp_path / "no-folder")}):
        terminal = Terminal(home, "-n", "2", "-s", "5", **environment)
        terminal.until("> ")
        terminal.type("The cat\n")
        terminal.until("seed 5")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0


@pytest.mark.parametrize("readline", [True, False])
def test_several_lines_can_be_one_text(readline, home, tmp_path):
    """The turns are pastes with and without the marks of bracketed paste, lines ending in a backslash, and a block."""
    environment = {"ATTNCLI_CACHE": str(tmp_path)}
    if not readline:
        (tmp_path / "readline.py").write_text("raise ImportError")
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    terminal = Terminal(home, "-n", "1", "-t", "0", **environment)
    start, end = ("\x1b[200~", "\x1b[201~") if readline else ("", "")
    turns = {
        f"{start}The cat\r\tand it \\\r\rThe dog{end}\r": "The cat\n\tand it \\\n\nThe dog",
        f"{start}/set n 2\r/set n 1{end}\r": None,  # if all lines are commands, each line is a turn
        "The cat\rThe dog\r": "The cat\nThe dog",  # without the marks of bracketed paste
        "The cat \\\r": "… ",
        "and\\\r": "… ",
        "The dog\r": "The cat \nand\nThe dog",
        '"""\r': "… ",
        "The \\\r": "… ",
        'cat"""\r': "The \\\ncat",
    }
    terminal.until("> ")
    for number, (typed, meant) in enumerate(turns.items()):
        terminal.type(typed)
        if meant == "… ":
            terminal.until(meant)
            continue
        terminal.until("max-new-tokens 1" if meant is None else "\x1b[1m")
        terminal.until("> ")
        if meant is not None:
            terminal.type(f"/save {tmp_path}/{number}\r")
            terminal.until("written")
            terminal.until("> ")
            assert (tmp_path / str(number)).read_text().startswith(meant)
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_every_line_of_a_pipe_is_a_turn(say, alone):
    assert say("The cat\\", "The dog").out == alone("The cat\\") + alone("The dog")
    assert say('"""The cat').out == alone('"""The cat')


def test_text_of_the_model_is_escaped(home, tmp_path):
    (escape,) = (id_ for id_ in range(TOKENIZER.vocab_size) if TOKENIZER.decode([id_]) == "\x1b")
    terminal = Terminal(home, "-n", "2", "-t", "0", "--logit-bias", f"#{escape}=900", ATTNCLI_CACHE=str(tmp_path))
    terminal.until("> ")
    terminal.type("The cat\n")
    terminal.until("\x1b[1mThe cat\x1b[0m␛␛\r\n")  # the prompt in bold
    terminal.until("> ")
    terminal.type("/text\n")
    terminal.until("The cat␛␛")
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.ended() == 0


# Names and values


@pytest.mark.parametrize("name", SETTINGS)
def test_every_spelling_of_a_setting_is_accepted(name):
    assert {setting(word) for word in (name, name.upper(), f"--{name.replace('_', '-')}", name.replace("_", ""))} == {
        name
    }
    config = SampleConfig(temperature=0.5, top_k=3, stop=("x",), seed=4)
    assert changed(config, f"{name} default", TOKENIZER) == (
        name, replace(config, **{name: getattr(SampleConfig(), name)}),
    )  # fmt: skip


@pytest.mark.parametrize("word", ["off", "none", "OFF"])
def test_a_setting_that_is_off_has_no_effect(word):
    config = SampleConfig(
        temperature=1.0, top_k=2, top_p=0.5, min_p=0.1, typical=0.5, repetition_penalty=1.5, presence_penalty=1.0,
        logit_bias=((3, 1.0),), stop=("x",),
    )  # fmt: skip
    for name in [name for name, option in SETTINGS.items() if option.off is not None]:
        config = changed(config, f"{name} {word}", TOKENIZER)[1]
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(filtered(logits, config, Seen.of([[1], [2], [3]], 20)), logits)
    assert config.stop == ()


@given(st.text(max_size=30))
def test_any_text_is_a_valid_setting_or_an_error(text):
    try:
        name, config = changed(SampleConfig(), text, TOKENIZER)
    except UsageProblem as problem:
        assert problem.message
    else:
        assert name in SETTINGS
        assert isinstance(config, SampleConfig)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_lists_fit_their_width_and_escape_hostile_text(width):
    config = SampleConfig(stop=(HOSTILE, "x" * 99), logit_bias=((3, -float("inf")), (4, 1.5)))
    for drawn in (settings_screen(config, lambda id_: HOSTILE, width), commands_screen(_COMMANDS, width)):
        assert harmless(drawn.plain)
        assert widest(drawn.plain) <= width
