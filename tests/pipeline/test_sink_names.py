"""`names_wait_s`: the first rows of a container wait for its names, by record times."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.sink_bench import SCHEMA, Bench

from tidegauge.pipeline.records import Batch, Container
from tidegauge.pipeline.testing import (
    START_MS,
    ListLog,
    RecordingSink,
    make_container,
    make_sample,
)


def bare(number: int, at_ms: int, **fields: Any) -> Container:
    return make_container(number, valid_from_ms=at_ms, **({"name": None, "image": None, "labels": {}} | fields))


def names(b: Bench, number: int) -> list[str | None]:
    return [r.containers[number].name for r in b.samples if isinstance(r, Batch) for s in r.samples if s.container == number]


class TestNames:
    """`names_wait_s`: the first rows of a container wait for its names, by record times."""

    def tick(self, b: Bench, second: float, *numbers: int) -> None:
        ts_ms = START_MS + round(second * 1000)
        b.log.append([make_sample(SCHEMA, n, ts_ms, cpu_usage_ns=1) for n in numbers])
        b.log.tell()

    def test_rows_wait_and_bear_the_names_that_came(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        self.tick(b, 1, 1)
        b.run()
        assert b.samples == []
        assert b.runner.account().pending == 2
        b.log.append(make_container(1, name="late", valid_from_ms=START_MS + 1500))
        b.log.tell()
        b.run()
        self.tick(b, 2, 1)
        b.run()
        assert names(b, 1) == ["late", "late", "late"]

    def test_time_ends_the_wait(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        for second in (0, 1, 2, 3):
            self.tick(b, second, 1)
        b.log.append(make_container(1, name="too late", valid_from_ms=START_MS + 3500))
        self.tick(b, 4, 1)
        b.run()
        assert names(b, 1) == [None, None, None, None, "too late"]

    def test_names_that_come_too_late_are_not_for_the_first_rows(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        b.log.append(make_container(1, name="too late", valid_from_ms=START_MS + 2500))
        self.tick(b, 3, 1)
        b.run()
        assert names(b, 1) == [None, "too late"]

    def test_end_of_the_container_ends_the_wait(self, bench: Callable[..., Bench]) -> None:
        from tidegauge.pipeline.records import End

        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        b.log.append(End(1, START_MS + 100))
        b.log.tell()
        b.run()
        assert names(b, 1) == [None]

    def test_clock_set_back_ends_the_wait(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        self.tick(b, -3600, 1)
        b.run()
        assert names(b, 1) == [None, None]

    def test_host_and_named_containers_do_not_wait(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS, path="/"))
        b.log.append(make_container(2, valid_from_ms=START_MS))
        self.tick(b, 0, 1, 2)
        b.run()
        assert len(names(b, 1)) == 1

    @pytest.mark.parametrize("kill_after", range(1, 9))
    def test_repeat_bears_the_same_names(self, tmp_path: Path, kill_after: int) -> None:
        log = ListLog()
        log.append(SCHEMA)
        log.append(bare(1, START_MS))
        log.append(bare(2, START_MS + 200))
        for second in (0.1, 1.0, 1.2):
            log.append([make_sample(SCHEMA, n, START_MS + round(second * 1000), cpu_usage_ns=1) for n in (1, 2)])
        log.append(make_container(1, name="one", valid_from_ms=START_MS + 1300))
        for second in (1.4, 2.0, 2.3, 3.0):
            log.append([make_sample(SCHEMA, n, START_MS + round(second * 1000), cpu_usage_ns=1) for n in (1, 2)])
        log.append(make_container(2, name="two", valid_from_ms=START_MS + 3100))
        log.append([make_sample(SCHEMA, n, START_MS + 4000, cpu_usage_ns=1) for n in (1, 2)])

        def tags(sink: RecordingSink) -> dict[tuple[int, int], str | None]:
            found: dict[tuple[int, int], str | None] = {}
            for r in sink.written:
                if isinstance(r, Batch):
                    for s in r.samples:
                        name = r.containers[s.container].name
                        assert found.setdefault((s.container, s.ts_ms), name) == name
            return found

        whole = Bench(tmp_path, log=log, names_wait_s=2.0)
        log.tell()
        whole.run()
        expected = tags(whole.sink)
        assert len(expected) == 16
        (tmp_path / "test.cursor").unlink()

        # Bit by bit, killed once on the way: the same tags, although fewer frames could be seen ahead.
        b = Bench(tmp_path, log=log, names_wait_s=2.0, batch_rows=1)
        for i, frame in enumerate(log.frames):
            log.end.set(frame.end_row, frame.end_row, log.accepted[i] + frame.rows)
            b.run()
            if i == kill_after:
                b.start()
        b.run()
        assert tags(b.sink) == expected
