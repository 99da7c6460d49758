"""Reads one container: joins what the readers of several collectors give into the values of one sample.

A plug-in is not trusted here: whatever it raises is counted against its collector and leaves None, and a value that is no
64 bit integer, finite float or None never reaches the journal.
"""

import errno
import logging
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, Catalogue
from tidegauge.pipeline.errors import CollectError, ConfigError, NoData
from tidegauge.pipeline.plugin import Complaining, HierarchySource, ProbeReader, Reader, TableReader
from tidegauge.pipeline.records import MAX_INT, Container, Schema, TableRow, TableRows, Value, Values

_LOG = logging.getLogger(__name__)
_MIN_INT = -MAX_INT - 1
_MAX_TEXT = 300
"""Characters of what is said of a fault: it goes to the server in a message of bounded size."""

Tables = tuple[TableRows | None, ...]


class Source(NamedTuple):
    """A collector with its name and optional attributes filled in."""

    name: str
    collector: Any
    metrics: tuple[str, ...]
    tables: tuple[str, ...]
    is_slow: bool
    interval_s: float | None = None
    """Of a slow one: how often it reads; None: as `sampler.slow_interval_s` says."""

    @classmethod
    def of(cls, name: str, collector: Any) -> "Source":
        return cls(
            name,
            collector,
            tuple(collector.metrics),
            tuple(getattr(collector, "tables", ())),
            bool(getattr(collector, "is_slow", False)),
            getattr(collector, "interval_s", None),
        )

    def complaint(self) -> str | None:
        """What the collector says that it could not read while it went on, at most some hundred characters. Any thread."""
        complaint = getattr(self.collector, "complaint", None)  # as isinstance of a Protocol costs 5 us, and this is each turn
        if complaint is None:
            return None
        try:
            said = complaint()
        except Exception as exc:  # noqa: BLE001 - one plug-in's failure never stops another
            said = f"its complaint failed: {exc}"
        return None if said is None else str(said)[:_MAX_TEXT]

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
        self.texts: dict[str, str] = {}
        """What fails now: by collector where and why it began."""
        self._failing: dict[str, set[int]] = {}

    def failed(self, name: str, container: Container, exc: BaseException) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        failing = self._failing.setdefault(name, set())
        if not failing:
            known = isinstance(exc, CollectError | OSError)
            text = str(exc) if known else f"{type(exc).__name__}: {exc}"
            self.texts[name] = f"{container.path}: {text}"[:_MAX_TEXT]
            _LOG.warning("collector %s fails at %s: %s", name, container.path, text, exc_info=None if known else exc)
        failing.add(container.number)

    def worked(self, name: str, number: int) -> None:
        failing = self._failing.get(name)
        if failing and number in failing:
            failing.discard(number)
            if not failing:
                self.texts.pop(name, None)
                _LOG.info("collector %s works again", name)

    def ended(self, number: int) -> None:
        """The container is gone; its errors no longer keep a collector failing."""
        for name in self._failing:
            self.worked(name, number)


class Complaints:
    """Logs what collectors could not read while they went on, once a change of state. One thread."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = [s for s in sources if isinstance(s.collector, Complaining)]
        self._complaining: set[str] = set()

    def listen(self) -> None:
        for source in self._sources:
            text = source.complaint()
            if (text is not None) == (source.name in self._complaining):
                continue
            if text is None:
                self._complaining.discard(source.name)
                _LOG.info("collector %s reads everything again", source.name)
            else:
                self._complaining.add(source.name)
                _LOG.warning("collector %s goes on without what it cannot read, first %s", source.name, text)


class Vanished(Exception):
    """A reader says that its container, or the part that it reads, is gone."""


Take = Callable[[], tuple[Values, Tables] | None]
"""Values and tables of one collector for one container; None: nothing this time."""


class _Slot:
    """What one collector gives for a container, and where in the sample it goes."""

    __slots__ = ("clean", "fills", "given", "is_slow", "keeps", "source", "table_places", "take", "width")

    def __init__(self, source: Source, take: Take) -> None:
        self.source = source
        self.take = take
        self.is_slow = source.is_slow
        self.width = len(source.metrics)
        self.keeps: tuple[int, ...] | None = None
        """Own values that are new to the sample; None: all."""
        self.fills: tuple[tuple[int, int], ...] = ()
        """(own index, index in the sample) of values that an earlier collector names too; used where that one has None."""
        self.table_places: tuple[int, ...] = ()
        self.given: Tables = ()
        """The last tables that were found to be all right and cannot change: the very same need no second look."""
        self.clean: Tables = ()
        """The same as they may be stored."""


def _take_of(source: Source, reader: Reader) -> Take:
    read = reader.read
    if source.tables and isinstance(reader, TableReader):
        read_tables = reader.read_tables
        return lambda: (read(), read_tables())
    return lambda: (read(), ())


class SlowSource(NamedTuple):
    """What a slow collector left for this container; `take` gives it once and may raise what the reader raised."""

    source: Source
    take: Callable[[], tuple[Values, Tables] | None]


class Reading:
    """The readers of one container, with the schema of what they give together. Sampling thread only."""

    def __init__(
        self,
        container: Container,
        readers: Sequence[tuple[Source, Reader]],
        slow: Sequence[SlowSource],
        schema_of: Callable[[tuple[str, ...], tuple[str, ...]], Schema],
        faults: Faults,
    ) -> None:
        self.container = container
        self._faults = faults
        self._readers = [(source.name, reader) for source, reader in readers]
        self._slots = [_Slot(source, _take_of(source, reader)) for source, reader in readers]
        self._slots += [_Slot(s.source, s.take) for s in slow]
        probes = [(name, reader.probe) for name, reader in self._readers if isinstance(reader, ProbeReader)]
        self.probe_source: str | None = probes[0][0] if probes else None
        self.probe: Callable[[], int] | None = probes[0][1] if probes else None
        self._parks = [(name, park) for name, reader in self._readers if (park := getattr(reader, "park", None)) is not None]
        self.is_open = False
        """True if readers may hold more than the probe's descriptor."""
        names: dict[str, int] = {}
        tables: dict[str, int] = {}
        for slot in self._slots:
            fresh = [i for i, n in enumerate(slot.source.metrics) if n not in names]
            if len(fresh) < slot.width:
                slot.keeps = tuple(fresh)
                slot.fills = tuple((i, names[n]) for i, n in enumerate(slot.source.metrics) if n in names)
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
        return not self._slots

    def read(self, is_tolerant: bool, is_quiet: bool = False) -> tuple[Values, Tables]:
        """Values and tables in the order of the schema.

        Raises Vanished, with nothing read, if a reader says that its container is gone; tolerant, that is an error like others,
        and quiet, not even that: on v1 the directories of a container go one after another.
        """
        self.is_open = True
        values: Values = ()
        tables: list[TableRows | None] = [None] * len(self._widths)
        fills: list[tuple[int, Value]] = []
        for slot in self._slots:
            values += self._place(slot, self._take(slot, is_tolerant, is_quiet), tables, fills)
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
        for name, reader in self._readers:
            try:
                reader.close()
            except Exception as exc:  # noqa: BLE001 - see park
                self._faults.failed(name, self.container, exc)

    def _take(self, slot: _Slot, is_tolerant: bool, is_quiet: bool) -> tuple[Values, Tables] | None:
        try:
            got = slot.take()
            if got is not None:
                got = self._checked(slot, *got)
        except NoData:
            return None
        except OSError as exc:
            is_gone = isinstance(exc, FileNotFoundError) or exc.errno == errno.ENODEV
            if is_gone and not slot.is_slow:
                if not is_tolerant:
                    raise Vanished(slot.source.name) from exc
                if is_quiet:
                    return None
            self._faults.failed(slot.source.name, self.container, exc)
            return None
        except Exception as exc:  # noqa: BLE001 - one plug-in's failure never stops another
            self._faults.failed(slot.source.name, self.container, exc)
            return None
        if got is not None:
            self._faults.worked(slot.source.name, self.container.number)
        return got

    def _checked(self, slot: _Slot, values: Values, tables: Tables) -> tuple[Values, Tables]:
        """Tuples of the right shape, rows mended. CollectError, or what a plug-in's own objects raise, if they cannot be."""
        if len(values) != slot.width or len(tables) not in (0, len(slot.table_places)):
            raise CollectError(f"gave {len(values)} values and {len(tables)} tables, not as many as it names")
        if tables is slot.given:
            tables = slot.clean
        else:
            given, places = tables, slot.table_places
            tables = tuple(
                [
                    None if rows is None else self._clean_rows(rows, self._widths[place])
                    for rows, place in zip(given, places, strict=False)
                ]
            )
            if tables == given:  # so they are tuples all the way down, not lists that a plug-in may change
                slot.given, slot.clean = given, tables
        return values if values.__class__ is tuple else tuple(values), tables

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
            if tables[place] is None:
                tables[place] = rows
        if slot.keeps is None:
            return values
        fills.extend((place, values[own]) for own, place in slot.fills)
        return tuple(values[i] for i in slot.keeps)

    def _clean(self, values: Values) -> Values:
        if are_storable(values):
            return values
        cleaned = tuple(v if is_storable(v) else None for v in values)
        self._faults.absurd_values += sum(c is None and v is not None for c, v in zip(cleaned, values, strict=True))
        return cleaned

    def _clean_rows(self, rows: TableRows, width: int) -> TableRows:
        """Rows as they may be stored. A row of the wrong shape is left out and counted."""
        for row in rows:
            if row.__class__ is not tuple or len(row) != width:
                break
            label = row[0]
            if label.__class__ is not str or not label.isascii() or not are_storable(row[1:]):
                break
        else:
            return rows if rows.__class__ is tuple else tuple(rows)
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


def are_storable(values: Sequence[object]) -> bool:
    """True if `is_storable` is true of each. One loop, as it stands in the path of every sample."""
    for v in values:
        kind = v.__class__
        if kind is int:
            if not _MIN_INT <= v <= MAX_INT:  # type: ignore[operator]
                return False
        elif kind is float:
            if not isfinite(v):  # type: ignore[arg-type]
                return False
        elif v is not None:
            return False
    return True


def is_storable(value: object) -> bool:
    """True for None, an integer within 64 bit signed, and a finite float. A bool is none of them."""
    return are_storable((value,))


def _filled(values: Values, fills: Sequence[tuple[int, Value]]) -> Values:
    out = list(values)
    for place, value in fills:
        if out[place] is None:
            out[place] = value
    return tuple(out)


def _check(source: Source, catalogue: Catalogue) -> None:
    for name in source.metrics:
        if name not in catalogue:
            raise ConfigError(f"collector {source.name}: metric {name} is neither in the catalogue nor in its fragment")
    for name in source.tables:
        if name not in INSTANCE_LABELS:
            raise ConfigError(f"collector {source.name}: table: expected one of {', '.join(INSTANCE_LABELS)}, got {name}")
    if len({*source.metrics, *source.tables}) < len(source.metrics) + len(source.tables):
        raise ConfigError(f"collector {source.name}: names a metric or table twice")


class Readings:
    """Makes the Reading of a container from all collectors. Sampling thread only.

    ConfigError if a collector names what the catalogue does not have, or something twice.
    """

    def __init__(self, sources: Sequence[Source], catalogue: Catalogue, faults: Faults) -> None:
        for source in sources:
            _check(source, catalogue)
        self._sources = [s for s in sources if not s.is_slow]
        self._catalogue = catalogue
        self._faults = faults
        self._schemas: dict[tuple[tuple[str, ...], tuple[str, ...]], Schema] = {}

    def make(self, container: Container, slow: Sequence[SlowSource] = ()) -> tuple[Reading, bool]:
        """The container's Reading, and whether every collector could be asked: False means to try again later."""
        readers: list[tuple[Source, Reader]] = []
        is_complete = True
        for source in self._sources:
            try:
                reader = source.collector.reader(container)
                if reader is not None and not all(callable(getattr(reader, name, None)) for name in ("read", "close")):
                    raise CollectError(f"its reader is a {type(reader).__name__}, which cannot be read and closed")
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
                readers.append((source, reader))
        return Reading(container, readers, slow, self._schema_of, self._faults), is_complete

    def _schema_of(self, names: tuple[str, ...], tables: tuple[str, ...]) -> Schema:
        key = (names, tables)
        if key not in self._schemas:
            self._schemas[key] = self._catalogue.schema(names, tables)
        return self._schemas[key]
