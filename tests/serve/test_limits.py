"""Every limit has its own answer: body, JSON, fields, length of a text, rate, queue, time."""

import json
import threading

import pytest

from attncli.serve.limits import Limits, Rate
from attncli.serve.models import CHARACTERS_PER_TOKEN
from attncli.serve.refusal import Refusal
from tests.support.serving import Gate, served


def refused(answer, status):
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "hint"}
    assert error["message"].endswith(".")
    for text in error.values():
        assert "Traceback" not in text
        assert "/tmp" not in text
        assert "checkpoints" not in text
    return error


def test_a_body_has_a_greatest_size(in_model_folder):
    with served(in_model_folder, body=2000) as one:
        refused(one.post("/api/next", {"text": "a" * 2000}), 413)
        headers = {"Content-Type": "application/json", "Content-Length": "9" * 30}
        refused(one.client.post("/api/next", content=b"{}", headers=headers), 413)
        refused(one.client.post("/api/next", content=b"{}", headers=headers | {"Content-Length": "x"}), 400)
        parts = (b"a" * 100 for _ in range(100))
        refused(one.client.post("/api/next", content=parts, headers={"Content-Type": "application/json"}), 413)
        assert one.post("/api/next", {"text": "a"}).status_code == 200


BODIES = [
    b"", b"{", b"[]", b"1", b"null", b'"text"', b"{}", b'{"text": 5}', b'{"text": null}', b'{"text": ["a"]}',
    b'{"text": "a", "frobnicate": 1}', b'{"text": "a", "temperature": "1"}', b'{"text": "a", "temperature": NaN}',
    b'{"text": "a", "temperature": 1e999}', b'{"text": "a", "temperature": -1}', b'{"text": "a", "temperature": true}',
    b'{"text": "a", "top_k": 1.5}', b'{"text": "a", "top_k": -1}', b'{"text": "a", "top_p": 0}',
    b'{"text": "a", "min_p": 2}', b'{"text": "a", "seed": -1}', b'{"text": "a", "seed": 99999999999999999999}',
    b'{"text": "a", "count": 0}', b'{"text": "a", "count": 100000}', b'{"text": "a", "ids": "1"}',
    b'{"text": "a", "ids": [1.5]}', b'{"text": "a", "ids": [-1]}', b'{"text": "a", "ids": [100000]}',
    b'{"text": "\\ud800"}', b'{"text": "\xff"}', b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"text": ' * 50_000,
    b'{"text": "a", "client": "x"}', b'{"text": "a", "number": 1}', b'{"text": "a", "client": "", "number": 1}',
    b'{"text": "a", "client": "' + b"x" * 65 + b'", "number": 1}', b'{"text": "a", "target": "b"}',
    b'{"text": "a", "seed": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:40]))
def test_a_bad_request_is_refused_and_does_not_end_the_server(body, here):
    answer = here.client.post("/api/next", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 400)
    assert here.post("/api/next", {"text": "a"}).status_code == 200


def test_the_error_names_the_field(here):
    assert "temperature is -1" in refused(here.post("/api/next", {"text": "a", "temperature": -1}), 400)["message"]
    assert "top_kk" in refused(here.post("/api/next", {"text": "a", "top_kk": 1}), 400)["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is empty, and must be a JSON object."),
        (b" \n", "is empty, and must be a JSON object."),
        (b'{"text": "a"', "is not valid JSON: it ends too early at line 1, column 13."),
        (b'{"text": "a",\n "ids" [1]}', "is not valid JSON: it is wrong at line 2, column 8."),
        (b'{"text": "\xff"}', "is not valid JSON: byte 10 is not UTF-8."),
        (b'{"text": NaN}', "is not valid JSON: NaN is not a finite number."),
        (b'{"text": -1e999}', "is not valid JSON: -1e999 is not a finite number."),
        (b"[" * 100_000, "is not valid JSON: it is nested too deeply."),
        (b'{"text": ' + b"9" * 5000 + b"}", "has a number of too many digits."),
        (b'{"text": "a", "text": "b"}', "is not valid JSON: an object has the name 'text' twice."),
        (b'{"text": {"a": {"b": 1, "b": 1}}}', "is not valid JSON: an object has the name 'b' twice."),
    ],
)
def test_the_error_says_where_a_body_is_not_json(body, reason, here):
    answer = here.client.post("/api/next", content=body, headers={"Content-Type": "application/json"})
    assert refused(answer, 400)["message"] == f"The request {reason}"


@pytest.mark.parametrize(
    ("path", "field", "entry"), [("next", "ids", 1), ("cut", "edges", [1, 0]), ("cut", "heads", [0, 0])]
)
def test_a_list_with_too_many_entries_is_refused_before_an_entry_is_read(path, field, entry, here, monkeypatch):
    monkeypatch.setattr("attncli.serve.fields.record_from_json", None)
    error = refused(here.post(f"/api/{path}", {"text": "a", field: [entry] * 10_001}), 400)
    assert error["message"] == f"The request: {field} has 10,001 entries, and must have at most 10,000."


def test_a_text_is_at_most_as_long_as_the_context(here):
    context = here.service.models.get(None).loaded.model.config.context
    assert str(context) in refused(here.post("/api/next", {"text": "zq " * 2000}), 422)["message"]


def test_a_text_with_too_many_characters_is_not_tokenized(here, monkeypatch):
    monkeypatch.setattr(type(here.service.models.get(None).loaded), "pieces", None)
    context = here.service.models.get(None).loaded.model.config.context
    text = "a" * (CHARACTERS_PER_TOKEN * context + 1)
    for fields in ({"text": text}, {"text": "a", "pair": text}, {"text": "a", "target": text}):
        assert f"{len(text):,} characters" in refused(here.post("/api/page", fields), 422)["message"]


def test_an_unknown_model_is_refused_and_no_path_is_a_name(here):
    for name in ("x", "", ".", "..", "checkpoints/m", "./checkpoints/m", "/", "owner/name", "m/", "\x00"):
        refused(here.post("/api/next", {"text": "a", "model": name}), 404)
    assert here.post("/api/next", {"text": "a", "model": "m"}).status_code == 200


def test_a_damaged_model_is_refused_without_its_path(here, in_model_folder):
    models = in_model_folder / "own"
    (models / "broken").mkdir(parents=True)
    (models / "broken/config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ATTNCLI_MODELS", str(models))
        refused(here.post("/api/next", {"text": "a", "model": "broken"}), 422)


def test_the_rate_of_an_address_is_limited():
    now = [0.0]
    rate = Rate(10, 3, lambda: now[0])
    for _ in range(3):
        rate.take("a")
    with pytest.raises(Refusal) as refusal:
        rate.take("a")
    assert refusal.value.status == 429
    assert refusal.value.headers["Retry-After"] == "1"
    rate.take("b")
    now[0] = 0.1
    rate.take("a")
    with pytest.raises(Refusal):
        rate.take("a")
    now[0] = 100
    for _ in range(3):
        rate.take("a")
    with pytest.raises(Refusal):
        rate.take("a")


def test_the_rate_is_an_answer(in_model_folder):
    with served(in_model_folder, rate=0.001, burst=2) as one:
        assert [one.client.get("/").status_code for _ in range(3)] == [200, 200, 429]
        answer = one.client.get("/")
        refused(answer, 429)
        assert int(answer.headers["Retry-After"]) > 100


def test_many_addresses_take_little_memory():
    rate = Rate(10, 3, lambda: 0.0)
    for number in range(10_000):
        rate.take(str(number))
    assert len(rate._buckets) <= 4096


def in_background(call):
    """Runs a call in a thread; returns the list that its result is put in, and the thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return found, thread


def test_a_full_queue_is_refused_with_a_time_to_retry(in_model_folder, monkeypatch):
    with served(in_model_folder, waiting=0) as one:
        gate = Gate()
        monkeypatch.setattr("attncli.serve.routes.next._drawn", lambda *_: gate())
        first, thread = in_background(lambda: one.post("/api/next", {"text": "a"}))
        assert gate.begun.wait(60)
        answer = one.post("/api/next", {"text": "a"})
        refused(answer, 503)
        assert answer.headers["Retry-After"] == "1"
        gate.opened.set()
        thread.join()
        assert first[0].json() == "through the gate"


def test_a_request_takes_a_limited_time(in_model_folder, monkeypatch):
    with served(in_model_folder, seconds=0.05) as one:
        gate = Gate()
        with monkeypatch.context() as patched:
            patched.setattr("attncli.serve.routes.next._drawn", lambda *_: gate())
            answer = one.post("/api/next", {"text": "a"})
            refused(answer, 503)
            assert answer.headers["Retry-After"] == "1"
            gate.opened.set()
        assert json.loads(answer.text)["error"]["hint"] == "Give a shorter text."


def test_the_limits_are_sane():
    limits = Limits()
    assert limits.burst >= limits.rate
    assert limits.body >= 1024
