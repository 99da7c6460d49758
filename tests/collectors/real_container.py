"""A cgroup of the test's own in every hierarchy of this machine, and processes for it that do what is asked of them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.support import eventually, need

from tidegauge.collectors.cgroup_paths import find_mounts


class RealContainer:
    """Made on entering, gone on leaving together with its processes."""

    def __init__(self) -> None:
        need(os.geteuid() == 0, "root")
        self.mounts = find_mounts(Path("/sys"), Path("/proc"))
        need(self.mounts.hierarchies(), "a cgroup hierarchy")
        self.path = f"/tidegauge-test-{os.getpid()}-{time.monotonic_ns()}"
        self.folders = [Path(d) for d in self.mounts.directories(self.path)]
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "RealContainer":
        for folder in self.folders:
            folder.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for folder in self.folders:
            eventually(lambda folder=folder: _is_removed(folder))  # type: ignore[misc]

    def add(self, pid: int) -> None:
        """Puts a process into it."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def run(self, code: str, *before: str) -> subprocess.Popen[str]:
        """A Python process inside that runs the code and answers `ask`; `before` are words before its command."""
        command = [*before, sys.executable, "-u", "-c", f"{_HEAD}\n{code}\n{_TAIL}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=self._join)
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def _join(self) -> None:
        self.add(os.getpid())


_HEAD = "import mmap, os, socket, subprocess, sys, threading, time"
_TAIL = """
print("ready")
for line in sys.stdin:
    exec(line)
    print("done")
"""


def ask(process: subprocess.Popen[str], statement: str) -> None:
    """Has a process of `run` do one line of Python, and waits until it is done."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(statement + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n", statement


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
