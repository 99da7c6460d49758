"""Reads a whole journal and says what is in it and what is damaged: `tidegauge journal verify` and `journal info`."""

from pathlib import Path

import msgspec

from tidegauge.pipeline.journal.layout import BEGINNING, DATA_START, IS_COPY, Position
from tidegauge.pipeline.journal.segments import SegmentReader, list_segments, read_end


class SegmentReport(msgspec.Struct, frozen=True):
    """What one segment holds. Rows lost before a place are counted there, where the next whole frame tells of them."""

    name: str
    use: int
    first_row: int
    end_row: int
    first_time_ms: int
    last_time_ms: int
    frames: int
    copies: int
    rows: int
    used_bytes: int
    size_bytes: int
    damaged_places: int
    lost_rows: int


class VerifyReport(msgspec.Struct, frozen=True):
    segments: tuple[SegmentReport, ...]
    spare: tuple[str, ...]
    broken: tuple[str, ...]
    """Segments without a whole header; their rows are lost and counted in `lost_rows`."""
    rows: int
    lost_rows: int
    """Accepted rows missing between the oldest segment and the end of the log."""
    end_row: int
    accepted: int

    @property
    def is_whole(self) -> bool:
        return not self.lost_rows and not self.broken and not any(s.damaged_places for s in self.segments)


class JournalInfo(msgspec.Struct, frozen=True):
    """What the segment headers tell, without a look at the frames."""

    segments: int
    spare: int
    broken: int
    size_bytes: int
    first_row: int
    end_row: int | None
    """None: the writer's mark is missing."""
    accepted: int | None
    first_time_ms: int | None


def info(folder: Path) -> JournalInfo:
    """Summary of a journal, in a time that grows by 10-20 us a segment only. Safe beside a running writer."""
    listing = list_segments(folder)
    end = read_end(folder)
    oldest = listing.segments[0].header if listing.segments else None
    return JournalInfo(
        segments=len(listing.segments),
        spare=len(listing.spare),
        broken=len(listing.broken),
        size_bytes=sum(s.size for s in listing.segments),
        first_row=oldest.first_row if oldest else (end or BEGINNING).row,
        end_row=end.row if end else None,
        accepted=end.accepted_before if end else None,
        first_time_ms=oldest.first_time_ms if oldest else None,
    )


def verify(folder: Path) -> VerifyReport:
    """Checks every frame. Beside a running writer, segments may be recycled under it and then read as damaged."""
    listing = list_segments(folder)
    mark = read_end(folder)
    at = Position(listing.segments[0].header.first_row, listing.segments[0].header.accepted) if listing.segments else BEGINNING
    reports = []
    for segment in listing.segments:
        report, at = _segment(segment.path, at)
        reports.append(report)
    missing = max(0, mark.accepted_before - at.accepted_before) if mark and reports else 0
    end = max(at, mark or BEGINNING)
    return VerifyReport(
        segments=tuple(reports),
        spare=tuple(p.name for p in listing.spare),
        broken=tuple(p.name for p in listing.broken),
        rows=sum(r.rows for r in reports),
        lost_rows=sum(r.lost_rows for r in reports) + missing,
        end_row=end.row,
        accepted=end.accepted_before,
    )


def _segment(path: Path, at: Position) -> tuple[SegmentReport, Position]:
    """The report on one segment, and the place in the log where it ends. `at` is where the one before it ended."""
    reader = SegmentReader(path)
    header = reader.header
    frames = copies = rows = damaged = lost = 0
    expected, last_time_ms, size = DATA_START, header.first_time_ms, path.stat().st_size
    lost += max(0, header.accepted - at.accepted_before)
    at = max(at, Position(header.first_row, header.accepted))
    try:
        for stored in reader.frames():
            damaged += stored.at != expected
            expected = stored.end
            if stored.header.flags & IS_COPY:
                copies += 1
                continue
            frames += 1
            rows += stored.header.rows
            lost += max(0, stored.header.accepted - at.accepted_before)
            last_time_ms = stored.header.time_ms
            at = max(at, Position(stored.end_row, stored.accepted_end))
    finally:
        reader.close()
    report = SegmentReport(
        name=path.name,
        use=header.use,
        first_row=header.first_row,
        end_row=at.row,
        first_time_ms=header.first_time_ms,
        last_time_ms=last_time_ms,
        frames=frames,
        copies=copies,
        rows=rows,
        used_bytes=expected,
        size_bytes=size,
        damaged_places=damaged,
        lost_rows=lost,
    )
    return report, at
