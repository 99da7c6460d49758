"""Reads one container: joins what the readers of several collectors give into the values of one sample.

A plug-in is not trusted here: whatever it raises is counted against its collector and leaves None, and a value that is no
64 bit integer, finite float or None never reaches the journal.
"""

import errno
import logging
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import HierarchySource, ProbeReader, Reader, TableReader
from tidegauge.pipeline.records import MAX_INT, Container, Schema, TableRow, TableRows, Value, Values

_LOG = logging.getLogger(__name__)
_MIN_INT = -MAX_INT - 1

Tables = tuple[TableRows | None, ...]


class Source(NamedTuple):
    """A collector with its name and optional attributes filled in."""

    name: str
    collector: Any
    metrics: tuple[str, ...]
    tables: tuple[str, ...]
    is_slow: bool

    @classmethod
    def of(cls, name: str, collector: Any) -> "Source":
        return cls(
            name,
            collector,
            tuple(collector.metrics),
            tuple(getattr(collector, "tables", ())),
            bool(getattr(collector, "is_slow", False)),
        )

    def close(self) -> None:
        """Has the collector give back what it holds itself, if it holds anything."""
        close = getattr(self.collector, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as exc:  # noqa: BLE001 - a plug-in's failure must not keep the others from closing
            _LOG.warning("collector %s: close failed: %s", self.name, exc)


def in_order(collectors: Sequence[tuple[str, Any]]) -> tuple[Source, ...]:
    """Sources in the order of reading: those that know cgroups first, so that CPU counters are read nearest to the time."""
    sources = [Source.of(name, collector) for name, collector in collectors]
    return tuple(sorted(sources, key=lambda s: not isinstance(s.collector, HierarchySource)))


class Faults:
    """Errors by collector. Logged when the first container of a collector fails and when the last one is well again."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.absurd_values = 0
        self._failing: dict[str, set[int]] = {}

    def failed(self, name: str, container: Container, exc: BaseException) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        failing = self._failing.setdefault(name, set())
        if not failing:
            known = isinstance(exc, CollectError | OSError)
            _LOG.warning(
                "collector %s fails at %s: %s",
                name,
                container.path,
                exc if known else f"{type(exc).__name__}: {exc}",
                exc_info=None if known else exc,
            )
        failing.add(container.number)

    def worked(self, name: str, number: int) -> None:
        failing = self._failing.get(name)
        if failing and number in failing:
            failing.discard(number)
            if not failing:
                _LOG.info("collector %s works again", name)

    def ended(self, number: int) -> None:
        """The container is gone; its errors no longer keep a collector failing."""
        for name in self._failing:
            self.worked(name, number)


class Vanished(Exception):
    """A reader says that its container, or the part that it reads, is gone."""


class _Slot:
    """One reader of a container and where its values go."""

    __slots__ = ("fills", "keeps", "read", "read_tables", "reader", "source", "table_places", "width")

    def __init__(self, source: Source, reader: Reader) -> None:
        self.source = source
        self.reader = reader
        self.read: Callable[[], Values] = reader.read
        self.read_tables: Callable[[], Tables] | None = (
            reader.read_tables if source.tables and isinstance(reader, TableReader) else None
        )
        self.width = len(source.metrics)
        self.keeps: tuple[int, ...] | None = None
        """Own values that are new to the sample; None: all."""
        self.fills: tuple[tuple[int, int], ...] = ()
        """(own index, index in the sample) of values that an earlier reader names too; used where that one has None."""
        self.table_places: tuple[int, ...] = ()


class SlowSource(NamedTuple):
    """What a slow collector left for this container; `take` gives it once and may raise what the reader raised."""

    source: Source
    take: Callable[[], tuple[Values, Tables] | None]


class Reading:
    """The readers of one container, with the schema of what they give together. Sampling thread only."""

    def __init__(
        self,
        container: Container,
        slots: Sequence[tuple[Source, Reader]],
        slow: Sequence[SlowSource],
        schema_of: Callable[[tuple[str, ...], tuple[str, ...]], Schema],
        faults: Faults,
    ) -> None:
        self.container = container
        self._faults = faults
        self._slots = [_Slot(source, reader) for source, reader in slots]
        self._slow = [(_Slot(s.source, _NoReader()), s.take) for s in slow]
        self.probe: Callable[[], int] | None = next(
            (slot.reader.probe for slot in self._slots if isinstance(slot.reader, ProbeReader)), None
        )
        self.probe_source = next((s.source.name for s in self._slots if isinstance(s.reader, ProbeReader)), None)
        self._parks = [
            (slot.source.name, park) for slot in self._slots if (park := getattr(slot.reader, "park", None)) is not None
        ]
        self.is_open = False
        """True if readers may hold more than the probe's descriptor."""
        names: dict[str, int] = {}
        tables: dict[str, int] = {}
        self._fills = False
        for slot in [*self._slots, *(s for s, _ in self._slow)]:
            fresh = [i for i, n in enumerate(slot.source.metrics) if n not in names]
            if len(fresh) < slot.width:
                slot.keeps = tuple(fresh)
                slot.fills = tuple((i, names[n]) for i, n in enumerate(slot.source.metrics) if n in names)
                self._fills = True
            for i in fresh:
                names[slot.source.metrics[i]] = len(names)
            slot.table_places = tuple(tables.setdefault(t, len(tables)) for t in slot.source.tables)
        self.schema: Schema = schema_of(tuple(names), tuple(tables))
        self._widths = [1 + len(t.metrics) for t in self.schema.tables]
        self.held = tuple(m.held_by_cpu for m in self.schema.metrics)
        self.held_tables = tuple(all(m.held_by_cpu for m in t.metrics) for t in self.schema.tables)

    @property
    def is_empty(self) -> bool:
        """True if no collector has anything to say of this container."""
        return not self._slots and not self._slow

    def read(self, is_tolerant: bool) -> tuple[Values, Tables]:
        """Values and tables in the order of the schema.

        Raises Vanished, with nothing read, if a reader says that its container is gone; tolerant, that is an error like others.
        """
        self.is_open = True
        values: Values = ()
        tables: list[TableRows | None] = [None] * len(self._widths)
        fills: list[tuple[int, Value]] = []
        for slot in self._slots:
            values += self._place(slot, self._read_slot(slot, is_tolerant), tables, fills)
        for slot, take in self._slow:
            values += self._place(slot, self._take_slow(slot, take), tables, fills)
        if fills:
            values = _filled(values, fills)
        return self._clean(values), tuple(tables) if any(t is not None for t in tables) else ()

    def park(self) -> None:
        """Closes all descriptors but the probe's."""
        self.is_open = False
        for name, park in self._parks:
            try:
                park()
            except Exception as exc:  # noqa: BLE001 - a plug-in's error is counted and leaves the rest alone
                self._faults.failed(name, self.container, exc)

    def close(self) -> None:
        self.is_open = False
        for slot in self._slots:
            try:
                slot.reader.close()
            except Exception as exc:  # noqa: BLE001 - see park
                self._faults.failed(slot.source.name, self.container, exc)

    def _read_slot(self, slot: _Slot, is_tolerant: bool) -> tuple[Values, Tables] | None:
        try:
            values = slot.read()
            tables = slot.read_tables() if slot.read_tables is not None else ()
            if len(values) != slot.width or len(tables) != (len(slot.table_places) if slot.read_tables is not None else 0):
                raise CollectError(f"gave {len(values)} values and {len(tables)} tables, not as many as it names")
        except NoData:
            return None
        except OSError as exc:
            if not is_tolerant and (isinstance(exc, FileNotFoundError) or exc.errno == errno.ENODEV):
                raise Vanished(slot.source.name) from exc
            self._faults.failed(slot.source.name, self.container, exc)
            return None
        except Exception as exc:  # noqa: BLE001 - one plug-in's failure never stops another
            self._faults.failed(slot.source.name, self.container, exc)
            return None
        self._faults.worked(slot.source.name, self.container.number)
        return values, tables

    def _take_slow(self, slot: _Slot, take: Callable[[], tuple[Values, Tables] | None]) -> tuple[Values, Tables] | None:
        try:
            got = take()
            if got is None:
                return None
            if len(got[0]) != slot.width or len(got[1]) != len(slot.table_places):
                raise CollectError(f"gave {len(got[0])} values and {len(got[1])} tables, not as many as it names")
        except Exception as exc:  # noqa: BLE001 - raised in the worker by the plug-in, counted here
            self._faults.failed(slot.source.name, self.container, exc)
            return None
        self._faults.worked(slot.source.name, self.container.number)
        return got

    def _place(
        self,
        slot: _Slot,
        got: tuple[Values, Tables] | None,
        tables: list[TableRows | None],
        fills: list[tuple[int, Value]],
    ) -> Values:
        if got is None:
            return (None,) * (slot.width if slot.keeps is None else len(slot.keeps))
        values, rows_of = got
        for place, rows in zip(slot.table_places, rows_of, strict=False):
            if rows is not None and tables[place] is None:
                tables[place] = self._clean_rows(rows, self._widths[place])
        if slot.keeps is None:
            return values
        fills.extend((place, values[own]) for own, place in slot.fills)
        return tuple(values[i] for i in slot.keeps)

    def _clean(self, values: Values) -> Values:
        for v in values:
            kind = v.__class__
            if kind is int:
                if not _MIN_INT <= v <= MAX_INT:  # type: ignore[operator]
                    break
            elif kind is float:
                if not isfinite(v):  # type: ignore[arg-type]
                    break
            elif v is not None:
                break
        else:
            return values
        cleaned = tuple(v if is_storable(v) else None for v in values)
        self._faults.absurd_values += sum(c is None and v is not None for c, v in zip(cleaned, values, strict=True))
        return cleaned

    def _clean_rows(self, rows: TableRows, width: int) -> TableRows:
        """Rows as they may be stored. A row of the wrong shape is left out and counted."""
        fine = all(
            row.__class__ is tuple
            and len(row) == width
            and row[0].__class__ is str
            and row[0].isascii()
            and all(map(is_storable, row[1:]))
            for row in rows
        )
        if fine:
            return rows
        cleaned: list[TableRow] = []
        for row in rows:
            if not (isinstance(row, tuple) and len(row) == width and isinstance(row[0], str)):
                self._faults.absurd_values += 1
                continue
            values = tuple(v if is_storable(v) else None for v in row[1:])
            self._faults.absurd_values += sum(c is None and v is not None for c, v in zip(values, row[1:], strict=True))
            label = row[0].encode("utf-8", "backslashreplace").decode()
            cleaned.append((label, *values))
        return tuple(cleaned)


class _NoReader:
    """Stands where a slow collector's values come from its worker."""

    def read(self) -> Values:
        return ()

    def close(self) -> None:
        return None


def is_storable(value: object) -> bool:
    """True for None, an integer within 64 bit signed, and a finite float. A bool is none of them."""
    kind = value.__class__
    if kind is int:
        return _MIN_INT <= value <= MAX_INT  # type: ignore[operator]
    if kind is float:
        return isfinite(value)  # type: ignore[arg-type]
    return value is None


def _filled(values: Values, fills: Sequence[tuple[int, Value]]) -> Values:
    out = list(values)
    for place, value in fills:
        if out[place] is None:
            out[place] = value
    return tuple(out)


class Readings:
    """Makes the Reading of a container from all collectors. Sampling thread only."""

    def __init__(self, sources: Sequence[Source], catalogue: Catalogue, faults: Faults) -> None:
        self._sources = [s for s in sources if not s.is_slow]
        self._catalogue = catalogue
        self._faults = faults
        self._schemas: dict[tuple[tuple[str, ...], tuple[str, ...]], Schema] = {}

    def make(self, container: Container, slow: Sequence[SlowSource] = ()) -> tuple[Reading, bool]:
        """The container's Reading, and whether every collector could be asked: False means to try again later."""
        slots: list[tuple[Source, Reader]] = []
        is_complete = True
        for source in self._sources:
            try:
                reader = source.collector.reader(container)
            except NoData:
                continue
            except FileNotFoundError:
                is_complete = False
                continue
            except Exception as exc:  # noqa: BLE001 - one plug-in's failure never stops another
                self._faults.failed(source.name, container, exc)
                is_complete = False
                continue
            if reader is not None:
                slots.append((source, reader))
        return Reading(container, slots, slow, self._schema_of, self._faults), is_complete

    def _schema_of(self, names: tuple[str, ...], tables: tuple[str, ...]) -> Schema:
        key = (names, tables)
        if key not in self._schemas:
            self._schemas[key] = self._catalogue.schema(names, tables)
        return self._schemas[key]
