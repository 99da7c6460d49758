"""Traffic of each network interface, from PROC/PID/net/dev of a process in the container; the host's from PROC/1/net/dev.

Source: proc_pid_net(5). Privileges: none. The file is opened, read and closed each time, since an open one keeps the namespace
alive after the container's end. Which namespace it shows is told by the file's inode number: procfs gives every network
namespace files of its own. So the check is made on the very file that is read, a process number that was used again cannot
pass for the old process unless it shows the same interfaces, and it needs no right to look at others' `ns/net`.
"""

import errno
import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors.cgroup_paths import CgroupMounts, find_mounts
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import Container, TableRow, TableRows

_COLUMNS = (0, 1, 2, 3, 8, 9, 10, 11)
"""Bytes, packets, errors, dropped; received, then sent: the order of the table `network`."""
_CANDIDATES = 8
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


def member_pids(mounts: CgroupMounts, path: str, faults: Faults) -> Iterator[int]:
    """Processes of the container itself (not of its children), oldest first, from the first hierarchy that has any."""
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
            # 0 stands for a process outside of our own pid namespace
            pids = [int(w) for w in words if w.isdigit() and w != b"0"]
            yield from pids
            if pids:
                return
            break


class NetdevReader:
    """Rows of one container. No rows while it has no process, shares the host's namespace, or is not the owner of its own."""

    __slots__ = ("_collector", "_namespace", "_path", "_pid_file", "_raw", "_rows")

    def __init__(self, collector: "NetdevCollector", path: str) -> None:
        self._collector = collector
        self._path = path
        self._pid_file: str | None = None
        self._namespace = 0
        self._raw = b""
        self._rows: TableRows = ()

    @property
    def rank(self) -> tuple[int, str]:
        """The container nearer to the root owns a namespace first."""
        return self._path.count("/"), self._path

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        for _ in range(2):  # again with another process, if the one that was chosen has ended or moved
            if self._pid_file is None and not self._choose():
                return (None,)
            assert self._pid_file is not None
            if not self._collector.owns(self._namespace, self):
                if self._collector.inode(self._pid_file) == self._namespace:
                    return (None,)
            elif (raw := _read(self._pid_file, self._namespace)) is not None:
                if raw != self._raw:
                    self._raw, self._rows = raw, self._collector.parse(raw)
                return (self._rows,)
            self.close()
        return (None,)

    def close(self) -> None:
        """Lets the namespace go to the next container that shares it."""
        self._pid_file = None
        self._collector.release(self._namespace, self)

    def _choose(self) -> bool:
        for count, pid in enumerate(self._collector.pids(self._path)):
            if count >= _CANDIDATES:
                break
            file = f"{self._collector.proc}/{pid}/net/dev"
            if (namespace := self._collector.inode(file)) is not None:
                self._pid_file, self._namespace = file, namespace
                self._collector.claim(namespace, self)
                return True
        return False


class HostNetdevReader:
    """Rows of the host's interfaces."""

    def __init__(self, collector: "NetdevCollector", file: str) -> None:
        self._collector = collector
        self._file = file

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        raw = _read(self._file, None)
        return (None if raw is None else self._collector.parse(raw),)

    def close(self) -> None: ...


class NetdevCollector(Faulty):
    """Table `network`: eight counters for each interface but the excluded ones.

    A namespace that several containers share is counted at one of them, its owner: the first that was seen, unless one nearer
    to the root shares it too. When the owner goes, the nearest to the root takes it over.
    """

    Config = NetdevConfig
    groups = ("network",)
    metrics: tuple[str, ...] = ()
    tables = ("network",)

    def __init__(self, config: NetdevConfig) -> None:
        self.proc = config.proc
        self._mounts = find_mounts(config.sys, config.proc)
        self._faults = Faults()
        self._exclude = re.compile("|".join(translate(p) for p in config.exclude) or r"(?!)")
        candidates = (str(config.proc / "1/net/dev"), str(config.proc / "net/dev"))
        self._host_file = next((f for f in candidates if os.path.exists(f)), None)
        self._host_namespace = None if self._host_file is None else self.inode(self._host_file)
        self._sharers: dict[int, list[NetdevReader]] = {}

    def reader(self, container: Container) -> NetdevReader | HostNetdevReader:
        """A reader for any container. NoData if there is no `net/dev` to know the host's namespace by."""
        if self._host_file is None or self._host_namespace is None:
            raise NoData(f"neither 1/net/dev nor net/dev is in {self.proc}")
        if container.is_host:
            return HostNetdevReader(self, self._host_file)
        return NetdevReader(self, container.path)

    def parse(self, raw: bytes) -> TableRows:
        return parse(raw, self._exclude, self._faults)

    def inode(self, file: str) -> int | None:
        """Inode number of a `net/dev`, which stands for its network namespace; None if the process is gone or hidden."""
        try:
            return os.stat(file).st_ino
        except OSError as exc:
            if isinstance(exc, PermissionError):
                self._faults.unreadable(file, exc)
            return None

    def pids(self, path: str) -> Iterator[int]:
        return member_pids(self._mounts, path, self._faults)

    def owns(self, namespace: int, reader: NetdevReader) -> bool:
        """True if the namespace is counted at this reader's container."""
        sharers = self._sharers.get(namespace)
        return sharers is not None and sharers[0] is reader

    def claim(self, namespace: int, reader: NetdevReader) -> None:
        """Enters the reader among those that share the namespace; the host's is never owned."""
        if namespace == self._host_namespace:
            return
        sharers = self._sharers.setdefault(namespace, [])
        sharers.append(reader)
        if reader.rank[0] < sharers[0].rank[0]:
            sharers.insert(0, sharers.pop())

    def release(self, namespace: int, reader: NetdevReader) -> None:
        """Takes the reader from the namespace's list; if it was the owner, the nearest to the root follows."""
        sharers = self._sharers.get(namespace)
        if sharers is None or reader not in sharers:
            return
        was_owner = sharers[0] is reader
        sharers.remove(reader)
        if was_owner and sharers:
            sharers.sort(key=lambda r: r.rank)
        if not sharers:
            del self._sharers[namespace]


def _read(file: str, namespace: int | None) -> bytes | None:
    """The whole file, if it (still) shows this namespace (None: any). CollectError for what is not the process's end."""
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
