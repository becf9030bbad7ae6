"""A session of `attncli generate`: a loaded model, and the settings for sampling, speed and output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from attncli.checkpoint.load import LoadedModel
from attncli.cli.generating.display import Display
from attncli.cli.generating.prompts import PromptFormat
from attncli.cli.loading import load_to_generate
from attncli.cli.shared import ModelSource
from attncli.config import EngineConfig, SampleConfig
from attncli.generation.defaults import settings_for
from attncli.generation.engine import generate
from attncli.generation.events import Event
from attncli.generation.token_details import TokenDetails
from attncli.model.backend import Backend
from attncli.render.console import output, print_note
from attncli.render.generation import GenerationScreen, TokenReport
from attncli.render.surprise import why_no_colors


@dataclass(frozen=True)
class Session:
    """A model that is loaded to generate, and the settings of the command."""

    source: ModelSource
    loaded: LoadedModel
    backend: Backend
    sampling: SampleConfig
    engine: EngineConfig
    display: Display
    format: PromptFormat
    truncate: bool  # cut prompts that are longer than the context

    @classmethod
    def open(
        cls,
        source: ModelSource,
        dtype: str,
        sampling: SampleConfig,
        engine: EngineConfig,
        display: Display,
        *,
        chat: bool,
        truncate: bool,
        given: Collection[str],
    ) -> Self:
        """Returns a session with a loaded model. `given` are the names of the options that the user gave.

        Raises BadCheckpoint or UsageProblem.
        """
        loaded, backend = load_to_generate(source, dtype, keep=display.verify)
        sampling = settings_for(loaded, sampling, given)
        return cls(source, loaded, backend, sampling, engine, display, PromptFormat.of(loaded, chat), truncate)

    def events(self, prompts: Sequence[list[int]], sampling: SampleConfig | None = None) -> Iterator[Event]:
        """Continues prompts, given as token ids, and yields the events. `sampling` replaces the session's settings."""
        loaded, display = self.loaded, self.display
        each_token = display.color or display.trace or display.logprobs is not None
        details = TokenDetails(display.logprobs or 0, display.trace) if each_token else None
        sampling = sampling or self.sampling
        targets, sources = loaded.inputs(prompts)
        single = len(prompts) * sampling.num_samples == 1  # several texts are printed when they are complete
        how = replace(self.engine, streamed=single or display.verify)
        return generate(self.backend, loaded.tokenizer, targets, sampling, loaded.end_ids, details, how, sources)

    @property
    def echo(self) -> bool:
        """Whether the prompt is shown before each text: not before an answer or a translation."""
        return not self.format.chat and not self.loaded.translates

    def screen(self, prompts: Sequence[str], samples: int, *, echo: bool = True) -> GenerationScreen:
        """Returns the screen that shows the generated texts. With `echo`, it shows the prompt before each text.

        If each text has a single translation, the translations have no titles.
        """
        display = self.display
        report: TokenReport | None = "trace" if display.trace else None if display.logprobs is None else "logprobs"
        live = display.stream and not display.as_json
        titled = not self.loaded.translates or samples > 1
        return GenerationScreen(
            output(), prompts, samples, live=live, color=display.color, report=report, echo=echo, titled=titled
        )

    def note_without_colors(self) -> None:
        """Prints a note if --color was given and the terminal shows no colors."""
        if self.display.color and not self.display.as_json and (reason := why_no_colors(output())):
            print_note(f"no colors: {reason}; --logprobs 0 shows every token's log-probability")
