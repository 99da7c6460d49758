"""Real OOM kills under the whole program: whose limit it was, who died, and in which container, in the store."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tests.e2e.program import Program, eventually
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(300)]
MEMORY = Path("/sys/fs/cgroup/memory")
"""On v2 the one hierarchy."""
LIMIT = 24 << 20

GREEDY = """
import os, sys
for place in sys.argv[1:]:
    open(place + "/cgroup.procs", "w").write(str(os.getpid()))
blocks = []
while True:
    blocks.append(bytearray(b"x" * (1 << 20)))
"""


class Group:
    """A real cgroup with memory and CPU counters, by its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        root = Path("/sys/fs/cgroup")
        self.is_v2 = (root / "cgroup.controllers").exists()
        roots = [root] if self.is_v2 else [root / "cpuacct", root / "memory"]
        self.places = [Path(f"{r}{path}") for r in roots]
        for place in self.places:
            place.mkdir()

    @property
    def memory(self) -> Path:
        return self.places[-1]

    def limit(self, size: int) -> None:
        (self.memory / ("memory.max" if self.is_v2 else "memory.limit_in_bytes")).write_text(str(size))
        with contextlib.suppress(OSError):  # no swap account
            (self.memory / ("memory.swap.max" if self.is_v2 else "memory.memsw.limit_in_bytes")).write_text(
                "0" if self.is_v2 else str(size)
            )

    def be_greedy(self) -> int:
        """A process takes memory here until the kernel kills it; its pid."""
        process = subprocess.Popen([sys.executable, "-c", GREEDY, *map(str, self.places)])
        assert process.wait(60) == -signal.SIGKILL
        return process.pid

    def remove(self) -> None:
        for place in self.places:
            for _ in range(200):
                try:
                    place.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)


@pytest.fixture
def groups() -> Iterator[tuple[Group, Group]]:
    """A cgroup with a limit, and one inside it."""
    need(os.geteuid() == 0, "root, to make cgroups")
    need(MEMORY.is_dir() or Path("/sys/fs/cgroup/memory.stat").exists(), "the memory controller")
    outer = Group(f"/tg-oom-{os.getpid()}")
    if outer.is_v2:
        (outer.memory / "cgroup.subtree_control").write_text("+memory +cpu")
    inner = Group(f"{outer.path}/inner")
    outer.limit(LIMIT)
    yield outer, inner
    inner.remove()
    outer.remove()


def stored(program: Program, *paths: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(kind, path of the container, details without it), as SQLite holds them."""
    rows = program.sql(
        "SELECT kind, path, details FROM event LEFT JOIN container ON container.id = event.container "
        "WHERE kind LIKE 'oom%' ORDER BY event.ts_ms, event.row"
    )
    found = [(kind, path, json.loads(details)) for kind, path, details in rows]
    return [(kind, path, {k: v for k, v in d.items() if k != "path"}) for kind, path, d in found if path in paths]


def kills(program: Program, group: Group) -> list[dict[str, Any]]:
    """Details of the kills in a group."""
    return [details for kind, _, details in stored(program, group.path) if kind == "oom_kill"]


@contextlib.contextmanager
def following(program: Program, *words: str) -> Iterator[list[str]]:
    """Lines of `tidegauge events --follow`; more are put behind them as they come."""
    command = program.command("events", "--follow", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=program.environ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        thread = threading.Thread(target=_take, args=(process.stdout, lines))
        thread.start()
        try:
            yield lines
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
            thread.join(30)
        assert code == 130


def _take(stream: IO[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)


def has_log() -> bool:
    return os.access("/dev/kmsg", os.R_OK)


class KernelLog:
    """What the kernel's log says from now on. It leaves out whose limit it was when it kills more than ten times in 5 s."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._said = b""

    def says_all_of(self, pid: int) -> bool:
        """Whether it told pid and cgroups of this kill, which is over."""
        while True:
            try:
                self._said += os.read(self._fd, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # records were overwritten before they were read
                continue
        return re.search(rb"oom-kill:constraint=.*,task_memcg=.*,pid=%d,uid=" % pid, self._said) is not None

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def kernel_log() -> Iterator[KernelLog]:
    need(has_log(), "the right to read /dev/kmsg")
    log = KernelLog()
    yield log
    log.close()


def test_limit_of_one_container_kills_in_another(tmp_path: Path, groups: tuple[Group, Group], kernel_log: KernelLog) -> None:
    outer, inner = groups
    with Program(tmp_path, "[sampler]\nbase_interval_s = 0.5\n") as program:
        eventually(lambda: program.sql("SELECT 1 FROM container WHERE path = ?", inner.path), why="not discovered")
        pid = inner.be_greedy()
        # the process moves itself from another cgroup, and its name is that of the interpreter's thread
        is_told = kernel_log.says_all_of(pid)
        expected = 2 if outer.is_v2 or is_told else 1
        events = eventually(lambda: len(e := stored(program, outer.path, inner.path)) >= expected and e, why="no events")
        kill = next(e for e in events if e[0] == "oom_kill")
        assert kill[1] == inner.path
        if is_told:
            oom = next(e for e in events if e[0] == "oom")
            assert oom[1] == outer.path
            assert (oom[2]["pid"], oom[2]["victim_path"]) == (pid, inner.path)
            assert kill[2] == {
                "count": 1,
                "pid": pid,
                "process": kill[2]["process"],
                "constraint": "CONSTRAINT_MEMCG",
                "limit_path": outer.path,
            }
            assert "python" in kill[2]["process"]

        # The same over the running one's own API, and to who follows it.
        done = program.call("events", "--path", outer.path, "--kind", "oom_kill", "--json", "--since", "1h")
        (shown,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert (shown["kind"], shown["path"], shown["details"]) == kill
        assert program.call("events", "--path", outer.path, "--only", "--kind", "oom_kill").stdout == ""
        with following(program, "--path", outer.path, "--kind", "oom_kill") as lines:
            eventually(lambda: any("oom_kill" in line for line in lines), why=f"what was there before is not shown: {lines}")
            shown_before = len(lines)
            second = inner.be_greedy()
            # without `pid` where the kernel's log left it out
            text = f"pid={second}" if kernel_log.says_all_of(second) else f"{inner.path}  count=1"
            eventually(lambda: any(text in line for line in lines[shown_before:]), 60, f"no {text!r} in {lines}")
        eventually(lambda: len(kills(program, inner)) >= 2, why="no second kill")
        before = len(stored(program, outer.path, inner.path))

        # Neither a restart nor the log's old entries tell it again; what is killed while nobody looks is told once.
        assert program.stop() == 0
        inner.be_greedy()
        program.start()
        events = eventually(lambda: len(e := stored(program, inner.path)) >= 3 and e, why="no event of the time between")
        assert events[2][0] == "oom_kill"
        assert events[2][2]["count"] == 1
        assert events[2][2]["since_ms"] > 0
        assert "pid" not in events[2][2]
        assert len(stored(program, inner.path, outer.path)) == before + (2 if outer.is_v2 else 1)
        program.kill("sampler")
        eventually(lambda: program.children().get("sampler"), why="the sampler is not started again")
        inner.be_greedy()
        events = eventually(lambda: len(e := stored(program, inner.path)) >= 4 and e, why="no event after the restart")
        assert sum(details["count"] for _, _, details in events) == 4


def test_a_container_that_is_removed_at_once_has_its_event_first(tmp_path: Path, groups: tuple[Group, Group]) -> None:
    need(has_log(), "the right to read /dev/kmsg")
    _, inner = groups
    with Program(tmp_path, "[sampler]\nbase_interval_s = 30.0\n") as program:
        eventually(lambda: program.sql("SELECT 1 FROM container WHERE path = ?", inner.path), why="not discovered")
        inner.be_greedy()
        inner.remove()

        def story() -> list[str]:
            rows = program.sql(
                "SELECT kind FROM event JOIN container ON container.id = event.container WHERE path = ? ORDER BY event.row",
                inner.path,
            )
            return [kind for (kind,) in rows]

        eventually(lambda: "deletion" in story(), why="no deletion")
        assert story() == ["creation", "oom_kill", "deletion"]


def test_without_the_kernels_log_the_counters_tell(tmp_path: Path, groups: tuple[Group, Group]) -> None:
    outer, inner = groups
    with Program(tmp_path, '[sampler]\nbase_interval_s = 0.5\nkmsg = "/does/not/exist"\n') as program:
        eventually(lambda: program.sql("SELECT 1 FROM container WHERE path = ?", inner.path), why="not discovered")
        inner.be_greedy()
        events = eventually(lambda: [e for e in stored(program, outer.path, inner.path) if e[0] == "oom_kill"], why="no event")
        assert events == [("oom_kill", inner.path, {"count": 1})]
        assert "told without process" in program.text()
