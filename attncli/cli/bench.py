"""`attncli bench`."""

from __future__ import annotations

import os

from attncli.cli.compiling import begin_compiling
from attncli.cli.shared import GENERATION_DTYPES, JSON, MODEL_ARGUMENT, ModelSource
from attncli.config.limits import at_least
from attncli.config.option import option
from attncli.config.values import SECONDS as TIME
from attncli.errors import UsageProblem
from attncli.generation.measurements import SECONDS

_TIME = "How long to measure; what would take longer is left out."
_DTYPE = "auto, float32, bfloat16, float16, or int8 on a CPU; auto is what generate takes."
_THREADS = "The most threads of a CPU. Unset: one for each core."


def bench(
    *,
    name: str | None = MODEL_ARGUMENT,
    source: ModelSource,
    time: float = option(SECONDS, _TIME, format=TIME),
    threads: int | None = option(None, _THREADS, metavar="N", limit=at_least(1)),
    dtype: str = option("auto", _DTYPE, suggestions=GENERATION_DTYPES),
    json: bool = JSON,
) -> None:
    """Measure how fast a model reads and generates here, and how much of the memory's speed it uses.

    attncli bench
    attncli bench my-model --dtype int8 --time 1m
    """
    source = source.named(name)
    if time <= 0:
        raise UsageProblem("--time 0 leaves no time to measure.", "Try --time 20s.")
    if threads is not None and threads > (cores := os.cpu_count() or 1):
        raise UsageProblem(f"--threads {threads} is more than the {cores} cores of this machine.", "Give fewer.")
    begin_compiling(source.device)
    from attncli.cli.bodies.bench import run

    run(source, dtype, time, threads, json=json)
