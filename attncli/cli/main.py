"""The application: its commands, in the order in which a newcomer needs them, and the exit code of every error.

A command imports its body when it runs, so that help and `tokenize` start quickly, without torch.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, TextIO

import typer

from attncli import __version__
from attncli.cli import clock
from attncli.cli.ablate import ablate
from attncli.cli.align import align
from attncli.cli.analogy import analogy
from attncli.cli.bench import bench
from attncli.cli.circuit.group import HELP as _CIRCUIT
from attncli.cli.circuit.group import group as circuit
from attncli.cli.compare import compare
from attncli.cli.eval import eval
from attncli.cli.explain import explain
from attncli.cli.export import export
from attncli.cli.faithful import faithful
from attncli.cli.generate import generate
from attncli.cli.heads import heads
from attncli.cli.help import HELP_OPTIONS, USAGE_ERROR, Command, FirstPage, docstring
from attncli.cli.info import info
from attncli.cli.models import models
from attncli.cli.neighbors import neighbors
from attncli.cli.next import next_
from attncli.cli.options import for_typer
from attncli.cli.plot import plot
from attncli.cli.process import bound_screen
from attncli.cli.serve import serve
from attncli.cli.tokenize import tokenize
from attncli.cli.train import train
from attncli.errors import AttnError, BadInput, BrokenInstallation, OutOfRoom, lacks_memory
from attncli.paths import refuse_lost_folder
from attncli.render.status import status

_DONE = 0
_WITHOUT_TORCH = ("tokenize", "plot", "info", "models")
_NO_ROOM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOMEM)

_FIRST_PAGE = """Train a transformer language model on your own text, generate from it, and see how its attention works.

attncli train corpus.txt --time 3m
attncli generate "Once upon a time" --temperature 0.7
attncli explain "The little cat sat on the old mat. The little"
"""

app = typer.Typer(
    name="attncli",
    cls=FirstPage,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": HELP_OPTIONS},
    rich_markup_mode=None,
)
_COMMANDS: dict[str, list[Callable[..., None]]] = {
    "Start here": [train, generate, explain, tokenize],
    "Look closer": [
        serve,
        next_,
        heads,
        ablate,
        faithful,
        align,
        compare,
        neighbors,
        analogy,
        eval,
        bench,
        plot,
        info,
        models,
        export,
    ],
}
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        _name = _command.__name__.rstrip("_")
        app.command(_name, cls=Command, help=docstring(_command), rich_help_panel=_panel)(for_typer(_command))
app.add_typer(circuit, name="circuit", help=_CIRCUIT, rich_help_panel="Look closer")


def _print_version(context: typer.Context, asked: bool) -> None:
    if asked and not context.resilient_parsing:  # completion parses an unfinished command line
        typer.echo(f"attncli {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help=_FIRST_PAGE)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Prints the first help page if no command is given."""
    if context.invoked_subcommand is None:
        context.get_help()
        return
    refuse_lost_folder()
    if context.invoked_subcommand not in _WITHOUT_TORCH:
        status("importing PyTorch")


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. For an error that a user can fix, prints one or two lines."""
    clock.start()
    bound_screen()
    debug = "--debug" in arguments or bool(os.environ.get("ATTNCLI_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError):  # the stream is closed or broken
                stream.reconfigure(errors="backslashreplace")
    try:
        code = app([word for word in arguments if word != "--debug"], prog_name="attncli", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else _DONE
    except (BrokenPipeError, SystemExit) as ended:
        # Typer and Rich turn a closed pipe into an exit with code 1.
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
            raise
        _silence(sys.stdout)
        return _DONE
    except Exception as problem:
        error = _explained(problem)
        if error is None or debug:
            raise
        _tell(error)
        return error.exit_code


def _explained(problem: Exception) -> AttnError | None:
    """Returns the error that tells a user how to fix a problem, or None if the problem is a bug."""
    if any(error.errno in (errno.EMFILE, errno.ENFILE) for error in _system_errors(problem)):
        return OutOfRoom("Too many files are open.", "Raise the limit of this shell: ulimit -n 1024.")
    if isinstance(problem, AttnError):
        return problem
    if isinstance(problem, USAGE_ERROR):
        from attncli.cli.mistakes import usage_problem

        return usage_problem(problem)
    if isinstance(problem, OSError):
        return _system_error(problem)
    if lacks_memory(problem):
        return OutOfRoom(
            "There is not enough memory for this.",
            "Train with a smaller --batch-size, --context or --size; generate with fewer --num-samples.",
        )
    if isinstance(problem, ImportError):
        name = problem.name or "a library"
        return BrokenInstallation(
            f"{name} cannot be imported: {problem}.", "Install attncli again; --debug shows the traceback."
        )
    return None


def _system_errors(problem: BaseException | None) -> Iterator[OSError]:
    """Yields every OSError in the chain of causes of an exception, including the exception itself."""
    while problem is not None:
        if isinstance(problem, OSError):
            yield problem
        problem = problem.__cause__ or problem.__context__


def _system_error(problem: OSError) -> AttnError:
    """Returns the error to print for an OSError that no other module has converted to an AttnError."""
    reason = problem.strerror or str(problem)
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        _silence(sys.stdout)
        return OutOfRoom(f"Nothing more can be written: {reason}.", "Free some space on the disk.")
    what = "System error" if problem.filename is None else str(problem.filename)
    kind = OutOfRoom if problem.errno in _NO_ROOM else BadInput
    return kind(f"{what}: {reason}.", "Check the path, its permissions and its disk; --debug shows the traceback.")


def _tell(error: AttnError) -> None:
    """Prints an error; does nothing if standard error cannot be written."""
    from attncli.render.console import print_error

    try:
        print_error(error)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Redirects a broken stream to /dev/null, so that flushing it cannot fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
