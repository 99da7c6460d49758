"""Coarse jobs."""

import logging
import threading
from collections.abc import Iterator

import pytest

from tidegauge.pipeline.schedule import Schedule, _Job


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    s = Schedule()
    yield s
    s.stop()
    s.stop()


def test_a_job_runs_at_once_if_told_and_again_when_asked(schedule: Schedule) -> None:
    runs = threading.Semaphore(0)
    schedule.add("walk", runs.release, 3600, is_first_now=True)
    schedule.add("later", lambda: pytest.fail("not due"), 3600)
    schedule.start()
    assert runs.acquire(timeout=5)
    schedule.run_soon("walk")
    assert runs.acquire(timeout=5)


def test_a_changed_interval_holds_from_now(schedule: Schedule) -> None:
    runs = threading.Semaphore(0)
    schedule.add("walk", runs.release, 3600)
    schedule.start()
    schedule.set_interval("walk", 0.02)
    assert runs.acquire(timeout=5)


def test_the_same_interval_again_puts_nothing_off(schedule: Schedule) -> None:
    schedule.add("walk", lambda: None, 3600)
    schedule.start()
    [job] = schedule._scheduler.get_jobs()
    due = job.next_run_time
    schedule.set_interval("walk", 3600)
    assert [j.next_run_time for j in schedule._scheduler.get_jobs()] == [due]


def test_after_a_step_of_the_clock_jobs_run_at_once(schedule: Schedule) -> None:
    runs = threading.Semaphore(0)
    schedule.add("walk", runs.release, 3600)
    schedule.start()
    schedule.clock_stepped()
    assert runs.acquire(timeout=5)


def test_a_job_that_hangs_is_not_run_again_and_holds_no_other(schedule: Schedule, caplog: pytest.LogCaptureFixture) -> None:
    hang, other = threading.Event(), threading.Semaphore(0)
    entered: list[int] = []

    def hanging() -> None:
        entered.append(1)
        hang.wait(30)

    schedule.add("hanging", hanging, 0.01, is_first_now=True)
    schedule.add("other", other.release, 0.01)
    schedule.start()
    for _ in range(5):
        assert other.acquire(timeout=5)
    while schedule.counters()["job_skipped"]["hanging"] < 2:
        assert other.acquire(timeout=5)
    assert entered == [1]
    hang.set()
    own = [r for r in caplog.records if r.name == "tidegauge.pipeline.schedule"]
    assert len(own) == 1


def test_failures_are_counted_and_logged_once_a_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcomes = iter([ValueError("bug"), ValueError("bug"), None, ValueError("bug")])

    def work() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    job = _Job("work", work)
    for _ in range(4):
        job()
    assert (job.runs, job.failures) == (4, 3)
    assert len(caplog.records) == 2
