"""A GPU computes the same logits, texts and explanations as a CPU, and training on a GPU lowers the loss.

These tests are skipped without CUDA.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from attncli.checkpoint.load import read_resumable
from attncli.config import CorpusConfig, SampleConfig, TrainConfig
from attncli.explain.first_screen import explain
from attncli.explain.page.attention import page_attention
from attncli.explain.page.cuts import cuts
from attncli.explain.page.predictions import predictions
from attncli.explain.question import Focus
from attncli.explain.reading import Reading
from attncli.generation.engine import EngineConfig, generate
from attncli.generation.events import Finished
from attncli.model import backend as backend_module
from attncli.model.backend import Segment, TorchBackend
from attncli.text.corpus import prepare
from attncli.text.documents import Documents
from attncli.text.tokenizer_training import train_tokenizer
from attncli.training import make_plan, train
from attncli.training.reports import Result, StepReport
from attncli.training.step import Trainee
from attncli.training.tasks.text import TextBatch
from tests.support.models import ids_of, tiny_model
from tests.support.texts import story

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA")

CUDA = "cuda"
TOKENIZER = train_tokenizer([story(300)], "bpe", 300)
PROMPTS = [TOKENIZER.encode(text) for text in ("The cat", "A small grey bird sang under the tree while", "It")]
TRAINING = TrainConfig(
    steps=30, size="2x64", context=32, batch_size=8, dropout=0.0, lr=0.01, device=CUDA, dtype="float32"
)


def pair(**changes):
    """Returns one model on the CPU and a copy of it on the GPU."""
    return tiny_model(**changes), tiny_model(**changes).to(CUDA)


def made(model, config, **how):
    events = generate(TorchBackend(model), TOKENIZER, PROMPTS, config, frozenset(), how=EngineConfig(**how))
    return [event.ids for event in sorted((e for e in events if isinstance(e, Finished)), key=lambda e: e.sample)]


def test_logits_equal_the_cpu_with_and_without_a_cache(family):
    here, there = pair(**family)
    ids = ids_of(40, batch=2)
    with torch.inference_mode():
        expected = here(ids)
        assert torch.allclose(there(ids.to(CUDA)).cpu(), expected, atol=1e-4)
        cache = there.new_cache()
        parts = [there(part.to(CUDA), cache) for part in ids.split([1, 17, 1, 21], 1)]
        assert torch.allclose(torch.cat(parts, 1).cpu(), expected, atol=1e-4)


EVERY_STEP = {
    "logit_bias": ((9, -math.inf), (7, 2.0)), "repetition_penalty": 1.2, "presence_penalty": 0.4, "top_k": 200,
    "top_p": 0.95, "typical": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("drawing", [{"temperature": 0.0}, {"temperature": 0.9}, {"temperature": 1.3, **EVERY_STEP}])
def test_texts_past_the_context_equal_the_cpu(family, drawing):
    """A text of 120 tokens exceeds the context of 96 tokens, so the last tokens are read again."""
    here, there = pair(vocab_size=300, **family)
    config = SampleConfig(max_new_tokens=120, num_samples=2, seed=3, **drawing)
    assert made(there, config) == made(here, config)
    assert made(there, config, at_once=2) == made(here, config)


def test_a_step_is_recorded_once_and_again_when_the_buffers_double(monkeypatch):
    """A cache of 90 positions needs one recording; a small cache doubles at 64 positions and needs a second one."""
    here, there = pair()
    recorded = []
    record = backend_module._Recording
    monkeypatch.setattr(backend_module, "_Recording", lambda *given: recorded.append(record(*given)) or recorded[-1])
    expected = greedy(TorchBackend(here), 90)
    for positions, recordings in ((90, 1), (1, 2)):
        assert greedy(TorchBackend(there), 90, positions) == expected
        assert len(recorded) == recordings
        recorded.clear()


def greedy(backend, length, positions=1):
    """Returns tokens that are generated one by one; each is the most probable next token."""
    cache, ids = backend.new_cache(1, positions), [5]
    while len(ids) < length:
        ids += backend.read(cache, [Segment(0, len(ids) - 1, ids[-1:])]).argmax(-1).tolist()
    return ids


def test_an_explanation_equals_the_cpu():
    here, there = pair(vocab_size=300)
    segments = TOKENIZER.segments("The small grey cat sat on the mat because it was warm")
    expected, found = (explain(Reading.of(model, segments), TOKENIZER, Focus()) for model in (here, there))
    assert np.allclose(found.sources.shares, expected.sources.shares, atol=1e-4)
    assert [token.id for token in found.next_tokens] == [token.id for token in expected.next_tokens]
    assert found.checks.probabilities == pytest.approx(expected.checks.probabilities, abs=1e-4)


@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_the_attention_and_the_cuts_of_a_page_equal_the_cpu(dtype, within):
    here, there = pair(vocab_size=300)
    pieces = TOKENIZER.pieces("The small grey cat sat on the mat")
    readings = [Reading.of(model, pieces) for model in (here, there.to(getattr(torch, dtype)))]
    rows = range(len(pieces))
    expected, found = (page_attention(reading, rows, rows[-1], vectors=10**6) for reading in readings)
    for name in ("raw", "norm", "layer_shares", "rollout", "even"):
        assert np.allclose(getattr(found, name), getattr(expected, name), atol=within)
    expected, found = (cuts(reading, TOKENIZER, "decoder", focus=3) for reading in readings)
    assert np.allclose(np.sort(found.before), np.sort(expected.before), atol=within)
    assert np.allclose(found.edges.probabilities, expected.edges.probabilities, atol=within)
    assert all(np.isfinite(predictions(reading, TOKENIZER, rows).entropy).all() for reading in readings)


@pytest.fixture
def corpus():
    return prepare(Documents.of((story(3000),), ("story.txt",)), CorpusConfig(vocab_size=300))


def losses(corpus, plan, target):
    reports = list(train(corpus, plan, target, facts={}))
    assert isinstance(reports[-1], Result)
    return [report.loss for report in reports if isinstance(report, StepReport)], reports[-1]


def test_the_losses_of_training_equal_the_cpu(corpus, tmp_path):
    plan = replace(make_plan(TRAINING, corpus), report_every=1)
    found, result = losses(corpus, plan, tmp_path / "gpu")
    expected, _ = losses(corpus, replace(plan, device="cpu"), tmp_path / "cpu")
    assert found[:10] == pytest.approx(expected[:10], abs=1e-3)
    assert result.best.per_token < 0.8 * found[0]


@pytest.mark.parametrize("compiling", [False, True])
def test_training_in_bfloat16_with_dropout_lowers_the_loss(corpus, tmp_path, compiling):
    plan = make_plan(replace(TRAINING, dtype="auto", dropout=0.1, compile=compiling, grad_accum=2), corpus)
    assert plan.dtype == "bfloat16"
    found, result = losses(corpus, plan, tmp_path / "m")
    assert result.best.per_token < 0.8 * found[0]


def test_a_step_is_compiled():
    trainee = Trainee(tiny_model().to(CUDA).train(), "muon", 0.1, torch.bfloat16, compiled=True)
    trainee.step(TextBatch(ids_of(17, batch=4)).to(CUDA), step=0, seed=0, lr=0.01, adam_lr=0.001)
    assert trainee._loss != trainee._working.loss  # training falls back to the uncompiled loss


def test_a_stopped_and_resumed_run_ends_with_about_the_same_score(corpus, tmp_path):
    plan = make_plan(TRAINING, corpus)
    whole = losses(corpus, plan, tmp_path / "whole")[1]
    facts = {"format": 2, "versions": {}, "corpus": {"config": vars(CorpusConfig(vocab_size=300))}}
    steps = iter(range(100))
    for _ in train(corpus, plan, tmp_path / "parts", facts=facts, stop=lambda: next(steps) >= 14):
        pass
    saved = read_resumable(tmp_path / "parts")
    assert saved.state.facts["step"] == 15
    result = list(train(corpus, plan, tmp_path / "parts", facts=facts, resume=saved))[-1]
    assert result.best.per_token == pytest.approx(whole.best.per_token, abs=5e-3)
