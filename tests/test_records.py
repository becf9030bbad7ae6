"""Records from JSON: valid JSON gives the same record, and an error names the invalid field."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from attncli.config import CorpusConfig, ModelConfig, RopeScaling
from attncli.errors import BadCheckpoint
from attncli.evaluation.score import Score
from attncli.records import record_from_json
from attncli.training.reports import Plan, RunState, plan_document, plan_from_document
from tests.support.models import FAMILIES, tiny_config
from tests.support.training import PLAN

STATE = RunState(
    step=4, seconds=1.5, schedule=((0, 9), (3, 8)), best_step=2, best=Score(3.0, 2, 7.0, 8.0), train_loss=None
)


def document(record):
    return json.loads(json.dumps(asdict(record)))


@pytest.mark.parametrize(
    "record",
    [
        PLAN,
        replace(PLAN, most_steps=7, closing_windows=3, seconds=None, reasons={}),
        STATE,
        CorpusConfig(most_characters=8),
        *(tiny_config(**switches) for switches in FAMILIES.values()),
        tiny_config(rope_scaling=RopeScaling(kind="linear", factor=2.0)),
    ],
)
def test_a_record_is_read_back_unchanged(record):
    assert record_from_json(type(record), document(record), "x") == record


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Plan, {"schedule": {"peak": 1.0, "warmup": 1}}, "x: schedule lacks marks"),
        (Plan, {"schedule": {"peak": 1.0, "warmup": 1, "marks": []}}, "x: schedule: marks of the schedule is"),
        (Plan, {"schedule": {"peak": 0, "warmup": 1, "marks": [[0, 1]]}}, "x: schedule: peak is 0.0"),
        (Plan, {"schedule": {"peak": 1, "warmup": 0, "marks": [[0, 1]]}}, "x: schedule: warmup is 0"),
        (Plan, {"model": {}}, "x: model lacks"),
        (Plan, {"model": None}, "x: model is None, and must be an object"),
        (Plan, {"batch_size": "8"}, "x: batch_size is '8', and must be a whole number"),
        (Plan, {"batch_size": 8.0}, "x: batch_size is 8.0"),
        (Plan, {"batch_size": True}, "x: batch_size is True"),
        (Plan, {"batch_size": 1 << 63}, "x: batch_size is 9223372036854775808, and must be an integer of 64 bits"),
        (Plan, {"batch_size": 10**4000}, "x: batch_size is an integer of over 40 digits"),
        (Plan, {"eval_every": 0}, "eval_every is 0, and must be at least 1"),
        (Plan, {"train_bytes": 0}, "train_bytes is 0"),
        (Plan, {"context": 4096}, "context is 4096, and must be at most 1024"),
        (Plan, {"grad_accum": 9}, "grad_accum is 9, and must be at most 8"),
        (Plan, {"dropout": 1}, "dropout is 1.0"),
        (Plan, {"dtype": "float8"}, "dtype is 'float8'"),
        (Plan, {"optimizer": "sgd"}, "x: optimizer is 'sgd', and must be 'muon' or 'adamw'"),
        (Plan, {"optimizer": ["muon"]}, "x: optimizer is"),
        (Plan, {"seconds": 10**400}, "x: seconds is an integer of over 40 digits"),
        (Plan, {"seconds": float("nan")}, "x: seconds is nan, and must be a finite number"),
        (Plan, {"compiled": 1}, "x: compiled is 1, and must be true or false"),
        (Plan, {"reasons": {"lr": 1}}, "x: reasons: 'lr' is 1, and must be text"),
        (Plan, {"evil": 1}, "x holds 'evil', which is no known field"),
        (RunState, {"step": 9}, "step is 9, and must be from 0 to 8"),
        (RunState, {"step": 4, "best_step": 5}, "best_step is 5"),
        (RunState, {"schedule": [[0, 9, 1]]}, "x: schedule, number 1 is .*, and must be a list of 2"),
        (RunState, {"schedule": [[1, 9]]}, "ascending steps from 0"),
        (RunState, {"schedule": [[0, 9], [5, 3]]}, "ascending steps from 0"),
        (RunState, {"schedule": {}}, "x: schedule is {}, and must be a list"),
        (RunState, {"best": {"nats": 1.0, "scored": 0, "characters": 1, "bytes": 1}}, "best is"),
        (RunState, {"best": {"nats": 1.0}}, "x: best lacks scored"),
        (CorpusConfig, {"tokenizer": "words"}, "x: tokenizer is 'words'"),
        (CorpusConfig, {"encoding": "a\0b"}, "encoding .* is not an encoding"),
        (CorpusConfig, {"val_fraction": 0}, "val_fraction is 0.0"),
    ],
)
def test_an_invalid_field_is_named(kind, changes, message):
    fitting = {Plan: PLAN, RunState: STATE, CorpusConfig: CorpusConfig()}[kind]
    with pytest.raises(BadCheckpoint, match=message):
        record_from_json(kind, document(fitting) | changes, "x")


@pytest.mark.parametrize("value", [None, [], 1, "x", True])
def test_a_value_that_is_not_an_object_is_refused(value):
    with pytest.raises(BadCheckpoint, match=r"x is .*, and must be an object"):
        record_from_json(ModelConfig, value, "x")


def test_unknown_keys_are_ignored_where_they_are_allowed():
    @dataclass(frozen=True)
    class Part:
        a: int
        b: Any = None

    assert record_from_json(Part, {"a": 1, "c": 2}, "x", extra=True) == Part(1)
    assert record_from_json(Part, {"a": 1, "b": [2]}, "x") == Part(1, [2])


EARLIER = {  # the values of activation, qkv_bias, attention_bias, feed_forward_bias and bias in records of versions
    # that had no switch for each group of matrices
    "qwen3": ("swiglu", False, False, False, False),
    "qwen2": ("swiglu", True, False, False, False),
    "llama-yarn": ("swiglu", False, True, False, False),
    "llama-bias": ("swiglu", False, False, False, True),
    "gpt2": ("gelu", False, False, False, True),
}


@pytest.mark.parametrize("name", EARLIER)
def test_a_plan_that_an_earlier_version_saved_is_read(name):
    plan = replace(PLAN, model=tiny_config(**FAMILIES[name]), context=96)
    saved = document(plan)
    for switch in ("activation", "qkv_bias", "feed_forward_bias", "output_bias", "norm_bias", "gated"):
        del saved["model"][switch]
    names = ("activation", "qkv_bias", "attention_bias", "feed_forward_bias", "bias")
    saved["model"] |= dict(zip(names, EARLIER[name], strict=True))
    assert plan_from_document(saved) == plan


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_is_read_back_and_has_the_keys_of_earlier_versions(name):
    plan = replace(PLAN, model=tiny_config(**FAMILIES[name]), context=96)
    saved = json.loads(json.dumps(plan_document(plan)))
    assert plan_from_document(saved) == plan
    assert {"activation", "qkv_bias", "attention_bias", "feed_forward_bias", "bias"} <= saved["model"].keys()
    if name in EARLIER:
        activation, *_, bias = EARLIER[name]
        assert (saved["model"]["activation"], saved["model"]["bias"]) == (activation, bias)


def test_the_plan_of_the_shipped_model_is_read():
    run = json.loads((Path(__file__).parent.parent / "checkpoints/stories/run.json").read_text())
    assert plan_from_document(run["plan"]).model == ModelConfig(
        vocab_size=3072, layers=6, width=256, heads=4, kv_heads=4, head_width=64, feed_forward_width=704, context=1024
    )


@pytest.mark.parametrize("change", [{"activation": "tanh"}, {"activation": []}, {"bias": "yes"}, {"gelu": True}])
def test_an_invalid_model_shape_is_refused(change):
    saved = document(PLAN)
    saved["model"] |= change
    if "bias" in change:
        del saved["model"]["output_bias"]
    with pytest.raises(BadCheckpoint, match="plan: model"):
        plan_from_document(saved)
