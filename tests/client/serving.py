"""A server that does as it is told, byte by byte, for clients that must live with anything."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[socket.socket, Request], None]
"""Writes the answer to one request; the connection is closed after it."""


def answer(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    def script(connection: socket.socket, request: Request) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)

    return script


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def stream(*chunks: bytes, ends: bool = True) -> Script:
    """An answer in these chunks; without its end if not `ends`."""

    def script(connection: socket.socket, request: Request) -> None:
        connection.sendall(STREAM_HEAD + b"".join(map(chunk, chunks)) + (b"0\r\n\r\n" if ends else b""))

    return script


def waits_for(event: threading.Event, *before: bytes) -> Script:
    """A stream that goes silent after these chunks until the event."""

    def script(connection: socket.socket, request: Request) -> None:
        connection.sendall(STREAM_HEAD + b"".join(map(chunk, before)))
        assert event.wait(60)

    return script


class Server:
    """Each connection takes the next script; the last serves all that follow. A context manager."""

    def __init__(
        self,
        *scripts: Script,
        family: socket.AddressFamily = socket.AF_INET,
        path: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._scripts = list(scripts)
        self._listener = socket.socket(family)
        self._listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else path)
        self._listener.listen(32)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.requests: list[Request] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}" if family == socket.AF_INET else "http://localhost"

    def __enter__(self) -> "Server":
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection, contextlib.suppress(ConnectionError):
            request = read_request(connection)
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
            script(connection, request)


def read_request(connection: socket.socket) -> Request | None:
    """None if the client went away."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(65536)):
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, target, _ = first.split(" ")
    return Request(method, target, headers, body)
