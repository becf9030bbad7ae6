"""Circuits of models whose weights are set by hand: exact effects rank every true edge above every false one."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from attncli.circuits.defaults import DIRECTIONS
from attncli.circuits.graph import ComponentGraph
from attncli.circuits.network import Network
from attncli.circuits.pairs import paired
from attncli.circuits.patching import Ends
from attncli.circuits.rank import agreement, auroc
from attncli.circuits.search import CircuitSearch, PreparedPair, find_circuit, random_circuit
from attncli.errors import BadInput
from attncli.explain.next_token import NextToken
from attncli.render.circuit_find import find_arrays, find_document, find_screen, graph_lines
from attncli.render.circuit_svg import circuit_svg
from attncli.text.tokenizer import Piece
from tests.support.built_circuits import BUILT
from tests.support.screens import screen, shown, widest


def search_of(name, **options):
    built = BUILT[name]()
    network = Network(built.model)
    with torch.inference_mode():
        runs = network.record(built.clean), network.record(built.corrupt)
    tokens = [NextToken(id_, f" {id_}", 0.0) for id_ in (built.target, built.against)]
    ends = Ends(0.0, 0.0, *tokens, "logit-difference")
    measured = [float(ends.answer.of(run.logits[None])) for run in runs]
    pieces = [[Piece(id_, f" {id_}", 2) for id_ in ids.tolist()] for ids in (built.clean, built.corrupt)]
    pair = PreparedPair(paired(*pieces, 99), *runs, Ends(*measured, *tokens, "logit-difference"))
    true = np.array([network.graph.name(edge) in built.edges for edge in range(network.graph.size)])
    assert true.sum() == len(built.edges)
    assert built.model(built.clean[None])[0, -1].argmax() == built.target
    return CircuitSearch(network, [pair], **options), true


@pytest.mark.parametrize("name", BUILT)
def test_exact_effects_rank_true_edges_above_false_ones(name):
    search, true = search_of(name)
    exact = np.abs(search.exact())
    assert exact[true].min() > 10 * exact[~true].max()
    assert auroc(exact, true) == 1
    gradients = auroc(np.abs(search.approximate("eap-ig")), true)
    # Attention is all or nothing here, so the gradients of edges into queries and keys are zero.
    assert gradients >= (0.75 if name == "induction" else 0.99) or name == "exchanged"


def test_two_prompts_of_induction_share_their_attention_so_only_the_values_are_needed():
    """With all keys and queries of the corrupt prompt, the head looks at the same place."""
    search, _ = search_of("induction")
    found = find_circuit(search, "exact")
    assert {search.network.graph.name(edge) for edge in found.order()} == {"1.0 → output", "embedding → 1.0 value"}


@pytest.mark.parametrize("name", ["exchanged", "copying", "lookup"])
def test_the_circuit_found_is_the_one_that_was_built(name):
    search, true = search_of(name)
    found = find_circuit(search, "exact", wanted=0.9)
    assert (found.kept == true).all()
    assert found.faithfulness == pytest.approx(1, abs=0.1)
    assert abs(found.complement) < 0.1
    assert found.curve.faithfulness[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-12)
    assert found.curve.complement[[0, -1]].tolist() == pytest.approx([1, 0], abs=1e-12)
    assert 0 <= found.curve.cmd < found.curve.cpr <= 1.1


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_edge_that_carries_everything_has_the_whole_effect_in_both_directions(direction):
    search, _ = search_of("copying", direction=direction)
    last = search.network.graph.size - len(search.network.graph.writers) + 2  # head 0.1 -> output
    assert search.network.graph.name(last) == "0.1 → output"
    assert search.exact()[last] == pytest.approx(1, abs=0.02)


def test_an_edge_has_its_effect_at_the_token_where_the_circuit_uses_it():
    """The prompts exchange the words before E, at 2, and before G, at 5: the key of the head is read there."""
    search, _ = search_of("exchanged")
    found = find_circuit(search, "exact", by_token=True)
    graph = search.network.graph
    by_name = {graph.name(edge): row for edge, row in zip(found.order(), found.by_token, strict=True)}
    used = {name: set(np.flatnonzero(np.abs(row) > 0.05).tolist()) for name, row in by_name.items()}
    assert used == {"0.0 → 1.0 key": {2, 5}, "embedding → 0.0 value": {1, 4}, "1.0 → output": {7}}
    (whole,) = search.by_token([found.order()[0]])
    np.testing.assert_allclose(whole, found.by_token[0], rtol=0, atol=1e-12)


def test_an_edge_into_a_shared_key_acts_through_the_heads_of_the_group_that_are_used():
    search, _ = search_of("copying")
    graph = ComponentGraph(layers=2, heads=4, kv_heads=2)
    by_name = {graph.name(edge): edge for edge in range(graph.size)}
    kept = np.zeros(graph.size, bool)
    names = ["embedding → 0.3 query", "0.3 → 1.0-1.1 key", "1.1 → output", "embedding → output"]
    kept[[by_name[name] for name in names]] = True
    found = replace(find_circuit(search, "eap"), graph=graph, kept=kept, effects=kept * 1.0)
    assert found.components(by_name["0.3 → 1.0-1.1 key"]) == ["1.1"]
    assert found.components(by_name["1.1 → output"]) == ["output"]
    drawn = circuit_svg(found, "", {})
    assert drawn.count("<path") == 4
    assert ">1.0<" not in drawn
    assert "1.0" not in "\n".join(line.plain for line in graph_lines(found, {}, 80))


def test_random_circuits_are_connected_and_reproducible():
    graph = search_of("induction")[0].network.graph
    one, two = (random_circuit(graph, 9, np.random.default_rng(3)) for _ in range(2))
    assert (one == two).all()
    assert (graph.connected(one) == one).all()
    assert 9 <= one.sum() <= 9 + 8


def test_pairs_without_an_effect_are_refused():
    search, _ = search_of("copying")
    pair = search.pairs[0]
    with pytest.raises(BadInput, match="no effect"):
        CircuitSearch(
            search.network,
            [
                PreparedPair(
                    pair.pair, pair.clean, pair.clean, Ends(1, 1, *[NextToken(0, "", 0)] * 2, "logit-difference")
                )
            ],
        )


def test_rank_statistics_equal_values_computed_by_hand():
    assert agreement(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])) == pytest.approx(1)
    assert agreement(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert auroc(np.array([3.0, 2, 2, 1]), np.array([True, True, False, False])) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_screen_of_a_circuit_fits_every_width(width):
    search, _ = search_of("exchanged", held=search_of("exchanged")[0].pairs)
    for method in ("eap", "exact"):
        found = find_circuit(search, method, by_token=True)
        drawn = shown(find_screen(found, "model", screen(width), {(1, 0): "induction head .99"}, pairs="1 pair"), width)
        assert widest(drawn) <= width
        assert "induction head .99" in drawn
    drawn = circuit_svg(found, "a <title>", {(1, 0): "induction head .99"})
    assert ElementTree.fromstring(drawn).findtext("{http://www.w3.org/2000/svg}title") == "a <title>"
    assert drawn.count("<path") == found.size == 3
    assert "head 1.0&#x27;s key reads head 0.0&#x27;s output" in drawn
    document = find_document(found, "model", {}, 0)
    assert {edge["writer"] for edge in document["circuit"]} == {"embedding", "0.0", "1.0"}
    assert find_arrays(found)["circuit"].sum() == 3
