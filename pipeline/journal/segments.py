"""Segments as files to be read: which there are, and their frames, with the way on after damage."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal.cursor import CursorFile
from tidegauge.pipeline.journal.layout import (
    DATA_START,
    FORMAT_VERSION,
    FRAME_ALIGNMENT,
    FRAME_HEADER_BYTES,
    FRAME_MARK,
    IS_COPY,
    Frame,
    FrameHeader,
    Position,
    SegmentHeader,
    frame_end,
    parse_frame_header,
    parse_segment_header,
    payload_if_whole,
)

END_FILE = "end"
LOCK_FILE = "lock"
_END = struct.Struct("<QQ")
_NAME = re.compile(r"segment-(\d{6,})\Z")
_WINDOW_BYTES = 64 << 10
_SEARCH_BYTES = 1 << 20


class SegmentFile(NamedTuple):
    path: Path
    header: SegmentHeader
    size: int


class Listing(NamedTuple):
    """What a journal folder holds."""

    segments: list[SegmentFile]
    """In the order of their use, oldest first."""
    spare: list[Path]
    """Preallocated and in no use."""
    broken: list[Path]
    """Header damaged in both copies: these rows are lost, and counted from the neighbours."""


class StoredFrame(NamedTuple):
    """A frame whose checksum is right, with its place in the segment."""

    header: FrameHeader
    payload: bytes
    at: int
    end: int

    @property
    def end_row(self) -> int:
        return self.header.first_row + self.header.rows

    @property
    def accepted_end(self) -> int:
        return self.header.accepted + self.header.rows

    def frame(self, is_copy: bool = False) -> Frame:
        h = self.header
        if is_copy or h.flags & IS_COPY:
            return Frame(h.type, h.first_row, 0, h.time_ms, self.payload, True)
        return Frame(h.type, h.first_row, h.rows, h.time_ms, self.payload, False)


def segment_name(number: int) -> str:
    return f"segment-{number:06d}"


def segment_number(name: str) -> int | None:
    """The number in a segment's file name; None if the name is of another kind. It says nothing of the order."""
    match = _NAME.match(name)
    return int(match[1]) if match else None


def pack_end(end: Position) -> bytes:
    """The record of the end file."""
    return _END.pack(*end)


def read_end(folder: Path) -> Position | None:
    """How far the log goes by the writer's own mark, which is written after each append; None if there is none."""
    payload = CursorFile(folder / END_FILE).load()
    return None if payload is None or len(payload) < _END.size else Position(*_END.unpack_from(payload))


def list_segments(folder: Path) -> Listing:
    """Reads the header of every segment in the folder, 10-20 us each; all empty if there is no folder.

    JournalError if a segment is of a later format: that is no damage, and must not be written over.
    """
    listing = Listing([], [], [])
    try:
        names = sorted(n for n in os.listdir(folder) if segment_number(n) is not None)
    except FileNotFoundError:
        return listing
    uses: set[int] = set()
    for name in names:
        path = folder / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            header, is_blank = read_header(fd, path)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if header is not None and header.use not in uses:
            uses.add(header.use)
            listing.segments.append(SegmentFile(path, header, size))
        else:
            (listing.spare if is_blank else listing.broken).append(path)
    listing.segments.sort(key=lambda s: s.header.use)
    return listing


def read_header(fd: int, path: Path) -> tuple[SegmentHeader | None, bool]:
    """The segment header, or None; and whether the header's place is blank. JournalError for a later format."""
    block = b""
    for _ in range(2):  # twice: the first reading may have met the writer in the middle of it
        try:
            block = os.pread(fd, DATA_START, 0)
        except OSError:
            return None, False
        header = parse_segment_header(block)
        if header is not None:
            if header.version > FORMAT_VERSION:
                raise JournalError(f"{path}: format {header.version}; this version reads up to {FORMAT_VERSION}")
            return header, False
        if not any(block):
            return None, True
    return None, False


class SegmentReader:
    """Reads frames of one use of a segment file. One thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file. FileNotFoundError if it was removed; JournalError if it has no whole header."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        header, _ = read_header(self._fd, path)
        if header is None:
            self.close()
            raise JournalError(f"{path}: no segment header")
        self.header = header
        self._window = b""
        self._window_at = 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_same_use(self) -> bool:
        """Whether the file is still there and bears the use that it had when it was opened."""
        header, _ = read_header(self._fd, self.path)
        return header is not None and header.use == self.header.use and os.fstat(self._fd).st_nlink > 0

    def frame_at(self, at: int) -> StoredFrame | None:
        """The frame at this offset; None if no whole frame of this use stands there (yet)."""
        frame = self._parse_window(at)
        if frame is None:  # the window may have been read before the frame was written
            self._load(at, _WINDOW_BYTES)
            frame = self._parse_window(at)
        return frame

    def find_after(self, at: int) -> StoredFrame | None:
        """The next whole frame of this use that begins after this offset; None if there is none.

        Reads up to the end of the segment: for damage, not for daily use.
        """
        at += FRAME_ALIGNMENT
        while True:
            block = self._pread(at, _SEARCH_BYTES)
            if len(block) < FRAME_HEADER_BYTES:
                return None
            found = block.find(FRAME_MARK)
            while found >= 0:
                if (at + found) % FRAME_ALIGNMENT == 0:
                    header = parse_frame_header(block, found)
                    # Frames of earlier uses lie here by the thousand: their use number rules them out without a checksum.
                    if header is None or header.use == self.header.use:
                        frame = self.frame_at(at + found)
                        if frame is not None:
                            return frame
                found = block.find(FRAME_MARK, found + 1)
            at += len(block)  # no mark lies across two blocks: both are aligned

    def frames(self, at: int = DATA_START) -> Iterator[StoredFrame]:
        """Every whole frame of this use from this offset on; damage is passed over (its ends do not meet)."""
        while True:
            frame = self.frame_at(at) or self.find_after(at)
            if frame is None:
                return
            yield frame
            at = frame.end

    def _parse_window(self, at: int) -> StoredFrame | None:
        header = parse_frame_header(self._window, at - self._window_at) if at >= self._window_at else None
        if header is None or header.use != self.header.use:
            return None
        end = frame_end(header, at)
        if at + header.header_bytes + header.length > self._window_at + len(self._window):
            try:
                if at + header.header_bytes + header.length > os.fstat(self._fd).st_size:
                    return None
            except OSError:
                return None
            self._load(at, max(end - at, _WINDOW_BYTES))
            header = parse_frame_header(self._window, 0)
            if header is None or header.use != self.header.use:
                return None
            end = frame_end(header, at)
        payload = payload_if_whole(header, self._window, at - self._window_at)
        return None if payload is None else StoredFrame(header, payload, at, end)

    def _load(self, at: int, size: int) -> None:
        self._window = self._pread(at, size)
        self._window_at = at

    def _pread(self, at: int, size: int) -> bytes:
        """Bytes from this offset; sectors that the disk cannot read count as damage and come as zeros."""
        try:
            return os.pread(self._fd, size, at)
        except OSError:
            pieces = []
            for part in range(at, at + size, 4096):
                try:
                    piece = os.pread(self._fd, min(4096, at + size - part), part)
                except OSError:
                    piece = bytes(4096)
                    if part >= os.fstat(self._fd).st_size:
                        break
                pieces.append(piece)
            return b"".join(pieces)
