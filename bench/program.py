"""The whole program: `tidegauge run` with its default sinks (memory, SQLite), against the C program that only reads.

Static at several counts of real cgroups; dynamic at the greatest, with the blindness and the memory; and the lateness of
ticks while the server is asked without a pause.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.cgroups import TOP, Cgroups, KernelMemory
from bench.collect import allow_many_files, wanted
from bench.data import folder as fresh_folder
from bench.native import Limit
from bench.report import Row, Section, ratio

_CONFIG = """
state_dir = "{state}"
server_user = "root"
[http]
listen = "127.0.0.1:{port}"
socket = ""
[log]
level = "warning"
[sampler]
dynamic = {dynamic}
include = ["/{top}/*"]
"""


_PROCESSES = ("parent", "sampler", "server")


class Program:
    """A running tidegauge that samples the benchmark's cgroups and the host; a context manager."""

    def __init__(self, state: Path, *, is_dynamic: bool, most_files: int | None = None) -> None:
        """`most_files`: hard limit of open files for each of its processes; None: that of this process."""
        self.database = state / "server" / "tidegauge.db"
        self._most_files = most_files
        with closing(socket.socket()) as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._config = state.parent / f"{state.name}.toml"
        self._config.write_text(_CONFIG.format(state=state, port=port, top=TOP, dynamic=str(is_dynamic).lower()))

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tidegauge.cli.main", "run", "--config", str(self._config)]
        if self._most_files is not None:
            command = ["prlimit", f"--nofile={self._most_files}", *command]
        self._process = subprocess.Popen(command)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in self.pids():
                os.kill(pid, signal.SIGKILL)
            self._process.wait(10)

    def pids(self) -> list[int]:
        """The parent, then its children."""
        parent = self._process.pid
        return [parent, *map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())]

    def metrics(self) -> dict[str, float]:
        """Its own counters without labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#") and "{" not in line)
        return {name.removeprefix("tidegauge_"): float(value) for name, _, value in pairs}

    def wait_for(self, containers: int, timeout_s: float = 60) -> None:
        """Until it samples at least so many."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                if self.metrics().get("containers", 0) >= containers:
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None:
                    raise RuntimeError(f"tidegauge ended with status {self._process.returncode}") from None
            time.sleep(0.2)
        raise RuntimeError(f"tidegauge did not find {containers} containers in {timeout_s:.0f} s")

    def cpu_ns(self) -> list[int]:
        """CPU time of each process: all its threads, those that ended too."""
        return [_cpu_ns(pid) for pid in self.pids()]

    def pss_mib(self) -> list[float]:
        """Proportional share of memory of each process."""
        return [_pss_bytes(pid) / 2**20 for pid in self.pids()]


def _cpu_ns(pid: int) -> int:
    """The kernel's CPU clock of another process (clock_getcpuclockid(3)), in ns where /proc/PID/stat has ticks."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class _Window:
    """CPU time of the program between two moments, and the samples of that time that came into the store."""

    def __init__(self, program: Program, seconds: float) -> None:
        start_ms, start, cpu = _wall_ms(), time.monotonic(), program.cpu_ns()
        time.sleep(seconds)
        used = [b - a for a, b in zip(cpu, program.cpu_ns(), strict=True)]
        elapsed_ns = (time.monotonic() - start) * 1e9
        end_ms = _wall_ms()
        time.sleep(1.5)  # the last tick of the window reaches the store
        with closing(sqlite3.connect(f"file:{program.database}?mode=ro", uri=True)) as db:
            (samples,) = db.execute("SELECT count(*) FROM sample WHERE ts_ms BETWEEN ? AND ?", (start_ms, end_ms)).fetchone()
        self.share = 100 * sum(used) / elapsed_ns
        self.sampler_share = 100 * used[1] / elapsed_ns
        self.sampler_us = used[1] / 1e3 / samples
        self.us = sum(used) / 1e3 / samples


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def run(folder: Path, counts: Sequence[int] = (100, 300, 1000), repeats: int = 3, window_s: float = 5) -> list[Section]:
    allow_many_files()
    folder.chmod(0o755)
    static: list[Row] = []
    rest: list[Section] = []
    at: dict[int, list[float]] = {}
    for count in counts:
        with Cgroups(count, folder, has_network=True) as group:
            static += _static(group, folder, repeats, window_s, at)
            if count == max(counts):
                rest = [_dynamic(group, folder, repeats, 2 * window_s), _lateness(group, folder, 5 * window_s)]
    few, many = min(counts), max(counts)
    if few != many:
        static.append(ratio(f"flat, 3 % busy: all at {many} / at {few}", at[many], at[few], "at most 1.1", 1.1))
    title = "Collection, journal, memory and SQLite together, CPU of one container-sample at 1 Hz, all processes"
    return [Section(title, static), *rest]


def _share(group: Cgroups) -> int:
    return max(1, len(group.paths) * 3 // 100)


def _static(group: Cgroups, folder: Path, repeats: int, window_s: float, at: dict[int, list[float]]) -> list[Row]:
    count = len(group.paths)
    rows: list[Row] = []
    with ExitStack() as stack:
        limit = stack.enter_context(Limit(wanted(group.paths, group.pids), folder))
        program = stack.enter_context(Program(fresh_folder(folder, f"static{count}"), is_dynamic=False))
        program.wait_for(count)
        for label, busy in (("3 % busy", _share(group)), ("all busy", count)):
            group.busy(busy)
            time.sleep(3)
            windows, theirs = [], []
            for _ in range(repeats):
                theirs.append(limit.measure(2, 1000) / count)
                windows.append(_Window(program, window_s))
            ours = [w.us for w in windows]
            rows += [
                Row(f"{count} cgroups, {label}: C, with net/dev", "us", tuple(theirs)),
                Row(f"{count} cgroups, {label}: the sampler process", "us", tuple(w.sampler_us for w in windows)),
                Row(f"{count} cgroups, {label}: all processes", "us", tuple(ours)),
                ratio(f"{count} cgroups, {label}: all processes / C", ours, theirs, "at most 2.5", 2.5),
            ]
            if busy != count:
                at[count] = ours
    return rows


def _dynamic(group: Cgroups, folder: Path, repeats: int, window_s: float) -> Section:
    """Measured when idle containers have backed off to the maximum interval."""
    count = len(group.paths)
    busy = _share(group)
    group.busy(busy)
    with KernelMemory() as memory, Program(fresh_folder(folder, "dynamic"), is_dynamic=True) as program:
        memory.take(program.pids()[0])
        program.wait_for(count)
        time.sleep(70)  # 1 + 2 + 4 ... + 32 s to the maximum interval of 60 s
        settled_ms = _wall_ms()
        windows = [_Window(program, window_s) for _ in range(repeats)]
        metrics = program.metrics()
        pss, kernel = program.pss_mib(), memory.bytes()
        late = lateness_ms(program, settled_ms)
        delays = _delays(group, program, range(busy, busy + 10))
        memory.reclaim()
        time.sleep(1)
        held = memory.bytes()
    return Section(
        f"Dynamic, base interval 1 s, {count} cgroups, {busy} busy",
        [
            Row("share of a core, all processes", "%", tuple(w.share for w in windows), "at most 0.7", 0.7),
            Row("share of a core, the sampler process", "%", tuple(w.sampler_share for w in windows)),
            Row("a burst in an idle container is in the store with a reading after", "s", tuple(delays), "at most 1", 1),
            Row("longest time an idle container was not looked at", "s", (metrics["greatest_blindness_seconds"],)),
            Row("lateness of ticks, p99", "ms", (p99(late),), "under 50", 50),
            Row("memory, PSS of all processes", "MiB", (sum(pss),), "at most 100", 100),
            *(Row(f"memory, PSS of the {name}", "MiB", (m,)) for name, m in zip(_PROCESSES, pss, strict=True)),
            Row("kernel memory that it holds, a container", "KiB", (held / count / 1024,), "at most 16", 16),
            Row("the same with names and inodes that are only cached", "KiB", (kernel / count / 1024,)),
        ],
    )


def _delays(group: Cgroups, program: Program, indexes: Sequence[int]) -> list[float]:
    """Seconds from the start of work in an idle container to the time of the first stored reading that shows it."""
    started: dict[int, int] = {}
    for i in indexes:
        started[i] = _wall_ms()
        group.signal_one(i, True)
        time.sleep(0.37)  # another place within the tick for each
    time.sleep(3)
    delays = []
    with closing(sqlite3.connect(f"file:{program.database}?mode=ro", uri=True)) as db:
        for i, start_ms in started.items():
            query = (
                "SELECT min(s.ts_ms) FROM sample s JOIN container c ON c.id = s.container "
                "WHERE c.path = ? AND s.ts_ms >= ? AND NOT s.is_closing"
            )
            (seen_ms,) = db.execute(query, (group.paths[i], start_ms)).fetchone()
            delays.append((seen_ms - start_ms) / 1000 if seen_ms is not None else float("inf"))
            group.signal_one(i, False)
    return delays


def _lateness(group: Cgroups, folder: Path, seconds: float) -> Section:
    """Ticks of a static program while two clients ask its server without a pause."""
    count = len(group.paths)
    group.busy(_share(group))
    with Program(fresh_folder(folder, "late"), is_dynamic=False) as program:
        program.wait_for(count)
        time.sleep(3)
        start_ms = _wall_ms()
        stop = _load(program.url)
        time.sleep(seconds)
        asked = stop()
        time.sleep(2)  # the last ticks reach the store
        late = lateness_ms(program, start_ms)
    return Section(
        f"Lateness of ticks, {count} cgroups read at 1 Hz, the server under load",
        [
            Row("lateness, p99", "ms", (p99(late),), "under 50", 50),
            Row("lateness, all ticks", "ms", tuple(late)),
            Row("ticks stored of those due", "%", (100 * len(late) / (seconds + 2),)),
            Row("requests answered meanwhile", "1/s", (asked / seconds,)),
        ],
    )


def lateness_ms(program: Program, since_ms: int) -> list[float]:
    """How much later than the earliest each tick came within its second, by the stored times of the host's samples."""
    return list(lateness_by_tick(program, since_ms).values())


def lateness_by_tick(program: Program, since_ms: int) -> dict[int, float]:
    """The same by time of the tick. It is what a reader of the store sees, and owes nothing to the program's own counters."""
    with closing(sqlite3.connect(f"file:{program.database}?mode=ro", uri=True)) as db:
        query = "SELECT s.ts_ms FROM sample s JOIN container c ON c.id = s.container WHERE c.path = '/' AND s.ts_ms >= ?"
        times = [ts for (ts,) in db.execute(f"{query} ORDER BY s.ts_ms", (since_ms,))]
    phases = [(ts - times[0] + 500) % 1000 - 500 for ts in times]
    return {ts: float(phase - min(phases)) for ts, phase in zip(times, phases, strict=True)}


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(int(0.99 * len(values)), len(values) - 1)]


def _load(url: str, clients: int = 2) -> Callable[[], int]:
    """Clients that ask for /metrics one answer after the other. Returns what stops them and tells the number of answers."""
    answers = [0] * clients
    is_stopping = threading.Event()

    def ask(i: int) -> None:
        while not is_stopping.is_set():
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                answer.read()
            answers[i] += 1

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
    for t in threads:
        t.start()

    def stop() -> int:
        is_stopping.set()
        for t in threads:
            t.join()
        return sum(answers)

    return stop
