"""Numbers and times of a remote's answer as the catalogue has them; pure. What cannot be is None and counted."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tidegauge.pipeline.records import MAX_INT, UNLIMITED, TableRow, Value

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_UNLIMITED_FROM = MAX_INT - 0xFFFF
"""cgroup v1's largest limit: 2^63 less a page, of 4 or 64 KiB; v2's `max` arrives as 2^64 - 1."""


def ms_of(when: datetime | None) -> int | None:
    """Milliseconds UTC; None for none, and for the zero time of Go and anything else before 1970."""
    if when is None or when.tzinfo is None or when < _EPOCH:
        return None
    return (when - _EPOCH) // _MS


def limit(value: int | None) -> int | None:
    """A limit; one that stands for none is UNLIMITED."""
    return UNLIMITED if value is not None and value >= _UNLIMITED_FROM else value


class Checked:
    """Takes what fits a column: integers from 0 to 2^63 - 1. The rest becomes None and is counted. One thread."""

    def __init__(self) -> None:
        self.absurd_values = 0

    def value(self, value: int | None, factor: int = 1) -> int | None:
        if value is None:
            return None
        scaled = value * factor
        if 0 <= scaled <= MAX_INT:
            return scaled
        self.absurd_values += 1
        return None

    def values(self, raw: Mapping[str, int | None]) -> dict[str, Value]:
        return {name: self.value(value) for name, value in raw.items()}

    def row(self, label: str, values: Sequence[int | None]) -> TableRow:
        return (label, *(self.value(v) for v in values))
