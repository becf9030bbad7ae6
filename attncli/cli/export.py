"""`attncli export`."""

from __future__ import annotations

from pathlib import Path

from attncli.cli.outputs import refuse_files
from attncli.cli.shared import JSON, MODEL_ARGUMENT, AdaptedChoice
from attncli.config.option import option
from attncli.errors import UsageProblem

_GGUF = "Write the model as this GGUF file, for llama.cpp and the programs that are built on it."
_DTYPE = "The type of the matrices in the file of --gguf. Unset: the type of the model's weights."
_DTYPES = ("float32", "bfloat16", "float16", "q8_0")


def export(
    *,
    name: str | None = MODEL_ARGUMENT,
    choice: AdaptedChoice,
    gguf: Path | None = option(None, _GGUF, metavar="FILE"),
    dtype: str | None = option(None, _DTYPE, choices=_DTYPES),
    force: bool = option(False, "Replace a file that exists."),
    json: bool = JSON,
) -> None:
    """Write a model for other programs, and check what was written.

    attncli export --gguf stories.gguf
    attncli export my-model --gguf my-model.gguf --dtype q8_0
    """
    if gguf is None:
        raise UsageProblem("There is nothing to write.", "Add a file: attncli export MODEL --gguf FILE.gguf")
    refuse_files({"--gguf": gguf}, force)
    from attncli.cli.bodies.export import run

    run(choice.named(name), gguf, dtype, json=json)
