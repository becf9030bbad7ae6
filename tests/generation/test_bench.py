"""The benchmark: bytes counted by hand, medians by a scripted clock, and the screen."""

import json
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncli.generation import bench
from attncli.generation.bench import doubling, growing, measure
from attncli.generation.measurements import Bandwidth, Bench, Generation, LeftOut, Prefill, Step, Timing
from attncli.model import native
from attncli.model.backend import TorchBackend
from attncli.model.count import NumberTypes, cache_bytes_per_step, cache_bytes_per_token, weight_bytes_per_step
from attncli.render.bench import bench_document, bench_screen, gigabytes, rate, span
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.checkpoints import write_random_model
from tests.support.commands import ask, keys_of
from tests.support.models import tiny_config, tiny_model
from tests.support.places import ROOT
from tests.support.screens import harmless, shown, widest
from tests.support.texts import HOSTILE, story

FLOATS = NumberTypes("float32", "float32", "float32")
HALVES = NumberTypes("bfloat16", "float32", "float32")
INTEGERS = NumberTypes("int8", "float32", "float32")
TOKENIZER = train_tokenizer([story(300)], "bpe", 300)


# Bytes, by hand: 3 layers of 32 x (32 + 16 + 16 + 32 + 3 x 48) numbers, a head of 97 x 32, a row of the embedding,
# 80 numbers of norms in each layer, and 32 of the final norm


@pytest.mark.parametrize(
    ("types", "texts", "expected"),
    [
        (FLOATS, 1, 4 * (3 * 7680 + 3104 + 32) + 4 * 272),
        (HALVES, 1, 2 * (3 * 7680 + 3104 + 32) + 4 * 272),
        (HALVES, 16, 2 * (3 * 7680 + 3104 + 16 * 32) + 4 * 272),
        (INTEGERS, 1, 3 * 7680 + 3104 + 32 + 4 * (3 * 224 + 97 + 1) + 4 * 272),
        (INTEGERS, 2, 3 * 7680 + 3104 + 64 + 4 * (3 * 224 + 97 + 2) + 4 * 272),
    ],
)
def test_the_weights_that_a_step_reads_counted_by_hand(types, texts, expected):
    assert weight_bytes_per_step(tiny_config(), types, texts) == expected


@pytest.mark.parametrize(
    ("changes", "types", "before", "expected"),
    [
        ({}, FLOATS, 0, 3 * 2 * 2 * 8 * 4),
        ({}, FLOATS, 5, 6 * 3 * 2 * 2 * 8 * 4),
        ({}, NumberTypes("float16", "float16", "float16"), 5, 6 * 3 * 2 * 2 * 8 * 2),
        ({"window": 4, "window_from": 1}, FLOATS, 5, (6 + 4 + 4) * 2 * 2 * 8 * 4),
        ({"window": 4, "window_from": 1}, FLOATS, 2, 3 * 3 * 2 * 2 * 8 * 4),
    ],
)
def test_the_keys_and_values_that_a_token_reads_counted_by_hand(changes, types, before, expected):
    assert cache_bytes_per_step(tiny_config(**changes), types, before) == expected


def test_a_step_reads_all_tensors_but_the_rows_of_other_tokens(family):
    """Compares with the tensors of a real model of every family, for one text."""
    model = tiny_model(**family)
    tables = [model.embedding.weight] if model.head is not None else []
    tables += [model.position.weight] if model.position is not None else []
    rows = 2 if model.position is not None else 1
    every = sum(parameter.numel() for parameter in model.parameters()) - sum(table.numel() for table in tables)
    assert weight_bytes_per_step(model.config, FLOATS) == 4 * (every + rows * model.config.width)


@given(st.integers(0, 95))
def test_without_a_window_a_token_reads_the_whole_cache(before):
    config = tiny_config()
    assert cache_bytes_per_step(config, FLOATS, before) == (before + 1) * cache_bytes_per_token(config, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_backend_names_its_number_types(dtype):
    model = tiny_model(dtype=getattr(torch, dtype))
    assert TorchBackend(model).types == NumberTypes(dtype, dtype, dtype)


@pytest.mark.usefixtures("in_c")
def test_the_backend_in_c_names_its_number_types():
    assert native.NativeBackend(tiny_model(), threads=1).types == FLOATS
    assert native.NativeBackend(tiny_model(dtype=torch.bfloat16), threads=1).types == HALVES
    assert native.NativeBackend(tiny_model(), int8=True, threads=1).types == INTEGERS


# Measurements


@given(st.integers(1, 500), st.integers(1, 10**6))
def test_sizes_grow_up_to_the_last(first, last):
    sizes, doubled = growing(first, last), doubling(first, last)
    assert sizes[-1] == last
    assert all(2 * one <= other for one, other in pairwise(sizes))
    assert all(2 * one == other for one, other in pairwise(doubled))
    assert doubled[0] == min(first, last)
    assert doubled[-1] <= last < 2 * max(doubled[-1], first)


class Clocked:
    """A backend with its own clock: a call takes a millisecond, and one more for every token."""

    exact = False
    device = torch.device("cpu")
    types = FLOATS

    def __init__(self, **changes):
        self.config = tiny_config(vocab_size=300, **changes)
        self.now = 0.0
        self.calls = []

    def perf_counter(self):
        return self.now

    def new_cache(self, sequences, positions=1):
        return SimpleNamespace(copy=lambda source, target, length: None)

    def read(self, cache, pieces):
        assert all(piece.end <= self.config.context for piece in pieces)
        tokens = sum(len(piece.ids) for piece in pieces)
        self.now += 0.001 * (1 + tokens)
        self.calls.append(tokens)
        return torch.zeros(len(pieces), 300)


@pytest.fixture
def clocked(monkeypatch):
    """Makes a Clocked and measures time by its clock."""

    def make(**changes):
        made = Clocked(**changes)
        monkeypatch.setattr(bench, "time", made)
        monkeypatch.setattr(bench, "_SUMMED_BYTES", 4000)
        return made

    return make


def test_measured_times_equal_the_clock(clocked):
    found = measure(clocked(context=300), TOKENIZER, 1000)
    assert [(one.tokens, round(one.tokens_per_second, 6)) for one in found.prefill] == [
        (tokens, round(tokens / (0.001 * (1 + tokens)), 6)) for tokens in (32, 128, 300)
    ]
    assert [(one.texts, one.before) for one in found.decode] == [(1, 0), (1, 128), (1, 299)]
    assert [one.timing.seconds for one in found.decode] == pytest.approx([0.002] * 3)
    assert [(one.texts, one.before) for one in found.batches] == [(n, 128) for n in (1, 2, 4, 8, 16)]
    assert [one.tokens_per_second for one in found.batches] == pytest.approx(
        [1000 * n / (n + 1) for n in (1, 2, 4, 8, 16)]
    )
    for one, tokens in zip(found.generation, (16, 32, 64, 128, 256), strict=True):
        assert one.tokens == tokens
        assert one.cached.seconds == pytest.approx(0.002 * tokens)
        assert one.uncached.seconds == pytest.approx(0.001 * (tokens + tokens * (tokens + 1) / 2))
        assert one.times == pytest.approx(0.5 + (tokens + 1) / 4)
    assert found.left_out == ()
    assert found.repetitions[0] >= 3
    assert [one.cache_bytes for one in found.batches] == [
        n * cache_bytes_per_step(tiny_config(), FLOATS, 128) for n in (1, 2, 4, 8, 16)
    ]
    assert found.decode[0].weight_bytes == weight_bytes_per_step(tiny_config(vocab_size=300), FLOATS)


@pytest.mark.parametrize("seconds", [0.1, 1, 3, 10])
def test_sizes_that_would_take_too_long_are_skipped_and_named(clocked, seconds):
    backend = clocked(context=2048)
    found = measure(backend, TOKENIZER, seconds)
    smallest = 16 * 0.002 + 4 * 0.033 + 4 * 0.002 + 0.2 + 3 * 0.002  # the warm-up, and the smallest size of each part
    assert backend.now <= max(1.3 * seconds, smallest)
    named = {one.part: one.size for one in found.left_out}
    sizes = {
        "prefill": (growing(32, 2048), [one.tokens for one in found.prefill]),
        "decode": ([0, *growing(128, 2047)], [one.before for one in found.decode]),
        "batches": ([1, 2, 4, 8, 16], [one.texts for one in found.batches]),
        "generation": (doubling(16, 2048), [one.tokens for one in found.generation]),
    }
    for part, (every, measured) in sizes.items():
        assert measured == every[: len(measured)]
        assert named.get(part) == (every[len(measured)] if len(measured) < len(every) else None)
    assert all(measured for part, (_, measured) in sizes.items() if part != "generation")
    assert named  # every budget here is too short for all sizes


@pytest.mark.parametrize("context", [1, 2, 17, 129])
def test_no_size_exceeds_a_small_context(clocked, context):
    found = measure(clocked(context=context), TOKENIZER, 100)
    assert found.prefill[-1].tokens == context
    assert found.decode[-1].before == context - 1
    assert found.generation[-1].tokens <= context


def test_progress_reports_the_next_size_and_the_elapsed_share(clocked):
    told = []
    measure(clocked(), TOKENIZER, 5, lambda *now: told.append(now))
    assert [part for part, _, _ in told] == sorted(
        (part for part, _, _ in told), key=["bandwidth", "prefill", "decode", "batches", "generation"].index
    )
    shares = [share for _, _, share in told]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


@pytest.mark.parametrize(
    ("until", "at_last", "most", "repetitions", "seconds"),
    [(4, 100, 9, 3, 3.0), (4, 100, 2, 2, 3.0), (100, 100, 4, 4, 2.0), (4, 4, 9, 1, 5.0)],
)
def test_a_median_is_over_the_repetitions(monkeypatch, until, at_last, most, repetitions, seconds):
    """Rounds take 5, 1, 3 and 1 seconds.

    There are at least three unless the time is up, and more while time remains.
    """
    now = iter([0, 5, 5, 6, 6, 9, 9, 10])
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert bench._in_turn([lambda: None], until, at_last, most) == [Timing(seconds, repetitions)]


# The screen

FOUND = Bench(
    device="cpu",
    engine="native",
    threads=1,
    most_threads=2,
    types=HALVES,
    parameters=12_345_678,
    context=512,
    seed=0,
    given=20.0,
    bandwidth=Bandwidth("sum", 256_000_000, 1, Timing(0.0256, 30)),
    prefill=(Prefill(32, Timing(0.016, 50)), Prefill(128, Timing(0.032, 40)), Prefill(512, Timing(0.128, 10))),
    decode=(
        Step(1, 0, 24_000_000, 12_288, Timing(0.003, 50)),
        Step(1, 128, 24_000_000, 1_585_152, Timing(0.004, 50)),
        Step(1, 511, 24_000_000, 6_291_456, Timing(0.0025, 50)),
    ),
    batches=(
        Step(1, 128, 24_000_000, 1_585_152, Timing(0.004, 50)),
        Step(16, 128, 24_012_288, 25_362_432, Timing(0.016, 20)),
    ),
    generation=(
        Generation(16, Timing(0.05, 9), Timing(0.1, 9)),
        Generation(32, Timing(0.1, 5), Timing(0.4, 5)),
        Generation(64, Timing(0.2, 3), Timing(1.5, 3)),
    ),
    left_out=(LeftOut("generation", 128),),
)
GOLDEN = """\
m · 12.3M parameters · context 512
cpu in C · 1 thread, 2 for many tokens · bfloat16 · medians of 3 to 50 runs
random tokens, seed 0

Prefill  a prompt read at once
  tokens  tokens/s
      32        2k  ████████████████████
     128        4k  ████████████████████████████████████████
     512        4k  ████████████████████████████████████████

Decode  one token, by the number of tokens before it
  before  tokens/s
       0       333  █████████████████████████████████▍
     128       250  █████████████████████████
     511       400  ████████████████████████████████████████

Batches  one token for each text of a batch, after 128
  texts  tokens/s  of one
      1       250    1.0x  ██████████
     16        1k    4.0x  ████████████████████████████████████████

Cache  a text generated with and without the cache
  tokens    with  without  times
      16   50 ms   100 ms   2.0x  ██████████▋
      32  100 ms   400 ms   4.0x  █████████████████████▍
      64  200 ms    1.5 s   7.5x  ████████████████████████████████████████
From 32 to 64: 2 times the tokens take 2.0 times as long cached, 3.8 uncached.

Memory  bytes read for a token
  texts  before  weights    cache  GB/s  share
      1       0  24.0 MB  12.3 kB   8.0    80%  █████████████████████████▋
      1     128  24.0 MB   1.6 MB   6.4    64%  ████████████████████▌
      1     511  24.0 MB   6.3 MB  12.1   121%  ████████████████████████████████
     16     128   1.5 MB   1.6 MB   3.1    31%  █████████▉
100% is 10.0 GB/s: 256.0 MB summed by 1 thread.
More than 100%: data in the processor's caches is read faster than data in
memory.
Not measured within 20s: texts of 128 tokens and more. Set a longer --time.
"""


def test_the_screen_looks_like_this():
    drawn = shown(bench_screen(FOUND, "m", 80), 80)
    assert "".join(f"{line.rstrip()}\n" for line in drawn.splitlines()) == GOLDEN


def changed(**changes):
    return Bench(**{**{name: getattr(FOUND, name) for name in FOUND.__dataclass_fields__}, **changes})


SLOW = changed(
    device="cuda:0",
    engine="torch",
    threads=None,
    most_threads=None,
    context=131_072,
    bandwidth=Bandwidth("copy", 512_000_000, None, Timing(0.000128, 50)),
    prefill=(Prefill(32, Timing(77.7, 3)), Prefill(131_072, Timing(7777.7, 1))),
    decode=(Step(1, 131_071, 140_123_456_789, 60_456_789_012, Timing(0.06, 50)),),
    generation=(Generation(16, Timing(0.00005, 3), Timing(12_345.6, 3)),),
    left_out=tuple(LeftOut(part, 131_072) for part in ("prefill", "decode", "batches", "generation")),
)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("found", [FOUND, SLOW, changed(generation=(), left_out=())], ids=["cpu", "gpu", "short"])
def test_the_screen_fits_and_is_harmless(found, width):
    drawn = shown(bench_screen(found, HOSTILE, width), width)
    assert widest(drawn) <= width
    assert harmless(drawn)
    for step in (*found.decode, *found.batches):
        assert rate(step.tokens_per_second) in drawn
    for one in found.generation:
        assert span(one.uncached.seconds) in drawn
    assert "…" not in drawn.split("Prefill")[1]


def test_the_screen_says_what_100_percent_means():
    drawn = shown(bench_screen(SLOW, "m", 80), 80)
    assert "100% is 4,000 GB/s: 256.0 MB copied, counted as read and written." in drawn
    below = shown(bench_screen(changed(decode=FOUND.decode[:2]), "m", 80), 80)
    assert "More than 100%" in shown(bench_screen(FOUND, "m", 80), 80)
    assert "More than 100%" not in below


@pytest.mark.parametrize(
    ("draw", "value", "text"),
    [
        (rate, 7.234, "7.23"), (rate, 99.96, "100"), (rate, 12_345, "12.3k"), (gigabytes, 10.82e9, "10.8"),
        (gigabytes, 3.35e12, "3,350"), (span, 0.0000123, "12.3 µs"),
        (span, 0.01234, "12.3 ms"), (span, 2.5, "2.5 s"), (span, 0.9999, "1 s"), (span, 1234.5, "1,234 s"),
    ],
)  # fmt: skip
def test_rates_and_times_have_three_digits(draw, value, text):
    assert draw(value) == text


def test_the_document_has_every_figure_and_its_keys_are_explained():
    document = json.loads(json.dumps(bench_document(FOUND, "m"), allow_nan=False))
    assert document["decode"][1] == {
        "texts": 1,
        "before": 128,
        "tokens_per_second": 250.0,
        "seconds": 0.004,
        "repetitions": 50,
        "weight_bytes_per_token": 24_000_000.0,
        "cache_bytes_per_token": 1_585_152.0,
        "bytes_per_second": pytest.approx(25_585_152 / 0.004),
        "bandwidth_share": pytest.approx(25_585_152 / 0.004 / 1e10),
    }
    assert document["batches"][1]["weight_bytes_per_token"] == 24_012_288 / 16
    assert document["generation"][2]["times"] == pytest.approx(7.5)
    assert document["left_out"] == [{"part": "generation", "size": 128}]
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    row = page.partition("\n## attncli bench\n")[2].partition("\n## ")[0]
    found = keys_of(document) | set(document["types"]) | {"parameters"}
    assert found - set(re.findall(r"`(\w+)`", row)) == set()


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bench")
    write_random_model(place / "checkpoints/m", TOKENIZER)
    return place


@pytest.mark.parametrize("built", ["0", "1"])
def test_the_command_measures_the_model(folder, monkeypatch, capsys, built):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(bench, "_SUMMED_BYTES", 400_000)
    monkeypatch.setattr(native, "available", lambda: built == "1" and native._functions() is not None)
    code, out, err = ask(capsys, "bench", "m", "--time", "0.2")
    assert (code, err) == (0, "")
    assert "m · " in out
    assert "context 96" in out
    assert max(map(len, out.splitlines())) <= 80
    document = json.loads(ask(capsys, "bench", "--time", "0.2", "--threads", "1", "--json")[1])
    assert document["engine"] == ("native" if native.available() else "torch")
    assert document["threads"] == document["most_threads"] == 1
    assert document["types"]["matrices"] == "float32"
    assert document["prefill"][0]["tokens"] == 32
    steps = [*document["decode"], *document["batches"]]
    assert steps[0]["weight_bytes_per_token"] == weight_bytes_per_step(tiny_config(vocab_size=300), FLOATS)
    for step in steps:
        speed = (step["weight_bytes_per_token"] + step["cache_bytes_per_token"]) * step["tokens_per_second"]
        assert step["bytes_per_second"] == pytest.approx(speed)
        assert step["bandwidth_share"] == pytest.approx(speed / document["bandwidth"]["bytes_per_second"])
    assert all(figure["repetitions"] >= 1 for figure in (*steps, *document["prefill"], document["bandwidth"]))


@pytest.mark.usefixtures("in_c")
def test_weights_of_eight_bits_are_counted_as_such(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(bench, "_SUMMED_BYTES", 400_000)
    document = json.loads(ask(capsys, "bench", "--dtype", "int8", "--time", "0.1", "--json")[1])
    assert document["types"] == {"matrices": "int8", "vectors": "float32", "cache": "float32"}
    expected = weight_bytes_per_step(tiny_config(vocab_size=300), INTEGERS)
    assert document["decode"][0]["weight_bytes_per_token"] == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bench", "nothing"], 3, "no model 'nothing'"),
        (["bench", "m", "-m", "n"], 2, "two models"),
        (["bench", "m", "--time", "0"], 2, "no time to measure"),
        (["bench", "m", "--time", "soon"], 2, "is not a time"),
        (["bench", "m", "--threads", "0"], 2, "threads"),
        (["bench", "m", "--threads", "100000"], 2, "more than the"),
        (["bench", "m", "--dtype", "int7"], 2, "is not a type"),
    ],
)
def test_an_error_has_two_lines(folder, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(folder)
    found, out, err = ask(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 2
