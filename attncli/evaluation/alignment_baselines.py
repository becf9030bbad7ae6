"""Scores alignments beside baselines on the same pairs: an HMM, IBM Model 1 and the diagonal. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attncli.evaluation.alignment import (
    AlignmentScore,
    GoldPair,
    LinkMethod,
    Links,
    diagonal,
    grow_diagonal_final,
    score_links,
)
from attncli.evaluation.bitext import WordPair, lowered
from attncli.evaluation.ibm import Aligner


@dataclass(frozen=True)
class AlignmentComparison:
    """The scores against gold links of the links that each method finds with a model, and of the baselines' links."""

    methods: dict[LinkMethod, AlignmentScore]
    baselines: dict[str, AlignmentScore]  # by name: HMM, IBM Model 1, diagonal
    trained_on: int  # the pairs that Model 1 and the HMM were trained on


def compare_with_baselines(
    found: Mapping[LinkMethod, Sequence[Links]], gold: Sequence[GoldPair], training: Sequence[WordPair] = ()
) -> AlignmentComparison:
    """Scores the links of each method against gold links, and scores the baselines.

    Model 1 and the HMM are trained on the gold pairs and on the `training` pairs, in lower case. The links of their two
    directions are united by grow-diag-final-and.
    """
    links = [pair.links for pair in gold]
    pairs = [(lowered(pair.source), lowered(pair.target)) for pair in gold]
    pairs += [(lowered(source), lowered(target)) for source, target in training]
    baselines = {
        "HMM": _united(Aligner(pairs, "hmm"), len(gold)),
        "IBM Model 1": _united(Aligner(pairs, "model1"), len(gold)),
        "diagonal": [diagonal(len(pair.source), len(pair.target)) for pair in gold],
    }
    return AlignmentComparison(
        {method: score_links(those, links) for method, those in found.items()},
        {name: score_links(those, links) for name, those in baselines.items()},
        len(pairs),
    )


def _united(aligner: Aligner, most: int) -> list[Links]:
    return [grow_diagonal_final(*both) for both in zip(*aligner.links(most), strict=True)]
