"""The listener with every route on real sockets, over a view that stands for the running server; certificates for its TLS."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tidegauge.api import app
from tidegauge.api.auth import Credentials
from tidegauge.api.guard import Guard
from tidegauge.api.http_server import HttpServer
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.event_store import EventStore
from tidegauge.pipeline.history import HistoryReader
from tidegauge.pipeline.latest import KeepsLatest, KeepsSamples
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.sql_query import KeepsSql
from tidegauge.pipeline.telemetry import Family

USER, PASSWORD, TOKEN = "alice", "wonder:land é", "t0ken-that-is-long-enough"
BASIC, DIGEST, BEARER = "basic", "digest", "bearer"


class View:
    """Stands for the running server."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.done: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.stores: dict[str, KeepsSql] = {}

    def faults(self) -> list[str]:
        return self.wrong

    def status(self) -> dict[str, Any]:
        return {
            "version": "1",
            "host": "here",
            "state_dir": "/state",
            "faults": [],
            "containers": 3,
            "log": {"appended_row": 1, "synced_row": 1, "accepted": 1},
            "sampler": {"samples": 7},
            "sinks": {},
        }

    def families(self) -> list[Family]:
        return []

    def containers(self) -> list[Container] | None:
        return None

    def latest(self) -> KeepsLatest | None:
        return None

    def histories(self) -> Mapping[str, HistoryReader]:
        return {}

    def sql_stores(self) -> Mapping[str, KeepsSql]:
        return self.stores

    def samples(self) -> KeepsSamples | None:
        return None

    def history(self) -> Any:
        return None

    def events(self) -> EventStore | None:
        return None

    def dead_letters(self, sink: str, action: str, ids: list[int] | None) -> dict[str, Any]:
        self.done.append((sink, action))
        return {}

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        self.asked.append((kind, arguments))
        if kind not in self.answers:
            raise RequestError("the sampler does not run", Reason.NOT_RUNNING)
        return self.answers[kind]


class Listener(NamedTuple):
    address: tuple[str, int]
    socket_path: Path
    guard: Guard
    view: View
    credentials: Credentials

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)


@contextlib.contextmanager
def listening(config: HttpConfig, folder: Path) -> Iterator[Listener]:
    """Serves on a TCP port of its own and a Unix socket until the end of the block."""
    view = View()
    credentials = Credentials(config)
    guard = app.build(view, config, "here", credentials=credentials)
    server = HttpServer(guard, config, credentials.tls)
    path = folder / "socket"
    with socket.create_server(("127.0.0.1", 0), backlog=512) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(path))
        local.listen()
        thread = threading.Thread(target=server.run, args=([tcp, local],))
        thread.start()
        try:
            yield Listener(tcp.getsockname(), path, guard, view, credentials)
        finally:
            server.stop()
            thread.join(30)
            path.unlink()
        assert not thread.is_alive()


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def receive(client: socket.socket) -> bytes:
    """Everything until the other side closes or resets."""
    parts = []
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def exchange(listener: Listener, request: bytes) -> bytes:
    """The answer to these bytes, on a connection of their own."""
    with listener.connect() as client:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(request)
        return receive(client)


def get(listener: Listener, path: str, *headers: str, method: str = "GET") -> tuple[int, bytes]:
    """(status, whole answer); the status is 0 if there is none."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    answer = exchange(listener, "\r\n".join(lines).encode("latin-1"))
    return (int(answer.split()[1]) if answer else 0), answer


def certificates(folder: Path) -> Path:
    """A CA, a server's certificate for 127.0.0.1, a client's, and one of a stranger's CA, made by openssl(1)."""
    for name in ("ca", "stranger"):
        _openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name, ca in (("server", "ca"), ("client", "ca"), ("intruder", "stranger")):
        _openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                 "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-days", "2",
                 "-copy_extensions", "copy", "-out", f"{name}.pem")  # fmt: skip
    return folder


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
