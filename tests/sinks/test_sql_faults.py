"""What goes wrong under the SQL sink: locks, full disks, missing rights, damage, kill -9."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import need

from tidegauge.pipeline.errors import PermanentError, RetryableError, StoreLostError
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch, Event
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.testing import (
    SOURCE,
    START_MS,
    FakeClock,
    ListLog,
    generate_records,
    make_batch,
    make_sample,
    make_schema,
)
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

FAR_MS = START_MS + 10**9


def make_sink(tmp_path: Path, **options: Any) -> SqlSink:
    return SqlSink(SqlConfig(state_dir=tmp_path, **options))


def count(path: Path) -> int:
    conn = sqlite3.connect(path)
    try:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(conn.execute("SELECT count(*) FROM sample").fetchone()[0])
    finally:
        conn.close()


def one(ts_ms: int = START_MS, **values: Any) -> Batch:
    return make_batch([make_sample(make_schema(), ts_ms=ts_ms, **(values or {"cpu_usage_ns": 1}))])


def test_lock_of_another_is_waited_for_and_then_retried(tmp_path: Path) -> None:
    sink = make_sink(tmp_path, busy_timeout_s=0.01)
    sink.open()
    other = sqlite3.connect(sink.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RetryableError, match="locked") as caught:
        sink.write([one()])
    assert not caught.value.is_config_fault
    other.execute("ROLLBACK")
    other.close()
    sink.write([one()])
    sink.close()
    assert count(sink.path) == 1


class Waiting(FakeClock):
    """Has something looked at and done whenever the runner waits."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self._look = look

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self._look()
        return super().wait(event, timeout_s)


def test_a_lock_held_for_a_minute_loses_and_doubles_nothing(tmp_path: Path) -> None:
    def look() -> None:
        account = runner.account()
        assert account.is_exact
        assert account.pending == log.total
        assert "locked" in (runner.last_error() or "")
        waits.append(clock.monotonic())
        if waits[-1] - waits[0] > 60:
            other.rollback()

    log, clock, sink = ListLog(), Waiting(look), make_sink(tmp_path, busy_timeout_s=0.01)
    waits: list[float] = []
    records = list(generate_records(90))
    for record in records:
        log.append(record)
    log.tell()
    sink.open()
    other = sqlite3.connect(sink.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    runner = SinkRunner(
        "sql",
        sink,
        RunnerOptions(flush_interval_s=0, lag_age_s=1e9),
        journal_folder=tmp_path,
        state_folder=tmp_path,
        log_end=log.end,
        source=SOURCE,
        log=log,
        clock=clock,
    )
    while runner.step() == 0:
        pass
    other.close()
    runner.stop(1)
    account = runner.account()
    assert len(waits) > 1
    assert (account.written + account.filtered, account.dead_letter, account.dropped) == (log.total, 0, {})
    assert count(sink.path) == sum(len(r.samples) for r in records if isinstance(r, Batch))


def test_reader_does_not_hold_up_a_write(tmp_path: Path) -> None:
    sink = make_sink(tmp_path, busy_timeout_s=0.0)
    sink.write([one()])
    reader = sqlite3.connect(sink.path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM sample").fetchone() == (1,)
    sink.write([one(START_MS + 1)])
    assert reader.execute("SELECT count(*) FROM sample").fetchone() == (1,)
    reader.close()
    sink.close()


def test_full_database_keeps_what_it_has_and_goes_on_with_space(tmp_path: Path) -> None:
    sink = make_sink(tmp_path)
    sink.write([one()])
    assert sink._conn is not None
    pages = sink._conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    sink._conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    sink._conn.rollback()
    records = list(generate_records(200, containers=9))
    with pytest.raises(RetryableError, match="full") as caught:
        sink.write(records)
    assert not caught.value.is_config_fault
    assert count(sink.path) == 1
    sink.write(records)
    sink.close()
    assert count(sink.path) == 1801


@pytest.mark.integration
def test_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tidegauge-test", str(mount)], check=False, capture_output=True
    )
    need(done.returncode == 0, "the right to mount a tmpfs")
    try:
        sink = make_sink(mount)
        records = list(generate_records(20))
        sink.write(records)
        ballast = mount / "ballast"
        with ballast.open("wb", buffering=0) as f, pytest.raises(OSError):
            while True:
                f.write(bytes(4096))
        with pytest.raises(RetryableError):
            for i in range(1000):
                sink.write([one(START_MS + 10**6 + i)])
        ballast.unlink()
        sink.write(records)
        sink.write([one(START_MS + 10**7)])
        sink.close()
        assert count(sink.path) >= 61
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.damaged-*Z"))


def test_file_that_is_no_database_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    sink = make_sink(tmp_path)
    sink.path.parent.mkdir()
    letter = b"this is a letter, not a database" * 200
    sink.path.write_bytes(letter)
    with pytest.raises(StoreLostError, match=r"is damaged .*kept as") as caught:
        sink.open()
    [kept] = aside(sink.path)
    assert str(kept) in str(caught.value)
    assert kept.read_bytes() == letter
    sink.write([one()])
    sink.close()
    assert count(sink.path) == 1


def overwrite_a_page(path: Path) -> None:
    conn = sqlite3.connect(path)
    root = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sample'").fetchone()[0]
    size = conn.execute("PRAGMA page_size").fetchone()[0]
    conn.close()
    with path.open("r+b") as f:
        f.seek((root - 1) * size)
        f.write(os.urandom(size))


def test_page_overwritten_under_way_is_found_and_the_file_set_aside(tmp_path: Path) -> None:
    sink = make_sink(tmp_path)
    sink.write(list(generate_records(300)))
    sink.close()
    overwrite_a_page(sink.path)
    history = sink.history()
    assert len(history.containers(0, FAR_MS)) == 3
    with pytest.raises(StoreLostError, match="is damaged"):
        sink.write([one(START_MS + 10**6)])
    assert len(aside(sink.path)) == 1
    sink.write(list(generate_records(10, containers=1)))
    # a reader has no part in the file that was set aside either
    assert len(history.containers(0, FAR_MS)) == 1
    sink.close()


def test_after_three_the_damage_is_for_somebody_to_mend(tmp_path: Path) -> None:
    sink = make_sink(tmp_path)
    for i in range(3):
        sink.path.parent.mkdir(exist_ok=True)
        sink.path.with_name(f"{sink.path.name}.damaged-2026010{i}T000000Z").write_bytes(b"")
    sink.path.write_bytes(b"this is a letter, not a database" * 200)
    with pytest.raises(RetryableError, match="remove it and what was set aside") as caught:
        sink.open()
    assert caught.value.is_config_fault
    assert sink.path.exists()
    sink.close()


def test_a_damaged_file_costs_only_what_the_journal_keeps_no_more(tmp_path: Path) -> None:
    log = ListLog()
    for record in generate_records(60):
        log.append(record)
    log.tell()
    sink = make_sink(tmp_path)
    runner = SinkRunner(
        "sql",
        sink,
        RunnerOptions(flush_interval_s=0, batch_rows=10, lag_age_s=1e9),
        journal_folder=tmp_path,
        state_folder=tmp_path,
        log_end=log.end,
        source=SOURCE,
        log=log,
    )
    for _ in range(8):
        runner.step()
    written = runner.account().written
    assert 50 < written < log.total
    sink.close()
    overwrite_a_page(sink.path)
    while runner.step() == 0:
        assert runner.account().is_exact
    account = runner.account()
    assert (account.written + account.filtered, account.pending) == (log.total, 0)
    assert runner.counters()["stores_lost"] == 1
    assert count(sink.path) == 60 * 3
    runner.stop(1)


def test_database_that_may_only_be_read(tmp_path: Path) -> None:
    sink = make_sink(tmp_path)
    sink.open()
    assert sink._conn is not None
    sink._conn.exec_driver_sql("PRAGMA query_only = 1")
    sink._conn.rollback()
    with pytest.raises(RetryableError, match="readonly") as caught:
        sink.write([one()])
    assert caught.value.is_config_fault
    sink.close()


def test_folder_that_takes_no_file() -> None:
    """One that refuses root too."""
    with pytest.raises(RetryableError, match="open /proc") as caught:
        SqlSink(SqlConfig(url="sqlite:////proc/self/none/a.db")).open()
    assert caught.value.is_config_fault


def test_dropped_table_is_a_fault_to_mend(tmp_path: Path) -> None:
    sink = make_sink(tmp_path)
    sink.open()
    with sqlite3.connect(sink.path) as conn:
        conn.execute("DROP TABLE event")
    conn.close()
    with pytest.raises(RetryableError, match="no such table") as caught:
        sink.write([one(), Event(START_MS, "oom", None, {}, 4)])
    assert caught.value.is_config_fault
    sink.close()
    assert count(sink.path) == 0


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "text in a number", {"a": 1}, None])
def test_values_that_no_column_takes(tmp_path: Path, value: Any) -> None:
    """A wrong type is stored by SQLite as it is, if it can be: what is refused is refused for good."""
    sink = make_sink(tmp_path)
    batch = one(cpu_usage_ns=value)
    if value is None or isinstance(value, str):
        sink.write([batch])
    else:
        with pytest.raises(PermanentError):
            sink.write([batch])
        assert count(sink.path) == 0
    sink.close()


WRITER = """
import sys
from pathlib import Path
from tidegauge.pipeline.testing import generate_records
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
sink = SqlSink(SqlConfig(state_dir=Path(sys.argv[1])))
done = 0
for i, record in enumerate(generate_records(100_000, containers=20)):
    sink.write([record])
    print(i, flush=True)
"""


@pytest.mark.parametrize("after", [1, 30, 211, 400])
def test_kill_9_leaves_a_sound_database_with_every_write_that_returned(tmp_path: Path, after: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = -1
        for line in child.stdout:
            last = int(line)
            if last >= after:
                child.send_signal(signal.SIGKILL)
                break
        rest = child.stdout.read().split()
        last = int(rest[-1]) if rest else last
    sink = make_sink(tmp_path)
    records = []
    for i, record in enumerate(generate_records(100_000, containers=20)):
        if i > last + 1:
            break
        records.append(record)
    stored = count(sink.path)
    sure = sum(len(r.samples) for r in records[: last + 1] if isinstance(r, Batch))
    all_of_it = sum(len(r.samples) for r in records if isinstance(r, Batch))
    assert stored in (sure, all_of_it)
    sink.write(records)
    sink.close()
    assert count(sink.path) == all_of_it
    assert sink.conflict_rows == 0
