"""Counts and times are parsed, and numbers are checked."""

import numpy as np
import pytest

from attncli.config import SampleConfig
from attncli.config.values import parse_count, parse_seconds
from attncli.errors import UsageProblem


@pytest.mark.parametrize("text", ["500", "0.5k", "1M", "25.6k", "1_000", "2,000", "2.01k", "-3"])
def test_every_way_to_write_a_count_is_parsed(text):
    expected = {
        "500": 500,
        "0.5k": 500,
        "1M": 10**6,
        "25.6k": 25600,
        "1_000": 1000,
        "2,000": 2000,
        "2.01k": 2010,
        "-3": -3,
    }
    assert parse_count(text) == expected[text]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("7", 7), ("0.5m", 30)]
)
def test_every_way_to_write_a_time_is_parsed(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "k", "1.5", "- 3", "1e3", "x", "0.0001k"])
def test_a_text_that_is_not_a_count_is_refused(text):
    with pytest.raises(ValueError, match="not a whole number"):
        parse_count(text)


def test_numbers_of_numpy_are_converted():
    config = SampleConfig(top_k=np.int64(5), temperature=np.float32(0.5), min_p=np.float64(0.25))
    assert (config.top_k, config.temperature, config.min_p) == (5, 0.5, 0.25)
    assert (type(config.top_k), type(config.temperature)) == (int, float)
    for wrong in ({"top_k": True}, {"temperature": False}, {"top_k": np.bool_(True)}, {"top_k": np.float64(5)}):
        with pytest.raises(UsageProblem):
            SampleConfig(**wrong)
