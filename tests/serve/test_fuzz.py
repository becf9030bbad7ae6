"""Bodies of every kind at every route that reads one: each is answered or refused, and the server goes on."""

import json
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncli.serve.openai.chat_fields import ChatFields
from attncli.serve.openai.completion_fields import CompletionFields
from attncli.serve.openai.fields import NEUTRAL
from attncli.serve.routes.attention import AttentionFields
from attncli.serve.routes.cut import CutFields
from attncli.serve.routes.next import NextFields
from attncli.serve.routes.page import PageFields
from tests.support.serving import served

JSON = {"Content-Type": "application/json"}
MESSAGES = [{"role": "user", "content": "the cat"}]
ROUTES = {
    "/v1/completions": (CompletionFields, {"prompt": "the cat", "max_tokens": 1}),
    "/v1/chat/completions": (ChatFields, {"messages": MESSAGES, "max_tokens": 1}),
    "/v1/attention": (AttentionFields, {"text": "the cat"}),
    "/api/next": (NextFields, {"text": "the cat"}),
    "/api/cut": (CutFields, {"text": "the cat", "kind": "row", "row": 1, "measured": 1}),
    "/api/page": (PageFields, {"text": "the cat"}),
}
ANSWERED = {200, 400, 404, 413, 422}
TEXT = st.text('am0 \x00é\ud800🎉<"\\', max_size=6)  # also half of a surrogate pair
ODD = st.sampled_from([10**30, -1, 1e308, 1e-308, "", "\x00", "0", "-1", "m", "..", "heads", "cross", "edge", {}, []])
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), TEXT, ODD)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


def bodies(kind, valid):
    """Returns JSON with some fields of a route changed, and the same with some bytes replaced."""
    names = st.sampled_from([*(one.name for one in fields(kind)), *NEUTRAL]) | TEXT
    changed = st.dictionaries(names, VALUES, max_size=3).map(lambda some: json.dumps(valid | some).encode())
    places = st.tuples(changed, st.integers(0, 60), st.integers(0, 4), st.binary(max_size=4))
    broken = places.map(lambda one: one[0][: one[1]] + one[3] + one[0][one[1] + one[2] :])
    return changed | broken | VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=8)


@pytest.mark.parametrize("path", ROUTES)
def test_no_body_ends_the_server(path, in_model_folder, capsys):
    kind, valid = ROUTES[path]
    with served(in_model_folder, new_tokens=3, samples=3, seconds=30) as one:

        @settings(max_examples=40, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(bodies(kind, valid))
        def answers(body):
            answer = one.client.post(path, content=body, headers=JSON)
            assert answer.status_code in ANSWERED, (body, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"]
                assert "checkpoints" not in answer.text

        answers()
        assert one.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    assert capsys.readouterr().err == ""
