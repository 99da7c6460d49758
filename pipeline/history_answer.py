"""Answers to questions about history: the one computation for all stores, over what a HistoryReader fetches. No I/O of its own.

What the numbers mean is in `history_series.py`; whether they come from samples or roll-ups, in `history_resolution.py`.
"""

import difflib
from collections.abc import Collection, Sequence

import msgspec

from tidegauge.pipeline import history_resolution as resolution
from tidegauge.pipeline.history import Bounds, ContainerKey, HistoryReader, StoredContainer, TooMuch
from tidegauge.pipeline.history_query import MAX_SERIES, MAX_VALUES, BadQuestion, Question, group_of
from tidegauge.pipeline.history_series import Cells, Series, readings_of, silence_ms_of
from tidegauge.pipeline.records import Kind, Metric

_ADDED = ("sum", "rate", "increase", "count")
_MOST_INSTANCES = 100
_CORES = ("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "percpu_usage_ns")


class Answer(msgspec.Struct, frozen=True):
    """What `series` shows, and how it came about."""

    store: str
    metric: str
    agg: str
    unit: str
    since_ms: int
    until_ms: int
    """The span that was looked at: the beginning is that of a bucket."""
    bucket_ms: int | None
    group: Sequence[str]
    resolution: str
    """`raw`, `5m` or `1h`; with roll-ups, the newest part may be of samples, and whole hours of `5m` of hourly ones."""
    method: str
    rows: int
    """Readings or roll-ups that it was computed from."""
    instances: Sequence[str]
    """Interfaces, disks ... that its containers have, chosen or not, 100 at most; empty for one value a container."""
    found: int
    """Series there are; `series` has less with `top`."""
    series: Sequence[Series]


def metric_named(reader: HistoryReader, name: str) -> Metric:
    """BadQuestion if the store knows none of the name."""
    known = {m.name: m for m in reader.metrics()}
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise BadQuestion(f"metric: there is no {name[:100]!r}{hint}; /api/v1/history/metrics lists them")
    return known[name]


def unit_of(metric: Metric, agg: str) -> str:
    """What the values of an answer are in: `cores`, `bytes/s`, `bytes` ..."""
    if agg == "count":
        return "readings"
    if metric.kind is not Kind.COUNTER or agg == "increase":
        return metric.unit
    if metric.unit == "ns":
        return "cores" if metric.name in _CORES else "s/s"
    return f"{metric.unit}/s"


def answer(reader: HistoryReader, asked: Question, bounds: Bounds, now_ms: int, store: str = "") -> Answer:
    """Raises BadQuestion, TooMuch, StoreError. Any thread; takes as long as the store and the rows take, see `bounds`."""
    metric = metric_named(reader, asked.metric)
    asked.check(metric)
    width_ms = resolution.choose(reader, asked, metric)
    try:
        return _answer(reader, resolution.aligned(reader, asked, width_ms), metric, width_ms, bounds, now_ms, store)
    except resolution.NeedsSamples as exc:
        if asked.resolution != "auto":
            raise BadQuestion(f"resolution: {exc}") from exc
        return _answer(reader, resolution.aligned(reader, asked, None), metric, None, bounds, now_ms, store)


def _answer(
    reader: HistoryReader, asked: Question, metric: Metric, width_ms: int | None, bounds: Bounds, now_ms: int, store: str
) -> Answer:
    chosen = [c for c in reader.containers(asked.since_ms, asked.until_ms) if asked.select.takes(c)]
    grouped: _Groups = {}
    for c in chosen:
        grouped.setdefault(group_of(c, asked.group), []).append(c)
    found, rows = len(grouped), 0
    if found > MAX_SERIES:
        raise BadQuestion(f"the question has {found} series, more than {MAX_SERIES}: choose containers, or group them")
    if asked.top is not None and asked.top < found and asked.bucket_ms is not None:
        whole = msgspec.structs.replace(asked, bucket_ms=None)
        first, rows, _ = _series(reader, whole, metric, width_ms, grouped, bounds, now_ms)
        grouped = {key: grouped[key] for key, _ in _greatest(first, asked.top)}
    count = 1 if asked.bucket_ms is None else len(asked.starts())
    if len(grouped) * count > MAX_VALUES:
        raise BadQuestion(
            f"the question has {len(grouped)} series of {count} buckets, more than {MAX_VALUES} values: "
            "choose longer buckets, fewer containers, or top"
        )
    made, more, instances = _series(reader, asked, metric, width_ms, grouped, bounds, now_ms)
    if asked.top is not None:
        made = _greatest(made, asked.top)
    return Answer(
        store=store,
        metric=metric.name,
        agg=asked.agg,
        unit=unit_of(metric, asked.agg),
        since_ms=asked.since_ms,
        until_ms=asked.until_ms,
        bucket_ms=asked.bucket_ms,
        group=asked.group,
        resolution=resolution.name_of(width_ms),
        method=_method(asked, resolution.needs_sketch(asked, metric, width_ms)),
        rows=rows + more,
        instances=sorted(instances - {""})[:_MOST_INSTANCES],
        found=found,
        series=[series for _, series in made],
    )


_Key = tuple[tuple[str, str], ...]
_Groups = dict[_Key, list[StoredContainer]]
_Made = list[tuple[_Key, Series]]


def _greatest(made: _Made, top: int) -> _Made:
    return sorted(made, key=lambda pair: (pair[1].value is None, -(pair[1].value or 0)))[:top]


def _method(asked: Question, has_sketch: bool) -> str:
    if has_sketch:
        return "nearest rank, of sketches: within 1 % of the value, weighted by time"
    if asked.percentile is not None:
        return "nearest rank, exact, weighted by time"
    return "exact" if asked.agg in ("min", "max", "last", "count", "increase") else "exact, weighted by time"


def _series(
    reader: HistoryReader,
    asked: Question,
    metric: Metric,
    width_ms: int | None,
    grouped: _Groups,
    bounds: Bounds,
    now_ms: int,
) -> tuple[_Made, int, set[str]]:
    """A series a group, how many readings and roll-ups were read, and the instances there are."""
    containers = [c for group in grouped.values() for c in group]
    if not containers:
        return [], 0, set()
    slack_ms = max(silence_ms_of(c, metric) for c in containers)
    starts = resolution.sample_starts(reader, asked, width_ms, containers)
    for from_ms in starts:
        span = (from_ms - slack_ms, asked.until_ms + slack_ms)
        try:
            fetched = reader.series(containers, metric, *span, bounds)
            break
        except TooMuch:
            if from_ms == starts[-1]:
                raise
    gaps = reader.gaps(containers, *span)
    rolled, rows, instances = resolution.rolled(reader, asked, metric, width_ms, containers, from_ms, bounds)
    instances.update(name for own in fetched.values() for name in own)
    rows += sum(len(readings) for own in fetched.values() for readings in own.values())
    out: _Made = []
    for key, group in grouped.items():
        read = {c.key: readings_of(fetched.get(c.key, {}), asked.instance, metric) for c in group}
        if asked.agg in _ADDED:
            known = {c.key for c in group if rolled.get(c.key) or any(r[2] is not None for r in read[c.key])}
            group = _outermost(group, known)
        series = Cells(asked, metric, width_ms)
        for c in group:
            bounds.check(0)
            raw = (read[c.key], gaps.get(c.key, ()), from_ms)
            series.add(c, rolled.get(c.key, ()), raw, now_ms)
        out.append((key, series.result(dict(key), group)))
    return out, rows, instances


def _outermost(group: Sequence[StoredContainer], known: Collection[ContainerKey]) -> list[StoredContainer]:
    """Without those below another of the group that has values: what these use is in that one's values already."""
    paths = {(c.host, c.path) for c in group if c.key in known}

    def is_below(c: StoredContainer) -> bool:
        path = c.path
        while path != "/":
            path = path.rpartition("/")[0] or "/"
            if (c.host, path) in paths:
                return True
        return False

    return [c for c in group if not is_below(c)]
