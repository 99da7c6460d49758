"""Network namespaces of containers: through which process one is seen, and which container it is counted at.

Source: proc_pid_net(5). A namespace is told by the inode number of PROC/PID/net/dev: procfs gives every network namespace
files of its own. So a process number that was used again cannot pass for the old process unless it shows the same namespace,
and no right is needed to look at others' `ns/net`. No file stays open, since that would keep the namespace alive after the
container's end.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors._members import member_pids
from tidegauge.collectors.cgroup_paths import CgroupMounts
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import Container

T = TypeVar("T")
Look = Callable[[str, int | None], T | None]
"""Reads of a folder `PROC/PID/net/` what shows the namespace (None: any); None if the process is gone or shows another."""
_CANDIDATES = 8
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.EINVAL)


class ContainerNamespace:
    """The namespace of one container. Nothing while it has no process, shares the host's, or is not the owner of its own."""

    __slots__ = ("_folder", "_namespace", "_namespaces", "path")

    def __init__(self, namespaces: "Namespaces", path: str) -> None:
        self._namespaces = namespaces
        self.path = path
        self._folder: str | None = None
        self._namespace = 0

    @property
    def rank(self) -> tuple[int, str]:
        """The container nearer to the root owns a namespace first."""
        return self.path.count("/"), self.path

    def look(self, read: Look[T]) -> T | None:
        """What `read` gives of the namespace, if it is counted here."""
        for _ in range(2):  # again with another process, if the one that was chosen has ended or moved
            if self._folder is None and not self._choose():
                return None
            assert self._folder is not None
            if not self._namespaces.owns(self._namespace, self):
                if self._namespaces.inode(self._folder) == self._namespace:
                    return None
            elif (found := read(self._folder, self._namespace)) is not None:
                return found
            self.close()
        return None

    def close(self) -> None:
        """Lets the namespace go to the next container that shares it."""
        self._folder = None
        self._namespaces.release(self._namespace, self)

    def _choose(self) -> bool:
        for count, pid in enumerate(self._namespaces.pids(self.path)):
            if count >= _CANDIDATES:
                break
            folder = f"{self._namespaces.proc}/{pid}/net/"
            if (namespace := self._namespaces.inode(folder)) is not None:
                self._folder, self._namespace = folder, namespace
                self._namespaces.claim(namespace, self)
                return True
        return False


class HostNamespace:
    """The host's namespace, seen through its first process."""

    __slots__ = ("_folder",)

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def look(self, read: Look[T]) -> T | None:
        return read(self._folder, None)

    def close(self) -> None: ...


class Namespaces:
    """Who counts which namespace. Each collector has one of its own; one thread at a time.

    A namespace that several containers share is counted at one of them, its owner: the first that was seen, unless one nearer
    to the root shares it too. When the owner goes, the nearest to the root takes it over. The host's is counted at `/` alone.
    """

    def __init__(self, proc: Path, mounts: CgroupMounts, faults: Faults) -> None:
        self.proc = str(proc)
        self._mounts = mounts
        self._faults = faults
        candidates = (f"{proc}/1/net/", f"{proc}/net/")
        self._host = next((f for f in candidates if os.path.exists(f"{f}dev")), None)
        self._host_inode = None if self._host is None else self.inode(self._host)
        self._sharers: dict[int, list[ContainerNamespace]] = {}

    def of(self, container: Container) -> ContainerNamespace | HostNamespace:
        """The namespace of any container. NoData if there is no `net/dev` to know the host's by."""
        if self._host is None or self._host_inode is None:
            raise NoData(f"neither 1/net/dev nor net/dev is in {self.proc}")
        return HostNamespace(self._host) if container.is_host else ContainerNamespace(self, container.path)

    def inode(self, folder: str) -> int | None:
        """Number that stands for the namespace that a folder `PROC/PID/net/` shows; None: the process is gone or hidden."""
        try:
            return os.stat(f"{folder}dev").st_ino
        except OSError as exc:
            if isinstance(exc, PermissionError):
                self._faults.unreadable(f"{folder}dev", exc)
            return None

    def pids(self, path: str) -> Iterator[int]:
        return member_pids(self._mounts, path, self._faults)

    def owns(self, namespace: int, sharer: ContainerNamespace) -> bool:
        """True if the namespace is counted at this container."""
        sharers = self._sharers.get(namespace)
        return sharers is not None and sharers[0] is sharer

    def claim(self, namespace: int, sharer: ContainerNamespace) -> None:
        """Enters the container among those that share the namespace; the host's is never owned."""
        if namespace == self._host_inode:
            return
        sharers = self._sharers.setdefault(namespace, [])
        sharers.append(sharer)
        if sharer.rank[0] < sharers[0].rank[0]:
            sharers.insert(0, sharers.pop())

    def release(self, namespace: int, sharer: ContainerNamespace) -> None:
        """Takes the container from the namespace's list; if it was the owner, the nearest to the root follows."""
        sharers = self._sharers.get(namespace)
        if sharers is None or sharer not in sharers:
            return
        was_owner = sharers[0] is sharer
        sharers.remove(sharer)
        if was_owner and sharers:
            sharers.sort(key=lambda s: s.rank)
        if not sharers:
            del self._sharers[namespace]

    def read_files(
        self, folder: str, namespace: int | None, names: Sequence[str], parse: Callable[[str, int], T]
    ) -> list[T | None] | None:
        """For a Look: gives each named file's descriptor to `parse`; None for a file that this kernel does not have.

        Which namespace it was is looked at afterwards: what a process showed that had ended by then is not used.
        CollectError: a file is there and cannot be read.
        """
        found: list[T | None] = []
        for name in names:
            try:
                fd = os.open(f"{folder}{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as exc:
                if exc.errno not in _GONE:
                    raise CollectError(f"{folder}{name}: {exc.strerror}") from exc
                found.append(None)
                continue
            try:
                found.append(parse(name, fd))
            except OSError as exc:
                if exc.errno not in _GONE:
                    raise CollectError(f"{folder}{name}: {exc.strerror}") from exc
                return None
            finally:
                os.close(fd)
        seen = self.inode(folder)
        return found if seen is not None and namespace in (None, seen) else None
