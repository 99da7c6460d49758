"""Options of a sink's runner: the same for every sink, in the table that bears the sink's name."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import msgspec

Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class RunnerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rows are batched, filtered, retried and bounded on their way to one sink."""

    enabled: bool = True
    plugin: str | None = None
    """Entry point of the sink's class; None: the table's name. With it one plug-in can run twice."""

    batch_rows: Count = 5000
    batch_bytes: Count = 4 << 20
    """Bound of a batch in bytes as the journal holds them."""
    flush_interval_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    """Rows wait at most so long for a batch to fill."""

    retry_min_s: Positive = 0.5
    retry_max_s: Positive = 30.0
    """Back-off: a random time between 0 and a ceiling that doubles from the first to the second."""
    unknown_attempts: Count = 5
    """Attempts at a batch that fails with an error of no known class, before it is taken apart."""

    lag_bytes: Count = 1 << 30
    lag_age_s: Positive = 7 * 86400.0
    """How far the sink may fall behind the log."""
    lag_policy: Literal["drop_oldest", "downsample"] = "drop_oldest"
    """At the bound: rows are given up from the oldest, or the sink is fed one row in `downsample_keep` until it is back."""
    downsample_keep: Annotated[int, msgspec.Meta(ge=2)] = 10

    metrics_include: tuple[str, ...] = ()
    metrics_exclude: tuple[str, ...] = ()
    """Shell patterns of metric names. Empty include: all. Exclude wins."""
    containers_include: tuple[str, ...] = ()
    containers_exclude: tuple[str, ...] = ()
    """Shell patterns of a container's cgroup path or name."""
    labels: tuple[str, ...] | None = None
    """Shell patterns of the container labels that are passed on; None: all."""
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Labels added to every container."""

    names_wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None
    """How long the first rows of a container wait for its names, by record times; None: what the sink's class says."""

    dead_letter_bytes: Annotated[int, msgspec.Meta(ge=0)] = 256 << 20
    start: str = "beginning"
    """Where a sink without a cursor begins: `beginning` of the log, its `end`, or an ISO 8601 time."""

    def __post_init__(self) -> None:
        self.start_ms()

    def start_ms(self) -> int | None:
        """The time of `start`, taken as UTC where it bears no zone; None for the two words. ValueError for anything else."""
        if self.start in ("beginning", "end"):
            return None
        try:
            when = datetime.fromisoformat(self.start)
        except ValueError as exc:
            raise ValueError(f"start: expected beginning, end or an ISO 8601 time, got {self.start!r}") from exc
        return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
