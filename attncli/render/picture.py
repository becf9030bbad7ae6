"""Writes a screen as a self-contained SVG or HTML file: no link, no embedded font, no script.

Rich renders the screen into segments of text with a style. Each segment is written as markup. In an SVG, bars become
rectangles, because no font draws block characters without gaps. Only visible characters are written, with markup
escaped. A theme sets the colors of the page and of the text, for light and for dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from html import escape

from rich.cells import cell_len
from rich.color import blend_rgb, parse_rgb_hex
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from attncli.render.escape import one_line
from attncli.render.themes import DEFAULT_THEME, THEMES

WIDTH = 100  # cells
_CELL, _LINE, _FONT = 8.4, 19, 14  # pixels
_MARGIN = 16
_BAR = 13  # pixels: the height of a bar, centered in its line
_FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_DIMNESS = 0.25
_HALVES = "▀▄"
_BAR_CELLS = "▏▎▍▌▋▊▉█"  # eighths of a cell, one to eight
_SHADES = {"░": 0.25, "▒": 0.5, "▓": 0.75}  # opacity
_RUNS = re.compile(f"█*[{_BAR_CELLS}]|░+|▒+|▓+|[^{_BAR_CELLS}░▒▓]+")


Draw = Callable[[Console], RenderableType]


def _rich_theme(name: str) -> TerminalTheme:
    theme = THEMES[name]
    ansi: list[tuple[int, int, int]] = [parse_rgb_hex(color) for color in theme.ansi.split()]
    return TerminalTheme(parse_rgb_hex(theme.page), parse_rgb_hex(theme.text), ansi)


def svg_picture(draw: Draw, title: str, width: int = WIDTH, theme: str = DEFAULT_THEME) -> str:
    """Returns an SVG file: a screen drawn in 24-bit colors, `width` cells wide.

    `theme` is one of THEMES.
    """
    colors = _rich_theme(theme)
    lines = _lines(draw, width)
    across, down = round(2 * _MARGIN + width * _CELL), 2 * _MARGIN + len(lines) * _LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" width="{across}" height="{down}"'
        f' font-family="{_FONTS}" font-size="{_FONT}" fill="{colors.foreground_color.hex}"'
        ' shape-rendering="crispEdges" xml:space="preserve">',
        f"<title>{_safe(title)}</title>",
        "<style>text { white-space: pre }</style>",
        f'<rect width="100%" height="100%" fill="{colors.background_color.hex}"/>',
    ]
    for row, line in enumerate(lines):
        parts += _svg_line(line, _MARGIN + row * _LINE, colors)
    return "\n".join([*parts, "</svg>", ""])


def html_picture(draw: Draw, title: str, width: int = WIDTH, theme: str = DEFAULT_THEME) -> str:
    """Returns the text of an HTML file: the screen that `svg_picture` draws, with text that can be selected."""
    colors = _rich_theme(theme)
    body = "\n".join(
        "".join(_html_span(text, style, colors) for text, style in _visible(line)).rstrip()
        for line in _lines(draw, width)
    )
    ground, ink = colors.background_color.hex, colors.foreground_color.hex
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_safe(title)}</title>
<style>
body {{ background: {ground}; color: {ink}; margin: {_MARGIN}px }}
pre {{ font: {_FONT}px/{_LINE}px {_FONTS} }}
.cell {{ display: inline-block; height: {_LINE}px; vertical-align: top }}
</style>
</head>
<body>
<pre>
{body}
</pre>
</body>
</html>
"""


def _lines(draw: Draw, width: int) -> list[list[Segment]]:
    console = Console(
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        no_color=False,
        markup=False,
        highlight=False,
        emoji=False,
        _environ={},
    )
    return console.render_lines(draw(console), pad=False)


def _visible(line: Iterable[Segment]) -> list[tuple[str, Style]]:
    """Returns the texts of a line with their styles, without control segments."""
    return [(segment.text, segment.style or Style()) for segment in Segment.simplify(line) if not segment.control]


def _svg_line(line: Iterable[Segment], top: float, theme: TerminalTheme) -> list[str]:
    parts, x = [], float(_MARGIN)
    for text, style in _visible(line):
        across = cell_len(text) * _CELL
        ink, ground = _colors(style, theme)
        if ground is not None:
            parts.append(_rectangle(x, top, across, _LINE, ground))
        if _is_half_blocks(text):
            parts.append(_rectangle(x, top + _HALVES.index(text[0]) * _LINE / 2, across, _LINE / 2, ink))
        else:
            painted = "" if ink == theme.foreground_color.hex else f' fill="{ink}"'
            parts += _svg_runs(text, x, top, ink, painted + (' font-weight="bold"' if style.bold else ""))
        x += across
    return parts


def _svg_runs(text: str, x: float, top: float, ink: str, attributes: str) -> list[str]:
    """Returns the SVG elements of a text that has one style: rectangles for its bars, text elements for the rest."""
    parts = []
    for run in _RUNS.findall(text):
        across = cell_len(run) * _CELL
        if run[0] in _SHADES:
            parts.append(_rectangle(x, top + (_LINE - _BAR) / 2, across, _BAR, ink, _SHADES[run[0]]))
        elif run[0] in _BAR_CELLS:
            filled = len(run) - 1 + (_BAR_CELLS.index(run[-1]) + 1) / len(_BAR_CELLS)
            parts.append(_rectangle(x, top + (_LINE - _BAR) / 2, filled * _CELL, _BAR, ink))
        elif shown := run.strip(" "):
            left = x + (len(run) - len(run.lstrip(" "))) * _CELL
            # textLength keeps every run of text in its columns, whatever the font.
            length = f' textLength="{cell_len(shown) * _CELL:g}"'
            parts.append(f'<text x="{left:g}" y="{top + _FONT:g}"{length}{attributes}>{_safe(shown)}</text>')
        x += across
    return parts


def _rectangle(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    shade = "" if opacity == 1 else f' fill-opacity="{opacity:g}"'
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"{shade}/>'


def _is_half_blocks(text: str) -> bool:
    return bool(text) and any(text == half * len(text) for half in _HALVES)


def _html_span(text: str, style: Style, theme: TerminalTheme) -> str:
    ink, ground = _colors(style, theme)
    if _is_half_blocks(text):
        upper, lower = (ink, ground) if text[0] == _HALVES[0] else (ground, ink)
        halves = f"linear-gradient({upper or 'transparent'} 50%, {lower or 'transparent'} 50%)"
        return f'<span class="cell" style="color: transparent; background: {halves}">{_safe(text)}</span>'
    rules = [f"color: {ink}"] if ink != theme.foreground_color.hex else []
    rules += ["font-weight: bold"] if style.bold else []
    if ground is not None:
        return f'<span class="cell" style="{"; ".join([*rules, f"background: {ground}"])}">{_safe(text)}</span>'
    return f'<span style="{"; ".join(rules)}">{_safe(text)}</span>' if rules else _safe(text)


def _colors(style: Style, theme: TerminalTheme) -> tuple[str, str | None]:
    """Returns the color of a text, and its background color; None for the background of the page."""
    behind = style.bgcolor
    ground = None if behind is None or behind.is_default else behind.get_truecolor(theme)
    ink = style.color.get_truecolor(theme) if style.color is not None else theme.foreground_color
    ink = blend_rgb(ink, ground or theme.background_color, _DIMNESS) if style.dim else ink
    return ink.hex, None if ground is None else ground.hex


def _safe(text: str) -> str:
    """Returns the text with markup escaped and with only those characters that XML allows."""
    return escape(one_line(text))
