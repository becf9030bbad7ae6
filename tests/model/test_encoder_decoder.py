"""Encoder-decoders: parity with transformers, and the invariants of masks, caches and padding."""

from itertools import pairwise

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.model.count import count_parameters
from attncli.model.fused import head_loss
from attncli.model.stack import Source
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import ENCODER_DECODERS, Recorder, ids_of, tiny_model
from tests.support.texts import story

CPU = torch.device("cpu")
M2M100 = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    "dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
THEIRS = {
    "m2m100": ("M2M100", M2M100),
    "m2m100-pad": ("M2M100", M2M100 | {"pad_token_id": 7, "activation_function": "gelu", "scale_embedding": False}),
}
PARTS = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(300)], "bpe", 300)


@pytest.fixture(params=ENCODER_DECODERS)
def model(request):
    return tiny_model(**ENCODER_DECODERS[request.param])


def their_model(name):
    """Returns a random model of transformers, with weights so large that errors change the results."""
    family, switches = THEIRS[name]
    config = getattr(transformers, f"{family}Config")(**switches)
    torch.manual_seed(1)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


def padded(lengths, seed=0, pad=1, vocab_size=300):
    """Returns random source ids (B, S) from 8 on, padded at the end, and the mask of the tokens."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids_of(max(lengths), len(lengths), seed, vocab_size).clamp(min=8).masked_fill(~mask, pad), mask


def compare(ours, theirs, pad):
    ids, mask = padded((9, 4, 7), pad=pad)
    targets = ids_of(12, 3, 1, 300).clamp(min=8)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=targets, output_attentions=True)
        encoded = ours.encode(ids, mask)
        torch.testing.assert_close(encoded[mask], expected.encoder_last_hidden_state[mask], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            ours(targets, source=ours.read_source(ids, mask)), expected.logits, rtol=0, atol=1e-4
        )
        for part, name in PARTS.items():
            seen = Recorder(part)
            source = ours.read_source(ids, mask, observe=seen if part == "encoder" else None)
            ours.hidden(targets, observe=None if part == "encoder" else seen, source=source)
            for layer, weights in enumerate(expected[name]):
                got = seen.steps[layer].weights
                rows = mask[:, None, :, None].expand_as(got) if part == "encoder" else torch.ones_like(got).bool()
                torch.testing.assert_close(got[rows], weights[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", THEIRS)
def test_reads_their_directory_and_computes_the_same(name, tokenizer, tmp_path):
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    loaded = load_model(tmp_path, CPU, torch.float32)
    assert loaded.start_of_text == theirs.config.decoder_start_token_id
    compare(loaded.model, theirs, theirs.config.pad_token_id)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_they_read_our_directory_and_compute_the_same(name, tokenizer, tmp_path):
    switches = ENCODER_DECODERS[name] | {"vocab_size": 300, "context": 128}
    model = tiny_model(**switches)
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=2))
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m", attn_implementation="eager").eval()
    assert theirs.generation_config.decoder_start_token_id == 2
    compare(model, theirs, theirs.config.pad_token_id)
    reread = load_model(tmp_path / "m", CPU, torch.float32)
    assert reread.model.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(reread.model.state_dict()[key], tensor)


def test_parts_count_every_parameter(model):
    assert sum(count_parameters(model.config).values()) == sum(one.numel() for one in model.parameters())


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 10)), lengths=st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_cached_and_uncached_logits_agree(cuts, lengths):
    model = tiny_model(**ENCODER_DECODERS["m2m100"])
    ids, mask = padded(lengths, vocab_size=97)
    targets = ids_of(11, len(lengths), 1)
    with torch.inference_mode():
        source = model.read_source(ids, mask)
        whole, cache = model(targets, source=source), model.new_cache()
        edges = [0, *sorted(cuts), 11]
        parts = [model(targets[:, a:b], cache, source=source) for a, b in pairwise(edges)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


def test_padding_gets_no_weight_and_changes_nothing(model):
    ids, mask = padded((9, 4), vocab_size=97)
    targets = ids_of(6, 2, 1)
    with torch.inference_mode():
        alone = model(targets[1:], source=model.read_source(ids[1:, :4]))
        together = model(targets, source=model.read_source(ids, mask))[1:]
        others = model(targets, source=model.read_source(ids.masked_fill(~mask, 50), mask))[1:]
        seen, crossing = Recorder("encoder"), Recorder("cross")
        model.hidden(targets, observe=crossing, source=model.read_source(ids, mask, seen))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert torch.equal(others, together)
    for steps in (*seen.steps.values(), *crossing.steps.values()):
        assert bool((steps.weights[1, :, :, 4:] == 0).all())
        torch.testing.assert_close(steps.weights.sum(-1), torch.ones(steps.weights.shape[:-1]))


def test_only_the_decoder_is_causal(model):
    ids, targets = ids_of(8, 1), ids_of(6, 1, 1)
    changed, later = ids.clone(), targets.clone()
    changed[0, -1], later[0, -1] = (ids[0, -1] + 1) % 97, (targets[0, -1] + 1) % 97
    with torch.inference_mode():
        assert not torch.allclose(model.encode(changed)[0, 0], model.encode(ids)[0, 0], atol=1e-4)
        source = model.read_source(ids)
        assert torch.equal(model(later, source=source)[0, :-1], model(targets, source=source)[0, :-1])


@pytest.mark.parametrize("part", PARTS)
def test_the_observed_path_equals_the_fast_path(model, part):
    ids, mask = padded((9, 4), vocab_size=97)
    targets = ids_of(6, 2, 1)
    with torch.inference_mode():
        fast = model(targets, source=model.read_source(ids, mask))
        seen = Recorder(part)
        observed = model(targets, observe=seen, source=model.read_source(ids, mask, seen))
    torch.testing.assert_close(observed, fast, rtol=0, atol=1e-5)
    assert len(seen.steps) == (model.config.encoder_layers if part == "encoder" else model.config.layers)


@pytest.mark.parametrize("padding", [False, True])
def test_training_paths_have_the_gradients_of_autograd(model, padding):
    """The operations of `fused` in training give the loss and the gradients of PyTorch's operations."""
    ids, mask = padded((9, 4) if padding else (7, 7), vocab_size=97)
    inputs, labels = ids_of(6, 2, 1), ids_of(6, 2, 2)
    labels[1, 3:] = -1
    wide = model.double()
    loss = wide.translation_loss(ids, mask if padding else None, inputs, labels)
    loss.backward()
    gradients = {name: one.grad.clone() for name, one in wide.named_parameters()}
    wide.zero_grad()
    with torch.no_grad():
        source = wide.read_source(ids, mask)
    assert isinstance(source, Source)
    seen = Recorder("encoder"), Recorder("cross")
    hidden = wide.hidden(inputs, observe=seen[1], source=wide.read_source(ids, mask, seen[0]))
    expected = torch.nn.functional.cross_entropy(wide.unembed(hidden).flatten(0, 1), labels.flatten(), ignore_index=-1)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, one in wide.named_parameters():
        torch.testing.assert_close(gradients[name], one.grad, rtol=1e-6, atol=1e-9)


def test_label_smoothing_has_the_gradient_of_the_smoothed_loss_and_reports_the_loss():
    hidden = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(11, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets = torch.arange(7)
    loss = head_loss(hidden, weight, targets, 0.1)
    ours = torch.autograd.grad(loss, (hidden, weight))
    logits = hidden @ weight.T
    smoothed = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    for one, expected in zip(ours, torch.autograd.grad(smoothed, (hidden, weight)), strict=True):
        torch.testing.assert_close(one, expected)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(hidden @ weight.T, targets))
