"""attncli: train a transformer on your own text, generate from it, and see how its attention works.

    model = attncli.load("stories")
    print("".join(model.generate("Once upon a time", seed=1)))

`load` returns a Model, and `train` returns a Training; attncli/library.py defines both. That module imports PyTorch, so
it is imported when one of its names is first used; `import attncli` takes milliseconds. docs/library.md has examples.
"""

TYPE_CHECKING = False  # instead of importing typing, which is slow
if TYPE_CHECKING:  # type checkers read the names here, Python and dir() in __all__; ruff and a test refuse a difference
    from attncli.errors import AttnError, BadCheckpoint, BadInput, Diverged, OutOfRoom, UsageProblem
    from attncli.library import Model, Training, load, train

__version__ = "0.1.0"
__all__ = [
    "AttnError",
    "BadCheckpoint",
    "BadInput",
    "Diverged",
    "Model",
    "OutOfRoom",
    "Training",
    "UsageProblem",
    "load",
    "train",
]


def __getattr__(name: str) -> object:
    """Imports the module of a public name when the name is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'attncli' has no attribute {name!r}")
    from importlib import import_module

    errors = import_module("attncli.errors")
    return getattr(errors if hasattr(errors, name) else import_module("attncli.library"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
