"""Routes of Heapster's APIs. Two requests are computed at a time; bounded in rows and time as questions about history are."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import unquote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tidegauge.api.heapster import export, kube, model
from tidegauge.api.heapster.memory import MemoryReader
from tidegauge.api.history import LIMIT_S, MAX_ROWS, PREFERRED
from tidegauge.pipeline.history import Bounds, HistoryReader, StoreError, TooMuch
from tidegauge.pipeline.latest import KeepsLatest, KeepsSamples

MODEL, PAST = "/api/v1/model/", "/api/v1/historical/"
KUBE = "/apis/metrics.k8s.io/v1alpha1/"
EXPORT, SCHEMA = "/api/v1/metric-export", "/api/v1/metric-export-schema"
MODEL_REACH_MS = 15 * 60_000
"""How far back the model API looks, as Heapster's."""
PAST_REACH_MS = 7 * 86_400_000
"""Containers that were sampled within this time are listed by the historical API."""
_AT_A_TIME = 2


class View(Protocol):
    """What is used of the server."""

    def latest(self) -> KeepsLatest | None: ...
    def samples(self) -> KeepsSamples | None: ...
    def histories(self) -> Mapping[str, HistoryReader]: ...


class NotNow(Exception):
    """There is no store that could be asked; the text says so."""


class HeapsterApi:
    def __init__(self, view: View, timeout_s: float) -> None:
        self._view = view
        self._limit_s = min(LIMIT_S, timeout_s * 0.9)
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    def routes(self) -> list[Route]:
        return [
            Route(MODEL + "{rest:path}", self.model),
            Route(PAST + "{rest:path}", self.past),
            Route(EXPORT, self.export),
            Route(SCHEMA, self.schema),
            Route(KUBE + "{rest:path}", self.kube),
        ]

    async def model(self, request: Request) -> Response:
        rest, asked = _raw(request, MODEL), dict(request.query_params)

        def ask(bounds: Bounds, now_ms: int) -> object:
            reader, older = self._memory(), self._store()
            return model.answer(reader, rest, asked, bounds, now_ms, reach_ms=MODEL_REACH_MS, is_past=False, older=older)

        return await self._answered(ask)

    async def past(self, request: Request) -> Response:
        rest, asked = _raw(request, PAST), dict(request.query_params)

        def ask(bounds: Bounds, now_ms: int) -> object:
            if (reader := self._store()) is None:
                raise NotNow("No sink that keeps history runs: sql, or influxdb.")
            return model.answer(reader, rest, asked, bounds, now_ms, reach_ms=PAST_REACH_MS, is_past=True)

        return await self._answered(ask)

    async def export(self, request: Request) -> Response:
        return await self._answered(lambda bounds, now_ms: export.exported(self._memory()))

    async def schema(self, request: Request) -> Response:
        return Response(msgspec.json.encode(export.schema()), media_type="application/json")

    async def kube(self, request: Request) -> Response:
        parts = [unquote(part) for part in _raw(request, KUBE).split("/") if part]
        selector = request.query_params.get("labelSelector", "")
        return await self._answered(lambda bounds, now_ms: kube.answer(self._memory(), parts, selector, bounds, now_ms))

    def _memory(self) -> MemoryReader:
        store = self._view.samples()
        if store is None or self._view.latest() is None:
            raise NotNow("The sink memory does not run, or has not caught up yet.")
        return MemoryReader(store)

    def _store(self) -> HistoryReader | None:
        stores = self._view.histories()
        return stores[PREFERRED if PREFERRED in stores else min(stores)] if stores else None

    async def _answered(self, ask: Callable[[Bounds, int], object]) -> Response:
        def run() -> bytes:
            bounds = Bounds(MAX_ROWS, time.monotonic() + self._limit_s)
            return msgspec.json.encode(ask(bounds, _now_ms()))

        try:
            async with self._slots:
                body = await run_in_threadpool(run)
        except model.NoSuchPath:
            return PlainTextResponse("There is nothing at this path.\n", 404)
        except model.BadRequest as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        except TooMuch as exc:
            return PlainTextResponse(f"{exc}: ask for a shorter time\n", 413)
        except (StoreError, NotNow) as exc:
            return PlainTextResponse(f"{exc}\n", 503, {"Retry-After": "5"})
        return Response(body, media_type="application/json")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _raw(request: Request, prefix: str) -> str:
    """The rest of the path as the client wrote it: `%2F` is no separator."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    at = path.find(prefix)
    return path[at + len(prefix) :] if at >= 0 else str(request.path_params["rest"])
