"""The client of the load bench: what it sends when, and what it tells, against a server that counts."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from bench.load import Load, kinds
from bench.load_client import Client, plan


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Counter[tuple[str, str, str, bytes]] = Counter()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked[self.command, self.path, self.headers["Accept-Encoding"], body] += 1
        said = b"gone" if self.path == "/gone" else f"page {self.path}".encode()
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    _Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(30)


def test_it_is_the_load_of_the_goal() -> None:
    wanted = [kind.as_dict() for kind in kinds([f"/c{i}" for i in range(1000)])]
    due = plan(wanted, 60)
    by_path = Counter("/c" if "/c" in d.path[10:] and d.method == "POST" else d.path for d in due)
    assert sum(by_path.values()) == 70 * 60
    assert by_path["/metrics"] == 20 * 60
    assert by_path["/api/v1.3/machine"] == 4 * 60
    assert by_path["/api/v1.3/subcontainers/"] == 60
    assert len({d.path for d in due}) == 1003
    times = [d.at_s for d in due]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 60
    assert all(d.headers == ({"Accept-Encoding": "gzip"} if d.path == "/metrics" else {}) for d in due)


def test_the_client_sends_each_request_once_and_tells_what_was_not_answered(url: str) -> None:
    wanted = [
        {"kind": "page", "rate_hz": 40, "paths": ["/a", "/b"], "gzip": True},
        {"kind": "ask", "rate_hz": 20, "method": "POST", "paths": ["/c"], "body": "{}"},
        {"kind": "gone", "rate_hz": 10, "paths": ["/gone"]},
    ]
    client = Client(url)
    client.run(plan(wanted, 0.5))
    assert _Handler.asked == {
        ("GET", "/a", "gzip", b""): 10,
        ("GET", "/b", "gzip", b""): 10,
        ("POST", "/c", "identity", b"{}"): 10,
        ("GET", "/gone", "identity", b""): 5,
    }
    found = client.found
    assert (len(found["page"]["ms"]), found["page"]["bytes"], found["page"]["different"]) == (20, 20 * len("page /a"), 2)
    assert (found["gone"]["ms"], found["gone"]["faults"]) == ([], {"status 404": 5})
    load = Load(found, 1, 0, 0, 0, 0)
    assert (load.count, load.faults) == (30, 5)
