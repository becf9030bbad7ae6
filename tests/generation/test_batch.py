"""Batch: samples that join and leave between steps, each with its own settings, have the text that they have alone."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import EngineConfig, SampleConfig
from attncli.generation import batch as batch_module
from attncli.generation.batch import Batch, RunningSample
from attncli.generation.ending import SampleText
from attncli.generation.engine import generate
from attncli.generation.events import Finished, Reread, Text, Token
from attncli.generation.sampling import generators
from attncli.generation.token_details import TokenDetails
from attncli.model import native
from attncli.model.backend import TorchBackend
from attncli.text.tokenizer_training import train_tokenizer
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.texts import story

TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
MODEL = tiny_model(vocab_size=300, context=32, layers=2)
PROMPTS = ((5, 6, 7), (5, 6, 7), (9,), tuple(range(10, 40)), tuple(range(100, 121)))
CONFIGS = (
    SampleConfig(temperature=0, max_new_tokens=9),
    SampleConfig(seed=1, max_new_tokens=14),
    SampleConfig(seed=2, temperature=1.5, top_k=20, max_new_tokens=6, stop=("e",)),
    SampleConfig(seed=3, presence_penalty=3.0, repetition_penalty=1.3, max_new_tokens=20),
    SampleConfig(seed=4, top_p=0.8, logit_bias=((7, 5.0),), max_new_tokens=11),
)


@cache
def exact_backend():
    if not native.available():
        pytest.skip("there is no C compiler")
    return native.NativeBackend(MODEL, threads=1)


def sample_of(number, prompt, config, details=None):
    text = SampleText(number, TOKENIZER, config, frozenset({TOKENIZER.end_of_text}), prompt)
    return RunningSample(list(prompt), text, config, generators(config.seed, 1)[0], details)


@cache
def alone(prompt, config, details=None):
    """Returns the events of a sample that is generated alone."""
    return tuple(
        event for event in generate(exact_backend(), TOKENIZER, [prompt], config, details=details) if kept(event)
    )


def kept(event):
    return isinstance(event, Text | Finished | Reread | Token)


requests = st.tuples(
    st.sampled_from(PROMPTS), st.sampled_from(CONFIGS), st.sampled_from([None, TokenDetails(2)]), st.integers(0, 5)
)


@settings(deadline=None, max_examples=60)
@given(
    wanted=st.lists(requests, min_size=1, max_size=9),
    slots=st.integers(1, 4),
    prompt_tokens=st.sampled_from([None, 1, 4, 13]),
    leaves=st.sets(st.integers(0, 8), max_size=3),
)
def test_a_sample_has_the_text_that_it_has_alone(wanted, slots, prompt_tokens, leaves):
    batch = Batch(exact_backend(), TOKENIZER, slots, EngineConfig(prompt_tokens=prompt_tokens))
    waiting = [sample_of(number, prompt, config, details) for number, (prompt, config, details, _) in enumerate(wanted)]
    due = [after for *_, after in wanted]
    events = {sample.text.sample: [] for sample in waiting}
    step = 0
    while waiting or batch.running:
        for sample in [one for one in waiting if due[one.text.sample] <= step][: batch.free]:
            waiting.remove(sample)
            batch.join(sample)
        for event in batch.step() if batch.running else ():
            if kept(event) and not isinstance(event, Reread):
                events[event.sample].append(replace(event, sample=0))
        for sample in [one for one in batch.running if one.text.sample in leaves and one.generated >= 3]:
            batch.leave(sample)
            batch.leave(sample)
        step += 1
    assert batch.free == slots
    for number, (prompt, config, details, _) in enumerate(wanted):
        expected = [event for event in alone(prompt, config, details) if not isinstance(event, Reread)]
        if number in leaves:
            expected = expected[: len(events[number])]
        assert together(events[number]) == together(expected)


def together(events):
    """Joins the texts of events, because a step of several tokens yields its texts in fewer parts."""
    texts = "".join(event.text for event in events if isinstance(event, Text))
    return texts, [event for event in events if not isinstance(event, Text)]


def counted(backend):
    """Returns a backend that appends the segments of each call, and the list that it appends them to."""
    calls = []

    class Counted:
        def __getattr__(self, name):
            return getattr(backend, name)

        def read(self, cache, segments):
            calls.append([(one.sequence, one.start, len(one.ids)) for one in segments])
            return backend.read(cache, segments)

    return Counted(), calls


@pytest.mark.parametrize("prompt_tokens", [1, 5, 8])
def test_a_step_reads_at_most_so_many_tokens_of_prompts(prompt_tokens):
    backend, calls = counted(TorchBackend(MODEL))
    batch = Batch(backend, TOKENIZER, 3, EngineConfig(prompt_tokens=prompt_tokens, lookup=False))
    for number in range(3):
        batch.join(sample_of(number, range(10 + number, 30), replace(CONFIGS[1], max_new_tokens=9)))
    first = batch.running[0]
    for _ in range(-(-20 // prompt_tokens)):
        assert not first.generated
        list(batch.step())
    assert first.generated == 1  # it draws as soon as its prompt is read
    while batch.running:
        list(batch.step())
    lengths = [20, 19, 18]
    of_prompts = [[length for row, start, length in parts if start < lengths[row]] for parts in calls]
    assert max(map(sum, of_prompts)) == prompt_tokens
    assert sum(map(sum, of_prompts)) == sum(lengths)


@pytest.mark.parametrize("length", [21, 17])  # the last part has 5 tokens, or a single one
def test_equal_prompts_are_read_once_even_in_parts(length):
    backend, calls = counted(exact_backend())
    batch = Batch(backend, TOKENIZER, 4, EngineConfig(prompt_tokens=8))
    prompt = tuple(range(50, 50 + length))
    config = SampleConfig(seed=5, max_new_tokens=1)
    for number in range(4):
        batch.join(sample_of(number, prompt, replace(config, seed=number)))
    found = [event for _ in range(3) for event in batch.step() if isinstance(event, Finished)]
    assert [sum(length for *_, length in parts) for parts in calls] == [8, 8, length - 16]
    expected = [alone(prompt, replace(config, seed=number))[-1].ids for number in range(4)]
    assert [event.ids for event in found] == expected


def test_prompts_are_read_whole_without_a_cache():
    batch = Batch(exact_backend(), TOKENIZER, 1, EngineConfig(cached=False, prompt_tokens=4))
    batch.join(sample_of(0, PROMPTS[3], CONFIGS[0]))
    events = [event for _ in range(9) for event in batch.step() if kept(event) and not isinstance(event, Reread)]
    assert together(events) == together([one for one in alone(PROMPTS[3], CONFIGS[0]) if not isinstance(one, Reread)])


def test_a_context_that_becomes_equal_to_a_half_read_prompt_does_not_disturb_it():
    """One sample reads the recent half of its context again, and another one is reading the same tokens as a prompt."""
    first = sample_of(0, PROMPTS[3][:30], replace(CONFIGS[0], max_new_tokens=20))
    batch = Batch(exact_backend(), TOKENIZER, 2, EngineConfig(prompt_tokens=3, lookup=False))
    batch.join(first)
    ids = alone(PROMPTS[3][:30], replace(CONFIGS[0], max_new_tokens=20))[-1].ids
    prompt = (*PROMPTS[3][:30], *ids)[17:33]  # what is kept of a context of 32 tokens after one more token
    while first.generated < 1:
        list(batch.step())
    batch.join(sample_of(1, prompt, CONFIGS[0]))
    events, equal = {0: [], 1: []}, False
    while batch.running:
        equal |= len(batch.running) == 2 and first.read == 0 and 0 < batch.running[1].read < len(prompt)
        for event in batch.step():
            if kept(event) and not isinstance(event, Reread):
                events[event.sample].append(replace(event, sample=0))
    assert equal
    assert together(events[1]) == together(alone(prompt, CONFIGS[0]))


def test_sources_count_among_the_tokens_that_a_step_reads(monkeypatch):
    model = tiny_model(vocab_size=300, context=32, **ENCODER_DECODERS["marian"])
    inner, encoded = TorchBackend(model), []
    encode = inner.read_sources
    monkeypatch.setattr(
        inner, "read_sources", lambda cache, sources: (encoded.append(len(sources)), encode(cache, sources))
    )
    backend, calls = counted(inner)
    batch = Batch(backend, TOKENIZER, 3, EngineConfig(prompt_tokens=8, lookup=False))
    for number in range(3):
        batch.join(replace(sample_of(number, (5,), CONFIGS[0]), source=tuple(range(10 + number, 20))))
    for _ in range(3):
        list(batch.step())
    assert encoded == [1, 1, 1]
    assert calls[0] == [(0, 0, 1)]


def test_a_slot_of_a_sample_that_left_has_nothing_of_it():
    batch = Batch(exact_backend(), TOKENIZER, 1, EngineConfig())
    batch.join(sample_of(0, PROMPTS[3], CONFIGS[3]))
    for _ in range(4):
        list(batch.step())
    batch.leave(batch.running[0])
    assert batch.free == 1
    batch.join(sample_of(0, PROMPTS[0], CONFIGS[3]))
    events = []
    while batch.running:
        events += [event for event in batch.step() if kept(event)]
    assert together(events) == together(alone(PROMPTS[0], CONFIGS[3]))


def test_samples_of_the_same_settings_are_drawn_in_one_call(monkeypatch):
    calls, draw = [], batch_module.next_token
    monkeypatch.setattr(
        batch_module, "next_token", lambda logits, *rest: (calls.append(len(logits)), draw(logits, *rest))[1]
    )
    batch = Batch(exact_backend(), TOKENIZER, 4, EngineConfig())
    for number in range(3):
        batch.join(
            sample_of(number, (5, 6 + number), SampleConfig(seed=number, max_new_tokens=3 + number, stop=("q",)))
        )
    batch.join(sample_of(3, (5, 9), SampleConfig(temperature=0)))
    list(batch.step())
    assert sorted(calls) == [1, 3]
