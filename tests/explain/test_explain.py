"""The numbers of the first screen equal their definitions."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attncli.errors import BadInput, UsageProblem
from attncli.explain import checks
from attncli.explain.contributions import contribution_norms
from attncli.explain.first_screen import explain
from attncli.explain.head_map import previous_token_score
from attncli.explain.locate import find_token
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.generation.candidates import candidates
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.explanations import TEXT, TOKENIZER, contributions, explained, in_stretches, pieces_of
from tests.support.models import FAMILIES, Recorder, ids_of, tiny_model
from tests.support.texts import story


@torch.no_grad()
def test_contributions_of_all_sources_and_heads_are_the_attention_output(family):
    model = tiny_model(dtype=torch.float64, **family)
    seen = Recorder()
    model(ids_of(15), observe=seen)
    for layer, steps in seen.steps.items():
        total = contributions(model, steps, layer).sum((0, 2))
        bias = model.blocks[layer].attention.output.bias
        torch.testing.assert_close(total + (0 if bias is None else bias), steps.output[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_contribution_norms_are_the_lengths_of_the_contributions(family):
    model = tiny_model(**family)
    seen = Recorder()
    model(ids_of(15), observe=seen)
    for layer, steps in seen.steps.items():
        vectors = contributions(model, steps, layer)[:, 9]  # (H, S, C)
        per_head, together = contribution_norms(steps, model.blocks[layer].attention, 9)
        torch.testing.assert_close(per_head, vectors.norm(dim=-1), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together, vectors.sum(0).norm(dim=-1), rtol=1e-3, atol=1e-5)
        assert (per_head.sum(0) >= together - 1e-5).all()


@pytest.mark.parametrize("weights", ["norm", "raw"])
@pytest.mark.parametrize(("layer", "head"), [(None, None), (1, None), (None, 2), (1, 2)])
def test_shares_sum_to_one_and_later_tokens_have_none(weights, layer, head):
    found = explained(Focus(token=4, layer=layer, head=head, weights=weights))
    sources = found.sources
    np.testing.assert_allclose(sources.shares.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(sources.by_layer.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(sources.raw.sum(), 1, atol=1e-6)
    assert (sources.shares[5:] == 0).all()
    assert (sources.shares[:5] > 0).all()
    np.testing.assert_allclose(sources.shares, sources.by_layer.mean(0))


def test_raw_shares_are_the_attention_weights():
    model = tiny_model(vocab_size=300)
    pieces = TOKENIZER.pieces(TEXT)
    seen = Recorder()
    with torch.no_grad():
        model(torch.tensor([[piece.id for piece in pieces]]), observe=seen)
    weights = torch.stack([seen.steps[layer].weights[0] for layer in range(3)])  # (L, H, T, T)
    everywhere = explain(Reading.of(model, pieces), TOKENIZER, Focus(token=3, weights="raw"))
    np.testing.assert_allclose(everywhere.sources.shares, weights[:, :, 3].mean((0, 1)), atol=1e-6)
    one = explain(Reading.of(model, pieces), TOKENIZER, Focus(token=3, layer=2, head=1, weights="raw"))
    np.testing.assert_allclose(one.sources.shares, weights[2, 1, 3], atol=1e-6)
    np.testing.assert_allclose(one.map.weights, weights[2, 1], atol=1e-6)
    assert (one.map.layer, one.map.head, one.map.asked_for) == (2, 1, True)


def test_the_busiest_head_has_the_largest_contributions_from_other_tokens():
    model = tiny_model(vocab_size=300)
    pieces = TOKENIZER.pieces(TEXT)
    seen = Recorder()
    with torch.no_grad():
        model(torch.tensor([[piece.id for piece in pieces]]), observe=seen)
        moved = torch.stack([contributions(model, seen.steps[layer], layer)[:, 5].norm(dim=-1) for layer in range(3)])
    busiest = moved[:, :, 1:5].sum(-1).flatten().argmax()
    found = explain(Reading.of(model, pieces), TOKENIZER, Focus(token=5)).map
    assert (found.layer, found.head) == divmod(int(busiest), 4)
    assert not found.asked_for


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 1])
def test_attention_to_stream_is_the_ratio_of_their_norms(family, layer):
    lengths = []

    class Streams(Recorder):
        def residual(self, layer, stream):
            lengths.append(float(stream[0, 4].norm()))

    seen = Streams()
    tiny_model(vocab_size=300, **family)(torch.tensor([TOKENIZER.encode(TEXT)]), observe=seen)
    expected = [float(seen.steps[at].output[0, 4].norm()) / lengths[at + 1] for at in range(3)]
    found = explained(Focus(token=4, layer=layer), **family).sources.beside_stream
    assert found == pytest.approx(np.mean(expected) if layer is None else expected[layer], rel=1e-4)
    assert explained(Focus(token=4, head=0), **family).sources.beside_stream is None


def test_later_tokens_do_not_change_an_explanation():
    short = explained(Focus(token=4), TEXT)
    pieces = TOKENIZER.pieces(TEXT)
    longer = explained(Focus(token=4), TEXT + " and then")
    assert [p.id for p in longer.pieces][: len(pieces)] == [p.id for p in pieces]
    np.testing.assert_allclose(longer.sources.shares[: len(pieces)], short.sources.shares, atol=1e-6)
    assert [t.id for t in longer.next_tokens] == [t.id for t in short.next_tokens]


def test_next_tokens_have_the_probabilities_of_the_model():
    model = tiny_model(vocab_size=300)
    pieces = TOKENIZER.pieces(TEXT)
    found = explain(Reading.of(model, pieces), TOKENIZER, Focus(token=3)).next_tokens
    with torch.no_grad():
        probabilities = model(torch.tensor([[piece.id for piece in pieces]]))[0, 3].softmax(-1)
    for token in found:
        assert token.probability == pytest.approx(float(probabilities[token.id]), abs=1e-6)
    best = sorted(probabilities.tolist(), reverse=True)[:10]
    np.testing.assert_allclose([t.probability for t in found], best, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_explained(name):
    found = explained(**FAMILIES[name])
    assert found.sources.focus == len(found.pieces) - 1


def test_a_single_token_has_the_whole_share():
    found = explain(Reading.of(tiny_model(vocab_size=257), byte_tokenizer().pieces("a")), byte_tokenizer(), Focus())
    assert found.sources.shares.tolist() == [1.0]
    assert found.map.previous_token is None


def test_previous_token_scores_of_perfect_and_uniform_heads():
    perfect = np.eye(9, k=-1)
    perfect[0, 0] = 1
    assert previous_token_score(perfect) == 1
    assert previous_token_score(perfect[4:], 4) == 1
    even = np.tril(np.ones((7, 7))) / np.arange(1, 8)[:, None]
    assert previous_token_score(even) == pytest.approx(0.2655, abs=1e-4)
    assert previous_token_score(even[:1]) is None


def test_the_chance_of_a_windowed_head_follows_from_its_window():
    found = explained(window=4).map
    size = len(found.weights)
    assert found.previous_token_chance == pytest.approx(sum(1 / min(row + 1, 4) for row in range(1, size)) / (size - 1))


@torch.no_grad()
def test_all_shares_are_zero_if_attention_contributes_nothing():
    model = tiny_model(vocab_size=300)
    for block in model.blocks:
        block.attention.output.weight.zero_()
    found = explain(Reading.of(model, TOKENIZER.pieces(TEXT)), TOKENIZER, Focus())
    assert (found.sources.shares == 0).all()


# Long texts: only the needed rows are observed


@pytest.mark.parametrize("focus", [Focus(), Focus(token=61), Focus(token=2), Focus(token=45, layer=1, head=2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_long_text_has_the_same_rows_as_a_full_observation(name, focus, monkeypatch):
    model = tiny_model(vocab_size=300, dtype=torch.float64, **FAMILIES[name])
    pieces = TOKENIZER.pieces(story(60))[:90]
    whole = explain(Reading.of(model, pieces), TOKENIZER, focus)
    in_stretches(monkeypatch)
    found = explain(Reading.of(model, pieces), TOKENIZER, focus)
    for part in ("shares", "by_layer", "raw"):
        np.testing.assert_allclose(getattr(found.sources, part), getattr(whole.sources, part), rtol=1e-5, atol=1e-7)
    first = found.map.first_row
    rows = range(max(0, min(whole.sources.focus - 30, 50)), max(40, min(whole.sources.focus + 10, 90)))
    assert (first, len(whole.map.weights), len(found.map.weights)) == (rows.start, 90, 40)
    assert (found.map.layer, found.map.head) == (whole.map.layer, whole.map.head)
    np.testing.assert_allclose(found.map.weights, whole.map.weights[first : first + 40], rtol=1e-5, atol=1e-7)
    on_the_one_before = [whole.map.weights[row, row - 1] for row in rows if row]
    assert found.map.previous_token == pytest.approx(np.mean(on_the_one_before), abs=1e-6)
    window = model.config.window_of(found.map.layer) or 90
    assert found.map.previous_token_chance == pytest.approx(np.mean([1 / min(row + 1, window) for row in rows if row]))
    assert [token.id for token in found.next_tokens] == [token.id for token in whole.next_tokens]
    assert found.checks.sources == whole.checks.sources
    assert found.checks.probabilities == pytest.approx(whole.checks.probabilities, rel=1e-5)
    assert found.checks.random == pytest.approx(whole.checks.random, rel=1e-5)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements, self.operation = 0, None

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().nbytes() // leaf.itemsize > self.elements:
                self.elements, self.operation = leaf.untyped_storage().nbytes() // leaf.itemsize, operation
        return made


@pytest.mark.parametrize("name", ["qwen3", "qwen3-window", "gemma", "gpt2"])  # each kind of mask and of positions
def test_explaining_a_long_text_allocates_no_square_matrix(name, monkeypatch):
    """Twice the tokens make the largest tensor at most twice as large. Whole weights would be four times as large."""
    in_stretches(monkeypatch, stretch=32)
    monkeypatch.setattr(checks, "_MOST_ELEMENTS", 1 << 12)
    model = tiny_model(vocab_size=300, context=512, layers=2, **FAMILIES[name])
    pieces = TOKENIZER.pieces(story(400))[:512]
    sizes = {}
    for length in (256, 512):
        with Largest() as largest:
            explain(Reading.of(model, pieces[:length]), TOKENIZER, Focus())
        sizes[length] = largest.elements
    assert sizes[512] <= 2 * sizes[256]
    assert sizes[512] < 512 * 512 / 3


SENTENCE = pieces_of("The", " c", "at", " s", "at", " at", " the", " the", " r", "iver", ".")


def test_a_token_is_found_by_index_or_word():
    assert find_token(SENTENCE, "0") == 0
    assert find_token(SENTENCE, "cat") == 2  # the last token of the word
    assert find_token(SENTENCE, " river ") == 9
    assert find_token(SENTENCE, "at") == 5  # the word, not the ends of two other words
    assert find_token(SENTENCE, "iver") == 9  # a token that is not a whole word
    assert find_token(SENTENCE, ".") == 10
    split = byte_tokenizer().pieces("a東b")
    assert find_token(split, "東") == 3


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ("99", "There is no token 99", "0 to 10"),
        ("-1", "There is no token -1", "0 to 10"),
        ("dragon", "There is no token 'dragon'", "2:at"),
        ("", "There is no token ''", "2:at"),
        ("the", "'the' occurs 2 times", "by its index: 6 or 7"),
    ],
)
def test_a_missing_token_is_refused_with_a_list_of_the_tokens(wanted, message, hint):
    with pytest.raises(UsageProblem, match=message) as raised:
        find_token(SENTENCE, wanted)
    assert hint in raised.value.hint


@pytest.mark.parametrize("focus", [Focus(layer=3), Focus(head=4), Focus(token=40), Focus(layer=-1)])
def test_a_missing_layer_head_or_token_is_refused(focus):
    with pytest.raises(UsageProblem, match="There is no"):
        explained(focus)


def test_a_text_that_is_empty_or_too_long_is_refused():
    with pytest.raises(BadInput, match="no tokens"):
        explained(text="")
    long = "cat né " * 200
    with pytest.raises(BadInput, match="reads at most 96") as refused:
        explained(text=long)
    fitting = int(re.search(r"the first (\d+) characters fit", refused.value.hint)[1])
    assert len(TOKENIZER.pieces(long[:fitting])) <= 96 < len(TOKENIZER.pieces(long[: fitting + 2]))


def test_findings_are_plain_records():
    found = explained()
    assert all(dataclasses.is_dataclass(part) for part in (found, found.sources, found.map))
    assert isinstance(found.sources.shares, np.ndarray)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_probabilities_are_computed_at_the_temperature(temperature):
    model = tiny_model(vocab_size=TOKENIZER.vocab_size)
    pieces = TOKENIZER.pieces("The small cat sat")
    found = explain(Reading.of(model, pieces), TOKENIZER, Focus(), temperature=temperature)
    with torch.no_grad():
        logits = model(torch.tensor([[piece.id for piece in pieces]]))[0, -1].double()
    expected = (logits / temperature).softmax(-1) if temperature else (logits == logits.max()).double()
    ids = [token.id for token in found.next_tokens]
    assert ids == logits.argsort(descending=True)[:10].tolist()
    assert [token.probability for token in found.next_tokens] == pytest.approx(expected[ids].tolist(), abs=1e-5)
    assert found.checks.token.probability == pytest.approx(float(expected[ids[0]]), abs=1e-5)
    assert found.temperature == temperature


def test_only_tokens_that_sampling_can_draw_are_predicted():
    """Ids beyond the tokenizer's vocabulary only pad the model's matrices, so they are not predicted."""
    model = tiny_model(vocab_size=TOKENIZER.vocab_size + 90)
    pieces = TOKENIZER.pieces("The small cat sat")
    found = explain(Reading.of(model, pieces), TOKENIZER, Focus())
    beside = candidates(model, TOKENIZER, [piece.id for piece in pieces], (1.0,), 10)
    assert [token.id for token in found.next_tokens] == [token.id for token in beside.tokens]
    probabilities = [token.probabilities[0] for token in beside.tokens]
    assert [token.probability for token in found.next_tokens] == pytest.approx(probabilities, abs=1e-6)
    assert found.checks.token.probability == pytest.approx(probabilities[0], abs=1e-6)
