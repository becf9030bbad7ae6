"""The options that several commands of `attncli circuit` have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attncli.circuits.defaults import MEASURES, MeasureKind
from attncli.config.limits import Limit, is_finite
from attncli.config.option import check, option

SHARE = Limit("a number from 0.01 to 1", lambda share: is_finite(share) and 0.01 <= share <= 1)
NPZ: Path | None = option(None, "Also write the numbers as NumPy arrays.", metavar="FILE.npz", rare=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The options that choose the measure: its tokens, and logits or a log-probability."""

    target: str | None = option(None, "The clean continuation. Unset: the clean run's most probable.", metavar="TOKEN")
    against: str | None = option(
        None, "The corrupt continuation. Unset: the corrupt run's most probable.", metavar="TOKEN"
    )
    measure: MeasureKind = option(
        "logit-difference",
        "The logit of --target minus that of --against, or the log-probability of --target.",
        choices=MEASURES,
        rare=True,
    )

    def __post_init__(self) -> None:
        check(self)
