"""Processes and threads of a container itself, from the lists in its cgroup directories.

Source: cgroups(7). A number 0 stands for one outside of our own process namespace. On v1 a process may be in cgroups of
different paths in different hierarchies: the first hierarchy, in the order of preference, that lists any at the path counts.
"""

import errno
import os
from collections.abc import Iterator

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import CgroupMounts

_THREADED = (errno.EOPNOTSUPP, errno.EINVAL)
_PROCESSES = ("cgroup.procs",)
_THREADS = ("cgroup.threads", "tasks")
"""v2, v1."""


def member_pids(mounts: CgroupMounts, path: str, faults: Faults) -> Iterator[int]:
    """Some processes of the container, those that the kernel lists first. In a threaded cgroup their threads.

    For who needs any one process: no more is read than a page.
    """
    for where in mounts.directories(path):
        for name in ("cgroup.procs", "cgroup.threads"):  # the former cannot be read in a threaded cgroup
            try:
                with open(f"{where}/{name}", "rb", buffering=0) as file:
                    words = file.read(4096).split(b"\n")[:-1]
            except OSError as exc:
                if exc.errno == errno.EACCES:
                    faults.unreadable(f"{where}/{name}", exc)
                if exc.errno == errno.EOPNOTSUPP:
                    continue
                break
            pids = [int(w) for w in words if w.isdigit() and w != b"0"]
            yield from pids
            if pids:
                return
            break


def processes(mounts: CgroupMounts, path: str, proc: str, faults: Faults) -> list[int] | None:
    """Every process of the container, in a threaded cgroup those of which it has a thread. None: no list could be read."""
    return _listed(mounts, path, _PROCESSES, proc, faults)


def threads(mounts: CgroupMounts, path: str, faults: Faults) -> list[int] | None:
    """Every thread of the container. None: no list could be read."""
    return _listed(mounts, path, _THREADS, None, faults)


def start_ticks(stat: bytes) -> int | None:
    """Start of a process or thread in ticks since boot, from its `stat` of proc(5): with its number, who it is."""
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else None


def read_file(file: str) -> bytes | None:
    """Content of a small file of a process. None if the process has ended. OSError for what else keeps it from being read."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 8192)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return None


def _listed(mounts: CgroupMounts, path: str, names: tuple[str, ...], proc: str | None, faults: Faults) -> list[int] | None:
    found: list[int] | None = None
    for where in mounts.directories(path):
        for name in names:
            try:
                found = _numbers(f"{where}/{name}")
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno in _THREADED and proc is not None:
                    found = _owners(where, proc)
                elif exc.errno == errno.EACCES:
                    faults.unreadable(f"{where}/{name}", exc)
            break
        if found:
            return found
    return found


def _numbers(file: str) -> list[int]:
    with open(file, "rb", buffering=0) as opened:
        return [int(word) for word in (opened.readall() or b"").split() if word.isdigit()]


def _owners(where: str, proc: str) -> list[int] | None:
    """Processes of the threads in a threaded cgroup; threads that have ended meanwhile have none."""
    try:
        tids = _numbers(f"{where}/cgroup.threads")
        return sorted({pid for tid in tids if (pid := _process_of(tid, proc)) is not None})
    except OSError:
        return None


def _process_of(tid: int, proc: str) -> int | None:
    _, found, rest = (read_file(f"{proc}/{tid}/status") or b"").partition(b"\nTgid:")
    number = rest.split(maxsplit=1)[:1] if found else []
    return int(number[0]) if number and number[0].isdigit() else None
