"""Takes requests below `/api` apart and answers them; the only module here that knows HTTP.

Answers are made on worker threads. What is long goes out in pieces, a container at a time, so that it is never held as a whole.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol
from urllib.parse import quote

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tidegauge.api.cadvisor import events, machine, processes, v1, v2
from tidegauge.api.cadvisor.catalog import Catalogs
from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.request import Asked, Options, asked, body_of, clean, options_of
from tidegauge.api.cadvisor.series import Series, Wanted, encode
from tidegauge.api.cadvisor.sources import Sources
from tidegauge.api.cadvisor.summary import Summaries
from tidegauge.api.events import EventPages
from tidegauge.api.guard import UNTRUSTED, URL_PREFIX, go_on, is_trusted, without_time_limit
from tidegauge.api.processes import STATUS, TIMEOUT_S
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.event_store import EventStore
from tidegauge.pipeline.latest import KeepsSamples
from tidegauge.pipeline.plugin import PointReader
from tidegauge.pipeline.version import VERSION

WHOLE_BYTES = 1 << 20
"""Answers up to this size are sent whole, with their length; longer ones in pieces."""
PART_BYTES = 1 << 18
RENEW_S = 5.0
"""How long an answer waits for samples that are young enough; then it holds what there is."""
_RENEWED = frozenset({"stats", "machinestats", "summary", "appmetrics"})
_LOOK_S = 0.05
PIECE_S = 60.0
"""How long a client may take for a part."""


class View(Protocol):
    """What of the running server is asked here. Any thread."""

    def samples(self) -> KeepsSamples | None: ...
    def history(self) -> PointReader | None: ...
    def events(self) -> EventStore | None: ...
    def ask(self, kind: str, arguments: dict[str, Any], timeout_s: float) -> Any: ...


class CadvisorApi:
    """One for a listener. `is_strict`: as cAdvisor, its faults too."""

    def __init__(self, view: View, pages: EventPages, host: str, is_strict: bool) -> None:
        self._view = view
        self._pages = pages
        self._host = host
        self._is_strict = is_strict
        self._catalogs = Catalogs()
        self._series = Series()
        self._summaries = Summaries()

    def route(self) -> Route:
        return Route("/api{rest:path}", self.answer, methods=["GET", "HEAD", "POST"])

    async def answer(self, request: Request) -> Response:
        path: str = request.scope["path"]
        if not (path == "/api" or path.startswith("/api/")):
            return PlainTextResponse("There is nothing at this path; / lists what there is.\n", 404)
        if (moved := _moved(path)) is not None:
            return _redirect(request.scope.get("state", {}).get(URL_PREFIX, "") + moved, request.url.query)
        try:
            what = asked(path)
            if what.type == "events":
                return await self._events(what, request)
            if what.version.startswith("v1."):
                wanted = body_of(await request.body())
                return await self._respond(request, self._v1, what, wanted, is_trusted(request.scope))
            options = options_of(request.query_params, self._is_strict)
            if what.type == "ps":
                return await self._processes(what, options, request)
            if options.max_age_ms is not None and what.type in _RENEWED:
                await self._renew(what, options, time.time_ns() // 1_000_000 - options.max_age_ms)
            return await self._respond(request, self._v2, what, options, is_trusted(request.scope))
        except ApiError as exc:
            return PlainTextResponse(f"{exc}\n", exc.status_for(self._is_strict))

    async def _respond(self, request: Request, make: Any, *arguments: Any) -> Response:
        """Whole if it is short. An error before the first piece is an answer of its own."""
        body, rest = await run_in_threadpool(_begun, make, *arguments)
        if rest is None:
            return Response(body, media_type="application/json")
        without_time_limit(request.scope)

        async def pieces() -> Any:
            async for piece in iterate_in_threadpool(chain((body,), _gathered(rest))):
                go_on(request.scope, PIECE_S)
                yield piece

        return StreamingResponse(pieces(), media_type="application/json")

    async def _renew(self, what: Asked, options: Options, since_ms: int) -> None:
        """Has older containers read at the next tick, and waits for that. Often asked is not oftener read: a tick is a tick."""
        until_s, is_asked = time.monotonic() + RENEW_S, False
        while (old := await run_in_threadpool(self._older, what, options, since_ms)) and time.monotonic() < until_s:
            if not is_asked:
                try:
                    await run_in_threadpool(self._view.ask, "read_soon", {"containers": old}, RENEW_S)
                    is_asked = True
                except RequestError as exc:
                    if exc.reason is not Reason.BUSY:
                        return
            await asyncio.sleep(_LOOK_S)

    def _older(self, what: Asked, options: Options, since_ms: int) -> list[int]:
        """Numbers of the containers that are asked for and whose newest sample is older."""
        sources = self._sources(False)
        if what.type == "machinestats":
            entries = [e for e in (sources.catalog.by_path.get("/"),) if e is not None]
        else:
            entries = v2.entries_of(what.container, options, sources)
        return [e.container.number for e in entries if e.latest is not None and e.latest.ts_ms < since_ms]

    def _sources(self, may_see_secrets: bool) -> Sources:
        store = self._view.samples()
        if store is None:
            raise ApiError("samples are held by the sink memory, which does not run", Status.UNAVAILABLE)
        catalog = self._catalogs.now(store)
        return Sources(store, self._view.history(), catalog, self._series, self._summaries, self._is_strict, may_see_secrets)

    def _v1(self, what: Asked, wanted: Wanted, may_see_secrets: bool) -> Iterator[bytes]:
        sources = self._sources(may_see_secrets)
        if what.type == "machine":
            return _machine(sources)
        answers = {"containers": v1.container, "subcontainers": v1.subcontainers, "docker": v1.docker}
        return answers[what.type](what, wanted, sources)

    def _v2(self, what: Asked, options: Options, may_see_secrets: bool) -> Iterator[bytes]:
        if what.type == "version":
            return iter((encode(VERSION),))
        sources = self._sources(may_see_secrets)
        if what.type == "machine":
            return _machine(sources)
        if what.type == "attributes":
            return _attributes(sources)
        if what.type == "storage":
            return v2.storage(options, sources)
        if what.type == "machinestats":
            return v2.machine_stats(options, sources)
        stats = v2.stats_v20 if what.version == "v2.0" else v2.stats_v21
        answers = {"stats": stats, "spec": v2.specs, "summary": v2.summaries, "appmetrics": v2.app_metrics}
        return answers[what.type](what, options, sources)

    async def _events(self, what: Asked, request: Request) -> Response:
        query, is_stream = events.query_of(request.query_params, what.container, self._is_strict)
        store = self._view.events()
        if store is None:
            raise ApiError("events are kept by the sink memory, which does not run", Status.UNAVAILABLE)
        if is_stream:
            return self._pages.stream(
                store, query, request, lambda waiting: events.lines(waiting, self._host, self._is_strict), None
            )
        found = await run_in_threadpool(events.found, store, query, self._host, self._is_strict)
        return Response(found, media_type="application/json")

    async def _processes(self, what: Asked, options: Options, request: Request) -> Response:
        if not is_trusted(request.scope):
            return PlainTextResponse(f"Processes: {UNTRUSTED}\n", 403)

        def listed() -> bytes:
            entries = v2.entries_of(what.container, options._replace(is_recursive=False), self._sources(True))
            path = entries[0].path
            answer = self._view.ask("processes", {"path": path, "recursive": False}, TIMEOUT_S)
            return encode([processes.of(p, path == "/", time.time()) for p in answer["processes"]])

        try:
            return Response(await run_in_threadpool(listed), media_type="application/json")
        except RequestError as exc:
            return PlainTextResponse(f"{exc}\n", 500 if self._is_strict else STATUS[exc.reason])


def _begun(make: Any, *arguments: Any) -> tuple[bytes, Iterator[bytes] | None]:
    """What there is up to WHOLE_BYTES, and the rest; None: that was all."""
    pieces: Iterator[bytes] = make(*arguments)
    taken: list[bytes] = []
    size = 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            return b"".join(taken), pieces
    return b"".join(taken), None


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """In parts of some size, as each is fetched from a worker thread by itself."""
    taken: list[bytes] = []
    size = 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size > PART_BYTES:
            yield b"".join(taken)
            taken, size = [], 0
    yield b"".join(taken)


def _machine(sources: Sources) -> Iterator[bytes]:
    known = sources.catalog.machine
    if known is None:
        raise ApiError("the machine has not been read yet", Status.UNAVAILABLE)
    yield encode(machine.info(known, sources.catalog.machine_ms))


def _attributes(sources: Sources) -> Iterator[bytes]:
    known = sources.catalog.machine
    if known is None:
        raise ApiError("the machine has not been read yet", Status.UNAVAILABLE)
    yield encode(machine.attributes(known))


def _moved(path: str) -> str | None:
    """Where the path is found once it is cleaned, as Go's router says; None: here."""
    if path == "/api":
        return "/api/"
    cleaned = clean(path)
    if path.endswith("/") and cleaned != "/":
        cleaned += "/"
    return cleaned if cleaned != path else None


def _redirect(path: str, query: str) -> Response:
    target = quote(path) + (f"?{query}" if query else "")
    safe = target.replace("&", "&amp;").replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
    return Response(
        f'<a href="{safe}">Moved Permanently</a>.\n\n',
        301,
        {"location": target},
        media_type="text/html",
    )
