"""A container's directory in one hierarchy, for slow collectors: opened for each reading, and nothing kept open between.

Opening and closing costs some 4 us a file, which at a slow collector's pace is less than what kept descriptors would take of
the budget. A directory is known by its inode number, so that one made anew under the same name is not taken for this container.
"""

import errno
import os
from collections.abc import Sequence

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import CgroupMounts, directory
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import Container

_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR)
_NOT_OFFERED = (*_GONE, errno.EOPNOTSUPP, errno.EINVAL)


class CgroupFolder:
    """The directory of one container in the hierarchy of one controller."""

    __slots__ = ("_faults", "_inode", "path")

    def __init__(self, mounts: CgroupMounts, controller: str, container: Container, faults: Faults) -> None:
        """NoData: the controller is in no hierarchy here. FileNotFoundError: the container has no directory there (yet)."""
        root = mounts.place(controller)
        if root is None:
            raise NoData(f"no hierarchy with the controller {controller} is mounted")
        self.path = directory(root, container.path)
        self._faults = faults
        name = next((h.name for h in mounts.hierarchies() if h.root == root), "")
        known = dict(container.pairs).get(name)
        self._inode = os.stat(self.path).st_ino if known is None else known

    def open(self) -> int:
        """A descriptor of the directory, to be closed by the caller. FileNotFoundError when the container is gone."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in _GONE:
                raise FileNotFoundError(exc.errno, "the cgroup is gone", self.path) from exc
            raise CollectError(f"{self.path}: {exc.strerror}") from exc
        if os.fstat(fd).st_ino != self._inode:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "the cgroup is gone", self.path)
        return fd

    def names(self) -> list[str]:
        """Names of the files that are there."""
        fd = self.open()
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """Bytes of each file; None for one that is not there, or cannot be read, which is counted.

        FileNotFoundError when the container is gone.
        """
        folder = self.open()
        try:
            return [self._read(folder, name) for name in names]
        finally:
            os.close(folder)

    def _read(self, folder: int, name: str) -> bytes | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            try:
                raw = os.read(fd, 16384)
                while len(raw) > 4000 and (more := os.read(fd, 65536)):  # the kernel may stop at the end of a page
                    raw += more
                return raw
            finally:
                os.close(fd)
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                raise CollectError(f"{self.path}/{name}: {exc.strerror}") from exc
            if exc.errno not in _NOT_OFFERED:
                self._faults.unreadable(f"{self.path}/{name}", exc)
            return None
