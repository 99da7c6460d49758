"""Performance counters: against what the kernel says of processes by other ways, and each way in which they may be absent."""

import errno
import json
import mmap
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container
from tests.collectors.v1_mounts import locked, mounted, removed
from tests.support import need

from tidegauge.collectors import perf_event
from tidegauge.collectors._perf_syscall import EVENT_NAMES, Counted, PerfEvent, event, is_known_machine, open_event
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.perf_event import PerfEventCollector, PerfEventConfig, ScaledCount, online_cpus
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, NoData

SOFTWARE = ("task-clock", "page-faults", "context-switches", "cpu-migrations", "minor-faults", "major-faults")
MIB = 1 << 20


def test_the_tables_columns() -> None:
    assert [m.name for m in Catalogue().of_table("perf")] == ["perf_count", "perf_scaling_ratio"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cycles", PerfEvent(0, 0)),
        ("branch-misses", PerfEvent(0, 5)),
        ("task-clock", PerfEvent(1, 1)),
        ("major-faults", PerfEvent(1, 6)),
        ("L1-dcache-loads", PerfEvent(3, 0)),
        ("LLC-load-misses", PerfEvent(3, 0x10002)),
        ("dTLB-store-misses", PerfEvent(3, 0x10103)),
        ("LLC-prefetches", PerfEvent(3, 0x202)),
        ("r01c2", PerfEvent(4, 0x1C2)),
        ("rFFFFFFFFFFFFFFFF", PerfEvent(4, 2**64 - 1)),
        ("r", None),
        ("r11112222333344445", None),
        ("cycle", None),
    ],
)
def test_names_of_events(name: str, expected: PerfEvent | None) -> None:
    assert event(name) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": ["cyclse"]}, "expected some of cycles, .* or rHEX, got 'cyclse'"),
        ({"events": ["cycles", "cycles"]}, "each once"),
        ({"max_descriptors": 0}, "expected 1 or more"),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(options, PerfEventConfig)


def test_lists_of_cpus() -> None:
    assert online_cpus("0-2,5\n") == (0, 1, 2, 5)
    assert online_cpus("0\n") == (0,)
    assert online_cpus("") == ()


def test_a_span_is_scaled_by_its_own_share() -> None:
    count = ScaledCount()
    count.update([(0, Counted(100, 10, 5)), (1, Counted(7, 10, 10))])
    assert (count.count, count.ratio) == (207, 0.5)
    count.update([(0, Counted(101, 20, 15)), (1, Counted(7, 10, 10))])  # 101 * 20 / 15 would be less than before
    assert (count.count, count.ratio) == (208, 1.0)
    count.update([(0, Counted(101, 20, 15)), (1, Counted(7, 10, 10))])
    assert (count.count, count.ratio) == (208, None)
    count.update([(0, Counted(101, 30, 15)), (1, Counted(7, 10, 10))])
    assert (count.count, count.ratio) == (208, 0.0)
    count.update([(0, Counted(111, 40, 25)), (1, Counted(7, 10, 10))])  # 10 in 10 of 20
    assert (count.count, count.ratio) == (228, 0.5)
    count.update([(0, Counted(111, 40, 25))])  # CPU 1 went, and comes back with a new descriptor
    count.update([(0, Counted(111, 40, 25)), (1, Counted(3, 1, 1))])
    assert count.count == 231


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 100)), max_size=30))
def test_a_count_never_falls_and_is_exact_without_taking_turns(steps: list[tuple[int, int, int]]) -> None:
    scaled, plain = ScaledCount(), ScaledCount()
    value = enabled = running = last = 0
    for more, span, share in steps:
        value, enabled, running = value + (more if span * share else 0), enabled + span, running + span * share // 100
        scaled.update([(0, Counted(value, enabled, running))])
        plain.update([(0, Counted(value, enabled, enabled))])
        assert scaled.count >= last
        assert scaled.ratio is None or 0 <= scaled.ratio <= 1
        last = scaled.count
    assert plain.count == value


def kernel(tmp_path: Path, cpus: str = "0-1") -> Path:
    """A v2 host with the containers `/a` and `/b`, for an emulated call."""
    for name in ("a", "b"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    online = tmp_path / "sys/devices/system/cpu/online"
    online.parent.mkdir(parents=True)
    online.write_text(f"{cpus}\n")
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/perf_event_paranoid").write_text("2\n")
    return tmp_path


def collector_of(root: Path, **options: Any) -> PerfEventCollector:
    return PerfEventCollector(PerfEventConfig(sys=root / "sys", proc=root / "proc", **options))


def failing_open(monkeypatch: pytest.MonkeyPatch, fails: Callable[[PerfEvent, int, int | None], int | None]) -> list[int]:
    """An emulated call: descriptors of an empty file, or the errno that `fails` gives. The CPUs opened for."""
    cpus: list[int] = []

    def opened(wanted: PerfEvent, cpu: int, folder: int | None) -> int:
        if code := fails(wanted, cpu, folder):
            raise OSError(code, os.strerror(code))
        if folder is not None:
            cpus.append(cpu)
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(perf_event, "open_event", opened)
    monkeypatch.setattr(perf_event, "is_known_machine", lambda: True)
    monkeypatch.setattr(perf_event, "read_event", lambda fd: Counted(3, 5, 5))
    return cpus


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOSYS])
def test_without_the_right_there_is_no_data_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    failing_open(monkeypatch, lambda *_: code)
    collector = collector_of(kernel(tmp_path))
    for _ in range(2):
        with pytest.raises(NoData, match=r"perf_event_paranoid is 2|not in this kernel"):
            collector.reader(container("/a"))
    assert collector.complaint() is None


def test_events_that_are_not_there_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_open(monkeypatch, lambda wanted, cpu, folder: None if wanted.is_software else errno.ENOENT)
    collector = collector_of(kernel(tmp_path), events=("cycles", "task-clock", "r1"))
    reader = collector.reader(container("/a"))
    assert reader.read() == ()
    assert reader.read_tables() == ((("task-clock", 6, None),),)
    assert collector.complaint() == "this CPU or kernel does not have the events cycles, r1"
    reader.close()
    none = collector_of(tmp_path, events=("cycles",))
    with pytest.raises(NoData, match="none of the events cycles"):
        none.reader(container("/a"))


def test_the_bound_of_descriptors_is_kept_and_room_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_open(monkeypatch, lambda *_: None)
    start = psutil.Process().num_fds()
    collector = collector_of(kernel(tmp_path), events=("task-clock", "page-faults"), max_descriptors=7)
    first = collector.reader(container("/a"))
    assert psutil.Process().num_fds() == start + 4
    with pytest.raises(NoData, match="more than 7"):
        collector.reader(container("/b"))
    assert psutil.Process().num_fds() == start + 4
    assert "max_descriptors" in (collector.complaint() or "")
    first.close()
    first.close()
    assert psutil.Process().num_fds() == start
    collector.reader(container("/b")).close()
    assert psutil.Process().num_fds() == start


def test_an_error_on_the_way_leaves_no_descriptor_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_open(monkeypatch, lambda wanted, cpu, folder: errno.EMFILE if cpu == 1 else None)
    start = psutil.Process().num_fds()
    collector = collector_of(kernel(tmp_path), events=("task-clock",), max_descriptors=2)
    for _ in range(3):
        with pytest.raises(CollectError, match="Too many open files"):
            collector.reader(container("/a"))
    assert psutil.Process().num_fds() == start


def test_cpus_that_come_and_go_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kernel(tmp_path, "0-2")
    cpus = failing_open(monkeypatch, lambda wanted, cpu, folder: errno.ENODEV if cpu == 2 else None)
    collector = collector_of(root, events=("task-clock",))
    reader = collector.reader(container("/a"))
    assert cpus == [0, 1]  # the third went between the list and the call
    assert reader.read_tables() == ((("task-clock", 6, None),),)
    online = root / "sys/devices/system/cpu/online"
    online.write_text("0\n")
    reader.read_tables()
    online.write_text("0-1\n")
    assert reader.read_tables() == ((("task-clock", 9, 1.0),),)
    assert cpus == [0, 1, 1]
    online.unlink()
    with pytest.raises(CollectError, match="online"):
        reader.read_tables()
    reader.close()


def test_a_container_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_open(monkeypatch, lambda *_: None)
    collector = collector_of(kernel(tmp_path))
    with pytest.raises(FileNotFoundError):
        collector.reader(container("/nowhere"))


def test_another_hierarchy_than_the_kernels_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_open(monkeypatch, lambda wanted, cpu, folder: None if folder is None else errno.ENOENT)
    collector = collector_of(kernel(tmp_path), events=("task-clock",))
    with pytest.raises(NoData, match="hierarchy"):
        collector.reader(container("/a"))
    collector.reader(container("/")).close()


@pytest.fixture
def unified() -> Iterator[Path]:
    """A cgroup of our own in the unified hierarchy, where perf_event is while it is mounted nowhere else."""
    mounts = find_mounts(Path("/sys"), Path("/proc"))
    need(os.geteuid() == 0 and is_known_machine(), "root, and a CPU whose number of the call is known")
    need(mounts.unified is not None and "perf_event" not in mounts.optional, "the unified hierarchy with perf_event")
    assert mounts.unified is not None
    with locked("perf_event"):
        where = mounts.unified / f"tidegauge-test-{os.getpid()}-{time.monotonic_ns()}"
        where.mkdir()
        yield where
        removed(where / "below")
        removed(where)


def load() -> None:
    """0.3 s of CPU time, 16 MiB touched page by page, and 200 sleeps."""
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    with mmap.mmap(-1, 16 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, len(block), 4096):
            block[at] = 1
    for _ in range(200):
        time.sleep(0.0002)


class Used(NamedTuple):
    """What a process says of its load, by getrusage(2)."""

    cpu_s: float
    faults: int
    switches: int


def run_inside(where: Path) -> Used:
    """Has a child in the cgroup do the load."""
    ready, go = os.pipe()
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.read(ready, 1)
        before = resource.getrusage(resource.RUSAGE_SELF)
        load()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
        os.write(
            answer,
            json.dumps((cpu_s, after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt, switches)).encode(),
        )
        os._exit(0)
    os.close(ready)
    (where / "cgroup.procs").write_text(str(pid))
    os.write(go, b".")
    os.close(go)
    os.close(answer)
    said = os.read(answers, 4096)
    os.close(answers)
    os.waitpid(pid, 0)
    return Used(*json.loads(said))


def rows_of(reader: Any) -> dict[str, int]:
    (rows,) = reader.read_tables()
    return {name: count for name, count, _ in rows}


def settled(reader: Any) -> dict[str, int]:
    """Counts that stand still: the last instructions of a child that ended are counted a moment later."""
    before, counts = {}, rows_of(reader)
    for _ in range(100):
        if counts == before:
            return counts
        time.sleep(0.05)
        before, counts = counts, rows_of(reader)
    pytest.fail(f"the counts do not stand still: {before}, {counts}")


def check_against_rusage(where: Path, sys: Path) -> None:
    collector = PerfEventCollector(PerfEventConfig(sys=sys, events=SOFTWARE))
    (where.parent / "other").mkdir(exist_ok=True)
    reader, other = (collector.reader(container(f"/{name}")) for name in (where.name, "other"))
    try:
        assert set(rows_of(reader)) == set(SOFTWARE)
        used = run_inside(where)
        counts = settled(reader)
        # what the child did before and after the load is small beside it
        assert counts["task-clock"] / 1e9 == pytest.approx(used.cpu_s, abs=0.2)
        assert counts["task-clock"] >= 280_000_000
        assert used.faults <= counts["page-faults"] <= used.faults + 2000
        # the one event is counted when a fault begins, the others when it is over: one of the child may join in between
        assert abs(counts["page-faults"] - counts["minor-faults"] - counts["major-faults"]) <= 2
        assert counts["minor-faults"] + counts["major-faults"] >= 4096
        assert 100 <= used.switches <= counts["context-switches"] <= used.switches + 50
        assert set(rows_of(other).values()) == {0}
        (rows,) = reader.read_tables()
        assert {ratio for _, _, ratio in rows} <= {None, 1.0}
    finally:
        reader.close()
        other.close()
        removed(where.parent / "other")


@pytest.mark.integration
def test_events_of_the_kernel_are_what_it_says_of_the_process(unified: Path) -> None:
    check_against_rusage(unified, Path("/sys"))


@pytest.mark.integration
def test_the_same_on_a_v1_hierarchy(tmp_path: Path) -> None:
    need(is_known_machine(), "a CPU whose number of the call is known")
    online = tmp_path / "sys/devices/system/cpu/online"
    online.parent.mkdir(parents=True)
    online.symlink_to("/sys/devices/system/cpu/online")
    with mounted("perf_event", tmp_path / "sys") as where:
        check_against_rusage(where, tmp_path / "sys")


@pytest.mark.integration
def test_child_cgroups_count_too_and_the_host_counts_everything(unified: Path) -> None:
    below = unified / "below"
    below.mkdir()
    collector = PerfEventCollector(PerfEventConfig(events=("task-clock", "page-faults")))
    readers = [collector.reader(container(path)) for path in ("/", f"/{unified.name}", f"/{unified.name}/below")]
    before = rows_of(readers[0])
    used = run_inside(below)
    for _ in range(100):  # the last instructions of a child that ended are counted a moment later
        host, above, inside = (rows_of(reader) for reader in readers)
        if above == inside == rows_of(readers[1]):
            break
        time.sleep(0.05)
    assert above == inside
    assert inside["task-clock"] / 1e9 == pytest.approx(used.cpu_s, abs=0.2)
    for name in inside:
        assert host[name] - before[name] >= 0.9 * inside[name], name
    for reader in readers:
        reader.close()


@pytest.mark.integration
def test_somebody_without_rights_is_told_why() -> None:
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
    need(os.geteuid() == 0 and paranoid.exists() and is_known_machine(), "root, to become somebody without rights")
    need(int(paranoid.read_text()) > 0, "perf_event_paranoid above 0")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            PerfEventCollector(PerfEventConfig()).reader(container("/"))
        except NoData as exc:
            status = 0 if "perf_event_paranoid is" in str(exc) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.integration
def test_every_name_is_taken_or_refused_by_the_kernel_as_unknown_to_the_cpu() -> None:
    need(os.geteuid() == 0 and is_known_machine(), "root, and a CPU whose number of the call is known")
    refused: dict[str, int] = {}
    for name in EVENT_NAMES:
        wanted = event(name)
        assert wanted is not None
        try:
            os.close(open_event(wanted, 0, None))
        except OSError as exc:
            refused[name] = exc.errno or 0
    assert not refused.keys() & set(SOFTWARE)
    assert set(refused.values()) <= {errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV}
