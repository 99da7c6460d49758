"""`/api/v1/history/...`: what stores tell of the past: containers, metrics, and one metric in buckets.

Any store whose sink can be asked may be named; questions are bounded in rows, values and time, and two are computed at a time.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tidegauge.pipeline.catalogue import INSTANCE_LABELS
from tidegauge.pipeline.history import Bounds, HistoryReader, StoredContainer, StoreError, TooMuch
from tidegauge.pipeline.history_answer import Answer, answer, unit_of
from tidegauge.pipeline.history_query import PARAMETERS, SELECTORS, SPAN, BadQuestion, Given, check_span, question, select, span
from tidegauge.pipeline.records import Kind

MAX_ROWS = 1_000_000
"""Readings or roll-ups that a question may read: some 150 MB while it is computed."""
LIMIT_S = 20.0
"""How long a question may take; less where `http.request_timeout_s` is less."""
AT_A_TIME = 2
"""Questions that are computed at once; others wait."""
PREFERRED = "sql"
"""The store that is asked unless one is named, where there is one of this name; else the first by name."""
DEFAULT_CONTAINERS = 1000

T = TypeVar("T")


class NoStore(Exception):
    """There is none that could be asked; the text says so."""


class PastContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A container that was sampled in the span, with the newest metadata of then. Times in ms UTC; null is not known."""

    source: str
    instance: str
    epoch: int
    host: str
    path: str
    name: str | None
    aliases: Sequence[str]
    namespace: str | None
    image: str | None
    labels: Mapping[str, str]
    runtime: str | None
    container_id: str | None
    pod: str | None
    pod_namespace: str | None
    created_ms: int | None
    first_ms: int
    last_ms: int
    ended_ms: int | None
    """Null: it lives, or its end is not known."""


class PastContainers(msgspec.Struct, frozen=True):
    """The newest `limit` by their last sample, ordered by host, path and first sample."""

    store: str
    since_ms: int
    until_ms: int
    found: int
    containers: Sequence[PastContainer]


class PastMetric(msgspec.Struct, frozen=True):
    """What can be asked for. `unit` is that of the stored values, `asked_as` of those in answers."""

    name: str
    kind: Kind
    unit: str
    asked_as: str
    label: str | None
    """What tells its instances apart: interface, device ...; null for one value a container."""
    help: str


class PastMetrics(msgspec.Struct, frozen=True):
    store: str
    metrics: Sequence[PastMetric]


class HistoryPages:
    """The routes. `stores` gives those that can be asked now, by name."""

    def __init__(self, stores: Callable[[], Mapping[str, HistoryReader]], timeout_s: float) -> None:
        self._stores = stores
        self._limit_s = min(LIMIT_S, timeout_s * 0.9)
        self._slots = asyncio.Semaphore(AT_A_TIME)

    def routes(self) -> list[Route]:
        return [
            Route("/api/v1/history/containers", self.containers),
            Route("/api/v1/history/metrics", self.metrics),
            Route("/api/v1/history/query", self.query),
        ]

    async def containers(self, request: Request) -> Response:
        return await self._answered(request, (*SPAN, *SELECTORS, "limit", "store"), self._containers)

    async def metrics(self, request: Request) -> Response:
        return await self._answered(request, ("store",), self._metrics)

    async def query(self, request: Request) -> Response:
        return await self._answered(request, PARAMETERS, self._query)

    async def _answered(self, request: Request, names: Sequence[str], ask: Callable[[Given], object]) -> Response:
        params = request.query_params
        for name in params:
            if name not in names:
                return PlainTextResponse(f"{name}: expected one of {', '.join(names)}\n", 400)
        given = Given({name: params.getlist(name) for name in params})
        try:
            async with self._slots:
                body = await run_in_threadpool(lambda: msgspec.json.encode(ask(given)))
        except BadQuestion as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        except TooMuch as exc:
            return PlainTextResponse(f"{exc}: ask for a shorter time, fewer containers, or resolution=5m or 1h\n", 413)
        except (StoreError, NoStore) as exc:
            return PlainTextResponse(f"{exc}\n", 503)
        return Response(body, media_type="application/json")

    def _store(self, given: Given) -> tuple[str, HistoryReader]:
        stores, name = self._stores(), given.one("store")
        if not stores:
            raise NoStore("No sink that keeps history runs: sql, or influxdb.")
        if name is None:
            name = PREFERRED if PREFERRED in stores else min(stores)
        if name not in stores:
            raise BadQuestion(f"store: expected one of {', '.join(sorted(stores))}, got {name!r}")
        return name, stores[name]

    def _containers(self, given: Given) -> PastContainers:
        name, store = self._store(given)
        since_ms, until_ms = span(given, _now_ms())
        check_span(since_ms, until_ms)
        limit = given.number("limit")
        chosen = select(given)
        found = [c for c in store.containers(since_ms, until_ms) if chosen.takes(c)]
        newest = sorted(found, key=lambda c: c.last_ms, reverse=True)[: DEFAULT_CONTAINERS if limit is None else limit]
        kept = {c.key for c in newest}
        return PastContainers(name, since_ms, until_ms, len(found), [_shown(c) for c in found if c.key in kept])

    def _metrics(self, given: Given) -> PastMetrics:
        name, store = self._store(given)
        return PastMetrics(
            name,
            [
                PastMetric(m.name, m.kind, m.unit, unit_of(m, "avg"), INSTANCE_LABELS.get(m.table), m.help)
                for m in store.metrics()
            ],
        )

    def _query(self, given: Given) -> Answer:
        name, store = self._store(given)
        now_ms = _now_ms()
        bounds = Bounds(MAX_ROWS, time.monotonic() + self._limit_s)
        return answer(store, question(given, now_ms), bounds, now_ms, name)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_FIELDS = tuple(f.name for f in msgspec.structs.fields(PastContainer) if f.name not in ("source", "instance", "epoch"))


def _shown(c: StoredContainer) -> PastContainer:
    return PastContainer(**c.key._asdict(), **{name: getattr(c, name) for name in _FIELDS})
