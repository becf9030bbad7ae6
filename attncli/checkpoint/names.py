"""What other tools call our tensors, and how they store them.

Owns the two ways in which the families name tensors: that of Llama, where each of ours is one of theirs, and that of
GPT-2, where query, key and value are one matrix and matrices lie with a row for each input. Knows nothing of files, nor
of what tensors hold; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from attncli.config import ModelConfig


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: which of ours it holds, one below another, and whether a matrix lies turned."""

    name: str
    ours: tuple[str, ...]
    turned: bool = False


@dataclass(frozen=True)
class _Naming:
    """A family's names: `base` is what some writers leave out, a layer's number comes after `layers`."""

    base: str
    layers: str
    outer: dict[str, str]
    inner: dict[str, str]
    turned: frozenset[str] = frozenset()
    left_out: str = "$^"  # buffers that old files hold beside the weights


_LLAMA = _Naming(
    base="model.",
    layers="model.layers.",
    outer={"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    inner={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    },
    left_out=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)
_GPT2 = _Naming(
    base="transformer.",
    layers="transformer.h.",
    outer={
        "embedding": "transformer.wte",
        "position": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    inner={
        "attention_norm": "ln_1",
        "attention.query": "attn.c_attn",
        "attention.key": "attn.c_attn",
        "attention.value": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
    },
    turned=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    left_out=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
)
HEAD = "lm_head.weight"


def _naming(config: ModelConfig) -> _Naming:
    return _GPT2 if config.norm == "layer" else _LLAMA


def stored_tensors(config: ModelConfig, ours: Iterable[str]) -> dict[str, Stored]:
    """The tensors of a file, by name, that hold ours; those that share one in the order given.

    'blocks.3.attention.query.weight' is 'model.layers.3.self_attn.q_proj.weight', or the first third of
    'transformer.h.3.attn.c_attn.weight'.
    """
    naming = _naming(config)
    found: dict[str, Stored] = {}
    for own in ours:
        module, _, kind = own.rpartition(".")
        inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        part = naming.inner[inside[2]] if inside else naming.outer[module]
        name = f"{naming.layers}{inside[1]}.{part}.{kind}" if inside else f"{part}.{kind}"
        before = found[name].ours if name in found else ()
        found[name] = Stored(name, (*before, own), part in naming.turned and kind == "weight")
    return found


def full_name(config: ModelConfig, name: str) -> str:
    """A file's name of a tensor, with what its writer may have left out: 'wte.weight' -> 'transformer.wte.weight'."""
    base = _naming(config).base
    return name if name.startswith(base) or name == HEAD else base + name


def is_no_weight(config: ModelConfig, name: str) -> bool:
    """Whether a full name is that of a buffer that old files hold, which is computed anyway."""
    return re.fullmatch(_naming(config).left_out, name) is not None


def count_layers(config: ModelConfig, names: Iterable[str]) -> int:
    """How many layers the full names in a file are of."""
    prefix = _naming(config).layers
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})
