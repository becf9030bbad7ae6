"""Parity with transformers in reading and writing, on tiny random models of every family."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint.families import registry
from attncli.checkpoint.families.registry import config_from_json, config_to_json, family_of
from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli.main import run
from attncli.config import SampleConfig
from attncli.errors import BadCheckpoint
from attncli.explain.defaults import LEAST_TEXTS
from attncli.generation.engine import generate
from attncli.generation.events import Finished
from attncli.model.backend import TorchBackend
from attncli.model.native import NativeBackend, available
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.lazily import transformers
from tests.support.models import FAMILIES, Recorder, ids_of, tiny_config, tiny_model
from tests.support.texts import story

CPU = torch.device("cpu")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 500.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
TIED = {"tie_word_embeddings": True}
THEIRS = {
    "qwen3": ("Qwen3", {}),
    "qwen3-window": ("Qwen3", WINDOW | TIED),
    "qwen3-bias": ("Qwen3", {"attention_bias": True, "head_dim": 12}),
    "qwen3-yarn": ("Qwen3", {"rope_parameters": YARN}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", WINDOW | TIED),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": {**YARN, "beta_fast": 8, "beta_slow": 0.5, "truncate": False}}),
    "qwen2-apart": ("Qwen2", {"head_dim": 12, "num_key_value_heads": 1}),
    "llama": ("Llama", TIED),
    "llama-apart": ("Llama", {"head_dim": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
    "llama-bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "rope_theta": 500.0}),
    "llama-attention-bias": ("Llama", {"attention_bias": True}),
    "llama-mlp-bias": ("Llama", {"mlp_bias": True} | TIED),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    "llama-llama3": ("Llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}, "head_dim": 16}),
    "llama-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}),
    "llama-yarn": ("Llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}}),
    "llama-yarn-loud": ("Llama", {"rope_parameters": {**YARN, "attention_factor": 1.5}}),
    "mistral": ("Mistral", {"sliding_window": None} | TIED),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma-bias": ("Gemma", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": False, "rope_theta": 500.0}),
    "gemma-linear": ("Gemma", {"head_dim": 12, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "gpt2": ("GPT2", {}),
    "gpt2-untied": ("GPT2", {"tie_word_embeddings": False, "n_inner": 40, "layer_norm_epsilon": 1e-3}),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(300)], "bpe", 300)


NEW = 8  # generated tokens, which is more than a window; `compare` reads 100 positions


def their_config(name):
    family, switches = THEIRS[name]
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"max_position_embeddings": 128}
    if family == "GPT2":
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    else:
        shape |= {"intermediate_size": 48, "num_key_value_heads": 2}
    if family == "Qwen3":
        shape |= {"head_dim": 8}
    return getattr(transformers, f"{family}Config")(**{**shape, **switches})


def their_model(name):
    """Returns a random model of transformers, with weights so large that errors change the results."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(their_config(name), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


def save_theirs(path, model, tokenizer, **options):
    model.save_pretrained(path, **options)
    (path / "tokenizer.json").write_text(tokenizer.to_json())


def read_by_them(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()


def write_ours(path, tokenizer, **switches):
    model = tiny_model(vocab_size=tokenizer.vocab_size, context=128, **switches)
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=1))
    return model


def compare(ours, theirs, window=None):
    ids = ids_of(100, batch=2, vocab_size=300)
    seen = Recorder()
    with torch.no_grad():
        expected = theirs(ids, output_attentions=True)
        torch.testing.assert_close(ours(ids), expected.logits, rtol=0, atol=1e-4)
        ours(ids, observe=seen)
    for layer, weights in enumerate(expected.attentions):
        torch.testing.assert_close(seen.steps[layer].weights, weights, rtol=0, atol=1e-5)


def greedy(model, tokenizer, prompt):
    """Returns the greedy continuations of a prompt by both backends."""
    config = SampleConfig(temperature=0, max_new_tokens=NEW)
    backends = [TorchBackend(model), *([NativeBackend(model)] if available() else [])]
    endings = [
        list(event.ids)
        for backend in backends
        for event in generate(backend, tokenizer, [prompt], config)
        if isinstance(event, Finished)
    ]
    assert all(ids == endings[0] for ids in endings)
    return endings[0]


def their_greedy(model, prompt, end, tokens=NEW):
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=tokens, eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", THEIRS)
def test_a_directory_of_transformers_is_read_and_our_copy_is_read_by_both(name, tmp_path, tokenizer):
    theirs = their_model(name)
    save_theirs(tmp_path, theirs, tokenizer)
    ours = load_model(tmp_path, CPU, torch.float32).model
    compare(ours, theirs)
    prompt = ids_of(9, vocab_size=300)[0].tolist()
    found = greedy(ours, tokenizer, prompt)
    assert found == their_greedy(theirs, prompt, tokenizer.end_of_text)
    assert len(found) == NEW
    write_checkpoint(tmp_path / "again", Checkpoint(ours.config, ours.state_dict(), tokenizer, start_of_text=1))
    again = load_model(tmp_path / "again", CPU, torch.float32).model
    assert again.config == ours.config
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in again.state_dict().items())
    rewritten = read_by_them(tmp_path / "again")
    compare(again, rewritten)
    assert their_greedy(rewritten, prompt, tokenizer.end_of_text, 4) == found[:4]  # `again` equals `ours`, all bits


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_shards_of_transformers_are_read(name, tmp_path, tokenizer):
    theirs = their_model(name)
    save_theirs(tmp_path, theirs, tokenizer, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    compare(load_model(tmp_path, CPU, torch.float32).model, theirs)


@pytest.mark.parametrize(("name", "base"), [("gpt2", "transformer."), ("llama", "model.")])
def test_names_without_their_base_and_the_buffers_of_old_files_are_read(name, base, tmp_path, tokenizer):
    theirs = their_model(name)
    save_theirs(tmp_path, theirs, tokenizer)
    expected = load_model(tmp_path, CPU, torch.float32).model.state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix(base): tensor for name, tensor in tensors.items()}
    if name == "gpt2":
        tensors |= {"h.1.attn.bias": torch.ones(1, 1, 128, 128, dtype=torch.bool), "lm_head.weight": torch.zeros(1)}
        tensors |= {"h.1.attn.masked_bias": torch.tensor(-1e4)}
    else:
        tensors |= {"layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4), "lm_head.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = load_model(tmp_path, CPU, torch.float32).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"n_head": 5}),
        ("gpt2", {"n_embd": None}),
        ("mistral", {"attention_bias": True}),
        ("gemma", {"use_bidirectional_attention": True}),
        ("gemma", {"hidden_activation": "relu"}),
        ("qwen2", {"attention_bias": True}),
        ("qwen3", {"mlp_bias": True}),
    ],
)
def test_a_switch_that_would_change_the_meaning_is_refused_by_name(name, switch, tmp_path):
    their_model(name).config.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    config_from_json(described)
    (switched,) = switch
    named = {"n_head": "5 heads", "n_embd": "width is None"}.get(switched, switched)
    with pytest.raises(BadCheckpoint, match=named):
        config_from_json(described | switch)


@pytest.mark.parametrize("name", FAMILIES)
def test_our_directory_is_read_by_transformers(name, tmp_path, tokenizer):
    ours = write_ours(tmp_path / "ours", tokenizer, **FAMILIES[name])
    theirs = read_by_them(tmp_path / "ours")
    compare(ours, theirs)
    prompt = ids_of(9, vocab_size=300)[0].tolist()
    assert greedy(ours, tokenizer, prompt) == their_greedy(theirs, prompt, tokenizer.end_of_text)


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_our_tokenizer_is_read_by_transformers(kind, tmp_path):
    ours = train_tokenizer([story(300)], kind, 300 if kind == "bpe" else None)
    write_ours(tmp_path / "ours", ours)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in (story(40, seed=5), "  naïve 東京 🎉 \r\n\ttabs and   spaces . , !"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == ours.end_of_text


@pytest.mark.parametrize("name", ["qwen3-window", "llama", "gpt2"])
def test_transformers_generates_equal_texts_in_a_padded_batch_and_alone(name, tmp_path, tokenizer):
    write_ours(tmp_path / "ours", tokenizer, **FAMILIES[name])
    reads, model = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours"), read_by_them(tmp_path / "ours")
    texts, end = ["The", "The small grey cat sat under the tree", "On a"], reads.eos_token_id

    def continued(batch):
        asked = reads(batch, return_tensors="pt", padding=len(batch) > 1)
        made = model.generate(**asked, do_sample=False, max_new_tokens=20)[:, asked["input_ids"].shape[1] :].tolist()
        return [ids[: ids.index(end)] if end in ids else ids for ids in made]

    assert reads.padding_side == "left"
    assert continued(texts) == [continued([text])[0] for text in texts]


FRAME = {  # the tokens before a text, in tokenizer.json and in tokenizer_config.json
    "nothing": (None, {}),
    "a post-processor": ("<s> $A", {}),
    "a post-processor that ends texts too": ("<s> $A </s>", {}),
    "a setting": (None, {"add_bos_token": True}),
    "a setting against the post-processor": ("<s> $A", {"add_bos_token": False}),
}


@pytest.mark.parametrize("frame", FRAME)
def test_a_prompt_begins_with_the_tokens_that_transformers_inserts(frame, tmp_path, tokenizer, capsys):
    template, settings = FRAME[frame]
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    backend.add_special_tokens(["<s>", "</s>"])
    names = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    if template is not None:
        backend.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=names)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    write_ours(tmp_path, Tokenizer.from_json(backend.to_str()))
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | settings))
    found = load_model(tmp_path, CPU, torch.float32)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)("The <s> cat", split_special_tokens=True)["input_ids"]
    ends = theirs[-1:] == [names[1][1]]  # the end token, which a text to continue does not have
    assert found.prompt("The <s> cat") == theirs[: -1 if ends else None]
    assert ends == ("</s>" in (template or ""))
    opened = template is not None
    assert found.tokenizer.opening == ((names[0][1],) if opened else ())
    assert found.prompt("") == ([names[0][1]] if opened else [found.start_of_text])
    _indices_are_those_of_a_prompt(found, "The <s> cat", capsys)


def _indices_are_those_of_a_prompt(model, text, capsys):
    """Checks the index of each token in the three outputs of `tokenize`, whose ids must decode to the text."""

    def told(*arguments):
        assert run(["tokenize", *arguments, "-m", str(model.path)]) == 0
        return capsys.readouterr().out

    prompt, opening = model.prompt(text), model.tokenizer.opening
    assert told(text, "--ids") == " ".join(map(str, prompt)) + "\n"
    assert told("--decode", told(text, "--ids")) == f"{text}\n"
    found = json.loads(told(text, "--json"))
    assert [token["id"] for token in found["tokens"] if token["of_text"]] == prompt[len(opening) :]
    assert [(token["id"], token["bytes"]) for token in found["tokens"] if not token["of_text"]] == [
        (id_, 0) for id_ in opening
    ]
    assert found["bytes"] == len(text.encode())
    assert [piece.id for piece in model.pieces(text)] == [token["id"] for token in found["tokens"]] == prompt
    screen = told(text)
    rows = [line.split() for line in screen.split("\n") if line[:1].isdigit() and "tokens ·" not in line]
    assert [(int(row[0]), int(row[2])) for row in rows] == list(enumerate(prompt))
    assert ("is not part of the text" in screen) == bool(opening)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_survives_the_round_trip(name):
    changed = {"norm_eps": 1e-4} if name == "gpt2" else {"norm_eps": 1e-5, "rope_theta": 5000.0}
    config = tiny_config(**FAMILIES[name] | changed)
    described = json.loads(json.dumps(config_to_json(config, start_of_text=0, end_of_text=1)))
    assert config_from_json(described) == config


def test_half_precision_weights_are_read(tmp_path, tokenizer):
    model = write_ours(tmp_path / "m", tokenizer)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / "m/model.safetensors").items()}
    save_file(weights, tmp_path / "m/model.safetensors")
    (tmp_path / "m/manifest.json").unlink()
    loaded = load_model(tmp_path / "m", CPU, torch.bfloat16).model
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor, model.state_dict()[name].bfloat16(), rtol=0, atol=0)


@pytest.fixture
def opened(tmp_path, tokenizer, monkeypatch):
    """Makes the working directory one with a model whose tokenizer puts <s> before a text, as Llama's does."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    backend.add_special_tokens(["<s>"])
    special = [("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=special)
    write_ours(tmp_path / "m", Tokenizer.from_json(backend.to_str()))
    monkeypatch.chdir(tmp_path)
    return load_model(tmp_path / "m", CPU, torch.float32)


def told(capsys, *arguments):
    assert run([*arguments, "-m", "m", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


TEXT = "the cat sat on the old mat and the dog ran"


@pytest.mark.parametrize(
    ("arguments", "tokens_of"),
    [
        (["explain", TEXT], lambda found: found["tokens"]),
        (["explain", TEXT, "--words"], lambda found: found["tokens"]),
        (["explain", TEXT, "--generate", "3"], lambda found: found["tokens"]),
        (["ablate", TEXT], lambda found: found["tokens"]),
        (["neighbors", "cat", "--in", TEXT], lambda found: found["text"]),
        (["compare", TEXT, f"then {TEXT}", "--token", "cat"], lambda found: found["texts"][0]["tokens"]),
    ],
)
def test_explained_texts_begin_with_the_opening_tokens(opened, capsys, arguments, tokens_of):
    tokens = tokens_of(told(capsys, *arguments))
    assert (tokens[0]["text"], tokens[0]["id"]) == ("<s>", opened.tokenizer.opening[0])
    assert "".join(token["text"] for token in tokens[1:]).removeprefix("then ").startswith(TEXT)


def test_explaining_predicts_what_comes_next(opened, capsys):
    expected = opened.model(torch.tensor([opened.prompt(TEXT)]))[0, -1].softmax(-1)
    for found in (told(capsys, "explain", TEXT)["next_tokens"], told(capsys, "ablate", TEXT)["before"]["next_tokens"]):
        for token in found:
            assert token["probability"] == pytest.approx(expected[token["id"]].item(), rel=1e-4)


def test_ranked_texts_begin_with_the_opening_tokens(opened, capsys):
    length = len(opened.prompt(TEXT))
    assert told(capsys, "faithful", *[TEXT] * LEAST_TEXTS, "--seed", "1")["mean_tokens"] == length
    assert length == 1 + len(opened.tokenizer.encode(TEXT))
    Path("long.txt").write_text(story(4000))
    found = told(capsys, "faithful", "long.txt", "--limit", "8", "--seed", "1")
    assert found["texts"] == LEAST_TEXTS
    assert found["mean_tokens"] <= 64  # the longest drawn passages, including the opening token


def test_every_family_of_the_registry_is_compared_with_transformers_both_ways():
    """`THEIRS` are models of transformers, which we read; `FAMILIES` are our shapes, which transformers reads."""
    read = {their_config(name).model_type for name in THEIRS}
    written = {family_of(tiny_config(**switches)).model_type for switches in FAMILIES.values()}
    alone = {
        name for name, family in registry.FAMILIES.items() if family.architecture.endswith(("CausalLM", "LMHeadModel"))
    }
    assert read == written == alone  # test_encoder_decoder compares the others


def test_a_shape_that_no_family_expresses_is_not_written():
    with pytest.raises(ValueError, match="no family expresses this shape"):
        config_to_json(tiny_config(norm="layer"), start_of_text=0, end_of_text=0)
