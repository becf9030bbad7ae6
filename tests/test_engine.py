"""From a prompt to text: greedy is argmax, the context slides, stops cut, a sample is the same in a batch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.engine import generate
from attncli.generation.events import Finished, Reread, Text
from attncli.model.backend import TorchBackend
from attncli.text.tokenizer import train_tokenizer
from tests.conftest import story, tiny_model

GREEDY = SampleConfig(temperature=0, max_new_tokens=40)
TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
MODEL = tiny_model(vocab_size=300, context=32)


def run(prompt, config, model=MODEL, tokenizer=TOKENIZER):
    """Texts, endings and rereads of a generation."""
    backend = model if isinstance(model, Scripted) else TorchBackend(model)
    events = list(generate(backend, tokenizer, [prompt], config))
    texts = [
        "".join(event.text for event in events if isinstance(event, Text) and event.sample == sample)
        for sample in range(config.num_samples)
    ]
    ends = sorted((e for e in events if isinstance(e, Finished)), key=lambda e: e.sample)
    return texts, ends, [e for e in events if isinstance(e, Reread)]


def greedy_by_hand(model, prompt, count):
    """Token by token without a cache, going on from the most recent half when the context is full."""
    window, made = list(prompt), []
    with torch.no_grad():
        for _ in range(count):
            made.append(int(model(torch.tensor([window]))[0, -1].argmax()))
            if len(window) == model.config.context:
                window = [*window, made[-1]][-(model.config.context // 2) :]
            else:
                window.append(made[-1])
    return made


@pytest.mark.parametrize("length", [1, 5, 31, 32])
def test_greedy_is_argmax_also_past_the_context(length):
    prompt = list(range(10, 10 + length))
    (text,), (end,), rereads = run(prompt, GREEDY)
    expected = greedy_by_hand(MODEL, prompt, 40)
    expected = expected[: expected.index(TOKENIZER.end_of_text) + 1] if TOKENIZER.end_of_text in expected else expected
    assert list(end.ids) == expected
    assert text == TOKENIZER.decode(expected).removesuffix("<|endoftext|>")
    assert all(event.kept == 16 for event in rereads)
    assert len(rereads) == (length + 39 - 16) // 17 if length + 39 > 32 else not rereads


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), temperature=st.floats(0.3, 2), top_k=st.sampled_from([0, 5]))
def test_a_sample_is_the_same_alone_and_first_in_a_batch(seed, temperature, top_k):
    config = SampleConfig(seed=seed, temperature=temperature, top_k=top_k, max_new_tokens=20)
    (alone,), (end,), _ = run([5, 6, 7], config)
    texts, ends, _ = run([5, 6, 7], replace(config, num_samples=4))
    assert texts[0] == alone
    assert ends[0].ids == end.ids
    assert run([5, 6, 7], config)[0] == [alone]


def test_samples_of_a_batch_differ():
    texts, _, _ = run([5, 6, 7], SampleConfig(seed=1, temperature=1.5, max_new_tokens=20, num_samples=4))
    assert len(set(texts)) == 4


class Scripted:
    """A backend that says given ids one after another, whatever it reads."""

    exact = False
    device = torch.device("cpu")
    config = replace(MODEL.config, context=1000)

    def __init__(self, ids):
        self.ids = ids
        self.said = 0

    def new_cache(self, sequences):
        return None

    def read(self, cache, pieces):
        logits = torch.zeros(1, 300)
        logits[:, self.ids[self.said]] = 1
        self.said += 1
        return logits


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_text_ends_exactly_before_the_first_stop_string(data):
    said = data.draw(st.sampled_from(["the cat sat. Said the dog", "naïve 東京 🎉 and then", "aaaaab aaab"]))
    start = data.draw(st.integers(0, len(said) - 1))
    length = data.draw(st.integers(1, 6))
    stop = said[start : start + length]
    other = data.draw(st.sampled_from(["zzz", "the dogs", stop + "!"]))
    ids = TOKENIZER.encode(said)
    config = SampleConfig(temperature=0, max_new_tokens=len(ids), stop=(stop, other))
    (text,), (end,), _ = run([1], config, Scripted(ids))
    assert text == said[: said.index(stop)]
    assert end.reason == "stop"


def test_text_that_only_began_like_a_stop_string_is_shown():
    ids = TOKENIZER.encode("the cat sat on")
    (text,), (end,), _ = run([1], SampleConfig(temperature=0, max_new_tokens=len(ids), stop=("on the",)), Scripted(ids))
    assert (text, end.reason) == ("the cat sat on", "length")


def test_the_end_of_the_document_ends_the_text():
    ids = [*TOKENIZER.encode("the cat"), TOKENIZER.end_of_text, *TOKENIZER.encode(" more")]
    (text,), (end,), _ = run([1], SampleConfig(temperature=0, max_new_tokens=50), Scripted(ids))
    assert (text, end.reason, end.ids[-1]) == ("the cat", "end", TOKENIZER.end_of_text)


def test_a_character_spread_over_tokens_streams_whole():
    tokenizer = train_tokenizer([], "byte")
    ids = tokenizer.encode("a東🎉b")
    model = Scripted(ids)
    events = list(generate(model, tokenizer, [[1]], SampleConfig(temperature=0, max_new_tokens=len(ids))))
    assert [event.text for event in events if isinstance(event, Text)] == ["a", "東", "🎉", "b"]


def test_repetition_penalty_forbids_what_was_seen():
    config = SampleConfig(temperature=0, max_new_tokens=20, repetition_penalty=1e9)
    _, (end,), _ = run([5, 6, 7], config, tiny_model(vocab_size=300, context=64))
    said = [*end.ids]
    assert len(set(said)) == len(said)
    assert not {5, 6, 7} & set(said)


@pytest.mark.parametrize(("prompt", "message"), [([], "no tokens"), ([1] * 33, "33 tokens, .* at most 32")])
def test_a_prompt_that_cannot_be_read_is_refused_at_once(prompt, message):
    with pytest.raises(BadInput, match=message):
        generate(TorchBackend(MODEL), TOKENIZER, [prompt], GREEDY)


def test_ids_that_no_token_has_are_never_drawn():
    """Some models have more rows than their tokenizer has tokens."""
    model = tiny_model(vocab_size=400, context=32)
    with torch.no_grad():
        model.embedding.weight[300:] *= 50
    _, (end,), _ = run([5, 6, 7], SampleConfig(temperature=2.0, max_new_tokens=40, seed=1), model)
    assert max(end.ids) < 300


def test_other_tokens_can_end_a_text():
    ids = [*TOKENIZER.encode("the cat"), 77, *TOKENIZER.encode(" more")]
    config = SampleConfig(temperature=0, max_new_tokens=9)
    events = list(generate(Scripted(ids), TOKENIZER, [[1]], config, frozenset({77})))
    assert events[-1].reason == "end"
    assert events[-1].ids[-1] == 77
