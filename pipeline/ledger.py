"""The books of one sink: its place in the log, its account, its dead letters; in memory and on the disk."""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tidegauge.pipeline.account import Account, CursorRecord, Lost, Piece, Progress
from tidegauge.pipeline.dead_letters import DeadLetters, Letter, letter_of
from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.journal import CursorFile, Position
from tidegauge.pipeline.log_end import LogEnd

_LOG = logging.getLogger(__name__)

_MAX_WAITING = 512
"""Settled places that wait for the log's sync. Beyond it every second is let go: only how far a kill throws back suffers."""


class Ledger:
    """Moves rows from pending to where they belong. Changed by the runner's thread; `account` and its like from any."""

    def __init__(
        self, name: str, folder: Path, dead_letter_bytes: int, log_end: LogEnd, source: str, *, lasts: bool, takes_gaps: bool
    ) -> None:
        self.name = name
        self.letters = DeadLetters(folder / f"{name}.dead-letters", dead_letter_bytes)
        self._cursor = CursorFile(folder / f"{name}.cursor") if lasts else None
        self._log_end = log_end
        self._source = source
        self._takes_gaps = takes_gaps
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._letters_lost = 0
        self._settled: deque[CursorRecord] = deque()
        self._store_lock = threading.Lock()
        self._is_abandoned = False
        self.durable_row: int | None = None
        """The row of the cursor on the disk; None before the first."""
        self.refused_gaps = 0
        self.store_errors = 0

    def load(self, appended_row: int) -> CursorRecord | None:
        """What the last run left; None if there is nothing that fits this log."""
        payload = None if self._cursor is None else self._cursor.load()
        if payload is None:
            return None
        try:
            record = msgspec.msgpack.decode(payload, type=CursorRecord)
        except msgspec.DecodeError as exc:
            _LOG.warning("sink %s: its cursor cannot be read (%s); it begins anew", self.name, exc)
            return None
        if record.row > appended_row:
            _LOG.warning(
                "sink %s: its cursor stands at row %d and the log ends at %d: another log, in which it begins anew",
                self.name,
                record.row,
                appended_row,
            )
            return None
        return record

    def begin(self, record: CursorRecord | None, position: Position) -> None:
        """Goes on from the record, or begins at the position."""
        with self._lock:
            self._settled.clear()
        if record is None and self._cursor is not None:
            self.letters.set_aside()
        progress = Progress.begin(*position) if record is None else Progress(record)
        self.letters.open(progress.row if self._cursor is not None else 0)
        counted = self.letters.live + self.letters.replayed + self.letters.discarded
        with self._lock:
            self._letters_lost = max(0, progress.dead_lettered - counted)
            self._progress = progress
            self._settled.append(progress.record())

    @property
    def has_begun(self) -> bool:
        return self._progress is not None

    @property
    def position(self) -> Position:
        """The first row that is not settled."""
        assert self._progress is not None
        return Position(self._progress.row, self._progress.accepted_before)

    def begins_at(self, time_ms: int) -> None:
        """Notes the time of the first row, while none is settled."""
        assert self._progress is not None
        with self._lock:
            self._progress.time_ms = time_ms
            self._remember(self._progress)

    def gaps(self, next_row: int, next_ms: int) -> list[Piece]:
        """What the sink must be told ahead of its next rows."""
        assert self._progress is not None
        return self._progress.gaps(self._source, next_ms, next_row)

    def settle(self, pieces: Sequence[Piece], rejected: Mapping[int, str] | None = None, now_ms: int = 0) -> None:
        """Puts the rejected rows on the disk, and then moves beyond the pieces, whose other rows the sink has."""
        dead: dict[int, int] = {}
        unfit: dict[int, list[Lost]] = {}
        letters: list[tuple[int, Letter]] = []
        for i, piece in enumerate(pieces if rejected else ()):
            for at, row in enumerate(piece.kept_rows):
                if rejected and row in rejected:
                    if piece.rows:
                        letters.append((i, letter_of(piece.one(at), self.name, rejected[row], now_ms)))
                    else:
                        self.refused_gaps += 1
        taken = self._keep([letter for _, letter in letters])
        for n, (i, letter) in enumerate(letters):
            if n < taken:
                dead[i] = dead.get(i, 0) + 1
            else:
                unfit.setdefault(i, []).append(Lost("dead_letter_full", letter.row, 1, pieces[i].time_ms, pieces[i].time_ms))
        progress = self._progress
        assert progress is not None
        with self._lock:
            for i, piece in enumerate(pieces):
                progress.settle(piece, dead.get(i, 0), unfit.get(i, ()))
            if not self._takes_gaps:
                progress.lost.clear()
            self._remember(progress)

    def jump(self, position: Position, reason: str) -> None:
        """Gives up the rows up to this place."""
        assert self._progress is not None
        with self._lock:
            self._progress.jump(position.row, position.accepted_before, reason)
            self._remember(self._progress)

    def _remember(self, progress: Progress) -> None:
        self._settled.append(progress.record())
        if len(self._settled) > _MAX_WAITING:
            self._settled = deque(list(self._settled)[1::2])

    def _keep(self, letters: list[Letter]) -> int:
        if not letters or self._is_abandoned:
            return 0
        try:
            return self.letters.append(letters)
        except OSError as exc:
            # A full disk must not hold up every other row of the sink: no room is no room.
            _LOG.warning("sink %s: %d refused rows could not be kept: %s", self.name, len(letters), exc)
            return 0

    def store(self) -> None:
        """Makes the account durable as it was at the newest settled row that the log has synced."""
        end = self._log_end.get()
        newest: CursorRecord | None = None
        with self._lock:
            while self._settled and (self._cursor is None or (end is not None and self._settled[0].row <= end[1])):
                newest = self._settled.popleft()
        if newest is None:
            return
        if self._cursor is not None:
            try:
                with self._store_lock:
                    if self._is_abandoned:
                        return
                    self.letters.sync()
                    self._cursor.store(msgspec.msgpack.encode(newest))
            except (OSError, JournalError) as exc:
                self.store_errors += 1
                _LOG.warning("sink %s: its cursor could not be stored: %s", self.name, exc)
                with self._lock:
                    self._settled.appendleft(newest)
                return
        self.durable_row = newest.row

    def abandon(self) -> None:
        """Nothing is stored any more, whatever the runner's thread still does. Any thread."""
        with self._store_lock:
            self._is_abandoned = True

    def remove(self, rows: set[int], *, replayed: bool) -> None:
        """Takes letters out: they become written or dropped{discarded}."""
        self.letters.remove(rows, replayed=replayed)

    def account(self) -> Account:
        """One consistent look: all terms at one end of the log and one place of the cursor. Any thread."""
        with self._lock:
            progress, end = self._progress, self._log_end.get()
            if progress is None or end is None:
                return Account(0, 0, 0, {}, 0, 0)
            replayed, discarded, lost = self.letters.replayed, self.letters.discarded, self._letters_lost
            dropped = dict(progress.dropped)
            if discarded:
                dropped["discarded"] = discarded
            if lost:
                dropped["damage"] = dropped.get("damage", 0) + lost
            return Account(
                accepted=end[2] - progress.start_accepted,
                written=progress.written + replayed,
                filtered=progress.filtered,
                dropped=dropped,
                dead_letter=progress.dead_lettered - replayed - discarded - lost,
                pending=end[2] - progress.accepted_before,
            )

    def settled_ms(self) -> int | None:
        """Time of the newest settled row; before there is one, of the first to be settled. Any thread."""
        with self._lock:
            return None if self._progress is None else self._progress.time_ms

    def close(self) -> None:
        self.letters.close()
        if self._cursor is not None:
            self._cursor.close()
