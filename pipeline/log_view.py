"""The log as a runner looks at it, and the journal in that form. Tests give a log of their own."""

from pathlib import Path
from typing import Protocol

from tidegauge.pipeline.journal import Frame, JournalReader, Position, first_row, row_at_time, row_within


class LogReader(Protocol):
    """What is used of `JournalReader`."""

    row: int

    @property
    def accepted_before(self) -> int: ...

    def read(self, end_row: int, max_bytes: int) -> list[Frame]: ...

    def close(self) -> None: ...


class Log(Protocol):
    """Readers, and the places where a cursor may be put."""

    def reader(self, row: int, accepted_before: int | None) -> LogReader: ...

    def first_row(self) -> Position: ...

    def row_at_time(self, time_ms: int) -> Position: ...

    def row_within(self, limit_bytes: int, oldest_ms: int) -> Position: ...


class JournalLog:
    """The journal in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reader(self, row: int, accepted_before: int | None) -> LogReader:
        return JournalReader(self._folder, row, accepted_before)

    def first_row(self) -> Position:
        return first_row(self._folder)

    def row_at_time(self, time_ms: int) -> Position:
        return row_at_time(self._folder, time_ms)

    def row_within(self, limit_bytes: int, oldest_ms: int) -> Position:
        return row_within(self._folder, limit_bytes, oldest_ms)
