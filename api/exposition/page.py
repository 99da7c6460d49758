"""Renders the page: one line a series, from the newest values of every container. Pure but for what it caches.

Made for the number of lines. The values of containers with one schema are turned into columns, each family is one
comprehension over a column, and the labels of a container are one string, made when its record or the set of label names
changes: a general library that keeps an object for every series costs ten times as much.

Every series of containers has the same container labels, the union of all; one that a container lacks is empty, which
Prometheus takes as absent.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isfinite, isnan
from typing import Any, NamedTuple

from tidegauge.api.exposition import facts
from tidegauge.api.exposition.families import FAMILIES, Rows, Scalar
from tidegauge.api.exposition.labels import container_labels, in_order, joined, row_labels
from tidegauge.pipeline.catalogue import METRICS
from tidegauge.pipeline.latest import Latest
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import UNLIMITED, Container, Metric, Schema, TableRow, Value
from tidegauge.pipeline.series import clean_name, split_series
from tidegauge.pipeline.telemetry import header

_PER = {"ns": 1e9}
_UNITS = {m.name: m.unit for m in METRICS}
_APP = "app"
_END = "} "
"""What ends the labels."""
_STRENGTH = {
    table: place
    for place, table in enumerate(dict.fromkeys(s.table for f in FAMILIES for s in f.sources if isinstance(s, Rows)))
}
"""Tables in the order in which families name them: of two with equal lines the first counts."""
_CACHED_SERIES = 50_000
_KINDS = {f.name: (f.kind, f.help) for f in FAMILIES}
_KINDS |= {f.name: ("gauge", f.help) for f in (*facts.CONTAINER_FACTS, facts.LAST_SEEN, *facts.MACHINE_FACTS)}
NAMES = tuple(_KINDS)
"""Every family that the page may have besides our own counters and what applications and plug-ins name."""
OURS = ("cadvisor_", "container_", "machine_", "tidegauge_")
"""How no metric of an application or plug-in may begin: it could be taken for one of these, or break their families."""


class _Column(NamedTuple):
    """A Scalar at its place in the values of a schema."""

    family: str
    place: int
    tail: str
    """What stands between the container's labels and the value."""
    per: float | None
    source: Scalar


class _Cell(NamedTuple):
    """A Rows at its place in the rows of a table."""

    family: str
    place: int
    plus: int
    """0: nothing is added."""
    per: float | None
    source: Rows
    shown_as: str
    """Cells with equal ones show an instance alike."""


class _Own(NamedTuple):
    """A plug-in's metric at its place in the values of a schema."""

    family: str
    place: int
    metric: Metric


class _Plan(NamedTuple):
    """What of samples of one schema goes where."""

    columns: tuple[_Column, ...]
    tables: tuple[tuple[int, tuple[_Cell, ...]], ...]
    """Place of the table, and its cells."""
    percpu: int | None
    """Place of the table with a value for each CPU."""
    is_doubled: bool
    """Whether two tables may have a line with equal labels."""
    own: tuple[_Own, ...]
    app: int | None


class _Shown:
    """What is cached of a container."""

    __slots__ = ("container", "fact_lines", "has_quota", "labels", "machine", "text")

    def __init__(self, container: Container) -> None:
        self.container = container
        self.labels = container_labels(container)
        self.has_quota = facts.has_quota(container)
        self.text = ""
        self.fact_lines: list[tuple[str, str]] = []
        self.machine: Machine | None = None


class Renderer:
    """Renders page after page; one thread at a time."""

    def __init__(self, groups: Collection[str], *, has_timestamps: bool = False) -> None:
        self._groups = groups
        self._has_timestamps = has_timestamps
        self._shown: dict[int, _Shown] = {}
        self._names: tuple[str, ...] = ()
        self._plans: dict[int, _Plan] = {}
        self._series: dict[str, tuple[str, str] | None] = {}
        self._machine: Machine | None = None
        self._labellers: Mapping[str, Callable[[str], str]] = row_labels(())
        self._tails: dict[tuple[str, str], str] = {}

    def render(
        self, known: Sequence[tuple[Container, Latest | None]] | None, now_s: float, *, is_openmetrics: bool = False
    ) -> str:
        """The families of machine, containers and applications, without an end. None: nothing is known of containers."""
        here = _of_this_host(known or ())
        machine = next((c.machine for c, _ in here if c.is_host), None)
        if machine is not self._machine:
            self._machine = machine
            self._labellers = row_labels(machine.disks if machine else ())
            self._tails.clear()
        shown = self._update(here)
        lines: defaultdict[str, list[str]] = defaultdict(list)
        for line in facts.of_machine(machine, self._groups, known is not None):
            labels = joined(line.labels, line.labels)
            lines[line.family].append(f"{line.family}{{{labels}}} {line.value}" if labels else f"{line.family} {line.value}")
        for entry in shown:
            for family, text in entry.fact_lines:
                lines[family].append(text)
        seen = int(now_s)
        lines[facts.LAST_SEEN.name] = [f"container_last_seen{{{entry.text}}} {seen}" for entry in shown]
        own_kinds: dict[str, tuple[str, str]] = {}
        for schema, group in _by_schema(here).values():
            self._add(
                self._plan(schema), [(self._shown[c.number], latest) for c, latest in group], lines, own_kinds, is_openmetrics
            )
        parts: list[str] = []
        for name, (kind, help) in (_KINDS | own_kinds).items():
            if found := lines.get(name):
                # a counter's family has another name in OpenMetrics: nobody's may be that of somebody else's
                said = "unknown" if is_openmetrics and kind == "counter" and name in own_kinds else kind
                parts.append(header(name, said, help, is_openmetrics))
                parts += found
        return "\n".join(parts) + "\n"

    def _update(self, here: Sequence[tuple[Container, Latest | None]]) -> list[_Shown]:
        """What is cached of these containers, brought up to date; the rest is let go."""
        former, self._shown = self._shown, {}
        fresh = []
        for container, _ in here:
            entry = former.get(container.number)
            if entry is None or entry.container is not container:
                entry = _Shown(container)
                fresh.append(entry)
            elif container.is_host or entry.machine is not self._machine:
                fresh.append(entry)
            self._shown[container.number] = entry
        shown = list(self._shown.values())
        names = in_order(set().union(*{tuple(entry.labels) for entry in shown}))
        if names != self._names:
            self._names = names
            fresh = shown
        for entry in fresh:
            entry.text = joined(names, entry.labels)
            entry.machine = self._machine
            entry.fact_lines = [
                (family, f"{family}{{{entry.text}}} {value}")
                for family, value in facts.of_container(entry.container, self._machine)
            ]
        return shown

    def _plan(self, schema: Schema) -> _Plan:
        plan = self._plans.get(schema.id)
        if plan is None:
            if len(self._plans) > 256:
                self._plans.clear()
            plan = self._plans[schema.id] = _plan(schema)
        return plan

    def _add(
        self,
        plan: _Plan,
        group: Sequence[tuple[_Shown, Latest]],
        lines: defaultdict[str, list[str]],
        own_kinds: dict[str, tuple[str, str]],
        is_openmetrics: bool,
    ) -> None:
        """The lines of containers with one schema."""
        texts = [entry.text for entry, _ in group]
        stamps = [self._stamp(latest.ts_ms, is_openmetrics) for _, latest in group] if self._has_timestamps else None
        columns: list[Sequence[Value]] = list(zip(*(latest.values for _, latest in group), strict=True))
        starts = {tail: [text + tail for text in texts] for tail in {column.tail for column in plan.columns} | {_END}}
        for family, place, tail, per, source in plan.columns:
            column = columns[place]
            if source.when == "quota":
                column = [v if entry.has_quota else None for v, (entry, _) in zip(column, group, strict=True)]
            elif source.when == "no percpu":
                column = [v or None for v in column]
                if plan.percpu is not None:
                    tables = [latest.tables for _, latest in group]
                    column = [None if t and t[plan.percpu] else v for v, t in zip(column, tables, strict=True)]
            if source.unlimited is not None:
                column = [source.unlimited if v == UNLIMITED else v for v in column]
            lines[family] += _lines(family, starts[tail], column, per, stamps)
        for family, place, metric in plan.own:
            own_kinds.setdefault(family, (metric.kind, metric.help))
            shown = [v if v is None else _float(v) for v in columns[place]]
            lines[family] += _lines(family, starts[_END], shown, None, stamps)
        seen: set[str] | None = set() if plan.is_doubled else None
        for place, cells in plan.tables:
            found = [
                (text, row, "" if stamps is None else stamps[i])
                for i, (text, (_, latest)) in enumerate(zip(texts, group, strict=True))
                if latest.tables
                for row in latest.tables[place] or ()
            ]
            self._add_rows(cells, found, stamps is not None, lines, seen)
        if plan.app is not None:
            for entry, latest in group:
                if latest.tables and (rows := latest.tables[plan.app]):
                    self._add_app(rows, entry.text, lines, own_kinds)

    def _add_rows(
        self,
        cells: Sequence[_Cell],
        found: Sequence[tuple[str, TableRow, str]],
        has_stamps: bool,
        lines: defaultdict[str, list[str]],
        seen: set[str] | None,
    ) -> None:
        """`found`: rows of one table, each with the labels of its container and its time.

        `seen`: starts of lines that were made already, where two tables may have equal ones.
        """
        if not found:
            return
        columns: list[Sequence[Any]] = list(zip(*(row for _, row, _ in found), strict=True))
        stamps = [stamp for _, _, stamp in found] if has_stamps else None
        starts: dict[str, list[str]] = {}
        for family, place, plus, per, source, shown_as in cells:
            if shown_as not in starts:
                tails = [self._tail(source, shown_as, str(name)) for name in columns[0]]
                starts[shown_as] = [text + tail for (text, _, _), tail in zip(found, tails, strict=True)]
            column = columns[place]
            if source.protocol:
                column = [v if name == source.protocol else None for v, name in zip(column, columns[0], strict=True)]
            if source.skips_zero:
                column = [v or None for v in column]
            if plus:
                pairs = zip(column, columns[plus], strict=True)
                column = [None if v is None or more is None else v + more for v, more in pairs]
            if seen is not None:
                keys = [family + start for start in starts[shown_as]]
                column = [None if key in seen else v for v, key in zip(column, keys, strict=True)]
                seen.update(key for key, v in zip(keys, column, strict=True) if v is not None)
            lines[family] += _lines(family, starts[shown_as], column, per, stamps)

    def _tail(self, source: Rows, shown_as: str, name: str) -> str:
        """What stands between a container's labels and the value of a row of this instance."""
        tail = self._tails.get((shown_as, name))
        if tail is None:
            if len(self._tails) > _CACHED_SERIES:
                self._tails.clear()
            labels = ",".join(filter(None, (self._labellers[source.label](name), source.labels)))
            tail = self._tails[shown_as, name] = f",{labels}{_END}"
        return tail

    def _add_app(
        self,
        rows: Sequence[TableRow],
        text: str,
        lines: defaultdict[str, list[str]],
        own_kinds: dict[str, tuple[str, str]],
    ) -> None:
        """An application's series, each under its own name, its labels with `app_` before them."""
        for row in rows:
            series = str(row[0])
            if series not in self._series:
                if len(self._series) > _CACHED_SERIES:
                    self._series.clear()
                self._series[series] = _app_series(series)
            v = next((v for v in row[1:] if v is not None), None)
            if v is None or (named := self._series[series]) is None:
                continue
            family, tail = named
            own_kinds.setdefault(family, ("gauge", "Offered by the applications in containers."))
            lines[family].append(f"{family}{{{text}{tail}{_float(v)}")

    def _stamp(self, ts_ms: int, is_openmetrics: bool) -> str:
        return f" {ts_ms / 1000:.3f}" if is_openmetrics else f" {ts_ms}"


def _lines(
    family: str, starts: Sequence[str], column: Sequence[Value | str], per: float | None, stamps: Sequence[str] | None
) -> list[str]:
    """A line for each value that is there: the family, the container's labels, the value, its time where it is wanted."""
    head = family + "{"
    if per is not None:
        column = [v if v is None else v / per for v in column]  # type: ignore[operator]
    if stamps is None:
        return [f"{head}{start}{v}" for start, v in zip(starts, column, strict=True) if v is not None]
    return [f"{head}{start}{v}{stamp}" for start, v, stamp in zip(starts, column, stamps, strict=True) if v is not None]


def _of_this_host(known: Iterable[tuple[Container, Latest | None]]) -> list[tuple[Container, Latest | None]]:
    """Containers of this host; of two at one path, one of which is about to be told as ended, the newer."""
    newest: dict[str, tuple[Container, Latest | None]] = {}
    for pair in known:
        container = pair[0]
        if not container.remote and ((other := newest.get(container.path)) is None or other[0].number < container.number):
            newest[container.path] = pair
    return list(newest.values())


def _by_schema(here: Iterable[tuple[Container, Latest | None]]) -> dict[int, tuple[Schema, list[tuple[Container, Latest]]]]:
    out: dict[int, tuple[Schema, list[tuple[Container, Latest]]]] = {}
    for container, latest in here:
        if latest is not None:
            out.setdefault(latest.schema.id, (latest.schema, []))[1].append((container, latest))
    return out


def _plan(schema: Schema) -> _Plan:
    places = {name: place for place, name in enumerate(schema.names)}
    tables = {t.name: (place, {m.name: i for i, m in enumerate(t.metrics, 1)}) for place, t in enumerate(schema.tables)}
    columns: list[_Column] = []
    cells: defaultdict[str, list[_Cell]] = defaultdict(list)
    for family in FAMILIES:
        for source in family.sources:
            per = _PER.get(_UNITS[source.metric])
            if isinstance(source, Scalar):
                if source.metric in places:
                    tail = f",{source.labels}{_END}" if source.labels else _END
                    columns.append(_Column(family.name, places[source.metric], tail, per, source))
            elif source.table in tables:
                at = tables[source.table][1]
                plus = at[source.plus] if source.plus else 0
                shown_as = f"{source.label} {source.labels}"
                cells[source.table].append(_Cell(family.name, at[source.metric], plus, source.per or per, source, shown_as))
    percpu = tables["percpu"][0] if "percpu" in tables else None
    app = tables[_APP][0] if _APP in tables else None
    own = []
    for place, metric in enumerate(schema.metrics):
        if metric.table == "custom" and _is_free(name := clean_name(metric.name)):
            own.append(_Own(name, place, metric))
    return _Plan(
        tuple(columns),
        tuple((tables[name][0], tuple(found)) for name, found in sorted(cells.items(), key=lambda item: _STRENGTH[item[0]])),
        percpu,
        "host_disk" in tables,
        tuple(own),
        app,
    )


def _is_free(name: str) -> bool:
    """Whether a name of somebody else's may be a family of the page."""
    return not name.startswith(OURS)


def _app_series(series: str) -> tuple[str, str] | None:
    """Name of the family, and what stands behind the container's labels; None for what may not be shown."""
    try:
        name, labels = split_series(series)
    except ValueError:
        return None
    if not _is_free(name):
        return None
    labels = {f"app_{key}": value for key, value in labels.items()}
    shown = joined(labels, labels)
    return name, f",{shown}{_END}" if shown else _END


def _float(value: object) -> str:
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(value)
