"""uvicorn on sockets that the parent opened, with deadlines for clients that send or read slowly, and with TLS.

uvicorn bounds idle keep-alive, but waits for ever for a request that is never finished and for a client that never reads. Both
end here at a deadline. It refuses requests while too many connections are open; here the one that was idle longest makes room.
The Unix socket has its own room, so that no crowd on TCP shuts out who has its rights.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Callable, MutableMapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tidegauge.api.guard import GO_ON, HAS_CERTIFICATE, IS_LOCAL_SOCKET, Guard
from tidegauge.pipeline.config import HttpConfig

MAX_HANDSHAKES = 128
"""TLS connections that are being made at a time; one more ends the oldest."""
HEADER_TIMEOUT_S = 10.0
_LOOK_S = 0.5
"""How often an idle listener looks whether to stop; at uvicorn's ten times a second that alone takes 0.2 % of a core."""
_GRACE_S = 5.0
"""Beyond the request's own time limit, for the last bytes of the answer."""


def _protocol(config: HttpConfig, refused: MutableMapping[str, int]) -> type[asyncio.Protocol]:
    class DeadlineProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _cycle_seen: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Not by the peer's address: that is gone too when a TCP client has reset the connection meanwhile.
            sock = transport.get_extra_info("socket")
            is_local = sock is not None and sock.family == socket.AF_UNIX
            self.app_state = {
                IS_LOCAL_SOCKET: is_local,
                HAS_CERTIFICATE: bool(transport.get_extra_info("peercert")),
                GO_ON: self._arm,
            }
            self._others = held[is_local]
            if len(self._others) >= config.max_connections:
                refused["connections"] += 1
                next((other for other in self._others if other._is_idle()), self)._abort()
            self._others[self] = None
            self._arm(HEADER_TIMEOUT_S)

        def _is_idle(self) -> bool:
            return self.cycle is None or bool(self.cycle.response_complete)

        def data_received(self, data: bytes) -> None:
            if self._others.pop(self, self) is None:
                self._others[self] = None  # at the end: it is the last that said something
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

        def send_400_response(self, msg: str) -> None:
            refused["malformed"] += 1
            super().send_400_response(msg)

        def connection_lost(self, exc: Exception | None) -> None:
            self._others.pop(self, None)
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
            self._others.pop(self, None)
            self.transport.abort()

    held: dict[bool, dict[DeadlineProtocol, None]] = {False: {}, True: {}}
    """Open connections, those over the Unix socket apart, the one of which nothing came for the longest time first."""
    return DeadlineProtocol


class HttpServer:
    """Runs in the thread that calls `run` until `stop`, which any thread may call."""

    def __init__(self, app: Guard, config: HttpConfig, tls: Callable[[], ssl.SSLContext | None] = lambda: None) -> None:
        """`tls` gives what the next TCP connection is made with; None at the start: no TLS."""
        settings = uvicorn.Config(
            app,
            http=_protocol(config, app.refused),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=16 * 1024,
        )
        # warnings of each malformed request are counted instead: whoever can connect could fill the log
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server = _Server(settings, tls, app.refused)

    def run(self, sockets: list[socket.socket]) -> None:
        self._server.run(sockets=sockets)

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Takes the TCP connections itself where they begin with TLS: asyncio has no bound for those that never finish that."""

    def __init__(
        self, config: uvicorn.Config, tls: Callable[[], ssl.SSLContext | None], refused: MutableMapping[str, int]
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._refused = refused
        self._handshakes: dict[socket.socket, None] = {}
        self._own_tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        has_tls = self._tls() is not None
        shaken = [s for s in sockets or [] if has_tls and s.family != socket.AF_UNIX]
        await super().startup([s for s in sockets or [] if s not in shaken])
        for listener in shaken:
            listener.setblocking(False)
            self._begin(self._accept(listener))

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # 0: also brings the date of the answers up to now
            await asyncio.sleep(_LOOK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._own_tasks:
            task.cancel()
        await asyncio.gather(*self._own_tasks, return_exceptions=True)
        await super().shutdown(sockets)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._own_tasks.add(task)
        task.add_done_callback(self._own_tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # no descriptor left, or the client has gone
                await asyncio.sleep(0.1)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._handshakes[client] = None
            self._begin(self._shake(client))
            await asyncio.sleep(0)  # a connection that is there already is accepted without a turn for others

    async def _shake(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], asyncio.Protocol] = lambda: self.config.http_protocol_class(  # type: ignore[call-arg] # noqa: E731
            config=self.config, server_state=self.server_state, app_state={}, _loop=loop
        )
        try:
            await loop.connect_accepted_socket(
                make, client, ssl=self._tls(), ssl_handshake_timeout=HEADER_TIMEOUT_S, ssl_shutdown_timeout=_GRACE_S
            )
        except OSError:  # those of TLS among them
            self._refused["tls"] += 1
            client.close()
        finally:
            self._handshakes.pop(client, None)

    def install_signal_handlers(self) -> None:
        """The process owns its signals."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()
