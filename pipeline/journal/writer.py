"""The one writer of the journal: appends frames, makes and recycles segments. Used by the sampler process alone."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal.cursor import CursorFile
from tidegauge.pipeline.journal.files import allocate, sync_folder, write_at
from tidegauge.pipeline.journal.layout import (
    BEGINNING,
    DATA_START,
    IS_COPY,
    Frame,
    Position,
    SegmentHeader,
    frame_bytes,
    pack_frame,
    pack_segment_header,
)
from tidegauge.pipeline.journal.segments import (
    END_FILE,
    LOCK_FILE,
    Listing,
    SegmentFile,
    SegmentReader,
    list_segments,
    pack_end,
    read_end,
    segment_name,
    segment_number,
)
from tidegauge.pipeline.records import RecordType

FOLDER_MODE = 0o750
FILE_MODE = 0o640
_START_ROWS = 1 << 32
"""A start begins at a multiple of this, so that rows that a crash took from the disk are never numbered again."""
_LEAST_SEGMENTS = 2
_TRIM_AT_ONCE = 16
_HEADS_SHARE = 4
"""A segment is at least this many times as long as the copies at its head."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the table `[journal]`."""

    segment_bytes: Annotated[int, msgspec.Meta(ge=65536, le=1 << 30)] = 8 << 20
    """Size of a segment file. A payload must fit one."""
    keep_age_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 86400.0
    """Rows that every sink has stay this long ..."""
    keep_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1 << 30
    """... or until they take more than this, whichever comes first."""
    durability: Literal["normal", "full"] = "normal"
    """`normal`: synced at most every `sync_interval_s`; `full`: before each append returns."""
    sync_interval_s: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class JournalStart(NamedTuple):
    """What a start found."""

    first_row: int
    """The first row of this start; nothing was ever accepted under it or above."""
    accepted: int
    """Rows accepted so far, over all starts."""
    last_time_ms: int | None
    """Time of the last whole frame; None if there is none."""
    frames: list[Frame]
    """Copies at the head of the newest segment and every later frame of it but samples: the state at the log's end."""
    damaged: int
    """Damaged places in the newest segment, and segments whose header is. Where not 0, `frames` may lack something."""
    lost_rows: int
    """Rows known to be lost in the newest segment and behind it."""


class JournalStats(NamedTuple):
    segments: int
    bytes: int
    """Disk space of all segments, in use or spare."""
    oldest_time_ms: int | None
    overwritten_unread_segments: int
    """Since this start: used again for want of space although a cursor needed them."""
    overwritten_unread_rows: int
    """Rows accepted into them."""
    append_errors: int
    sync_errors: int


class JournalWriter:
    """Appends to the log in a folder. All methods are for one thread; the numbers may be read from any."""

    def __init__(
        self,
        folder: Path,
        config: JournalConfig,
        heads: Callable[[], Iterable[tuple[int, bytes]]],
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        """`heads` gives (type, payload) of every schema and live container as of the frames appended so far.

        It is called within `append`, when a segment begins.
        """
        self._folder = folder
        self._config = config
        self._heads = heads
        self._now_ms = now_ms
        self._segments: list[SegmentFile] = []
        self._spare: list[Path] = []
        self._end = CursorFile(folder / END_FILE, FILE_MODE)
        self._lock_fd = -1
        self._fd = -1
        self._offset = 0
        self._is_suspect = False
        """The current segment refused something: the next frame goes to another."""
        self._has_failed_sync = False
        self._last_sync = 0.0
        self._needed: int | None = 0
        self._use = 0
        self._full_row = 0
        self._overwritten_segments = 0
        self._overwritten_rows = 0
        self._append_errors = 0
        self._sync_errors = 0
        self.appended_row = 0
        """One past the last row appended."""
        self.synced_row = 0
        """One past the last row that a power cut cannot take."""
        self.accepted = 0
        """Rows accepted in total, over all starts."""

    def open(self, beyond: Position = BEGINNING) -> JournalStart:
        """Locks the folder and finds the end of the log; never refuses for damage. Time does not grow with the backlog.

        `beyond` is the furthest position of any cursor: the log goes on behind it, even if the folder was emptied.
        JournalError: another writer has the lock, a segment is of a later format, or nothing can be written at all.
        """
        try:
            self._make_folder()
            self._lock()
            listing = list_segments(self._folder)
            self._segments = listing.segments
            self._spare = listing.broken + listing.spare
            start = self._find_end(listing, beyond)
            self.appended_row = self.synced_row = start.first_row
            self.accepted = start.accepted
            self._end.store(pack_end(Position(self.appended_row, self.accepted)))
            self._give(self._end.fileno())
            self._make_spares()
        except OSError as exc:
            self.close()
            raise JournalError(f"journal {self._folder}: {exc}") from exc
        except JournalError:
            self.close()
            raise
        return start

    def append(self, type_: int, payload: bytes, rows: int, time_ms: int) -> int:
        """Appends one frame of `rows` (at least 1) rows and returns the first of them.

        What the disk refuses is tried once more on another segment. JournalError: the payload exceeds a segment, or the
        disk takes nothing at all; the rows are then not accepted, and the next call may well succeed.
        """
        if rows < 1:
            raise ValueError(f"a frame has at least one row, got {rows}")
        size = frame_bytes(len(payload))
        if size > self._config.segment_bytes - DATA_START:
            raise JournalError(f"a payload of {len(payload)} bytes exceeds a segment of {self._config.segment_bytes}")
        for is_last_try in (False, True):
            try:
                self._write(type_, payload, rows, time_ms, size)
                break
            except OSError as exc:
                self._append_errors += 1
                self._is_suspect = True
                if is_last_try:
                    raise JournalError(f"append to {self._folder}: {exc}") from exc
        first_row = self.appended_row
        self._offset += size
        self.appended_row += rows
        self.accepted += rows
        try:
            self._end.store(pack_end(Position(self.appended_row, self.accepted)), sync=False)
        except OSError:
            self._append_errors += 1  # the frame itself is there; the mark only helps after damage
        if self._config.durability == "full":
            self.synced_row = self.appended_row
        elif time.monotonic() - self._last_sync >= self._config.sync_interval_s:
            self.sync()
        return first_row

    def sync(self) -> None:
        """Makes what was appended durable. A failure is counted, and the next append goes to another segment."""
        if self._fd < 0 or self.synced_row == self.appended_row or self._has_failed_sync:
            return
        self._last_sync = time.monotonic()
        try:
            os.fdatasync(self._fd)
        except OSError:
            # The kernel reports a page that it could not write once and then takes it for clean: a second try proves nothing.
            self._sync_errors += 1
            self._is_suspect = self._has_failed_sync = True
            return
        self.synced_row = self.appended_row

    def set_needed(self, row: int | None) -> None:
        """Sets the lowest row that a configured cursor still needs; None: there is no such cursor.

        Until the first call everything is needed.
        """
        self._needed = row
        self._trim()

    def stats(self) -> JournalStats:
        spare = sum(_size(p) for p in self._spare)
        return JournalStats(
            segments=len(self._segments) + len(self._spare),
            bytes=sum(s.size for s in self._segments) + spare,
            oldest_time_ms=self._segments[0].header.first_time_ms if self._segments else None,
            overwritten_unread_segments=self._overwritten_segments,
            overwritten_unread_rows=self._overwritten_rows,
            append_errors=self._append_errors,
            sync_errors=self._sync_errors,
        )

    def close(self) -> None:
        """Syncs and lets the lock go; safe twice."""
        self.sync()
        self._end.close()
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, mode=FOLDER_MODE)
            self._folder.chmod(FOLDER_MODE)
            sync_folder(self._folder.parent)

    def _lock(self) -> None:
        self._lock_fd = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        self._give(self._lock_fd)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise JournalError(f"journal {self._folder} is in use by another process") from exc

    def _give(self, fd: int) -> None:
        """Rights of a file: the folder's group reads it (the server process), nobody else does."""
        os.fchmod(fd, FILE_MODE)
        group = self._folder.stat().st_gid
        if os.fstat(fd).st_gid != group:
            os.fchown(fd, -1, group)

    def _find_end(self, listing: Listing, beyond: Position) -> JournalStart:
        frames: list[Frame] = []
        damaged = len(listing.broken)
        seen = accepted = lost = 0
        last_time_ms: int | None = None
        if listing.segments:
            last = listing.segments[-1]
            self._use = last.header.use
            self._full_row = last.header.full_row
            seen, accepted = last.header.first_row, last.header.accepted
            last_time_ms = last.header.first_time_ms
            expected, self._offset = DATA_START, DATA_START
            reader = SegmentReader(last.path)
            try:
                for stored in reader.frames():
                    damaged += stored.at != expected
                    expected = self._offset = stored.end
                    if not stored.header.flags & IS_COPY:
                        seen, last_time_ms = stored.end_row, stored.header.time_ms
                        lost += max(0, stored.header.accepted - accepted)
                        accepted = stored.accepted_end
                    if stored.header.type != RecordType.SAMPLES:
                        frames.append(stored.frame())
            finally:
                reader.close()
            self._fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        mark = read_end(self._folder) or BEGINNING
        end_accepted = max(accepted, mark.accepted_before, beyond.accepted_before)
        first_row = (max(seen, mark.row, beyond.row) // _START_ROWS + 1) * _START_ROWS
        return JournalStart(first_row, end_accepted, last_time_ms, frames, damaged, lost + end_accepted - accepted)

    def _make_spares(self) -> None:
        """Two segments always exist, so that a full disk does not stop the log."""
        try:
            while len(self._segments) + len(self._spare) < _LEAST_SEGMENTS:
                self._spare.append(self._create(self._config.segment_bytes))
            if self._segments:  # it may have been cut short
                allocate(self._fd, self._config.segment_bytes)
                self._segments[-1] = self._segments[-1]._replace(size=os.fstat(self._fd).st_size)
        except OSError:
            if not self._segments and not self._spare:
                raise
            self._append_errors += 1

    def _write(self, type_: int, payload: bytes, rows: int, time_ms: int, size: int) -> None:
        if self._fd < 0 or not self._segments or self._is_suspect or self._offset + size > self._segments[-1].size:
            self._roll(size, time_ms)
        write_at(
            self._fd,
            pack_frame(type_, 0, payload, rows, self._use, self.appended_row, self.accepted, time_ms),
            self._offset,
        )
        if self._config.durability == "full":
            os.fdatasync(self._fd)

    def _roll(self, size: int, time_ms: int) -> None:
        """Begins a segment: blank header, copies, sync, header; so that a crash in between leaves the old end in force."""
        heads = list(self._heads())
        heads_bytes = sum(frame_bytes(len(p)) for _, p in heads)
        need = DATA_START + heads_bytes + size
        wanted = max(self._config.segment_bytes, DATA_START + _HEADS_SHARE * heads_bytes, need)
        self.sync()
        path = self._take(wanted)
        use = self._use + 1
        header = SegmentHeader(use, self.appended_row, self.accepted, time_ms, self._full_row)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # removed by somebody: OSError, and the next try takes another
        try:
            write_at(fd, [bytes(DATA_START)], 0)
            have = _grow(fd, wanted, need)
            at = DATA_START
            for type_, payload in heads:
                write_at(fd, pack_frame(type_, IS_COPY, payload, 0, use, self.appended_row, self.accepted, time_ms), at)
                at += frame_bytes(len(payload))
            os.fdatasync(fd)
            write_at(fd, [pack_segment_header(header)], 0)
        except OSError:
            os.close(fd)
            self._spare.append(path)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset, self._use = fd, at, use
        self._is_suspect = self._has_failed_sync = False
        self._segments.append(SegmentFile(path, header, have))
        self._trim()

    def _take(self, size: int) -> Path:
        """A file for the next segment: spare, or no longer kept, or new, or (the disk is full) the oldest there is."""
        if self._spare:
            return self._spare.pop(0)
        if self._expired():
            return self._segments.pop(0).path
        try:
            return self._create(size)
        except OSError:
            if len(self._segments) < _LEAST_SEGMENTS:
                raise
        oldest, following = self._segments[0], self._segments[1]
        if not self._passed():
            self._overwritten_segments += 1
            self._overwritten_rows += following.header.accepted - oldest.header.accepted
            self._full_row = following.header.first_row
        return self._segments.pop(0).path

    def _create(self, size: int) -> Path:
        numbers = [segment_number(n) or 0 for n in os.listdir(self._folder)]
        path = self._folder / segment_name(max(numbers, default=0) + 1)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            self._give(fd)
            allocate(fd, size)
            os.fsync(fd)
            sync_folder(self._folder)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(fd)
        return path

    def _passed(self) -> int:
        """How many of the oldest segments hold nothing that a cursor needs. The newest is never among them."""
        if self._needed is None:
            return max(0, len(self._segments) - 1)
        count = 0
        for following in self._segments[1:]:
            if following.header.first_row > self._needed:
                break
            count += 1
        return count

    def _expired(self) -> int:
        """How many of the oldest segments are passed and need not be kept for later readers either."""
        passed = self._passed()
        kept = sum(s.size for s in self._segments[:passed])
        now_ms = self._now_ms()
        count = 0
        for segment, following in zip(self._segments[:passed], self._segments[1:], strict=False):
            is_old = now_ms - following.header.first_time_ms >= self._config.keep_age_s * 1000
            if not is_old and kept <= self._config.keep_bytes:
                break
            kept -= segment.size
            count += 1
        return count

    def _trim(self) -> None:
        """Removes what is no longer kept but for one file, which the next segment takes."""
        excess = min(self._expired() - 1, len(self._segments) + len(self._spare) - _LEAST_SEGMENTS, _TRIM_AT_ONCE)
        for _ in range(excess):
            path = self._segments.pop(0).path
            try:
                path.unlink()
            except FileNotFoundError:
                pass
            except OSError:
                self._spare.append(path)


def _grow(fd: int, wanted: int, need: int) -> int:
    """Makes a file that is used again as long as wanted, or at least as needed; returns its size."""
    try:
        allocate(fd, wanted)
    except OSError:
        if os.fstat(fd).st_size < need:
            raise
    return os.fstat(fd).st_size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        if exc.errno == errno.ENOENT:
            return 0
        raise
