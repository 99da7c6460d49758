"""Questions about the past: what can be asked, and how it is written. Pure: no store, no clock of its own."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import msgspec
from msgspec.structs import replace

from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.history import StoredContainer
from tidegauge.pipeline.records import Kind, Metric
from tidegauge.pipeline.times import moment_ms

MAX_VALUES = 100_000
"""Series times buckets of an answer, at most."""
MAX_SERIES = 5_000
LONGEST_MS = 100 * 366 * 86_400_000
DEFAULT_SPAN_MS = 3_600_000
LATEST_MS = 9_151_488_000_000
"""2260: stores that count ns in 64 bits go no further than 2262."""

Resolution = Literal["auto", "raw", "5m", "1h"]
RESOLUTIONS: Mapping[str, int] = MappingProxyType({"5m": 300_000, "1h": 3_600_000})
"""Roll-ups and the width of their buckets."""
AGGREGATES = ("avg", "min", "max", "last", "sum", "count", "increase", "rate", "median")
"""And any percentile: `p95`, `p99.9`."""
GROUPS = ("container", "name", "host", "namespace", "image", "pod", "runtime")
"""And any label: `label:app`."""
_OF_ONE = ("avg", "min", "max", "last", "median")

_PERCENTILE = re.compile(r"p(\d{1,3}(?:\.\d{1,6})?)", re.ASCII)
_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d|w)", re.ASCII)
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class BadQuestion(TidegaugeError):
    """It cannot be asked so: the text names the parameter, what is expected, and what was given."""


class Select(msgspec.Struct, frozen=True, kw_only=True):
    """Which containers: all fields that are given must fit, and of a field's texts one. Exact, or with `*`, `?` and `[...]`."""

    container: tuple[str, ...] = ()
    """Path, name, alias, or beginning of the id (four characters or more)."""
    name: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    """The runtime's, or the beginning of it, or the 16 digits of the instance."""
    host: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    """The pod's in Kubernetes, else the runtime's."""
    image: tuple[str, ...] = ()
    pod: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """(key, text); each must fit."""

    def takes(self, c: StoredContainer) -> bool:
        return (
            _any(self.container, lambda text: _is_called(c, text))
            and _any(self.name, lambda text: _fits(c.name, text))
            and _any(self.path, lambda text: _fits(c.path, text))
            and _any(self.id, lambda text: _fits(c.container_id, text) or _begins(c, text) or c.key.instance == text)
            and _any(self.host, lambda text: _fits(c.host, text))
            and _any(self.namespace, lambda text: _fits(namespace_of(c), text))
            and _any(self.image, lambda text: _fits(c.image, text))
            and _any(self.pod, lambda text: _fits(c.pod, text))
            and _any(self.runtime, lambda text: _fits(c.runtime, text))
            and all(_fits(c.labels.get(key), text) for key, text in self.labels)
        )


def namespace_of(c: StoredContainer) -> str | None:
    return c.namespace if c.pod_namespace is None else c.pod_namespace


def _any(texts: Sequence[str], fits: Callable[[str], bool]) -> bool:
    return not texts or any(map(fits, texts))


def _fits(value: str | None, text: str) -> bool:
    return value is not None and (value == text or fnmatchcase(value, text))


def fits_instance(name: str, instance: str | None) -> bool:
    """Whether an interface, disk ... is one of those that `Question.instance` names."""
    return instance is None or _fits(name, instance)


def _begins(c: StoredContainer, text: str) -> bool:
    return len(text) >= 4 and c.container_id is not None and c.container_id.startswith(text)


def _is_called(c: StoredContainer, text: str) -> bool:
    return _fits(c.path, text) or _fits(c.name, text) or any(_fits(alias, text) for alias in c.aliases) or _begins(c, text)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of some containers between two times, in buckets. `check` says whether it can be asked."""

    metric: str
    """A name in the catalogue, or of a plug-in. Counters are asked as rates, but for `increase`."""
    since_ms: int
    until_ms: int
    select: Select = Select()
    instance: str | None = None
    """Of a metric by interface, disk ...: those that fit, exact or with `*`. None: all of them, summed."""
    agg: str = "avg"
    bucket_ms: int | None = None
    """Width; buckets begin at multiples of it since 1970, the last one is cut at `until_ms`. None: one for all."""
    group: tuple[str, ...] = ("container",)
    """Containers with equal ones make one series. () for all in one."""
    top: int | None = None
    """The series with the greatest values over the whole span, so many."""
    resolution: Resolution = "auto"

    @property
    def percentile(self) -> float | None:
        """0 to 100; None where another aggregate is asked for."""
        return percentile_of(self.agg)

    def aligned(self) -> "Question":
        """The same, from the beginning of its first bucket on."""
        return self if self.bucket_ms is None else replace(self, since_ms=self.since_ms // self.bucket_ms * self.bucket_ms)

    def starts(self) -> range:
        """When each bucket begins, of a question that is aligned."""
        return range(self.since_ms, self.until_ms, self.bucket_ms or self.until_ms - self.since_ms)

    def check(self, metric: Metric) -> None:
        """Raises BadQuestion for what does not fit together. `metric` is the one that is named."""
        check_span(self.since_ms, self.until_ms)
        if self.until_ms - self.since_ms > LONGEST_MS:
            raise BadQuestion("since, until: expected times within 100 years")
        if self.bucket_ms is not None:
            if not 0 < self.bucket_ms <= LONGEST_MS:
                raise BadQuestion("bucket: expected a duration above 0 and up to 100 years, such as 5m")
            if (self.until_ms - self.since_ms) // self.bucket_ms >= MAX_VALUES:
                raise BadQuestion(f"bucket: the span has more than {MAX_VALUES} of them: choose longer ones")
        if self.agg not in AGGREGATES and self.percentile is None:
            raise BadQuestion(f"agg: expected one of {', '.join(AGGREGATES)} or a percentile such as p95, got {self.agg!r}")
        if self.agg in ("increase", "rate") and metric.kind is not Kind.COUNTER:
            raise BadQuestion(f"agg: {metric.name} is a gauge: it has no {self.agg}; expected one of {', '.join(_OF_ONE)}, sum")
        for each in self.group:
            if each not in GROUPS and not (each.startswith("label:") and each != "label:"):
                raise BadQuestion(f"group: expected one of {', '.join(GROUPS)} or label:KEY, got {each!r}")
        if self.agg == "last" and "container" not in self.group:
            raise BadQuestion("agg: the last value is one container's; ask for sum, avg, min or max of a group")
        if self.instance is not None and metric.table.startswith("sample"):
            raise BadQuestion(f"instance: {metric.name} has one value a container")
        if self.top is not None and not 0 < self.top <= MAX_SERIES:
            raise BadQuestion(f"top: expected a number from 1 to {MAX_SERIES}, got {self.top}")


def check_span(since_ms: int, until_ms: int) -> None:
    """Raises BadQuestion."""
    if not since_ms < until_ms:
        raise BadQuestion("since, until: expected a beginning before the end")
    if since_ms < -LATEST_MS or until_ms > LATEST_MS:
        raise BadQuestion("since, until: expected times from 1680 to 2260")


def percentile_of(agg: str) -> float | None:
    if agg == "median":
        return 50.0
    found = _PERCENTILE.fullmatch(agg)
    percent = float(found[1]) if found is not None else math.inf
    return percent if percent <= 100 else None


def group_of(c: StoredContainer, group: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What names the series that a container is part of: (key, value), the value empty where it has none."""
    out: list[tuple[str, str]] = []
    for each in group:
        if each == "container":
            out += [("host", c.host), ("path", c.path)]
        elif each.startswith("label:"):
            out.append((each, c.labels.get(each.removeprefix("label:"), "")))
        else:
            out.append((each, (namespace_of(c) if each == "namespace" else getattr(c, each)) or ""))
    return tuple(out)


class Given(NamedTuple):
    """Parameters as text: of a URL, or of a command line."""

    values: Mapping[str, Sequence[str]]

    def one(self, name: str) -> str | None:
        """BadQuestion if there are several."""
        found = self.values.get(name, ())
        if len(found) > 1:
            raise BadQuestion(f"{name}: expected one, got {len(found)}")
        return found[0] if found else None

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def number(self, name: str) -> int | None:
        text = self.one(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise BadQuestion(f"{name}: expected a number, got {text!r}")
        return int(text)


SELECTORS = ("container", "name", "path", "id", "host", "namespace", "image", "pod", "runtime", "label")
SPAN = ("since", "until")
PARAMETERS = ("metric", *SPAN, *SELECTORS, "instance", "agg", "bucket", "group", "top", "resolution", "store")


def question(given: Given, now_ms: int) -> Question:
    """BadQuestion for what cannot be read; whether it fits the metric, `Question.check` says."""
    metric = given.one("metric")
    if not metric:
        raise BadQuestion("metric: expected a name, such as cpu_usage_ns; /api/v1/history/metrics lists them")
    since_ms, until_ms = span(given, now_ms)
    bucket = given.one("bucket")
    group = given.all("group")
    text = given.one("resolution") or "auto"
    resolution = next((r for r in get_args(Resolution) if r == text), None)
    if resolution is None:
        raise BadQuestion(f"resolution: expected one of {', '.join(get_args(Resolution))}, got {text!r}")
    return Question(
        metric=metric,
        since_ms=since_ms,
        until_ms=until_ms,
        select=select(given),
        instance=given.one("instance"),
        agg=given.one("agg") or "avg",
        bucket_ms=None if bucket is None else duration_ms(bucket, "bucket"),
        group=tuple(g for text in group for g in text.split(",") if g != "none") if group else ("container",),
        top=given.number("top"),
        resolution=resolution,
    )


def select(given: Given) -> Select:
    labels = []
    for text in given.all("label"):
        key, sep, value = text.partition("=")
        if not sep or not key:
            raise BadQuestion(f"label: expected KEY=VALUE, got {text!r}")
        labels.append((key, value))
    return Select(labels=tuple(labels), **{name: given.all(name) for name in SELECTORS if name != "label"})


def span(given: Given, now_ms: int) -> tuple[int, int]:
    """`since` and `until`; without them the hour before the end, and now."""
    until = given.one("until")
    until_ms = now_ms if until is None else time_ms(until, "until", now_ms)
    since = given.one("since")
    return (until_ms - DEFAULT_SPAN_MS if since is None else time_ms(since, "since", now_ms)), until_ms


def time_ms(text: str, name: str, now_ms: int) -> int:
    """`24h` (before now), `now`, ms since 1970, or RFC 3339 with its zone."""
    if text == "now":
        return now_ms
    if (found := _DURATION.fullmatch(text)) is not None:
        return now_ms - int(found[1]) * _UNITS[found[2]]
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 17:
        return int(text)
    if (found_ms := moment_ms(text)) is None:
        raise BadQuestion(f"{name}: expected 24h (before now), ms since 1970 or a time as 2026-01-31T12:00:00Z, got {text!r}")
    return found_ms


def duration_ms(text: str, name: str) -> int:
    """`30s`, `5m`, `1h`, `1d`; several after each other add up."""
    parts = _DURATION.findall(text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise BadQuestion(f"{name}: expected a duration such as 30s, 5m, 1h or 1d, got {text!r}")
    return sum(int(n) * _UNITS[unit] for n, unit in parts)
