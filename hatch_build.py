"""What a wheel needs beside the files of the package.

The README for a package index: links to files of the repository, and its pictures, become addresses. With
ATTNCLI_COMPILE=1, the compiled libraries of the network in C, so that a user needs no compiler:

    ATTNCLI_COMPILE=1 pip wheel --no-deps .
    ATTNCLI_COMPILE=1 ATTNCLI_MACHINE=aarch64 CC=aarch64-linux-gnu-gcc pip wheel --no-deps .

CC is the compiler, by default cc. ATTNCLI_MACHINE is the machine that it compiles for, by default this one.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")  # a version of glibc whose symbols a library needs
_PICTURE = re.compile(r'(src|srcset)="(?![a-z]+:)([^"\s]+)"')


def absolute(text: str, source: str) -> str:
    """Returns the page with absolute addresses, where `source` is the address of the repository.

    `[docs](docs/a.md)` becomes `[docs](SOURCE/blob/main/docs/a.md)`, and `src="docs/a.svg"` becomes
    `src="SOURCE/raw/main/docs/a.svg"`. Addresses that have a scheme, and links into the page, stay.
    """
    text = _LINK.sub(lambda link: f"]({source}/blob/main/{link[1]})", text)
    return _PICTURE.sub(lambda picture: f'{picture[1]}="{source}/raw/main/{picture[2]}"', text)


class ReadmeHook(MetadataHookInterface):
    """Sets `readme` to README.md with absolute addresses, made from the source address in project.urls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the page to the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}


class LibraryHook(BuildHookInterface[Any]):
    """Compiles native.c and training.c for every level of a processor's instructions, and adds the libraries."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the libraries, unless ATTNCLI_COMPILE is not 1 or the installation is an editable one."""
        self._made: Path | None = None
        if os.environ.get("ATTNCLI_COMPILE") != "1" or version == "editable":
            return
        machine = os.environ.get("ATTNCLI_MACHINE") or platform.machine()
        self._made = Path(tempfile.mkdtemp())
        libraries = compiled(Path(self.root), machine, self._made)
        build_data["force_include"] |= {str(path): f"attncli/model/compiled/{path.name}" for path in libraries}
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(libraries, machine)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the libraries, which are now in the wheel."""
        if self._made is not None:
            shutil.rmtree(self._made)


def compiled(root: Path, machine: str, folder: Path) -> list[Path]:
    """Compiles the libraries for a machine ('x86_64', 'aarch64') into a folder; returns their paths."""
    settings = _settings(root)
    levels = settings.LEVELS.get(machine)
    if levels is None or sys.platform != "linux":
        raise SystemExit(
            f"Libraries are compiled for Linux on {' or '.join(settings.LEVELS)}; leave out ATTNCLI_COMPILE."
        )
    compiler = shlex.split(os.environ.get("CC") or "cc")
    made = []
    for level, (name, source) in itertools.product(levels, settings.SOURCES.items()):
        path = folder / level.file(name)
        flags = (f"-march={level.march}", *settings.FLAGS, "-s", "-o", str(path), str(source))
        subprocess.run([*compiler, *flags, *settings.LIBRARIES], check=True)
        made.append(path)
    return made


def _settings(root: Path) -> ModuleType:
    """Returns attncli/model/wheel_library.py as a module; attncli itself is not installed yet."""
    found = importlib.util.spec_from_file_location("wheel_library", root / "attncli/model/wheel_library.py")
    assert found is not None
    assert found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def platform_tag(libraries: list[Path], machine: str) -> str:
    """Returns the platform of a wheel by the newest glibc that its libraries need: 'manylinux_2_34_x86_64'."""
    versions = {(int(major), int(minor)) for path in libraries for major, minor in _GLIBC.findall(path.read_bytes())}
    if not versions:
        raise SystemExit("The libraries do not name the version of glibc that they need. Compile them with glibc.")
    major, minor = max(versions)
    return f"manylinux_{major}_{minor}_{machine}"
