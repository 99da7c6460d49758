"""`/api/v1/history/...` on a real server, over a store of plain records, asked by hand and by the client; every refusal."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from tests.history_rig import BEGIN_MS, END_MS, PureReader, records

from tidegauge.api import history as history_module
from tidegauge.api.guard import Guard
from tidegauge.api.history import HistoryPages
from tidegauge.api.http_server import HttpServer
from tidegauge.client import Client, HistoryQuery, HistorySpan, HttpError
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.history import HistoryReader, StoredContainer, StoreError

READER = PureReader(records())
SPAN = {"since": str(BEGIN_MS), "until": str(END_MS)}


class _Broken(PureReader):
    def containers(self, since_ms: int, until_ms: int) -> list[StoredContainer]:
        raise StoreError("sqlite: the disk is on fire")


class Listener:
    def __init__(self) -> None:
        self.stores: dict[str, HistoryReader] = {"sql": READER, "another": PureReader([]), "broken": _Broken([])}
        config = HttpConfig()
        pages = HistoryPages(lambda: self.stores, config.request_timeout_s)
        self.server = HttpServer(Guard(Starlette(routes=pages.routes()), config, ["here"]), config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def get(self, path: str, query: Mapping[str, Any] | str = "", method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.socket.getsockname()[1], timeout=60)
        text = query if isinstance(query, str) else urlencode(query, doseq=True)
        connection.request(method, f"/api/v1/history/{path}?{text}")
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body

    def ask(self, route: str, **query: Any) -> Any:
        status, body = self.get(route, query)
        assert status == 200, body
        return json.loads(body)

    def close(self) -> None:
        self.server.stop()
        self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_containers_of_a_span(listener: Listener) -> None:
    found = listener.ask("containers", **SPAN)
    assert (found["store"], found["found"]) == ("sql", 11)
    assert [c["path"] for c in found["containers"]][:3] == ["/", "/docker/a", "/docker/b"]
    a = found["containers"][1]
    assert (a["labels"], a["ended_ms"]) == ({"app": "web", "tier": "front"}, None)
    ended = next(c for c in found["containers"] if c["path"] == "/docker/c")
    assert ended["ended_ms"] == BEGIN_MS + 7_003_000
    assert [c["path"] for c in listener.ask("containers", **SPAN, path=["/docker/[ef]", "/"])["containers"]] == [
        *("/", "/docker/e", "/docker/e", "/docker/f")
    ]
    newest = listener.ask("containers", **SPAN, limit=2)
    assert newest["found"] == 11
    assert len(newest["containers"]) == 2
    assert listener.ask("containers")["containers"] == []  # within the last hour there were none


def test_what_can_be_asked_for(listener: Listener) -> None:
    found = {m["name"]: m for m in listener.ask("metrics")["metrics"]}
    assert found["cpu_usage_ns"]["asked_as"] == "cores"
    assert found["network_receive_bytes"] == {
        "name": "network_receive_bytes",
        "kind": "counter",
        "unit": "bytes",
        "asked_as": "bytes/s",
        "label": "interface",
        "help": found["network_receive_bytes"]["help"],
    }


def test_a_question_in_buckets(listener: Listener) -> None:
    found = listener.ask("query", **SPAN, metric="cpu_usage_ns", agg="p95", bucket="30m", container="/docker/*", top=2)
    assert found["found"] == 6
    assert len(found["series"]) == 2
    assert (found["unit"], found["resolution"], found["bucket_ms"]) == ("cores", "raw", 1_800_000)
    series = found["series"][0]
    assert len(series["points"]) == 6
    assert series["points"][0].keys() == {"ts_ms", "value", "coverage", "state"}
    gone = listener.ask("query", **SPAN, metric="cpu_usage_ns", bucket="1h", path="/docker/c")["series"][0]["points"][-1]
    assert gone == {"ts_ms": BEGIN_MS + 7_200_000, "value": None, "coverage": None, "state": "gone"}


def test_an_empty_answer_is_an_answer(listener: Listener) -> None:
    assert listener.ask("query", metric="cpu_usage_ns")["series"] == []
    assert listener.ask("query", **SPAN, metric="cpu_usage_ns", store="another")["store"] == "another"


@pytest.mark.parametrize(
    ("path", "query", "status", "text"),
    [
        ("query", {}, 400, "metric: expected a name"),
        ("query", {"metric": "cpu"}, 400, "metric: there is no 'cpu'"),
        ("query", {"metric": "cpu_usage_ns", "step": "5m"}, 400, "step: expected one of metric, since"),
        ("query", {"metric": "cpu_usage_ns", "since": "soon"}, 400, "since: expected 24h (before now), ms"),
        ("query", {"metric": "cpu_usage_ns", "agg": "mean"}, 400, "agg: expected one of avg"),
        ("query", {"metric": "cpu_usage_ns", "bucket": "5"}, 400, "bucket: expected a duration"),
        ("query", {"metric": "cpu_usage_ns", "bucket": "0s"}, 400, "bucket: expected a duration above 0"),
        ("query", {"metric": "cpu_usage_ns", "bucket": "999999999999w", "since": "-1"}, 400, "bucket: expected a duration"),
        ("query", {"metric": "cpu_usage_ns", "bucket": "1ms", "since": "30d"}, 400, "bucket: the span has more than 100000"),
        ("query", {"metric": "memory_rss_bytes", "agg": "rate"}, 400, "agg: memory_rss_bytes is a gauge"),
        ("query", {"metric": "cpu_usage_ns", "store": "void"}, 400, "store: expected one of another, broken, sql"),
        ("query", {"metric": "cpu_usage_ns", "store": "broken"}, 503, "sqlite: the disk is on fire"),
        ("query", {"metric": ["a", "b"]}, 400, "metric: expected one, got 2"),
        ("containers", {"since": "1h", "until": "2h"}, 400, "since, until: expected a beginning before"),
        ("containers", {"limit": "all"}, 400, "limit: expected a number"),
        ("containers", {"metric": "x"}, 400, "metric: expected one of since"),
        ("metrics", {"name": "x"}, 400, "name: expected one of store"),
    ],
)
def test_what_cannot_be_asked_is_said(listener: Listener, path: str, query: dict[str, Any], status: int, text: str) -> None:
    got, body = listener.get(path, query)
    assert (got, body[: len(text)]) == (status, text)
    assert body.endswith("\n")


def test_a_question_that_reads_too_much_is_refused(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_ROWS", 500)
    status, body = listener.get("query", {**SPAN, "metric": "cpu_usage_ns"})
    assert (status, body.partition(":")[0]) == (413, "the question reads more than 500 rows")
    monkeypatch.setattr(history_module, "MAX_ROWS", 10**6)
    assert listener.get("query", {**SPAN, "metric": "cpu_usage_ns"})[0] == 200


def test_without_a_store_there_is_no_answer(listener: Listener) -> None:
    stores, listener.stores = listener.stores, {}
    try:
        assert listener.get("metrics") == (503, "No sink that keeps history runs: sql, or influxdb.\n")
    finally:
        listener.stores = stores


def test_only_get_and_head(listener: Listener) -> None:
    assert listener.get("metrics", method="POST")[0] == 405
    assert listener.get("metrics", method="HEAD") == (200, "")


def test_the_client_asks_all_of_it(listener: Listener) -> None:
    since, until = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (BEGIN_MS, END_MS))
    with Client(listener.url) as client:
        past = client.tidegauge.history_containers(HistorySpan(since=since, until=until, labels={"app": "w*"}))
        assert [c.path for c in past.containers] == ["/docker/a", "/docker/b", "/docker/f"]
        assert past.containers[0].labels == {"app": "web", "tier": "front"}
        assert {m.name for m in client.tidegauge.history_metrics("sql").metrics} >= {"cpu_usage_ns"}
        query = HistoryQuery(
            metric="memory_working_set_bytes",
            since=since,
            until=until,
            container="/docker/*",
            host=["host-a"],
            agg="median",
            bucket=timedelta(minutes=30),
            group=["label:app"],
            top=5,
        )
        found = client.tidegauge.history(query)
        assert (found.unit, found.group, found.bucket_ms) == ("bytes", ("label:app",), 1_800_000)
        assert {s.labels["label:app"] for s in found.series} == {"web", "job", ""}
        one = client.tidegauge.history(
            HistoryQuery(metric="cpu_usage_ns", since=since, until=until, path="/docker/c", group=())
        )
        assert one.series[0].value is not None
        with pytest.raises(HttpError, match="HTTP 400: metric: there is no 'x'"):
            client.tidegauge.history(HistoryQuery(metric="x", since=timedelta(hours=1)))
    with pytest.raises(ValueError, match="since: expected a time with its zone"):
        HistoryQuery(metric="x", since=datetime(2026, 1, 1)).parameters()
