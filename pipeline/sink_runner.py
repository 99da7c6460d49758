"""One worker a sink: reads the log, batches, filters, retries, and keeps its books.

The only place of the program with retry and back-off towards stores. Delivery is at least once: the cursor moves after the
store said yes and the dead letters are on the disk, and is made durable only up to the log's last sync. How errors are
treated: docs/delivery.md.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

from tidegauge.pipeline.account import Account, Piece, halves
from tidegauge.pipeline.backoff import Backoff
from tidegauge.pipeline.clock import RunnerClock
from tidegauge.pipeline.errors import PartialWriteError, PermanentError, RetryableError, StoreLostError, TooLargeError
from tidegauge.pipeline.feed import Feed
from tidegauge.pipeline.intake import Intake
from tidegauge.pipeline.journal import Position
from tidegauge.pipeline.lag_bounds import BOUND_INTERVAL_S, LagBounds
from tidegauge.pipeline.ledger import Ledger
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.log_view import JournalLog, Log
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.plugin import Maintained, Sink
from tidegauge.pipeline.records import Gap, Record
from tidegauge.pipeline.redelivery import Redelivery
from tidegauge.pipeline.sink_failures import SinkFailures

_LOG = logging.getLogger(__name__)

CURSOR_INTERVAL_S = 1.0
"""How often the cursor is made durable: so much is delivered again after a kill."""
DRAIN_SHARE = 0.8
"""Of the time to stop in, what may be spent on delivering."""
_IDLE_S = 1.0


class _Interrupted(Exception):
    """The delivery under way is given up: the runner stops, or its place in the log has moved."""


class SinkRunner:
    """Runs one sink. `start`, then `stop` once; `step` alone, without a thread, for tests.

    Public methods may be called from any thread, unless they say otherwise; the sink's are called on the runner's alone.
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
        self._clock = clock or RunnerClock()
        self._takes_gaps = Gap in sink.takes
        names_wait_s = options.names_wait_s
        if names_wait_s is None:
            names_wait_s = float(getattr(sink, "names_wait_s", 0))
        self._feed = Feed(options, sink.takes, names_wait_s)
        self._intake = Intake(self._log, self._feed, options)
        self._ledger = Ledger(
            name,
            state_folder,
            options.dead_letter_bytes,
            log_end,
            source,
            lasts=self.cursor_lasts,
            takes_gaps=self._takes_gaps,
        )
        self._bounds = LagBounds(self._log, self._ledger, self._feed, options, self._clock)
        self._redelivery = Redelivery(name, sink, self._ledger, options.batch_rows, self._letters_failed)
        self._failures = SinkFailures(name, self._clock)
        self._backoff = Backoff(options.retry_min_s, options.retry_max_s, *(() if uniform is None else (uniform,)))
        self._is_open = False
        self._ready_since_s: float | None = None
        self._cursor_at_s = self._maintained_at_s = float("-inf")

        self._state = "starting"
        self._lost: StoreLostError | None = None
        """Found while dead letters were delivered again."""
        self._counts = dict.fromkeys(("writes", "retries", "maintenance_errors", "stores_lost"), 0)

        self._tasks: deque[tuple[Future[int], Callable[[], int]]] = deque()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._drain_until_s = 0.0
        self._drain_row = 0
        self._is_left_behind = False
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
        self._drain_until_s = self._clock.monotonic() + deadline_s * DRAIN_SHARE
        self._stop.set()
        self._wake.set()
        self._log_end.wake()
        if self._thread is None:
            self._finish()
            return
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._is_left_behind = True
            self._ledger.abandon()
            _LOG.warning("sink %s did not stop within %.1f s and is left behind", self.name, deadline_s)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._is_done():
                wait_s = self.step()
                if wait_s > 0 and not self._stop.is_set():
                    self._log_end.wait(self._intake.row, wait_s)
        finally:
            self._finish()

    def _is_done(self) -> bool:
        """Whether to stop now: asked to, and drained, failing or out of time."""
        if self._is_left_behind:
            return True
        if not self._stop.is_set():
            return False
        is_drained = not self._ledger.has_begun or (self._intake.head is None and self._intake.row >= self._drain_row)
        return is_drained or self._state == "retrying" or self._is_out_of_time()

    def _is_out_of_time(self) -> bool:
        return self._stop.is_set() and self._clock.monotonic() >= self._drain_until_s

    def _finish(self) -> None:
        while self._tasks:
            task, _ = self._tasks.popleft()
            task.set_exception(RuntimeError(f"sink {self.name} has stopped"))
        self._ledger.store()
        self._state = "stopped"
        if self._is_open:
            self._is_open = False
            try:
                self.sink.close()
            except Exception as exc:  # noqa: BLE001 - a plug-in's fault may not keep the rest from closing
                _LOG.warning("sink %s: close failed: %s: %s", self.name, type(exc).__name__, exc)
        self._intake.close()
        self._ledger.close()

    # One turn

    def step(self) -> float:
        """One turn: reads, delivers at most one batch, keeps cursor and store. Seconds that may be waited before the next.

        On the runner's thread.
        """
        try:
            return self._step()
        except _Interrupted:
            return 0.0
        except Exception as exc:  # noqa: BLE001 - the log cannot be read, or a fault of ours: neither may end the thread
            self._failures.note(exc)
            self._state = "retrying"
            self._rewind()
            self._clock.wait(self._stop, self._backoff.next_s())
            return 0.0

    def _step(self) -> float:
        self._run_tasks()
        end = self._log_end.get()
        if end is None:
            return _IDLE_S
        if not self._ledger.has_begun:
            self._begin(end)
        if self._ledger.settled_ms() is None:
            self._look_at_first(end)
        if not self._is_open and not self._open():
            return 0.0
        if self._bounds.hold(end[2]):
            self._rewind()
        self._intake.fill(end[0])
        wait_s = self._deliver_if_due()
        self._store_if_due()
        self._maintain()
        return wait_s

    def _begin(self, end: tuple[int, int, int]) -> None:
        record = self._ledger.load(end[0])
        self._ledger.begin(record, self._first_position(end) if record is None else Position(0, 0))
        self._rewind()
        self._state = "waiting"
        self._ledger.store()

    def _look_at_first(self, end: tuple[int, int, int]) -> None:
        """Notes the time of the first row, from which a gap counts if the rows are lost before any is settled."""
        self._intake.fill(end[0])
        head = self._intake.head
        if head is not None and head.time_ms is not None:
            self._ledger.begins_at(head.time_ms)

    def _first_position(self, end: tuple[int, int, int]) -> Position:
        at_end = Position(end[0], end[2])
        if not self.cursor_lasts:
            reach_back_s = float(getattr(self.sink, "reach_back_s", 0))
            if reach_back_s <= 0:
                return at_end
            return self._log.row_at_time(self._clock.time_ms() - round(reach_back_s * 1000))
        start_ms = self._options.start_ms()
        if start_ms is not None:
            return self._log.row_at_time(start_ms)
        return at_end if self._options.start == "end" else self._log.first_row()

    def _open(self) -> bool:
        try:
            self.sink.open()
        except StoreLostError as exc:
            self._begin_anew(exc)
        except Exception as exc:  # noqa: BLE001 - counted and tried again
            self._failures.note(exc)
            self._wait(self._backoff.next_s(getattr(exc, "retry_after_s", None)))
            return False
        self._is_open = True
        self._worked()
        return True

    def _begin_anew(self, exc: StoreLostError) -> NoReturn:
        """Begins a new account with all that the log keeps. Always _Interrupted: what was read is another's."""
        _LOG.error("sink %s: %s; it gets again all that the journal keeps", self.name, exc)
        self._failures.remember(exc)
        self._counts["stores_lost"] += 1
        self._is_open = False
        self._ledger.begin(None, self._log.first_row())
        self._rewind()
        self._ledger.store()
        raise _Interrupted

    def _rewind(self) -> None:
        """Goes to the first row that is not settled."""
        if self._ledger.has_begun:
            self._intake.go_to(*self._ledger.position)
            self._ready_since_s = None

    def _store_if_due(self) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._cursor_at_s >= CURSOR_INTERVAL_S:
            self._cursor_at_s = now_s
            self._ledger.store()

    def _maintain(self) -> None:
        sink, now_s = self.sink, self._clock.monotonic()
        if not isinstance(sink, Maintained) or now_s - self._maintained_at_s < sink.maintenance_interval_s:
            return
        self._maintained_at_s = now_s
        try:
            sink.maintain(self._clock.time_ms(), self._stop.is_set)
        except StoreLostError as exc:
            self._begin_anew(exc)
        except Exception as exc:  # noqa: BLE001 - counted; rows go on
            self._counts["maintenance_errors"] += 1
            _LOG.warning("sink %s: maintenance failed: %s: %s", self.name, type(exc).__name__, exc)

    # Delivery

    def _deliver_if_due(self) -> float:
        """Delivers the next batch if it is full or has waited long enough; else seconds until it has."""
        intake = self._intake
        while intake.head is not None and intake.head.record is None:
            self._ledger.settle([intake.take()])
        head = intake.head
        if head is None:
            self._state = "waiting"
            self._ready_since_s = None
            return _IDLE_S
        now_s = self._clock.monotonic()
        if self._ready_since_s is None:
            self._ready_since_s = now_s
        wait_s = self._ready_since_s + self._options.flush_interval_s - now_s
        if wait_s > 0 and not intake.is_full and not self._stop.is_set():
            return wait_s
        self._state = "delivering"
        gaps: list[Piece] = []
        if self._takes_gaps:
            gaps = self._ledger.gaps(head.first_row, self._clock.time_ms() if head.time_ms is None else head.time_ms)
        self._deliver([*gaps, *intake.take_batch()], self._options.unknown_attempts)
        self._ready_since_s = None
        return 0.0

    def _deliver(self, pieces: list[Piece], unknown_attempts: int) -> None:
        """Gets every row of the pieces to its place. _Interrupted if that is given up: what is settled is a beginning."""
        records: list[Record] = [p.record for p in pieces if p.record is not None]
        while records:
            try:
                self.sink.write(records)
            except StoreLostError as exc:
                self._begin_anew(exc)
            except RetryableError as exc:
                self._failures.note(exc)
                self._wait(self._backoff.next_s(exc.retry_after_s))
            except (TooLargeError, PermanentError) as exc:
                self._worked()  # the store answers
                self._failures.note(exc)
                self._take_apart(pieces, exc, unknown_attempts)
                return
            except PartialWriteError as exc:
                self._counts["writes"] += 1
                self._worked()
                self._failures.note(exc)
                self._ledger.settle(pieces, exc.rejected, self._clock.time_ms())
                return
            except Exception as exc:  # noqa: BLE001 - counted, and tried a bounded number of times
                self._failures.note(exc)
                unknown_attempts -= 1
                if unknown_attempts <= 0:
                    self._take_apart(pieces, exc, 1)
                    return
                self._wait(self._backoff.next_s())
            else:
                self._counts["writes"] += 1
                self._worked()
                break
        self._ledger.settle(pieces)

    def _take_apart(self, pieces: list[Piece], exc: Exception, unknown_attempts: int) -> None:
        """Two halves, or a single row to the dead letters."""
        total = sum(p.kept for p in pieces)
        if total > 1:
            for half in halves(pieces, total // 2):
                if self._is_out_of_time():
                    self._rewind()
                    raise _Interrupted
                self._deliver(half, unknown_attempts)
            return
        [row] = [row for p in pieces for row in p.kept_rows]
        self._ledger.settle(pieces, {row: f"{type(exc).__name__}: {exc}"}, self._clock.time_ms())

    def _wait(self, seconds: float) -> None:
        """Lets the time pass. _Interrupted if the runner stops or its place in the log moves meanwhile."""
        self._counts["retries"] += 1
        self._state = "retrying"
        until_s = self._clock.monotonic() + seconds
        while True:
            self._wake.clear()
            self._run_tasks()
            if self._stop.is_set():
                self._rewind()
                raise _Interrupted
            end = self._log_end.get()
            if end is not None and self._bounds.hold(end[2]):
                self._rewind()
                raise _Interrupted
            self._store_if_due()
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0:
                return
            self._clock.wait(self._wake, min(left_s, BOUND_INTERVAL_S))

    def _worked(self) -> None:
        self._backoff.reset()
        self._failures.end()

    # Dead letters

    def list_letters(self) -> list[dict[str, Any]]:
        """The oldest dead letters, for people; `id` is the row number."""
        return self._redelivery.list_letters()

    def replay(self, ids: Sequence[int] | None = None, timeout_s: float = 30.0) -> int:
        """Gives dead letters to the sink again (None: all) and returns how many it took; these count as written.

        TimeoutError if the runner's thread does not get to it in time; it is done all the same when it does.
        """
        return self._on_thread(lambda: self._redelivery.replay(ids) if self._is_open else 0, timeout_s)

    def discard(self, ids: Sequence[int] | None = None, timeout_s: float = 30.0) -> int:
        """Throws dead letters away (None: all) and returns how many; these count as dropped{discarded}."""
        return self._on_thread(lambda: self._redelivery.discard(ids), timeout_s)

    def _letters_failed(self, exc: Exception) -> None:
        if isinstance(exc, StoreLostError):
            self._lost = exc
        else:
            self._failures.note(exc)

    def _on_thread(self, call: Callable[[], int], timeout_s: float) -> int:
        if not self.is_alive():
            return call()
        task: Future[int] = Future()
        self._tasks.append((task, call))
        self._wake.set()
        self._log_end.wake()
        try:
            return task.result(timeout_s)
        except TimeoutError:
            raise TimeoutError(f"sink {self.name} is busy; the dead letters are seen to when it is not") from None

    def _run_tasks(self) -> None:
        while self._tasks:
            task, call = self._tasks.popleft()
            try:
                task.set_result(call())
            except Exception as exc:  # noqa: BLE001 - raised again where the call was asked for
                task.set_exception(exc)
        if (lost := self._lost) is not None:
            self._lost = None
            self._begin_anew(lost)

    # What it shows

    def account(self) -> Account:
        """One consistent look at where the sink's rows are; all zero while the log has not been told of."""
        return self._ledger.account()

    def counters(self) -> dict[str, int]:
        """Counters of what happened, since the start of the runner."""
        return self._counts | {
            "unknown_errors": self._failures.unknown_errors,
            "config_faults": self._failures.config_faults,
            "unreadable_letters": self._redelivery.unreadable_letters,
            "unknown_records": self._feed.unknown_records,
            "damaged_records": self._feed.damaged_records,
            "refused_gaps": self._ledger.refused_gaps,
            "cursor_errors": self._ledger.store_errors,
        }

    def state(self) -> str:
        """`starting`, `waiting` (for rows), `delivering`, `retrying` or `stopped`."""
        return self._state

    def last_error(self) -> str | None:
        """The newest failure of the sink, whether or not it is over."""
        return self._failures.last_error

    def lag_s(self) -> float | None:
        """Time since the newest row that was delivered, 0 where none waits; None while that is not known."""
        account, settled_ms = self._ledger.account(), self._ledger.settled_ms()
        if not self._ledger.has_begun:
            return None
        if account.pending == 0:
            return 0.0
        return None if settled_ms is None else max(0.0, (self._clock.time_ms() - settled_ms) / 1000)

    def needed_row(self) -> int | None:
        """The lowest row that the sink may ask for after any crash; None while that is not known.

        The bounds of the lag hold here too, so that a sink that hangs in `write` for ever does not keep the log.
        """
        row = self._ledger.durable_row
        return None if row is None else max(row, self._bounds.oldest_row())
