"""A screen as a picture: an SVG or an HTML file that stands alone, with no link, no font and no script in it.

Owns how what Rich draws is written as markup. Whatever text comes, only visible characters are written, escaped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from html import escape

from rich.cells import cell_len
from rich.color import blend_rgb
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME as THEME

from attncli.render.escape import one_line

WIDTH = 100  # cells
_CELL, _LINE, _FONT = 8.4, 19, 14  # pixels
_MARGIN = 16
_FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_DIMNESS = 0.3
_HALVES = "▀▄"

Draw = Callable[[Console], RenderableType]


def svg_picture(draw: Draw, title: str, width: int = WIDTH) -> str:
    """A screen, drawn for a console of this many cells in full colour, as the text of an SVG file."""
    lines = _lines(draw, width)
    across, down = round(2 * _MARGIN + width * _CELL), 2 * _MARGIN + len(lines) * _LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" width="{across}" height="{down}">',
        f"<title>{_safe(title)}</title>",
        f"<style>text {{ font: {_FONT}px {_FONTS}; white-space: pre }} rect {{ shape-rendering: crispEdges }}</style>",
        f'<rect width="100%" height="100%" fill="{THEME.background_color.hex}"/>',
    ]
    for row, line in enumerate(lines):
        parts += _svg_line(line, _MARGIN + row * _LINE)
    return "\n".join([*parts, "</svg>", ""])


def html_picture(draw: Draw, title: str, width: int = WIDTH) -> str:
    """The same as the text of an HTML file, in which the text can be selected."""
    body = "\n".join(
        "".join(_html_span(text, style) for text, style in _visible(line)).rstrip() for line in _lines(draw, width)
    )
    ground, ink = THEME.background_color.hex, THEME.foreground_color.hex
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
    """The texts of a line with their styles."""
    return [(segment.text, segment.style or Style()) for segment in Segment.simplify(line) if not segment.control]


def _svg_line(line: Iterable[Segment], top: float) -> list[str]:
    parts, x = [], float(_MARGIN)
    for text, style in _visible(line):
        across = cell_len(text) * _CELL
        ink, ground = _colors(style)
        if ground is not None:
            parts.append(f'<rect x="{x:g}" y="{top:g}" width="{across:g}" height="{_LINE}" fill="{ground}"/>')
        if _is_half_blocks(text):  # no font's blocks are exactly half a line
            half = top + _HALVES.index(text[0]) * _LINE / 2
            parts.append(f'<rect x="{x:g}" y="{half:g}" width="{across:g}" height="{_LINE / 2:g}" fill="{ink}"/>')
        elif text.strip() and across:
            weight = ' font-weight="bold"' if style.bold else ""
            parts.append(
                # A length of its own keeps every run of text in its columns, whatever the font.
                f'<text x="{x:g}" y="{top + _FONT:g}" textLength="{across:g}" lengthAdjust="spacingAndGlyphs"'
                f' fill="{ink}"{weight} xml:space="preserve">{_safe(text)}</text>'
            )
        x += across
    return parts


def _is_half_blocks(text: str) -> bool:
    return bool(text) and any(text == half * len(text) for half in _HALVES)


def _html_span(text: str, style: Style) -> str:
    ink, ground = _colors(style)
    if _is_half_blocks(text):
        upper, lower = (ink, ground) if text[0] == _HALVES[0] else (ground, ink)
        halves = f"linear-gradient({upper or 'transparent'} 50%, {lower or 'transparent'} 50%)"
        return f'<span class="cell" style="color: transparent; background: {halves}">{_safe(text)}</span>'
    rules = [f"color: {ink}"] if ink != THEME.foreground_color.hex else []
    rules += ["font-weight: bold"] if style.bold else []
    if ground is not None:
        return f'<span class="cell" style="{"; ".join([*rules, f"background: {ground}"])}">{_safe(text)}</span>'
    return f'<span style="{"; ".join(rules)}">{_safe(text)}</span>' if rules else _safe(text)


def _colors(style: Style) -> tuple[str, str | None]:
    """The colour of the letters, and of what is behind them where that is not the picture's own."""
    plain = style.bgcolor is None or style.bgcolor.is_default
    ground = THEME.background_color if plain else style.bgcolor.get_truecolor(THEME)  # type: ignore[union-attr]
    ink = style.color.get_truecolor(THEME) if style.color is not None else THEME.foreground_color
    ink = blend_rgb(ink, ground, _DIMNESS) if style.dim else ink
    return ink.hex, None if plain else ground.hex


def _safe(text: str) -> str:
    """Text that is no markup, each of its characters one that XML allows."""
    return escape(one_line(text))
