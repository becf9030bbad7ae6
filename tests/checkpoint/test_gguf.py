"""GGUF files: the gguf package reads what we write, we read what it writes, and hostile files are refused."""

import dataclasses
import json
import struct

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from attncli.checkpoint.chat import read_chat_template
from attncli.checkpoint.gguf import blocks, verify
from attncli.checkpoint.gguf.architectures import ARCHITECTURES, ROPE_FACTORS, architecture_of
from attncli.checkpoint.gguf.export import TYPES, plan_export, stored_type
from attncli.checkpoint.gguf.folder import GgufFolder, open_folder
from attncli.checkpoint.gguf.header import GgufTensor, read_header
from attncli.checkpoint.gguf.layout import BF16, BLOCK, BY_PACKAGE, ENDS, F16, F32, Q8_0
from attncli.checkpoint.gguf.layout import TYPES as TENSOR_TYPES
from attncli.checkpoint.gguf.tensors import decode, encode, permuted, unpermuted
from attncli.checkpoint.gguf.verify import verify_export
from attncli.checkpoint.gguf.vocabulary import tokenizer_json, vocabulary_of
from attncli.checkpoint.load import load_model
from attncli.config import RopeScaling
from attncli.errors import AttnError, BadCheckpoint, Inexact, UsageProblem
from attncli.text.tokenizer import Tokenizer
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.checkpoints import load, without_manifest
from tests.support.gguf_files import exported, model_directory
from tests.support.models import ENCODER_DECODERS, ENCODERS, FAMILIES, ids_of, tiny_config
from tests.support.texts import story

PLAIN = {"qk_norm": False}
FAST = RopeScaling(kind="yarn", factor=2.0, original_context=9, beta_fast=8.0)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_context=64, low_frequency=1.5)
SHAPES = FAMILIES | {
    "llama-linear": PLAIN | {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "llama-llama3": PLAIN | {"rope_scaling": LLAMA3, "rope_theta": 500.0, "head_width": 16},
    "qwen3-yarn": {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=24)},
}
KINDS = ("bpe", "char", "byte")


@pytest.fixture(scope="module")
def tokenizers():
    text = story(60) + " naïve café, 12 日本. "
    return {kind: train_tokenizer([text], kind, 320 if kind == "bpe" else None) for kind in KINDS}


@pytest.fixture
def written(tmp_path, tokenizers):
    """A GGUF file and the model that it was made from."""
    loaded = model_directory(tmp_path / "m", tokenizers["bpe"])
    exported(tmp_path / "m.gguf", loaded)
    return tmp_path / "m.gguf", loaded


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_of_every_family_is_read_back_with_the_same_logits(tmp_path, tokenizers, shape):
    loaded = model_directory(tmp_path / "m", tokenizers["bpe"], **SHAPES[shape])
    plan = exported(tmp_path / "m.gguf", loaded)
    found = load(tmp_path / "m.gguf")
    context = loaded.model.config.window or loaded.model.config.context
    ids = ids_of(min(context, 24), 2, vocab_size=320)
    assert torch.allclose(found.model(ids), loaded.model(ids), atol=1e-5)
    assert found.model.config.context == context
    assert found.end_ids == loaded.end_ids and found.start_of_text == loaded.start_of_text
    checked = verify_export(tmp_path / "m.gguf", plan, loaded)
    assert checked.weight_error < 1e-6 and checked.logit_difference < 1e-4


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", ["qwen3", "llama", "gemma", "gpt2"])
def test_every_type_is_within_its_rounding(tmp_path, tokenizers, shape, dtype):
    loaded = model_directory(tmp_path / "m", tokenizers["byte"], **SHAPES[shape])
    plan = exported(tmp_path / "m.gguf", loaded, dtype)
    checked = verify_export(tmp_path / "m.gguf", plan, loaded)
    assert checked.logit_difference < {"float32": 1e-4, "float16": 0.1}.get(dtype, 1.0)
    assert stored_type(load(tmp_path / "m.gguf")) == "float32"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_vocabulary_is_the_same_from_its_metadata(tmp_path, tokenizers, kind):
    loaded = model_directory(tmp_path / "m", tokenizers[kind], extra=3)
    plan = exported(tmp_path / "m.gguf", loaded)
    found = load(tmp_path / "m.gguf")
    assert found.tokenizer.vocab_size == loaded.tokenizer.vocab_size  # ids without a token are left out
    assert plan.metadata["tokenizer.ggml.model"] == ("llama" if kind == "char" else "gpt2")
    for text in [text for text in verify._TEXTS if kind != "char" or "▁" not in text]:
        ids = loaded.tokenizer.encode(text)
        assert found.tokenizer.encode(text) == ids
        assert found.tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="▁")))
@settings(max_examples=20, deadline=None)
def test_any_text_has_the_same_ids(tokenizers, kind, text):
    described = json.loads(tokenizers[kind].to_json())
    vocabulary = vocabulary_of(described, tokenizers[kind].vocab_size)
    found = Tokenizer.from_json(json.dumps(tokenizer_json(vocabulary, None)))
    assert found.encode(text) == tokenizers[kind].encode(text)


@pytest.mark.parametrize(
    ("ends", "noted"), [(3, ()), (4, ("4 tokens end a text, and the file has places for 3 of them",))]
)
def test_more_end_tokens_than_a_file_has_places_for_are_noted(written, ends, noted):
    _, loaded = written
    plan = plan_export(dataclasses.replace(loaded, end_ids=frozenset(range(5, 5 + ends))), "float32")
    assert plan.notes == noted
    assert [plan.metadata[f"tokenizer.ggml.{name}_token_id"] for name in ENDS] == [5, 6, 7]


def test_the_gguf_package_reads_what_was_written(written):
    path, loaded = written
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "qwen3"
    assert reader.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    weights = loaded.model.state_dict()
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert np.array_equal(found["token_embd.weight"], weights["embedding.weight"].numpy())
    assert np.array_equal(found["blk.1.attn_k.weight"], weights["blocks.1.attention.key.weight"].numpy())
    header = read_header(path)
    assert [tensor.begin for tensor in header.tensors] == [tensor.data_offset for tensor in reader.tensors]
    assert header.metadata.keys() == {name for name in reader.fields if not name.startswith("GGUF.")}


def test_the_rows_of_a_head_alternate_between_its_halves():
    rows = torch.arange(8.0).reshape(8, 1)
    assert permuted(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(unpermuted(permuted(rows, 2), 2), rows)


PLAIN_TYPES = (F32, F16, BF16)


@pytest.mark.parametrize("kind", TENSOR_TYPES.values(), ids=lambda kind: kind.name)
def test_any_bytes_are_the_numbers_of_the_gguf_package(kind):
    code = gguf.GGMLQuantizationType(kind.code)
    assert (kind.name, gguf.GGML_QUANT_SIZES[code]) == (code.name, (kind.numbers, kind.bytes))
    data = np.random.default_rng(kind.code).integers(0, 256, size=(6, 4 * kind.bytes), dtype=np.uint8)
    found = decode(torch.from_numpy(data), kind, (6, 4 * kind.numbers)).float().numpy()
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, code)
    assert np.array_equal(found.reshape(6, -1), expected, equal_nan=True)
    assert np.isfinite(expected).sum() > 5 * kind.numbers or kind in PLAIN_TYPES


@pytest.mark.parametrize("kind", [*PLAIN_TYPES, Q8_0], ids=lambda kind: kind.name)
def test_written_blocks_are_those_of_the_gguf_package(kind):
    numbers = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    numbers[0, :BLOCK], numbers[1] = 0, numbers[1] * 1e-3
    theirs = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType(kind.code))
    assert np.array_equal(encode(torch.from_numpy(numbers), kind).numpy(), theirs.view(np.uint8).reshape(-1))


def test_a_large_tensor_is_dequantized_in_parts(monkeypatch):
    data = torch.randint(0, 256, (40 * Q8_0.bytes,), dtype=torch.uint8)
    whole = decode(data, Q8_0, (8, 5 * BLOCK))
    monkeypatch.setattr(blocks, "_AT_ONCE", 3 * BLOCK)
    assert torch.equal(decode(data, Q8_0, (8, 5 * BLOCK)).nan_to_num(), whole.nan_to_num())


def test_a_type_with_large_tables_needs_the_gguf_package(monkeypatch):
    for kind in TENSOR_TYPES.values():
        blocks.require_decoder(kind, "m.gguf")
    monkeypatch.setattr(blocks, "find_spec", lambda name: None)
    with pytest.raises(BadCheckpoint, match="type IQ2_XXS need the tables of the package gguf"):
        blocks.require_decoder(BY_PACKAGE[0], "m.gguf")


def test_a_quantized_file_of_the_gguf_package_is_read(tmp_path, written):
    path, loaded = written
    reader, writer = gguf.GGUFReader(path), gguf.GGUFWriter(tmp_path / "q.gguf", "qwen3")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], sub_type=kinds[1] if len(kinds) > 1 else None)
    for number, tensor in enumerate(reader.tensors):
        data = np.array(tensor.data)
        kind = (gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_1)[number % 2]
        if data.ndim == 2 and data.shape[1] % 32 == 0:
            writer.add_tensor(tensor.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found, weight = load(tmp_path / "q.gguf"), loaded.model.embedding.weight
    assert 0 < float((found.model.embedding.weight - weight).abs().max()) < 0.2 * float(weight.abs().max())


REFUSED = {
    "qwen3 with a bias": ({"qkv_bias": True, "output_bias": True}, "bias on the output"),
    "qwen2 with other heads": (PLAIN | {"qkv_bias": True, "head_width": 16}, "do not have the width of the model"),
    "gemma untied": (FAMILIES["gemma"] | {"tied": False}, "not the token embedding"),
    "qwen3 with llama3": ({"rope_scaling": LLAMA3}, "rotary scaling is llama3"),
    "yarn with beta": (PLAIN | {"rope_scaling": FAST}, "beta_fast of yarn is 8.0"),
    "an encoder-decoder": (ENCODER_DECODERS["m2m100"], "an encoder-decoder"),
    "an encoder": (ENCODERS["bert"], "an encoder alone"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused_by_its_name(case):
    switches, named = REFUSED[case]
    with pytest.raises(UsageProblem, match=named):
        architecture_of(tiny_config(**switches))


def test_a_model_that_is_too_narrow_for_blocks_is_refused(tmp_path, tokenizers):
    loaded = model_directory(tmp_path / "m", tokenizers["byte"], width=24, head_width=6)
    with pytest.raises(UsageProblem, match="width of 24, and Q8_0 stores rows in blocks of 32"):
        plan_export(loaded, "q8_0")


def change(described, **steps):
    return described | steps


TOKENIZERS = {
    "Unigram": lambda d: change(d, model=d["model"] | {"type": "Unigram"}),
    "Lowercase": lambda d: change(d, normalizer={"type": "Lowercase"}),
    "splits at": lambda d: change(d, pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}),
    "puts a space before": lambda d: change(d, pre_tokenizer=d["pre_tokenizer"] | {"add_prefix_space": True}),
    "ignore_merges is true": lambda d: change(d, model=d["model"] | {"ignore_merges": True}),
}  # fmt: skip


@pytest.mark.parametrize("reason", TOKENIZERS)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused_by_its_name(tokenizers, reason):
    described = json.loads(tokenizers["bpe"].to_json())
    with pytest.raises(UsageProblem, match=reason):
        vocabulary_of(TOKENIZERS[reason](described), 320)


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe", "smaug-bpe", "smollm", "tekken", "qwen35"])
def test_the_pre_tokenizer_is_found_again_from_its_steps(tokenizers, pre):
    vocabulary = vocabulary_of(json.loads(tokenizers["bpe"].to_json()), 320)
    described = tokenizer_json(dataclasses.replace(vocabulary, pre=pre), 0)
    assert vocabulary_of(described, 320).pre == pre
    assert Tokenizer.from_json(json.dumps(described)).opening == (0,)


def test_the_chat_template_leaves_and_enters(tmp_path, tokenizers):
    loaded = model_directory(tmp_path / "m", tokenizers["bpe"])
    without_manifest(tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    exported(tmp_path / "m.gguf", loaded)
    found = read_chat_template(tmp_path / "m.gguf")
    assert found.source.startswith("{{ bos_token }}")
    assert found.names["bos_token"] == "<|endoftext|>"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_merged_into_a_file_as_into_a_directory(tmp_path, tokenizers, family):
    """A file of llama.cpp has other names than the adapter; GPT-2's matrices are also transposed."""
    loaded = model_directory(tmp_path / "m", tokenizers["byte"], **FAMILIES[family])
    exported(tmp_path / "m.gguf", loaded)
    module, out = {"llama": ("q_proj", 32), "gpt2": ("c_attn", 96)}[family]
    place = {"llama": "model.layers.1.self_attn.q_proj", "gpt2": "transformer.h.1.attn.c_attn"}[family]
    (tmp_path / "a").mkdir()
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [module], "layers_to_transform": [1]}
    described |= {"fan_in_fan_out": family == "gpt2", "base_model_name_or_path": str(tmp_path / "m")}
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(described))
    parts = {"A": torch.randn(2, 32), "B": torch.randn(out, 2)}
    tensors = {f"base_model.model.{place}.lora_{part}.weight": tensor for part, tensor in parts.items()}
    save_file(tensors, tmp_path / "a/adapter_model.safetensors")
    one, other = (
        load_model(tmp_path / name, torch.device("cpu"), torch.float32, tmp_path / "a").model
        for name in ("m", "m.gguf")
    )
    ids = ids_of(12, vocab_size=257)
    assert torch.allclose(one(ids), other(ids), atol=1e-5)
    assert not torch.allclose(one(ids), loaded.model(ids), atol=1e-2)


def test_a_wrong_file_is_found(written):
    path, loaded = written
    plan = plan_export(loaded, "float32")
    loaded.model.embedding.weight[0, 0] += 1
    with pytest.raises(Inexact, match=r"token_embd.weight differs by 1"):
        verify_export(path, plan, loaded)


def header(pairs=0, tensors=0, version=3, body=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body


def text(value):
    return struct.pack("<Q", len(value)) + value


TENSOR = text(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
HOSTILE = {
    "not a GGUF file": (b"GGML" + bytes(40), "does not begin with GGUF"),
    "empty": (b"", "does not begin with GGUF"),
    "version 1": (header(version=1), "version is 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "many keys": (header(pairs=1 << 60), "1,152,921,504,606,846,976 keys"),
    "many tensors": (header(tensors=1 << 60), "tensors"),
    "long text": (header(1, body=struct.pack("<Q", 1 << 40) + bytes(9)), "a text has 1,099,511,627,776 bytes"),
    "text past the end": (header(1, body=struct.pack("<Q", 1000) + bytes(9)), "longer than the file"),
    "long array": (header(1, body=text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 50)), "elements in 'k'"),
    "nested array": (header(1, body=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "array of the type 9"),
    "unknown type": (header(1, body=text(b"k") + struct.pack("<I", 99) + bytes(8)), "unknown type 99"),
    "no UTF-8": (header(1, body=text(b"\xff") + bytes(16)), "not UTF-8"),
    "a key twice": (header(2, body=(text(b"k") + struct.pack("<IB", 0, 1)) * 2), "'k' occurs twice"),
    "alignment": (header(1, body=text(b"general.alignment") + struct.pack("<II", 4, 3)), "not a power of two"),
    "dimensions": (header(0, 1, body=text(b"a") + struct.pack("<I", 5) + bytes(60)), "has 5 dimensions"),
    "huge shape": (header(0, 1, body=text(b"a") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0)), "impossible"),
    "no numbers": (header(0, 1, body=text(b"a") + struct.pack("<IQIQ", 1, 0, 0, 0)), "impossible"),
    "odd offset": (header(0, 1, body=text(b"a") + struct.pack("<IQIQ", 1, 4, 0, 7) + bytes(64)), "impossible"),
    "intermediate type": (header(0, 1, body=text(b"a") + struct.pack("<IQIQ", 1, 256, 15, 0)), "Q8_K, which is"),
    "broken blocks": (header(0, 1, body=text(b"a") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(99)), "whole blocks"),
    "beyond the end": (header(0, 1, body=TENSOR), "ends within 'a'"),
    "far offset": (header(0, 1, body=text(b"a") + struct.pack("<IQIQ", 1, 4, 0, (1 << 64) - 32)), "ends within 'a'"),
    "overlap": (header(0, 2, body=TENSOR + TENSOR.replace(b"a", b"b") + bytes(200)), "overlaps"),
    "a name twice": (header(0, 2, body=TENSOR * 2 + bytes(200)), "same name"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_before_memory_is_taken(tmp_path, case):
    data, named = HOSTILE[case]
    (tmp_path / "h.gguf").write_bytes(data)
    with pytest.raises(BadCheckpoint, match=named):
        read_header(tmp_path / "h.gguf")


@pytest.mark.parametrize("shape", [(2, 4), ((1 << 16) + 1,)])
def test_rotary_factors_that_are_no_short_list_are_refused_before_they_are_read(written, monkeypatch, shape):
    folder = open_folder(written[0])
    tensor = GgufTensor(ROPE_FACTORS, F32, shape, 0)
    folder.header = dataclasses.replace(folder.header, tensors=(*folder.header.tensors, tensor))
    monkeypatch.setattr(GgufFolder, "architecture", ARCHITECTURES["llama"])
    monkeypatch.setattr(GgufFolder, "_bytes_of", None)
    with pytest.raises(BadCheckpoint, match=r"rope_freqs.weight is not supported"):
        folder.json("config.json")


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_mutated_file_loads_or_is_refused(tmp_path_factory, mutated, data):
    place = data.draw(st.integers(0, len(mutated) - 1))
    content = bytearray(mutated)
    kind = data.draw(st.sampled_from(["byte", "number", "cut"]))
    if kind == "byte":
        content[place] = data.draw(st.integers(0, 255))
    elif kind == "number":
        content[place : place + 8] = struct.pack(
            "<Q", data.draw(st.sampled_from([0, 1, 1 << 31, 1 << 62, (1 << 64) - 1]))
        )
    else:
        del content[place:]
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(content)
    try:
        load(path)
    except AttnError as problem:
        assert str(path) in problem.message or "tokenizer" in problem.message.lower()


@pytest.fixture(scope="module")
def mutated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    shape = {"layers": 1, "width": 8, "heads": 2, "kv_heads": 1, "head_width": 4, "feed_forward_width": 8}
    exported(folder / "m.gguf", model_directory(folder / "m", byte_tokenizer(), **PLAIN | shape))
    return (folder / "m.gguf").read_bytes()


def test_a_file_that_shrinks_is_an_error(written, monkeypatch):
    path, _ = written
    size = path.stat().st_size
    real = torch.frombuffer

    def shrink(*args, **options):
        with path.open("r+b") as file:
            file.truncate(size - 4096)
        return real(*args, **options)

    monkeypatch.setattr("attncli.checkpoint.gguf.tensors.torch.frombuffer", shrink)
    with pytest.raises(BadCheckpoint, match=r"changed while it was read|ends within"):
        load(path)
