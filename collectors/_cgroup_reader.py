"""Reads one container's cgroup files: kept descriptors, `pread`, and parsing only of what changed.

The figures behind it: opening for each read costs four times as much; most files of most containers read the same as last
time, and comparing bytes costs a twentieth of parsing them; a read size that fits saves an allocation of 8 KiB a file.
"""

import errno
import os
from collections.abc import Callable, Iterable, Sequence, Set
from enum import Enum, auto
from operator import itemgetter
from typing import NamedTuple

from tidegauge.collectors._kernel_text import Faults, Parser, percpu_rows
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.records import TableRows, Value, Values

METRICS = (
    "cpu_usage_ns",
    "cpu_user_ns",
    "cpu_system_ns",
    "cpu_periods",
    "cpu_throttled_periods",
    "cpu_throttled_ns",
    "cpu_burst_periods",
    "cpu_burst_ns",
    "memory_usage_bytes",
    "memory_max_usage_bytes",
    "memory_working_set_bytes",
    "memory_reclaim_scanned_pages",
    "memory_reclaimed_pages",
    "memory_kernel_bytes",
    "memory_rss_bytes",
    "memory_cache_bytes",
    "memory_mapped_file_bytes",
    "memory_active_file_bytes",
    "memory_inactive_file_bytes",
    "memory_page_faults",
    "memory_major_page_faults",
    "memory_dirty_bytes",
    "memory_writeback_bytes",
    "memory_refaulted_file_pages",
    "memory_refaulted_anon_pages",
    "memory_swap_bytes",
    "memory_limit_bytes",
    "memory_high_events",
    "memory_failures",
    "memory_oom_kills",
    "pids_current",
    "pids_limit",
    "cpu_pressure_some_ns",
    "cpu_pressure_full_ns",
    "memory_pressure_some_ns",
    "memory_pressure_full_ns",
    "io_pressure_some_ns",
    "io_pressure_full_ns",
)
"""Order of the values. What one kernel file gives on v1 or v2 stands side by side."""

USAGE = METRICS.index("memory_usage_bytes")
WORKING_SET = METRICS.index("memory_working_set_bytes")
RSS = METRICS.index("memory_rss_bytes")
CACHE = METRICS.index("memory_cache_bytes")
INACTIVE_FILE = METRICS.index("memory_inactive_file_bytes")

_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR)
_NOT_OFFERED = (*_GONE, errno.EOPNOTSUPP, errno.EINVAL)
"""EOPNOTSUPP: files of a threaded cgroup, pressure when switched off. EINVAL: some v1 files."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)
_FIRST_SIZE = 16384
_pread = os.pread


class Table(Enum):
    """What a file holds that is not one of METRICS."""

    PERCPU = auto()
    DISK = auto()
    DISK_CANDIDATE = auto()
    """Size file of a blkio group that has no entries yet; the first change makes the reader choose again."""


class File(NamedTuple):
    """One kernel file: its name in the directory and what its bytes give. Shared by all readers of a collector."""

    name: str
    start: int = 0
    stop: int = 0
    """The values METRICS[start:stop] come from this file."""
    parse: Parser | None = None
    table: Table | None = None


def file(name: str, first: str, last: str, parse: Parser) -> File:
    """A File that gives the metrics from `first` to `last`."""
    return File(name, METRICS.index(first), METRICS.index(last) + 1, parse)


DiskRows = Callable[[Sequence[bytes]], TableRows]
"""Rows of the table disk_io from the bytes of the files that hold it."""


class Disk(NamedTuple):
    """Where a cgroup's block I/O is: the first group whose first file has entries counts."""

    groups: tuple[tuple[str, ...], ...]
    rows: DiskRows


class Place(NamedTuple):
    """A directory of the container and the files to read there."""

    directory: str
    files: tuple[File, ...]
    disk: Disk | None = None


class Selection:
    """What of METRICS and of the tables is collected: the groups that are on."""

    def __init__(self, groups: Set[str], tables: Sequence[str]) -> None:
        """`tables` are those that the collector can give, in order."""
        catalogue = Catalogue()
        self._is_on = [catalogue[name].group in groups for name in METRICS]
        self.metrics = tuple(name for name, is_on in zip(METRICS, self._is_on, strict=True) if is_on)
        self.tables = tuple(t for t in tables if catalogue.of_table(t)[0].group in groups)
        places = [i for i, is_on in enumerate(self._is_on) if is_on]
        self.pick: Callable[[Sequence[Value]], Values] = tuple
        """Values of METRICS -> those that are collected."""
        if len(places) < len(METRICS):
            self.pick = itemgetter(*places) if len(places) > 1 else lambda values: tuple(values[i] for i in places)

    def files(self, files: Iterable[File]) -> tuple[File, ...]:
        """Those that give something of what is collected; the first always, as its counter may serve as the probe."""
        return tuple(f for i, f in enumerate(files) if not i or self._is_wanted(f))

    def _is_wanted(self, file: File) -> bool:
        return "percpu" in self.tables if file.table is Table.PERCPU else any(self._is_on[file.start : file.stop])


class CgroupReader:
    """Values of the selected METRICS, rows of disk_io (and percpu) for one container.

    The first file of the first place is the probe's: it is read before all others, and its descriptor stays open as long as
    the reader, so that a directory made anew under the same name is not taken for this container. Sampling thread only.
    """

    __slots__ = (
        "_current",
        "_disk",
        "_disk_group",
        "_faults",
        "_files",
        "_places",
        "_plan",
        "_probe_fd",
        "_probe_raw",
        "_probe_scale",
        "_probe_value",
        "_raws",
        "_selection",
        "_tables",
        "_usage_from_stat",
        "_values",
    )

    def __init__(
        self,
        places: Sequence[Place],
        faults: Faults,
        selection: Selection,
        *,
        usage_from_stat: bool = False,
    ) -> None:
        """Opens the probe's file alone: the first that can be opened. FileNotFoundError if there is none.

        `usage_from_stat`: memory usage is anon + file, as the v2 root has no memory.current.
        """
        self._places = list(places)
        self._faults = faults
        self._selection = selection
        self._usage_from_stat = usage_from_stat
        self._current: list[Value] = [None] * len(METRICS)
        self._values: Values = selection.pick(self._current)
        self._tables: tuple[TableRows | None, ...] = (None,) * len(selection.tables)
        self._files: list[File] = []
        self._plan: list[tuple[int, int]] | None = None
        self._raws: list[bytes] = []
        self._disk: Disk | None = None
        self._disk_group = -1
        self._probe_fd = -1
        self._probe_raw = b""
        self._probe_value = 0
        self._open_probe()

    def probe(self) -> int:
        """The CPU usage counter in ns; memory usage or the number of tasks where no CPU controller is mounted.

        FileNotFoundError when the container is gone. 0 if the file holds no number.
        """
        try:
            raw = _pread(self._probe_fd, 40, 0)
        except OSError as exc:
            raise _failure(exc, self._places[0]) from exc
        if raw != self._probe_raw:
            word = raw.split(None, 2)[1 if self._probe_scale > 1 else 0 :][:1]
            self._probe_value = int(word[0]) * self._probe_scale if word and word[0].isdigit() else 0
            self._probe_raw = raw
        return self._probe_value

    def read(self) -> Values:
        """Values of the selected METRICS, the CPU usage counter read first. FileNotFoundError when the container is gone."""
        if self._plan is None:
            raws = self._open()
        else:
            try:
                raws = [_pread(fd, size, 0) for fd, size in self._plan]
            except OSError:
                raws = self._read_one_by_one()
        if raws != self._raws:
            self._update(raws)
        return self._values

    def read_tables(self) -> tuple[TableRows | None, ...]:
        """Rows of the selected tables, as of the last `read`."""
        return self._tables

    def park(self) -> None:
        """Closes every descriptor but the probe's."""
        if self._plan is not None:
            for fd, _ in self._plan[1:]:
                os.close(fd)
            self._plan = None
        self._raws = []

    def close(self) -> None:
        self.park()
        if self._probe_fd >= 0:
            os.close(self._probe_fd)
            self._probe_fd = -1

    def _open_probe(self) -> None:
        where, files, disk = self._places[0]
        for number, file in enumerate(files):
            path = f"{where}/{file.name}"
            try:
                self._probe_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as exc:
                if exc.errno in _EXHAUSTED:
                    raise CollectError(f"{path}: {exc.strerror}") from exc
                if exc.errno not in _GONE:
                    self._faults.unreadable(path, exc)
                continue
            self._places[0] = Place(where, files[number:], disk)
            self._probe_scale = 1000 if file.name == "cpu.stat" else 1
            return
        raise FileNotFoundError(errno.ENOENT, "no counter can be read", where)

    def _open(self) -> list[bytes]:
        """Opens and reads every file that is there, the probe's first."""
        if self._probe_fd < 0:
            raise CollectError("a closed cgroup reader was read")
        raws: list[bytes] = []
        self._files, self._plan = [], []
        self._current = [None] * len(METRICS)
        self._disk = None
        try:
            for number, place in enumerate(self._places):
                for file in place.files:
                    is_probe = not number and file is place.files[0]
                    self._add(place.directory, file, raws, self._probe_fd if is_probe else -1)
                if place.disk is not None:
                    self._add_disk(place.directory, place.disk, raws)
            # still there now: so what was opened above by name is this container's and not a successor's
            _pread(self._probe_fd, 1, 0)
        except OSError as exc:
            self.park()
            raise _failure(exc, self._places[0]) from exc
        self._tables = (None,) * len(self._selection.tables)
        return raws

    def _add(self, directory: str, file: File, raws: list[bytes], fd: int = -1) -> bytes | None:
        """Opens and reads one file; None, and nothing is kept, if it is not offered or not readable here."""
        assert self._plan is not None
        is_probe = fd >= 0
        path = f"{directory}/{file.name}"
        try:
            if not is_probe:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            raw, size = _read_all(fd, _FIRST_SIZE)
        except OSError as exc:
            if is_probe or exc.errno in _EXHAUSTED:
                raise
            if fd >= 0:
                os.close(fd)
            if exc.errno not in _NOT_OFFERED:
                self._faults.unreadable(path, exc)
            return None
        self._files.append(file)
        self._plan.append((fd, size))
        raws.append(raw)
        return raw

    def _add_disk(self, directory: str, disk: Disk, raws: list[bytes]) -> None:
        """Takes the first group of files with entries, and stays with it; the first file of each while none has any."""
        assert self._plan is not None
        group_numbers = range(len(disk.groups)) if self._disk_group < 0 else (self._disk_group,)
        start = len(self._plan)
        for number in group_numbers:
            names = disk.groups[number]
            raw = self._add(directory, File(names[0], table=Table.DISK_CANDIDATE), raws)
            if raw is None:
                continue
            self._disk = disk
            if b":" in raw:
                for fd, _ in self._plan[start:-1]:
                    os.close(fd)
                del self._files[start:], self._plan[start:-1], raws[start:-1]
                self._files.append(File(names[0], table=Table.DISK))
                for name in names[1:]:
                    self._add(directory, File(name, table=Table.DISK), raws)
                self._disk_group = number
                return

    def _read_one_by_one(self) -> list[bytes]:
        """What can still be read after a failure. A directory of one v1 hierarchy may go before the others."""
        assert self._plan is not None
        raws: list[bytes] = []
        kept: list[int] = []
        for i, (fd, size) in enumerate(self._plan):
            try:
                raws.append(_pread(fd, size, 0))
            except OSError as exc:
                if i == 0 or (exc.errno in _GONE and len(self._places) == 1):
                    raise _failure(exc, self._places[0]) from exc
                if exc.errno not in _NOT_OFFERED:
                    self._faults.unreadable(f"{self._places[0].directory}: {self._files[i].name}", exc)
                os.close(fd)
            else:
                kept.append(i)
        self._files = [self._files[i] for i in kept]
        self._plan = [self._plan[i] for i in kept]
        self._raws = []
        self._current = [None] * len(METRICS)
        self._tables = (None,) * len(self._selection.tables)
        return raws

    def _update(self, raws: list[bytes]) -> None:
        """Parses what changed since the last read and makes the values anew."""
        assert self._plan is not None
        current, plan, last = self._current, self._plan, self._raws
        is_first = not last
        is_disk_changed = False
        percpu: bytes | None = None
        for i, raw in enumerate(raws):
            if not is_first and raw == last[i]:
                continue
            if len(raw) >= plan[i][1]:
                fd = plan[i][0]
                raws[i], size = _read_all(fd, 2 * len(raw))
                plan[i] = (fd, size)
                raw = raws[i]
            file = self._files[i]
            if file.parse is not None:
                current[file.start : file.stop] = file.parse(raw)
            elif file.table is Table.PERCPU:
                percpu = raw
            elif file.table is Table.DISK_CANDIDATE and not is_first:
                self.park()
                self._update(self._open())
                return
            else:
                is_disk_changed = True
        self._raws = raws
        if self._usage_from_stat:
            current[USAGE] = _sum(current[RSS], current[CACHE])
        usage, inactive = current[USAGE], current[INACTIVE_FILE]
        current[WORKING_SET] = None if usage is None or inactive is None else max(0, usage - inactive)
        self._values = self._selection.pick(current)
        if is_disk_changed or percpu is not None:
            self._update_tables(raws, is_disk_changed, percpu)

    def _update_tables(self, raws: list[bytes], is_disk_changed: bool, percpu: bytes | None) -> None:
        rows = dict(zip(self._selection.tables, self._tables, strict=True))
        if is_disk_changed and self._disk is not None:
            rows["disk_io"] = self._disk.rows([raw for f, raw in zip(self._files, raws, strict=True) if f.table is Table.DISK])
        if percpu is not None:
            rows["percpu"] = percpu_rows(percpu, self._faults)
        self._tables = tuple(rows.values())


def _sum(a: Value, b: Value) -> Value:
    return None if a is None or b is None else a + b


def _read_all(fd: int, size: int) -> tuple[bytes, int]:
    """The whole file and a read size with some room for it to grow."""
    while len(raw := _pread(fd, size, 0)) >= size:
        size *= 2
    return raw, len(raw) + len(raw) // 8 + 16


def _failure(exc: OSError, place: Place) -> Exception:
    """What a failed read of the container means: that it is gone, or that something is wrong."""
    if exc.errno in _GONE:
        return FileNotFoundError(exc.errno, "the cgroup is gone", place.directory)
    return CollectError(f"{place.directory}: {exc.strerror}")
