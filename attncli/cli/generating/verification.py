"""`attncli generate --verify`: generates the same texts again in other ways, and prints whether they are equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
from attncli.errors import Inexact
from attncli.generation.events import Check, Event
from attncli.generation.samples import SampleCollector
from attncli.generation.verify import Original, as_float32, verify
from attncli.model.backend import Backend, TorchBackend
from attncli.model.native import NativeBackend
from attncli.render.console import output, show
from attncli.render.verify import verification_document, verification_head, verification_legend, verification_row, way


class Verification:
    """Collects the generated texts, generates them again in other ways, and compares the results."""

    def __init__(
        self, loaded: LoadedModel, backend: Backend, prompts: Sequence[list[int]], config: SampleConfig
    ) -> None:
        self._loaded, self._backend, self._prompts, self._config = loaded, backend, prompts, config
        self._collector = SampleCollector()
        self._checks: list[Check] = []

    def keep(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yields the events of the generation unchanged, and collects its texts."""
        return self._collector.collect(events)

    def document(self) -> dict[str, Any]:
        """Runs the checks, and returns the results as a JSON object."""
        self._checks = list(self._run())
        return {"verify": verification_document(self._checks, self._backend.exact)}

    def show(self) -> None:
        """Runs the checks, and prints the result of each as it finishes."""
        console = output()
        show(console, verification_head(console.width))
        for check in self._run():
            self._checks.append(check)
            show(console, verification_row(check, self._loaded.tokenizer.name, console.width))
            console.file.flush()
        show(console, verification_legend(self._checks, self._backend.exact, console.width))

    def require(self) -> None:
        """Raises Inexact if a required check found a difference."""
        hint = "This is a bug of attncli: please report it with this table, the command and the processor."
        if failing := [way(check) for check in self._checks if check.required and check.fails]:
            count = f"{len(failing)} of {len(self._checks)}"
            raise Inexact(f"The text differs in {count} checks: {', '.join(failing)}.", hint)
        for check in self._checks:
            if check.logits_differ:
                apart = f"{check.logit_difference:.2g}, and rounding explains at most {check.logit_tolerance:.2g}"
                raise Inexact(f"The logits differ from those of PyTorch by {apart}.", hint)

    def _run(self) -> Iterator[Check]:
        loaded, backend = self._loaded, self._backend
        int8 = isinstance(backend, NativeBackend) and backend.int8
        prompts, sources = loaded.inputs(self._prompts)
        samples = self._collector.samples
        original = Original(loaded.tokenizer, prompts, self._config, loaded.end_ids, samples, sources)
        on_threads = partial(_on_threads, loaded, int8) if isinstance(backend, NativeBackend) else None
        pytorch = TorchBackend(as_float32(loaded.model, int8=int8))
        return verify(original, backend, pytorch, on_threads)


def _on_threads(loaded: LoadedModel, int8: bool, threads: int) -> Backend:
    return NativeBackend(loaded.model, int8=int8, threads=threads)
