"""Default values and choices of the commands that explain. Their help shows them, so this module imports no torch."""

from __future__ import annotations

from typing import Literal

Measure = Literal["norm", "raw"]  # the norm of a source's contribution, or its attention weight
MEASURES: tuple[Measure, ...] = ("norm", "raw")
AttentionPart = Literal["encoder", "decoder", "cross"]  # the attentions of an encoder-decoder, as in `model.attention`
PARTS: tuple[AttentionPart, ...] = ("encoder", "decoder", "cross")
Replacement = Literal["zero", "mean"]  # what replaces the output of an ablated head: zeros or its mean
REPLACEMENTS: tuple[Replacement, ...] = ("zero", "mean")

SOURCES = 8  # sources that the first screen of explain lists and cuts one at a time, besides the first token
MORE_SOURCES = 24  # sources that the view bars lists and cuts one at a time, besides the first token
HEAD_TOKENS = 50  # random tokens that `attncli heads` draws and repeats; fewer if 50 do not fit the model
SOURCE_HEAD_TOKENS = 5  # for a model that translates: texts longer than its sentences weaken the patterns of heads
# Random texts over which `attncli heads` averages. On the shipped model, 4 texts find the same three best heads of a
# kind as 300 texts in 74% of draws, and 32 texts do in 97% (without sinks, of which two are tied). A text costs 45 ms
# on one core.
HEAD_TEXTS = 32
LEAST_TEXTS = 8  # texts that `attncli faithful` needs: with fewer, a t test tells too little
PASSAGES = 50  # passages that `attncli faithful` draws from files
PASSAGE_TOKENS = 64  # the most tokens of such a passage
