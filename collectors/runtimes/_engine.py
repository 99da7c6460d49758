"""Docker's Engine API as far as names need it: inspect, list, events. Podman answers the same.

Source: docs.docker.com/reference/api/engine (v1.24 and later), podman's compatible REST API. Needs the right to connect to the
socket, which for Docker is the right to do anything on the host: hence only the sampler process asks.
"""

import glob
import json
import re
import select
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from tidegauge.collectors.runtimes import _labels
from tidegauge.collectors.runtimes._unix_http import Address, Stream, Tcp, get
from tidegauge.pipeline.errors import CollectError, ConfigError, NoData
from tidegauge.pipeline.plugin import Metadata, RuntimeNews, RuntimeRef

T = TypeVar("T")

_LOOK_S = 1.0
"""How often a stream without events looks whether it is to stop."""
_NEW_SOCKETS_S = 30.0
_HEALTH = ("starting", "healthy", "unhealthy")
_IN_STATUS = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)")


class _Health(msgspec.Struct, rename="pascal"):
    status: str = ""


class _State(msgspec.Struct, rename="pascal"):
    running: bool = False
    restarting: bool = False
    pid: int = 0
    exit_code: int = 0
    started_at: str = ""
    health: _Health | None = None


class _Endpoint(msgspec.Struct):
    ipv4: str = msgspec.field(name="IPAddress", default="")
    ipv6: str = msgspec.field(name="GlobalIPv6Address", default="")


class _NetworkSettings(msgspec.Struct, rename="pascal"):
    networks: dict[str, _Endpoint | None] | None = None


class _HostConfig(msgspec.Struct, rename="pascal"):
    network_mode: str = ""


class _Settings(msgspec.Struct, rename="pascal"):
    image: str = ""
    labels: dict[str, str] | None = None
    env: list[str] | None = None


class _Inspect(msgspec.Struct, rename="pascal"):
    id: str
    name: str = ""
    created: str = ""
    restart_count: int = 0
    state: _State = msgspec.field(default_factory=_State)
    host_config: _HostConfig = msgspec.field(default_factory=_HostConfig)
    config: _Settings = msgspec.field(default_factory=_Settings)
    network_settings: _NetworkSettings = msgspec.field(default_factory=_NetworkSettings)


class _Listed(msgspec.Struct, rename="pascal"):
    id: str
    names: list[str] | None = None
    image: str = ""
    labels: dict[str, str] | None = None
    state: str = ""
    status: str = ""


class _Actor(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = msgspec.field(name="Attributes", default=None)


class _Event(msgspec.Struct, rename="pascal"):
    action: str = ""
    actor: _Actor = msgspec.field(default_factory=_Actor)


_INSPECT = msgspec.json.Decoder(_Inspect)
_LIST = msgspec.json.Decoder(list[_Listed])
_EVENT = msgspec.json.Decoder(_Event)


def time_ms(text: str) -> int | None:
    """Milliseconds UTC of an RFC 3339 time; None for Go's zero time, for an empty one and for what is no time."""
    try:
        ms = round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return ms if ms > 0 else None


def parse_inspect(raw: bytes, namespace: str) -> Metadata:
    """What an inspect answer says. msgspec.DecodeError for anything else."""
    found = _INSPECT.decode(raw)
    state, labels = found.state, found.config.labels or {}
    health = state.health.status if state.health is not None else ""
    name = found.name.removeprefix("/")
    is_running = state.running and not state.restarting
    restarts = _labels.restarts(labels)
    return Metadata(
        name=name or None,
        aliases=(name, found.id) if name else (found.id,),
        namespace=namespace,
        image=found.config.image or None,
        labels=labels,
        environment=dict(pair.partition("=")[::2] for pair in found.config.env or ()),
        created_ms=time_ms(found.created),
        started_ms=time_ms(state.started_at),
        restart_count=found.restart_count if restarts is None else restarts,
        health=health if health in _HEALTH else None,
        exit_code=None if is_running else state.exit_code,
        is_running=is_running,
        pid=state.pid or None,
        addresses=_addresses(found.network_settings),
        network=_network(found.host_config.network_mode),
        **_labels.pod_fields(labels),
    )


def _addresses(settings: _NetworkSettings) -> tuple[str, ...]:
    endpoints = [e for e in (settings.networks or {}).values() if e is not None]
    return tuple(a for e in endpoints for a in (e.ipv4, e.ipv6) if a)


def _network(mode: str) -> str | None:
    if not mode:
        return None
    return mode if mode == "host" or mode.startswith("container:") else "own"


def parse_list(raw: bytes) -> dict[str, object]:
    """For each container of a list answer what inspect would tell otherwise if it changed. The id is no part of it."""
    return {
        c.id: (tuple(c.names or ()), c.image, c.labels, c.state, tuple(_IN_STATUS.findall(c.status))) for c in _LIST.decode(raw)
    }


def parse_event(line: bytes) -> RuntimeNews | None:
    """What a line of the event stream means for us; None for what changes no metadata."""
    event = _EVENT.decode(line)
    attributes = event.actor.attributes or {}
    if event.action in ("die", "died"):
        code = attributes.get("exitCode") or attributes.get("containerExitCode") or ""
        return RuntimeNews("exited", event.actor.id, int(code) if code.lstrip("-").isdigit() else None)
    if event.action in ("start", "rename", "update") or event.action.startswith("health_status"):
        return RuntimeNews("changed", event.actor.id)
    return None


def tcp_address(text: str, tls: Any, where: str) -> Tcp:
    """Of `tcp://HOST:PORT`; without a port Docker's own. `tls`: an SSLContext, or None. ConfigError names `where` it stands."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigError(f"{where}: expected tcp://HOST:PORT, got {text!r}: {exc}") from exc
    if not host or parts.scheme != "tcp" or parts.path.strip("/") or parts.query or parts.username:
        raise ConfigError(f"{where}: expected tcp://HOST:PORT, got {text!r}")
    return Tcp(host, port or (2375 if tls is None else 2376), tls)


class Engine:
    """Every socket among the patterns at which an engine answers. `describe` and `survey` of one thread, `watch` of another.

    Patterns are absolute paths, or `tcp://HOST:PORT`. Paths are looked for below `rootfs`, and where nothing is there, as
    they are: a socket may be mounted into our own container at its usual place.
    """

    def __init__(
        self,
        namespace: str,
        patterns: tuple[str, ...],
        rootfs: Path,
        timeout_s: float,
        events: tuple[str, ...],
        tls: Any = None,
    ) -> None:
        self._namespace = namespace
        where = f"runtimes.{namespace}.sockets"
        self._remote: list[Address] = [tcp_address(p, tls, where) for p in patterns if p.startswith("tcp:")]
        self._all_patterns = patterns
        patterns = self._patterns = tuple(p for p in patterns if not p.startswith("tcp:"))
        # /var/run is a link to /run: an absolute one, which below a mounted root would lead into our own container
        below = str(rootfs).rstrip("/")
        self._below_rootfs = [below + p.replace("/var/run/", "/run/", 1) for p in patterns] if below else []
        self._timeout_s = timeout_s
        filters: dict[str, Any] = {"type": ["container"], **({"event": list(events)} if events else {})}
        self._events = "/events?filters=" + quote(json.dumps(filters, separators=(",", ":")))

    def sockets(self) -> list[Address]:
        for patterns in (self._below_rootfs, self._patterns):
            if found := [Path(p) for pattern in patterns for p in sorted(glob.glob(pattern))]:
                return [*found, *self._remote]
        return self._remote

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        """The first engine that knows the container tells."""
        answers = self.ask(f"/containers/{ref.id}/json")
        return decoded(parse_inspect, answers[0], self._namespace) if answers else None

    def survey(self) -> Mapping[str, object]:
        out: dict[str, object] = {}
        for raw in self.ask("/containers/json"):
            out |= decoded(parse_list, raw)
        return out

    def watch(self, tell: Callable[[RuntimeNews], None], is_stopping: Callable[[], bool]) -> None:
        """Follows the events of all engines at once; ends when one of them does, or another one has appeared."""
        streams: list[Stream] = []
        sockets = self.sockets()
        try:
            for path in sockets:
                try:
                    streams.append(Stream(path, self._events, self._timeout_s))
                except NoData:
                    continue
                if streams[-1].status != 200:
                    raise CollectError(f"{path}: GET {self._events}: HTTP {streams[-1].status}")
            if not streams:
                raise NoData(f"no {self._namespace} engine answers at {', '.join(self._all_patterns)}")
            tell(RuntimeNews("connected"))
            look_s = time.monotonic() + _NEW_SOCKETS_S
            ready = streams
            poll = select.poll()  # takes descriptors beyond 1023 too
            for stream in streams:
                poll.register(stream, select.POLLIN)
            while not is_stopping():
                for stream in ready:
                    lines = stream.lines()
                    if lines is None:
                        return
                    for line in lines:
                        if line.strip() and (news := decoded(parse_event, line)) is not None:
                            tell(news)
                if time.monotonic() > look_s:
                    look_s += _NEW_SOCKETS_S
                    if set(self.sockets()) - set(sockets):
                        return
                told = {fd for fd, _ in poll.poll(_LOOK_S * 1000)}
                ready = [stream for stream in streams if stream.fileno() in told]
        finally:
            for stream in streams:
                stream.close()

    def ask(self, target: str) -> list[bytes]:
        """Answers of the engines that have one. What one of several does wrong is told only if no other has an answer."""
        answers: list[bytes] = []
        errors: list[CollectError] = []
        absent = 0
        sockets = self.sockets()
        for path in sockets:
            try:
                raw = get(path, target, self._timeout_s)
            except NoData:
                absent += 1
            except CollectError as exc:
                errors.append(exc)
            else:
                if raw is not None:
                    answers.append(raw)
        if errors and not answers:
            raise errors[0]
        if absent == len(sockets):
            raise NoData(f"no {self._namespace} engine answers at {', '.join(self._all_patterns)}")
        return answers


def decoded(parse: Callable[..., T], raw: bytes, *arguments: object) -> T:
    try:
        return parse(raw, *arguments)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise CollectError(f"an answer that is none: {exc}: {raw[:200]!r}") from exc
