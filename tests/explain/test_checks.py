"""Edge checks: batched cuts equal single cuts in whole forward passes."""

import math

import pytest
import torch

from attncli.explain import checks as module
from attncli.explain.checks import Prediction, probabilities
from attncli.explain.first_screen import explain
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.model.attention import Observer
from attncli.model.cache import SharedPast
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.explanations import CutEdges
from tests.support.models import Recorder, ids_of, tiny_model
from tests.support.texts import story

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)
TEXT = "The small cat sat near the river"


def asked(model, ids, queries=1, target=5):
    """Returns the prediction after the last token. All tokens before the last `queries` are the cached past."""
    seen = Recorder()
    model(ids, observe=seen)
    start = ids.shape[1] - queries
    keys = [seen.steps[layer].key[:, :, :start] for layer in seen.steps]
    values = [seen.steps[layer].value[:, :, :start] for layer in seen.steps]
    return Prediction(SharedPast(keys, values, model.config.context), ids[0, start:], (target,))


class Some(Observer):
    """A reference for Knockout, which sets the score of one edge to -inf in the given heads of each layer."""

    def __init__(self, heads, query, source):
        self.heads, self.edge = heads, (query, source)

    def scores(self, layer, scores, module):
        for head in self.heads.get(layer, ()):
            scores[:, head, *self.edge] = -math.inf
        return scores


@torch.no_grad()
@pytest.mark.parametrize("queries", [1, 3])
def test_a_cut_with_a_shared_past_equals_the_cut_in_a_full_forward_pass(family, queries, monkeypatch):
    model = tiny_model(dtype=torch.float64, **family)
    ids = ids_of(14)
    monkeypatch.setattr(module, "_MOST_ELEMENTS", 4 * queries * 14 * 4)  # four cuts in a pass
    edges = [[(query, source) for query in range(14 - queries, 14)] for source in range(11)]
    cuts = [Cut(frozenset((query - 14 + queries, source) for query, source in group)) for group in edges]
    found = probabilities(model, asked(model, ids, queries), [Cut(frozenset()), *cuts])
    whole = [model(ids, observe=CutEdges(*group))[0, -1].float().softmax(-1)[5] for group in [[], *edges]]
    assert found == pytest.approx([float(p) for p in whole], rel=1e-6)
    assert len({round(p, 12) for p in found}) >= 5


@torch.no_grad()
def test_a_cut_edge_carries_no_information(family):
    """If every edge from a token is cut, replacing the token changes no later token. Without the cut, it does."""
    model = tiny_model(dtype=torch.float64, **family)
    ids, other = ids_of(10), ids_of(10)
    other[0, 4] = (other[0, 4] + 1) % 97
    every = Knockout([Cut(frozenset((query, 4) for query in range(5, 10)))])
    before, after = model(ids, observe=every), model(other, observe=every)
    torch.testing.assert_close(before[:, 5:], after[:, 5:], rtol=0, atol=1e-12)
    assert (model(ids)[:, 5:] - model(other)[:, 5:]).abs().max() > 1e-3


@torch.no_grad()
def test_cutting_a_masked_edge_changes_nothing():
    model = tiny_model(dtype=torch.float64, window=4, qk_norm=False)
    found = probabilities(model, asked(model, ids_of(12)), [Cut(frozenset()), Cut(frozenset({(0, 3)}))])
    assert found[0] == found[1]


@torch.no_grad()
def test_the_random_cut_is_the_mean_over_all_sources_before_the_focus():
    model = tiny_model(vocab_size=300)
    pieces = TOKENIZER.pieces(TEXT)
    found = explain(Reading.of(model, pieces), TOKENIZER, Focus(token=6))
    checks = found.checks
    assert list(checks.sources) == found.sources.named(8)
    assert sorted(checks.sources) == list(range(7))
    assert checks.token.id == found.next_tokens[0].id
    assert checks.token.probability == pytest.approx(found.next_tokens[0].probability, abs=1e-6)
    others = [left for source, left in zip(checks.sources, checks.probabilities, strict=True) if source != 6]
    assert checks.random == pytest.approx(sum(others) / 6)
    assert (checks.random_cuts, checks.random_of) == (6, 6)
    ids = torch.tensor([[piece.id for piece in pieces]])
    for source, probability in zip(checks.sources, checks.probabilities, strict=True):
        whole = model(ids, observe=CutEdges((6, source)))[0, 6].softmax(-1)[checks.token.id]
        assert probability == pytest.approx(float(whole), abs=1e-6)


@pytest.mark.parametrize("focus", [5, 6])
def test_the_random_cut_excludes_the_token_in_focus(focus):
    checks = explain(
        Reading.of(tiny_model(vocab_size=300), TOKENIZER.pieces(TEXT)), TOKENIZER, Focus(token=focus)
    ).checks
    left = dict(zip(checks.sources, checks.probabilities, strict=True))
    assert (checks.sources[0] == focus) == (focus == 6)  # the focus has the greatest share in one of the cases
    assert checks.random == pytest.approx(sum(left[source] for source in range(focus)) / focus)
    assert (checks.random_cuts, checks.random_of) == (focus, focus)


@torch.no_grad()
@pytest.mark.parametrize(("layer", "head"), [(1, 2), (1, None), (None, 2)])
def test_edges_are_cut_only_in_the_requested_heads(family, layer, head):
    model = tiny_model(vocab_size=300, **family)
    ids = torch.tensor([[piece.id for piece in TOKENIZER.pieces(TEXT)]])
    found = explain(Reading.of(model, TOKENIZER.pieces(TEXT)), TOKENIZER, Focus(token=6, layer=layer, head=head)).checks
    everywhere = explain(Reading.of(model, TOKENIZER.pieces(TEXT)), TOKENIZER, Focus(token=6)).checks
    assert found.probabilities != everywhere.probabilities
    layers = range(3) if layer is None else [layer]
    heads = {at: range(4) if head is None else [head] for at in layers}
    for source, probability in zip(found.sources, found.probabilities, strict=True):
        whole = model(ids, observe=Some(heads, 6, source))[0, 6].softmax(-1)[found.token.id]
        assert probability == pytest.approx(float(whole), abs=1e-6)


def test_the_sample_of_many_sources_is_reproducible():
    model = tiny_model(vocab_size=300)
    pieces = TOKENIZER.pieces(story(60))[:80]
    first, second = (explain(Reading.of(model, pieces), TOKENIZER, Focus()).checks for _ in range(2))
    assert (first.random_cuts, first.random_of) == (32, 79)
    assert len(first.sources) == 9
    assert first == second


@torch.no_grad()
def test_the_random_cut_excludes_sources_outside_every_window():
    model = tiny_model(vocab_size=300, window=4, qk_norm=False)
    found = explain(Reading.of(model, TOKENIZER.pieces(TEXT)[:12]), TOKENIZER, Focus(), named=12).checks
    left = dict(zip(found.sources, found.probabilities, strict=True))
    assert found.random_of == 3
    assert left[0] == pytest.approx(found.token.probability, rel=1e-6)


def test_a_token_that_sees_only_itself_is_not_checked():
    """A cut never removes the last remaining key of a query, so there is nothing to check."""
    model, pieces = tiny_model(vocab_size=300), TOKENIZER.pieces(TEXT)
    assert explain(Reading.of(model, pieces[:1]), TOKENIZER, Focus()).checks is None
    assert explain(Reading.of(model, pieces), TOKENIZER, Focus(token=0)).checks is None


def test_checks_can_be_turned_off():
    found = explain(Reading.of(tiny_model(vocab_size=300), TOKENIZER.pieces(TEXT)), TOKENIZER, Focus(), check=False)
    assert found.checks is None
