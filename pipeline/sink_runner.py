"""One worker a sink: reads the log, batches, filters, retries, keeps dead letters and the account.

The only place of the program with retry and back-off towards stores. Delivery is at least once: the cursor moves after the
store said yes and the dead letters are on the disk, and is made durable only up to the log's last sync. How errors are
treated: docs/delivery.md.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tidegauge.pipeline.account import Account, CursorRecord, Lost, Piece, Progress
from tidegauge.pipeline.backoff import Backoff
from tidegauge.pipeline.dead_letters import DeadLetters, Letter, letter_of
from tidegauge.pipeline.errors import (
    JournalError,
    PartialWriteError,
    PermanentError,
    RetryableError,
    TooLargeError,
)
from tidegauge.pipeline.feed import Feed
from tidegauge.pipeline.journal import (
    CursorFile,
    Frame,
    JournalReader,
    Position,
    RowGone,
    first_row,
    row_at_time,
    row_within,
)
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.plugin import Maintained, Sink
from tidegauge.pipeline.records import Batch, Gap, Record

__all__ = ["JournalLog", "Log", "LogEnd", "LogReader", "RunnerClock", "SinkRunner"]

_LOG = logging.getLogger(__name__)

CURSOR_INTERVAL_S = 1.0
"""How often the cursor is made durable: so much is delivered again after a kill."""
BOUND_INTERVAL_S = 5.0
"""How often the lag is held against its bounds; a look reads the header of every segment."""
_IDLE_S = 1.0
_READ_BYTES = 1 << 20
_MAX_RECORDS = 512
"""Settled places that wait for the log's sync. Beyond it every second is let go: only how far a kill throws back suffers."""
_LIST_LIMIT = 1000


class LogReader(Protocol):
    """What is used of `JournalReader`."""

    row: int

    @property
    def accepted_before(self) -> int: ...

    def read(self, end_row: int, max_bytes: int) -> list[Frame]: ...

    def close(self) -> None: ...


class Log(Protocol):
    """The log, as a runner looks at it."""

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


class RunnerClock:
    """The machine's clocks; tests give their own."""

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Waits until the event is set or the time has passed; whether it is set."""
        return event.wait(timeout_s)


class _Interrupted(Exception):
    """The delivery under way is given up: the runner stops, or its place in the log has moved."""


class _Task:
    """A call that must run on the runner's thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.result: Any = None
        self.error: Exception | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self.result = self.call()
        except Exception as exc:  # noqa: BLE001
            self.error = exc
        self.done.set()


class SinkRunner:
    """Runs one sink. `start`, then `stop` once; `step` alone, without a thread, for tests.

    Methods without a word on threads may be called from any; the sink's own are called by the runner's thread alone.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        options: RunnerOptions,
        *,
        journal_folder: Path,
        state_folder: Path,
        log_end: LogEnd,
        source: str,
        log: Log | None = None,
        clock: RunnerClock | None = None,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.cursor_lasts: bool = getattr(sink, "cursor_lasts", True)
        self._options = options
        self._log: Log = log if log is not None else JournalLog(journal_folder)
        self._log_end = log_end
        self._source = source
        self._clock = clock or RunnerClock()
        self._start_ms = options.start_ms()
        names_wait_s = options.names_wait_s
        if names_wait_s is None:
            names_wait_s = float(getattr(sink, "names_wait_s", 0))
        self._feed = Feed(options, sink.takes, names_wait_s)
        self._takes_gaps = Gap in sink.takes
        self._backoff = Backoff(options.retry_min_s, options.retry_max_s, *(() if uniform is None else (uniform,)))
        self._cursor = CursorFile(state_folder / f"{name}.cursor") if self.cursor_lasts else None
        self._letters = DeadLetters(state_folder / f"{name}.dead-letters", options.dead_letter_bytes)
        self._letters_lost = 0

        # Guarded by the lock: what an account is made of, and what is made durable.
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._settled: deque[CursorRecord] = deque()
        self._durable_row: int | None = None
        self._is_abandoned = False
        self._store_lock = threading.Lock()

        self._reader: LogReader | None = None
        self._ready: deque[Piece] = deque()
        self._ready_rows = self._ready_bytes = 0
        self._ready_since_s = 0.0
        self._is_open = False
        self._cursor_at_s = self._bound_at_s = self._maintained_at_s = float("-inf")
        self._needed_bound = 0
        self._needed_at_s = float("-inf")

        self._state = "starting"
        self._last_error: str | None = None
        self._failing: str | None = None
        self._counts = dict.fromkeys(
            ("writes", "retries", "unknown_errors", "config_faults", "refused_gaps", "maintenance_errors", "cursor_errors"), 0
        )
        self._tasks: deque[_Task] = deque()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._drain_until_s = 0.0
        self._drain_row = 0
        self._thread: threading.Thread | None = None

    # Life

    def start(self) -> None:
        """Starts the thread. It is a daemon: a sink that hangs does not keep the program."""
        self._thread = threading.Thread(target=self._run, name=f"sink {self.name}", daemon=True)
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Delivers what the log holds now, as far as the store takes it at once, and stops; returns within the time.

        A sink that hangs in `write` is left behind: whatever it does later moves no cursor.
        """
        end = self._log_end.get()
        self._drain_row = 0 if end is None else end[0]
        self._drain_until_s = self._clock.monotonic() + deadline_s * 0.8
        self._stop.set()
        self._wake.set()
        self._log_end.wake()
        if self._thread is None:
            self._finish()
            return
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            with self._store_lock:
                self._is_abandoned = True
            _LOG.warning("sink %s did not stop within %.1f s and is left behind", self.name, deadline_s)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._is_done():
                wait_s = self.step()
                if wait_s > 0 and not self._stop.is_set():
                    self._log_end.wait(self._read_row(), wait_s)
        finally:
            self._finish()

    def _is_done(self) -> bool:
        """Whether to stop now: asked to, and drained or out of time or failing."""
        if self._is_abandoned:
            return True
        if not self._stop.is_set():
            return False
        progress = self._progress
        is_drained = (
            progress is None or progress.row >= self._drain_row or (not self._ready and self._read_row() >= self._drain_row)
        )
        return is_drained or self._failing is not None or self._clock.monotonic() >= self._drain_until_s

    def _finish(self) -> None:
        for task in list(self._tasks):
            task.error = RuntimeError(f"sink {self.name} has stopped")
            task.done.set()
        self._store_cursor()
        self._state = "stopped"
        if self._is_open:
            try:
                self.sink.close()
            except Exception as exc:  # noqa: BLE001
                _LOG.warning("sink %s: close failed: %s", self.name, exc)
            self._is_open = False
        self._drop_reader()
        self._letters.close()
        if self._cursor is not None:
            self._cursor.close()

    # One turn

    def step(self) -> float:
        """One turn: reads, delivers at most one batch, keeps cursor and store. Seconds that may be waited before the next.

        Runner's thread.
        """
        try:
            return self._step()
        except _Interrupted:
            return 0.0
        except Exception as exc:  # noqa: BLE001 - the log cannot be read, or a fault of ours: neither may end the thread
            self._note(exc)
            self._rewind()
            self._clock.wait(self._stop, self._backoff.next_s())
            return 0.0

    def _step(self) -> float:
        self._run_tasks()
        end = self._log_end.get()
        if self._progress is None and not self._begin(end):
            return _IDLE_S
        if not self._is_open and not self._open():
            return 0.0
        if end is None:
            return _IDLE_S
        if self._keep_bounds(end):
            self._rewind()
        self._fill(end[0])
        wait_s = self._deliver_if_due()
        if self._clock.monotonic() - self._cursor_at_s >= CURSOR_INTERVAL_S:
            self._store_cursor()
        self._maintain()
        return wait_s

    def _begin(self, end: tuple[int, int, int] | None) -> bool:
        """Finds the place to begin; False while the log has not been told of."""
        if end is None:
            return False
        record = self._load_cursor(end[0])
        if record is None:
            position = self._first_position(end)
            progress = Progress.begin(*position)
        else:
            progress = Progress(record)
        if record is None and self.cursor_lasts:
            self._letters.set_aside()
        self._letters.open(progress.row if self.cursor_lasts else 0)
        counted = self._letters.live + self._letters.replayed + self._letters.discarded
        with self._lock:
            self._letters_lost = max(0, progress.dead_lettered - counted)
            self._progress = progress
            self._settled.append(progress.record())
        self._rewind()
        self._state = "waiting"
        self._store_cursor()
        return True

    def _load_cursor(self, appended_row: int) -> CursorRecord | None:
        if self._cursor is None:
            return None
        payload = self._cursor.load()
        if payload is None:
            return None
        try:
            record = msgspec.msgpack.decode(payload, type=CursorRecord)
        except msgspec.DecodeError as exc:
            _LOG.warning("sink %s: its cursor cannot be read (%s); it begins anew", self.name, exc)
            return None
        if record.row > appended_row:
            _LOG.warning(
                "sink %s: its cursor stands at row %d, the log ends at %d: it is another log, and the sink begins anew",
                self.name,
                record.row,
                appended_row,
            )
            return None
        return record

    def _first_position(self, end: tuple[int, int, int]) -> Position:
        if not self.cursor_lasts:
            reach_back_s = float(getattr(self.sink, "reach_back_s", 0))
            if reach_back_s <= 0:
                return Position(end[0], end[2])
            return self._log.row_at_time(self._clock.time_ms() - round(reach_back_s * 1000))
        if self._options.start == "end":
            return Position(end[0], end[2])
        if self._start_ms is not None:
            return self._log.row_at_time(self._start_ms)
        return self._log.first_row()

    def _open(self) -> bool:
        try:
            self.sink.open()
        except Exception as exc:  # noqa: BLE001
            self._note(exc)
            self._wait(self._backoff.next_s(getattr(exc, "retry_after_s", None)))
            return False
        self._is_open = True
        self._worked()
        return True

    # Reading

    def _fill(self, end_row: int) -> None:
        """Reads until a batch is full or the log ends."""
        reader = self._reader
        assert reader is not None
        while self._ready_rows < self._options.batch_rows and self._ready_bytes < self._options.batch_bytes:
            from_row = reader.row
            try:
                frames = reader.read(end_row, min(_READ_BYTES, self._options.batch_bytes))
            except RowGone as gone:
                lost = Lost(gone.reason, from_row, gone.lost_rows)
                piece = Piece(from_row, gone.first_row, gone.lost_rows, reader.accepted_before, None, 0, None, (lost,))
                self._add_ready(self._feed.pass_on(piece))
                continue
            if not frames:
                return
            accepted = reader.accepted_before - sum(f.end_row - max(f.first_row, from_row) for f in frames if not f.is_copy)
            for frame in frames:
                if not frame.is_copy:
                    accepted += frame.end_row - max(frame.first_row, from_row)
                self._add_ready(self._feed.add(frame, from_row, accepted))
            if reader.row == from_row:
                return

    def _add_ready(self, pieces: Sequence[Piece]) -> None:
        if pieces and not self._ready:
            self._ready_since_s = self._clock.monotonic()
        for piece in pieces:
            self._ready.append(piece)
            self._ready_rows += piece.kept
            self._ready_bytes += piece.size

    def _read_row(self) -> int:
        return 0 if self._reader is None else self._reader.row

    def _rewind(self) -> None:
        """Goes back to the first row that is not settled."""
        progress = self._progress
        if progress is None:
            return
        self._drop_reader()
        self._feed.reset()
        self._ready.clear()
        self._ready_rows = self._ready_bytes = 0
        self._reader = self._log.reader(progress.row, progress.accepted_before)

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _keep_bounds(self, end: tuple[int, int, int]) -> bool:
        """Holds the lag against its bounds, from time to time; True if rows were given up."""
        progress, options, now_s = self._progress, self._options, self._clock.monotonic()
        assert progress is not None
        if now_s - self._bound_at_s < BOUND_INTERVAL_S or progress.accepted_before >= end[2]:
            return False
        self._bound_at_s = now_s
        if options.lag_policy == "downsample":
            # From half of the bound on, so that thinning has a chance; the bound itself holds for every policy.
            share = 4 if self._feed.is_thinning else 2
            self._feed.is_thinning = self._bound(share).row > progress.row
        position = self._bound(1)
        if position.row <= progress.row:
            return False
        with self._lock:
            progress.jump(position.row, position.accepted_before, "bound")
            self._settled.append(progress.record())
        return True

    def _bound(self, share: int) -> Position:
        oldest_ms = self._clock.time_ms() - round(self._options.lag_age_s * 1000 / share)
        return self._log.row_within(self._options.lag_bytes // share, oldest_ms)

    # Delivery

    def _deliver_if_due(self) -> float:
        """Delivers the next batch if it is full or has waited long enough; else seconds until it has."""
        while self._ready and self._ready[0].record is None:
            self._settle([self._take()])
        if not self._ready:
            self._state = "waiting"
            return _IDLE_S
        options = self._options
        is_full = self._ready_rows >= options.batch_rows or self._ready_bytes >= options.batch_bytes
        wait_s = self._ready_since_s + options.flush_interval_s - self._clock.monotonic()
        if not is_full and wait_s > 0 and not self._stop.is_set():
            return wait_s
        self._state = "delivering"
        self._deliver(self._next_batch(), options.unknown_attempts)
        self._ready_since_s = self._clock.monotonic()
        return 0.0

    def _next_batch(self) -> list[Piece]:
        """The gaps that the sink must be told, and the next rows."""
        assert self._progress is not None
        first = self._ready[0]
        rows = size = 0
        pieces: list[Piece] = []
        if self._progress.lost and self._takes_gaps:
            pieces = self._progress.gaps(self._source, first.time_ms or self._clock.time_ms(), first.first_row)
        while self._ready and rows < self._options.batch_rows and size < self._options.batch_bytes:
            room = self._options.batch_rows - rows
            if self._ready[0].kept > room:
                head, tail = self._take().split(room)
                self._ready.appendleft(tail)
                self._ready_rows += tail.kept
                self._ready_bytes += tail.size
                pieces.append(head)
                break
            piece = self._take()
            pieces.append(piece)
            rows += piece.kept
            size += piece.size
            if piece.record is None and piece.lost:
                break  # its gap must stand ahead of the rows that follow
        return pieces

    def _take(self) -> Piece:
        piece = self._ready.popleft()
        self._ready_rows -= piece.kept
        self._ready_bytes -= piece.size
        return piece

    def _deliver(self, pieces: list[Piece], unknown_attempts: int) -> None:
        """Gets every row of the pieces to its place. _Interrupted if that is given up: nothing is settled that is not so."""
        records: list[Record] = [p.record for p in pieces if p.record is not None]
        while records:
            try:
                self.sink.write(records)
            except RetryableError as exc:
                self._note(exc)
                self._wait(self._backoff.next_s(exc.retry_after_s))
                continue
            except (TooLargeError, PermanentError) as exc:
                self._note(exc)
                self._take_apart(pieces, exc, unknown_attempts)
                return
            except PartialWriteError as exc:
                self._counts["writes"] += 1
                self._note(exc)
                self._settle(pieces, exc.rejected)
                return
            except Exception as exc:  # noqa: BLE001
                self._note(exc)
                unknown_attempts -= 1
                if unknown_attempts > 0:
                    self._wait(self._backoff.next_s())
                    continue
                self._take_apart(pieces, exc, 1)
                return
            self._counts["writes"] += 1
            self._worked()
            break
        self._settle(pieces)

    def _take_apart(self, pieces: list[Piece], exc: Exception, unknown_attempts: int) -> None:
        """Two halves, or a single row to the dead letters."""
        total = sum(p.kept for p in pieces)
        if total > 1:
            for half in _halves(pieces, total // 2):
                if self._stop.is_set() and self._clock.monotonic() >= self._drain_until_s:
                    raise _Interrupted
                self._deliver(half, unknown_attempts)
            return
        [(piece, record)] = [(p, p.record) for p in pieces if p.record is not None]
        row = record.rows[0] if isinstance(record, Batch) else record.row
        self._settle(pieces, {row: f"{type(exc).__name__}: {exc}"}, piece)

    def _settle(self, pieces: Sequence[Piece], rejected: Mapping[int, str] | None = None, only: Piece | None = None) -> None:
        """Puts the refused rows on the disk and then moves the cursor beyond the pieces."""
        dead: dict[int, int] = {}
        unfit: dict[int, list[Lost]] = {}
        if rejected:
            refused = [
                (i, piece.one(at), row)
                for i, piece in enumerate(pieces)
                if only is None or piece is only
                for at, row in enumerate(_rows(piece))
                if row in rejected
            ]
            letters = []
            for i, record, row in refused:
                if not pieces[i].rows:
                    self._counts["refused_gaps"] += 1
                else:
                    letters.append((i, letter_of(record, self.name, rejected[row], self._clock.time_ms())))
            taken = self._store_letters([letter for _, letter in letters])
            for n, (i, letter) in enumerate(letters):
                if n < taken:
                    dead[i] = dead.get(i, 0) + 1
                else:
                    ts_ms = pieces[i].time_ms
                    unfit.setdefault(i, []).append(Lost("dead_letter_full", letter.row, 1, ts_ms, ts_ms))
        progress = self._progress
        assert progress is not None
        with self._lock:
            for i, piece in enumerate(pieces):
                progress.settle(piece, dead.get(i, 0), unfit.get(i, ()))
            if not self._takes_gaps:
                progress.lost.clear()
            self._settled.append(progress.record())
            if len(self._settled) > _MAX_RECORDS:
                self._settled = deque(list(self._settled)[1::2])

    def _store_letters(self, letters: list[Letter]) -> int:
        if not letters:
            return 0
        try:
            return self._letters.append(letters)
        except OSError as exc:
            # A full disk must not hold up every other row of the sink: no room is no room.
            _LOG.warning("sink %s: %d refused rows could not be kept: %s", self.name, len(letters), exc)
            return 0

    def _wait(self, seconds: float) -> None:
        """Lets the time pass. _Interrupted if the runner stops or its place in the log moves meanwhile."""
        self._counts["retries"] += 1
        self._state = "retrying"
        until_s = self._clock.monotonic() + seconds
        while True:
            self._wake.clear()
            self._run_tasks()
            if self._stop.is_set():
                raise _Interrupted
            end = self._log_end.get()
            if end is not None and self._progress is not None and self._keep_bounds(end):
                self._rewind()
                raise _Interrupted
            if self._clock.monotonic() - self._cursor_at_s >= CURSOR_INTERVAL_S:
                self._store_cursor()
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0:
                return
            self._clock.wait(self._wake, min(left_s, BOUND_INTERVAL_S))

    def _store_cursor(self) -> None:
        """Makes the account durable as it was at the newest settled row that the log has synced."""
        self._cursor_at_s = self._clock.monotonic()
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
                    self._cursor.store(msgspec.msgpack.encode(newest))
            except (OSError, JournalError) as exc:
                self._counts["cursor_errors"] += 1
                _LOG.warning("sink %s: its cursor could not be stored: %s", self.name, exc)
                with self._lock:
                    self._settled.appendleft(newest)
                return
        with self._lock:
            self._durable_row = newest.row

    def _maintain(self) -> None:
        sink, now_s = self.sink, self._clock.monotonic()
        if not isinstance(sink, Maintained) or now_s - self._maintained_at_s < sink.maintenance_interval_s:
            return
        self._maintained_at_s = now_s
        try:
            sink.maintain(self._clock.time_ms(), self._stop.is_set)
        except Exception as exc:  # noqa: BLE001
            self._counts["maintenance_errors"] += 1
            _LOG.warning("sink %s: maintenance failed: %s: %s", self.name, type(exc).__name__, exc)

    def _note(self, exc: Exception) -> None:
        """Counts a failure, and logs it if it is the first of its kind in a row."""
        kind = type(exc).__name__
        self._last_error = f"{kind}: {exc}"
        if getattr(exc, "is_config_fault", False):
            kind = "configuration"
            self._counts["config_faults"] += 1
        elif not isinstance(exc, RetryableError | TooLargeError | PartialWriteError | PermanentError):
            self._counts["unknown_errors"] += 1
        if self._failing != kind:
            self._failing = kind
            hint = " (a fault of the configuration; it is tried again all the same)" if kind == "configuration" else ""
            _LOG.warning("sink %s fails: %s%s", self.name, self._last_error, hint)

    def _worked(self) -> None:
        self._backoff.reset()
        if self._failing is not None:
            self._failing = None
            _LOG.info("sink %s works again", self.name)

    # Dead letters

    def list_letters(self, limit: int = _LIST_LIMIT) -> list[dict[str, Any]]:
        """The oldest dead letters, for people: id (the row number), reason, times, the record."""
        out = []
        for letter, _ in zip(self._letters.letters(), range(limit), strict=False):
            entry: dict[str, Any] = {
                "id": letter.row,
                "sink": letter.sink,
                "kind": letter.kind,
                "reason": letter.reason,
                "refused_ms": letter.refused_ms,
            }
            try:
                record = letter.as_record()
            except (msgspec.DecodeError, KeyError):
                record = None
            if isinstance(record, Batch):
                entry["record"] = next(iter(record.as_dicts()), None) if record.schemas else None
            elif record is not None:
                entry["record"] = msgspec.structs.asdict(record)
            out.append(entry)
        return out

    def replay(self, ids: Sequence[int] | None = None, timeout_s: float = 30.0) -> int:
        """Gives dead letters to the sink again (None: all) and returns how many it took; these count as written.

        TimeoutError if the runner's thread does not get to it in time; it is done all the same when it does.
        """
        return int(self._on_thread(lambda: self._replay(None if ids is None else set(ids)), timeout_s))

    def discard(self, ids: Sequence[int] | None = None, timeout_s: float = 30.0) -> int:
        """Throws dead letters away (None: all) and returns how many; these count as dropped{discarded}."""
        return int(self._on_thread(lambda: self._discard(None if ids is None else set(ids)), timeout_s))

    def _chosen(self, ids: set[int] | None) -> list[int]:
        # A letter at or beyond the durable cursor would come back with its row after a kill.
        before = self._durable_row or 0
        return [x.row for x in self._letters.letters() if x.row < before and (ids is None or x.row in ids)]

    def _discard(self, ids: set[int] | None) -> int:
        self._store_cursor()
        rows = set(self._chosen(ids))
        if rows:
            self._letters.remove(rows, replayed=False)
        return len(rows)

    def _replay(self, ids: set[int] | None) -> int:
        self._store_cursor()
        if not self._is_open:
            return 0
        chosen = set(self._chosen(ids))
        done: set[int] = set()
        waiting: list[Letter] = []
        try:
            for letter in self._letters.letters():
                if letter.row in chosen:
                    waiting.append(letter)
                if len(waiting) >= self._options.batch_rows:
                    done |= self._write_letters(waiting)
                    waiting = []
            done |= self._write_letters(waiting)
        except Exception as exc:  # noqa: BLE001
            self._note(exc)
        finally:
            if done:
                self._letters.remove(done, replayed=True)
        return len(done)

    def _write_letters(self, letters: list[Letter]) -> set[int]:
        """Rows that the sink took now. Raises what is not about single rows."""
        if not letters:
            return set()
        rows = {x.row for x in letters}
        try:
            self.sink.write([x.as_record() for x in letters])
        except PartialWriteError as exc:
            return rows - exc.rejected.keys()
        except (PermanentError, TooLargeError):
            if len(letters) == 1:
                return set()
            half = len(letters) // 2
            return self._write_letters(letters[:half]) | self._write_letters(letters[half:])
        self._worked()
        return rows

    def _on_thread(self, call: Callable[[], int], timeout_s: float) -> int:
        if not self.is_alive():
            return call()
        task = _Task(call)
        self._tasks.append(task)
        self._wake.set()
        self._log_end.wake()
        if not task.done.wait(timeout_s):
            raise TimeoutError(f"sink {self.name} is busy; the dead letters are seen to when it is not")
        if task.error is not None:
            raise task.error
        return int(task.result)

    def _run_tasks(self) -> None:
        while self._tasks:
            self._tasks.popleft().run()

    # What it shows

    def account(self) -> Account:
        """One consistent look: all terms at one end of the log and one place of the cursor."""
        with self._lock:
            progress, end = self._progress, self._log_end.get()
            if progress is None or end is None:
                return Account(0, 0, 0, {}, 0, 0)
            replayed, discarded, lost = self._letters.replayed, self._letters.discarded, self._letters_lost
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

    def counters(self) -> dict[str, int]:
        """Counters of what happened, since the start of the runner."""
        more = {"unknown_records": self._feed.unknown_records, "damaged_records": self._feed.damaged_records}
        return self._counts | more

    def state(self) -> str:
        """`starting`, `waiting` (for rows), `delivering`, `retrying` or `stopped`."""
        return self._state

    def last_error(self) -> str | None:
        """The newest failure of the sink, whether or not it is over."""
        return self._last_error

    def lag_s(self) -> float | None:
        """Age of the oldest row that is not yet delivered, 0 where there is none; None while that is not known."""
        with self._lock:
            progress, end = self._progress, self._log_end.get()
            if progress is None or end is None:
                return None
            if progress.accepted_before >= end[2]:
                return 0.0
            since_ms = progress.time_ms
        return None if since_ms is None else max(0.0, (self._clock.time_ms() - since_ms) / 1000)

    def needed_row(self) -> int | None:
        """The lowest row that the sink may ask for after any crash; None while that is not known.

        The bounds of the lag hold here too, so that a sink that hangs in `write` for ever does not keep the log.
        """
        row = self._durable_row
        if row is None:
            return None
        now_s = self._clock.monotonic()
        if now_s - self._needed_at_s >= 2 * BOUND_INTERVAL_S:
            self._needed_at_s = now_s
            self._needed_bound = self._bound(1).row
        return max(row, self._needed_bound)


def _rows(piece: Piece) -> Sequence[int]:
    if piece.record is None:
        return ()
    return piece.record.rows if isinstance(piece.record, Batch) else (piece.record.row,)


def _halves(pieces: list[Piece], at: int) -> tuple[list[Piece], list[Piece]]:
    """The first `at` kept rows, and the rest."""
    left: list[Piece] = []
    for i, piece in enumerate(pieces):
        if at == 0:
            return left, pieces[i:]
        if piece.kept > at:
            head, tail = piece.split(at)
            return [*left, head], [tail, *pieces[i + 1 :]]
        left.append(piece)
        at -= piece.kept
    return left, []
