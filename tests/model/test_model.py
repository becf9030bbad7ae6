"""Invariants of attention, masks and cache, on random models of every family."""

import math
import os
import resource
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attncli.config import RopeScaling
from attncli.model import device
from attncli.model.attention import Attention, Observer, Rotary, rotary_frequencies
from attncli.model.cache import KVCache
from attncli.model.mask import causal_mask
from attncli.training import memory, saver
from tests.support.models import FAMILIES, Recorder, ids_of, tiny_config, tiny_model


@pytest.fixture
def model(family):
    return tiny_model(dtype=torch.float64, **family)


@torch.no_grad()
def test_the_observed_path_gives_the_logits_of_the_fast_path(model):
    ids = ids_of(40, batch=2)
    torch.testing.assert_close(model(ids, observe=Recorder()), model(ids), rtol=0, atol=1e-10)


@torch.no_grad()
def test_observed_and_fast_agree_with_a_cache(model):
    ids = ids_of(40, batch=2)
    fast, observed = model.new_cache(), model.new_cache()
    for start, end in ((0, 13), (13, 14), (14, 40)):
        expected = model(ids[:, start:end], fast)
        found = model(ids[:, start:end], observed, Recorder())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_weights_are_distributions_that_obey_mask_and_window(model):
    seen = Recorder()
    model(ids_of(20), observe=seen)
    assert sorted(seen.steps) == [0, 1, 2]
    for layer, steps in seen.steps.items():
        torch.testing.assert_close(steps.weights.sum(-1), torch.ones_like(steps.weights[..., 0]))
        query, key = torch.arange(20)[:, None], torch.arange(20)
        window = model.config.window_of(layer) or 20
        allowed = (key <= query) & (query - key < window)
        assert (steps.weights[:, :, ~allowed] == 0).all()
        assert (steps.weights[:, :, allowed] > 0).all()


@torch.no_grad()
def test_each_observed_step_is_the_computation_that_its_name_says(model):
    seen = Recorder()
    model(ids_of(12), observe=seen)
    for layer, steps in seen.steps.items():
        module = model.blocks[layer].attention
        groups = module.heads // module.kv_heads
        key, value = (x.repeat_interleave(groups, 1) for x in (steps.key, steps.value))
        scores = torch.einsum("bhtd,bhsd->bhts", steps.query, key) / math.sqrt(module.head_width)
        allowed = causal_mask(12, 12, module.window, scores.device)
        torch.testing.assert_close(steps.scores[:, :, allowed], scores[:, :, allowed])
        torch.testing.assert_close(steps.mixed, torch.einsum("bhts,bhsd->bhtd", steps.weights, value))
        added = seen.streams[layer + 1] - seen.streams[layer]
        torch.testing.assert_close(steps.output + seen.fed[layer], added)


@torch.no_grad()
def test_future_tokens_do_not_change_earlier_logits(model):
    ids = ids_of(30)
    changed = ids.clone()
    changed[:, 17:] = (changed[:, 17:] + 1) % 97
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :17], after[:, :17], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 17:], after[:, 17:])


@torch.no_grad()
def test_a_window_hides_earlier_positions():
    model = tiny_model(dtype=torch.float64, layers=1, window=5)
    ids = ids_of(20)
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 97
    differs = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-9
    assert differs.nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


@torch.no_grad()
def test_a_batch_equals_its_rows(model):
    ids = ids_of(25, batch=4)
    single = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), single, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    family=st.sampled_from(sorted(FAMILIES)), length=st.integers(1, 96), cuts=st.lists(st.integers(1, 95), max_size=6)
)
@torch.no_grad()
def test_cached_equals_uncached_for_every_split(family, length, cuts):
    model = tiny_model(dtype=torch.float64, **FAMILIES[family])
    ids = ids_of(length, batch=2)
    bounds = sorted({0, length, *(cut for cut in cuts if cut < length)})
    cache = model.new_cache()
    parts = [model(ids[:, a:b], cache) for a, b in pairwise(bounds)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), rtol=0, atol=1e-10)
    assert cache.length == length


@torch.no_grad()
def test_a_truncated_cache_discards_later_positions(model):
    ids, other = ids_of(30), ids_of(30, seed=1)
    cache = model.new_cache()
    model(ids, cache)
    cache.truncate(11)
    rest = model(other[:, 11:], cache)
    joined = torch.cat((ids[:, :11], other[:, 11:]), 1)
    torch.testing.assert_close(rest, model(joined)[:, 11:], rtol=0, atol=1e-10)


def test_the_cache_grows_by_doubling_up_to_its_limit():
    cache = KVCache(layers=1, limit=300)
    capacities = []
    for _ in range(300):
        cache.append(0, torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4))
        capacities.append(cache.nbytes // (2 * 2 * 4 * 4))
    assert sorted(set(capacities)) == [64, 128, 256, 300]
    with pytest.raises(ValueError, match="301 positions in a cache of 300"):
        cache.append(0, torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4))


def test_more_tokens_than_the_context_are_refused(model):
    with pytest.raises(ValueError, match="97 tokens in a context of 96"):
        model(ids_of(97))


@torch.no_grad()
def test_cross_attention_is_the_same_code_and_equals_torch():
    """With queries of one text, keys and values of another and no mask, the result equals torch's module."""
    config = tiny_config(qk_norm=False, qkv_bias=True, output_bias=True, kv_heads=4)
    module = Attention(config, 0, "cross").double()
    reference = nn.MultiheadAttention(32, 4, batch_first=True).double()
    linear = (module.query, module.key, module.value)
    reference.in_proj_weight.copy_(torch.cat([part.weight for part in linear]))
    reference.in_proj_bias.copy_(torch.cat([part.bias for part in linear]))
    reference.out_proj.load_state_dict(module.output.state_dict())
    generator = torch.Generator().manual_seed(0)
    x, source = (torch.randn(2, n, 32, generator=generator, dtype=torch.float64) for n in (5, 9))
    expected, weights = reference(x, source, source, average_attn_weights=False)
    seen, pair = Recorder("cross"), module.keys_values(source)
    torch.testing.assert_close(module(x, source=pair), expected)
    torch.testing.assert_close(module(x, source=pair, observe=seen), expected)
    torch.testing.assert_close(seen.steps[0].weights, weights)


@torch.no_grad()
def test_an_edge_that_an_observer_cuts_has_no_effect():
    """If every edge from token 4 to later tokens is cut, replacing token 4 changes no later logit."""

    class Cut(Observer):
        def scores(self, layer, scores, module):
            scores = scores.clone()
            scores[:, :, 5:, 4] = -math.inf
            return scores

    model = tiny_model(dtype=torch.float64)
    ids = ids_of(12)
    changed = ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 97
    torch.testing.assert_close(model(ids, observe=Cut())[:, 5:], model(changed, observe=Cut())[:, 5:], rtol=0, atol=0)
    assert not torch.allclose(model(ids)[:, 5:], model(changed)[:, 5:])


# The available memory


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000000", "memory.max": "2000000"}, 1_000_000),
        ("0::/\n", {"memory.max": "3000000\n"}, 3_000_000),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("5:cpu:/a\n4:memory,hugetlb:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4000000\n"}, 4_000_000),
        ("4:memory:/of/the/host\n", {"memory/memory.limit_in_bytes": "5000000\n"}, 5_000_000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("", {}, None),
    ],
)
def test_the_memory_is_the_machine_s_or_the_limit_of_the_control_group(tmp_path, monkeypatch, membership, files, limit):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(device, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert device.physical_memory() == (limit or machine)
    assert saver.physical_memory() == memory.memory_of(torch.device("cpu")) == device.physical_memory()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (900_000, resource.RLIM_INFINITY))
    assert device.physical_memory() == 900_000
    monkeypatch.setattr(device, "_MEMBERSHIP", tmp_path / "nowhere")
    assert device.physical_memory() == 900_000


SLOWED = {  # for the frequencies 1, 1/2, 1/4 and 1/8, which make 15.9, 7.96, 3.98 and 1.99 turns in 100 tokens
    "linear": (RopeScaling(kind="linear", factor=4.0), [1 / 4, 1 / 8, 1 / 16, 1 / 32]),
    "llama3": (  # the third makes 3.979 turns, which is 0.6596 of the way from 2 to 5
        RopeScaling(kind="llama3", factor=4.0, original_context=100, low_frequency=2.0, high_frequency=5.0),
        [1, 1 / 2, (0.659625 + 0.340375 / 4) / 4, 1 / 32],
    ),
    "yarn": (  # 8 turns are between the first and the second, 2.5 turns between the third and the fourth
        RopeScaling(kind="yarn", factor=4.0, original_context=100, beta_fast=8.0, beta_slow=2.5),
        [1, (2 / 3 + 1 / 3 / 4) / 2, (1 / 3 + 2 / 3 / 4) / 4, 1 / 32],
    ),
    "yarn, not truncated": (  # 8 turns are at log2(100 / 16 pi) = 0.99236, 2.5 at log2(100 / 5 pi) = 2.67043
        RopeScaling(kind="yarn", factor=4.0, original_context=100, beta_fast=8.0, beta_slow=2.5, truncate=False),
        [1, (0.995447 + 0.004553 / 4) / 2, (0.399525 + 0.600475 / 4) / 4, 1 / 32],
    ),
}


@pytest.mark.parametrize("name", SLOWED)
def test_scaled_rotary_frequencies_equal_values_computed_by_hand(name):
    scaling, expected = SLOWED[name]
    found = rotary_frequencies(8, 16.0, scaling)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)
    table = Rotary.table(torch.arange(50), 8, 16.0, scaling)
    angles = torch.outer(torch.arange(50.0), found).repeat(1, 2)
    torch.testing.assert_close(table.cos, angles.cos())
    torch.testing.assert_close(table.sin[:, 4:], angles.sin()[:, 4:])


def test_yarn_multiplies_scores_by_the_square_of_its_factor():
    loud = RopeScaling(kind="yarn", factor=4.0, original_context=100, attention_factor=1.5)
    x = torch.randn(1, 1, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tables = [Rotary.table(torch.arange(5), 8, 16.0, replace(loud, attention_factor=size)) for size in (1.0, 1.5)]
    plain, scaled = (table.at(slice(0, 5), x.dtype).apply(x) for table in tables)
    torch.testing.assert_close(scaled @ scaled.mT, 2.25 * plain @ plain.mT, rtol=1e-5, atol=1e-5)
