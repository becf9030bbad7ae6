"""A session of `attncli generate`: a loaded model, and the settings for sampling, computing and showing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from attncli.checkpoint.load import LoadedModel
from attncli.cli.generating.display import Showing
from attncli.cli.generating.prompts import Asking
from attncli.cli.loading import load_to_generate
from attncli.cli.shared import ModelSource
from attncli.config import EngineConfig, SampleConfig
from attncli.generation.bias import with_token_ids
from attncli.generation.engine import generate
from attncli.generation.events import Event
from attncli.generation.token_details import TokenDetails
from attncli.model.backend import Backend
from attncli.render.console import output, print_note
from attncli.render.generation import GenerationScreen, TokenReport
from attncli.render.surprise import why_no_colors


@dataclass(frozen=True)
class Session:
    """A model loaded to generate, with the settings of the command."""

    source: ModelSource
    loaded: LoadedModel
    backend: Backend
    sampling: SampleConfig
    engine: EngineConfig
    showing: Showing
    asking: Asking
    truncate: bool  # cut prompts that are longer than the context

    @classmethod
    def open(
        cls,
        source: ModelSource,
        dtype: str,
        sampling: SampleConfig,
        engine: EngineConfig,
        showing: Showing,
        *,
        chat: bool,
        truncate: bool,
    ) -> Self:
        """Loads the model. Raises BadCheckpoint or UsageProblem."""
        loaded, backend = load_to_generate(source, dtype, keep=showing.verify)
        sampling = with_token_ids(sampling, loaded.tokenizer)
        return cls(source, loaded, backend, sampling, engine, showing, Asking.of(loaded, chat), truncate)

    def events(self, prompts: Sequence[Sequence[int]], sampling: SampleConfig | None = None) -> Iterator[Event]:
        """Continues prompts, given as token ids, and yields the events. `sampling` overrides the session's settings."""
        loaded, showing = self.loaded, self.showing
        each_token = showing.color or showing.trace or showing.logprobs is not None
        details = TokenDetails(showing.logprobs or 0, showing.trace) if each_token else None
        sampling = sampling or self.sampling
        return generate(self.backend, loaded.tokenizer, prompts, sampling, loaded.end_ids, details, self.engine)

    def screen(self, prompts: Sequence[str], samples: int, *, echo: bool = True) -> GenerationScreen:
        """Returns the screen that shows the texts; with `echo` each text follows its prompt."""
        showing = self.showing
        report: TokenReport | None = "trace" if showing.trace else None if showing.logprobs is None else "logprobs"
        live = showing.stream and not showing.as_json
        return GenerationScreen(output(), prompts, samples, live=live, color=showing.color, report=report, echo=echo)

    def note_without_colors(self) -> None:
        """If --color was given and the terminal shows no colors, prints why no text is tinted."""
        if self.showing.color and not self.showing.as_json and (reason := why_no_colors(output())):
            print_note(f"no colours: {reason}; --logprobs 0 shows every token's log-probability")
