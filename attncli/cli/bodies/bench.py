"""`attncli bench`: measures the speed of prefill and of decoding."""

from __future__ import annotations

import torch

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load_to_generate
from attncli.cli.shared import ModelSource
from attncli.errors import UsageProblem
from attncli.generation.bench import measure
from attncli.render.bench import bench_document, bench_progress, bench_screen
from attncli.render.console import messages


def run(source: ModelSource, dtype: str, seconds: float, threads: int | None, *, json: bool) -> None:
    """Measures prefill and decoding for `seconds`, on at most `threads` CPU threads, and prints their speeds."""
    if threads is not None:
        torch.set_num_threads(threads)
    loaded, backend = load_to_generate(source, dtype)
    if loaded.translates:
        raise UsageProblem(
            f"attncli bench measures models that continue a text, and {loaded.name} translates.",
            f"The speed of a translation: attncli generate TEXT{source.again} --stats",
        )
    with bench_progress(messages()) as progress:
        found = measure(backend, loaded.tokenizer, seconds, progress)
    show_result(
        lambda: bench_document(found, loaded.name),
        lambda console: bench_screen(found, loaded.name, console.width),
        json=json,
    )
