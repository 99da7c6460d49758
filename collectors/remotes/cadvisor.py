"""Containers of a host on which cAdvisor runs, or anything that speaks its REST API, v1.3. Needs the right to ask it.

Two questions a poll: `machine` tells machine and boot; `subcontainers/` from the root gives every container with its
readings since a time (POST, `start` and `num_stats`), or fewer where that is too large an answer.

cAdvisor says 0 where it did not read. Where the answer shows that, the value is None: no network of a raw cgroup (0.35 has
zeros), load and tasks by state while no container has any, pressure while none has any, a peak of 0 beside a usage. On
cgroup v1 page faults are those of the cgroup itself, so of one with children they are None, for ours count the children. The
traffic of a container that lives in the host's network namespace is told of the host alone.

Source: recorded answers of cAdvisor 0.35; fields of later versions by their source.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from tidegauge.collectors.remotes._http import Answer, AnswerTooLarge, Client, HttpConfig
from tidegauge.collectors.remotes._values import Checked, limit, ms_of
from tidegauge.collectors.runtimes._labels import pod_fields, restarts
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.pace import paced
from tidegauge.pipeline.plugin import Metadata, RemoteAnswer, RemoteContainer, RemoteReading, RuntimeRef
from tidegauge.pipeline.records import UNLIMITED, Spec, TableRow, TableRows, Value

_US = 1000
_OPS = ("Read", "Write", "Discard", "Sync", "Async")
_TASKS = ("sleeping", "running", "stopped", "uninterruptible")
_MOST_STATS = 256
"""Readings of each container that are asked for at most; cAdvisor keeps two minutes of them."""
_RESOURCES = ("cpu", "memory", "io")
_TRAFFIC = tuple(f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped"))


class _Usage(msgspec.Struct):
    total: int | None = None
    user: int | None = None
    system: int | None = None
    per_cpu_usage: list[int] | None = None


class _Cfs(msgspec.Struct):
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_time: int | None = None


class _Stall(msgspec.Struct):
    total: int | None = None
    """us, as the kernel has it."""


class _Psi(msgspec.Struct):
    some: _Stall = msgspec.field(default_factory=_Stall)
    full: _Stall = msgspec.field(default_factory=_Stall)


class _Cpu(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)
    cfs: _Cfs = msgspec.field(default_factory=_Cfs)
    load_average: int | None = None
    psi: _Psi | None = None


class _Device(msgspec.Struct):
    device: str = ""
    major: int = 0
    minor: int = 0
    stats: dict[str, int] = msgspec.field(default_factory=dict)


class _DiskIo(msgspec.Struct):
    io_service_bytes: list[_Device] | None = None
    io_serviced: list[_Device] | None = None
    psi: _Psi | None = None


class _Faults(msgspec.Struct):
    pgfault: int | None = None
    pgmajfault: int | None = None


class _Memory(msgspec.Struct):
    usage: int | None = None
    max_usage: int | None = None
    cache: int | None = None
    rss: int | None = None
    swap: int | None = None
    mapped_file: int | None = None
    working_set: int | None = None
    total_active_file: int | None = None
    total_inactive_file: int | None = None
    failcnt: int | None = None
    hierarchical_data: _Faults = msgspec.field(default_factory=_Faults)
    psi: _Psi | None = None


class _Interface(msgspec.Struct):
    name: str = ""
    rx_bytes: int | None = None
    rx_packets: int | None = None
    rx_errors: int | None = None
    rx_dropped: int | None = None
    tx_bytes: int | None = None
    tx_packets: int | None = None
    tx_errors: int | None = None
    tx_dropped: int | None = None


class _Network(msgspec.Struct):
    interfaces: list[_Interface] | None = None


class _Filesystem(msgspec.Struct):
    device: str = ""
    capacity: int | None = None
    usage: int | None = None
    available: int | None = None
    has_inodes: bool = False
    inodes: int | None = None
    inodes_free: int | None = None


class _Tasks(msgspec.Struct):
    nr_sleeping: int | None = None
    nr_running: int | None = None
    nr_stopped: int | None = None
    nr_uninterruptible: int | None = None
    nr_io_wait: int | None = None


class _Processes(msgspec.Struct):
    threads_current: int | None = None


class _Health(msgspec.Struct):
    status: str = ""


class _Stats(msgspec.Struct):
    timestamp: datetime
    cpu: _Cpu | None = None
    diskio: _DiskIo | None = None
    memory: _Memory | None = None
    network: _Network | None = None
    filesystem: list[_Filesystem] | None = None
    task_stats: _Tasks | None = None
    processes: _Processes | None = None
    health: _Health | None = None


class _CpuSpec(msgspec.Struct):
    limit: int | None = None
    quota: int | None = None
    period: int | None = None
    mask: str | None = None


class _MemorySpec(msgspec.Struct):
    limit: int | None = None
    reservation: int | None = None
    swap_limit: int | None = None


class _ProcessSpec(msgspec.Struct):
    limit: int | None = None


class _Spec(msgspec.Struct):
    creation_time: datetime | None = None
    start_time: datetime | None = None
    labels: dict[str, str] | None = None
    envs: dict[str, str] | None = None
    image: str | None = None
    has_cpu: bool = False
    cpu: _CpuSpec | None = None
    has_memory: bool = False
    memory: _MemorySpec | None = None
    has_network: bool = False
    has_processes: bool = False
    processes: _ProcessSpec | None = None
    has_filesystem: bool = False
    has_diskio: bool = False


class _Container(msgspec.Struct):
    name: str
    spec: _Spec
    id: str = ""
    aliases: list[str] | None = None
    namespace: str = ""
    stats: list[_Stats] | None = None


class _Disk(msgspec.Struct):
    name: str = ""


class _Machine(msgspec.Struct):
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    memory_capacity: int | None = None
    disk_map: dict[str, _Disk] | None = None


_MACHINE = msgspec.json.Decoder(_Machine)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_CONTAINER = msgspec.json.Decoder(_Container)


class _Traits(NamedTuple):
    """What the whole answer shows of how cAdvisor reads there."""

    is_v1: bool
    is_v2: bool
    """Neither: nothing tells which."""
    has_load: bool
    has_pressure: frozenset[str]
    parents: frozenset[str]

    @classmethod
    def of(cls, containers: Sequence[_Container]) -> "_Traits":
        stats = [s for c in containers for s in c.stats or ()]
        has_pressure = {
            r for s in paced(stats) for r in _RESOURCES if (p := _psi(s, r)) is not None and (p.some.total or p.full.total)
        }
        limits = {
            v for c in containers if (m := c.spec.memory) is not None for v in (m.limit, m.reservation, m.swap_limit) if v
        }
        is_v2 = 2**64 - 1 in limits
        return cls(
            not is_v2
            and (
                any(s.cpu is not None and s.cpu.usage.per_cpu_usage for s in stats)
                or any(v < 2**63 and limit(v) == UNLIMITED for v in limits)
            ),
            is_v2,
            any(
                (s.cpu is not None and s.cpu.load_average)
                or (s.task_stats is not None and any(getattr(s.task_stats, n) for n in _Tasks.__struct_fields__))
                for s in stats
            ),
            frozenset(has_pressure),
            _parents(c.name for c in containers),
        )


def _parents(paths: Iterable[str]) -> frozenset[str]:
    """Paths below which there is another."""
    found = set()
    for path in paths:
        while path != "/" and (at := path.rfind("/")) >= 0:
            path = path[:at] or "/"
            if path in found:
                break
            found.add(path)
    return frozenset(found)


def _psi(stats: _Stats, resource: str) -> _Psi | None:
    part = stats.diskio if resource == "io" else getattr(stats, resource)
    psi: _Psi | None = None if part is None else part.psi
    return psi


class CadvisorConfig(HttpConfig, frozen=True, forbid_unknown_fields=True):
    pass


class CadvisorRemote:
    """A host on which cAdvisor (0.35 or later) runs, by its REST API."""

    Config = CadvisorConfig
    base_interval_s = 1.0
    max_interval_s = 60.0
    keeps_history = True
    # fmt: off
    metrics = (
        "cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "cpu_periods", "cpu_throttled_periods", "cpu_throttled_ns",
        "cpu_load_milli", "memory_usage_bytes", "memory_max_usage_bytes", "memory_working_set_bytes", "memory_rss_bytes",
        "memory_cache_bytes", "memory_mapped_file_bytes", "memory_swap_bytes", "memory_active_file_bytes",
        "memory_inactive_file_bytes", "memory_page_faults", "memory_major_page_faults", "memory_limit_bytes", "memory_failures",
        "pids_current", "pids_limit",
        *(f"{r}_pressure_{share}_ns" for r in _RESOURCES for share in ("some", "full")),
        *(f"tasks_{state}" for state in (*_TASKS, "io_waiting")),
        "host_memory_total_bytes",
    )
    # fmt: on
    tables = ("percpu", "network", "disk_io", "filesystem")

    def __init__(self, config: CadvisorConfig) -> None:
        self._client = Client(config)
        self._checked = Checked()
        self._bad_containers = 0
        self._shortened = 0
        self._sharing = _Sharing()

    def ask(self, since_ms: int | None) -> RemoteAnswer:
        machine = self._machine()
        path = "/api/v1.3/subcontainers/"
        answer = self._newest(path, since_ms)
        containers = self._containers(answer.body, path)
        traits = _Traits.of(containers)
        sharing = self._sharing.look(containers)
        told = [self._told(c, machine, traits, c.name in sharing) for c in paced(containers)]
        who = f"{machine.machine_id} {machine.system_uuid}".strip()
        return RemoteAnswer(who, machine.boot_id, self._client.host, told, answer.date_ms)

    def close(self) -> None:
        self._client.close()

    def counters(self) -> Mapping[str, int]:
        return {
            "absurd_values": self._checked.absurd_values,
            "unreadable_containers": self._bad_containers,
            "shortened_answers": self._shortened,
        }

    def _newest(self, path: str, since_ms: int | None) -> Answer:
        """Readings since a time; of a host with many containers, after a long time, the newest few of each alone."""
        question: dict[str, Any] = {"num_stats": _MOST_STATS}
        if since_ms is not None:
            question["start"] = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
        while True:
            try:
                return self._client.ask(path, msgspec.json.encode(question))
            except AnswerTooLarge:
                if question["num_stats"] == 1:
                    raise
                question["num_stats"] //= 4
                self._shortened += 1

    def _machine(self) -> _Machine:
        path = "/api/v1.3/machine"
        body = self._client.ask(path).body
        try:
            return _MACHINE.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise CollectError(f"{self._client.where(path)}: expected cAdvisor's MachineInfo: {exc}") from None

    def _containers(self, body: bytes, path: str) -> list[_Container]:
        """Those that can be read; the others are counted. CollectError if there is none."""
        where = self._client.where(path)
        try:
            parts = _LIST.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise CollectError(f"{where}: expected a list of cAdvisor's ContainerInfo: {exc}") from None
        containers: dict[str, _Container] = {}
        why = "it is empty"
        for part in paced(parts):
            try:
                container = _CONTAINER.decode(part)
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                self._bad_containers += 1
                why = str(exc)
                continue
            if not container.name.startswith("/") or container.name in containers:
                self._bad_containers += 1
                why = f"{container.name!r} is no path, or stands twice"
                continue
            containers[container.name] = container
        if not containers:
            raise CollectError(f"{where}: expected a list of cAdvisor's ContainerInfo with at least one: {why}")
        return list(containers.values())

    def _told(self, c: _Container, machine: _Machine, traits: _Traits, is_sharing: bool) -> RemoteContainer:
        labels = c.spec.labels or {}
        ref = said = None
        if c.namespace and c.name != "/":
            aliases = tuple(c.aliases or ())
            id_ = c.id or (aliases[-1] if aliases else c.name.rpartition("/")[2])
            named = [a for a in aliases if a != id_]
            status = next((s.health.status for s in reversed(c.stats or ()) if s.health is not None), "")
            ref = RuntimeRef(c.namespace, id_)
            said = Metadata(
                name=named[0] if named else labels.get("io.kubernetes.container.name") or id_,
                aliases=aliases,
                namespace=c.namespace,
                image=c.spec.image or None,
                labels=labels,
                environment=c.spec.envs or {},
                created_ms=ms_of(c.spec.creation_time),
                started_ms=ms_of(c.spec.start_time),
                restart_count=restarts(labels),
                health=status or None,
                **pod_fields(labels),
            )
        readings = [
            RemoteReading(ts_ms, self._values(c, s, machine, traits), self._tables(c, s, machine, is_sharing))
            for s in c.stats or ()
            if (ts_ms := ms_of(s.timestamp)) is not None
        ]
        readings.sort(key=lambda r: r.ts_ms)
        return RemoteContainer(c.name, ms_of(c.spec.creation_time), readings, ref, said, _spec(c, traits))

    def _values(self, c: _Container, s: _Stats, machine: _Machine, traits: _Traits) -> dict[str, Value]:
        raw: dict[str, int | None] = {}
        is_host = c.name == "/"
        if c.spec.has_cpu and s.cpu is not None:
            usage, cfs = s.cpu.usage, s.cpu.cfs
            raw |= {
                "cpu_usage_ns": usage.total,
                "cpu_user_ns": usage.user,
                "cpu_system_ns": usage.system,
                "cpu_periods": cfs.periods,
                "cpu_throttled_periods": cfs.throttled_periods,
                "cpu_throttled_ns": cfs.throttled_time,
            }
            if traits.has_load:
                raw["cpu_load_milli"] = s.cpu.load_average
        if traits.has_load and s.task_stats is not None:
            raw |= {f"tasks_{state}": getattr(s.task_stats, f"nr_{state}") for state in _TASKS}
            raw["tasks_io_waiting"] = s.task_stats.nr_io_wait
        if c.spec.has_memory and s.memory is not None:
            raw |= _memory(s.memory, traits, c.name in traits.parents)
        if c.spec.has_memory and not is_host and c.spec.memory is not None:
            raw["memory_limit_bytes"] = limit(c.spec.memory.limit)
        if s.processes is not None:
            raw["pids_current"] = s.processes.threads_current
        if c.spec.has_processes and not is_host:
            # 0.35 leaves the limit out where the kernel says `max`
            said = None if c.spec.processes is None else c.spec.processes.limit
            raw["pids_limit"] = limit(2**64 - 1 if said is None else said)
        if is_host:
            raw["host_memory_total_bytes"] = machine.memory_capacity or None
        values = self._checked.values(raw)
        for resource in traits.has_pressure:
            if (psi := _psi(s, resource)) is not None:
                values[f"{resource}_pressure_some_ns"] = self._checked.value(psi.some.total, _US)
                values[f"{resource}_pressure_full_ns"] = self._checked.value(psi.full.total, _US)
        return values

    def _tables(self, c: _Container, s: _Stats, machine: _Machine, is_sharing: bool) -> dict[str, TableRows]:
        row = self._checked.row
        tables: dict[str, TableRows] = {}
        if s.cpu is not None and s.cpu.usage.per_cpu_usage:
            tables["percpu"] = tuple(row(str(i), (ns,)) for i, ns in enumerate(s.cpu.usage.per_cpu_usage))
        has_network = c.name == "/" or (c.spec.has_network and not is_sharing)
        if has_network and s.network is not None and s.network.interfaces:
            tables["network"] = _unique(row(i.name, [getattr(i, field) for field in _TRAFFIC]) for i in s.network.interfaces)
        if c.spec.has_diskio and s.diskio is not None:
            tables["disk_io"] = self._disks(s.diskio, machine)
        if c.name == "/" and s.filesystem:
            tables["filesystem"] = _unique(
                row(
                    f.device,
                    (f.capacity, f.usage, f.available, *((f.inodes, f.inodes_free) if f.has_inodes else (None, None))),
                )
                for f in s.filesystem
            )
        return tables

    def _disks(self, io: _DiskIo, machine: _Machine) -> TableRows:
        """A row a device, by name: bytes, then requests, as the table has them."""
        found: dict[str, list[int | None]] = {}
        for half, devices in enumerate((io.io_service_bytes, io.io_serviced)):
            for d in devices or ():
                number = f"{d.major}:{d.minor}"
                known = (machine.disk_map or {}).get(number)
                name = d.device.removeprefix("/dev/") or (known.name if known else "") or number
                values = found.setdefault(name, [None] * (2 * len(_OPS)))
                for i, op in enumerate(_OPS):
                    values[half * len(_OPS) + i] = d.stats.get(op)
        return tuple(self._checked.row(name, values) for name, values in sorted(found.items()))


def _spec(c: _Container, traits: _Traits) -> Spec | None:
    """What it is allowed; of the host, whose figures are those of the machine, nothing."""
    if c.name == "/":
        return None
    cpu, memory = c.spec.cpu or _CpuSpec(), c.spec.memory or _MemorySpec()
    own, swap, reservation = limit(memory.limit), limit(memory.swap_limit), limit(memory.reservation)
    if not traits.is_v1 and swap is not None:
        # on cgroup v2 this is the limit of swap alone
        swap = None if own is None or not traits.is_v2 else min(own + swap, UNLIMITED)
    pids = c.spec.processes.limit if c.spec.processes is not None else None
    return Spec(
        cpu_shares=cpu.limit,
        # left out where there is none; without a period nothing is known of it
        cpu_quota_us=cpu.quota if cpu.quota is not None or cpu.period is None else UNLIMITED,
        cpu_period_us=cpu.period,
        cpus=cpu.mask,
        memory_limit_bytes=own,
        memory_swap_limit_bytes=swap,
        memory_reservation_bytes=reservation if traits.is_v1 else None,
        memory_min_bytes=reservation if traits.is_v2 else None,
        pids_limit=limit(2**64 - 1 if pids is None else pids) if c.spec.has_processes else None,
    )


class _Sharing:
    """Which containers live in the host's network namespace, so that their traffic is the host's and is told there alone.

    A container does if it has the host's interfaces with counters that lie between two readings of the host's around them.
    """

    def __init__(self) -> None:
        self._sharing: set[str] = set()

    def look(self, containers: Sequence[_Container]) -> Collection[str]:
        """Paths of those that do, by this answer or, where it does not tell, by the ones before."""
        host = next((c for c in containers if c.name == "/"), None)
        lines = [] if host is None else sorted(_traffic(host), key=lambda line: line[0])
        before, self._sharing = self._sharing, set()
        for c in containers:
            if c.name == "/" or not c.spec.has_network:
                continue
            verdicts = {v for when, counters in _traffic(c) if (v := _lies_between(lines, when, counters)) is not None}
            if verdicts == {True} or (not verdicts and c.name in before):
                self._sharing.add(c.name)
        return self._sharing


_Traffic = dict[str, list[int]]


def _traffic(c: _Container) -> Iterator[tuple[datetime, _Traffic]]:
    for s in c.stats or ():
        if s.network is not None and s.network.interfaces:
            yield s.timestamp, {i.name: [getattr(i, field) or 0 for field in _TRAFFIC] for i in s.network.interfaces}


def _lies_between(lines: Sequence[tuple[datetime, _Traffic]], when: datetime, counters: _Traffic) -> bool | None:
    """True if the counters can be the host's at that time; None if there is no reading of it on both sides, or all is 0."""
    low = next((t for at, t in reversed(lines) if at <= when), None)
    high = next((t for at, t in lines if at >= when), None)
    if low is None or high is None or not any(any(row) for row in counters.values()):
        return None
    return low.keys() == counters.keys() == high.keys() and all(
        a <= b <= c for name, row in counters.items() for a, b, c in zip(low[name], row, high[name], strict=True)
    )


def _memory(m: _Memory, traits: _Traits, is_parent: bool) -> dict[str, int | None]:
    is_own_faults = traits.is_v1 and is_parent
    has_peak = bool(m.max_usage) or not m.usage
    return {
        "memory_usage_bytes": m.usage,
        "memory_max_usage_bytes": m.max_usage if has_peak else None,
        "memory_working_set_bytes": m.working_set,
        "memory_rss_bytes": m.rss,
        "memory_cache_bytes": m.cache,
        "memory_mapped_file_bytes": m.mapped_file,
        "memory_swap_bytes": m.swap,
        "memory_active_file_bytes": m.total_active_file,
        "memory_inactive_file_bytes": m.total_inactive_file,
        "memory_page_faults": None if is_own_faults else m.hierarchical_data.pgfault,
        "memory_major_page_faults": None if is_own_faults else m.hierarchical_data.pgmajfault,
        # cgroup v2 has no such file and cAdvisor says 0
        "memory_failures": m.failcnt if m.failcnt or traits.is_v1 else None,
    }


def _unique(rows: Iterable[TableRow]) -> TableRows:
    """The rows that bear a label, each label once."""
    found: dict[Any, TableRow] = {}
    for row in rows:
        if row[0]:
            found.setdefault(row[0], row)
    return tuple(found.values())
