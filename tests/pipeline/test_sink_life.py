"""A runner starts, keeps its store, and stops in time, whatever the store does."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.pipeline.sink_bench import Bench, poison

from tidegauge.pipeline.clock import RunnerClock
from tidegauge.pipeline.errors import PartialWriteError, PermanentError, RetryableError
from tidegauge.pipeline.records import Record
from tidegauge.pipeline.testing import (
    ListLog,
    RecordingSink,
    rows_of,
)


def test_stop_drains_although_rows_are_refused(bench: Callable[..., Bench]) -> None:
    b = bench(batch_rows=2, clock=RunnerClock(), lag_age_s=1e12)
    poison(b.sink, set(range(5, 100, 3)), PermanentError)
    b.ticks(20)
    b.runner.start()
    b.runner.stop(5.0)
    assert b.runner.account().pending == 0


def test_maintenance_runs_between_writes_when_due(bench: Callable[..., Bench]) -> None:
    class Kept(RecordingSink):
        maintenance_interval_s = 60.0
        times = 0

        def maintain(self, now_ms: int, is_stopping: Callable[[], bool]) -> None:
            self.times += 1
            if self.times == 2:
                raise RuntimeError("disk full")

    sink = Kept()
    b = bench(sink)
    for _ in range(3):
        b.ticks(1)
        b.run()
        b.run()
        b.clock.advance(60)
    assert sink.times == 3
    assert b.runner.counters()["maintenance_errors"] == 1


def test_a_sink_that_hangs_is_left_behind_in_time_and_moves_no_cursor(tmp_path: Path) -> None:
    log = ListLog()
    sink = RecordingSink()
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_: Sequence[Record]) -> None:
        hangs.set()
        goes_on.wait(20)
        raise PartialWriteError("late", {7: "bad"})

    sink.script.append(hang)
    b = Bench(tmp_path, sink, log, RunnerClock(), lag_age_s=1e12)
    b.ticks(3)
    b.runner.start()
    assert hangs.wait(10)
    started = time.monotonic()
    b.runner.stop(0.1)
    assert time.monotonic() - started < 5
    assert b.runner.is_alive()
    goes_on.set()
    assert b.runner._thread is not None
    b.runner._thread.join(10)
    assert not (tmp_path / "test.dead-letters").exists()
    b.sink = RecordingSink()
    b.start()
    b.run()
    assert rows_of(b.sink.written) == list(range(1, 14))


def test_stop_drains_what_the_store_takes(tmp_path: Path) -> None:
    b = Bench(tmp_path, clock=RunnerClock(), lag_age_s=1e12, flush_interval_s=1000.0)
    b.ticks(50)
    b.runner.start()
    b.runner.stop(5.0)
    assert not b.runner.is_alive()
    assert b.runner.account().pending == 0
    assert not b.sink.is_open
    b.start()
    b.run()
    assert b.runner.account().written == 154
    assert len(rows_of(b.sink.written)) == 154


def test_stop_in_the_middle_of_halving_keeps_to_its_time(bench: Callable[..., Bench]) -> None:
    b = bench()

    def refuse_slowly(_: Sequence[Record]) -> None:
        b.clock.advance(1)
        raise PermanentError("bad")

    b.sink.script.extend([refuse_slowly] * 10_000)
    b.ticks(100)
    b.runner._stop.set()
    b.runner._drain_until_s = b.clock.monotonic() + 10
    b.runner.step()
    assert 10 <= b.sink.attempts <= 11
    assert b.runner._is_done()
    assert b.runner.account().is_exact


def test_stop_does_not_wait_for_a_store_that_is_down(tmp_path: Path) -> None:
    b = Bench(tmp_path, clock=RunnerClock(), lag_age_s=1e12, retry_min_s=100.0, retry_max_s=100.0)
    tried = threading.Event()

    def fail(_: Sequence[Record]) -> None:
        tried.set()
        raise RetryableError("down")

    b.sink.script.extend([fail] * 100)
    b.ticks(5)
    b.runner.start()
    assert tried.wait(10)
    started = time.monotonic()
    b.runner.stop(10.0)
    assert time.monotonic() - started < 5
    assert not b.runner.is_alive()
    assert b.runner.account().pending == 19
    assert b.sink.attempts == 1
