"""The components of a pre-norm decoder as a graph: who writes to the residual stream, and who reads from it.

The writers are the embedding, every head and every feed-forward part ("mlp"). The readers are the query of every head,
the key and the value of every group of heads, every feed-forward part, and the output. An edge is a writer and a later
reader. It stands for the part of the reader's input that the writer has written (Elhage et al., 2021). Heads that share
keys and values form a group; without grouped heads, each head is its own group.

The writers before a reader are the first ones in the list, so a reader's edges are a range. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attncli.config import ModelConfig
from attncli.errors import UsageProblem

Port = Literal["query", "key", "value", "mlp", "output"]
Mask = NDArray[np.bool_]


def refuse_graph(config: ModelConfig, name: str) -> None:
    """Raises UsageProblem for a model whose components do not read sums of what earlier components wrote."""
    if config.kind == "encoder-decoder":
        raise UsageProblem(
            f"{name} is an encoder-decoder; edges are defined here for a decoder alone.",
            "attncli circuit patch works with every model.",
        )
    if not config.pre_norm:
        raise UsageProblem(
            f"{name} applies a norm to every sum, so its components have no edges: none reads a sum of earlier writes.",
            "Norms must be before attention and feed-forward. attncli circuit patch works with every model.",
        )


@dataclass(frozen=True)
class Writer:
    """A component that adds to the residual stream: the embedding, a head, or a feed-forward part."""

    kind: Literal["embedding", "head", "mlp"]
    layer: int = -1
    head: int = -1

    @property
    def name(self) -> str:
        """The short name: 'embedding', '1.0' for head 0 of layer 1, 'mlp 1'."""
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return self.kind if self.kind == "embedding" else f"mlp {self.layer}"

    @property
    def words(self) -> str:
        """The name in a sentence: 'the embedding', 'head 1.0', 'mlp 1'."""
        return {"embedding": "the embedding", "head": f"head {self.name}", "mlp": self.name}[self.kind]


@dataclass(frozen=True)
class Reader:
    """A place that reads the residual stream: a head's query, a group's key or value, an MLP, or the output."""

    port: Port
    layer: int = -1
    group: int = -1  # the head of a query; the group of a key or a value
    heads: tuple[int, ...] = ()  # the heads that use it

    @property
    def name(self) -> str:
        """The short name: '3.1 query', '3.0-3.2 key' for a group of three heads, 'mlp 1', 'output'."""
        if self.port == "output":
            return "output"
        if self.port == "mlp":
            return f"mlp {self.layer}"
        first, last = self.heads[0], self.heads[-1]
        heads = f"{self.layer}.{first}" + (f"-{self.layer}.{last}" if last > first else "")
        return f"{heads} {self.port}"

    @property
    def words(self) -> str:
        """The name in a sentence: "head 3.1's query", "the key of heads 3.0-3.2", 'mlp 1', 'the output'."""
        if self.port in ("mlp", "output"):
            return self.name if self.port == "mlp" else "the output"
        heads = self.name.removesuffix(f" {self.port}")
        return f"the {self.port} of heads {heads}" if len(self.heads) > 1 else f"head {heads}'s {self.port}"


@dataclass(frozen=True)
class ComponentGraph:
    """The writers, readers and edges of a decoder. Edges are numbered reader by reader, in the order of the writers."""

    layers: int
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, config: ModelConfig) -> ComponentGraph:
        """Returns the graph of a decoder."""
        return cls(config.layers, config.heads, config.kv_heads)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """The embedding, then the heads and the feed-forward part of each layer."""
        found = [Writer("embedding")]
        for layer in range(self.layers):
            found += [Writer("head", layer, head) for head in range(self.heads)]
            found.append(Writer("mlp", layer))
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Of each layer, the queries, keys, values and the feed-forward part; the output is the last one."""
        found, size = list[Reader](), self.heads // self.kv_heads
        groups = [tuple(range(group * size, (group + 1) * size)) for group in range(self.kv_heads)]
        for layer in range(self.layers):
            found += [Reader("query", layer, head, (head,)) for head in range(self.heads)]
            for port in ("key", "value"):
                found += [Reader(port, layer, group, heads) for group, heads in enumerate(groups)]
            found.append(Reader("mlp", layer))
        return (*found, Reader("output"))

    def before(self, reader: Reader) -> int:
        """Returns the number of writers that come before a reader: they are the first ones."""
        if reader.port == "output":
            return len(self.writers)
        attention = 1 + reader.layer * (self.heads + 1)
        return attention + self.heads if reader.port == "mlp" else attention

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The number of the first edge of every reader, and at the end the number of edges."""
        counts: NDArray[np.int64] = np.cumsum([0, *map(self.before, self.readers)])
        return counts

    @property
    def size(self) -> int:
        """The number of edges."""
        return int(self.starts[-1])

    @cached_property
    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The writer and the reader of every edge, as indices."""
        reader = np.repeat(np.arange(len(self.readers)), np.diff(self.starts))
        return np.arange(self.size) - self.starts[reader], reader

    def edge(self, writer: Writer, reader: Reader) -> int:
        """Returns the number of the edge from a writer to a reader."""
        return int(self.starts[self.readers.index(reader)]) + self.writers.index(writer)

    def name(self, edge: int) -> str:
        """Returns the short name of an edge: '1.0 → 3.1 key'."""
        writer, reader = (ends[edge] for ends in self.ends)
        return f"{self.writers[writer].name} → {self.readers[reader].name}"

    def words(self, edge: int) -> str:
        """Returns an edge as a clause: "head 3.1's query reads head 1.0's output"."""
        writer, reader = (int(ends[edge]) for ends in self.ends)
        wrote = self.writers[writer]
        output = wrote.words if wrote.kind == "embedding" else f"{wrote.words}'s output"
        return f"{self.readers[reader].words} reads {output}"

    def writer_of(self, reader: Reader) -> list[int]:
        """Returns the writers, as indices, whose output depends on a reader; none for the output."""
        if reader.port == "output":
            return []
        first = 1 + reader.layer * (self.heads + 1)
        return [first + self.heads] if reader.port == "mlp" else [first + head for head in reader.heads]

    def connected(self, kept: Mask) -> Mask:
        """Returns the kept edges (E,) that lie on a path from the embedding to the output through kept edges.

        A head passes information from its key, its value and its query alike. The other kept edges have no effect.
        """
        writers, readers = self.ends
        fed = np.zeros(len(self.writers), bool)  # writers that a path from the embedding reaches
        fed[0] = True
        for at, reader in enumerate(self.readers):
            edges = slice(self.starts[at], self.starts[at + 1])
            if (kept[edges] & fed[: self.before(reader)]).any():
                fed[self.writer_of(reader)] = True
        used = np.zeros(len(self.writers), bool)  # writers from which a path reaches the output
        for at in reversed(range(len(self.readers))):
            reader = self.readers[at]
            if reader.port == "output" or used[self.writer_of(reader)].any():
                used[: self.before(reader)] |= kept[self.starts[at] : self.starts[at + 1]]
        reaching = np.array([reader.port == "output" or used[self.writer_of(reader)].any() for reader in self.readers])
        lying: Mask = kept & fed[writers] & reaching[readers]
        return lying
