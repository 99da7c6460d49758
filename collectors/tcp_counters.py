"""The kernel's counters of TCP of each network namespace, by the names of their fields.

Source: PROC/PID/net/snmp, group Tcp (RFC 4022), and PROC/PID/net/netstat, group TcpExt (kernel networking/snmp_counter.rst).
Privileges: none.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._namespaces import ContainerNamespace, HostNamespace, Namespaces
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.builtin_metrics import TCP_EXT_FIELDS, TCP_FIELDS, tcp_metric
from tidegauge.pipeline.records import UNLIMITED, Container, Value, Values
from tidegauge.pipeline.sampler_config import Seconds

_GROUPS: Mapping[str, tuple[bytes, tuple[bytes, ...]]] = {
    "snmp": (b"Tcp:", tuple(f.encode() for f in TCP_FIELDS)),
    "netstat": (b"TcpExt:", tuple(f.encode() for f in TCP_EXT_FIELDS)),
}
"""File -> group in it and the fields that are taken."""


class TcpCountersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    interval_s: Seconds | None = None
    """Seconds between two readings; without it as `sampler.slow_interval_s` says."""


class CounterFile:
    """Parser of files like snmp and netstat, where a line of names is followed by one of values, for one group of them."""

    def __init__(self, group: bytes, fields: tuple[bytes, ...], faults: Faults) -> None:
        self._group = group
        self._fields = fields
        self._faults = faults
        self._names: list[bytes] = []
        self._places: list[int | None] = []

    def __call__(self, raw: bytes) -> tuple[Value, ...]:
        """Values of the fields in their order; None for those that are not there. Never raises.

        MaxConn is -1 where the number of connections is not limited: UNLIMITED.
        """
        lines = iter(raw.split(b"\n"))
        for line in lines:
            names = line.split()
            if names[:1] != [self._group]:
                continue
            values = next(lines, b"").split()
            if values[:1] != [self._group] or len(values) != len(names):
                break
            if names != self._names:  # as they are the same each time
                places = {name: place for place, name in enumerate(names) if place}
                self._names, self._places = names, [places.get(f) for f in self._fields]
            found = zip(self._fields, self._places, strict=True)
            return tuple([None if p is None else self._number(f, values[p]) for f, p in found])
        return (None,) * len(self._fields)

    def _number(self, field: bytes, token: bytes) -> Value:
        if token == b"-1" and field == b"MaxConn":
            return UNLIMITED
        return self._faults.number(token)


class TcpCountersReader:
    """Counters of one container's namespace, if it is counted there; the host's always are."""

    def __init__(self, collector: "TcpCountersCollector", namespace: ContainerNamespace | HostNamespace) -> None:
        self._collector = collector
        self._namespace = namespace

    def read(self) -> Values:
        found = self._namespace.look(self._collector.look)
        if found is None:
            return (None,) * len(self._collector.metrics)
        parts = (values or (None,) * len(fields) for values, (_, fields) in zip(found, _GROUPS.values(), strict=True))
        return tuple(v for part in parts for v in part)

    def close(self) -> None:
        self._namespace.close()


class TcpCountersCollector(Faulty):
    """A value for each field of Tcp and TcpExt that the catalogue knows, once for each network namespace."""

    Config = TcpCountersConfig
    groups = ("advtcp",)
    metrics = tuple(tcp_metric(f) for f in (*TCP_FIELDS, *TCP_EXT_FIELDS))
    is_slow = True

    def __init__(self, config: TcpCountersConfig) -> None:
        self.interval_s = config.interval_s
        self._faults = Faults()
        self._namespaces = Namespaces(config.proc, find_mounts(config.sys, config.proc), self._faults)
        self._parsers = {file: CounterFile(*group, self._faults) for file, group in _GROUPS.items()}

    def reader(self, container: Container) -> TcpCountersReader:
        """A reader for any container. NoData if the host's namespace cannot be known."""
        return TcpCountersReader(self, self._namespaces.of(container))

    def look(self, folder: str, namespace: int | None) -> list[tuple[Value, ...] | None] | None:
        """Values of Tcp and of TcpExt; None instead of either where its file is missing."""
        return self._namespaces.read_files(folder, namespace, tuple(_GROUPS), self._parse)

    def _parse(self, name: str, fd: int) -> tuple[Value, ...]:
        raw = b""
        while part := os.read(fd, 65536):
            raw += part
        return self._parsers[name](raw)
