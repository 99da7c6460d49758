"""TCP sockets by state, UDP sockets and their queues, of each network namespace: tables `tcp` and `udp`.

Source: PROC/PID/net/tcp, tcp6, udp, udp6, sockstat, sockstat6 (proc_pid_net(5); kernel net/ipv4/tcp_ipv4.c, udp.c, proc.c).
Privileges: none. For tcp and for tcp6 the kernel walks the table of all namespaces' connections, however few there are (5 ms of
CPU time each where the table has 262144 places), so neither is read where sockstat says that there is nothing in it.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._namespaces import ContainerNamespace, HostNamespace, Namespaces
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.builtin_metrics import TCP_STATES
from tidegauge.pipeline.records import Container, TableRow, TableRows, Value
from tidegauge.pipeline.sampler_config import Seconds

_FILES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_BLOCK_BYTES = 1 << 16
"""Text that is parsed at a time: a tenth of a millisecond in which no other thread runs."""
_TCP_STATE = re.compile(rb": [0-9A-F]+:[0-9A-F]{4} [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) ")
_UDP_SOCKET = re.compile(
    rb": [0-9A-F]+:[0-9A-F]{4} [0-9A-F]+:[0-9A-F]{4} [0-9A-F]{2} ([0-9A-F]{8}):([0-9A-F]{8}) .* (-?[0-9]{1,10}) *$", re.M
)
_NEW_SYN_RECV = b"0C"
"""A request that waits for the last part of the handshake (since 4.4); before, SYN_RECV stood for it."""


class SocketsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    groups: frozenset[str] = frozenset({"tcp", "udp"})
    """Which of the two tables are read: those of the groups that are on."""
    interval_s: Seconds = 30.0
    """Seconds between two readings of all containers."""


class TcpCount:
    """Sockets by state, from any number of blocks of whole lines. States that are not known are left out."""

    def __init__(self) -> None:
        self._states: Counter[bytes] = Counter()

    def add(self, block: bytes) -> None:
        self._states.update(_TCP_STATE.findall(block))

    def values(self) -> tuple[int, ...]:
        """In the order of the table `tcp`."""
        counts = [self._states[b"%02X" % number] for number in range(1, len(TCP_STATES) + 1)]
        counts[TCP_STATES.index("syn_recv")] += self._states[_NEW_SYN_RECV]
        return tuple(counts)


class UdpCount:
    """Sockets and the sums of their figures, from any number of blocks of whole lines."""

    def __init__(self) -> None:
        self._sockets = self._dropped = self._received = self._to_send = 0

    def add(self, block: bytes) -> None:
        for to_send, received, dropped in _UDP_SOCKET.findall(block):
            self._sockets += 1
            self._to_send += int(to_send, 16)
            self._received += int(received, 16)
            self._dropped += int(dropped) & 0xFFFFFFFF  # 32 bit, shown with a sign by old kernels

    def values(self) -> tuple[Value, ...]:
        """In the order of the table `udp`."""
        return self._sockets, self._dropped, self._received, self._to_send


class SocketsReader:
    """Rows of one container's sockets, if its namespace is counted there; the host's always are."""

    def __init__(self, collector: "SocketsCollector", namespace: ContainerNamespace | HostNamespace) -> None:
        self._collector = collector
        self._namespace = namespace

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None, ...]:
        found = self._namespace.look(self._collector.look)
        if found is None:
            return (None,) * len(self._collector.tables)
        return tuple(_rows(found, _FILES[table]) for table in self._collector.tables)

    def close(self) -> None:
        self._namespace.close()


class SocketsCollector(Faulty):
    """Tables `tcp` and `udp`: a row for IPv4 and one for IPv6, once for each network namespace."""

    Config = SocketsConfig
    groups = ("tcp", "udp")
    metrics: tuple[str, ...] = ()
    is_slow = True

    def __init__(self, config: SocketsConfig) -> None:
        self.interval_s = config.interval_s
        self.tables = tuple(t for t in _FILES if t in config.groups)
        self._files = tuple(f for t in self.tables for f in _FILES[t])
        self._faults = Faults()
        self._namespaces = Namespaces(config.proc, find_mounts(config.sys, config.proc), self._faults)

    def reader(self, container: Container) -> SocketsReader:
        """A reader for any container. NoData if the host's namespace cannot be known."""
        return SocketsReader(self, self._namespaces.of(container))

    def look(self, folder: str, namespace: int | None) -> dict[str, tuple[Value, ...] | None] | None:
        """Values of each file that is wanted; None instead of one that the kernel does not have."""
        values: dict[str, tuple[Value, ...] | None] = {}
        if "tcp" in self.tables:
            said = self._namespaces.read_files(folder, namespace, ("sockstat", "sockstat6"), lambda _, fd: os.read(fd, 4096))
            if said is None:
                return None
            values = {name: (0,) * len(TCP_STATES) for name in without_sockets(said[0] or b"", said[1] or b"")}
        names = [name for name in self._files if name not in values]
        found = self._namespaces.read_files(folder, namespace, names, self._count)
        return None if found is None else values | dict(zip(names, found, strict=True))

    def _count(self, name: str, fd: int) -> tuple[Value, ...]:
        count: TcpCount | UdpCount = TcpCount() if name in _FILES["tcp"] else UdpCount()
        for block in blocks(fd):
            count.add(block)
        return count.values()


def without_sockets(sockstat: bytes, sockstat6: bytes) -> set[str]:
    """Which of tcp and tcp6 have nothing in them: none in use, and none of either in TIME_WAIT, which are counted together."""
    if not re.search(rb"^TCP:.* tw 0 ", sockstat, re.M):
        return set()
    said = {"tcp": re.search(rb"^TCP: inuse 0 ", sockstat, re.M), "tcp6": re.search(rb"^TCP6: inuse 0$", sockstat6, re.M)}
    return {name for name, is_empty in said.items() if is_empty}


def blocks(fd: int) -> Iterator[bytes]:
    """The whole file in blocks of whole lines. The kernel gives a page at a time, whatever is asked for."""
    parts: list[bytes] = []
    size = 0
    while part := os.read(fd, _BLOCK_BYTES):
        parts.append(part)
        size += len(part)
        if size >= _BLOCK_BYTES:
            head, end, tail = b"".join(parts).rpartition(b"\n")
            yield head + end
            parts, size = [tail], len(tail)
    if parts:
        yield b"".join(parts)


def _rows(values: dict[str, tuple[Value, ...] | None], files: tuple[str, ...]) -> TableRows | None:
    """None where the kernel has not one of the files."""
    rows: list[TableRow] = [(name, *found) for name in files if (found := values[name]) is not None]
    return tuple(rows) or None
