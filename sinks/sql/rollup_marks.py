"""Marks on the 5-minute buckets that rows change, made in the transaction that stores the rows.

A row changes its own bucket, the one before it if it shows how a counter rose there or how long a value held, and the next one
if its value holds there. A gap changes what is rolled up already on both its sides. Every mark that is there already rises by
one, unless the bucket cannot have been taken up yet: rows that come in time cost one statement a container in five minutes.
"""

import time
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from tidegauge.pipeline.rates import FILESYSTEM_SILENCE_MS
from tidegauge.pipeline.records import MAX_INT, Container, Gap, Sample
from tidegauge.sinks.sql.database import Writer
from tidegauge.sinks.sql.rows import Insert
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS

FINAL_AFTER_MS = 90_000
"""A bucket is made when it ended that long ago, by the clock of who makes it. What comes later has it made again."""
_SURELY_OPEN_MS = 60_000
"""By this program's clock, when nobody can have made a bucket yet whose clock is not half a minute ahead."""

MARK = """
INSERT INTO rollup_dirty (width_ms, ts_ms, container, marks) VALUES (?, ?, ?, 1)
ON CONFLICT (width_ms, ts_ms, container) DO UPDATE SET marks = rollup_dirty.marks + 1
"""
_SILENCE = "SELECT max(max_interval_s + base_interval_s) FROM container_metadata WHERE container = ?"
_SILENCE_OF_ALL = """
SELECT max(m.max_interval_s + m.base_interval_s) FROM container_metadata m JOIN container c ON c.id = m.container
WHERE c.source = ?
"""
_IN_FORCE = """
SELECT max_interval_s, base_interval_s FROM container_metadata WHERE container = ? AND valid_from_ms <= ?
ORDER BY valid_from_ms DESC LIMIT 1
"""
_MARK_AGAIN = """
UPDATE rollup_dirty SET marks = marks + 1 WHERE width_ms = {width} AND ts_ms > ? AND ts_ms < ? AND container IN ({ids})
"""
_MARK_MADE = """
INSERT INTO rollup_dirty (width_ms, ts_ms, container, marks)
SELECT {width}, ts_ms, container, 1 FROM sample_5m WHERE ts_ms > ? AND ts_ms < ? AND container IN ({ids})
ON CONFLICT (width_ms, ts_ms, container) DO NOTHING
"""
_OF_SOURCE = """
SELECT c.id FROM container c JOIN container_span s ON s.container = c.id
WHERE c.source = ? AND s.last_ms > ? AND s.first_ms < ?
"""


class Marks:
    """Of one connection; its memory is void when a transaction was undone."""

    def __init__(self, conn: sa.Connection) -> None:
        self._conn = conn
        self._silences: dict[int, int] = {}
        self._open: dict[int, tuple[int, int, int]] = {}
        """Of a container: from when until before when a row needs no other marks than are there, and its silence."""
        self._new: set[tuple[int, int, int]] = set()
        self.newest_ms = 0
        """Of all rows so far."""
        self.has_written = False
        """True if rows came since it was last set to False."""

    def rows(self, samples: Sequence[Sample], ids: Iterable[int]) -> None:
        """Rows about to be stored; `ids` are those of their containers in the database."""
        width_ms, marked = FIVE_MINUTES_MS, self._open
        open_ms = (round(time.time() * 1000) - _SURELY_OPEN_MS) // width_ms * width_ms
        newest_ms = self.newest_ms
        for sample, id_ in zip(samples, ids, strict=True):
            ts_ms = sample.ts_ms
            if ts_ms > newest_ms:
                newest_ms = ts_ms
            known = marked.get(id_)
            if known is not None and known[0] <= ts_ms < known[1] and ts_ms - known[2] >= open_ms:
                continue
            silence_ms = self._silence_ms(id_)
            first = (ts_ms - silence_ms) // width_ms * width_ms
            last = (ts_ms + 2 * silence_ms) // width_ms * width_ms
            self._new.update((width_ms, at_ms, id_) for at_ms in range(first, last + 1, width_ms))
            marked[id_] = (first + silence_ms, last + width_ms - 2 * silence_ms, silence_ms)
        self.newest_ms = newest_ms
        self.has_written = True

    def gap(self, gap: Gap, id_: int | None) -> None:
        """A gap record of one container, or of all of a source."""
        if id_ is not None:
            self._made(gap.from_ms, gap.to_ms, self._silence_ms(id_), str(int(id_)))
            return
        found = self._conn.exec_driver_sql(_SILENCE_OF_ALL, (gap.source,)).scalar()
        silence_ms = _ms(found)
        about = (gap.source, gap.from_ms - silence_ms, gap.to_ms + silence_ms)
        ids = self._conn.exec_driver_sql(_OF_SOURCE, about).scalars().all()
        for first in range(0, len(ids), 500):
            self._made(gap.from_ms, gap.to_ms, silence_ms, ", ".join(str(int(i)) for i in ids[first : first + 500]))

    def container(self, c: Container, id_: int) -> None:
        """Metadata about to be stored: what is known over a silence depends on the intervals in force."""
        self.forget(id_)
        found = self._conn.exec_driver_sql(_IN_FORCE, (id_, c.valid_from_ms)).first()
        if found is not None and tuple(found) != (c.max_interval_s, c.base_interval_s):
            self._made(c.valid_from_ms, MAX_INT, _ms(sum(found)), str(int(id_)))

    def forget(self, id_: int) -> None:
        """What is remembered of a container; it is learned anew with its next row, if there is one."""
        self._silences.pop(id_, None)
        self._open.pop(id_, None)

    def _made(self, from_ms: int, to_ms: int, silence_ms: int, ids: str) -> None:
        """Marks what is rolled up of the time on which these two times bear; what is not will be made anyway."""
        span = (from_ms - silence_ms - FIVE_MINUTES_MS, min(to_ms, MAX_INT - 3 * silence_ms) + 2 * silence_ms)
        for sql in (_MARK_AGAIN, _MARK_MADE):
            self._conn.exec_driver_sql(sql.format(width=FIVE_MINUTES_MS, ids=ids), span)

    def flush(self, writer: Writer) -> None:
        """Stores the marks for the rows so far, in the same transaction."""
        if self._new:
            marks = Insert("rollup_dirty", ("width_ms", "ts_ms", "container", "marks"), 3, "SET marks = rollup_dirty.marks + 1")
            marks.rows = [(*mark, 1) for mark in sorted(self._new)]
            writer.insert(marks)
            self._new.clear()

    def _silence_ms(self, id_: int) -> int:
        found = self._silences.get(id_)
        if found is None:
            found = self._silences[id_] = _ms(self._conn.exec_driver_sql(_SILENCE, (id_,)).scalar())
        return found


def _ms(seconds: float | None) -> int:
    """The longest silence of any of a container's tables, where that of its samples is given."""
    return max(FILESYSTEM_SILENCE_MS, round(1000 * (seconds or 0.0)))
