"""CPU time of the host by mode and its scheduler counters, from /proc/stat (proc(5)). No privileges.

The kernel counts in USER_HZ (10 ms on every usual build), so the ns given here move in steps of 10 ms. Time of guests is
counted by the kernel both in `guest` and in `user`; here each ns stands in one mode only.
"""

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegauge.collectors.host_file import HostFile, number
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.records import Container, TableRow, TableRows, Values

_KEYS = (b"ctxt", b"intr", b"processes", b"procs_running", b"procs_blocked")
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


class StatConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")


class HostStat(NamedTuple):
    scalars: tuple[int | None, ...]
    """Context switches, interrupts, forks, running, blocked tasks."""
    cpus: TableRows
    """Row `all`, then each CPU that is online, with the ns of each mode; None for a mode that this kernel does not have."""


def parse(text: bytes, tick_ns: int) -> HostStat:
    """`tick_ns` is the length of one USER_HZ tick. CollectError for a word that should be a number and is not."""
    found: dict[bytes, int] = {}
    cpus: list[TableRow] = []
    for line in text.splitlines():
        key, _, rest = line.partition(b" ")
        if key.startswith(b"cpu"):
            cpus.append(_cpu(key, rest.split(), tick_ns))
        elif key in _KEYS:
            # The rest of the line of `intr` is one number for each interrupt, thousands of them on large hosts.
            found[key] = number(rest.split(None, 1)[0] if rest.strip() else b"", f"stat: {key.decode()}")
    return HostStat(tuple(found.get(k) for k in _KEYS), tuple(cpus))


def _cpu(key: bytes, words: list[bytes], tick_ns: int) -> TableRow:
    name = key[3:].decode("ascii", "replace") or "all"
    if name != "all" and not name.isdigit():
        raise CollectError(f"stat: expected a CPU, got {key[:40]!r}")
    modes: list[int | None] = [number(w, f"stat: {key.decode()} {m}", tick_ns) for m, w in zip(_MODES, words, strict=False)]
    modes += [None] * (len(_MODES) - len(modes))
    for mode, guest in ((0, 8), (1, 9)):
        total, part = modes[mode], modes[guest]
        if total is not None and part is not None:
            # The two are not read at one instant, so the part can be a tick ahead of the whole.
            modes[mode] = max(total - part, 0)
    return (name, *modes)


class StatReader:
    """`read` reads the file once for both; `read_tables` gives the rows of the same instant."""

    def __init__(self, path: Path, tick_ns: int) -> None:
        self._file = HostFile(path)
        self._tick_ns = tick_ns
        self._cpus: TableRows | None = None

    def read(self) -> Values:
        self._cpus = None
        stat = parse(self._file.read(), self._tick_ns)
        self._cpus = stat.cpus
        return stat.scalars

    def read_tables(self) -> tuple[TableRows | None, ...]:
        return (self._cpus,)

    def close(self) -> None:
        self._file.close()


class StatCollector:
    """Counters and two gauges of the scheduler, and table `host_cpu`: ns by mode for all CPUs together and for each one."""

    Config = StatConfig
    groups = ("host",)
    metrics = (
        "host_context_switches",
        "host_interrupts",
        "host_forks",
        "host_processes_running",
        "host_processes_blocked",
    )
    tables = ("host_cpu",)

    def __init__(self, config: StatConfig) -> None:
        self._path = config.proc / "stat"
        self._tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def reader(self, container: Container) -> StatReader | None:
        return StatReader(self._path, self._tick_ns) if container.is_host else None
