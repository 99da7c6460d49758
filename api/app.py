"""Routes of the listener: health, the Prometheus page, a plain index, and what `tidegauge status` asks."""

import html
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from tidegauge.api import debug, openapi, processes, validate
from tidegauge.api.auth import Credentials
from tidegauge.api.cadvisor.routes import CadvisorApi
from tidegauge.api.events import EventPages
from tidegauge.api.exposition.endpoint import Exposition
from tidegauge.api.guard import UNTRUSTED, Guard, is_trusted
from tidegauge.api.heapster.routes import HeapsterApi
from tidegauge.api.history import HistoryPages
from tidegauge.api.query import QueryPage
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.event_store import EventStore
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.history import HistoryReader
from tidegauge.pipeline.latest import KeepsLatest, KeepsSamples
from tidegauge.pipeline.plugin import PointReader
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.sql_query import KeepsSql
from tidegauge.pipeline.telemetry import Family, by


class ServerView(Protocol):
    """What the listener shows of the running server. Safe from any thread."""

    def faults(self) -> list[str]:
        """What keeps the program from its work, a line each; [] when all is well."""
        ...

    def status(self) -> dict[str, Any]:
        """State of everything as JSON-able values."""
        ...

    def families(self) -> list[Family]: ...

    def containers(self) -> list[Container] | None:
        """Those that live; None when no sink that could tell runs."""
        ...

    def latest(self) -> KeepsLatest | None:
        """The store of the newest values; None when none runs, or the sampler is silent and what it holds is old."""
        ...

    def samples(self) -> KeepsSamples | None:
        """The store of the last samples, however old they are; None when none runs."""
        ...

    def history(self) -> PointReader | None:
        """The store of older samples; None when none runs."""
        ...

    def histories(self) -> Mapping[str, HistoryReader]:
        """The stores that can be asked about the past, by the names of their sinks."""
        ...

    def sql_stores(self) -> Mapping[str, KeepsSql]:
        """The sinks whose stores can be asked in SQL, by name."""
        ...

    def events(self) -> EventStore | None:
        """What keeps the last events; None when no sink that does runs."""
        ...

    def dead_letters(self, sink: str, action: str, ids: list[int] | None) -> dict[str, Any]:
        """`action` is list, replay or discard; ids None means all. KeyError for an unknown sink."""
        ...

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """What the sampler answers. RequestError if it does not. Waits."""
        ...


def build(
    view: ServerView,
    config: HttpConfig,
    host: str,
    groups: Collection[str] = DEFAULT_GROUPS,
    credentials: Credentials | None = None,
) -> Guard:
    """The ASGI application behind its guard. `groups` of metrics are those that are on.

    The files of credentials are read here unless `credentials` are given; ConfigError if they cannot be.
    """
    guards: list[Guard] = []
    pages = EventPages(view.events)
    exposition = Exposition(view, lambda: [_refused(guards[0])], groups, has_timestamps=config.metrics_timestamps)

    async def healthz(request: Request) -> Response:
        faults = await run_in_threadpool(view.faults)
        if faults:
            # where credentials are asked for, who has shown none is not told of sinks and the like
            told = faults if not config.asks_credential or is_trusted(request.scope) else ["not well"]
            return PlainTextResponse("\n".join(told) + "\n", 503)
        return PlainTextResponse("ok\n")

    async def index(request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(_index, view))

    async def status(request: Request) -> Response:
        return _json(await run_in_threadpool(view.status))

    async def dead_letters(request: Request) -> Response:
        if not is_trusted(request.scope):
            return PlainTextResponse(f"Dead letters: {UNTRUSTED}\n", 403)
        action = request.path_params["action"]
        if (action == "list") != (request.method in ("GET", "HEAD")):
            return PlainTextResponse("Method: expected GET for list, POST for replay and discard.\n", 405)
        try:
            ids = msgspec.json.decode(await request.body() or b"null", type=list[int] | None)
        except msgspec.DecodeError as exc:
            return PlainTextResponse(f"Body: expected a JSON list of numbers or nothing: {exc}\n", 400)
        try:
            return _json(await run_in_threadpool(view.dead_letters, request.path_params["sink"], action, ids))
        except KeyError:
            return PlainTextResponse("There is no such sink.\n", 404)
        except TidegaugeError as exc:
            return PlainTextResponse(f"{exc}\n", 409)

    app = Starlette(
        routes=[
            Route("/", index),
            Route("/healthz", healthz),
            Route("/metrics", exposition.answer),
            Route("/api/v1/status", status),
            Route("/api/v1/events", pages.answer),
            *HistoryPages(view.histories, config.request_timeout_s).routes(),
            *HeapsterApi(view, config.request_timeout_s).routes(),
            QueryPage(view.sql_stores, config).route(),
            processes.route(view.ask, view.containers),
            Route("/api/v1/dead-letters/{sink}/{action:str}", dead_letters, methods=["GET", "POST"]),
            *validate.routes(view),
            openapi.route(config),
            *(debug.routes(view.ask) if config.debug else ()),
            CadvisorApi(view, pages, host, config.compat == "strict").route(),
        ],
        exception_handlers={404: _not_found},
    )
    guards.append(Guard(app, config, _names(host), credentials))
    return guards[0]


def _names(host: str) -> Iterable[str]:
    yield host
    yield host.partition(".")[0]


async def _not_found(request: Request, exc: Exception) -> Response:
    return PlainTextResponse("There is nothing at this path; / lists what there is.\n", 404)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _refused(guard: Guard) -> Family:
    return by("tidegauge_http_refused_total", "counter", "Requests refused before any route saw them.", "reason", guard.refused)


def _index(view: ServerView) -> str:
    status = view.status()
    faults = view.faults()
    cell: Callable[[object], str] = lambda v: f"<td>{html.escape(str(v))}</td>"  # noqa: E731
    sinks = "".join(
        "<tr>"
        + "".join(cell(v) for v in (name, s["state"], s["written"], s["pending"], s["dead_letter"], sum(s["dropped"].values())))
        + "</tr>"
        for name, s in sorted(status["sinks"].items())
    )
    containers = view.containers()
    if containers is None:
        listed = "<p>They are listed when the sink <code>memory</code> runs.</p>"
    else:
        rows = "".join(
            f"<tr>{cell(c.path)}{cell(c.name or '')}{cell(c.image or '')}</tr>"
            for c in sorted(containers, key=lambda c: c.path)
        )
        listed = f"<table><tr><th>path<th>name<th>image</tr>{rows}</table>"
    state = "All is well." if not faults else "Not well: " + "; ".join(faults)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>tidegauge on {html.escape(status['host'])}</title>"
        f"<h1>tidegauge on {html.escape(status['host'])}</h1>"
        f"<p>Version {html.escape(status['version'])}. {html.escape(state)}</p>"
        "<ul><li><a href=healthz>/healthz</a> whether it works"
        "<li><a href=metrics>/metrics</a> containers, machine and the program's own counters, for Prometheus"
        "<li><a href=api/>/api/v1.0 to v2.1</a> cAdvisor's REST API"
        "<li><a href=api/v1/model/debug/allkeys>/api/v1/model/</a> Heapster's APIs"
        "<li><a href=api/v1/status>/api/v1/status</a> state of every part, JSON"
        "<li><a href=api/v1/events>/api/v1/events</a> what happened to containers, JSON"
        "<li><a href=api/v1/history/metrics>/api/v1/history/metrics</a> what can be asked of the past, JSON"
        "<li><a href=validate/>/validate/</a> what of this host works, and what to do"
        "<li><a href=openapi.json>/openapi.json</a> all that can be asked, for programs</ul>"
        "<h2>Sinks</h2><table><tr><th>sink<th>state<th>written rows<th>pending<th>dead letters<th>dropped</tr>"
        f"{sinks}</table>"
        f"<h2>Containers</h2>{listed}</html>\n"
    )
