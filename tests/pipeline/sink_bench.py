"""A runner over a log in memory, for tests of delivery to one sink."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tidegauge.pipeline.clock import RunnerClock
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch, Gap, Record
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.testing import (
    SOURCE,
    START_MS,
    FakeClock,
    ListLog,
    RecordingSink,
    make_container,
    make_sample,
    make_schema,
    rows_of,
)

SCHEMA = make_schema()


class Bench:
    """A runner over a log in memory, without a thread and with a clock that only moves when told."""

    def __init__(
        self,
        tmp_path: Path,
        sink: RecordingSink | None = None,
        log: ListLog | None = None,
        clock: RunnerClock | None = None,
        **options: Any,
    ) -> None:
        self.folder = tmp_path
        self.log = log or ListLog()
        self.clock = FakeClock()
        self.real_clock = clock
        self.sink = sink or RecordingSink()
        self.options = options
        self.runner = self.start()

    def start(self) -> SinkRunner:
        """As after a kill: what was in memory is gone."""
        self.runner = SinkRunner(
            "test",
            self.sink,
            RunnerOptions(**({"flush_interval_s": 0.0} | self.options)),
            journal_folder=self.folder,
            state_folder=self.folder,
            log_end=self.log.end,
            source=SOURCE,
            log=self.log,
            clock=self.real_clock or self.clock,
            uniform=lambda low, high: high,
        )
        return self.runner

    def run(self, turns: int = 20_000) -> None:
        """Turns until the runner has nothing to do."""
        for _ in range(turns):
            wait_s = self.runner.step()
            account = self.runner.account()
            assert account.is_exact, account
            if wait_s:
                break
        self.clock.advance(1.5)
        self.runner.step()

    def fill(self, records: Sequence[Record]) -> None:
        for record in records:
            self.log.append(record)
        self.log.tell()

    def ticks(self, count: int, containers: int = 3) -> None:
        """Schema, containers and ticks of one sample each, one second apart."""
        if not self.log.frames:
            self.log.append(SCHEMA)
            for n in range(1, containers + 1):
                self.log.append(make_container(n, valid_from_ms=START_MS))
        done = sum(1 for f in self.log.frames if f.rows > 1 or f.type == 3)
        for tick in range(done, done + count):
            ts_ms = START_MS + tick * 1000
            self.log.append([make_sample(SCHEMA, n, ts_ms, cpu_usage_ns=tick * 100 + n) for n in range(1, containers + 1)])
        self.log.tell()

    @property
    def samples(self) -> list[Record]:
        return [r for r in self.sink.written if isinstance(r, Batch)]

    @property
    def gaps(self) -> list[Gap]:
        return [r for r in self.sink.written if isinstance(r, Gap)]


def poison(sink: RecordingSink, bad: set[int], error: Callable[[str], Exception]) -> None:
    """Makes every write that holds a bad row fail."""

    def check(records: Sequence[Record]) -> None:
        found = bad & set(rows_of(r for r in records if not (isinstance(r, Gap) and r.reason.startswith("dropped:"))))
        if found:
            raise error(f"row {min(found)}")

    sink.script.extend([check] * 100_000)


class Killed(BaseException):
    """Stands for a kill in the middle of a write."""


def kill(_: Sequence[Record]) -> None:
    raise Killed
