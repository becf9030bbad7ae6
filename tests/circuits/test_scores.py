"""One attention score and one write of a head as exact sums over components, and how heads compose by their weights."""

import numpy as np
import pytest
import torch

from attncli.circuits.composition import by_heads, composing_edges, composition
from attncli.circuits.network import Network
from attncli.circuits.scores import attribute_score, default_source
from attncli.errors import UsageProblem
from attncli.explain.reading import ids_of
from attncli.render.circuit_compose import compose_arrays, compose_document, compose_screen
from attncli.render.circuit_why import why_document, why_screen
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.built_circuits import HEAD, induction
from tests.support.models import FAMILIES, Recorder, tiny_model
from tests.support.screens import harmless, shown, widest

TOKENIZER = byte_tokenizer()
PIECES = TOKENIZER.pieces("a red cat")
RELATIVE = {"positions": "relative", "relative_buckets": 8, "relative_distance": 12, "scaled_scores": False}
SHAPES = FAMILIES | {"relative": RELATIVE, "sinusoids": {"positions": "sinusoidal", "norm": "layer"}}


def attributed(shape, head=(2, 1), query=8, source=6):
    model = tiny_model(dtype=torch.float64, **SHAPES[shape] | {"vocab_size": TOKENIZER.vocab_size})
    return model, attribute_score(model, TOKENIZER, PIECES, head, query, source)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_terms_sum_to_the_score_and_the_shares_to_the_written_vector(shape):
    for head, query, source in (((2, 1), 8, 6), ((0, 3), 5, 5), ((1, 0), 7, 3)):
        model, found = attributed(shape, head, query, source)
        seen = Recorder()
        with torch.no_grad():
            model(ids_of(model, PIECES), observe=seen)
        steps = seen.steps[head[0]]
        assert found.score == pytest.approx(float(steps.scores[0, head[1], query, source]), abs=1e-9)
        assert found.total == pytest.approx(found.score, abs=1e-9)
        assert found.weight == pytest.approx(float(steps.weights[0, head[1], query, source]), abs=1e-9)
        assert found.written.shares.sum() == pytest.approx(1, abs=1e-9)
        assert len(found.components) == len(found.terms) == len(found.written.shares)
        group = head[1] * model.config.kv_heads // model.config.heads
        columns = model.blocks[head[0]].attention.output.weight.unflatten(1, (4, -1))[:, head[1]]
        vector = (found.weight * columns @ steps.value[0, group, source]).detach()
        assert found.written.norm == pytest.approx(float(vector.norm()), abs=1e-9)


def test_the_written_logits_are_those_of_direct_logit_attribution():
    model, found = attributed("gpt2")
    seen = Recorder()
    with torch.no_grad():
        model(ids_of(model, PIECES), observe=seen)
        columns = model.blocks[2].attention.output.weight.unflatten(1, (4, -1))[:, 1]
        vector = found.weight * columns @ seen.steps[2].value[0, 1, 6]
        last = seen.streams[3][0, 8]
        normed = (vector - vector.mean()) / (last.var(unbiased=False) + model.norm.eps).sqrt() * model.norm.weight
        logits = model.embedding.weight @ normed
    expected = (logits - logits.mean()).topk(5)
    assert [id_ for id_, _ in found.written.tokens] == expected.indices.tolist()
    np.testing.assert_allclose(found.written.logits.sum(0), expected.values, rtol=0, atol=1e-9)


def test_a_term_has_the_standard_deviation_of_random_directions():
    _, found = attributed("llama")
    generator, width = np.random.default_rng(0), 8
    drawn = generator.normal(size=(4000, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    spread = drawn[:, 0].std()  # a unit query times random unit keys
    assert spread == pytest.approx(1 / np.sqrt(width), rel=0.05)
    assert (np.abs(found.terms) <= found.chance * np.sqrt(width) + 1e-12).all()


def test_tokens_that_a_head_cannot_look_at_are_refused():
    for query, source in ((3, 5), (8, 0)):  # a later token; a token outside the window of 7
        with pytest.raises(UsageProblem, match="cannot look at"):
            attributed("mistral-window", query=query, source=source)
    model = tiny_model(vocab_size=TOKENIZER.vocab_size)
    seen = Recorder()
    with torch.no_grad():
        model(ids_of(model, PIECES), observe=seen)
    assert default_source(model, PIECES, (1, 2), 7) == int(seen.steps[1].weights[0, 2, 7].argmax())


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma"])
def test_composition_equals_the_norms_of_the_whole_matrices(name):
    model = tiny_model(dtype=torch.float64, **SHAPES[name])
    found = composition(Network(model.requires_grad_(False)))
    config, blocks = model.config, model.blocks

    def folded(layer, linear, head):
        norm, rows = blocks[layer].attention_norm, linear.weight.unflatten(0, (-1, config.head_width))[head]
        matrix = rows * (1 + norm.weight if config.unit_offset else norm.weight)
        return matrix - matrix.mean(1, keepdim=True) if config.norm == "layer" else matrix

    def whole(layer, head):
        attention, group = blocks[layer].attention, head * config.kv_heads // config.heads
        query, key = folded(layer, attention.query, head), folded(layer, attention.key, group)
        output = attention.output.weight.unflatten(1, (config.heads, -1))[:, head]
        return query.T @ key, output @ folded(layer, attention.value, group)

    wrote, (reads, moves) = whole(0, 3)[1], whole(2, 1)
    for port, matrix in enumerate((reads.T, reads, moves)):
        expected = (matrix @ wrote).norm() / (matrix.norm() * wrote.norm())
        assert found.scores[port, 0, 3, 2, 1] == pytest.approx(float(expected), rel=1e-9)
    assert np.isnan(found.scores[:, 1, 0, 1]).all()


def test_the_built_induction_circuit_composes_through_the_key():
    built = induction()
    found = composition(Network(built.model))
    assert found.ranked("key")[0] == (0, 0, 1, 0)
    assert found.scores[1, 0, 0, 1, 0] > 2 * found.random[1] + found.spread[1]
    assert built.model.config.head_width == HEAD


def test_edges_between_heads_are_shared_by_the_heads_of_a_group():
    network = Network(tiny_model().requires_grad_(False))
    edges = composing_edges(network.graph)
    found = by_heads(network.graph, np.arange(network.graph.size, dtype=float))
    assert edges.sum() == (4 + 2 + 2) * 4 * (1 + 2)  # readers x writers of the layers before
    assert found[1, 0, 2, 1, 0] == found[1, 0, 2, 1, 1] != found[1, 0, 2, 1, 2]
    assert np.isfinite(found[:, 0, :, 1:]).all()
    assert np.isnan(found[:, 1, :, 1]).all()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_screens_fit_every_width(width):
    _, found = attributed("gpt2")
    model = tiny_model().requires_grad_(False)
    composed = composition(Network(model))
    for drawn in (
        shown(why_screen(found, "model", width), width),
        shown(compose_screen(composed, "model", width, {(0, 1): "previous-token head .90"}, ""), width),
    ):
        assert widest(drawn) <= width
        assert harmless(drawn)
    assert why_document(found, "model")["score"] == found.score
    assert len(compose_document(composed, "model", {})["key"]) == 3 * 16
    assert compose_arrays(composed)["scores"].shape == (3, 3, 4, 3, 4)
