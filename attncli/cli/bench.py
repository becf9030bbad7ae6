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

_TIME = "The time limit. Measurements that would exceed it are skipped."
_DTYPE = "auto, float32, bfloat16, float16 or, on a CPU, int8; auto is the type that attncli generate uses by default."
_THREADS = "The maximum number of CPU threads. Unset: one per core."


def bench(
    *,
    name: str | None = MODEL_ARGUMENT,
    source: ModelSource,
    time: float = option(SECONDS, _TIME, format=TIME),
    threads: int | None = option(None, _THREADS, metavar="N", limit=at_least(1)),
    dtype: str = option("auto", _DTYPE, suggestions=GENERATION_DTYPES),
    json: bool = JSON,
) -> None:
    """Measure how fast a model prefills and generates, and what share of the memory bandwidth it reaches.

    attncli bench
    attncli bench my-model --dtype int8 --time 1m
    """
    source = source.named(name)
    if time <= 0:
        raise UsageProblem("--time 0 leaves no time to measure.", "Try --time 20s.")
    if threads is not None and threads > (cores := os.cpu_count() or 1):
        raise UsageProblem(
            f"--threads {threads} is more than the {cores} cores of this machine.", "Give a smaller number."
        )
    begin_compiling(source.device)
    from attncli.cli.bodies.bench import run

    run(source, dtype, time, threads, json=json)
