"""`attncli generate --interactive`: reads prompts and commands, and generates a text for each prompt.

Each line is a prompt or a command such as /set. Ctrl-C stops the current text without ending the session.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import typer

from attncli.cli.generating.lines import Lines
from attncli.cli.generating.prompts import Turn
from attncli.cli.generating.session import Session
from attncli.cli.generating.settings import changed, nearest, setting, spelled
from attncli.cli.options import option_name
from attncli.cli.outputs import refuse_files, write_file
from attncli.cli.truncation import refuse_long, truncated
from attncli.errors import AttnError, UsageProblem
from attncli.generation.engine import last_that_fit, refuse_unreadable
from attncli.generation.events import Finished, Text
from attncli.render.console import output, print_error, print_note, show
from attncli.render.generation import GenerationScreen
from attncli.render.talk import TalkKind, commands_screen, setting_line, settings_screen
from attncli.text.tokenizer import checked_text

_LARGEST_SEED = 2**63
_COMMANDS = {
    "set": ("NAME VALUE", "change a setting, such as temperature 0.7; /set alone lists all settings"),
    "seed": ("N", "set the seed of the next text"),
    "again": ("", "generate the last text again, with the next seed"),
    "new": ("", "start a new text; with --chat a new conversation"),
    "add": ("WORDS", "append WORDS to the text so far, and continue"),
    "text": ("", "print the text so far; also /prompt"),
    "save": ("FILE", "write the text so far to a file"),
    "help": ("", "print this list"),
    "quit": ("", "end the session; also Ctrl-D"),
}
_OTHER_NAMES = {"prompt": "text", "exit": "quit", "?": "help"}


def talk(session: Session, prompt: str | None) -> None:
    """Continues `prompt`, if there is one; then reads and runs lines until /quit or the end of the input.

    If the lines came from a pipe, raises typer.Exit with the exit code of the last error.
    """
    code = 0
    talked = Talk(session)
    lines = Lines()
    if advice := session.format.advice:
        print_note(advice)
    if lines.typed:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C discards the line
        print_note(f"{session.loaded.name} · /help lists the commands; Ctrl-C stops a text, Ctrl-D ends the session")
    talked.stoppable = lines.typed
    going_on = True
    first = prompt
    while going_on:
        try:
            if first is not None:
                text, first = first, None
                talked.begin(text)
            line = lines.next()
            going_on = line is not None and all(talked.take(turn) for turn in _turns(line))
        except KeyboardInterrupt:
            if not lines.typed:
                raise
            sys.stdout.write("\n")
        except AttnError as problem:
            problem.spell(option_name)
            print_error(problem)
            code = problem.exit_code
    if code and not lines.typed:
        raise typer.Exit(code)


def _turns(text: str) -> list[str]:
    """Returns the turns of an input: each line if all lines are commands, else the whole text as one turn."""
    lines = text.split("\n")
    return lines if all(line.startswith("/") for line in lines) else [text]


class Talk:
    """The text or the conversation of a session, and the session's current settings."""

    def __init__(self, session: Session) -> None:
        self.stoppable = True  # whether Ctrl-C stops a text and not the session
        self._session, self._loaded, self._format = session, session.loaded, session.format
        self._sampling = session.sampling
        session.note_without_colors()
        self._console = output()
        self._text = ""  # the prompt and its continuation
        self._last: tuple[str, str] | None = None  # for /again: the continued text, and its printed part
        self._saved: set[Path] = set()
        self._turns: list[Turn] = []  # of the conversation, with --chat

    def take(self, line: str) -> bool:
        """Runs a line, and returns whether the session goes on. A line that raises AttnError changes nothing."""
        checked_text(line)
        if line.startswith("/") and not line.startswith("//"):
            word, _, rest = line[1:].partition(" ")
            return self._command(word, rest)
        if line.strip():
            self.begin(line[1:] if line.startswith("/") else line)
        elif self._format.chat:
            raise UsageProblem("The message is empty.", "Type a message; /new begins a new conversation.")
        elif self._loaded.translates:
            raise UsageProblem("There is no text to translate.", "Type a text; /help lists the commands.")
        else:
            self._continue(self._text, "", self._next_seed() if self._text else self._sampling.seed)
        return True

    def begin(self, text: str) -> None:
        """Streams the continuation of a text, its translation, or with --chat the answer to it.

        Raises BadInput for a text that is too long.
        """
        if self._format.chat:
            self._answer([*self._turns, (checked_text(text), "")], self._sampling.seed)
        else:
            self._continue(checked_text(text), text, self._sampling.seed)

    def _command(self, word: str, rest: str) -> bool:
        name = _command_named(word)
        if name == "set" and rest.strip():
            moved, self._sampling = changed(self._sampling, rest, self._loaded.tokenizer)
            print_note(setting_line(moved, self._sampling, self._token))
        elif name == "set":
            show(self._console, settings_screen(self._sampling, self._token, self._console.width))
        elif name == "seed":
            _, self._sampling = changed(self._sampling, f"seed {rest}", self._loaded.tokenizer)
            print_note(setting_line("seed", self._sampling, self._token))
        elif name == "again":
            if self._last is None:
                raise UsageProblem("There is no text yet.", "Type the beginning of a text.")
            if self._format.chat:
                self._answer(self._turns, self._next_seed())
            else:
                self._continue(*self._last, self._next_seed())
        elif name == "new":
            self._turns, self._text, self._last = [], "", None
        elif name == "add":
            if self._format.chat:
                raise UsageProblem(
                    "/add continues a text, and --chat has a conversation.", "Type the words without /add."
                )
            if self._loaded.translates:
                raise UsageProblem("/add continues a text, and this model translates.", "Type the whole text.")
            if not rest.strip():
                raise UsageProblem("/add needs words.", "For example: /add and then")
            words = f" {rest}" if self._text and not self._text[-1].isspace() else rest
            self._continue(self._text + words, words, self._next_seed())
        elif name == "text":
            GenerationScreen(self._console, [self._text], 1, live=True).close()
        elif name == "save":
            self._save(rest.strip())
        elif name == "help":
            task: TalkKind = "answer" if self._format.chat else "translate" if self._loaded.translates else "continue"
            commands = {name: told for name, told in _COMMANDS.items() if task == "continue" or name != "add"}
            show(self._console, commands_screen(commands, self._console.width, task))
        return name != "quit"

    def _continue(self, text: str, shown: str, seed: int) -> None:
        """Prints `shown`, which is the whole `text` or its end, and streams the continuation of `text`.

        If the model translates, prints only the translation.
        """
        loaded = self._loaded
        ids = loaded.prompt(text)
        if shown != text:  # the model wrote a part of the text, so the end that fits the context is kept
            ids = last_that_fit(self._session.backend.config, loaded.tokenizer, ids)
        elif self._session.truncate:
            (shown,), (ids,) = truncated(self._session.backend.config, loaded.tokenizer, [text], [ids])
        refuse_long(self._session.backend.config, loaded.tokenizer, ids)
        if not loaded.translates:
            self._stream(ids, text, shown, seed)
            return
        try:
            self._stream(ids, "", "", seed)
        finally:  # also after Ctrl-C
            self._last = text, text

    def _answer(self, turns: list[Turn], seed: int) -> None:
        """Streams the answer to the last turn, and stores the answer in that turn."""
        said = turns[-1][0]
        ids = self._format.prompt(turns)
        refuse_unreadable(self._session.backend.config, self._loaded.tokenizer, ids)
        before = "".join(f"{asked}\n\n{answer}\n\n" for asked, answer in turns[:-1]) + f"{said}\n\n"
        try:
            self._stream(ids, before, "", seed)
        finally:  # also after Ctrl-C
            self._turns = [*turns[:-1], (said, self._text.removeprefix(before))]

    def _stream(self, ids: list[int], text: str, shown: str, seed: int) -> None:
        """Prints `shown` and streams the continuation of `ids`, the tokens of `text` that fit the context."""
        sampling = replace(self._sampling, seed=seed)
        events = self._session.events([ids], sampling)
        self._sampling, self._last, self._text = sampling, (text, shown), text
        screen = self._session.screen([shown], 1)
        facts = [f"seed {seed}"] if sampling.draws else []
        with _stopping(self.stoppable) as stopped:
            for event in events:
                screen.update(event)
                if isinstance(event, Text):
                    self._text += event.text
                elif isinstance(event, Finished) and event.reason == "end" and not self._loaded.translates:
                    facts.append("the model ended the text")
                if stopped():
                    break
        if stopped():
            facts.append("stopped")
        screen.close()
        if screen.reread:
            facts.append(f"past the context: went on from the most recent {screen.reread} tokens")
        if facts:
            print_note(" · ".join(facts))

    def _save(self, name: str) -> None:
        if not name:
            raise UsageProblem("/save needs the name of a file.", "For example: /save story.txt")
        file = Path(name)
        with suppress(RuntimeError):  # ~NAME names an unknown user
            file = file.expanduser()
        refuse_files({"/save": file}, force=True)
        if file.exists() and file.absolute() not in self._saved:
            raise UsageProblem(
                f"{file} exists.", "Choose another name; /save replaces only files that it wrote in this session."
            )
        write_file(file, "/save", lambda opened: opened.write(self._text.encode()))
        self._saved.add(file.absolute())
        print_note(f"written: {file}")

    def _next_seed(self) -> int:
        return (self._sampling.seed + 1) % _LARGEST_SEED

    def _token(self, id_: int) -> str:
        return self._loaded.tokenizer.name(id_)


def _command_named(word: str) -> str:
    """Returns the full name of a command: 'h' -> 'help'. Raises UsageProblem for an unknown or ambiguous name."""
    names = {name: name for name in _COMMANDS} | _OTHER_NAMES
    found = {names[name] for name in names if name.startswith(word.lower())} if word else set()
    if word.lower() in names:
        return names[word.lower()]
    if len(found) == 1:
        return found.pop()
    hint = "/help lists the commands; a text that begins with / is typed with //."
    if found:
        raise UsageProblem(f"/{word} could be {' or '.join(f'/{name}' for name in sorted(found))}.", hint)
    raise UsageProblem(f"There is no /{word}.", f"{_meant(word)}{hint}")


def _meant(word: str) -> str:
    """Returns a sentence that suggests a command or setting for an unknown command; '' if none is similar."""
    with suppress(UsageProblem):
        return f"It is a setting: /set {spelled(setting(word))} VALUE. "
    if close := get_close_matches(word.lower(), [*_COMMANDS, *_OTHER_NAMES], 1):
        return f"Did you mean /{close[0]}? "
    near = nearest(word)
    return "" if near is None else f"Did you mean /set {near} VALUE? "


@contextmanager
def _stopping(heeded: bool) -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C was pressed in the block.

    The first Ctrl-C does not interrupt the block; the second Ctrl-C ends it. Without `heeded`, Ctrl-C keeps its usual
    effect, and the function returns False.
    """
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if not heeded:
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        with suppress(KeyboardInterrupt):
            yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
