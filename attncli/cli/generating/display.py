"""The options of `attncli generate` that choose the output: text, colors, log-probabilities, JSON."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.config.engine import SPEED_PANEL
from attncli.config.limits import at_least
from attncli.config.option import check, option
from attncli.errors import UsageProblem

_SEE = "Details of every token"


@dataclass(frozen=True, kw_only=True)
class Display:
    """The options of `attncli generate` for its output: streaming, details of tokens, speed, JSON."""

    stream: bool = option(True, "Print the text while it is generated, or only at the end.", rare=True)
    color: bool = option(False, "Tint each token by its surprisal, in bits.", panel=_SEE)
    logprobs: int | None = option(
        None,
        "Print the log-probability of each token and of the K most probable tokens, without penalties and filters.",
        metavar="K",
        limit=at_least(0),
        panel=_SEE,
        rare=True,
    )
    trace: bool = option(
        False,
        "Show for each token which candidates every sampling step removed, and which were left.",
        panel=_SEE,
        rare=True,
    )
    stats: bool = option(False, "Print the speed on standard error.", panel=SPEED_PANEL, rare=True)
    verify: bool = option(
        False,
        "Verify the texts: generate them again one at a time, in a batch, without the cache and in other ways.",
        panel=SPEED_PANEL,
        rare=True,
    )
    json: bool = option(False, "Print the result as JSON.")
    jsonl: bool = option(False, "Print each text as a line of JSON, as soon as it is complete.", rare=True)

    def __post_init__(self) -> None:
        check(self)
        if self.json and self.jsonl:
            raise UsageProblem("--json and --jsonl both choose the format of the output.", "Give one of them.")
        if self.jsonl and (self.verify or self.stats):
            raise UsageProblem("--jsonl prints only texts.", "With --verify or --stats, use --json.")
        if self.trace and self.logprobs is not None and not self.as_json:
            raise UsageProblem(
                "--trace and --logprobs print two reports on the same tokens.", "Give one of them, or add --json."
            )

    @property
    def as_json(self) -> bool:
        """Whether the texts are printed as JSON: --json or --jsonl was given."""
        return self.json or self.jsonl
