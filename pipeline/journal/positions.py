"""Where a new cursor starts and where a lagging one jumps to: rows by age, time and size. Any process, any thread."""

from pathlib import Path

from tidegauge.pipeline.journal.layout import BEGINNING, IS_COPY, Position
from tidegauge.pipeline.journal.segments import SegmentFile, SegmentReader, list_segments, read_end


def first_row(folder: Path) -> Position:
    """The oldest row there is; the end of the log if it holds none."""
    segments = list_segments(folder).segments
    return _head(segments[0]) if segments else read_end(folder) or BEGINNING


def row_at_time(folder: Path, time_ms: int) -> Position:
    """The oldest row of a frame at or after this time; the end of the log if there is none.

    Where the clock was set back times repeat, and the first that fits counts. Reads one segment.
    """
    segments = list_segments(folder).segments
    if not segments:
        return first_row(folder)
    later = segments[1:]
    i = next((i for i, s in enumerate(later) if s.header.first_time_ms >= time_ms), len(later))
    end = _head(segments[i])
    reader = SegmentReader(segments[i].path)
    try:
        for stored in reader.frames():
            if stored.header.flags & IS_COPY:
                continue
            if stored.header.time_ms >= time_ms:
                return Position(stored.header.first_row, stored.header.accepted)
            end = Position(stored.end_row, stored.accepted_end)
    finally:
        reader.close()
    return _head(later[i]) if i < len(later) else max(end, read_end(folder) or BEGINNING)


def row_within(folder: Path, limit_bytes: int, oldest_ms: int | None = None) -> Position:
    """The oldest row that a cursor bounded in bytes and in age may stand at; whole segments, the newest always fits.

    A cursor below it is beyond its bound.
    """
    segments = list_segments(folder).segments
    if not segments:
        return first_row(folder)
    kept, size = segments[-1], segments[-1].size
    for segment, following in zip(segments[-2::-1], segments[:0:-1], strict=True):
        size += segment.size
        if size > limit_bytes or (oldest_ms is not None and following.header.first_time_ms < oldest_ms):
            break
        kept = segment
    return _head(kept)


def _head(segment: SegmentFile) -> Position:
    return Position(segment.header.first_row, segment.header.accepted)
