"""Runners over the real journal: segments that end, restarts within one, bounds in bytes, damage."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.journal import JournalConfig, JournalWriter
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.log_thread import Heads
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch, Gap, WireRecord, encode_record, encode_samples
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.testing import (
    SOURCE,
    START_MS,
    FakeClock,
    RecordingSink,
    flat,
    make_container,
    make_sample,
    make_schema,
    rows_of,
)

SCHEMA = make_schema()


class Journal:
    """A writer with small segments, and what it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "journal"
        self.heads = Heads()
        self.writer = JournalWriter(self.folder, JournalConfig(segment_bytes=65536, keep_bytes=0), self.heads.frames)
        self.writer.open()
        self.end = LogEnd()
        self.tick = 0
        self.keys: dict[int, tuple[str, int]] = {}
        self.put(SCHEMA)
        for n in range(1, 11):
            self.put(make_container(n, valid_from_ms=START_MS))

    def put(self, record: WireRecord) -> None:
        type_, payload = encode_record(record)
        self.heads.note(record, payload)
        self.writer.append(type_, payload, 1, START_MS + self.tick * 1000)

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.tick += 1
            ts_ms = START_MS + self.tick * 1000
            samples = [make_sample(SCHEMA, n, ts_ms, cpu_usage_ns=self.tick * 1000 + n) for n in range(1, 11)]
            first = self.writer.append(3, encode_samples(samples), 10, ts_ms)
            for i, s in enumerate(samples):
                self.keys[first + i] = (make_container(s.container).instance, ts_ms)
        self.writer.sync()
        self.end.set(self.writer.appended_row, self.writer.synced_row, self.writer.accepted)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    j = Journal(tmp_path)
    yield j
    j.writer.close()


def runner_of(j: Journal, sink: RecordingSink, clock: FakeClock, name: str = "s", **options: object) -> SinkRunner:
    return SinkRunner(
        name,
        sink,
        RunnerOptions(**({"flush_interval_s": 0.0, "lag_age_s": 1e9} | options)),  # type: ignore[arg-type]
        journal_folder=j.folder,
        state_folder=j.folder.parent,
        log_end=j.end,
        source=SOURCE,
        clock=clock,  # type: ignore[arg-type]
    )


def run(runner: SinkRunner, clock: FakeClock, turns: int = 10_000) -> None:
    for _ in range(turns):
        wait_s = runner.step()
        assert runner.account().is_exact
        if wait_s:
            break
    clock.advance(1.1)
    runner.step()


def test_kills_within_segments_lose_and_double_nothing(journal: Journal) -> None:
    sink, clock, rng = RecordingSink(), FakeClock(), random.Random(7)
    journal.ticks(500)
    assert len(list(journal.folder.glob("segment-*"))) >= 4
    runner = runner_of(journal, sink, clock, batch_rows=23)
    for _ in range(60):
        for _ in range(rng.randrange(8)):
            runner.step()
            assert runner.account().is_exact
            clock.advance(rng.random())
        journal.ticks(rng.randrange(3))
        if (needed := runner.needed_row()) is not None:
            journal.writer.set_needed(needed)
        runner = runner_of(journal, sink, clock, batch_rows=23)
    run(runner, clock)
    account = runner.account()
    assert (account.pending, account.dropped) == (0, {})
    assert account.written == account.accepted == len(journal.keys) + 11
    assert {(key[0], key[2]) for key in sink.store} == set(journal.keys.values())
    names = {c.name for r in sink.written if isinstance(r, Batch) for c in r.containers.values()}
    assert names == {f"web-{n}" for n in range(1, 11)}


def test_down_sink_gives_up_the_oldest_bytes_and_lets_the_journal_recycle(journal: Journal) -> None:
    sink, clock = RecordingSink(), FakeClock()
    runner = runner_of(journal, sink, clock, lag_bytes=4 * 65536)
    journal.ticks(10)
    run(runner, clock)
    for _ in range(40):
        sink.script.extend([RetryableError("down")] * 3 + [_interrupt])
        journal.ticks(100)
        clock.advance(30)
        with pytest.raises(KeyboardInterrupt):
            run(runner, clock)
        assert runner.account().is_exact
        clock.advance(30)
        needed = runner.needed_row()
        assert needed is not None
        journal.writer.set_needed(needed)
        runner = runner_of(journal, sink, clock, lag_bytes=4 * 65536)
    assert len(list(journal.folder.glob("segment-*"))) < 12
    sink.script.clear()
    run(runner, clock)
    account = runner.account()
    [gap] = [r for r in sink.written if isinstance(r, Gap)]
    dropped = sum(account.dropped.values())
    assert account.written + dropped == account.accepted
    assert gap.rows == dropped > 10_000
    missing = journal.keys.keys() - set(rows_of(r for r in sink.written if isinstance(r, Batch)))
    assert len(missing) == dropped
    assert min(missing) == gap.row
    assert all(gap.from_ms <= journal.keys[row][1] <= gap.to_ms for row in missing)


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_sink_that_hangs_for_ever_does_not_keep_the_journal(journal: Journal) -> None:
    sink, clock = RecordingSink(), FakeClock()
    runner = runner_of(journal, sink, clock, lag_bytes=3 * 65536)
    journal.ticks(10)
    run(runner, clock)
    first = runner.needed_row()
    journal.ticks(1000)
    clock.advance(60)
    later = runner.needed_row()
    assert first is not None
    assert later is not None
    assert later > first + 5000
    journal.writer.set_needed(later)
    journal.ticks(200)
    run(runner, clock)
    account = runner.account()
    assert set(account.dropped) == {"bound"}
    assert account.written + account.dropped["bound"] == account.accepted


def test_flipped_byte_loses_one_frame_under_a_gap(journal: Journal) -> None:
    sink, clock = RecordingSink(), FakeClock()
    journal.ticks(300)
    segments = sorted(journal.folder.glob("segment-*"))
    data = bytearray(segments[1].read_bytes())
    data[30_000] ^= 0xFF
    segments[1].write_bytes(data)
    runner = runner_of(journal, sink, clock)
    run(runner, clock)
    account = runner.account()
    assert account.dropped == {"damage": 10}
    missing = journal.keys.keys() - set(rows_of(r for r in sink.written if isinstance(r, Batch)))
    assert len(missing) == 10
    [gap] = [r for r in sink.written if isinstance(r, Gap)]
    assert (gap.row, gap.rows) == (min(missing), 10)
    assert len(flat(sink.written)) == len(journal.keys) - 10


def test_two_sinks_do_not_share_a_pace(journal: Journal) -> None:
    clock = FakeClock()
    slow, fast = RecordingSink(), RecordingSink()
    slow.script.extend([RetryableError("down")] * 5)
    journal.ticks(50)
    one = runner_of(journal, slow, clock)
    two = runner_of(journal, fast, clock, "other")
    run(two, clock)
    assert two.account().pending == 0
    run(one, clock)
    assert flat(slow.written) == flat(fast.written)
