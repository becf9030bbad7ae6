"""Colors: a larger value is lighter, and digits are readable on every color."""

from itertools import pairwise

import numpy as np
import pytest

from attncli.render.palette import heat

# Colors


def luminance(color):
    """Returns the relative luminance of a Rich color (WCAG 2)."""
    channels = np.array(color.get_truecolor()) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(style):
    light, dark = sorted((luminance(style.color), luminance(style.bgcolor)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colors", "steps"), [("truecolor", 100), ("256", 9)])
def test_a_larger_value_is_lighter(colors, steps):
    lights = [luminance(heat(step / steps, colors).bgcolor) for step in range(steps + 1)]
    assert all(before < after for before, after in pairwise(lights))


@pytest.mark.parametrize("colors", ["truecolor", "256"])
def test_digits_are_readable_on_every_color(colors):
    """Black or white text has a contrast of at least 4.5 on any background. WCAG requires 3 for large letters."""
    assert min(contrast(heat(step / 100, colors)) for step in range(101)) > 3


@pytest.mark.parametrize("colors", [None, "standard", "windows"])
def test_values_have_no_color_on_a_terminal_with_few_colors(colors):
    assert not heat(0.5, colors)


@pytest.mark.parametrize("colors", ["truecolor", "256"])
def test_a_value_out_of_range_has_the_color_of_the_nearest_end(colors):
    assert heat(-1, colors) == heat(0, colors)
    assert heat(2, colors) == heat(1, colors)
