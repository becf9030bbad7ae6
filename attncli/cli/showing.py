"""The options of `attncli generate` that say what is shown of the texts."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.config.limits import at_least
from attncli.config.option import check, option
from attncli.errors import UsageProblem

_SEE = "What to see of every token"
_SPEED = "How fast it goes; none of these changes the text"


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What is shown of the texts, and in which form."""

    stream: bool = option(True, "Show the text as it is made, or at the end.", rare=True)
    color: bool = option(False, "Tint the text by how surprising each token was to the model, in bits.", panel=_SEE)
    logprobs: int | None = option(
        None,
        "The log-probability of each token and the K most probable ones, before penalties and filters.",
        metavar="K",
        limit=at_least(0),
        panel=_SEE,
        rare=True,
    )
    trace: bool = option(
        False, "What each step above removed before a token was drawn, and what it left.", panel=_SEE, rare=True
    )
    stats: bool = option(False, "Print the speed on standard error.", panel=_SPEED, rare=True)
    verify: bool = option(
        False,
        "Generate the same text alone, in a batch, without the cache and in other ways, and compare.",
        panel=_SPEED,
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
