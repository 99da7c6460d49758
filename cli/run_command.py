"""`tidegauge run`: the parent process. Checks all, opens the listeners, then keeps sampler and server running."""

import contextlib
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from tidegauge.cli import cadvisor_flags
from tidegauge.cli.options import common, load
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import logs, messages, supervisor
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import ConfigError, TidegaugeError
from tidegauge.pipeline.state import StateDir, server_ids

log = logging.getLogger(__name__)


class _Command(click.Command):
    """Takes cAdvisor's flags with one dash too: `-http_auth_file` is not `-h` and what follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [f"-{word}" if cadvisor_flags.is_with_one_dash(word) else word for word in args])


@click.command(
    "run",
    cls=_Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True, "help_option_names": ["-h", "--help"]},
    epilog="cAdvisor's spellings of flags are taken too: --housekeeping_interval=1s, --storage_driver=influxdb.",
)
@click.option("--listen", help="ADDRESS:PORT of the listener.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@common
def command(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    listen: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Sample this host and deliver to every configured sink, until stopped.

    SIGTERM and SIGINT drain and stop within 5 s; SIGHUP reads the configuration again.
    """
    flags = cadvisor_flags.translate(arguments, lambda text: click.echo(f"tidegauge: {text}", err=True))
    if listen is not None:
        cadvisor_flags.put(flags, "http.listen", listen)

    def read() -> Config:
        return load(config_file, state_dir, assignments, flags)

    config = read()
    check_in_child(config)
    logs.configure("parent", config.log.level, config.log.format)
    sys.exit(_run(config, read))


def _run(config: Config, read: Callable[[], Config]) -> int:
    ids = server_ids(config.server_user, config.state_dir)
    state = StateDir(config.state_dir)
    state.prepare(ids)
    state.lock()
    source = state.source()
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(contextlib.closing(s)) for s in _listeners(config, ids, stack)]
        sampler_end, server_end = (stack.enter_context(contextlib.closing(end)) for end in messages.pair())

        held = [config]

        def run_sampler(start: supervisor.Start) -> int:
            from tidegauge.cli import sampler_process

            for listener in listeners:
                listener.close()
            return sampler_process.main(held[0], start, sampler_end, source)

        def run_server(start: supervisor.Start) -> int:
            from tidegauge.cli import server_process

            return server_process.main(held[0], start, server_end, listeners, ids)

        def reload() -> bytes | None:
            try:
                fresh = read()
                check_in_child(fresh)
            except (ConfigError, click.UsageError) as exc:
                log.error("the configuration is not taken: %s", exc)
                return None
            held[0] = with_fixed(config, fresh)
            log.info("the configuration is read again")
            return configuration.dumps(held[0])

        scheme = "http" if config.http.tls_cert is None else "https"
        where = ", ".join(_name(s, scheme) for s in listeners) or "nowhere"
        log.info("tidegauge samples %s; it listens on %s; state in %s", config.host, where, config.state_dir)
        children = [supervisor.Child("sampler", run_sampler), supervisor.Child("server", run_server)]
        return supervisor.supervise(children, reload)


_FIXED = ("state_dir", "host", "server_user", "roots", "journal", "http", "metrics", "collectors", "runtimes", "remotes")
"""What changes only with a restart."""


def with_fixed(running: Config, fresh: Config) -> Config:
    """The fresh configuration with what changes only with a restart as it runs; a warning names what was put off."""
    changed = [key for key in _FIXED if getattr(running, key) != getattr(fresh, key)]
    if changed:
        log.warning("these change only with a restart: %s", ", ".join(changed))
    return msgspec.structs.replace(fresh, **{key: getattr(running, key) for key in changed})


def check_in_child(config: Config) -> None:
    """Builds every plug-in, reads every file of credentials, in a short-lived process: the parent keeps nothing of that.

    ConfigError with the child's text.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = b""
        try:
            os.close(read_end)
            from tidegauge.api import auth
            from tidegauge.pipeline import collecting

            collecting.check(config)
            auth.check(config.http)
        except TidegaugeError as exc:
            text = str(exc).encode() or b"the configuration is wrong"
        except BaseException as exc:  # noqa: BLE001 - whatever a stranger's plug-in does in its constructor
            text = f"a plug-in failed: {type(exc).__name__}: {exc}".encode()
        finally:
            with contextlib.suppress(OSError):
                os.write(write_end, text[:60000])
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    if text:
        raise ConfigError(text.decode())


def socket_path(config: Config) -> Path | None:
    """Where the Unix socket stands; None if it is switched off."""
    if config.http.socket is not None:
        return Path(config.http.socket) if config.http.socket else None
    if config.is_default_state_dir:
        if os.geteuid() == 0:
            return Path("/run/tidegauge/tidegauge.sock")
        if runtime := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(runtime) / "tidegauge" / "tidegauge.sock"
    return config.state_dir / "tidegauge.sock"


def _listeners(config: Config, ids: tuple[int, int] | None, stack: contextlib.ExitStack) -> Iterator[socket.socket]:
    """Opened by the parent: a server that is started again never loses a connection that waits."""
    if config.http.listen:
        host, port = configuration.split_address(config.http.listen)
        try:
            yield socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512, reuse_port=False
            )
        except OSError as exc:
            raise TidegaugeError(f"http.listen: cannot listen on {config.http.listen}: {exc.strerror}") from exc
    path = socket_path(config)
    if path is None:
        return
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        if ids is not None:
            os.chown(path, 0, ids[1])
        listener.listen(512)
    except OSError as exc:
        raise TidegaugeError(f"http.socket: cannot listen on {path}: {exc.strerror}") from exc
    stack.callback(path.unlink, missing_ok=True)
    yield listener


def _remove_stale(path: Path) -> None:
    """Removes a socket that nobody listens on any more. TidegaugeError for one in use, and for anything that is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise TidegaugeError(f"http.socket: expected a free path or an old socket, got {path}, which is something else")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise TidegaugeError(f"http.socket: another process listens on {path}")


def _name(listener: socket.socket, scheme: str) -> str:
    name: Any = listener.getsockname()
    if isinstance(name, str):
        return name
    return f"{scheme}://{f'[{name[0]}]' if ':' in name[0] else name[0]}:{name[1]}/"
