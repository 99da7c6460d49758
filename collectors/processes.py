"""Processes of a container, their open files and sockets, and the limit of open files.

Source: cgroup.procs (cgroups(7)), PROC/PID/fd, PROC/PID/limits (proc(5)). Privileges: to see the files of others' processes
CAP_SYS_PTRACE, or root; without, open files and sockets are None for containers of which no process can be seen.
"""

import os
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._members import processes, read_file, start_ticks
from tidegauge.collectors.cgroup_paths import CgroupMounts, find_mounts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import UNLIMITED, Container, Value, Values
from tidegauge.pipeline.sampler_config import Seconds


class ProcessesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    interval_s: Seconds | None = None
    """Seconds between two readings; without it as `sampler.slow_interval_s` says."""


def parse_open_files_limit(raw: bytes, faults: Faults) -> tuple[Value, Value]:
    """(soft, hard) limit of open files in a `limits` of proc(5). None where it does not say."""
    _, found, rest = raw.partition(b"Max open files ")
    words = rest.split(b"\n", 1)[0].split() if found else []
    if len(words) < 2:
        return None, None
    soft, hard = (UNLIMITED if word == b"unlimited" else faults.number(word) for word in words[:2])
    return soft, hard


class ProcessesReader:
    """One container's own processes, without its children's."""

    def __init__(self, mounts: CgroupMounts, path: str, proc: str, faults: Faults) -> None:
        self._mounts = mounts
        self._path = path
        self._proc = proc
        self._faults = faults
        self._oldest: tuple[int, int] | None = None
        """Number and start; looked for anew only when it has ended or left."""

    def read(self) -> Values:
        pids = processes(self._mounts, self._path, self._proc, self._faults)
        if pids is None:
            return (None,) * 5
        known = [pid for pid in pids if pid]
        files, sockets = self._open_files(known) if pids else (0, 0)
        return (len(pids), files, sockets, *self._limits(known))

    def close(self) -> None: ...

    def _open_files(self, pids: list[int]) -> tuple[Value, Value]:
        """Sums over the processes that can be seen; None if there is not one."""
        files = sockets = seen = 0
        for pid in pids:
            folder = f"{self._proc}/{pid}/fd"
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as exc:
                if isinstance(exc, PermissionError):
                    self._faults.unreadable(folder, exc)
                continue
            try:
                names = os.listdir(fd)
                files += len(names)
                sockets += sum(_is_socket(name, fd) for name in names)
                seen += 1
            except OSError as exc:
                if isinstance(exc, PermissionError):
                    self._faults.unreadable(folder, exc)
            finally:
                os.close(fd)
        return (files, sockets) if seen else (None, None)

    def _limits(self, pids: list[int]) -> tuple[Value, Value]:
        if self._oldest is None or self._oldest[0] not in pids or self._start(self._oldest[0]) != self._oldest[1]:
            starts = [(start, pid) for pid in pids if (start := self._start(pid)) is not None]
            self._oldest = min(starts)[::-1] if starts else None
        if self._oldest is None:
            return None, None
        return parse_open_files_limit(self._read(self._oldest[0], "limits"), self._faults)

    def _start(self, pid: int) -> int | None:
        return start_ticks(self._read(pid, "stat"))

    def _read(self, pid: int, name: str) -> bytes:
        file = f"{self._proc}/{pid}/{name}"
        try:
            return read_file(file) or b""
        except OSError as exc:
            self._faults.unreadable(file, exc)
            return b""


class ProcessesCollector(Faulty):
    """Five gauges of the container's own processes; the last two are of the one that began first."""

    Config = ProcessesConfig
    groups = ("process",)
    metrics = ("process_count", "open_files", "open_sockets", "open_files_soft_limit", "open_files_hard_limit")
    is_slow = True

    def __init__(self, config: ProcessesConfig) -> None:
        self.interval_s = config.interval_s
        self._proc = str(config.proc)
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()

    def reader(self, container: Container) -> ProcessesReader:
        """A reader for any container; of `/` those in no other container. NoData: no cgroups."""
        if not self._mounts.hierarchies():
            raise NoData("no cgroup hierarchy is mounted")
        return ProcessesReader(self._mounts, container.path, self._proc, self._faults)


def _is_socket(name: str, folder: int) -> bool:
    try:
        return os.readlink(name, dir_fd=folder).startswith("socket:")
    except OSError:
        return False  # closed meanwhile
