"""The live display of a training run: progress, figures, head scores, the loss curves, a sample of the model's text.

The display is drawn after each report, at most four times a second, and otherwise once a second. It always fits the
terminal. If the terminal disappears, the display ends and the run continues.
"""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
from rich.console import Console, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from attncli.render.chart import Curve, Picture, ascii_only, chart, styled_row
from attncli.render.escape import fit, one_line, visible
from attncli.render.numbers import count, decimal, duration
from attncli.training.curves import Floats, RunCurves
from attncli.training.reports import (
    EvalReport,
    HeadsReport,
    Plan,
    Report,
    Result,
    SampleReport,
    StepReport,
    TranslationsReport,
)

TRAIN_STYLE, VALIDATION_STYLE = "cyan", "bold magenta"
_REFRESH_SECONDS = 0.25
_MOST_POINTS = 2000  # of the training curve; if there are more points, neighbors are averaged
_PLAN_ROWS = 9  # kept for the plan above, on a terminal that is tall enough
_WITHOUT_PLAN = 15  # the least rows of the display, even if the plan is then no longer visible
_CHART_ROWS = 6, 9, 16  # at least; before the sample gets any row; at most
_SAMPLE_ROWS = 7  # at most, with the heading
_WIDEST_BAR = 60

StyledText = list[tuple[str, str]]  # texts with their styles


class LiveDisplay:
    """Shows the state of a run. `update` takes each report of the run, between `start` and `stop`."""

    def __init__(
        self, console: Console, plan: Plan, before: RunCurves | None = None, above: RenderableType | None = None
    ) -> None:
        """`before` are the earlier curves of a resumed run. `above` is printed again when the screen is cleared."""
        self.above = above
        self._console, self._plan = console, plan
        self._training, self._validation = _Trace(), _Trace()
        self._step: StepReport | None = None
        self._evaluation: EvalReport | None = None
        self._best_step: int | None = None
        self._heads: HeadsReport | None = None
        self._sample: SampleReport | TranslationsReport | None = None
        self._result: Result | None = None
        self._reported = self._refreshed = time.monotonic()
        self._below: tuple[tuple[int, int], Picture] | None = (
            None  # terminal size, curves and sample; None after a report
        )
        if before is not None:
            for trace, points in ((self._training, before.training), (self._validation, before.validation)):
                for step, nats in zip(points.steps.tolist(), points.nats.tolist(), strict=True):
                    trace.add(step, nats)
        self._live = _Screen(console, self)
        self._ended = False

    def start(self) -> None:
        """Starts the display. The cursor stays visible, because a killed run could not show it again."""
        self._live.start(refresh=True)
        self._live.with_cursor()

    def stop(self) -> None:
        """Ends the display. Its last state stays on the screen, without the sample."""
        self._ended, self._below = True, None
        self._live.stop()

    def update(self, report: Report) -> None:
        """Shows one report."""
        if isinstance(report, StepReport):
            self._step, self._reported = report, time.monotonic()
            self._training.add(report.step, report.loss)
        elif isinstance(report, EvalReport):
            self._evaluation = report
            self._best_step = report.step if report.best else self._best_step
            self._validation.add(report.step, report.score.per_token)
        elif isinstance(report, HeadsReport):
            self._heads = report
        elif isinstance(report, SampleReport | TranslationsReport):
            self._sample = report
        elif isinstance(report, Result):
            self._result = report
        self._below = None
        now = time.monotonic()
        if now - self._refreshed >= _REFRESH_SECONDS:
            self._refreshed = now
            self._live.refresh()

    def picture(self) -> Picture:
        """Returns the whole display for the present size of the terminal."""
        width, height = self._console.size
        plain = ascii_only(self._console)
        short = height < 16
        head = [self._progress(width, plain), *self._figures(width, 2 if short else 3)]
        if self._heads is not None and not short:
            head.append(self._best_heads(self._heads, width))
        below = self._below
        if below is None or below[0] != (width, height):
            self._below = below = ((width, height), self._curve_and_sample(width, height, len(head), plain))
        return Picture([*head, *below[1].rows])

    def _progress(self, width: int, plain: bool) -> list[Segment]:
        """Returns the row of progress: '━━━━━━────── 1,234/1,830  2m 40s left'."""
        step, steps = (self._step.step, self._step.steps) if self._step else (0, self._plan.schedule.steps)
        facts = [f"{step:,}/{steps:,}", self._time()]
        text = "  ".join(filter(None, facts))
        cells = min(width - len(text) - 1, _WIDEST_BAR)
        if cells < 4:
            return styled_row([(self._time() or text, "")], width)
        done = round(cells * min(step / steps, 1.0))
        full, rest = "=-" if plain else "━─"
        return styled_row([(full * done, TRAIN_STYLE), (rest * (cells - done), "dim"), (f" {text}", "")], width)

    def _time(self) -> str:
        if self._result is not None:
            return f"in {duration(self._result.seconds)}"
        if self._step is None or self._ended:
            return ""
        left = seconds_left(self._plan, self._step) - (time.monotonic() - self._reported)
        return f"{duration(max(left, 0.0))} left"

    def _figures(self, width: int, most: int) -> list[list[Segment]]:
        """Returns the losses and the speed in at most `most` rows. No figure is split between rows."""
        facts: StyledText = []
        if self._step is not None:
            bits = self._plan.bits_per_byte(self._step.loss)
            facts.append((f"train {self._step.loss:.3f} ({bits:.3f})", TRAIN_STYLE))
        if self._evaluation is not None:
            score = self._evaluation.score
            facts.append((f"val {score.per_token:.3f} ({score.bits_per_byte:.3f})", VALIDATION_STYLE))
        if facts:
            facts.append(("nats/token (bits/byte)", "dim"))
        if self._step is not None:
            facts.append((f"{count(self._step.tokens_per_second)} tok/s", "dim"))
        if self._evaluation is not None and not self._evaluation.best and self._best_step is not None:
            facts.append((f"best at step {self._best_step:,}", "dim"))
        rows: list[StyledText] = [[]]
        for fact, style in facts:
            used = sum(len(text) for text, _ in rows[-1])
            if rows[-1] and used + 2 + len(fact) > width:
                rows.append([])
            rows[-1].append((("  " if rows[-1] else "") + fact, style))
        return [styled_row(row, width) for row in rows[:most] if row]

    def _best_heads(self, report: HeadsReport, width: int) -> list[Segment]:
        """Returns the row of the best heads of as many kinds as fit: 'heads  previous 0.3 .52  induction 1.2 .04'."""
        row: StyledText = [("heads", "dim")]
        for name in best_heads(report):
            if sum(len(text) for text, _ in row) + 2 + len(name) <= width:
                row.append((f"  {name}", ""))
        return styled_row(row, width)

    def _curve_and_sample(self, width: int, height: int, above: int, plain: bool) -> Picture:
        least, enough, most = _CHART_ROWS
        room = max(height - _PLAN_ROWS, min(height - 1, _WITHOUT_PLAN)) - above
        sample_rows = max(min(room - enough, _SAMPLE_ROWS), 0)
        chart_rows = min(room - sample_rows, most)
        rows: list[list[Segment]] = []
        if chart_rows >= least:
            rows += self._curve(width, chart_rows, plain).rows
        if self._sample is not None and sample_rows > 1 and not self._ended:
            rows += self._shown(self._sample, width, sample_rows, plain)
        return Picture(rows)

    def _curve(self, width: int, height: int, plain: bool) -> Picture:
        sign, line = "o-" if plain else "●─"
        curves = [
            Curve(*self._training.points(), TRAIN_STYLE),
            Curve(*self._validation.points(), VALIDATION_STYLE, sign),
        ]
        validation = "validation" if width >= 60 else "val"
        heading = [("nats/token  ", ""), (f"{line} train  ", TRAIN_STYLE), (f"{sign} {validation}", VALIDATION_STYLE)]
        steps = self._step.steps if self._step else self._plan.schedule.steps
        return chart(curves, width, height, heading=heading, reaches=steps, ascii=plain)

    def _shown(
        self, sample: SampleReport | TranslationsReport, width: int, rows: int, plain: bool
    ) -> list[list[Segment]]:
        """Returns the sample in exactly `rows` rows. Its prompt, or the sources of translations, are dimmed."""
        text = Text()
        if isinstance(sample, SampleReport):
            name = "a sample"
            parts = (sample.text[: sample.prompt_characters], sample.text[sample.prompt_characters :])
            for part, style in zip(parts, ("dim", ""), strict=True):
                text.append(_drawable(visible(part), plain), style=style)
        else:
            name = "translations"
            for example in sample.examples:  # each takes at most two rows
                source, output = (fit(one_line(side), width - 4) for side in (example.source, example.output))
                text.append(_drawable(source, plain), style="dim")
                text.append(f" {'->' if plain else '→'} {_drawable(output, plain)}\n")
        text.expand_tabs(4)
        text.rstrip()
        lines = text.wrap(self._console, width, overflow="fold", no_wrap=False)[: rows - 1]
        drawn = [styled_row([(f"{name} at step {sample.step:,}", "dim")], width)]
        for line in lines:
            line.truncate(width)
            drawn.append([segment for segment in line.render(self._console) if segment.text])
        return drawn + [[]] * (rows - len(drawn))


def _drawable(text: str, plain: bool) -> str:
    """Returns a text for a terminal, in ASCII if `plain`."""
    return text.encode("ascii", "backslashreplace").decode() if plain else text


def best_heads(report: HeadsReport) -> list[str]:
    """Returns the best head of each kind with its score: 'previous 0.3 .52'."""
    return [f"{best.kind} {best.layer}.{best.head} {decimal(best.score)}" for best in report.best]


def seconds_left(plan: Plan, report: StepReport) -> float:
    """Returns the seconds until the run ends.

    The run ends at its deadline, or with its last step at the present speed if that is sooner.
    """
    steps = (report.steps - report.step) * plan.tokens_per_step / report.tokens_per_second
    if plan.seconds is None:
        return steps
    until_deadline = max(plan.seconds - report.seconds, 0.0)
    return min(until_deadline, steps + plan.closing_seconds) if report.steps == plan.most_steps else until_deadline


class _Trace:
    """A growing curve in bounded memory: when there are too many points, pairs of neighbors are averaged."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []  # another thread reads it at any time

    def add(self, x: float, y: float) -> None:
        """Appends a point."""
        self._points.append((x, y))
        if len(self._points) >= _MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(second[0], (first[1] + second[1]) / 2) for first, second in pairs]

    def points(self) -> tuple[Floats, Floats]:
        """Returns the points as x and y."""
        found = np.array(self._points, np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]


class _Screen(Live):
    """Rich's live display, changed to work on a terminal that shrinks or disappears."""

    def __init__(self, console: Console, display: LiveDisplay) -> None:
        self._display = display
        self._drawn: tuple[int, int] | None = None  # the size of the terminal at the last drawing
        self._gone = False
        super().__init__(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=1,
            redirect_stdout=False,  # results on standard output are not redirected
            vertical_overflow="crop",
        )

    def _picture(self) -> RenderableType:
        return self._display.picture()

    def refresh(self) -> None:
        """Draws the display. A terminal that shrank is cleared first, because it has wrapped the previous lines."""
        if self._gone:
            return
        size = self.console.size
        try:
            if self._drawn is not None and (size.width < self._drawn[0] or size.height < self._drawn[1]):
                self.console.clear()
                if self._display.above is not None:
                    self.console.print(self._display.above)
            self._drawn = (size.width, size.height)
            super().refresh()
        except OSError:
            self._gone = True

    def stop(self) -> None:
        """Draws the display for the last time."""
        with suppress(OSError):
            super().stop()

    def with_cursor(self) -> None:
        """Shows the cursor again."""
        self.console.show_cursor(True)
