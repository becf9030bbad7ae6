"""Generated text on the screen, as it comes."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text as RichText

from attncli.config import SampleConfig
from attncli.generation.events import Event, Finished, Reread
from attncli.render.escape import visible


class GenerationScreen:
    """Takes the events of a generation. One sample streams when `live`; several are shown in order, at the end."""

    def __init__(self, console: Console, prompt: str, samples: int, *, live: bool) -> None:
        self._console = console
        self._prompt = prompt
        self._texts = [""] * samples
        self._finished: list[Finished | None] = [None] * samples
        self._live = live and samples == 1
        self._started = False
        self.reread: int | None = None  # tokens kept when the context was full, if it ever was

    @property
    def any_text(self) -> bool:
        """Whether any sample has text."""
        return any(self._texts)

    def update(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, Reread):
            self.reread = event.kept
        elif isinstance(event, Finished):
            self._finished[event.sample] = event
        else:
            self._texts[event.sample] += event.text
            if self._live:
                self._show_prompt()
                self._write(event.text)

    def close(self) -> None:
        """Shows what was not streamed, and ends the last line."""
        if self._live:
            self._show_prompt()
            self._console.print()
            return
        for sample, text in enumerate(self._texts):
            if len(self._texts) > 1:
                self._console.print(RichText(f"{'' if sample == 0 else chr(10)}── sample {sample + 1} ──", style="dim"))
            self._write(self._prompt, style="bold")
            self._write(text + "\n")

    def document(self, model: str, config: SampleConfig) -> dict[str, Any]:
        """The samples for programs."""
        return {
            "model": model,
            "prompt": self._prompt,
            "settings": asdict(config) | {"logit_bias": [_bias(id_, bias) for id_, bias in config.logit_bias]},
            "samples": [
                {"text": text, "ids": list(end.ids) if end else [], "finish_reason": end.reason if end else None}
                for text, end in zip(self._texts, self._finished, strict=True)
            ],
        }

    def _show_prompt(self) -> None:
        if not self._started:
            self._started = True
            self._write(self._prompt, style="bold")

    def _write(self, text: str, style: str = "") -> None:
        """To a terminal with control codes made visible; elsewhere as it is, so that nothing is lost in a pipe."""
        if self._console.is_terminal:
            self._console.print(RichText(visible(text), style=style), end="", soft_wrap=True)
        else:
            self._console.file.write(text)
        self._console.file.flush()


def _bias(id_: int, bias: float) -> dict[str, Any]:
    """JSON has no infinity: a ban is the string that the option takes."""
    return {"id": id_, "bias": bias if math.isfinite(bias) else str(bias)}
