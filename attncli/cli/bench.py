"""`attncli bench`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from attncli.cli.compiling import begin_compiling
from attncli.cli.completing import one_of
from attncli.cli.options import (
    GENERATION_DTYPES,
    DeviceOption,
    JsonOption,
    ModelArgument,
    ModelOption,
    RevisionOption,
    parse_seconds,
    unset,
)
from attncli.errors import UsageProblem
from attncli.generation.measurements import SECONDS

_TIME = "How long to measure; what would take longer is left out."
_DTYPE = "auto, float32, bfloat16, float16, or int8 on a CPU; auto is what generate takes."
_THREADS = "The most threads of a CPU. Unset: one for each core."


# fmt: off
def bench(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    revision: RevisionOption = None,
    time: Annotated[float, typer.Option("--time", parser=parse_seconds, metavar="TIME", help=_TIME, show_default=f"{SECONDS:g}s")] = SECONDS,  # noqa: E501
    threads: Annotated[int | None, unset("--threads", min=1, metavar="N", help=_THREADS)] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE, autocompletion=one_of(GENERATION_DTYPES))] = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Measure how fast a model reads and generates here, and how much of the memory's speed it uses.

    attncli bench
    attncli bench my-model --dtype int8 --time 1m
    """
    if model is not None and model_option is not None and model != model_option:
        raise UsageProblem(f"{model} and -m {model_option} name two models.", "Name one.")
    if time <= 0:
        raise UsageProblem("--time 0 leaves no time to measure.", "Try --time 20s.")
    if threads is not None and threads > (cores := os.cpu_count() or 1):
        raise UsageProblem(f"--threads {threads} is more than the {cores} cores of this machine.", "Give fewer.")
    begin_compiling(device)
    import torch

    from attncli.cli.loading import load_to_generate
    from attncli.generation.bench import measure
    from attncli.render.bench import bench_document, bench_progress, bench_screen
    from attncli.render.console import messages, output, print_json, show

    if threads is not None:
        torch.set_num_threads(threads)
    loaded, backend = load_to_generate(model or model_option, device, dtype, revision)
    with bench_progress(messages()) as progress:
        found = measure(backend, loaded.tokenizer, time, progress)
    if json:
        print_json(bench_document(found, loaded.name))
    else:
        console = output()
        show(console, bench_screen(found, loaded.name, console.width))
