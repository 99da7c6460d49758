"""Downsampling inside InfluxDB: continuous queries for 1.x, tasks in Flux for 2.x. Makes texts; no I/O.

Into a retention policy or bucket of its own (`tidegauge_5m`, `BUCKET_5m`), under the same measurements, tags and field names: a
counter is its last value of each window, a gauge its mean, with its least and greatest as `NAME_min` and `NAME_max`. A window's
time is its beginning. The last windows are made again each time, so that rows that come late are in them. Means are of the
stored values, not weighted by time; events, gaps and metadata are not copied.

Source: InfluxDB 1.6 continuous queries (RESAMPLE EVERY ... FOR), InfluxDB 2 tasks, Flux aggregateWindow().
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS
from tidegauge.pipeline.records import Kind
from tidegauge.sinks.influxdb_http import quoted

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_GAUGE = (("mean", ""), ("min", "_min"), ("max", "_max"))
"""Functions of a gauge's windows, with what their names end in."""
_TABLES: Mapping[str, Sequence[str]] = {
    "container": ("sample", "sample_ext"),
    "host": ("sample", "sample_host", "sample_ext"),
    **{table: (table,) for table in INSTANCE_LABELS if table not in ("app", "custom")},
}
"""Measurement -> tables of the catalogue whose metrics it always takes along."""


class Step(NamedTuple):
    """One resolution."""

    every_s: int
    retention_s: int | None
    """None: for ever."""
    late_s: int = 3600
    """Windows so far back are made again each time; at least one window more than the newest."""

    @property
    def word(self) -> str:
        """`5m`, as names bear it."""
        return duration(self.every_s)

    @property
    def span_s(self) -> int:
        """`late_s` in whole windows, and one more."""
        return (-(-self.late_s // self.every_s) + 1) * self.every_s


class Fields(NamedTuple):
    """Of one measurement."""

    gauges: Sequence[str]
    counters: Sequence[str]


def duration(seconds: int) -> str:
    """As both languages write it, in the largest unit that divides it."""
    unit, word = next((unit, word) for unit, word in _UNITS if seconds % unit == 0)
    return f"{seconds // unit}{word}"


def seconds(text: str) -> int:
    """Of a duration as InfluxDB prints it: `168h0m0s`. ValueError for anything else."""
    total, digits = 0, ""
    for c in text:
        if c.isdecimal():
            digits += c
            continue
        total += int(digits) * next((unit for unit, word in _UNITS if word == c), 0)
        digits = ""
    if digits:
        raise ValueError(f"expected a duration such as 168h0m0s, got {text!r}")
    return total


def fields(stored: Mapping[str, Iterable[str]]) -> dict[str, Fields]:
    """What to downsample, by measurement: the catalogue's metrics, and what the store holds besides of plug-ins."""
    kinds = {m.name: m.kind for m in METRICS}
    out = {}
    for measurement in (*_TABLES, *(m for m in ("app", "custom") if m in stored)):
        names = [m.name for m in METRICS if m.table in _TABLES.get(measurement, ())]
        held = set(stored.get(measurement, ()))
        more = sorted(n for n in held - {*names, "is_closing"} if not is_made(n, held | set(names)))
        by_kind: dict[Kind, list[str]] = {Kind.GAUGE: [], Kind.COUNTER: []}
        for name in (*names, *more):
            by_kind[kinds.get(name, Kind.COUNTER if name.endswith("_total") else Kind.GAUGE)].append(name)
        out[measurement] = Fields(by_kind[Kind.GAUGE], by_kind[Kind.COUNTER])
    return out


def is_made(name: str, names: Container[str]) -> bool:
    """True for the least and greatest of a gauge: 1.x tells the fields of all policies alike."""
    return any(name.endswith(end) and name.removesuffix(end) in names for _, end in _GAUGE if end)


def policy_name(step: Step) -> str:
    """1.x: where the windows go."""
    return f"tidegauge_{step.word}"


def query_name(step: Step, measurement: str) -> str:
    return f"tidegauge_{step.word}_{measurement}"


def select(step: Step, database: str, source: str, measurement: str, of: Fields, where: str = "") -> str:
    """InfluxQL that makes windows of one measurement out of the policy `source`."""
    parts = [f"{fn}({quoted(g)}) AS {quoted(g + end)}" for g in of.gauges for fn, end in _GAUGE]
    parts += [f"last({quoted(c)}) AS {quoted(c)}" for c in of.counters]
    place, target = quoted(database), quoted(policy_name(step))
    name = quoted(measurement)
    return (
        f"SELECT {', '.join(parts)} INTO {place}.{target}.{name} FROM {place}.{quoted(source)}.{name} "
        f"{where}GROUP BY time({step.word}), *"
    )


def continuous_query(step: Step, database: str, source: str, measurement: str, of: Fields) -> str:
    """The statement that makes it."""
    return (
        f"CREATE CONTINUOUS QUERY {quoted(query_name(step, measurement))} ON {quoted(database)} "
        f"RESAMPLE EVERY {step.word} FOR {duration(step.span_s)} BEGIN "
        f"{select(step, database, source, measurement, of)} END"
    )


def backfill(step: Step, database: str, source: str, measurement: str, of: Fields, span: tuple[int, int]) -> Iterator[str]:
    """Statements that make the windows of [from, to) seconds UTC, a day each."""
    start, end = span[0] // step.every_s * step.every_s, span[1]
    length = max(86400 // step.every_s, 1) * step.every_s
    for at in range(start, end, length):
        where = f"WHERE time >= {at}s AND time < {min(at + length, end)}s "
        yield select(step, database, source, measurement, of, where)


def bucket_name(step: Step, bucket: str) -> str:
    """2.x: where the windows go."""
    return f"{bucket}_{step.word}"


def task_name(step: Step, bucket: str, measurement: str) -> str:
    return f"tidegauge {bucket} {step.word} {measurement}"


def task(step: Step, bucket: str, org: str, measurement: str, of: Fields) -> str:
    """Flux of a task. A run's `now()` is the time it was due, so that windows are whole."""
    into = f"|> to(bucket: {quoted(bucket_name(step, bucket))}, org: {quoted(org)})"
    every = f"every: {step.word}, createEmpty: false, timeSrc: {quoted('_start')}"

    def windows(name: str, fn: str, end: str) -> str:
        renamed = f"|> map(fn: (r) => ({{r with _field: r._field + {quoted(end)}}})) " if end else ""
        return (
            f"data |> filter(fn: (r) => contains(value: r._field, set: {name})) "
            f"|> aggregateWindow(fn: {fn}, {every}) {renamed}{into}"
        )

    parts = [
        f"option task = {{name: {quoted(task_name(step, bucket, measurement))}, every: {step.word}, offset: 10s}}",
        f"data = from(bucket: {quoted(bucket)}) |> range(start: -{duration(step.span_s)}) "
        f"|> filter(fn: (r) => r._measurement == {quoted(measurement)})",
    ]
    if of.gauges:
        parts.append(f"gauges = [{', '.join(map(quoted, of.gauges))}]")
        parts += [windows("gauges", fn, end) for fn, end in _GAUGE]
    if of.counters:
        parts.append(f"counters = [{', '.join(map(quoted, of.counters))}]")
        parts.append(windows("counters", "last", ""))
    return "\n".join(parts) + "\n"
