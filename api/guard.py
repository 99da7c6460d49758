"""What every request passes before a route sees it: Host and Origin, size, number at once, credentials, time.

A web page that a person visits can make the browser send requests to this listener. It cannot choose the Host header freely
nor leave Origin out of a cross-site POST: a name that is not ours, or a foreign Origin, is refused (DNS rebinding).
Requests over the Unix socket come from who has the rights of its file and skip both checks.
"""

import asyncio
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidegauge.api.auth import Authenticator, Credentials
from tidegauge.pipeline.config import HttpConfig

OPEN_PATHS = frozenset({"/healthz"})
"""Answered without a credential where one is asked for everything else: load balancers and probes have none."""
_SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_MAX_TARGET_BYTES = 8 * 1024
_MAX_HEADER_BYTES = 16 * 1024


_REASONS = (
    *("host", "origin", "method", "size", "busy", "timeout"),
    *("unauthorized", "rate", "malformed", "connections", "tls"),
)


class BodyTooLarge(Exception):
    """The body grew beyond the limit while it was read."""


IS_LOCAL_SOCKET = "is_local_socket"
"""Key of the scope's state under which the server says whether a connection came over the Unix socket."""


UNTRUSTED = "only over the Unix socket, or with a credential (http.auth_file and others)."
"""What is answered where `is_trusted` says no."""
HAS_CERTIFICATE = "has_certificate"
"""Key under which the server says whether it verified a certificate of the client."""
_IS_TRUSTED = "is_trusted"
"""Key under which the guard says that it saw a credential."""
URL_PREFIX = "url_prefix"
"""Key under which the guard puts the prefix that it took off the path: where answers lead must bear it again."""
TIME_LIMIT = "time_limit"
"""Key of the scope's state under which the guard puts the time limit of a request."""
GO_ON = "go_on"
"""Key under which the server puts what resets the deadline of a connection."""


def without_time_limit(scope: Scope) -> None:
    """From now on the answer may take as long as it likes; `go_on` says how long the client has to take each part."""
    limit: asyncio.Timeout | None = scope.get("state", {}).get(TIME_LIMIT)
    if limit is not None:
        limit.reschedule(None)


def go_on(scope: Scope, seconds: float) -> None:
    """Gives the client so long to take what is sent next, else the connection is reset."""
    arm = scope.get("state", {}).get(GO_ON)
    if arm is not None:
        arm(seconds)


def is_local_socket(scope: Scope) -> bool:
    """True for a request over the Unix socket, as the server said when it took the connection; False if it said nothing."""
    return bool(scope.get("state", {}).get(IS_LOCAL_SOCKET, False))


def is_trusted(scope: Scope) -> bool:
    """True for who may see environment, processes and debug, and change dead letters: the Unix socket, or a credential.

    False where no credential is asked for, loopback included: every user and container that shares it could come from there.
    """
    return is_local_socket(scope) or bool(scope.get("state", {}).get(_IS_TRUSTED, False))


def host_name(header: str) -> str:
    """Name or address of a Host header, without port, brackets and case; empty if it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018 - raises for what is no port
        if parts.path or parts.query or parts.fragment or parts.username is not None:
            return ""
        return (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_same_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def is_allowed_host(header: str, names: frozenset[str]) -> bool:
    """An address (rebinding needs a name), or one of our names."""
    name = host_name(header)
    if not name:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


class Guard:
    """ASGI middleware; the limits are those of `HttpConfig`."""

    def __init__(self, app: ASGIApp, config: HttpConfig, names: Iterable[str], credentials: Credentials | None = None) -> None:
        """ConfigError if `credentials` are not given and their files cannot be read."""
        self._app = app
        self._config = config
        self._authenticator = Authenticator(credentials or Credentials(config))
        self._names = frozenset(n.lower() for n in ("localhost", *config.allowed_hosts, *names))
        self._now = 0
        self.refused = dict.fromkeys(_REASONS, 0)
        """Requests and connections by why they were refused. The server counts here too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (reason := self._refusal(scope)) is not None:
            key, status, text = reason
            self.refused[key] += 1
            await PlainTextResponse(text + "\n", status)(scope, receive, _with_headers(send))
            return
        scope = self._without_prefix(scope)
        self._now += 1
        sender = _Sender(_with_headers(send))
        try:
            async with asyncio.timeout(self._config.request_timeout_s) as limit:
                scope.setdefault("state", {})[TIME_LIMIT] = limit
                if not await self._is_let_in(scope, receive, sender):
                    return
                await self._app(scope, _bounded(receive, self._config.max_body_bytes), sender)
        except TimeoutError:
            self.refused["timeout"] += 1
            if not sender.is_started:
                await PlainTextResponse("The answer took too long.\n", 503)(scope, receive, sender)
            else:
                raise
        except BodyTooLarge:
            self.refused["size"] += 1
            if not sender.is_started:
                await PlainTextResponse(self._too_large() + "\n", 413)(scope, receive, sender)
        finally:
            self._now -= 1

    def _without_prefix(self, scope: Scope) -> Scope:
        """What routes see. The scope's `raw_path` stays as the client sent it, which is what a digest is over."""
        prefix = self._config.url_base_prefix
        if not prefix or not f"{scope['path']}/".startswith(f"{prefix}/"):
            return scope
        state = {**scope.get("state", {}), URL_PREFIX: prefix}
        return {**scope, "path": scope["path"][len(prefix) :] or "/", "state": state}

    async def _is_let_in(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """False: the request was answered, for it bears no credential or a wrong one."""
        scope["state"][_IS_TRUSTED] = False
        if is_local_socket(scope) or not self._authenticator.is_on or scope["path"] in OPEN_PATHS:
            return True
        has_certificate = bool(scope["state"].get(HAS_CERTIFICATE, False))
        refusal = await self._authenticator.refusal(scope, has_certificate=has_certificate)
        if refusal is None:
            scope["state"][_IS_TRUSTED] = True
            return True
        self.refused[refusal.key] += 1
        response = PlainTextResponse(refusal.text + "\n", refusal.status)
        response.raw_headers.extend(refusal.headers)
        await response(scope, receive, send)
        return False

    def _refusal(self, scope: Scope) -> tuple[str, int, str] | None:
        headers = Headers(scope=scope)
        if not is_local_socket(scope):
            hosts = headers.getlist("host")
            if len(hosts) != 1 or not is_allowed_host(hosts[0], self._names):
                return "host", 403, "Host: expected an address or a name of this host; see http.allowed_hosts."
            origin = headers.get("origin")
            if origin is not None and not _is_same_origin(origin, hosts[0]):
                return "origin", 403, "Origin: expected this listener."
        if len(scope.get("raw_path", b"")) + len(scope.get("query_string", b"")) > _MAX_TARGET_BYTES:
            return "size", 414, f"Path and query: expected at most {_MAX_TARGET_BYTES} bytes."
        if sum(len(k) + len(v) for k, v in scope["headers"]) > _MAX_HEADER_BYTES:
            return "size", 431, f"Headers: expected at most {_MAX_HEADER_BYTES} bytes."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return "method", 405, f"Method: expected GET, HEAD or POST, got {scope['method'][:16]}."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._config.max_body_bytes:
            return "size", 413, self._too_large()
        if self._now >= self._config.max_requests:
            return "busy", 503, "Too many requests at a time."
        return None

    def _too_large(self) -> str:
        return f"Body: expected at most {self._config.max_body_bytes} bytes."


class _Sender:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_started = False

    async def __call__(self, message: Message) -> None:
        self.is_started = True
        await self._send(message)


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {k for k, _ in message["headers"]}
            message["headers"] = [*message["headers"], *((k, v) for k, v in _SECURITY_HEADERS if k not in present)]
        await send(message)

    return sender


def _bounded(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def receiver() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise BodyTooLarge
        return message

    return receiver
