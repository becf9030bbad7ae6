"""Parity with transformers in reading GGUF files: it has its own reader, its own names and its own permutations."""

import warnings

import pytest
import torch

from attncli.text.tokenizer_training import train_tokenizer
from tests.support.checkpoints import load
from tests.support.gguf_files import exported, model_directory
from tests.support.lazily import transformers
from tests.support.models import FAMILIES, ids_of
from tests.support.texts import story

# transformers does not read the width of Qwen3's heads nor the context of GPT-2, and takes their defaults.
SHAPES = {
    "llama": FAMILIES["llama"],
    "qwen2": FAMILIES["qwen2"],
    "qwen3": FAMILIES["qwen3"] | {"head_width": 128, "heads": 2, "kv_heads": 1},
    "gpt2": FAMILIES["gpt2"] | {"context": 1024},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(60)], "bpe", 320)


@pytest.mark.parametrize(("shape", "dtype"), [*((shape, "float32") for shape in SHAPES), ("llama", "q8_0")])
def test_transformers_computes_the_same_logits_from_the_file(tmp_path, tokenizer, shape, dtype):
    loaded = model_directory(tmp_path / "m", tokenizer, **SHAPES[shape])
    exported(tmp_path / "m.gguf", loaded, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ids = ids_of(20, 2, vocab_size=320)
    assert torch.allclose(theirs.eval()(ids).logits, load(tmp_path / "m.gguf").model(ids), atol=1e-4)
