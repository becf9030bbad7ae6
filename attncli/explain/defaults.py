"""Default values and choices of the commands that explain. Their help shows them, so this module imports no torch."""

from __future__ import annotations

from typing import Literal

Measure = Literal["norm", "raw"]  # the norm of a source's contribution, or its attention weight
MEASURES: tuple[Measure, ...] = ("norm", "raw")

SOURCES = 8  # sources that the first screen of explain lists and cuts one at a time, besides the first token
MORE_SOURCES = 24  # sources that the view bars lists and cuts one at a time, besides the first token
HEAD_TOKENS = 50  # random tokens that heads draws and repeats; fewer where they do not fit
# Random texts that heads averages over. On the shipped model, the best three heads of a kind are those of 300 texts in
# 74% of draws of 4 texts, and in 97% of draws of 32 (without sinks, of which two are tied). A text takes a core 45 ms.
HEAD_TEXTS = 32
PASSAGES = 50  # passages that faithful draws from files
PASSAGE_TOKENS = 64  # of a passage that faithful draws, at most
