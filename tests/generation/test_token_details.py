"""Details of a drawn token: log-probabilities of the model's own distribution, and a trace of the sampling steps."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.generation.engine import generate
from attncli.generation.events import Finished, Text, Token, TokenLogprob, Trace, TraceStep
from attncli.generation.sampling import Seen, filtered, next_token
from attncli.generation.token_details import TokenDetails, describe_tokens, logprobs, trace
from attncli.model.backend import TorchBackend
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.backends import Scripted
from tests.support.models import tiny_model
from tests.support.sampling import ALL, EACH, INF, logits_of, random_logits
from tests.support.texts import story

NAMES = "abcdefgh"


def text_of(id_):
    return NAMES[id_]


def rounded(traced):
    """Rounds the numbers of a trace to six places, to compare them with numbers computed by hand."""
    return [
        (
            step.name if step.setting is None else f"{step.name} {step.setting:g}",
            step.removed,
            round(step.removed_probability, 6),
            step.left,
            [(choice.text, round(choice.probability, 6)) for choice in step.best],
        )
        for step in traced.steps
    ]


def test_log_probabilities_by_hand():
    logits = torch.cat((logits_of(0.5, 0.25, 0.125, 0.125), logits_of(0.0, 0.25, 0.25, 0.5)))
    drawn, top, values = logprobs(logits + 7, torch.tensor([2, 1]), 3)
    assert drawn.tolist() == pytest.approx([math.log(0.125), math.log(0.25)])
    assert top.tolist() == [[0, 1, 2], [3, 1, 2]]
    assert values.exp()[0].tolist() == pytest.approx([0.5, 0.25, 0.125])
    assert values.exp()[1].tolist() == pytest.approx([0.5, 0.25, 0.25])


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 700), count=st.integers(0, 800), seed=st.integers(0, 10**6))
def test_log_probabilities_are_those_of_log_softmax_in_order(size, count, seed):
    logits = random_logits(3, size, seed)
    drawn, top, values = logprobs(logits, torch.tensor([0, size // 2, size - 1]), count)
    exact = torch.log(torch.exp(logits.double()) / torch.exp(logits.double()).sum(-1, keepdim=True))
    assert drawn.tolist() == pytest.approx([float(exact[i, at]) for i, at in enumerate((0, size // 2, size - 1))])
    assert top.shape == (3, min(count, size))
    torch.testing.assert_close(values, exact.sort(dim=-1, descending=True).values[:, :count])
    torch.testing.assert_close(values, exact.gather(-1, top))


def test_a_trace_by_hand():
    """Of 0.4, 0.3, 0.2, 0.1, top-k 3 drops 0.1.

    Of 4/9, 3/9, 2/9, the first two reach 0.7. Min-p 0.8 of 4/7 drops 3/7.
    """
    logits = logits_of(0.2, 0.4, 0.1, 0.3)
    config = replace(ALL, top_k=3, top_p=0.7, min_p=0.8)
    (found,) = trace(logits, torch.tensor([1]), config, text_of)
    assert rounded(found) == [
        ("model", 0, 0.0, 4, [("b", 0.4), ("d", 0.3), ("a", 0.2), ("c", 0.1)]),
        ("top-k 3", 1, 0.1, 3, [("b", 0.444444), ("d", 0.333333), ("a", 0.222222)]),
        ("top-p 0.7", 1, 0.222222, 2, [("b", 0.571429), ("d", 0.428571)]),
        ("min-p 0.8", 1, 0.428571, 1, [("b", 1.0)]),
    ]
    assert found.probability == 1


def test_a_trace_of_a_ban_a_penalty_and_temperature_zero():
    """A ban removes 0.5; presence multiplies generated tokens by e^-log 2; temperature 0 keeps the best token."""
    logits, seen = logits_of(0.5, 0.25, 0.125, 0.125), Seen.of([[0]], 4)
    seen.add(torch.tensor([1]))
    config = replace(ALL, temperature=0.0, logit_bias=((0, -INF), (3, math.log(2))), presence_penalty=math.log(4))
    (found,) = trace(logits, torch.tensor([3]), config, text_of, seen)
    assert rounded(found) == [
        ("model", 0, 0.0, 4, [("a", 0.5), ("b", 0.25), ("c", 0.125), ("d", 0.125)]),
        ("logit-bias", 1, 0.5, 3, [("b", 0.4), ("d", 0.4), ("c", 0.2)]),
        ("presence-penalty 1.38629", 0, 0.0, 3, [("d", 0.571429), ("c", 0.285714), ("b", 0.142857)]),
        ("temperature 0", 2, 0.428571, 1, [("d", 1.0)]),
    ]


@pytest.mark.parametrize("on", EACH, ids=lambda on: " ".join(on))
def test_every_trace_adds_up(on):
    config = replace(ALL, **on)
    logits = random_logits(4, 600, spread=2.5)
    seen = Seen.of([[1], [2], [3], [4]], 600)
    seen.add(torch.tensor([5, 6, 7, 8]))
    ids = next_token(logits, config, torch.tensor([0.1, 0.4, 0.7, 0.95]), seen)
    final = filtered(logits, config, seen).double().softmax(-1)
    for row, found in enumerate(trace(logits, ids, config, str, seen)):
        assert found.steps[0].left == 600
        for before, after in zip(found.steps, found.steps[1:], strict=False):
            assert after.left == before.left - after.removed
            assert 0 <= after.removed_probability < 1
            assert (after.removed == 0) == (after.removed_probability == 0)
            shares = [choice.probability for choice in after.best]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) <= 1 + 1e-9
            assert len(shares) == min(after.left, 5)
        assert found.probability == pytest.approx(float(final[row, ids[row]]))
        assert found.probability > 0
        assert found.steps[-1].left == int((filtered(logits, config, seen)[row] > -INF).sum())


def test_where_all_is_banned_the_trace_says_that_nothing_is_left():
    config = replace(ALL, temperature=0.5, logit_bias=((0, -INF), (1, -INF)))
    (found,) = trace(logits_of(0.5, 0.5), torch.tensor([0]), config, text_of)
    assert found.steps[1:] == (
        TraceStep("logit-bias", None, 2, 1.0, 0, ()), TraceStep("temperature", 0.5, 0, 0.0, 0, ()),
    )  # fmt: skip
    assert found.probability == 0


def test_the_details_of_a_token_are_the_same_in_a_batch():
    logits = random_logits(5, 8)
    seen = Seen.of([[i] for i in range(5)], 8)
    config = SampleConfig(temperature=1.3, top_k=6, top_p=0.9, repetition_penalty=1.4)
    ids = next_token(logits, config, torch.rand(5, generator=torch.Generator().manual_seed(1)), seen)
    together = describe_tokens(logits, ids, config, TokenDetails(3, trace=True), text_of, seen)
    for row in range(5):
        one = slice(row, row + 1)
        (alone,) = describe_tokens(
            logits[one],
            ids[one],
            config,
            TokenDetails(3, trace=True),
            text_of,
            Seen(seen.text[one], seen.generated[one]),
        )
        assert replace(alone, sample=row) == together[row]


def test_the_details_of_a_token_are_those_requested():
    logits, ids = logits_of(0.5, 0.25, 0.25), torch.tensor([1])
    (plain,) = describe_tokens(logits, ids, ALL, TokenDetails(), text_of, None)
    assert (plain.id, plain.text, plain.top, plain.trace) == (1, "b", (), None)
    assert plain.bits == pytest.approx(2)
    (full,) = describe_tokens(logits, ids, ALL, TokenDetails(2, trace=True), text_of, None)
    assert [choice.text for choice in full.top] == ["a", "b"]
    assert isinstance(full.trace, Trace)
    assert full.logprob == plain.logprob == full.top[1].logprob
    assert TokenLogprob(0, "a", 0.0).probability == 1


# Details during generation

TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
MODEL = tiny_model(vocab_size=300, context=32)
CONFIGS = [
    SampleConfig(temperature=0, max_new_tokens=40),
    SampleConfig(temperature=1.4, top_k=20, typical=0.9, seed=3, num_samples=3, max_new_tokens=30),
    SampleConfig(repetition_penalty=1.5, presence_penalty=0.5, logit_bias=((9, -INF),), seed=4, max_new_tokens=30),
]  # fmt: skip


def texts_and_ends(events):
    return [event for event in events if isinstance(event, Text | Finished)]


@pytest.mark.parametrize("config", CONFIGS)
def test_requested_details_change_no_text(config):
    details = TokenDetails(3, trace=True)
    plain = list(generate(TorchBackend(MODEL), TOKENIZER, [[5, 6, 7]], config))
    watched = list(generate(TorchBackend(MODEL), TOKENIZER, [[5, 6, 7]], config, details=details))
    assert texts_and_ends(watched) == texts_and_ends(plain)
    for end in (event for event in plain if isinstance(event, Finished)):
        told = [event for event in watched if isinstance(event, Token) and event.sample == end.sample]
        text = "".join(event.text for event in plain if isinstance(event, Text) and event.sample == end.sample)
        assert tuple(token.id for token in told) == end.ids
        assert sum(token.characters for token in told) == len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        assert all(token.text == TOKENIZER.decode([token.id]) for token in told)


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_log_probabilities_are_those_before_penalties_and_filters(config, family):
    model = tiny_model(vocab_size=320, context=64, **family)  # more rows than tokens
    events = list(generate(TorchBackend(model), TOKENIZER, [[5, 6, 7]], config, details=TokenDetails(2)))
    for end in (event for event in events if isinstance(event, Finished)):
        own = model(torch.tensor([[5, 6, 7, *end.ids]]))[0, 2:-1, :300].double().log_softmax(-1)
        told = [event for event in events if isinstance(event, Token) and event.sample == end.sample]
        assert [token.logprob for token in told] == pytest.approx(own[range(len(told)), end.ids].tolist(), abs=1e-4)
        assert [token.top[0].logprob for token in told] == pytest.approx(own.amax(-1).tolist(), abs=1e-4)


def test_a_token_comes_before_its_text_and_one_without_a_whole_character_too():
    tokenizer = byte_tokenizer()
    ids = [*tokenizer.encode("a東"), 256]
    config = SampleConfig(temperature=0, max_new_tokens=9)
    events = list(generate(Scripted(ids), tokenizer, [[1]], config, details=TokenDetails()))
    prompts, *seen = [(event.id, event.characters) if isinstance(event, Token) else event for event in events]
    assert prompts.tokens == 1
    assert seen == [
        (97, 1), Text(0, "a"), (230, 0), (157, 0), (177, 1), Text(0, "東"), (256, 0), Finished(0, "end", tuple(ids)),
    ]  # fmt: skip
