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
    """The options for the output of generated texts: details, format, speed."""

    stream: bool = option(True, "Print the text while it is generated, or at the end.", rare=True)
    color: bool = option(False, "Tint each token by its surprisal, in bits.", panel=_SEE)
    logprobs: int | None = option(
        None,
        "Print the log-probability of each token and of the K most probable tokens, before penalties and filters.",
        metavar="K",
        limit=at_least(0),
        panel=_SEE,
        rare=True,
    )
    trace: bool = option(
        False,
        "Show what each sampling step above removed before a token was drawn, and what it left.",
        panel=_SEE,
        rare=True,
    )
    stats: bool = option(False, "Print the speed on standard error.", panel=SPEED_PANEL, rare=True)
    verify: bool = option(
        False,
        "Generate the same texts again one at a time, in a batch, without the cache and in other ways, and compare.",
        panel=SPEED_PANEL,
        rare=True,
    )
    json: bool = option(False, "Print the result as JSON.")
    jsonl: bool = option(False, "Print each text as a line of JSON, as soon as it is complete.", rare=True)

    def __post_init__(self) -> None:
        check(self)
        if self.json and self.jsonl:
            raise UsageProblem("--json and --jsonl are two forms of the same.", "Give one.")
        if self.jsonl and (self.verify or self.stats):
            raise UsageProblem("--jsonl prints the texts and nothing else.", "With --verify or --stats use --json.")
        if self.trace and self.logprobs is not None and not self.as_json:
            raise UsageProblem("--trace and --logprobs are two reports on the same tokens.", "Give one, or add --json.")

    @property
    def as_json(self) -> bool:
        """Whether the texts are printed as JSON, in either form."""
        return self.json or self.jsonl
