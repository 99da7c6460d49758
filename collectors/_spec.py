"""Limits of a container from its cgroup's own files, on v1, hybrid and v2 hosts alike.

Source: kernel documentation admin-guide/cgroup-v1/*.rst, scheduler/sched-bwc.rst, cgroup-v2.rst. Privileges: none. Files are
opened, read and closed: about thirteen a container, at most once a minute for most of its life.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tidegauge.collectors._kernel_text import Faults, limit_file, number_file
from tidegauge.collectors.cgroup_paths import CgroupMounts, directory
from tidegauge.pipeline.records import UNLIMITED, Container, Spec

_READ_BYTES = 8192
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV)


class SpecFiles:
    """Reads specs. One thread at a time, any thread."""

    def __init__(self, mounts: CgroupMounts, faults: Faults) -> None:
        self._hierarchies = mounts.hierarchies()
        self._faults = faults
        self._number, self._limit = number_file(faults), limit_file(faults)
        parts: dict[str, tuple[Callable[[Path, str], dict[str, Any]], Callable[[Path, str], dict[str, Any]]]] = {
            "cpu": (self._cpu_v1, self._cpu_v2),
            "cpuset": (self._cpuset_v1, self._cpuset_v2),
            "memory": (self._memory_v1, self._memory_v2),
            "pids": (self._pids, self._pids),
        }
        self._parts = [
            (root, parts[name][root == mounts.unified]) for name in parts if (root := mounts.place(name)) is not None
        ]

    def spec(self, container: Container) -> Spec | None:
        """What the kernel allows it; None if the container is gone, or another has its place by now."""
        fields: dict[str, Any] = {}
        for root, part in self._parts:
            fields |= part(root, container.path)
        return Spec(**fields) if self._is_there(container) else None

    def _is_there(self, container: Container) -> bool:
        """Whether its directories are still the ones that were seen: what was read in between is then its own."""
        seen = dict(container.pairs)
        try:
            return all(
                os.stat(directory(h.root, container.path)).st_ino == seen[h.name] for h in self._hierarchies if h.name in seen
            )
        except OSError:
            return False

    def _cpu_v1(self, root: Path, path: str) -> dict[str, Any]:
        where = directory(root, path)
        quota = self._raw(f"{where}/cpu.cfs_quota_us")
        return {
            "cpu_shares": self._number_of(f"{where}/cpu.shares"),
            "cpu_quota_us": UNLIMITED if quota == b"-1" else self._parsed(self._number, quota),
            "cpu_period_us": self._number_of(f"{where}/cpu.cfs_period_us"),
        }

    def _cpu_v2(self, root: Path, path: str) -> dict[str, Any]:
        where = directory(root, path)
        quota, _, period = (self._raw(f"{where}/cpu.max") or b"").partition(b" ")
        weight = self._number_of(f"{where}/cpu.weight")
        return {
            "cpu_weight": weight,
            "cpu_shares": None if weight is None else shares(weight),
            "cpu_quota_us": self._parsed(self._limit, quota or None),
            "cpu_period_us": self._parsed(self._number, period or None),
        }

    def _cpuset_v1(self, root: Path, path: str) -> dict[str, Any]:
        where = directory(root, path)
        found: dict[str, Any] = {}
        for field, name in (("cpus", "cpus"), ("memory_nodes", "mems")):
            raw = self._raw(f"{where}/cpuset.effective_{name}") or self._raw(f"{where}/cpuset.{name}")
            found[field] = _list(raw)
        return found

    def _cpuset_v2(self, root: Path, path: str) -> dict[str, Any]:
        # without files of its own, a cgroup runs where the one above it does
        found: dict[str, Any] = {}
        for field, name in (("cpus", "cpus"), ("memory_nodes", "mems")):
            raws = (self._raw(f"{where}/cpuset.{name}.effective") for where in _upwards(root, path))
            found[field] = _list(next((raw for raw in raws if raw is not None), None))
        return found

    def _memory_v1(self, root: Path, path: str) -> dict[str, Any]:
        where = directory(root, path)
        # the kernel's own answer: whether limits above count at all depended on memory.use_hierarchy until Linux 5.11
        stat = self._raw(f"{where}/memory.stat") or b""
        effective = next(
            (w[1] for line in stat.split(b"\n") if (w := line.split())[:1] == [b"hierarchical_memory_limit"]), None
        )
        return {
            "memory_limit_bytes": self._limit_of(f"{where}/memory.limit_in_bytes"),
            "memory_effective_limit_bytes": self._parsed(self._limit, effective),
            "memory_swap_limit_bytes": self._limit_of(f"{where}/memory.memsw.limit_in_bytes"),
            "memory_reservation_bytes": self._limit_of(f"{where}/memory.soft_limit_in_bytes"),
        }

    def _memory_v2(self, root: Path, path: str) -> dict[str, Any]:
        where = directory(root, path)
        limits = [self._limit_of(f"{place}/memory.max") for place in _upwards(root, path)]
        limit, swap = limits[0], self._limit_of(f"{where}/memory.swap.max")
        return {
            "memory_limit_bytes": limit,
            "memory_effective_limit_bytes": min((n for n in limits if n is not None), default=None),
            "memory_swap_limit_bytes": None if limit is None or swap is None else min(limit + swap, UNLIMITED),
            "memory_reservation_bytes": self._limit_of(f"{where}/memory.low"),
            "memory_min_bytes": self._limit_of(f"{where}/memory.min"),
            "memory_high_bytes": self._limit_of(f"{where}/memory.high"),
        }

    def _pids(self, root: Path, path: str) -> dict[str, Any]:
        return {"pids_limit": self._limit_of(f"{directory(root, path)}/pids.max")}

    def _number_of(self, path: str) -> int | None:
        return self._parsed(self._number, self._raw(path))

    def _limit_of(self, path: str) -> int | None:
        return self._parsed(self._limit, self._raw(path))

    @staticmethod
    def _parsed(parse: Callable[[bytes], Any], raw: bytes | None) -> int | None:
        value: int | None = None if raw is None else parse(raw)[0]
        return value

    def _raw(self, path: str) -> bytes | None:
        """The file's text without its end of line; None if it is not there or cannot be read."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, _READ_BYTES).rstrip()
            finally:
                os.close(fd)
        except OSError as exc:
            if exc.errno not in _GONE:
                self._faults.unreadable(path, exc)
            return None


def shares(weight: int) -> int:
    """v1's cpu.shares for a cpu.weight of v2, as runtimes convert: 1 is 2, 100 is 2597, 10000 is 262144.

    A weight of 0, which the kernel tells of a cgroup that only runs when nobody else wants to, is 2.
    """
    return max(2, 2 + (weight - 1) * 262142 // 9999)


def _list(raw: bytes | None) -> str | None:
    return raw.decode("ascii", "replace") if raw else None


def _upwards(root: Path, path: str) -> Iterator[str]:
    """Directories of a container and of those above it, up to the root."""
    while True:
        yield directory(root, path)
        if path == "/":
            return
        path = path.rpartition("/")[0] or "/"
