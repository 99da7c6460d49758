"""CPU, memory, tasks, pressure and block I/O of each container on a pure cgroup v2 host, from its cgroup directory.

Source: kernel documentation admin-guide/cgroup-v2.rst, accounting/psi.rst. Privileges: none for the files themselves; a
runtime may close the directory to others. Hosts with v1 controllers belong to `cgroup_v1`, hybrid ones included.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegauge.collectors._block_devices import BlockDevices
from tidegauge.collectors._cgroup_reader import CgroupReader, Disk, File, Place, Selection, file
from tidegauge.collectors._kernel_text import (
    DeviceNames,
    Faults,
    Faulty,
    KeyedFile,
    io_stat_rows,
    limit_file,
    number_file,
    pressure_file,
)
from tidegauge.collectors._oom_files import keyed, read_of
from tidegauge.collectors._spec import SpecFiles
from tidegauge.collectors.cgroup_paths import Mode, directory, find_mounts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.plugin import Hierarchy, OomCounts
from tidegauge.pipeline.records import Container, Spec, TableRows


class CgroupV2Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    groups: frozenset[str] = DEFAULT_GROUPS


def cpu_files(faults: Faults) -> tuple[File, ...]:
    us = 1000
    keys = {"usage_usec": us, "user_usec": us, "system_usec": us, "nr_periods": 1, "nr_throttled": 1, "throttled_usec": us}
    keys |= {"nr_bursts": 1, "burst_usec": us}
    return (file("cpu.stat", "cpu_usage_ns", "cpu_burst_ns", KeyedFile(faults, keys)),)


def memory_files(faults: Faults) -> tuple[File, ...]:
    stat = ["pgscan", "pgsteal", "kernel", "anon", "file", "file_mapped", "active_file", "inactive_file", "pgfault"]
    stat += ["pgmajfault", "file_dirty", "file_writeback", "workingset_refault_file", "workingset_refault_anon"]
    events = ("high", "max", "oom_kill")
    number, limit = number_file(faults), limit_file(faults)
    return (
        file("memory.current", "memory_usage_bytes", "memory_usage_bytes", number),
        file("memory.peak", "memory_max_usage_bytes", "memory_max_usage_bytes", number),
        file(
            "memory.stat",
            "memory_reclaim_scanned_pages",
            "memory_refaulted_anon_pages",
            KeyedFile(faults, dict.fromkeys(stat, 1)),
        ),
        file("memory.swap.current", "memory_swap_bytes", "memory_swap_bytes", number),
        file("memory.max", "memory_limit_bytes", "memory_limit_bytes", limit),
        file("memory.events", "memory_high_events", "memory_oom_kills", KeyedFile(faults, dict.fromkeys(events, 1))),
    )


def pids_files(faults: Faults) -> tuple[File, ...]:
    return (
        file("pids.current", "pids_current", "pids_current", number_file(faults)),
        file("pids.max", "pids_limit", "pids_limit", limit_file(faults)),
    )


def pressure_files(faults: Faults, name: str) -> tuple[File, ...]:
    """`name` has a place for the resource: `{}.pressure` in a cgroup, `{}` in PROC/pressure."""
    parse = pressure_file(faults)
    return tuple(
        file(name.format(what), f"{what}_pressure_some_ns", f"{what}_pressure_full_ns", parse)
        for what in ("cpu", "memory", "io")
    )


def io_disk(faults: Faults, device_name: DeviceNames) -> Disk:
    def rows(raws: Sequence[bytes]) -> TableRows:
        return io_stat_rows(raws[0], device_name, faults) if raws else ()

    return Disk((("io.stat",),), rows)


def unified_oom_counts(root: Path | None, container: Container) -> OomCounts | None:
    """The cgroup's own counters: memory.events.local, before Linux 5.2 memory.events, which did not count descendants then."""
    if root is None:
        return None
    for name in ("memory.events.local", "memory.events"):
        if (raw := read_of(root, "unified", container, name)) is not None:
            counts = keyed(raw)
            return OomCounts(counts.get("oom"), counts.get("oom_kill"))
    return None


class CgroupV2Collector(Faulty):
    """Counters and gauges of the table `sample` (all but the load) and disk_io, for every cgroup and the host.

    Absent on v2: per CPU usage, synchronous and asynchronous I/O. The root has no limits, peaks, failures or task count; its
    memory usage is anonymous memory plus page cache, its pressure that of /proc/pressure.
    """

    Config = CgroupV2Config
    oom_signs = ("memory_oom_kills", "memory_failures")  # these count descendants too, and every failure before an OOM
    groups = ("cpu", "memory", "pids", "oom_event", "pressure", "diskIO")

    def __init__(self, config: CgroupV2Config) -> None:
        self._sys = config.sys
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = faults = Faults()
        self._selection = chosen = Selection(config.groups, ("disk_io",))
        self.metrics, self.tables = chosen.metrics, chosen.tables
        pressure = "pressure" in config.groups
        self._host_pressure = Place(str(config.proc / "pressure"), pressure_files(faults, "{}") if pressure else ())
        self._files = chosen.files((*cpu_files(faults), *memory_files(faults), *pids_files(faults)))
        self._pressure = pressure_files(faults, "{}.pressure") if pressure else ()
        self._disk = io_disk(faults, BlockDevices(config.sys, config.proc).name) if chosen.tables else None
        self._specs = SpecFiles(self._mounts, faults)

    def oom_counts(self, container: Container) -> OomCounts | None:
        return unified_oom_counts(self._mounts.unified, container) if self._mounts.mode is Mode.V2 else None

    def spec(self, container: Container) -> Spec | None:
        return self._specs.spec(container) if self._mounts.mode is Mode.V2 else None

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        """The unified hierarchy on a pure v2 host, () on any other."""
        return self._mounts.hierarchies() if self._mounts.mode is Mode.V2 else ()

    def reader(self, container: Container) -> CgroupReader | None:
        """None where v1 controllers are mounted, and for a container that is gone already. NoData: no cgroups."""
        if self._mounts.mode is Mode.NONE:
            raise NoData(f"no cgroup hierarchy is mounted below {self._sys}")
        if self._mounts.mode is not Mode.V2:
            return None
        assert self._mounts.unified is not None
        where = directory(self._mounts.unified, container.path)
        if container.is_host:
            places = [Place(where, self._files, self._disk), self._host_pressure]
        else:
            places = [Place(where, (*self._files, *self._pressure), self._disk)]
        # the root of a cgroup namespace looks like the host and has the file that the real root lacks
        usage_from_stat = container.is_host and not os.path.exists(f"{where}/memory.current")
        try:
            return CgroupReader(places, self._faults, self._selection, usage_from_stat=usage_from_stat)
        except FileNotFoundError:
            return None
