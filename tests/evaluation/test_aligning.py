"""Word alignment by cross-attention: words of tokens, weights, prediction drops, the choice of heads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.checkpoint.load import LoadedModel
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import BadInput, UsageProblem
from attncli.evaluation.aligning import align_by_attention, align_combined, align_pairs, predicted_pairs
from attncli.evaluation.alignment import GoldLinks, diagonal, grow_diagonal_final, score_links
from attncli.evaluation.bitext import lowered
from attncli.evaluation.cross_attention import batches_of, prediction_drops, read_weights, require_encoder_decoder
from attncli.evaluation.head_choice import agreement, choose_heads, head_of_pair, sample_of, selections_of
from attncli.evaluation.ibm import Aligner
from attncli.evaluation.link_matrices import HeadSelection, best_words, drops_of, linked, links_of_drops
from attncli.evaluation.pair_words import Sentence, WordsOfPair, sentence_of, tokens_of_pair, words_of_pair
from attncli.text.tokenizer_training import byte_tokenizer
from attncli.text.words import split_words
from tests.support.lazily import transformers
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.translation import artificial_pairs, artificial_tokenizer, trained_model

START = 2
PAIRS = [
    ("The dog sleeps.", "Der Hund schläft."),
    ("Cats eat fish, don't they?", "Katzen fressen Fisch, oder?"),
    ("Yes", "Ja, natürlich, immer!"),
]


def encoder_decoder(family="m2m100", **changes):
    shape = {"vocab_size": artificial_tokenizer().vocab_size, "context": 96}
    return tiny_model(**{**ENCODER_DECODERS[family], **shape, **changes})


def words_of(pairs, split="words"):
    return [words_of_pair(*pair, loaded(encoder_decoder()), split) for pair in pairs]


def loaded(model, **more):
    return LoadedModel(model, artificial_tokenizer(), Path("en-de"), START, frozenset([START]), {}, **more)


def weights_of(model, pairs):
    """Returns for each pair its word weights (layers, 2, H, J, I)."""
    found = {}
    for batch in batches_of(pairs, model):
        layers = []
        read_weights(model, batch, lambda layer, weights, layers=layers: layers.append(weights))
        for row, number in enumerate(batch.numbers):
            pair = pairs[number]
            found[number] = torch.stack(layers)[:, :, row, :, : len(pair.target.words), : len(pair.source.words)]
    return [found[number] for number in range(len(pairs))]


@given(st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_tokens_of_a_word_cover_the_word(text):
    tokenizer = artificial_tokenizer()
    found = sentence_of(text, tokenizer)
    assert list(found.words) == split_words(text)
    assert found.ids == tuple(tokenizer.encode(text))
    for word, span in zip(found.words, found.spans, strict=True):
        assert word in tokenizer.decode(found.ids[span.start : span.stop])


def test_a_batch_is_bounded_by_its_words_if_words_share_tokens(monkeypatch):
    """Each pair has one source token, 30 words and one target token; a batch of one has 31 copies of 1 token."""
    side = Sentence((1,), ("w",) * 30, (range(1),) * 30)
    pairs = [WordsOfPair(side, Sentence((1,), ("w",), (range(1),)))] * 8
    monkeypatch.setattr("attncli.evaluation.cross_attention._TOKENS_AT_ONCE", 62)
    model = encoder_decoder()
    assert [len(batch.ids) for batch in batches_of(pairs, model, rows=True)] == [2] * 4
    assert [len(batch.ids) for batch in batches_of(pairs, model)] == [8]


def test_the_kinds_of_words():
    tokenizer = byte_tokenizer()
    assert sentence_of("No. 7", tokenizer).words == ("No", ".", "7")
    assert sentence_of("No. 7", tokenizer, "spaces").words == ("No.", "7")
    assert sentence_of("No. 7", tokenizer, "spaces").spans == (range(3), range(4, 5))
    assert sentence_of("No 7", tokenizer, "tokens").words == ("N", "o", " ", "7")


def test_a_pair_without_words_or_beyond_the_context_is_refused():
    with pytest.raises(BadInput, match=r"x\.tsv, line 3: the target has no words"):
        words_of_pair("a", " ", loaded(encoder_decoder()), place=lambda: "x.tsv, line 3")
    with pytest.raises(BadInput, match="The source has 12 tokens, and the model reads at most 11"):
        words_of_pair("?" * 11, "a", loaded(encoder_decoder(context=11)))


def test_a_target_begins_with_the_tokens_that_the_model_forces():
    pair = words_of_pair("a b", "c", loaded(encoder_decoder(), forced=(5, 6)))
    assert pair.target.ids[:3] == (START, 5, 6)
    assert pair.target.spans[0].start == 3
    assert pair.source.ids[-1] == artificial_tokenizer().closing[0]


def test_a_model_without_cross_attention_is_refused():
    with pytest.raises(UsageProblem, match="stories is a decoder alone"):
        require_encoder_decoder(tiny_model(), "stories")
    with pytest.raises(UsageProblem, match="There is no layer 3"):
        selections_of(encoder_decoder(), [(3, 0)])
    with pytest.raises(UsageProblem, match="There is no head 4"):
        selections_of(encoder_decoder(), [(2, 4)])


def test_word_weights_equal_those_of_transformers(tmp_path):
    model, tokenizer = encoder_decoder(), artificial_tokenizer()
    write_checkpoint(tmp_path / "model", Checkpoint(model.config, model.state_dict(), tokenizer, START))
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    pairs = words_of(PAIRS)
    for pair, ours in zip(pairs, weights_of(model, pairs), strict=True):
        inputs = torch.tensor([pair.target.ids])
        with torch.no_grad():
            output = theirs(torch.tensor([pair.source.ids]), decoder_input_ids=inputs, output_attentions=True)
        weights = torch.stack(output.cross_attentions)[:, 0]  # (layers, H, T, S)
        for shift in (0, 1):
            for j, rows in enumerate(pair.target.spans):
                for i, keys in enumerate(pair.source.spans):
                    part = weights[:, :, rows.start - 1 + shift : rows.stop - 1 + shift, keys.start : keys.stop]
                    torch.testing.assert_close(ours[:, shift, :, j, i], part.sum(-1).mean(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_batch_gives_the_weights_and_drops_of_single_pairs(family):
    model, pairs = encoder_decoder(family), words_of(PAIRS)
    for pair, together in zip(pairs, weights_of(model, pairs), strict=True):
        torch.testing.assert_close(together, weights_of(model, [pair])[0], atol=1e-5, rtol=0)
        assert (together.sum(-1) <= 1 + 1e-5).all()
    (batch,) = batches_of(pairs, model, rows=True)
    drops = prediction_drops(model, batch)
    for row, number in enumerate(batch.numbers):
        pair = pairs[number]
        (single,) = batches_of([pair], model, rows=True)
        mine = drops[row, : len(pair.target.words), : len(pair.source.words)]
        torch.testing.assert_close(mine, prediction_drops(model, single)[0], atol=1e-4, rtol=0)


def test_a_drop_is_the_log_probability_lost_without_the_word():
    model, (pair,) = encoder_decoder(), words_of(PAIRS[:1])
    (batch,) = batches_of([pair], model, rows=True)
    drops = prediction_drops(model, batch)[0]
    ids, inputs = torch.tensor([pair.source.ids]), torch.tensor([pair.target.ids])
    mask = torch.ones_like(ids, dtype=torch.bool)
    cut = mask.clone()
    cut[0, pair.source.spans[1].start : pair.source.spans[1].stop] = False
    with torch.no_grad():
        both = [model(inputs, source=model.read_source(ids, some))[0].log_softmax(-1) for some in (mask, cut)]
    lost = sum(float((both[0] - both[1])[at - 1, pair.target.ids[at]]) for at in pair.target.spans[2])
    assert float(drops[2, 1]) == pytest.approx(lost, abs=1e-4)


def test_the_alignments_keep_the_order_of_the_pairs(monkeypatch):
    monkeypatch.setattr("attncli.evaluation.aligning.AT_ONCE", 2)
    model, pairs = encoder_decoder(), words_of(PAIRS)
    selection, done = HeadSelection(((0, 1), (2, 3)), "input"), []
    found = list(align_by_attention(model, iter(pairs), selection, done.append))
    assert done[-1] == 3
    for alignment, pair, weights in zip(found, pairs, weights_of(model, pairs), strict=True):
        assert (alignment.source, alignment.target) == (pair.source.words, pair.target.words)
        mean = (weights[0, 1, 1] + weights[2, 1, 3]) / 2
        torch.testing.assert_close(torch.tensor(alignment.weights), mean, atol=1e-6, rtol=0)
        assert alignment.links == tuple(sorted(linked(mean.numpy())))
        assert alignment.link_weights == tuple(alignment.weights[j, i] for i, j in alignment.links)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_links_of_weights_do_not_depend_on_how_much_a_head_attends_to_words(sources, targets, seed):
    """A head that rests on the end token gives all words small weights. Their shares, and so their links, are equal."""
    weights = np.random.default_rng(seed).random((targets, sources)) + 0.01
    shares = weights / weights.sum(1, keepdims=True) * weights / weights.sum(0, keepdims=True)
    assert linked(weights) == linked(weights / 64) == grow_diagonal_final(*best_words(shares))


def test_a_link_of_drops_is_the_best_of_both_words_and_loses_something():
    drops = np.array([[4.0, 0.5, 0.0], [3.0, 2.0, 0.0], [-0.5, -0.2, -0.1]])
    assert links_of_drops(drops) == {(0, 0), (1, 1)}
    assert links_of_drops(-np.abs(drops)) == frozenset()


def test_a_prior_without_information_changes_nothing_and_a_model_improves_the_hmm():
    model = trained_model()
    pairs = [words_of_pair(*pair, loaded(model)) for pair in artificial_pairs(6, 9)]
    predicted = list(predicted_pairs(model, pairs))
    words = [(lowered(pair.source.words), lowered(pair.target.words)) for pair in pairs]
    gold = [frozenset((len(pair.target.words) - 1 - j, j) for j in range(len(pair.target.words))) for pair in pairs]
    silent = [replace(one, drops=np.zeros_like(one.drops)) for one in predicted]
    alone = [grow_diagonal_final(*both) for both in zip(*Aligner(words).links(), strict=True)]

    def links_of(found):
        return [frozenset(one.links) for one in found]

    def error_rate(links):
        return score_links(links, [GoldLinks(one, one) for one in gold]).error_rate

    combined = align_combined(predicted)
    assert error_rate(links_of(combined)) <= min(
        error_rate(alone), error_rate(links_of(p.alignment for p in predicted))
    )
    assert error_rate(links_of(combined)) < 0.1 < error_rate([diagonal(len(s), len(t)) for s, t in words])
    for one in combined:
        assert ((one.weights >= 0) & (one.weights <= 1)).all()
    assert len(align_combined(silent, words)) == len(silent)
    assert links_of(align_pairs(model, pairs, "combined")) == links_of(combined)
    assert links_of(align_pairs(model, pairs, "predictions")) == [links_of_drops(one.drops) for one in predicted]


def test_a_sample_is_even_and_deterministic():
    assert sample_of(3) == [0, 1, 2]
    assert sample_of(1000, 4) == [0, 333, 666, 999]


def test_the_choice_is_as_good_as_the_best_one_with_gold():
    """The model has learned a language in which word i translates word -1 - i."""
    model = trained_model()
    pairs = [words_of_pair(*pair, loaded(model)) for pair in artificial_pairs(60, 9)]
    gold = [frozenset((len(pair.target.words) - 1 - j, j) for j in range(len(pair.target.words))) for pair in pairs]
    candidates = selections_of(model)

    def error_rate(selection):
        found = [frozenset(alignment.links) for alignment in align_by_attention(model, pairs, selection)]
        return score_links(found, [GoldLinks(links, links) for links in gold]).error_rate

    choice = choose_heads(model, pairs, candidates)
    assert choice.candidates == len(candidates) == 22
    assert error_rate(choice.selected) <= min(map(error_rate, candidates)) + 0.03
    assert choose_heads(model, pairs, candidates) == choice
    assert choose_heads(model, pairs, candidates[:1]).value is None


def test_the_head_of_one_pair_agrees_best_with_the_predictions(monkeypatch):
    model, (pair,) = trained_model(), artificial_pairs(1, 5)
    words = words_of_pair(*pair, loaded(model), "tokens")
    pieces = [artificial_tokenizer().pieces(text) for text in pair]
    assert tokens_of_pair(pieces[0], pieces[1]).target.words == words.target.words
    choice = head_of_pair(model, words)
    (batch,) = batches_of([words], model, rows=True)
    reference = links_of_drops(drops_of(model, batch)[0])

    def value(head):
        found = next(align_by_attention(model, [words], HeadSelection((head,), "output"))).links
        return agreement([frozenset(found)], [reference])

    best = max(value((layer, head)) for layer in range(2) for head in range(4))
    assert choice.value == pytest.approx(best) == pytest.approx(value(choice.selected.heads[0]))
    monkeypatch.setattr("attncli.evaluation.head_choice._MOST_WORK", 1)
    assert head_of_pair(model, words) is None


def test_few_pairs_are_compared_with_the_models_own_predictions():
    model = trained_model()
    pairs = [words_of_pair(*pair, loaded(model)) for pair in artificial_pairs(4, 3)]
    choice = choose_heads(model, pairs, selections_of(model))
    assert (choice.criterion, choice.candidates, choice.pairs) == ("prediction", 6, 4)
    assert choice.selected.shift == "output"
    assert choose_heads(model, pairs, selections_of(model, [(1, 3)])).candidates == 2
