"""Training: the loss falls, equal seeds give equal weights, a stopped run resumes, and no bad weights are saved."""

import hashlib
import itertools
import json
import re
import warnings
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard

from attncli.checkpoint import atomic, directory
from attncli.checkpoint.card import model_card
from attncli.checkpoint.load import load_model, read_resumable
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import BadCheckpoint, BadInput, Diverged, OutOfRoom, UsageProblem
from attncli.evaluation.evaluate import evaluate
from attncli.text.corpus import prepare
from attncli.text.documents import Documents
from attncli.text.tokenizer import Tokenizer
from attncli.training import budget as budget_module
from attncli.training import job as job_module
from attncli.training import make_plan, measure, new_job, recipe, resume_job, step_setup, train
from attncli.training import measure as measure_module
from attncli.training import memory as memory_module
from attncli.training import plan as plan_module
from attncli.training.budget import evaluation_windows
from attncli.training.measure import StepTime, measure_step
from attncli.training.provenance import provenance
from attncli.training.reports import EvalReport, Result, SampleReport, SaveReport, StepReport, plan_from_document
from attncli.training.schedule import Schedule
from attncli.training.shapes import shape
from attncli.training.step import Trainee
from attncli.training.step_setup import StepSetup
from attncli.training.tasks.registry import task_of
from attncli.training.tasks.text import TextBatch
from tests.support.models import ids_of, tiny_model
from tests.support.texts import story
from tests.support.training import FACTS, SMALL

CPU = torch.device("cpu")


def run(corpus, plan, target, **options):
    return list(train(corpus, plan, target, facts=FACTS, **options))


def digest(target):
    return hashlib.sha256((target / directory.WEIGHTS).read_bytes()).hexdigest()


def test_the_loss_falls_and_every_report_is_yielded(corpus, plan, tmp_path):
    reports = run(corpus, replace(plan, schedule=replace(plan.schedule, marks=((0, 120),))), tmp_path / "m")
    steps = [r for r in reports if isinstance(r, StepReport)]
    assert steps[-1].loss < 0.75 * steps[0].loss
    assert [r.step for r in steps] == list(range(5, 121, 5))
    result = reports[-1]
    assert isinstance(result, Result)
    assert result.finished
    assert result.tokens == 120 * 4 * 16
    lines = [json.loads(line) for line in (tmp_path / "m" / directory.METRICS).read_text().splitlines()]
    assert [line["kind"] for line in lines].count("step") == len(steps)


def test_the_final_score_is_computed_with_the_saved_weights_on_the_whole_validation_part(corpus, plan, whole_run):
    folder, reports, _ = whole_run(plan)
    result = reports[-1]
    model = load_model(folder, CPU, torch.float32).model
    nats = 0.0
    ids = torch.from_numpy(corpus.val.ids[:].astype("int64"))
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 16):
            window = ids[start : start + 17]
            logits = model(window[None, :-1])[0]
            nats += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
    assert result.best.scored == len(ids) - 1
    assert result.best.nats == pytest.approx(nats, rel=1e-5)
    unscored = corpus.tokenizer.decode(corpus.val.ids[:1].tolist())
    characters, size = corpus.val.characters - len(unscored), corpus.val.bytes - len(unscored.encode())
    assert result.best.per_character == pytest.approx(nats / characters, rel=1e-5)
    assert result.best.bits_per_byte == pytest.approx(nats / torch.log(torch.tensor(2.0)).item() / size)


def test_a_run_writes_its_model_card_and_keeps_an_edited_card(corpus, plan, tmp_path):
    named = replace(corpus, sources=("/home/me/secret/a `b`|c.txt", "-", "x.txt", "x.txt"))
    facts = provenance(task_of(named), CorpusConfig(), None, SMALL)
    result = list(train(named, plan, tmp_path / "m", facts=facts))[-1]
    file = tmp_path / "m" / directory.CARD
    card = ModelCard.load(str(file))
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.tags == ["attncli", "qwen3"]
    assert "secret" not in card.content
    assert "a ·b··c.txt, standard input, x.txt 2 times" in card.content
    assert f"{result.best.bits_per_byte:.4f} bits per byte" in card.content
    loaded = load_model(tmp_path / "m", CPU, torch.float32)
    weights, record = loaded.model.state_dict(), loaded.run

    def save_again():
        record["corpus"]["sources"] = ["another.txt"]
        write_checkpoint(tmp_path / "m", Checkpoint(loaded.model.config, weights, loaded.tokenizer, 1, record))
        return file.read_bytes()

    assert "attncli generate -m 'm $(x)'\n" in model_card("m $(x)", "qwen3", record, 16).decode()
    for kept in (card.content.replace("# m", "# my model").encode(), b"mine"):
        file.write_bytes(kept)
        assert save_again() == kept
    file.write_text(card.content)
    assert b"another.txt" in save_again()


def test_the_saved_weights_are_the_best_not_the_last(corpus, plan, tmp_path):
    """The learning rate rises until the model gets worse. The saved weights are from an earlier step."""
    schedule = Schedule(peak=8.0, warmup=400, marks=((0, 10_000), (99, 100)))
    wild = replace(plan, optimizer="adamw", adam_lr=8.0, schedule=schedule)
    reports = run(corpus, wild, tmp_path / "m")
    evaluations = [r for r in reports if isinstance(r, EvalReport)]
    best = min(evaluations, key=lambda r: r.score.per_token)
    assert reports[-1].best_step == best.step
    assert best.step < 100
    model = load_model(tmp_path / "m", CPU, torch.float32).model
    assert evaluate(model, corpus.val).per_token == pytest.approx(reports[-1].best.per_token, rel=1e-6)


def test_equal_seeds_give_equal_models_and_different_seeds_different_models(corpus, plan, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(corpus, replace(plan, seed=seed), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("at", "count"), [(1, 1), (10, 2), (23, 2), (39, 1)])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(corpus, plan, whole_run, tmp_path, threads, at, count):
    threads(count)
    whole = whole_run(plan)
    asked = itertools.count(1)
    reports = run(corpus, plan, tmp_path / "parts", stop=lambda: next(asked) >= at)
    assert not reports[-1].finished
    assert isinstance(reports[-2], SaveReport)
    saved = read_resumable(tmp_path / "parts")
    assert saved.state.facts["step"] == at
    again = plan_from_document(json.loads(json.dumps(asdict(plan))))
    assert again == plan
    assert run(corpus, again, tmp_path / "parts", resume=saved)[-1].finished
    assert digest(tmp_path / "parts") == digest(whole.folder)
    assert not (tmp_path / "parts" / "state").exists()
    assert not atomic.previous_of(tmp_path / "parts").exists()


def test_a_model_saved_in_bfloat16_is_half_as_large_and_scored_in_bfloat16(corpus, plan, whole_run, tmp_path):
    folders = whole_run(plan).folder, tmp_path / "half"
    result = run(corpus, replace(plan, save_dtype="bfloat16"), tmp_path / "half")[-1]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[1] < 0.6 * sizes[0]
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    whole, half = (load_model(folder, CPU, torch.float32).model for folder in folders)
    assert evaluate(half, corpus.val) == result.best
    for ours, kept in zip(half.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, kept.bfloat16().float())


@pytest.mark.parametrize("at", [23, 41])
def test_a_run_saved_in_bfloat16_resumes_exactly(corpus, plan, whole_run, tmp_path, at):
    plan = replace(plan, save_dtype="bfloat16")
    whole = whole_run(plan)
    asked = itertools.count(1)
    run(corpus, plan, tmp_path / "parts", stop=lambda: next(asked) >= at)
    saved = read_resumable(tmp_path / "parts")
    assert {tensor.dtype for tensor in saved.weights.values()} == {torch.float32}
    run(corpus, plan, tmp_path / "parts", resume=saved)
    assert digest(tmp_path / "parts") == digest(whole.folder)


def test_more_frequent_saves_do_not_change_the_weights(corpus, plan, whole_run, tmp_path, monkeypatch):
    whole = whole_run(plan)
    monkeypatch.setattr(recipe, "SAVE_SECONDS", 0.0)
    reports = run(corpus, plan, tmp_path / "often")
    assert [r.step for r in reports if isinstance(r, SaveReport)] == [0, *range(5, 41, 5), 40]
    assert digest(tmp_path / "often") == digest(whole.folder)


def test_a_run_stopped_in_its_final_evaluation_ends_with_the_same_weights_and_records(
    corpus, plan, whole_run, tmp_path
):
    plan = replace(plan, dtype="bfloat16")  # the final evaluation scores in float32
    folders = whole_run(plan).folder, tmp_path / "parts"
    asked = itertools.count(1)
    reports = run(corpus, plan, tmp_path / "parts", stop=lambda: next(asked) > plan.schedule.steps)
    assert not reports[-1].finished
    assert reports[-1].step == plan.schedule.steps
    assert run(corpus, plan, tmp_path / "parts", resume=read_resumable(tmp_path / "parts"))[-1].finished
    assert digest(folders[0]) == digest(folders[1])
    kinds = [
        [
            (line["kind"], line["step"])
            for line in map(json.loads, (folder / directory.METRICS).read_text().splitlines())
        ]
        for folder in folders
    ]
    assert kinds[0] == kinds[1]


def test_a_resumed_run_keeps_the_revisions_of_its_number_of_steps(corpus, plan, tmp_path):
    schedule = plan.schedule.revised(7, 30).revised(15, 36)
    revised = replace(plan, schedule=schedule)
    run(corpus, revised, tmp_path / "whole")
    asked = itertools.count(1)
    run(corpus, revised, tmp_path / "parts", stop=lambda: next(asked) >= 20)
    forgetful = replace(plan, schedule=replace(schedule, marks=((0, 36),)))
    run(corpus, forgetful, tmp_path / "parts", resume=read_resumable(tmp_path / "parts"))
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_a_run_ends_at_once_when_its_deadline_has_passed(corpus, plan, tmp_path):
    late = replace(plan, seconds=1e-3, report_every=1)
    reports = run(corpus, late, tmp_path / "m")
    assert reports[-1].finished
    assert reports[-1].step == 2


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_overwrites_nothing(corpus, plan, tmp_path, monkeypatch, poison):
    real, calls = Trainee._add_gradients, itertools.count(1)
    monkeypatch.setattr(Trainee, "_add_gradients", lambda *given: real(*given) * (poison if next(calls) == 13 else 1))
    kept = {}
    with pytest.raises(Diverged, match="step 13: loss") as raised:
        for report in train(corpus, plan, tmp_path / "m", facts=FACTS):
            if isinstance(report, SaveReport):
                kept = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert raised.value.exit_code == 5
    assert "smaller lr" in raised.value.hint
    assert {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()} == kept
    assert read_resumable(tmp_path / "m").state.facts["step"] == 10


def test_a_target_that_cannot_be_written_is_refused_before_the_first_step(corpus, plan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    reports = train(corpus, plan, tmp_path / "file" / "m", facts=FACTS)
    with pytest.raises(Exception, match="cannot be written"):
        next(reports)


def test_evaluation_of_a_sample_scores_whole_windows(corpus):
    model = tiny_model(vocab_size=corpus.tokenizer.vocab_size, context=16)
    whole = evaluate(model, corpus.val)
    part = evaluate(model, corpus.val, windows=3)
    assert (part.scored, whole.scored) == (3 * 16, len(corpus.val) - 1)
    assert part.bits_per_byte / part.per_token == pytest.approx(whole.bits_per_byte / whole.per_token)


def test_the_plan_keeps_given_settings_and_chooses_the_others(corpus):
    chosen = make_plan(TrainConfig(seconds=20), corpus)
    assert {"size", "context", "dropout"} <= chosen.reasons.keys()
    given = make_plan(replace(SMALL, lr=0.02, seed=7), corpus)
    assert (given.model.layers, given.model.width, given.model.context) == (1, 32, 16)
    assert (given.batch_size, given.schedule.steps, given.schedule.peak, given.dropout, given.seed) == (
        4,
        40,
        0.02,
        0.1,
        7,
    )
    assert not given.reasons.keys() & {"size", "context", "dropout"}


def test_epochs_are_converted_to_steps(corpus):
    plan = make_plan(replace(SMALL, steps=None, epochs=2.0), corpus)
    assert plan.epochs == pytest.approx(2, abs=0.05)


def test_a_context_longer_than_the_text_is_refused(corpus):
    with pytest.raises(BadInput, match="the text to train on has"):
        make_plan(replace(SMALL, context=10**6), corpus)


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_an_unavailable_device_is_refused(corpus, device):
    with pytest.raises(UsageProblem, match="not available"):
        make_plan(replace(SMALL, device=device), corpus)


def test_training_as_a_library_prints_nothing(corpus, plan, tmp_path, capfd):
    run(corpus, plan, tmp_path / "m")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_falls_in_every_floating_point_type(plan, whole_run, dtype):
    losses = [r.loss for r in whole_run(replace(plan, dtype=dtype)).reports if isinstance(r, StepReport)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_plan_for_a_number_of_steps_does_not_depend_on_the_speed_of_the_machine(corpus, monkeypatch):
    found = set()
    for seconds in (1e-4, 0.02, 0.05, 3.0):
        monkeypatch.setattr(measure_module, "measure_step", lambda *args, measured=seconds: StepTime(measured, 1.0))
        asked = replace(SMALL, size=None, dropout=None, lr=None, dtype="auto", steps=200)
        plan = make_plan(asked, corpus)
        found.add((plan.model, plan.dtype, plan.schedule, plan.dropout, plan.eval_every, evaluation_windows(plan)))
    assert len(found) == 1


def test_a_model_can_be_trained_after_it_was_scored(corpus):
    """Scores are computed in inference mode. No tensor of inference mode may remain in the model."""
    model = tiny_model(vocab_size=corpus.tokenizer.vocab_size, context=16)
    evaluate(model, corpus.val, windows=1)
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert model.embedding.weight.grad is not None


def test_a_run_resumed_after_its_last_step_is_drawn(corpus, plan, tmp_path, capsys):
    from attncli.render.console import messages
    from attncli.render.training import TrainingScreen

    asked = itertools.count(1)
    first = run(corpus, plan, tmp_path / "m", stop=lambda: next(asked) >= 40)
    again = run(corpus, plan, tmp_path / "m", resume=read_resumable(tmp_path / "m"))
    assert [type(report) for report in again] == [EvalReport, SaveReport, Result]
    for reports in (first, again):
        with TrainingScreen(messages(), plan) as screen:
            for report in reports:
                screen.update(report)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["10/40", "20/40", "30/40", "40/40"]
    assert all("nats/token" in line and "bits/byte" in line for line in lines)


def test_a_state_in_another_format_is_refused(corpus, plan, tmp_path):
    asked = itertools.count(1)
    run(corpus, plan, tmp_path / "m", stop=lambda: next(asked) >= 3)
    with pytest.raises(BadCheckpoint, match="another format"):
        resume_job(tmp_path / "m")


@pytest.mark.parametrize("at", [5, 6, 7, 8])
def test_a_run_stopped_between_micro_batches_ends_with_the_same_bits(corpus, whole_run, tmp_path, at):
    """`stop` is called twice between three micro-batches and once after them, so `at` reaches each of these calls."""
    short = replace(make_plan(replace(SMALL, steps=10), corpus), eval_every=10, report_every=5)
    parts = replace(short, grad_accum=3, batch_size=6, dtype="bfloat16")
    whole = whole_run(parts)
    asked = itertools.count(1)
    reports = run(corpus, parts, tmp_path / "parts", stop=lambda: next(asked) >= at)
    assert not reports[-1].finished
    assert read_resumable(tmp_path / "parts").state.facts["step"] == at // 3
    run(corpus, parts, tmp_path / "parts", resume=read_resumable(tmp_path / "parts"))
    assert digest(tmp_path / "parts") == digest(whole.folder)


def test_a_sample_is_written_at_every_evaluation_without_changing_the_weights(corpus, plan, whole_run, tmp_path):
    written = []

    def sample(model, step):
        assert not model.training
        torch.rand(7)  # the random numbers that the sample draws must not change the run
        written.append(SampleReport(step, f"so far {len(written)}", 6))
        return written[-1]

    reports = run(corpus, plan, tmp_path / "with", sample=sample)
    assert [r.step for r in reports if isinstance(r, SampleReport)] == [10, 20, 30]
    assert digest(tmp_path / "with") == digest(whole_run(plan).folder)


def test_fine_tuning_keeps_the_shape_and_the_tokenizer_of_the_model(tmp_path):
    first = tmp_path / "first.txt"
    first.write_text(story(1500))
    other = tmp_path / "other.txt"
    other.write_text(story(900, seed=1))
    pinned = replace(SMALL, seed=3)
    job = new_job([str(first)], None, CorpusConfig(vocab_size=300), pinned)
    list(train(job.corpus, job.plan, tmp_path / "a", facts=job.facts))
    start = load_model(tmp_path / "a", CPU, torch.float32)
    tuned = new_job([str(other)], None, CorpusConfig(), replace(pinned, size=None, context=None, lr=None), start=start)
    assert tuned.plan.model == start.model.config
    assert (tuned.plan.optimizer, tuned.plan.context) == ("adamw", 16)
    assert tuned.corpus.tokenizer.to_json() == start.tokenizer.to_json()
    before = evaluate(start.model, tuned.corpus.val).per_token
    result = list(train(tuned.corpus, tuned.plan, tmp_path / "b", facts=tuned.facts, initial=tuned.initial))[-1]
    assert result.best.per_token < before
    assert json.loads((tmp_path / "b" / "run.json").read_text())["from"] == str(tmp_path / "a")
    with pytest.raises(UsageProblem, match="context of 16"):
        new_job([str(other)], None, CorpusConfig(), replace(pinned, size=None, context=32), start=start)


def foreign_tokenizer():
    """Returns a tokenizer that drops white space and has the special tokens of other tools."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    words = sorted({word.strip(".").lower() for word in story(1500).split()})
    names = ["[UNK]", "<s>", "</s>", "<|end|>", ".", *words, *(word.capitalize() for word in words)]
    backend = Backend(models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(names[1:4])
    return Tokenizer(backend)


def test_fine_tuning_a_model_of_another_program_keeps_its_start_and_end_tokens(tmp_path):
    tokenizer = foreign_tokenizer()
    assert tokenizer.encode("\n") == []
    model, ends = tiny_model(vocab_size=tokenizer.vocab_size), frozenset({2, 3})
    weights = model.state_dict()
    write_checkpoint(tmp_path / "a", Checkpoint(model.config, weights, tokenizer, start_of_text=1, end_ids=ends))
    (tmp_path / "t.txt").write_text(story(900))
    start = load_model(tmp_path / "a", CPU, torch.float32)
    pinned = replace(SMALL, size=None, context=None, lr=None, steps=6)
    job = new_job([str(tmp_path / "t.txt")], None, CorpusConfig(), pinned, start=start)
    options = {"facts": job.facts, "initial": job.initial, "borders": job.borders}
    asked = itertools.count(1)
    list(train(job.corpus, job.plan, tmp_path / "b", **options, stop=lambda: next(asked) >= 3))
    again = resume_job(tmp_path / "b")
    list(train(again.corpus, again.plan, tmp_path / "b", facts=again.facts, borders=again.borders, resume=again.resume))
    made = load_model(tmp_path / "b", CPU, torch.float32)
    assert made.run["status"] == "finished"
    assert (made.start_of_text, made.end_ids) == (1, ends)
    assert json.loads((tmp_path / "b" / directory.TOKENIZER_CONFIG).read_text())["eos_token"] == "</s>"


def test_a_tokenizer_that_drops_line_ends_still_gives_a_start_of_text(tmp_path):
    corpus = prepare(Documents.of((story(1500),)), CorpusConfig(), tokenizer=foreign_tokenizer())
    run(corpus, make_plan(replace(SMALL, steps=2), corpus), tmp_path / "m")
    made = load_model(tmp_path / "m", CPU, torch.float32)
    assert (made.start_of_text, made.end_ids) == (0, frozenset())


def test_a_timed_run_on_a_small_text_ends_after_the_maximum_number_of_epochs(corpus):
    plan = make_plan(TrainConfig(seconds=3600, size="1x32", context=16, batch_size=4), corpus)
    assert plan.epochs == pytest.approx(72, rel=0.01)
    assert plan.schedule.steps == plan.most_steps
    assert "epochs" in plan.reasons["steps"]
    assert make_plan(TrainConfig(tokens=12_345, context=16, batch_size=4), corpus).schedule.steps == 193


@pytest.mark.parametrize("window", [0.001, 0.1])
def test_a_time_too_short_for_training_is_refused_with_a_sufficient_time(corpus, monkeypatch, window):
    """A step takes a second, and scoring a window `window` seconds. A longer run scores more windows at its end."""
    monkeypatch.setattr(measure_module, "measure_step", lambda *given: StepTime(1.0, 1.0))
    monkeypatch.setattr(budget_module, "measure_window", lambda *given: window)
    monkeypatch.setattr(plan_module, "time", SimpleNamespace(monotonic=lambda: 0.0))
    config = TrainConfig(seconds=20, size="1x32", context=16, batch_size=8)
    with pytest.raises(UsageProblem, match=r"setting up took 30\.0 s") as refused:
        make_plan(config, corpus, spent=30)
    least = float(re.search(r"seconds (\d+)s or more", refused.value.hint)[1])
    steps = make_plan(replace(config, seconds=least), corpus, spent=30).schedule.steps
    assert 20 <= steps <= 24  # enough steps, but not many more than advised


def test_a_short_run_has_smaller_batches_than_a_long_run():
    for device, short, long in (("cpu", 8, 3600), ("cuda", 15, 60)):
        (context, tokens), (longer, more) = (step_setup.usual_batch(torch.device(device), s) for s in (short, long))
        assert context <= longer
        assert 4 * tokens <= more


@pytest.mark.parametrize("seconds", [8, 60, 180, 300, 3600])
def test_a_timed_run_reads_about_as_many_characters_as_it_trains_on(seconds):
    for device, per_second in (("cpu", 100_000), ("cuda", 1_000_000)):
        most = job_module._most_characters(seconds, device)
        assert per_second * seconds <= most < 2 * per_second * seconds
        assert most.bit_count() == 1


@pytest.mark.parametrize(
    ("costs", "chosen"), [((8, 4, 2, 1), 8), ((4, 4, 5, 1), 8), ((5, 3, 4, 5), 2), ((1, 2, 3, 4), 1)]
)
def test_the_plan_chooses_the_fastest_number_of_threads(corpus, monkeypatch, threads, costs, chosen):
    """`costs` are the seconds of a step with 1, 2, 4 and 8 threads."""
    seconds = dict(zip((1, 2, 4, 8), costs, strict=True))
    monkeypatch.setattr(measure_module, "measure_step", lambda *given: StepTime(seconds[torch.get_num_threads()], 1.0))
    threads(8)
    plan = make_plan(TrainConfig(seconds=3600, size="1x32", context=16), corpus)
    assert (plan.threads, torch.get_num_threads()) == (chosen, 8)
    assert plan.step_seconds == seconds[chosen]
    assert ("threads" in plan.reasons) == (chosen < 8)
    assert make_plan(TrainConfig(steps=5, size="1x32", context=16), corpus).threads == 8


@pytest.mark.parametrize(("busy", "said"), [(1.2, False), (2.1, True)])
def test_a_plan_made_on_a_busy_machine_says_so(tmp_path, monkeypatch, busy, said):
    """A run with a given number of steps does not depend on the measured time, so its plan has no such note."""
    monkeypatch.setattr(measure_module, "measure_step", lambda *given: StepTime(0.1, busy))
    (tmp_path / "text.txt").write_text(story(3000))
    note = f"this machine is busy: a step took {busy} times its CPU time; the plan may be too small"
    for length, expected in (({"seconds": 3600}, said), ({"steps": 5}, False)):
        pinned = TrainConfig(size="1x32", **length)
        job = new_job([str(tmp_path / "text.txt")], None, CorpusConfig(vocab_size=300), pinned)
        assert (job.plan.busy, note in job.notes) == (busy, expected)
        assert plan_from_document(json.loads(json.dumps(asdict(job.plan)))) == job.plan


def test_the_load_of_the_machine_is_the_step_time_divided_by_its_cpu_time(corpus, monkeypatch):
    """Replaces the clocks: a step takes three seconds, of which it computes for one and a half."""
    wall, computing = itertools.count(0, 3.0), itertools.count(0, 1.5)
    clocks = SimpleNamespace(monotonic=lambda: next(wall), thread_time=lambda: next(computing))
    monkeypatch.setattr(measure_module, "time", clocks)
    setup = StepSetup(task_of(corpus), torch.device("cpu"), torch.float32, "adamw", 8, 1, 0.0, 0, {})
    assert measure_step(shape(1, 32, 300, 8), setup) == (3.0, 2.0)


@pytest.mark.parametrize("close", [False, True])
def test_a_run_uses_the_threads_of_its_plan_and_restores_the_previous_number(corpus, plan, tmp_path, threads, close):
    threads(2)
    reports = train(corpus, replace(plan, threads=1), tmp_path / "m", facts=FACTS)
    next(reports)
    assert torch.get_num_threads() == 1
    if close:
        reports.close()
    else:
        list(reports)
    assert torch.get_num_threads() == 2


def test_a_step_too_large_for_memory_is_split_then_recomputed_then_refused(corpus, monkeypatch):
    config = TrainConfig(steps=5, size="4x128", context=64, batch_size=16, dtype="float32")
    monkeypatch.setattr(step_setup, "resident_memory", lambda: 0)
    needs = make_plan(config, corpus).memory_bytes
    monkeypatch.setattr(measure_module, "measure_step", lambda *given: StepTime(0.1, 1.0))
    seen = []
    for share in (2.0 - hundredth / 100 for hundredth in range(0, 190, 2)):
        monkeypatch.setattr(memory_module, "memory_of", lambda device, share=share: int(needs * share))
        try:
            made = make_plan(config, corpus)
        except OutOfRoom as problem:
            assert "batch_size" in problem.hint
            seen.append(None)
        else:
            assert made.memory_bytes <= needs * share
            seen.append((made.grad_accum, made.checkpoint_activations))
    assert seen[0] == (1, False)
    assert seen == sorted(seen, key=lambda kind: (kind is None, kind))
    assert (16, True) in seen
    assert seen[-1] is None


def test_training_continues_uncompiled_if_the_compiler_fails(monkeypatch):
    with warnings.catch_warnings(action="ignore"):  # hide the compiler's own warnings
        from torch._inductor import config
    monkeypatch.setattr(config.cpp, "cxx", ("/nowhere/c++",))
    outcomes = []
    for compiled in (True, False):
        trainee = Trainee(tiny_model(layers=1).train().requires_grad_(), "muon", 0.1, torch.float32, compiled=compiled)
        outcomes.append(
            [trainee.step(TextBatch(ids_of(9, 4)), step=s, seed=0, lr=0.01, adam_lr=0.01)[0].item() for s in range(2)]
        )
    assert outcomes[0] == outcomes[1]


def test_a_batch_has_at_least_one_window_for_each_micro_batch(corpus):
    made = make_plan(TrainConfig(steps=3, size="1x32", context=64, grad_accum=40), corpus)
    assert (made.grad_accum, made.batch_size) == (40, 40)


def test_a_run_stopped_twice_before_a_score_keeps_the_weights_of_the_second_stop(corpus, plan, tmp_path):
    late = replace(plan, eval_every=30)
    for stop in (3, 6):
        asked = itertools.count(1)
        before = read_resumable(tmp_path / "m") if stop == 6 else None
        run(corpus, late, tmp_path / "m", resume=before, stop=lambda asked=asked: next(asked) >= 3)
        saved = read_resumable(tmp_path / "m")
        assert saved.state.facts["step"] == stop
        for name, tensor in saved.weights.items():
            assert torch.equal(tensor, saved.state.tensors[f"weights.{name}"])


def test_fine_tuning_evaluates_windows_of_the_context_of_the_run(corpus, plan, tmp_path):
    """The context of the model may be many times longer than the context of the run."""
    wide = replace(plan, model=replace(plan.model, context=64 * plan.context))
    assert evaluation_windows(wide) == evaluation_windows(plan)
    scored = [r.score.scored for r in run(corpus, wide, tmp_path / "m") if isinstance(r, EvalReport)]
    assert set(scored) == {evaluation_windows(plan) * plan.context}


def test_a_very_large_step_is_timed_on_some_of_its_windows(corpus, monkeypatch):
    timed = []
    monkeypatch.setattr(
        measure.Trainee, "step", lambda self, batch, **_: timed.append(batch.rows.shape) or (batch.rows.sum(),)
    )
    config = TrainConfig(steps=2, size="1x32", context=16, batch_size=10**6, dtype="float32", grad_accum=64)
    plan = make_plan(config, corpus)
    assert plan.batch_size == 10**6
    assert set(timed) == {((1 << 13) // 16, 17)}
