"""Memory of each container on each NUMA node, from memory.numa_stat.

Source: kernel documentation admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst (there from Linux 5.10 on). Privileges: none for
the file itself.
"""

import os
from pathlib import Path

import msgspec

from tidegauge.collectors._cgroup_folder import CgroupFolder
from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.records import Container, TableRows, Value

_KINDS = (b"file", b"anon", b"unevictable")
_V1_KEYS = {b"hierarchical_" + k: i for i, k in enumerate(_KINDS)} | {k: i + 3 for i, k in enumerate(_KINDS)}
_V2_KEYS = {k: i for i, k in enumerate(_KINDS)}
"""Key -> place among the values of the table `numa`: children included, then the cgroup alone, which v2 does not tell."""


class MemoryNumaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


def parse(raw: bytes, is_v1: bool, page_bytes: int, faults: Faults) -> TableRows:
    """Rows (node, six values in bytes), by node number: v1 counts pages (`anon=3 N0=3`), v2 bytes (`anon N0=12288`)."""
    keys, factor = (_V1_KEYS, page_bytes) if is_v1 else (_V2_KEYS, 1)
    nodes: dict[int, list[Value]] = {}
    for line in raw.split(b"\n"):
        words = line.split()
        place = keys.get(words[0].partition(b"=")[0]) if words else None
        if place is None:
            continue
        for word in words[1:]:
            node, equals, value = word.partition(b"=")
            if equals and node[:1] == b"N" and node[1:].isdigit() and len(node) < 10:
                nodes.setdefault(int(node[1:]), [None] * 6)[place] = faults.number(value, factor)
    return tuple((str(node), *values) for node, values in sorted(nodes.items()))


class MemoryNumaReader:
    __slots__ = ("_faults", "_folder", "_is_v1", "_page_bytes")

    def __init__(self, folder: CgroupFolder, is_v1: bool, faults: Faults) -> None:
        self._folder = folder
        self._is_v1 = is_v1
        self._faults = faults
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        (raw,) = self._folder.read(("memory.numa_stat",))
        return (None if raw is None else parse(raw, self._is_v1, self._page_bytes, self._faults) or None,)

    def close(self) -> None: ...


class MemoryNumaCollector(Faulty):
    """Table `numa`: page cache, anonymous and unevictable memory of each node, on v1 also without that of child cgroups."""

    Config = MemoryNumaConfig
    groups = ("memory_numa",)
    metrics: tuple[str, ...] = ()
    tables = ("numa",)
    is_slow = True

    def __init__(self, config: MemoryNumaConfig) -> None:
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()

    def reader(self, container: Container) -> MemoryNumaReader:
        """NoData: no memory controller. FileNotFoundError: no directory there (yet)."""
        folder = CgroupFolder(self._mounts, "memory", container, self._faults)
        return MemoryNumaReader(folder, "memory" in self._mounts.v1, self._faults)
