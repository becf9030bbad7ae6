"""Draws the scores of translations: BLEU and chrF2 beside the baseline, with their signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.evaluation.score import Score
from attncli.evaluation.translation import NotScored, TranslationScore
from attncli.evaluation.translation_judgement import TranslationJudgement
from attncli.render.escape import one_line
from attncli.render.evaluation import score_table
from attncli.render.numbers import plural


def translation_screen(found: TranslationJudgement, beams: int = 1) -> RenderableType:
    """Returns the table of the scores, or the reason why there are none."""
    score, baseline = found.score, found.baseline
    if isinstance(score, NotScored):
        return Text(f"BLEU and chrF2 were not computed: {score.reason} {score.hint}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", "BLEU", "chrF2"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    rows = [("model, greedy" if beams == 1 else f"model, {beams} beams", score)]
    if baseline is not None and isinstance(baseline, TranslationScore):
        rows.append(("target of the nearest training source", baseline))
    for name, one in rows:
        table.add_row(name, f"{one.bleu:.1f}", f"{one.chrf:.1f}")
    part = "" if found.scored == found.sources else f" of {found.sources:,}, spread evenly"
    ratio = f"the translations have {score.length_ratio:.0%} of the targets' words"
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


def pair_evaluation_screen(
    model: str, pairs: str, count: int, score: Score, found: TranslationJudgement, beams: int
) -> RenderableType:
    """Returns the screen of `attncli eval` for `count` pairs: the score on the targets, then BLEU and chrF2."""
    head = f"{model} on {pairs}: {plural(count, 'pair')}, {plural(score.scored, 'target token')} scored"
    return Group(Text(one_line(head), style="bold"), score_table(score), Text(), translation_screen(found, beams))


def pair_evaluation_document(
    model: str,
    sources: Sequence[str],
    count: int,
    score: Score,
    found: TranslationJudgement,
    beams: int,
    seconds: float,
) -> dict[str, Any]:
    """Returns the evaluation as a JSON-ready dictionary."""
    return {
        "model": model,
        "sources": list(sources),
        "pairs": count,
        "characters": round(score.characters),
        "bytes": round(score.bytes),
        "scored_tokens": score.scored,
        **score.figures(),
        "beams": beams,
        "seconds": seconds,
        "translation": translation_document(found),
    }
