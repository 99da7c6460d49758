"""v1 hierarchies of controllers that this machine has not mounted, for a test's own `sys`."""

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import need


@contextlib.contextmanager
def locked(controller: str) -> Iterator[None]:
    """A controller is in one hierarchy at a time, so tests that move or use it wait for each other."""
    with (Path(tempfile.gettempdir()) / f"tidegauge-test-{controller}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def mounted(controller: str, sys: Path) -> Iterator[Path]:
    """The hierarchy mounted below `sys`, and a cgroup in it that is removed at the end."""
    need(os.geteuid() == 0, "root, to mount a cgroup hierarchy")
    root = sys / "fs/cgroup" / controller
    root.mkdir(parents=True)
    with locked(controller):
        done = _mount(controller, root)
        need(done.returncode == 0, f"to mount the v1 controller {controller}: {done.stderr.strip()}")
        where = root / f"tidegauge-test-{os.getpid()}-{time.monotonic_ns()}"
        try:
            where.mkdir()
            yield where
        finally:
            removed(where)
            _give_back(controller, root)


def _mount(controller: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Mounts it; busy for a moment after a cgroup of the hierarchy where it was before has been removed."""
    command = ["mount", "-t", "cgroup", "-o", controller, "none", str(root)]
    for _ in range(100):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        time.sleep(0.1)
    return done


def _give_back(controller: str, root: Path) -> None:
    """Unmounts the hierarchy until the kernel gives it up, which it does only if no removed cgroup is left in it by then."""
    for _ in range(100):
        subprocess.run(["umount", str(root)], check=True)
        for _ in range(4):
            if _hierarchy_of(controller) == 0:
                return
            time.sleep(0.05)
        assert _mount(controller, root).returncode == 0
    subprocess.run(["umount", str(root)], check=True)
    raise AssertionError(f"the hierarchy of {controller} stays")


def _hierarchy_of(controller: str) -> int:
    """0: the unified one."""
    rows = (line.split() for line in Path("/proc/cgroups").read_text().splitlines())
    return next(int(row[1]) for row in rows if row[0] == controller)


def removed(where: Path) -> None:
    """Removes the cgroup, as soon as its last process is quite gone."""
    for _ in range(100):
        try:
            where.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
