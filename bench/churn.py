"""Containers that come and go: the whole program over many that stay, while others are made and removed without a pause.

What must not happen: that one is missed, that the program holds more and more (descriptors, threads, watches, memory), or
that it keeps more files open than its budget allows.
"""

import sqlite3
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bench.cgroups import TOP, Cgroups, KernelMemory, hierarchies
from bench.data import folder as fresh_folder
from bench.program import Program
from bench.report import Row, Section

MOST_FILES = 2048
"""Hard limit of open files: 1000 idle containers need one each, and active ones some thirty."""
_BUDGET = MOST_FILES * 3 // 4
_LOOK_S = 2.0


class Held(NamedTuple):
    """What the program holds at one moment, all processes together but for `files`."""

    files: int
    """Open files of the process that has the most."""
    threads: int
    watches: int
    """Directories that inotify watches."""
    pss_mib: float
    kernel_mib: float
    """With names and inodes that are only cached: each cgroup that came and went leaves some, until the kernel wants room."""


class Findings(NamedTuple):
    made: int
    """Cgroups made and removed while it ran."""
    unseen: Sequence[str]
    """Of whom the store has no creation, no end, or no sample although it lived longer than the interval; and which."""
    held: Sequence[Held]
    """Looked at each 2 s, the time of warming up left out."""
    kernel_kept_mib: tuple[float, float]
    """Kernel memory after a reclaim of what is only cached: at the first look and at the end."""
    watches_expected: int
    """Directories there are when nobody comes and goes."""
    collect_errors: float
    late_p99_s: float
    share: float
    """Percent of a core, all processes."""

    def growth(self, field: str) -> float:
        """Median of the last third over that of the first."""
        values = [float(getattr(h, field)) for h in self.held]
        third = max(1, len(values) // 3)
        return statistics.median(values[-third:]) / max(1e-9, statistics.median(values[:third]))


def churn(
    folder: Path, count: int, seconds: float, rate_hz: float = 10, warm_up_s: float = 15, life_s: float = 1.5
) -> Findings:
    """Runs it: `count` that stay, `rate_hz` made and as many removed each second, for `seconds` after the warm-up.

    Each lives for `life_s`, in which it is to be sampled: half a second more than the interval is what a tick may be late.
    """
    with (
        Cgroups(count, folder) as group,
        KernelMemory() as memory,
        Program(fresh_folder(folder, f"churn{count}"), is_dynamic=True, most_files=MOST_FILES) as program,
    ):
        group.busy(max(1, count * 3 // 100))
        memory.take(program.pids()[0])
        program.wait_for(count)
        living: deque[tuple[float, str, subprocess.Popen[bytes]]] = deque()
        made: list[str] = []
        held: list[Held] = []
        start = time.monotonic()
        look_s = start + warm_up_s
        cpu_ns: list[int] | None = None
        kept_mib: list[float] = []
        try:
            while (now := time.monotonic()) < start + warm_up_s + seconds:
                made.append(f"x{len(made):05d}")
                living.append((now, made[-1], group.add(made[-1])))
                while living and living[0][0] < now - life_s:
                    _, name, process = living.popleft()
                    group.remove(name, process)
                if now >= look_s:
                    look_s += _LOOK_S
                    kept_mib = kept_mib or [_kept_mib(memory)]
                    cpu_ns = cpu_ns or program.cpu_ns()
                    held.append(_held(program, memory))
                time.sleep(max(0.0, start + len(made) / rate_hz - time.monotonic()))
            share = 100 * sum(b - a for a, b in zip(cpu_ns or [], program.cpu_ns(), strict=True)) / (seconds * 1e9)
        finally:
            living_at_end = [name for _, name, _ in living]
            for _, name, process in living:
                group.remove(name, process)
        kept_mib.append(_kept_mib(memory))
        unseen = _unseen(program, made, made[-len(living_at_end) :], 60)
        metrics = program.metrics()
        return Findings(
            made=len(made),
            unseen=unseen,
            held=held,
            kernel_kept_mib=(kept_mib[0], kept_mib[-1]),
            watches_expected=len(hierarchies()) * (count + 1),
            collect_errors=metrics.get("collect_errors_total", 0.0),
            late_p99_s=metrics.get("lateness_p99_seconds", 0.0),
            share=share,
        )


def run(folder: Path, count: int = 1000, seconds: float = 600) -> list[Section]:
    """Ten minutes of it."""
    folder.chmod(0o755)
    found = churn(folder, count, seconds)
    rows = [
        Row("made and removed", "cgroups", (float(found.made),)),
        Row("missed", "cgroups", (float(len(found.unseen)),), "0", 0),
        Row("open files of one process", "files", tuple(float(h.files) for h in found.held), f"at most {_BUDGET}", _BUDGET),
        *(
            Row(f"{what}, last third / first", "x", (found.growth(field),), f"at most {limit}", limit)
            for field, what, limit in (
                ("files", "open files", 1.05),
                ("threads", "threads", 1.05),
                ("watches", "watches", 1.05),
                ("pss_mib", "memory (PSS)", 1.1),
            )
        ),
        Row(
            "kernel memory that is not only cached, end / begin",
            "x",
            (found.kernel_kept_mib[1] / found.kernel_kept_mib[0],),
            "at most 1.15",
            1.15,
        ),
        Row("threads, all processes", "threads", tuple(float(h.threads) for h in found.held)),
        Row("memory (PSS), all processes", "MiB", tuple(h.pss_mib for h in found.held)),
        Row("lateness of ticks, p99", "ms", (1000 * found.late_p99_s,), "under 50", 50),
        Row("share of a core, all processes", "%", (found.share,)),
    ]
    note = f"{seconds:.0f} s, with at most {MOST_FILES} open files for each process, of which readers may take {_BUDGET}."
    return [Section(f"{count} cgroups with a process each, and 10 more made and removed a second", rows, note)]


def _held(program: Program, memory: KernelMemory) -> Held:
    pids = program.pids()
    files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
    return Held(
        max(files),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
        sum(_watches(pid) for pid in pids),
        sum(program.pss_mib()),
        memory.bytes() / 2**20,
    )


def _kept_mib(memory: KernelMemory) -> float:
    memory.reclaim()
    time.sleep(1)
    return memory.bytes() / 2**20


def _watches(pid: int) -> int:
    """Directories that a process watches, as the kernel lists them for each of its inotify descriptors."""
    count = 0
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            count += sum(line.startswith("inotify ") for line in info.read_text().splitlines())
        except OSError:
            pass  # closed meanwhile
    return count


def _unseen(program: Program, made: Sequence[str], short: Sequence[str], timeout_s: float) -> list[str]:
    """What is missing of whom once the store stands still, or at the timeout. `short`: no sample is expected."""
    query = (
        "SELECT c.path, c.ended_ms IS NOT NULL, EXISTS (SELECT 1 FROM container_span s WHERE s.container = c.id), "
        "EXISTS (SELECT 1 FROM event e WHERE e.container = c.id AND e.kind = 'creation'), "
        "EXISTS (SELECT 1 FROM event e WHERE e.container = c.id AND e.kind = 'deletion') FROM container c"
    )
    parts = ("end", "sample", "creation", "deletion")
    until = time.monotonic() + timeout_s
    while True:
        with closing(sqlite3.connect(f"file:{program.database}?mode=ro", uri=True)) as db:
            seen = {path.removeprefix(f"/{TOP}/"): has for path, *has in db.execute(query)}
        unseen = []
        for name in made:
            has = seen.get(name, (False,) * len(parts))
            lacks = [part for part, is_there in zip(parts, has, strict=True) if not is_there]
            if lacks and not (name in short and lacks == ["sample"]):
                unseen.append(f"{name}: no {', '.join(lacks)}")
        if not unseen or time.monotonic() > until:
            return unseen
        time.sleep(0.5)
