"""Traffic of each network interface, from PROC/PID/net/dev of a process in the container; the host's from PROC/1/net/dev.

Source: proc_pid_net(5). Privileges: none. The file is opened, read and closed each time; which namespace it shows is checked
on the very file that is read.
"""

import errno
import os
import re
from fnmatch import translate
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors._namespaces import ContainerNamespace, HostNamespace, Namespaces
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.records import Container, TableRow, TableRows

_COLUMNS = (0, 1, 2, 3, 8, 9, 10, 11)
"""Bytes, packets, errors, dropped; received, then sent: the order of the table `network`."""
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.EINVAL)


class NetdevConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    exclude: tuple[str, ...] = ("lo",)
    """Interfaces to leave out; patterns of the shell."""


def parse(raw: bytes, exclude: re.Pattern[str], faults: Faults) -> TableRows:
    """Rows of the table `network`, sorted by interface. Lines that are not an interface's are passed over."""
    rows: list[TableRow] = []
    for line in raw.split(b"\n"):
        name, colon, figures = line.partition(b":")
        words = figures.split()
        if not colon or len(words) < 12:
            continue
        interface = name.strip().decode("utf-8", "replace")
        if interface and not exclude.fullmatch(interface):
            rows.append((interface, *[faults.number(words[i]) for i in _COLUMNS]))
    return tuple(sorted(rows, key=lambda row: str(row[0])))


class NetdevReader:
    """Rows of one container's interfaces, if its namespace is counted there; the host's always are."""

    __slots__ = ("_collector", "_namespace", "_raw", "_tables")

    def __init__(self, collector: "NetdevCollector", namespace: ContainerNamespace | HostNamespace) -> None:
        self._collector = collector
        self._namespace = namespace
        self._raw = b""
        self._tables: tuple[TableRows] = ((),)

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        raw = self._namespace.look(_read)
        if raw is None:
            return (None,)
        if raw != self._raw:
            self._raw, self._tables = raw, (self._collector.parse(raw),)
        return self._tables

    def close(self) -> None:
        self._namespace.close()


class NetdevCollector(Faulty):
    """Table `network`: eight counters for each interface but the excluded ones, once for each network namespace."""

    Config = NetdevConfig
    groups = ("network",)
    metrics: tuple[str, ...] = ()
    tables = ("network",)

    def __init__(self, config: NetdevConfig) -> None:
        self._faults = Faults()
        self.namespaces = Namespaces(config.proc, find_mounts(config.sys, config.proc), self._faults)
        self._exclude = re.compile("|".join(translate(p) for p in config.exclude) or r"(?!)")

    def reader(self, container: Container) -> NetdevReader:
        """A reader for any container. NoData if there is no `net/dev` to know the host's namespace by."""
        return NetdevReader(self, self.namespaces.of(container))

    def parse(self, raw: bytes) -> TableRows:
        return parse(raw, self._exclude, self._faults)


def _read(folder: str, namespace: int | None) -> bytes | None:
    """The whole file, if it (still) shows this namespace (None: any). CollectError for what is not the process's end."""
    file = f"{folder}dev"
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if namespace is not None and os.fstat(fd).st_ino != namespace:
                return None
            raw = os.read(fd, 8192)
            # procfs gives whole lines, as many as fit into a page: much less than one is all there is
            while len(raw) > 3500 and (more := os.read(fd, 65536)):
                raw += more
            return raw
        finally:
            os.close(fd)
    except OSError as exc:
        if exc.errno in _GONE:
            return None
        raise CollectError(f"{file}: {exc.strerror}") from exc
