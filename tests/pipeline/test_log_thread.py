"""Between the sampling thread and the journal."""

import logging
import threading
from typing import Any

import pytest
from tests.pipeline.sampler_rig import ORIGIN

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.identity import live_containers
from tidegauge.pipeline.log_thread import WAITING, Heads, LogThread, frames_of, settled, without_samples
from tidegauge.pipeline.records import End, Event, Gap, RecordType, Sample, decode_samples
from tidegauge.pipeline.testing import make_container, make_schema


class ListLog:
    """The journal's writer as a list; fails as often as told, and holds while `gate` is shut."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes, int, int]] = []
        self.synced = 0
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def append(self, type_: int, payload: bytes, rows: int, time_ms: int) -> int:
        self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise JournalError("no space")
        with self.changed:
            self.frames.append((type_, payload, rows, time_ms))
            self.changed.notify_all()
        return len(self.frames)

    def sync(self) -> None:
        with self.changed:
            self.synced = len(self.frames)
            self.changed.notify_all()


def sample(number: int, ts_ms: int = 1) -> Sample:
    return Sample(number, ts_ms, 5, (1, None))


def thread(log: ListLog, **options: Any) -> LogThread:
    t = LogThread(log, Heads(), **{"sync_interval_s": 0.01, "retry_s": 0.001} | options)
    t.start()
    return t


def test_items_become_frames_in_order() -> None:
    schema, container = make_schema(), make_container(3)
    items = [schema, container, [sample(3)], Event(1, "creation", 3), End(3, 2), Gap(ORIGIN.source, 1, 2, "stall")]
    frames = list(frames_of(items))
    assert [f.type for f in frames] == [
        RecordType.SCHEMA,
        RecordType.CONTAINER,
        RecordType.SAMPLES,
        RecordType.EVENT,
        RecordType.END,
        RecordType.GAP,
    ]
    assert [f.rows for f in frames] == [1] * 6


def test_many_samples_are_parted_and_none_is_lost() -> None:
    samples = [sample(n) for n in range(2500)]
    frames = list(frames_of([samples], 10_000))
    assert sum(f.rows for f in frames) == 2500
    assert all(len(f.payload) <= 10_000 for f in frames)
    assert len(frames) <= 4
    assert [s for f in frames for s in decode_samples(f.payload)] == samples


def test_what_no_frame_can_hold_is_left_out_alone(caplog: pytest.LogCaptureFixture) -> None:
    large = Sample(2, 1, 5, (None,) * 400)
    frames = list(frames_of([[sample(1), large, sample(3)], Event(1, "x" * 400), End(1, 1)], 200))
    assert [s.container for f in frames if f.record is None for s in decode_samples(f.payload)] == [1, 3]
    assert [f.record for f in frames if f.record is not None] == [End(1, 1)]
    assert len(caplog.records) == 2


def test_a_bug_in_the_journal_is_logged_and_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    log = ListLog()
    t = thread(log)
    append, calls = log.append, []

    def buggy(*args: Any) -> int:
        calls.append(args)
        if len(calls) == 1:
            raise ZeroDivisionError
        return append(*args)

    log.append = buggy  # type: ignore[method-assign]
    t.put([[sample(1)]], 1)
    assert t.stop(60)
    assert len(log.frames) == 1
    assert caplog.records[0].exc_info is not None


def test_a_record_that_cannot_be_encoded_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[int] = []
    odd = [Event(1, "creation", None, {"path": "/\udcff"}), Event(1, "deletion", None, {"x": object()})]
    assert list(frames_of([*odd, [sample(1), sample(2**70), sample(3)]], lost=lost.append)) == []
    assert len(caplog.records) == 3
    assert lost == [1, 1, 3]


def test_rows_that_cannot_be_written_are_counted_once() -> None:
    log = ListLog()
    t = thread(log, max_payload=200)
    large = Sample(2, 1, 5, (None,) * 400)
    t.put([[sample(1), large, sample(3)], Event(1, "x" * 400), End(1, 1)], 5)
    assert t.stop(60)
    assert t.unwritable_rows == 2
    assert sum(f[2] for f in log.frames) == 3


def test_stop_writes_and_syncs_what_waits() -> None:
    log = ListLog()
    t = thread(log, sync_interval_s=60)
    for n in range(5):
        assert t.put([[sample(n)]], n)
    assert t.stop(60)
    assert [f[3] for f in log.frames] == [0, 1, 2, 3, 4]
    assert log.synced == 5
    assert not t.put([[sample(9)]], 9)


def test_what_nothing_follows_is_synced_within_the_interval() -> None:
    log = ListLog()
    seen: list[int] = []
    t = thread(log, on_append=lambda: seen.append(log.synced))
    t.put([[sample(1)]], 1)
    with log.changed:
        assert log.changed.wait_for(lambda: log.synced == 1, timeout=5)
    assert t.stop(60)
    assert seen[0] == 0
    assert seen[-1] == 1


def test_more_than_the_bound_is_refused_and_nothing_blocks() -> None:
    log = ListLog()
    log.gate.clear()
    t = thread(log)
    taken = sum(t.put([[sample(n)]], n) for n in range(3 * WAITING))
    assert WAITING <= taken <= WAITING + 1
    log.gate.set()
    assert t.stop(60)
    assert len(log.frames) == taken


def test_an_append_that_fails_is_repeated_without_doubling_what_went_before(caplog: pytest.LogCaptureFixture) -> None:
    log = ListLog()
    t = thread(log)
    log.failures = 3
    t.put([make_schema(), [sample(1)]], 1)
    t.put([[sample(2)]], 2)
    assert t.stop(60)
    assert [f[0] for f in log.frames] == [RecordType.SCHEMA, RecordType.SAMPLES, RecordType.SAMPLES]
    assert t.failures == 3
    assert [r.levelname for r in caplog.records if r.levelno > logging.INFO] == ["ERROR"]


def test_stop_gives_up_on_a_journal_that_takes_nothing() -> None:
    log = ListLog()
    log.failures = 10**9
    t = thread(log)
    t.put([[sample(1)]], 1)
    assert not t.stop(0.05)


def test_heads_hold_schemas_and_live_containers_as_of_what_was_appended() -> None:
    log, heads = ListLog(), Heads()
    heads.begin([make_container(1)])
    t = LogThread(log, heads)
    t.start()
    t.put([make_schema(), make_container(2), make_container(3), [sample(2)], End(1, 5), make_container(2, name="renamed")], 1)
    assert t.stop(60)
    frames = heads.frames()
    assert [f[0] for f in frames] == [RecordType.SCHEMA, RecordType.CONTAINER, RecordType.CONTAINER]
    assert {(c.number, c.name) for c in live_containers(frames)} == {(2, "renamed"), (3, "web-3")}


def test_samples_are_told_from_records() -> None:
    records = [make_container(1), Event(1, "creation", 1)]
    assert without_samples([*records, [sample(1), sample(2)]]) == (records, 2)


def test_containers_that_came_and_went_leave_nothing_and_the_others_all() -> None:
    kept = [make_container(1), Event(1, "creation", 1), End(7, 1), Event(1, "deletion", 7), Event(1, "clock_step")]
    gone = [make_container(2), Event(1, "creation", 2), Event(2, "deletion", 2), End(2, 2)]
    assert settled([*kept[:2], *gone, *kept[2:]]) == kept
