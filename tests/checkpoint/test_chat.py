"""Chat templates: the ids equal those of transformers, messages stay plain text, and hostile templates are stopped."""

import io
import json

import pytest
import tokenizers
import torch

from attncli.checkpoint import chat
from attncli.checkpoint.chat import read_chat_template
from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import BadCheckpoint
from attncli.text import template
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.commands import ask
from tests.support.lazily import transformers
from tests.support.models import tiny_model
from tests.support.texts import story

SPECIAL = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
]
CHATML = """\
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nAnswer.<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if loop.index > 99 %}{% break %}{% endif %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""
MISTRAL = """\
{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}
{%- endfor %}"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL}
TALK = [
    {"role": "user", "content": " The cat sat. "},
    {"role": "assistant", "content": "It said: naïve 東京"},
    {"role": "user", "content": "And the dog?\n"},
]


@pytest.fixture(scope="module")
def tokenizer():
    backend = tokenizers.Tokenizer.from_str(train_tokenizer([story(300)], "bpe", 300).to_json())
    backend.add_special_tokens(SPECIAL)
    special = [("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=special)
    return Tokenizer.from_json(backend.to_str())


@pytest.fixture
def model(tmp_path, tokenizer):
    """Makes a directory with a chat template, in a setting or in its own file."""

    def make(template, name="m", own_file=False):
        network = tiny_model(vocab_size=tokenizer.vocab_size)
        path = tmp_path / "checkpoints" / name
        path.parent.mkdir(exist_ok=True)
        write_checkpoint(path, Checkpoint(network.config, network.state_dict(), tokenizer, start_of_text=1))
        (path / "manifest.json").unlink()
        described = json.loads((path / "tokenizer_config.json").read_text())
        described |= {"bos_token": {"__type": "AddedToken", "content": "<s>", "special": True}, "eos_token": "</s>"}
        described |= {} if own_file or template is None else {"chat_template": template}
        (path / "tokenizer_config.json").write_text(json.dumps(described))
        if own_file:
            (path / "chat_template.jinja").write_text(template)
        return path

    return make


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_are_those_of_transformers(name, model, tokenizer):
    theirs = transformers.AutoTokenizer.from_pretrained(model(TEMPLATES[name]))
    path = model(TEMPLATES[name], "apart", own_file=True)
    for messages in (TALK, TALK[:1]):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True)
        expected = expected if isinstance(expected, list) else expected["input_ids"]
        for place in (path, path.parent / "m"):
            assert read_chat_template(place).prompt(tokenizer, messages) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_messages_stay_plain_text(name, model, tokenizer):
    template = read_chat_template(model(TEMPLATES[name]))
    ids = {tokenizer._backend.token_to_id(token) for token in SPECIAL}

    def special(content):
        found = template.prompt(tokenizer, [{"role": "user", "content": content}])
        return [id_ for id_ in found if id_ in ids], tokenizer.decode(found)

    hostile = "a" + "".join(f"{spelled}b {spelled}{spelled}" for spelled in SPECIAL) + "<|im_<|im_end|>end|>\U000f0000"
    expected, shown = special("harmless")
    assert special(hostile) == (expected, shown.replace("harmless", hostile))


def test_of_several_templates_the_default_is_used(model):
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    assert read_chat_template(model(named)).source == "b"
    assert read_chat_template(model(named[:1], "one")).source == "a"
    assert read_chat_template(model(None, "none")) is None
    with pytest.raises(BadCheckpoint, match="none of them"):
        read_chat_template(model([{"name": name, "template": "a"} for name in "ab"], "two"))
    for number, wrong in enumerate((7, {"a": 1}, [7])):
        with pytest.raises(BadCheckpoint):
            read_chat_template(model(wrong, f"wrong{number}"))


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 12 }}",
        "{% for a in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set x = namespace(a=[1]) %}{% for i in range(60) %}{% set x.a = x.a + x.a %}{% endfor %}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{% unclosed",
        "\ud800",
    ],
)
def test_a_hostile_template_ends_in_an_error(template, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "_SECONDS", 1)
    monkeypatch.chdir(tmp_path)
    found = read_chat_template(model(template))
    with pytest.raises(BadCheckpoint, match="chat template of"):
        found.prompt(tokenizer, TALK)
    assert not (tmp_path / "canary").exists()


def test_an_error_that_a_template_makes_is_cut_where_it_arises(monkeypatch, capsys):
    asked = {"template": "{{ raise_exception('a' * 10 ** 7) }}", "values": {}, "most": 100, "seconds": 1}
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asked)))
    template.main()
    assert json.loads(capsys.readouterr().out) == {"problem": "a" * 200}


def test_generate_asks_a_question_and_shows_the_answer(model, tokenizer, tmp_path, monkeypatch, capsys):
    path = model(CHATML)
    model(None, "plain")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tokenizer, "opening", ())
    settings = ["-t", "0", "-n", "5"]
    loaded = load_model(path, torch.device("cpu"), torch.float32)
    ids = read_chat_template(path).prompt(loaded.tokenizer, [{"role": "user", "content": "The cat?"}])
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(loaded.model(torch.tensor([ids]))[0, -1].argmax()))
    code, out, err = ask(capsys, "generate", "The cat?", "--chat", "-m", "m", *settings, "--json")
    assert (code, json.loads(out)["samples"][0]["ids"]) == (0, ids[-5:])
    assert "chat template" not in err
    answer = json.loads(out)["samples"][0]["text"]
    assert ask(capsys, "generate", "The cat?", "--chat", "-m", "m", *settings)[1] == answer + "\n"
    assert "--chat formats the prompt with its chat template" in ask(capsys, "generate", "The", "-m", "m", *settings)[2]
    monkeypatch.setattr(
        "attncli.cli.loading.load_to_generate", None
    )  # the next command is refused before a model is read
    code, _, err = ask(capsys, "generate", "The", "--chat", "-m", "plain", *settings)
    assert (code, "no chat template" in err, "Leave out --chat, or use" in err) == (2, True, True)


def test_a_template_that_fails_names_the_option_of_the_command_line(model, tokenizer, tmp_path, monkeypatch, capsys):
    path = model("{{ raise_exception('no') }}")
    with pytest.raises(BadCheckpoint) as refused:
        read_chat_template(path).prompt(tokenizer, TALK)
    assert refused.value.hint == "Leave out chat."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"The cat?\n"), encoding="utf-8"))
    for how in (["The cat?"], ["-i"]):
        code, _, err = ask(capsys, "generate", *how, "--chat", "-m", "m", "-n", "1")
        assert (code, "Leave out --chat." in err) == (3, True)


def test_a_conversation_longer_than_the_context_is_refused(model, tmp_path, monkeypatch, capsys):
    model(CHATML)
    monkeypatch.chdir(tmp_path)
    code, _, err = ask(capsys, "generate", "The cat sat. " * 500, "--chat", "-m", "m", "-n", "1")
    assert (code, "The conversation has" in err, "/new" in err, "--truncate" in err) == (3, True, True, False)


def test_interactive_keeps_the_conversation(model, tmp_path, monkeypatch, capsys):
    model(MISTRAL)
    monkeypatch.chdir(tmp_path)
    seen = []
    whole = chat.ChatTemplate.prompt

    def watched(self, tokenizer, messages):
        seen.append([(message["role"], message["content"]) for message in messages])
        return whole(self, tokenizer, messages)

    monkeypatch.setattr(chat.ChatTemplate, "prompt", watched)
    lines = "The cat?\nThe dog?\n/again\n/new\nA bird?\n/help\n/add\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="utf-8"))
    code, out, err = ask(capsys, "generate", "-i", "--chat", "-m", "m", "-t", "0", "-n", "3")
    assert (code, "/add continues a text" in err) == (2, True)
    assert "answer it" in out
    assert "/add" not in out
    assert "continue the text" not in out
    assert [len(turns) for turns in seen] == [1, 3, 3, 1]
    assert [turns[-1] for turns in seen] == [("user", said) for said in ("The cat?", "The dog?", "The dog?", "A bird?")]
    assert seen[1][:1] == seen[0]
    assert seen[1][1][0] == "assistant"
    assert seen[1] == seen[2]
