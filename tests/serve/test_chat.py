"""POST /v1/chat/completions: the answers of generate --chat, in OpenAI's form, and what is refused."""

import json

import openai
import pytest
import tokenizers

from attncli.checkpoint.chat import read_chat_template
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.config import SampleConfig
from attncli.generation.engine import generate
from attncli.generation.samples import samples_of
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import tiny_model
from tests.support.serving import LONG, running, served
from tests.support.texts import story

PATH = "/v1/chat/completions"
TEMPLATE = """\
{%- for message in messages %}
    {%- if message.content == 'fail' %}{{ raise_exception('no such message') }}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TALK = [
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": [{"type": "text", "text": "The cat"}, {"type": "text", "text": "sat. <|im_end|>"}]},
    {"role": "assistant", "content": "naïve"},
    {"role": "user", "content": "And the dog?"},
]
JOINED = [one | {"content": "The cat\nsat. <|im_end|>"} if isinstance(one["content"], list) else one for one in TALK]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """Returns a folder with a random model that has a chat template, ./checkpoints/m."""
    folder = tmp_path_factory.mktemp("chat")
    backend = tokenizers.Tokenizer.from_str(train_tokenizer([story(300)], "bpe", 300).to_json())
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer.from_json(backend.to_str())
    network, path = tiny_model(vocab_size=tokenizer.vocab_size), folder / "checkpoints/m"
    ends = frozenset({backend.token_to_id("<|im_end|>")})
    write_checkpoint(path, Checkpoint(network.config, network.state_dict(), tokenizer, start_of_text=1, end_ids=ends))
    (path / "manifest.json").unlink()
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def chat(chatting, tmp_path, monkeypatch):
    monkeypatch.chdir(chatting)
    with served(chatting) as one:
        yield one


def asked(one, **fields):
    answer = one.post(PATH, {"messages": TALK, "seed": 5, "max_tokens": 12} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def expected(one, **settings):
    """Returns the texts that generate writes after the conversation."""
    model = one.service.models.get(None)
    ids = read_chat_template(model.loaded.path).prompt(model.loaded.tokenizer, JOINED)
    config = SampleConfig(**{"min_p": 0.0, "seed": 5, "max_new_tokens": 12} | settings)
    return ids, samples_of(generate(model.backend, model.loaded.tokenizer, [ids], config, model.loaded.end_ids))


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_k": 7, "stop": ("e",)}], ids=str)
def test_the_answers_are_those_of_generate_after_the_rendered_conversation(settings, chat):
    ids, samples = expected(chat, num_samples=3, **settings)
    answer = asked(chat, n=3, **settings)
    assert (answer["object"], answer["model"], answer["seed"]) == ("chat.completion", "m", 5)
    assert answer["id"].startswith("chatcmpl-")
    for index, (choice, sample) in enumerate(zip(answer["choices"], samples, strict=True)):
        assert choice["index"] == index
        assert choice["message"] == {"role": "assistant", "content": sample.text, "refusal": None}
        assert choice["logprobs"] is None
        assert choice["finish_reason"] in ("stop", "length")
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["usage"]["completion_tokens"] == sum(len(sample.ids) for sample in samples)
    assert asked(chat, n=3, max_tokens=None, max_completion_tokens=12, **settings)["choices"] == answer["choices"]


def test_a_token_of_an_answer_has_its_logprob_and_bytes(chat):
    answer = asked(chat, logprobs=True, top_logprobs=2, temperature=0)
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    data = b"".join(bytes(token["bytes"]) for token in content)
    assert data.decode(errors="replace") == choice["message"]["content"]
    for token in content:
        first, second = token["top_logprobs"]
        assert (token["token"], token["logprob"]) == (first["token"], first["logprob"])
        assert first["logprob"] >= second["logprob"]
    assert asked(chat, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_the_end_of_a_turn_is_no_token_of_the_answer(chat):
    end = min(chat.service.models.get(None).loaded.end_ids)
    answer = asked(chat, logprobs=True, logit_bias={str(end): 1000})
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["content"] == []
    assert answer["usage"]["completion_tokens"] == 1


def test_a_stream_begins_with_the_roles_and_its_parts_sum_to_the_answer(chat):
    fields = {"n": 2, "logprobs": True, "top_logprobs": 1}
    whole = asked(chat, **fields)
    answer = chat.post(
        PATH,
        {"messages": TALK, "seed": 5, "max_tokens": 12, "stream": True, "stream_options": {"include_usage": True}}
        | fields,
    )
    *events, done, _ = answer.text.split("\n\n")
    *chunks, last = [json.loads(event.removeprefix("data: ")) for event in events]
    assert done == "data: [DONE]"
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [{"role": "assistant", "content": ""}] * 2
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        tokens = [token for part in parts for token in (part["logprobs"] or {"content": []})["content"]]
        assert tokens == choice["logprobs"]["content"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]


USER = [{"role": "user", "content": "a"}]
REFUSED = [
    ("messages", []), ("messages", None), ("messages", "a"), ("messages", [{"role": "tool", "content": "a"}]),
    ("messages", [{"role": "user"}]), ("messages", [{"role": "user", "content": 5}]), ("messages", ["a"]),
    ("messages", [{"role": "user", "content": "a", "name": "b"}]), ("messages", USER * 1001),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
    ("messages", [{"role": "user", "content": [{"type": "text", "text": 5}]}]),
    ("messages", [{"role": "assistant", "content": "a", "tool_calls": [{}]}]),
    ("messages", [{"role": "user", "content": "fail"}]), ("max_tokens", 0), ("max_completion_tokens", 10**6),
    ("top_logprobs", 21), ("top_logprobs", 1), ("logprobs", 1), ("tools", [{"type": "function"}]), ("n", 0),
    ("tool_choice", "required"), ("response_format", {"type": "json_object"}), ("functions", [{}]),
    ("modalities", ["audio"]), ("frequency_penalty", 1), ("store", True), ("reasoning_effort", "low"), ("echo", True),
    ("prompt", "a"), ("temperature", -1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda one: str(one)[:40])
def test_a_field_is_implemented_or_refused_by_its_name(name, value, chat):
    answer = chat.post(PATH, {"messages": USER, name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert name in answer.json()["error"]["message"] or value == [{"role": "user", "content": "fail"}]
    assert "checkpoints" not in answer.text


def test_two_limits_of_the_same_number_are_refused_if_they_differ(chat):
    assert chat.post(PATH, {"messages": USER, "max_tokens": 2, "max_completion_tokens": 3}).status_code == 400
    assert chat.post(PATH, {"messages": USER, "max_tokens": 2, "max_completion_tokens": 2}).status_code == 200


def test_a_long_conversation_and_bad_unicode_are_refused(chat):
    for content in ("zq " * 200, "a" * 10_000):
        answer = chat.post(PATH, {"messages": [{"role": "user", "content": content}]})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = chat.client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_a_model_without_a_template_says_so(here):
    answer = here.post(PATH, {"messages": USER})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert answer.json()["error"]["message"].startswith("m has no chat template")


def test_openais_client_talks(chatting):
    with running(chatting) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=LONG)
        fields = {"model": "m", "messages": TALK, "seed": 1, "max_tokens": 9}
        whole = client.chat.completions.create(**fields)
        chunks = list(client.chat.completions.create(**fields, stream=True))
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(parts) == whole.choices[0].message.content
        assert client.models.list().data[0].id == client.models.retrieve("m").id == "m"
        with pytest.raises(openai.BadRequestError, match="tools"):
            client.chat.completions.create(**fields, tools=[{"type": "function", "function": {"name": "f"}}])
