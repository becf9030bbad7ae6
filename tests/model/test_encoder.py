"""An encoder alone: parity with BERT of transformers, and the invariants of masks, segments and padding."""

import json
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from attncli.checkpoint.families.registry import config_from_json
from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.errors import BadCheckpoint, UsageProblem
from attncli.model.count import count_parameters
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.lazily import transformers
from tests.support.models import ENCODERS, Recorder, ids_of, tiny_config, tiny_model
from tests.support.texts import story

CPU = torch.device("cpu")
BERT = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
THEIRS = {
    "bert": {},
    "bert-gelu-new": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-4, "num_attention_heads": 2},
    "bert-relu": {"hidden_act": "relu", "type_vocab_size": 3, "num_hidden_layers": 1},
    "bert-untied": {"tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(300)], "bpe", 300)


def their_model(name="bert", kind="BertForMaskedLM"):
    """Returns a random model of transformers, with weights so large that errors change the results."""
    torch.manual_seed(1)
    config = transformers.BertConfig(**BERT | THEIRS[name])
    model = getattr(transformers, kind)._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


def save_theirs(path, model, tokenizer):
    model.save_pretrained(path)
    (path / "tokenizer.json").write_text(tokenizer.to_json())


def batch(segments):
    """Returns padded ids (B, T), the mask of tokens, and the segments."""
    ids, mask = ids_of(11, 3, vocab_size=300), torch.arange(11)[None] < torch.tensor([[11], [5], [8]])
    return ids, mask, ids_of(11, 3, 1, segments)


def compare(ours, theirs):
    ids, mask, segments = batch(ours.config.segments)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, token_type_ids=segments, output_attentions=True)
        seen = Recorder()
        logits = ours.unembed(ours.hidden(ids, observe=seen, mask=mask, segments=segments))
        fast = ours.unembed(ours.hidden(ids, mask=mask, segments=segments))
        torch.testing.assert_close(logits[mask], expected.logits[mask], rtol=0, atol=1e-4)
        torch.testing.assert_close(fast[mask], expected.logits[mask], rtol=0, atol=1e-4)
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-4)  # without mask and segments
    for layer, weights in enumerate(expected.attentions):
        rows = mask[:, None, :, None].expand_as(weights)
        torch.testing.assert_close(seen.steps[layer].weights[rows], weights[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", THEIRS)
def test_reads_their_directory_and_computes_the_same(name, tokenizer, tmp_path):
    theirs = their_model(name)
    save_theirs(tmp_path, theirs, tokenizer)
    compare(load_model(tmp_path, CPU, torch.float32).model, theirs)


@pytest.mark.parametrize("name", ENCODERS)
def test_they_read_our_directory_and_compute_the_same(name, tokenizer, tmp_path):
    model = tiny_model(**ENCODERS[name] | {"vocab_size": 300, "context": 64})
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=2))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "m", attn_implementation="eager").eval()
    compare(model, theirs)
    reread = load_model(tmp_path / "m", CPU, torch.float32).model
    assert reread.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(reread.state_dict()[key], tensor)


def test_the_heads_of_other_tasks_are_not_read(tokenizer, tmp_path):
    theirs = their_model(kind="BertForPreTraining")
    save_theirs(tmp_path, theirs, tokenizer)
    ids = ids_of(11, 3, vocab_size=300)
    loaded = load_model(tmp_path, CPU, torch.float32).model
    torch.testing.assert_close(loaded(ids), theirs(ids).prediction_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification", "BertForQuestionAnswering"])
def test_a_model_of_another_task_has_no_head_for_words(kind, tokenizer, tmp_path):
    theirs = their_model(kind=kind)
    save_theirs(tmp_path, theirs, tokenizer)
    loaded, ids = load_model(tmp_path, CPU, torch.float32), ids_of(11, 3, vocab_size=300)
    assert not loaded.model.config.head_transform
    assert config_from_json(json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}).tied
    expected = getattr(theirs, "bert", theirs)(ids).last_hidden_state
    torch.testing.assert_close(loaded.model.hidden(ids), expected, rtol=0, atol=1e-4)
    model = Checkpoint(loaded.model.config, loaded.model.state_dict(), tokenizer, start_of_text=2)
    write_checkpoint(tmp_path / "again", model)
    assert load_model(tmp_path / "again", CPU, torch.float32).model.config == loaded.model.config
    again = transformers.AutoModel.from_pretrained(tmp_path / "again", attn_implementation="eager").eval()
    torch.testing.assert_close(again(ids).last_hidden_state, expected, rtol=0, atol=1e-4)


def old_names(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    "renamed",
    [
        old_names,
        lambda name: name.removeprefix("bert."),
        lambda name: name.replace("cls.predictions.bias", "cls.predictions.decoder.bias"),
        lambda name: name.replace("bert.embeddings.word_embeddings", "cls.predictions.decoder"),
    ],
)
def test_the_names_of_other_programs_and_of_old_files_are_read(renamed, tokenizer, tmp_path):
    save_theirs(tmp_path, their_model(), tokenizer)
    expected = load_model(tmp_path, CPU, torch.float32).model.state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {renamed(name): tensor for name, tensor in tensors.items()}
    tensors |= {"bert.embeddings.position_ids": torch.arange(64)[None], "bert.pooler.dense.bias": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = load_model(tmp_path, CPU, torch.float32).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("name", ENCODERS)
def test_parts_count_every_parameter(name):
    model = tiny_model(**ENCODERS[name])
    assert sum(count_parameters(model.config).values()) == sum(one.numel() for one in model.parameters())


def test_an_encoder_has_no_window():
    with pytest.raises(UsageProblem, match="window is 4, and must be unset for an encoder"):
        tiny_config(**ENCODERS["bert"], window=4)


def test_padding_changes_nothing_and_every_token_attends_to_every_token():
    model = tiny_model(**ENCODERS["bert"])
    ids, mask, segments = batch(2)
    ids = ids % 97
    seen = Recorder()
    with torch.inference_mode():
        model.hidden(ids, observe=seen, mask=mask, segments=segments)
        together = model.hidden(ids, mask=mask, segments=segments)
        alone = model.hidden(ids[1:2, :5], segments=segments[1:2, :5])
        others = model.hidden(ids.masked_fill(~mask, 50), mask=mask, segments=segments)
        swapped = model.hidden(ids, mask=mask, segments=1 - segments)
    torch.testing.assert_close(together[1:2, :5], alone, rtol=0, atol=1e-5)
    assert torch.equal(together[mask], others[mask])
    assert not torch.allclose(swapped[mask], together[mask], atol=1e-2)
    for steps in seen.steps.values():
        assert bool((steps.weights[1, :, :, 5:] == 0).all())
        assert bool((steps.weights[0] > 0).all())


@pytest.mark.parametrize(
    ("switch", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_act": "tanh"}, "hidden_act"),
        ({"type_vocab_size": 10**9}, "segments"),
        ({"num_attention_heads": 5}, "5 heads"),
    ],
)
def test_a_switch_that_would_change_the_meaning_is_refused_by_name(switch, named):
    described = json.loads(transformers.BertConfig(**BERT).to_json_string())
    assert config_from_json(described).kind == "encoder"
    with pytest.raises(BadCheckpoint, match=named):
        config_from_json(described | switch)


@pytest.mark.parametrize("value", [None, True, -1, 0, 1.5, 10**30, "8", [8], {}, [["BertModel"]]])
def test_any_value_of_a_setting_is_read_or_refused(value):
    described = json.loads(transformers.BertConfig(**BERT).to_json_string())
    for key in (described.keys() | {"architectures"}) - {"model_type"}:
        with suppress(BadCheckpoint):
            assert config_from_json(described | {key: value}).kind == "encoder"
