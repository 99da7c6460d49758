"""CPU, memory, tasks and block I/O of each container on a cgroup v1 or hybrid host, from its directory in each hierarchy.

Source: kernel documentation admin-guide/cgroup-v1/*.rst. Privileges: none for the files themselves. Controllers may be
mounted jointly or apart. On a hybrid host a controller that lives in the unified hierarchy is read there, and pressure too if
the container's path exists there.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegauge.collectors._block_devices import BlockDevices
from tidegauge.collectors._cgroup_reader import CgroupReader, Disk, File, Place, Selection, Table, file
from tidegauge.collectors._kernel_text import DeviceNames, Faults, Faulty, KeyedFile, blkio_rows, limit_file, number_file
from tidegauge.collectors._oom_files import keyed, read_of
from tidegauge.collectors._spec import SpecFiles
from tidegauge.collectors.cgroup_paths import Mode, directory, find_mounts
from tidegauge.collectors.cgroup_v2 import cpu_files, io_disk, memory_files, pids_files, pressure_files, unified_oom_counts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.plugin import Hierarchy, OomCounts
from tidegauge.pipeline.records import Container, Spec, TableRows

_BLKIO_POLICIES = ("blkio.bfq.", "blkio.", "blkio.throttle.")
"""BFQ, CFQ (kernels before 5.0), throttling: the first with entries counts a cgroup's I/O."""


class CgroupV1Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    groups: frozenset[str] = DEFAULT_GROUPS


def _cpuacct_files(faults: Faults) -> tuple[File, ...]:
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    return (
        file("cpuacct.usage", "cpu_usage_ns", "cpu_usage_ns", number_file(faults)),
        file("cpuacct.stat", "cpu_user_ns", "cpu_system_ns", KeyedFile(faults, {"user": tick_ns, "system": tick_ns})),
        File("cpuacct.usage_percpu", table=Table.PERCPU),
    )


def _cpu_files(faults: Faults) -> tuple[File, ...]:
    keys = dict.fromkeys(("nr_periods", "nr_throttled", "throttled_time", "nr_bursts", "burst_time"), 1)
    return (file("cpu.stat", "cpu_periods", "cpu_burst_ns", KeyedFile(faults, keys)),)


def _memory_files(faults: Faults) -> tuple[File, ...]:
    stat = ["rss", "cache", "mapped_file", "active_file", "inactive_file", "pgfault", "pgmajfault", "dirty", "writeback"]
    stat += ["workingset_refault_file", "workingset_refault_anon", "swap"]
    keys = {f"total_{key}": 1 for key in stat}
    number, limit = number_file(faults), limit_file(faults)
    return (
        file("memory.usage_in_bytes", "memory_usage_bytes", "memory_usage_bytes", number),
        file("memory.max_usage_in_bytes", "memory_max_usage_bytes", "memory_max_usage_bytes", number),
        file("memory.stat", "memory_rss_bytes", "memory_swap_bytes", KeyedFile(faults, keys)),
        file("memory.kmem.usage_in_bytes", "memory_kernel_bytes", "memory_kernel_bytes", number),
        file("memory.limit_in_bytes", "memory_limit_bytes", "memory_limit_bytes", limit),
        file("memory.failcnt", "memory_failures", "memory_failures", number),
        file("memory.oom_control", "memory_oom_kills", "memory_oom_kills", KeyedFile(faults, {"oom_kill": 1})),
    )


def _blkio_disk(root: Path, faults: Faults, device_name: DeviceNames) -> Disk:
    """The files of each policy that this kernel has: those that count descendants too where it has them."""
    groups = []
    for policy in _BLKIO_POLICIES:
        for suffix in ("_recursive", ""):
            names = f"{policy}io_service_bytes{suffix}", f"{policy}io_serviced{suffix}"
            if (root / names[0]).exists():
                groups.append(names)
                break

    def rows(raws: Sequence[bytes]) -> TableRows:
        size, ops = (*raws, b"", b"")[:2]
        return blkio_rows(size, ops, device_name, faults)

    return Disk(tuple(groups), rows)


class CgroupV1Collector(Faulty):
    """Counters and gauges of the table `sample` (all but the load), disk_io and percpu, for every cgroup and the host.

    User and system time come in clock ticks (10 ms), so they do not add up to the usage. Pressure is absent but for the host
    and, on hybrid hosts, for containers whose path exists in the unified hierarchy.
    """

    Config = CgroupV1Config
    oom_signs = ("memory_oom_kills",)
    groups = ("cpu", "percpu", "memory", "pids", "oom_event", "pressure", "diskIO")

    def __init__(self, config: CgroupV1Config) -> None:
        self._sys = config.sys
        self._mounts = mounts = find_mounts(config.sys, config.proc)
        self._faults = faults = Faults()
        self._specs = SpecFiles(mounts, faults)
        self._selection = chosen = Selection(config.groups, ("disk_io", "percpu"))
        self.metrics, self.tables = chosen.metrics, chosen.tables
        device_name = BlockDevices(config.sys, config.proc).name
        pressure, disk_io = "pressure" in config.groups, "disk_io" in chosen.tables
        self._pressure = pressure_files(faults, "{}.pressure") if pressure else ()
        self._host_pressure = Place(str(config.proc / "pressure"), pressure_files(faults, "{}") if pressure else ())
        v1: dict[str, tuple[tuple[File, ...], Disk | None]] = {
            "cpuacct": (chosen.files(_cpuacct_files(faults)), None),
            "memory": (chosen.files(_memory_files(faults)), None),
            "pids": (chosen.files(pids_files(faults)), None),
            "cpu": (chosen.files(_cpu_files(faults)), None),
            "blkio": ((), _blkio_disk(mounts.v1.get("blkio", config.sys), faults, device_name) if disk_io else None),
        }
        unified: dict[str, tuple[tuple[File, ...], Disk | None]] = {
            "cpu": (cpu_files(faults), None),
            "memory": (memory_files(faults), None),
            "pids": (pids_files(faults), None),
            "blkio": ((), io_disk(faults, device_name) if disk_io else None),
        }
        # the first place that exists has the probe's file, so what counts activity best stands first
        self._parts: list[tuple[Path, tuple[File, ...], Disk | None]] = [(mounts.v1[c], *v1[c]) for c in v1 if c in mounts.v1]
        if mounts.unified is not None:
            living = [c for c in unified if mounts.lives_in_unified(c)]
            files = chosen.files(f for c in living for f in unified[c][0])
            disk = unified["blkio"][1] if "blkio" in living else None
            is_probe = "cpu" in living and "cpuacct" not in mounts.v1
            if living:
                self._parts.insert(0 if is_probe else len(self._parts), (mounts.unified, files, disk))

    def oom_counts(self, container: Container) -> OomCounts | None:
        """v1 counts kills (from Linux 4.13 on), each where its victim lived, and no cgroup's own OOMs."""
        if "memory" not in self._mounts.v1:
            is_there = self._mounts.mode is not Mode.V2 and self._mounts.lives_in_unified("memory")
            return unified_oom_counts(self._mounts.unified, container) if is_there else None
        raw = read_of(self._mounts.v1["memory"], "memory", container, "memory.oom_control")
        return None if raw is None else OomCounts(None, keyed(raw).get("oom_kill"))

    def spec(self, container: Container) -> Spec | None:
        return None if self._mounts.mode is Mode.V2 else self._specs.spec(container)

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        """Hierarchies with values for us, cpuacct first; () on a pure v2 host."""
        return () if self._mounts.mode is Mode.V2 else self._mounts.hierarchies()

    def reader(self, container: Container) -> CgroupReader | None:
        """None on a pure v2 host, and for a container that has no directory with a counter (any more). NoData: no cgroups."""
        if self._mounts.mode is Mode.NONE:
            raise NoData(f"no cgroup hierarchy is mounted below {self._sys}")
        if self._mounts.mode is Mode.V2:
            return None
        places = []
        for root, files, disk in self._parts:
            where = directory(root, container.path)
            if os.path.isdir(where):
                places.append(Place(where, files, disk))
        if not places or not places[0].files:
            return None
        if container.is_host:
            places.append(self._host_pressure)
        elif self._mounts.unified is not None and os.path.isdir(where := directory(self._mounts.unified, container.path)):
            places.append(Place(where, self._pressure))
        try:
            return CgroupReader(places, self._faults, self._selection)
        except FileNotFoundError:
            return None
