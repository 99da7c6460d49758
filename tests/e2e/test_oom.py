"""Real OOM kills under the whole program: whose limit it was, who died, and in which container, in the store."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@contextlib.contextmanager
def following(program: Program, *words: str) -> Iterator[Iterator[str]]:
    """Lines of `tidegauge events --follow`, as they come."""
    command = program.command("events", "--follow", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=program.environ) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130


def has_log() -> bool:
    return os.access("/dev/kmsg", os.R_OK)


def test_limit_of_one_container_kills_in_another(tmp_path: Path, groups: tuple[Group, Group]) -> None:
    need(has_log(), "the right to read /dev/kmsg")
    outer, inner = groups
    with Program(tmp_path, "[sampler]\nbase_interval_s = 0.5\n") as program:
        eventually(lambda: program.sql("SELECT 1 FROM container WHERE path = ?", inner.path), why="not discovered")
        pid = inner.be_greedy()
        # the process moves itself from another cgroup, and its name is that of the interpreter's thread
        events = eventually(lambda: len(e := stored(program, outer.path, inner.path)) >= 2 and e, why="no events")
        oom, kill = events
        assert (oom[0], oom[1]) == ("oom", outer.path)
        assert (kill[0], kill[1]) == ("oom_kill", inner.path)
        assert kill[2] == {
            "count": 1,
            "pid": pid,
            "process": kill[2]["process"],
            "constraint": "CONSTRAINT_MEMCG",
            "limit_path": outer.path,
        }
        assert "python" in kill[2]["process"]
        assert (oom[2]["pid"], oom[2]["victim_path"]) == (pid, inner.path)
        before = len(events)

        # The same over the running one's own API, and to who follows it.
        done = program.call("events", "--path", outer.path, "--kind", "oom_kill", "--json", "--since", "1h")
        (shown,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert (shown["kind"], shown["path"], shown["details"]) == kill
        assert program.call("events", "--path", outer.path, "--only", "--kind", "oom_kill").stdout == ""
        with following(program, "--path", outer.path, "--kind", "oom_kill", "--kind", "oom") as lines:
            assert "pid=" in next(line for line in lines if "oom_kill" in line), "what was there before"
            second = inner.be_greedy()
            assert f"pid={second}" in next(line for line in lines if f"pid={second}" in line)
        events = eventually(lambda: len(e := stored(program, outer.path, inner.path)) >= 4 and e, why="no second kill")
        before = len(events)

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
