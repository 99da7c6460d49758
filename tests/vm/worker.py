"""A process inside a cgroup that does one load at a time on request, and stands still between."""

import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DISK = Path("/dev/vda")
MIB = 1 << 20
_held: list[Any] = []
_held_pipes: list[int] = []
_BLKDISCARD = 0x1277


def burn() -> None:
    """0.3 s of CPU time."""
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


def touch_memory() -> None:
    """24 MiB of anonymous memory, each page touched."""
    block = mmap.mmap(-1, 24 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(block), 4096):
        block[at] = 1
    _held.append(block)


def map_file() -> None:
    """8 MiB of the disk read through the page cache, and mapped."""
    with open(DISK, "rb") as disk:
        view = mmap.mmap(disk.fileno(), 8 * MIB, mmap.MAP_SHARED, mmap.PROT_READ)
    sum(view[at] for at in range(0, len(view), 4096))
    _held.append(view)


def write_directly() -> None:
    """4 MiB written to the disk past the page cache, in 16 requests."""
    block = mmap.mmap(-1, MIB // 4)
    fd = os.open(DISK, os.O_WRONLY | os.O_DIRECT)
    for _ in range(16):
        os.write(fd, block)
    os.close(fd)


def read_all() -> None:
    """The whole disk, 64 MiB, through the page cache."""
    with open(DISK, "rb", buffering=0) as disk:
        while disk.read(MIB):
            pass


def write_cached() -> None:
    """8 MiB written to the disk's page cache, and left there."""
    with open(DISK, "r+b", buffering=0) as disk:
        disk.write(b"x" * (8 * MIB))


def write_behind() -> None:
    """1 MiB written to the disk's page cache, then to the disk, by requests that nobody waits for yet."""
    with open(DISK, "r+b", buffering=0) as disk:
        disk.write(b"y" * MIB)
        os.posix_fadvise(disk.fileno(), 0, MIB, os.POSIX_FADV_DONTNEED)
        os.fsync(disk.fileno())


def flush() -> None:
    """What waits to be written to the disk is, by a thread, so that it can be watched."""

    def sync() -> None:
        with open(DISK, "r+b", buffering=0) as disk:
            os.fsync(disk.fileno())

    threading.Thread(target=sync, daemon=True).start()


def discard() -> None:
    """1 MiB of the disk discarded, in one request."""
    with open(DISK, "r+b", buffering=0) as disk:
        fcntl.ioctl(disk.fileno(), _BLKDISCARD, struct.pack("QQ", 32 * MIB, MIB))


def touch_again() -> None:
    """Memory that was touched before, each page read once more."""
    for block in _held:
        sum(block[at] for at in range(0, len(block), 4096))


def fill_pipes() -> None:
    """2 MiB in pipes, which is memory of the kernel."""
    for _ in range(32):
        reading, writing = os.pipe()
        os.write(writing, bytes(1 << 16))
        _held_pipes.extend((reading, writing))


def burst() -> None:
    """Little CPU time for half a second, so that some is saved up, then much at once."""
    for _ in range(50):
        time.sleep(0.01)
    end = time.process_time() + 0.07
    while time.process_time() < end:
        pass


def start_threads() -> None:
    """Three threads that wait."""
    for _ in range(3):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def be_killed() -> None:
    """A child that takes more memory than there is, until the kernel kills it."""
    pid = os.fork()
    if pid == 0:
        while True:
            touch_memory()
    os.waitpid(pid, 0)


LOADS: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        *(burn, burst, touch_memory, touch_again, fill_pipes, map_file, start_threads, be_killed),
        *(read_all, write_directly, write_cached, write_behind, flush, discard),
    )
}


class Worker:
    """Forked off, and put into the directories before it does anything."""

    def __init__(self, directories: list[Path]) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._orders)
                for directory in directories:
                    (directory / "cgroup.procs").write_text(str(os.getpid()))
                os.write(answers, b".")
                while (name := os.read(orders, 64)) != b"end":
                    LOADS[name.decode()]()
                    os.write(answers, b".")
            finally:
                os._exit(0)
        os.close(orders)
        os.close(answers)
        assert os.read(self._answers, 1) == b"."

    def do(self, load: Callable[[], None]) -> None:
        """Has the load done, and returns when it is."""
        os.write(self._orders, load.__name__.encode())
        assert os.read(self._answers, 1) == b".", f"{load.__name__} failed"

    def end(self) -> None:
        os.write(self._orders, b"end")  # not the pipe's end: workers that were forked later have it open too
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self.pid, 0)
