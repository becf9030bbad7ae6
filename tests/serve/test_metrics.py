"""GET /metrics, /health and /v1/models: what programs ask about the server."""

import json
import re

import pytest

from attncli.serve.metrics import Histogram, Metrics
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import write_random_model
from tests.support.encoders import write_bert
from tests.support.serving import served

SAMPLE = re.compile(r'(\w+)(?:\{((?:\w+="[^"\\]*",?)*)\})? (\S+)')


def parsed(text):
    """Returns the samples of Prometheus's text format, and checks that each follows the type of its metric."""
    assert text.endswith("\n")
    found, metric, kind = {}, "", ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, metric, kind = line.split()
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert name in {metric + end for end in ends}
            assert (name, labels or "") not in found
            found[name, labels or ""] = float(value)
    return found


def test_a_histogram_is_cumulative():
    histogram = Histogram((0.1, 1))
    for value in (0.05, 0.1, 0.5, 3):
        histogram.observe(value)
    assert list(histogram.lines("x", {"a": "b"})) == [
        'x_bucket{a="b",le="0.1"} 2', 'x_bucket{a="b",le="1"} 3', 'x_bucket{a="b",le="+Inf"} 4', 'x_sum{a="b"} 3.65',
        'x_count{a="b"} 4',
    ]  # fmt: skip


def test_a_text_of_one_token_has_no_time_per_token():
    metrics = Metrics()
    metrics.observe_text(1.0, 0)
    metrics.observe_text(1.0, 4)
    found = parsed(metrics.text(1, 2))
    assert (found["attncli_token_seconds_sum", ""], found["attncli_token_seconds_count", ""]) == (0.25, 1)
    assert (found["attncli_texts_running", ""], found["attncli_texts_waiting", ""]) == (1, 2)


def test_requests_tokens_and_times_are_counted(here):
    ids = here.service.models.get(None).loaded.prompt("the cat")
    for stream in (False, True):
        fields = {"prompt": "the cat", "n": 2, "max_tokens": 7, "seed": 1, "stream": stream}
        assert here.post("/v1/completions", fields).status_code == 200
    here.post("/v1/completions", {"n": 0})
    here.client.get("/api/runs/x")
    here.client.get("/no/such/address")
    answer = here.client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed(answer.text)
    requests = {labels: value for (name, labels), value in found.items() if name == "attncli_requests_total"}
    assert requests == {
        'route="/v1/completions",status="200"': 2, 'route="/v1/completions",status="400"': 1,
        'route="/api/runs/{name}",status="404"': 1, 'route="none",status="404"': 1,
    }  # fmt: skip
    assert found["attncli_prompt_tokens_total", ""] == 2 * len(ids)
    assert found["attncli_generated_tokens_total", ""] == 2 * 2 * 7
    assert found["attncli_first_token_seconds_count", ""] == found["attncli_token_seconds_count", ""] == 4
    assert found["attncli_texts_running", ""] == found["attncli_texts_waiting", ""] == 0
    assert found["attncli_request_seconds_count", 'route="/v1/completions"'] == 3
    assert here.client.get("/metrics").text.count('route="/metrics"') > 1


def test_health_needs_no_token_and_all_else_does(in_model_folder):
    with served(in_model_folder, token="a-secret-token") as one:
        answer = one.client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert [one.client.get(path).status_code for path in ("/metrics", "/v1/models", "/health/")] == [401] * 3
        assert one.client.get("/health", headers={"Host": "evil.example"}).status_code == 421
        one.service.thread.end()
        answer = one.client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "ending"})


def test_the_models_that_generate_are_listed(here, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_MODELS", str(tmp_path / "own"))
    write_random_model(tmp_path / "own/other", byte_tokenizer())
    write_bert(tmp_path / "own/bert")
    listed = here.client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [one["id"] for one in listed["data"]] == ["m", "other"]
    assert all((one["object"], one["owned_by"]) == ("model", "attncli") for one in listed["data"])
    assert all(one["created"] > 1e9 for one in listed["data"])
    assert here.client.get("/v1/models/other").json() == listed["data"][1]
    for name in ("x", "bert", "a/b"):
        answer = here.client.get(f"/v1/models/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/health"])
def test_the_answers_hold_no_path(path, here):
    assert "checkpoints" not in json.dumps(here.client.get(path).json())
