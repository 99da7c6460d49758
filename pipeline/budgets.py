"""Bounds of what the program itself costs: CPU time for looking at idle containers, open descriptors, memory."""

import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

WINDOW_NS = 10_000_000_000
_MAX_EVERY = 64
_RECOUNT_AFTER = 32
_RESERVE = 1024
"""Descriptors left to all else: walks, slow collectors, runtimes, the log; a quarter of all where there are few."""
_M_ARENA_MAX = -8
"""mallopt(3)."""
_FILES_A_READER = 32
"""About what the readers of one container keep open, rather too many."""


class ProbeBudget:
    """Says at which ticks idle containers are looked at, so that looking stays within a share of one core.

    `every` doubles when a window of 10 s went beyond the budget, and halves when it would stay within it at half the period.
    """

    def __init__(self, percent: float) -> None:
        self.percent = percent
        self.every = 1
        self._spent_ns = 0
        self._since_ns: int | None = None

    def is_look(self, tick: int) -> bool:
        """True if idle containers are looked at in the tick of this number."""
        return tick % self.every == 0

    def spent(self, cpu_ns: int, now_ns: int) -> None:
        """Takes account of one look; `now_ns` is monotonic."""
        if self._since_ns is None:
            self._since_ns = now_ns
        self._spent_ns += cpu_ns
        elapsed = now_ns - self._since_ns
        if elapsed < WINDOW_NS:
            return
        percent = 100 * self._spent_ns / elapsed
        if percent > self.percent:
            self.every = min(self.every * 2, _MAX_EVERY)
        elif self.every > 1 and percent * 2 <= self.percent:
            self.every //= 2
        self._spent_ns, self._since_ns = 0, now_ns


def raise_descriptor_limit() -> int:
    """Raises this process's limit of open files as far as it may and returns it.

    Services start with 1024 for the sake of select(2), which the sampler does not use; a thousand idle containers need more.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # a sandbox may forbid it; the budget then holds to what there is
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def share_arenas() -> None:
    """Has all threads allocate from two arenas, before there are any.

    glibc gives nearly each an arena of its own, in which stays what was freed there: 8 of 71 MiB in the server.
    """
    import ctypes  # the parent does without

    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class DescriptorBudget:
    """Says when readers must give back their descriptors after each reading.

    Counting costs a listing of `/proc/self/fd` (1.8 ms for 1400), so it is done after some more readers were opened than
    parked, and not at each before the limit is near.
    """

    def __init__(self, limit: int | None = None, count: Callable[[], int] | None = None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = max(soft * 3 // 4, soft - _RESERVE) if limit is None else limit
        self._count = _open_descriptors if count is None else count
        self._opened = 0
        self.probes = 0
        """Containers: each keeps one descriptor for its probe, whatever is parked."""
        self.waiting = 0
        """Those of them whose probe is not open yet: its descriptor is spoken for."""
        self.open = 0
        """Descriptors of this process when last counted."""
        self.is_exceeded = False

    def opened(self) -> None:
        """A container's readers were opened."""
        self._opened += 1
        if self.is_exceeded:
            return
        taken = self.open + self.waiting + self._opened * _FILES_A_READER
        if self._opened >= _RECOUNT_AFTER or taken > self.limit:
            self.recount()

    def parked(self) -> None:
        """A container's readers gave their descriptors back."""
        self._opened -= 1

    def recount(self) -> None:
        """Counts now. When half of what the probes leave is free, readers may stay open again."""
        self._opened = 0
        self.open = self._count()
        free_again = min(self.limit, (self.limit + self.probes) // 2)
        self.is_exceeded = self.open + self.waiting > (free_again if self.is_exceeded else self.limit)


def _open_descriptors(folder: Path = Path("/proc/self/fd")) -> int:
    return len(os.listdir(folder))
