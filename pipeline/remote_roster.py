"""What one other host tells, made into records of its own source. No thread, no network; one thread uses it.

Times are the other host's throughout, whatever our clock says. A reading is taken once: only those later than the last one
that is in the log.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.clock import Clock
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.handover import Handover
from tidegauge.pipeline.housekeeping import is_included, is_pruned
from tidegauge.pipeline.identity import REMOTE_NUMBERS
from tidegauge.pipeline.log_thread import Outlet
from tidegauge.pipeline.metadata import MAX_TEXT, MetadataConfig, bounded, described_fields
from tidegauge.pipeline.pace import paced
from tidegauge.pipeline.plugin import RemoteAnswer, RemoteContainer, RemoteReading
from tidegauge.pipeline.reading import is_storable
from tidegauge.pipeline.records import MAX_INT, Container, End, Event, Gap, Sample, Schema, TableRow, TableRows
from tidegauge.pipeline.remote_options import RemoteOptions
from tidegauge.pipeline.sampler_stats import SamplerStats

_LOG = logging.getLogger(__name__)
_NAMESPACE = uuid.UUID("4b1c0d7e-0f52-5d0e-9a3b-6f1f3a1d9c55")
_OF_THE_HOST_ALONE = ("sample_host", "host_cpu", "host_disk", "filesystem")
_OVERLAP_MS = 3000
"""Readings are asked for from so long before the newest: one may be stamped before another and come after it."""
_STEP_MS = 3000
"""So far behind our newest reading of it a host's clock must be to have been set back; its `Date` has whole seconds."""
_RECENT_MS = 120_000
_MISFITS = 3
"""After so many answers without a reading of the last two minutes before its `Date`, that is not its clock."""
_FUTURE_MS = 3_600_000
"""A container that was made so long after the newest reading of all was made at no time that is known."""
_SAME_MS = 1000
"""Two times of creation that differ by less are one: they are reckoned from the uptime."""


def source_of(machine: str, name: str) -> str:
    """UUID of another host: from what it says of its machine, else from the name that it has in the configuration."""
    return str(uuid.uuid5(_NAMESPACE, f"machine {machine}" if machine else f"name {name}"))


def instance_of(boot_id: str, path: str, created_ms: int) -> str:
    """16 hex digits that stand for this container within this boot; of the host `/` for the boot."""
    text = "\0".join((boot_id, path, "" if path == "/" else str(created_ms)))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


class Numbers:
    """Numbers for the containers of all remotes. Any thread: `next` of a count is one step of the interpreter."""

    def __init__(self, first: int, most: int = REMOTE_NUMBERS) -> None:
        self._numbers = count(first)
        self._end = first + most

    def take(self) -> int:
        """CollectError when all are given out: those that follow are of the next start."""
        number = next(self._numbers)
        if number >= self._end:
            raise CollectError("other hosts had so many containers that no number is left for another before a restart")
        return number


class _Seen:
    """A container that is there, and what of it is in the log."""

    def __init__(self, record: Container, last_ms: int) -> None:
        self.record = record
        self.last_ms = last_ms
        """Time of the last reading in the log; less than every time if there is none."""
        self.cpu_ns: int | None = None


class RemoteRoster:
    """Containers of one other host by path.

    `known` are those that the log shows as live, `last_ms` the time of the last reading in the log by container number.
    """

    def __init__(
        self,
        name: str,
        options: RemoteOptions,
        intervals_s: tuple[float, float],
        keeps_history: bool,
        schemas: tuple[Schema, Schema],
        metadata: MetadataConfig,
        numbers: Numbers,
        outlet: Outlet,
        clock: Clock,
        known: Sequence[Container] = (),
        last_ms: Mapping[int, int] | None = None,
    ) -> None:
        self._name = name
        self._options = options
        self._base_s, self._max_s = intervals_s
        # several readings are missing before it is a gap: hosts sample with some jitter
        step_s = self._base_s if keeps_history else max(self._base_s, options.interval_s)
        self._hole_ms = round(3000 * step_s) + 2000
        self._schemas = schemas
        self._metadata = metadata
        self._numbers = numbers
        self._outlet = outlet
        self._clock = clock
        self._handover: Handover | None = None
        self._source = ""
        self._boot_id = ""
        self._epoch = 0
        self._does_date_fit: bool | None = None
        """Whether the `Date` of answers is the clock of the readings; None: not known yet."""
        self._misfits = 0
        last_ms = last_ms or {}
        self._newest_ms: int | None = max((last_ms[c.number] for c in known if c.number in last_ms), default=None)
        floor = self._newest_ms or 0
        self._lives = {c.path: _Seen(c, last_ms.get(c.number, floor)) for c in known}
        self._host_ms: int | None = self._lives["/"].last_ms or None if "/" in self._lives else self._newest_ms
        if known:
            self._source, self._boot_id = known[0].source, known[0].boot_id
            self._epoch = max(c.epoch for c in known)
        self.gap_reason = "agent_down"
        """Why readings are missing, if some are; whoever asks sets it to `remote_down` when an answer fails to come."""
        self.stats = SamplerStats()
        self.absurd_values = 0

    @property
    def source(self) -> str:
        """UUID of the other host; empty before its first answer of all."""
        return self._source

    @property
    def since_ms(self) -> int | None:
        """From when on readings are wanted; None: all that there are."""
        return None if self._newest_ms is None else max(0, self._newest_ms - _OVERLAP_MS)

    @property
    def containers(self) -> int:
        return len(self._lives)

    def take(self, answer: RemoteAnswer) -> None:
        """Writes what is new in an answer. CollectError, after all the rest is written, if there was no number for some."""
        source = source_of(answer.machine, self._name)
        if self._handover is None or (source, answer.boot_id) != (self._source, self._boot_id):
            self._begin(source, answer.boot_id)
        handover = self._handover
        assert handover is not None
        if self._is_set_back(answer):
            self._begin_epoch(answer)
        wanted = [c for c in answer.containers if self._is_wanted(c.path)]
        latest_ms = self._latest_ms(answer)
        fresh: list[tuple[int, _Seen, RemoteReading]] = []
        lack: CollectError | None = None
        now_ms = max((r.ts_ms for c in wanted for r in c.readings if r.ts_ms <= latest_ms), default=self._newest_ms or 0)
        self._end_missing({c.path for c in wanted}, {c.path for c in answer.containers}, now_ms)
        for container in paced(wanted):
            try:
                seen = self._settle(container, answer, now_ms, latest_ms)
            except CollectError as exc:
                lack = exc
                continue
            for reading in container.readings:
                if seen.last_ms < reading.ts_ms <= latest_ms:
                    seen.last_ms = reading.ts_ms
                    fresh.append((reading.ts_ms, seen, reading))
        self._note_hole(fresh)
        fresh.sort(key=lambda item: item[0])
        for ts_ms, seen, reading in paced(fresh):
            schema = self._schemas[0 if seen.record.is_host else 1]
            handover.add_sample(self._sample(seen, ts_ms, schema, reading), schema)
            if isinstance(cpu_ns := reading.values.get("cpu_usage_ns"), int):
                seen.cpu_ns = cpu_ns
        if fresh:
            self._newest_ms = max(self._newest_ms or 0, fresh[-1][0])
            self.gap_reason = "stall"
        self.flush()
        if lack is not None:
            raise lack

    def flush(self) -> None:
        if self._handover is not None:
            self._handover.flush()

    # Who it is.

    def _begin(self, source: str, boot_id: str) -> None:
        """Another machine answers, or it has booted, or it is the first answer of this start."""
        old = self._handover or Handover(self._outlet, self._source, self.stats, self._now_ms, self._log_ms)
        if (source, boot_id) != (self._source, self._boot_id):
            for seen in list(self._lives.values()):
                self._end(old, seen, seen.last_ms, is_gone=True)
            self._epoch = 0
            if source != self._source:
                self._newest_ms = self._host_ms = None
        old.flush()
        if source != self._source or self._handover is None:
            self._handover = Handover(self._outlet, source, self.stats, self._now_ms, self._log_ms)
        self._source, self._boot_id = source, boot_id

    def _is_set_back(self, answer: RemoteAnswer) -> bool:
        """True if the other host's clock is behind its own readings that we have. Not known where its `Date` never fits."""
        if answer.date_ms is None or self._does_date_fit is False:
            return False
        latest_ms = answer.date_ms + _STEP_MS
        if self._newest_ms is not None and self._newest_ms > latest_ms:
            return True
        times = [r.ts_ms for c in answer.containers for r in c.readings]
        if self._does_date_fit is None and times:
            if any(answer.date_ms - _RECENT_MS < t <= latest_ms for t in times):
                self._does_date_fit = True
            elif max(times) > latest_ms:
                # just after a step there may be none but readings of before it
                self._misfits += 1
                if not self._epoch or self._misfits >= _MISFITS:
                    self._does_date_fit = False
        return False

    def _begin_epoch(self, answer: RemoteAnswer) -> None:
        """New numbers for all: from here on times repeat."""
        handover, date_ms, newest_ms = self._handover, answer.date_ms, self._newest_ms
        assert handover is not None
        assert date_ms is not None
        assert newest_ms is not None
        _LOG.warning("remote %s: its clock was set back by about %d s", self._name, (newest_ms - date_ms) // 1000)
        handover.add(Event(date_ms, "clock_step", None, {"step_ms": date_ms - newest_ms}, source=self._source))
        self._epoch += 1
        floor = date_ms - round(1000 * self._options.interval_s)
        for seen in self._lives.values():
            old = seen.record
            handover.add(End(old.number, max(seen.last_ms, old.valid_from_ms)))
            number = self._numbers.take()
            seen.record = msgspec.structs.replace(old, number=number, epoch=self._epoch, valid_from_ms=floor, row=0)
            seen.last_ms = floor
            handover.add(seen.record)
        self._newest_ms = self._host_ms = self._does_date_fit = None
        self._misfits = 0

    def _latest_ms(self, answer: RemoteAnswer) -> int:
        """Readings later than this are of before a step of the clock, or nonsense. Not known where the `Date` is not."""
        if answer.date_ms is None or self._does_date_fit is False or (self._does_date_fit is None and not self._epoch):
            return MAX_INT
        return answer.date_ms + _STEP_MS

    # Its containers.

    def _is_wanted(self, path: str) -> bool:
        if path == "/":
            return True
        if len(path) > MAX_TEXT or is_pruned(self._options.exclude, path):
            return False
        return is_included(self._options.include, path)

    def _end_missing(self, wanted: set[str], listed: set[str], now_ms: int) -> None:
        assert self._handover is not None
        for path, seen in list(self._lives.items()):
            if path not in wanted:
                self._end(self._handover, seen, now_ms, is_gone=path not in listed)

    def _settle(self, container: RemoteContainer, answer: RemoteAnswer, now_ms: int, latest_ms: int) -> _Seen:
        """The container as it is in the log, written there if it is new or has changed."""
        handover = self._handover
        assert handover is not None
        if container.created_ms is not None and container.created_ms > now_ms + _FUTURE_MS:
            container = container._replace(created_ms=None)
        seen = self._lives.get(container.path)
        if seen is not None and not self._is_same(seen, container):
            self._end(handover, seen, seen.last_ms, is_gone=True)
            seen = None
        first_ms = next(
            (r.ts_ms for r in container.readings if (0 if seen is None else seen.last_ms) < r.ts_ms <= latest_ms), now_ms
        )
        if seen is None:
            created_ms = container.created_ms if container.created_ms is not None else first_ms
            record = Container(
                number=self._numbers.take(),
                source=self._source,
                instance=instance_of(self._boot_id, container.path, created_ms),
                epoch=self._epoch,
                boot_id=self._boot_id,
                path=container.path,
                host=answer.host,
                created_ms=created_ms,
                valid_from_ms=first_ms,
                base_interval_s=self._base_s,
                max_interval_s=self._max_s,
                remote=self._name,
                **self._fields(container),
            )
            seen = self._lives[container.path] = _Seen(record, -1)
            handover.add(record)
            if container.path != "/":
                handover.event(created_ms, "creation", record.number, {"path": container.path})
            return seen
        record = msgspec.structs.replace(
            seen.record,
            host=answer.host,
            base_interval_s=self._base_s,
            max_interval_s=self._max_s,
            **self._fields(container),
        )
        if record != seen.record:
            later_ms = max(first_ms, seen.record.valid_from_ms + 1)
            seen.record = msgspec.structs.replace(record, valid_from_ms=later_ms, row=0)
            handover.add(seen.record)
        return seen

    def _is_same(self, seen: _Seen, container: RemoteContainer) -> bool:
        """False if it was made anew at the same path.

        One that was made before our last reading of it is the same. So is one with readings of before the time at which it is
        said to be made, if its CPU counter did not go back: times of cgroup directories are not steady.
        """
        created_ms = container.created_ms
        if container.path == "/" or created_ms is None:
            return True
        if created_ms <= max(seen.last_ms, seen.record.created_ms + _SAME_MS):
            return True
        if not any(r.ts_ms <= seen.last_ms for r in container.readings):
            return False
        cpu_ns = container.readings[-1].values.get("cpu_usage_ns")
        return seen.cpu_ns is None or not isinstance(cpu_ns, int) or cpu_ns >= seen.cpu_ns

    def _fields(self, container: RemoteContainer) -> dict[str, Any]:
        fields: dict[str, Any] = {"spec": container.spec}
        if container.ref is not None and container.said is not None:
            fields |= bounded(described_fields(container.ref, container.said, self._metadata))[0]
        return fields

    def _end(self, handover: Handover, seen: _Seen, ts_ms: int, is_gone: bool) -> None:
        record = seen.record
        ts_ms = max(ts_ms, seen.last_ms, record.valid_from_ms)
        del self._lives[record.path]
        if is_gone and not record.is_host:
            handover.event(ts_ms, "deletion", record.number, {"path": record.path})
        handover.add(End(record.number, ts_ms))

    # Its readings.

    def _note_hole(self, fresh: Sequence[tuple[int, _Seen, RemoteReading]]) -> None:
        """Writes a gap if readings are missing between the last one and these; told by the host, which is never idle."""
        of_host = [ts_ms for ts_ms, seen, _ in fresh if seen.record.is_host]
        last_ms = self._host_ms if of_host else self._newest_ms
        first_ms = min(of_host or [ts_ms for ts_ms, _, _ in fresh], default=None)
        if of_host:
            self._host_ms = max(of_host)
        if last_ms is not None and first_ms is not None and first_ms - last_ms > self._hole_ms:
            assert self._handover is not None
            self._handover.add(Gap(self._source, last_ms, first_ms, self.gap_reason))

    def _sample(self, seen: _Seen, ts_ms: int, schema: Schema, reading: RemoteReading) -> Sample:
        values = tuple(reading.values.get(name) for name in schema.names)
        if not all(map(is_storable, values)):
            self.absurd_values += sum(not is_storable(v) for v in values)
            values = tuple(v if is_storable(v) else None for v in values)
        tables = tuple(
            None if (rows := reading.tables.get(t.name)) is None else self._rows(rows, len(t.metrics) + 1)
            for t in schema.tables
        )
        return Sample(seen.record.number, ts_ms, schema.id, values, tables)

    def _rows(self, rows: TableRows, width: int) -> TableRows:
        """Rows as they may be stored; one of the wrong shape is left out and counted."""
        kept: list[TableRow] = []
        for row in rows:
            if len(row) == width and isinstance(row[0], str) and all(map(is_storable, row[1:])):
                kept.append(tuple(row))
            else:
                self.absurd_values += 1
        return tuple(kept)

    # Time.

    def _now_ms(self) -> int:
        """The other host's time, as far as its readings tell it."""
        return self._newest_ms or 0

    def _log_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def schemas_of(
    catalogue: Catalogue, metrics: Sequence[str], tables: Sequence[str], is_on: Callable[[str], bool]
) -> tuple[Schema, Schema]:
    """Schemas of the host and of its containers: of what a format can give, what is switched on."""

    def of(is_host: bool) -> Schema:
        def has(table: str) -> bool:
            return is_host or table not in _OF_THE_HOST_ALONE

        names = [n for n in metrics if is_on(catalogue[n].group) and has(catalogue[n].table)]
        kept = [t for t in tables if has(t) and any(is_on(m.group) for m in catalogue.of_table(t))]
        return catalogue.schema(names, kept)

    return of(True), of(False)
