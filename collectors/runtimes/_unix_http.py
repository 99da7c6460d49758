"""GET over a Unix socket or TCP, with a deadline for the whole answer and a bound of its size.

HTTP/1.0 on purpose: the server closes the connection at the end, nothing comes in chunks, and an event stream is plain lines.
"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tidegauge.pipeline.errors import CollectError, NoData

if TYPE_CHECKING:
    import ssl

LIMIT_BYTES = 32 << 20
_LINE_BYTES = 1 << 20
_HEAD_BYTES = 64 << 10
_READS = 16
"""Of a stream at a time: what never stops talking does not fill the memory."""


class Tcp(NamedTuple):
    """An address on the network."""

    host: str
    port: int
    tls: "ssl.SSLContext | None" = None
    """None: plain."""

    def __str__(self) -> str:
        return f"tcp://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


Address: TypeAlias = Path | Tcp
"""A Unix socket is told by its path."""


def get(path: Address, target: str, timeout_s: float, limit_bytes: int = LIMIT_BYTES) -> bytes | None:
    """The body of a 200, None for a 404. NoData if nobody listens there or we may not ask; CollectError for all else."""
    stream = Stream(path, target, timeout_s)
    try:
        body = stream.rest(limit_bytes)
    finally:
        stream.close()
    if stream.status == 404:
        return None
    if stream.status != 200:
        raise CollectError(f"{path}: GET {target}: HTTP {stream.status}: {body[:200].decode(errors='replace').strip()}")
    return body


class Stream:
    """A GET of which the head has arrived. Errors as of `get`. One thread."""

    def __init__(self, path: Address, target: str, timeout_s: float) -> None:
        self._what = f"{path}: GET {target}"
        self._end_s = time.monotonic() + timeout_s
        self._data = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) if isinstance(path, Path) else socket.socket()
        try:
            self._connect(path, timeout_s)
            self._socket.sendall(f"GET {target} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode())
            self.status = self._head()
        except (FileNotFoundError, ConnectionRefusedError, PermissionError, NotADirectoryError) as exc:
            self.close()
            raise NoData(f"{path}: {exc.strerror}") from exc
        except OSError as exc:
            self.close()
            raise CollectError(f"{self._what}: {exc or type(exc).__name__}") from exc
        except CollectError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def rest(self, limit_bytes: int) -> bytes:
        """Everything up to the end of the answer, within the deadline."""
        parts, size = [self._data], len(self._data)
        while data := self._receive():
            parts.append(data)
            size += len(data)
            if size > limit_bytes:
                raise CollectError(f"{self._what}: more than {limit_bytes} bytes")
        return b"".join(parts)

    def lines(self) -> Iterator[bytes] | None:
        """Whole lines that are there now, without waiting; None at the end of the stream."""
        # the first lines may have come together with the head
        *lines, self._data = self._data.split(b"\n")
        is_open = True
        for _ in range(_READS):
            try:
                self._socket.settimeout(0)
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as exc:
                raise CollectError(f"{self._what}: {exc}") from exc
            if not data:
                is_open = False
                break
            *whole, self._data = (self._data + data).split(b"\n")
            lines += whole
            if len(self._data) > _LINE_BYTES:
                raise CollectError(f"{self._what}: a line of more than {_LINE_BYTES} bytes")
        return iter(lines) if is_open or lines else None

    def close(self) -> None:
        self._socket.close()

    def _connect(self, to: Address, timeout_s: float) -> None:
        if isinstance(to, Path):
            self._socket.settimeout(timeout_s)
            self._socket.connect(str(to))
            return
        self._socket.close()
        self._socket = socket.create_connection((to.host, to.port), timeout_s)
        if to.tls is not None:
            self._socket = to.tls.wrap_socket(self._socket, server_hostname=to.host)

    def _head(self) -> int:
        while b"\r\n\r\n" not in self._data:
            if not (data := self._receive()) or len(self._data) > _HEAD_BYTES:
                raise CollectError(f"{self._what}: the answer has no end of its head")
            self._data += data
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if not head.startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            raise CollectError(f"{self._what}: this is not HTTP: {head[:80]!r}")
        if b"transfer-encoding: chunked" in head.lower():
            raise CollectError(f"{self._what}: a chunked answer to HTTP/1.0")
        return int(words[1])

    def _receive(self) -> bytes:
        left_s = self._end_s - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            return self._socket.recv(1 << 16)
        except TimeoutError as exc:
            raise CollectError(f"{self._what}: no whole answer in time") from exc
        except OSError as exc:
            raise CollectError(f"{self._what}: {exc}") from exc
