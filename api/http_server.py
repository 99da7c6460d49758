"""uvicorn on sockets that the parent opened, with deadlines for clients that send or read slowly.

uvicorn bounds connections and idle keep-alive, but waits for ever for a request that is never finished and for a client that
never reads. Both end here at a deadline.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tidegauge.api.guard import GO_ON, IS_LOCAL_SOCKET
from tidegauge.pipeline.config import HttpConfig

HEADER_TIMEOUT_S = 10.0
_GRACE_S = 5.0
"""Beyond the request's own time limit, for the last bytes of the answer."""


def _protocol(config: HttpConfig) -> type[asyncio.Protocol]:
    class DeadlineProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _cycle_seen: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Not by the peer's address: that is gone too when a TCP client has reset the connection meanwhile.
            sock = transport.get_extra_info("socket")
            self.app_state = {IS_LOCAL_SOCKET: sock is not None and sock.family == socket.AF_UNIX, GO_ON: self._arm}
            self._arm(HEADER_TIMEOUT_S)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle = self.cycle
            if cycle is None or cycle.response_complete:
                if self._cycle_seen is not None:
                    self._cycle_seen = None
                    self._arm(HEADER_TIMEOUT_S)
            elif cycle is not self._cycle_seen:
                self._cycle_seen = cycle
                self._arm(config.request_timeout_s + _GRACE_S)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._arm(HEADER_TIMEOUT_S)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

        def _arm(self, seconds: float) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, self._abort)

        def _abort(self) -> None:
            """Resets the connection, so that the kernel gives up what a client that does not read has not taken."""
            if (sock := self.transport.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    return DeadlineProtocol


class HttpServer:
    """Runs in the thread that calls `run` until `stop`, which any thread may call."""

    def __init__(self, app: ASGIApp, config: HttpConfig) -> None:
        settings = uvicorn.Config(
            app,
            http=_protocol(config),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=config.max_connections,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=16 * 1024,
        )
        self._server = _Server(settings)

    def run(self, sockets: list[socket.socket]) -> None:
        self._server.run(sockets=sockets)

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The process owns its signals."""

    def capture_signals(self) -> Any:
        return _Nothing()


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None
