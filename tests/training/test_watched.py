"""Head scores of a run: they equal the scores of the model, they change nothing else, and the chart shows them."""

import itertools
import json
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from attncli.checkpoint import directory
from attncli.checkpoint.load import load_model, read_resumable
from attncli.cli.options import option_name
from attncli.errors import BadCheckpoint
from attncli.explain.heads import HEAD_KINDS, head_scores
from attncli.render.chart import STEPS, TIME, TOKENS
from attncli.render.figure import watched_figure
from attncli.render.watched import watched_document, watched_screen
from attncli.training import train
from attncli.training.curves import heads_from_lines, read_curves, read_heads
from attncli.training.reports import BestHead, EvalReport, HeadsReport, SaveReport, StepReport
from tests.support.commands import ask
from tests.support.screens import harmless
from tests.support.texts import HOSTILE, story
from tests.support.training import FACTS


def trained(corpus, plan, target, **options):
    return list(train(corpus, plan, target, facts=FACTS, **options))


def watch(model):
    """Scores the heads as the command does, and draws random numbers, which must not change the run."""
    assert not model.training
    torch.rand(7)
    found = head_scores(model, 0, 300, length=5, sequences=2)
    best = [(kind, found.best(kind)) for kind in HEAD_KINDS]
    scores = {kind: found.table(kind) for kind in HEAD_KINDS}
    return tuple(BestHead(kind, *at, found.score(kind, *at), found.chance(kind, at[0])) for kind, at in best), scores


def weights(target):
    return (target / directory.WEIGHTS).read_bytes()


def lines_of(target, kind="heads"):
    lines = [json.loads(line) for line in (target / directory.METRICS).read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def watched(corpus, plan, tmp_path_factory):
    """Returns the directory and the reports of a whole run that scores its heads."""
    folder = tmp_path_factory.mktemp("watched") / "m"
    return folder, trained(corpus, plan, folder, head_scorer=watch)


def test_heads_are_scored_at_every_evaluation_without_changing_the_weights(plan, whole_run, watched):
    folder, reports = watched
    without = whole_run(plan).folder
    assert [r.step for r in reports if isinstance(r, HeadsReport)] == [10, 20, 30, 40]
    kinds = [type(r) for r in reports if not isinstance(r, StepReport | SaveReport)]
    assert kinds[:4] == [EvalReport, HeadsReport] * 2
    assert weights(folder) == weights(without)
    assert not lines_of(without)


def test_the_record_contains_the_head_scores_of_the_model_at_each_evaluation(watched):
    folder, reports = watched
    recorded = lines_of(folder)
    for report, line in zip([r for r in reports if isinstance(r, HeadsReport)], recorded, strict=True):
        assert line["best"] == {
            best.kind: {"layer": best.layer, "head": best.head, "score": best.score, "chance": best.chance}
            for best in report.best
        }
        assert (line["step"], line["seconds"], line["scores"]) == (report.step, report.seconds, report.scores)
    assert reports[-1].best_step == 40  # the saved weights are the weights of the last evaluation
    model = load_model(folder, torch.device("cpu"), torch.float32).model
    np.testing.assert_allclose(recorded[-1]["scores"]["induction"], watch(model)[1]["induction"], atol=1e-5)


@pytest.mark.parametrize("at", [9, 10, 23, 40])
def test_a_resumed_run_has_the_same_record_and_bits(corpus, plan, watched, tmp_path, at):
    asked = itertools.count(1)
    trained(corpus, plan, tmp_path / "parts", head_scorer=watch, stop=lambda: next(asked) >= at)
    trained(corpus, plan, tmp_path / "parts", head_scorer=watch, resume=read_resumable(tmp_path / "parts"))
    folders = watched[0], tmp_path / "parts"
    assert weights(folders[1]) == weights(folders[0])
    whole, parts = ([{**line, "seconds": 0} for line in lines_of(folder)] for folder in folders)
    assert whole == parts


def test_a_resumed_run_continues_to_score_its_heads(tmp_path, monkeypatch, capsys):
    import attncli.cli.bodies.train as command

    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(3000))
    asked = itertools.count(1)

    class Received:
        """A stop request that is received after some steps."""

        received = (signal.SIGINT,)

        def __bool__(self):
            return next(asked) > 10

    quick = ["--steps", "30", "--size", "1x32", "--context", "32", "--seed", "1", "--watch-heads"]
    with monkeypatch.context() as patch:
        patch.setattr(command, "StopRequests", lambda: nullcontext(Received()))
        assert ask(capsys, "train", "story.txt", *quick)[0] == 130
    assert ask(capsys, "train", "--resume")[0] == 0
    assert read_heads("story").steps.tolist() == read_curves("story").validation.steps.tolist()


# Reading and drawing


def line(step, induction, head="1.2", **best):
    layer, at = map(int, head.split("."))
    kinds = {"previous": 0.5, "induction": induction} | best
    named = {kind: {"layer": layer, "head": at, "score": score, "chance": 0.02} for kind, score in kinds.items()}
    return {"kind": "heads", "step": step, "seconds": step / 10, "best": named, "scores": {}}


LINES = [line(100, 0.02, "0.1"), line(200, 0.05), line(300, 0.61), line(400, 0.9), line(500, 0.875)]


def test_a_head_appears_when_its_score_first_exceeds_one_half():
    found = heads_from_lines("m", "m", LINES)
    previous, induction = found.kinds
    assert (previous.kind, previous.appears) == ("previous", None)  # a score of one half is not above one half
    assert (induction.kind, induction.appears) == ("induction", 2)
    assert induction.scores.tolist() == [0.02, 0.05, 0.61, 0.9, 0.875]
    assert induction.heads == ("0.1", "1.2", "1.2", "1.2", "1.2")
    assert found.steps.tolist() == [100, 200, 300, 400, 500]


GOLDEN = """\
weight on the pattern, best head of each kind
     │                                  ⢀⣠⠴⠚⠉⠉⠉⠉⠉⠙⠒⠒⠒i
 0.75┤                               ⣀⡤⠖⠋
     │                            ⣠⠖⠋⠁
 0.50┤         ⠠⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⣤⠾⠥⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤p
     │                        ⣠⠞⠁
 0.25┤                      ⣠⠞⠁
     │                    ⣠⠞⠁
     │         ⢀⣀⣀⣀⣀⡤⠤⠤⠤⠤⠞⠁
     └┬──────────────────┬──────────────────┬─────────
      0                 200                400   steps
p previous    .50  head 1.2  at most .50, at step 100
i induction   .88  head 1.2  above .5 from step 300
"""


def test_the_screen_of_head_curves_is_as_expected():
    lines = watched_screen(heads_from_lines("m", "m", LINES), STEPS, 54, 11).lines
    assert "".join(f"{one.rstrip()}\n" for one in lines) == GOLDEN


def test_curves_that_coincide_are_marked():
    twins = [line(step, 0.1 * at, duplicate=0.1 * at + 1e-4, sink=0.3) for at, step in enumerate((1, 2, 3, 4))]
    drawn = watched_screen(heads_from_lines("m", "m", twins), STEPS, 80, 11).lines
    (twin,) = [one for one in drawn if "on the curve of" in one]
    assert twin.startswith("d duplicate   .30  head 1.2  on the curve of induction")
    assert not any(
        "on the curve of" in one for one in watched_screen(heads_from_lines("m", "m", LINES), STEPS, 80, 11).lines
    )
    pytest.importorskip("matplotlib")
    assert "on the curve of induction" in watched_figure(heads_from_lines("m", "m", twins), STEPS, "svg").decode()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("along", [STEPS, TIME, TOKENS])
@pytest.mark.parametrize("ascii", [False, True])
def test_the_screen_has_the_requested_size_for_any_record(width, along, ascii):
    odd = [{"kind": "heads", "best": {"induction": 3}}, {"kind": "heads", "best": []}, {"kind": "heads"}]
    odd += [{"kind": "heads", "step": 10**400, "best": {HOSTILE: {"score": "x", "layer": None}, "": {}}}]
    many = [line(600, 0.5, **{f"{at}x": 0.1 for at in range(9)})]
    for lines in (LINES, LINES[:1], odd, LINES + odd, many):
        found = heads_from_lines("m", "m", lines)
        drawn = watched_screen(found, along, width, 12, ascii).lines
        assert [cell_len(one) for one in drawn] == [width] * (12 + len(found.kinds))
        assert harmless("\n".join(drawn))
        json.dumps(watched_document(found), allow_nan=False)


@pytest.mark.parametrize("lines", [[], [{"kind": "heads"}], [{"kind": "heads", "best": {}}], [{"kind": "step"}]])
def test_a_run_without_head_scores_names_the_option_that_records_them(lines):
    with pytest.raises(BadCheckpoint, match="no scores of heads") as raised:
        heads_from_lines("m", "m", lines)
    assert "watch_heads=True" in raised.value.hint
    raised.value.spell(option_name)
    assert raised.value.hint.endswith("attncli train FILE --watch-heads")


def test_the_document_contains_the_record():
    document = watched_document(heads_from_lines("m", "p", LINES))
    assert list(document) == ["name", "path", "step", "seconds", "tokens_per_step", "kinds"]
    assert document["kinds"]["induction"] == {
        "score": [0.02, 0.05, 0.61, 0.9, 0.875],
        "chance": [0.02] * 5,
        "head": ["0.1", "1.2", "1.2", "1.2", "1.2"],
        "appears_at_step": 300,
    }


def test_a_figure_names_every_kind():
    pytest.importorskip("matplotlib")
    found = replace(heads_from_lines("m", "p", LINES), name=HOSTILE)
    drawn = watched_figure(found, STEPS, "svg")
    assert drawn == watched_figure(found, STEPS, "svg")
    for word in ("previous", "induction", "chance", "steps"):
        assert word in drawn.decode()
    assert "\x1b" not in drawn.decode()
    assert watched_figure(found, TIME, "png").startswith(b"\x89PNG")


# The commands


def test_a_run_with_head_scores_is_stopped_resumed_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story(3000))
    quick = ["--steps", "30", "--size", "1x32", "--context", "32", "--seed", "1"]
    code, _, err = ask(capsys, "train", "story.txt", *quick, "--watch-heads")
    assert code == 0
    assert "  heads   previous 0.0 ." in err
    assert [one["step"] for one in lines_of(Path("checkpoints/story"))] == [
        one["step"] for one in lines_of(Path("checkpoints/story"), "eval")
    ]
    code, out, err = ask(capsys, "plot", "--heads", "story")
    assert (code, err) == (0, "")
    assert out.startswith("weight on the pattern, best head of each kind")
    assert [one.split()[1] for one in out.splitlines()[-4:]] == list(HEAD_KINDS)
    document = json.loads(ask(capsys, "plot", "--heads", "story", "--json")[1])
    assert document["step"] == read_heads("story").steps.tolist()
    assert read_curves("story").training.steps[-1] == 30  # the other curves are unchanged


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--y", "loss"], 2, "--y cannot be given"),
        (["a", "b"], 2, "2 runs cannot be given"),
        (["x.jsonl", "--x", "tokens"], 2, "does not contain its tokens"),
        (["y.jsonl"], 3, "no scores of heads"),
        (["x.jsonl", "--out", "x.pdf"], 2, ".svg nor .png"),
    ],
)
def test_an_error_has_at_most_two_lines(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in LINES))
    Path("y.jsonl").write_text("{}\n")
    found, out, err = ask(capsys, "plot", "--heads", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 2


def test_head_curves_are_written_to_a_file(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in LINES))
    assert ask(capsys, "plot", "--heads", "x.jsonl", "-o", "heads.svg") == (0, "", "written: heads.svg\n")
    assert "induction" in Path("heads.svg").read_text()
