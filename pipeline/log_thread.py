"""Between the sampling thread and the journal: a thread that encodes, appends and syncs, with few ticks waiting before it.

The sampling thread never waits for the disk. If too many ticks wait, a tick's samples are dropped and counted, and the next
one that is taken begins with a gap record; records of another kind are kept and go with it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from tidegauge.pipeline.errors import JournalError
from tidegauge.pipeline.records import (
    Container,
    End,
    Event,
    Gap,
    RecordType,
    Sample,
    Schema,
    WireRecord,
    encode_record,
    encode_samples,
)

_LOG = logging.getLogger(__name__)

Item: TypeAlias = WireRecord | list[Sample]
"""What one tick hands over, in log order: records and lists of samples."""

WAITING = 8
"""Ticks that may wait for the journal."""
MAX_PAYLOAD = 512 << 10
"""Bytes of a frame's payload at most, if a segment holds four of them: so much can a damaged place cost."""


class Log(Protocol):
    """What is used of the journal's writer."""

    def append(self, type_: int, payload: bytes, rows: int, time_ms: int) -> int:
        """Writes a frame and returns its first row."""
        ...

    def sync(self) -> None:
        """Makes durable what was appended."""
        ...


class Outlet(Protocol):
    """Where the sampling thread puts what it made."""

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        """Takes all or nothing, at once. False: too many wait."""
        ...


class Heads:
    """What a segment begins with so that it decodes alone: schemas in use since the start, and live containers.

    `note` follows the log record by record and `frames` is asked from within `append`: both in the journal thread. Schemas
    of earlier starts are not carried on: each start writes those that it uses.
    """

    def __init__(self) -> None:
        self._schemas: dict[int, bytes] = {}
        self._containers: dict[int, bytes] = {}

    def begin(self, containers: Sequence[Container]) -> None:
        """The containers that the log shows as live at a start."""
        self._containers = {c.number: encode_record(c)[1] for c in containers}

    def note(self, record: WireRecord, payload: bytes) -> None:
        if isinstance(record, Schema):
            self._schemas[record.id] = payload
        elif isinstance(record, Container):
            self._containers[record.number] = payload
        elif isinstance(record, End):
            self._containers.pop(record.container, None)

    def frames(self) -> list[tuple[RecordType, bytes]]:
        """(type, payload), schemas first."""
        schemas = [(RecordType.SCHEMA, p) for p in self._schemas.values()]
        return schemas + [(RecordType.CONTAINER, p) for p in self._containers.values()]


class Frame(NamedTuple):
    """An item as it goes to the log."""

    type: RecordType
    payload: bytes
    rows: int
    record: WireRecord | None
    """None: samples."""


def frames_of(
    items: Sequence[Item], max_payload: int = MAX_PAYLOAD, lost: Callable[[int], None] = lambda rows: None
) -> Iterator[Frame]:
    """Items encoded, in order, long lists of samples in parts.

    What cannot be encoded, or be made so small, is not written: `lost` is told how many rows that are.
    """
    for item in items:
        try:
            for frame in _samples(item, max_payload) if isinstance(item, list) else [Frame(*encode_record(item), 1, item)]:
                if len(frame.payload) <= max_payload:
                    yield frame
                else:
                    lost(frame.rows)
                    _LOG.error("a record of %d bytes is not written: more than %d", len(frame.payload), max_payload)
        except (TypeError, ValueError, OverflowError) as exc:
            lost(len(item) if isinstance(item, list) else 1)
            _LOG.error("what cannot be encoded is not written (%s): %s", type(item).__name__, exc)


def _samples(samples: list[Sample], max_payload: int) -> Iterator[Frame]:
    """One frame, or those of both halves if it is too large and can be halved."""
    payload = encode_samples(samples)
    if len(payload) <= max_payload or len(samples) == 1:
        yield Frame(RecordType.SAMPLES, payload, len(samples), None)
        return
    half = len(samples) // 2
    yield from _samples(samples[:half], max_payload)
    yield from _samples(samples[half:], max_payload)


def without_samples(items: Sequence[Item]) -> tuple[list[Item], int]:
    """The records that are not samples, and how many samples were left out."""
    return [i for i in items if not isinstance(i, list)], sum(len(i) for i in items if isinstance(i, list))


def settled(items: Sequence[Item]) -> list[Item]:
    """The records without those of containers that came and went within them: nobody will ask for these.

    So what waits for a journal that hangs is bounded by the containers that live.
    """
    made = {i.number for i in items if isinstance(i, Container)}
    gone = {i.container for i in items if isinstance(i, End) and i.container in made}
    if not gone:
        return list(items)
    return [
        i
        for i in items
        if not ((isinstance(i, Container) and i.number in gone) or (isinstance(i, End | Event | Gap) and i.container in gone))
    ]


class LogThread:
    """Appends what the sampling thread puts, in order. `put` from the sampling thread, `start` and `stop` from the owner.

    `on_append` is called in the journal thread after each tick's appends and each sync. The log syncs by itself as it
    appends; this thread sees to it that nothing stays unsynced for longer than the interval when no more comes. An append
    that fails is tried again until it works, while the ticks behind it wait or are dropped under a gap. No payload exceeds
    `max_payload`, which a segment must hold.
    """

    def __init__(
        self,
        log: Log,
        heads: Heads,
        sync_interval_s: float = 0.5,
        on_append: Callable[[], None] = lambda: None,
        max_payload: int = MAX_PAYLOAD,
        retry_s: float = 1.0,
    ) -> None:
        self._log = log
        self._heads = heads
        self._sync_interval_s = sync_interval_s
        self._on_append = on_append
        self._max_payload = max_payload
        self._retry_s = retry_s
        self._waiting: deque[tuple[Sequence[Item], int]] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._end = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self.failures = 0
        """Appends and syncs that the journal refused."""
        self.unwritable_rows = 0
        """Rows given up since they could not be encoded or were too large for a segment."""

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        with self._changed:
            if self._is_stopping or len(self._waiting) >= WAITING:
                return False
            self._waiting.append((items, time_ms))
            self._changed.notify()
        return True

    @property
    def waiting(self) -> int:
        """Ticks that wait to be written."""
        return len(self._waiting)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Writes and syncs what waits, then ends. False if the time did not suffice."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self._end.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
        unwritten: deque[Frame] = deque()
        time_ms = 0
        unsynced_since: float | None = None
        while True:
            with self._changed:
                if not (unwritten or self._waiting or self._is_stopping):
                    self._changed.wait(self._left_s(unsynced_since))
                if not unwritten and self._waiting:
                    items, time_ms = self._waiting.popleft()
                    unwritten.extend(frames_of(items, self._max_payload, self._lost))
                is_last = self._is_stopping and not self._waiting
            if unwritten:
                if not self._try(partial(self._append, unwritten, time_ms)):
                    if self._end.wait(self._retry_s):
                        return
                    continue
                unsynced_since = unsynced_since or time.monotonic()
                self._on_append()
            if unsynced_since is not None and (is_last or self._left_s(unsynced_since) == 0):
                self._try(self._log.sync)
                unsynced_since = None
                self._on_append()
            if is_last:
                return

    def _left_s(self, unsynced_since: float | None) -> float | None:
        """How long until the log is to be synced; None: it is."""
        if unsynced_since is None:
            return None
        return max(0.0, unsynced_since + self._sync_interval_s - time.monotonic())

    def _lost(self, rows: int) -> None:
        self.unwritable_rows += rows

    def _append(self, frames: deque[Frame], time_ms: int) -> None:
        while frames:
            frame = frames[0]
            self._log.append(frame.type, frame.payload, frame.rows, time_ms)
            frames.popleft()
            if frame.record is not None:
                self._heads.note(frame.record, frame.payload)

    def _try(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - without this thread nothing would be written any more
            self.failures += 1
            if not self._is_failing:
                is_known = isinstance(exc, OSError | JournalError)
                _LOG.error("the journal cannot be written: %s", exc, exc_info=None if is_known else exc)
            self._is_failing = True
            return False
        if self._is_failing:
            _LOG.info("the journal is written again")
        self._is_failing = False
        return True
