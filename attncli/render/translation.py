"""Draws the scores of translations: BLEU and chrF2 beside the baseline, with their signatures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.evaluation.translation import NotScored, TranslationScore
from attncli.evaluation.translation_judgement import TranslationJudgement
from attncli.render.numbers import plural


def translation_screen(found: TranslationJudgement) -> RenderableType:
    """Returns the table of the scores, or the reason why there are none."""
    score, baseline = found.score, found.baseline
    if isinstance(score, NotScored):
        return Text(f"BLEU and chrF2 were not computed: {score.reason} {score.hint}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "BLEU", "chrF2"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    rows = [("model, greedy", score)]
    if baseline is not None and isinstance(baseline, TranslationScore):
        rows.append(("target of the nearest training source", baseline))
    for name, one in rows:
        table.add_row(name, f"{one.bleu:.1f}", f"{one.chrf:.1f}")
    part = "" if found.scored == found.sources else f" of {found.sources:,}, spread evenly"
    ratio = f"the translations have {score.length_ratio:.0%} of their words"
    on = f"{plural(found.scored, 'source')}{part}, compared with {plural(score.references, 'target')}; {ratio}"
    signatures = Text(f"BLEU {score.bleu_signature}\nchrF2 {score.chrf_signature}", style="dim")
    return Group(table, Text(on, style="dim"), signatures)


def translation_document(found: TranslationJudgement) -> dict[str, Any]:
    """Returns the scores as JSON values; a score is null if it was not computed."""
    return {
        "model": _document(found.score),
        "nearest": None if found.baseline is None else _document(found.baseline),
        "sources": found.scored,
        "sources_of": found.sources,
        "not_scored": None if isinstance(found.score, TranslationScore) else f"{found.score.reason} {found.score.hint}",
    }


def _document(score: TranslationScore | NotScored) -> dict[str, Any] | None:
    return asdict(score) if isinstance(score, TranslationScore) else None
