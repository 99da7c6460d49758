"""What a store tells of the past: containers, the readings of one metric, gaps. It only fetches.

Rates, buckets, percentiles and sums are computed once, above this, so that every store answers a question alike. A sink whose
store can be asked is `plugin.KeepsHistory`.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.records import Metric, Value

if TYPE_CHECKING:
    from tidegauge.pipeline.buckets import Bucket

Reading: TypeAlias = tuple[int, bool, Value]
"""(ts_ms, is_closing, value) of one metric in one sample. None: unknown, or in a closing sample not read."""
Span: TypeAlias = tuple[int, int]
"""(from_ms, to_ms)"""


class ContainerKey(NamedTuple):
    """What stands for a container in every store. The order of times is that of the epochs of one instance."""

    source: str
    """Empty where the store does not hold it."""
    instance: str
    epoch: int


class StoredContainer(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch of an instance, with the newest metadata that was in force at or before the end of the time asked for.

    None: not known, or not held by this store.
    """

    key: ContainerKey
    host: str
    path: str
    """Cgroup path, `/` for the host."""
    name: str | None = None
    aliases: tuple[str, ...] = ()
    namespace: str | None = None
    image: str | None = None
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    runtime: str | None = None
    container_id: str | None = None
    pod: str | None = None
    pod_namespace: str | None = None
    pod_uid: str | None = None
    created_ms: int | None = None
    first_ms: int
    """Time of the first sample ever stored of it, or of the first one held where the store does not know."""
    last_ms: int
    """Time of the last one."""
    ended_ms: int | None = None
    """When it was seen to be gone. None: it lives, or the store does not hold this."""
    silence_ms: int = 61_000
    """The longest time between two samples over which nothing is unknown: `rates.max_silence_ms`."""
    ref: Any = msgspec.field(default=None)
    """What the store itself finds it by; nobody else looks at it."""


class Bounds(NamedTuple):
    """How much one question may read."""

    rows: int
    """Readings, of all containers and instances."""
    deadline_s: float
    """By the monotonic clock."""

    def check(self, rows: int) -> None:
        """Raises TooMuch once so many readings are too many, or the time is over."""
        if rows > self.rows:
            raise TooMuch(f"the question reads more than {self.rows} rows")
        if time.monotonic() > self.deadline_s:
            raise TooMuch("the question takes too long")


class TooMuch(TidegaugeError):
    """A bound of a question is passed; the text names it."""


class StoreError(TidegaugeError):
    """The store cannot be asked now, or said no; the text says which store and why, without credentials."""


@runtime_checkable
class HistoryReader(Protocol):
    """A store that can be asked about the past. Safe from any thread, beside the writer.

    Everything may raise StoreError. Times are ms UTC, and both ends of a span are within it.
    """

    def metrics(self) -> Sequence[Metric]:
        """What it may hold: metrics of the catalogue and of plug-ins. Kernel sources and groups may be left out."""
        ...

    def oldest_ms(self) -> int | None:
        """Time of the oldest sample that it still holds; None if there is none."""
        ...

    def containers(self, since_ms: int, until_ms: int) -> Sequence[StoredContainer]:
        """Those whose time from first to last sample touches the span, ordered by host, path, first sample and key."""
        ...

    def series(
        self, containers: Sequence[StoredContainer], metric: Metric, since_ms: int, until_ms: int, bounds: Bounds
    ) -> Mapping[ContainerKey, Mapping[str, Sequence[Reading]]]:
        """Readings within the span by container and instance (interface, disk ...; "" for one value a container), by time.

        Of a metric of the table `sample` every sample has a reading, which is None where it has no value. Of every other
        table only rows with a value are readings: what slow collectors read is in some samples only. A container without
        readings may be missing. Whoever needs the value in force at the beginning asks from `silence_ms` earlier. Raises
        TooMuch by `bounds`, before the memory is full of rows.
        """
        ...

    def gaps(
        self, containers: Sequence[StoredContainer], since_ms: int, until_ms: int
    ) -> Mapping[ContainerKey, Sequence[Span]]:
        """Gap records that touch the span, the container's own and those of its whole source, by beginning."""
        ...


class Kept(NamedTuple):
    """Roll-ups of one metric and width."""

    oldest_ms: int | None
    """Beginning of the oldest one of any container; None if there is none."""
    has_sketch: bool


@runtime_checkable
class RollupReader(HistoryReader, Protocol):
    """A store that keeps roll-ups too: buckets by the definition of `pipeline/buckets.py`, made ahead."""

    def kept(self, metric: Metric) -> Mapping[int, Kept]:
        """By width in ms; empty for a metric without roll-ups."""
        ...

    def unsettled_ms(self, containers: Sequence[StoredContainer], width_ms: int, since_ms: int, until_ms: int) -> int | None:
        """Beginning of the first bucket within [since, until) that is to be made, or made again; None: there is none."""
        ...

    def rolled(
        self,
        containers: Sequence[StoredContainer],
        metric: Metric,
        width_ms: int,
        since_ms: int,
        until_ms: int,
        bounds: Bounds,
        *,
        with_sketch: bool = False,
    ) -> "Mapping[ContainerKey, Mapping[str, Sequence[Bucket]]]":
        """Buckets that begin within [since, until), by container and instance, by time. Raises TooMuch by `bounds`.

        Those of which nothing is known are left out; `sketch` is set where `with_sketch` is.
        """
        ...
