"""Bytes of the journal on disk: segment headers and frames, packed and parsed. No I/O. Format: docs/journal.md."""

import struct
import zlib
from typing import NamedTuple

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"tidejrnl"
DATA_START = 1024
"""Offset of the first frame. Before it stand two copies of the segment header, a disk sector each."""
HEADER_COPIES_AT = (0, 512)
FRAME_MARK = b"\xf7\x1dTG"
"""Begins every frame, so that the next one is found again after damage. 0xF7 occurs in no UTF-8 text."""
FRAME_ALIGNMENT = 8
IS_COPY = 1
"""Flag of a frame at the head of a segment that repeats an earlier record and takes no row."""

_SEGMENT = struct.Struct("<8sIHHIIQQqQ")
_FRAME = struct.Struct("<4sIHBBIIIQQq")
_CRC_FROM_SEGMENT = 12
_CRC_FROM_FRAME = 8
FRAME_HEADER_BYTES = _FRAME.size


class Position(NamedTuple):
    """A place in the log: everything below `row` lies before it, and that is `accepted_before` rows."""

    row: int
    accepted_before: int


BEGINNING = Position(0, 0)


class Frame(NamedTuple):
    """One frame: `rows` rows from `first_row` on. A copy has no rows and the first row of its segment."""

    type: int
    first_row: int
    rows: int
    time_ms: int
    payload: bytes
    is_copy: bool

    @property
    def end_row(self) -> int:
        return self.first_row + self.rows


class SegmentHeader(NamedTuple):
    use: int
    """Counts uses of segments over the whole journal, from 1: the order of the segments."""
    first_row: int
    accepted: int
    """Rows accepted before `first_row`, over all starts."""
    first_time_ms: int
    full_row: int
    """Rows below it may have been overwritten unread for want of space; 0: none ever was."""
    version: int = FORMAT_VERSION


class FrameHeader(NamedTuple):
    crc: int
    header_bytes: int
    type: int
    flags: int
    length: int
    rows: int
    use: int
    first_row: int
    accepted: int
    """Rows accepted before the frame, over all starts: tells how many rows are missing between any two frames."""
    time_ms: int


def frame_bytes(length: int) -> int:
    """Bytes that a frame with a payload of this length takes, with its padding."""
    return _aligned(FRAME_HEADER_BYTES + length)


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The first DATA_START bytes of a segment."""
    body = _SEGMENT.pack(
        SEGMENT_MAGIC,
        0,
        header.version,
        _SEGMENT.size,
        header.use,
        0,
        header.first_row,
        header.accepted,
        header.first_time_ms,
        header.full_row,
    )[_CRC_FROM_SEGMENT:]
    one = SEGMENT_MAGIC + zlib.crc32(body).to_bytes(4, "little") + body
    return b"".join(one.ljust(512, b"\0") for _ in HEADER_COPIES_AT)


def parse_segment_header(block: bytes) -> SegmentHeader | None:
    """The header from the first DATA_START bytes, from whichever copy is whole; None if neither is.

    Two whole copies differ only while one is being written, or after a power cut within it: the later use is right.
    """
    found: SegmentHeader | None = None
    for at in HEADER_COPIES_AT:
        copy = block[at : at + 512]
        if len(copy) < _SEGMENT.size or not copy.startswith(SEGMENT_MAGIC):
            continue
        _, crc, version, size, use, _, first_row, accepted, first_time_ms, full_row = _SEGMENT.unpack_from(copy)
        if not _SEGMENT.size <= size <= len(copy) or zlib.crc32(copy[_CRC_FROM_SEGMENT:size]) != crc:
            continue
        if found is None or use > found.use:
            found = SegmentHeader(use, first_row, accepted, first_time_ms, full_row, version)
    return found


def pack_frame(
    type_: int, flags: int, payload: bytes, rows: int, use: int, first_row: int, accepted: int, time_ms: int
) -> list[bytes]:
    """The pieces of a frame, to be written one after the other."""
    length = len(payload)
    head = _FRAME.pack(FRAME_MARK, 0, FRAME_HEADER_BYTES, type_, flags, length, rows, use, first_row, accepted, time_ms)[
        _CRC_FROM_FRAME:
    ]
    crc = zlib.crc32(payload, zlib.crc32(head))
    padding = bytes(frame_bytes(length) - FRAME_HEADER_BYTES - length)
    return [FRAME_MARK + crc.to_bytes(4, "little") + head, payload, padding]


def parse_frame_header(buffer: bytes | bytearray, at: int) -> FrameHeader | None:
    """The header at this place, not yet checked; None if no mark stands there or it cannot be one."""
    if len(buffer) - at < FRAME_HEADER_BYTES:
        return None
    mark, *fields = _FRAME.unpack_from(buffer, at)
    header = FrameHeader(*fields)
    return header if mark == FRAME_MARK and header.header_bytes >= FRAME_HEADER_BYTES else None


def payload_if_whole(header: FrameHeader, buffer: bytes | bytearray, at: int) -> bytes | None:
    """The payload of the frame at this place of a buffer that holds all of it; None if its checksum says otherwise."""
    start = at + header.header_bytes
    payload = bytes(memoryview(buffer)[start : start + header.length])
    if len(payload) != header.length:
        return None
    crc = zlib.crc32(memoryview(buffer)[at + _CRC_FROM_FRAME : start])
    return payload if zlib.crc32(payload, crc) == header.crc else None


def frame_end(header: FrameHeader, at: int) -> int:
    """Where the next frame begins."""
    return _aligned(at + header.header_bytes + header.length)


def _aligned(n: int) -> int:
    return -(-n // FRAME_ALIGNMENT) * FRAME_ALIGNMENT
