"""What stores of tidegauge tell of the past: containers, metrics, and one metric in buckets."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import msgspec

from tidegauge.client.decoding import Model


class PastContainer(Model, frozen=True):
    """A container that was sampled in the span, with the newest metadata of then. Times in ms UTC; None is not known."""

    source: str = ""
    instance: str = ""
    epoch: int = 0
    host: str = ""
    path: str = ""
    name: str | None = None
    aliases: tuple[str, ...] = ()
    namespace: str | None = None
    image: str | None = None
    labels: dict[str, str] = {}
    runtime: str | None = None
    container_id: str | None = None
    pod: str | None = None
    pod_namespace: str | None = None
    created_ms: int | None = None
    first_ms: int = 0
    last_ms: int = 0
    ended_ms: int | None = None
    """None: it lives, or its end is not known."""


class PastContainers(Model, frozen=True):
    """The newest of `found`, ordered by host, path and first sample."""

    store: str = ""
    since_ms: int = 0
    until_ms: int = 0
    found: int = 0
    containers: tuple[PastContainer, ...] = ()


class PastMetric(Model, frozen=True):
    """What can be asked for. `unit` is that of the stored values, `asked_as` of those in answers."""

    name: str = ""
    kind: str = ""
    unit: str = ""
    asked_as: str = ""
    label: str | None = None
    """What tells its instances apart: interface, device ...; None for one value a container."""
    help: str = ""


class PastMetrics(Model, frozen=True):
    store: str = ""
    metrics: tuple[PastMetric, ...] = ()


class HistoryPoint(Model, frozen=True):
    """One bucket, from `ts_ms` on. `value` None: unknown, or `state` is `gone`; never 0 for it."""

    ts_ms: int = 0
    value: float | None = None
    coverage: float | None = None
    """The known share, 0 to 1, of the time in which its containers lived; None: none did."""
    state: str = ""
    """`measured`, `unchanged`, `last_observed`, `unknown` or `gone`."""


class HistorySeries(Model, frozen=True):
    """`value` and `coverage` are over the whole span; `labels` what its containers have in common."""

    labels: dict[str, str] = {}
    names: tuple[str, ...] = ()
    containers: int = 0
    value: float | None = None
    coverage: float | None = None
    points: tuple[HistoryPoint, ...] = ()


class History(Model, frozen=True):
    """An answer, and how it came about: `resolution` is `raw`, `5m` or `1h`, `method` says how exact."""

    store: str = ""
    metric: str = ""
    agg: str = ""
    unit: str = ""
    since_ms: int = 0
    until_ms: int = 0
    bucket_ms: int | None = None
    group: tuple[str, ...] = ()
    resolution: str = ""
    method: str = ""
    rows: int = 0
    instances: tuple[str, ...] = ()
    """Interfaces, disks ... that its containers have, chosen or not; empty for one value a container."""
    found: int = 0
    series: tuple[HistorySeries, ...] = ()


class HistorySpan(msgspec.Struct, frozen=True, kw_only=True):
    """When, and which containers: each field exact or with `*`, `?` and `[...]`; of several texts of a field one must fit.

    `since` None: the hour before `until`; `until` None: now. A timedelta is so long before now. `container` is a path, name,
    alias or beginning of the id. `store`: name of the sink that is asked.
    """

    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    container: str | Collection[str] = ()
    name: str | Collection[str] = ()
    path: str | Collection[str] = ()
    id: str | Collection[str] = ()
    host: str | Collection[str] = ()
    namespace: str | Collection[str] = ()
    image: str | Collection[str] = ()
    pod: str | Collection[str] = ()
    runtime: str | Collection[str] = ()
    labels: Mapping[str, str] = {}
    store: str | None = None

    def parameters(self) -> list[tuple[str, str]]:
        """Of the URL. ValueError for a time without a zone."""
        out = [(name, _time(time, name)) for name in ("since", "until") if (time := getattr(self, name)) is not None]
        for name in ("container", "name", "path", "id", "host", "namespace", "image", "pod", "runtime"):
            texts = getattr(self, name)
            out += [(name, text) for text in ([texts] if isinstance(texts, str) else texts)]
        out += [("label", f"{key}={value}") for key, value in self.labels.items()]
        return out if self.store is None else [*out, ("store", self.store)]


class HistoryQuery(HistorySpan, frozen=True, kw_only=True):
    """One metric. `agg`: avg, min, max, last, sum, count, increase, rate, median or a percentile such as `p95`.

    `bucket` None: one value for the whole span. `group`: container, name, host, namespace, image, pod, runtime, `label:KEY`;
    () for all in one series. `top`: the greatest so many. `resolution`: auto, raw, 5m or 1h.
    """

    metric: str
    instance: str | None = None
    agg: str = "avg"
    bucket: timedelta | None = None
    group: Collection[str] = ("container",)
    top: int | None = None
    resolution: str = "auto"

    def parameters(self) -> list[tuple[str, str]]:
        out = [("metric", self.metric), *super().parameters(), ("agg", self.agg), ("resolution", self.resolution)]
        out.append(("group", ",".join(self.group) or "none"))
        if self.instance is not None:
            out.append(("instance", self.instance))
        if self.bucket is not None:
            out.append(("bucket", f"{round(self.bucket / timedelta(milliseconds=1))}ms"))
        return out if self.top is None else [*out, ("top", str(self.top))]


def _time(time: datetime | timedelta, name: str) -> str:
    if isinstance(time, timedelta):
        return f"{round(time / timedelta(milliseconds=1))}ms"
    if time.tzinfo is None:
        raise ValueError(f"{name}: expected a time with its zone, such as datetime.now(UTC)")
    return str(round(time.timestamp() * 1000))
