"""Real cgroups for benchmarks, each with a small process in it, some of them busy.

Needs root. They lie below `/tidegauge-bench-PID` in every hierarchy that has values for us, and go at the end, or at the next
start if a run was killed (the processes end with their parent).
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.native import build

_PREFIX = "tidegauge-bench-"
TOP = f"{_PREFIX}{os.getpid()}"
_CGROUP = Path("/sys/fs/cgroup")
_V1 = ("cpuacct", "cpu", "memory", "blkio", "pids")
_V1_LIMIT = "blkio.throttle.write_bps_device"
_V2 = ("cpu", "memory", "io", "pids")


def hierarchies(more: Sequence[str] = ()) -> list[Path]:
    """Mount points to make cgroups in: the one of v2, or those of the v1 controllers and of `more`, joint ones once."""
    if (_CGROUP / "cgroup.controllers").exists():
        return [_CGROUP]
    return list(dict.fromkeys((_CGROUP / c).resolve() for c in (*_V1, *more) if (_CGROUP / c).is_dir()))


class Cgroups:
    """`count` cgroups with a process each; a context manager that takes them away."""

    def __init__(self, count: int, folder: Path, *, has_network: bool = False, more: Sequence[str] = ()) -> None:
        """`has_network`: each has a network namespace of its own. `more`: controllers besides the usual ones."""
        self.paths: Sequence[str] = [f"/{TOP}/c{i:04d}" for i in range(count)]
        self.pids: list[int] = []
        self._folder = folder
        self._has_network = has_network
        self._processes: list[subprocess.Popen[bytes]] = []
        self._roots = hierarchies(more)
        self._controllers = (*_V2, *more)
        self._is_v2 = self._roots == [_CGROUP]

    def __enter__(self) -> Self:
        self._remove()
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def busy(self, count: int) -> None:
        """Makes the first `count` of them busy and the others idle."""
        for i, process in enumerate(self._processes):
            process.send_signal(signal.SIGUSR1 if i < count else signal.SIGUSR2)

    def signal_one(self, index: int, is_busy: bool) -> None:
        """Makes one busy or idle."""
        self._processes[index].send_signal(signal.SIGUSR1 if is_busy else signal.SIGUSR2)

    def _make(self) -> None:
        cell = str(build("cell", self._folder))
        for root in self._roots:
            (root / TOP).mkdir(exist_ok=True)
            if self._is_v2:
                for parent in (root, root / TOP):
                    for controller in self._controllers:
                        _try_write(parent / "cgroup.subtree_control", f"+{controller}")
            # without these no process may join, and with clone_children the cgroups below take them over
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (root / name).exists():
                    _try_write(root / TOP / name, (root / name).read_text())
                    _try_write(root / TOP / "cgroup.clone_children", "1")
        # Since Linux 6.10 the v1 counters of block I/O exist only on a disk with a limit: here one that nothing reaches.
        disk = os.stat(self._folder).st_dev
        _try_write(_CGROUP / "blkio" / TOP / _V1_LIMIT, f"{os.major(disk)}:{os.minor(disk)} {1 << 50}")
        network = "own" if self._has_network else "host"
        for path in self.paths:
            process = self._start([cell, network, str(self._folder)], path)
            self._processes.append(process)
            self.pids.append(process.pid)
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"a benchmark's process did not start: status {process.wait(5)}")
            process.stdout.close()

    def _start(self, command: Sequence[str], path: str) -> "subprocess.Popen[bytes]":
        """Makes the directories of one cgroup and a process that joins it."""
        places = [f"{root}{path}" for root in self._roots]
        for place in places:
            os.mkdir(place)
        return subprocess.Popen([*command, *places], stdout=subprocess.PIPE)

    def add(self, name: str) -> "subprocess.Popen[bytes]":
        """One more, with an idle process; returns when this has joined. `remove` it before the end."""
        process = self._start([str(build("cell", self._folder)), "host", str(self._folder)], f"/{TOP}/{name}")
        assert process.stdout is not None
        with process.stdout as said:
            if said.readline() != b"ready\n":
                raise RuntimeError(f"the process of {name} did not start: status {process.wait(5)}")
        return process

    def remove(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        """Ends the process of one that was added, and takes its directories away."""
        process.kill()
        process.wait(10)
        for root in self._roots:
            _remove_one(root / TOP / name)

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()
        self._processes = []
        self._remove()

    def _remove(self) -> None:
        """Takes away our own, and those of runs that were killed."""
        for root in self._roots:
            for top in root.glob(f"{_PREFIX}*"):
                pid = top.name.removeprefix(_PREFIX).partition("-")[0]
                if top.name == TOP or (pid.isdigit() and not Path(f"/proc/{pid}").exists()):
                    for place in [p for p in top.iterdir() if p.is_dir()] + [top]:
                        _remove_one(place)


class KernelMemory:
    """A memory cgroup for one program, which tells the kernel memory charged to it; a context manager.

    That is what its descriptors, watches, threads and page tables hold, whatever else the machine does meanwhile.
    """

    def __init__(self) -> None:
        self._is_v2 = hierarchies() == [_CGROUP]
        self._place = (_CGROUP if self._is_v2 else _CGROUP / "memory") / f"{TOP}-program"

    def __enter__(self) -> Self:
        if self._place.is_dir():
            _remove_one(self._place)
        if self._is_v2:
            _try_write(_CGROUP / "cgroup.subtree_control", "+memory")
        self._place.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        _remove_one(self._place)

    def take(self, pid: int) -> None:
        """Moves a process here; its later children begin here."""
        (self._place / "cgroup.procs").write_text(str(pid))

    def bytes(self) -> int:
        if not self._is_v2:
            return int((self._place / "memory.kmem.usage_in_bytes").read_text())
        stat = dict(line.split() for line in (self._place / "memory.stat").read_text().splitlines())
        return int(stat["kernel"])

    def reclaim(self) -> None:
        """Has the kernel take back what is only cached: names and inodes of files that nobody has open."""
        if self._is_v2:
            _try_write(self._place / "memory.reclaim", "1G")  # refused when not all of it was found, which is so
        else:
            _try_write(self._place / "memory.force_empty", "1")


def _remove_one(place: Path) -> None:
    """rmdir; a cgroup stays busy for a moment after its last process has ended."""
    for _ in range(100):
        try:
            place.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{place} is still in use")


def _try_write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        pass  # a controller that this host does not offer here: the readers do without it
