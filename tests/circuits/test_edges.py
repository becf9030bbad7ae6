"""Exact effects of edges: equal to transformers with hooks, and to runs without one edge; identities of circuits."""

import numpy as np
import pytest
import torch

from attncli.checkpoint.load import load_model
from attncli.circuits import masked, network
from attncli.circuits.approximation import approximate_effects
from attncli.circuits.edges import exact_effects, runs_needed
from attncli.circuits.graph import ComponentGraph, refuse_graph
from attncli.circuits.masked import circuit_logits, circuit_measures
from attncli.circuits.measure import Answer
from attncli.circuits.network import Network
from attncli.errors import UsageProblem
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.circuits import ANSWER, TheirEdges, network_of, two_runs
from tests.support.lazily import transformers
from tests.support.models import ENCODER_DECODERS, FAMILIES, POST_NORM, tiny_config

RELATIVE = {"positions": "relative", "relative_buckets": 8, "relative_distance": 12, "scaled_scores": False}
SHAPES = FAMILIES | {"relative": RELATIVE, "sinusoids": {"positions": "sinusoidal", "embedding_norm": True}}
CHANGED = {
    "llama": ("Llama", {"num_key_value_heads": 2, "attention_bias": True}),
    "gpt2": ("GPT2", {"bos_token_id": 0, "eos_token_id": 0}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
}


def test_the_graph_of_two_layers_has_the_edges_that_are_counted_by_hand():
    graph = ComponentGraph(layers=2, heads=2, kv_heads=1)
    # layer 0: 2 queries, a key, a value read 1 writer, the MLP 3; layer 1: 4 and 6; the output 7
    assert graph.size == 4 * 1 + 3 + 4 * 4 + 6 + 7
    assert graph.name(graph.edge(graph.writers[1], graph.readers[7])) == "0.0 → 1.0-1.1 key"
    assert graph.words(graph.edge(graph.writers[1], graph.readers[5])) == "head 1.0's query reads head 0.0's output"


def test_only_edges_on_a_path_from_the_embedding_to_the_output_are_connected():
    graph = ComponentGraph(layers=2, heads=2, kv_heads=2)
    by_name = {graph.name(edge): edge for edge in range(graph.size)}
    path = ["embedding → 0.1 value", "0.1 → 1.0 key", "1.0 → output"]
    kept = np.zeros(graph.size, bool)
    kept[[by_name[name] for name in [*path, "0.0 → 1.1 key", "embedding → 1.1 query", "0.0 → output"]]] = True
    assert {graph.name(edge) for edge in np.flatnonzero(graph.connected(kept))} == set(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_recompute_the_model_and_circuits_reach_from_one_run_to_the_other(shape):
    net = network_of(**SHAPES[shape])
    clean, corrupt, ids = two_runs(net)
    with torch.no_grad():
        torch.testing.assert_close(clean.logits, net.model(ids[:1])[0, -1], rtol=0, atol=1e-12)
    circuits = np.stack([np.ones(net.graph.size, bool), np.zeros(net.graph.size, bool)])
    logits = circuit_logits(net, clean, corrupt, circuits)
    torch.testing.assert_close(logits, torch.stack([clean.logits, corrupt.logits]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exact_effect_is_the_effect_of_a_circuit_without_this_edge(shape, monkeypatch):
    """Two computations: from the layer of the reader on, and over all layers with inputs for every reader."""
    net = network_of(**SHAPES[shape])
    clean, corrupt, _ = two_runs(net)
    without = circuit_measures(net, clean, corrupt, ANSWER, ~np.eye(net.graph.size, dtype=bool))
    expected = without - float(ANSWER.of(clean.logits[None]))
    for module in (network, masked):
        monkeypatch.setattr(module, "TOKENS_AT_ONCE", 40)  # many batches
    runs = []
    found = exact_effects(net, clean, corrupt, ANSWER, runs.append)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    assert sum(runs) == runs_needed(net, clean, corrupt) == net.graph.size
    only = np.arange(net.graph.size) % 3 == 0
    np.testing.assert_allclose(exact_effects(net, clean, corrupt, ANSWER, only=only), found * only, rtol=0, atol=1e-11)


def test_patching_a_run_with_itself_changes_nothing_and_needs_no_run():
    net = network_of()
    clean, _, _ = two_runs(net)
    assert runs_needed(net, clean, clean) == 0
    assert not exact_effects(net, clean, clean, ANSWER).any()
    assert not approximate_effects(net, clean, clean, ANSWER).any()


@pytest.mark.parametrize("name", CHANGED)
def test_effects_equal_those_of_transformers_with_hooks(name, tmp_path):
    """In float32, on random models of three families that were made for this test."""
    family, switches = CHANGED[name]
    shape = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(**shape | {"intermediate_size": 48} | switches)
    torch.manual_seed(7)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer().to_json())
    ours = Network(load_model(tmp_path, torch.device("cpu"), torch.float32).model)
    clean, corrupt, ids = two_runs(ours, tokens=7)
    brute = TheirEdges(theirs)
    writes = [brute.record(text) for text in ids]
    torch.testing.assert_close(torch.stack([clean.writes, corrupt.writes]), torch.stack(writes), rtol=0, atol=1e-5)
    found, graph, before = exact_effects(ours, clean, corrupt, ANSWER), ours.graph, brute.logits(ids[0])
    for edge, (writer, reader) in enumerate(zip(*graph.ends, strict=True)):
        read = graph.readers[reader]
        logits = brute.patched(ids[0], writes[1][writer] - writes[0][writer], read.port, read.layer, read.group)
        expected = float(ANSWER.of((logits)[None]) - ANSWER.of(before[None]))
        assert found[edge] == pytest.approx(expected, abs=1e-4), graph.name(edge)


@pytest.mark.parametrize("kind", ["logit-difference", "log-probability"])
def test_approximate_effects_are_the_derivatives_of_exact_ones(kind):
    """A small change of every write: EAP and EAP-IG equal the exact effect up to second order."""
    net = network_of(qk_norm=False)
    clean, corrupt, _ = two_runs(net)
    small = 1e-5
    near = network.Recorded(
        clean.streams + small * (corrupt.streams - clean.streams), clean.middles,
        clean.writes + small * (corrupt.writes - clean.writes), clean.query, clean.key, clean.value, clean.mixed,
        clean.logits,
    )  # fmt: skip
    answer = Answer(3, 5, kind)
    exact = exact_effects(net, clean, near, answer) / small
    for steps in (None, 3):
        found = approximate_effects(net, clean, near, answer, steps) / small
        np.testing.assert_allclose(found, exact, rtol=0, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("shape", [POST_NORM, ENCODER_DECODERS["m2m100"]], ids=["post-norm", "encoder-decoder"])
def test_models_without_such_edges_are_refused(shape):
    with pytest.raises(UsageProblem, match="edges"):
        refuse_graph(tiny_config(**shape), "model")
