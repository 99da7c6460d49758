"""Random histories of writer, readers and restarts against a plain list."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.pipeline.journal.log import SMALL, Model, abandon, container, learn, put, samples

from tidegauge.pipeline.journal import JournalReader, JournalWriter, RowGone, files, first_row, row_at_time, verify
from tidegauge.pipeline.records import RecordType


class Cursor:
    def __init__(self, reader: JournalReader, is_needed: bool) -> None:
        self.reader = reader
        self.is_needed = is_needed
        self.live: dict[int, int] = {}
        self.knows = False


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="journal"))
        self.model = Model()
        self.cursors: list[Cursor] = []
        self.is_full = False
        self.was_full = False
        self.time_ms = 1000
        self.patch = patch("tidegauge.pipeline.journal.writer.allocate", self.allocate)
        self.patch.start()
        self.start()

    def allocate(self, fd: int, size: int) -> None:
        if self.is_full and os.fstat(fd).st_size < size:
            raise OSError(errno.ENOSPC, "full")
        files.allocate(fd, size)

    def start(self) -> None:
        self.writer = JournalWriter(self.folder, SMALL, self.model.heads, lambda: self.time_ms)
        start = self.writer.open()
        assert start.first_row % 2**32 == 0
        assert start.first_row > max(self.model.rows, default=0)
        assert start.accepted == len(self.model.rows)
        assert start.damaged == start.lost_rows == 0
        assert start.last_time_ms == (self.model.frames[-1].time_ms if self.model.frames else None)
        live: dict[int, int] = {}
        for frame in start.frames:
            learn(live, frame)
        assert live == self.model.live
        self.tell_needed()

    def tell_needed(self) -> None:
        self.writer.set_needed(min((c.reader.row for c in self.cursors if c.is_needed), default=None))

    def teardown(self) -> None:
        self.writer.close()
        for cursor in self.cursors:
            cursor.reader.close()
        self.patch.stop()
        shutil.rmtree(self.folder)

    @initialize(is_needed=st.booleans())
    def one_cursor(self, is_needed: bool) -> None:
        self.cursors.append(Cursor(JournalReader(self.folder, 0), is_needed))
        self.tell_needed()

    @rule(
        count=st.integers(1, 20),
        rows=st.integers(1, 9),
        size=st.sampled_from([0, 100, 700, 1200, 2500]),
        step=st.integers(0, 5),
        type_=st.sampled_from([3, 3, 4, 5, 77]),
    )
    def append(self, count: int, rows: int, size: int, step: int, type_: int) -> None:
        for _ in range(count):
            self.time_ms += step
            before = self.writer.appended_row
            frame = put(self.writer, self.model, type_, samples(self.model.live, b"x" * size), rows, self.time_ms)
            assert frame.first_row == before
            assert self.writer.appended_row == before + rows

    @rule(number=st.integers(0, 4), version=st.integers(0, 99))
    def append_container(self, number: int, version: int) -> None:
        put(self.writer, self.model, RecordType.CONTAINER, container(number, version), 1, self.time_ms)

    @rule(number=st.integers(0, 4))
    def append_end(self, number: int) -> None:
        put(self.writer, self.model, RecordType.END, str(number).encode(), 1, self.time_ms)

    @rule()
    def sync(self) -> None:
        self.writer.sync()
        assert self.writer.synced_row == self.writer.appended_row

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        if is_killed:
            abandon(self.writer)
        else:
            self.writer.close()
        self.start()

    @rule(is_full=st.booleans())
    def fill_disk(self, is_full: bool) -> None:
        self.is_full = is_full
        self.was_full |= is_full

    @rule(data=st.data(), is_needed=st.booleans(), is_told=st.booleans())
    def add_cursor(self, data: st.DataObject, is_needed: bool, is_told: bool) -> None:
        oldest = first_row(self.folder)
        if oldest.accepted_before == len(self.model.rows):
            return
        row = data.draw(st.sampled_from(self.model.rows[oldest.accepted_before :])) + data.draw(st.sampled_from([0, 0, 1]))
        expected = self.model.accepted_before(row)
        reader = JournalReader(self.folder, row, expected if is_told else None)
        assert reader.accepted_before == expected
        self.cursors.append(Cursor(reader, is_needed))
        self.tell_needed()

    @rule(data=st.data(), max_bytes=st.integers(1, 6000), back=st.sampled_from([0, 0, 0, 1, 5]))
    def read(self, data: st.DataObject, max_bytes: int, back: int) -> None:
        cursor = data.draw(st.sampled_from(self.cursors))
        end_row = self.writer.appended_row - back
        reader, old_row, old = cursor.reader, cursor.reader.row, cursor.reader.accepted_before
        gone: RowGone | None = None
        try:
            frames = reader.read(end_row, max_bytes)
        except RowGone as exc:
            gone = exc
        if gone is not None:
            event(f"gone: {gone.reason}")
            assert gone.reason in ("bound", "disk_full")
            assert gone.lost_rows == self.model.accepted_before(gone.first_row) - self.model.accepted_before(old_row) > 0
            assert gone.first_row == reader.row
            assert not cursor.is_needed or self.was_full
            cursor.live.clear()
            return
        got = [f for f in frames if not f.is_copy]
        i = next((i for i, f in enumerate(self.model.frames) if f.end_row > old_row), len(self.model.frames))
        assert got == self.model.frames[i : i + len(got)]
        assert all(f.rows == 0 for f in frames if f.is_copy)
        assert all(f.end_row <= end_row for f in got)
        assert (
            reader.accepted_before == self.model.accepted_before(reader.row) == max(old, self.model.accepted_before(reader.row))
        )
        if not frames:
            oldest = first_row(self.folder).row
            following = next((f for f in self.model.frames if f.first_row >= oldest and f.end_row > old_row), None)
            assert following is None or following.end_row > end_row
        for frame in frames:
            learn(cursor.live, frame)
            if not frame.is_copy and frame.type not in (RecordType.CONTAINER, RecordType.END):
                assert frame.payload.startswith(samples(cursor.live))
        self.tell_needed()

    @rule(time_ms=st.integers(900, 1300))
    def find_time(self, time_ms: int) -> None:
        oldest = first_row(self.folder)
        found = row_at_time(self.folder, time_ms)
        held = [f for f in self.model.frames if f.first_row >= oldest.row]
        expected = next((f.first_row for f in held if f.time_ms >= time_ms), self.writer.appended_row)
        assert found == (expected, self.model.accepted_before(expected))

    @rule()
    def check_all(self) -> None:
        report = verify(self.folder)
        assert report.is_whole
        assert report.accepted == len(self.model.rows) == self.writer.accepted
        assert report.rows == len(self.model.rows) - first_row(self.folder).accepted_before

    @invariant()
    def two_segments_exist(self) -> None:
        assert self.writer.stats().segments >= 2 or self.was_full


class TestJournal(JournalMachine.TestCase):  # type: ignore[name-defined,misc]
    settings: Any = settings(
        max_examples=80, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
