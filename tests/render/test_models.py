"""The screens of attncli info and attncli models."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from attncli.checkpoint.catalog import ModelEntry
from attncli.model.count import PRESETS, count_parameters
from attncli.render.models import info_document, info_screen, models_document, models_table
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE

# Models


RUN = {
    "status": "finished",
    "corpus": {"sources": [f"corpus{HOSTILE}.txt"], "train_characters": 900_000},
    "plan": {"device": "cpu"},
    "progress": {"step": 1200, "seconds": 301.2},
    "results": {"nats_per_token": 2.1, "bits_per_byte": 1.2341, "nats_per_character": 0.9, "validation": "whole"},
    "versions": {"attncli": "0.1.0", "torch": "2.13.0"},
}


LONG_NAME = "a-model-with-a-rather-long-name-indeed"


ENTRIES = [
    ModelEntry("stories", Path("checkpoints/stories"), 12_345_678, 1.7e9, "finished", {}, RUN),
    ModelEntry(f"odd{HOSTILE}", Path("checkpoints/odd"), 999, 1.7e9, HOSTILE, {}, {"results": []}),
]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", PRESETS)
def test_the_screen_of_a_model_fits_and_has_every_number(name, width):
    config = PRESETS[name][1]
    drawn = shown(info_screen(HOSTILE, config, RUN, HOSTILE, width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    parts = count_parameters(config)
    for part, number in parts.items():
        assert bool(re.search(rf"^{part} +{number:,} ", drawn, re.MULTILINE)) == bool(number)
    assert f"{sum(parts.values()):,}" in drawn
    assert "1,200 steps in 5m 01s" in " ".join(drawn.split())
    assert json.loads(json.dumps(info_document(name, config, RUN, None)))["parameters"]["total"] == sum(parts.values())


@pytest.mark.parametrize(
    "run",
    [
        {},
        dict.fromkeys(RUN),
        {key: [] for key in RUN},
        {key: {} for key in RUN},
        {"results": {"bits_per_byte": "x", "nats_per_token": float("nan"), "nats_per_character": 10**5000}},
        {"corpus": {"sources": 7, "train_characters": True}, "progress": {"step": -1, "seconds": "x"}, "versions": [1]},
    ],
)
def test_the_valid_parts_of_an_invalid_run_record_are_shown(run):
    drawn = shown(info_screen("odd", PRESETS["gpt2"][1], run, None), 80)
    assert "124,439,808" in drawn
    assert widest(drawn) <= 80
    table = models_table([ModelEntry("odd", Path("odd"), 1, 1.7e9, "elsewhere", {}, run)], {}, None)
    assert "odd" in shown(table, 80)


@pytest.mark.parametrize("width", [40, 80])
def test_the_list_of_models_fits(width):
    drawn = shown(models_table(ENTRIES, {"stories": 935_296}, "stories", width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    assert len(drawn.splitlines()) == 1 + len(ENTRIES)
    assert "stories ←" in drawn
    assert len(json.dumps(models_document(ENTRIES, {"stories": 935_296}, "stories"))) > 0


def test_the_list_of_models_shows_the_newest_first_with_ages_and_other_folders():
    now = 1.8e9
    ages = {"just now": 5, "2 min ago": 130, "5 h ago": 5 * 3600, "1 day ago": 90_000, "12 days ago": 12.5 * 86_400}
    entries = [
        ModelEntry(f"m{at}", Path(f"checkpoints/m{at}"), 1, now - ago, "finished", {}, {})
        for at, ago in enumerate(ages.values())
    ]
    entries += [
        ModelEntry("far", Path("/models/far"), 1, 1e30, "finished", {}, {}),
        ModelEntry("old", Path("/models/old"), 1, 1e9, "finished", {}, {}),
    ]
    drawn = shown(models_table(entries[::-1], {}, None, now=now), 80).splitlines()
    assert [line.split()[0] for line in drawn[1:8]] == ["far", "m0", "m1", "m2", "m3", "m4", "old"]
    assert [line.rstrip().endswith(said) for line, said in zip(drawn[2:7], ages, strict=True)] == [True] * 5
    assert "9999-" in drawn[1]
    assert "2001-09-0" in drawn[7]
    assert drawn[8].rstrip() == "in /models: far, old"
    document = models_document(entries, {}, None)
    assert [entry["name"] for entry in document][1:3] == ["m0", "m1"]
    assert document[1]["modified"] == "2027-01-15T07:59:55+00:00"


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ({}, "1024 tokens"),
        ({"window": 6}, "1024 tokens, a window of 6"),
        ({"window": 6, "window_from": 12}, "1024 tokens"),
        ({"window": 6, "window_from": 3}, "1024 tokens, a window of 6 in layers 3 to 11"),
        ({"window": 6, "window_from": 11}, "1024 tokens, a window of 6 in layer 11"),
    ],
)
def test_the_layers_with_a_window_are_named(switch, said):
    config = replace(PRESETS["llama2-7b"][1], layers=12, context=1024, **switch)
    drawn = shown(info_screen("m", config, {}, None), 80)
    assert re.search(rf"^context +{said} *$", drawn, re.MULTILINE)


def test_the_type_of_the_cache_in_c_is_always_shown():
    config = PRESETS["gpt2"][1]
    memory = info_document("m", config, {}, None)["memory_bytes"]
    assert memory["bfloat16"]["cache_per_token_in_c"] == memory["float32"]["cache_per_token"]
    assert memory["bfloat16"]["cache_per_token"] * 2 == memory["float32"]["cache_per_token"]
    assert "keeps its cache in float32" in " ".join(shown(info_screen("m", config, {}, None), 80).split())


@pytest.mark.parametrize("name", ["stories", LONG_NAME])
def test_the_list_of_models_truncates_names_but_not_numbers(name):
    drawn = shown(models_table([replace(ENTRIES[0], name=name)], {name: 935_296}, name), 80)
    for figure in ("935k", "12.3 MB", "1.234"):
        assert figure in drawn
