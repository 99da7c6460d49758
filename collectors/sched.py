"""Time that a container's threads ran, and waited for a CPU.

Source: PROC/TID/schedstat of the threads in cgroup.threads (v1: tasks) (kernel scheduler/sched-stats.rst); of the host
PROC/schedstat, which needs CONFIG_SCHEDSTATS. Privileges: none. PROC/PID/schedstat is that of a process's first thread alone,
so threads are read one by one.
"""

import os
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._members import read_file, start_ticks, threads
from tidegauge.collectors.cgroup_paths import CgroupMounts, find_mounts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import Container, Values
from tidegauge.pipeline.sampler_config import Seconds

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Times = tuple[int, int, int]
"""ns on a CPU, ns ready and waiting for one, times put on one."""


class SchedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    interval_s: Seconds | None = None
    """Seconds between two readings; without it as `sampler.slow_interval_s` says."""


def parse_schedstat(raw: bytes, faults: Faults) -> Times | None:
    """The three figures of a thread; None for anything else."""
    words = raw.split()
    if len(words) != 3:
        return None
    run, wait, slices = (faults.number(word) for word in words)
    return None if run is None or wait is None or slices is None else (run, wait, slices)


def parse_host_schedstat(raw: bytes, faults: Faults) -> Times | None:
    """Sums over the CPUs of PROC/schedstat, since boot; None if it names no CPU. Its last three figures are wanted."""
    sums = [0, 0, 0]
    has_cpu = False
    for line in raw.split(b"\n"):
        words = line.split()
        if len(words) == 10 and words[0].startswith(b"cpu"):
            has_cpu = True
            for place, word in enumerate(words[7:]):
                sums[place] += faults.number(word) or 0
    return (sums[0], sums[1], sums[2]) if has_cpu else None


def uptime_ticks(raw: bytes) -> int | None:
    """Ticks since boot of PROC/uptime."""
    seconds = raw.partition(b" ")[0]
    return int(float(seconds) * _TICKS_PER_S) if seconds.replace(b".", b"", 1).isdigit() else None


class Ledger:
    """Adds up what threads used, so that the sums never fall: those that end leave what was last seen of them."""

    def __init__(self) -> None:
        self._threads: dict[int, tuple[int | None, Times]] = {}
        self._sums = [0, 0, 0]

    def last(self, tid: int) -> Times | None:
        found = self._threads.get(tid)
        return None if found is None else found[1]

    def saw(self, tid: int, start: int | None, times: Times, before: int | None) -> None:
        """Enters the figures of a thread that began at `start`: with another start the number is another thread's.

        One that is new and began before the reading `before` (ticks since boot) came from another container, or was here
        already and is back: it counts from now on. Without such a time it counts from its start.
        """
        known_start, known = self._threads.get(tid, (None, None))
        if known is None or start != known_start or any(new < old for new, old in zip(times, known, strict=True)):
            came = start is not None and before is not None and start < before
            known = times if came else (0, 0, 0)
        for place in range(3):
            self._sums[place] += times[place] - known[place]
        self._threads[tid] = (start, times)

    def keep(self, tids: set[int]) -> None:
        """Forgets threads that are not there any more, but not what they used."""
        for tid in self._threads.keys() - tids:
            del self._threads[tid]

    @property
    def sums(self) -> Times:
        run, wait, slices = self._sums
        return run, wait, slices


class SchedReader:
    """One container's own threads, without its children's."""

    def __init__(self, mounts: CgroupMounts, path: str, proc: str, faults: Faults) -> None:
        self._mounts = mounts
        self._path = path
        self._proc = proc
        self._faults = faults
        self._ledger = Ledger()
        self._has_seen = False
        self._read_at: int | None = None
        """Time of the last reading, in ticks since boot as PROC/uptime has it."""

    def read(self) -> Values:
        """None until a thread was seen, and while the threads that there are cannot be seen."""
        tids = threads(self._mounts, self._path, self._faults)
        if tids is None:
            return None, None, None
        now = uptime_ticks(self._read("uptime"))  # before the threads: what begins meanwhile counts in full at the next reading
        seen = sum(self._look(tid) for tid in tids if tid)
        if tids and not seen:
            return None, None, None
        self._ledger.keep(set(tids))
        self._read_at = now
        self._has_seen = self._has_seen or bool(seen)
        return self._ledger.sums if self._has_seen else (None, None, None)

    def close(self) -> None: ...

    def _look(self, tid: int) -> bool:
        times = parse_schedstat(self._read(f"{tid}/schedstat"), self._faults)
        if times is None:
            return False
        if times != self._ledger.last(tid):  # the same to the nanosecond is the same thread, and it did not run
            self._ledger.saw(tid, start_ticks(self._read(f"{tid}/stat")), times, self._read_at)
        return True

    def _read(self, name: str) -> bytes:
        file = f"{self._proc}/{name}"
        try:
            return read_file(file) or b""
        except OSError as exc:
            self._faults.unreadable(file, exc)
            return b""


class HostSchedReader:
    """The whole host's."""

    def __init__(self, file: Path, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    def read(self) -> Values:
        return parse_host_schedstat(self._file.read_bytes(), self._faults) or (None, None, None)

    def close(self) -> None: ...


class SchedCollector(Faulty):
    """Three counters. A container's begin anew with each start of the agent, which saw nothing of what ended before."""

    Config = SchedConfig
    groups = ("sched",)
    metrics = ("cpu_schedstat_run_ns", "cpu_schedstat_wait_ns", "cpu_schedstat_slices")
    is_slow = True

    def __init__(self, config: SchedConfig) -> None:
        self.interval_s = config.interval_s
        self._proc = config.proc
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()

    def reader(self, container: Container) -> SchedReader | HostSchedReader:
        """A reader for any container. NoData: no cgroups; of the host, that its kernel does not count."""
        if container.is_host:
            if not (file := self._proc / "schedstat").exists():
                raise NoData(f"{file} does not exist")
            return HostSchedReader(file, self._faults)
        if not self._mounts.hierarchies():
            raise NoData("no cgroup hierarchy is mounted")
        return SchedReader(self._mounts, container.path, str(self._proc), self._faults)
