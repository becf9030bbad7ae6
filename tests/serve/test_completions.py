"""POST /v1/completions: the texts of attncli generate, the log-probabilities of attncli eval, and what is refused."""

import json
import math
import socket
import threading

import openai
import pytest

from attncli.library import load as load_model
from attncli.serve.limits import Limits
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import write_random_model, write_random_translator
from tests.support.encoders import write_bert
from tests.support.serving import LONG, running, served
from tests.support.translation import artificial_tokenizer

PATH = "/v1/completions"
GREEDY = {"min_p": 0.0}  # the filters of generate that this route does not begin with


def asked(one, **fields):
    answer = one.post(PATH, {"seed": 5, "max_tokens": 12} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(one, **fields):
    """Returns the documents of a stream."""
    answer = one.post(PATH, {"seed": 5, "max_tokens": 12, "stream": True} | fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def choices_of(documents):
    """Returns the choices of a stream, each as one choice of a whole answer."""
    whole = {}
    for choice in (choice for document in documents for choice in document["choices"]):
        kept = whole.setdefault(choice["index"], choice | {"text": "", "logprobs": None})
        kept["text"] += choice["text"]
        kept["finish_reason"] = choice["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            kept["logprobs"] = kept["logprobs"] or {}
            kept["logprobs"].setdefault(name, []).extend(values)
    return [whole[index] for index in sorted(whole)]


SETTINGS = [
    {}, {"temperature": 0.0}, {"temperature": 1.4, "top_k": 9, "top_p": 0.8, "min_p": 0.1},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5}, {"stop": [" "]}, {"logit_bias": {"30": 4.0, "31": -100}},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_samples_of_every_prompt_are_those_of_generate_with_the_same_seed(settings, here):
    model = load_model("m")
    bias = {"logit_bias": {int(id_): bias for id_, bias in settings.get("logit_bias", {}).items()}}
    own = GREEDY | settings | (bias if "logit_bias" in settings else {})
    prompts = ["Once upon a time", "the cat"]
    expected = [s for p in prompts for s in model.generate_all(p, seed=5, num_samples=2, max_new_tokens=12, **own)]
    answer = asked(here, prompt=prompts, n=2, **settings)
    assert [choice["text"] for choice in answer["choices"]] == [sample.text for sample in expected]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert choices_of(streamed(here, prompt=prompts, n=2, **settings)) == answer["choices"]
    generated = sum(len(sample.ids) for sample in expected)
    prompt_tokens = sum(len(here.service.models.get(None).loaded.prompt(prompt)) for prompt in prompts)
    assert answer["usage"] == {
        "prompt_tokens": prompt_tokens, "completion_tokens": generated, "total_tokens": prompt_tokens + generated,
    }  # fmt: skip


def test_a_prompt_is_a_text_or_ids_or_a_list_of_them(here):
    texts = ["Once upon", "the cat sat"]
    ids = [here.service.models.get(None).loaded.prompt(text) for text in texts]
    assert asked(here, prompt=texts[0])["choices"] == asked(here, prompt=ids[0])["choices"]
    assert asked(here, prompt=texts)["choices"] == asked(here, prompt=ids)["choices"]
    assert asked(here, prompt="")["choices"] == asked(here)["choices"] == asked(here, prompt=None)["choices"]


def test_the_answer_has_openais_form_and_the_seed(here):
    answer = asked(here, prompt="Once", model="m")
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"], answer["seed"]) == ("text_completion", "m", 5)
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert (choice["logprobs"], choice["finish_reason"]) == (None, "length")
    seeds = {asked(here, prompt="Once", seed=None, max_tokens=1)["seed"] for _ in range(5)}
    assert len(seeds) > 1


def test_null_means_the_default_and_so_does_a_neutral_value(here):
    plain = asked(here, prompt="Once")["choices"]
    names = ("temperature", "top_p", "n", "stop", "stream", "logprobs", "echo", "best_of", "suffix", "user", "made_up")
    assert asked(here, prompt="Once", **dict.fromkeys(names))["choices"] == plain
    neutral = {"best_of": 1, "frequency_penalty": 0, "suffix": "", "user": "", "store": False, "metadata": {}}
    assert asked(here, prompt="Once", **neutral, stop=[], logit_bias={})["choices"] == plain


# Log-probabilities


def test_the_logprobs_of_an_echo_sum_to_the_score_of_eval(here):
    text = "Once upon a time the little cat sat."
    score = load_model("m").score(text)
    for fields in ({"max_tokens": 0}, {"max_tokens": 1}, {"max_tokens": 3, "stream": True}):
        answer = here.post(PATH, {"prompt": text, "echo": True, "logprobs": 1, "seed": 1} | fields)
        if fields.get("stream"):
            (choice,) = choices_of([json.loads(one[6:]) for one in answer.text.split("\n\n")[:-2]])
        else:
            (choice,) = answer.json()["choices"]
        found, generated = choice["logprobs"], fields["max_tokens"]
        own = found["token_logprobs"][: len(found["token_logprobs"]) - generated]
        assert own[0] is None
        assert found["top_logprobs"][0] is None
        assert -sum(own[1:]) == pytest.approx(score.nats, rel=1e-6)
        assert choice["text"].startswith(text)
        assert "".join(found["tokens"][: len(own)]) == text
        assert found["text_offset"][: len(own)] == [len("".join(found["tokens"][:at])) for at in range(len(own))]
        for logprob, top in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True):
            assert logprob in top.values()
            assert max(top.values()) >= logprob


def test_a_generated_token_has_the_logprob_that_it_has_in_an_echo(here):
    whole = asked(here, prompt="Once upon", logprobs=3, echo=True, temperature=0, max_tokens=6)["choices"][0]
    ids = here.service.models.get(None).loaded.prompt("Once upon")
    (sample,) = load_model("m").generate_all("Once upon", temperature=0, max_new_tokens=6)
    again = asked(here, prompt=[*ids, *sample.ids], logprobs=3, echo=True, max_tokens=0)["choices"][0]
    assert again["text"] == whole["text"]
    assert again["logprobs"]["tokens"] == whole["logprobs"]["tokens"]
    expected, found = (one["logprobs"]["token_logprobs"][1:] for one in (whole, again))
    assert found == pytest.approx(expected, abs=1e-4)
    tops = [max(top.values()) for top in again["logprobs"]["top_logprobs"][len(ids) :]]
    assert found[len(ids) - 1 :] == tops  # greedy: exactly the most probable, as lm-evaluation-harness compares it


def test_a_token_of_half_a_character_is_spelled_as_bytes(here, own):
    write_random_model(own / "bytes", byte_tokenizer())
    answer = asked(here, model="bytes", prompt="aé", echo=True, logprobs=0, max_tokens=0)
    found = answer["choices"][0]["logprobs"]
    assert found["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert found["text_offset"] == [0, 1, 1]
    assert [top and len(top) for top in found["top_logprobs"]] == [None, 1, 1]


def test_the_end_token_is_among_the_logprobs(here, own):
    """The harness that scores models reads the last log-probability as that of the only generated token."""
    write_random_model(own / "bytes", byte_tokenizer())
    end = min(here.service.models.get("bytes").loaded.end_ids)
    answer = asked(here, model="bytes", prompt="a", logit_bias={str(end): 1000}, logprobs=1, max_tokens=1)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"], answer["usage"]["completion_tokens"]) == ("", "stop", 1)
    assert choice["logprobs"]["tokens"] == ["<|endoftext|>"]


@pytest.mark.parametrize("settings", [{"logit_bias": {"30": -100, "31": -100}}, {"top_k": 1}, {"min_p": 1}], ids=str)
def test_filters_and_biases_leave_the_logprobs_finite(settings, here):
    answer = asked(here, prompt="Once", logprobs=20, echo=True, **settings)
    assert '"choices"' in json.dumps(answer, allow_nan=False)
    plain = asked(here, prompt="Once", logprobs=20, echo=True, max_tokens=1)
    prompt = len(here.service.models.get(None).loaded.prompt("Once"))
    found, expected = (one["choices"][0]["logprobs"]["top_logprobs"] for one in (answer, plain))
    assert found[1:prompt] == expected[1:prompt]


def test_a_model_whose_probabilities_are_no_numbers_is_refused(here):
    served = here.service.models.get(None)
    served.loaded.model.embedding.weight.data.fill_(math.nan)
    for fields in ({"echo": True, "max_tokens": 0}, {"max_tokens": 2}, {"max_tokens": 2, "stream": True}):
        answer = here.post(PATH, {"prompt": "Once upon", "logprobs": 2} | fields)
        text = answer.text.split("\n\n")[-2].removeprefix("data: ") if "stream" in fields else answer.text
        assert "not numbers" in json.loads(text)["error"]["message"]
        assert answer.status_code == (200 if "stream" in fields else 422)


# What is refused


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("ATTNCLI_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


REFUSED = [
    ("temperature", -1), ("temperature", "1"), ("top_p", 0), ("top_p", 2), ("top_k", 1.5), ("min_p", 2),
    ("typical_p", 0), ("repetition_penalty", 0), ("presence_penalty", 1e9), ("n", 0), ("n", 129), ("n", True),
    ("seed", -1), ("seed", 2**63), ("max_tokens", 0), ("max_tokens", 10**6), ("stop", [""]), ("stop", ["a"] * 17),
    ("stop", [1]), ("stop", "a" * 1001), ("logprobs", -1), ("logprobs", 21), ("logprobs", True), ("echo", 1),
    ("stream", "yes"), ("logit_bias", {"a": 1}), ("logit_bias", {"99999": 1}), ("logit_bias", {"-1": 1}),
    ("logit_bias", [[1, 2]]), ("logit_bias", {str(one): 1 for one in range(301)}), ("prompt", 5), ("prompt", []),
    ("prompt", [True]), ("prompt", ["a", 1]), ("prompt", [[1], "a"]), ("prompt", [99999]), ("prompt", [-1]),
    ("prompt", ["a"] * 257), ("stream_options", {"include_usage": True}), ("best_of", 2), ("best_of", True),
    ("suffix", "x"), ("frequency_penalty", 0.5), ("user", "me"), ("store", True), ("metadata", {"a": "b"}),
    ("tools", [{}]), ("made_up", 0), ("max_completion_tokens", 5), ("x" * 30, 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda one: str(one)[:30])
def test_a_field_is_implemented_or_refused_by_its_name(name, value, here):
    answer = here.post(PATH, {"prompt": "a", name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"], error["code"]) == (name, "invalid_request_error", None)
    assert name in error["message"]


def test_the_fields_of_a_stream_are_checked(here):
    for options in ({"x": True}, {"include_usage": 1}, {"include_obfuscation": True}):
        answer = here.post(PATH, {"prompt": "a", "stream": True, "stream_options": options})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream_options")
    documents = streamed(here, prompt="a", stream_options={"include_usage": False, "include_obfuscation": False})
    assert all(document["choices"] and "usage" not in document for document in documents)


def test_too_many_texts_and_too_long_prompts_are_refused(here):
    answer = here.post(PATH, {"prompt": ["a"] * 3, "n": 128})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    context = here.service.models.get(None).loaded.model.config.context
    for prompt in ("zq " * context, "a" * 10_000, [5] * (context + 1)):
        answer = here.post(PATH, {"prompt": prompt})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
        assert str(context) in error["message"]
    assert here.post(PATH, {"prompt": [[]]}).status_code == 400
    headers = {"Content-Type": "application/json"}
    for body in (
        b'{"\\ud800": 1}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": ["\\ud800"], "echo": true, "logprobs": 1}',
        b"[",
        b"[]",
        b"",
    ):
        assert here.client.post(PATH, content=body, headers=headers).status_code == 400


def test_errors_have_openais_form_at_these_addresses_alone(in_model_folder):
    with served(in_model_folder, token="a-secret-token") as one:
        answers = [
            one.post(PATH, {}), one.client.get("/v1/nothing", headers={"Host": "evil"}), one.client.put("/v1/models"),
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [401, 421, 405]
        assert answers[0].json()["error"]["code"] == "invalid_api_key"
        for answer in answers:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert set(one.post("/api/next", {}).json()["error"]) == {"message", "hint"}
        headers = {"Authorization": "Bearer a-secret-token"}
        assert one.client.get("/v1/nothing", headers=headers).json()["error"]["type"] == "invalid_request_error"
        answer = one.post(PATH, {"model": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert one.client.post(PATH, content=b"{}", headers=headers).status_code == 415


def test_an_encoder_continues_nothing_and_a_translator_translates(here, own):
    write_bert(own / "bert")
    assert here.post(PATH, {"prompt": "The [MASK] barked.", "model": "bert"}).status_code == 400
    write_random_translator(own / "t", artificial_tokenizer(), context=12)
    for settings in ({"seed": None}, {"temperature": 1.2, "seed": 3}):
        given = {name: value for name, value in settings.items() if value is not None}
        own_settings = GREEDY | given if given else {}
        (sample,) = load_model("t").generate_all("dog", max_new_tokens=50, **own_settings)
        answer = asked(here, prompt="dog", model="t", max_tokens=50, **settings)
        assert answer["choices"][0]["text"] == sample.text
    answer = here.post(PATH, {"prompt": "dog", "model": "t", "echo": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "echo")


# Streams


def test_a_stream_has_a_chunk_for_each_step_and_sample_and_ends_with_the_usage(here):
    fields = {"prompt": "Once upon", "n": 2, "logprobs": 1, "echo": True}
    documents = streamed(here, stream_options={"include_usage": True}, **fields)
    whole = asked(here, **fields)
    *chunks, last = documents
    assert choices_of(chunks) == whole["choices"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in documents}) == 1
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert all(chunk["choices"][0]["text"] or chunk["choices"][0]["finish_reason"] for chunk in chunks)
    assert max(len(chunk["choices"][0]["text"]) for chunk in chunks[2:]) < len(whole["choices"][0]["text"]) / 2


def test_an_echo_alone_can_be_streamed(here):
    (document,) = streamed(here, prompt="Once", echo=True, max_tokens=0)
    assert (document["choices"][0]["text"], document["choices"][0]["finish_reason"]) == ("Once", "length")


@pytest.mark.parametrize("problem", [MemoryError("no room"), ZeroDivisionError("a secret")])
def test_an_error_in_a_stream_is_an_event(problem, here, monkeypatch, capsys):
    backend = here.service.models.get(None).backend
    real, calls = backend.read, []

    def read(*given):
        calls.append(1)
        if len(calls) == 3:
            raise problem
        return real(*given)

    monkeypatch.setattr(backend, "read", read)
    answer = here.post(PATH, {"prompt": "Once", "stream": True, "seed": 5, "temperature": 0})
    assert answer.status_code == 200
    last = json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))
    assert set(last) == {"error"}
    assert last["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    monkeypatch.undo()
    assert ("ZeroDivisionError" in capsys.readouterr().err) == isinstance(problem, ZeroDivisionError)
    assert asked(here, prompt="Once")["choices"]


def request_of(body):
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_places(stream, in_model_folder):
    """Only one text runs at a time, and that of the first client would take minutes."""
    body = json.dumps({"prompt": "a", "max_tokens": 10_000, "stream": stream, "logit_bias": {"0": -100}}).encode()
    with running(in_model_folder, texts=1, new_tokens=10_000) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=LONG) as leaving:
            leaving.sendall(request_of(body))
            if stream:
                assert leaving.recv(15).startswith(b"HTTP/1.1 200")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=LONG)
        assert client.completions.create(model="m", prompt="a", max_tokens=3, seed=1).usage.completion_tokens == 3


def test_a_text_takes_a_limited_time(in_model_folder):
    with served(in_model_folder, text_seconds=0.01) as one:
        endless = {"prompt": "a", "max_tokens": 10_000, "temperature": 0, "logit_bias": {"0": -100}}
        answer = one.post(PATH, endless)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        answer = one.post(PATH, endless | {"stream": True})
        assert json.loads(answer.text.split("\n\n")[-2][6:])["error"]["code"] == "unavailable"
        assert one.post(PATH, {"prompt": "a", "max_tokens": 1, "echo": True}).status_code in (200, 503)


def test_many_requests_at_once_have_the_texts_that_they_have_alone(in_model_folder):
    """There are more requests than jobs that may wait, and more texts than may run at the same time."""
    with running(in_model_folder, texts=3, waiting=0) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=LONG)

        def ask(seed):
            return client.completions.create(model="m", prompt="the cat", seed=seed, max_tokens=9).choices[0].text

        found = {}
        threads = [threading.Thread(target=lambda at=at: found.update({at: ask(at)})) for at in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert found == {at: ask(at) for at in range(24)}


# OpenAI's client


def test_openais_client_reads_answers_streams_and_errors(in_model_folder):
    with running(in_model_folder, token="a-secret-token") as port:
        url = f"http://127.0.0.1:{port}/v1"
        client = openai.OpenAI(base_url=url, api_key="a-secret-token", max_retries=0, timeout=LONG)
        fields = {"model": "m", "prompt": "Once upon", "seed": 3, "max_tokens": 8, "logprobs": 2, "n": 2}
        whole = client.completions.create(**fields, extra_body={"top_k": 40})
        assert whole.model_extra["seed"] == 3
        assert whole.usage.completion_tokens == 16
        chunks = list(client.completions.create(**fields, extra_body={"top_k": 40}, stream=True))
        for index in (0, 1):
            parts = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
            assert "".join(part.text for part in parts) == whole.choices[index].text
            logprobs = [value for part in parts for value in part.logprobs.token_logprobs]
            assert logprobs == whole.choices[index].logprobs.token_logprobs
        with pytest.raises(openai.BadRequestError, match="does not implement best_of") as refused:
            client.completions.create(**fields, best_of=4)
        assert refused.value.param == "best_of"
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="x", prompt="a")
        stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="token"):
            stranger.completions.create(model="m", prompt="a")


def test_the_limits_fit_each_other():
    limits = Limits()
    assert limits.prompts <= limits.texts_waiting
    assert math.isfinite(limits.text_seconds)
