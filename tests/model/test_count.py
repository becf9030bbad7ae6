"""The computed size of a model equals the size of the built model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from attncli.config import ModelConfig
from attncli.model.attention import Observer
from attncli.model.count import (
    ATTENTION,
    BYTES,
    PRESETS,
    attention_count,
    attention_weights,
    cache_bytes_per_token,
    count_parameters,
    matrix_parameters,
    multiplications,
)
from attncli.model.transformer import Transformer
from tests.support.models import ENCODER_DECODERS, ENCODERS, Recorder, ids_of, tiny_model


def built(config):
    """Returns the model on the device "meta", which stores no weights."""
    with torch.device("meta"):
        return Transformer(config)


@st.composite
def configs(draw):
    """Draws the config of a small model with random switches."""
    kv_heads = draw(st.integers(1, 3))
    flag, norm = st.booleans(), draw(st.sampled_from(["rms", "layer"]))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 60)),
        layers=draw(st.integers(1, 3)),
        width=draw(st.integers(1, 24)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_width=2 * draw(st.integers(1, 5)),
        feed_forward_width=draw(st.integers(1, 40)),
        context=draw(st.integers(1, 50)),
        norm=norm,
        norm_bias=norm == "layer" and draw(flag),
        positions=draw(st.sampled_from(["rotary", "learned"])),
        gated=draw(flag),
        activation=draw(st.sampled_from(["silu", "gelu_tanh"])),
        qk_norm=draw(flag),
        qkv_bias=draw(flag),
        output_bias=draw(flag),
        feed_forward_bias=draw(flag),
        window=draw(st.none() | st.integers(1, 9)),
        tied=draw(flag),
    )


def parts_of(model):
    """Returns the numbers of parameters of a real model, by the part in their names."""
    names = {"position": "positions", "gate": "feed-forward", "up": "feed-forward", "down": "feed-forward"}
    parts = dict.fromkeys(count_parameters(model.config), 0)
    for name, parameter in model.named_parameters():
        owner, kind = name.split(".")[-2:]
        part = "norms" if "norm" in owner else "biases" if kind == "bias" else names.get(owner, owner)
        parts[part] += parameter.numel()
    return parts


@pytest.mark.parametrize("name", PRESETS)
def test_the_counted_parts_of_a_preset_equal_the_built_model(name):
    _, config = PRESETS[name]
    assert count_parameters(config) == parts_of(built(config))


@settings(deadline=None, max_examples=100)
@given(config=configs())
def test_the_counted_parts_of_any_shape_equal_the_built_model(config):
    model = built(config)
    assert count_parameters(config) == parts_of(model)
    assert sum(count_parameters(config).values()) == sum(parameter.numel() for parameter in model.parameters())


@settings(deadline=None, max_examples=60)
@given(config=configs())
def test_matrix_parameters_are_all_matrices_that_multiply_every_token(config):
    """These are all matrices except the embeddings, and the head, which is the embedding if it is tied."""
    model = built(config)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    head = model.embedding.weight.numel() if config.tied else 0
    assert matrix_parameters(config) == linear + head


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 6, 7, 8, 30])
def test_counted_attention_weights_and_multiplications_equal_a_forward_pass(family, tokens):
    """Compares with the attention weights that are not 0, and with torch's count, which includes masked weights."""
    model, seen = tiny_model(**family), Recorder()
    config = model.config
    with FlopCounterMode(display=False) as counter:
        model(ids_of(tokens), observe=seen)
    linear, quadratic = multiplications(config, tokens)
    assert attention_weights(config, tokens) == sum(int((steps.weights > 0).sum()) for steps in seen.steps.values())
    assert quadratic == 2 * config.head_width * attention_weights(config, tokens)
    squares = 2 * config.head_width * config.heads * config.layers * tokens**2
    assert counter.get_total_flops() == 2 * (linear + squares)


class _Weights(Observer):
    """Counts the weights of every attention that are not 0."""

    def __init__(self):
        self.count = 0

    def watches(self, part):
        return True

    def attention(self, layer, steps, module):
        self.count += int((steps.weights > 0).sum())


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("name", [*ENCODER_DECODERS, *ENCODERS])
def test_attention_weights_of_an_encoder_and_of_both_texts_of_a_translation_are_counted(name, tokens):
    model, seen = tiny_model(**(ENCODER_DECODERS | ENCODERS)[name]), _Weights()
    ids = ids_of(tokens)
    with FlopCounterMode(display=False) as counter:
        source = model.read_source(ids, observe=seen) if model.config.encoder_layers else None
        model(ids, observe=seen, source=source)
    assert seen.count == attention_weights(model.config, tokens)
    linear, quadratic = multiplications(model.config, tokens)
    assert quadratic == 2 * model.config.head_width * seen.count
    layers = attention_count(model.config)
    masked = 2 * model.config.head_width * model.config.heads * layers * tokens**2
    transform = model.config.width**2 * tokens if model.config.head_transform else 0  # of BERT's head
    assert counter.get_total_flops() == 2 * (linear + masked + transform)


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_a_source_token_has_as_many_bytes_in_the_cache_as_a_target_token(name):
    model = tiny_model(**ENCODER_DECODERS[name])
    source = model.read_source(ids_of(7))
    assert sum(one.nbytes for pair in source.layers for one in pair) == 7 * cache_bytes_per_token(
        model.config, "float32"
    )


def test_published_sizes():
    """The attention of GPT-3 has 4 matrices of 12288 x 12288 in 96 layers; the papers round the totals."""
    totals = {name: sum(count_parameters(config).values()) for name, (_, config) in PRESETS.items()}
    parts = count_parameters(PRESETS["gpt3"][1])
    assert sum(parts[part] for part in ATTENTION) == 57_982_058_496
    assert totals["gpt2"] == 124_439_808
    assert totals["gpt2-xl"] == 1_557_611_200
    assert totals["llama2-7b"] == 6_738_415_616
    assert totals["llama2-70b"] == 68_976_648_192
    assert round(totals["gpt3"] / 1e9) == 175


@torch.no_grad()
@pytest.mark.parametrize("dtype", BYTES)
def test_the_cache_has_the_counted_bytes(family, dtype):
    """A cache that one text fills has room for exactly the context."""
    model = tiny_model(dtype=getattr(torch, dtype), context=40, **family)
    cache = model.new_cache()
    model(ids_of(5), cache)
    assert cache.nbytes == 40 * cache_bytes_per_token(model.config, dtype)
    batched = model.new_cache()
    model(ids_of(40, batch=3), batched)
    assert batched.nbytes == 3 * cache.nbytes
