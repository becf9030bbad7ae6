"""`attncli export`."""

from __future__ import annotations

from pathlib import Path

from attncli.cli.outputs import refuse_files
from attncli.cli.shared import JSON, MODEL_ARGUMENT, AdaptedChoice
from attncli.config.option import option
from attncli.errors import UsageProblem

_GGUF = "Write the model as this GGUF file, for llama.cpp and the programs that are built on it."
_OUT = "Write the model as this directory, with the adapter of --adapter merged into its weights."
_DTYPE = "The type of the weights; q8_0 is for the matrices of --gguf. Unset: the type of the model's weights."
_DTYPES = ("float32", "bfloat16", "float16", "q8_0")


def export(
    *,
    name: str | None = MODEL_ARGUMENT,
    choice: AdaptedChoice,
    gguf: Path | None = option(None, _GGUF, metavar="FILE"),
    out: Path | None = option(None, _OUT, "--out", "-o", metavar="DIR"),
    dtype: str | None = option(None, _DTYPE, choices=_DTYPES),
    force: bool = option(False, "Replace a file or a model that exists."),
    json: bool = JSON,
) -> None:
    """Write a model for other programs, and check what was written.

    attncli export --gguf stories.gguf
    attncli export my-model --adapter my-adapter --out merged
    """
    if gguf is None and out is None:
        raise UsageProblem(
            "There is nothing to write.", "Add a file: attncli export MODEL --gguf FILE.gguf, or a directory: --out DIR"
        )
    if gguf is not None and out is not None:
        raise UsageProblem("--gguf and --out cannot be combined.", "Give one of them.")
    from attncli.cli.bodies.export import run, run_directory

    if out is not None:
        run_directory(choice.named(name), out, dtype, force=force, json=json)
        return
    assert gguf is not None
    refuse_files({"--gguf": gguf}, force)
    run(choice.named(name), gguf, dtype, json=json)
