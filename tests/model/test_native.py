"""The network in C computes the Transformer's logits, and a row's bits do not depend on how the texts are read."""

import copy
import ctypes
import math
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import RopeScaling
from attncli.errors import BadCheckpoint
from attncli.model import native
from attncli.model.backend import Segment
from attncli.model.native import NativeBackend, NativeCache, to_int8
from tests.support.models import ENCODER_DECODERS, FAMILIES, ids_of, tiny_config, tiny_model

LONG = 150  # positions; a cache grows twice to this length
SOURCES = (37, 1, 100, 16)  # the numbers of tokens of the texts that an encoder reads
GPT2 = FAMILIES["gpt2"]
BIASES = {"qkv_bias": True, "output_bias": True, "feed_forward_bias": True}
GELU = {"gated": False, "activation": "gelu_tanh"}
ODD = {
    "head-2": {"head_width": 2, "width": 7, "vocab_size": 33, "feed_forward_width": 1},
    "head-6": {"head_width": 6, "width": 50, "vocab_size": 81, "feed_forward_width": 70, "tied": False},
    "head-10": {"head_width": 10, "heads": 6, "kv_heads": 2, "width": 17, "feed_forward_width": 31, **BIASES},
    "head-20": {"head_width": 20, "heads": 5, "kv_heads": 1, "width": 100, "vocab_size": 19, "qkv_bias": True},
    "head-32": {"head_width": 32, "heads": 2, "kv_heads": 2, "width": 64, "feed_forward_width": 129, "window": 16},
    "window-of-one": {"window": 1, "head_width": 18},
    "window-of-17": {"window": 17, "window_from": 1, "qk_norm": False},
    "window-of-all": {"window": 4096, "qk_norm": False},
    "gpt2-odd": GPT2 | {"head_width": 5, "heads": 3, "kv_heads": 3, "width": 15, "feed_forward_width": 61},
    "gpt2-grouped": GPT2 | {"head_width": 1, "heads": 4, "kv_heads": 2, "window": 9, "tied": False},
    "layer-rotary": {"norm": "layer", "qk_norm": False, **GELU, "feed_forward_bias": True},
    "geglu": {"activation": "gelu_tanh"},
    "geglu-erf": {"activation": "gelu_erf"},
    "reglu": {"activation": "relu", "pre_norm": False, "head_bias": True},
    "relative": {"positions": "relative", "relative_buckets": 8, "relative_distance": 30, "window": 40},
    "embedding-norm": {"embedding_norm": True, "positions": "learned", "position_offset": 3},
    "unit-offset": {"unit_offset": True, "scaled_embedding": True, "width": 17},
    "ungated-silu": {"gated": False, "qk_norm": False},
    "rms-learned": {"positions": "learned", "window": 9},
    "llama3": {"qk_norm": False, "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context=64)},
    "linear": {"qk_norm": False, "rope_scaling": RopeScaling(kind="linear", factor=4.0)},
}
M2M100 = ENCODER_DECODERS["m2m100"]
TRANSLATORS = {
    **ENCODER_DECODERS,
    "encoder-odd": M2M100 | {"head_width": 5, "heads": 3, "kv_heads": 3, "width": 14, "feed_forward_width": 61},
    "encoder-grouped": M2M100 | {"kv_heads": 2, "encoder_layers": 3, "layers": 1, "tied": False},
    "encoder-rms": {"encoder_layers": 1, "qk_norm": False, "positions": "sinusoidal"},
}  # fmt: skip
EVERY = FAMILIES | ODD | TRANSLATORS


@pytest.fixture(autouse=True)
def _a_compiler():
    if not native.available():
        pytest.skip("there is no C compiler")


def model_of(name, dtype=torch.float32, **changes):
    return tiny_model(dtype=dtype, **{"context": LONG, "layers": 2, **EVERY[name], **changes})


def source_ids(config, number):
    return ids_of(SOURCES[number], seed=number, vocab_size=config.vocab_size)[0].tolist()


def new_cache(backend, *numbers):
    """Returns a cache with a sequence for each number, which is the number of its source in an encoder-decoder."""
    cache, config = backend.new_cache(len(numbers)), backend.config
    if config.encoder_layers:
        backend.read_sources(cache, {at: source_ids(config, number) for at, number in enumerate(numbers)})
    return cache


def all_logits(backend, ids, number=0):
    """Returns the logits (T, V) of one text and a numbered source, read in one call into a new cache."""
    return backend.read(new_cache(backend, number), [Segment(0, 0, ids, len(ids))])


def pytorch_logits(model, ids, number=0):
    encodes = model.config.encoder_layers > 0
    source = model.read_source(torch.tensor([source_ids(model.config, number)])) if encodes else None
    return model(torch.tensor([ids]), source=source)[0]


def bits(logits):
    return logits.contiguous().view(torch.int32)


def off(found, exact):
    """Returns the root mean square of the difference between logits and exact logits."""
    return float((found.double() - exact).square().mean().sqrt())


# Equal logits


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_logits_equal_the_transformer_s_and_are_as_exact(name):
    model = model_of(name)
    ids = ids_of(LONG, vocab_size=model.config.vocab_size)[0].tolist()
    found = all_logits(NativeBackend(model, threads=1), ids)
    pytorch = pytorch_logits(model, ids)
    exact = pytorch_logits(model.double(), ids)
    torch.testing.assert_close(found, pytorch, rtol=0, atol=1e-4)
    assert off(found, exact) <= 2 * off(pytorch, exact) + 1e-7


@pytest.mark.parametrize("window", [LONG, 2**20, 2**24])
@torch.no_grad()
def test_a_window_longer_than_the_context_is_the_whole_context(window):
    ids = ids_of(LONG)[0].tolist()
    found = all_logits(NativeBackend(model_of("mistral-window", window=window), threads=1), ids)
    assert torch.equal(bits(found), bits(all_logits(NativeBackend(model_of("llama", tied=False), threads=1), ids)))


@pytest.mark.parametrize("number", [-1, 2**31 - 64, 2**31, 2**32 + 1])
def test_no_integer_is_truncated_for_c(number):
    with pytest.raises(BadCheckpoint, match=f"takes inputs from 0 to 2147483583, not {number}"):
        native._Matrix(None, None, None, 1, number, 0)
    with pytest.raises(BadCheckpoint, match="capacity"):
        native._Batch(*[None] * 9, 1, 1, number)


class StructField(ctypes.Structure):
    """A row of the table `struct_fields` in native.c."""

    _fields_ = [
        ("structure", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("kind", ctypes.c_char),
    ]


STRUCTURES = [
    native._Matrix,
    native._Norm,
    native._Attention,
    native._Layer,
    native._Stack,
    native._Model,
    native._Batch,
]
KINDS = {ctypes.c_int32: b"i", ctypes.c_int64: b"l", ctypes.c_float: b"f", ctypes.c_void_p: b"p"}


def test_the_structures_of_c_and_of_python_have_the_same_fields():
    """Compares names, order, offsets, sizes and types, so that neither side reads one field as another."""
    library = native._functions()
    count = ctypes.c_int.in_dll(library, "struct_field_count").value
    declared = (StructField * count).in_dll(library, "struct_fields")
    in_c = [(row.structure.decode(), row.field.decode(), row.offset, row.size, row.kind) for row in declared]
    in_python = []
    for structure in STRUCTURES:
        name = structure.__name__.strip("_").lower()
        for field, kind in structure._fields_:
            place = getattr(structure, field)
            in_python.append((name, field, place.offset, place.size, KINDS.get(kind, b"s")))
        in_python.append((name, "", 0, ctypes.sizeof(structure), b"s"))
    assert in_c == in_python


def test_the_table_of_native_c_lists_every_field_that_its_structures_declare():
    """Padding at the end of a structure could hide a field that the table and Python both lack."""
    source = Path(native.__file__).with_name("native.c").read_text(encoding="utf-8")
    shared = source[source.index("enum dtype") : source.index("const char *structure")]
    listed = set(re.findall(r"FIELD\((\w+), (\w+)\)", source)) - {("s", "f")}
    declared = set()
    for body, name in re.findall(
        r"typedef struct \{(.*?)\} (\w+);", re.sub(r"/\*.*?\*/", "", shared, flags=re.S), re.S
    ):
        for line in filter(None, map(str.strip, body.split(";"))):
            declared |= {(name, re.findall(r"\w+", field)[-1]) for field in line.split(",")}
    assert listed == declared


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "qwen3-untied", "llama-yarn", "gpt2", "layer-rotary", "m2m100", "marian"])
def test_a_released_transformer_keeps_no_weights_and_the_network_is_the_same(name, int8):
    model = model_of(name)
    ids = ids_of(40, vocab_size=model.config.vocab_size)[0].tolist()
    expected = all_logits(NativeBackend(model, threads=1, int8=int8), ids)
    backend = NativeBackend(model, threads=1, int8=int8, releasing=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    assert torch.equal(bits(all_logits(backend, ids)), bits(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["qwen3", "llama-yarn", "gpt2", "head-6", "gpt2-odd", *TRANSLATORS])
def test_products_of_16_bit_weights_are_summed_in_float32(name, dtype):
    model = model_of(name, dtype)
    ids = ids_of(40, vocab_size=model.config.vocab_size)[0].tolist()
    found = all_logits(NativeBackend(model, threads=1), ids)
    assert torch.equal(bits(found), bits(all_logits(NativeBackend(model.float(), threads=1), ids)))


@pytest.mark.parametrize("name", ["qwen3", "qwen3-untied", "llama-bias", "gpt2", "head-6", "gpt2-odd", *TRANSLATORS])
@torch.no_grad()
def test_int8_weights_equal_the_values_that_they_represent(name):
    model = model_of(name)
    ids = ids_of(40, vocab_size=model.config.vocab_size)[0].tolist()
    found = all_logits(NativeBackend(model, int8=True, threads=1), ids)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            steps, scale = to_int8(parameter)
            parameter.copy_(steps.float() * scale[:, None])
    expected = all_logits(NativeBackend(model, threads=1), ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_weight_differs_by_at_most_half_a_step(dtype):
    weight = torch.randn(50, 33, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight[7] = 0
    weight[8, 3] = 1000.0
    weight[9] *= 1e-30
    steps, scale = to_int8(weight)
    assert steps.abs().max() == 127
    error = (steps.double() * scale.double()[:, None] - weight.double()).abs()
    assert bool((error <= 0.5 * (1 + 1e-5) * scale.double()[:, None]).all())
    assert torch.equal(steps[7], torch.zeros(33, dtype=torch.int8))


# Any way of reading


PART = st.tuples(
    st.integers(0, 3),  # which text
    st.sampled_from([1, 1, 2, 3, 4, 5, 9, 40, LONG]),  # how many tokens
    st.integers(1, 50),  # how many logits are requested
    st.integers(0, 5),  # how many wrong tokens are read after them
    st.sampled_from([0, 0, 0, 1, 7, 20]),  # how many tokens are read again
)
CALL = st.lists(PART, min_size=1, unique_by=lambda part: part[0])


NARROW = [
    (name, kind) for name in ("llama-bias", "gpt2", "head-10", "qwen3", "m2m100") for kind in ("int8", "bf16", "f16")
]


@pytest.mark.parametrize(("name", "kind"), [*((name, "f32") for name in EVERY), *NARROW])
@settings(deadline=None, max_examples=3)
@given(calls=st.lists(CALL, max_size=20), threads=st.sampled_from([1, 2, 3]))
def test_every_split_of_texts_into_calls_gives_identical_bits(name, kind, calls, threads):
    """Reads several texts at once, in segments of any length; reads some again, and some wrongly at first."""
    backend, texts, expected = readings(name, kind, threads)
    cache, read = new_cache(backend, *range(len(texts))), [0] * len(texts)
    rest = [(number, LONG, LONG, 0, 0) for number in range(len(texts))]
    for call in (*calls, rest):
        call = [part for part in call if read[part[0]] < len(texts[part[0]])]
        segments = []
        for number, size, wanted, _, _ in call:
            ids = texts[number][read[number] :][:size]
            segments.append(Segment(number, read[number], ids, min(wanted, len(ids))))
            read[number] += len(ids)
        if not segments:
            continue
        found = backend.read(cache, segments)
        alone = [expected[segment.sequence][segment.end - segment.logit_count : segment.end] for segment in segments]
        assert torch.equal(bits(found), bits(torch.cat(alone)))
        for number, _, _, wrong, again in call:
            if wrong and read[number] + wrong <= LONG:
                backend.read(cache, [Segment(number, read[number], [0] * wrong)])
            if call is not rest:
                read[number] = max(read[number] - again, 0)
    assert read == [len(text) for text in texts]


TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "int8": torch.float32}


@cache
def readings(name, kind, threads):
    """Returns a network with this number of threads, texts, and their logits, read alone and at once on one thread."""
    if threads > 1:
        return network(name, kind, threads), *readings(name, kind, 1)[1:]
    once = network(name, kind, 1)
    lengths = (LONG, 1, 37, 101)
    texts = [ids_of(length, seed=length, vocab_size=once.config.vocab_size)[0].tolist() for length in lengths]
    return once, texts, [all_logits(once, text, number) for number, text in enumerate(texts)]


def network(name, kind, threads):
    return NativeBackend(model_of(name, TYPES[kind]), int8=kind == "int8", threads=threads)


@pytest.mark.parametrize("name", ["qwen3-window", "gpt2", "head-10", "window-of-17", "m2m100", "marian"])
def test_rows_of_several_calls_equal_rows_of_one_call(name):
    """With three texts together, some calls of the C function end within a text, and some request no logits."""
    model = model_of(name, context=1100)
    backend = NativeBackend(model, threads=2)
    texts = [ids_of(length, seed=length, vocab_size=model.config.vocab_size)[0].tolist() for length in (1100, 3, 700)]
    wanted = (5, 1, 650)
    segments = [Segment(number, 0, text, last) for number, (text, last) in enumerate(zip(texts, wanted, strict=True))]
    found = backend.read(new_cache(backend, 0, 1, 2), segments).split(wanted)
    for number, (text, last, logits) in enumerate(zip(texts, wanted, found, strict=True)):
        cache = new_cache(backend, number)
        parts = [(at, text[at : at + 100]) for at in range(0, len(text), 100)]
        alone = [backend.read(cache, [Segment(0, at, part, len(part))]) for at, part in parts]
        assert torch.equal(bits(logits), bits(torch.cat(alone)[-last:]))
    with torch.no_grad():
        torch.testing.assert_close(found[0], pytorch_logits(model, texts[0])[-5:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "qwen3-window", "head-10", "gpt2", "m2m100"])
@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 101])
def test_a_sequence_continues_from_a_copy_of_another(name, length):
    backend, texts, expected = readings(name, "f32", 1)
    cache = new_cache(backend, 3, 1, 0)
    backend.read(cache, [Segment(2, 0, texts[0][: length + 5]), Segment(0, 0, texts[3])])
    cache.copy(2, 0, length)
    found = backend.read(cache, [Segment(0, length, texts[0][length:], LONG - length)])
    assert torch.equal(bits(found), bits(expected[0][length:]))


@pytest.mark.parametrize("name", ["qwen3", "qwen3-window", "head-10", "m2m100", "encoder-odd"])
def test_memory_beyond_a_text_or_a_source_has_no_effect(name, monkeypatch):
    """The memory even contains NaN, which would spoil every product."""
    backend, texts, expected = readings(name, "f32", 2)
    monkeypatch.setattr(torch, "empty", lambda *sizes: torch.full(sizes, math.nan))
    cache = new_cache(backend, 0, 3)
    cache.reserve(LONG)
    for buffer in (*cache._keys, *cache._values):
        buffer.fill_(math.nan)
    found = backend.read(cache, [Segment(1, 0, texts[3], len(texts[3]))])
    assert torch.equal(bits(found), bits(expected[3]))


@pytest.mark.parametrize("name", TRANSLATORS)
@settings(deadline=None, max_examples=3)
@given(
    groups=st.lists(st.lists(st.integers(0, 3), max_size=6, unique=True), max_size=5),
    threads=st.sampled_from([1, 2, 3]),
)
def test_every_way_of_reading_sources_gives_identical_bits(name, groups, threads):
    """Reads sources alone and together, in any order, also a second time and after a wrong source."""
    backend, texts, expected = readings(name, "f32", threads)
    cache = backend.new_cache(len(texts))
    for group in groups:
        backend.read_sources(cache, {at: source_ids(backend.config, (at + 1) % 4) for at in group})
    for group in (*groups, range(len(texts))):
        backend.read_sources(cache, {at: source_ids(backend.config, at) for at in group})
    found = backend.read(cache, [Segment(at, 0, text, len(text)) for at, text in enumerate(texts)])
    assert torch.equal(bits(found), bits(torch.cat(expected)))


@pytest.mark.parametrize("name", ["m2m100", "bart"])
def test_long_sources_equal_the_transformer_s_and_do_not_depend_on_other_sources(name):
    """A source of 700 tokens is longer than the limit of a call, which applies to prompts only."""
    model = model_of(name, context=700)
    backend = NativeBackend(model, threads=2)
    sources = {at: ids_of(length, seed=length)[0].tolist() for at, length in enumerate((9, 700, 300, 400, 1))}
    cache, target = backend.new_cache(len(sources)), ids_of(20)[0].tolist()
    backend.read_sources(cache, sources)
    found = backend.read(cache, [Segment(at, 0, target, 20) for at in sources]).split(20)
    for at, ids in sources.items():
        alone = backend.new_cache(1)
        backend.read_sources(alone, {0: ids})
        assert torch.equal(bits(found[at]), bits(backend.read(alone, [Segment(0, 0, target, 20)])))
        with torch.no_grad():
            expected = model(torch.tensor([target]), source=model.read_source(torch.tensor([ids])))[0]
        torch.testing.assert_close(found[at], expected, rtol=0, atol=1e-4)


def test_beams_share_a_source():
    """Adjacent rows with the same source are computed together; the logits have the same bits as for a single beam."""
    backend, texts, expected = readings("m2m100", "f32", 2)
    cache = backend.new_cache(7)
    backend.read_sources(cache, {0: source_ids(backend.config, 0), 6: source_ids(backend.config, 2)})
    size = cache.nbytes
    for beam in range(1, 6):
        cache.copy(0, beam, 0)
    assert cache.nbytes == size
    for start in range(0, 20, 2):
        found = backend.read(cache, [Segment(beam, start, texts[0][start : start + 2], 2) for beam in range(6)])
        assert torch.equal(bits(found), bits(expected[0][start : start + 2].repeat(6, 1)))
    found = backend.read(cache, [Segment(6, 0, texts[2], len(texts[2]))])
    assert torch.equal(bits(found), bits(expected[2]))


def test_a_cache_doubles_up_to_its_limit_and_no_further():
    cache = NativeCache(2, 3, 10, 2, limit=150)
    sizes = []
    for positions in (0, 1, 64, 65, 3, 129, 150, 160):
        cache.reserve(positions)
        sizes.append(cache.capacity)
        assert cache.nbytes == 2 * 2 * 2 * 3 * 10 * 4 * cache.capacity
    assert sizes == [0, 64, 64, 128, 128, 160, 160, 160]
    with pytest.raises(ValueError, match="161 positions in a cache of 160"):
        cache.reserve(161)


def test_tokens_outside_the_vocabulary_or_the_context_are_refused():
    backend, _, _ = readings("qwen3", "f32", 1)
    cache = backend.new_cache(2)
    for id_ in (-1, 97, 2**31 - 1):
        with pytest.raises(ValueError, match="a token outside of a vocabulary of 97"):
            backend.read(cache, [Segment(0, 0, [1, id_, 2])])
    for start, length in ((0, LONG + 1), (LONG, 1), (LONG - 3, 4)):
        with pytest.raises(ValueError, match=f"{start + length} tokens in a context of {LONG}"):
            backend.read(cache, [Segment(1, start, [1] * length)])
    for sequence in (-1, 2):
        with pytest.raises(ValueError, match="a sequence outside of a cache of 2"):
            backend.read(cache, [Segment(sequence, 0, [1])])


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux shows them")
def test_threads_end_with_their_network():
    def running():
        return len(list(Path("/proc/self/task").iterdir()))

    before = running()
    backend = network("qwen3", "f32", 4)
    assert running() == before + 3
    all_logits(backend, [1, 2, 3])
    del backend
    assert running() == before


def test_weights_of_an_unsupported_dtype_become_float32():
    model = tiny_model(vocab_size=50, context=32)
    plain, double = (NativeBackend(one, threads=1) for one in (model, copy.deepcopy(model).double()))
    segments = [Segment(0, 0, [1, 2, 3, 4], 4)]
    assert torch.equal(plain.read(plain.new_cache(1), segments), double.read(double.new_cache(1), segments))
    assert double.types.matrices == "float32"


@pytest.mark.parametrize("segment", [Segment(0, -1, [1, 2]), Segment(0, 0, [1, 2], 3)])
def test_reads_outside_the_buffers_are_refused(segment):
    backend = NativeBackend(tiny_model(vocab_size=50, context=32), threads=1)
    with pytest.raises(ValueError, match="a segment that begins before 0"):
        backend.read(backend.new_cache(1), [segment])
    with pytest.raises(ValueError, match="two segments of one sequence"):
        backend.read(backend.new_cache(1), [Segment(0, 0, [1]), Segment(0, 1, [2])])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({2: [1]}, "a sequence outside of a cache of 2"),
        ({-1: [1]}, "a sequence outside of a cache of 2"),
        ({0: []}, f"a source of 0 tokens in a context of {LONG}"),
        ({0: [1], 1: [1] * (LONG + 1)}, f"a source of {LONG + 1} tokens in a context of {LONG}"),
        ({0: [1, 97]}, "a token outside of a vocabulary of 97"),
        ({0: [1], 1: [1, -1]}, "a token outside of a vocabulary of 97"),
    ],
)
def test_sources_outside_the_buffers_are_refused(sources, message):
    backend, _, _ = readings("m2m100", "f32", 1)
    cache = backend.new_cache(2)
    with pytest.raises(ValueError, match=message):
        backend.read_sources(cache, sources)
    for sequence in range(2):
        with pytest.raises(ValueError, match="a sequence without a source"):
            backend.read(cache, [Segment(sequence, 0, [1])])


def test_a_source_is_refused_without_an_encoder_and_in_a_cache_of_another_network():
    decoder, translator = readings("gpt2", "f32", 1)[0], readings("m2m100", "f32", 1)[0]
    with pytest.raises(ValueError, match="a source for a network without an encoder"):
        decoder.read_sources(decoder.new_cache(1), {0: [1]})
    with pytest.raises(ValueError, match="a cache of another network"):
        translator.read_sources(NativeCache(3, 4, 8, 1, LONG), {0: [1]})


@pytest.mark.parametrize(
    "switches",
    [
        {"causal": False}, {"norm": "layer"}, {"segments": 2}, {"head_transform": True},
        {"scaled_output": True, "pre_norm": False}, {"encoder_layers": 1, "positions": "sinusoidal"},
    ],
)  # fmt: skip
def test_other_shapes_are_left_to_pytorch(switches):
    assert native.supports(tiny_config()) and not native.supports(tiny_config(**switches))
