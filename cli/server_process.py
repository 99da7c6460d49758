"""The server process: unprivileged; runs the sinks and the listener."""

import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable

import msgspec

from tidegauge.api import app
from tidegauge.api.http_server import HttpServer
from tidegauge.pipeline import logs
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.messages import Channel
from tidegauge.pipeline.server import Server
from tidegauge.pipeline.state import drop_to
from tidegauge.pipeline.supervisor import Start, exit_with_parent

log = logging.getLogger(__name__)


def main(
    read: Callable[[], Config],
    start: Start,
    channel_end: socket.socket,
    listeners: list[socket.socket],
    ids: tuple[int, int] | None,
) -> int:
    """Runs until SIGTERM or the end of the parent."""
    config = read()
    logs.configure("server", config.log.level, config.log.format)
    drop_to(ids)
    server = Server(config, Channel(channel_end), start.restarts)
    http = HttpServer(app.build(server, config.http, config.host), config.http)
    wake = threading.Event()
    todo = {"stop": False, "reload": False}

    def on_signal(signum: int, frame: object) -> None:
        todo["reload" if signum == signal.SIGHUP else "stop"] = True
        wake.set()

    def on_parent_gone() -> None:
        todo["stop"] = True
        wake.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, on_signal)
    exit_with_parent(start.parent_fd, on_parent_gone)
    server.start()
    listener = threading.Thread(target=http.run, args=(listeners,), name="http", daemon=True)
    if listeners:
        listener.start()
    gc.collect()
    gc.freeze()
    while True:
        wake.wait(1.0)
        wake.clear()
        if todo["reload"]:
            todo["reload"] = False
            _reload(server, read, config)
        if todo["stop"]:
            break
    http.stop()
    server.stop()
    return 0


def _reload(server: Server, read: Callable[[], Config], first: Config) -> None:
    try:
        config = read()
        logs.configure("server", config.log.level, config.log.format)
        server.apply(msgspec.structs.replace(config, state_dir=first.state_dir, http=first.http, journal=first.journal))
    except TidegaugeError as exc:
        log.error("the configuration is not taken: %s", exc)
