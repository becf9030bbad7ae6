"""Formats of numbers, and bars."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from attncli.render.numbers import bar, count, duration, percent, size

# Numbers


@pytest.mark.parametrize(
    ("draw", "examples"),
    [
        (
            count,
            {0: "0", 7: "7", 999: "999", 999.5: "1k", 1000: "1k", 12345: "12.3k", 935296: "935k", 999_499: "999k",
             999_500: "1M", 1_234_567: "1.23M", 124_439_808: "124M", 174_604_259_328: "175B"},
        ),
        (
            size,
            {0: "0 B", 999: "999 B", 1000: "1.0 kB", 1536: "1.5 kB", 12_345_678: "12.3 MB",
             698_400_000_000: "698.4 GB"},
        ),
        (
            duration,
            {0: "0s", 7.2: "7s", 59.4: "59s", 59.6: "1m 00s", 95: "1m 35s", 3599.7: "1h 00m", 7260: "2h 01m",
             360_000: "100h 00m"},
        ),
        (
            percent,
            {0: "0%", 1: "100%", 0.4137: "41%", 0.01: "1%", 0.0042: "0.4%", 0.0005: "0.1%", 0.0004: "<0.1%",
             1e-9: "<0.1%", 0.996: "100%"},
        ),
    ],
)  # fmt: skip
def test_examples_of_every_format(draw, examples):
    assert {number: draw(number) for number in examples} == examples


UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@settings(deadline=None, max_examples=100)
@given(number=st.integers(0, 10**12 - 10**9))
@example(number=999_499_999)
@example(number=999_500_000)
def test_a_count_has_at_most_three_digits_and_an_error_of_at_most_half_a_per_cent(number):
    digits, unit = re.fullmatch(r"([0-9.]+)([kMB]?)", count(number)).groups()
    assert float(digits) * UNITS[unit] == pytest.approx(number, rel=0.0051)
    assert len(digits.replace(".", "")) <= 3
    assert float(digits) < 1000


@settings(deadline=None, max_examples=100)
@given(number=st.integers(0, 10**12 - 10**9) | st.sampled_from([999_949, 999_950, 999_999, 999_999_999]))
@example(number=999_999)
def test_the_number_of_a_size_is_below_a_thousand(number):
    digits, unit = size(number).split(" ")
    assert float(digits) * UNITS["" if unit == "B" else unit] == pytest.approx(number, rel=0.051)
    assert float(digits) < 1000


@settings(deadline=None, max_examples=100)
@given(seconds=st.integers(0, 10**6))
def test_a_duration_is_exact_to_the_second_below_an_hour_and_then_to_the_minute(seconds):
    unit = {"h": 3600, "m": 60, "s": 1}
    said = sum(int(part[:-1]) * unit[part[-1]] for part in duration(seconds).split())
    assert said == (seconds if seconds < 3600 else seconds // 60 * 60)


@settings(deadline=None, max_examples=100)
@given(share=st.floats(0, 1))
def test_a_positive_share_is_never_shown_as_0_per_cent(share):
    said = percent(share)
    assert (said == "0%") == (share == 0)
    assert len(said) <= 5
    if said != "<0.1%":
        assert abs(float(said[:-1]) - 100 * share) <= (0.5 if share >= 0.00995 else 0.05) + 1e-9
    else:
        assert share < 0.001


@settings(deadline=None, max_examples=100)
@given(share=st.floats(-1, 2), more=st.floats(0, 1), width=st.integers(0, 60), full=st.sampled_from(["█", "▒"]))
@example(share=float("nan"), more=0.0, width=10, full="█")
@example(share=0.9999, more=0.0, width=8, full="█")
def test_a_bar_never_exceeds_its_width_and_grows_with_its_share(share, more, width, full):
    drawn = bar(share, width, full)
    assert cell_len(drawn) <= width
    assert set(drawn[:-1]) <= {full}
    assert cell_len(drawn) <= cell_len(bar(share + more, width, full)) or share != share
    if 0 <= share <= 1:
        assert abs(cell_len(drawn) - share * width) < 1


def test_examples_of_bars():
    assert [bar(eighth / 8, 1) for eighth in range(9)] == ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"]
    assert bar(0.5, 10) == "█████"
    assert bar(0.55, 10) == "█████▌"
    assert bar(0.55, 4, "▒") == "▒▒"
    assert [bar(share, 3) for share in (-1, 0, 1, 7)] == ["", "", "███", "███"]
