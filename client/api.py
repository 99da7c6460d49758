"""The client: a method for each thing that can be asked."""

from datetime import datetime
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from tidegauge.client import containers as c
from tidegauge.client import history as h
from tidegauge.client import machine as m
from tidegauge.client import own as o
from tidegauge.client.decoding import decode
from tidegauge.client.errors import WrongAnswer
from tidegauge.client.events import Event, EventQuery, decode_event, time_text
from tidegauge.client.samples import DeprecatedContainerStats, MachineStats
from tidegauge.client.streams import EventStream
from tidegauge.client.transport import Access, Transport

T = TypeVar("T")
Named = Literal["name", "docker", "podman"]
"""What a container is called by: its cgroup path, or a runtime's name, id or unique beginning of an id."""


class ContainerInfoQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which samples: the newest `num_stats` between `start` and `end`. 0: none, -1: all that there are."""

    num_stats: int = 60
    start: datetime | None = None
    end: datetime | None = None

    def body(self) -> bytes:
        """ValueError for a time without a zone."""
        body: dict[str, object] = {"num_stats": self.num_stats}
        for name, time in (("start", self.start), ("end", self.end)):
            if time is not None:
                body[name] = time_text(time, name)
        return msgspec.json.encode(body)


class Client:
    """Asks one cAdvisor or tidegauge. Any thread; a context manager.

    Containers are named by cgroup path, such as `/docker/0123`, where it does not say otherwise. The methods here are
    cAdvisor's v1.3; `v2` has those of v2.1, `tidegauge` those that only tidegauge has. Each may raise ConnectionFailed,
    HttpError or WrongAnswer.
    """

    def __init__(
        self,
        url: str = "http://localhost:4194",
        *,
        unix_socket: str | Path | None = None,
        timeout_s: float = 10.0,
        limit_bytes: int = 256 << 20,
        retries: int = 0,
        token: str | None = None,
        basic: tuple[str, str] | None = None,
        digest: tuple[str, str] | None = None,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        """Connects to nothing yet. ValueError for what cannot be.

        `unix_socket`: its path; the URL is then what the Host header and a prefix of paths are taken from.
        `timeout_s`: to connect, for each wait, and for the whole answer; with a wait that has begun, at most twice that.
        `limit_bytes`: of an answer. `retries`: how often a request that failed to arrive, or was answered 429, 502, 503 or
        504, is sent again after a short pause. `token`, or (user, password) of `basic` or `digest`.
        `ca_file`: who the server's certificate must be from, else the system's; `cert_file`, `key_file`: the client's own;
        or a whole context as `tls`. Proxies of the environment are not used, redirects are not followed.
        """
        access = Access(token, basic, digest, ca_file, cert_file, key_file, tls)
        self._transport = Transport(url, unix_socket, timeout_s, limit_bytes, retries, access)
        self.v2 = ClientV2(self._transport)
        self.tidegauge = TidegaugeClient(self._transport)

    def close(self) -> None:
        """Closes the connections that are idle. Streams have their own `close`."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def machine_info(self) -> m.MachineInfo:
        return _get(self._transport, "/api/v1.3/machine", m.MachineInfo)

    def container_info(self, name: str, query: ContainerInfoQuery | None = None) -> c.ContainerInfo:
        return self._query(f"containers{_path(name)}", query, c.ContainerInfo)

    def subcontainers_info(self, name: str, query: ContainerInfoQuery | None = None) -> list[c.ContainerInfo]:
        """The container and all below it."""
        return self._query(f"subcontainers{_path(name)}", query, list[c.ContainerInfo])

    def docker_container(self, name: str, query: ContainerInfoQuery | None = None) -> c.ContainerInfo:
        """By name, id, or unique beginning of the id."""
        target = f"docker/{quote(name, safe='')}"
        found = self._query(target, query, dict[str, c.ContainerInfo])
        if len(found) != 1:
            raise WrongAnswer(self._transport.url(f"/api/v1.3/{target}"), f"expected one container, got {len(found)}", "$")
        return next(iter(found.values()))

    def all_docker_containers(self, query: ContainerInfoQuery | None = None) -> list[c.ContainerInfo]:
        return list(self._query("docker/", query, dict[str, c.ContainerInfo]).values())

    def events(self, name: str = "/", query: EventQuery | None = None) -> list[Event]:
        """Oldest first."""
        return _get(self._transport, f"/api/v1.3/events{_path(name)}", list[Event], (query or EventQuery()).parameters())

    def stream_events(
        self,
        name: str = "/",
        query: EventQuery | None = None,
        *,
        idle_s: float | None = None,
        reconnects: bool = False,
    ) -> EventStream[Event]:
        """What comes from now on. The first connection is made here; see EventStream for its end.

        `idle_s`: a connection over which nothing came for so long is taken for dead. tidegauge sends an empty line each 15 s,
        cAdvisor nothing while nothing happens.
        """
        target = f"/api/v1.3/events{_path(name)}?{urlencode((query or EventQuery()).parameters(is_stream=True))}"
        return EventStream(self._transport, target, decode_event, idle_s=idle_s, reconnects=reconnects)

    def _query(self, target: str, query: ContainerInfoQuery | None, shape: type[T]) -> T:
        target = f"/api/v1.3/{target}"
        data = self._transport.ask(target, None if query is None else query.body())
        return decode(data, shape, self._transport.url(target))


class ClientV2:
    """cAdvisor's v2.1. By default of the container `name` alone; `recursive`: and of all below it.

    `named` docker or podman: `name` is what the runtime calls it; with `name` "/" and `recursive` all of the runtime.
    Answers are by cgroup path.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def version(self) -> str:
        """Of the server; empty for a cAdvisor that was built without one."""
        return _get(self._transport, "/api/v2.1/version", str)

    def attributes(self) -> m.Attributes:
        return _get(self._transport, "/api/v2.1/attributes", m.Attributes)

    def machine_info(self) -> m.MachineInfo:
        return _get(self._transport, "/api/v2.1/machine", m.MachineInfo)

    def machine_stats(self, *, count: int | None = None) -> list[MachineStats]:
        """The newest `count` samples of the machine, oldest first."""
        return _get(self._transport, "/api/v2.1/machinestats", list[MachineStats], _counted(count))

    def stats(
        self,
        name: str = "/",
        *,
        count: int | None = None,
        recursive: bool = False,
        named: Named = "name",
        max_age_s: float | None = None,
    ) -> dict[str, c.ContainerInfoV2]:
        """The newest `count` samples (None: 64, -1: all) of each. The root is never in the answer.

        `max_age_s` asks cAdvisor to read containers anew whose last sample is older.
        """
        return self._of("stats", name, dict[str, c.ContainerInfoV2], recursive, named, _counted(count), max_age_s)

    def deprecated_stats(
        self, name: str = "/", *, count: int | None = None, recursive: bool = False, named: Named = "name"
    ) -> dict[str, list[DeprecatedContainerStats]]:
        """v2.0's `stats`, the root included."""
        shape = dict[str, list[DeprecatedContainerStats]]
        return self._of("stats", name, shape, recursive, named, _counted(count), version="v2.0")

    def summary(self, name: str = "/", *, recursive: bool = False, named: Named = "name") -> dict[str, c.DerivedStats]:
        return self._of("summary", name, dict[str, c.DerivedStats], recursive, named)

    def spec(self, name: str = "/", *, recursive: bool = False, named: Named = "name") -> dict[str, c.ContainerSpec]:
        return self._of("spec", name, dict[str, c.ContainerSpec], recursive, named)

    def app_metrics(
        self, name: str = "/", *, count: int | None = None, recursive: bool = False, named: Named = "name"
    ) -> dict[str, dict[str, dict[str, list[c.AppMetric]]]]:
        """Container -> metric -> label -> values."""
        shape = dict[str, dict[str, dict[str, list[c.AppMetric]]]]
        return self._of("appmetrics", name, shape, recursive, named, _counted(count))

    def storage(self, *, label: str | None = None) -> list[m.FsInfo]:
        """Filesystems of the machine, or those with this label, such as `root`."""
        return _get(self._transport, "/api/v2.1/storage", list[m.FsInfo], {} if label is None else {"label": label})

    def storage_by_uuid(self, uuid: str) -> m.FsInfo:
        return _get(self._transport, "/api/v2.1/storage", m.FsInfo, {"uuid": uuid})

    def ps(self, name: str = "/", *, named: Named = "name") -> list[c.ProcessInfo]:
        """Processes of the container; of `/` all of the machine. From tidegauge on the Unix socket or with a credential."""
        return self._of("ps", name, list[c.ProcessInfo], False, named)

    def _of(
        self,
        what: str,
        name: str,
        shape: type[T],
        recursive: bool,
        named: Named,
        parameters: dict[str, str] | None = None,
        max_age_s: float | None = None,
        version: str = "v2.1",
    ) -> T:
        asked = dict(parameters or {})
        if recursive:
            asked["recursive"] = "true"
        if named != "name":
            asked["type"] = named
        if max_age_s is not None:
            asked["max_age"] = f"{max_age_s:.9f}s"
        return _get(self._transport, f"/api/{version}/{what}{_path(name)}", shape, asked)


class TidegaugeClient:
    """What only tidegauge answers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def status(self) -> o.Status:
        return _get(self._transport, "/api/v1/status", o.Status)

    def processes(self, name: str = "/", *, recursive: bool = False) -> o.Processes:
        """Of the container with this path, name, alias or beginning of its id. On the Unix socket or with a credential."""
        parameters = {"path": name, "recursive": "true" if recursive else "false"}
        return _get(self._transport, "/api/v1/processes", o.Processes, parameters)

    def history(self, query: h.HistoryQuery) -> h.History:
        """One metric of some containers between two times, in buckets."""
        return _get(self._transport, "/api/v1/history/query", h.History, query.parameters())

    def history_containers(self, span: h.HistorySpan | None = None, *, limit: int = 1000) -> h.PastContainers:
        """Those that were sampled in the span, the newest so many."""
        parameters = [*(span or h.HistorySpan()).parameters(), ("limit", str(limit))]
        return _get(self._transport, "/api/v1/history/containers", h.PastContainers, parameters)

    def history_metrics(self, store: str | None = None) -> h.PastMetrics:
        """What a store can be asked for."""
        parameters = [] if store is None else [("store", store)]
        return _get(self._transport, "/api/v1/history/metrics", h.PastMetrics, parameters)

    def events(self, query: o.RecordedEventQuery | None = None) -> list[o.RecordedEvent]:
        """Oldest first."""
        return _get(self._transport, "/api/v1/events", list[o.RecordedEvent], (query or o.RecordedEventQuery()).parameters())

    def stream_events(
        self,
        query: o.RecordedEventQuery | None = None,
        *,
        idle_s: float | None = 60.0,
        reconnects: bool = False,
    ) -> EventStream[o.RecordedEvent | o.Missed]:
        """What comes from now on; see `Client.stream_events`."""
        target = f"/api/v1/events?{urlencode((query or o.RecordedEventQuery()).parameters(is_stream=True))}"
        return EventStream(self._transport, target, o.decode_recorded, idle_s=idle_s, reconnects=reconnects)


def _get(
    transport: Transport, path: str, shape: type[T], parameters: dict[str, str] | list[tuple[str, str]] | None = None
) -> T:
    target = path + (f"?{urlencode(parameters)}" if parameters else "")
    return decode(transport.ask(target), shape, transport.url(target))


def _counted(count: int | None) -> dict[str, str]:
    return {} if count is None else {"count": str(count)}


def _path(name: str) -> str:
    """The part of the URL. ValueError for a name with `.` or `..` in it, of which servers would make another."""
    parts = [p for p in name.split("/") if p]
    if "." in parts or ".." in parts:
        raise ValueError(f"name: expected a cgroup path, got {name!r}")
    return "/" + "/".join(quote(p, safe="") for p in parts)
