"""Scores translations by BLEU and chrF2, through sacrebleu, an optional dependency.

Texts are scored as they are, detokenized. The settings are sacrebleu's defaults, and every score has the signature that
names them. A source with several targets is translated once, and its translation is compared with all of its targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest

from attncli.errors import BadInput
from attncli.evaluation.nearest import nearest_targets


@dataclass(frozen=True)
class References:
    """The different sources of a text, in order, each with its different targets."""

    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """The number of targets of all sources."""
        return sum(map(len, self.targets))


@dataclass(frozen=True)
class TranslationScore:
    """BLEU and chrF2, from 0 to 100, of the translations of a text."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    length_ratio: float  # words of the translations / words of the targets that are nearest in length
    sentences: int  # different sources, each translated once
    references: int  # targets with which the translations were compared


@dataclass(frozen=True)
class NotScored:
    """Why translations were not scored, and what to do."""

    reason: str
    hint: str


NOT_INSTALLED = NotScored("sacrebleu is not installed.", "Install it: pip install 'attncli[translation]'")


def references_of(pairs: Iterable[tuple[str, str]]) -> References:
    """Returns the different sources of pairs, each with its targets: (a, x), (b, y), (a, z) -> a: x, z; b: y."""
    targets: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        targets.setdefault(source, {})[target] = None
    return References(tuple(targets), tuple(map(tuple, targets.values())))


def score_translations(translations: Sequence[str], references: References) -> TranslationScore | NotScored:
    """Returns the scores of one translation of each source, in the order of `references.sources`.

    Returns NOT_INSTALLED if sacrebleu is not installed. Raises BadInput if there is nothing to score.
    """
    assert len(translations) == len(references.sources)
    if not translations:
        raise BadInput("There are no translations to score.", "Give at least one pair.")
    if not _installed():
        return NOT_INSTALLED
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # List i contains the i-th reference of every source. sacrebleu skips None, but counts "" as a reference.
    streams = list(zip_longest(*references.targets))
    bleu, chrf = BLEU(force=True), CHRF()  # without force, sacrebleu logs a warning for text that looks tokenized
    words, characters = bleu.corpus_score(translations, streams), chrf.corpus_score(translations, streams)
    return TranslationScore(
        bleu=words.score,
        bleu_signature=str(bleu.get_signature()),
        chrf=characters.score,
        chrf_signature=str(chrf.get_signature()),
        length_ratio=words.sys_len / max(words.ref_len, 1),
        sentences=len(translations),
        references=references.count,
    )


def nearest_baseline(references: References, training: Sequence[tuple[str, str]]) -> TranslationScore | NotScored:
    """Returns the scores of a baseline: each source is translated by the target of the most similar training source.

    `training` contains at least one pair of a source and a target.
    """
    if not _installed():
        return NOT_INSTALLED
    return score_translations(nearest_targets(references.sources, training), references)


def _installed() -> bool:
    return find_spec("sacrebleu") is not None
