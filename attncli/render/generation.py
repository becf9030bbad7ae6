"""Shows generated text as it streams: plain, tinted by surprise, or after a report on each token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console
from rich.style import Style
from rich.text import Text as RichText

from attncli.config import SampleConfig
from attncli.config.option import options_of
from attncli.generation.events import Event, Finished, PromptsRead, Reread, Throughput, Token
from attncli.render.console import show
from attncli.render.logprobs import logprobs_head, logprobs_row, token_document
from attncli.render.numbers import plural, precise_duration
from attncli.render.surprise import Surprises, legend, tint, why_no_colors
from attncli.render.trace import trace_block, trace_head
from attncli.render.wrapping import WordWrap

TokenReport = Literal["trace", "logprobs"]
_REPORTS = {"trace": (trace_head, trace_block), "logprobs": (logprobs_head, logprobs_row)}


class GenerationScreen:
    """Shows the events of a generation.

    If `live` is true, a single text is streamed. Otherwise, or if there are several texts, they are printed at the end.
    """

    def __init__(
        self,
        console: Console,
        prompts: Sequence[str],
        samples: int,
        *,
        live: bool,
        color: bool = False,
        report: TokenReport | None = None,
        echo: bool = True,
        titled: bool = True,
    ) -> None:
        """`samples` is the number of samples per prompt; samples are numbered prompt by prompt.

        `color` tints the text if the console has colors; `report` prints a report on each token first. Both need
        Token events. Without `echo` the prompts are left out on the screen, but not in the document. With `titled`,
        each of several texts has a title.
        """
        self._console = console
        self._prompts, self._samples = prompts, samples
        texts = len(prompts) * samples
        self._texts: list[list[tuple[str, float]]] = [
            [] for _ in range(texts)
        ]  # spans of text with their surprise in bits
        self._tokens: list[list[Token]] = [[] for _ in range(texts)]
        self._surprises = [Surprises() for _ in range(texts)]
        self._finished: list[Finished | None] = [None] * texts
        self._given = 0  # the number of records that `records` has yielded
        self._live = live and texts == 1
        self._tinted = color and why_no_colors(console) is None
        self._report = report
        self._started = not echo
        self._echo, self._titled = echo, titled or report is not None
        self._words = WordWrap(console)
        self.reread: int | None = None  # tokens kept when the context was full; None if it was never full

    @property
    def any_text(self) -> bool:
        """Whether any sample has text."""
        return any(self._texts)

    @property
    def any_stopped(self) -> bool:
        """Whether any sample ended at a stop string."""
        return any(end is not None and end.reason == "stop" for end in self._finished)

    def update(self, event: Event) -> None:
        """Processes one event."""
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
        """Prints what was not streamed, ends the last line, and adds the legend of the colors."""
        if self._live and not self._report:
            self._show_prompt()
            self._write("\n")
        for sample, text in enumerate(self._texts) if not self._live or self._report else ():
            if len(self._texts) > 1 and self._titled:
                rule = f"{'' if sample == 0 else chr(10)}── {self._title(sample)} ──"
                self._console.print(RichText(rule, style="dim"))
            if self._report and not self._live:
                for number in range(1, len(self._tokens[sample]) + 1):
                    self._tell(sample, number)
            if self._tokens[sample] and self._report:
                self._write("\n")
            self._write(self._prompt_of(sample) if self._echo else "", style="bold")
            self._write_text(text)
            self._write("\n")
        if self._tinted:
            self._console.print(legend(self._console.color_system))

    def document(self, model: str, config: SampleConfig) -> dict[str, Any]:
        """Returns the samples and settings as a JSON-ready dictionary."""
        return {
            "model": model,
            "prompt": self._prompts[0] if len(self._prompts) == 1 else None,
            "settings": {name: getattr(config, name) for name in options_of(SampleConfig)}
            | {"logit_bias": [_bias(id_, bias) for id_, bias in config.logit_bias]},
            "samples": [self._sample(sample) for sample in range(len(self._texts))],
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields each text once and in order, as a JSON-ready dictionary.

        A text is yielded when it and all earlier texts are complete.
        """
        while self._given < len(self._texts) and self._finished[self._given]:
            yield {"index": self._given, "sample": self._given % self._samples} | self._sample(self._given)
            self._given += 1

    def _prompt_of(self, sample: int) -> str:
        return self._prompts[sample // self._samples]

    def _title(self, sample: int) -> str:
        """Returns the title of a sample: 'sample 2', 'prompt 3', or 'prompt 3, sample 2'."""
        parts = [f"prompt {sample // self._samples + 1}"] if len(self._prompts) > 1 else []
        return ", ".join([*parts, f"sample {sample % self._samples + 1}"] if self._samples > 1 else parts)

    def _sample(self, sample: int) -> dict[str, Any]:
        end, tokens = self._finished[sample], self._tokens[sample]
        document = {
            "prompt": self._prompt_of(sample),
            "text": "".join(text for text, _ in self._texts[sample]),
            "ids": list(end.ids) if end else [],
            "finish_reason": end.reason if end else None,
        }
        return document | {"tokens": [token_document(token) for token in tokens]} if tokens else document

    def _tell(self, sample: int, number: int) -> None:
        """Prints the report on the `number`-th token. Before the first token, prints the column names."""
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
            self._write(self._prompts[0], style="bold", complete=True)  # shown before the model has read it

    def _write(self, text: str, style: str | Style = "", *, complete: bool = False) -> None:
        """Writes text: escaped and wrapped between words on a terminal, unchanged elsewhere."""
        if self._console.is_terminal:
            self._words.write(text, style, complete=complete)
        else:
            self._console.file.write(text)
        self._console.file.flush()


def _bias(id_: int | str, bias: float) -> dict[str, Any]:
    """Returns a bias for JSON, which has no infinity: a ban is the string '-inf'."""
    return {"id": id_, "bias": bias if math.isfinite(bias) else str(bias)}


def throughput_line(throughput: Throughput, how: str) -> str:
    """Returns the throughput in one line. `how` is the end of the line, such as 'in C on 2 threads, bfloat16'.

    '6 prompt tokens in 4 ms · first token 5 ms after the start · 200 tokens, 1,480 a second · in C on 2 threads, int8'.
    """
    parts = [
        f"{plural(throughput.prompt_tokens, 'prompt token')} in {precise_duration(throughput.prompt_seconds)}",
        f"first token {precise_duration(throughput.first_token_seconds)} after the start",
        plural(throughput.new_tokens, "token") + (f", {throughput.rate:,.0f} a second" if throughput.rate else ""),
        how,
    ]
    return " · ".join(parts)


def throughput_document(throughput: Throughput) -> dict[str, Any]:
    """Returns the throughput as a JSON-ready dictionary."""
    return asdict(throughput) | {"prompt_rate": throughput.prompt_rate, "rate": throughput.rate}
