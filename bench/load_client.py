"""The load of `bench/load.py`, as a process of its own: asks on time whether the answers come or not.

`python -m bench.load_client JSON`, with `url`, `seconds` and `requests` (each `kind`, `rate_hz`, `method`, `paths`, `body` and
`gzip`), prints one JSON object. Each request has its time, and its latency counts from there to the last byte: an answer that
keeps the following ones waiting makes them late too.
"""

import http.client
import itertools
import json
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CONNECTIONS = 32
TIMEOUT_S = 20.0


class _Due(NamedTuple):
    at_s: float
    kind: str
    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


def plan(requests: Sequence[Mapping[str, Any]], seconds: float) -> list[_Due]:
    """Every request with its time from the start, in order. Requests of a kind take its paths in turn."""
    found = []
    for nth, request in enumerate(requests):
        headers = {"Accept-Encoding": "gzip"} if request.get("gzip") else {}
        body = request["body"].encode() if request.get("body") else None
        paths = itertools.cycle(request["paths"])
        step_s = 1 / request["rate_hz"]
        for i in range(round(seconds * request["rate_hz"])):
            # kinds of one rate do not come together
            at_s = (i + nth / len(requests)) * step_s
            found.append(_Due(at_s, request["kind"], request.get("method", "GET"), next(paths), body, headers))
    return sorted(found)


class Client:
    """Sends what is due, on a connection kept for each of its threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self.found: dict[str, dict[str, Any]] = {}
        self._bodies: dict[str, set[int]] = {}

    def run(self, due: Sequence[_Due]) -> None:
        """Returns when the last answer has come."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            start_s = time.monotonic() + 0.1
            for each in due:
                if (wait_s := start_s + each.at_s - time.monotonic()) > 0:
                    time.sleep(wait_s)
                pool.submit(self._ask, each, start_s + each.at_s)
        for connection in self._connections:
            connection.close()
        for kind, bodies in self._bodies.items():
            self.found[kind]["different"] = len(bodies)

    def _ask(self, due: _Due, at_s: float) -> None:
        body, fault = b"", ""
        try:
            connection = getattr(self._own, "connection", None)
            if connection is None:
                connection = self._own.connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
                self._connections.append(connection)
            connection.request(due.method, due.path, due.body, dict(due.headers))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                fault = f"status {answer.status}"
        except (OSError, http.client.HTTPException) as exc:
            fault = type(exc).__name__
            connection.close()
        ms = (time.monotonic() - at_s) * 1000
        checksum = zlib.crc32(body)
        with self._lock:
            found = self.found.setdefault(due.kind, {"ms": [], "bytes": 0, "faults": {}})
            if fault:
                found["faults"][fault] = found["faults"].get(fault, 0) + 1
            else:
                found["ms"].append(ms)
                found["bytes"] += len(body)
                self._bodies.setdefault(due.kind, set()).add(checksum)


def main() -> int:
    asked = json.loads(sys.argv[1])
    client = Client(asked["url"])
    client.run(plan(asked["requests"], asked["seconds"]))
    print(json.dumps({"kinds": client.found, "cpu_s": time.process_time()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
