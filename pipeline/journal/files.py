"""File operations of the journal: room that is really there, folders that are really written."""

import errno
import os
from pathlib import Path

_ZEROS = bytes(1 << 20)
_NOT_OFFERED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def allocate(fd: int, size: int) -> None:
    """Makes the file at least this long, with disk blocks behind it. OSError (ENOSPC and so on) if that cannot be had."""
    have = os.fstat(fd).st_size
    if have >= size:
        return
    try:
        os.posix_fallocate(fd, have, size - have)
    except OSError as exc:
        if exc.errno not in _NOT_OFFERED:
            raise
        at = have
        while at < size:
            at += os.pwrite(fd, _ZEROS[: size - at], at)


def write_at(fd: int, pieces: list[bytes], at: int) -> None:
    """Writes all of the pieces one after the other, or raises OSError."""
    size = sum(map(len, pieces))
    if os.pwritev(fd, pieces, at) != size:
        # A second try for the rest would meet what stopped the first; the caller goes to another segment instead.
        raise OSError(errno.ENOSPC, "short write")


def sync_folder(folder: Path) -> None:
    """Makes names that were made or removed in the folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
