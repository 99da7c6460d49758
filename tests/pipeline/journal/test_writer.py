"""What the writer promises one by one: rows, segments, rights, faults of the disk, a crash at any write."""

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.pipeline.journal.log import SMALL, Model, abandon, container, drain, filled, learn, put, samples
from tests.support import need

from tidegauge.pipeline.errors import ConfigError, JournalError
from tidegauge.pipeline.journal import (
    JournalConfig,
    JournalReader,
    JournalWriter,
    first_row,
    info,
    row_within,
    verify,
)
from tidegauge.pipeline.journal.layout import DATA_START, FRAME_HEADER_BYTES, pack_segment_header
from tidegauge.pipeline.journal.segments import list_segments
from tidegauge.pipeline.records import RecordType
from tidegauge.pipeline.registry import convert


def open_new(folder: Path, config: JournalConfig = SMALL) -> tuple[JournalWriter, Model]:
    model = Model()
    writer = JournalWriter(folder, config, model.heads)
    writer.open()
    return writer, model


def test_options_are_checked() -> None:
    assert convert({}, JournalConfig, "journal") == JournalConfig()
    with pytest.raises(ConfigError, match=r"journal\.segment_bytes"):
        convert({"segment_bytes": 10}, JournalConfig, "journal")
    with pytest.raises(ConfigError, match=r"journal\.durability"):
        convert({"durability": "perhaps"}, JournalConfig, "journal")


def test_rights_let_the_group_of_the_folder_read(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    old = os.umask(0o077)
    try:
        writer, model = open_new(folder)
        put(writer, model, 3, b"x")
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o7777 == 0o750
    assert {p.stat().st_mode & 0o7777 for p in folder.iterdir()} == {0o640}
    assert len(list(folder.glob("segment-*"))) == 2
    writer.close()


def test_files_take_the_group_that_the_folder_was_given(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root, to give files away")
    folder = tmp_path / "journal"
    folder.mkdir()
    os.chown(folder, 0, 12345)
    writer, model = open_new(folder)
    put(writer, model, 3, b"x")
    assert {p.stat().st_gid for p in folder.iterdir()} == {12345}
    writer.close()


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    writer, _ = open_new(tmp_path)
    with pytest.raises(JournalError, match="in use"):
        open_new(tmp_path)
    writer.close()
    writer.close()
    open_new(tmp_path)[0].close()


def test_rows_are_never_numbered_again_even_if_nothing_came_to_the_disk(tmp_path: Path) -> None:
    seen = 0
    for i in range(6):
        writer, model = open_new(tmp_path)
        assert writer.appended_row > seen
        seen = writer.appended_row + (i % 3)
        for _ in range(i % 3):
            put(writer, model, 3, b"x", 1)
        abandon(writer)
        if i == 3:  # a power cut takes every row that was not synced
            for path in tmp_path.glob("segment-*"):
                path.write_bytes(bytes(4096))


def test_a_payload_that_fits_no_segment_is_refused_alone(tmp_path: Path) -> None:
    writer, model = open_new(tmp_path)
    most = SMALL.segment_bytes - DATA_START - FRAME_HEADER_BYTES
    put(writer, model, 3, b"x" * most, 2)
    with pytest.raises(JournalError, match="exceeds a segment"):
        writer.append(3, b"x" * (most + 1), 2, 0)
    with pytest.raises(ValueError):
        writer.append(3, b"x", 0, 0)
    put(writer, model, 3, b"y", 2)
    frames, losses = drain(JournalReader(tmp_path, 0), writer.appended_row)
    assert [f for f in frames if not f.is_copy] == model.frames
    assert not losses
    writer.close()


def test_many_live_containers_make_longer_segments(tmp_path: Path) -> None:
    writer, model = open_new(tmp_path)
    for i in range(300):
        put(writer, model, RecordType.CONTAINER, container(i, i), 1)
    for _ in range(30):
        put(writer, model, 3, samples(model.live), 1)
    assert max(p.stat().st_size for p in tmp_path.glob("segment-*")) > 4 * 300 * 56
    frames, _ = drain(JournalReader(tmp_path, 0), writer.appended_row)
    assert [f for f in frames if not f.is_copy] == model.frames
    writer.close()


def test_each_segment_decodes_alone(tmp_path: Path) -> None:
    writer, model = filled(tmp_path, 80)
    writer.close()
    segments = list_segments(tmp_path).segments
    assert len(segments) > 5
    for segment in segments[:-1]:
        segment.path.unlink()
    (tmp_path / "end").unlink()
    start = JournalWriter(tmp_path, SMALL, model.heads)
    state = start.open()
    live: dict[int, int] = {}
    for frame in state.frames:
        learn(live, frame)
    assert live == model.live
    assert state.accepted == len(model.rows)
    frames, losses = drain(JournalReader(tmp_path, segments[-1].header.first_row), start.appended_row)
    live.clear()
    for frame in frames:
        learn(live, frame)
        if frame.type == RecordType.SAMPLES:
            assert frame.payload.startswith(samples(live))
    assert not losses
    start.close()


def test_kept_until_passed_and_old_or_too_much(tmp_path: Path) -> None:
    now_ms = 0
    config = msgspec.structs.replace(SMALL, keep_age_s=10.0, keep_bytes=5 * 4096)
    model = Model()
    writer = JournalWriter(tmp_path, config, model.heads, lambda: now_ms)
    writer.open()

    def segments(more: int) -> int:
        for _ in range(more):
            put(writer, model, 3, b"x" * 2900, 1, now_ms)
        return writer.stats().segments

    assert segments(20) == 20  # nobody said yet what is needed
    writer.set_needed(model.rows[10])
    assert segments(0) == 16  # 10 are passed, of which 5 are kept and one waits to be used again
    assert segments(1) == 16  # that one
    assert segments(1) == 17
    writer.set_needed(None)
    assert segments(1) == 7  # 5 kept, one to be used again, the newest
    now_ms = 10_000
    assert segments(1) == 3  # the one before the newest is not old yet
    assert segments(9) == 7
    assert verify(tmp_path).is_whole
    writer.close()


def test_a_full_disk_takes_the_oldest_segment_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, model = filled(tmp_path, 40)
    count = writer.stats().segments
    reader = JournalReader(tmp_path, model.rows[0])
    drain(reader, model.rows[5])
    assert reader.accepted_before == 4

    def full(fd: int, size: int) -> None:
        if os.fstat(fd).st_size < size:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("tidegauge.pipeline.journal.writer.allocate", full)
    for i in range(40):
        put(writer, model, 3, samples(model.live, b"z" * 500), 2, i)
    stats = writer.stats()
    assert stats.segments == count
    assert stats.overwritten_unread_segments > 3
    assert stats.append_errors == 0
    oldest = first_row(tmp_path)
    assert stats.overwritten_unread_rows == oldest.accepted_before
    frames, losses = drain(reader, writer.appended_row)
    # What the reader had in memory already it may still give.
    still = sum(f.rows for f in frames if f.first_row < oldest.row)
    assert losses == [(oldest.row, oldest.accepted_before - 4 - still, "disk_full")]
    assert [f for f in frames if not f.is_copy] == [
        f for f in model.frames if model.rows[4] <= f.first_row < model.rows[4 + still] or f.first_row >= oldest.row
    ]
    fresh = JournalReader(tmp_path, model.rows[4])
    assert drain(fresh, writer.appended_row)[1] == [(oldest.row, oldest.accepted_before - 4, "disk_full")]
    monkeypatch.undo()
    for i in range(20):
        put(writer, model, 3, samples(model.live, b"z" * 500), 2, i)
    assert writer.stats().segments > count
    writer.close()


def test_a_failed_write_goes_to_another_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, model = filled(tmp_path, 5)
    broken = writer._fd
    pwritev = os.pwritev

    def torn(fd: int, pieces: Sequence[bytes], at: int) -> int:
        return pwritev(fd, [pieces[0]], at) if fd == broken else pwritev(fd, pieces, at)

    monkeypatch.setattr(os, "pwritev", torn)
    put(writer, model, 3, samples(model.live, b"q" * 300), 4)
    put(writer, model, 3, samples(model.live, b"r" * 300), 4)
    assert writer.stats().append_errors == 1
    frames, losses = drain(JournalReader(tmp_path, 0, 0), writer.appended_row)
    assert [f for f in frames if not f.is_copy] == model.frames
    assert not losses
    writer.close()


def test_a_dead_disk_is_an_error_a_call_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, model = filled(tmp_path, 5)
    accepted = writer.accepted

    def dead(fd: int, pieces: Sequence[bytes], at: int) -> int:
        raise OSError(errno.EIO, "dead")

    monkeypatch.setattr(os, "pwritev", dead)
    for _ in range(3):
        with pytest.raises(JournalError, match="dead"):
            writer.append(3, b"x", 1, 0)
    assert writer.accepted == accepted
    assert writer.stats().append_errors == 6
    monkeypatch.undo()
    put(writer, model, 3, samples(model.live), 1)
    frames, losses = drain(JournalReader(tmp_path, 0, 0), writer.appended_row)
    assert [f for f in frames if not f.is_copy] == model.frames
    assert not losses
    writer.close()


@pytest.mark.parametrize("durability", ["normal", "full"])
def test_a_failed_sync_is_counted_and_another_segment_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Any
) -> None:
    writer, model = filled(tmp_path, 5, msgspec.structs.replace(SMALL, durability=durability))
    bad = writer._fd
    fdatasync = os.fdatasync

    def sync(fd: int) -> None:
        if fd == bad:
            raise OSError(errno.EIO, "bad")
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    put(writer, model, 3, samples(model.live, b"q"), 4)
    synced = writer.synced_row
    writer.sync()
    if durability == "normal":
        assert writer.synced_row == synced < writer.appended_row
        put(writer, model, 3, samples(model.live, b"r"), 4)
        writer.sync()
    assert writer.synced_row == writer.appended_row
    assert writer.stats().sync_errors + writer.stats().append_errors == 1
    frames, losses = drain(JournalReader(tmp_path, 0, 0), writer.appended_row)
    assert [f for f in frames if not f.is_copy] == model.frames
    assert not losses
    writer.close()


def test_normal_syncs_by_time_and_full_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fdatasync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append(fd), fdatasync(fd)))
    for name, config, expected in (
        ("never", SMALL, 0),
        ("always", msgspec.structs.replace(SMALL, sync_interval_s=0.0), 3),
        ("full", msgspec.structs.replace(SMALL, durability="full"), 3),
    ):
        writer, model = open_new(tmp_path / name, config)
        put(writer, model, 3, b"first")
        writer.sync()
        calls.clear()
        for _ in range(3):
            put(writer, model, 3, b"x")
        assert len(calls) == expected, name
        writer.close()


def test_a_crash_at_any_write_leaves_a_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer dies within its n-th write, of which a part reached the file: in a header, a copy, a frame, the mark."""

    class Crash(BaseException):
        pass

    rng = random.Random(5)
    pwritev, pwrite = os.pwritev, os.pwrite
    for n in range(90):
        folder = tmp_path / str(n)
        model = Model()
        writer = JournalWriter(folder, SMALL, model.heads)
        writer.open()
        writer.set_needed(None)
        left = n

        def dying(fd: int, data: bytes, at: int) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                pwrite(fd, data[: rng.randrange(len(data) + 1)], at)
                raise Crash
            return pwrite(fd, data, at)

        monkeypatch.setattr(os, "pwrite", dying)
        monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: dying(fd, b"".join(pieces), at))
        attempt = b""
        try:
            for i in range(60):
                attempt = container(i % 3, i) if i % 5 == 0 else samples(model.live, bytes([i]) * 700)
                put(writer, model, RecordType.CONTAINER if i % 5 == 0 else RecordType.SAMPLES, attempt, 1, i)
        except Crash:
            pass
        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "pwritev", pwritev)
        abandon(writer)

        again = JournalWriter(folder, SMALL, model.heads)
        start = again.open()
        # The last frame may be whole although its append never returned.
        assert start.accepted - len(model.rows) in (0, 1)
        live: dict[int, int] = {}
        for frame in start.frames:
            learn(live, frame)
        if start.accepted == len(model.rows):
            assert live == model.live
        first = first_row(folder)
        again.append(3, samples(live), 1, 99)
        frames, losses = drain(JournalReader(folder, *first), again.appended_row)
        assert not losses
        kept = [f.payload for f in frames if not f.is_copy]
        expected = [f.payload for f in model.frames] + [attempt] * (start.accepted - len(model.rows)) + [samples(live)]
        assert kept == expected[first.accepted_before :]
        seen: dict[int, int] = {}
        for frame in frames:
            learn(seen, frame)
            if frame.type == RecordType.SAMPLES:
                assert frame.payload.startswith(samples(seen))
        again.close()


def test_a_later_format_is_left_alone(tmp_path: Path) -> None:
    writer, _ = filled(tmp_path, 10)
    writer.close()
    segment = list_segments(tmp_path).segments[-1]
    with segment.path.open("r+b") as file:
        file.write(pack_segment_header(segment.header._replace(version=2)))
    before = segment.path.read_bytes()
    with pytest.raises(JournalError, match="format 2"):
        open_new(tmp_path)
    with pytest.raises(JournalError, match="format 2"):
        JournalReader(tmp_path, 0).read(1 << 60, 1)
    assert segment.path.read_bytes() == before


def test_info_and_bounds_come_from_the_headers(tmp_path: Path) -> None:
    writer, model = filled(tmp_path, 60)
    segments = list_segments(tmp_path).segments
    assert info(tmp_path).accepted == len(model.rows)
    assert info(tmp_path).size_bytes == len(segments) * 4096
    heads = [(s.header.first_row, s.header.accepted) for s in segments]
    assert row_within(tmp_path, 1 << 40) == heads[0] == first_row(tmp_path)
    assert row_within(tmp_path, 0) == heads[-1]
    assert row_within(tmp_path, 3 * 4096) == heads[-3]
    assert row_within(tmp_path, 1 << 40, segments[2].header.first_time_ms) == heads[1]
    writer.close()


def test_a_reader_jumps_and_says_how_much_it_passed(tmp_path: Path) -> None:
    writer, model = filled(tmp_path, 60)
    reader = JournalReader(tmp_path, 0)
    reader.read(writer.appended_row, 500)
    at = reader.accepted_before
    to = row_within(tmp_path, 3 * 4096)
    assert reader.seek(to) == to.accepted_before - at
    frames, losses = drain(reader, writer.appended_row)
    assert [f for f in frames if not f.is_copy] == [f for f in model.frames if f.first_row >= to.row]
    assert not losses
    writer.close()


def test_nothing_beyond_the_given_row_is_read(tmp_path: Path) -> None:
    writer, model = filled(tmp_path, 30)
    reader = JournalReader(tmp_path, 0)
    for frame in model.frames:
        got = [f for f in drain(reader, frame.end_row)[0] if not f.is_copy]
        assert got == [frame]
        assert reader.read(frame.end_row, 100) == []
        assert drain(JournalReader(tmp_path, frame.first_row), frame.first_row) == ([], [])
    writer.close()


def test_an_empty_journal_reads_as_nothing(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "none", 0)
    assert reader.read(100, 100) == []
    assert reader.accepted_before == 0
    assert first_row(tmp_path / "none") == (0, 0)
    assert verify(tmp_path / "none").segments == ()
    writer, model = open_new(tmp_path / "none")
    put(writer, model, 200, b"unknown type", 3)
    assert [f.type for f in reader.read(writer.appended_row, 100) if not f.is_copy] == [200]
    writer.close()


def test_a_reader_whose_segment_was_removed_is_told_that_it_was_recycled(tmp_path: Path) -> None:
    writer, model = filled(tmp_path, 60)
    reader = JournalReader(tmp_path, model.rows[5], 5)
    reader.read(writer.appended_row, 1)
    held = list_segments(tmp_path).segments[0].path
    writer.set_needed(None)
    assert not held.exists()
    frames, losses = drain(reader, writer.appended_row)
    assert [loss.reason for loss in losses] == ["bound"]
    oldest = first_row(tmp_path)
    assert losses[0].first_row == oldest.row
    assert {f.first_row for f in model.frames if f.first_row >= oldest.row} <= {f.first_row for f in frames}
    writer.close()


def test_a_row_within_the_damaged_first_frame_of_a_start_is_counted_from_the_frame_behind(tmp_path: Path) -> None:
    writer, model = filled(tmp_path, 3)
    writer.close()
    writer = JournalWriter(tmp_path, SMALL, model.heads)
    writer.open()
    lost = put(writer, model, 3, samples(model.live, b"first"), 5)
    put(writer, model, 3, samples(model.live, b"second"), 5)
    path = list_segments(tmp_path).segments[-1].path
    path.write_bytes(path.read_bytes().replace(b"|first", b"|FIRST"))
    row = lost.first_row + 2
    assert JournalReader(tmp_path, row).accepted_before == model.accepted_before(row)
    # The number after the last row of the first start was never given out.
    row = model.frames[-3].end_row
    assert JournalReader(tmp_path, row).accepted_before == model.accepted_before(row)
    writer.close()


def test_a_start_reads_headers_and_one_segment_whatever_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    pread = os.pread

    def counting(fd: int, size: int, at: int) -> bytes:
        nonlocal read
        data = pread(fd, size, at)
        read += len(data)
        return data

    costs = []
    for count in (40, 800):
        folder = tmp_path / str(count)
        writer, model = filled(folder, count)
        segments = writer.stats().segments
        writer.close()
        monkeypatch.setattr(os, "pread", counting)
        read = 0
        writer, _ = open_new(folder)
        JournalReader(folder, model.rows[-1]).read(model.rows[-1] + 1, 1)
        monkeypatch.undo()
        costs.append(read - 2 * DATA_START * segments)
        writer.close()
    assert costs[1] <= costs[0] + 3 * SMALL.segment_bytes
