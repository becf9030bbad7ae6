"""Tiny random models of every family, and an observer that records what a model computes."""

import torch

from attncli.config import ModelConfig, RopeScaling
from attncli.model.attention import AttentionSteps, Observer
from attncli.model.transformer import Transformer, initialize


def tiny_config(**changes) -> ModelConfig:
    shape = {
        "vocab_size": 97, "layers": 3, "width": 32, "heads": 4, "kv_heads": 2, "head_width": 8,
        "feed_forward_width": 48, "context": 96,
    }  # fmt: skip
    return ModelConfig(**{**shape, **changes})


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> Transformer:
    """Returns a random model whose attention is far from uniform, so that errors in attention change the results."""
    model = Transformer(tiny_config(**changes))
    initialize(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name) + seed)
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif name.startswith("embedding"):
                parameter.mul_(20 if parameter.std() < 0.1 else 2)
    return model.to(dtype).eval()


SHAPES = {
    "qwen3": {},
    "qwen3-window": {"window": 7, "window_from": 1},
    "qwen3-untied": {"tied": False, "kv_heads": 4},
    "llama": {"qk_norm": False},
    "llama-bias": {"qk_norm": False, "qkv_bias": True, "output_bias": True, "feed_forward_bias": True},
    "mistral-window": {"qk_norm": False, "window": 7, "tied": False},
}


FAMILIES = {
    **SHAPES,
    "qwen2": {"qk_norm": False, "qkv_bias": True},
    "llama-yarn": {
        "qk_norm": False, "qkv_bias": True, "output_bias": True,
        "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=24, attention_factor=1.2),
    },
    "gemma": {
        "unit_offset": True, "scaled_embedding": True, "qk_norm": False, "activation": "gelu_tanh", "kv_heads": 1,
        "head_width": 16,
    },
    "gpt2": {
        "norm": "layer", "norm_eps": 1e-5, "norm_bias": True, "positions": "learned", "qk_norm": False,
        "qkv_bias": True, "output_bias": True, "gated": False, "activation": "gelu_tanh", "feed_forward_bias": True,
        "kv_heads": 4, "feed_forward_width": 128,
    },
}  # fmt: skip


POST_NORM = {
    "norm": "layer", "norm_eps": 1e-5, "norm_bias": True, "pre_norm": False, "qk_norm": False, "qkv_bias": True,
    "output_bias": True, "gated": False, "feed_forward_bias": True, "head_bias": True, "kv_heads": 4,
}  # fmt: skip
ENCODER_DECODERS = {
    "m2m100": {
        "encoder_layers": 2, "norm": "layer", "norm_eps": 1e-5, "norm_bias": True, "positions": "sinusoidal",
        "position_offset": 2, "inclusive_sinusoid": True, "scaled_embedding": True, "qk_norm": False, "qkv_bias": True,
        "output_bias": True, "gated": False, "activation": "relu", "feed_forward_bias": True, "kv_heads": 4,
    },
    "marian": POST_NORM | {"encoder_layers": 2, "positions": "sinusoidal", "activation": "silu"},
    "bart": POST_NORM | {
        "encoder_layers": 4, "positions": "learned", "position_offset": 2, "embedding_norm": True,
        "scaled_embedding": True, "activation": "gelu_erf",
    },
    "t5": {
        "encoder_layers": 2, "positions": "relative", "relative_buckets": 8, "relative_distance": 12, "qk_norm": False,
        "scaled_scores": False, "gated": False, "activation": "relu", "scaled_output": True, "kv_heads": 4,
        "head_width": 6,
    },
    "t5-1.1": {
        "encoder_layers": 3, "positions": "relative", "qk_norm": False, "scaled_scores": False, "tied": False,
        "activation": "gelu_tanh", "kv_heads": 4,
    },
}  # fmt: skip

_BERT = POST_NORM | {
    "causal": False, "positions": "learned", "segments": 2, "embedding_norm": True, "activation": "gelu_erf",
    "norm_eps": 1e-12, "head_transform": True,
}  # fmt: skip
ENCODERS = {
    "bert": _BERT,
    "bert-untied": _BERT | {"tied": False, "activation": "relu", "segments": 3, "norm_eps": 1e-3},
}


def ids_of(length: int, batch: int = 1, seed: int = 0, vocab_size: int = 97) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


class Recorder(Observer):
    """Records everything that it observes."""

    def __init__(self, part="decoder"):
        self.part = part
        self.steps: dict[int, AttentionSteps] = {}
        self.streams: dict[int, torch.Tensor] = {}
        self.fed: dict[int, torch.Tensor] = {}

    def watches(self, part):
        return part == self.part

    def residual(self, layer, stream):
        self.streams[layer] = stream

    def attention(self, layer, steps, module):
        self.steps[layer] = steps

    def feed_forward(self, layer, output):
        self.fed[layer] = output
