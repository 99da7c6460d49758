"""The server process: unprivileged; runs the sinks and the listener."""

import gc
import logging
import queue
import signal
import socket
import threading

from tidegauge.api import app, auth
from tidegauge.api.http_server import HttpServer
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import logs
from tidegauge.pipeline.budgets import raise_descriptor_limit
from tidegauge.pipeline.config import Config, HttpConfig
from tidegauge.pipeline.errors import ConfigError, TidegaugeError
from tidegauge.pipeline.messages import Channel
from tidegauge.pipeline.server import Server
from tidegauge.pipeline.state import drop_to
from tidegauge.pipeline.supervisor import Start, listen_to_parent

log = logging.getLogger(__name__)


def main(
    config: Config,
    start: Start,
    channel_end: socket.socket,
    listeners: list[socket.socket],
    ids: tuple[int, int] | None,
) -> int:
    """Runs until SIGTERM or the end of the parent."""
    logs.configure("server", config.log.level, config.log.format)
    raise_descriptor_limit()
    # before the rights go: a key may be readable to root alone
    try:
        credentials = auth.Credentials(config.http)
        for line in auth.check(config.http):
            log.warning("%s", line)
    except ConfigError as exc:
        if start.restarts == 0:
            raise
        # the files went bad while the program ran: the sinks go on, and nobody is let in who would have to be asked
        log.error("%s; only the Unix socket is served until the program is started again", exc)
        listeners = [each for each in listeners if each.family == socket.AF_UNIX]
        credentials = auth.Credentials(HttpConfig())
    drop_to(ids)
    server = Server(config, Channel(channel_end), start.restarts)
    guarded = app.build(server, config.http, config.host, config.metrics.groups, credentials)
    http = HttpServer(guarded, config.http, credentials.tls)
    todo: queue.SimpleQueue[Config | None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda signum, frame: todo.put(None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listen_to_parent(start.parent_fd, lambda message: todo.put(configuration.loads(message)), lambda: todo.put(None))
    server.start()
    if listeners:
        threading.Thread(target=http.run, args=(listeners,), name="http", daemon=True).start()
    gc.collect()
    gc.freeze()
    while (fresh := todo.get()) is not None:
        try:
            logs.configure("server", fresh.log.level, fresh.log.format)
            credentials.ask_again()
            server.apply(fresh)
        except TidegaugeError as exc:
            log.error("the configuration is not taken: %s", exc)
    http.stop()
    server.stop()
    return 0
