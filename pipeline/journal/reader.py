"""Reads the journal from a row on, beside the writer. Used by the server process, one reader a sink runner."""

from pathlib import Path

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal.layout import DATA_START, IS_COPY, Frame, Position
from tidegauge.pipeline.journal.segments import SegmentFile, SegmentReader, StoredFrame, list_segments, read_end
from tidegauge.pipeline.records import RecordType

_STATE = (RecordType.SCHEMA, RecordType.CONTAINER, RecordType.END)
"""What a reader that begins within a segment must know of what stands before."""
_LOCATE_TRIES = 8


class RowGone(JournalError):
    """The reader's row was overwritten or is damaged. The reader already stands at `first_row` and can go on.

    `reason` is `bound` (recycled, since no configured cursor needed it), `disk_full` (used again unread for want of space)
    or `damage`. `lost_rows` counts the accepted rows between the old and the new position.
    """

    def __init__(self, first_row: int, lost_rows: int, reason: str) -> None:
        super().__init__(f"{lost_rows} rows before row {first_row} are gone: {reason}")
        self.first_row = first_row
        self.lost_rows = lost_rows
        self.reason = reason


class JournalReader:
    """A position in the log. Holds no lock, only one open file; an instance belongs to one thread."""

    def __init__(self, folder: Path, row: int, accepted_before: int | None = None) -> None:
        """Stands at `row`, which may be within a frame, or number a row that never was.

        `accepted_before` is what the reader's cursor has kept with the row. Without it the loss is not exact where the row
        and all the rest of its start are gone from the disk.
        """
        self._folder = folder
        self.row = row
        """The next row to be read."""
        self._accepted = accepted_before
        self._segment: SegmentReader | None = None
        self._at = DATA_START
        self._copies: list[Frame] = []
        self._reason = "damage"

    @property
    def accepted_before(self) -> int:
        """Rows accepted before `row`, over all starts: pending = accepted in total - accepted_before."""
        if self._accepted is None:
            self._locate()
        return self._accepted or 0

    def read(self, end_row: int, max_bytes: int) -> list[Frame]:
        """The next frames in order, none beyond `end_row` (the writer's `appended_row`); [] if there are none.

        Takes frames until their payloads reach `max_bytes`, at least one. The first may begin before `row`: the rows below
        were read earlier. The copies at the head of a segment come before its first frame; a reader that begins within a
        segment gets the earlier schemas, containers and ends of that segment as copies too.

        RowGone: rows are missing here. `row` is then the first row behind them, and the next call goes on from there. It is
        raised as soon as a whole frame behind the loss lies below `end_row`; until then these rows count as pending.
        """
        frames: list[Frame] = []
        size = 0
        while self.row < end_row and size < max_bytes:
            if self._segment is None and not self._locate():
                break
            assert self._segment is not None
            stored = self._segment.frame_at(self._at)
            if stored is None:
                if not self._go_on():
                    break
                continue
            is_copy = bool(stored.header.flags & IS_COPY)
            if is_copy or stored.end_row <= self.row:
                if is_copy or stored.header.type in _STATE:
                    self._copies.append(stored.frame(is_copy=True))
                self._at = stored.end
                continue
            if stored.end_row > end_row:
                break
            lost = _accepted_at(self.row, stored) - self.accepted_before
            if lost > 0:
                if frames:
                    break
                self.row, self._accepted = max(self.row, stored.header.first_row), _accepted_at(self.row, stored)
                raise RowGone(self.row, lost, self._take_reason())
            frames += self._copies  # not before: what the rows behind a loss need comes after the word of it
            frames.append(stored.frame())
            self._copies = []
            self._reason = "damage"
            size += len(stored.payload)
            self.row, self._accepted, self._at = stored.end_row, stored.accepted_end, stored.end
        return frames

    def seek(self, position: Position) -> int:
        """Jumps to a position (of `first_row`, `row_at_time` or `row_within`) and returns the accepted rows passed over."""
        passed = position.accepted_before - self.accepted_before
        self.close()
        self.row, self._accepted = position
        return passed

    def close(self) -> None:
        """Gives the open file back; safe twice, and reading may go on afterwards."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._copies = []

    def _take_reason(self) -> str:
        reason, self._reason = self._reason, "damage"
        return reason

    def _go_on(self) -> bool:
        """Finds the place of the next frame when none stands at this one; False if the log ends here so far."""
        segment = self._segment
        assert segment is not None
        use = segment.header.use
        following = next((s for s in list_segments(self._folder).segments if s.header.use > use), None)
        if following is not None and following.header.accepted == self.accepted_before and self._enter(following):
            return True
        found = segment.find_after(self._at)
        if not segment.is_same_use():  # what was found are remains of the earlier use
            self.close()
            return self._locate()
        if found is not None:
            self._at = found.at
            return True
        return following is not None and self._enter(following)

    def _enter(self, following: SegmentFile) -> bool:
        """Moves to the head of another segment; False if it was recycled or removed meanwhile."""
        opened = _open(following)
        if opened is None:
            return False
        self.close()
        self._segment, self._at = opened, DATA_START
        return True

    def _locate(self) -> bool:
        """Opens the segment of `row` and goes to its frame, or to the first one behind it; False if there is no segment."""
        for _ in range(_LOCATE_TRIES):
            listing = list_segments(self._folder)
            segments = listing.segments
            if not segments:
                break
            before = [i for i, s in enumerate(segments) if s.header.first_row <= self.row]
            i = before[-1] if before else 0
            opened = _open(segments[i])
            if opened is None:
                continue
            if not before and not listing.broken and segments[0].header.accepted > (self._accepted or 0):
                self._reason = "disk_full" if self.row < segments[-1].header.full_row else "bound"
            self.close()
            self._segment = opened
            self._scan(opened, segments[i + 1] if i + 1 < len(segments) else None)
            if opened.is_same_use():
                return True
            self.close()
        if self._accepted is None:
            self._accepted = 0
        return False

    def _scan(self, segment: SegmentReader, following: SegmentFile | None) -> None:
        """Goes to the frame of `row` or the next one; gathers what a reader must know of the frames before it."""
        before = Position(segment.header.first_row, segment.header.accepted)
        behind: Position | None = None
        self._at = DATA_START
        for stored in segment.frames():
            is_copy = bool(stored.header.flags & IS_COPY)
            if not is_copy and stored.end_row > self.row:
                behind = Position(max(self.row, stored.header.first_row), _accepted_at(self.row, stored))
                self._at = stored.at
                break
            if is_copy or stored.header.type in _STATE:
                self._copies.append(stored.frame(is_copy=True))
            if not is_copy:
                before = Position(stored.end_row, stored.accepted_end)
            self._at = stored.end
        if self._accepted is not None:
            return
        if behind is None and following is not None:
            behind = Position(following.header.first_row, following.header.accepted)
        self._accepted = _between(self.row, before, behind or read_end(self._folder) or before)


def _open(segment: SegmentFile) -> SegmentReader | None:
    """Opens a segment of a listing; None if it has another use by now."""
    try:
        opened = SegmentReader(segment.path)
    except (FileNotFoundError, JournalError):
        return None
    if opened.header.use != segment.header.use:
        opened.close()
        return None
    return opened


def _accepted_at(row: int, stored: StoredFrame) -> int:
    """Rows accepted before the row, or before the frame where the row lies before it."""
    return stored.header.accepted + max(0, row - stored.header.first_row)


def _between(row: int, before: Position, behind: Position) -> int:
    """Rows accepted before a row that lies between two known places.

    Rows count on within a start and skip numbers between two: so it is reckoned from the place that shares its start.
    """
    if row >= behind.row:
        return behind.accepted_before
    from_before = before.accepted_before + row - before.row
    if row >= before.row and from_before <= behind.accepted_before:
        return from_before
    least = before.accepted_before if row >= before.row else 0
    return max(least, behind.accepted_before - (behind.row - row))
