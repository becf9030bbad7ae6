"""Runs that train adapters: what is saved, PEFT opens it, the model stays as it is, and resuming is bit-exact."""

import itertools
import json
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from attncli.checkpoint import directory
from attncli.checkpoint.load import load_model
from attncli.cli.main import run
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import BadCheckpoint, UsageProblem
from attncli.model.lora import trained_parameters
from attncli.text.tokenizer_training import train_pair_tokenizer
from attncli.training import new_job, recipe, resume_job, run_job
from attncli.training.run import begin_run
from tests.support.adapters import write_base
from tests.support.checkpoints import CPU, without_manifest, write_random_translator
from tests.support.commands import ask
from tests.support.lazily import peft, transformers
from tests.support.models import ids_of
from tests.support.pairs import made_pairs, write_pairs
from tests.support.texts import story
from tests.support.training import contents, digest

SETTINGS = {"steps": 12, "context": 16, "batch_size": 4, "lr": 0.02, "dtype": "float32", "seed": 1}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Returns a folder with a text, and with a tiny model of each family under its name."""
    folder = tmp_path_factory.mktemp("bases")
    (folder / "story.txt").write_text(story(900))
    for family in ("llama", "qwen3", "qwen3-untied", "gpt2"):
        write_base(folder / family, family)
    write_random_translator(folder / "m2m100", train_pair_tokenizer([story(300)], "bpe", 300))
    write_pairs(folder / "pairs.tsv", made_pairs(80))
    return folder


def job_of(bases, family, file="story.txt", **settings):
    start = load_model(bases / family, CPU, torch.float32)
    pinned = TrainConfig(**{**SETTINGS, "lora": 4, **settings})
    return new_job([str(bases / file)], None, CorpusConfig(), pinned, start=start)


def trained(job, target, stop_at=None):
    asked = itertools.count(1)
    list(run_job(job, target, stop=lambda: stop_at is not None and next(asked) >= stop_at))
    return target


def read_by_peft(base, adapter, kind="AutoModelForCausalLM"):
    with warnings.catch_warnings(action="ignore"):
        model = getattr(transformers, kind).from_pretrained(base)
        return peft.PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_peft_opens_what_a_run_saves_with_the_same_logits(bases, tmp_path, family, targets, rslora):
    before, job = contents(bases / family), job_of(bases, family, lora_targets=targets, lora_alpha=3, rslora=rslora)
    adapter = trained(job, tmp_path / "a")
    assert contents(bases / family) == before
    saved = load_file(adapter / directory.ADAPTER_WEIGHTS)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in saved)
    assert sum(tensor.numel() for tensor in saved.values()) == job.plan.trained_parameters
    assert any(("mlp" in name) == (targets == "all") for name in saved)
    assert not any(path.name == directory.WEIGHTS for path in contents(adapter))
    ids = ids_of(40, 2)
    with torch.no_grad():
        merged = load_model(bases / family, CPU, torch.float32, adapter).model(ids)
        theirs = read_by_peft(bases / family, adapter)
        torch.testing.assert_close(merged, theirs(ids).logits, rtol=0, atol=1e-5)
        assert theirs.peft_config["default"].target_modules
        unmerged = begin_run(job.plan, adaptation=job.adaptation)
        assert (merged - unmerged.model.eval()(ids)).abs().max() > 1e-3  # new adapters change nothing


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3-untied"])
def test_a_new_adapter_is_drawn_as_peft_draws_it_and_changes_nothing(bases, family):
    job = job_of(bases, family)
    model, base = begin_run(job.plan, adaptation=job.adaptation).model.eval(), load_model(bases / family, CPU, None)
    with torch.no_grad():
        torch.testing.assert_close(model(ids_of(20)), base.model(ids_of(20)), rtol=0, atol=1e-6)
    for name, parameter in trained_parameters(model).items():
        if name.endswith("lora_b"):
            assert not parameter.any()
        else:
            bound = parameter.shape[1] ** -0.5
            assert parameter.abs().max() <= bound
            assert abs(parameter.std() / (bound / 3**0.5) - 1) < 0.3  # of a uniform distribution; 128 numbers or more


def test_merged_weights_equal_the_network_with_adapters(bases, tmp_path):
    job = job_of(bases, "qwen3")
    adapter = trained(job, tmp_path / "a", stop_at=5)
    resumed = resume_job(adapter)
    network = resumed.adaptation.network(resumed.plan.model, 0.0, 0)
    with torch.no_grad():
        for name, parameter in trained_parameters(network).items():
            parameter.copy_(resumed.resume.weights[name])
        merged = load_model(bases / "qwen3", CPU, torch.float32, adapter).model
        torch.testing.assert_close(network.eval()(ids_of(40)), merged(ids_of(40)), rtol=0, atol=1e-5)


def test_frozen_weights_have_no_gradient_and_the_optimizer_no_state_of_them(bases):
    job = job_of(bases, "qwen3", lora_targets="attention", dropout=0.1)
    run_ = begin_run(job.plan, adaptation=job.adaptation)
    names = trained_parameters(run_.model)
    assert {name.rpartition(".")[2] for name in names} == {"lora_a", "lora_b"}
    assert sum(parameter.numel() for parameter in names.values()) == job.plan.trained_parameters
    loss = run_.model.loss(ids_of(17, 4))
    loss.backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in run_.model.parameters())
    assert all("lora_" in name or name == "adamw.steps" for name in run_.trainee.optimizer.tensors())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_run(bases, tmp_path, family, dtype):
    settings = {"dropout": 0.1, "dtype": dtype}
    whole = trained(job_of(bases, family, **settings), tmp_path / "whole")
    stopped = trained(job_of(bases, family, **settings), tmp_path / "stopped", stop_at=7)
    assert (stopped / directory.STATE_TENSORS).exists()
    state = load_file(stopped / directory.STATE_TENSORS)
    assert all("lora_" in name or name == "optimizer.adamw.steps" for name in state)
    trained(resume_job(stopped), stopped)
    assert not (stopped / directory.STATE_TENSORS).exists()
    ends = [(path / directory.ADAPTER_WEIGHTS).read_bytes() for path in (whole, stopped)]
    assert ends[0] == ends[1]


def test_a_resumed_run_needs_the_same_model(bases, tmp_path):
    write_base(tmp_path / "m", "llama")
    stopped = trained(job_of(tmp_path, "m", file=bases / "story.txt"), tmp_path / "a", stop_at=3)
    (tmp_path / "m").rename(tmp_path / "gone")
    with pytest.raises(BadCheckpoint, match="which is missing"):
        resume_job(stopped)
    write_base(tmp_path / "m", "llama")
    again = load_model(tmp_path / "m", CPU, torch.float32)
    assert resume_job(stopped).resumed_at == 3
    assert digest(tmp_path / "m") == digest(tmp_path / "gone")
    write_base(tmp_path / "m2", "qwen3")
    (tmp_path / "m").rename(tmp_path / "old")
    (tmp_path / "m2").rename(tmp_path / "m")
    with pytest.raises(BadCheckpoint, match="has changed"):
        resume_job(stopped)
    assert again.name == "m"


def test_an_adapter_is_refused_for_a_model_with_another_tokenizer(bases, tmp_path):
    adapter = trained(job_of(bases, "llama"), tmp_path / "a")
    write_base(tmp_path / "other", "llama")
    without_manifest(tmp_path / "other")
    described = json.loads((tmp_path / "other/tokenizer.json").read_text())
    vocab = described["model"]["vocab"]
    first, second = sorted(vocab)[:2]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(BadCheckpoint, match="whose tokenizer is not that of other"):
        load_model(tmp_path / "other", CPU, torch.float32, adapter)


def test_a_model_that_translates_is_adapted(bases, tmp_path):
    adapter = trained(job_of(bases, "m2m100", "pairs.tsv", batch_size=120, context=40), tmp_path / "a")
    ours, source, target = (
        load_model(bases / "m2m100", CPU, torch.float32, adapter).model,
        ids_of(12) + 9,
        ids_of(9) + 9,
    )
    theirs = read_by_peft(bases / "m2m100", adapter, "AutoModelForSeq2SeqLM")
    with torch.no_grad():
        expected = theirs(input_ids=source, decoder_input_ids=target).logits
        torch.testing.assert_close(
            ours(target, source=ours.read_source(source)), expected, rtol=0, atol=1e-4
        )  # larger logits


def test_a_recomputed_or_split_step_trains_the_same_adapters(bases):
    losses = []
    for changes in ({}, {"checkpoint_activations": True}, {"grad_accum": 2}):
        job = job_of(bases, "qwen3-untied", **changes)
        run_ = begin_run(replace(job.plan, dropout=0.0), adaptation=job.adaptation)
        for step in range(4):
            batch = job.task.batch(step, 1, job.plan.context, job.plan.batch_size)
            loss, _ = run_.trainee.step(batch, step=step, seed=1, lr=0.02, adam_lr=0.02, parts=job.plan.grad_accum)
        losses.append(float(loss))
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-4)


def test_a_step_on_a_cpu_is_split_to_need_little_memory_beside_the_model(bases, monkeypatch):
    whole = job_of(bases, "llama").plan
    monkeypatch.setattr(recipe, "ADAPTING_BYTES", 1)  # the bytes of the weights are the limit
    split, given = job_of(bases, "llama").plan, job_of(bases, "llama", grad_accum=2).plan
    assert (whole.grad_accum, split.grad_accum, given.grad_accum) == (1, 4, 2)
    assert "beside the model" in split.reasons["grad_accum"]
    assert not split.checkpoint_activations


REFUSED = [
    ({"lora": 0}, "lora is 0"),
    ({"lora": 4, "optimizer": "muon"}, "lora trains adapters with AdamW"),
    ({"lora_alpha": 8}, "lora_alpha is for adapters"),
    ({"rslora": True}, "rslora is for adapters"),
    ({"lora": 4, "lora_targets": "q_proj"}, "lora_targets is 'q_proj'"),
    ({"lora": 4, "lora_alpha": float("nan")}, "lora_alpha is nan"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UsageProblem, match=words):
        TrainConfig(**settings)


def test_a_run_refuses_a_rank_above_the_width_no_model_and_the_directory_of_the_model(bases, tmp_path):
    with pytest.raises(UsageProblem, match="the width of the model is 32"):
        job_of(bases, "llama", lora=33)
    with pytest.raises(UsageProblem, match="there is no model"):
        new_job([str(bases / "story.txt")], None, CorpusConfig(), TrainConfig(**SETTINGS, lora=4))
    job = job_of(bases, "llama")
    for target in (bases / "llama", bases / "llama" / "inside"):
        with pytest.raises(UsageProblem, match="only read"):
            run_job(job, target)


def test_the_command_line_trains_resumes_and_uses_an_adapter(bases, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["train", str(bases / "story.txt"), "--from", str(bases / "qwen3"), "--lora", "4", "--lora-alpha", "6"]
    command += ["--steps", "4", "--context", "16", "--batch-size", "2", "--seed", "1", "--name", "mine"]
    code, _, err = ask(capsys, *command, "--dtype", "float32")
    assert code == 0
    assert "LoRA on all matrices of the layers, rank 4, alpha 6" in " ".join(err.split())
    assert "attncli generate --adapter mine" in " ".join(err.split())
    recorded = json.loads((tmp_path / "checkpoints/mine/run.json").read_text())
    assert recorded["plan"]["lora"] == {"rank": 4, "alpha": 6.0, "targets": "all", "rslora": False}
    assert recorded["from"] == str(bases / "qwen3")
    card = (tmp_path / "checkpoints/mine/README.md").read_text()
    assert "library_name: peft" in card
    assert "PeftModel.from_pretrained" in card
    code, _, err = ask(capsys, "eval", str(bases / "story.txt"), "--adapter", "mine", "--json")
    assert code == 0
    assert "was trained on" in err
    assert ask(capsys, "models", "--json")[1].strip() == "[]"
    assert ask(capsys, "plot", "mine")[0] == 0
    code, _, err = ask(capsys, *command)
    assert code == 2
    assert "Replace it: --force" in err


def test_a_bare_resume_finds_a_stopped_run_of_adapters(bases, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained(job_of(bases, "llama"), tmp_path / "checkpoints/mine", stop_at=3)
    assert run(["train", "--resume"]) == 0
    assert "going on at step 3" in capsys.readouterr().err
