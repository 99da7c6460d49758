"""The interfaces that plug-ins implement: Collector, Reader, Runtime, Sink and their optional abilities. Public API.

All register by entry point (`tidegauge.collectors`, `tidegauge.runtimes`, `tidegauge.remotes`, `tidegauge.sinks`); ours do
it exactly as a stranger's.
A plug-in class has `Config`, a frozen msgspec Struct with a default for every field; the registry fills it from the table
that bears the plug-in's name. Fields called `proc`, `sys`, `rootfs`, `state_dir`, `host` or `groups` (of metrics, those that
are on) take the program's settings of these names unless the table sets them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from tidegauge.pipeline.history import HistoryReader
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import Container, Record, Spec, TableRows, Value, Values


class Reader(Protocol):
    """Reads one container. Called from the sampling thread only; no thread, clock, sleep, retry or log of its own."""

    def read(self) -> Values:
        """Values in the order of the collector's `metrics`; None where the kernel gives none.

        Raises FileNotFoundError, or OSError with ENODEV, when the container is gone; CollectError for what should not be.
        """
        ...

    def close(self) -> None:
        """Gives back every descriptor; safe twice."""
        ...


@runtime_checkable
class TableReader(Protocol):
    """A reader whose collector names `tables`: called right after `read`."""

    def read_tables(self) -> tuple[TableRows | None, ...]:
        """Rows of each table in the order of the collector's `tables`; None where nothing was read."""
        ...


@runtime_checkable
class ProbeReader(Protocol):
    """A reader that can tell cheaply (one pread) whether its container ran."""

    def probe(self) -> int:
        """The CPU usage counter in ns, or another number that moves when the container is active."""
        ...

    def park(self) -> None:
        """Closes every descriptor but the probe's; the next `read` opens them again."""
        ...


class Collector(Protocol):
    """Names its metrics and gives a reader for each container that it applies to."""

    Config: ClassVar[type[Any]]
    metrics: tuple[str, ...]
    """Catalogue names of one value a container, in the order of `Reader.read`."""

    def __init__(self, config: Any) -> None: ...

    def reader(self, container: Container) -> Reader | None:
        """A reader, or None if this collector has nothing to say of this container. NoData: not on this host."""
        ...


# Optional attributes of a collector, with their defaults when absent:
#   groups: tuple[str, ...] = ()            groups of metrics; of the class. It runs if one of them is on; without any, always
#   tables: tuple[str, ...] = ()            catalogue names of instance tables, in the order of `read_tables`
#   fragment: tuple[Metric, ...] = ()       metrics that the plug-in brings along
#   is_slow: bool = False                   read by a coarse job on a worker thread; values join the next sample once
#                                         its reader's `read` may return None: nothing new since the last call
#   interval_s: float | None = None         of a slow one: seconds between two readings; None: `sampler.slow_interval_s`
#   close() -> None                         gives back what the collector itself holds


class Hierarchy(NamedTuple):
    """A mounted cgroup hierarchy whose directories are containers."""

    name: str
    """v1: the controller that stands for it (`cpuacct`, `memory` ...); v2: `unified`."""
    root: Path


@runtime_checkable
class HierarchySource(Protocol):
    """A collector that knows where containers are found."""

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        """Every hierarchy to watch; () if this kernel has none. The order is the order of preference for identity."""
        ...


class OomCounts(NamedTuple):
    """A cgroup's own OOM counters, without those of the cgroups below it, since it was made. None: the kernel has none."""

    ooms: int | None
    """Times that its limit was hit and nothing could be freed."""
    kills: int | None
    """Its processes that the OOM killer killed, whosever limit was hit."""


@runtime_checkable
class OomCounter(Protocol):
    """A collector that can tell OOM counters. Called in the sampling thread, when one of `oom_signs` has moved."""

    oom_signs: tuple[str, ...]
    """Among its own metrics of one value a container: nothing that `oom_counts` tells moves without one of them."""

    def oom_counts(self, container: Container) -> OomCounts | None:
        """None if the container is gone, is none of this collector's, or has no such counter."""
        ...


@runtime_checkable
class SpecSource(Protocol):
    """A collector that can tell what a container's cgroup allows it. Called from a worker thread, one container at a time."""

    def spec(self, container: Container) -> Spec | None:
        """None if the container is gone or is none of this collector's."""
        ...


@runtime_checkable
class MachineSource(Protocol):
    """A collector that can tell what the host's machine is. Called from a worker thread."""

    def machine(self) -> Machine | None:
        """What can be read now. May block, but must end within seconds. None: it does not know."""
        ...


class RuntimeRef(NamedTuple):
    """What a cgroup's path says of the container that it belongs to."""

    runtime: str
    """Word for records: `docker`, `systemd` ..."""
    id: str
    """The runtime's id of the container; of a unit or a machine its name, of a Kubernetes pod its uid."""
    part: str = ""
    """Where below the container's own cgroup this one lies; empty for the container itself."""
    pod_uid: str | None = None
    name: str | None = None
    """Set where the path alone tells it."""
    namespace: str = ""
    """Of the runtime, where ids are unique only within one (containerd)."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime says of a container. None or empty: it does not say. Times in ms UTC."""

    name: str | None = None
    aliases: tuple[str, ...] = ()
    namespace: str | None = None
    """The runtime's word for itself; (namespace, alias) names one container of the host."""
    image: str | None = None
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    """All of them; the allow-list is applied by who makes records."""
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    created_ms: int | None = None
    started_ms: int | None = None
    restart_count: int | None = None
    health: str | None = None
    exit_code: int | None = None
    """Of a container that does not run."""
    is_running: bool = True
    pid: int | None = None
    addresses: tuple[str, ...] = ()
    """IP addresses of the container itself, not of one whose network it shares."""
    network: str | None = None
    """`own`, `host` or `container:ID`."""
    pod: str | None = None
    pod_namespace: str | None = None
    pod_uid: str | None = None


@runtime_checkable
class MetadataUser(Protocol):
    """A collector that needs more of what runtimes say than records hold."""

    def use_metadata(self, lookup: Callable[[str], Metadata | None]) -> None:
        """Takes the way to ask, before the first reading: by a container's instance, any thread, at once and without I/O."""
        ...


class RuntimeNews(NamedTuple):
    """What a runtime tells unasked."""

    kind: Literal["connected", "changed", "exited"]
    """`connected`: from now on every change is told. `changed`: ask again. `exited`: its main process ended."""
    id: str = ""
    exit_code: int | None = None


class Runtime(Protocol):
    """Recognises containers of one runtime by their cgroup paths."""

    Config: ClassVar[type[Any]]

    def __init__(self, config: Any) -> None: ...

    def identify(self, path: str) -> RuntimeRef | None:
        """What the path says, or None if no container of this runtime lies there. Pure; called in the sampling thread.

        A path that several runtimes take is asked of all of them.
        """
        ...


@runtime_checkable
class Describer(Protocol):
    """A runtime that can be asked. Each has a thread of its own, so it may block, but must end within its own deadline."""

    def describe(self, ref: RuntimeRef) -> Metadata | None:
        """What it says; None if it does not know the container (yet): it is asked again later.

        NoData: it is not there, or we may not ask: nobody is told. CollectError, OSError: it is asked again, and logged once.
        """
        ...


@runtime_checkable
class PerUser(Protocol):
    """A describer that knows of users' own engines, which say what their users like.

    Itself it asks none of those. For containers in a user's slice (`/user.slice/user-UID.slice`) it is not asked.
    """

    def of_user(self, user: int) -> Describer:
        """The one that is asked for the containers in this user's slice, and for no others."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """A describer that tells of changes, and can say cheaply whether any were missed."""

    def watch(self, tell: Callable[[RuntimeNews], None], is_stopping: Callable[[], bool]) -> None:
        """Follows the runtime until the connection ends or it is to stop. Errors as of `describe`. A thread of its own."""
        ...

    def survey(self) -> Mapping[str, object]:
        """For each running container's id something that differs once its metadata do. Errors as of `describe`."""
        ...


class RemoteReading(NamedTuple):
    """One reading of one container of another host. Names and tables are the catalogue's; what is left out is None."""

    ts_ms: int
    """By the other host's clock."""
    values: Mapping[str, Value]
    tables: Mapping[str, TableRows]


class RemoteContainer(NamedTuple):
    """A container of another host, with the readings that are at hand, oldest first."""

    path: str
    """As the other host names it, `/` for the host itself."""
    created_ms: int | None
    """When it was made: a later time is another container."""
    readings: Sequence[RemoteReading]
    ref: RuntimeRef | None = None
    said: Metadata | None = None
    spec: Spec | None = None
    """What it is allowed."""


class RemoteAnswer(NamedTuple):
    """Everything that another host tells at a time."""

    machine: str
    """What tells the machine from any other, for ever; empty: it does not say."""
    boot_id: str
    """Empty: it does not say."""
    host: str
    containers: Sequence[RemoteContainer]
    """Every container that there is: one that is missing has ended."""
    date_ms: int | None = None
    """The other host's clock, to the second."""


class RemoteHost(Protocol):
    """Asks another host for its containers. Each has a thread of its own, so it may block, within a deadline of its own."""

    Config: ClassVar[type[Any]]
    metrics: tuple[str, ...]
    tables: tuple[str, ...]
    """Catalogue names of what readings may hold."""
    base_interval_s: float
    max_interval_s: float
    """How often the other host samples an active and an idle container, unless the configuration says otherwise."""
    keeps_history: bool
    """True: an answer holds every reading since the time asked for, not the newest alone."""

    def __init__(self, config: Any) -> None: ...

    def ask(self, since_ms: int | None) -> RemoteAnswer:
        """Containers and their readings from that time on; None: all there are. CollectError, OSError: not this time."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Translates records for one store and sends them. Called by its runner's thread alone, one method at a time.

    Life: `__init__` checks the configuration and does no I/O; `open` may fail (SinkError) and be called again; `write`;
    `close` after the last write, safe twice and without `open`. Retry, batching, filters, timing, dead letters and counters
    belong to the runner.
    """

    Config: ClassVar[type[Any]]
    takes: tuple[type, ...]
    """Record types this sink wants, among Batch, Schema, Container, Event, Gap, End. Batch is mandatory."""

    def __init__(self, config: Any) -> None: ...

    def open(self) -> None: ...

    def write(self, records: Sequence[Record]) -> None:
        """Stores the records, given in log order; all or nothing unless it raises PartialWriteError.

        Given the same rows again it leaves the store as it was. Raises RetryableError, TooLargeError, PartialWriteError,
        PermanentError; anything else counts as unknown and is tried again a bounded number of times.
        """
        ...

    def close(self) -> None: ...


# Optional class attributes of a sink, with their defaults when absent:
#   cursor_lasts: bool = True      False: starts anew with each start of the program and holds no segment (memory, stdout)
#   reach_back_s: float = 0        without a lasting cursor: how far back of now it begins to read; 0: at the end of the log
#   names_wait_s: float = 0        default of the runner option of that name


@runtime_checkable
class Maintained(Protocol):
    """A sink whose store needs retention or roll-ups, run on its runner's thread between two writes."""

    maintenance_interval_s: float

    def maintain(self, now_ms: int, is_stopping: Callable[[], bool]) -> None:
        """One bounded piece of work; called again soon while it returns having work left is the sink's own business."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A collector or sink that counts what should not be. Every counter is shown, none is interpreted."""

    def counters(self) -> Mapping[str, int]:
        """Counts since the start by name, which only grow. Any thread, at once and without I/O.

        A name in lower case with underscores, such as `conflict_rows`, becomes the family
        `tidegauge_sink_conflict_rows_total{sink=}`, for a collector `tidegauge_collector_..._total{collector=}`.
        """
        ...


@runtime_checkable
class Complaining(Protocol):
    """A collector that goes on with the rest where something cannot be read, and can say what."""

    def complaint(self) -> str | None:
        """What could not be read first, path and reason, or None. Any thread, at once and without I/O.

        Logged when it appears and when it is over; `tidegauge status` shows it.
        """
        ...


class Point(NamedTuple):
    """One stored sample as a reader of history sees it."""

    ts_ms: int
    is_closing: bool
    values: Mapping[str, Value]
    tables: Mapping[str, Mapping[str, Mapping[str, Value]]]


@runtime_checkable
class ColumnReader(Protocol):
    """A store that can be asked for several metrics of one container over a long time in one pass. Safe from any thread.

    A HistoryReader gives one metric at a time. On SQLite, where rows lie in the order of time for all containers, that is a
    pass over all of them for each: for CPU and memory of one container among 100 over an hour 0.25 s in place of 0.15 s.
    """

    def first_ms(self, instance: str) -> int | None:
        """When the first sample ever stored of it was taken; None if there is none."""
        ...

    def columns(self, instance: str, metrics: Sequence[str], start_ms: int, end_ms: int) -> Sequence[tuple[Value, ...]]:
        """(epoch, ts_ms, value of each metric) within [start, end], by epoch and time. Metrics of the table `sample` alone."""
        ...


@runtime_checkable
class KeepsHistory(Protocol):
    """A sink whose store can be asked for what it has stored."""

    def history(self) -> HistoryReader | None:
        """Always the same; made at the first call, without I/O. None where its configuration excludes it. Any thread."""
        ...


@runtime_checkable
class PointReader(Protocol):
    """A store that can be asked for whole samples. Safe from any thread."""

    def points(self, instance: str, start_ms: int | None, end_ms: int | None, limit: int | None) -> Sequence[Point]:
        """The newest `limit` points within [start, end] of an instance, oldest first, all epochs in log order."""
        ...
