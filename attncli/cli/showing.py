"""What of a generation is shown, and how: its text as it comes, its tokens, its speed, its proof.

For `attncli generate` in all its ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncli.checkpoint.store import LoadedModel
from attncli.cli import clock
from attncli.cli.asking import Asking
from attncli.config import ModelConfig, SampleConfig
from attncli.errors import BadInput
from attncli.generation.engine import EngineConfig, generate, last_that_fit, refuse_unreadable
from attncli.generation.seeing import Watch
from attncli.generation.stopwatch import Stopwatch
from attncli.model.backend import Backend
from attncli.render.console import output, print_json, print_note
from attncli.render.generation import GenerationScreen, Report, throughput_document, throughput_line
from attncli.render.surprise import why_no_colors
from attncli.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What the options ask to see."""

    stream: bool
    color: bool
    logprobs: int | None
    trace: bool
    stats: bool
    json: bool
    jsonl: bool

    @property
    def watch(self) -> Watch | None:
        """What has to be told of every token."""
        return Watch(self.logprobs or 0, self.trace) if self.color or self.trace or self.logprobs is not None else None

    def screen(self, prompts: Sequence[str], samples: int, *, echo: bool = True) -> GenerationScreen:
        """Where the texts go; without `echo` not the prompts."""
        report: Report | None = "trace" if self.trace else None if self.logprobs is None else "logprobs"
        live = self.stream and not (self.json or self.jsonl)
        return GenerationScreen(output(), prompts, samples, live=live, color=self.color, report=report, echo=echo)

    def note_without_colors(self) -> None:
        """Says why nothing is tinted, where it was asked for and cannot be."""
        if self.color and not (self.json or self.jsonl) and (reason := why_no_colors(output())):
            print_note(f"no colours: {reason}; --logprobs 0 shows every token's log-probability")

    def make(
        self,
        loaded: LoadedModel,
        backend: Backend,
        prompts: Sequence[str],
        config: SampleConfig,
        how: EngineConfig,
        *,
        file: str | None,
        truncate: bool,
        verify: bool,
        tell_seed: bool,
        asking: Asking,
    ) -> None:
        """Continues the prompts, of a file's lines when there is one, and shows it. With `truncate`, what fits of them.

        Raises BadInput for a prompt that is longer than the context, Inexact when what is verified does not hold.
        """
        ids = [asking.prompt([(prompt, "")]) for prompt in prompts]
        if truncate:
            prompts, ids = truncated(backend.config, loaded.tokenizer, prompts, ids)
        if file is not None:
            _refuse_unreadable_lines(loaded, backend, ids, file)
        self.note_without_colors()
        stopwatch = Stopwatch(clock.started)
        events = generate(backend, loaded.tokenizer, ids, config, loaded.end_ids, self.watch, how)
        verification = None
        if verify:
            from attncli.cli.verifying import Verification

            verification = Verification(loaded, backend, ids, config)
            events = verification.keep(events)
        screen = self.screen(prompts, config.num_samples, echo=not asking.chat)
        for event in events:
            stopwatch.update(event)
            screen.update(event)
            for record in screen.records() if self.jsonl else ():
                print_json(record, indent=None)
        throughput = stopwatch.result()
        if self.json:
            document = screen.document(loaded.name, config)
            document |= {"throughput": throughput_document(throughput)} if self.stats else {}
            print_json(document | (verification.document() if verification else {}))
        elif not self.jsonl:
            screen.close()
        if self.stats:
            print_note(throughput_line(throughput, backend.description))
        if advice := asking.advice:
            print_note(advice)
        elif not screen.any_text:
            print_note("the model ended the text at once: try a prompt, or another --seed")
        if tell_seed and config.temperature > 0:
            print_note(f"seed {config.seed}")
        if screen.reread:
            context = backend.config.context
            print_note(f"past the context of {context} tokens: went on from the most recent {screen.reread}")
        if verification:
            if not self.json:
                verification.show()
            verification.require()


def truncated(
    model: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[str], ids: Sequence[list[int]]
) -> tuple[list[str], list[list[int]]]:
    """The prompts and their ids; of one longer than the context the end that fits, with a note of what is left out."""
    opening = len(tokenizer.opening)
    fitting = [last_that_fit(model, tokenizer, one) for one in ids]
    cut = [number for number, (one, kept) in enumerate(zip(ids, fitting, strict=True)) if len(kept) < len(one)]
    if cut:
        longest = max(cut, key=lambda number: len(ids[number]))
        left_out, of = len(ids[longest]) - len(fitting[longest]), len(ids[longest]) - opening
        which = "the prompt" if len(prompts) == 1 else f"{len(cut)} of {len(prompts)} prompts; of line {longest + 1}"
        print_note(f"truncated {which}: the first {left_out:,} of {of:,} tokens are left out")
    kept_texts = list(prompts)
    for number in cut:
        kept_texts[number] = tokenizer.decode(fitting[number][opening:])
    return kept_texts, fitting


def _refuse_unreadable_lines(loaded: LoadedModel, backend: Backend, ids: Sequence[Sequence[int]], file: str) -> None:
    """Raises BadInput for a prompt that cannot be read, naming its line."""
    for line, one in enumerate(ids, 1):
        try:
            refuse_unreadable(backend.config, loaded.tokenizer, one)
        except BadInput as problem:
            raise BadInput(f"{file}, line {line}: {problem.message}", problem.hint) from None
