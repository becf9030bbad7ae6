"""The attention map of a head: its numbers, shades, columns and ruler."""

import re
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len

from attncli.explain.question import ROWS_AROUND as MAP_ROWS
from attncli.render.cells import pool_by_maximum
from attncli.render.first_screen import explanation_screen
from attncli.render.head_map import attention_map
from attncli.render.palette import heat
from tests.support.explanations import ENGLISH, explanation
from tests.support.first_screens import explained
from tests.support.screens import screen

# The map


@pytest.mark.parametrize("length", [2, 7, 15])
def test_a_map_in_numbers_shows_each_weight_in_per_cent(length):
    found = explanation([f" {chr(97 + at)}" for at in range(length)])
    drawn = explained(found, 80)
    for row in range(length):
        (line,) = re.findall(rf"^ *{row} ␣{chr(97 + row)} +([\d ]+)$", drawn, re.MULTILINE)
        assert [int(value) for value in line.split()] == [round(w * 100) for w in found.map.weights[row, : row + 1]]


@pytest.mark.parametrize("colors", ["truecolor", "256"])
def test_masked_cells_have_no_color(colors):
    console = screen(80, colors)
    console.print(explanation_screen(explanation(ENGLISH), "stories", console))
    backgrounds = re.findall(r"48;[25];", console.file.getvalue())
    assert len(backgrounds) == 7 * 8 // 2


def shades(drawn):
    """Returns the ruler of a map in shades, and each row as its first token, its first cell and its shades."""
    lines = drawn.split("\n")
    legend = next(at for at, line in enumerate(lines) if "0%  ░ up to" in line)
    rows = []
    for at in range(legend - 1, 0, -1):
        found = re.match(r" *(\d+) ", lines[at])
        start = next((i for i in range(5, len(lines[at])) if lines[at][i] in "·░▒▓█"), None)
        if found is None or start is None:
            return lines[at], rows[::-1]
        rows.append((int(found[1]), cell_len(lines[at][:start]), lines[at][start:]))
    raise AssertionError("no map")


@pytest.mark.parametrize(
    "word", ["a", "東", "東京日本東京", "東京日本東京日本"], ids=["letter", "wide", "wider", "widest"]
)
@pytest.mark.parametrize(("length", "width"), [(30, 80), (70, 80), (70, 200), (12, 40)])
def test_the_columns_of_a_map_in_shades_are_aligned(word, length, width):
    _, rows = shades(explained(explanation([word] * length), width))
    assert len({start for _, start, _ in rows}) == 1
    wide = len(rows[0][2])
    for at, (_, _, cells) in enumerate(rows):
        assert len(cells.rstrip()) <= (at + 1) * wide <= len(cells.ljust((at + 1) * wide))


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("length", [11, 16, 21, 31, 41, 50, 100, 101, 199, 300])
def test_the_ruler_of_a_map_in_shades_names_the_columns(length, width):
    drawn = explained(explanation(["a"] * length), width)
    if "0%  ░ up to" not in drawn:
        assert length * 4 <= width - 19  # the numbers fit
        return
    ruler, rows = shades(drawn)
    pool, wide = rows[1][0] - rows[0][0], len(rows[0][2])
    named = {found.start(): int(found[0]) for found in re.finditer(r"\d+", ruler)}
    left = rows[0][1]
    assert named[left] == 0
    assert named == {start: (start - left) // wide * pool for start in named}
    assert [row[0] for row in rows] == [at * pool for at in range(len(rows))]
    assert len(rows) == -(-length // pool)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_pooled_map_shows_the_largest_weight_of_each_cell_and_the_size_of_the_cells(width):
    found = explanation(["a"] * 80)
    weights = np.tril(np.full((80, 80), 0.0))
    weights[:, 0] = 1.0
    weights[51] = np.eye(80)[33]  # one sharp peak
    drawn = explained(replace(found, map=replace(found.map, weights=weights)), width)
    _, rows = shades(drawn)
    pool, wide = rows[1][0], len(rows[0][2])
    assert pool >= 2
    for at, (first, _, cells) in enumerate(rows):
        values = cells.ljust(wide * len(rows))[::wide]
        peak = 33 // pool if first == 51 // pool * pool else 0
        assert {column for column, value in enumerate(values[: at + 1]) if value == "█"} == {0, peak}
        assert set(values[: at + 1]) <= set("█·")
    assert f"largest of {pool} x {pool}" in drawn


def half_blocks(lines):
    """Returns the colors of the cells of a map in half blocks, by row."""
    rows = []
    for line in lines:
        if not any(segment.text[:1] in ("▀", "▄") for segment in line):
            continue
        upper, lower = [], []
        for segment in line:
            if segment.text[:1] == "▀":
                upper += [segment.style.color] * len(segment.text)
                lower += [segment.style.bgcolor] * len(segment.text)
            elif segment.text[:1] == "▄":
                lower += [segment.style.color] * len(segment.text)
        rows += [upper, lower]
    return rows


@pytest.mark.parametrize("colors", ["truecolor", "256"])
@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("length", [25, 60, 151])
def test_a_map_in_half_blocks_has_the_colors_of_the_palette(length, width, colors):
    console = screen(width, colors)
    found = explanation(["a"] * length)
    weights = np.tril(np.random.default_rng(0).random((length, length)))
    lines = console.render_lines(attention_map(replace(found.map, weights=weights), 3, console))
    text = "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)
    assert len(lines) <= MAP_ROWS + 3
    if length == 25 and width == 200:
        assert "▀" not in text  # numbers fit
        return
    stated = re.search(r"largest of (\d+) x \1$", text, re.MULTILINE)
    pooled = pool_by_maximum(weights, *[int(stated[1])] * 2) if stated else weights
    rows = half_blocks(lines)
    wide = len(rows[0])
    assert [row[::wide] for row in rows if any(row)] == [
        [heat(value, colors).bgcolor for value in row[: at + 1]] for at, row in enumerate(pooled)
    ]
    assert "0%             100% of a row" in text


@pytest.mark.parametrize(
    ("weight", "shade"),
    [(0.0, "·"), (0.01, "·"), (0.1, "░"), (0.25, "░"), (0.4, "▒"), (0.5, "▒"), (0.7, "▓"), (0.9, "█"), (1.0, "█")],
)
def test_each_shade_is_the_range_of_weights_in_the_legend(weight, shade):
    found = explanation(["a"] * 30)
    weights = np.eye(30) * (1 - weight)
    weights[:, 0] = weight
    _, rows = shades(explained(replace(found, map=replace(found.map, weights=weights)), 80))
    assert {cells[0] for _, _, cells in rows[1:]} == {shade}
