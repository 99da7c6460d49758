"""The journal in memory, for tests of what reads it."""

from collections.abc import Sequence

from tidegauge.pipeline.journal import Frame, Position, RowGone
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.records import (
    Batch,
    Container,
    End,
    Event,
    Gap,
    Record,
    RecordType,
    Sample,
    Schema,
    encode_record,
    encode_samples,
)
from tidegauge.pipeline.testing.records import START_MS


class ListLog:
    """The journal in memory, for tests of what reads it: `append`, then tell `end` to a runner with `tell`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.accepted: list[int] = []
        """Rows accepted before each frame."""
        self.row = 1
        self.total = 0
        self.end = LogEnd()
        self._gone = Position(0, 0)
        self._reason = "bound"

    def append(self, record: Record | Sequence[Sample], time_ms: int | None = None) -> int:
        """Takes a record, or the samples of one tick, and returns its first row. Rows that it bears are not looked at."""
        if isinstance(record, Batch):
            record = record.samples
        if isinstance(record, Schema | Container | Event | Gap | End):
            type_, payload = encode_record(record)
            rows, ts_ms = 1, getattr(record, "valid_from_ms", getattr(record, "ts_ms", getattr(record, "from_ms", START_MS)))
        else:
            type_, payload, rows = RecordType.SAMPLES, encode_samples(record), len(record)
            ts_ms = record[0].ts_ms
        return self.append_frame(type_, payload, rows, ts_ms if time_ms is None else time_ms)

    def append_frame(self, type_: int, payload: bytes, rows: int, time_ms: int) -> int:
        first = self.row
        self.frames.append(Frame(type_, first, rows, time_ms, payload, False))
        self.accepted.append(self.total)
        self.row += rows
        self.total += rows
        return first

    def tell(self, synced_row: int | None = None) -> None:
        """Lets readers have all of it. `synced_row` None: all of it is on the disk."""
        self.end.set(self.row, self.row if synced_row is None else synced_row, self.total)

    def restart(self) -> None:
        """The next rows are those of another start."""
        self.row = (self.row // 2**32 + 1) * 2**32

    def lose(self, count: int, reason: str = "bound") -> None:
        """The first `count` frames are overwritten."""
        self._gone = self._at(count)
        self._reason = reason

    def damage(self, index: int) -> None:
        """One frame cannot be read any more."""
        self.frames[index] = self.frames[index]._replace(type=-1)

    def _at(self, index: int) -> Position:
        if index < len(self.frames):
            return Position(self.frames[index].first_row, self.accepted[index])
        return Position(self.row, self.total)

    def reader(self, row: int, accepted_before: int | None) -> "ListReader":
        return ListReader(self, row)

    def first_row(self) -> Position:
        return self._gone if self._gone.row else self._at(0)

    def row_at_time(self, time_ms: int) -> Position:
        index = next((i for i, f in enumerate(self.frames) if f.time_ms >= time_ms), len(self.frames))
        return max(self._at(index), self.first_row())

    def row_within(self, limit_bytes: int, oldest_ms: int) -> Position:
        index, size = len(self.frames), 0
        while index and self.frames[index - 1].time_ms >= oldest_ms and size <= limit_bytes:
            index -= 1
            size += len(self.frames[index].payload)
        return max(self._at(index + 1 if size > limit_bytes else index), self.first_row())


class ListReader:
    """A reader of a ListLog, with the ways of `journal.JournalReader`."""

    def __init__(self, log: ListLog, row: int) -> None:
        self._log = log
        self.row = row
        self._has_state = False

    @property
    def accepted_before(self) -> int:
        for frame, accepted in zip(self._log.frames, self._log.accepted, strict=True):
            if self.row < frame.end_row:
                return accepted + max(0, self.row - frame.first_row)
        return self._log.total

    def read(self, end_row: int, max_bytes: int) -> list[Frame]:
        log = self._log
        if self.row >= end_row:
            return []
        if self.row < log._gone.row:
            lost = log._gone.accepted_before - self.accepted_before
            self.row, self._has_state = log._gone.row, False
            if lost:
                raise RowGone(self.row, lost, log._reason)
        frames: list[Frame] = []
        size = 0
        for frame in log.frames:
            if frame.end_row <= self.row:
                if not self._has_state and frame.type in (RecordType.SCHEMA, RecordType.CONTAINER, RecordType.END):
                    frames.append(frame._replace(rows=0, is_copy=True))
                continue
            if frame.end_row > end_row or size >= max_bytes:
                break
            self._has_state = True
            if frame.type == -1:
                if any(not f.is_copy for f in frames):
                    break
                lost = frame.end_row - max(self.row, frame.first_row)
                self.row, self._has_state = frame.end_row, False
                raise RowGone(self.row, lost, "damage")
            frames.append(frame)
            size += len(frame.payload)
            self.row = frame.end_row
        return frames

    def close(self) -> None:
        pass
