"""Draws a circuit as an SVG graph: the embedding at the bottom, the layers above it, the output at the top.

A head has three inputs at its lower side: query, key and value, from left to right, each with a color of its own. The
width of a line is the effect of its edge; a line of an edge that opposes the effect is dashed. The file has no script,
no link and no font.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from attncli.render.circuit_ends import signed_share
from attncli.render.escape import one_line
from attncli.render.themes import DEFAULT_THEME, THEMES

if TYPE_CHECKING:
    from attncli.circuits.search import FoundCircuit

_BOX = (142, 34)  # pixels
_GAP = (28, 62)
_MARGIN = 24
_LEGEND = 24  # pixels above the output
_PORTS = {"query": 0.2, "key": 0.5, "value": 0.8, "mlp": 0.5, "output": 0.5}  # places on the lower side of a box
_COLORS = {"query": 4, "key": 5, "value": 2, "mlp": 6, "output": 6}  # of the 16 colors of the theme
_LEAST, _MOST = 0.8, 7.0  # pixels of a line
_FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def circuit_svg(
    finding: FoundCircuit, title: str, names: Mapping[tuple[int, int], str], theme: str = DEFAULT_THEME
) -> str:
    """Returns the SVG file of a circuit, in the colors of a theme."""
    graph, colors = finding.graph, THEMES[theme]
    places = _places(finding)
    width = max(x for x, _ in places.values()) + _BOX[0] + _MARGIN
    height = max(y for _, y in places.values()) + _BOX[1] + _MARGIN
    ansi = [f"#{color}" for color in colors.ansi.split()]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="{_FONTS}" font-size="13" text-anchor="middle" fill="#{colors.text}">',
        f"<title>{_safe(title)}</title>",
        f'<rect width="100%" height="100%" fill="#{colors.page}"/>',
    ]
    shown = "".join(f'<tspan fill="{ansi[_COLORS[port]]}" dx="8">{port}</tspan>' for port in ("query", "key", "value"))
    parts.append(f'<text x="{_MARGIN}" y="{_MARGIN}" text-anchor="start">what a head reads:{shown}</text>')
    for edge in reversed(finding.order()):
        writer, reader = (int(ends[edge]) for ends in graph.ends)
        read = graph.readers[reader]
        for component in finding.components(edge):
            share = float(finding.effects[edge])
            start, end = places[graph.writers[writer].name], places[component]
            told = f"{graph.words(edge)}: {signed_share(share)}"
            parts.append(_line(start, end, read.port, share, ansi[_COLORS[read.port]], told))
    for name, place in places.items():
        layer, dot, head = name.partition(".")
        known = names.get((int(layer), int(head)), "") if dot else ""
        parts += _box(name, known, place, f"#{colors.page}", f"#{colors.text}")
    return "\n".join([*parts, "</svg>", ""])


def _places(finding: FoundCircuit) -> dict[str, tuple[int, int]]:
    """Returns the left upper corner of the box of every component of the circuit, in pixels."""
    graph = finding.graph
    used = {graph.writers[writer].name for writer in graph.ends[0][finding.kept]}
    rows: list[list[str]] = [["output"]]
    for layer in reversed(range(graph.layers)):
        rows.append([f"mlp {layer}"])
        rows.append([f"{layer}.{head}" for head in range(graph.heads)])
    rows = [[name for name in row if name in used or name == "output"] for row in [*rows, ["embedding"]]]
    rows = [row for row in rows if row]
    across, down = _BOX[0] + _GAP[0], _BOX[1] + _GAP[1]
    most = max(len(row) for row in rows)
    places = {}
    for level, row in enumerate(rows):
        beside = row[0].startswith("mlp")  # in a column of their own, where they hide no line between heads
        left = most * across if beside else round((most - len(row)) * across / 2)
        for at, name in enumerate(row):
            places[name] = (_MARGIN + left + at * across, _MARGIN + _LEGEND + level * down)
    return places


def _line(start: tuple[int, int], end: tuple[int, int], port: str, share: float, color: str, told: str) -> str:
    x, y = start[0] + _BOX[0] / 2, start[1]
    to_x, to_y = end[0] + _BOX[0] * _PORTS[port], end[1] + _BOX[1]
    bend = max((y - to_y) / 2, 20)
    thick = min(max(abs(share) * 10, _LEAST), _MOST)
    dashed = ' stroke-dasharray="4 3"' if share < 0 else ""
    return (
        f'<path d="M{x:g} {y:g}C{x:g} {y - bend:g} {to_x:g} {to_y + bend:g} {to_x:g} {to_y:g}" fill="none"'
        f' stroke="{color}" stroke-width="{thick:.2g}" stroke-opacity="0.8"{dashed}><title>{_safe(told)}</title></path>'
    )


def _box(name: str, known: str, place: tuple[int, int], page: str, ink: str) -> list[str]:
    x, y = place
    middle = x + _BOX[0] / 2
    parts = [
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="5" fill="{page}" stroke="{ink}"/>',
        f'<text x="{middle:g}" y="{y + (15 if known else 22)}">{_safe(name)}</text>',
    ]
    if known:
        parts.append(f'<text x="{middle:g}" y="{y + 28}" font-size="9">{_safe(known)}</text>')
    return parts


def _safe(text: str) -> str:
    return escape(one_line(text))
