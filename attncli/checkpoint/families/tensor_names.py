"""Translates our tensor names to the names and the layout of a family's files, with a table per family.

Most families use Llama's names, and each tensor of the file is one of our tensors. GPT-2 stores query, key and value as
one matrix, and stores matrices transposed. Reads no files and no tensors; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HEAD = "lm_head.weight"  # the name of the output head in every family


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: our tensors `ours`, concatenated along the rows, and transposed if `transposed` is true."""

    name: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class TensorNames:
    """A table of a family's tensor names, without `.weight` and `.bias`. Our names are the attributes of `Transformer`.

    `base` is the prefix of every name except the head's; some programs omit this prefix. `layers` is the prefix before
    a layer's number, and `encoder_layers` the prefix before the number of an encoder's layer.
    """

    base: str
    layers: str
    outer: Mapping[str, str]  # tensors outside of the layers: our name -> the family's name
    inner: Mapping[str, str]  # tensors within a layer: our name -> the family's name
    transposed: frozenset[str] = frozenset()  # the family's names of the matrices with a row for each input
    buffers: str = "$^"  # a pattern of the names of buffers and copies of tied tensors, which some files also contain
    encoder_layers: str = ""

    def stored(self, ours: Iterable[str]) -> dict[str, StoredTensor]:
        """Returns the file's tensors that contain the tensors `ours`, by name.

        If a tensor of the file contains several of our tensors, they are in the given order. For example,
        'blocks.3.attention.query.weight' is 'model.layers.3.self_attn.q_proj.weight' in files with Llama's names, and
        the first third of 'transformer.h.3.attn.c_attn.weight' in files of GPT-2.
        """
        found: dict[str, StoredTensor] = {}
        for own in ours:
            module, _, kind = own.rpartition(".")
            within = re.fullmatch(r"(encoder\.)?blocks\.(\d+)\.(.+)", module)
            theirs = self.inner[within[3]] if within else self.outer[module]
            name = f"{theirs}.{kind}"
            if within:
                name = f"{self.encoder_layers if within[1] else self.layers}{within[2]}.{name}"
            before = found[name].ours if name in found else ()
            found[name] = StoredTensor(name, (*before, own), theirs in self.transposed and kind == "weight")
        return found

    def full(self, name: str) -> str:
        """Returns the full name of a tensor in a file: adds the prefix `base` if it is missing.

        'wte.weight' -> 'transformer.wte.weight'.
        """
        return name if name.startswith(self.base) or name == HEAD else self.base + name

    def is_buffer(self, full_name: str) -> bool:
        """Whether this is the name of a buffer, which is not read because the network computes it."""
        return re.fullmatch(self.buffers, full_name) is not None

    def count_layers(self, full_names: Iterable[str]) -> tuple[int, int]:
        """Returns how many layers of the decoder, and of the encoder, have a tensor among these names."""
        names = list(full_names)
        decoder, encoder = (
            len({name.removeprefix(prefix).partition(".")[0] for name in names if prefix and name.startswith(prefix)})
            for prefix in (self.layers, self.encoder_layers)
        )
        return decoder, encoder


LLAMA_NAMES = TensorNames(
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
    buffers=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)
