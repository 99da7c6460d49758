"""Docker's Engine API as far as names need it: inspect, list, events. Podman answers the same.

Source: docs.docker.com/reference/api/engine (v1.24 and later), podman's compatible REST API. Needs the right to connect to the
socket, which for Docker is the right to do anything on the host: hence only the sampler process asks.
"""

import copy
import json
import re
import select
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from tidegauge.collectors.runtimes import _labels
from tidegauge.collectors.runtimes._sockets import Sockets
from tidegauge.collectors.runtimes._unix_http import LIMIT_BYTES, Address, Stream, Tcp, get
from tidegauge.pipeline.errors import CollectError, ConfigError, NoData
from tidegauge.pipeline.plugin import Metadata, RuntimeNews, RuntimeRef

T = TypeVar("T")

_LOOK_S = 1.0
"""How often a stream without events looks whether it is to stop."""
_NEW_SOCKETS_S = 30.0
_OF_USER_BYTES = 2 << 20
"""Longest answer for a user's containers: to decode one holds up every other thread, for some 10 ms a MiB."""
_OF_USER_NEWS = 100
_OF_USER_S = 0.1
"""So many events in such a time are taken of a user's engine; who sends more loses them."""
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

    Patterns are absolute paths (see `Sockets`), or `tcp://HOST:PORT`. As it is made it asks root's engines. `of_user` makes
    one that asks a user's as well, and first: it is for that user's containers alone, so that whatever a user's engine says,
    or does not say, is of no other's.
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
        self._patterns = patterns
        self._sockets = Sockets([p for p in patterns if not p.startswith("tcp:")], rootfs)
        self._user = 0
        self._timeout_s = timeout_s
        filters: dict[str, Any] = {"type": ["container"], **({"event": list(events)} if events else {})}
        self._events = "/events?filters=" + quote(json.dumps(filters, separators=(",", ":")))

    def of_user(self, user: int) -> Self:
        made = copy.copy(self)
        made._user = user
        return made

    def sockets(self) -> list[Address]:
        users = self._sockets.of(self._user) if self._user else []
        return [*users, *self._sockets.of(0), *self._remote]

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        """The first engine that knows the container tells."""
        for raw in self.ask(f"/containers/{ref.id}/json"):
            said = decoded(parse_inspect, raw, self._namespace)
            if said.aliases[-1] != ref.id:
                raise CollectError(f"asked for {ref.id}, answered about another one: {raw[:200]!r}")
            # a user could give his containers anybody's address; those that they have are of a network that only he sees
            return msgspec.structs.replace(said, addresses=()) if self._user else said
        return None

    def survey(self) -> Mapping[str, object]:
        out: dict[str, object] = {}
        for raw in self.ask("/containers/json"):
            out |= decoded(parse_list, raw)
        return out

    def watch(self, tell: Callable[[RuntimeNews], None], is_stopping: Callable[[], bool]) -> None:
        """Follows the events of all engines at once, also of those that come later; ends when one of them does."""
        streams: dict[Address, Stream] = {}
        try:
            ready = self._join(streams)
            tell(RuntimeNews("connected"))
            look_s = time.monotonic() + _NEW_SOCKETS_S
            while not is_stopping():
                for stream in ready:
                    lines = stream.lines()
                    if lines is None:
                        return
                    for line in islice(lines, _OF_USER_NEWS if self._user else None):
                        if line.strip() and (news := decoded(parse_event, line)) is not None:
                            tell(news)
                if ready and self._user:
                    time.sleep(_OF_USER_S)
                poll = select.poll()  # takes descriptors beyond 1023 too
                for stream in streams.values():
                    poll.register(stream, select.POLLIN)
                told = {fd for fd, _ in poll.poll(_LOOK_S * 1000)}
                ready = [stream for stream in streams.values() if stream.fileno() in told]
                if time.monotonic() > look_s:
                    look_s = time.monotonic() + _NEW_SOCKETS_S
                    if fresh := self._join(streams):
                        tell(RuntimeNews("connected"))
                        ready += fresh
        finally:
            for stream in streams.values():
                stream.close()

    def _join(self, streams: dict[Address, Stream]) -> list[Stream]:
        """Opens those that are not open yet; errors as of `describe` if none is open then."""
        fresh: dict[Address, Stream] = {}
        errors: list[CollectError] = []
        for path in self.sockets():
            if path in streams:
                continue
            try:
                stream = Stream(path, self._events, self._timeout_s)
            except NoData:
                continue
            except CollectError as exc:
                errors.append(exc)
                continue
            if stream.status == 200:
                streams[path] = fresh[path] = stream
            else:
                stream.close()
                errors.append(CollectError(f"{path}: GET {self._events}: HTTP {stream.status}"))
        if not streams:
            raise errors[0] if errors else self._nobody()
        return list(fresh.values())

    def ask(self, target: str) -> Iterator[bytes]:
        """Answers of the engines that have one, each asked when it is its turn.

        What one of several does wrong is told at the end, and only if no other has an answer.
        """
        errors: list[CollectError] = []
        is_there = has_answer = False
        for path in self.sockets():
            try:
                raw = get(path, target, self._timeout_s, _OF_USER_BYTES if self._user else LIMIT_BYTES)
            except NoData:
                continue
            except CollectError as exc:
                errors.append(exc)
                continue
            is_there = True
            if raw is not None:
                has_answer = True
                yield raw
        if errors and not has_answer:
            raise errors[0]
        if not is_there and not errors:
            raise self._nobody()

    def _nobody(self) -> NoData:
        return NoData(f"no {self._namespace} engine answers at {', '.join(self._patterns)}")


def decoded(parse: Callable[..., T], raw: bytes, *arguments: object) -> T:
    try:
        return parse(raw, *arguments)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise CollectError(f"an answer that is none: {exc}: {raw[:200]!r}") from exc
