"""Invented explanations for the screens, and texts and helpers for tests of explanations."""

import math
from dataclasses import replace

import numpy as np
import torch

from attncli.explain import reading
from attncli.explain.checks import EdgeChecks
from attncli.explain.first_screen import Explanation, explain
from attncli.explain.head_map import HeadMap
from attncli.explain.knockout import Knockout
from attncli.explain.next_token import NextToken
from attncli.explain.question import Focus, MapAxes
from attncli.explain.reading import Reading
from attncli.explain.sources import Sources
from attncli.render.first_screen import bars_screen, explanation_screen
from attncli.render.grid import grid_document, grid_screen
from attncli.render.head_map import map_document, map_screen
from attncli.render.lens import lens_document, lens_screen
from attncli.render.logit import logit_document, logit_screen
from attncli.render.rollout import rollout_document, rollout_screen
from attncli.render.steps import steps_document, steps_screen
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import tiny_model
from tests.support.screens import screen
from tests.support.texts import story


def causal_axes(pieces):
    """Returns the axes of a decoder alone: each token attends to itself and to all earlier tokens."""
    return MapAxes(tuple(pieces), tuple(pieces), tuple(range(1, len(pieces) + 1)))


def explanation(texts, focus=None, *, layers=4, heads=6, next_tokens=(), pieces=None):
    """Returns a random but valid explanation: shares and rows sum to 1, and no token attends to later tokens."""
    pieces = tuple(pieces or (Piece(i, text, len(text.encode())) for i, text in enumerate(texts)))
    length = len(pieces)
    focus = length - 1 if focus is None else focus
    generator = np.random.default_rng(length)

    def distribution(upto):
        drawn = np.zeros(length)
        drawn[: upto + 1] = generator.random(upto + 1) ** 3 + 1e-3
        return drawn / drawn.sum()

    by_layer = np.stack([distribution(focus) for _ in range(layers)])
    weights = np.stack([distribution(row) for row in range(length)])
    before = float(np.diag(weights, -1).mean()) if length > 1 else None
    chance = float(np.mean([1 / (row + 1) for row in range(1, length)])) if length > 1 else None
    axes = causal_axes(pieces)
    return Explanation(
        axes=axes,
        layers=layers,
        heads=heads,
        sources=Sources(
            focus,
            "norm",
            tuple(range(layers)),
            None,
            by_layer.mean(0),
            by_layer,
            distribution(focus),
            focus + 1,
            axes.apart(focus),
        ),
        map=HeadMap(2, 3, weights, False, before, chance, axes),
        next_tokens=tuple(NextToken(i, text, p) for i, (text, p) in enumerate(next_tokens or ((" and", 0.21),))),
    )


ENGLISH = ["He", " sat", " on", " the", " river", "'s", " bank"]


FOREIGN = ["東京日本東京日本", " naïve", "🎉🎉", "\n", "\x1b[2J", "한국어한국어한국어", " a"]


GOLDEN_AXES = causal_axes((Piece(5, "The", 3), Piece(9, " cat", 4), Piece(7, " sat", 4), Piece(3, "東", 1, (1, 3))))


GOLDEN_FINDINGS = Explanation(
    axes=GOLDEN_AXES,
    layers=2,
    heads=2,
    sources=Sources(
        focus=3, weights="norm", layers=(0, 1), head=None, shares=np.array([0.2, 0.1, 0.4, 0.3]),
        by_layer=np.array([[0.1, 0.1, 0.5, 0.3], [0.3, 0.1, 0.3, 0.3]]), raw=np.array([0.55, 0.05, 0.1, 0.3]),
        reach=4, apart=(0,), beside_stream=0.3,
    ),
    map=HeadMap(
        layer=1, head=0,
        weights=np.array([[1, 0, 0, 0], [0.75, 0.25, 0, 0], [0.5, 0.004, 0.496, 0], [0.05, 0.2, 0.65, 0.1]]),
        asked_for=False, previous_token=0.468, previous_token_chance=0.36111, axes=GOLDEN_AXES,
    ),
    next_tokens=(NextToken(2, " on", 0.5), NextToken(0, "\n", 0.0123), NextToken(1, "[red]", 0.0002)),
)  # fmt: skip


CHECKS = EdgeChecks(NextToken(2, " on", 0.5), (2, 3, 1, 0), (0.09, 0.451, 0.0002, 0.52), 0.3237, 3, 3)


def checked(found, token=" and", left=0.0002):
    """Returns the explanation with an invented ablation of every named source."""
    named = found.sources.named(8)
    return replace(found, checks=EdgeChecks(NextToken(1, token, 0.21), tuple(named), (left,) * len(named), 0.2, 32, 99))


TEXT = "The small cat sat near the river"


TOKENIZER = train_tokenizer([story(400)], "bpe", 300)


def explained(focus=Focus(), text=TEXT, **switches):  # noqa: B008 - frozen
    model = tiny_model(vocab_size=300, **switches)
    return explain(Reading.of(model, TOKENIZER.pieces(text)), TOKENIZER, focus)


def contributions(model, steps, layer, module=None):
    """Returns the vectors a_hij f_h(x_j), (H, T, S, C), as a reference for norms and projections of contributions.

    `module` is the attention; by default, it is self-attention.
    """
    module = module or model.blocks[layer].attention
    value = steps.value[0].repeat_interleave(module.heads // module.kv_heads, 0)  # (H, S, D)
    matrix = module.output.weight.unflatten(1, (module.heads, -1))  # (C, H, D)
    transformed = torch.einsum("hsd,chd->hsc", value, matrix)
    return steps.weights[0][..., None] * transformed[:, None]


def in_stretches(monkeypatch, whole=16, stretch=9):
    """Lowers the limits: a text of more than `whole` tokens is prefilled in chunks of `stretch` tokens."""
    monkeypatch.setattr(reading, "WHOLE", whole)
    monkeypatch.setattr(reading, "_STRETCH", stretch)


def pieces_of(*texts):
    """Returns tokens with these texts."""
    return [Piece(at, text, len(text)) for at, text in enumerate(texts)]


class CutEdges(Knockout):
    """A reference for Knockout, which sets the scores of given edges to -inf in every head."""

    def __init__(self, *edges):
        super().__init__(())
        self.edges = edges

    def scores(self, layer, scores, module):
        for query, source in self.edges:
            scores[:, :, query, source] = -math.inf
        return scores


def view_text(view, found, width, colors=None):
    console = screen(width, colors)
    draw = {"bars": bars_screen, "first": explanation_screen}.get(view) or VIEWS[view][0]
    console.print(draw(found, "stories", console))
    return console.file.getvalue()


VIEWS = {
    "lens": (lens_screen, lens_document),
    "logit": (logit_screen, logit_document),
    "steps": (steps_screen, steps_document),
    "grid": (grid_screen, grid_document),
    "rollout": (rollout_screen, rollout_document),
    "map": (map_screen, map_document),
}
