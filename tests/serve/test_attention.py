"""POST /v1/attention: the documents of attncli explain --json."""

import json

import pytest

from tests.support.checkpoints import write_random_translator
from tests.support.commands import ask
from tests.support.translation import artificial_tokenizer

PATH = "/v1/attention"
TEXT = "Once upon a time the cat"
CASES = [
    ({}, []),
    ({"token": "cat", "layer": 1, "weights": "raw"}, ["--token", "cat", "--layer", "1", "--weights", "raw"]),
    ({"view": "bars", "check": False, "words": True}, ["--view", "bars", "--no-check", "--words"]),
    ({"view": "steps", "head": "1.2", "token": "3"}, ["--view", "steps", "--head", "1.2", "--token", "3"]),
    ({"view": "lens"}, ["--view", "lens"]),
    ({"view": "logit", "target": "#30"}, ["--view", "logit", "--target", "#30"]),
    ({"view": "grid"}, ["--view", "grid"]),
    ({"view": "rollout", "generate": 3}, ["--view", "rollout", "--generate", "3"]),
]


@pytest.mark.parametrize(("fields", "options"), CASES, ids=lambda one: str(one)[:40])
def test_the_document_is_that_of_explain(fields, options, here, capsys):
    code, out, err = ask(capsys, "explain", TEXT, "-m", "m", "--json", *options)
    assert code == 0, err
    answer = here.post(PATH, {"text": TEXT} | fields)
    assert answer.status_code == 200, answer.text
    assert answer.json() == json.loads(out)


def test_a_translation_has_its_parts(here, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_MODELS", str(tmp_path / "own"))
    write_random_translator(tmp_path / "own/t", artificial_tokenizer())
    fields = {"text": "dog", "model": "t", "target": "Hund"}
    answers = [here.post(PATH, fields | {"view": "grid", "part": part}) for part in ("encoder", "decoder", "cross")]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.text for answer in answers}) == 3
    assert here.post(PATH, fields | {"generate": 2}).status_code == 400


REFUSED = [
    ({"view": "x"}, 400, "view"), ({"view": "lens", "layer": 1}, 400, "layer"), ({"head": "9.9"}, 400, "layer 9"),
    ({"token": "zebra"}, 400, "zebra"), ({"weights": "x"}, 400, "weights"), ({"csv": "/etc/x"}, 400, "csv"),
    ({"npz": "x"}, 400, "npz"), ({"layer": -1}, 400, "layer"), ({"generate": -1}, 400, "generate"),
    ({"text": "zq " * 500}, 400, "reads at most"), ({"text": ""}, 400, "no tokens"),
    ({"temperature": -1}, 400, "temperature"), ({"model": "x"}, 404, "model"), ({"part": "cross"}, 400, "part"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "word"), REFUSED, ids=lambda one: str(one)[:30])
def test_what_explain_refuses_is_refused(fields, status, word, here):
    answer = here.post(PATH, {"text": TEXT} | fields)
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]
