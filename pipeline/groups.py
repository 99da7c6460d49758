"""Groups of metrics: what is switched on and off as one. Names are those of cAdvisor's metric kinds where it has one."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec


class Group(NamedTuple):
    """Metrics that are read, and cost something, together."""

    name: str
    is_default: bool
    help: str


_GROUPS = (
    Group("cpu", True, "CPU time used and throttled"),
    Group("percpu", True, "CPU time used on each CPU (cgroup v1)"),
    Group("sched", False, "time on and waiting for a CPU, summed over the container's processes"),
    Group("cpuLoad", True, "smoothed number of running tasks, and tasks by state if wanted"),
    Group("memory", True, "memory used, by kind, limits, page faults, reclaim"),
    Group("memory_numa", False, "memory on each NUMA node"),
    Group("hugetlb", False, "huge pages by size"),
    Group("diskIO", True, "bytes and requests on each block device"),
    Group("disk", False, "space that the container's writable layer and logs take"),
    Group("filesystem", True, "size and use of the host's filesystems"),
    Group("network", True, "traffic of each network interface"),
    Group("tcp", False, "TCP sockets by state"),
    Group("udp", False, "UDP sockets and their queues"),
    Group("advtcp", False, "the kernel's counters of TCP"),
    Group("app", False, "metrics that the application in the container offers"),
    Group("process", False, "processes, open files, sockets, limit of open files"),
    Group("pids", True, "number and limit of tasks"),
    Group("perf_event", False, "performance counters of the CPU and the kernel"),
    Group("referenced_memory", False, "memory touched of late"),
    Group("cpu_topology", False, "caches, siblings and NUMA distances of the machine"),
    Group("resctrl", False, "memory bandwidth and last-level cache (Intel RDT, AMD QoS)"),
    Group("cpuset", False, "CPUs and memory nodes that the container may use"),
    Group("oom_event", True, "processes killed for want of memory"),
    Group("pressure", True, "time stalled for want of CPU, memory or I/O"),
    Group("host", True, "load, CPU by mode, memory, swap and disks of the host"),
)

GROUPS: Mapping[str, Group] = MappingProxyType({g.name: g for g in _GROUPS})
DEFAULT_GROUPS = frozenset(g.name for g in _GROUPS if g.is_default)


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[metrics]`: which groups of metrics are collected. What each costs: docs/metrics.md."""

    enable: tuple[str, ...] = ()
    """Groups to collect besides the default ones; `all` stands for every group."""
    disable: tuple[str, ...] = ()
    """Groups to leave out; `all` stands for every group, so that only those of `enable` remain."""

    def __post_init__(self) -> None:
        for key, names in (("enable", self.enable), ("disable", self.disable)):
            for name in names:
                if name != "all" and name not in GROUPS:
                    raise ValueError(f"{key}: expected some of all, {', '.join(GROUPS)}, got {name!r}")
        if both := sorted({*self.enable} & {*self.disable}):
            raise ValueError(f"enable: expected no group that metrics.disable names too, got {both[0]!r}")

    @property
    def groups(self) -> frozenset[str]:
        """The groups that are on."""
        enabled, disabled = _named(self.enable), _named(self.disable)
        if "all" in self.disable:
            return enabled
        if "all" in self.enable:
            return enabled - disabled
        return (DEFAULT_GROUPS | enabled) - disabled


def _named(names: Collection[str]) -> frozenset[str]:
    return frozenset(GROUPS) if "all" in names else frozenset(names)
