"""Traffic of the host's block devices, from /proc/diskstats (Documentation/admin-guide/iostats.rst). No privileges.

Whole disks only, whatever their driver (sd, vd, nvme, mmc, dm, md ...): the counters of a partition are part of its disk's.
"""

from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from tidegauge.collectors.host_file import HostFile, number
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.records import Container, TableRow, TableRows, Values

_SECTOR = 512
"""Bytes of a sector in this file, whatever the device's own sector size."""
_MS = 1_000_000
_FIELDS = (
    (3, 1),
    (4, 1),
    (5, _SECTOR),
    (6, _MS),
    (7, 1),
    (8, 1),
    (9, _SECTOR),
    (10, _MS),
    (11, 1),
    (12, _MS),
    (13, _MS),
    (14, 1),
    (16, _SECTOR),
)
"""(place in the line, factor) of each metric of table `host_disk`, in its order."""


class DiskstatsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")
    exclude: tuple[str, ...] = ("loop*", "ram*")
    """Shell patterns of devices that are left out."""


def parse(text: bytes, exclude: tuple[str, ...] = ()) -> TableRows:
    """A row for each whole disk in the kernel's order; discards are None before Linux 4.18. CollectError for a bad line."""
    rows: list[TableRow] = []
    disk = ""
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if len(words) < 14:
            raise CollectError(f"diskstats: expected 14 or more fields, got {line[:80]!r}")
        name = words[2].decode("utf-8", "replace")
        if _is_partition(name, disk):
            continue
        disk = name
        if not any(fnmatchcase(name, pattern) for pattern in exclude):
            rows.append((name, *(number(words[i], f"diskstats: {name}", k) if i < len(words) else None for i, k in _FIELDS)))
    return tuple(rows)


def _is_partition(name: str, disk: str) -> bool:
    """True if `name` is a partition of `disk`, the whole disk last seen.

    A disk's partitions follow it, named `sda1`, or `nvme0n1p1` where the disk's name ends in a digit (kernel
    block/genhd.c). So `md10` is not a part of `md1`, and an `xvda1` without an `xvda` before it is a disk.
    """
    if not disk or not name.startswith(disk):
        return False
    rest = name[len(disk) :]
    if disk[-1].isdigit():
        return rest[:1] == "p" and rest[1:].isdigit()
    return rest.isdigit()


class DiskstatsReader:
    def __init__(self, path: Path, exclude: tuple[str, ...]) -> None:
        self._file = HostFile(path)
        self._exclude = exclude
        self._text: bytes | None = None
        self._rows: TableRows | None = None

    def read(self) -> Values:
        text = self._file.read()
        if text != self._text:
            # Equal text, as in every quiet second, means equal rows: most of the cost is in the parsing.
            self._text = self._rows = None
            self._rows = parse(text, self._exclude)
            self._text = text
        return ()

    def read_tables(self) -> tuple[TableRows | None, ...]:
        return (self._rows,)

    def close(self) -> None:
        self._file.close()


class DiskstatsCollector:
    """Table `host_disk`: requests, bytes and times of each block device, loop and RAM devices left out by default."""

    Config = DiskstatsConfig
    groups = ("host",)
    metrics = ()
    tables = ("host_disk",)

    def __init__(self, config: DiskstatsConfig) -> None:
        self._path = config.proc / "diskstats"
        self._exclude = config.exclude

    def reader(self, container: Container) -> DiskstatsReader | None:
        return DiskstatsReader(self._path, self._exclude) if container.is_host else None
