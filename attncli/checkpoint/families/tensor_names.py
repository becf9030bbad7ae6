"""What the tensors of a file are called, and how they lie there: both differ between families.

Owns the translation between our names and those of a file, from a table that each family gives. Most families name
tensors as Llama does, one of theirs for one of ours; GPT-2 stores query, key and value as one matrix, and matrices
transposed. Knows nothing of files, nor of what tensors hold; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HEAD = "lm_head.weight"  # the output head, in every family


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: our tensors that it holds, concatenated along the rows, and whether it is transposed."""

    name: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class TensorNames:
    """The names of a family's tensors, without `.weight` and `.bias`; ours are the attributes of `Transformer`.

    `base` begins every name but that of the head; some writers leave it out. A layer's number follows `layers`.
    """

    base: str
    layers: str
    outer: Mapping[str, str]  # outside of the layers: our name -> theirs
    inner: Mapping[str, str]  # within a layer
    transposed: frozenset[str] = frozenset()  # their names of matrices that lie with a row for each input
    buffers: str = "$^"  # matches the names of buffers, which old files hold beside the weights

    def stored(self, ours: Iterable[str]) -> dict[str, StoredTensor]:
        """The tensors of a file, by name, that hold ours; those that share one are in the order given.

        'blocks.3.attention.query.weight' is 'model.layers.3.self_attn.q_proj.weight', or the first third of
        'transformer.h.3.attn.c_attn.weight'.
        """
        found: dict[str, StoredTensor] = {}
        for own in ours:
            module, _, kind = own.rpartition(".")
            within = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
            theirs = self.inner[within[2]] if within else self.outer[module]
            name = f"{self.layers}{within[1]}.{theirs}.{kind}" if within else f"{theirs}.{kind}"
            before = found[name].ours if name in found else ()
            found[name] = StoredTensor(name, (*before, own), theirs in self.transposed and kind == "weight")
        return found

    def full(self, name: str) -> str:
        """A file's name of a tensor, with the base that its writer may have left out.

        'wte.weight' -> 'transformer.wte.weight'.
        """
        return name if name.startswith(self.base) or name == HEAD else self.base + name

    def is_buffer(self, full_name: str) -> bool:
        """Whether this is the name of a buffer, which the network computes instead of reading it."""
        return re.fullmatch(self.buffers, full_name) is not None

    def count_layers(self, full_names: Iterable[str]) -> int:
        """The number of layers that have a tensor among these."""
        inside = (name.removeprefix(self.layers) for name in full_names if name.startswith(self.layers))
        return len({name.partition(".")[0] for name in inside})


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
