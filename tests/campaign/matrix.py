"""Installs a wheel for each Python with the newest dependencies, and tries it there: a table of what worked.

usage: python -m tests.campaign.matrix dist/attncli-….whl [--pythons 3.11 3.12 …] [--also torch==2.13.0 …]

For each Python, uv creates build/matrix/VERSION, and installs the wheel, pytest and hypothesis. uv also downloads a
Python that is missing, if it can. `--also` adds packages or pins. The commands run without a compiler on the path and
with a home that does not exist, and must run the network in C. The tests are those of the checkout that are quick and
need no other package; there, a warning is an error. Then the wheel is run by `pipx run`, `uvx` and `uv tool install`,
with their own Python. What a failed command printed follows the table.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.places import ROOT

FOLDER = ROOT / "build" / "matrix"
TESTS = (
    "config", "test_records.py", "text/test_formats.py", "checkpoint/test_tensors.py", "model/test_wheel_library.py",
    "generation/test_token_details.py", "cli/test_help.py",
)  # fmt: skip
TEXT = "A cat sat on a mat, and a dog lay on a rug. The sun was warm.\n\n" * 200
GENERATE = ("generate", "-m", "stories", "Once upon", "-n", "20", "--seed", "1", "--stats")
COMMANDS = {
    "--help": ("--help",),
    "tokenize": ("tokenize", "The unbelievable cat", "-m", "stories"),
    "generate": GENERATE,
    "explain": ("explain", "The cat sat on the mat. The", "-m", "stories"),
    "train": ("train", "text.txt", "--steps", "20", "--name", "m", "--force", "--seed", "1"),
}
COLUMNS = ("installed", *COMMANDS, "tests")


class Matrix:
    """The rows of the table, which are printed one by one, and the output of the commands that failed."""

    def __init__(self, wheel: Path, also: list[str]) -> None:
        self.wheel, self.also = str(wheel.resolve()), also
        self.problems: list[str] = []

    def attempt(self, *command: str, in_c: bool = False, **how: object) -> str | None:
        """Runs a command, and returns its output; None if it fails, or does not say that it ran the network in C."""
        done = subprocess.run(
            command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False, **{"cwd": ROOT, **how},
        )  # fmt: skip
        if done.returncode == 0 and (not in_c or " in C on " in done.stdout):
            return done.stdout
        self.problems.append(f"{' '.join(command)}\n{done.stdout[-3000:]}")
        return None

    def try_python(self, version: str) -> list[str]:
        """Returns the row of a Python: the version, the installed PyTorch, 'ok' or 'failed' for each command."""
        place = FOLDER / version
        python = str(place / "bin" / "python")
        if not Path(python).exists() and self.attempt("uv", "venv", "-q", "-p", version, str(place)) is None:
            return [version, "no such Python here"]
        packages = (self.wheel, "pytest", "hypothesis", *self.also)
        installing = ("uv", "pip", "install", "-q", "-p", python, "--reinstall-package", "attncli", *packages)
        told = "import platform, torch; print(platform.python_version(), 'torch', torch.__version__)"
        if self.attempt(*installing) is None or (found := self.attempt(python, "-c", told)) is None:
            return [version, "failed"]
        named, _, torch = found.strip().partition(" ")
        return [named, torch, *self._try_commands(place), self._try_tests(python)]

    def _try_commands(self, place: Path) -> list[str]:
        folder = place / "work"
        folder.mkdir(exist_ok=True)
        (folder / "text.txt").write_text(TEXT)
        environment = {"PATH": str(place / "bin"), "HOME": "/nonexistent", "HF_HUB_OFFLINE": "1"}
        return [
            "failed" if self.attempt(
                "attncli", *arguments, in_c=arguments is GENERATE, cwd=folder, env=environment,
                executable=place / "bin" / "attncli",
            ) is None else "ok"
            for arguments in COMMANDS.values()
        ]  # fmt: skip

    def _try_tests(self, python: str) -> str:
        output = self.attempt(python, "-m", "pytest", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS))
        return "failed" if output is None else output.strip().splitlines()[-1]

    def try_tool(self, name: str) -> list[str]:
        """Returns the row of a program that runs commands of packages: its name, and 'ok' or 'failed'."""
        if shutil.which(name.split()[0]) is None:
            return [name, "not on this machine"]
        pins = [word for package in self.also for word in ("--with", package)]
        run = {
            "pipx run": ("pipx", "run", f"--pip-args={' '.join(self.also)}", "--spec", self.wheel, "attncli"),
            "uvx": ("uvx", *pins, "--from", self.wheel, "attncli"),
            "uv tool install": (str(FOLDER / "bin" / "attncli"),),
        }[name]
        homes = {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin", "PIPX_HOME": "pipx"}
        environment = os.environ | {variable: str(FOLDER / folder) for variable, folder in homes.items()}
        installing = ("uv", "tool", "install", "-q", "--force", *pins, self.wheel)
        if name == "uv tool install" and self.attempt(*installing, env=environment) is None:
            return [name, "failed"]
        output = self.attempt(*run, *GENERATE, in_c=True, env=environment)
        return [name, "failed" if output is None else "ok"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--pythons", nargs="*", default=["3.11", "3.12", "3.13", "3.14"])
    parser.add_argument("--tools", nargs="*", default=["pipx run", "uvx", "uv tool install"])
    parser.add_argument("--also", nargs="+", default=[])
    given = parser.parse_args()
    matrix = Matrix(given.wheel, given.also)
    print(f"| | {' | '.join(COLUMNS)} |\n|{' --- |' * (1 + len(COLUMNS))}")
    for trying, names in ((matrix.try_python, given.pythons), (matrix.try_tool, given.tools)):
        for name in names:
            row = trying(name)
            print(f"| {' | '.join(row + [''] * (1 + len(COLUMNS) - len(row)))} |", flush=True)
    print("\n\n".join(("", *matrix.problems)), file=sys.stderr)
    return 1 if matrix.problems else 0


if __name__ == "__main__":
    sys.exit(main())
