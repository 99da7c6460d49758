"""From frames of the log to what one sink is given: decoded, filtered, thinned, with names waited for.

A pure function of the frames and the options: no clock and no I/O, so that a repeat gives the same. The one exception is
thinning, which follows the sink's lag.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import compress, groupby

import msgspec

from tidegauge.pipeline.account import Lost, Piece
from tidegauge.pipeline.filters import Filter
from tidegauge.pipeline.journal import Frame
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import (
    Batch,
    Container,
    End,
    RecordType,
    Sample,
    Schema,
    WireRecord,
    decode_record,
    decode_samples,
)

_KNOWN = frozenset(int(t) for t in RecordType)


class _Waiting:
    """A container without names whose first rows are held back."""

    __slots__ = ("first", "until_ms")

    def __init__(self, first: int, until_ms: int) -> None:
        self.first = first
        self.until_ms = until_ms


class _Held:
    """A frame that was decoded, with the log's state at its place."""

    __slots__ = ("about", "accepted_end", "containers", "frame", "is_readable", "passed", "samples", "schemas", "skip")

    def __init__(self, frame: Frame, skip: int, accepted_end: int) -> None:
        self.frame = frame
        self.accepted_end = accepted_end
        self.skip = skip
        self.is_readable = True
        self.about: int | None = None
        """Number of the container whose record or end this is."""
        self.passed: WireRecord | None = None
        """What the sink is given of a frame that is one record."""
        self.samples: Sequence[Sample] | None = None
        self.schemas: Mapping[int, Schema] = {}
        self.containers: Mapping[int, Container] = {}


class Feed:
    """The state of the log at the reader's place, and the frames that wait for names. One thread."""

    def __init__(self, options: RunnerOptions, takes: Sequence[type], names_wait_s: float) -> None:
        self._filter = Filter(options)
        self._takes = tuple(takes)
        self._wait_ms = round(names_wait_s * 1000)
        self._keep_every = options.downsample_keep
        self._raw_schemas: dict[int, Schema] = {}
        self._schemas: dict[int, Schema] = {}
        self._containers: dict[int, Container] = {}
        self._is_handed_out = False
        self._held: deque[_Held | Piece] = deque()
        self._base = 0
        self._waiting: dict[int, _Waiting] = {}
        self.is_thinning = False
        self.unknown_records = 0
        """Frames of a type that this version does not know."""
        self.damaged_records = 0
        """Frames whose checksum was right and whose content was not."""

    def reset(self) -> None:
        """Forgets everything: the reader has jumped, and the segment it lands in brings its own schemas and containers."""
        self._raw_schemas, self._schemas, self._containers = {}, {}, {}
        self._is_handed_out = False
        self._held.clear()
        self._waiting.clear()
        self._base = 0

    def add(self, frame: Frame, from_row: int, accepted_end: int) -> list[Piece]:
        """Takes the next frame; rows below `from_row` were delivered before. Pieces that are ready, in order.

        `accepted_end` is the number of rows accepted before the frame's end, as the log counts them.
        """
        held = self._decode(frame, max(0, from_row - frame.first_row), accepted_end)
        if held is None:
            return []
        if self._wait_ms:
            self._look(held)
        self._held.append(held)
        return self._release()

    def pass_on(self, piece: Piece) -> list[Piece]:
        """Takes a piece that is no frame, behind the frames held back."""
        self._held.append(piece)
        return self._release()

    def _decode(self, frame: Frame, skip: int, accepted_end: int) -> _Held | None:
        """The frame with the state at its place; None for a copy, which only changes the state."""
        held = _Held(frame, skip, accepted_end)
        record: WireRecord | None = None
        try:
            if frame.type == RecordType.SAMPLES:
                samples = decode_samples(frame.payload)
                if len(samples) == frame.rows:
                    held.samples = samples
            elif frame.type in _KNOWN:
                record = decode_record(frame.type, frame.payload, frame.first_row)
        except msgspec.DecodeError:
            pass
        if record is not None:
            held.passed = self._passed(record)
            if isinstance(record, Container):
                held.about = record.number
            elif isinstance(record, End):
                held.about = record.container
            self._change(record)
        elif held.samples is not None:
            held.schemas, held.containers = self._schemas, self._containers
            self._is_handed_out = True
        elif not frame.is_copy:
            held.is_readable = False
            if frame.type in _KNOWN:
                self.damaged_records += 1
            else:
                self.unknown_records += 1
        return None if frame.is_copy else held

    def _passed(self, record: WireRecord) -> WireRecord | None:
        """The record as the sink takes it; None if it does not, or a filter leaves nothing of it."""
        if not isinstance(record, self._takes):
            return None
        if isinstance(record, Schema):
            left = self._filter.schema(record)
            return None if left is None else msgspec.structs.replace(left, row=record.row)
        if isinstance(record, Container):
            return self._filter.container(record) if self._filter.takes_container(record) else None
        if record.container is not None and not self._filter.keeps_containers:
            container = self._containers.get(record.container)
            if container is not None and not self._filter.takes_container(container):
                return None
        return record

    def _change(self, record: WireRecord) -> None:
        """Brings the state up to this record. Mappings that were handed out stay as they are."""
        if not isinstance(record, Schema | Container | End):
            return
        if self._is_handed_out:
            self._schemas, self._containers = dict(self._schemas), dict(self._containers)
            self._is_handed_out = False
        if isinstance(record, Schema):
            self._raw_schemas[record.id] = record
            left = self._filter.schema(record)
            if left is not None:
                self._schemas[left.id] = msgspec.structs.replace(left, row=0)
        elif isinstance(record, Container):
            # Without its row: the copy at the head of a segment has none, and a repeat must carry an equal one.
            self._containers[record.number] = self._filter.container(msgspec.structs.replace(record, row=0))
        else:
            self._containers.pop(record.container, None)

    def _look(self, held: _Held) -> None:
        """Looks ahead on behalf of the frames held back: have names come, an end, or the time?"""
        now_ms = held.frame.time_ms
        # Only ticks are looked at for the time: at a start every container waits, and their records come one by one.
        numbers = [held.about] if held.samples is None else list(self._waiting)
        for number in numbers:
            waiting = None if number is None else self._waiting.get(number)
            if number is None or waiting is None:
                continue
            container = self._containers.get(number)
            if container is not None and has_names(container):
                if container.valid_from_ms <= waiting.until_ms:
                    self._name(container, waiting.first)
            # A time long before the window is that of a clock set back, and nothing else would end the wait.
            elif container is not None and waiting.until_ms - 2 * self._wait_ms <= now_ms < waiting.until_ms:
                continue
            del self._waiting[number]
        for sample in held.samples or ():
            container = held.containers.get(sample.container)
            if container is None or container.number in self._waiting or container.is_host or has_names(container):
                continue
            until_ms = container.valid_from_ms + self._wait_ms
            if until_ms - 2 * self._wait_ms <= now_ms < until_ms:
                self._waiting[container.number] = _Waiting(self._base + len(self._held), until_ms)

    def _name(self, named: Container, first: int) -> None:
        """Gives the frames held back for a container the names that have come."""
        for held in list(self._held)[first - self._base :]:
            if isinstance(held, Piece):
                continue
            unnamed = held.containers.get(named.number)
            if unnamed is not None and not has_names(unnamed):
                held.containers = {**held.containers, named.number: named}

    def _release(self) -> list[Piece]:
        edge = min((w.first for w in self._waiting.values()), default=self._base + len(self._held))
        out = []
        while self._base < edge:
            held = self._held.popleft()
            out.append(held if isinstance(held, Piece) else self._piece(held))
            self._base += 1
        return out

    def _piece(self, held: _Held) -> Piece:
        frame = held.frame
        if held.samples is not None:
            return self._samples(held, held.samples)
        first_row = frame.first_row + held.skip
        rows = frame.end_row - first_row
        lost: tuple[Lost, ...] = ()
        if not held.is_readable and frame.type in _KNOWN:
            lost = (Lost("damage", first_row, rows, frame.time_ms, frame.time_ms),)
        size = len(frame.payload)
        return Piece(first_row, frame.end_row, rows, held.accepted_end, frame.time_ms, size, held.passed, lost)

    def _samples(self, held: _Held, samples: Sequence[Sample]) -> Piece:
        frame, containers = held.frame, held.containers
        first_row = frame.first_row + held.skip
        rows: Sequence[int] = range(first_row, frame.end_row)
        if held.skip:
            samples = samples[held.skip :]
        lost: list[Lost] = []
        if self.is_thinning:
            kept = [not row % self._keep_every for row in rows]
            lost += _lost("downsample", samples, rows, kept)
            samples, rows = _choose(samples, rows, kept)
        # A sample whose schema or container was lost to damage cannot be keyed by any store.
        if not all(s.container in containers and s.schema in self._raw_schemas for s in samples):
            kept = [s.container in containers and s.schema in self._raw_schemas for s in samples]
            lost += _lost("damage", samples, rows, kept)
            lost.sort(key=lambda one: one.row)
            samples, rows = _choose(samples, rows, kept)
        if not self._filter.keeps_containers:
            taken = {n for n in {s.container for s in samples} if self._filter.takes_container(containers[n])}
            samples, rows = _choose(samples, rows, [s.container in taken for s in samples])
        if not self._filter.keeps_metrics:
            samples, rows = self._project(samples, rows)
        batch = Batch(samples, rows, held.schemas, containers) if samples else None
        size, span = len(frame.payload), frame.end_row - first_row
        return Piece(first_row, frame.end_row, span, held.accepted_end, frame.time_ms, size, batch, tuple(lost))

    def _project(self, samples: Sequence[Sample], rows: Sequence[int]) -> tuple[Sequence[Sample], Sequence[int]]:
        out: list[Sample] = []
        kept: list[int] = []
        for schema_id, group in groupby(zip(samples, rows, strict=True), key=lambda pair: pair[0].schema):
            pairs = list(group)
            some, their = self._filter.samples([s for s, _ in pairs], [r for _, r in pairs], self._raw_schemas[schema_id])
            out += some
            kept += their
        return out, kept


def has_names(container: Container) -> bool:
    """Whether a runtime has told who the container is."""
    return container.name is not None or container.image is not None or container.namespace is not None


def _lost(reason: str, samples: Sequence[Sample], rows: Sequence[int], kept: Sequence[bool]) -> list[Lost]:
    """The rows that are not kept, as runs of neighbours."""
    out: list[Lost] = []
    for sample, row, is_kept in zip(samples, rows, kept, strict=True):
        if is_kept:
            continue
        one = Lost(reason, row, 1, sample.ts_ms, sample.ts_ms)
        if out and out[-1].row + out[-1].rows == row:
            out[-1] = out[-1].merged(one)
        else:
            out.append(one)
    return out


def _choose(samples: Sequence[Sample], rows: Sequence[int], kept: Sequence[bool]) -> tuple[Sequence[Sample], Sequence[int]]:
    return list(compress(samples, kept)), list(compress(rows, kept))
