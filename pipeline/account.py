"""Where every row of a sink is: the account, and the cursor record that carries it across restarts.

In rows, from the sink's start row, at every moment: `accepted = written + filtered + dropped{reason} + dead_letter + pending`.
`accepted` and `pending` are counted by the log, the other terms by what was settled here, so that the sum is a check.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tidegauge.pipeline.journal import BEGINNING, CursorFile, Position
from tidegauge.pipeline.records import Batch, Gap, Record

MAX_GAPS = 16
"""Gaps that wait for the sink; more are merged, so that the cursor record stays small."""


class Account(msgspec.Struct, frozen=True):
    """One consistent look at a sink's rows."""

    accepted: int
    written: int
    filtered: int
    dropped: Mapping[str, int]
    dead_letter: int
    pending: int

    @property
    def is_exact(self) -> bool:
        settled = self.written + self.filtered + sum(self.dropped.values()) + self.dead_letter
        return self.accepted == settled + self.pending


class Lost(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one sink lost for one reason, told to the sink as a Gap. A time of None: up to the rows beside it."""

    reason: str
    row: int
    rows: int
    from_ms: int | None = None
    to_ms: int | None = None

    def merged(self, later: "Lost") -> "Lost":
        return Lost(self.reason, self.row, self.rows + later.rows, self.from_ms, later.to_ms)

    def gap(self, source: str, next_ms: int) -> Gap:
        """The record, ahead of rows of this time."""
        to_ms = next_ms if self.to_ms is None else self.to_ms
        from_ms = to_ms if self.from_ms is None else min(self.from_ms, to_ms)
        return Gap(source, from_ms, to_ms, f"dropped:{self.reason}", None, self.rows, self.row)


class Piece(msgspec.Struct, frozen=True):
    """Consecutive rows of the log from `first_row` up to `end_row`, and what a sink is given of them."""

    first_row: int
    end_row: int
    rows: int
    """Accepted rows in the span: less than its length where it reaches from one start of the log to the next; 0: a gap."""
    accepted_end: int
    """Rows accepted before `end_row`, as the log counts them."""
    time_ms: int | None
    """Time of the rows; None where nothing is left of them to tell."""
    size: int
    record: Record | None = None
    lost: tuple[Lost, ...] = ()

    @property
    def kept_rows(self) -> Sequence[int]:
        """Row numbers that the record bears; that of a gap is of the first row lost, and no row of the piece."""
        if self.record is None:
            return ()
        return self.record.rows if isinstance(self.record, Batch) else (self.record.row,)

    @property
    def kept(self) -> int:
        """How many."""
        return len(self.kept_rows)

    def one(self, at: int) -> Record:
        """The record of one kept row alone."""
        batch = self.record
        assert batch is not None
        if not isinstance(batch, Batch):
            return batch
        return msgspec.structs.replace(batch, samples=batch.samples[at : at + 1], rows=batch.rows[at : at + 1])

    def split(self, at: int) -> tuple["Piece", "Piece"]:
        """The first `at` kept rows and what precedes the next one; the rest. Only for a Batch and 0 < at < kept."""
        batch = self.record
        assert isinstance(batch, Batch)
        edge = batch.rows[at]
        head = msgspec.structs.replace(batch, samples=batch.samples[:at], rows=batch.rows[:at])
        tail = msgspec.structs.replace(batch, samples=batch.samples[at:], rows=batch.rows[at:])
        size, rest = self.size * at // len(batch.rows), self.end_row - edge
        below = tuple(one for one in self.lost if one.row < edge)
        above = tuple(one for one in self.lost if one.row >= edge)
        return (
            Piece(self.first_row, edge, self.rows - rest, self.accepted_end - rest, self.time_ms, size, head, below),
            Piece(edge, self.end_row, rest, self.accepted_end, self.time_ms, self.size - size, tail, above),
        )


def halves(pieces: Sequence[Piece], at: int) -> tuple[list[Piece], list[Piece]]:
    """The first `at` kept rows, and the rest."""
    left: list[Piece] = []
    for i, piece in enumerate(pieces):
        if at == 0:
            return left, list(pieces[i:])
        if piece.kept > at:
            head, tail = piece.split(at)
            return [*left, head], [tail, *pieces[i + 1 :]]
        left.append(piece)
        at -= piece.kept
    return left, []


class CursorRecord(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor file holds: the next row, the account up to it, and the gaps that the sink has not taken yet."""

    row: int
    accepted_before: int
    start_accepted: int
    time_ms: int | None
    """Time of the newest settled row; of the first row, as long as none is settled."""
    written: int
    filtered: int
    dropped: Mapping[str, int]
    dead_lettered: int
    """Rows that ever became dead letters, those replayed or discarded since included."""
    lost: tuple[Lost, ...] = ()


class Progress:
    """The cursor and its account in memory. Not locked: its runner guards it."""

    def __init__(self, record: CursorRecord) -> None:
        self.row = record.row
        self.accepted_before = record.accepted_before
        self.start_accepted = record.start_accepted
        self.time_ms = record.time_ms
        self.written = record.written
        self.filtered = record.filtered
        self.dropped = dict(record.dropped)
        self.dead_lettered = record.dead_lettered
        self.lost = list(record.lost)

    @classmethod
    def begin(cls, row: int, accepted_before: int) -> "Progress":
        return cls(CursorRecord(row, accepted_before, accepted_before, None, 0, 0, {}, 0))

    def record(self) -> CursorRecord:
        return CursorRecord(
            self.row,
            self.accepted_before,
            self.start_accepted,
            self.time_ms,
            self.written,
            self.filtered,
            dict(self.dropped),
            self.dead_lettered,
            tuple(self.lost),
        )

    def settle(self, piece: Piece, dead: int = 0, unfit: Sequence[Lost] = ()) -> None:
        """The rows of the piece are in their places: `dead` of them in the dead letters, `unfit` found no room there."""
        if not piece.rows:
            self.lost = [one for one in self.lost if one not in piece.lost]
            return
        kept = piece.kept
        self.written += kept - dead - sum(one.rows for one in unfit)
        self.dead_lettered += dead
        self.filtered += piece.rows - kept - sum(one.rows for one in piece.lost)
        for one in (*piece.lost, *unfit):
            self.lose(one)
        self.row = piece.end_row
        self.accepted_before = piece.accepted_end
        if piece.time_ms is not None:
            self.time_ms = piece.time_ms

    def jump(self, row: int, accepted_before: int, reason: str) -> None:
        """Gives up the rows up to this place."""
        self.lose(Lost(reason, self.row, accepted_before - self.accepted_before))
        self.row, self.accepted_before = row, accepted_before

    def gaps(self, source: str, next_ms: int, at_row: int) -> list[Piece]:
        """What the sink must be told ahead of its next rows, which are of this time."""
        return [Piece(at_row, at_row, 0, self.accepted_before, None, 0, one.gap(source, next_ms), (one,)) for one in self.lost]

    def lose(self, lost: Lost) -> None:
        """Counts rows as dropped and remembers their gap until the sink has taken it."""
        if lost.rows <= 0:
            return
        self.dropped[lost.reason] = self.dropped.get(lost.reason, 0) + lost.rows
        if lost.from_ms is None:
            lost = msgspec.structs.replace(lost, from_ms=self.time_ms)
        last = self.lost[-1] if self.lost else None
        if last is not None and (last.reason == lost.reason or len(self.lost) >= MAX_GAPS):
            self.lost[-1] = last.merged(lost)
        else:
            self.lost.append(lost)


def furthest_cursor(folder: Path) -> Position:
    """The furthest place of any cursor in the folder, those of sinks that no longer run included; BEGINNING if none.

    Cursors that cannot be read are passed over.
    """
    furthest = BEGINNING
    for path in sorted(folder.glob("*.cursor")):
        file = CursorFile(path)
        try:
            payload = file.load()
            if payload is not None:
                record = msgspec.msgpack.decode(payload, type=CursorRecord)
                furthest = max(furthest, Position(record.row, record.accepted_before))
        except (OSError, msgspec.DecodeError):
            continue
        finally:
            file.close()
    return furthest
