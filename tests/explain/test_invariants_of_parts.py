"""Properties of the three attentions of any encoder-decoder, for random texts: rows, padding, masks and cuts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.explain.knockout import Cut, Knockout
from attncli.model.attention import Observer
from tests.support.explanations import contributions
from tests.support.models import ENCODER_DECODERS, tiny_model

PARTS = ("encoder", "decoder", "cross")
PAD = 1
MODELS = {name: tiny_model(dtype=torch.float64, **switches) for name, switches in ENCODER_DECODERS.items()}


class Seen(Observer):
    """Records the steps of every attention."""

    def __init__(self):
        self.steps = {part: {} for part in PARTS}

    def watches(self, part):
        return True

    def attention(self, layer, steps, module):
        self.steps[module.part][layer] = steps, module


def read(model, sources, target):
    """Reads sources, padded at the end, each with the same target; returns what is seen and the logits (B, T, V)."""
    longest, seen = max(map(len, sources)), Seen()
    ids = torch.tensor([[*source, *[PAD] * (longest - len(source))] for source in sources])
    mask = torch.tensor([[at < len(source) for at in range(longest)] for source in sources])
    inputs = torch.tensor([target] * len(sources))
    with torch.no_grad():
        return seen, model(inputs, observe=seen, source=model.read_source(ids, mask, seen))


def texts(fewest, most):
    return st.lists(st.integers(8, 96), min_size=fewest, max_size=most)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(MODELS)), st.lists(texts(1, 9), min_size=1, max_size=3), texts(1, 9))
def test_rows_sum_to_one_and_padding_gets_exactly_nothing(name, sources, target):
    model = MODELS[name]
    seen, logits = read(model, sources, target)
    for part in PARTS:
        for steps, _ in seen.steps[part].values():
            torch.testing.assert_close(steps.weights.sum(-1), torch.ones(steps.weights.shape[:-1], dtype=torch.float64))
            for row, source in enumerate(sources if part != "decoder" else ()):
                assert (steps.weights[row, :, :, len(source) :] == 0).all()
                assert (steps.weights[row, :, :, : len(source)] > 0).all()
            if part == "decoder":
                assert (steps.weights.triu(1) == 0).all()
    for row, source in enumerate(sources):
        alone, expected = read(model, [source], target)
        torch.testing.assert_close(logits[row], expected[0], rtol=0, atol=1e-11)
        for part in PARTS:
            for layer, (steps, _) in seen.steps[part].items():
                size = len(target) if part == "decoder" else len(source)
                rows = size if part == "encoder" else len(target)
                here, there = steps.weights[row, :, :rows, :size], alone.steps[part][layer][0].weights[0]
                torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(MODELS)), texts(1, 9), texts(1, 9))
def test_the_contributions_of_all_sources_sum_to_the_output_and_are_no_shorter(name, source, target):
    model = MODELS[name]
    seen, _ = read(model, [source], target)
    for part in PARTS:
        for layer, (steps, module) in seen.steps[part].items():
            vectors = contributions(model, steps, layer, module)  # (H, T, S, C)
            bias = 0 if module.output.bias is None else module.output.bias.detach()
            torch.testing.assert_close(vectors.sum((0, 2)) + bias, steps.output[0], rtol=0, atol=1e-11)
            assert (vectors.norm(dim=-1).sum((0, 2)) >= vectors.sum((0, 2)).norm(dim=-1) - 1e-12).all()


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(MODELS)), texts(1, 9), texts(2, 9), st.data())
def test_later_target_tokens_change_nothing_before_them(name, source, target, data):
    at = data.draw(st.integers(1, len(target) - 1))
    edited = [*target[:at], *(9 if token != 9 else 10 for token in target[at:])]
    seen, logits = read(MODELS[name], [source], target)
    other, changed = read(MODELS[name], [source], edited)
    torch.testing.assert_close(logits[:, :at], changed[:, :at], rtol=0, atol=1e-12)
    for part in PARTS:
        for layer, (steps, _) in seen.steps[part].items():
            rows = len(source) if part == "encoder" else at
            now = other.steps[part][layer][0].weights[:, :, :rows]
            torch.testing.assert_close(steps.weights[:, :, :rows], now, rtol=0, atol=1e-12)


def cut_logits(model, source, target, edges, padding=0):
    """Returns the logits (T, V) with edges of each attention cut: part -> {(query, source)}."""
    columns = {"encoder": range(100), "decoder": range(100, 200), "cross": range(200, 300)}
    cut = frozenset((query, columns[part].start + to) for part in edges for query, to in edges[part])
    knockout = Knockout([Cut(cut)], {part: columns[part] for part in edges})
    ids = torch.tensor([[*source, *[PAD] * padding]])
    mask = torch.tensor([[True] * len(source) + [False] * padding])
    with torch.no_grad():
        encoded = model.read_source(ids, mask, knockout)
        return model(torch.tensor([target]), observe=knockout, source=encoded)[0]


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(MODELS)), texts(2, 9), texts(2, 9), st.data())
def test_a_token_without_edges_to_others_is_irrelevant(name, source, target, data):
    """A source token reaches the target by edges of the encoder and of cross-attention, a target token by one stack."""
    model = MODELS[name]
    at, last = (data.draw(st.integers(0, len(side) - 1)) for side in (source, target))
    others = {(query, at) for query in range(len(source)) if query != at}
    edges = {"encoder": others, "cross": {(query, at) for query in range(len(target))}}
    edited = [*source[:at], 9 if source[at] != 9 else 10, *source[at + 1 :]]
    before, after = (cut_logits(model, one, target, edges) for one in (source, edited))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    edges = {"decoder": {(query, last) for query in range(last + 1, len(target))}}
    edited = [*target[:last], 9 if target[last] != 9 else 10, *target[last + 1 :]]
    before, after = (cut_logits(model, source, one, edges) for one in (target, edited))
    kept = [row for row in range(len(target)) if row != last]
    torch.testing.assert_close(before[kept], after[kept], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_cutting_what_is_masked_or_all_that_a_query_sees_changes_nothing(name):
    model, source, target = MODELS[name], [11, 12, 13], [2, 21, 22, 23]
    none = {part: set() for part in PARTS}
    usual = cut_logits(model, source, target, none, padding=2)
    later = {(query, to) for query in range(4) for to in range(query + 1, 4)}
    padding = {(query, to) for query in range(3) for to in (3, 4)}
    masked = {"decoder": later, "encoder": padding, "cross": {(3, 3), (0, 4)}}
    assert torch.equal(cut_logits(model, source, target, masked, padding=2), usual)
    for part, queries, keys in (("encoder", 3, 3), ("decoder", 4, 4), ("cross", 4, 3)):
        everything = none | {part: {(query, to) for query in range(queries) for to in range(keys)}}
        assert torch.equal(cut_logits(model, source, target, everything, padding=2), usual)
    one = cut_logits(model, source, target, none | {"cross": {(1, 0)}}, padding=2)
    assert torch.equal(one[0], usual[0])
    assert not torch.allclose(one[1], usual[1])
