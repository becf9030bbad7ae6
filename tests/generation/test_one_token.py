"""Drawing one token at a time gives the tokens of the engine, and the distribution that each was drawn from."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.engine import generate
from attncli.generation.events import Finished
from attncli.generation.loading import backend_for
from attncli.generation.one_token import OneByOne, window
from attncli.generation.samples import samples_of
from attncli.model.backend import TorchBackend
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import load as load_from
from tests.support.checkpoints import write_random_model, write_random_translator

CONTEXT = 24


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "m"
    write_random_model(path, byte_tokenizer(), context=CONTEXT)
    return load_from(path)


def one_by_one(drawer, prompt, config, count):
    ids, drawn = [], []
    while len(ids) < count:
        drawn.append(drawer.draw(prompt, ids, config))
        ids.append(drawn[-1].id)
        if drawn[-1].ends:
            break
    return ids, drawn


@pytest.mark.parametrize("backend", [backend_for, TorchBackend])
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": 1.5, "min_p": 0.0},
        {"temperature": 0.8, "top_k": 7, "top_p": 0.9},
        {"typical": 0.8, "repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"logit_bias": ((104, 3.0), (32, -math.inf))},
    ],
)
def test_the_tokens_are_those_of_the_engine(loaded, backend, changes):
    """Also when the context slides, which it does twice here."""
    network, prompt = backend(loaded.model), loaded.prompt("One day")
    config = SampleConfig(max_new_tokens=40, seed=7, **changes)
    (sample,) = samples_of(generate(network, loaded.tokenizer, [prompt], config, loaded.end_ids))
    ids, drawn = one_by_one(OneByOne(loaded, network), prompt, config, 40)
    assert tuple(ids) == sample.ids
    assert drawn[-1].written == sample.text


def test_a_step_after_many_draws_has_the_random_number_of_the_engine(loaded):
    network, prompt = TorchBackend(loaded.model), loaded.prompt("x")
    config = SampleConfig(max_new_tokens=600, seed=3, temperature=2.0, min_p=0.0)
    events = generate(network, loaded.tokenizer, [prompt], config, frozenset())
    ids = next(event.ids for event in events if isinstance(event, Finished))
    drawer = OneByOne(loaded, network)
    for step in (255, 256, 511, 512, 599):
        assert drawer.draw(prompt, ids[:step], config).id == ids[step]


@settings(max_examples=15)
@given(st.data())
def test_a_draw_does_not_depend_on_the_texts_read_before(loaded, data):
    texts = data.draw(st.lists(st.text(alphabet="ab", min_size=1, max_size=CONTEXT), min_size=2, max_size=6))
    config = SampleConfig(seed=data.draw(st.integers(0, 99)), min_p=0.0)
    kept = OneByOne(loaded, backend_for(loaded.model))
    for text in texts:
        fresh = OneByOne(loaded, backend_for(loaded.model))
        assert kept.draw(loaded.prompt(text), [], config) == fresh.draw(loaded.prompt(text), [], config)


def test_the_distribution_is_the_one_drawn_from(loaded):
    config = SampleConfig(seed=1, temperature=0.7, top_k=5, min_p=0.0)
    prompt = loaded.prompt("Once")
    drawn = OneByOne(loaded, TorchBackend(loaded.model)).draw(prompt, [], config, count=loaded.tokenizer.vocab_size)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([prompt]))[0, -1].double()
    at = torch.tensor([chance.id for chance in drawn.chances])
    assert torch.allclose(torch.tensor([c.model for c in drawn.chances]).double(), logits.softmax(-1)[at], atol=1e-6)
    kept = logits.topk(5)
    expected = torch.zeros_like(logits).scatter(0, kept.indices, (kept.values / 0.7).softmax(-1))
    assert torch.allclose(torch.tensor([c.drawn for c in drawn.chances]).double(), expected[at], atol=1e-5)
    assert drawn.left == 5
    assert sum(chance.drawn for chance in drawn.chances) == pytest.approx(1)


def test_the_drawn_token_is_always_listed(loaded):
    config = SampleConfig(temperature=5.0, min_p=0.0, seed=11)
    drawn = OneByOne(loaded, TorchBackend(loaded.model)).draw(loaded.prompt("a"), [], config, count=1)
    assert drawn.id in [chance.id for chance in drawn.chances]


def test_a_full_window_keeps_its_recent_half():
    assert window([1, 2, 3], [], 4) == [1, 2, 3]
    assert window([1, 2, 3], [4], 4) == [1, 2, 3, 4]
    assert window([1, 2, 3], [4, 5], 4) == [4, 5]
    assert window([1, 2, 3], [4, 5, 6, 7, 8], 4) == [7, 8]


def test_bad_ids_and_long_prompts_are_refused(loaded):
    drawer = OneByOne(loaded, TorchBackend(loaded.model))
    with pytest.raises(BadInput):
        drawer.draw(loaded.prompt("a"), [loaded.tokenizer.vocab_size], SampleConfig())
    with pytest.raises(BadInput):
        drawer.draw(loaded.prompt("a" * (CONTEXT + 1)), [], SampleConfig())


def test_a_long_text_can_be_stopped_between_chunks(tmp_path):
    write_random_model(tmp_path / "m", byte_tokenizer(), context=600)
    loaded, calls = load_from(tmp_path / "m"), []

    def between():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    drawer = OneByOne(loaded, backend_for(loaded.model), between)
    prompt = loaded.prompt("ab" * 290)
    with pytest.raises(KeyboardInterrupt):
        drawer.draw(prompt, [], SampleConfig())
    after = drawer.draw(prompt, [], SampleConfig())  # goes on after the first chunk
    assert len(calls) == 4
    assert after == OneByOne(loaded, backend_for(loaded.model)).draw(prompt, [], SampleConfig())


class Stopped(BaseException):
    """Raised by a hook in the middle of a forward pass."""


def stop_once(block):
    """Makes the next call of a block end its forward pass."""

    def stop(*_):
        hook.remove()
        raise Stopped

    hook = block.register_forward_pre_hook(stop)


def test_a_stopped_forward_pass_leaves_no_half_read_text(loaded):
    """The first layers have already stored the keys of another text when the pass is stopped."""
    config, text, other = SampleConfig(seed=1), loaded.prompt("abcdef"), loaded.prompt("abxyz")
    drawer = OneByOne(loaded, TorchBackend(loaded.model))
    drawer.draw(text, [], config)
    stop_once(loaded.model.blocks[-1])
    with pytest.raises(Stopped):
        drawer.draw(other, [], config)
    longer = [*text, *other]
    kept, fresh = (each.draw(longer, [], config) for each in (drawer, OneByOne(loaded, TorchBackend(loaded.model))))
    expected = [chance.model for chance in fresh.chances]
    assert [chance.model for chance in kept.chances] == pytest.approx(expected, rel=1e-4)  # read in other parts


def test_a_stopped_encoder_leaves_no_half_read_source(tmp_path):
    write_random_translator(tmp_path / "m", byte_tokenizer())
    loaded, config = load_from(tmp_path / "m"), SampleConfig(temperature=0.0)
    drawer, source, other = OneByOne(loaded, TorchBackend(loaded.model)), [40, 41, 42], [50, 51]
    drawer.draw([2], [], config, source)
    stop_once(loaded.model.encoder.blocks[0])
    with pytest.raises(Stopped):
        drawer.draw([2], [], config, other)
    fresh = OneByOne(loaded, TorchBackend(loaded.model))
    assert drawer.draw([2], [], config, other) == fresh.draw([2], [], config, other)
