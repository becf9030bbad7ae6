"""Generated text on the screen, as it comes: alone, tinted by surprise, or after a report on each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console
from rich.style import Style
from rich.text import Text as RichText

from attncli.config import SampleConfig
from attncli.generation.events import Event, Finished, PromptsRead, Reread, Token
from attncli.render.console import show
from attncli.render.escape import visible
from attncli.render.logprobs import logprobs_head, logprobs_row, token_document
from attncli.render.surprise import Surprises, legend, tint, why_no_colors
from attncli.render.trace import trace_block, trace_head

Report = Literal["trace", "logprobs"]
_REPORTS = {"trace": (trace_head, trace_block), "logprobs": (logprobs_head, logprobs_row)}


class GenerationScreen:
    """Takes the events of a generation. One sample streams when `live`; several are shown in order, at the end."""

    def __init__(
        self,
        console: Console,
        prompt: str,
        samples: int,
        *,
        live: bool,
        color: bool = False,
        report: Report | None = None,
    ) -> None:
        """`color` tints the text where the console can; `report` tells of every token first. Both need its events."""
        self._console = console
        self._prompt = prompt
        self._texts: list[list[tuple[str, float]]] = [[] for _ in range(samples)]  # stretches with their surprise
        self._tokens: list[list[Token]] = [[] for _ in range(samples)]
        self._surprises = [Surprises() for _ in range(samples)]
        self._finished: list[Finished | None] = [None] * samples
        self._live = live and samples == 1
        self._tinted = color and why_no_colors(console) is None
        self._report = report
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
        elif isinstance(event, Token):
            self._tokens[event.sample].append(event)
            self._surprises[event.sample].take(event)
            if self._live and self._report:
                self._tell(0, len(self._tokens[0]))
        elif not isinstance(event, PromptsRead):
            stretches = self._surprises[event.sample].split(event.text)
            self._texts[event.sample] += stretches
            if self._live and not self._report:
                self._show_prompt()
                self._write_text(stretches)

    def close(self) -> None:
        """Shows what was not streamed, ends the last line, and says what the colours mean."""
        if self._live and not self._report:
            self._show_prompt()
            self._console.print()
        for sample, text in enumerate(self._texts) if not self._live or self._report else ():
            if len(self._texts) > 1:
                self._console.print(RichText(f"{'' if sample == 0 else chr(10)}── sample {sample + 1} ──", style="dim"))
            if self._report and not self._live:
                for number in range(1, len(self._tokens[sample]) + 1):
                    self._tell(sample, number)
            if self._tokens[sample] and self._report:
                self._write("\n")
            self._write(self._prompt, style="bold")
            self._write_text(text)
            self._write("\n")
        if self._tinted:
            self._console.print(legend(self._console.color_system))

    def document(self, model: str, config: SampleConfig) -> dict[str, Any]:
        """The samples for programs."""
        return {
            "model": model,
            "prompt": self._prompt,
            "settings": asdict(config) | {"logit_bias": [_bias(id_, bias) for id_, bias in config.logit_bias]},
            "samples": [self._sample(sample) for sample in range(len(self._texts))],
        }

    def _sample(self, sample: int) -> dict[str, Any]:
        end, tokens = self._finished[sample], self._tokens[sample]
        document = {
            "text": "".join(text for text, _ in self._texts[sample]),
            "ids": list(end.ids) if end else [],
            "finish_reason": end.reason if end else None,
        }
        return document | {"tokens": [token_document(token) for token in tokens]} if tokens else document

    def _tell(self, sample: int, number: int) -> None:
        """Reports on the `number`-th token, below the names of the columns."""
        assert self._report is not None
        head, row = _REPORTS[self._report]
        if number == 1:
            show(self._console, head(self._console.width))
        show(self._console, row(number, self._tokens[sample][number - 1], self._console.width))
        self._console.file.flush()

    def _write_text(self, stretches: Sequence[tuple[str, float]]) -> None:
        for text, bits in stretches:
            self._write(text, tint(bits, self._console.color_system) if self._tinted else "")

    def _show_prompt(self) -> None:
        if not self._started:
            self._started = True
            self._write(self._prompt, style="bold")

    def _write(self, text: str, style: str | Style = "") -> None:
        """To a terminal with control codes made visible; elsewhere as it is, so that nothing is lost in a pipe."""
        if self._console.is_terminal:
            self._console.print(RichText(visible(text), style=style), end="", soft_wrap=True)
        else:
            self._console.file.write(text)
        self._console.file.flush()


def _bias(id_: int, bias: float) -> dict[str, Any]:
    """JSON has no infinity: a ban is the string that the option takes."""
    return {"id": id_, "bias": bias if math.isfinite(bias) else str(bias)}
