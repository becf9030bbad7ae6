"""Translates our tensor names to the names and the layout of a family's files, with a table per family.

Most families use Llama's names, and each tensor of the file is one of our tensors. GPT-2 stores query, key and value as
one matrix, and stores matrices transposed. Real files differ in details: some programs omit the prefix of every
name, write a tied tensor under several names, or keep old names. Reads no files and no tensors; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

_EMBEDDING, _HEAD = "embedding", "head"  # our names of the token embedding and of the output head


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: our tensors `ours`, concatenated along the rows, and transposed if `transposed` is true.

    With `as_row`, the file has a vector as a matrix of one row.
    """

    name: str
    ours: tuple[str, ...]
    transposed: bool = False
    as_row: bool = False


@dataclass(frozen=True)
class TensorNames:
    """A table of a family's tensor names, without `.weight` and `.bias`. Our names are the attributes of `Transformer`.

    `base` is the prefix of most names in a file; some programs omit this prefix. `layers` is the prefix before a
    layer's number, and `encoder_layers` the prefix before the number of an encoder's layer.
    """

    base: str
    layers: str
    outer: Mapping[str, str]  # tensors outside of the layers: our name -> the family's name
    inner: Mapping[str, str]  # tensors within a layer: our name -> the family's name
    transposed: frozenset[str] = frozenset()  # the family's names of the matrices with a row for each input
    buffers: str = "$^"  # a pattern of the names of tensors that are not read, such as buffers
    encoder_layers: str = ""
    encoder_inner: Mapping[str, str] = field(default_factory=dict)  # the names that differ in an encoder's layer
    ungated: Mapping[str, str] = field(default_factory=dict)  # a suffix -> the suffix in a model without gates
    copies: Mapping[str, str] = field(default_factory=dict)  # the name of a tied tensor's copy -> the tensor's name
    old: Mapping[str, str] = field(default_factory=dict)  # an old suffix -> the current suffix
    rows: frozenset[str] = frozenset()  # names of vectors that a file has as a matrix of one row
    zeros: frozenset[str] = frozenset()  # names of tensors that are zero if a file does not contain them

    def stored(self, ours: Iterable[str]) -> dict[str, StoredTensor]:
        """Returns the file's tensors that contain the tensors `ours`, by name.

        If a tensor of the file contains several of our tensors, they are in the given order. For example,
        'blocks.3.attention.query.weight' is 'model.layers.3.self_attn.q_proj.weight' in files with Llama's names, and
        the first third of 'transformer.h.3.attn.c_attn.weight' in files of GPT-2.
        """
        found: dict[str, StoredTensor] = {}
        ours = list(ours)
        gated = any(own.endswith("feed_forward.gate.weight") for own in ours)
        for own in ours:
            name, transposed = self._stored_name(own)
            name = name if gated else _with_end(name, self.ungated)
            before = found[name].ours if name in found else ()
            found[name] = StoredTensor(name, (*before, own), transposed, name in self.rows)
        return found

    def _stored_name(self, own: str) -> tuple[str, bool]:
        """Returns the name of our tensor in a file, and whether the file stores the tensor transposed."""
        if own in self.outer:  # a tensor without a module, such as the bias of the head
            return self.outer[own], False
        module, _, kind = own.rpartition(".")
        within = re.fullmatch(r"(encoder\.)?blocks\.(\d+)\.(.+)", module)
        if within is None:
            return f"{self.outer[module]}.{kind}", False
        encodes = within[1] is not None
        theirs = {**self.inner, **(self.encoder_inner if encodes else {})}[within[3]]
        prefix = self.encoder_layers if encodes else self.layers
        return f"{prefix}{within[2]}.{theirs}.{kind}", theirs in self.transposed and kind == "weight"

    def full(self, name: str) -> str:
        """Returns the full name of a tensor in a file: adds a missing prefix `base`, and replaces an old suffix.

        'wte.weight' -> 'transformer.wte.weight'; in old files of BERT, 'LayerNorm.gamma' -> 'LayerNorm.weight'.
        """
        name = _with_end(name, self.old)
        return name if name.startswith((self.base, *self._without_base)) else self.base + name

    @cached_property
    def _without_base(self) -> tuple[str, ...]:
        """The first components of the names that never have the prefix `base`."""
        names = (*self.outer.values(), *self.copies, "lm_head")
        return tuple({name.partition(".")[0] for name in names if not name.startswith(self.base)})

    def recognize(self, names: Iterable[str], tied: bool) -> dict[str, str]:
        """Returns the tensors of a file to read: the name in the file -> the full name.

        Leaves out buffers. Leaves out a copy of a tied tensor, unless the file contains only the copy. With
        `tied`, the output head is a copy of the token embedding.
        """
        found = {name: full for name in names if not re.fullmatch(self.buffers, full := self.full(name))}
        copies = dict(self.copies)
        if tied:
            copies[f"{self.outer.get(_HEAD, 'lm_head')}.weight"] = f"{self.outer[_EMBEDDING]}.weight"
        taken = {full for full in found.values() if full not in copies}
        recognized = {}
        for name, full in found.items():
            if full in copies:
                if copies[full] in taken:
                    continue
                taken.add(copies[full])
            recognized[name] = copies.get(full, full)
        return recognized

    def count_layers(self, full_names: Iterable[str]) -> tuple[int, int]:
        """Returns how many layers of the decoder, and of the encoder, have a tensor among these names."""
        names = list(full_names)
        decoder, encoder = (
            len({name.removeprefix(prefix).partition(".")[0] for name in names if prefix and name.startswith(prefix)})
            for prefix in (self.layers, self.encoder_layers)
        )
        return decoder, encoder


def _with_end(name: str, ends: Mapping[str, str]) -> str:
    """Replaces the suffix of a name: 'LayerNorm.gamma', {'.gamma': '.weight'} -> 'LayerNorm.weight'."""
    return next((name.removesuffix(end) + other for end, other in ends.items() if name.endswith(end)), name)


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
