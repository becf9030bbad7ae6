"""The learning rate: warm-up, decay to zero, and progress that is continuous at a revision of the number of steps."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncli.training.schedule import Schedule


@st.composite
def revised_schedules(draw):
    """Draws a schedule with revisions at increasing steps. Each revision sets more steps than were taken by then."""
    schedule = Schedule(draw(st.floats(1e-6, 1.0)), draw(st.integers(1, 50)), ((0, draw(st.integers(1, 300))),))
    step = 0
    for _ in range(draw(st.integers(0, 6))):
        step += draw(st.integers(1, 60))
        if step >= schedule.steps:
            break
        schedule = schedule.revised(step, step + draw(st.integers(1, 300)))
    return schedule


def test_the_learning_rate_equals_values_computed_by_hand():
    schedule = Schedule(peak=1.0, warmup=4, marks=((0, 10),))
    expected = [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    assert [schedule.lr(step) for step in range(11)] == pytest.approx(expected)


def test_a_revised_schedule_equals_values_computed_by_hand():
    """After 5 of 10 steps, the total becomes 15: the other half of the progress is spread over 10 more steps."""
    schedule = Schedule(peak=2.0, warmup=1, marks=((0, 10),)).revised(5, 15)
    assert schedule.steps == 15
    assert schedule.marks == ((0, 10), (5, 15))
    assert [schedule.progress(step) for step in (0, 4, 5, 6, 10, 15)] == pytest.approx([0, 0.4, 0.5, 0.55, 0.75, 1])
    assert schedule.lr(10) == pytest.approx(2.0 * 0.25)
    shorter = Schedule(peak=2.0, warmup=1, marks=((0, 10),)).revised(5, 7)
    assert [shorter.progress(step) for step in (5, 6, 7)] == pytest.approx([0.5, 0.75, 1])


@settings(deadline=None, max_examples=100)
@given(peak=st.floats(1e-9, 10), warmup=st.integers(1, 100), steps=st.integers(1, 500))
def test_the_warm_up_is_linear_and_the_rate_never_exceeds_its_peak(peak, warmup, steps):
    schedule = Schedule(peak, warmup, ((0, steps),))
    rates = [schedule.lr(step) for step in range(steps)]
    assert all(0 < rate <= peak for rate in rates)
    for step, rate in enumerate(rates[:warmup]):
        assert rate == pytest.approx(peak * (step + 1) / warmup * (1 - step / steps))
    for step in range(warmup, steps):
        assert rates[step] == pytest.approx(peak * (1 - step / steps))


@settings(deadline=None, max_examples=100)
@given(schedule=revised_schedules())
@example(schedule=Schedule(1.0, 1, ((0, 1),)))
def test_the_learning_rate_is_zero_after_the_last_step_and_never_before(schedule):
    assert schedule.progress(0) == 0
    assert schedule.progress(schedule.steps) == pytest.approx(1, abs=1e-12)
    assert schedule.lr(schedule.steps) == pytest.approx(0, abs=1e-12)
    assert schedule.lr(schedule.steps + 100) == pytest.approx(0, abs=1e-12)
    last_mark = schedule.marks[-1][0]
    assert all(schedule.lr(step) > 0 for step in range(last_mark, schedule.steps))


@settings(deadline=None, max_examples=100)
@given(schedule=revised_schedules())
def test_progress_rises_by_equal_amounts_between_two_revisions(schedule):
    """Each step makes an equal share of the progress that remained at the last revision, so progress does not jump."""
    done = [schedule.progress(step) for step in range(schedule.steps + 1)]
    for step, (before, after) in enumerate(pairwise(done)):
        start, total = next(mark for mark in reversed(schedule.marks) if mark[0] <= step)
        assert after > before
        assert after - before == pytest.approx((1 - done[start]) / (total - start))
    assert all(0 <= value <= 1 for value in done)


@settings(deadline=None, max_examples=100)
@given(schedule=revised_schedules(), wait=st.integers(1, 60), more=st.integers(0, 300))
def test_a_revision_keeps_every_earlier_learning_rate(schedule, wait, more):
    at = schedule.marks[-1][0] + wait
    revised = schedule.revised(at, at + more)
    assert revised.steps == at + more
    assert revised.peak == schedule.peak
    assert [revised.lr(step) for step in range(at + 1)] == [schedule.lr(step) for step in range(at + 1)]
    assert [revised.progress(step) for step in range(at + 1)] == [schedule.progress(step) for step in range(at + 1)]


def test_a_revision_never_sets_fewer_steps_than_were_taken():
    schedule = Schedule(1.0, 1, ((0, 100),)).revised(40, 3)
    assert schedule.steps == 40
    assert schedule.progress(40) == pytest.approx(0.4)
    assert math.isfinite(schedule.lr(41))
    assert schedule.lr(41) == 0
