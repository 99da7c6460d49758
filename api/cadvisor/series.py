"""The samples of a container that an answer holds: from memory, and what is older from the SQL store. Any thread.

Samples are folded into what was known at their time and encoded once each; both are kept for the containers asked last.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tidegauge.api.cadvisor import stats
from tidegauge.api.cadvisor.catalog import Entry
from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.reading import Reading, carried, of_latest
from tidegauge.api.cadvisor.stats import Host
from tidegauge.pipeline.latest import KeepsSamples, Latest, merged
from tidegauge.pipeline.plugin import PointReader
from tidegauge.pipeline.records import Sample, Schema

KEPT_CONTAINERS = 64
"""Containers whose encoded samples are kept: some 0.5 MiB each with two minutes of samples."""
MAX_OLD = 10_000
"""Samples that one container's answer takes from the SQL store at most."""
_ENCODER = msgspec.json.Encoder()


class Wanted(NamedTuple):
    """Which samples an answer holds: the newest `limit` of those within both times, inclusive; None: no such bound."""

    limit: int | None
    start_ms: int | None = None
    end_ms: int | None = None

    @property
    def is_now(self) -> bool:
        """True if only the newest sample is asked for."""
        return self.limit == 1 and self.start_ms is None and self.end_ms is None

    def takes(self, ts_ms: int) -> bool:
        return (self.start_ms is None or ts_ms >= self.start_ms) and (self.end_ms is None or ts_ms <= self.end_ms)


class _Held:
    """A sample with what was known then, and its encoded form once it was asked for."""

    __slots__ = ("latest", "raw", "sample")

    def __init__(self, sample: Sample, latest: Latest) -> None:
        self.sample = sample
        self.latest = latest
        self.raw: bytes | None = None


class _Tail:
    """Held samples of one container by (number, time). `key` is what else their encoded forms depend on."""

    __slots__ = ("held", "key")

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], _Held] = {}
        self.key: tuple[object, ...] = ()


def encode(value: object) -> bytes:
    """JSON as Go writes it: what HTML could take for markup is escaped."""
    raw = _ENCODER.encode(value)
    if b"<" in raw or b">" in raw or b"&" in raw:
        raw = raw.replace(b"<", rb"\u003c").replace(b">", rb"\u003e").replace(b"&", rb"\u0026")
    return raw


def _read_before(latest: Latest | None, samples: Sequence[tuple[Sample, Schema]]) -> Latest | None:
    """The tables that none of the samples has: what is newest of them was read before."""
    if latest is None:
        return None
    read = {t.name for s, schema in samples for t, rows in zip(schema.tables, s.tables, strict=False) if rows is not None}
    tables = [None if t.name in read else rows for t, rows in zip(latest.schema.tables, latest.tables, strict=False)]
    return Latest(0, latest.schema, (None,) * len(latest.values), tuple(tables))


class Series:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._old = threading.Semaphore(2)

    def v1(self, entry: Entry, wanted: Wanted, store: KeepsSamples, history: PointReader | None, host: Host) -> list[bytes]:
        """Encoded v1 samples, oldest first."""
        health = entry.container.health
        if wanted.limit == 0:
            return []
        if wanted.is_now:
            return self._newest_v1(entry, host)
        with self._lock:
            tail = self._tail(entry, store, (host, health))
            held = [h for h in tail.held.values() if wanted.takes(h.sample.ts_ms)]
            held = held if wanted.limit is None else held[-wanted.limit :]
            for h in held:
                if h.raw is None:
                    h.raw = encode(stats.of_v1(of_latest(h.latest, h.sample.container), host, health))
            found = [h.raw for h in held if h.raw is not None]
            oldest_ms = min((ts_ms for _, ts_ms in tail.held), default=None)
        older = self._older(entry, wanted, len(found), oldest_ms, history)
        return [encode(stats.of_v1(r, host, health)) for r in older] + found

    def readings(
        self, entry: Entry, wanted: Wanted, store: KeepsSamples, history: PointReader | None, host: Host
    ) -> list[Reading]:
        """What was known at each sample, oldest first."""
        if wanted.limit == 0:
            return []
        if wanted.is_now:
            newest = entry.reading()
            return [] if newest is None else [newest]
        with self._lock:
            tail = self._tail(entry, store, (host, entry.container.health))
            held = [h for h in tail.held.values() if wanted.takes(h.sample.ts_ms)]
            held = held if wanted.limit is None else held[-wanted.limit :]
            oldest_ms = min((ts_ms for _, ts_ms in tail.held), default=None)
        found = [of_latest(h.latest, h.sample.container) for h in held]
        return self._older(entry, wanted, len(found), oldest_ms, history) + found

    def _newest_v1(self, entry: Entry, host: Host) -> list[bytes]:
        reading, key = entry.reading(), (host, entry.container.health)
        if reading is None:
            return []
        known = entry.encoded
        if known is None or known[0] != key:
            known = entry.encoded = (key, encode(stats.of_v1(reading, host, entry.container.health)))
        return [known[1]]

    def _tail(self, entry: Entry, store: KeepsSamples, key: tuple[object, ...]) -> _Tail:
        """The samples that are held now, each folded into those before it. Under the lock."""
        instance = entry.container.instance
        tail = self._tails.get(instance)
        if tail is None:
            tail = self._tails[instance] = _Tail()
            while len(self._tails) > KEPT_CONTAINERS:
                self._tails.popitem(last=False)
        self._tails.move_to_end(instance)
        if tail.key != key:
            tail.key = key
            for h in tail.held.values():
                h.raw = None
        fresh: dict[tuple[int, int], _Held] = {}
        before: Latest | None = None
        number, is_known = -1, True
        samples = store.samples(instance)
        for sample, schema in samples:
            if sample.container != number:
                number, before, is_known = sample.container, None, True
            known = tail.held.get((number, sample.ts_ms)) if is_known else None
            if known is None or known.sample is not sample:
                # one that came late changes what was known at those after it
                is_known = False
                if before is None and number == entry.container.number:
                    before = _read_before(entry.latest, samples)
                known = _Held(sample, merged(before, sample, schema))
            fresh[(number, sample.ts_ms)] = known
            before = known.latest
        tail.held = fresh
        return tail

    def _older(
        self, entry: Entry, wanted: Wanted, found: int, oldest_ms: int | None, history: PointReader | None
    ) -> list[Reading]:
        """What the SQL store has from before `oldest_ms`, if the answer reaches back so far. ApiError if it does not answer."""
        if history is None or (wanted.start_ms is None and wanted.end_ms is None):
            return []
        left = MAX_OLD if wanted.limit is None else min(wanted.limit - found, MAX_OLD)
        end_ms = wanted.end_ms
        if oldest_ms is not None:
            end_ms = oldest_ms - 1 if end_ms is None else min(end_ms, oldest_ms - 1)
        if left <= 0 or (end_ms is not None and wanted.start_ms is not None and end_ms < wanted.start_ms):
            return []
        if not self._old.acquire(timeout=5.0):
            raise ApiError("too many requests for old samples at a time", Status.UNAVAILABLE)
        try:
            points = history.points(entry.container.instance, wanted.start_ms, end_ms, left)
        except Exception as exc:
            reason = str(exc).partition("\n")[0]
            raise ApiError(f"the store of old samples does not answer: {reason}", Status.UNAVAILABLE) from exc
        finally:
            self._old.release()
        return list(carried(points))
