"""`/api/v1/model/...` over the memory store, `/api/v1/historical/...` over a store of the past: one computation for both."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from tidegauge.api.heapster.paths import NoSuchPath, Wanted, parse
from tidegauge.api.heapster.shapes import NEVER, Bucket, Buckets, BucketsList, Number, Point, Points, PointsList, time_text
from tidegauge.pipeline.catalogue import METRICS as CATALOGUE
from tidegauge.pipeline.heapster.metrics import BY_NAME, CUSTOM, METRICS, SUMMED
from tidegauge.pipeline.heapster.sets import Role, SetKey, SetType
from tidegauge.pipeline.heapster.windows import WINDOW_MS, Member, Span, Values, Windows, members
from tidegauge.pipeline.history import Bounds, HistoryReader, RollupReader, StoreError, TooMuch
from tidegauge.pipeline.times import moment_ms

__all__ = ["BadRequest", "NoSuchPath", "answer"]

AGGREGATIONS = ("average", "max", "min", "median", "count", "50-perc", "95-perc", "99-perc")
_SUFFIXES = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOST_WINDOWS = 20_000
_SPANS_MS = {WINDOW_MS: 6 * 3_600_000, 300_000: 7 * 86_400_000, 3_600_000: _MOST_WINDOWS * 3_600_000}
"""Width of windows, and up to which span they are taken."""
_WIDEST_MS = 9 * 10**12
"""Of buckets: their width in ns fits into 64 bits."""
_ROLLED = next(m for m in CATALOGUE if m.name == "cpu_usage_ns")
"""By its roll-ups it is seen how far back they reach."""
_NAMES_MS = 10 * WINDOW_MS
"""So far back metrics are looked for that are listed by name."""


class BadRequest(Exception):
    """A parameter cannot be; the text is for the client."""


def answer(
    reader: HistoryReader,
    rest: str,
    parameters: Mapping[str, str],
    bounds: Bounds,
    now_ms: int,
    *,
    reach_ms: int,
    is_past: bool,
    older: HistoryReader | None = None,
) -> object:
    """What stands at a path: a list of names, Points, Buckets or a list of these.

    `reach_ms`: how long ago a container may have been sampled to be looked at, where the question names no time. `older` is
    asked for windows of series that the reader holds no longer. Raises NoSuchPath, BadRequest, TooMuch, StoreError.
    """
    wanted = parse(rest, is_past=is_past)
    asked = _Asked(reader, bounds, now_ms, reach_ms, is_past, older)
    match wanted.kind:
        case "keys":
            return sorted({str(key) for key in asked.sets()})
        case "list":
            return asked.listed(wanted)
        case "names":
            return asked.names(wanted)
        case "series":
            made = [asked.points(wanted, i, parameters) for i in range(len(wanted.objects))]
            return PointsList(made) if wanted.is_list else made[0]
        case _:
            for name in wanted.aggregations:
                if name not in AGGREGATIONS:
                    raise BadRequest(f"Unknown aggregation {name!r}: expected some of {', '.join(AGGREGATIONS)}")
            found = [asked.buckets(wanted, i, parameters) for i in range(len(wanted.objects))]
            return BucketsList(found) if wanted.is_list else found[0]


class _Asked:
    """One request."""

    def __init__(
        self,
        reader: HistoryReader,
        bounds: Bounds,
        now_ms: int,
        reach_ms: int,
        is_past: bool,
        older: HistoryReader | None = None,
    ) -> None:
        self._reader = reader
        self._older = older
        self._bounds = bounds
        self._now_ms = now_ms
        self._reach_ms = reach_ms
        self._is_past = is_past
        self._before: _Asked | None = None
        self._found: dict[tuple[int, int], list[Member]] = {}
        """A path may name thousands of pods: whom a span has is looked up once."""

    # Lists

    def _members(self, since_ms: int | None = None, until_ms: int | None = None) -> list[Member]:
        since_ms = self._now_ms - self._reach_ms if since_ms is None else since_ms
        span = (since_ms, self._now_ms if until_ms is None else until_ms)
        if span not in self._found:
            self._found[span] = members(self._reader.containers(*span))
        return self._found[span]

    def sets(self) -> Iterable[SetKey]:
        yield SetKey(SetType.CLUSTER)
        for member in self._members():
            yield from _sets_of(member)

    def listed(self, wanted: Wanted) -> list[str]:
        within = wanted.objects[0] if wanted.objects else SetKey(SetType.CLUSTER)
        names = set()
        for key in self.sets():
            if key.type is wanted.listed and _is_in(key, within):
                parts = {SetType.NODE: key.node, SetType.NAMESPACE: key.namespace, SetType.POD: key.pod}
                names.add(parts.get(key.type, key.container))
        return sorted(names)

    def names(self, wanted: Wanted) -> list[str]:
        """Of the metrics that have a value now; those with labels are left out, as Heapster left them out."""
        found = self._members()
        span = self._span(self._now_ms - _NAMES_MS, self._now_ms)
        windows = Windows(self._reader, found, self._bounds)
        own = _matching(found, wanted, 0)
        names: set[str] = set()
        for key in own:
            summed_only = key.type in (SetType.NAMESPACE, SetType.CLUSTER)
            for about in METRICS:
                if about.is_labeled or (summed_only and about.name not in SUMMED):
                    continue
                if windows.values(key, about.name, span):
                    names.add(about.name)
            names.update(windows.applications(key, span))
        return sorted(names)

    # Series

    def points(self, wanted: Wanted, at: int, parameters: Mapping[str, str]) -> Points:
        start_ms, end_ms = self._times(parameters)
        values = self._values(wanted, at, parameters, start_ms, end_ms)
        found = [_point(ts_ms, values[ts_ms]) for ts_ms in sorted(values)]
        return Points(found, found[-1].timestamp if found else NEVER)

    def buckets(self, wanted: Wanted, at: int, parameters: Mapping[str, str]) -> Buckets:
        start_ms, end_ms = self._times(parameters)
        size_ms = _bucket_ms(parameters.get("bucket"))
        values = self._values(wanted, at, parameters, start_ms, end_ms)
        grouped: dict[int, list[float]] = {}
        for ts_ms in sorted(values):
            begin = start_ms if not size_ms else ts_ms // size_ms * size_ms
            grouped.setdefault(begin, []).append(values[ts_ms])
        made = [_aggregated(begin, grouped[begin], wanted.aggregations) for begin in sorted(grouped)]
        return Buckets([_numbered(row, made) for row in made], size_ms * 1_000_000)

    def _times(self, parameters: Mapping[str, str]) -> tuple[int, int]:
        if self._is_past and not parameters.get("start"):
            raise BadRequest("start: expected a time as 2026-01-31T12:00:00Z, got none: the past has no beginning of its own")
        end_ms = _time(parameters, "end", self._now_ms)
        start_ms = _time(parameters, "start", self._now_ms - self._reach_ms)
        if not self._is_past:
            start_ms = max(start_ms, self._now_ms - self._reach_ms)
        return start_ms, min(end_ms, self._now_ms)

    def _span(self, start_ms: int, end_ms: int) -> Span:
        """Minutes, or where the store has roll-ups windows as wide as these: by the span, or where they reach further back."""
        if not isinstance(self._reader, RollupReader) or not self._is_past:
            widths = {WINDOW_MS: _MOST_WINDOWS * WINDOW_MS}
        else:
            oldest = self._reader.oldest_ms()
            rolled = [own.oldest_ms for own in self._reader.kept(_ROLLED).values() if own.oldest_ms is not None]
            # a roll-up begins before the oldest sample by less than its width
            is_held = oldest is None or start_ms >= oldest or min(rolled, default=oldest) > oldest - 2 * max(_SPANS_MS)
            widths = {width_ms: most for width_ms, most in _SPANS_MS.items() if is_held or width_ms > WINDOW_MS}
        for width_ms, most in widths.items():
            if end_ms - start_ms <= most:
                return Span(start_ms, end_ms, width_ms)
        raise TooMuch(f"the time asked for has more than {_MOST_WINDOWS} windows")

    def _values(self, wanted: Wanted, at: int, parameters: Mapping[str, str], start_ms: int, end_ms: int) -> Values:
        self._bounds.check(0)
        about = BY_NAME.get(wanted.metric)
        labels = _labels(parameters.get("labels"))
        if start_ms >= end_ms:
            return {}
        span = self._span(start_ms, end_ms)
        found = self._members(start_ms - WINDOW_MS, end_ms)
        windows = Windows(self._reader, found, self._bounds)
        own = _matching(found, wanted, at)
        out: Values = {}
        if wanted.metric.startswith(CUSTOM) or (about is not None and about.is_labeled):
            for key in own:
                out |= windows.labeled(key, wanted.metric, span).get(labels, {})
        elif about is not None and not labels and own:
            sums = [key for key in own if key.type in (SetType.NAMESPACE, SetType.CLUSTER)]
            for values in windows.of_all(wanted.metric, span, own.__contains__, sums).values():
                out |= values
        first_ms = min(out, default=end_ms)
        if self._older is not None and start_ms < first_ms:
            before = self._before = self._before or _Asked(
                self._older, self._bounds, self._now_ms, self._reach_ms, self._is_past
            )
            # What the reader holds may begin within its first window: the store knows the whole of that, too. A store that is
            # down, or holds too much, takes nothing from what the reader knows.
            with contextlib.suppress(TooMuch, StoreError):
                out |= before._values(wanted, at, parameters, start_ms, first_ms)
        return {ts_ms: value for ts_ms, value in out.items() if start_ms <= ts_ms <= end_ms}


def _sets_of(member: Member) -> Iterable[SetKey]:
    """The container's own set and those that it is a part of."""
    key = member.key
    if member.role is not Role.SANDBOX:
        yield key
    if key.pod:
        yield SetKey(SetType.POD, key.node, key.namespace, key.pod)
        yield SetKey(SetType.NAMESPACE, namespace=key.namespace)


def _is_in(key: SetKey, within: SetKey) -> bool:
    fields = ("node", "namespace", "pod")
    return all(getattr(within, f) in ("", getattr(key, f)) for f in fields)


def _matching(found: Sequence[Member], wanted: Wanted, at: int) -> set[SetKey]:
    """The sets that a path means: it names no node of a pod, and one of the same name may have lived on several."""
    asked, uid = wanted.objects[at], wanted.uids[at] if wanted.uids else None
    if asked.type in (SetType.NAMESPACE, SetType.CLUSTER):
        return {asked}
    out = set()
    for member in found:
        if uid is not None and member.container.pod_uid != uid:
            continue
        for key in _sets_of(member):
            if key.type is asked.type and _is_in(key, asked) and asked.container in ("", key.container):
                out.add(key)
    return out


def _point(ts_ms: int, value: float) -> Point:
    """`value` must be a whole number that is not negative, for the clients' type holds no other."""
    return Point(time_text(ts_ms), max(0, round(value)), None if float(value).is_integer() and value >= 0 else float(value))


def _time(parameters: Mapping[str, str], name: str, default_ms: int) -> int:
    text = parameters.get(name)
    if not text:
        return default_ms
    if (time_ms := moment_ms(text)) is None:
        raise BadRequest(f"{name}: expected a time as 2026-01-31T12:00:00Z, got {text[:100]!r}")
    return time_ms


def _labels(text: str | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for pair in (text or "").split(","):
        if not pair:
            continue
        name, colon, value = pair.partition(":")
        if not colon or not name:
            raise BadRequest(f"invalid label pair {pair[:100]!r}: expected name:value")
        pairs.append((name, value))
    return tuple(sorted(pairs))


def _bucket_ms(text: str | None) -> int:
    """Width; 0: one for all."""
    if not text:
        return 0
    digits = text.rstrip("mshd")
    factor = _SUFFIXES.get(text[len(digits) :])
    if factor is None or not (
        digits.isascii() and digits.isdigit() and len(digits) <= 13 and 0 < int(digits) * factor <= _WIDEST_MS
    ):
        raise BadRequest(f"bucket: expected a number with ms, s, m, h or d, got {text[:100]!r}")
    return int(digits) * factor


Row = tuple[int, Mapping[str, float]]


def _aggregated(begin_ms: int, values: Sequence[float], wanted: Sequence[str]) -> Row:
    """Percentiles are of the nearest rank."""
    ordered = sorted(values)

    def rank(percent: float) -> float:
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

    make: Mapping[str, Callable[[], float]] = {
        "average": lambda: sum(values) / len(values),
        "max": lambda: ordered[-1],
        "min": lambda: ordered[0],
        "median": lambda: (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2,
        "count": lambda: len(values),
        "50-perc": lambda: rank(50),
        "95-perc": lambda: rank(95),
        "99-perc": lambda: rank(99),
    }
    return begin_ms, {name: make[name]() for name in wanted}


def _numbered(row: Row, rows: Sequence[Row]) -> Bucket:
    """An integer only where every bucket has one, so that a column is of one type."""
    begin_ms, values = row

    def number(name: str) -> Number | None:
        if name not in values:
            return None
        if all(float(other[name]).is_integer() for _, other in rows):
            return Number(integer=int(values[name]))
        return Number(real=float(values[name]))

    percentiles = {name.removesuffix("-perc"): found for name in values if name.endswith("-perc") if (found := number(name))}
    return Bucket(
        time_text(begin_ms),
        int(values["count"]) if "count" in values else None,
        number("average"),
        number("max"),
        number("min"),
        number("median"),
        percentiles or None,
    )
