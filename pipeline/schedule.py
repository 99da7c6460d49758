"""Coarse jobs by APScheduler: discovery walks, slow collectors, whatever the owner adds. Seconds to hours, not ticks.

Each run has a daemon thread of its own: one that hangs (a file system whose server is gone) neither takes a place in a pool
from the others nor holds the program at its end. A job never runs twice at a time.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.schedulers.background import BackgroundScheduler

_LOG = logging.getLogger(__name__)


class _ThreadEach(BaseExecutor):  # type: ignore[misc]
    """Runs each job on a new daemon thread."""

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        threading.Thread(target=self._run, args=(job, run_times), name=f"job {job.id}", daemon=True).start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        self._run_job_success(job.id, run_job(job, job._jobstore_alias, run_times, self._logger.name))


class _Job:
    """A function that is not run while it still runs; failures are counted and logged once a change of state."""

    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self.name = name
        self.runs = 0
        self.failures = 0
        self.skipped = 0
        """Times that it was due while it still ran."""
        self._function = function
        self._lock = threading.Lock()
        self._is_failing = False
        self._is_late = False

    def __call__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.skipped += 1
            if not self._is_late:
                _LOG.warning("job %s still runs when it is due again", self.name)
            self._is_late = True
            return
        try:
            self._function()
        except Exception:  # noqa: BLE001 - a job is anybody's code; it is counted and logged
            self.failures += 1
            if not self._is_failing:
                _LOG.exception("job %s failed", self.name)
            self._is_failing = True
        else:
            self._is_failing = False
        finally:
            self.runs += 1
            self._is_late = False
            self._lock.release()


class Schedule:
    """Named jobs at fixed intervals. Any thread."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": _ThreadEach()},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 2},
            timezone=UTC,
            daemon=True,
        )
        self._jobs: dict[str, _Job] = {}
        self._intervals_s: dict[str, float] = {}

    def add(self, name: str, function: Callable[[], object], interval_s: float, *, is_first_now: bool = False) -> None:
        """Runs the function each `interval_s` seconds, the first time after one interval or at once."""
        job = self._jobs[name] = _Job(name, function)
        self._intervals_s[name] = interval_s
        first = {"next_run_time": _now()} if is_first_now else {}
        self._scheduler.add_job(job, "interval", seconds=interval_s, id=name, **first)

    def set_interval(self, name: str, interval_s: float) -> None:
        """Changes the interval of a job; the next run is one new interval from now. The same interval changes nothing."""
        if self._intervals_s[name] != interval_s:
            self._intervals_s[name] = interval_s
            self._scheduler.reschedule_job(name, trigger="interval", seconds=interval_s)

    def run_soon(self, name: str) -> None:
        """Has the job run now and each interval from then on."""
        self._scheduler.modify_job(name, next_run_time=_now())

    def clock_stepped(self) -> None:
        """Due times are wall-clock times: after a step back nothing would run until the clock is there again."""
        for name in self._jobs:
            self.run_soon(name)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Starts nothing more; what runs is left to end by itself. Safe twice and without `start`."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def counters(self) -> dict[str, dict[str, int]]:
        """Runs, failures and skipped runs by job name."""
        return {
            "job_runs": {j.name: j.runs for j in self._jobs.values()},
            "job_failures": {j.name: j.failures for j in self._jobs.values()},
            "job_skipped": {j.name: j.skipped for j in self._jobs.values()},
        }


def _now() -> datetime:
    return datetime.now(UTC)
