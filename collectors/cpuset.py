"""How many CPUs and memory nodes each container may use, from the files of the cpuset controller.

Source: kernel documentation admin-guide/cgroup-v1/cpusets.rst, cgroup-v2.rst; cpuset(7) for the format of lists. Privileges:
none for the files themselves.
"""

from pathlib import Path

import msgspec

from tidegauge.collectors._cgroup_folder import CgroupFolder
from tidegauge.collectors._kernel_text import Faults, Faulty, Optional
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.records import Container, Values

_V1 = ("cpuset.effective_cpus", "cpuset.effective_mems", "cpuset.memory_migrate")
_V2 = ("cpuset.cpus.effective", "cpuset.mems.effective")
_MOST = 1 << 20


class CpusetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


def count(raw: bytes, faults: Faults) -> Optional:
    """How many numbers a list such as `0-3,8` has; 0 for an empty one, None for what is no list."""
    text = raw.strip()
    total = 0
    for part in text.split(b",") if text else ():
        first, dash, last = part.partition(b"-")
        low, high = faults.number(first), faults.number(last if dash else first)
        if low is None or high is None:
            return None
        if not low <= high < _MOST:
            faults.absurd_values += 1
            return None
        total += high - low + 1
    return total


class CpusetReader:
    __slots__ = ("_faults", "_files", "_folder")

    def __init__(self, folder: CgroupFolder, is_v1: bool, faults: Faults) -> None:
        self._folder = folder
        self._files = _V1 if is_v1 else _V2
        self._faults = faults

    def read(self) -> Values:
        cpus, nodes, *migrate = self._folder.read(self._files)
        return (
            None if cpus is None else count(cpus, self._faults),
            None if nodes is None else count(nodes, self._faults),
            self._faults.number(migrate[0].strip()) if migrate and migrate[0] is not None else None,
        )

    def close(self) -> None: ...


class CpusetCollector(Faulty):
    """Three gauges: CPUs and memory nodes in force, and on v1 whether memory moves along when the nodes change."""

    Config = CpusetConfig
    groups = ("cpuset",)
    metrics = ("cpuset_cpus", "cpuset_memory_nodes", "cpuset_memory_migrate")
    is_slow = True

    def __init__(self, config: CpusetConfig) -> None:
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()

    def reader(self, container: Container) -> CpusetReader:
        """NoData: no cpuset controller. FileNotFoundError: no directory there (yet)."""
        folder = CgroupFolder(self._mounts, "cpuset", container, self._faults)
        return CpusetReader(folder, "cpuset" in self._mounts.optional, self._faults)
