"""Requests over TCP, TLS or a Unix socket: deadlines, a bound of the answer's size, credentials, no redirects, no proxies."""

import base64
import contextlib
import random
import socket
import ssl
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from tidegauge.client.digest import Digest
from tidegauge.client.errors import AnswerTooLarge, ClientError, ConnectionFailed, HttpError, TimedOut

_CHUNK = 64 * 1024
_ERROR_BYTES = 64 * 1024
_IDLE_S = 2.0
"""A connection that was not used for so long is not used again: the server may be about to close it."""
_SHOWN = 1000


class _FreshAtMost:
    """A connection that counts as closed after some idle time."""

    wire: socket.socket | None = None
    """What the last answer comes over, for the connection itself lets go of it when the server will close."""
    _used_s = 0.0

    def request(self, *args: Any, **options: Any) -> None:
        self._used_s = time.monotonic()
        super().request(*args, **options)  # type: ignore[misc]
        self.wire = self.sock  # type: ignore[attr-defined]

    @property
    def is_connected(self) -> bool:
        return time.monotonic() - self._used_s < _IDLE_S and bool(super().is_connected)  # type: ignore[misc]


class _Connection(_FreshAtMost, HTTPConnection):
    pass


class _TlsConnection(_FreshAtMost, HTTPSConnection):
    pass


class _UnixConnection(_FreshAtMost, HTTPConnection):
    def __init__(self, *args: Any, unix_socket: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unix_socket = unix_socket

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # what the pool set before it asks to connect
            made.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
            made.connect(self._unix_socket)
        except BaseException:
            made.close()
            raise
        self.sock = made


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _UnixPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _UnixConnection


class Access(NamedTuple):
    """Who asks, and how it is made sure who answers. At most one of `token`, `basic` and `digest`."""

    token: str | None = None
    basic: tuple[str, str] | None = None
    digest: tuple[str, str] | None = None
    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    tls: ssl.SSLContext | None = None


class Transport:
    """Connections to one server. Any thread. ValueError for what cannot be: a URL, a credential, a file of TLS."""

    def __init__(
        self, url: str, unix_socket: str | Path | None, timeout_s: float, limit_bytes: int, retries: int, access: Access
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("url: expected no user, query or fragment; credentials are token, basic or digest")
        if not timeout_s > 0 or limit_bytes <= 0 or retries < 0:
            raise ValueError("expected timeout_s and limit_bytes above 0, and retries from 0")
        if unix_socket is not None and parts.scheme != "http":
            raise ValueError("unix_socket: expected an http URL")
        self.timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._retries = retries
        self._prefix = parts.path.rstrip("/")
        self._url = (f"unix:{unix_socket}:" if unix_socket is not None else f"{parts.scheme}://{parts.netloc}") + self._prefix
        self._digest = Digest(*access.digest) if access.digest is not None else None
        self._authorization = _authorization(access)
        options: dict[str, Any] = {"maxsize": 4, "retries": False}
        self._pool: urllib3.HTTPConnectionPool
        if unix_socket is not None:
            self._pool = _UnixPool(parts.hostname, parts.port, unix_socket=str(unix_socket), **options)
        elif parts.scheme == "https":
            self._pool = _TlsPool(parts.hostname, parts.port, ssl_context=_context(access), **options)
        else:
            self._pool = _Pool(parts.hostname, parts.port, **options)

    def url(self, target: str) -> str:
        """Of a path and query, for messages."""
        return self._url + target

    def ask(self, target: str, body: bytes | None = None) -> bytes:
        """The body of a 200: GET, or POST where there is a body. ClientError for all else."""
        for attempt in range(self._retries + 1):
            try:
                return self._ask(target, body)
            except (ConnectionFailed, HttpError) as exc:
                may_repeat = not isinstance(exc, HttpError) or exc.status in (429, 502, 503, 504)
                if attempt == self._retries or not may_repeat:
                    raise
                time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))
        raise AssertionError("unreachable")

    def open(self, target: str, body: bytes | None = None, idle_s: float | None = None) -> urllib3.BaseHTTPResponse:
        """An answer 200 of which the head has come. From then on each wait is at most `idle_s`, None: for ever. ClientError."""
        response = self._request(target, body)
        if response.status != 200:
            raise self._refused(response, target)
        wire = _wire(response)
        if wire is not None and idle_s != self.timeout_s:
            wire.settimeout(idle_s)
        return response

    def broken(self, exc: Exception, target: str, seconds: float | None = None) -> ClientError:
        """What a failure of urllib3 or a socket is here. Gives, not raises."""
        url = self.url(target)
        if isinstance(exc, TimeoutError | urllib3.exceptions.TimeoutError):
            return TimedOut(url, f"nothing came within {self.timeout_s if seconds is None else seconds:g} s")
        return ConnectionFailed(url, str(exc) or type(exc).__name__)

    def close(self) -> None:
        self._pool.close()

    def _ask(self, target: str, body: bytes | None) -> bytes:
        end_s = time.monotonic() + self.timeout_s
        response = self.open(target, body, self.timeout_s)
        return self._body(response, target, self._limit_bytes, end_s)

    def _request(self, target: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        response = self._send(target, body)
        if response.status != 401 or self._digest is None:
            return response
        if not self._digest.take(response.headers.getlist("WWW-Authenticate")):
            return response
        response.close()
        return self._send(target, body)

    def _send(self, target: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        method = "GET" if body is None else "POST"
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        authorization = self._authorization
        if self._digest is not None:
            authorization = self._digest.header(method, self._prefix + target)
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            return self._pool.urlopen(
                method,
                self._prefix + target,
                body=body,
                headers=MappingProxyType(headers),
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=self.timeout_s, read=self.timeout_s),
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            raise self.broken(exc, target) from exc

    def _body(self, response: urllib3.BaseHTTPResponse, target: str, limit_bytes: int, end_s: float) -> bytes:
        parts: list[bytes] = []
        size, is_whole = 0, False
        try:
            while data := response.read1(_CHUNK, decode_content=False):
                parts.append(data)
                size += len(data)
                if size > limit_bytes:
                    raise AnswerTooLarge(self.url(target), f"an answer of more than {limit_bytes} bytes (limit_bytes)")
                if time.monotonic() > end_s:
                    raise TimedOut(self.url(target), f"no whole answer within {self.timeout_s:g} s")
            is_whole = True
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise self.broken(exc, target) from exc
        finally:
            if is_whole:
                response.release_conn()
            else:
                response.close()
        return b"".join(parts)

    def _refused(self, response: urllib3.BaseHTTPResponse, target: str) -> HttpError:
        if 300 <= response.status < 400:
            to = response.headers.get("Location", "nowhere")
            response.close()
            return HttpError(self.url(target), response.status, f"redirects are not followed; this one leads to {to[:200]!r}")
        try:
            body = self._body(response, target, _ERROR_BYTES, time.monotonic() + self.timeout_s)
        except ClientError:
            body = b""
        return HttpError(self.url(target), response.status, body[:_SHOWN].decode(errors="replace").strip())


def shut(response: urllib3.BaseHTTPResponse) -> None:
    """Makes a read of the answer that waits in another thread end."""
    wire = _wire(response)
    if wire is not None:
        with contextlib.suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)


def _wire(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    """None once the connection was given back."""
    connection = response.connection
    return connection.wire if isinstance(connection, _FreshAtMost) else None


def _authorization(access: Access) -> str | None:
    given = [name for name in ("token", "basic", "digest") if getattr(access, name) is not None]
    if len(given) > 1:
        raise ValueError(f"expected one kind of credential, got {' and '.join(given)}")
    if access.token is not None:
        if not access.token or not access.token.isascii() or not access.token.isprintable() or " " in access.token:
            raise ValueError("token: expected printable ASCII without blanks")
        return f"Bearer {access.token}"
    for name, pair in (("basic", access.basic), ("digest", access.digest)):
        if pair is not None and (":" in pair[0] or any(ord(c) < 32 or ord(c) == 127 for c in pair[0] + pair[1])):
            raise ValueError(f"{name}: expected a user without colon, and no control characters")
    if access.basic is not None:
        return "Basic " + base64.b64encode(":".join(access.basic).encode()).decode()
    return None


def _context(access: Access) -> ssl.SSLContext:
    if access.tls is not None:
        if access.ca_file or access.cert_file or access.key_file:
            raise ValueError("tls: expected either a context or files")
        return access.tls
    try:
        made = ssl.create_default_context(cafile=access.ca_file)
        if access.cert_file is not None:
            # never asks for a passphrase on a terminal
            made.load_cert_chain(access.cert_file, access.key_file, password=lambda: b"")
    except OSError as exc:
        raise ValueError(f"ca_file, cert_file, key_file: {exc.strerror or exc}") from exc
    return made
