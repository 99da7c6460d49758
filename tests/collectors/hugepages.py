"""Huge pages for tests: some for the machine, and a process in a cgroup that takes them one by one."""

import contextlib
import fcntl
import mmap
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support import need

PAGE = 2 << 20
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
_MAP_HUGETLB = 0x40000


@contextlib.contextmanager
def pages(wanted: int) -> Iterator[None]:
    """So many huge pages of 2 MiB more than the machine had, given back at the end. Tests side by side wait for each other."""
    need(os.geteuid() == 0 and POOL.exists(), "root and huge pages of 2 MiB")
    with (Path(tempfile.gettempdir()) / "tidegauge-test-hugepages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = int(POOL.read_text())
        POOL.write_text(str(before + wanted))
        try:
            need(int(POOL.read_text()) == before + wanted, "enough memory in one piece for huge pages")
            yield
        finally:
            POOL.write_text(str(before))


class Taker:
    """A process in the cgroup that maps and touches one huge page at each `take`."""

    def __init__(self, where: Path) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._orders)
                os.close(self._answers)
                signal.signal(signal.SIGBUS, signal.SIG_DFL)  # pytest's handler would print where it was
                (where / "cgroup.procs").write_text(str(os.getpid()))
                held = []
                os.write(answers, b".")
                while os.read(orders, 1) == b"t":
                    held.append(mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB))
                    held[-1][0] = 1  # beyond the limit: SIGBUS
                    os.write(answers, b".")
            finally:
                os._exit(0)
        os.close(orders)
        os.close(answers)
        assert os.read(self._answers, 1) == b"."

    def take(self) -> bool:
        """False if the process was killed for it."""
        os.write(self._orders, b"t")
        return os.read(self._answers, 1) == b"."

    def end(self) -> int | None:
        """The signal that killed it, None if it ended by itself."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, b"e")
        os.close(self._orders)
        os.close(self._answers)
        _, status = os.waitpid(self.pid, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


BUS = int(signal.SIGBUS)
