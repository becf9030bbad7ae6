"""EngineConfig: the settings for the speed of generation. No field changes the text."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.config.limits import at_least
from attncli.config.option import option
from attncli.errors import UsageProblem

SPEED_PANEL = "Speed; no option here changes the text"


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The settings for the speed of generation; every value gives the same text."""

    cached: bool = option(
        True,
        "Use the KV cache, or recompute keys and values for every token.",
        "--cache/--no-cache",
        panel=SPEED_PANEL,
        rare=True,
    )
    lookup: bool | None = option(  # None: only if guesses do not change the backend's logits
        None,
        "Prompt lookup: guess tokens from repeated text and verify them in one step. Unset: only if it is faster and "
        "cannot change the text.",
        panel=SPEED_PANEL,
        rare=True,
    )
    at_once: int = 64  # the largest number of texts in a batch
    prompt_tokens: int | None = None  # most tokens of prompts and sources in one step; None, or without a cache: all
    streamed: bool = True  # yield text as soon as it is final; if false, decode and yield it when its sample has ended

    def __post_init__(self) -> None:
        at_least(1).check("at_once", self.at_once)
        if self.prompt_tokens is not None:
            at_least(1).check("prompt_tokens", self.prompt_tokens)
        if self.lookup and not self.cached:
            raise UsageProblem.naming(
                lambda name: (f"{name('lookup')} needs the cache.", f"Leave out {name('cached')} or {name('lookup')}.")
            )
