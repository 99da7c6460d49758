"""Performance counters of the kernel and the CPU for each container, from perf_event_open(2).

Source: perf_event_open(2). Privileges: CAP_PERFMON, root, or kernel.perf_event_paranoid of 0 or less. One descriptor for each
container, event and CPU counts in the kernel all the time, so their number is bounded.
"""

import errno
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegauge.collectors._cgroup_folder import CgroupFolder
from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._perf_syscall import (
    EVENT_NAMES,
    Counted,
    PerfEvent,
    event,
    is_known_machine,
    open_event,
    read_event,
)
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import MAX_INT, Container, TableRow, TableRows

_REFUSED = (errno.EACCES, errno.EPERM)
_NO_SUCH_EVENT = (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENXIO)


class PerfEventConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    events: tuple[str, ...] = ("cycles", "instructions", "context-switches", "cpu-migrations")
    """Names as `perf list` has them, or `rHEX` for a number of the CPU's own."""
    max_descriptors: int = 4096
    """Descriptors to have open at most, and never more than a quarter of the limit of open files."""

    def __post_init__(self) -> None:
        for name in self.events:
            if event(name) is None:
                raise ValueError(f"events: expected some of {', '.join(EVENT_NAMES)} or rHEX, got {name!r}")
        if len(set(self.events)) != len(self.events):
            raise ValueError("events: expected each once")
        if self.max_descriptors < 1:
            raise ValueError(f"max_descriptors: expected 1 or more, got {self.max_descriptors}")


def online_cpus(text: str) -> tuple[int, ...]:
    """CPUs of a list such as `0-3,8`."""
    out: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            out.extend(range(int(first), int(last or first) + 1))
    return tuple(out)


class ScaledCount:
    """A count that only grows, of one event over all CPUs, made from what its descriptors say.

    Where the CPU has too few counters each event is counted a part of the time. What is added between two readings is scaled
    up by that span's own share: scaling the whole count by the share of the whole time would make it fall now and then.
    """

    __slots__ = ("_last", "_total", "ratio")

    def __init__(self) -> None:
        self._total = 0.0
        self._last: dict[int, Counted] = {}
        self.ratio: float | None = None
        """Share of the time since the last reading in which it was counted, the least of all CPUs; None: it did not run."""

    @property
    def count(self) -> int:
        return min(int(self._total), MAX_INT)

    def update(self, readings: Sequence[tuple[int, Counted]]) -> None:
        """Takes one reading: (CPU, what its descriptor says). A CPU that is missing from now on begins anew."""
        kept: dict[int, Counted] = {}
        ratios: list[float] = []
        for cpu, now in readings:
            last = self._last.get(cpu, Counted(0, 0, 0))
            enabled, running = now.enabled_ns - last.enabled_ns, now.running_ns - last.running_ns
            if enabled > 0:
                ratios.append(min(1.0, max(0, running) / enabled))
            if enabled > 0 and running <= 0:
                kept[cpu] = last  # not counted at all: the next span covers this one too
                continue
            share = enabled / running if enabled > running > 0 else 1.0
            self._total += max(0, now.value - last.value) * share
            kept[cpu] = now
        self._last = kept
        self.ratio = min(ratios, default=None)


class PerfEventReader:
    """Rows of one container, one an event that this machine has."""

    __slots__ = ("_collector", "_counts", "_cpus", "_fds", "_folder")

    def __init__(self, collector: "PerfEventCollector", folder: CgroupFolder | None) -> None:
        """`folder`: None for the host. Opens nothing yet."""
        self._collector = collector
        self._folder = folder
        self._cpus: tuple[int, ...] = ()
        self._fds: dict[tuple[str, int], int] = {}
        self._counts = {name: ScaledCount() for name in collector.events}

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        cpus = self._collector.online()
        if cpus != self._cpus:
            folder = None if self._folder is None else self._folder.open()
            try:
                self._follow(cpus, folder)
            finally:
                if folder is not None:
                    os.close(folder)
        rows: list[TableRow] = []
        for name, count in self._counts.items():
            readings = [(cpu, read_event(fd)) for (n, cpu), fd in self._fds.items() if n == name]
            count.update([(cpu, said) for cpu, said in readings if said is not None])
            rows.append((name, count.count, count.ratio))
        return (tuple(rows),)

    def close(self) -> None:
        self._collector.closed(len(self._fds))
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._cpus = ()

    def _follow(self, cpus: tuple[int, ...], folder: int | None) -> None:
        """Opens what is missing for these CPUs and closes what is for others. What was counted on those stays counted."""
        for key in [k for k in self._fds if k[1] not in cpus]:
            self._collector.closed(1)
            os.close(self._fds.pop(key))
        wanted = [(name, cpu) for cpu in cpus for name in self._counts if (name, cpu) not in self._fds]
        self._collector.claim(len(wanted))
        opened = 0
        try:
            for name, cpu in wanted:
                fd = self._collector.open(self._collector.events[name], cpu, folder)
                if fd is not None:
                    self._fds[name, cpu] = fd
                    opened += 1
        except BaseException:
            self._collector.closed(len(wanted) - opened)
            self.close()
            raise
        self._collector.closed(len(wanted) - opened)
        self._cpus = cpus


class PerfEventCollector(Faulty):
    """Table `perf`: count and share of the time counted of each configured event, summed over CPUs, since it was first read.

    Child cgroups count too. An event that this CPU or kernel does not have is left out, which `complaint` says.
    """

    Config = PerfEventConfig
    groups = ("perf_event",)
    metrics: tuple[str, ...] = ()
    tables = ("perf",)
    is_slow = True

    def __init__(self, config: PerfEventConfig) -> None:
        self._config = config
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()
        self._online = config.sys / "devices/system/cpu/online"
        self._limit = min(config.max_descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._open = 0
        self._complaints: dict[str, str] = {}
        self._refused: str | None = None
        self.events: dict[str, PerfEvent] = {}
        """Those of the configuration that are there."""

    def reader(self, container: Container) -> PerfEventReader:
        """NoData: not on this kernel, not for this user, or no descriptors left. FileNotFoundError: no directory (yet)."""
        if not self.events:
            self._try_events()
        folder = None if container.is_host else CgroupFolder(self._mounts, "perf_event", container, self._faults)
        reader = PerfEventReader(self, folder)
        reader.read_tables()
        return reader

    def complaint(self) -> str | None:
        return "; ".join(self._complaints.values()) or self._faults.first_unreadable

    def online(self) -> tuple[int, ...]:
        """CPUs that run now. CollectError if the kernel does not tell."""
        try:
            cpus = online_cpus(self._online.read_text())
        except OSError as exc:
            raise CollectError(f"{self._online}: {exc.strerror}") from exc
        if not cpus:
            raise CollectError(f"{self._online}: names no CPU")
        return cpus

    def claim(self, number: int) -> None:
        """Takes descriptors out of the bound. NoData if there are not so many left."""
        if self._open + number > self._limit:
            text = f"more than {self._limit} descriptors would be needed, so some containers have no perf events"
            self._complaints["bound"] = f"{text} (max_descriptors, limit of open files)"
            raise NoData(text)
        self._open += number

    def closed(self, number: int) -> None:
        """Gives descriptors back to the bound."""
        self._open -= number

    def open(self, wanted: PerfEvent, cpu: int, folder: int | None) -> int | None:
        """A descriptor; None if the CPU went offline meanwhile."""
        try:
            return open_event(wanted, cpu, folder)
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return None
            if exc.errno in _REFUSED:
                raise NoData(self._refusal(exc)) from exc
            if exc.errno in (errno.ENOENT, errno.EBADF) and folder is not None:
                # the directory is none of perf_event's hierarchy: that is mounted where we do not see it
                raise NoData("the hierarchy of perf_event is not the one that is mounted here") from exc
            raise CollectError(f"perf_event_open: {exc.strerror}") from exc

    def _try_events(self) -> None:
        """Finds out which events there are, on one CPU for all processes. NoData if there is none, or we may not ask."""
        if self._refused is not None:
            raise NoData(self._refused)
        if not is_known_machine():
            raise NoData("perf_event_open: its number is not known for this CPU")
        cpu = self.online()[0]
        found: dict[str, PerfEvent] = {}
        missing: list[str] = []
        for name in self._config.events:
            wanted = event(name)
            assert wanted is not None
            try:
                os.close(open_event(wanted, cpu, None))
                found[name] = wanted
            except OSError as exc:
                if exc.errno in _REFUSED or exc.errno == errno.ENOSYS:
                    self._refused = self._refusal(exc)
                    raise NoData(self._refused) from exc
                if exc.errno not in _NO_SUCH_EVENT:
                    raise CollectError(f"perf_event_open: {exc.strerror}") from exc
                missing.append(name)
        if missing:
            self._complaints["missing"] = f"this CPU or kernel does not have the events {', '.join(missing)}"
        if not found:
            self._refused = f"none of the events {', '.join(self._config.events)} is there"
            raise NoData(self._refused)
        self.events = found

    def _refusal(self, exc: OSError) -> str:
        if exc.errno == errno.ENOSYS:
            return "perf_event_open: not in this kernel, or forbidden by seccomp rules"
        try:
            paranoid = (self._config.proc / "sys/kernel/perf_event_paranoid").read_text().strip()
        except OSError:
            paranoid = "unknown"
        return f"perf_event_open: {exc.strerror}: needs CAP_PERFMON or root (kernel.perf_event_paranoid is {paranoid})"
