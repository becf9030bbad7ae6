"""Activation patching: what must be exact, against an observer that replaces activations, and the pairs of prompts."""

import numpy as np
import pytest
import torch

from attncli.circuits import patching
from attncli.circuits.defaults import PLACES
from attncli.circuits.pairs import paired
from attncli.circuits.patching import patch_activations
from attncli.errors import BadInput, UsageProblem
from attncli.model.attention import Observer
from attncli.render.circuit_patch import patch_document, patch_screen
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.explanations import pieces_of
from tests.support.models import ENCODER_DECODERS, ENCODERS, FAMILIES, tiny_model
from tests.support.screens import harmless, screen, widest

TOKENIZER = byte_tokenizer()
SHAPES = {**FAMILIES, "m2m100": ENCODER_DECODERS["m2m100"], "t5": ENCODER_DECODERS["t5"], "bert": ENCODERS["bert"]}
CLEAN, CORRUPT = "a red cat", "a fed cot"  # two of nine bytes differ


def patched(shape, clean=CLEAN, corrupt=CORRUPT, align="token", **options):
    model = tiny_model(dtype=torch.float64, **SHAPES[shape] | {"vocab_size": TOKENIZER.vocab_size})
    pair = paired(TOKENIZER.pieces(clean), TOKENIZER.pieces(corrupt), 90, align)
    start = (5, 6) if model.encoder is not None else ()
    named = {"target": "#40", "against": "#41"}
    return model, patch_activations(model, TOKENIZER, pair, start=start, places=PLACES, **named, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_patched_stream_reaches_the_other_end_exactly_where_all_information_passes(shape):
    _, found = patched(shape)
    shares = found.shares("residual")
    assert found.tables["residual"].shape == (found.layers + 1, 9)
    np.testing.assert_allclose(shares[0, [at for at in range(9) if at not in found.pair.changed]], 0, atol=1e-12)
    if not found.of_encoder and shape != "bert":  # the prediction is read from the last stream at the last token
        np.testing.assert_allclose(shares[-1], np.eye(9)[8], atol=1e-10)


def test_one_changed_token_carries_everything_before_the_first_layer():
    for direction, end in (("denoising", 1), ("noising", 0)):
        _, found = patched("qwen3", CLEAN, "a red cot", direction=direction)
        (changed,) = found.pair.changed
        assert found.shares("residual")[0, changed] == pytest.approx(end, abs=1e-10)
        assert found.ends.share(np.array(found.ends.clean)) == 1
        assert found.ends.share(np.array(found.ends.corrupt)) == 0


class Replacing(Observer):
    """Keeps the outputs of heads, or replaces those of one head."""

    def __init__(self, values=None, at=None):
        self.kept, self.values, self.at = [], values, at

    def mixed(self, layer, mixed, module):
        self.kept.append(mixed)
        if self.at is None or self.at[0] != layer:
            return mixed
        mixed = mixed.clone()
        mixed[:, self.at[1]] = self.values[layer][:, self.at[1]]
        return mixed


@pytest.mark.parametrize("shape", FAMILIES)
def test_patched_heads_equal_an_observer_that_replaces_them(shape, monkeypatch):
    monkeypatch.setattr(patching, "TOKENS_AT_ONCE", 27)
    model, found = patched(shape)
    clean, corrupt = (torch.tensor([[piece.id for piece in side]]) for side in (found.pair.clean, found.pair.corrupt))
    keep = Replacing()
    with torch.no_grad():
        model(clean, observe=keep)
        for layer in range(3):
            for head in range(4):
                logits = model(corrupt, observe=Replacing(keep.kept, (layer, head)))[0, -1]
                assert found.tables["head"][layer, head] == pytest.approx(float(logits[40] - logits[41]), abs=1e-11)


def test_words_with_different_numbers_of_tokens_align_at_their_ends():
    pair = paired(pieces_of("the", " ele", "phant", " ran"), pieces_of("the", " cat", " ran"), 9, "word")
    assert pair.units == ((range(1), range(1)), (range(2, 3), range(1, 2)), (range(3, 4), range(2, 3)))
    assert [piece.text for piece in pair.labels(clean=True)] == ["the", " elephant", " ran"]
    _, found = patched("qwen3", "a red cat", "a green cat", align="word")
    assert found.tables["residual"].shape == (4, 3)


def test_prompts_that_do_not_align_are_refused_with_both_lists_of_tokens():
    with pytest.raises(BadInput, match=r"3 and 2 tokens: the\|␣ele\|phant and the\|␣cat"):
        paired(pieces_of("the", " ele", "phant"), pieces_of("the", " cat"), 9)
    with pytest.raises(BadInput, match="equal"):
        paired(pieces_of("the"), pieces_of("the"), 9)
    with pytest.raises(BadInput, match="2 and 1 words"):
        paired(pieces_of("the", " cat"), pieces_of("the"), 9, "word")


def test_prompts_without_a_difference_are_refused():
    model = tiny_model(vocab_size=TOKENIZER.vocab_size)
    pair = paired(TOKENIZER.pieces(CLEAN), TOKENIZER.pieces(CORRUPT), 90)
    with pytest.raises(BadInput, match="no difference of two logits"):
        patch_activations(model, TOKENIZER, pair, target="#40", against="#40")
    with torch.no_grad():
        model.norm.weight.zero_()  # every logit is 0
    with pytest.raises(BadInput, match="there is no effect"):
        patch_activations(model, TOKENIZER, pair, target="#40", against="#41")
    with pytest.raises(UsageProblem, match="no words"):
        patch_activations(tiny_model(**ENCODERS["bert"] | {"head_transform": False}), TOKENIZER, pair)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_screen_fits_every_width(width):
    _, found = patched("qwen3", "a \x1b[2J cat in the wide mat " * 2, "a \x1b[2K cot in the wide mat " * 2)
    for colors in (None, "truecolor"):
        console = screen(width, colors)
        console.print(patch_screen(found, "model", console))
        drawn = console.file.getvalue()
        if colors is None:
            assert widest(drawn) <= width
            assert harmless(drawn)
    assert patch_document(found, "model")["shares"].keys() == set(PLACES)
