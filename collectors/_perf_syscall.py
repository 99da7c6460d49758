"""perf_event_open(2) by its number, as Python's library has no call for it: names of events, opening and reading one.

Source: perf_event_open(2), linux/perf_event.h.
"""

import ctypes
import os
import platform
import re
import struct
from functools import cache
from typing import NamedTuple

_NUMBERS = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "loongarch64": 241,
    "ppc64": 319,
    "ppc64le": 319,
    "s390x": 331,
}
_HARDWARE, _SOFTWARE, _CACHE, _RAW = 0, 1, 3, 4
_FORMAT_ENABLED_AND_RUNNING = 1 | 2
_FLAG_CGROUP, _FLAG_CLOEXEC = 4, 8
_ATTR = struct.Struct("=IIQQQQQIIQQ")
"""The first 72 bytes of perf_event_attr, which the kernel takes in the sizes that it ever had: 64, 72 ..."""
_ANSWER = struct.Struct("=QQQ")


class PerfEvent(NamedTuple):
    """Type and configuration of an event for the kernel."""

    type: int
    config: int

    @property
    def is_software(self) -> bool:
        return self.type == _SOFTWARE


class Counted(NamedTuple):
    """What one descriptor says, since it was opened."""

    value: int
    enabled_ns: int
    """Time for which the event was wanted: while the container ran on this CPU."""
    running_ns: int
    """Time for which it was counted."""


_NAMES = {
    "cycles": (_HARDWARE, 0),
    "instructions": (_HARDWARE, 1),
    "cache-references": (_HARDWARE, 2),
    "cache-misses": (_HARDWARE, 3),
    "branches": (_HARDWARE, 4),
    "branch-misses": (_HARDWARE, 5),
    "bus-cycles": (_HARDWARE, 6),
    "stalled-cycles-frontend": (_HARDWARE, 7),
    "stalled-cycles-backend": (_HARDWARE, 8),
    "ref-cycles": (_HARDWARE, 9),
    "cpu-clock": (_SOFTWARE, 0),
    "task-clock": (_SOFTWARE, 1),
    "page-faults": (_SOFTWARE, 2),
    "context-switches": (_SOFTWARE, 3),
    "cpu-migrations": (_SOFTWARE, 4),
    "minor-faults": (_SOFTWARE, 5),
    "major-faults": (_SOFTWARE, 6),
    "alignment-faults": (_SOFTWARE, 7),
    "emulation-faults": (_SOFTWARE, 8),
}
_CACHES = ("L1-dcache", "L1-icache", "LLC", "dTLB", "iTLB", "branch", "node")
_OPERATIONS = ("load", "store", "prefetch")
_NAMES |= {
    f"{cache}-{operation}{suffix}": (_CACHE, c | o << 8 | miss << 16)
    for c, cache in enumerate(_CACHES)
    for o, operation in enumerate(_OPERATIONS)
    for miss, suffix in enumerate(("es" if operation == "prefetch" else "s", "-misses"))
    if cache != "branch"
}
EVENT_NAMES = tuple(_NAMES)
"""Names as perf(1) has them."""
_RAW_NAME = re.compile(r"r([0-9a-fA-F]{1,16})")


def event(name: str) -> PerfEvent | None:
    """The event of a name or of `rHEX`, a number of the CPU's own; None if it is neither."""
    if known := _NAMES.get(name):
        return PerfEvent(*known)
    raw = _RAW_NAME.fullmatch(name)
    return PerfEvent(_RAW, int(raw[1], 16)) if raw else None


def is_known_machine() -> bool:
    """Whether the number of the system call is known for this CPU and process."""
    return platform.machine() in _NUMBERS and struct.calcsize("P") == 8


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def open_event(wanted: PerfEvent, cpu: int, cgroup_fd: int | None) -> int:
    """A descriptor that counts from now on: for a cgroup (by its directory) and those below it, or for all. Raises OSError."""
    attr = _ATTR.pack(wanted.type, _ATTR.size, wanted.config, 0, 0, _FORMAT_ENABLED_AND_RUNNING, 0, 0, 0, 0, 0)
    flags = _FLAG_CLOEXEC | (0 if cgroup_fd is None else _FLAG_CGROUP)
    libc = _libc()
    pid = ctypes.c_int(-1 if cgroup_fd is None else cgroup_fd)
    number, nobody = ctypes.c_long(_NUMBERS[platform.machine()]), ctypes.c_int(-1)
    fd = int(libc.syscall(number, attr, pid, ctypes.c_int(cpu), nobody, ctypes.c_ulong(flags)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def read_event(fd: int) -> Counted | None:
    """None if the kernel gave the event up."""
    raw = os.read(fd, _ANSWER.size)
    return Counted(*_ANSWER.unpack(raw)) if len(raw) == _ANSWER.size else None
