"""Sampling: distributions computed by hand, parity with transformers, and the draw."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.config.option import options_of
from attncli.errors import UsageProblem
from attncli.generation import sampling
from attncli.generation.sampling import (
    Seen,
    add_bias,
    best,
    draw,
    filtered,
    generators,
    keep_best,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    needs_seen,
    next_token,
    penalize_presence,
    penalize_repetition,
    scale_by_temperature,
    steps,
    uniforms,
)
from tests.support.lazily import transformers
from tests.support.sampling import ALL, EACH, INF, logits_of, random_logits

BELOW_ONE = 1 - 2**-24  # the largest float32 below 1
SMALLEST = 5e-324  # the smallest number above 0


def probabilities(logits):
    return [round(value, 6) for value in logits.softmax(-1)[0].tolist()]


def kept(logits):
    return [at for at, value in enumerate(logits[0].tolist()) if value > -INF]


def seen_of(text, generated=None):
    """Returns the masks of one row or several from lists of booleans."""
    text = torch.tensor(text)
    return Seen(text, torch.zeros_like(text) if generated is None else torch.tensor(generated))


def finite_logits(most=40):
    value = st.floats(-30, 30, width=32)
    return st.lists(value, min_size=1, max_size=most).map(lambda values: torch.tensor([values]))


# Each function, by hand


def test_the_penalty_divides_positive_logits_of_seen_tokens_and_multiplies_negative_ones():
    logits = torch.tensor([[2.0, -2.0, 0.0, 3.0, -3.0]])
    seen = torch.tensor([[True, True, True, False, False]])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 0.0, 3.0, -3.0]]
    assert penalize_repetition(logits, seen, 0.5).tolist() == [[4.0, -1.0, 0.0, 3.0, -3.0]]
    assert penalize_repetition(logits, torch.zeros_like(seen), 2.0).tolist() == logits.tolist()


def test_each_row_is_penalized_for_its_own_tokens():
    seen = torch.tensor([[True, False], [False, True]])
    assert penalize_repetition(torch.ones(2, 2), seen, 4.0).tolist() == [[0.25, 1.0], [1.0, 0.25]]


def test_the_presence_penalty_is_subtracted_once_from_each_generated_token():
    logits = torch.tensor([[2.0, -2.0, 0.0, -INF]])
    generated = torch.tensor([[True, True, False, True]])
    assert penalize_presence(logits, generated, 0.5).tolist() == [[1.5, -2.5, 0.0, -INF]]
    assert penalize_presence(logits, generated, -0.5).tolist() == [[2.5, -1.5, 0.0, -INF]]


def test_a_bias_is_added_to_its_token_in_every_row_and_minus_infinity_bans():
    logits = torch.tensor([[2.0, -2.0, 0.0], [1.0, 1.0, 1.0]])
    assert add_bias(logits, ((0, 1.5), (2, -INF))).tolist() == [[3.5, -2.0, -INF], [2.5, 1.0, -INF]]
    assert logits.tolist() == [[2.0, -2.0, 0.0], [1.0, 1.0, 1.0]]
    with pytest.raises(IndexError):
        add_bias(logits, ((3, 1.0),))


def test_seen_tokens_are_those_of_the_prompt_and_every_generated_token():
    seen = Seen.of([[1, 1], [0], []], 4)
    assert seen.text.int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert not seen.generated.any()
    seen.add(torch.tensor([3, 0, 2]))
    assert seen.text.int().tolist() == [[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert seen.generated.int().tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]


def test_the_repetition_penalty_looks_at_the_prompt_too_and_the_presence_penalty_does_not():
    logits, seen = torch.ones(1, 3), Seen.of([[0]], 3)
    seen.add(torch.tensor([1]))
    assert filtered(logits, replace(ALL, repetition_penalty=2.0), seen).tolist() == [[0.5, 0.5, 1.0]]
    assert filtered(logits, replace(ALL, presence_penalty=0.25), seen).tolist() == [[1.0, 0.75, 1.0]]
    assert [needs_seen(replace(ALL, **on)) for on in ({}, {"repetition_penalty": 2.0}, {"presence_penalty": -1})] == [
        False, True, True,
    ]  # fmt: skip


def test_a_temperature_of_one_half_squares_the_probabilities():
    assert probabilities(scale_by_temperature(logits_of(0.5, 0.25, 0.25), 0.5)) == [0.666667, 0.166667, 0.166667]
    assert probabilities(scale_by_temperature(logits_of(0.64, 0.36), 2.0)) == [0.571429, 0.428571]
    assert probabilities(scale_by_temperature(logits_of(0.7, 0.2, 0.1), 1.0)) == [0.7, 0.2, 0.1]


def test_top_k_keeps_the_k_largest():
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert probabilities(keep_top_k(logits, 2)) == [0.0, 0.571429, 0.0, 0.428571]
    assert probabilities(keep_top_k(logits, 1)) == [0.0, 1.0, 0.0, 0.0]
    for k in (4, 5, 10**6):
        assert torch.equal(keep_top_k(logits, k), logits)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.3, [1]),
        (0.5, [1]),  # its probability is p
        (0.501, [1, 3]),
        (0.75, [1, 3]),
        (0.76, [0, 1, 3]),
        (0.9, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_p(p, expected):
    logits = logits_of(0.125, 0.5, 0.125, 0.25)
    assert kept(keep_top_p(logits, p)) == expected


def test_top_p_leaves_the_kept_ones_in_proportion():
    assert probabilities(keep_top_p(logits_of(0.1, 0.6, 0.3), 0.8)) == [0.0, 0.666667, 0.333333]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, [0, 1, 2, 3]), (0.2, [0, 1, 2, 3]), (0.3, [1, 2, 3]), (0.6, [1, 3]), (1.0, [1])]
)
def test_min_p_keeps_tokens_at_least_p_times_as_probable_as_the_best(p, expected):
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert kept(keep_min_p(logits, p)) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.2, [1]),  # 0.5, 0.25, 0.125, 0.125 have an entropy of 1.75 bits, and surprises of 1, 2, 3 and 3 bits
        (0.25, [1]),
        (0.3, [0, 1]),
        (0.75, [0, 1]),
        (0.8, [0, 1, 2]),
        (0.9, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_typical_keeps_tokens_whose_information_is_near_the_entropy(p, expected):
    assert kept(keep_typical(logits_of(0.5, 0.25, 0.125, 0.125), p)) == expected


def test_typical_ignores_tokens_without_probability():
    left = keep_typical(logits_of(0.5, 0.0, 0.5), 0.99)
    assert probabilities(left) == [0.5, 0.0, 0.5]


def test_the_best_alone_is_the_first_of_the_largest():
    assert keep_best(torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])).tolist() == [
        [-INF, 3.0, -INF],
        [2.0, -INF, -INF],
    ]


def test_the_best_come_in_order_and_of_equal_ones_the_first():
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert best(logits, 3).tolist() == [[1, 3, 2], [4, 0, 1]]
    assert best(logits, 9).tolist() == [[1, 3, 2, 4, 0], [4, 0, 1, 2, 3]]


def test_rows_are_filtered_apart():
    logits = torch.cat((logits_of(0.7, 0.2, 0.1), logits_of(0.1, 0.2, 0.7)))
    for keep in (lambda x: keep_top_k(x, 2), lambda x: keep_top_p(x, 0.8), lambda x: keep_min_p(x, 0.25)):
        together = keep(logits)
        assert torch.equal(together, torch.cat([keep(logits[:1]), keep(logits[1:])]))
        assert [kept(together[:1]), kept(together[1:])] == [[0, 1], [1, 2]]


def test_the_filters_are_applied_in_order():
    """Temperature 0.5 squares 0.5, 0.3, 0.2 to 0.658, 0.237, 0.105; then top-p 0.65 keeps one token, 0.7 keeps two."""
    logits = logits_of(0.5, 0.3, 0.2)
    assert kept(filtered(logits, replace(ALL, temperature=0.5, top_p=0.65))) == [0]
    assert kept(filtered(logits, replace(ALL, temperature=0.5, top_p=0.7))) == [0, 1]
    assert kept(filtered(logits, replace(ALL, top_p=0.65))) == [0, 1]
    # Top-k keeps 0.625 and 0.375, of which the first alone reaches top-p 0.6. Without top-k, it would not.
    assert kept(filtered(logits, replace(ALL, top_k=2, top_p=0.6))) == [0]
    assert kept(filtered(logits, replace(ALL, top_p=0.6))) == [0, 1]
    # The penalty is applied first: with halved logits, the best token becomes the second.
    logits, seen = torch.tensor([[2.0, 1.5]]), seen_of([[True, False]])
    assert kept(filtered(logits, replace(ALL, top_k=1, repetition_penalty=2.0), seen)) == [1]
    assert kept(filtered(logits, replace(ALL, top_k=1, repetition_penalty=2.0))) == [0]
    # A bias of 1 makes -0.5 positive, so the penalty halves it. Then the presence penalty subtracts 0.1.
    config = replace(ALL, logit_bias=((0, 1.0),), repetition_penalty=2.0, presence_penalty=0.125)
    assert filtered(torch.tensor([[-0.5]]), config, seen_of([[True]], [[True]])).tolist() == [[0.125]]
    # Of the four tokens that min-p keeps, typical keeps the nearest to their entropy; further tokens would raise it.
    config = replace(ALL, min_p=0.2, typical=0.15)
    assert kept(filtered(logits_of(0.4, 0.2, 0.1, 0.1, *[0.001] * 200), config)) == [1]
    assert kept(filtered(logits_of(0.4, 0.2, 0.1, 0.1, *[0.001] * 200), replace(config, min_p=0.0))) == [2, 3]


def test_every_enabled_step_is_listed_in_order():
    config = SampleConfig(
        temperature=0.7, top_k=9, top_p=0.9, min_p=0.1, typical=0.9, repetition_penalty=1.1, presence_penalty=0.1,
        logit_bias=((1, 1.0),),
    )  # fmt: skip
    logits, seen = random_logits(2, 20), Seen.of([[1], [2]], 20)
    names = [
        "logit-bias",
        "repetition-penalty",
        "presence-penalty",
        "temperature",
        "top-k",
        "top-p",
        "min-p",
        "typical",
    ]
    told = list(steps(logits, config, seen))
    assert [name for name, _ in told] == names
    assert torch.equal(told[-1][1], filtered(logits, config, seen))
    assert [name for name, _ in steps(logits, replace(config, temperature=0.0), seen)] == names[:4]
    assert not list(steps(logits, ALL, seen))


def test_filters_that_are_off_change_no_probability():
    logits = random_logits(3, 50)
    torch.testing.assert_close(filtered(logits, ALL).softmax(-1), logits.softmax(-1))
    assert torch.equal(filtered(logits, ALL, Seen.of([[1], [2], [3]], 50)), logits)


# Edge cases


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=30), k=st.integers(1, 40))
@example(values=[1] * 30, k=7)
def test_top_k_keeps_exactly_k_even_if_logits_are_equal(values, k):
    logits = torch.tensor([values], dtype=torch.float32)
    at = kept(keep_top_k(logits, k))
    assert len(at) == min(k, len(values))
    left = [value for i, value in enumerate(values) if i not in at]
    assert not left or max(left) <= min(values[i] for i in at)


@settings(deadline=None, max_examples=100)
@given(logits=finite_logits(), p=st.floats(0, 1, exclude_min=True))
@example(logits=torch.zeros(1, 20), p=SMALLEST)
@example(logits=torch.tensor([[0.0, 1.0]]), p=1e-45)
def test_top_p_keeps_the_best_and_no_more_than_it_needs(logits, p):
    left = keep_top_p(logits, p)
    assert left.amax() == logits.amax()
    exact = logits.double().softmax(-1)
    least_kept = exact.masked_fill(left == -INF, INF).amin()
    share = exact.masked_fill(left == -INF, 0).sum()
    assert share >= p - 1e-6
    assert share - least_kept <= p + 1e-6


@settings(deadline=None, max_examples=100)
@given(logits=finite_logits(), p=st.floats(0, 1))
@example(logits=torch.zeros(1, 3), p=1.0)
@example(logits=torch.tensor([[0.0, -30.0]]), p=SMALLEST)
def test_min_p_keeps_the_best(logits, p):
    assert keep_min_p(logits, p).amax() == logits.amax()


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-45, 1e-46, 1e-300, SMALLEST])
def test_a_tiny_temperature_is_the_most_probable_token(temperature):
    logits = random_logits(4, 30)
    config = SampleConfig(temperature=temperature)
    chances = filtered(logits, config).softmax(-1)
    assert chances.isfinite().all()
    torch.testing.assert_close(chances.sum(-1), torch.ones(4))
    assert torch.equal(next_token(logits, config, torch.tensor([0.0, 0.3, 0.6, BELOW_ONE])), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e30, 1e39, 1e300])
def test_a_huge_temperature_makes_all_tokens_equal(temperature):
    chances = filtered(random_logits(4, 25), SampleConfig(temperature=temperature)).softmax(-1)
    torch.testing.assert_close(chances, torch.full((4, 25), 0.04))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1e-30, 1e30])
def test_the_largest_logits_of_all_do_not_overflow(temperature):
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, 0.0, largest / 2]])
    chances = filtered(logits, SampleConfig(temperature=temperature)).softmax(-1)
    assert chances.isfinite().all()
    torch.testing.assert_close(chances.sum(-1), torch.ones(1))


def test_temperature_zero_is_the_most_probable_token_of_each_row():
    logits = random_logits(50, 30)
    assert torch.equal(next_token(logits, SampleConfig(temperature=0), torch.rand(50)), logits.argmax(-1))
    penalized = next_token(
        torch.tensor([[3.0, 2.0]]),
        SampleConfig(temperature=0, repetition_penalty=2.0),
        torch.zeros(1),
        seen_of([[True, False]]),
    )
    assert penalized.tolist() == [1]


@pytest.mark.parametrize(
    "moves",
    [{}, {"presence_penalty": 2.0}, {"logit_bias": ((3, -INF), (4, 2.0))}, {"repetition_penalty": 1.5}],
    ids=lambda moves: next(iter(moves), "nothing"),
)
def test_at_temperature_zero_only_penalties_and_biases_apply(moves):
    """In transformers too, greedy decoding uses no filters; typical could remove the most probable token."""
    logits = random_logits(50, 30).round()  # makes many logits equal
    seen = Seen.of([[i % 30] for i in range(50)], 30)
    seen.add(logits.argmax(-1))
    config = replace(ALL, temperature=0.0, **moves)
    ids = next_token(logits, config, torch.rand(50), seen)
    assert torch.equal(ids, next_token(logits, replace(config, top_k=3, top_p=0.2, min_p=1.0, typical=0.1), None, seen))
    assert torch.equal(ids, filtered(logits, config, seen).argmax(-1))
    assert torch.equal(ids, filtered(logits, replace(config, temperature=1.0), seen).argmax(-1))
    assert (filtered(logits, config, seen) > -INF).sum(-1).eq(1).all()


def test_half_precision_logits_are_drawn_from_in_float32():
    logits = random_logits(6, 1000).bfloat16()
    at = torch.linspace(0, BELOW_ONE, 6)
    for config in (SampleConfig(), SampleConfig(temperature=0), SampleConfig(top_k=5, top_p=0.9, min_p=0.01)):
        assert torch.equal(next_token(logits, config, at), next_token(logits.float(), config, at))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", INF),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", float("nan")),
        ("typical", 0.0),
        ("typical", 1.1),
        ("typical", float("nan")),
        ("presence_penalty", INF),
        ("presence_penalty", -1e7),
        ("presence_penalty", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", INF),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_option(option, value):
    with pytest.raises(UsageProblem, match=f"^{option} is {value}"):
        SampleConfig(**{option: value})


@pytest.mark.parametrize("bias", [INF, float("nan"), 1e7, -1e7])
def test_a_bias_is_a_number_that_can_be_added(bias):
    with pytest.raises(UsageProblem, match=f"^logit_bias is {bias}.*-inf"):
        SampleConfig(logit_bias=((1, 2.0), (5, bias)))


def test_a_bias_names_a_token_id_and_each_id_once():
    with pytest.raises(UsageProblem, match=r"^logit_bias is -1"):
        SampleConfig(logit_bias=((-1, 2.0),))
    with pytest.raises(UsageProblem, match="token #1 twice"):
        SampleConfig(logit_bias=((1, 2.0), (2, 1.0), (1, 3.0)))


# Properties of every filter

FILTERS = {
    "top-k": (keep_top_k, st.integers(1, 60)),
    "top-p": (keep_top_p, st.floats(0, 1, exclude_min=True)),
    "min-p": (keep_min_p, st.floats(0, 1)),
    "typical": (keep_typical, st.floats(0, 1, exclude_min=True)),
}
OFF = {"top-k": 60, "top-p": 1.0, "min-p": 0.0, "typical": 1.0}


@pytest.mark.parametrize("name", FILTERS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_filter_only_removes_and_leaves_something(name, data):
    keep, values = FILTERS[name]
    level = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1.0, -INF])
    rows = data.draw(st.lists(st.lists(level, min_size=5, max_size=5), min_size=1, max_size=4))
    logits = torch.tensor(rows)
    left = keep(logits, data.draw(values))
    possible = logits > -INF
    assert torch.equal(left[left > -INF], logits[left > -INF])  # the remaining logits are unchanged
    assert torch.equal((left > -INF).any(-1), possible.any(-1))
    if name != "typical":
        assert torch.equal(left.amax(-1), logits.amax(-1))
    assert torch.equal(keep(logits, OFF[name]), logits)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [1, 2, 5, 300, 9000])
def test_a_row_without_tokens_stays_so_beside_other_rows(name, size):
    keep, _ = FILTERS[name]
    logits = random_logits(3, size)
    logits[1] = -INF
    left = keep(logits, 3 if name == "top-k" else 0.3)
    assert (left[1] == -INF).all()
    assert torch.equal(left[::2], keep(logits[::2].clone(), 3 if name == "top-k" else 0.3))


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
def test_if_every_token_is_banned_token_0_is_drawn_without_nan(temperature):
    config = replace(ALL, temperature=temperature, logit_bias=tuple((i, -INF) for i in range(7)))
    assert (filtered(random_logits(2, 7), config) == -INF).all()
    assert next_token(random_logits(2, 7), config, torch.tensor([0.0, BELOW_ONE])).tolist() == [0, 0]


def by_full_sort(logits, rank, p):
    """Keeps tokens by the definition: in order of rank and, for equal ranks, of id, until p is reached."""
    left = torch.full_like(logits, -INF)
    for row, (values, ranks) in enumerate(zip(logits, rank, strict=True)):
        order = ranks.argsort(descending=True, stable=True)
        reached = values.softmax(-1)[order].cumsum(-1) >= p
        count = int(reached.int().argmax()) + 1 if reached.any() else len(values)
        left[row, order[:count]] = values[order[:count]]
    return left


@pytest.mark.parametrize("size", [200, 255, 256, 300, 2047, 2048, 16_384, 20_000])
@pytest.mark.parametrize("kind", ["peaked", "flat", "rounded", "even", "few"])
def test_sorting_a_part_gives_the_result_of_sorting_all(size, kind):
    logits = random_logits(4, size, seed=size, spread={"peaked": 6, "flat": 0.5}.get(kind, 2.0))
    if kind == "rounded":
        logits = logits.mul(4).round().div(4)  # makes many logits equal, as in half precision
    if kind == "even":
        logits = torch.zeros_like(logits)
    if kind == "few":
        logits[:, 40:] = -INF
    for p in (1e-6, 0.3, 0.9, 0.999):
        assert torch.equal(keep_top_p(logits, p), by_full_sort(logits, logits, p))
        chances, surprise = logits.softmax(-1), -logits.log_softmax(-1)
        entropy = (chances * surprise).nan_to_num(0).cumsum(-1)[:, -1:]
        assert torch.equal(keep_typical(logits, p), by_full_sort(logits, -(surprise - entropy).abs(), p))
    for count in (1, 5, 127, 128, size):
        assert torch.equal(best(logits, count), logits.argsort(dim=-1, descending=True, stable=True)[:, :count])


@pytest.mark.parametrize("size", [3, 31, 500, 4096, 5003, 150_001])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_gives_the_same_alone_and_in_a_batch_bit_for_bit(size, threads):
    logits = random_logits(5, size, spread=4.0)
    logits[2] = logits[2].mul(2).round().div(2)
    seen = Seen.of([[row % 3, 0] for row in range(5)], size)
    seen.add(torch.tensor([2, 1, 0, 2, 1]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for on in EACH:
            config = replace(ALL, **on)
            alone = [
                filtered(logits[i : i + 1].clone(), config, Seen(seen.text[i : i + 1], seen.generated[i : i + 1]))
                for i in range(5)
            ]
            assert torch.equal(filtered(logits, config, seen), torch.cat(alone)), on
    finally:
        torch.set_num_threads(before)


# Parity with transformers


def theirs(config, ids, logits):
    """Returns the processors of transformers for these settings, in the order in which its `generate` runs them."""
    steps = transformers.LogitsProcessorList()
    if config.logit_bias:
        steps.append(transformers.SequenceBiasLogitsProcessor([[[id_], bias] for id_, bias in config.logit_bias]))
    if config.repetition_penalty != 1:
        steps.append(transformers.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.temperature != 1:
        steps.append(transformers.TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        steps.append(transformers.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        steps.append(transformers.TopPLogitsWarper(config.top_p))
    if config.min_p:
        steps.append(transformers.MinPLogitsWarper(config.min_p))
    if config.typical < 1:
        steps.append(transformers.TypicalLogitsWarper(config.typical))
    return steps(ids, logits)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 1.7},
        {"top_k": 1},
        {"top_k": 12},
        {"top_k": 5000},
        {"top_p": 0.05},
        {"top_p": 0.5},
        {"top_p": 0.95},
        {"min_p": 0.02},
        {"min_p": 0.3},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"temperature": 0.6, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
        {"temperature": 1.5, "top_k": 200, "top_p": 0.8, "repetition_penalty": 1.05},
        {"typical": 0.05},
        {"typical": 0.5},
        {"typical": 0.95},
        {"logit_bias": ((3, 4.0), (77, -2.5), (499, -INF))},
        {"temperature": 0.9, "top_k": 300, "top_p": 0.97, "min_p": 0.001, "typical": 0.8, "logit_bias": ((9, 5.0),)},
    ],
    ids=lambda switches: " ".join(f"{name} {value}" for name, value in switches.items()) or "nothing",
)
@pytest.mark.parametrize("seed", range(3))
def test_the_filters_are_those_of_transformers(switches, seed):
    config = replace(ALL, **switches)
    generator = torch.Generator().manual_seed(100 + seed)
    logits = random_logits(8, 500, seed, spread=(1.0, 3.0, 8.0)[seed])
    ids = torch.randint(500, (8, 40), generator=generator)
    seen = Seen.of(ids.tolist(), 500)
    ours, expected = filtered(logits, config, seen), theirs(config, ids, logits.clone())
    assert torch.equal(ours == -INF, expected == -INF)
    torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1), rtol=1e-5, atol=1e-7)


# The draw


@settings(deadline=None, max_examples=100)
@given(data=st.data(), size=st.integers(1, 60), below=st.floats(0, BELOW_ONE, width=32))
def test_no_token_without_probability_is_ever_drawn(data, size, below):
    value = st.floats(-60, 60, width=32) | st.just(-INF)
    values = data.draw(st.lists(value, min_size=size, max_size=size))
    values[data.draw(st.integers(0, size - 1))] = data.draw(st.floats(-60, 60, width=32))
    logits = torch.tensor([values] * 4)
    ids = draw(logits, torch.tensor([0.0, below, 0.5, BELOW_ONE]))
    assert ids.amin() >= 0
    assert ids.amax() < size
    assert (logits.softmax(-1).gather(1, ids[:, None]) > 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 97, 1000, 50_257, 150_000])
def test_the_ends_of_the_uniforms_are_tokens_of_the_vocabulary(size):
    logits = random_logits(20, size)
    logits[:, size // 2 + 1 :] = -INF  # the last token with a probability above 0 is not the last token
    for uniform in (0.0, 2**-24, 0.5, BELOW_ONE):
        ids = draw(logits, torch.full((20,), uniform))
        assert (ids <= size // 2).all()


def test_the_draw_inverts_the_cumulative_distribution():
    logits = logits_of(0.25, 0.0, 0.5, 0.25, 0.0).repeat(7, 1)
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.5, 0.7499, 0.7501, BELOW_ONE])
    assert draw(logits, uniform).tolist() == [0, 0, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("size", [2, 7, 50, 400])
def test_an_even_grid_of_uniforms_draws_each_token_as_often_as_it_is_probable(size):
    points = 10_000
    logits = random_logits(1, size, seed=size, spread=1.5)
    grid = (torch.arange(points) + 0.5) / points
    counts = draw(logits.expand(points, -1), grid).bincount(minlength=size)
    expected = logits[0].double().softmax(-1) * points
    assert counts.sum() == points
    assert ((counts - expected).abs() <= 1).all()


def test_a_draw_of_a_row_is_the_same_in_any_batch():
    logits, at = random_logits(16, 300), torch.rand(16, generator=torch.Generator().manual_seed(1))
    config = SampleConfig(temperature=0.9, top_k=50, top_p=0.95, min_p=0.01)
    together = next_token(logits, config, at)
    assert together.tolist() == [next_token(logits[i : i + 1], config, at[i : i + 1]).item() for i in range(16)]


# Uniforms


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**63 - 1), samples=st.integers(1, 8), more=st.integers(0, 8), count=st.integers(1, 50))
def test_the_uniforms_of_a_sample_do_not_depend_on_how_many_there_are(seed, samples, more, count):
    few = uniforms(generators(seed, samples), count)
    many = uniforms(generators(seed, samples + more), count)
    assert few.shape == (samples, count)
    assert torch.equal(many[:samples], few)
    assert ((few >= 0) & (few < 1)).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**63 - 1), count=st.integers(1, 200), more=st.integers(0, 200))
def test_the_uniforms_of_a_sample_begin_equally_for_every_length(seed, count, more):
    assert torch.equal(uniforms(generators(seed, 2), count + more)[:, :count], uniforms(generators(seed, 2), count))


def test_seeds_and_samples_have_uniforms_of_their_own():
    rows = torch.cat([uniforms(generators(seed, 5), 20) for seed in range(5)])
    assert len({tuple(row) for row in rows.tolist()}) == 25
    state = torch.random.get_rng_state()
    uniforms(generators(3, 4), 5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_steps_are_the_settings_of_the_panel_in_its_order():
    """So the help lists settings in the order of their steps, and every setting has a step."""
    options = options_of(SampleConfig)
    panel = [name for name, option in options.items() if option.panel == options["temperature"].panel]
    assert [step.field for step in sampling.LOGIT_STEPS] + [sampling.TEMPERATURE] + [
        step.field for step in sampling.FILTERS
    ] == panel


def test_every_step_is_off_at_the_value_that_its_option_calls_off():
    options = options_of(SampleConfig)
    off = SampleConfig(**{step.field: options[step.field].off for step in (*sampling.LOGIT_STEPS, *sampling.FILTERS)})
    assert not list(steps(logits_of(0.5, 0.3, 0.2), off, Seen.of([[0]], 3)))
