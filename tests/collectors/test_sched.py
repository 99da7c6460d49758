"""Time on and waiting for a CPU: recorded, made up, and real threads beside their raw files and the cgroup's CPU counter."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container
from tests.collectors.made_up_host import MadeUpHost
from tests.collectors.real_container import RealContainer, ask
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.sched import (
    Ledger,
    SchedCollector,
    SchedConfig,
    SchedReader,
    parse_host_schedstat,
    parse_schedstat,
    uptime_ticks,
)
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT

TICKS = os.sysconf("SC_CLK_TCK")
NOTHING = (None, None, None)


def collector_of(root: Path) -> SchedCollector:
    return SchedCollector(SchedConfig(root / "sys", root / "proc"))


class Threads(MadeUpHost):
    """A host whose threads have a start and figures."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_at(1.0)

    def is_at(self, seconds: float) -> None:
        (self.root / "proc/uptime").write_text(f"{seconds:.2f} 1.00\n")

    def ran(self, tid: int, start_s: float, *figures: int) -> None:
        self.file(tid, "stat", f"{tid} (x) S 1 {' '.join(['0'] * 17)} {int(start_s * TICKS)} 4096\n")
        self.file(tid, "schedstat", " ".join(map(str, figures)) + "\n")

    def threads(self, path: str, *tids: int) -> None:
        self.members(path)
        Path(f"{self.cgroup}{path}/cgroup.threads").write_text("".join(f"{t}\n" for t in tids))


@pytest.fixture
def host(tmp_path: Path) -> Threads:
    return Threads(tmp_path)


@pytest.fixture
def reader(host: Threads) -> SchedReader:
    reader = collector_of(host.root).reader(container("/a"))
    assert isinstance(reader, SchedReader)
    return reader


def test_threads_add_up_and_what_ended_is_remembered(host: Threads, reader: SchedReader) -> None:
    host.ran(100, 0.5, 1000, 200, 3)
    host.ran(101, 0.5, 500, 50, 2)
    host.threads("/a", 100, 101)
    assert reader.read() == (1500, 250, 5)
    host.ran(100, 0.5, 1100, 210, 4)
    host.end(101)
    host.threads("/a", 100)
    assert reader.read() == (1600, 260, 6)
    host.end(100)
    host.threads("/a")
    assert reader.read() == (1600, 260, 6)


def test_a_number_used_again_counts_as_another_thread(host: Threads, reader: SchedReader) -> None:
    host.ran(100, 0.5, 1000, 200, 3)
    host.threads("/a", 100)
    assert reader.read() == (1000, 200, 3)
    host.is_at(10)
    host.ran(100, 5, 4000, 900, 9)  # more than the old one had
    assert reader.read() == (5000, 1100, 12)


def test_a_thread_that_comes_from_elsewhere_counts_from_then_on(host: Threads, reader: SchedReader) -> None:
    host.ran(100, 0.5, 1000, 200, 3)
    host.threads("/a", 100)
    assert reader.read() == (1000, 200, 3)
    host.is_at(10)
    host.ran(50, 0.1, 10**12, 10**11, 10**6)
    host.ran(101, 1, 7, 7, 7)  # began since, at the earliest in the same tick: all of it is this container's
    host.threads("/a", 100, 50, 101)
    assert reader.read() == (1007, 207, 10)
    host.ran(50, 0.1, 10**12 + 5, 10**11 + 5, 10**6 + 5)
    assert reader.read() == (1012, 212, 15)


def test_a_thread_that_leaves_and_comes_back_does_not_count_twice(host: Threads, reader: SchedReader) -> None:
    host.ran(100, 0.5, 1000, 200, 3)
    host.ran(101, 0.5, 10, 10, 10)
    host.threads("/a", 100, 101)
    assert reader.read() == (1010, 210, 13)
    host.threads("/a", 101)
    host.ran(101, 0.5, 11, 11, 11)
    assert reader.read() == (1011, 211, 14)
    host.threads("/a", 100, 101)
    host.ran(100, 0.5, 2000, 300, 4)
    assert reader.read() == (1011, 211, 14)


def test_the_stat_of_a_thread_that_did_not_run_is_not_read(host: Threads, reader: SchedReader) -> None:
    host.ran(100, 0.5, 1000, 200, 3)
    host.threads("/a", 100)
    assert reader.read() == (1000, 200, 3)
    (host.root / "proc/100/stat").unlink()
    assert reader.read() == (1000, 200, 3)


def test_none_until_a_thread_was_seen_and_while_none_can_be(host: Threads, reader: SchedReader) -> None:
    assert reader.read() == NOTHING
    host.threads("/a")
    assert reader.read() == NOTHING
    host.threads("/a", 100, 0)
    assert reader.read() == NOTHING
    host.ran(100, 2, 1, 2, 3)
    assert reader.read() == (1, 2, 3)
    host.end(100)
    assert reader.read() == NOTHING
    host.ran(100, 2, 2, 2, 3)
    assert reader.read() == (2, 2, 3)


@given(st.lists(st.dictionaries(st.integers(1, 5), st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=5), max_size=12))
def test_sums_never_fall_whoever_comes_and_goes(rounds: list[dict[int, tuple[int, int]]]) -> None:
    """Threads of any number, start and figures; also such as run backwards."""
    ledger = Ledger()
    last = (0, 0, 0)
    for number, threads in enumerate(rounds):
        for tid, (start, figure) in threads.items():
            ledger.saw(tid, start, (figure, figure // 2, 1), number)
        ledger.keep(set(threads))
        assert all(new >= old for new, old in zip(ledger.sums, last, strict=True))
        last = ledger.sums


@pytest.mark.parametrize("raw", [b"", b"1 2", b"1 2 3 4", b"1 -2 3", b"a b c", b"%d 1 1" % (MAX_INT + 1)])
def test_what_is_no_schedstat_is_none(raw: bytes) -> None:
    assert parse_schedstat(raw, Faults()) is None


@pytest.mark.parametrize(("raw", "wanted"), [(b"12.5 5.6\n", 25 * TICKS // 2), (b"7 1", 7 * TICKS), (b"x", None)])
def test_uptime(raw: bytes, wanted: int | None) -> None:
    assert uptime_ticks(raw) == wanted


@given(st.binary(max_size=200) | st.text("cpu0 12\n-", max_size=200).map(str.encode))
def test_any_bytes_are_taken(raw: bytes) -> None:
    for found in (parse_schedstat(raw, Faults()), parse_host_schedstat(raw, Faults())):
        assert found is None or all(n >= 0 for n in found)
    assert (uptime_ticks(raw) or 0) >= 0


def host_truth(file: Path) -> tuple[int, ...]:
    lines = [line.split() for line in file.read_text().splitlines() if line.startswith("cpu")]
    return tuple(sum(int(words[i]) for words in lines) for i in (7, 8, 9))


@pytest.mark.parametrize("name", ["cgroup1-vm", "cgroup2"])
def test_recorded_hosts_and_containers(recorded_tree: Callable[[str], Path], name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    collector = collector_of(root)
    host = collector.reader(container("/"))
    assert host.read() == host_truth(root / "proc/schedstat")
    first = find_mounts(root / "sys", root / "proc").hierarchies()[0].root
    seen = 0
    for file in sorted([*first.rglob("cgroup.threads"), *first.rglob("tasks")]):
        path = "/" + str(file.parent.relative_to(first)).removeprefix(".")
        raw = [root / f"proc/{tid}/schedstat" for tid in file.read_text().split()]
        figures = [[int(w) for w in p.read_text().split()] for p in raw if p.exists()]
        if path != "/" and figures:
            assert collector.reader(container(path)).read() == tuple(map(sum, zip(*figures, strict=True)))
            seen += 1
    assert seen >= 5


def test_absences_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="schedstat"):
        collector_of(tmp_path).reader(container("/"))
    with pytest.raises(NoData, match="cgroup"):
        collector_of(tmp_path).reader(container("/a"))


def raw_sums(real: RealContainer) -> tuple[int, ...]:
    folder = real.folders[0]
    tids = next(f for n in ("cgroup.threads", "tasks") if (f := folder / n).exists()).read_text().split()
    figures = [[int(w) for w in Path(f"/proc/{t}/schedstat").read_text().split()] for t in tids]
    return tuple(map(sum, zip(*figures, strict=True)))


def cpu_usage_ns(real: RealContainer) -> int:
    for folder in real.folders:
        if (file := folder / "cpuacct.usage").exists():
            return int(file.read_text())
        if (file := folder / "cpu.stat").exists() and "usage_usec" in (text := file.read_text()):
            return int(text.split()[1]) * 1000
    raise AssertionError("no CPU counter")


BURN = """
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
def burn_in_threads(seconds, stay):
    done = [threading.Event() for _ in range(3)]
    def work(event):
        burn(seconds)
        event.set()
        if stay:
            time.sleep(1000)
    for event in done:
        threading.Thread(target=work, args=(event,), daemon=True).start()
    for event in done:
        event.wait()
"""


@pytest.mark.integration
def test_real_threads_run_as_long_as_the_cgroups_counter_says() -> None:
    """Not the first thread alone, as PROC/PID/schedstat would have it. Tolerance: 60 ms of about 0.4 s."""
    need(Path("/proc/self/schedstat").exists(), "a kernel with CONFIG_SCHED_INFO")
    with RealContainer() as real:
        process = real.run(BURN)
        reader = SchedCollector(SchedConfig()).reader(container(real.path))
        first, usage = reader.read(), cpu_usage_ns(real)
        ask(process, "burn(0.1); burn_in_threads(0.1, True)")
        before = raw_sums(real)
        values = reader.read()
        after = raw_sums(real)
        for value, low, high in zip(values, before, after, strict=True):
            assert isinstance(value, int)
            assert low <= value <= high
        run = int(values[0] or 0) - int(first[0] or 0)
        assert run / 1e9 == pytest.approx((cpu_usage_ns(real) - usage) / 1e9, abs=0.06)
        assert run >= 380_000_000
        main_thread = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
        assert main_thread < int(values[0] or 0) - 250_000_000
        process.kill()
        process.wait()
        last = reader.read()
        assert int(last[0] or 0) >= int(values[0] or 0)


@pytest.mark.integration
def test_real_threads_that_were_seen_and_ended_stay_counted() -> None:
    need(Path("/proc/self/schedstat").exists(), "a kernel with CONFIG_SCHED_INFO")
    with RealContainer() as real:
        process = real.run(
            BURN + "gate = threading.Event(); w = threading.Thread(target=lambda: (burn(0.1), gate.wait())); w.start()"
        )
        reader = SchedCollector(SchedConfig()).reader(container(real.path))
        ask(process, "burn(0.1)")
        seen = int(reader.read()[0] or 0)
        ask(process, "gate.set(); w.join()")
        for _ in range(200):  # join returns a moment before the kernel's thread is gone
            if len(os.listdir(f"/proc/{process.pid}/task")) == 1:
                break
            time.sleep(0.05)
        alive = raw_sums(real)[0]
        later = int(reader.read()[0] or 0)
        assert later >= seen
        assert later >= alive + 50_000_000


@pytest.mark.integration
def test_the_whole_hosts_time_is_that_of_its_cpus() -> None:
    file = Path("/proc/schedstat")
    if not file.exists():
        with pytest.raises(NoData):
            SchedCollector(SchedConfig()).reader(container("/"))
        return
    before = host_truth(file)
    values = SchedCollector(SchedConfig()).reader(container("/")).read()
    for value, low, high in zip(values, before, host_truth(file), strict=True):
        assert isinstance(value, int)
        assert low <= value <= high


@pytest.mark.integration
def test_waiting_shows_when_more_want_a_cpu_than_there_are() -> None:
    need(Path("/proc/self/schedstat").exists() and shutil.which("taskset"), "a kernel with CONFIG_SCHED_INFO, and taskset")
    cpu = min(os.sched_getaffinity(0))
    with RealContainer() as real:
        reader = SchedCollector(SchedConfig()).reader(container(real.path))
        # two processes on one CPU: threads of Python would wait for each other, not for the CPU
        both = [real.run(BURN, "taskset", "-c", str(cpu)) for _ in range(2)]
        before = reader.read()
        for process in both:
            assert process.stdin is not None
            process.stdin.write("burn(0.2)\n")
            process.stdin.flush()
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        after = reader.read()
        assert int(after[1] or 0) - int(before[1] or 0) >= 50_000_000
        assert int(after[2] or 0) > int(before[2] or 0)
