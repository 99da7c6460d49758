"""What the sampling thread has made and not yet handed over: one bundle a tick, in log order."""

from collections.abc import Callable, Mapping
from typing import Any

from tidegauge.pipeline.log_thread import Item, Outlet, settled, without_samples
from tidegauge.pipeline.records import Event, Gap, Sample, Schema, WireRecord
from tidegauge.pipeline.sampler_stats import SamplerStats


class Handover:
    """Collects records and samples and gives them to the outlet. One thread: the sampling thread, or that of a remote.

    When the outlet refuses, the samples are dropped and counted, all else is kept, and the next bundle that is taken begins
    with a gap record from the last one that was.
    """

    def __init__(
        self,
        outlet: Outlet,
        source: str,
        stats: SamplerStats,
        now_ms: Callable[[], int],
        log_ms: Callable[[], int] | None = None,
    ) -> None:
        """`now_ms` is the clock of the samples; `log_ms` this host's, where the samples are another's."""
        self._outlet = outlet
        self._source = source
        self._stats = stats
        self._now_ms = now_ms
        self._log_ms = log_ms or now_ms
        self._items: list[Item] = []
        self._kept: list[Item] = []
        self._schemas: set[int] = set()
        self._lost_rows = 0
        self._handed_ms = now_ms()

    def add(self, record: WireRecord) -> None:
        self._items.append(record)

    def event(self, ts_ms: int, kind: str, container: int | None, details: Mapping[str, Any]) -> None:
        """Something happened at that time."""
        self._items.append(Event(ts_ms, kind, container, details, source=self._source))

    def gap(self, from_ms: int, reason: str, container: int | None = None) -> None:
        """Nothing is known from then until now."""
        self._items.append(Gap(self._source, from_ms, self._now_ms(), reason, container))

    def add_sample(self, sample: Sample, schema: Schema) -> None:
        """Adds a sample, and before this bundle's samples its schema if this run has not written it yet."""
        samples = self._items[-1] if self._items else None
        if not isinstance(samples, list):
            samples = []
            self._items.append(samples)
        if schema.id not in self._schemas:
            self._schemas.add(schema.id)
            self._items.insert(-1, schema)
        self._stats.samples += 1
        self._stats.closing_samples += sample.is_closing
        samples.append(sample)

    def clock_changed(self) -> None:
        """Times before now are no longer comparable with those from now on."""
        self._handed_ms = self._now_ms()

    def flush(self) -> None:
        """Gives the outlet what there is; nothing if there is nothing."""
        if not self._items:
            return
        now_ms = self._now_ms()
        items, self._items = self._items, []
        front: list[Item] = []
        if self._lost_rows:
            front = [Gap(self._source, min(self._handed_ms, now_ms), now_ms, "overflow", rows=self._lost_rows)]
        if self._outlet.put([*front, *self._kept, *items], self._log_ms()):
            self._kept, self._lost_rows, self._handed_ms = [], 0, now_ms
            return
        records, rows = without_samples(items)
        self._kept = settled([*self._kept, *records])
        if rows:
            self._stats.overflows += 1
            self._stats.overflow_rows += rows
            self._lost_rows += rows
