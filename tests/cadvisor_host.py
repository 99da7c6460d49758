"""A host as cAdvisor tells of it, for tests: recorded answers over a real HTTP server, with times that move."""

import copy
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of these tests."""


class HttpHost:
    """Answers every request with what `reply` gives for (method, path, headers, body); None closes without an answer."""

    def __init__(self, reply: Callable[[str, str, dict[str, str], bytes], Reply | None]) -> None:
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {k.lower(): v for k, v in self.headers.items()}
                host.requests.append((self.command, self.path, headers, body))
                answer = host.reply(self.command, self.path, headers, body)
                if answer is None:
                    self.close_connection = True
                    return
                status, extra, data = answer
                self.send_response_only(status)
                for name, value in ({"Content-Length": str(len(data))} | extra).items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.reply = reply
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> "HttpHost":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def stamp(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp() * 1000)


class CadvisorHost:
    """Recorded containers that go on: a reading each second, of which the last `kept` can be asked for, as of cAdvisor.

    `now_ms` is its clock. Counters of CPU time grow by a millisecond a reading; all else repeats what was recorded.
    """

    def __init__(self, folder: Path, begin_ms: int, now_ms: Callable[[], int] | None = None, kept: int = 60) -> None:
        self.machine: dict[str, Any] = json.loads((folder / "docker-machine.json").read_bytes())
        containers = json.loads((folder / "docker-subcontainers.json").read_bytes())
        containers.append(json.loads((folder / "host-container.json").read_bytes()))
        self.containers: dict[str, dict[str, Any]] = {c["name"]: c for c in containers}
        self.begin_ms = begin_ms
        """Time of the first reading."""
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.kept = kept
        self.is_down = False
        self.has_date = True
        self.begun_ms = dict.fromkeys(self.containers, begin_ms)
        """By container the time of its first reading."""

    def reply(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply | None:
        if self.is_down:
            return 503, {}, b"down"
        date = {"Date": formatdate(self.now_ms() / 1000, usegmt=True)} if self.has_date else {}
        if path == "/api/v1.3/machine":
            return 200, date, json.dumps(self.machine).encode()
        assert path == "/api/v1.3/subcontainers/"
        question = json.loads(body or b"{}")
        since_ms = ms(question["start"]) if "start" in question else 0
        answer = [self._info(c, since_ms, question.get("num_stats", 60)) for c in list(self.containers.values())]
        return 200, date, json.dumps(answer).encode()

    def times(self, name: str) -> list[int]:
        """Of the readings that can be asked for now."""
        begin = self.begun_ms[name]
        newest = (self.now_ms() - begin) // 1000
        return [begin + 1000 * i for i in range(max(0, newest - self.kept + 1), newest + 1)]

    def cpu_ns(self, name: str, ts_ms: int) -> int:
        first: int = self.containers[name]["stats"][0]["cpu"]["usage"]["total"]
        return first + (ts_ms - self.begun_ms[name]) // 1000 * 1_000_000

    def make_anew(self, name: str) -> None:
        """Another container at the same path."""
        self.containers[name] = copy.deepcopy(self.containers[name])
        self.containers[name]["spec"]["creation_time"] = stamp(self.now_ms())
        self.begun_ms[name] = self.now_ms()

    def _info(self, container: dict[str, Any], since_ms: int, most: int) -> dict[str, Any]:
        name, recorded = container["name"], container["stats"]
        begin = self.begun_ms[name]
        stats = []
        for ts_ms in self.times(name):
            if ts_ms < since_ms:
                continue
            stat = copy.deepcopy(recorded[(ts_ms - begin) // 1000 % len(recorded)])
            stat["timestamp"] = stamp(ts_ms)
            stat["cpu"]["usage"]["total"] = self.cpu_ns(name, ts_ms)
            stats.append(stat)
        stats = stats[-most:] if most > 0 else stats
        return container | ({"stats": stats} if stats else {"stats": None})
