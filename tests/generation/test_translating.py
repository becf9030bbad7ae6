"""Generation with encoder-decoders: equal to transformers, to the model without a cache, and in any batch."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch

from attncli.checkpoint.load import load_model
from attncli.config import EngineConfig, SampleConfig
from attncli.errors import BadCheckpoint, BadInput
from attncli.generation.defaults import settings_for
from attncli.generation.engine import generate
from attncli.generation.events import Finished, PromptsRead, Text, Token
from attncli.generation.loading import backend_for
from attncli.generation.samples import samples_of as collected
from attncli.generation.token_details import TokenDetails
from attncli.generation.verify import Original, verify
from attncli.model import native
from attncli.model.backend import TorchBackend
from attncli.model.transformer import Transformer
from attncli.text.tokenizer_training import train_pair_tokenizer
from tests.support.encoder_decoders import THEIRS, save_theirs, their_model
from tests.support.models import ENCODER_DECODERS, ENCODERS, tiny_model
from tests.support.texts import story

CPU = torch.device("cpu")
GREEDY = SampleConfig(temperature=0, max_new_tokens=14)
SOURCES = [[11, 12, 13, 14, 15], [21, 22], [31, 32, 33, 34, 35, 36, 37], [21, 22], [41, 42, 43]]


@pytest.fixture(scope="module")
def tokenizer():
    return train_pair_tokenizer([story(300)], "bpe", 300)


@pytest.fixture(params=ENCODER_DECODERS, scope="module")
def model(request):
    return tiny_model(**ENCODER_DECODERS[request.param] | {"vocab_size": 300, "layers": 2})


@pytest.fixture(scope="module")
def one_model():
    """Returns a model of one family, for what does not depend on the network."""
    return tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300})


def in_c(model):
    if not native.available() or not native.supports(model.config):
        pytest.skip("the network in C does not run here")
    return native.NativeBackend(model, threads=1)


def samples_of(model, tokenizer, config, sources=SOURCES, end_ids=frozenset(), start=(2,), **how):
    events = generate(
        TorchBackend(model) if isinstance(model, Transformer) else model,
        tokenizer, [list(start)] * len(sources), config, end_ids, how=EngineConfig(**how), sources=sources,
    )  # fmt: skip
    return collected(events)


@cache
def greedy_by_hand(model, source, count):
    ids = [2]
    with torch.inference_mode():
        read = model.read_source(torch.tensor([source]))
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]), source=read)[0, -1].argmax()))
    return ids[1:]


@pytest.mark.parametrize("backend", [TorchBackend, in_c])
@pytest.mark.parametrize("how", [{}, {"at_once": 2}, {"cached": False}])
def test_greedy_targets_are_those_of_the_model_without_a_cache(model, tokenizer, how, backend):
    found = samples_of(backend(model), tokenizer, GREEDY, **how)
    assert [list(sample.ids) for sample in found] == [greedy_by_hand(model, tuple(source), 14) for source in SOURCES]


@pytest.mark.parametrize("name", THEIRS)
def test_greedy_targets_equal_those_of_transformers(name, tokenizer, tmp_path):
    theirs = their_model(name)
    save_theirs(tmp_path, theirs, tokenizer)
    loaded = load_model(tmp_path, CPU, torch.float32)
    prompts, sources = loaded.inputs(SOURCES[:1])
    config = settings_for(loaded, SampleConfig(max_new_tokens=32 - len(loaded.forced)), ())
    found = samples_of(loaded.model, tokenizer, config, sources, loaded.end_ids, prompts[0])
    for source, sample in zip(sources, found, strict=True):
        expected = theirs.generate(
            torch.tensor([source]), max_new_tokens=32, do_sample=False, num_beams=1,
            use_cache=not name.startswith("t5"),  # their cache has as many layers as the encoder
        )  # fmt: skip
        assert [*prompts[0], *sample.ids] == expected[0].tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_banned_tokens_and_forced_ends_are_those_of_transformers(beams, tokenizer, tmp_path):
    """Marian's padding, which begins a target, would be the most probable token everywhere."""
    theirs = their_model("marian")
    theirs.final_logits_bias[0, 299] = 50
    theirs.generation_config.forced_eos_token_id, theirs.generation_config.bad_words_ids = 2, [[299]]
    save_theirs(tmp_path, theirs, tokenizer)
    loaded = load_model(tmp_path, CPU, torch.float32)
    assert (loaded.banned, loaded.forced_end) == ({299}, 2)
    for count in (1, 9):
        config = settings_for(loaded, SampleConfig(max_new_tokens=count, beams=beams), ())
        prompts, sources = loaded.inputs(SOURCES)
        found = samples_of(loaded.model, tokenizer, config, sources, loaded.end_ids, prompts[0])
        for source, sample in zip(sources, found, strict=True):
            (expected,) = theirs.generate(
                torch.tensor([source]), max_new_tokens=count, do_sample=False, num_beams=beams, early_stopping=False
            )
            assert [*prompts[0], *sample.ids] == expected.tolist()
            assert 299 not in sample.ids
            assert sample.ids[-1] == 2


@pytest.mark.parametrize(("setting", "forced"), [(None, ()), (5, (5,)), ([5], (5,))])
def test_a_target_has_at_most_one_forced_first_token(setting, forced, tokenizer, tmp_path):
    theirs = their_model("bart")
    save_theirs(tmp_path, theirs, tokenizer)
    file = tmp_path / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"forced_bos_token_id": setting}))
    assert load_model(tmp_path, CPU, torch.float32).forced == forced
    file.write_text(json.dumps(settings | {"forced_bos_token_id": [5, 6]}))
    with pytest.raises(BadCheckpoint, match="a target has one first token"):
        load_model(tmp_path, CPU, torch.float32)


def test_an_error_names_the_text_that_is_too_long(tokenizer):
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300, "context": 8})
    with pytest.raises(BadInput, match="The beginning of the translation has 9 tokens"):
        generate(TorchBackend(model), tokenizer, [[4] * 9], GREEDY, sources=[[4]])
    with pytest.raises(BadInput, match="The text has 9 tokens"):
        generate(TorchBackend(model), tokenizer, [[4]], GREEDY, sources=[[4] * 9])


def test_the_forced_end_is_the_last_token_of_a_full_context(tokenizer):
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300, "context": 8})
    for config in (replace(GREEDY, max_new_tokens=30, forced_end=9), SampleConfig(beams=2, forced_end=9)):
        for backend in (TorchBackend(model), in_c(model)):
            (sample,) = samples_of(backend, tokenizer, config, [SOURCES[0]], frozenset({9}))
            assert (len(sample.ids), sample.ids[-1]) == (8, 9)


def test_equal_sources_of_new_samples_are_encoded_once(one_model, tokenizer):
    read = Counter()

    class Counting(TorchBackend):
        def read_sources(self, cache, sources):
            read.update(map(tuple, sources.values()))
            super().read_sources(cache, sources)

    config = SampleConfig(max_new_tokens=3, num_samples=3)
    assert len(samples_of(Counting(one_model), tokenizer, config)) == 15
    assert read == Counter({tuple(source): 1 for source in SOURCES})


def test_samples_do_not_depend_on_the_texts_beside_them(model, tokenizer):
    config = SampleConfig(max_new_tokens=12, num_samples=2, seed=4)
    together = samples_of(model, tokenizer, config, at_once=3)
    alone = [samples_of(model, tokenizer, config, [source]) for source in SOURCES]
    assert together == [sample for samples in alone for sample in samples]


@pytest.mark.parametrize("stop", [(), ("e", "the")])
@pytest.mark.parametrize("changes", [{"beams": 3}, {"temperature": 2.0, "num_samples": 2}])
def test_text_that_is_decoded_at_the_end_is_the_streamed_text(one_model, tokenizer, stop, changes):
    config = replace(GREEDY, max_new_tokens=20, stop=stop, seed=3, **changes)
    ends = frozenset(range(0, 300, 9))
    streamed, at_the_end = (
        samples_of(one_model, tokenizer, config, end_ids=ends, at_once=4, streamed=streamed)
        for streamed in (True, False)
    )
    assert at_the_end == streamed
    assert any(sample.text for sample in streamed)


def test_waiting_samples_enter_when_a_quarter_of_the_slots_are_free(one_model, tokenizer):
    admitted = []

    class Counting(TorchBackend):
        def read_sources(self, cache, sources):
            admitted.append(len(sources))
            super().read_sources(cache, sources)

    config = SampleConfig(temperature=1, max_new_tokens=30, seed=1)
    sources = [[at] for at in range(10, 50)]
    samples_of(Counting(one_model), tokenizer, config, sources, frozenset(range(0, 300, 5)), at_once=12)
    assert sum(admitted) == 40
    assert admitted[0] == 12
    assert all(count >= 3 for count in admitted[1:-1])


def test_a_model_in_memory_generates_in_c_where_c_runs(model):
    assert isinstance(backend_for(model), native.NativeBackend if native.available() else TorchBackend)
    assert isinstance(backend_for(tiny_model(**ENCODERS["bert"])), TorchBackend)


def test_a_full_context_ends_the_target(tokenizer):
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300, "context": 8})
    config = replace(GREEDY, max_new_tokens=30)
    events = list(generate(TorchBackend(model), tokenizer, [[2]], config, frozenset(), sources=[[11, 12]]))
    (end,) = [event for event in events if isinstance(event, Finished)]
    assert end.reason == "length"
    assert list(end.ids) == greedy_by_hand(model, (11, 12), 8)


def test_special_tokens_have_no_text(tokenizer):
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300})
    wanted = tuple((id_, 1e5) for id_ in (0, 1, 3))
    config = SampleConfig(max_new_tokens=20, logit_bias=wanted, min_p=0.0, temperature=100)
    events = list(
        generate(TorchBackend(model), tokenizer, [[2]], config, frozenset({2}), TokenDetails(), sources=[[9]])
    )
    tokens = [event for event in events if isinstance(event, Token)]
    assert {token.text for token in tokens} == {"<s>", "<pad>", "<unk>"}
    assert not [event for event in events if isinstance(event, Text)]
    assert all(token.characters == 0 for token in tokens)


def test_the_prompts_that_are_counted_are_the_sources(model, tokenizer):
    events = generate(TorchBackend(model), tokenizer, [[2]] * 5, GREEDY, frozenset(), sources=SOURCES)
    assert next(event.tokens for event in events if isinstance(event, PromptsRead)) == 5 + 2 + 7 + 3


@pytest.mark.parametrize(("source", "message"), [([], "no tokens"), ([9] * 97, "97 tokens, .* at most 96")])
def test_a_source_that_cannot_be_read_is_refused_at_once(tokenizer, source, message):
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300})
    with pytest.raises(BadInput, match=message):
        generate(TorchBackend(model), tokenizer, [[2]], GREEDY, sources=[source])


def test_every_way_of_translating_is_verified(model, tokenizer):
    config, sources = SampleConfig(max_new_tokens=8, num_samples=2, seed=7), SOURCES[:3]
    samples = samples_of(model, tokenizer, config, sources)
    original = Original(tokenizer, [[2]] * 3, config, frozenset(), samples, sources)
    checks = list(verify(original, TorchBackend(model), TorchBackend(model)))
    assert len(checks) == 6
    assert not any(check.fails or check.logits_differ for check in checks)
