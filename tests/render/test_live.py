"""The live display of a training run on terminals of any size and kind."""

import io
import re
import types
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from attncli.render import live
from attncli.render.live import seconds_left
from attncli.render.training import TrainingScreen
from attncli.training.curves import curves_from_lines
from attncli.training.reports import (
    BestHead,
    EvalReport,
    HeadsReport,
    SampleReport,
    StepReport,
    Translation,
    TranslationsReport,
)
from tests.support.screens import harmless
from tests.support.texts import HOSTILE
from tests.support.training import PLAN, SAMPLE, reports

# Training


def test_the_time_left_ends_at_the_deadline_or_at_the_last_step_if_that_is_earlier():
    report = StepReport(830, 1830, 2.0, 1e-3, 81_920.0, 40.0)  # 10 steps per second, 8,192 tokens each
    assert seconds_left(PLAN, report) == 260
    assert seconds_left(replace(PLAN, most_steps=1830), report) == 102
    assert seconds_left(replace(PLAN, most_steps=9999), report) == 260
    assert seconds_left(replace(PLAN, seconds=None), report) == 100


class Terminal(io.StringIO):
    """An emulated terminal that stores its screen. A line that is too wide fails the test."""

    def __init__(self, width, height):
        super().__init__()
        self.rows = [""] * height
        self.width, self.row, self.column = width, 0, 0
        self.gone, self.cursor = [], True
        self.written = 0

    def resize(self, width, height):
        while len(self.rows) > height:
            self.gone.append(self.rows.pop(0))
            self.row -= 1
        self.rows += [""] * (height - len(self.rows))
        self.width = width

    def write(self, text):
        self.written += 1
        for code, argument, final, plain in re.findall(r"(\x1b\[)([?0-9;]*)([A-Za-z])|([\n\r]|[^\x1b\n\r]+)", text):
            if code:
                self._control(argument, final)
            elif plain == "\n":
                self._line_feed()
            elif plain == "\r":
                self.column = 0
            else:
                row = self.rows[self.row]
                assert len(row) == self.column, "written over something"
                self.rows[self.row] = row + plain
                self.column += len(plain)
                assert cell_len(row + plain) <= self.width, row
        return len(text)

    def _line_feed(self):
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.gone.append(self.rows.pop(0))
            self.rows.append("")
            self.row -= 1

    def _control(self, argument, final):
        if final == "A":
            self.row = max(self.row - int(argument), 0)
        elif (argument, final) == ("2", "K"):
            self.rows[self.row] = ""
        elif (argument, final) == ("2", "J"):
            self.rows = [""] * len(self.rows)
        elif final == "H":
            self.row = self.column = 0
        elif argument == "?25":
            self.cursor = final == "h"
        else:
            assert final == "m", (argument, final)

    def lines(self):
        return [row.rstrip() for row in (*self.gone, *self.rows)]


def on_terminal(width, height, monkeypatch, colors=None, **environment):
    """Returns a terminal and a console that writes to it. Each reading of the clock advances it by half a second."""
    monkeypatch.setattr(live, "time", types.SimpleNamespace(monotonic=iter(np.arange(0, 1e6, 0.5)).__next__))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    terminal = Terminal(width, height)
    console = Console(
        file=terminal, force_terminal=True, width=width, height=height, color_system=colors, legacy_windows=False,
        markup=False, highlight=False, emoji=False, _environ={"TERM": "xterm", **environment},
    )  # fmt: skip
    return terminal, console


HEADING = re.compile(r"^nats/token  ─ train", re.MULTILINE)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("height", [10, 24, 50])
def test_the_live_display_fits_and_its_last_state_remains_once(width, height, monkeypatch):
    terminal, console = on_terminal(width, height, monkeypatch, "truecolor")
    console.print("before")
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
            assert len(HEADING.findall("\n".join(terminal.lines()))) <= 1
            assert terminal.cursor
            if report == SampleReport(275, SAMPLE, 7) and height > 10:
                assert "a sample at step 275" in terminal.lines()
                assert any(line.startswith("ROMEO:") for line in terminal.lines())
    console.print("after")
    drawn = "\n".join(terminal.lines()).rstrip("\n")
    assert drawn.startswith("before\n")
    assert re.search(r"steps\nafter$", drawn)
    assert len(HEADING.findall(drawn)) == 1
    assert len(re.findall(r"300/300  in 5m 01s$", drawn, re.MULTILINE)) == 1
    *_, last = (report for report in reports() if isinstance(report, StepReport))
    assert f"train {last.loss:.3f} ({PLAN.bits_per_byte(last.loss):.3f})  val 4." in drawn
    assert "writes" not in drawn
    assert terminal.cursor
    assert harmless(drawn.replace("\u200d", ""))


@pytest.mark.parametrize(("width", "kinds"), [(40, (0, 3)), (80, range(4)), (120, range(4))])
def test_the_live_display_names_the_best_heads(width, kinds, monkeypatch):
    named = (("previous", 0.524), ("duplicate", 0.1), ("induction", 0.04), ("sink", 1.0))
    best = tuple(BestHead(kind, at, 1, score, 0.02) for at, (kind, score) in enumerate(named))
    for height in (10, 24):
        terminal, console = on_terminal(width, height, monkeypatch)
        with TrainingScreen(console, PLAN) as screen:
            for report in reports():
                screen.update(report)
                if isinstance(report, EvalReport):
                    screen.update(HeadsReport(report.step, best, {}, report.seconds))
        said = [line for line in terminal.lines() if line.startswith("heads  ")]
        expected = ["previous 0.1 .52", "duplicate 1.1 .10", "induction 2.1 .04", "sink 3.1 1.00"]
        assert said == ([f"heads  {'  '.join(expected[kind] for kind in kinds)}"] if height > 10 else [])


@pytest.mark.parametrize("width", [40, 80])
def test_the_live_display_shows_translations_of_the_last_evaluation(width, monkeypatch):
    shown = tuple(Translation(f"A dog runs {i}." + HOSTILE * (i == 1), f"Ein Hund rennt {i}.", "…") for i in range(3))
    terminal, console = on_terminal(width, 30, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(TranslationsReport(report.step, shown) if isinstance(report, SampleReport) else report)
            if isinstance(report, SampleReport) and report.step > 25:
                lines = terminal.lines()
                assert any(line.startswith("translations at step") for line in lines)
                assert sum("A dog runs" in line for line in lines) == 3
                assert any("→ Ein Hund rennt 2." in line for line in lines)
    assert harmless("\n".join(terminal.lines()).replace("\u200d", ""))


@pytest.mark.parametrize("width", range(4, 40, 5))
@pytest.mark.parametrize("height", [2, 5, 8])
def test_a_tiny_terminal_shows_part_of_the_display(width, height, monkeypatch):
    terminal, console = on_terminal(width, height, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
    assert any(row.strip() for row in terminal.rows)


@pytest.mark.parametrize(("before", "after"), [((120, 40), (50, 30)), ((80, 24), (80, 12)), ((50, 20), (100, 40))])
def test_a_resized_terminal_shows_one_display(before, after, monkeypatch):
    terminal, console = on_terminal(*before, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            if getattr(report, "step", 0) == 200 and console.size != after:
                terminal.resize(*after)
                console.size = after
            screen.update(report)
            assert len(HEADING.findall("\n".join(terminal.rows))) <= 1
    assert len(HEADING.findall("\n".join(terminal.rows))) == 1
    assert max(map(cell_len, terminal.rows)) <= after[0]


def test_the_plan_is_printed_again_when_the_terminal_shrinks(monkeypatch):
    terminal, console = on_terminal(100, 40, monkeypatch)
    console.print("the plan")
    with TrainingScreen(console, PLAN, above=Text("the plan")) as screen:
        for report in reports():
            if report == SampleReport(100, SAMPLE, 7):
                terminal.resize(60, 40)
                console.size = (60, 40)
            screen.update(report)
            assert terminal.lines().count("the plan") == 1
        assert terminal.lines()[0] == "the plan"


def test_the_display_is_drawn_at_most_four_times_a_second(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    monkeypatch.setattr(live, "time", types.SimpleNamespace(monotonic=iter(np.arange(0, 1e3, 0.01)).__next__))
    with TrainingScreen(console, PLAN) as screen:
        drawn = terminal.written
        for report in reports(2000):  # at most four readings of the clock for a report: 0.04 seconds
            screen.update(report)
        assert 5 < terminal.written - drawn <= 425 * 0.04 * 4


def test_a_warning_during_the_run_is_printed_above_the_display(monkeypatch):
    terminal, console = on_terminal(80, 30, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            if isinstance(report, EvalReport) and report.step == 100:
                console.print("a warning")
            screen.update(report)
    lines = terminal.lines()
    assert lines.count("a warning") == 1
    assert lines.index("a warning") < next(at for at, line in enumerate(lines) if "300/300" in line)


def test_a_run_that_fails_leaves_the_terminal_clean(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    with pytest.raises(KeyboardInterrupt), TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
            if report.step == 200:
                raise KeyboardInterrupt
    console.print("after")
    drawn = "\n".join(terminal.lines()).rstrip("\n")
    assert re.search(r"steps\nafter$", drawn)
    assert "200/300\n" in drawn
    assert terminal.cursor


def test_a_closed_terminal_does_not_end_the_run(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            if report == SampleReport(100, SAMPLE, 7):
                monkeypatch.setattr(terminal, "write", lambda text: (_ for _ in ()).throw(OSError(5, "gone")))
            screen.update(report)
        assert report.finished


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LC_ALL": "", "LC_CTYPE": "POSIX"}])
def test_a_terminal_without_unicode_shows_ascii(environment, monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
            assert "".join(terminal.lines()).isascii()
    assert any(line.startswith("nats/token  - train  o validation") for line in terminal.lines())


def test_with_no_color_set_no_color_code_is_written(monkeypatch):
    terminal, console = on_terminal(80, 24, monkeypatch, "truecolor", NO_COLOR="1")
    monkeypatch.setattr(Terminal, "_control", lambda self, argument, final, was=Terminal._control: (
        was(self, argument, final), self.__dict__.setdefault("codes", []).append(argument + final)
    ))  # fmt: skip
    with TrainingScreen(console, PLAN) as screen:
        for report in reports():
            screen.update(report)
    assert not [code for code in terminal.codes if re.match(r"(.*;)?(3[0-8]|4[0-8]|9[0-7])(;|m)", code)]


def test_a_resumed_run_shows_its_earlier_curve(monkeypatch):
    lines = [{"kind": "step", "step": step, "loss": 9.0, "seconds": 1.0} for step in range(1, 150)]
    before = curves_from_lines("x", "x", lines)
    rest = [report for report in reports() if isinstance(report, StepReport) and report.step > 150]
    drawn = []
    for known in (None, before):
        terminal, console = on_terminal(80, 24, monkeypatch)
        with TrainingScreen(console, PLAN, known) as screen:
            for report in rest:
                screen.update(report)
        drawn.append("\n".join(terminal.lines()))
    assert [bool(re.search(r"^ [6-9]\.0", text, re.MULTILINE)) for text in drawn] == [False, True]


@pytest.mark.parametrize("points", [1, 1999, 2000, 54_321])
def test_a_trace_has_at_most_2000_points_and_keeps_its_mean_and_its_end(points):
    trace = live._Trace()
    for at in range(points):
        trace.add(at + 1, float(at % 7))
    x, y = trace.points()
    assert len(x) == len(y) <= 2000
    assert (np.diff(x) > 0).all()
    assert x[-1] >= points - points / 1000 * 2
    assert y.mean() == pytest.approx(np.mean([at % 7 for at in range(points)]), abs=0.1)
