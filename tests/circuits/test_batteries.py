"""The batteries: files of pairs that align in the model of stories, and induction prompts drawn from a seed."""

import json

import pytest
import torch

from attncli.checkpoint.load import load_model
from attncli.circuits.batteries import battery, pairs_of_lines, prepared_texts
from attncli.circuits.defaults import TASKS
from attncli.circuits.network import Network
from attncli.circuits.tasks import score_task
from attncli.errors import BadInput
from attncli.render.circuit_tasks import tasks_document, tasks_screen
from tests.support.places import ROOT
from tests.support.screens import shown, widest


@pytest.fixture(scope="module")
def stories():
    loaded = load_model(ROOT / "checkpoints" / "stories", torch.device("cpu"), torch.float32)
    return loaded, Network(loaded.model.requires_grad_(False))


@pytest.mark.parametrize("task", [task for task in TASKS if task != "induction"])
def test_every_pair_of_a_file_aligns_in_the_model_that_ships(task, stories):
    found = battery(*stories, task, 99, 0)
    assert found.left_out == {"closing": 6}.get(task, 0)  # this vocabulary has no token for a space and a bracket
    assert len(found.pairs) >= 8
    for each in found.pairs:
        assert each.pair.changed
        assert each.ends.target.id != each.ends.against.id


def test_induction_prompts_differ_in_two_exchanged_words_and_repeat_the_beginning(stories):
    for each in battery(*stories, "induction", 3, 5).pairs:
        clean, corrupt = ([piece.id for piece in side] for side in (each.pair.clean, each.pair.corrupt))
        assert each.pair.changed == [5, 7]
        assert (clean[5], clean[7]) == (corrupt[7], corrupt[5])
        assert clean[9:] == corrupt[9:] == clean[1:6]
        assert (each.ends.target.id, each.ends.against.id) == (clean[6], clean[8])
    ids = [
        [[piece.id for piece in one.pair.clean] for one in battery(*stories, "induction", 2, s).pairs]
        for s in (5, 5, 6)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_lines_that_are_no_pairs_are_refused_with_their_number(stories):
    good = json.dumps({"clean": "a", "corrupt": "b"})
    unknown = json.dumps({"clean": "a", "corrupt": "b", "traget": "c"})
    for bad in ("{", "[]", '{"clean": "a"}', '{"clean": "a", "corrupt": 3}', unknown, "[" * 99_999):
        with pytest.raises(BadInput, match="Line 2 of x"):
            pairs_of_lines([good, bad], "x")
    with pytest.raises(BadInput, match="contains no pairs"):
        pairs_of_lines([" "], "x")
    lines = pairs_of_lines([good, json.dumps({"clean": "a", "corrupt": "b c d"})], "x")
    with pytest.raises(BadInput):
        prepared_texts(*stories, lines[1:], "logit-difference")


def test_a_task_is_scored_and_drawn_at_every_width(stories):
    score = score_task(*stories, "agreement", count=1, wanted=0.5, seed=0)
    assert score.pairs == 2
    assert 0 <= score.accuracy <= 1
    assert score.size is None or 0 < score.size < score.edges
    for width in (40, 60, 80, 120, 200):
        drawn = shown(
            tasks_screen({"agreement": score, "closing": None}, "m", (6, 4), width, wanted=0.5, seed=0), width
        )
        assert widest(drawn) <= width
    assert tasks_document({"agreement": score}, "m", 0.5, 0)["tasks"][0]["task"] == "agreement"
