"""The last events in RAM: bounded by kind, asked by time, kind and path, and followed live by readers that cannot hold it up.

The memory sink feeds it; whoever answers over HTTP asks it. It knows nothing of either.
"""

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from tidegauge.pipeline.records import Container, Event

DEFAULT = "default"
"""Stands in a table of limits for every kind that has none of its own."""
DEFAULT_AGE_S = 86_400.0
DEFAULT_COUNT = 100_000
QUEUE = 1000
"""Events that wait for one reader; beyond it its oldest go, and it is told how many."""


_NONE: Mapping[str, Any] = MappingProxyType({})


class EventLimits(msgspec.Struct, frozen=True):
    """How long and how many events are kept, by kind. 0: none of this kind, which is still told to those who follow."""

    age_s: Mapping[str, float] = msgspec.field(default_factory=dict)
    count: Mapping[str, int] = msgspec.field(default_factory=dict)

    def age_ms_of(self, kind: str) -> int:
        return round(1000 * self.age_s.get(kind, self.age_s.get(DEFAULT, DEFAULT_AGE_S)))

    def count_of(self, kind: str) -> int:
        return self.count.get(kind, self.count.get(DEFAULT, DEFAULT_COUNT))


class StoredEvent(NamedTuple):
    """An event with what was known of its container then: no more than is shown, as there may be 100 000 of them."""

    event: Event
    """Its details are without the path."""
    path: str
    """`/` for what concerns no container, or the host."""
    instance: str | None = None
    host: str | None = None
    name: str | None = None
    namespace: str | None = None
    image: str | None = None

    @classmethod
    def of(cls, event: Event, container: Container | None) -> "StoredEvent":
        path = event.details.get("path")
        if path is not None:
            event = msgspec.structs.replace(event, details={k: v for k, v in event.details.items() if k != "path"} or _NONE)
        if container is None:
            return cls(event, path if isinstance(path, str) else "/")
        c = container
        return cls(event, c.path, c.instance, c.host, c.name, c.namespace, c.image)


class EventQuery(msgspec.Struct, frozen=True):
    """Which events are wanted. `start_ms` and `end_ms` are inclusive; the limit is applied to what the rest lets pass."""

    start_ms: int | None = None
    end_ms: int | None = None
    kinds: frozenset[str] | None = None
    """None: all."""
    path: str = "/"
    subcontainers: bool = True
    """Also those of containers below `path`; below `/` is everything."""
    limit: int | None = None
    """The newest so many; None: all."""

    def takes(self, stored: StoredEvent) -> bool:
        """Whether it is one of them, whatever the limit. A trailing slash of the path says nothing."""
        event, path = stored.event, self.path.rstrip("/")
        return (
            (self.kinds is None or event.kind in self.kinds)
            and (self.start_ms is None or event.ts_ms >= self.start_ms)
            and (self.end_ms is None or event.ts_ms <= self.end_ms)
            and (stored.path == (path or "/") or (self.subcontainers and stored.path.startswith(f"{path}/")))
        )


class Subscription:
    """What one reader has yet to take. A context manager: leave it, or call `close`, to be told no more.

    `take` never blocks; `wait` does. `on_ready` is called in the producer's thread whenever there is something to take after
    there was nothing: it must return at once.
    """

    def __init__(
        self, query: EventQuery, size: int, on_ready: Callable[[], None], left: Callable[["Subscription"], None]
    ) -> None:
        self._query = query
        self._queue: deque[StoredEvent] = deque()
        self._size = size
        self._missed = 0
        self._on_ready = on_ready
        self._left = left
        self._changed = threading.Condition()
        self.is_closed = False
        """True once the store or the reader has ended it; what waits can still be taken."""

    def take(self) -> tuple[int, list[StoredEvent]]:
        """How many were lost since the last call because they were not taken in time, and those that wait, oldest first."""
        with self._changed:
            missed, self._missed = self._missed, 0
            found = list(self._queue)
            self._queue.clear()
            return missed, found

    def wait(self, timeout_s: float) -> bool:
        """Until there is something to take, or it is closed, or the time is over. Whether there is something."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self.is_closed, timeout_s)
            return bool(self._queue)

    def close(self) -> None:
        """Safe twice."""
        self._left(self)
        self.end()

    def offer(self, stored: StoredEvent) -> None:
        """From the store, in the producer's thread."""
        if not self._query.takes(stored):
            return
        with self._changed:
            if self.is_closed:
                return
            is_first = not self._queue
            if len(self._queue) >= self._size:
                self._queue.popleft()
                self._missed += 1
            self._queue.append(stored)
            self._changed.notify_all()
        if is_first:
            self._on_ready()

    def end(self) -> None:
        """From the store: no more will come."""
        with self._changed:
            if self.is_closed:
                return
            self.is_closed = True
            self._changed.notify_all()
        self._on_ready()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _nothing() -> None:
    return None


class _Kind:
    """Events of one kind by time; those of one time in the order in which they came."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []

    def add(self, stored: StoredEvent) -> None:
        if not self.events or _ts_ms(stored) >= _ts_ms(self.events[-1]):
            self.events.append(stored)
        else:
            insort(self.events, stored, key=_ts_ms)

    def bound(self, oldest_ms: int, count: int) -> None:
        """Lets go what is too old or too many. In slices: to cut a long list at its front costs as much as it is long."""
        gone = max(len(self.events) - count, bisect_left(self.events, oldest_ms, key=_ts_ms))
        if gone > len(self.events) // 64:
            del self.events[:gone]

    def between(self, oldest_ms: int, count: int, query: EventQuery) -> list[StoredEvent]:
        """Those within the bounds and the times."""
        first = max(bisect_left(self.events, oldest_ms, key=_ts_ms), len(self.events) - count)
        start, end = query.start_ms, query.end_ms
        low = first if start is None else max(first, bisect_left(self.events, start, key=_ts_ms))
        high = len(self.events) if end is None else bisect_right(self.events, end, key=_ts_ms)
        return self.events[low:high]


class EventStore:
    """Keeps and hands on events. `add` and `close` by one producer, everything else from any thread.

    Age is against the clock, at each look: with `now_ms` a test gives its own.
    """

    def __init__(
        self, limits: EventLimits | None = None, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._limits = limits or EventLimits()
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}
        self._subscriptions: list[Subscription] = []
        self._is_closed = False

    def add(self, event: Event, container: Container | None) -> None:
        """Keeps it as far as its kind's limits allow, and offers it to all who follow. Never waits for a reader."""
        stored = StoredEvent.of(event, container)
        count, age_ms = self._limits.count_of(event.kind), self._limits.age_ms_of(event.kind)
        with self._lock:
            if count > 0 and age_ms > 0:
                kind = self._kinds.setdefault(event.kind, _Kind())
                kind.add(stored)
                kind.bound(self._now_ms() - age_ms, count)
            followers = list(self._subscriptions)
        for subscription in followers:
            subscription.offer(stored)

    def find(self, query: EventQuery) -> list[StoredEvent]:
        """The events that the query takes, oldest first, of one time in the order of the log."""
        now_ms = self._now_ms()
        found: list[StoredEvent] = []
        with self._lock:
            for name, kind in self._kinds.items():
                if query.kinds is None or name in query.kinds:
                    limits = now_ms - self._limits.age_ms_of(name), self._limits.count_of(name)
                    found += kind.between(*limits, query)
        found = sorted(filter(query.takes, found), key=lambda s: (s.event.ts_ms, s.event.row))
        return found if query.limit is None else found[max(0, len(found) - query.limit) :]

    def follow(self, query: EventQuery, size: int = QUEUE, on_ready: Callable[[], None] = _nothing) -> Subscription:
        """What comes from now on, as far as the query takes it; its limit says nothing here."""
        subscription = Subscription(query, size, on_ready, self._leave)
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._subscriptions.append(subscription)
        if is_closed:
            subscription.end()
        return subscription

    def close(self) -> None:
        """Ends every subscription; safe twice. What is kept can still be asked."""
        with self._lock:
            self._is_closed = True
            followers, self._subscriptions = self._subscriptions, []
        for subscription in followers:
            subscription.end()

    def _leave(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)


@runtime_checkable
class KeepsEvents(Protocol):
    """A sink that keeps the last events."""

    events: EventStore


def _ts_ms(stored: StoredEvent) -> int:
    return stored.event.ts_ms


def as_dict(stored: StoredEvent) -> dict[str, Any]:
    """What is shown of an event: time, kind, container and details, without what is not known."""
    event = stored.event
    out: dict[str, Any] = {"ts_ms": event.ts_ms, "kind": event.kind, "path": stored.path}
    for key in ("instance", "host", "name", "namespace", "image"):
        if (value := getattr(stored, key)) is not None:
            out[key] = value
    out["details"] = dict(event.details)
    return out
