"""Cuts that are measured together, from recorded streams and keys, equal cuts in whole forward passes."""

import functools
import math

import numpy as np
import pytest
import torch

from attncli.errors import UsageProblem
from attncli.explain.ablated_pass import Without
from attncli.explain.ablation import ablate
from attncli.explain.first_screen import explain
from attncli.explain.page import cuts as module
from attncli.explain.page import recomputed
from attncli.explain.page.cuts import CUT_KINDS, LiveCut, cut_effect, cuts
from attncli.explain.page.recomputed import UncutPass
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.model.attention import Observer
from attncli.text.tokenizer import Piece
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.explanations import pieces_of
from tests.support.models import ENCODER_DECODERS, ENCODERS, tiny_model
from tests.support.texts import story
from tests.support.translations import TOKENIZER as OF_PAIRS
from tests.support.translations import translation

TOKENIZER = train_tokenizer([story(400)], "bpe", 300)
PIECES = tuple(TOKENIZER.pieces("The small cat sat near the river"))
ENCODED = (Piece(2, "[CLS]", 0), *pieces_of(*"abcdefgh")[3:], Piece(3, "[SEP]", 0))
EVERYWHERE = 10**30  # a budget for all cuts


class Names:
    """A tokenizer that knows fewer ids than the model."""

    vocab_size = 90

    def name(self, token):
        return str(token)


class Whole(Observer):
    """A reference: cuts edges in a whole pass; `heads` are (layer, head) pairs, None for all."""

    def __init__(self, part, edges, heads=None):
        self.part, self.edges, self.heads = part, edges, heads

    def watches(self, part):
        return part == self.part

    def scores(self, layer, scores, module):
        left, heads = scores.clone(), range(scores.shape[1])
        for head in heads if self.heads is None else [head for at, head in self.heads if at == layer]:
            left[0, head, *zip(*self.edges, strict=True)] = -math.inf
        return torch.where(left.isneginf().all(-1, keepdim=True), scores, left)


def decoder(**switches):
    model = tiny_model(vocab_size=310, dtype=torch.float64, **switches)  # 10 ids that only pad the matrix
    return Reading.of(model, PIECES), TOKENIZER, "decoder"


def encoder():
    return Reading.of(tiny_model(dtype=torch.float64, **ENCODERS["bert"]), ENCODED), Names(), "encoder"


def translating(part, family="m2m100"):
    model = tiny_model(vocab_size=OF_PAIRS.vocab_size, dtype=torch.float64, **ENCODER_DECODERS[family])
    return Reading.translated(model, translation(), [part]), OF_PAIRS, part


KINDS = {
    "decoder": decoder,
    "window": lambda: decoder(window=3, window_from=1),
    "window-everywhere": lambda: decoder(window=3, qk_norm=False),
    "encoder": encoder,
    "self-attention": lambda: translating("decoder"),
    "cross-attention": lambda: translating("cross"),
    "t5-self-attention": lambda: translating("decoder", "t5"),
    "marian-cross-attention": lambda: translating("cross", "marian"),
    "encoder-of-two": lambda: translating("encoder"),
}
WITH_EDGES = [kind for kind in KINDS if kind != "encoder-of-two"]


@functools.cache
def read(kind):
    """Returns a reading, its tokenizer and the part."""
    return KINDS[kind]()


@pytest.fixture(scope="module", params=WITH_EDGES)
def measured(request):
    """Returns a reading, its tokenizer, the part and all its cuts."""
    reading, tokenizer, part = read(request.param)
    return reading, tokenizer, part, cuts(reading, tokenizer, part, focus=2, budget=EVERYWHERE)


@torch.no_grad()
def probabilities(reading, tokenizer, edges=(), heads=None):
    """Returns the probabilities (T, V) of a whole pass with some edges cut."""
    model, ids = reading.model, torch.tensor([[piece.id for piece in reading.pieces]])
    watch = Whole("decoder" if reading.translation is None else reading.parts[0], edges, heads) if edges else None
    if reading.translation is None:
        logits = model.unembed(model.hidden(ids, observe=watch, segments=reading.segments))
    else:
        source = torch.tensor([[piece.id for piece in reading.translation.source]])
        logits = model(ids, observe=watch, source=model.read_source(source, observe=watch))
    return logits[0, :, : tokenizer.vocab_size].softmax(-1)


@torch.no_grad()
def without_head(reading, tokenizer, part, layer, head):
    """Returns the probabilities (T, V) with the head's columns of the output matrix zeroed."""
    stack = reading.model.encoder if part == "encoder" and reading.translation else reading.model
    block = stack.blocks[layer]
    matrix = (block.cross_attention if part == "cross" else block.attention).output.weight
    columns = slice(head * matrix.shape[1] // 4, (head + 1) * matrix.shape[1] // 4)
    kept = matrix[:, columns].clone()
    matrix[:, columns] = 0
    found = probabilities(reading, tokenizer)
    matrix[:, columns] = kept
    return found


def seen(reading, part, row):
    """Returns the sources that the mask leaves to a row, without regard to windows."""
    return list(range(row + 1 if part == "decoder" else len(reading.axes.columns)))


def edges_of_row(reading, part, row):
    """Returns the edges of a row but its own."""
    own = len(reading.axes.columns) - 1 if part == "cross" else row
    return [(row, source) for source in seen(reading, part, row) if source != own]


def assert_effect(found, row, effect, place, expected):
    """Compares one cut of an effect with the probabilities (T, V) of a whole pass."""
    after = expected[row]
    np.testing.assert_allclose(effect.kept[place], after[torch.tensor(found.candidates[row]).long()], atol=2e-6)
    values, ids = after.topk(2)
    np.testing.assert_allclose(effect.probabilities[place], values, atol=2e-6)
    assert effect.ids[place].tolist() == ids.tolist()


def test_the_candidates_are_the_most_probable_tokens_of_each_row(measured):
    reading, tokenizer, _, found = measured
    values, ids = probabilities(reading, tokenizer).topk(6)
    np.testing.assert_array_equal(found.candidates, ids)
    np.testing.assert_allclose(found.before, values, atol=2e-6)
    assert all(getattr(found, kind).rows == tuple(found.measured) for kind in CUT_KINDS)


def test_an_edge_is_cut_as_in_a_whole_pass(measured):
    reading, tokenizer, part, found = measured
    for row in found.measured[1::3]:
        for source in seen(reading, part, row)[::3]:
            whole = probabilities(reading, tokenizer, [(row, source)])
            assert_effect(found, row, found.edges, (row, source), whole)
            layer, head = (row + source) % 3, source % 4
            whole = probabilities(reading, tokenizer, [(row, source)], [(layer, head)])
            assert_effect(found, row, found.head_edges, (layer, head, row, source), whole)


def test_a_row_is_cut_as_in_a_whole_pass(measured):
    reading, tokenizer, part, found = measured
    for row in found.measured[1::2]:
        edges = edges_of_row(reading, part, row)
        assert_effect(found, row, found.rows, row, probabilities(reading, tokenizer, edges))
        whole = probabilities(reading, tokenizer, edges, [(1, 2)])
        assert_effect(found, row, found.head_rows, (1, 2, row), whole)


def test_a_column_is_cut_from_all_rows_as_in_a_whole_pass(measured):
    reading, tokenizer, part, found = measured
    for source in range(0, found.columns.kept.shape[1], 2):
        edges = [(row, source) for row in found.measured if source in seen(reading, part, row)]
        whole = probabilities(reading, tokenizer, edges)
        for row, _ in edges:
            assert_effect(found, row, found.columns, (row, source), whole)


def test_a_head_is_ablated_as_if_its_columns_of_the_output_matrix_were_zero(measured):
    reading, tokenizer, part, found = measured
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        whole = without_head(reading, tokenizer, part, layer, head)
        for row in found.measured:
            assert_effect(found, row, found.heads, (layer, head, row), whole)


def test_a_masked_edge_and_the_only_edge_of_a_row_have_the_uncut_values(measured):
    reading, _, part, found = measured
    if part != "decoder":
        assert np.abs(found.edges.kept - found.before[:, None]).max(-1).min() > 1e-9  # no edge is masked
        return
    for effect, lead in ((found.edges, ()), (found.columns, ()), (found.head_edges, (1, 1))):
        for row in found.measured:
            masked = effect.kept[lead][row, row + 1 if row else 0 :]
            np.testing.assert_array_equal(masked, np.broadcast_to(found.before[row], masked.shape))
            assert (effect.ids[lead][row, row + 1 :] == found.candidates[row, :2]).all()
    if reading.model.config.window_of(0) is not None:  # in every layer
        beyond = found.edges.kept[5, :3]
        np.testing.assert_array_equal(beyond, np.broadcast_to(found.before[5], beyond.shape))


def test_heads_of_the_encoder_are_ablated_for_every_row_of_the_decoder():
    reading, tokenizer, part = read("encoder-of-two")
    found = cuts(reading, tokenizer, part, focus=1, budget=EVERYWHERE)
    assert [kind for kind in CUT_KINDS if getattr(found, kind)] == ["heads"]
    assert found.heads.kept.shape == (2, 4, len(reading.pieces), 6)
    for layer, head in ((0, 0), (1, 3)):
        whole = without_head(reading, tokenizer, part, layer, head)
        for row in found.measured:
            assert_effect(found, row, found.heads, (layer, head, row), whole)


def test_small_batches_and_chunks_give_the_same_effects(monkeypatch):
    reading, tokenizer, part = read("decoder")
    whole = cuts(reading, tokenizer, part, focus=2, measured=range(4))
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 20)
    monkeypatch.setattr(recomputed, "_MOST_LOGITS", 1000)
    monkeypatch.setattr(recomputed, "_STRETCH", 4)
    found = cuts(reading, tokenizer, part, focus=2, measured=range(4))
    for kind in CUT_KINDS:
        np.testing.assert_allclose(getattr(found, kind).kept, getattr(whole, kind).kept, atol=1e-6)
        assert getattr(found, kind).rows == getattr(whole, kind).rows


# Other commands


def test_edges_are_those_that_the_first_screen_checks():
    reading, tokenizer, part = read("decoder")
    row = len(PIECES) - 1
    found = cuts(reading, tokenizer, part, focus=row)
    checks = explain(reading, tokenizer, Focus(token=row), named=20).checks
    for source, probability in zip(checks.sources, checks.probabilities, strict=True):
        assert found.edges.kept[row, source, 0] == pytest.approx(probability, abs=1e-6)
    assert found.candidates[row, 0] == checks.token.id


@pytest.mark.parametrize("kind", ["decoder", "encoder", "cross-attention", "self-attention"])
def test_heads_and_edges_are_those_that_ablate_measures(kind):
    reading, tokenizer, part = read(kind)
    row, own = 3, "decoder" if reading.translation is None else part
    found = cuts(reading, tokenizer, part, focus=row, budget=EVERYWHERE)
    removed = [Without(heads=((1, 2),), part=own), Without(edges=((row, 1),), part=own)]
    effects = ablate(reading, tokenizer, removed, token=row).effects
    for effect, array, place in zip(effects, (found.heads, found.edges), ((1, 2, row), (row, 1)), strict=True):
        assert [token.id for token in effect.next_tokens[:2]] == array.ids[place].tolist()
        probabilities = [token.probability for token in effect.next_tokens[:2]]
        assert probabilities == pytest.approx(array.probabilities[place].tolist(), abs=1e-6)


# The budget


def covered(budget, focus=5, **options):
    reading, tokenizer, part = read("decoder")
    found = cuts(reading, tokenizer, part, focus=focus, budget=budget, **options)
    return {kind: getattr(found, kind).rows for kind in CUT_KINDS if getattr(found, kind)}


def test_a_larger_budget_covers_more_rows_from_the_focus_outwards():
    sizes = []
    for budget in (0, 1e6, 3e6, 1e7, 1e30):
        rows = covered(budget)
        sizes.append([len(rows.get(kind, ())) for kind in CUT_KINDS])
        for kind in rows.keys() - {"columns", "heads"}:
            near = sorted(range(len(PIECES)), key=lambda row: (abs(row - 5), row))
            assert list(rows[kind]) == sorted(near[: len(rows[kind])])
    assert sizes[0] == [0] * 6
    assert sizes[-1] == [len(PIECES)] * 6
    assert sizes == sorted(sizes, key=sum)
    assert len({tuple(size) for size in sizes}) >= 4


def test_only_the_given_rows_are_measured():
    whole, some = cuts(*read("decoder"), focus=4), cuts(*read("decoder"), focus=4, measured=range(3, 6))
    np.testing.assert_array_equal(some.candidates, whole.candidates[3:6])
    for kind in CUT_KINDS:
        assert getattr(some, kind).rows == (3, 4, 5)
    np.testing.assert_allclose(some.edges.kept, whole.edges.kept[3:6], atol=1e-6)
    np.testing.assert_allclose(some.heads.kept, whole.heads.kept[:, :, 3:6], atol=1e-6)
    np.testing.assert_allclose(some.columns.kept, whole.columns.kept[3:6], atol=1e-6)


def test_rows_that_predict_nothing_have_no_cuts():
    bare = ENCODERS["bert"] | {"head_transform": False, "head_bias": False}
    reading = Reading.of(tiny_model(**bare), ENCODED)
    assert cuts(reading, Names(), "encoder", focus=0) is None
    with pytest.raises(UsageProblem, match="predicts no words"):
        UncutPass(reading, Names())


# One cut at once


CASES = {
    "edges": LiveCut(edges=((2, 0), (3, 1), (4, 4))),
    "edges-in-heads": LiveCut(edges=((3, 1), (3, 2)), heads=((0, 1), (1, 3))),
    "row": LiveCut(rows=(3,)),
    "columns": LiveCut(columns=(1, 2)),
    "columns-in-a-head": LiveCut(columns=(0,), heads=((1, 0),)),
    "all": LiveCut(edges=((2, 1),), rows=(4,), columns=(0,)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_cut_at_once_equals_the_cut_in_a_whole_pass(kind, case):
    reading, tokenizer, part = read(kind)
    cut = CASES[case]
    rows = len(reading.axes.rows)
    edges = [*cut.edges, *(edge for row in cut.rows for edge in edges_of_row(reading, part, row))]
    edges += [(row, source) for row in range(rows) for source in cut.columns]
    whole, before = probabilities(reading, tokenizer, edges, cut.heads), probabilities(reading, tokenizer)
    for measured in (4, len(reading.pieces) - 1):
        found = cut_effect(UncutPass(reading, tokenizer), part, cut, measured)
        np.testing.assert_allclose(found.before, before[measured].topk(6).values, atol=2e-6)
        candidates = torch.tensor(found.candidates).long()
        np.testing.assert_allclose(found.kept, whole[measured][candidates], atol=2e-6)
        values, ids = whole[measured].topk(6)
        np.testing.assert_allclose(found.probabilities, values, atol=2e-6)
        assert found.ids.tolist() == ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_ablated_at_once(kind):
    reading, tokenizer, part = read(kind)
    whole = without_head(reading, tokenizer, part, 1, 2)
    found = cut_effect(UncutPass(reading, tokenizer), part, LiveCut(heads=((1, 2),)), 3)
    np.testing.assert_allclose(found.kept, whole[3][torch.tensor(found.candidates).long()], atol=2e-6)
    assert np.abs(found.kept - found.before).max() > 1e-6


def test_a_cut_that_the_measured_row_cannot_feel_changes_nothing():
    reading, tokenizer, part = read("decoder")
    for cut in (LiveCut(edges=((5, 1),)), LiveCut(columns=(4,)), LiveCut(rows=(6,))):
        found = cut_effect(UncutPass(reading, tokenizer), part, cut, 3)
        np.testing.assert_array_equal(found.kept, found.before)
        np.testing.assert_array_equal(found.ids, found.candidates)


@pytest.mark.parametrize(
    ("cut", "measured", "message"),
    [
        (LiveCut(rows=(1,)), 99, "There is no token 99"),
        (LiveCut(rows=(99,)), 1, "There is no token 99"),
        (LiveCut(edges=((1, -1),)), 1, "There is no token -1"),
        (LiveCut(columns=(99,)), 1, "There is no token 99"),
        (LiveCut(heads=((3, 0),)), 1, "There is no layer 3"),
        (LiveCut(heads=((0, 4),)), 1, "There is no head 4"),
    ],
)
def test_a_cut_of_something_that_does_not_exist_is_refused(cut, measured, message):
    reading, tokenizer, part = read("decoder")
    with pytest.raises(UsageProblem, match=message):
        cut_effect(UncutPass(reading, tokenizer), part, cut, measured)


@pytest.mark.parametrize("edges", [((2, 3),), ((3, 1), (0, 1))])
@pytest.mark.parametrize("kind", ["decoder", "self-attention"])
def test_an_edge_to_a_later_source_is_refused(kind, edges):
    reading, tokenizer, part = read(kind)
    with pytest.raises(UsageProblem, match=r"edges contains .* cannot attend to source [13], which comes after it"):
        cut_effect(UncutPass(reading, tokenizer), part, LiveCut(edges=edges), 3)


@pytest.mark.parametrize("kind", ["encoder", "cross-attention", "encoder-of-two"])
def test_an_edge_to_a_later_source_is_cut_where_there_is_no_mask(kind):
    reading, tokenizer, part = read(kind)
    found = cut_effect(UncutPass(reading, tokenizer), part, LiveCut(edges=((1, 3),)), 3)
    assert np.abs(found.kept - found.before).max() > 1e-9


def test_an_edge_that_no_layer_of_the_cut_has_in_its_window_is_refused():
    reading, tokenizer, part = read("window")  # 3 tokens from layer 1 on
    uncut = UncutPass(reading, tokenizer)
    for heads in (None, ((0, 1),), ((0, 1), (2, 1))):
        cut_effect(uncut, part, LiveCut(edges=((5, 2),), heads=heads), 6)
    with pytest.raises(UsageProblem, match="outside its window of 3 tokens"):
        cut_effect(uncut, part, LiveCut(edges=((5, 2),), heads=((1, 0), (2, 1))), 6)
