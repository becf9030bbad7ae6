"""A run on pairs trains an encoder-decoder that translates: planned, stopped, resumed and judged like a run on text."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attncli.checkpoint import directory
from attncli.checkpoint.load import load_model
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import AttnError, BadCheckpoint, UsageProblem
from attncli.evaluation.evaluate_pairs import evaluate_pairs, pair_tensors, score_pairs, spread_pairs
from attncli.model.transformer import Transformer, initialize
from attncli.text.pair_batch import PairBatches
from attncli.text.pair_corpus import prepare_pairs
from attncli.text.pairs import read_pairs
from attncli.training import make_plan, new_job, resume_job, run_job, step_setup, summarize, train
from attncli.training.memory import memory_bytes
from attncli.training.reports import EvalReport, Result, TranslationsReport
from attncli.training.shapes import pair_shape
from attncli.training.step import Trainee
from attncli.training.tasks.registry import task_of
from attncli.training.translations import greedy
from tests.support.pairs import made_pairs, write_pairs
from tests.support.training import SMALL, contents, digest

CPU = torch.device("cpu")
TEXT = CorpusConfig(vocab_size=350)
PINNED = TrainConfig(steps=20, size="1x32", batch_size=256, dropout=0.1, lr=0.02, dtype="float32", seed=3)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "toy.tsv", made_pairs())


@pytest.fixture
def corpus(pairs):
    return prepare_pairs(read_pairs([pairs]), TEXT)


def job_of(pairs, **changes):
    job = new_job([pairs], None, TEXT, replace(PINNED, **changes))
    return replace(job, plan=replace(job.plan, eval_every=5, report_every=5))


def model_of(corpus, seed=0):
    model = Transformer(pair_shape(1, 32, corpus.tokenizer.vocab_size, 64))
    initialize(model, torch.Generator().manual_seed(seed))
    return model


# The run


def test_a_run_on_pairs_lowers_the_loss_and_shows_translations(pairs, tmp_path):
    job = job_of(pairs, steps=40)
    reports = list(run_job(job, tmp_path / "m"))
    scores = [report.score.per_token for report in reports if isinstance(report, EvalReport)]
    assert scores[-1] < 0.8 * scores[0]
    shown = [report for report in reports if isinstance(report, TranslationsReport)]
    assert len(shown) == 7
    assert len({tuple((one.source, one.reference) for one in report.examples) for report in shown}) == 1
    result = reports[-1]
    assert isinstance(result, Result)
    assert result.finished
    assert result.best.scored == job.corpus.val.to_score
    assert result.best.bytes == job.corpus.val.bytes
    found = summarize(job, tmp_path / "m", result)
    assert found.share == 1
    assert [one.source for one in found.examples] == [one.source for one in shown[0].examples]
    assert found.prompt == found.examples[0].source


def test_the_shape_has_the_size_in_each_stack_and_the_records_count_target_tokens(pairs, tmp_path):
    job = job_of(pairs, size="2x64", steps=2)
    plan = job.plan
    assert (plan.model.encoder_layers, plan.model.layers, plan.model.width) == (2, 2, 64)
    assert plan.train_tokens == job.corpus.train.target.tokens
    assert plan.tokens_per_step * 2 / plan.train_tokens == pytest.approx(plan.epochs)
    assert (plan.label_smoothing, plan.translates) == (0.1, True)
    list(run_job(job, tmp_path / "m"))
    recorded = json.loads((tmp_path / "m" / directory.RUN).read_text())
    assert recorded["corpus"]["kind"] == "pairs"
    assert recorded["corpus"]["train_pairs"] + recorded["corpus"]["val_pairs"] == 400
    assert recorded["plan"]["step_tokens"] == plan.step_tokens


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    """Returns a job with two micro-batches in each step, and the digest of its weights."""
    folder, job = tmp_path_factory.mktemp("whole") / "m", job_of(pairs, steps=10, grad_accum=2)
    list(run_job(job, folder))
    return job, digest(folder)


@pytest.mark.parametrize("at", [1, 3, 7, 13])
def test_a_stopped_run_on_pairs_ends_with_the_same_bits(whole, tmp_path, at):
    job, expected = whole
    asked = itertools.count(1)
    reports = list(run_job(job, tmp_path / "parts", stop=lambda: next(asked) >= at))
    assert not reports[-1].finished
    again = resume_job(tmp_path / "parts")
    assert again.notes == ()
    assert list(run_job(again, tmp_path / "parts"))[-1].finished
    assert digest(tmp_path / "parts") == expected


@pytest.fixture(scope="module")
def stopped(pairs, tmp_path_factory):
    """Returns a folder with two stopped runs on the same pairs, and with these pairs in other files."""
    folder, made = tmp_path_factory.mktemp("stopped"), made_pairs()
    (folder / "en.txt").write_text("".join(f"{source}\n" for source, _ in made))
    (folder / "de.txt").write_text("".join(f"{target}\n" for _, target in made), encoding="utf-8")
    for name, some in (("a", made[:200]), ("b", made[200:]), ("swapped", [pair[::-1] for pair in made])):
        write_pairs(folder / f"{name}.tsv", some)
    (folder / "all.tsv").write_bytes(Path(pairs).read_bytes())
    both = [str(folder / name) for name in ("en.txt", "de.txt")]
    for name, files, kind in (("tabs", [pairs], None), ("parallel", both, "parallel")):
        job = new_job(files, None, TEXT, replace(PINNED, steps=3), kind=kind)
        list(run_job(job, folder / name, stop=iter([False, True]).__next__))
    return folder


@pytest.mark.parametrize("run", ["tabs", "parallel"])
@pytest.mark.parametrize(
    ("files", "kind"), [("", None), ("all.tsv", "pairs"), ("a.tsv b.tsv", "pairs"), ("en.txt de.txt", "parallel")]
)
def test_a_stopped_run_is_resumed_on_its_pairs_in_any_files(stopped, run, files, kind):
    job = resume_job(stopped / run, [str(stopped / name) for name in files.split()], kind=kind)
    assert (job.resumed_at, job.notes) == (2, ())


@pytest.mark.parametrize("run", ["tabs", "parallel"])
@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ("b.tsv a.tsv", {"kind": "pairs"}, "The pairs are not those that"),
        ("swapped.tsv", {"kind": "pairs"}, "The pairs are not those that"),
        ("de.txt en.txt", {"kind": "parallel"}, "The pairs are not those that"),
        ("all.tsv", {"kind": "text"}, "The pairs are not those that"),
        ("en.txt", {"kind": "pairs"}, "en.txt, line 1 has no tab"),
        ("", {"val_file": "all.tsv"}, "validates on a part of its pairs"),
        ("", {"watch_heads": True}, "watch_heads is for text"),
    ],
)
def test_a_stopped_run_is_not_resumed_on_other_pairs(stopped, run, files, options, message):
    before = contents(stopped / run)
    with pytest.raises(AttnError, match=message):
        resume_job(stopped / run, [str(stopped / name) for name in files.split()], **options)
    assert contents(stopped / run) == before


def test_a_run_on_text_is_not_resumed_on_pairs(pairs, stopped, tmp_path):
    (tmp_path / "story.txt").write_text("Once there was a dog. " * 200)
    job = new_job([str(tmp_path / "story.txt")], None, CorpusConfig(), replace(SMALL, steps=3))
    list(run_job(job, tmp_path / "m", stop=iter([False, True]).__next__))
    for files, kind in (([pairs], "pairs"), ([str(stopped / name) for name in ("en.txt", "de.txt")], "parallel")):
        with pytest.raises(BadCheckpoint, match="The text is not the one that"):
            resume_job(tmp_path / "m", files, kind=kind)


def test_a_run_on_two_parallel_files_equals_a_run_on_their_pairs(pairs, tmp_path):
    left, right = zip(*made_pairs(), strict=True)
    (tmp_path / "en.txt").write_text("\n".join(left) + "\n")
    (tmp_path / "de.txt").write_text("\n".join(right) + "\n", encoding="utf-8")
    files = [str(tmp_path / "en.txt"), str(tmp_path / "de.txt")]
    job = new_job(files, None, TEXT, PINNED, kind="parallel")
    list(train(job.corpus, job.plan, tmp_path / "two", facts=job.facts, stop=iter([False] * 4 + [True]).__next__))
    with pytest.raises(UsageProblem, match="trains on two parallel files, not on 1"):
        resume_job(tmp_path / "two", files[:1])
    again = resume_job(tmp_path / "two")
    list(train(again.corpus, again.plan, tmp_path / "two", facts=again.facts, resume=again.resume))
    one = new_job([pairs], None, TEXT, PINNED)
    list(train(one.corpus, replace(job.plan), tmp_path / "one", facts=one.facts))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_the_model_opens_in_transformers_and_translates_alike(pairs, tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    job = job_of(pairs, steps=30)
    list(run_job(job, tmp_path / "m"))
    loaded = load_model(tmp_path / "m", CPU, torch.float32)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (1, 2)
    sources = ["The dog sees the cat.", "The queen hears the fish again and again."]
    ids = [[*loaded.tokenizer.encode(text), *loaded.tokenizer.closing] for text in sources]
    batch = tokenizer(sources, return_tensors="pt", padding=True)
    assert batch["input_ids"][1].tolist() == ids[1]
    made = theirs.generate(**batch, do_sample=False, num_beams=1, max_new_tokens=20)
    ours = greedy(loaded.model, ids, loaded.tokenizer, loaded.start_of_text)
    assert ours == tokenizer.batch_decode(made, skip_special_tokens=True)


def test_fine_tuning_continues_from_a_model_that_translates(pairs, tmp_path):
    first = job_of(pairs, steps=10)
    list(run_job(first, tmp_path / "a"))
    start = load_model(tmp_path / "a", CPU, torch.float32)
    other = write_pairs(tmp_path / "other.tsv", made_pairs(300, seed=5))
    pinned = replace(PINNED, steps=10, size=None, lr=None)
    tuned = new_job([other], None, CorpusConfig(), pinned, start=start)
    assert tuned.plan.model == start.model.config
    assert tuned.plan.optimizer == "adamw"
    before = score_pairs(start, tuned.corpus.val).per_token
    assert list(run_job(tuned, tmp_path / "b"))[-1].best.per_token < before


# The step and the score


def test_micro_batches_give_the_loss_and_the_gradient_of_the_whole_batch(corpus):
    batch = task_of(corpus).batch(0, 1, 64, 512)
    found = []
    for parts in (1, 3, 10**6):
        trainee = Trainee(model_of(corpus).train(), "adamw", 0.0, torch.float32, smoothing=0.1)
        loss, norm = trainee.step(batch, step=0, seed=0, lr=0.0, adam_lr=0.0, parts=parts)
        found.append((loss.item(), norm.item()))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    assert len(batch.micro_batches(10**6)) == len(batch.counts)
    assert sum(part.share for part in batch.micro_batches(3)) == pytest.approx(1)


def test_the_score_of_pairs_is_the_mean_loss_of_single_pairs(corpus):
    model = model_of(corpus).eval()
    val = corpus.val
    score = evaluate_pairs(model, val, start=2, pad=1)
    nats = 0.0
    for at in range(len(val)):
        source, target = (torch.from_numpy(side[at].astype("int64"))[None] for side in (val.source, val.target))
        inputs = torch.cat([torch.tensor([[2]]), target[:, :-1]], 1)
        with torch.no_grad():
            nats += model.translation_loss(source, None, inputs, target).item() * target.shape[1]
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.scored == val.target.tokens
    assert score.characters == sum(len(pair.target) for pair in val.pairs)


def test_a_part_of_the_pairs_is_spread_evenly(corpus):
    some = spread_pairs(corpus.train, 5)
    assert len(some) == 5
    assert [some.pairs[0], some.pairs[4]] == [corpus.train.pairs[0], corpus.train.pairs[len(corpus.train) - 1]]
    assert some.target[4].tolist() == corpus.train.target[len(corpus.train) - 1].tolist()
    assert spread_pairs(corpus.train, None) is corpus.train


def test_greedy_translations_do_not_depend_on_the_batch(corpus):
    model = model_of(corpus).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(0.1)  # with larger embeddings, an untrained model repeats the start token, an end
    sources = [corpus.val.source[at].tolist() for at in range(6)]
    together = greedy(model, sources, corpus.tokenizer, 2)
    alone = [greedy(model, [source], corpus.tokenizer, 2)[0] for source in sources]
    assert len(set(alone)) > 1
    # the longest source of a batch limits the length
    assert all(text.startswith(one) for text, one in zip(together, alone, strict=True))


def test_the_batches_of_a_step_do_not_depend_on_earlier_steps(corpus):
    task = task_of(corpus)
    first = [task.batch(step, 7, 64, 300) for step in range(40)]
    again = task_of(corpus).batch(33, 7, 64, 300)
    assert all(torch.equal(a, b) for a, b in zip(first[33].tensors[2:], again.tensors[2:], strict=True))
    made = PairBatches(corpus.train, batch_tokens=300, seed=7, start=2, pad=1).batch(33)
    assert torch.equal(pair_tensors(made, "cpu")[3], again.tensors[3])


# The plan


def test_a_timed_plan_for_pairs_reserves_its_closing_work(corpus):
    plan = make_plan(TrainConfig(seconds=600, size="1x32", batch_size=256), corpus)
    assert plan.schedule.steps <= plan.most_steps
    assert plan.closing_seconds > 1
    assert plan.dropout == 0.2  # for 60 epochs


def test_the_planned_memory_follows_the_longest_pair_and_not_the_context(corpus, monkeypatch):
    monkeypatch.setattr(step_setup, "resident_memory", lambda: 0)
    short, long = (make_plan(replace(PINNED, context=context), corpus).memory_bytes for context in (64, 1024))
    assert short == long
    wide = make_plan(replace(PINNED, batch_size=512), corpus).memory_bytes
    assert short < wide


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("length", [8, 60])
def test_the_planned_activations_are_those_that_the_backward_pass_needs_and_half_as_many_more_at_most(length, dropout):
    model = Transformer(pair_shape(2, 64, 350, 256), dropout)
    initialize(model, torch.Generator().manual_seed(0))
    ids = torch.randint(8, 350, (960 // length, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(ids.shape, dtype=torch.bool).index_fill(1, torch.tensor([length - 1]), False)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage()), lambda _: None
    ):
        model.translation_loss(ids, mask, ids, ids, 0.1)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    stored = sum(storage.nbytes() for address, storage in kept.items() if address not in own)
    load = SimpleNamespace(rows=0, row_tokens=0, keys=length)
    run = {"device": CPU, "dtype": torch.float32, "optimizer": "muon", "resident_bytes": 0, "adaptation": None}
    setup = SimpleNamespace(**run, load=load)
    planned = [memory_bytes(model.config, tokens, setup) for tokens in (2 * 10**6, 4 * 10**6)]
    per_token = (planned[1] - planned[0]) / (2 * 10**6)
    assert stored < per_token * 2 * ids.numel() < 1.5 * stored


def test_a_batch_must_have_room_for_the_longest_pair(corpus):
    longest = int((corpus.train.source.lengths + corpus.train.target.lengths).max())
    assert make_plan(replace(PINNED, batch_size=longest), corpus).batch_size == longest
    with pytest.raises(UsageProblem, match=f"{longest} tokens of the longest pair"):
        make_plan(replace(PINNED, batch_size=longest - 1), corpus)


def test_pairs_longer_than_the_context_are_left_out_with_a_note(pairs):
    job = job_of(pairs, context=8)
    task = job.task
    assert task.corpus.train.longest <= 8
    assert job.plan.train_tokens == task.corpus.train.to_score < job.corpus.train.to_score
    assert any("a side has more tokens than the context" in note for note in job.notes)


def test_settings_that_do_not_suit_the_kind_are_refused(pairs, tmp_path):
    (tmp_path / "story.txt").write_text("Once there was a dog. " * 200)
    list(run_job(new_job([str(tmp_path / "story.txt")], None, CorpusConfig(), replace(SMALL, steps=1)), tmp_path / "d"))
    list(run_job(job_of(pairs, steps=1), tmp_path / "t"))
    decoder, translator = (load_model(tmp_path / name, CPU, torch.float32) for name in ("d", "t"))
    for match, files, pinned, options in (
        ("label_smoothing is for pairs", "story.txt", replace(SMALL, label_smoothing=0.1), {}),
        ("compile is not for pairs", pairs, replace(PINNED, compile=True), {}),
        ("watch_heads is for text", pairs, PINNED, {"watch_heads": True}),
        ("has no encoder", pairs, PINNED, {"start": decoder}),
        ("translates", "story.txt", SMALL, {"start": translator}),
    ):
        with pytest.raises(UsageProblem, match=match):
            new_job([str(tmp_path / files)], None, CorpusConfig(), pinned, **options)


def test_fine_tuning_keeps_the_forced_and_banned_tokens_of_a_model(pairs, tmp_path):
    list(run_job(job_of(pairs, steps=1), tmp_path / "first"))
    file = tmp_path / "first" / directory.GENERATION
    given = {"forced_bos_token_id": 9, "bad_words_ids": [[7], [8]], "forced_eos_token_id": 3}
    assert not given.keys() & json.loads(file.read_text()).keys()
    file.write_text(json.dumps(json.loads(file.read_text()) | given))
    (tmp_path / "first" / directory.MANIFEST).unlink()
    start = load_model(tmp_path / "first", CPU, torch.float32)
    job = new_job([pairs], None, CorpusConfig(), TrainConfig(steps=4, lr=0.02, dtype="float32"), start=start)
    asked = itertools.count(1)
    list(run_job(job, tmp_path / "second", stop=lambda: next(asked) >= 2))
    list(run_job(resume_job(tmp_path / "second"), tmp_path / "second"))
    assert given.items() <= json.loads((tmp_path / "second" / directory.GENERATION).read_text()).items()
    made = load_model(tmp_path / "second", CPU, torch.float32)
    assert made.run["status"] == "finished"
    assert (made.forced, made.banned, made.forced_end) == ((9,), {7, 8}, 3)


@pytest.mark.parametrize("long", [False, True])
def test_the_card_says_how_many_bytes_are_scored(pairs, tmp_path, long):
    """A validation pair longer than the context is left out, so the score covers a sample."""
    words = "a dog and " * 200
    val = tmp_path / "val.tsv"
    val.write_text("a dog\tein hund\n" + (f"{words}\t{words}\n" if long else ""))
    list(run_job(new_job([pairs], str(val), TEXT, replace(PINNED, steps=1)), tmp_path / "m"))
    expected = "a sample of held-out targets: 8 bytes |" if long else "all of 8 bytes of held-out targets |"
    assert expected in (tmp_path / "m" / directory.CARD).read_text()
