"""The screen of `attncli circuit find`: the circuit as a graph and in words, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.text import Text

from attncli.explain.question import Floats
from attncli.explain.ranking import ranked
from attncli.render.circuit_ends import doubt_lines, ends_document, ends_lines, measure_words, signed_share
from attncli.render.escape import fit, fold, label_text, token_label
from attncli.render.heading import shape_of, titled
from attncli.render.numbers import bar, percent, plural
from attncli.render.palette import BAR

if TYPE_CHECKING:
    from attncli.circuits.search import FoundCircuit

HeadNames = Mapping[tuple[int, int], str]  # layer, head -> what the head is known to do
_IN_WORDS = 12  # edges
_LEAST_AT_TOKEN = 0.02  # share of the effect
_MOST_TOKENS = 4
_LABEL = 12
_METHODS = {
    "exact": "exact patching of every edge",
    "eap": "EAP: one gradient, an approximation",
    "eap-ig": "EAP-IG: gradients between the two prompts, an approximation",
}
_WIDEST_BAR = 24


def find_screen(finding: FoundCircuit, model: str, console: Console, names: HeadNames, *, pairs: str) -> RenderableType:
    """Draws the ends, the circuit as a layered graph and in words, its faithfulness, and the checks."""
    width, graph = console.width, finding.graph
    parts: list[RenderableType] = [Text(fold(f"{shape_of(model, graph.layers, graph.heads)} · {pairs}", width), "bold")]
    parts += [Text(), *_ends(finding, width), Text()]
    facts = f"{finding.size} of {graph.size:,} edges ({finding.size / graph.size:.1%})"
    parts += [titled(f"The circuit keeps {signed_share(finding.faithfulness)} of the effect", facts, width)]
    parts += [*graph_lines(finding, names, width), Text(), *_in_words(finding, names, width), Text()]
    if finding.by_token is not None:
        parts += [*_by_token(finding, finding.by_token, width), Text()]
    parts += [*_trust(finding, width), Text(), *_curve(finding, width), Text(), *_footnote(finding, width)]
    return Group(*parts)


def _ends(finding: FoundCircuit, width: int) -> list[Text]:
    if len(finding.pairs) == 1:
        pair, ends = finding.pairs[0]
        return ends_lines(ends, pair.clean, pair.corrupt, width)
    lines = [Text(fold(f"mean of {plural(len(finding.pairs), 'pair')}, in nats", width))]
    for name, value, at in (("clean", finding.clean, "100%"), ("corrupt", finding.corrupt, "0%")):
        lines.append(Text(f"{name:<8}", "bold").append(f"{value:+.2f} = {at}"))
    for pair, ends in finding.pairs[:1]:
        shown = label_text("".join(piece.text for piece in pair.clean))
        lines.append(Text(fit(f"first: {measure_words(ends)}", width), "dim"))
        lines.append(Text(fit(shown, width), "dim"))
    compares = all(ends.kind == "logit-difference" for _, ends in finding.pairs)
    return lines + doubt_lines(finding.clean, finding.corrupt, width, compares=compares)


def graph_lines(finding: FoundCircuit, names: HeadNames, width: int) -> list[Text]:
    """Draws the circuit layer by layer, the embedding first: each component with what its ports read."""
    graph = finding.graph
    inputs: dict[str, list[tuple[str, str, float]]] = {}
    for edge in ranked(np.abs(finding.effects), np.flatnonzero(finding.kept).tolist()):
        writer, reader = (ends[edge] for ends in graph.ends)
        read = graph.readers[reader]
        for component in finding.components(edge):
            port = "" if read.port in ("mlp", "output") else read.port
            inputs.setdefault(component, []).append((port, graph.writers[writer].name, float(finding.effects[edge])))
    order = [writer.name for writer in graph.writers if writer.name in inputs] + ["output"]
    lines, layer = [Text("embedding")], ""
    for component in order:
        here = _layer_of(component)
        if here != layer:
            lines.append(Text(f"layer {here}" if here else "", "dim"))
            layer = here
        known = names.get(_head_of(component) or (-1, -1), "")
        title = Text(("  " if here else "") + component, "bold").append(f"  {known}" if known else "", "not bold dim")
        lines.append(title)
        for port in ("query", "key", "value", ""):
            sources = [f"{name} {signed_share(share)}" for at, name, share in inputs[component] if at == port]
            if sources:
                lines += _sources(port, sources, width)
    return [line for line in lines if line.plain or line.style == ""]


def _sources(port: str, sources: list[str], width: int) -> list[Text]:
    """Returns the lines of one port: '    key    ← 1.0 26%, 2.0 9%'."""
    head = f"    {port:<5} ← " if width >= 30 else f"  {port} ← "
    told = fold(" · ".join(sources), max(width - cell_len(head), 8)).split("\n")
    first = Text(head, "dim").append(told[0], "not dim")
    return [first, *(Text(" " * cell_len(head) + line) for line in told[1:])]


def _layer_of(component: str) -> str:
    if component == "output":
        return ""
    return component.removeprefix("mlp ").partition(".")[0]


def _head_of(component: str) -> tuple[int, int] | None:
    layer, dot, head = component.partition(".")
    return (int(layer), int(head)) if dot else None


def _in_words(finding: FoundCircuit, names: HeadNames, width: int) -> list[Text]:
    """Returns the edges with the largest effects as sentences."""
    graph = finding.graph
    lone = "noising" if finding.direction == "noising" else "denoising"
    told = (
        "the effect lost with this edge alone corrupt" if lone == "noising" else "the effect gained by this edge alone"
    )
    lines = [titled("Its strongest edges", f"in %: {told}", width)]
    room = max(width - 8, 20)
    for edge in finding.order()[:_IN_WORDS]:
        share, words = signed_share(float(finding.effects[edge])), graph.words(edge)
        writer = graph.writers[int(graph.ends[0][edge])]
        known = names.get((writer.layer, writer.head), "") if writer.kind == "head" else ""
        words += f" ({known})" if known else ""
        first, *more = fold(words, room).split("\n")
        lines.append(Text(f"{share:>6}  ").append(first))
        lines += [Text(" " * 8 + line) for line in more]
    if (left := finding.size - _IN_WORDS) > 0:
        lines.append(Text(" " * 8 + f"and {plural(left, 'more edge')}", "dim"))
    return lines


def _by_token(finding: FoundCircuit, effects: Floats, width: int) -> list[Text]:
    """Returns the tokens at which the strongest edges have their effects, each edge patched at one token at a time."""
    lines = [titled("At which tokens", "in %: with this edge patched at this token alone", width)]
    pieces = finding.pairs[0][0].clean
    several = len(finding.pairs) > 1
    for edge, row in zip(finding.order(), effects, strict=False):
        tokens = [at for at in ranked(np.abs(row)) if abs(row[at]) >= _LEAST_AT_TOKEN][:_MOST_TOKENS]
        named = [f"[{at}]" if several else f"{token_label(pieces[at], _LABEL)} [{at}]" for at in tokens]
        told = " · ".join(f"{name} {signed_share(float(row[at]))}" for name, at in zip(named, tokens, strict=True))
        lines.append(Text(fold(f"{finding.graph.name(edge)}: {told or 'no single token'}", width)))
    return lines


def _trust(finding: FoundCircuit, width: int) -> list[Text]:
    """Returns what the circuit keeps, what is left without it, and random circuits of the same size."""
    rows = [("this circuit", finding.faithfulness)]
    if finding.held_out is not None:
        rows.append((f"on {plural(finding.held_pairs, 'other pair')}", finding.held_out))
    rows.append(("all edges but these", finding.complement))
    if len(finding.random):
        rows.append((f"random paths, mean of {len(finding.random)}", float(finding.random.mean())))
        rows.append(("random paths, best", float(finding.random.max())))
    label = min(max(len(name) for name, _ in rows), max(width - 8, 8))
    room = max(min(width - label - 9, _WIDEST_BAR), 0)
    lines = [titled("How much of the effect is kept", "by a model with only these edges clean", width)]
    for name, share in rows:
        text = f"{fit(name, label):<{label}} {signed_share(share):>6}"
        lines.append(Text(text + " ").append(bar(share, room), BAR))
    return lines


def _curve(finding: FoundCircuit, width: int) -> list[Text]:
    """Returns the faithfulness of circuits by size, before pruning."""
    curve = finding.curve
    areas = f"area under it (CPR) {curve.cpr:.2f}, distance from 100% (CMD) {curve.cmd:.2f}"
    lines = [titled("Faithfulness of the first edges of the ranking", areas, width)]
    room = max(min(width - 26, _WIDEST_BAR), 0)
    lines.append(Text(fit(f"{'edges':>7} {'kept':>6}   {'others kept':>11}", width), "dim"))
    for size, share, left in zip(curve.sizes, curve.faithfulness, curve.complement, strict=True):
        row = f"{size:>7,} {signed_share(share):>6}   {signed_share(left):>11}"
        lines.append(Text(fit(row, width)).append(f"  {bar(share, room)}" if room else "", BAR))
    return lines


def _footnote(finding: FoundCircuit, width: int) -> list[Text]:
    direction = "noising: corrupt values into the clean run" if finding.direction == "noising" else (
        "denoising: clean values into the corrupt run"
    )  # fmt: skip
    lines = [
        f"Ranked by {_METHODS[finding.method]} ({direction}), at all tokens together; other edges carry the values of "
        f"the corrupt prompt. {plural(finding.runs, 'patched run')}, seed {finding.seed}."
    ]
    if (check := finding.check) is not None:
        method = "EAP-IG" if finding.method != "eap" else "EAP"
        known = "all edges" if check.edges == finding.graph.size else f"{check.edges} edges measured exactly"
        correlation = "unknown" if math.isnan(check.correlation) else f"{check.correlation:.2f}"
        lines.append(
            f"{method} against exact effects, {known}: rank correlation {correlation}; of the {check.first} largest, "
            f"it finds {percent(check.overlap)}."
        )
    return [Text(fold(line, width), "dim") for line in lines]


def find_document(finding: FoundCircuit, model: str, names: HeadNames, left_out: int) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary."""
    graph, curve, check = finding.graph, finding.curve, finding.check
    return {
        "model": model,
        "layers": graph.layers,
        "heads": graph.heads,
        "kv_heads": graph.kv_heads,
        "direction": finding.direction,
        "method": finding.method,
        "steps": finding.steps,
        "pairs": [
            {
                "clean": "".join(piece.text for piece in pair.clean),
                "corrupt": "".join(piece.text for piece in pair.corrupt),
                "ends": ends_document(ends),
            }
            for pair, ends in finding.pairs
        ],
        "left_out": left_out,
        "edges": graph.size,
        "circuit": [_edge_document(finding, edge) for edge in finding.order()],
        "by_token": None if finding.by_token is None else finding.by_token.tolist(),
        "known_heads": [{"layer": layer, "head": head, "kind": kind} for (layer, head), kind in names.items()],
        "faithfulness": finding.faithfulness,
        "held_out": finding.held_out,
        "complement": finding.complement,
        "random": finding.random.tolist(),
        "wanted": finding.wanted,
        "ranked": finding.ranked,
        "curve": {
            "sizes": list(curve.sizes),
            "connected": list(curve.connected),
            "faithfulness": curve.faithfulness.tolist(),
            "complement": curve.complement.tolist(),
            "cpr": curve.cpr,
            "cmd": curve.cmd,
        },
        "check": None
        if check is None
        else {
            "edges": check.edges,
            "correlation": None if math.isnan(check.correlation) else check.correlation,
            "first": check.first,
            "overlap": check.overlap,
        },
        "seed": finding.seed,
        "runs": finding.runs,
        "seconds": finding.seconds,
    }


def _edge_document(finding: FoundCircuit, edge: int) -> dict[str, Any]:
    graph, known = finding.graph, finding.exact
    writer, reader = (int(ends[edge]) for ends in graph.ends)
    measured = known is not None and (finding.checked is None or bool(finding.checked[edge]))
    return {
        "writer": graph.writers[writer].name,
        "reader": graph.readers[reader].name,
        "words": graph.words(edge),
        "effect": float(finding.effects[edge]),
        "exact": float(known[edge]) if known is not None and measured else None,
    }


def find_arrays(finding: FoundCircuit) -> dict[str, Any]:
    """Returns all edges as arrays: their ends, effects, and whether they are in the circuit."""
    graph = finding.graph
    writers, readers = graph.ends
    exact = np.full(graph.size, np.nan) if finding.exact is None else finding.exact
    if finding.checked is not None:
        exact = np.where(finding.checked, exact, np.nan)
    return {
        "writers": np.array([graph.writers[at].name for at in writers]),
        "readers": np.array([graph.readers[at].name for at in readers]),
        "effects": finding.effects,
        "exact": exact,
        "circuit": finding.kept,
    }
