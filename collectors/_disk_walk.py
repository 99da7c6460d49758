"""Space and inodes of directory trees, measured by a child process that may be killed at any moment.

Run as a script by `_disk_walker`: one question a line on standard input, one answer a line on standard output, both JSON; it
ends with its standard input. It imports little, so that it starts quickly and stays small.

Source: statvfs(3), quotactl(2) (Q_XGETQUOTA), ioctl_xfs_fsgetxattr(2). What it walks may change under it and may be made by
somebody hostile: every directory is opened relative to the one above it and never through a link, another device is not
entered, and what it keeps in memory is bounded.
"""

import errno
import fcntl
import glob
import json
import os
import resource
import signal
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator

BLOCK = 512
"""Unit of st_blocks and of the quota's figures, whatever the filesystem's own is."""
_MAX_DEPTH = 1000
_MAX_HELD = 1_000_000
"""Names of directories still to be walked, and inodes with several links: about 100 bytes each."""
_STRIDE = 256
"""Entries between two looks at the clock."""
_FSGETXATTR = 0x801C581F
_XATTR = struct.Struct("5I8x")
_QUOTACTL_FD = 443
_GETQUOTA = (0x5803 << 8) | 2
"""QCMD(Q_XGETQUOTA, PRJQUOTA)"""
_QUOTA = struct.Struct("bbHIQQQQQQ")
"""The beginning of struct fs_disk_quota: version, flags, fields, id, block limits, inode limits, blocks, inodes."""


class TooMuch(Exception):
    """The tree is deeper or wider than what may be kept in memory."""


class Pace:
    """Rests so often that work takes no more than a share of the time; the time of work is that of the disk's answers too."""

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.work_s = 0.0
        self._rest = 1.0 / share - 1.0
        self._clock = clock
        self._sleep = sleep
        self._since_s = clock()
        self._count = 0

    def step(self) -> None:
        """To be called for every entry."""
        self._count += 1
        if self._count >= _STRIDE:
            self._count = 0
            work_s = self._clock() - self._since_s
            self.work_s += work_s
            if self._rest > 0:
                self._sleep(work_s * self._rest)
            self._since_s = self._clock()

    def stop(self) -> float:
        """Seconds of work in all."""
        self.work_s += self._clock() - self._since_s
        self._since_s = self._clock()
        return self.work_s


def walk(top: int, step: Callable[[], None]) -> tuple[int, int]:
    """Bytes and inodes of the tree at this open directory, itself included, as `du -x` counts: blocks that are allocated,
    an inode with several links once, links not followed, other devices left out. What vanishes meanwhile is passed over.

    The descriptor is closed. OSError, TooMuch.
    """
    status = os.fstat(top)
    device, total, inodes, held = status.st_dev, status.st_blocks, 1, 0
    linked: set[int] = set()
    path: list[tuple[int, list[str]]] = []
    fd = top
    try:
        while True:
            below: list[str] = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    step()
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if status.st_dev != device:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        below.append(entry.name)  # counted when it has been opened
                        held += 1
                    elif status.st_nlink == 1 or status.st_ino not in linked:
                        if status.st_nlink > 1:
                            linked.add(status.st_ino)
                        total += status.st_blocks
                        inodes += 1
                    if held + len(linked) > _MAX_HELD:
                        raise TooMuch(f"more than {_MAX_HELD} directories and linked files")
            path.append((fd, below))
            fd = -1
            while path:
                above, names = path[-1]
                if not names:
                    os.close(above)
                    path.pop()
                    continue
                held -= 1
                fd = _open_below(names.pop(), above)
                if fd < 0:
                    continue
                status = os.fstat(fd)
                if status.st_dev == device:
                    break
                os.close(fd)
                fd = -1
            if fd < 0:
                return total * BLOCK, inodes
            if len(path) > _MAX_DEPTH:
                raise TooMuch(f"more than {_MAX_DEPTH} directories in one another")
            total += status.st_blocks
            inodes += 1
    finally:
        for left in (fd, *(above for above, _ in path)):
            if left >= 0:
                os.close(left)


_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _open_below(name: str, above: int) -> int:
    """A directory, its access time left alone where that is allowed; -1 if it is gone or no directory any more."""
    try:
        try:
            return os.open(name, _OPEN | os.O_NOATIME, dir_fd=above)
        except PermissionError:
            return os.open(name, _OPEN, dir_fd=above)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise


def quota(fd: int) -> tuple[int, int, int | None] | None:
    """Bytes, inodes and limit in bytes (None: none) of the project that this directory alone belongs to; None if there is none.

    A project that begins above the layer's own folder holds more than this layer.
    """
    project = _project(fd, ".")
    if not project or _project(fd, "../..") == project:
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(256)
    number = (ctypes.c_long(_QUOTACTL_FD), ctypes.c_uint(fd), ctypes.c_uint(_GETQUOTA), ctypes.c_long(project))
    if libc.syscall(*number, answer) != 0:
        return None
    return parse_quota(answer.raw)


def parse_quota(raw: bytes) -> tuple[int, int, int | None]:
    """Of a struct fs_disk_quota: bytes, inodes, limit in bytes."""
    _, _, _, _, hard, _, _, _, blocks, inodes = _QUOTA.unpack_from(raw)
    return blocks * BLOCK, inodes, hard * BLOCK or None


def _project(fd: int, relative: str) -> int:
    try:
        there = os.open(relative, _OPEN, dir_fd=fd)
    except OSError:
        return 0
    try:
        answer = fcntl.ioctl(there, _FSGETXATTR, bytes(_XATTR.size))
    except OSError:
        return 0
    finally:
        os.close(there)
    return int(_XATTR.unpack(answer)[3])


def measure_layer(path: str, owner: int | None, pace: Pace) -> dict[str, object]:
    """Real path, device, bytes, inodes and limit of a writable layer. `owner`: whose it has to be. OSError, TooMuch."""
    fd = os.open(path, _OPEN)
    try:
        if owner is not None and os.fstat(fd).st_uid != owner:
            raise PermissionError(errno.EACCES, "it belongs to another user than the runtime that made it")
        size = os.fstatvfs(fd)
        out: dict[str, object] = {
            "path": os.readlink(f"/proc/self/fd/{fd}"),
            "device": os.fstat(fd).st_dev,
            "limit": size.f_blocks * size.f_frsize,
        }
        if (known := quota(fd)) is not None:
            out["bytes"], out["inodes"], limit = known
            out["limit"] = limit or out["limit"]
            return out
        fd, walked = -1, fd
        out["bytes"], out["inodes"] = walk(walked, pace.step)
        return out
    finally:
        if fd >= 0:
            os.close(fd)


def measure_logs(patterns: list[str], pace: Pace) -> Iterator[dict[str, object]]:
    """The same, without inodes, of each file and directory that the first pattern with any matches. OSError, TooMuch."""
    found = next((names for p in patterns if (names := sorted(glob.glob(p)))), [])
    for path in {os.path.realpath(name) for name in found}:
        status = os.lstat(path)
        size = os.statvfs(path)
        used = status.st_blocks * BLOCK
        if stat.S_ISDIR(status.st_mode):
            used, _ = walk(os.open(path, _OPEN), pace.step)
        yield {"path": path, "device": status.st_dev, "bytes": used, "limit": size.f_blocks * size.f_frsize}


def answer(question: dict[str, object]) -> dict[str, object]:
    """What is asked for, or `error`; with `work_s` in any case."""
    pace = Pace(float(str(question["share"])))
    out: dict[str, object] = {}
    try:
        owner = question["owner"]
        out["layer"] = measure_layer(str(question["layer"]), owner if isinstance(owner, int) else None, pace)
        out["logs"] = list(measure_logs([str(p) for p in question["logs"]], pace))  # type: ignore[attr-defined]
    except (OSError, TooMuch) as exc:
        out["error"] = f"{exc.strerror or exc}" if isinstance(exc, OSError) else str(exc)
        out["is_gone"] = isinstance(exc, FileNotFoundError)
    out["work_s"] = pace.stop()
    return out


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent ends, and the standard input with it
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard != resource.RLIM_INFINITY else 4096, hard))
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
