"""Encoder-decoders: parity with transformers, and the invariants of masks, caches and padding."""

import json
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from attncli.checkpoint.families.registry import FAMILIES, config_from_json, family_of
from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import BadCheckpoint
from attncli.model.count import count_parameters
from attncli.model.fused import head_loss
from attncli.model.positions import distance_buckets, sinusoid_table
from attncli.model.stack import Source
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.encoder_decoders import THEIRS, save_theirs, their_model
from tests.support.lazily import transformers
from tests.support.models import ENCODER_DECODERS, Recorder, ids_of, tiny_config, tiny_model
from tests.support.texts import story

CPU = torch.device("cpu")
PARTS = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(300)], "bpe", 300)


@pytest.fixture(params=ENCODER_DECODERS)
def model(request):
    return tiny_model(**ENCODER_DECODERS[request.param])


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
    save_theirs(tmp_path, theirs, tokenizer)
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


def copies_for_embedding(name):
    """Renames the embedding to its copy in a stack: some programs write the copy and omit the embedding."""
    return name.replace("model.shared", "model.decoder.embed_tokens").replace("shared.", "encoder.embed_tokens.")


@pytest.mark.parametrize("name", ["m2m100", "marian", "bart", "t5"])
@pytest.mark.parametrize("renamed", [copies_for_embedding, lambda name: name.removeprefix("model.")])
def test_the_names_of_other_programs_are_read(name, renamed, tokenizer, tmp_path):
    save_theirs(tmp_path, their_model(name), tokenizer)
    expected = load_model(tmp_path, CPU, torch.float32).model.state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["shared.weight" if name == "t5" else "model.shared.weight"].clone()
    tensors = {renamed(name): tensor for name, tensor in tensors.items()}
    if name == "t5":
        tensors |= {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.zeros(32, 4)}
    elif name != "bart":
        tensors |= {"model.encoder.embed_positions.weight": torch.zeros(128, 32)}
    if bias := tensors.pop("final_logits_bias", None) is not None:  # without it, the bias is zero
        expected["head_bias"].zero_()
    save_file(tensors, tmp_path / "model.safetensors")
    found = load_model(tmp_path, CPU, torch.float32).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert bias == (name in ("marian", "bart"))


def test_a_tied_head_alone_is_read_as_the_embedding(tokenizer, tmp_path):
    save_theirs(tmp_path, their_model("marian"), tokenizer)
    expected = load_model(tmp_path, CPU, torch.float32).model.embedding.weight
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.shared.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path, CPU, torch.float32).model.embedding.weight, expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 8), (64, 1000)])
def test_distances_have_the_buckets_of_transformers(causal, buckets, distance):
    config = tiny_config(**ENCODER_DECODERS["t5"] | {"relative_buckets": buckets, "relative_distance": distance})
    distances = torch.arange(-1200, 1201)
    from transformers.models.t5.modeling_t5 import T5Attention

    theirs = T5Attention._relative_position_bucket(distances, not causal, buckets, distance)
    assert torch.equal(distance_buckets(distances, config, causal=causal), theirs)


@pytest.mark.parametrize("name", ["marian", "m2m100"])
def test_sinusoids_equal_those_of_transformers_at_every_position(name):
    config = tiny_config(**ENCODER_DECODERS[name] | {"context": 900})
    ours = sinusoid_table(config, 900, CPU)
    if name == "marian":
        from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

        theirs = MarianSinusoidalPositionalEmbedding(900, 32).create_weight()
    else:
        from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding

        theirs = M2M100SinusoidalPositionalEmbedding(900, 32, 1).get_embedding(902, 32, 1)[2:]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(ENCODER_DECODERS)),
    cuts=st.sets(st.integers(1, 10)),
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=3),
)
def test_cached_and_uncached_logits_agree(name, cuts, lengths):
    model = tiny_model(**ENCODER_DECODERS[name])
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


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_label_smoothing_does_not_change_the_loss_of_a_head_that_is_not_fused(name):
    model = tiny_model(dtype=torch.float64, **ENCODER_DECODERS[name]).train().requires_grad_()
    ids, inputs, labels = ids_of(7, 2), ids_of(6, 2, 1), ids_of(6, 2, 2)
    labels[1, 3:] = -100
    loss = model.translation_loss(ids, None, inputs, labels, 0.3)
    logits = model(inputs, source=model.read_source(ids)).flatten(0, 1)
    plain, smoothed = (
        torch.nn.functional.cross_entropy(logits, labels.flatten(), label_smoothing=share) for share in (0.0, 0.3)
    )
    torch.testing.assert_close(loss, plain)
    weights = list(model.parameters())
    for ours, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(smoothed, weights), strict=True):
        torch.testing.assert_close(ours, expected)


def their_config(name):
    family, switches = THEIRS[name]
    return json.loads(getattr(transformers, f"{family}Config")(**switches).to_json_string())


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("marian", {"share_encoder_decoder_embeddings": False}),
        ("marian", {"decoder_vocab_size": 200}),
        ("marian", {"normalize_embedding": True}),
        ("marian", {"normalize_before": True}),
        ("marian", {"static_position_embeddings": False}),
        ("marian", {"activation_function": "tanh"}),
        ("bart", {"normalize_embedding": False}),
        ("bart", {"add_final_layer_norm": True}),
        ("bart", {"static_position_embeddings": True}),
        ("bart", {"tie_word_embeddings": False}),
        ("bart", {"decoder_attention_heads": 2}),
        ("bart", {"encoder_ffn_dim": 40}),
        ("bart", {"activation_function": ["gelu"]}),
        ("t5", {"feed_forward_proj": "gated-tanh"}),
        ("t5", {"feed_forward_proj": 7}),
        ("t5", {"feed_forward_proj": ["gated-gelu"]}),
        ("t5", {"tie_word_embeddings": "no"}),
        ("t5", {"relative_attention_num_buckets": 10**30}),
        ("t5", {"relative_attention_max_distance": None}),
        ("t5", {"num_decoder_layers": 0}),
        ("t5", {"n_positions": "512"}),
    ],
)
def test_a_switch_that_would_change_the_meaning_is_refused_by_name(name, switch):
    described = their_config(name)
    assert config_from_json(described).encoder_layers
    ((switched, _),) = switch.items()
    named = {"relative_attention_num_buckets": "relative_buckets", "relative_attention_max_distance": "distance"}
    named |= {"num_decoder_layers": "layers is 0", "n_positions": "context is '512'"}
    with pytest.raises(BadCheckpoint, match=named.get(switched, switched)):
        config_from_json(described | switch)


@pytest.mark.parametrize("name", ["m2m100", "marian", "bart", "t5"])
@pytest.mark.parametrize("value", [None, True, -1, 0, 1.5, 10**30, "8", [8], {}])
def test_any_value_of_a_setting_is_read_or_refused(name, value):
    described = their_config(name)
    for key in described.keys() - {"model_type"}:
        with suppress(BadCheckpoint):
            assert config_from_json(described | {key: value}).encoder_layers
    for key in described.keys() - {"model_type"}:
        with suppress(BadCheckpoint):
            config_from_json({other: described[other] for other in described.keys() - {key}})


def test_every_encoder_decoder_of_the_registry_is_compared_with_transformers_both_ways():
    read = {their_config(name)["model_type"] for name in THEIRS}
    written = {family_of(tiny_config(**switches)).model_type for switches in ENCODER_DECODERS.values()}
    ends = ("ConditionalGeneration", "MTModel")
    assert read == written == {name for name, family in FAMILIES.items() if family.architecture.endswith(ends)}
