"""`/api/v1/events`: the last events as a JSON list, or with `stream=true` what comes from now on, a JSON object a line.

A reader that takes a stream too slowly loses the oldest of what waits for it, and a line `{"missed": N}` says how many; it
never holds up who makes events, nor other readers. An empty line now and then shows that the connection lives.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from tidegauge.api.guard import go_on, without_time_limit
from tidegauge.pipeline.event_store import EventQuery, EventStore, StoredEvent, Subscription, as_dict
from tidegauge.pipeline.times import moment_ms

DEFAULT_LIMIT = 1000
MAX_STREAMS = 16
"""Streams at a time; more are answered 503. Each takes one of `http.max_requests`."""
HEARTBEAT_S = 15.0
READER_S = 60.0
"""A client that has taken nothing for so long, with everything between full, is cut off."""
_NAMES = frozenset({"start", "end", "kind", "path", "subcontainers", "limit", "stream"})
_LINES = "application/x-ndjson"
_WORDS = {"true": True, "1": True, "false": False, "0": False}


Taken: TypeAlias = Callable[[Subscription], bytes]
"""Lines of what waits for a reader; never empty, as an empty part would end the answer."""


class BadQuery(ValueError):
    """A parameter says what cannot be; the text names it."""


def parse(params: QueryParams) -> tuple[EventQuery, bool]:
    """The query, and whether it is for a stream. BadQuery for an unknown name or a value that is none."""
    for name in params:
        if name not in _NAMES:
            raise BadQuery(f"{name}: expected one of {', '.join(sorted(_NAMES))}")
    kinds = frozenset(kind for text in params.getlist("kind") for kind in text.split(",") if kind)
    path = params.get("path", "/")
    if not path.startswith("/"):
        raise BadQuery(f"path: expected a cgroup path from the root of the hierarchy, such as /system.slice, got {path!r}")
    query = EventQuery(
        start_ms=_time(params, "start"),
        end_ms=_time(params, "end"),
        kinds=kinds or None,
        path=path,
        subcontainers=_boolean(params, "subcontainers", True),
        limit=_limit(params),
    )
    return query, _boolean(params, "stream", False)


def _time(params: QueryParams, name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    if text.removeprefix("-").isdecimal() and len(text) < 18:
        return int(text)
    if (time_ms := moment_ms(text)) is None:
        raise BadQuery(f"{name}: expected ms since 1970 or a time as 2026-01-31T12:00:00Z, got {text!r}")
    return time_ms


def _boolean(params: QueryParams, name: str, default: bool) -> bool:
    text = params.get(name)
    value = default if text is None else _WORDS.get(text.lower())
    if value is None:
        raise BadQuery(f"{name}: expected true or false, got {text!r}")
    return value


def _limit(params: QueryParams) -> int | None:
    text = params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isdecimal() and len(text) < 18):
        raise BadQuery(f"limit: expected a number from 0, which stands for all, got {text!r}")
    return int(text) or None


class EventPages:
    """The route. `store` gives what keeps the events now; None: nothing does."""

    def __init__(self, store: Callable[[], EventStore | None]) -> None:
        self._store = store
        self.streams = 0
        """Streams that are open."""

    async def answer(self, request: Request) -> Response:
        try:
            query, is_stream = parse(request.query_params)
        except BadQuery as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        store = self._store()
        if store is None:
            return PlainTextResponse("Events are kept by the sink memory, which does not run.\n", 503)
        if not is_stream:
            return Response(await run_in_threadpool(_page, store, query), media_type="application/json")
        return self.stream(store, query, request, _taken, _LINES)

    def stream(self, store: EventStore, query: EventQuery, request: Request, taken: Taken, media_type: str | None) -> Response:
        """What comes from now on, until the client leaves; 503 if there are too many streams. `taken` gives the lines."""
        if self.streams >= MAX_STREAMS:
            return PlainTextResponse(f"At most {MAX_STREAMS} streams at a time.\n", 503)
        if request.method == "HEAD":
            return Response(media_type=media_type)
        without_time_limit(request.scope)
        return StreamingResponse(self._lines(store, query, request, taken), media_type=media_type)

    async def _lines(self, store: EventStore, query: EventQuery, request: Request, taken: Taken) -> AsyncIterator[bytes]:
        loop, came = asyncio.get_running_loop(), asyncio.Event()

        def on_ready() -> None:
            # the loop is closed when the program ends
            if not loop.is_closed():
                loop.call_soon_threadsafe(came.set)

        self.streams += 1
        try:
            with store.follow(query, on_ready=on_ready) as subscription:
                yield b"\n"  # so that whoever waits for the head of the answer knows that it follows
                while not subscription.is_closed:
                    go_on(request.scope, READER_S)
                    try:
                        async with asyncio.timeout(HEARTBEAT_S):
                            await came.wait()
                    except TimeoutError:
                        yield b"\n"
                        continue
                    came.clear()
                    yield taken(subscription)
        finally:
            self.streams -= 1


def _taken(subscription: Subscription) -> bytes:
    """Lines of what waits; an empty one if nothing does."""
    missed, found = subscription.take()
    lines: Sequence[object] = [*([{"missed": missed}] if missed else []), *map(as_dict, found)]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines) or b"\n"


def _page(store: EventStore, query: EventQuery) -> bytes:
    found: list[StoredEvent] = store.find(query)
    return msgspec.json.encode([as_dict(stored) for stored in found])
