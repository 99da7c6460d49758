"""`POST /api/v1/query` on real sockets, over a real SQLite file: who is answered, and what ends a question."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.api.access import TOKEN, Listener, listening, secret
from tests.support import eventually

from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.sql_query import QueryError, QueryTarget, Why
from tidegauge.pipeline.testing import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

MODULE = "tidegauge.sinks.sql.query_worker"
SCHEMA = make_schema(("cpu_usage_ns",), ())
FOR_EVER = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"
PATH = "/api/v1/query"


class Broken:
    def query_target(self) -> QueryTarget:
        raise QueryError(Why.STORE, "Expected query_url.")


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> SqlSink:
    sink = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path_factory.mktemp('query') / 'a.db'}"))
    samples = [make_sample(SCHEMA, 1, START_MS + s * 1000, cpu_usage_ns=s * 10**9) for s in range(10)]
    sink.write([make_batch(samples, [make_container(1, "/a", name="web, 1")], (SCHEMA,))])
    return sink


@pytest.fixture
def serve(tmp_path: Path, sink: SqlSink) -> Iterator[Callable[..., Listener]]:
    with contextlib.ExitStack() as stack:

        def start(**fields: Any) -> Listener:
            listener = stack.enter_context(listening(HttpConfig(**{"query": True, **fields}), tmp_path))
            listener.view.stores["sql"] = sink
            return listener

        yield start


def post(listener: Listener, body: Any, **headers: str) -> httpx2.Response:
    """Over the Unix socket."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    transport = httpx2.HTTPTransport(uds=str(listener.socket_path))
    with httpx2.Client(transport=transport, base_url="http://localhost", timeout=120) as client:
        return client.post(PATH, content=content, headers=headers)


def workers() -> list[int]:
    """Processes that answer questions of this one."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if MODULE in child.cmdline():
                found.append(child.pid)
    return found


def test_rows_are_answered_as_json_and_as_csv(serve: Callable[..., Listener]) -> None:
    listener = serve()
    sql = "SELECT container, count(*) AS n, avg(cpu_cores) AS cores, NULL AS absent, x'00ff' AS raw FROM cpu GROUP BY 1"
    response = post(listener, {"sql": sql})
    assert response.status_code == 200, response.text
    assert response.json() == {
        "columns": ["container", "n", "cores", "absent", "raw"],
        "rows": [["web, 1", 10, 1.0, None, "00ff"]],
        "is_cut": False,
    }
    response = post(listener, {"sql": sql}, accept="text/csv")
    assert response.text == 'container,n,cores,absent,raw\r\n"web, 1",10,1.0,,00ff\r\n'
    assert response.headers["content-type"].startswith("text/csv")
    assert post(listener, {"sql": "SELECT ts_ms FROM cpu", "limit": 3, "store": "sql"}).json() == {
        "columns": ["ts_ms"],
        "rows": [[START_MS], [START_MS + 1000], [START_MS + 2000]],
        "is_cut": True,
    }


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"SELECT 1", 400, "Body"),
        (b"\xff", 400, "Body"),
        (b"", 400, "Body"),
        ({"limit": 1}, 400, "sql"),
        ({"sql": 1}, 400, "sql"),
        ({"sql": "SELECT 1", "limit": 0}, 400, "limit"),
        ({"sql": "SELECT 1", "limit": 10**9}, 400, "limit"),
        ({"sql": "SELECT 1", "timeout": 9}, 400, "timeout"),
        ({"sql": "SELECT 1", "store": "other"}, 404, "no sink"),
        ({"sql": "SELECT 1", "store": "broken"}, 503, "query_url"),
        ({"sql": "DELETE FROM sample"}, 400, "Only SELECT"),
        ({"sql": "SELECT x FROM cpu"}, 400, "no such column: x"),
        ({"sql": "SELECT '\0'"}, 400, "NUL"),
        (b'{"sql": "\\ud800"}', 400, "Body"),
    ],
)
def test_what_cannot_be_answered_says_why(serve: Callable[..., Listener], body: Any, status: int, words: str) -> None:
    listener = serve()
    listener.view.stores["broken"] = Broken()
    response = post(listener, body)
    assert (response.status_code, words in response.text) == (status, True), response.text


def test_without_a_store_and_with_too_many_questions_it_says_so(serve: Callable[..., Listener]) -> None:
    listener = serve()
    listener.view.stores.clear()
    assert post(listener, {"sql": "SELECT 1"}).status_code == 503


@pytest.mark.parametrize("is_on", [False, True])
def test_it_answers_only_where_it_is_on_and_who_is_trusted(
    serve: Callable[..., Listener], tmp_path: Path, *, is_on: bool
) -> None:
    listener = serve(query=is_on, token_file=secret(tmp_path / "tokens", TOKEN + "\n"))
    body = json.dumps({"sql": "SELECT 1"})
    assert httpx2.post(listener.url + PATH, content=body).status_code == 401
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for response in (
        httpx2.post(listener.url + PATH, content=body, headers=bearer, timeout=60),
        post(listener, {"sql": "SELECT 1"}),
    ):
        assert response.status_code == (200 if is_on else 403)
        assert is_on or "http.query" in response.text
    assert httpx2.get(listener.url + PATH, headers=bearer).status_code == 404


def test_loopback_without_a_credential_is_not_trusted(serve: Callable[..., Listener]) -> None:
    response = httpx2.post(serve().url + PATH, content=b'{"sql": "SELECT 1"}')
    assert response.status_code == 403
    assert "Unix socket" in response.text
    assert workers() == []


def test_its_time_is_bounded(serve: Callable[..., Listener]) -> None:
    response = post(serve(query_timeout_s=0.5), {"sql": FOR_EVER})
    assert response.status_code == 504
    assert "longer than 0.5 s" in response.text


def test_few_are_answered_at_once_and_a_client_that_leaves_ends_its_question(serve: Callable[..., Listener]) -> None:
    listener = serve(query_timeout_s=600.0, request_timeout_s=600.0)
    asyncio.run(asyncio.wait_for(_crowd(listener), 120))
    eventually(lambda: not workers())
    assert post(listener, {"sql": "SELECT 1"}).status_code == 200


async def _crowd(listener: Listener) -> None:
    request = json.dumps({"sql": FOR_EVER}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request)}\r\n\r\n".encode()
    writers = []
    for _ in range(2):
        _, writer = await asyncio.open_unix_connection(listener.socket_path)
        writer.write(head + request)
        await writer.drain()
        writers.append(writer)
    while len(workers()) < 2:
        await asyncio.sleep(0.02)
    response = await asyncio.to_thread(post, listener, {"sql": "SELECT 1"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    for writer in writers:
        writer.close()
        await writer.wait_closed()


def test_a_request_that_takes_too_long_takes_its_process_along(serve: Callable[..., Listener], monkeypatch: Any) -> None:
    """Where the guard's own limit comes first."""
    from tidegauge.api import query

    monkeypatch.setattr(query, "min", lambda *_: 600.0, raising=False)
    listener = serve(query_timeout_s=600.0, request_timeout_s=1.0)
    assert post(listener, {"sql": FOR_EVER}).status_code == 503
    eventually(lambda: not workers())
    assert listener.guard.refused["timeout"] == 1


def test_neither_sql_nor_settings_are_logged(serve: Callable[..., Listener], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    listener = serve(query_timeout_s=0.5)
    for sql in ("SELECT 'private-words'", "SELECT private_words", FOR_EVER.replace("x", "private_words")):
        post(listener, {"sql": sql})
    assert "private" not in caplog.text
