"""The last samples of each container, and the last events, in RAM: what the compatible API and the web page answer from.

Needs no privileges. Bounded by age and by bytes; a restart begins it anew, and its runner then reads the log again as far back
as the age bound.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec

from tidegauge.pipeline.event_store import EventLimits, EventStore
from tidegauge.pipeline.latest import Latest, merged
from tidegauge.pipeline.records import Batch, Container, End, Event, Record, Sample, Schema

_ENDED_LIMIT = 10_000
_SAMPLE_BYTES = 136
_SLOT_BYTES = 8
_NUMBER_BYTES = 30
_ROW_BYTES = 120


class MemoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both bounds hold; the oldest samples go first."""

    storage_duration_s: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    """Samples older than this, against the newest one, are let go."""
    limit_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 << 20
    """RAM for samples, as estimated from their number of values."""
    event_age_limit_s: Mapping[str, Annotated[float, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """Age at which events are let go, by kind; `default` for all others, one day unless it is set. 0: they are not kept."""
    event_limit: Mapping[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    """How many events are kept, by kind; `default` for all others, 100000 unless it is set. 0: they are not kept."""


class _Series:
    """Samples of one container number, by time."""

    __slots__ = ("container", "samples")

    def __init__(self, container: Container) -> None:
        self.container = container
        self.samples: deque[Sample] = deque()


class MemorySink:
    """Keeps the last samples, the newest values and events. `write` on the runner's thread, what reads on any."""

    Config = MemoryConfig
    takes: tuple[type, ...] = (Batch, Container, Event, End)
    cursor_lasts: ClassVar[bool] = False

    def __init__(self, config: MemoryConfig) -> None:
        self.reach_back_s = config.storage_duration_s
        self._age_ms = round(config.storage_duration_s * 1000)
        self._limit_bytes = config.limit_bytes
        self.events = EventStore(EventLimits(config.event_age_limit_s, config.event_limit))
        self._lock = threading.Lock()
        self._series: dict[int, _Series] = {}
        self._live: dict[int, Container] = {}
        self._ended: dict[int, None] = {}
        self._schemas: dict[int, Schema] = {}
        self._batches: deque[tuple[int, int, Sequence[Sample]]] = deque()
        self._bytes = 0
        self._newest_row = -1
        self._newest_ms = 0
        self._latest: dict[int, Latest] = {}
        self.generation = 0
        """Moves whenever something was written."""

    def open(self) -> None: ...

    def write(self, records: Sequence[Record]) -> None:
        with self._lock:
            for record in records:
                if isinstance(record, Batch):
                    self._add(record)
                    continue
                if 0 < record.row <= self._newest_row:
                    continue  # A repeat: what it says is known, or over.
                self._newest_row = max(self._newest_row, record.row)
                if isinstance(record, Event):
                    self.events.add(record, None if record.container is None else self._container(record.container))
                elif isinstance(record, Container):
                    known = self._live.get(record.number)
                    if known is not None and not _is_one(known, record):
                        self._latest.pop(record.number, None)
                    self._live[record.number] = record
                    self._ended.pop(record.number, None)
                    series = self._series.get(record.number)
                    if series is not None and _is_one(series.container, record):
                        series.container = record
                    elif series is not None:
                        del self._series[record.number]
                elif isinstance(record, End):
                    self._live.pop(record.container, None)
                    self._latest.pop(record.container, None)
                    self._ended[record.container] = None
                    if len(self._ended) > _ENDED_LIMIT:
                        del self._ended[next(iter(self._ended))]
            self._let_go()
            self.generation += 1

    def close(self) -> None:
        self.events.close()

    @property
    def used_bytes(self) -> int:
        """RAM that the samples take, as estimated."""
        return self._bytes

    def latest(self) -> Sequence[tuple[Container, Latest | None]]:
        """Containers that have not ended with the newest known value of each metric, ordered by path. None: no sample yet."""
        with self._lock:
            found = [(c, self._latest.get(c.number)) for c in self._living()]
        return sorted(found, key=lambda pair: pair[0].path)

    def samples(self, instance: str) -> Sequence[tuple[Sample, Schema]]:
        """All that are held of an instance, oldest first, all epochs in log order."""
        with self._lock:
            numbers = sorted(n for n, s in self._series.items() if s.container.instance == instance)
            return [(s, self._schemas[s.schema]) for n in numbers for s in self._series[n].samples]

    def _living(self) -> Iterable[Container]:
        """Of several epochs of an instance the newest."""
        return {c.instance: c for _, c in sorted(self._live.items())}.values()

    def _container(self, number: int) -> Container | None:
        series = self._series.get(number)
        return self._live.get(number) or (None if series is None else series.container)

    def _add(self, batch: Batch) -> None:
        if not batch.samples:
            return
        self._schemas.update(batch.schemas)
        all_series, ended, live, latest = self._series, self._ended, self._live, self._latest
        is_repeat = batch.rows[0] <= self._newest_row
        cost = 0
        for sample in batch.samples:
            number = sample.container
            series = all_series.get(number)
            if series is not None and not _is_one(series.container, batch.containers[number]):
                if is_repeat:
                    continue
                series = None  # The number was given out anew.
                latest.pop(number, None)
            if series is None:
                series = all_series[number] = _Series(batch.containers[number])
                if number not in ended and number not in self._live:
                    self._live[number] = series.container
            samples = series.samples
            if not samples or sample.ts_ms > samples[-1].ts_ms:
                samples.append(sample)
            else:
                _insert(samples, sample)
            if number in live:
                before = latest.get(number)
                if before is None or sample.ts_ms > before.ts_ms:
                    latest[number] = merged(before, sample, batch.schemas[sample.schema])
            values = sample.values
            cost += _SAMPLE_BYTES + (_SLOT_BYTES + _NUMBER_BYTES) * len(values) - _NUMBER_BYTES * values.count(None)
            for rows in sample.tables:
                if rows:
                    cost += len(rows) * (_ROW_BYTES + (_SLOT_BYTES + _NUMBER_BYTES) * len(rows[0]))
        ts_ms = batch.samples[-1].ts_ms
        # A row that comes late, out of the dead letters say, must not make all others look as if they came from the future.
        if not is_repeat:
            self._newest_row = batch.rows[-1]
            self._newest_ms = ts_ms
        self._batches.append((ts_ms, cost, batch.samples))
        self._bytes += cost

    def _let_go(self) -> None:
        batches = self._batches
        while batches and (abs(self._newest_ms - batches[0][0]) > self._age_ms or self._bytes > self._limit_bytes):
            _, cost, samples = batches.popleft()
            self._bytes -= cost
            for sample in samples:
                series = self._series.get(sample.container)
                if series is None:
                    continue
                if series.samples and series.samples[0] is sample:
                    series.samples.popleft()
                else:
                    _remove(series.samples, sample)
                if not series.samples:
                    del self._series[sample.container]


def _is_one(a: Container, b: Container) -> bool:
    return a is b or (a.instance == b.instance and a.epoch == b.epoch)


def _insert(samples: deque[Sample], sample: Sample) -> None:
    """Puts a sample that comes late, or again, in its place: one a time."""
    for i, other in enumerate(samples):
        if other.ts_ms == sample.ts_ms:
            samples[i] = sample
            return
        if other.ts_ms > sample.ts_ms:
            samples.insert(i, sample)
            return


def _remove(samples: deque[Sample], sample: Sample) -> None:
    for i, other in enumerate(samples):
        if other is sample:
            del samples[i]
            return
