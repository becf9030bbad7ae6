"""Curves: the chart, reading the curves of a run, and the files that `attncli plot` and the extras write."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from attncli.checkpoint.atomic import previous_of
from attncli.checkpoint.directory import MANIFEST
from attncli.cli.main import run
from attncli.errors import BadCheckpoint, OutOfRoom, UsageProblem
from attncli.evaluation.score import Score
from attncli.model.count import PRESETS
from attncli.render.chart import STEPS, TIME, TOKENS, Curve, ascii_only, chart, visible_span
from attncli.render.curves import BITS, LOSS, Axes, curves_document, curves_screen
from attncli.render.figure import curves_figure
from attncli.training import curves as reading
from attncli.training.curves import curves_from_lines, read_curves
from attncli.training.reports import EvalReport, Plan, Result, SampleReport, StepReport
from attncli.training.schedule import Schedule
from attncli.training.tensorboard import TensorBoardLog, events_folder

HOSTILE = "a\x1b[2J\u202e$\\frac{1}{2}$<script>&_[red]"
INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")

# The chart

GUTTER = re.compile(r"^ *([-\d.e+]*)([│┤↑|+^])")


def curve(x, y, sign="", end="", style="cyan"):
    return Curve(np.array(x, float), np.array(y, float), style, sign, end)


def falling(steps=1000, start=7.0, floor=3.0, step=1):
    x = np.arange(step, steps + 1, step)
    return x, floor + (start - floor) * np.exp(-x / (steps / 12))


def dots(lines):
    """Returns the dots of a Braille chart without its axes (4 x rows, 2 x cells), the top row first."""
    plots = [line[GUTTER.match(line).end() :] for line in lines if GUTTER.match(line)]
    codes = np.array([[ord(char) - 0x2800 if char != " " else 0 for char in row] for row in plots])
    bits = np.array([[0, 3], [1, 4], [2, 5], [6, 7]])
    return ((codes[:, None, :, None] >> bits[None, :, None, :]) & 1).reshape(4 * len(plots), -1).astype(bool)


NUMBERS = st.floats() | st.floats(0, 10) | st.sampled_from([0.0, 1.0, 3.0, -0.0, 5e-324, 1.7e308, -1.7e308])


@settings(deadline=None, max_examples=300)
@given(
    points=st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), max_size=3),
    width=st.integers(1, 130), height=st.integers(1, 40), along=st.sampled_from([STEPS, TOKENS, TIME]),
    reaches=st.sampled_from([0.0, 100.0, 1e9]), ascii=st.booleans(),
)  # fmt: skip
@example(points=[], width=80, height=20, along=STEPS, reaches=0.0, ascii=False)
@example(points=[[(1.0, 1.7e308), (2.0, -1.7e308)]], width=80, height=20, along=TIME, reaches=0.0, ascii=False)
@example(points=[[(1e16, 1e16), (1e16 + 2, 1e16 + 2)]], width=80, height=20, along=TOKENS, reaches=0.0, ascii=False)
@example(points=[[(5e-324, 5e-324)]], width=80, height=20, along=TOKENS, reaches=0.0, ascii=True)
def test_a_chart_has_the_requested_size_for_any_numbers(points, width, height, along, reaches, ascii):
    curves = [
        curve([x for x, _ in some], [y for _, y in some], "o" if at == 1 else "", "1") for at, some in enumerate(points)
    ]
    heading = [("東京 loss ", ""), ("train", "cyan")] if not ascii else [("loss", "")]
    lines = chart(curves, width, height, heading=heading, along=along, reaches=reaches, ascii=ascii).lines
    assert [cell_len(line) for line in lines] == [width] * height
    assert not ascii or "".join(lines).isascii()


@settings(deadline=None, max_examples=50)
@given(data=st.data(), values=st.lists(st.floats(2, 7), min_size=1, max_size=20))
def test_values_that_are_not_finite_are_left_out(data, values):
    x = list(range(1, len(values) + 1))
    clean = chart([curve(x, values), curve(x, values, "●")], 60, 12, heading=[("y", "")]).lines
    odd = st.sampled_from([float("nan"), float("inf"), -float("inf")])
    at = data.draw(st.integers(0, len(values)))
    x, values = [*x[:at], 1.0, data.draw(odd), *x[at:]], [*values[:at], data.draw(odd), 4.0, *values[at:]]
    assert chart([curve(x, values), curve(x, values, "●")], 60, 12, heading=[("y", "")]).lines == clean


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.floats(2, 7), min_size=2, max_size=40), width=st.integers(30, 80), height=st.integers(7, 30))
def test_a_line_is_within_a_dot_of_every_point_and_has_no_gap(values, width, height):
    x = np.arange(1, len(values) + 1)
    line = curve(x, values)
    drawn = dots(chart([line], width, height, heading=[("y", "")]).lines)
    rows, columns = drawn.shape
    (low, high), cut = visible_span([line])
    if len(values) > columns // 2 or cut is not None:
        return  # points share a column, or lie outside
    for at, value in zip(x, values, strict=True):
        column = round(at / len(values) * (columns - 1))
        level = (high - value) / (high - low) * (rows - 1)
        assert drawn[max(int(level), 0) : int(level) + 2, column].any(), (at, value)
    used = np.flatnonzero(drawn.any(0))
    assert used.tolist() == list(range(used[0], used[-1] + 1))
    for column in used:
        filled = np.flatnonzero(drawn[:, column])
        assert len(filled) == filled[-1] - filled[0] + 1
    for left, right in pairwise(used):
        first, second = np.flatnonzero(drawn[:, left]), np.flatnonzero(drawn[:, right])
        assert first[0] <= second[-1] + 1
        assert second[0] <= first[-1] + 1


@settings(deadline=None, max_examples=100)
@given(low=st.floats(-5, 5), length=st.floats(1e-3, 1e5), rows=st.integers(8, 30))
def test_a_label_of_the_y_axis_is_in_its_row(low, length, rows):
    line = curve([0, 1], [low, low + length])
    lines = chart([line], 60, rows, heading=[("y", "")]).lines[1:-2]
    (bottom, top), _ = visible_span([line])
    named = [(at, GUTTER.match(text)[1]) for at, text in enumerate(lines) if GUTTER.match(text)[1]]
    assert len(named) >= 2
    for at, number in named:
        level = (top - float(number)) / (top - bottom) * (4 * len(lines) - 1)
        rounding = 0.005 * max(abs(top), abs(bottom)) / (top - bottom) * 4 * len(lines) if "e" in number else 0.5
        assert 4 * at - 0.6 - rounding <= level <= 4 * at + 3.6 + rounding, (at, number)


@pytest.mark.parametrize("along", [STEPS, TOKENS, TIME])
@pytest.mark.parametrize("most", [1, 30, 581, 1830, 7200, 99_999, 10**6, 3 * 10**9])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_tick_of_the_x_axis_has_a_label_with_its_value(along, most, width):
    lines = chart([curve([0, most], [3, 4])], width, 12, heading=[("y", "")], along=along).lines
    ruler, labels = lines[-2], lines[-1]
    assert labels.endswith(along)
    named = [(found.start(), found[0]) for found in re.finditer(r"\S+( \d\ds| \d\dm)?", labels)][:-1]
    ticks = [at for at, char in enumerate(ruler) if char == "┬"]
    assert len(named) == len(ticks) >= min(most, 2)
    units = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9} if along != TIME else {"": 1, "s": 1, "m": 60, "h": 3600}
    start, length = ruler.index("└") + 1, width - ruler.index("└") - 1
    for tick, (at, label) in zip(ticks, named, strict=True):
        parts = re.findall(r"([\d.]+)([a-zA-Z]?)", label.replace(",", ""))
        value = sum(float(number) * units[unit] for number, unit in parts)
        assert abs(tick - start - value / most * (length - 0.5)) <= 1 + 0.005 * length
        assert at - 1 <= tick <= at + len(label)


def test_a_high_start_is_cut_off_with_a_note():
    x, y = falling(1000, 10.0)
    lines = chart([curve(x, y)], 80, 20, heading=[("loss", "")]).lines
    assert lines[0].rstrip() == f"loss  ↑ starts at {y[0]:.3g}"
    (low, high), top = visible_span([curve(x, y)])
    assert top == y[0]
    assert low == y.min()
    assert high < 0.6 * top
    assert y[150:].max() < high
    assert GUTTER.match(lines[1])[2] == "↑"


@pytest.mark.parametrize("values", [[3.0, 3.5, 3.2, 3.4] * 20, [3.0], [5.0, 4.0], list(np.linspace(7, 3, 100))])
def test_a_low_start_is_not_cut_off(values):
    x = np.arange(len(values))
    (low, high), top = visible_span([curve(x, values)])
    assert top is None
    assert low <= min(values) <= max(values) <= high
    assert "starts at" not in chart([curve(x, values)], 80, 20, heading=[("loss", "")]).lines[0]


def test_every_validation_score_after_the_start_is_shown():
    """Scores far above the training curve are shown too, because they show overfitting."""
    x, y = falling(1000, 7.0)
    marks = curve(x[99::100], np.linspace(4, 9, 10), "●")
    lines = chart([curve(x, y), marks], 120, 30, heading=[("loss", "")]).lines
    assert sum(line.count("●") for line in lines) == 10
    spike = y.copy()
    spike[500] = 100.0
    assert visible_span([curve(x, spike)])[0][1] < 10  # one outlier does not widen the axis


def test_a_single_point_is_a_single_dot():
    drawn = dots(chart([curve([5], [3.0])], 40, 10, heading=[("y", "")]).lines)
    assert drawn.sum() == 1
    assert drawn[:, -1].any()  # the x axis ends at this point


@pytest.mark.parametrize("points", [100_000, 500_000])
def test_many_points_are_drawn_as_their_means(points):
    noise = np.random.default_rng(0).normal(0, 0.5, points)
    x = np.arange(points)
    lines = chart([curve(x, 3 + x / points + noise)], 80, 20, heading=[("y", "")]).lines
    smooth = chart([curve(x, 3 + x / points + 0 * noise)], 80, 20, heading=[("y", "")]).lines
    assert len(lines) == len(smooth) == 20
    filled = dots(lines).sum(0)[:-1].max()
    assert filled <= 4  # dots in a column: a thin line


GOLDEN = """\
loss  ↑ starts at 6.95
 4.0↑    ⡇
    │    ⢳
    │    ⠘⡆●
    │     ⢳
 3.5┤     ⠈⢧   ●
    │      ⠈⢧⡀    ●  ●   ●  ●  ●   ●
    │        ⠳⣄⡀
    │          ⠉⠓⠦⠤⠤⣄⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⡀
    └┬───────────────┬──────────────────
     0              500            steps
"""
GOLDEN_ASCII = """\
loss  ^ starts at 6.95
 4.0^    :
    |    :.
    |     : o
    |     :.
 3.5+      :.  o
    |       :.    o  o   o  o  o  o
    |        ':.
    |          ''':....................
    ++---------------+------------------
     0              500            steps
"""


def plain(picture):
    return "".join(f"{line.rstrip()}\n" for line in picture.lines)


def test_small_charts_look_as_expected():
    x, y = falling(1000, 7.0)
    at = np.arange(100, 1000, 100)
    pictures = [
        chart([curve(x, y), curve(at, y[at] + 0.3, sign)], 40, 11, heading=[("loss", "")], reaches=1040, ascii=ascii)
        for sign, ascii in (("●", False), ("o", True))
    ]
    assert [plain(picture) for picture in pictures] == [GOLDEN, GOLDEN_ASCII]


@pytest.mark.parametrize(
    ("encoding", "variables", "plain"),
    [
        ("utf-8", {}, False),
        ("utf-8", {"LANG": "de_DE.UTF-8"}, False),
        ("ascii", {}, True),
        ("latin-1", {"LC_ALL": "C.UTF-8"}, True),
        ("utf-8", {"LC_ALL": "C"}, True),
        ("utf-8", {"LC_ALL": "C.UTF-8", "LANG": "C"}, False),
        ("utf-8", {"LC_CTYPE": "POSIX", "LANG": "C.UTF-8"}, True),
    ],
)
def test_ascii_is_used_if_the_terminal_has_only_ascii(encoding, variables, plain, monkeypatch):
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.setenv(name, variables.get(name, ""))
    assert ascii_only(Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))) == plain


# Reading

PLAN = Plan(
    model=replace(PRESETS["gpt2"][1], context=64), parameters=1, context=64, batch_size=8, grad_accum=1,
    checkpoint_activations=False, optimizer="muon", adam_lr=3e-3, compiled=False, dropout=0.1, weight_decay=0.1,
    schedule=Schedule(3e-3, 90, ((0, 600),)), eval_every=50, report_every=5, seed=1, device="cpu", dtype="float32",
    threads=2, seconds=300.0, most_steps=None, step_seconds=0.12, closing_windows=None, closing_seconds=2.0,
    memory_bytes=1,
    train_tokens=400_000, train_bytes=1_000_000, reasons={},
)  # fmt: skip


def metrics(steps=600, floor=3.0, final=True, bits=0.6):
    """Returns the lines of metrics.jsonl of an invented run."""
    x, y = falling(steps, 7.0, floor, 5)
    lines = []
    for step, loss in zip(x.tolist(), y.tolist(), strict=True):
        lines.append({"kind": "step", "step": step, "steps": steps, "loss": loss, "lr": 0.1, "seconds": step / 10})
        if step % 50 == 0:
            figures = {"nats_per_token": loss + 0.1, "bits_per_byte": (loss + 0.1) * bits}
            lines.append({"kind": "eval", "step": step, "best": True, "seconds": step / 10, **figures})
    if final:
        lines.append({"kind": "final", "step": steps, "nats_per_token": floor + 0.2, "bits_per_byte": 2.5})
    return lines


def write_run(folder, lines, plan=PLAN, tokenizer="{}"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if plan is not None:
        (folder / "run.json").write_text(json.dumps({"status": "running", "plan": asdict(plan)}))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Creates a folder with three runs. The newest run has another tokenizer than the two older runs."""
    monkeypatch.chdir(tmp_path)
    for age, (name, tokenizer) in enumerate((("one", "{}"), ("two", "{}"), ("other", '{"a": 1}'))):
        folder = write_run(Path("checkpoints", name), metrics(600 + 100 * age, 3 + 0.3 * age), tokenizer=tokenizer)
        os.utime(folder / "config.json", (1e9 + age, 1e9 + age))
    return tmp_path


def ask(capsys, *arguments):
    code = run(["plot", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_is_read_back_exactly():
    lines = metrics()
    found = curves_from_lines("x", "x", lines, {"plan": asdict(PLAN)}, "digest")
    steps, evaluations = ([line for line in lines if line["kind"] == kind] for kind in ("step", "eval"))
    assert found.training.steps.tolist() == [line["step"] for line in steps]
    assert found.training.seconds.tolist() == [line["seconds"] for line in steps]
    assert found.training.nats.tolist() == [line["loss"] for line in steps]
    assert found.training.bits == pytest.approx([PLAN.bits_per_byte(line["loss"]) for line in steps])
    assert found.validation.nats.tolist() == [line["nats_per_token"] for line in evaluations]
    assert found.validation.bits.tolist() == [line["bits_per_byte"] for line in evaluations]
    assert (found.final, found.tokens_per_step, found.tokenizer) == ((3.2, 2.5), 512, "digest")


@pytest.mark.parametrize("run", [None, {}, {"plan": None}, {"plan": {"model": 7}}, {"plan": asdict(PLAN) | {"odd": 1}}])
def test_without_a_valid_plan_bits_are_computed_from_the_scores(run):
    found = curves_from_lines("x", "x", metrics(), run)
    assert found.tokens_per_step is None
    assert found.training.bits == pytest.approx(found.training.nats * 0.6)
    assert Axes(TOKENS, LOSS).missing(found) == TOKENS
    assert Axes(STEPS, BITS).missing(found) is None
    alone = curves_from_lines("x", "x", [line for line in metrics() if line["kind"] == "step"], run)
    assert Axes(STEPS, BITS).missing(alone) == "bits per byte"


@settings(deadline=None, max_examples=100)
@given(
    lines=st.lists(
        st.dictionaries(
            st.sampled_from(["kind", "step", "loss", "seconds", "nats_per_token", "bits_per_byte"]),
            st.sampled_from(["step", "eval", "final", 0, 1, -5, 2.5, 10**400, None, True, [], {}, float("nan"), 1e308]),
        ),
        max_size=6,
    )
)
def test_invalid_lines_are_skipped_or_refused(lines):
    try:
        found = curves_from_lines("x", "x", lines, {})
    except BadCheckpoint:
        assert not any(line.get("kind") in ("step", "eval") for line in lines)
        return
    assert [cell_len(row) for row in curves_screen([found], Axes(STEPS, LOSS), 60, 12).lines] == [60] * 13
    json.dumps(curves_document([found]), allow_nan=False)


def test_a_run_can_be_named_by_its_metrics_file(here):
    named, filed = read_curves("one"), read_curves("checkpoints/one/metrics.jsonl")
    assert (filed.name, filed.tokenizer, filed.tokens_per_step) == (named.name, named.tokenizer, 512)
    shutil.copy("checkpoints/one/metrics.jsonl", "copy.jsonl")
    copied = read_curves("copy.jsonl")
    assert (copied.name, copied.tokenizer, copied.tokens_per_step) == ("copy", None, None)
    assert copied.training.nats.tolist() == named.training.nats.tolist()


def test_the_last_line_may_be_unfinished(here):
    Path("x.jsonl").write_text(Path("checkpoints/one/metrics.jsonl").read_text() + '{"kind": "st')
    assert read_curves("x.jsonl").training.steps[-1] == 600


def test_a_run_whose_directory_is_being_replaced_is_read(here, monkeypatch):
    folder = Path("checkpoints/one")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    (folder / MANIFEST).write_text(json.dumps({"sha256": digests}))
    folder.rename(previous_of(folder))
    assert read_curves("one").training.steps[-1] == 600
    previous_of(folder).rename(folder)
    was, calls = reading._read_model, []

    def between(path):
        calls.append(path)
        if len(calls) == 1:
            raise BadCheckpoint(f"{path} is damaged")  # as if a save replaced the file between two reads
        return was(path)

    monkeypatch.setattr(reading, "_read_model", between)
    assert read_curves("one").training.steps[-1] == 600
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("arguments", "content", "code", "words"),
    [
        (["nope"], None, 3, ["no model 'nope'", "one, other, two"]),
        (["x.jsonl"], "", 3, ["x.jsonl has no measurements yet"]),
        (["x.jsonl"], '{"kind": "other"}\n', 3, ["x.jsonl has no measurements yet"]),
        (["x.jsonl"], "{}\n[1]\n", 3, ["x.jsonl: line 2 is no JSON object"]),
        (["x.jsonl"], "[" * 100_000 + "\n\n", 3, ["x.jsonl: line 1 is no JSON object"]),
        (["x.jsonl"], '{"step": ' + "9" * 5000 + "}\n", 3, ["x.jsonl: line 1 is no JSON object"]),
        (["checkpoints/foreign"], None, 3, ["holds no metrics.jsonl", "attncli models"]),
        (["one", "--x", "loss"], None, 2, ["--x is 'loss'", "step, tokens or time"]),
        (["one", "--y", "nats"], None, 2, ["--y is 'nats'", "loss"]),
        (["one", "--width", "0"], None, 2, ["--width is 0"]),
        (["one", "--height", "1M"], None, 2, ["--height is 1000000"]),
        (["x.jsonl", "--x", "tokens"], '{"kind": "step", "step": 1, "loss": 2}\n', 2, ["x.jsonl", "tokens", "--x"]),
        (["one", "--out", "x.pdf"], None, 2, [".svg nor .png"]),
        (["one", "--out", "x"], None, 2, [".svg nor .png"]),
        (["one", "--out", "d.svg"], None, 2, ["d.svg is a directory"]),
    ],
)
def test_an_error_has_at_most_two_lines(arguments, content, code, words, here, capsys):
    write_run(Path("checkpoints/foreign"), []).joinpath("metrics.jsonl").unlink()
    Path("d.svg").mkdir()
    if content is not None:
        Path("x.jsonl").write_text(content)
    found, out, err = ask(capsys, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2
    for word in words:
        assert word in err


# The screen


def test_the_newest_run_is_drawn_if_none_is_named(here, capsys):
    code, out, err = ask(capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 21
    assert lines[0].startswith("nats per token  ─ train  ● validation  ↑ starts at")
    assert re.fullmatch(r"other +train 3\.\d{3}  best val 3\.\d{3}  final val 3\.800", lines[-1])
    assert max(map(cell_len, lines)) <= 80


def test_runs_with_different_tokenizers_are_compared_in_bits(here, capsys):
    assert ask(capsys, "one", "two")[1].startswith("nats per token ")
    code, out, err = ask(capsys, "one", "other")
    assert (code, err) == (0, "the runs have different tokenizers, so the curves are in bits per byte\n")
    assert out.startswith("bits per byte ")
    _, out, err = ask(capsys, "one", "other", "--y", "loss")
    assert "cannot be compared" in err
    assert out.startswith("nats per token ")
    assert ask(capsys, "one", "--y", "bits")[1:][0].startswith("bits per byte ")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_every_run_has_a_number_a_sign_and_its_figures(here, width, ascii):
    runs = [read_curves(name) for name in ("one", "two", "other")]
    runs[1] = replace(runs[1], name="a-name-" * 9)
    lines = curves_screen(runs, Axes(STEPS, LOSS), width, 18, ascii).lines
    assert [cell_len(line) for line in lines] == [width] * 21
    drawn = "".join(lines[1:-5])
    for line, number, sign in zip(lines[-3:], "123", "ox#" if ascii else "●▲■", strict=True):
        assert line.startswith(f"{number} {sign} ")
        assert re.search(r"train \d\.\d{3}  best val \d\.\d{3}", line)
        assert drawn.count(number) >= 1
        assert drawn.count(sign) >= 3


@pytest.mark.parametrize(("axis", "label"), [("step", "400"), ("tokens", "200k"), ("time", "45s")])
def test_the_requested_x_axis_is_drawn(axis, label, here, capsys):
    lines = ask(capsys, "one", "--x", axis)[1].splitlines()
    assert lines[-2].endswith({"step": "steps"}.get(axis, axis))
    assert label in lines[-2]


def test_a_chart_has_the_requested_width_and_height(here, capsys):
    lines = ask(capsys, "one", "--width", "50", "--height", "9")[1].splitlines()
    assert len(lines) == 10
    assert max(map(cell_len, lines)) <= 50


def test_a_hostile_name_is_escaped(here):
    found = replace(read_curves("one"), name=HOSTILE)
    drawn = "\n".join(curves_screen([found], Axes(STEPS, LOSS), 80, 12).lines)
    assert not [char for char in drawn if char != "\n" and unicodedata.category(char) in INVISIBLE]
    assert "a␛[2J" in drawn


def test_json_has_every_figure_in_full_precision(here, capsys):
    code, out, err = ask(capsys, "one", "other", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)["runs"][0]
    steps = [line for line in metrics() if line["kind"] == "step"]
    assert document["name"] == "one"
    assert document["train"]["step"] == [line["step"] for line in steps]
    assert document["train"]["tokens"] == [line["step"] * 512 for line in steps]
    assert document["train"]["nats_per_token"] == [line["loss"] for line in steps]
    assert document["final_validation"] == {"nats_per_token": 3.2, "bits_per_byte": 2.5, "validation": "whole"}
    assert {len(column) for column in document["validation"].values()} == {12}


def test_plotting_needs_no_torch(here):
    code = "import sys; from attncli.cli.main import run; run(['plot', 'one']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "final val" in done.stdout


# Files


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_without_matplotlib_the_error_says_how_to_install_it(kind, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = ask(capsys, "one", "--out", f"x.{kind}")
    assert code == 2
    assert "pip install 'attncli[plot]'" in err
    assert not Path(f"x.{kind}").exists()


def test_an_svg_shows_the_runs_and_is_deterministic(here):
    pytest.importorskip("matplotlib")
    runs = [read_curves("one"), replace(read_curves("two"), name=HOSTILE)]
    made = curves_figure(runs, Axes(STEPS, LOSS), "svg")
    assert made == curves_figure(runs, Axes(STEPS, LOSS), "svg")
    texts = [text for node in ElementTree.fromstring(made).iter() for text in (node.text or "").splitlines()]
    for said in ("train (one)", "validation (one)", "steps"):
        assert said in texts
    assert any(re.fullmatch(r"nats per token \(starts at 6\.\d+, cut off\)", text) for text in texts)
    assert f"train ({HOSTILE})".replace("\x1b", "␛").replace("\u202e", "‹202E›") in texts


def test_a_png_is_a_picture(here, capsys):
    pytest.importorskip("matplotlib")
    assert ask(capsys, "one", "two", "--x", "time", "--out", "x.PNG")[0] == 0
    assert Path("x.PNG").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_long_run_makes_a_small_file():
    pytest.importorskip("matplotlib")
    lines = [{"kind": "step", "step": step, "loss": 3 + 1 / step} for step in range(1, 100_001)]
    assert len(curves_figure([curves_from_lines("x", "x", lines)], Axes(STEPS, LOSS), "svg")) < 200_000


def test_a_file_is_written_completely_and_replaces_another_only_with_force(here, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    Path("x.svg").write_text("mine")
    code, _, err = ask(capsys, "one", "--out", "x.svg")
    assert (code, Path("x.svg").read_text()) == (2, "mine")
    assert "--force" in err
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    code, _, err = ask(capsys, "one", "--out", "x.svg", "--force")
    assert (code, Path("x.svg").read_text()) == (4, "mine")
    assert "No space left" in err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert sorted(path.name for path in here.iterdir()) == ["checkpoints", "x.svg"]
    assert ask(capsys, "one", "--out", "x.svg", "--force")[0] == 0
    ElementTree.parse("x.svg")
    assert ask(capsys, "one", "--out", "no/such/x.svg")[0] == 4


# TensorBoard


def logged(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def shown(log, steps):
    for step in steps:
        log.update(StepReport(step, 100, 3 + 1 / step, 1e-3, 1000.0, step / 10))
    log.update(EvalReport(steps[-1], Score(3000, 1000, 2000, 2500), True, 9.0))
    log.update(SampleReport(steps[-1], "ROMEO: <script>", 6))


def test_tensorboard_receives_every_report(tmp_path):
    pytest.importorskip("tensorboard")
    target = tmp_path / "checkpoints/stories"
    for attempt in (1, 2):  # the second attempt replaces the files of the first
        with TensorBoardLog(target, PLAN) as log:
            shown(log, range(attempt, 11))
            log.update(Result(True, 10, 10, 10, Score(3100, 1000, 2000, 2500), 3.0, 5120, 9.0))
    assert log.folder == events_folder(target) == tmp_path / "checkpoints/stories.tensorboard"
    assert not target.exists()
    found = logged(log.folder)
    assert [step for step, _ in found["train/nats_per_token"]] == list(range(2, 11))
    assert found["train/nats_per_token"][-1][1] == pytest.approx(3.1)
    assert found["train/bits_per_byte"][-1][1] == pytest.approx(PLAN.bits_per_byte(3.1))
    assert found["validation/nats_per_token"] == [(10, 3.0)]
    assert found["final/nats_per_token"] == [(10, pytest.approx(3.1))]


def test_a_resumed_run_replaces_repeated_steps_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    for steps, resumed in ((range(1, 21), None), (range(11, 31), 10)):
        with TensorBoardLog(tmp_path / "stories", PLAN, resumed) as log:
            shown(log, steps)
    assert [step for step, _ in logged(log.folder)["train/nats_per_token"]] == list(range(1, 31))


def test_without_tensorboard_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageProblem) as problem:
        TensorBoardLog(tmp_path / "x", PLAN)
    assert "pip install 'attncli[tensorboard]'" in problem.value.hint
    assert not list(tmp_path.iterdir())


def test_an_unwritable_tensorboard_folder_is_refused_at_once(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "x.tensorboard").write_text("a file")
    with pytest.raises(OutOfRoom, match="cannot be written"):
        TensorBoardLog(tmp_path / "x", PLAN)
