"""Finds the circuit of a prediction: the fewest edges that keep most of its effect, by exact or approximate effects.

The effect of an edge is the share of the whole effect, clean minus corrupt, that it carries alone: under noising what
the clean run loses with this edge corrupt, under denoising what the corrupt run gains with this edge clean. Edges are
ranked by the absolute value. A circuit of k edges has the k first edges; its faithfulness is the share of the effect
that is left in the clean run with all other edges corrupt (0: the corrupt run, 1: the clean run). Effects, measures and
faithfulness are taken over all pairs: sums of measures, then shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attncli.circuits.approximation import IG_STEPS, approximate_effects
from attncli.circuits.defaults import Direction, Method
from attncli.circuits.edges import exact_effects, runs_needed
from attncli.circuits.graph import ComponentGraph, Mask
from attncli.circuits.masked import circuit_measures
from attncli.circuits.network import Network, Recorded
from attncli.circuits.pairs import PromptPair
from attncli.circuits.patching import Ends, refuse_equal_ends
from attncli.circuits.rank import agreement
from attncli.explain.question import Floats
from attncli.explain.ranking import ranked

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)  # of the edges; MIB has most of them
_BETWEEN = 24  # sizes that are tried between two sizes of the curve
BY_TOKEN = 6  # edges that are patched at one token at a time
_GROUPS = 16  # of edges that are removed at once, and numbers of groups that are tried
_CHECKED = (24, 72)  # edges that are measured exactly to check an approximation: the first ones, and others at random
Ran = Callable[[int], None]  # gets the number of patched runs since its last call


@dataclass(frozen=True)
class PreparedPair:
    """A pair of prompts with its two runs and the ends of its measure."""

    pair: PromptPair
    clean: Recorded
    corrupt: Recorded
    ends: Ends

    def based(self, direction: Direction) -> tuple[Recorded, Recorded]:
        """Returns the run that is patched, and the run from which values are copied."""
        return (self.clean, self.corrupt) if direction == "noising" else (self.corrupt, self.clean)


@dataclass(frozen=True)
class CircuitCurve:
    """The faithfulness of circuits by their number of edges, and of what is left of the model without them."""

    sizes: tuple[int, ...]  # from 0 to all edges
    connected: tuple[int, ...]  # of each circuit, the edges on a path from the embedding to the output
    faithfulness: Floats
    complement: Floats  # the faithfulness of all other edges; 0 for a complete circuit

    @property
    def _shares(self) -> Floats:
        shares: Floats = np.array(self.sizes) / self.sizes[-1]
        return shares

    @property
    def cpr(self) -> float:
        """The area under the faithfulness over the share of the edges (Mueller et al., 2025, arXiv 2504.13151)."""
        return float(np.trapezoid(self.faithfulness, self._shares))

    @property
    def cmd(self) -> float:
        """The area between the faithfulness and 1, over the share of the edges (ibid.); smaller is better."""
        return float(np.trapezoid(np.abs(1 - self.faithfulness), self._shares))


@dataclass(frozen=True)
class EdgeCheck:
    """How well approximate effects rank the edges whose exact effects are known."""

    edges: int  # with a known exact effect
    correlation: float  # Spearman's, of the absolute values
    first: int  # k: the edges with the largest exact effects
    overlap: float  # the share of these among the k edges that the approximation ranks first


@dataclass(frozen=True)
class FoundCircuit:
    """The edges of a circuit, and how much of the effect they keep."""

    graph: ComponentGraph
    pairs: tuple[tuple[PromptPair, Ends], ...]
    direction: Direction
    method: Method  # by which the edges are ranked
    steps: int  # of EAP-IG
    effects: Floats  # (E,), of the ranking: shares of the whole effect
    exact: Floats | None  # (E,)
    checked: Mask | None  # (E,): the edges with an exact effect, if there is not one for all of them
    check: EdgeCheck | None  # of the approximation
    curve: CircuitCurve
    wanted: float  # faithfulness
    kept: Mask  # (E,): the circuit, all on paths from the embedding to the output
    ranked: int  # the edges of the ranking from which the circuit was taken
    faithfulness: float
    complement: float
    held_out: float | None  # the faithfulness on pairs that were not searched
    held_pairs: int
    random: Floats  # the faithfulness of circuits of as many edges, made of random paths
    seed: int
    runs: int  # patched runs
    seconds: float
    by_token: Floats | None = None  # (edges, T): exact effects of the strongest edges, patched at one token each

    @property
    def size(self) -> int:
        """The number of edges of the circuit."""
        return int(self.kept.sum())

    @property
    def clean(self) -> float:
        """The mean measure of the clean runs, in nats."""
        return float(np.mean([ends.clean for _, ends in self.pairs]))

    @property
    def corrupt(self) -> float:
        """The mean measure of the corrupt runs, in nats."""
        return float(np.mean([ends.corrupt for _, ends in self.pairs]))

    def components(self, edge: int) -> list[str]:
        """Returns the names of the components through which an edge of the circuit acts.

        They are the head of a query, the heads of a group that write to the circuit, an MLP, or the output.
        """
        reader = self.graph.readers[self.graph.ends[1][edge]]
        used = {*self.graph.ends[0][self.kept].tolist()}
        names = [self.graph.writers[writer].name for writer in self.graph.writer_of(reader) if writer in used]
        return names if reader.heads else [reader.name]

    def order(self) -> list[int]:
        """Returns the edges of the circuit, those with the largest effects first."""
        return ranked(np.abs(self.effects), np.flatnonzero(self.kept).tolist())


@dataclass(frozen=True)
class CircuitSearch:
    """Searches for the circuit of some pairs in one network."""

    network: Network
    pairs: Sequence[PreparedPair]
    direction: Direction = "noising"
    steps: int = IG_STEPS
    ran: Ran | None = None
    held: Sequence[PreparedPair] = ()  # pairs that are not searched
    token: int | None = None  # exact effects are those of patches at this token only; None: at all tokens together

    def __post_init__(self) -> None:
        refuse_equal_ends(self._mean("clean"), self._mean("corrupt"))

    def _mean(self, end: str) -> float:
        return float(np.mean([getattr(each.ends, end) for each in self.pairs]))

    @property
    def difference(self) -> float:
        """The whole effect: the mean measure of the clean runs minus that of the corrupt runs."""
        return self._mean("clean") - self._mean("corrupt")

    def runs(self, only: Mask | None = None) -> int:
        """Returns the number of patched runs for the exact effects of all edges, or of some."""
        return sum(runs_needed(self.network, *each.based(self.direction), only) for each in self.pairs)

    @torch.inference_mode()
    def seconds(self, runs: int, rows: int = 16) -> float:
        """Estimates the time of patched runs from some runs of half the layers."""
        stream, layer = self.pairs[0].clean.streams, self.network.config.layers // 2
        batch = stream[layer].expand(rows, -1, -1)
        self.network.from_layer(layer, batch)
        begun = time.perf_counter()
        self.network.from_layer(layer, batch)
        return (time.perf_counter() - begun) * runs / rows

    def exact(self, only: Mask | None = None) -> Floats:
        """Returns the exact effects (E,), as shares; 0 for edges that are not in `only`."""
        return self._shares(
            lambda each: exact_effects(
                self.network, *self._patched(each), each.ends.answer, progress=self.ran, only=only
            )
        )

    def _patched(self, each: PreparedPair) -> tuple[Recorded, Recorded]:
        """Returns the run that is patched and the other run, whose writes at other tokens than `token` are equal."""
        base, other = each.based(self.direction)
        if self.token is None:
            return base, other
        writes = base.writes.clone()
        writes[:, self.token] = other.writes[:, self.token]
        return base, replace(other, writes=writes)

    def by_token(self, edges: Sequence[int]) -> Floats | None:
        """Returns the exact effects (edges, T) of edges that are patched at one token each, as shares.

        Returns None if the prompts have different lengths, so that their tokens are not counterparts.
        """
        lengths = {len(each.pair.clean) for each in self.pairs}
        if len(lengths) > 1:
            return None
        only = np.zeros(self.network.graph.size, bool)
        only[list(edges)] = True
        found: Floats = np.stack([replace(self, token=at).exact(only) for at in range(lengths.pop())], 1)
        return found[list(edges)]

    def approximate(self, method: Method) -> Floats:
        """Returns the effects (E,) by 'eap' or 'eap-ig', as shares."""
        steps = None if method == "eap" else self.steps
        return self._shares(
            lambda each: approximate_effects(self.network, *each.based(self.direction), each.ends.answer, steps)
        )

    def _shares(self, of: Callable[[PreparedPair], Floats]) -> Floats:
        sign = -1 if self.direction == "noising" else 1
        mean: Floats = np.mean([of(each) for each in self.pairs], 0)
        shares: Floats = sign * mean / self.difference
        return shares

    def faithfulness(self, circuits: Mask) -> Floats:
        """Returns the faithfulness (N,) of circuits (N, E)."""
        measured = [
            circuit_measures(self.network, each.clean, each.corrupt, each.ends.answer, circuits) for each in self.pairs
        ]
        shares: Floats = (np.mean(measured, 0) - self._mean("corrupt")) / self.difference
        return shares

    def held_out(self, circuit: Mask) -> float | None:
        """Returns the faithfulness of a circuit (E,) on the pairs that are not searched; None without such pairs."""
        if not self.held:
            return None
        return float(replace(self, pairs=self.held, held=()).faithfulness(circuit[None])[0])

    def pruned(self, kept: Mask, effects: Floats, wanted: float) -> Mask:
        """Returns a circuit (E,) without the edges whose removal leaves it faithful enough.

        The edges are removed in groups of similar effects. The groups get smaller until each has one edge.
        """
        group = max(int(kept.sum()) // _GROUPS, 1)
        while True:
            edges = np.flatnonzero(kept)
            edges = edges[np.argsort(effects[edges], kind="stable")]
            groups = [edges[at : at + group] for at in range(0, len(edges), group)]
            alone = self.faithfulness(np.stack([_without(kept, [each]) for each in groups]))
            order = [at for at in ranked(alone) if alone[at] >= wanted]
            counts = sorted({*np.linspace(1, len(order), min(_GROUPS, len(order))).round().astype(int).tolist()})
            tried = [_without(kept, [groups[at] for at in order[:count]]) for count in counts]
            left = self.faithfulness(np.stack(tried)) if tried else np.zeros(0)
            enough = [at for at, share in enumerate(left) if share >= wanted]
            if enough:
                kept = self.network.graph.connected(tried[enough[-1]])
            elif group == 1:
                return kept
            else:
                group = (group + 1) // 2

    def curve(self, order: Sequence[int]) -> CircuitCurve:
        """Returns the faithfulness of the first edges of a ranking, and of all others, by their number."""
        edges = self.network.graph.size
        sizes = sorted({0, 1, edges, *(max(1, round(share * edges)) for share in SHARES)})
        circuits = _first(order, sizes, edges)
        whole = self.faithfulness(np.concatenate([circuits, ~circuits]))
        connected = tuple(int(self.network.graph.connected(circuit).sum()) for circuit in circuits)
        return CircuitCurve(tuple(sizes), connected, whole[: len(sizes)], whole[len(sizes) :])

    def smallest(self, order: Sequence[int], curve: CircuitCurve, wanted: float) -> int:
        """Returns the smallest number of edges, among those tried, whose circuit has the wanted faithfulness."""
        enough = next(
            at for at, share in enumerate(curve.faithfulness) if share >= wanted or at + 1 == len(curve.sizes)
        )
        low, high = curve.sizes[max(enough - 1, 0)], curve.sizes[enough]
        while high - low > 1:
            sizes = sorted(
                {*np.linspace(low + 1, high - 1, min(_BETWEEN, high - low - 1)).round().astype(int).tolist()}
            )
            found = self.faithfulness(_first(order, sizes, self.network.graph.size))
            at = next((at for at, share in enumerate(found) if share >= wanted), None)
            low, high = (sizes[-1], high) if at is None else (sizes[at - 1] if at else low, sizes[at])
        return high

    def random(self, size: int, count: int, seed: int) -> Floats:
        """Returns the faithfulness of `count` circuits of at least `size` edges, made of random paths."""
        generator = np.random.default_rng(seed)
        circuits = [random_circuit(self.network.graph, size, generator) for _ in range(count)]
        return self.faithfulness(np.stack(circuits)) if circuits else np.zeros(0)


def _without(kept: Mask, groups: Sequence[NDArray[np.int64]]) -> Mask:
    """Returns a circuit (E,) without some groups of edges."""
    left = kept.copy()
    for group in groups:
        left[group] = False
    return left


def find_circuit(
    search: CircuitSearch,
    method: Method,
    *,
    wanted: float = 0.9,
    prune: bool = True,
    randoms: int = 10,
    seed: int = 0,
    compare: bool = True,
    by_token: bool = False,
) -> FoundCircuit:
    """Ranks the edges by a method, and returns the smallest circuit that has the wanted faithfulness.

    With `compare`, also compares exact effects with EAP-IG: of all edges if they are ranked by exact effects, otherwise
    of the first edges and of random ones. With `by_token`, also patches the strongest edges at one token at a time.
    """
    begun, graph = time.perf_counter(), search.network.graph
    effects, known = _effects(search, method, seed, compare=compare)
    order = ranked(effects)
    curve = search.curve(order)
    chosen = search.smallest(order, curve, wanted)
    kept = graph.connected(_first(order, [chosen], graph.size)[0])
    if prune:
        kept = search.pruned(kept, effects, wanted)
    faithful, left = search.faithfulness(np.stack([kept, ~kept])).tolist()
    return FoundCircuit(
        graph=graph,
        pairs=tuple((each.pair, each.ends) for each in search.pairs),
        direction=search.direction,
        method=method,
        steps=search.steps,
        effects=effects,
        exact=known.exact,
        checked=known.edges,
        check=known.check,
        curve=curve,
        wanted=wanted,
        kept=kept,
        ranked=chosen,
        faithfulness=faithful,
        complement=left,
        held_out=search.held_out(kept),
        held_pairs=len(search.held),
        random=search.random(int(kept.sum()), randoms, seed),
        seed=seed,
        runs=known.runs,
        seconds=time.perf_counter() - begun,
        by_token=search.by_token(ranked(np.abs(effects), np.flatnonzero(kept).tolist())[:BY_TOKEN])
        if by_token
        else None,
    )


@dataclass(frozen=True)
class _Known:
    """The exact effects that are known beside a ranking."""

    exact: Floats | None = None  # (E,)
    edges: Mask | None = None  # (E,): the edges with an exact effect; None: all
    check: EdgeCheck | None = None
    runs: int = 0


def _effects(search: CircuitSearch, method: Method, seed: int, *, compare: bool) -> tuple[Floats, _Known]:
    """Returns the effects (E,) by a method; with `compare`, also the comparison of exact effects and gradients."""
    if method == "exact":
        exact, every = search.exact(), np.ones(search.network.graph.size, bool)
        check = _check(search.approximate("eap-ig"), exact, every) if compare else None
        return exact, _Known(exact, None, check, search.runs())
    effects = search.approximate(method)
    if not compare:
        return effects, _Known()
    sample = _sample(effects, seed)
    exact = search.exact(sample)
    return effects, _Known(exact, sample, _check(effects, exact, sample), search.runs(sample))


def _first(order: Sequence[int], sizes: Sequence[int], edges: int) -> Mask:
    """Returns circuits (N, E) of the first edges of a ranking."""
    place = np.empty(edges, np.int64)
    place[np.array(order)] = np.arange(edges)
    circuits: Mask = place[None] < np.array(sizes)[:, None]
    return circuits


def _sample(effects: Floats, seed: int) -> Mask:
    """Returns the edges (E,) that are measured exactly to check an approximation."""
    chosen = np.zeros(len(effects), bool)
    chosen[ranked(np.abs(effects))[: _CHECKED[0]]] = True
    others: NDArray[np.int64] = np.flatnonzero(~chosen)
    drawn = np.random.default_rng(seed).permutation(others)[: _CHECKED[1]]
    chosen[drawn] = True
    return chosen


def _check(approximate: Floats, exact: Floats, known: Mask) -> EdgeCheck:
    """Compares the absolute values of approximate and exact effects, for the edges whose exact effect is known."""
    one, other = np.abs(approximate[known]), np.abs(exact[known])
    first = min(20, max(len(one) // 4, 1))
    best = {*ranked(other)[:first]}
    return EdgeCheck(len(one), agreement(one, other), first, len(best & {*ranked(one)[:first]}) / first)


def random_circuit(graph: ComponentGraph, size: int, generator: np.random.Generator) -> Mask:
    """Returns at least `size` edges (E,) on random paths from the embedding to the output.

    A path is drawn from the output backwards: a writer before the reader, then one of the readers of this component.
    """
    kept = np.zeros(graph.size, bool)
    inputs: dict[int, list[int]] = {}  # the readers of every writer
    for at, reader in enumerate(graph.readers):
        for writer in graph.writer_of(reader):
            inputs.setdefault(writer, []).append(at)
    while kept.sum() < min(size, graph.size):
        at = len(graph.readers) - 1
        while True:
            writer = int(generator.integers(graph.before(graph.readers[at])))
            kept[graph.starts[at] + writer] = True
            if writer == 0:
                break
            at = inputs[writer][int(generator.integers(len(inputs[writer])))]
    return kept
