"""Judges the translations of a model: BLEU and chrF2 of as many sources as time allows, beside a baseline.

This module imports no torch: the caller gives the function that translates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attncli.evaluation.translation import NotScored, References, TranslationScore, nearest_baseline, score_translations

Translate = Callable[[Sequence[str]], list[str]]  # source texts -> their translations, in the same order

_AT_ONCE = 64  # sources in a batch


@dataclass(frozen=True)
class TranslationJudgement:
    """The scores of a model's translations and of the baseline, on the same sources.

    `baseline` is the target of the nearest training source; None without training pairs. `sources` is the number of
    different sources of the text, of which `scored` were translated.
    """

    score: TranslationScore | NotScored
    baseline: TranslationScore | NotScored | None
    scored: int
    sources: int


def judge_translations(
    translate: Translate,
    references: References,
    training: Sequence[tuple[str, str]] = (),
    most: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int], None] = lambda translated: None,
) -> TranslationJudgement:
    """Translates sources, and scores the translations against all targets of each source.

    Args:
        translate: returns the translations of some sources.
        references: the sources, each with its targets.
        training: the pairs of the baseline.
        most: the most sources to translate, spread evenly; None for all.
        seconds: stops after this time. The translated sources are then still spread evenly, and at least one batch.
        progress: is called after each batch with the number of sources translated so far.
    """
    total = len(references.sources)
    count = total if most is None else min(total, most)
    chosen = [at * total // count for at in range(count)]
    groups = -(-count // _AT_ONCE)
    began, outputs = time.monotonic(), dict[int, str]()
    for number in range(groups):
        group = chosen[number::groups]
        found = translate([references.sources[at] for at in group])
        outputs |= dict(zip(group, found, strict=True))
        progress(len(outputs))
        if seconds is not None and time.monotonic() - began > seconds:
            break
    done = sorted(outputs)
    part = References(tuple(references.sources[at] for at in done), tuple(references.targets[at] for at in done))
    score = score_translations([outputs[at] for at in done], part)
    baseline = nearest_baseline(part, training) if training else None
    return TranslationJudgement(score, baseline, len(done), total)
