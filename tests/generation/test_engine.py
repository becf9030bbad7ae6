"""Generation: greedy decoding, the moving context, stop strings, and samples that do not depend on the batch."""

import gc
import math
import sys
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.engine import EngineConfig, generate, last_that_fit
from attncli.generation.events import Finished, PromptsRead, Reread, Text, Token
from attncli.generation.lookup import Lookup
from attncli.generation.token_details import TokenDetails
from attncli.model import backend, native
from attncli.model.backend import Segment, TorchBackend
from attncli.model.cache import StepCache
from attncli.model.transformer import Transformer
from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
from tests.support.backends import Scripted
from tests.support.models import tiny_model
from tests.support.texts import story

GREEDY = SampleConfig(temperature=0, max_new_tokens=40)
TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
MODEL = tiny_model(vocab_size=300, context=32, layers=2)


KINDS = ("torch", "native")
each_backend = pytest.mark.parametrize("kind", KINDS)


@cache
def backend_of(kind, model=MODEL):
    if kind == "torch":
        return TorchBackend(model)
    if not native.available():
        pytest.skip("there is no C compiler")
    return native.NativeBackend(model, threads=1)


@pytest.mark.parametrize(("sequences", "ids", "expected"), [(1, [5], 1), (2, [5], 2), (8, [5], 4), (1, [5, 6], 4)])
def test_a_step_of_few_products_takes_few_threads_of_pytorch(monkeypatch, sequences, ids, expected):
    made = TorchBackend(MODEL)
    monkeypatch.setattr(backend, "_PRODUCTS_PER_THREAD", made._parameters)
    read, seen, before = made._read, [], torch.get_num_threads()
    monkeypatch.setattr(made, "_read", lambda *given: (seen.append(torch.get_num_threads()), read(*given))[1])
    torch.set_num_threads(4)
    try:
        made.read(made.new_cache(sequences), [Segment(number, 0, ids) for number in range(sequences)])
        assert (seen, torch.get_num_threads()) == ([expected], 4)
    finally:
        torch.set_num_threads(before)


def run(prompt, config, model=MODEL, tokenizer=TOKENIZER):
    """Returns the texts, the Finished events and the Reread events of a generation."""
    backend = TorchBackend(model) if isinstance(model, Transformer) else model
    events = list(generate(backend, tokenizer, [prompt], config))
    texts = [
        "".join(event.text for event in events if isinstance(event, Text) and event.sample == sample)
        for sample in range(config.num_samples)
    ]
    ends = sorted((e for e in events if isinstance(e, Finished)), key=lambda e: e.sample)
    return texts, ends, [e for e in events if isinstance(e, Reread)]


@cache
def greedy_by_hand(model, prompt, count):
    """Continues a prompt without a cache; after a full context, continues from its most recent half."""
    window, made = list(prompt), []
    with torch.no_grad():
        for _ in range(count):
            made.append(int(model(torch.tensor([window]))[0, -1].argmax()))
            if len(window) == model.config.context:
                window = [*window, made[-1]][-(model.config.context // 2) :]
            else:
                window.append(made[-1])
    return made


@each_backend
@pytest.mark.parametrize("length", [1, 5, 31, 32])
def test_greedy_is_argmax_also_past_the_context(kind, length):
    prompt = list(range(10, 10 + length))
    (text,), (end,), rereads = run(prompt, GREEDY, backend_of(kind))
    expected = greedy_by_hand(MODEL, tuple(prompt), 40)
    expected = expected[: expected.index(TOKENIZER.end_of_text) + 1] if TOKENIZER.end_of_text in expected else expected
    assert list(end.ids) == expected
    assert text == TOKENIZER.decode(expected).removesuffix("<|endoftext|>")
    assert all(event.kept == 16 for event in rereads)
    assert len(rereads) == (length + 39 - 16) // 17 if length + 39 > 32 else not rereads


@each_backend
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**40), temperature=st.floats(0.3, 2), top_k=st.sampled_from([0, 5]))
def test_a_sample_is_the_same_alone_and_first_in_a_batch(kind, seed, temperature, top_k):
    backend = backend_of(kind)
    config = SampleConfig(seed=seed, temperature=temperature, top_k=top_k, max_new_tokens=12)
    (alone,), (end,), _ = run([5, 6, 7], config, backend)
    texts, ends, _ = run([5, 6, 7], replace(config, num_samples=4), backend)
    assert texts[0] == alone
    assert ends[0].ids == end.ids
    assert run([5, 6, 7], config, backend)[0] == [alone]


@each_backend
def test_samples_of_a_batch_differ(kind):
    config = SampleConfig(seed=1, temperature=1.5, max_new_tokens=20, num_samples=4)
    texts, _, _ = run([5, 6, 7], config, backend_of(kind))
    assert len(set(texts)) == 4


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


@each_backend
def test_a_huge_repetition_penalty_forbids_seen_tokens(kind):
    config = SampleConfig(temperature=0, max_new_tokens=20, repetition_penalty=1e9)
    _, (end,), _ = run([5, 6, 7], config, backend_of(kind, tiny_model(vocab_size=300, context=64)))
    said = [*end.ids]
    assert len(set(said)) == len(said)
    assert not {5, 6, 7} & set(said)


@pytest.mark.parametrize("opening", [(), (7,), (7, 8)])
@given(text=st.text("aé東🎉", max_size=30))
def test_a_truncated_prompt_is_the_end_that_fits(text, opening):
    """The end follows the opening tokens, begins with a complete character, and is as long as possible."""
    tokenizer = byte_tokenizer()
    tokenizer._around = opening, ()
    prompt = [*opening, *tokenizer.encode(text)]
    kept = last_that_fit(MODEL.config, tokenizer, prompt)
    assert tuple(kept[: len(opening)]) == opening
    assert text.endswith(tokenizer.decode(kept[len(opening) :]))
    assert min(len(prompt), 32 - 3) <= len(kept) <= 32
    assert len(prompt) > 32 or kept == prompt


@pytest.mark.parametrize(("prompt", "message"), [([], "no tokens"), ([1] * 33, "33 tokens, .* at most 32")])
def test_a_prompt_that_cannot_be_read_is_refused_at_once(prompt, message):
    with pytest.raises(BadInput, match=message):
        generate(TorchBackend(MODEL), TOKENIZER, [prompt], GREEDY)


@each_backend
def test_ids_that_no_token_has_are_never_drawn(kind):
    """The matrices of some models have more rows than their tokenizer has tokens."""
    model = tiny_model(vocab_size=400, context=32)
    with torch.no_grad():
        model.embedding.weight[300:] *= 50
    config = SampleConfig(temperature=2.0, max_new_tokens=40, seed=1)
    _, (end,), _ = run([5, 6, 7], config, backend_of(kind, model))
    assert max(end.ids) < 300


def test_other_tokens_can_end_a_text():
    ids = [*TOKENIZER.encode("the cat"), 77, *TOKENIZER.encode(" more")]
    config = SampleConfig(temperature=0, max_new_tokens=9)
    events = list(generate(Scripted(ids), TOKENIZER, [[1]], config, frozenset({77})))
    assert events[-1].reason == "end"
    assert events[-1].ids[-1] == 77


# Batches and guesses

RAGGED = [[5, 6, 7], list(range(40, 71)), [9], [5, 6, 7], list(range(200, 232)), [8, 8, 8, 8]]
SETTINGS = {
    "greedy": GREEDY,
    "sampled": SampleConfig(temperature=1.3, top_p=0.9, seed=7, max_new_tokens=24, num_samples=2),
    "penalized": SampleConfig(
        temperature=0.6, repetition_penalty=1.2, presence_penalty=0.4, logit_bias=((9, -math.inf), (7, 2.0)),
        seed=3, max_new_tokens=24,
    ),
    "stopped": SampleConfig(  # with this stop string, the texts end at different positions
        temperature=1.2, min_p=0.02, seed=5, max_new_tokens=24, num_samples=2, stop=("a", "th", "\n")
    ),
}  # fmt: skip


class Watched:
    """A backend that records the segments that it reads, and its caches."""

    def __init__(self, backend):
        self.backend, self.config, self.device, self.exact = backend, backend.config, backend.device, backend.exact
        self.asked, self.caches = [], []

    def new_cache(self, sequences, positions):
        self.positions = positions
        self.caches.append(self.backend.new_cache(sequences, positions))
        return self.caches[-1]

    def read(self, cache, segments):
        self.asked.append(segments)
        return self.backend.read(cache, segments)


def made(backend, prompts, config, tokenizer=TOKENIZER, **how):
    """Returns the events of every text: text, tokens with their log-probabilities, rereads and the end."""
    events = list(generate(backend, tokenizer, prompts, config, details=TokenDetails(2), how=EngineConfig(**how)))
    texts = [([], [], []) for _ in range(len(prompts) * config.num_samples)]
    for event in events:
        if isinstance(event, Text | Token | Finished):
            place = (Text, Token, Finished).index(type(event))
            texts[event.sample][place].append(replace(event, sample=0))
    return [("".join(event.text for event in text), tokens, end) for text, tokens, end in texts]


@cache
def batch_of(kind, name):
    """Returns the texts of the ragged prompts with these settings, all in one batch."""
    return made(backend_of(kind), RAGGED, SETTINGS[name])


def same(kind, one, other):
    """Whether texts are equal: in C to the last bit of every log-probability, in PyTorch up to rounding."""
    if kind == "native":
        assert one == other
    for (text, tokens, (end,)), (text_, tokens_, (end_,)) in zip(one, other, strict=True):
        assert (text, end) == (text_, end_)
        told, told_ = ([token.logprob for token in part] for part in (tokens, tokens_))
        assert told == pytest.approx(told_, abs=1e-4)
    return True


@each_backend
@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_of_different_prompts_is_each_of_them_alone(kind, name):
    backend, config = backend_of(kind), SETTINGS[name]
    alone = [text for prompt in RAGGED for text in made(backend, [prompt], config, lookup=False)]
    together = batch_of(kind, name)
    assert same(kind, together, alone)
    assert len({len(end[0].ids) for _, _, end in together}) > (1 if name == "stopped" else 0)
    turned = made(backend, RAGGED[::-1], config)
    count = config.num_samples
    assert same(kind, [text for at in range(len(RAGGED))[::-1] for text in turned[at * count :][:count]], alone)


@pytest.mark.parametrize(("new", "positions"), [(3, 10), (500, 32)])
def test_a_cache_gets_positions_for_the_longest_text_up_to_the_context(new, positions):
    watched = Watched(backend_of("torch"))
    prompts = [[1, 2], [1, 2, 3, 4, 5, 6, 7], [3]]
    next(generate(watched, TOKENIZER, prompts, replace(GREEDY, max_new_tokens=new)))
    assert watched.positions == positions


@pytest.mark.parametrize(
    ("sequences", "positions", "room"), [(1, 300, 301), (1, 5000, 4096), (64, 300, 64), (2, 9, 64)]
)
def test_on_a_gpu_small_buffers_are_allocated_at_once(sequences, positions, room):
    backend = TorchBackend(tiny_model(context=8000))
    backend.device = torch.device("cuda")  # new_cache reads only the device
    cache = backend.new_cache(sequences, positions)
    cache.choose([0], 0)
    cache.append(0, torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8))
    assert cache.capacity == room


def test_a_step_makes_each_mask_once():
    step = StepCache([torch.zeros(2, 1, 9, 4)], [torch.zeros(2, 1, 9, 4)], torch.tensor([2, 7]))
    assert step.mask(None) is step.mask(None)
    assert step.mask(3) is step.mask(3)
    assert step.mask(None)[:, 0, 0].tolist() == [[at <= place for at in range(9)] for place in (2, 7)]
    assert step.mask(3)[:, 0, 0].tolist() == [[place - 3 < at <= place for at in range(9)] for place in (2, 7)]


@each_backend
@pytest.mark.parametrize("name", ["greedy", "stopped"])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_texts_that_wait_for_a_slot_are_the_same(kind, name, at_once):
    watched = Watched(backend_of(kind))
    found = made(watched, RAGGED, SETTINGS[name], at_once=at_once)
    assert same(kind, found, batch_of(kind, name))
    assert max(len({segment.sequence for segment in segments}) for segments in watched.asked) <= at_once
    assert all(segment.sequence < at_once for segments in watched.asked for segment in segments)


@each_backend
def test_past_the_context_each_text_of_a_batch_continues_from_its_own_half(kind):
    config = replace(GREEDY, max_new_tokens=60)
    for prompt, (_, _, (end,)) in zip(RAGGED, made(backend_of(kind), RAGGED, config), strict=True):
        expected = greedy_by_hand(MODEL, tuple(prompt), 60)
        ended = TOKENIZER.end_of_text in expected
        assert list(end.ids) == (expected[: expected.index(TOKENIZER.end_of_text) + 1] if ended else expected)


@each_backend
def test_equal_prompts_are_read_once(kind):
    watched = Watched(backend_of(kind))
    config = SampleConfig(seed=1, max_new_tokens=3, num_samples=4)
    prompts = [[5, 6, 7], [9, 9], [5, 6, 7]]
    events = list(generate(watched, TOKENIZER, prompts, config))
    assert [list(segment.ids) for segment in watched.asked[0]] == [[5, 6, 7], [9, 9]]
    assert [event.tokens for event in events if isinstance(event, PromptsRead)] == [5]
    assert all(len(segment.ids) == 1 for segments in watched.asked[1:] for segment in segments)


@each_backend
@pytest.mark.parametrize("name", SETTINGS)
def test_without_a_cache_the_text_is_the_same(kind, name):
    watched = Watched(backend_of(kind))
    found = made(watched, RAGGED, SETTINGS[name], cached=False)
    assert all(segment.start == 0 for segments in watched.asked for segment in segments)
    assert same(kind, found, batch_of(kind, name))


@each_backend
@pytest.mark.parametrize("name", ["greedy", "penalized", "sampled"])
@pytest.mark.parametrize("context", [32, 200])
def test_guesses_change_no_text(kind, name, context, monkeypatch):
    """This includes a context that restarts, and a last guess that is the last allowed token."""
    monkeypatch.setattr(Lookup, "_pays", lambda self: True)
    model = repeating_model(context)
    config = replace(SETTINGS[name], temperature=SETTINGS[name].temperature / 3, num_samples=1, max_new_tokens=100)
    plain, watched = Watched(backend_of(kind, model)), Watched(backend_of(kind, model))
    found = made(watched, [[5, 6, 7, 8] * 4], config, lookup=True)
    assert same(kind, found, made(plain, [[5, 6, 7, 8] * 4], config, lookup=False))
    assert max(segment.logit_count for (segment,) in plain.asked) == 1
    assert max(segment.logit_count for (segment,) in watched.asked) > 1
    assert all(segment.end <= context for (segment,) in watched.asked)
    if name == "greedy":
        assert len(watched.asked) < 0.7 * len(plain.asked)


@cache
def repeating_model(context):
    """Returns a model of two layers that soon repeats itself."""
    return tiny_model(vocab_size=300, context=context, layers=2)


@each_backend
def test_a_long_text_takes_no_more_memory_than_a_short_one(kind, monkeypatch):
    """Only the list of generated ids grows with the text."""
    known, guess = [], Lookup.guess

    def counted(self, ids, most):
        found = guess(self, ids, most)
        known.append(len(self._after))
        return found

    monkeypatch.setattr(Lookup, "guess", counted)
    backend = Watched(backend_of(kind, tiny_model(vocab_size=300, context=128, layers=1)))
    config = SampleConfig(temperature=1.0, repetition_penalty=1.1, seed=2, max_new_tokens=5000)
    events = generate(backend, TOKENIZER, [[5, 6, 7]], config, frozenset(), how=EngineConfig(lookup=True))
    rereads = (event for event in events if isinstance(event, Reread))  # one in 65 tokens
    taken = []
    for _ in range(3):
        for _ in islice(rereads, 3):
            backend.asked.clear()
        largest, known[:] = max(known), []
        gc.collect()
        tensors = [one.nbytes for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        taken.append((sum(tensors), backend.caches[0].nbytes, sys.getallocatedblocks()))
        assert largest <= 128
    first, _, last = taken
    assert last[0] <= first[0] + 10_000
    places = 128 if backend.exact else 129  # PyTorch's buffers have one unused position
    assert last[1] == first[1] == 2 * places * 2 * 8 * 4
    assert last[2] <= first[2] + 2 * 3 * 65 + 500
    assert next(rereads).kept == 64  # the generation had not ended


def test_tokens_after_the_previous_occurrence_of_the_last_three_are_guessed():
    said = [1, 2, 3, 9, 8, 7, 1, 2, 3]
    assert Lookup().guess(said, 99) == [9, 8, 7, 1, 2]  # five at most
    assert Lookup().guess(said, 2) == [9, 8]
    assert Lookup().guess(said, 0) == Lookup().guess(said[:-1], 9) == Lookup().guess([], 9) == []
    grows = Lookup()
    assert [grows.guess(said[:end], 9) for end in range(1, 9)] == [[]] * 8
    assert grows.guess(said, 9)[0] == 9
    assert grows.guess([*said, 5, 6, 1, 2, 3], 9) == [5, 6, 1, 2, 3]  # after their last occurrence
    grows.restart()
    assert grows.guess([1, 2, 3], 9) == []


def test_guessing_is_suspended_while_slower_and_then_retried():
    said, lookup = [1, 2, 3, 1, 2, 3], Lookup()
    lookup.measure(False, 1, 0.001)
    assert lookup.guess(said, 9)  # no rate has been measured yet
    lookup.measure(True, 1, 0.002)
    assert [bool(lookup.guess(said, 9)) for _ in range(18)] == [*[False] * 8, True] * 2
    lookup.measure(True, 9, 0.001)
    assert lookup.guess(said, 9)
