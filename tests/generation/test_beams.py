"""Beam search: equal to transformers, for decoders and encoder-decoders, alone and in a batch."""

from dataclasses import replace
from functools import cache
from math import isfinite, pow

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncli.checkpoint.load import load_model
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.config import SampleConfig
from attncli.errors import UsageProblem
from attncli.generation.defaults import settings_for
from attncli.generation.engine import EngineConfig, generate
from attncli.generation.events import Finished, Text, Token
from attncli.generation.samples import SampleCollector
from attncli.generation.token_details import TokenDetails
from attncli.model import native
from attncli.model.backend import TorchBackend
from attncli.text.tokenizer_training import train_pair_tokenizer, train_tokenizer
from tests.support.encoder_decoders import THEIRS, save_theirs, their_model
from tests.support.lazily import transformers
from tests.support.models import FAMILIES, tiny_config, tiny_model
from tests.support.texts import story

CPU = torch.device("cpu")
TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
PROMPTS = [[11, 12, 13, 14, 15], [21, 22], [31, 32, 33, 34, 35, 36, 37]]
FIRST = {family: name for name, (family, _) in reversed(THEIRS.items())}.values()  # a model of each family
OTHERS = [0.0, 2.0, -0.5]  # length penalties


def found_by(backend, config, end_ids, prompts=PROMPTS, sources=None, **how):
    collector = SampleCollector()
    events = generate(backend, TOKENIZER, prompts, config, frozenset(end_ids), how=EngineConfig(**how), sources=sources)
    for _ in collector.collect(events):
        pass
    return [list(sample.ids) for sample in collector.samples]


def theirs_by(model, ids, config, end_ids, **more):
    """Returns the best texts of transformers, without the prompt and without padding after the end."""
    prompt = 0 if model.config.is_encoder_decoder else len(ids)
    rows = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), num_beams=config.beams, do_sample=False,
        num_return_sequences=config.num_samples, length_penalty=config.length_penalty, early_stopping=False,
        max_new_tokens=config.max_new_tokens, eos_token_id=sorted(end_ids), **more,
    )  # fmt: skip
    found = []
    for row in rows.tolist():
        text = row[prompt:] if prompt else row[1:]
        end = next((at for at, id_ in enumerate(text) if id_ in end_ids), len(text) - 1)
        found.append(text[: end + 1])
    return found


@pytest.mark.parametrize(
    ("name", "penalty", "count"),
    [*((name, 1.0, 64) for name in ("qwen3", "llama-bias", "gpt2", "gemma")), *(("qwen3", one, 16) for one in OTHERS)],
)
def test_texts_equal_those_of_transformers(name, penalty, count, tmp_path):
    model = tiny_model(**FAMILIES[name] | {"vocab_size": 300})
    write_checkpoint(tmp_path / "m", Checkpoint(model.config, model.state_dict(), TOKENIZER, 0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    config = SampleConfig(beams=4, num_samples=3, length_penalty=penalty, max_new_tokens=count)
    ends = set(range(0, 300, 60 if count == 64 else 12))
    expected = [text for prompt in PROMPTS[:2] for text in theirs_by(theirs, prompt, config, ends, pad_token_id=0)]
    assert found_by(TorchBackend(model), config, ends, PROMPTS[:2]) == expected


@pytest.mark.parametrize(
    ("name", "penalty", "count"), [*((name, 1.0, 64) for name in FIRST), *(("m2m100", one, 16) for one in OTHERS)]
)
def test_translations_equal_those_of_transformers(name, penalty, count, tmp_path):
    theirs = their_model(name)
    save_theirs(tmp_path, theirs, train_pair_tokenizer([story(300)], "bpe", 300))
    loaded = load_model(tmp_path, CPU, torch.float32)
    prompts, sources = loaded.inputs(PROMPTS[:1] if count == 64 else PROMPTS)
    ends, forced = {*loaded.end_ids, *range(3, 290, 150 if count == 64 else 20)}, len(loaded.forced)
    config = SampleConfig(beams=4, num_samples=2, length_penalty=penalty, max_new_tokens=count)
    more = {"use_cache": not name.startswith("t5")}  # their cache has the encoder's layers
    expected = [text[forced:] for one in sources for text in theirs_by(theirs, one, config, ends, **more)]
    ours = settings_for(loaded, replace(config, max_new_tokens=count - forced), ())
    assert found_by(TorchBackend(loaded.model), ours, ends, prompts, sources) == expected


@cache
def exact_backend():
    if not native.available():
        pytest.skip("there is no C compiler")
    return native.NativeBackend(tiny_model(vocab_size=300), threads=1)


@settings(max_examples=15, deadline=None)
@given(
    beams=st.integers(2, 6),
    penalty=st.sampled_from([1.0, *OTHERS]),
    at_once=st.integers(1, 20),
    cached=st.booleans(),
    ends=st.sets(st.integers(0, 299), max_size=40),
)
def test_a_text_does_not_depend_on_the_batch_or_the_cache(beams, penalty, at_once, cached, ends):
    backend = exact_backend()
    config = SampleConfig(beams=beams, length_penalty=penalty, max_new_tokens=12)
    together = found_by(backend, config, ends, at_once=at_once, cached=cached)
    assert together == [text for prompt in PROMPTS for text in found_by(backend, config, ends, [prompt])]


def test_the_first_text_has_the_highest_score():
    """The score of a text, computed from its log-probabilities, falls from sample to sample."""
    model = tiny_model(vocab_size=300)
    config = SampleConfig(beams=5, num_samples=5, max_new_tokens=8)
    scores = []
    for text in found_by(TorchBackend(model), config, set(range(0, 300, 9)), PROMPTS[:1]):
        ids = torch.tensor([[*PROMPTS[0], *text]])
        with torch.inference_mode():
            logs = model(ids)[0, len(PROMPTS[0]) - 1 : -1].log_softmax(-1)
        scores.append(float(logs.gather(-1, torch.tensor(text)[:, None]).sum()) / len(text))
    assert scores == sorted(scores, reverse=True)


def test_the_text_ends_at_a_stop_string_and_at_a_full_context():
    model = tiny_model(vocab_size=300, context=16)
    (ids,) = found_by(TorchBackend(model), SampleConfig(beams=3, max_new_tokens=50), (), [[5, 6, 7]])
    assert len(ids) == 16 - 3 + 1
    whole = TOKENIZER.decode(ids)
    config = SampleConfig(beams=3, max_new_tokens=50, stop=(whole[4:6],))
    events = list(generate(TorchBackend(model), TOKENIZER, [[5, 6, 7]], config, frozenset()))
    assert "".join(event.text for event in events if isinstance(event, Text)) == whole[: whole.index(whole[4:6])]
    assert [event.reason for event in events if isinstance(event, Finished)] == ["stop"]


def test_details_are_those_of_the_text():
    model = tiny_model(vocab_size=300)
    config = SampleConfig(beams=3, max_new_tokens=6)
    events = list(generate(TorchBackend(model), TOKENIZER, PROMPTS[:1], config, frozenset(), TokenDetails(2)))
    tokens = [event for event in events if isinstance(event, Token)]
    (end,) = [event for event in events if isinstance(event, Finished)]
    assert tuple(token.id for token in tokens) == end.ids
    with torch.inference_mode():
        logs = model(torch.tensor([[*PROMPTS[0], *end.ids]]))[0, len(PROMPTS[0]) - 1 :].log_softmax(-1)
    for at, token in enumerate(tokens):
        assert token.logprob == pytest.approx(float(logs[at, token.id]), abs=1e-4)
        assert [one.id for one in token.top] == logs[at].topk(2)[1].tolist()


def test_a_ban_and_a_bias_hold_in_the_search():
    model = tiny_model(vocab_size=300)
    (usual,) = found_by(TorchBackend(model), SampleConfig(beams=3, max_new_tokens=9), (), PROMPTS[:1])
    banned = SampleConfig(beams=3, max_new_tokens=9, logit_bias=tuple((id_, float("-inf")) for id_ in set(usual)))
    (ids,) = found_by(TorchBackend(model), banned, (), PROMPTS[:1])
    assert not set(ids) & set(usual)


@pytest.mark.parametrize("weight", [1.0, float("nan")], ids=["every token is banned", "logits are not numbers"])
def test_a_search_ends_if_no_token_can_follow(weight):
    model = tiny_model(vocab_size=300)
    bans = tuple((id_, float("-inf")) for id_ in range(300)) if weight == 1 else ()
    with torch.no_grad():
        model.norm.weight.fill_(weight)
    config = SampleConfig(beams=2, num_samples=2, max_new_tokens=9, logit_bias=bans)
    assert found_by(TorchBackend(model), config, (), PROMPTS[:1]) == [[], []]


@pytest.mark.parametrize("penalty", [-40.0, 40.0])
def test_the_score_of_the_longest_text_is_a_number_for_every_length_penalty(penalty):
    config = SampleConfig(beams=2, length_penalty=penalty)
    longest = tiny_config(context=1 << 24).context
    assert isfinite(-1e9 / pow(longest, config.length_penalty))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.7}, "Leave out temperature, or beams"),
        ({"top_k": 5, "typical": 0.9}, "Leave out top_k and typical"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"num_samples": 5}, "at least beams 5"),
        ({"length_penalty": 41.0}, "length_penalty"),
        ({"beams": 0}, "beams"),
        ({"beams": 65}, "beams"),
    ],
)
def test_settings_that_beam_search_does_not_have_are_refused(wrong, message):
    with pytest.raises(UsageProblem) as caught:
        SampleConfig(**{"beams": 4} | wrong)
    assert message in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("off", [{"min_p": 0.0}, {"top_k": 0, "top_p": 1.0, "typical": 1.0}])
def test_sampling_that_is_off_is_not_refused_with_beams(off):
    assert SampleConfig(beams=2, **off).beams == 2
