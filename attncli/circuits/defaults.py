"""The defaults and choices of the commands of `attncli circuit`. Imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

MeasureKind = Literal["logit-difference", "log-probability"]
MEASURES: tuple[MeasureKind, ...] = get_args(MeasureKind)
Direction = Literal["noising", "denoising"]  # the corrupt value into the clean run, or the clean value into the corrupt
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
Place = Literal["residual", "attention", "mlp", "head"]
PLACES: tuple[Place, ...] = get_args(Place)
Align = Literal["token", "word"]
ALIGNMENTS: tuple[Align, ...] = get_args(Align)
Method = Literal["exact", "eap", "eap-ig"]
METHODS: tuple[Method, ...] = get_args(Method)
HeadPort = Literal["query", "key", "value"]
PORTS: tuple[HeadPort, ...] = get_args(HeadPort)
LEAST_DIFFERENCE = 1e-3  # nats: if the two ends differ by less, shares of their difference mean nothing
TASKS = {
    "induction": "random words repeated: the word after the earlier occurrence comes again",
    "indirect-object": "A and B went to the park. A gave a ball to B",
    "agreement": "the dogs in the park were, the dog in the park was",
    "closing": "an opened quote or bracket is closed",
}
PAIRS = 4  # of a task
FAITHFULNESS = 0.9
EXACT_SECONDS = 60.0  # if all exact effects are estimated to take longer, edges are ranked by EAP-IG
