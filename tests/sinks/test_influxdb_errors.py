"""What the sink makes of a server that refuses, hangs or closes: our mapping of errors, not a store."""

import gzip
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tidegauge.pipeline.errors import PartialWriteError, PermanentError, RetryableError, SinkError, TooLargeError
from tidegauge.pipeline.records import Batch
from tidegauge.pipeline.testing import START_MS, make_batch, make_sample, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.influxdb_http import retry_after_s

SECRET = "hush-hush-token"


class Handler(BaseHTTPRequestHandler):
    """Answers writes as `Refusing.answer` says, everything else as a store of the version does."""

    answer: ClassVar[tuple[int, dict[str, str], bytes] | None]
    version: ClassVar[str]
    requests: ClassVar[list[tuple[str, dict[str, str], bytes]]]

    def do_GET(self) -> None:
        if self.path != "/ping":
            self._send(404, {}, b"")
            return
        self._send(204, {"X-Influxdb-Version": self.version} if self.version else {}, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if "/write" not in self.path:
            self._send(404, {}, b"")
            return
        self.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if self.answer is None:
            self.close_connection = True
            return
        self._send(*self.answer)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Refusing:
    """A sink and the server that it writes to."""

    def __init__(self, version: str) -> None:
        self.handler = type("OneHandler", (Handler,), {"answer": (204, {}, b""), "version": version, "requests": []})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        options: dict[str, Any] = {"user": "me", "password": SECRET} if version.startswith("1") else {"token": SECRET}
        self.sink = InfluxdbSink(InfluxdbConfig(url=self.url, timeout_s=5, **options))

    def write(self, *batches: Batch) -> None:
        self.sink.write(batches or [BATCH])

    def fault(self, status: int, body: bytes = b"", **headers: str) -> SinkError:
        self.handler.answer = (status, {k.replace("_", "-"): v for k, v in headers.items()}, body)
        with pytest.raises(SinkError) as caught:
            self.write()
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
        return caught.value

    def close(self) -> None:
        self.sink.close()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


BATCH = make_batch([make_sample(make_schema(), ts_ms=START_MS + i, cpu_usage_ns=i) for i in range(3)])


@pytest.fixture(params=["1.6.7", "v2.7.1", ""], ids=["v1", "v2", "unnamed"])
def store(request: pytest.FixtureRequest) -> Iterator[Refusing]:
    refusing = Refusing(request.param)
    yield refusing
    refusing.close()


def test_a_write_names_precision_place_and_credential(store: Refusing) -> None:
    store.write()
    ((path, headers, body),) = store.handler.requests
    if store.handler.version.startswith("1"):
        assert path == "/write?db=tidegauge&precision=ms"
        assert headers["authorization"].startswith("Basic ")
    else:
        assert path == "/api/v2/write?org=tidegauge&bucket=tidegauge&precision=ms"
        assert headers["authorization"] == f"Token {SECRET}"
    assert len(body.split(b"\n")) == 3


def test_compression_is_announced(store: Refusing) -> None:
    plain = store.sink
    store.sink = InfluxdbSink(InfluxdbConfig(url=store.url, gzip=True))
    store.write()
    store.sink.close()
    plain.write([BATCH])
    (_, headers, packed), (_, _, body) = store.handler.requests
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == body


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(store: Refusing, status: int) -> None:
    error = store.fault(status, b'{"error":"not now"}', Retry_After="7")
    assert isinstance(error, RetryableError)
    assert not error.is_config_fault
    assert error.retry_after_s == 7
    assert str(error) == f"write to {store.url}: HTTP {status}: not now"
    assert len(store.handler.requests) == 1, "the sink itself tries nothing again"


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_what_the_operator_must_mend_is_tried_again_as_such(store: Refusing, status: int) -> None:
    error = store.fault(status, b'{"code":"x","message":"who are you,\\n ' + SECRET.encode() + b'?"}', Location="/elsewhere")
    assert isinstance(error, RetryableError)
    assert error.is_config_fault
    assert str(error) == f"write to {store.url}: HTTP {status}: who are you, ***?"
    store.handler.answer = (204, {}, b"")
    store.write()


def test_too_large_a_request_is_to_be_halved(store: Refusing) -> None:
    assert isinstance(store.fault(413, b"<html>too large</html>"), TooLargeError)


CONFLICT = (
    b'{"code":"unprocessable entity","message":"failure writing points to database: partial write: field type conflict: '
    b'input field \\"cpu_usage_ns\\" on measurement \\"container\\" is type %s, already exists as type float dropped=%d"}'
)
"""As InfluxDB 2 answers."""


def test_a_conflict_names_its_rows_where_their_number_fits(store: Refusing) -> None:
    error = store.fault(422, CONFLICT % (b"integer", 3))
    assert isinstance(error, PartialWriteError)
    assert error.rejected.keys() == {1, 2, 3}
    assert "field type conflict" in error.rejected[1]
    assert str(error).startswith(f"write to {store.url}: 3 rows rejected, the first because of: HTTP 422: ")
    assert "cpu_usage_ns" in str(error)


@pytest.mark.parametrize(("kind", "dropped"), [(b"integer", 2), (b"integer", 0), (b"float", 3), (b"string", 1), (b"odd", 3)])
def test_a_conflict_that_fits_other_rows_names_none(store: Refusing, kind: bytes, dropped: int) -> None:
    assert type(store.fault(400, CONFLICT % (kind, dropped))) is PermanentError


@pytest.mark.parametrize("status", [400, 422])
def test_refused_lines_are_permanent(store: Refusing, status: int) -> None:
    error = store.fault(status, b'{"message":"partial write: field type conflict: ' + b"x" * 9000 + b' dropped=1"}')
    assert type(error) is PermanentError
    assert f"HTTP {status}: partial write: field type conflict" in str(error)
    assert str(error).endswith("dropped=1")
    assert len(str(error)) < 600


def test_rows_beyond_retention_are_the_oldest(store: Refusing) -> None:
    error = store.fault(422, b'{"message":"partial write: points beyond retention policy dropped=2"}')
    assert isinstance(error, PartialWriteError)
    assert error.rejected.keys() == {1, 2}


@pytest.mark.parametrize("dropped", [0, 4, 10**9])
def test_a_count_that_fits_no_rows_names_none(store: Refusing, dropped: int) -> None:
    error = store.fault(400, b"partial write: points beyond retention policy dropped=%d" % dropped)
    assert isinstance(error, PermanentError)


def test_rows_of_one_time_are_not_told_apart_by_age(store: Refusing) -> None:
    schema = make_schema()
    batch = make_batch([make_sample(schema, n, cpu_usage_ns=n) for n in (1, 2)])
    store.handler.answer = (400, {}, b"partial write: points beyond retention policy dropped=1")
    with pytest.raises(PermanentError):
        store.write(batch)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"null", b'{"error":null}', b"{"], ids=repr)
def test_any_body_makes_a_message(store: Refusing, body: bytes) -> None:
    assert str(store.fault(500, body)).startswith(f"write to {store.url}: HTTP 500")


def test_a_closed_connection_is_tried_again(store: Refusing) -> None:
    store.handler.answer = None
    with pytest.raises(RetryableError, match=f"write to {store.url}: ") as caught:
        store.write()
    assert not caught.value.is_config_fault
    store.handler.answer = (204, {}, b"")
    store.write()


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_server_that_hangs_runs_into_the_timeout(version: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = InfluxdbConfig(
            url=f"http://127.0.0.1:{server.getsockname()[1]}", version=version, timeout_s=0.05, create=False
        )
        sink = InfluxdbSink(config)
        sink.open()
        with pytest.raises(RetryableError, match="timed out"):
            sink.write([BATCH])
        sink.close()


def test_an_answer_that_is_no_http_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        sink = InfluxdbSink(InfluxdbConfig(url=f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=5))
        with pytest.raises(RetryableError, match="ping of http"):
            sink.open()
        thread.join()
        sink.close()


def test_nothing_to_say_makes_no_request(store: Refusing) -> None:
    store.write(make_batch([make_sample(make_schema())]))
    assert store.handler.requests == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "Mon, 01 Jan 2024 00:01:30 GMT", "Date": "Mon, 01 Jan 2024 00:00:00 GMT"}, 90.0),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT", "Date": "Mon, 01 Jan 2024 00:01:00 GMT"}, 0.0),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "Mon, 01 Jan 2024 00:01:30 GMT", "Date": "yesterday"}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date_to_wait_for_reaches_the_runner(store: Refusing) -> None:
    date, until = "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:01:30 GMT"
    error = store.fault(503, b"", Date=date, Retry_After=until)
    assert isinstance(error, RetryableError)
    assert error.retry_after_s == 90


def test_a_store_that_may_not_be_asked_is_still_written_to(store: Refusing) -> None:
    """The way of asking answers 404 here, as it does to a credential that may only write."""
    options: dict[str, Any] = {"version": "1"} if store.handler.version.startswith("1") else {}
    store.sink = InfluxdbSink(InfluxdbConfig(url=store.url, regular_s=0.1, **options))
    store.write()
    later = make_batch([make_sample(make_schema(), ts_ms=START_MS + 150, cpu_usage_ns=9)])
    store.write(later)
    store.sink.close()
    assert [len(body.split(b"\n")) for _, _, body in store.handler.requests] == [3, 2]


def test_a_batch_that_comes_again_after_a_failure_is_sent_the_same(store: Refusing) -> None:
    version: Any = "1" if store.handler.version.startswith("1") else "2"
    store.sink = InfluxdbSink(InfluxdbConfig(url=store.url, version=version, regular_s=0.1))
    store.write()
    later = make_batch([make_sample(make_schema(), ts_ms=START_MS + t, cpu_usage_ns=t) for t in (250, 350)], first_row=4)
    store.handler.answer = (500, {}, b"")
    with pytest.raises(RetryableError):
        store.write(later)
    store.handler.answer = (204, {}, b"")
    store.write(later)
    store.sink.close()
    _, (_, _, failed), (_, _, again) = store.handler.requests
    assert failed == again
    assert [int(line.rpartition(b" ")[2]) - START_MS for line in again.split(b"\n")] == [100, 200, 250, 300, 350]
