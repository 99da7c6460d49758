"""`POST /api/v1/query`: a question in SQL to a store that keeps its rows in SQL. Off unless `http.query` is set.

Only for who is trusted; each runs in a bounded process, which ends with the client's connection. The SQL is not logged.
"""

import asyncio
import contextlib
import csv
import io
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tidegauge.api.guard import UNTRUSTED, is_trusted
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.sql_query import MOST_ROWS, KeepsSql, QueryError, Question, SqlAnswer, Why, ask_async, readable

PATH = "/api/v1/query"
AT_A_TIME = 2
"""Questions that are answered at once; more are told to come again."""
ANSWER_BYTES = 16 << 20
PREFERRED = "sql"
"""The store that is asked unless one is named, where there is one of this name; else the first by name."""
_STATUS = {Why.BAD_SQL: 400, Why.TOO_LONG: 504, Why.TOO_LARGE: 507, Why.STORE: 503}


class QueryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question in SQL: one SELECT. `store` is the name of a sink."""

    sql: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = 10_000
    store: str | None = None


class QueryAnswer(msgspec.Struct, frozen=True):
    """What it found. Times are text in UTC, true and false 1 and 0, bytes hexadecimal digits."""

    columns: list[str]
    rows: list[list[int | float | str | None]]
    is_cut: bool = False
    """There are more rows than were asked for, or than fit into an answer."""


class QueryPage:
    """The route. `stores` gives those that can be asked now, by the names of their sinks."""

    def __init__(self, stores: Callable[[], Mapping[str, KeepsSql]], config: HttpConfig) -> None:
        self._stores = stores
        self._is_on = config.query
        self._timeout_s = min(config.query_timeout_s, 0.9 * config.request_timeout_s)
        self._now = 0

    def route(self) -> Route:
        return Route(PATH, self.answer, methods=["POST"])

    async def answer(self, request: Request) -> Response:
        if not self._is_on:
            return PlainTextResponse("Questions in SQL are off (http.query).\n", 403)
        if not is_trusted(request.scope):
            return PlainTextResponse(f"Questions in SQL: {UNTRUSTED}\n", 403)
        try:
            asked = msgspec.json.decode(await request.body(), type=QueryBody)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            return PlainTextResponse(f'Body: expected JSON such as {{"sql": "SELECT ...", "limit": 100}}: {exc}\n', 400)
        stores = self._stores()
        if asked.store is not None and asked.store not in stores:
            return PlainTextResponse("There is no sink of that name that keeps its rows in SQL.\n", 404)
        if not stores:
            return PlainTextResponse("No sink that keeps its rows in SQL runs.\n", 503)
        store = stores[asked.store or (PREFERRED if PREFERRED in stores else min(stores))]
        if self._now >= AT_A_TIME:
            busy = f"{AT_A_TIME} questions are being answered: ask again.\n"
            return PlainTextResponse(busy, 503, headers={"Retry-After": "1"})
        is_csv = request.headers.get("accept", "").partition(";")[0].strip() == "text/csv"
        self._now += 1
        try:
            question = Question(asked.sql, asked.limit, self._timeout_s, answer_bytes=ANSWER_BYTES)
            found = await _unless_gone(request, store, question)
            body = await run_in_threadpool(_body, found, is_csv)  # of a million rows it takes long
        except QueryError as exc:
            return PlainTextResponse(f"{exc}\n", _STATUS[exc.why])
        finally:
            self._now -= 1
        if is_csv:
            return Response(body, media_type="text/csv", headers={"X-Is-Cut": str(found.is_cut).lower()})
        return Response(body, media_type="application/json")


async def _unless_gone(request: Request, store: KeepsSql, question: Question) -> SqlAnswer:
    """The answer; the process ends when the client goes away, or this task is cancelled."""
    asked = asyncio.ensure_future(ask_async(store.query_target(), question))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise QueryError(Why.TOO_LONG, "The client went away.")
    finally:
        for task in (asked, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, QueryError):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _body(found: SqlAnswer, is_csv: bool) -> bytes:
    """JSON, or CSV as of RFC 4180 with a header and NULL empty."""
    rows = map(readable, found.rows)
    if not is_csv:
        return msgspec.json.encode(QueryAnswer(found.columns, list(rows), found.is_cut))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(found.columns)
    writer.writerows(rows)
    return out.getvalue().encode(errors="replace")
