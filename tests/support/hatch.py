"""Loads hatch_build.py without hatchling, which is installed only while a wheel is built."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

import pytest

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class _Hook(Generic[T]):
    def __init__(self, root, target_name="wheel"):
        self.root, self.target_name = str(root), target_name


def hatch_build() -> ModuleType:
    """Returns hatch_build.py as a module; its hooks have the interface's attributes `root` and `target_name`."""
    with pytest.MonkeyPatch.context() as patched:
        for kind, name in (("builders.hooks", "BuildHookInterface"), ("metadata", "MetadataHookInterface")):
            interface = ModuleType(f"hatchling.{kind}.plugin.interface")
            setattr(interface, name, _Hook)
            patched.setitem(sys.modules, interface.__name__, interface)
            parts = interface.__name__.split(".")
            for end in range(1, len(parts)):
                patched.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        hook = ModuleType("hook")
        exec((ROOT / "hatch_build.py").read_text(), hook.__dict__)
    return hook
