"""Encoder-decoders: each of their attentions, and both attentions of the decoder together, keep the invariants."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from attncli.errors import BadInput, UsageProblem
from attncli.explain.every_weight import every_weight
from attncli.explain.first_screen import explain
from attncli.explain.grid import grid
from attncli.explain.head_map import KnownHead, alignment_scores
from attncli.explain.knockout import Cut, Knockout
from attncli.explain.lens import lens
from attncli.explain.logit import logit_attribution
from attncli.explain.question import Focus, refuse_length
from attncli.explain.reading import BOTH, Reading
from attncli.explain.rollout import rollout
from attncli.explain.steps import steps
from attncli.explain.words import word_spans
from tests.support.explanations import contributions, in_stretches
from tests.support.lazily import transformers
from tests.support.models import ENCODER_DECODERS, Recorder, tiny_model
from tests.support.translations import POST_NORM, TOKENIZER, translation

PARTS = ("encoder", "decoder", "cross")
SWITCHES = {**ENCODER_DECODERS, "post-norm": ENCODER_DECODERS["m2m100"] | POST_NORM}


@pytest.fixture(params=SWITCHES)
def model(request):
    return tiny_model(dtype=torch.float64, vocab_size=TOKENIZER.vocab_size, **SWITCHES[request.param])


def read(model, *parts, text=None):
    return Reading.translated(model, text or translation(), parts or BOTH)


def seen_by(model, part, text=None):
    """Returns what an independent pass over the texts records of one attention."""
    text, seen = text or translation(), Recorder(part)
    source, inputs = (torch.tensor([[piece.id for piece in pieces]]) for pieces in (text.source, text.inputs))
    with torch.no_grad():
        encoded = model.read_source(source, observe=seen if part == "encoder" else None)
        if part != "encoder":
            seen.logits = model(inputs, observe=seen, source=encoded)[0]
    return seen


def expected_weights(model, part, text=None):
    return torch.stack([steps.weights[0] for _, steps in sorted(seen_by(model, part, text).steps.items())]).numpy()


# Weights


@pytest.mark.parametrize("part", PARTS)
def test_the_weights_of_a_part_are_those_of_the_forward_pass(model, part):
    reading = read(model, part)
    expected = expected_weights(model, part)
    found = every_weight(reading).weights
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(grid(reading, Focus()).weights, expected, atol=1e-12)
    for layer, head in [(0, 1), (1, 3)]:
        shown = explain(reading, TOKENIZER, Focus(layer=layer, head=head), check=False).map
        np.testing.assert_allclose(shown.weights, expected[layer, head], atol=1e-6)
        assert (shown.layer, shown.head, shown.asked_for) == (layer, head, True)


@pytest.mark.parametrize("part", PARTS)
def test_only_the_decoder_is_masked(model, part):
    axes, found = read(model, part).axes, every_weight(read(model, part)).weights
    for row, reach in enumerate(axes.reach):
        assert (found[:, :, row, reach:] == 0).all()
        assert (found[:, :, row, :reach] > 0).all()
    assert axes.masked == (part == "decoder")
    size = len(translation().source), len(translation().inputs)
    assert found.shape[2:] == {"encoder": (size[0],) * 2, "decoder": (size[1],) * 2, "cross": size[::-1]}[part]


def test_the_rows_of_the_decoder_are_named_by_the_tokens_that_they_predict():
    text = translation()
    for parts in (("cross",), ("decoder",), BOTH):
        axes = read(tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"]), *parts).axes
        assert axes.rows == (*text.inputs[1:], text.end)
        assert axes.row_index(0) == 1
    assert [axes.column_index(at) for at in range(len(axes.columns))] == [
        *range(len(text.source)),
        *range(len(text.inputs)),
    ]


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_weights_equal_those_of_transformers(part, tmp_path):
    from attncli.checkpoint.save import Checkpoint, write_checkpoint

    model = tiny_model(vocab_size=TOKENIZER.vocab_size, context=128, **ENCODER_DECODERS["m2m100"])
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), TOKENIZER, start_of_text=2))
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m", attn_implementation="eager").eval()
    text = translation()
    source, inputs = (torch.tensor([[piece.id for piece in pieces]]) for pieces in (text.source, text.inputs))
    expected = getattr(theirs(input_ids=source, decoder_input_ids=inputs, output_attentions=True), f"{part}_attentions")
    np.testing.assert_allclose(every_weight(read(model, part)).weights, torch.cat(expected), atol=1e-5)


# Contributions and shares


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_contributions_of_all_sources_are_the_output_of_the_attention(model, part):
    reading = read(model, part)
    for layer, seen in seen_by(model, part).steps.items():
        module = reading.attention(layer, part)
        total = contributions(model, seen, layer, module).sum((0, 2))
        bias = 0 if module.output.bias is None else module.output.bias
        torch.testing.assert_close(total + bias, seen.output[0], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("measure", ["norm", "raw"])
@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), BOTH])
def test_shares_sum_to_one(model, parts, measure):
    reading = read(model, *parts)
    found = explain(reading, TOKENIZER, Focus(token=2, weights=measure), check=False).sources
    np.testing.assert_allclose(found.shares.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(found.by_layer.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(found.raw.sum(), 1, atol=1e-6)
    assert (found.shares[: found.reach] > 0).all()
    assert (found.shares[found.reach :] == 0).all()
    expected = np.concatenate([expected_weights(model, part)[:, :, 2].mean((0, 1)) for part in parts]) / len(parts)
    np.testing.assert_allclose(found.raw, expected, atol=1e-6)


@torch.no_grad()
def test_the_shares_of_both_attentions_are_the_norms_over_their_total(model):
    """In a post-norm model, the output of self-attention is measured after the norm before cross-attention."""
    found = explain(read(model), TOKENIZER, Focus(token=2), check=False).sources
    crossing, own = seen_by(model, "cross").steps, seen_by(model, "decoder")
    for layer in range(model.config.layers):
        block = model.blocks[layer]
        moved = [
            contributions(model, steps, layer, module)[:, 2].sum(0)  # (S, C)
            for steps, module in ((crossing[layer], block.cross_attention), (own.steps[layer], block.attention))
        ]
        if not model.config.pre_norm:
            total = own.streams[layer][0, 2] + own.steps[layer].output[0, 2]
            scale = block.attention_norm.weight / (total.var(unbiased=False) + block.attention_norm.eps).sqrt()
            moved[1] = (moved[1] - moved[1].mean(-1, keepdim=True)) * scale
        norms = torch.cat([vectors.norm(dim=-1) for vectors in moved])
        np.testing.assert_allclose(found.by_layer[layer], norms / norms.sum(), atol=1e-5)


# Cuts


@torch.no_grad()
def test_a_cut_is_a_cut_of_the_whole_forward_pass(model):
    text, reading = translation(), read(model)
    found = explain(reading, TOKENIZER, Focus(token=2), named=30)
    target = reading.axes.rows[2].id
    source, inputs = (torch.tensor([[piece.id for piece in pieces]]) for pieces in (text.source, text.inputs))
    left = dict(zip(found.checks.sources, found.checks.probabilities, strict=True))
    assert sorted(left) == list(range(len(text.source) + 3))
    encoded = model.read_source(source)
    for at, probability in [*left.items(), (None, found.checks.token.probability)]:
        cut = Cut(frozenset() if at is None else frozenset({(2, at)}))
        logits = model(inputs, observe=Knockout([cut], reading.columns), source=encoded)[0, 2]
        assert probability == pytest.approx(float(logits.softmax(-1)[target]), rel=1e-5)
    assert found.checks.random == pytest.approx(np.mean(list(left.values())), rel=1e-6)
    assert len({round(one, 9) for one in left.values()}) > 3


@torch.no_grad()
def test_cutting_a_masked_edge_changes_nothing(model):
    reading, text = read(model), translation()
    inputs = torch.tensor([[piece.id for piece in text.inputs]])
    first = len(text.source)  # the column of the start token
    masked = frozenset((0, first + later) for later in range(1, len(text.inputs)))
    uncut, cut = (
        model(inputs, observe=Knockout([Cut(edges)], reading.columns), source=reading.source)
        for edges in (frozenset(), masked)
    )
    assert torch.equal(uncut, cut)


@torch.no_grad()
def test_without_all_edges_to_a_source_token_the_token_is_irrelevant_there(model):
    """The query keeps its last key: all edges except to the end token are cut, and the cut tokens are replaced."""
    text = translation()
    queries, last = len(text.inputs), len(text.source) - 1
    columns = read(model).columns
    cut = Knockout([Cut(frozenset((query, at) for query in range(queries) for at in range(last)))], columns)
    inputs = torch.tensor([[piece.id for piece in text.inputs]])
    encoded = read(model).source
    other = dataclasses.replace(
        encoded,
        layers=tuple((torch.cat([key[:, :, :last] + 1, key[:, :, last:]], 2),
                      torch.cat([value[:, :, :last] - 1, value[:, :, last:]], 2)) for key, value in encoded.layers),
    )  # fmt: skip
    before, after = (model(inputs, observe=cut, source=source) for source in (encoded, other))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    assert (model(inputs, source=encoded) - model(inputs, source=other)).abs().max() > 1e-3


# The other views


@torch.no_grad()
@pytest.mark.parametrize("against", [None, "#9"])
def test_the_terms_of_a_logit_sum_to_the_logit(model, against):
    reading = read(model)
    found = logit_attribution(reading, TOKENIZER, Focus(token=2), against=against)
    logits = seen_by(model, "decoder").logits[2]
    target = reading.axes.rows[2].id
    assert found.target.id == target
    assert found.logit == pytest.approx(float(logits[target] - (logits.mean() if against is None else logits[9])))
    assert abs(found.remainder) < 1e-9
    split = len(translation().source)
    assert all(np.abs(terms).sum() > 0.01 for terms in (found.heads[..., :split], found.heads[..., split:]))
    assert (found.position is None) == (model.config.positions == "relative")
    assert (found.cross_bias is None) == (not model.config.output_bias)


@torch.no_grad()
def test_a_term_of_a_post_norm_model_equals_the_change_of_the_logit_without_it():
    """With the scale and the mean of every later norm frozen, the term of a write is what it adds to the logit."""
    switches = {"vocab_size": TOKENIZER.vocab_size, **SWITCHES["post-norm"]}
    model = tiny_model(dtype=torch.float64, **switches)
    found = logit_attribution(read(model), TOKENIZER, Focus(token=2), target="#7")
    block = model.blocks[-1]
    seen = seen_by(model, "cross")
    fed = seen.fed[len(model.blocks) - 1][0, 2] - block.feed_forward.down.bias
    stream = model.blocks[-1].feed_forward_norm
    inputs = []
    handle = stream.register_forward_hook(lambda _module, given, _output: inputs.append(given[0][0, 2]))
    seen_by(model, "cross")
    handle.remove()
    sigma = (inputs[0].var(unbiased=False) + stream.eps).sqrt()
    write = (fed - fed.mean()) / sigma * stream.weight
    logits = model.unembed(write) - model.unembed(torch.zeros_like(write))
    assert found.feed_forward[-1] == pytest.approx(float(logits[7] - logits.mean()), abs=1e-10)
    assert found.post_norm


@torch.no_grad()
def test_the_last_row_of_the_lens_has_the_probabilities_of_the_model(model):
    found = lens(read(model), TOKENIZER, Focus(token=2))
    own = seen_by(model, "decoder").logits[2].softmax(-1)
    assert len(found.rows) == model.config.layers + 1
    assert found.rows[-1].top[0].id == int(own.argmax())
    assert found.rows[-1].probability == pytest.approx(float(own.max()), rel=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_rollout_is_the_product_of_the_mixed_attention_of_the_layers(model, part):
    found = rollout(read(model, part), Focus(token=2))
    size = len(found.shares)
    product = np.eye(size)
    for weights in expected_weights(model, part):
        product = (weights.mean(0) + np.eye(size)) / 2 @ product
    np.testing.assert_allclose(found.shares, product[2], atol=1e-9)
    assert found.shares.sum() == pytest.approx(1)
    assert found.even.sum() == pytest.approx(1)
    if part == "encoder":
        others = np.delete(found.even, 2)
        np.testing.assert_allclose(others, others[0])
        assert found.even[2] > others[0]


@torch.no_grad()
@pytest.mark.parametrize("part", PARTS)
def test_the_steps_equal_the_observed_forward_pass(model, part):
    found = steps(read(model, part), TOKENIZER, Focus(token=2, layer=1, head=3))
    seen = seen_by(model, part).steps[1]
    np.testing.assert_allclose(found.weights, seen.weights[0, 3, 2], atol=1e-12)
    np.testing.assert_array_equal(found.allowed, ~seen.scores[0, 3, 2].isneginf().numpy())
    np.testing.assert_allclose(found.attention, seen.output[0, 2], atol=1e-12)
    assert found.difference < 1e-12


# Words and long texts


@torch.no_grad()
@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), BOTH])
def test_words_sum_columns_and_average_rows(parts):
    model = tiny_model(dtype=torch.float64, vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    reading = read(model, *parts)
    spans = word_spans(reading)
    assert [at for span in spans.columns for at in span] == list(range(len(reading.axes.columns)))
    assert [at for span in spans.rows for at in span] == list(range(len(reading.axes.rows)))
    assert any(len(span) > 1 for span in spans.columns)
    at = next(at for at, span in enumerate(spans.rows) if len(span) > 1)
    found = explain(reading, TOKENIZER, Focus(token=at), words=spans)
    rows = [explain(reading, TOKENIZER, Focus(token=row), check=False).sources.shares for row in spans.rows[at]]
    shares = np.mean(rows, 0)
    np.testing.assert_allclose(found.sources.shares, [shares[[*span]].sum() for span in spans.columns], atol=1e-7)
    assert found.sources.shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.map.weights.sum(1), 1, atol=1e-6)
    if parts != ("encoder",):
        logits = seen_by(model, "decoder").logits
        of_word = [float(logits[row].softmax(-1)[reading.axes.rows[row].id]) for row in spans.rows[at]]
        assert found.checks.token.probability == pytest.approx(np.prod(of_word), rel=1e-5)


@torch.no_grad()
def test_a_long_translation_equals_a_full_observation(model, monkeypatch):
    text = translation(repeat=6)
    focus = Focus(token=len(text.inputs) - 6)
    whole = explain(read(model, text=text), TOKENIZER, focus)
    in_stretches(monkeypatch)
    found = explain(read(model, text=text), TOKENIZER, focus)
    assert len(found.map.weights) < len(whole.map.weights)
    np.testing.assert_allclose(found.sources.shares, whole.sources.shares, rtol=1e-5, atol=1e-7)
    assert found.checks.probabilities == pytest.approx(whole.checks.probabilities, rel=1e-5)
    for shown in (found.map, whole.map):
        weights = expected_weights(model, "cross", text)[shown.layer, shown.head][shown.first_row :]
        np.testing.assert_allclose(shown.weights, weights[: len(shown.weights)], atol=1e-6)


# The head that aligns


def test_the_aligning_head_is_sharp_and_covers_the_source():
    size = 6
    even = torch.full((size, size), 1 / size)
    sink = torch.zeros(size, size)
    sink[:, 2] = 1
    found = alignment_scores(torch.stack([torch.eye(size), torch.eye(size).flip(0), even, sink]))
    assert found.tolist() == pytest.approx([1, 1, 1 / 36, 1 / 6])


@torch.no_grad()
def test_the_first_screen_shows_the_head_with_the_best_score(model):
    found = explain(read(model), TOKENIZER, Focus(), check=False).map
    weights = torch.from_numpy(expected_weights(model, "cross"))[..., :-1]
    scores = torch.stack([alignment_scores(layer) for layer in weights])
    assert (found.layer, found.head) == divmod(int(scores.argmax()), model.config.heads)
    assert found.aligning == pytest.approx(float(scores.max()))


def test_a_known_head_is_shown_with_its_weights(model):
    found = explain(read(model), TOKENIZER, Focus(), check=False, known=KnownHead(1, 2, 0.5)).map
    assert (found.layer, found.head, found.aligning, found.agrees) == (1, 2, 0.5, True)
    np.testing.assert_allclose(found.weights, expected_weights(model, "cross")[1, 2], atol=1e-5)


def test_the_default_focus_is_the_last_word():
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    for parts in (BOTH, ("encoder",), ("cross",)):
        reading = read(model, *parts)
        found = explain(reading, TOKENIZER, Focus(), check=False)
        assert any(map(str.isalnum, found.focus.text))
        assert not any(any(map(str.isalnum, piece.text)) for piece in reading.axes.rows[found.sources.focus + 1 :][:-1])


def test_the_characters_that_fit_leave_room_for_the_end_token():
    text, context = "The dog sings. " * 9, 12
    with pytest.raises(BadInput) as refused:
        refuse_length([*TOKENIZER.pieces(text), *TOKENIZER.closing_pieces], context)
    fitting = int(re.search(r"the first (\d+) characters fit", refused.value.hint)[1])
    assert len(TOKENIZER.pieces(text[:fitting])) + len(TOKENIZER.closing_pieces) == context


@pytest.mark.parametrize("focus", [Focus(layer=9), Focus(head=4), Focus(token=40)])
def test_a_missing_layer_head_or_token_is_refused(focus):
    model = tiny_model(vocab_size=TOKENIZER.vocab_size, **ENCODER_DECODERS["m2m100"])
    with pytest.raises(UsageProblem, match="There is no"):
        explain(read(model), TOKENIZER, focus)
