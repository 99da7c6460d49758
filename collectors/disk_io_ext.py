"""What only some I/O schedulers and the I/O cost model count of each container's block I/O.

Source: kernel documentation cgroup-v1/blkio-controller.rst, cgroup-v2.rst (io.stat, io.cost.qos). Privileges: none for the
files themselves. On v1 these are files of BFQ (in kernels built with BFQ's debugging) and of CFQ (before Linux 5.0), on v2 the
figures that io.stat has while the cost model is on. Most machines have neither, so these are not read with every sample: what
is there is looked for at the host, once a round.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from tidegauge.collectors._block_devices import BlockDevices
from tidegauge.collectors._cgroup_folder import CgroupFolder
from tidegauge.collectors._kernel_text import DeviceNames, Faults, Faulty, Optional
from tidegauge.collectors.cgroup_paths import Mode, find_mounts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import Container, TableRows

_WIDTH = 13
_FILES = ("io_service_time", "io_wait_time", "io_merged", "io_queued", "sectors", "time")
_PLACES: tuple[Mapping[bytes, int], ...] = (
    {b"Read": 0, b"Write": 1},
    {b"Read": 2, b"Write": 3},
    {b"Read": 4, b"Write": 5},
    {b"Total": 6},
    {b"": 7},
    {b"": 8},  # documented as ms; CFQ has counted ns since Linux 4.8
)
"""For each of _FILES: operation (none: the line is a device and a number) -> place in a row of the table `disk_io_ext`."""
_POLICIES = ("blkio.bfq.", "blkio.")
_COSTS = {b"cost.usage": 9, b"cost.wait": 10, b"cost.indebt": 11, b"cost.indelay": 12}
_NS_PER_US = 1000


class DiskIoExtConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


def policies(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The six files of each v1 policy that counts times, by the names of the root's files; recursive where there are such."""
    there = set(names)
    found = []
    for policy in _POLICIES:
        for suffix in ("_recursive", ""):
            if f"{policy}{_FILES[0]}{suffix}" in there:
                found.append(tuple(f"{policy}{name}{suffix}" for name in _FILES))
                break
    return tuple(found)


def blkio_rows(raws: Sequence[bytes | None], name: DeviceNames, faults: Faults) -> TableRows:
    """Rows of the six files of a policy, sorted by device."""
    devices: dict[bytes, list[Optional]] = {}
    for places, raw in zip(_PLACES, raws, strict=True):
        for line in (raw or b"").split(b"\n"):
            words = line.split()
            if not 2 <= len(words) <= 3 or b":" not in words[0]:
                continue
            place = places.get(words[1] if len(words) == 3 else b"")
            if place is not None:
                devices.setdefault(words[0], [None] * _WIDTH)[place] = faults.number(words[-1])
    return _rows(devices, name)


def cost_rows(raw: bytes, name: DeviceNames, faults: Faults) -> TableRows:
    """Rows of the devices of io.stat that the cost model looks after, sorted by device."""
    devices: dict[bytes, list[Optional]] = {}
    device = b""
    for word in raw.split():
        key, equals, value = word.partition(b"=")
        if not equals and b":" in word:
            device = word
        elif device and (place := _COSTS.get(key)) is not None:
            devices.setdefault(device, [None] * _WIDTH)[place] = faults.number(value, _NS_PER_US)
    return _rows(devices, name)


def _rows(devices: Mapping[bytes, Sequence[Optional]], name: DeviceNames) -> TableRows:
    return tuple(sorted((name(device.decode("ascii", "replace")), *row) for device, row in devices.items()))


class DiskIoExtReader:
    """Rows of one container; None while nothing counts for it."""

    __slots__ = ("_collector", "_folder", "_is_host")

    def __init__(self, collector: "DiskIoExtCollector", folder: CgroupFolder, is_host: bool) -> None:
        self._collector = collector
        self._folder = folder
        self._is_host = is_host

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        if self._is_host:
            self._collector.look()
        return (self._collector.rows(self._folder) or None,)

    def close(self) -> None: ...


class DiskIoExtCollector(Faulty):
    """Table `disk_io_ext`: times, merges and queue of v1's schedulers, or what v2's cost model charges."""

    Config = DiskIoExtConfig
    groups = ("diskIO",)
    metrics: tuple[str, ...] = ()
    tables = ("disk_io_ext",)
    is_slow = True

    def __init__(self, config: DiskIoExtConfig) -> None:
        self._mounts = mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()
        self._name = BlockDevices(config.sys, config.proc).name
        self._v1 = mounts.v1.get("blkio")
        is_unified = mounts.mode is Mode.V2 or mounts.lives_in_unified("blkio")
        self._unified = mounts.unified if self._v1 is None and is_unified else None
        self._policies: tuple[tuple[str, ...], ...] = ()
        self._has_cost = False
        self.look()

    def look(self) -> None:
        """Finds out what this kernel counts now: a scheduler may be loaded later, the cost model switched on."""
        try:
            if self._v1 is not None:
                self._policies = policies(p.name for p in self._v1.iterdir())
            elif self._unified is not None:
                qos = (self._unified / "io.cost.qos").read_bytes().split()
                self._has_cost = b"enable=1" in qos
        except OSError:
            return  # no such file, no such model

    def reader(self, container: Container) -> DiskIoExtReader:
        """NoData: nothing counts here. FileNotFoundError: no directory there (yet)."""
        if self._v1 is None and self._unified is None:
            raise NoData("no hierarchy with the controller blkio or io is mounted")
        # the host's reader is always there: it is the one that looks
        if not container.is_host and not self._policies and not self._has_cost:
            raise NoData("no I/O scheduler counts times here" if self._v1 else "the I/O cost model is off (io.cost.qos)")
        controller = "blkio" if self._v1 is not None else "io"
        return DiskIoExtReader(self, CgroupFolder(self._mounts, controller, container, self._faults), container.is_host)

    def rows(self, folder: CgroupFolder) -> TableRows:
        """Rows of the first policy that has entries, or of the cost model."""
        for files in self._policies:
            if rows := blkio_rows(folder.read(files), self._name, self._faults):
                return rows
        if self._has_cost and (raw := folder.read(("io.stat",))[0]) is not None:
            return cost_rows(raw, self._name, self._faults)
        return ()
