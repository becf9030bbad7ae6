"""The baselines of an alignment: the diagonal, IBM Model 1 and an HMM, on the same pairs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncli.evaluation.alignment import AlignmentScore, GoldPair, Links, diagonal, grow_diagonal_final, score_links
from attncli.evaluation.bitext import WordPair
from attncli.evaluation.ibm import Aligner


@dataclass(frozen=True)
class AlignmentComparison:
    """The scores of a model's links and of the baselines' links against gold links."""

    model: AlignmentScore
    baselines: dict[str, AlignmentScore]  # by name: diagonal, IBM Model 1, HMM
    trained_on: int  # the pairs that Model 1 and the HMM were trained on


def compare_with_baselines(
    found: Sequence[Links], gold: Sequence[GoldPair], training: Sequence[WordPair] = ()
) -> AlignmentComparison:
    """Scores links against gold links, and scores the baselines.

    Model 1 and the HMM are trained on the gold pairs and on the `training` pairs, in lower case. The links of their two
    directions are united by grow-diag-final-and.
    """
    links = [pair.links for pair in gold]
    pairs = [(lowered(pair.source), lowered(pair.target)) for pair in gold]
    pairs += [(lowered(source), lowered(target)) for source, target in training]
    baselines = {
        "diagonal": [diagonal(len(pair.source), len(pair.target)) for pair in gold],
        "IBM Model 1": _united(Aligner(pairs, "model1"), len(gold)),
        "HMM": _united(Aligner(pairs, "hmm"), len(gold)),
    }
    scores = {name: score_links(those, links) for name, those in baselines.items()}
    return AlignmentComparison(score_links(found, links), scores, len(pairs))


def lowered(words: Sequence[str]) -> list[str]:
    """Returns words in lower case."""
    return [word.lower() for word in words]


def _united(aligner: Aligner, most: int) -> list[Links]:
    return [grow_diagonal_final(*both) for both in zip(*aligner.links(most), strict=True)]
