"""EngineConfig: how generation is computed. No field changes the text."""

from __future__ import annotations

from dataclasses import dataclass

from attncli.config.option import option
from attncli.errors import UsageProblem

_SPEED = "How fast it goes; none of these changes the text"


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How generation is computed; every setting gives the same text."""

    cached: bool = option(
        True,
        "Keep the keys and values of earlier tokens, or compute all of them again for every token.",
        "--cache/--no-cache",
        panel=_SPEED,
        rare=True,
    )
    lookup: bool | None = option(  # None: where the backend's logits are the same with and without guesses
        None,
        "Guess tokens ahead where the text repeats itself. Unset: where the text stays the same and time is saved.",
        panel=_SPEED,
        rare=True,
    )
    at_once: int = 64  # texts in a batch

    def __post_init__(self) -> None:
        if self.lookup and not self.cached:
            raise UsageProblem.naming(
                lambda name: (
                    f"{name('lookup')} reads ahead into the cache.",
                    f"Leave out {name('cached')} or {name('lookup')}.",
                )
            )
