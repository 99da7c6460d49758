"""Smoothing by real time, states of tasks from both sources, and netlink's answers."""

import errno
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, paths_of
from tests.collectors.v1_mounts import removed
from tests.support import need

from tidegauge.collectors import taskload
from tidegauge.collectors._cgroupstats import CgroupStats, attribute, request
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.taskload import (
    SmoothedLoad,
    TaskloadCollector,
    TaskloadConfig,
    TaskloadReader,
    running_tasks,
    task_state,
)
from tidegauge.pipeline.catalogue import METRICS
from tidegauge.pipeline.errors import CollectError, NoData

STATES = [m.name for m in METRICS if m.name.startswith("tasks_")]


def v2_host(tmp_path: Path, states: dict[int, str]) -> Path:
    """A v2 host with one container `/a` whose threads are in these states."""
    where = tmp_path / "sys/fs/cgroup/a"
    where.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    put(tmp_path, states)
    return tmp_path


def put(root: Path, states: dict[int, str]) -> None:
    (root / "sys/fs/cgroup/a/cgroup.threads").write_text("".join(f"{tid}\n" for tid in states))
    for tid, state in states.items():
        where = root / f"proc/{tid}/task/{tid}"
        where.mkdir(parents=True, exist_ok=True)
        (where / "stat").write_text(f"{tid} (odd) R (na me) {state} 1 1 1 0 -1 4194560\n")


def collector_of(root: Path, clock: Callable[[], float] = time.monotonic, **options: object) -> TaskloadCollector:
    return TaskloadCollector(TaskloadConfig(sys=root / "sys", proc=root / "proc", **options), clock)  # type: ignore[arg-type]


def reader_of(collector: TaskloadCollector, path: str) -> TaskloadReader:
    reader = collector.reader(container(path))
    assert reader is not None
    return reader


def test_the_first_value_is_the_mean() -> None:
    assert SmoothedLoad().update(3, 1000.0) == 3000


def test_a_step_reaches_63_per_cent_after_ten_seconds_however_it_was_sampled() -> None:
    for step_s in (0.1, 1.0, 2.5, 10.0):
        load = SmoothedLoad()
        load.update(0, 0.0)
        last = 0
        for i in range(1, round(10 / step_s) + 1):
            last = load.update(1, i * step_s)
        assert last == pytest.approx(632, abs=1)


def test_a_long_silence_leaves_nothing_of_the_old_mean() -> None:
    load = SmoothedLoad()
    load.update(100, 0.0)
    assert load.update(2, 600.0) == 2000


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_the_mean_stays_between_the_extremes(seen: list[tuple[int, float]]) -> None:
    load, now = SmoothedLoad(), 0.0
    for number, dt in seen:
        now += dt
        assert min(n for n, _ in seen) * 1000 - 1 <= load.update(number, now) <= max(n for n, _ in seen) * 1000


def test_states_of_threads_are_counted_on_v2(tmp_path: Path) -> None:
    root = v2_host(tmp_path, {10: "R", 11: "R", 12: "S", 13: "D", 14: "T", 15: "t", 16: "I", 17: "Z"})
    collector = collector_of(root, task_states=True)
    assert list(collector.metrics) == ["cpu_load_milli", "cpu_load_d_milli", *STATES]
    values = dict(zip(collector.metrics, reader_of(collector, "/a").read(), strict=True))
    assert values == {
        "cpu_load_milli": 2000,
        "cpu_load_d_milli": 1000,
        "tasks_sleeping": 2,
        "tasks_running": 2,
        "tasks_stopped": 2,
        "tasks_uninterruptible": 1,
        "tasks_io_waiting": None,
    }


def test_the_load_follows_the_clock_that_is_given(tmp_path: Path) -> None:
    now = [100.0]
    root = v2_host(tmp_path, {10: "R"})
    reader = reader_of(collector_of(root, lambda: now[0]), "/a")
    assert reader.read()[0] == 1000
    put(root, {10: "S"})
    now[0] += 10.0
    assert reader.read()[0] == 367


def test_threads_that_ended_between_list_and_look_are_left_out(tmp_path: Path) -> None:
    root = v2_host(tmp_path, {10: "R"})
    (root / "sys/fs/cgroup/a/cgroup.threads").write_text("10\n99999\n\n")
    assert reader_of(collector_of(root), "/a").read() == (1000, 0)


def test_too_many_threads_and_a_container_that_is_gone_give_none(tmp_path: Path) -> None:
    root = v2_host(tmp_path, {10: "R", 11: "R"})
    assert reader_of(collector_of(root, max_tasks=1, task_states=True), "/a").read() == (None,) * 7
    assert reader_of(collector_of(root), "/gone").read() == (None, None)


def test_a_container_of_which_no_thread_can_be_seen_has_no_load_rather_than_none_running(tmp_path: Path) -> None:
    root = v2_host(tmp_path, {10: "R"})
    (root / "sys/fs/cgroup/a/cgroup.threads").write_text("98\n99\n")
    assert reader_of(collector_of(root), "/a").read() == (None, None)
    (root / "sys/fs/cgroup/a/cgroup.threads").write_text("")
    assert reader_of(collector_of(root), "/a").read() == (0, 0)


def test_a_list_of_threads_that_may_not_be_read_is_counted_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = v2_host(tmp_path, {10: "R"})
    threads = str(root / "sys/fs/cgroup/a/cgroup.threads")

    def refusing(file: str, *words: Any, **options: Any) -> Any:
        if file == threads:
            raise PermissionError(13, "Permission denied", file)
        return open(file, *words, **options)

    monkeypatch.setattr(taskload, "open", refusing, raising=False)
    collector = collector_of(root)
    assert reader_of(collector, "/a").read() == (None, None)
    assert collector.counters() == {"absurd_values": 0, "unreadable_files": 1}
    assert collector.complaint() == f"{threads}: Permission denied"


def test_every_recorded_v2_cgroup(recorded_tree: Callable[[str], Path]) -> None:
    """The trees hold `PROC/PID/stat` alone, not the threads', so what is there must come out as nothing counted."""
    root = recorded_tree("cgroup2") / "snapshot-1"
    collector = collector_of(root)
    for path in paths_of(root / "sys/fs/cgroup")[1:]:
        assert reader_of(collector, path).read() in ((0, 0), (None, None))


@pytest.mark.parametrize("name", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_the_hosts_load_is_its_runnable_tasks(recorded_tree: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    root = recorded_tree(name) / "snapshot-1"
    collector = collector_of(root)
    loadavg = root / "proc/loadavg"
    expected = int(loadavg.read_text().split()[3].split("/")[0]) * 1000 if loadavg.exists() else None
    assert reader_of(collector, "/").read() == (expected, None)


def test_a_host_without_cgroups_has_no_readers_but_its_own(tmp_path: Path) -> None:
    assert collector_of(tmp_path).reader(container("/a")) is None
    assert reader_of(collector_of(tmp_path), "/").read() == (None, None)


def test_a_refusal_of_netlink_is_told_once(recorded_tree: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> CgroupStats:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(taskload, "CgroupStats", refuse)
    collector = collector_of(recorded_tree("cgroup1") / "snapshot-1")
    with pytest.raises(NoData, match="netlink taskstats: Operation not permitted"):
        collector.reader(container("/a"))
    assert collector.reader(container("/a")) is None
    assert collector.reader(container("/")) is not None


@given(st.binary(max_size=80))
def test_any_stat_and_loadavg_are_taken(raw: bytes) -> None:
    assert task_state(raw) is None or task_state(raw + b"") in {chr(c) for c in range(128)}
    assert running_tasks(raw) is None or isinstance(running_tasks(raw), int)


@given(st.text(max_size=15), st.sampled_from("RSDTtZI"))
def test_the_state_is_found_behind_any_name(name: str, state: str) -> None:
    assert task_state(f"12 ({name}) {state} 1 2 3".encode()) == state


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_runnable_tasks_are_found_in_loadavg(running: int, all_tasks: int) -> None:
    assert running_tasks(f"0.20 0.18 0.12 {running}/{all_tasks} 11206\n".encode()) == running


@given(st.binary(max_size=20), st.integers(1, 60000))
def test_an_attribute_comes_back_from_a_message(payload: bytes, kind: int) -> None:
    assert attribute(request(40, 1, 4, kind, payload), kind) == payload


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_answer_is_an_attribute_or_an_os_error(raw: bytes, wanted: int) -> None:
    try:
        assert isinstance(attribute(raw, wanted), bytes)
    except OSError:
        pass


def test_the_kernels_refusal_keeps_its_error_number() -> None:
    answer = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -errno.EPERM)
    with pytest.raises(PermissionError):
        attribute(answer, 1)


@pytest.fixture
def busy_and_idle() -> Iterator[tuple[str, Callable[[int, int], None]]]:
    """A real v1 cpu cgroup and a function that fills it with so many spinning, sleeping processes."""
    root = find_mounts(Path("/sys"), Path("/proc")).v1.get("cpu")
    need(root and os.geteuid() == 0, "the cpu controller of cgroup v1 and root")
    path = f"/tidegauge-load-{os.getpid()}"
    where = Path(f"{root}{path}")
    where.mkdir()
    children: list[subprocess.Popen[bytes]] = []

    def fill(spinning: int, sleeping: int) -> None:
        # not sleep(1): newer kernels mark its sleep as freezable, and their netlink then counts it under no state
        for command in [["sh", "-c", "while :; do :; done"]] * spinning + [["cat"]] * sleeping:
            child = subprocess.Popen(command, stdin=subprocess.PIPE)
            children.append(child)
            (where / "cgroup.procs").write_text(str(child.pid))
            # a task that waits for the pages of its program is under no state either
            if command == ["cat"]:
                wait_for_input(psutil.Process(child.pid))

    yield path, fill
    for child in children:
        child.kill()
        child.communicate()
    removed(where)


def wait_for_input(cat: psutil.Process) -> None:
    for _ in range(1000):
        if (cat.name(), cat.status()) == ("cat", psutil.STATUS_SLEEPING):
            return
        time.sleep(0.02)
    raise AssertionError(f"cat does not wait for its input: {cat}")


@pytest.mark.integration
def test_states_from_netlink_are_those_of_the_processes(busy_and_idle: tuple[str, Callable[[int, int], None]]) -> None:
    path, fill = busy_and_idle
    collector = collector_of(Path("/"), task_states=True)
    reader = reader_of(collector, path)
    assert reader.read() == (0, 0, 0, 0, 0, 0, 0)
    fill(2, 3)
    pids = (Path(f"{find_mounts(Path('/sys'), Path('/proc')).v1['cpu']}{path}") / "cgroup.procs").read_text().split()
    values = dict(zip(collector.metrics, reader.read(), strict=True))
    assert (values["tasks_running"], values["tasks_sleeping"]) == (2, 3)
    os.kill(int(pids[0]), signal.SIGSTOP)
    for _ in range(100):
        stopped = sum(psutil.Process(int(p)).status() == psutil.STATUS_STOPPED for p in pids)
        if stopped:
            break
        time.sleep(0.05)
    values = dict(zip(collector.metrics, reader.read(), strict=True))
    assert (values["tasks_stopped"], stopped) == (1, 1)
    reader.close()
    collector.close()
    collector.close()


@pytest.mark.integration
def test_netlink_refuses_what_is_no_cgroup() -> None:
    need(find_mounts(Path("/sys"), Path("/proc")).v1.get("cpu"), "the cpu controller of cgroup v1")
    stats = CgroupStats()
    fd = os.open("/", os.O_RDONLY)
    with pytest.raises(OSError):
        stats.states(fd)
    os.close(fd)
    stats.close()


@pytest.mark.integration
def test_a_failure_of_netlink_is_a_collect_error(busy_and_idle: tuple[str, Callable[[int, int], None]]) -> None:
    path, _ = busy_and_idle
    collector = collector_of(Path("/"))
    reader = reader_of(collector, path)
    collector.close()
    with pytest.raises(CollectError, match="netlink"):
        reader.read()


@pytest.mark.integration
def test_the_directory_stays_open_while_it_has_tasks_and_one_made_anew_is_found(
    busy_and_idle: tuple[str, Callable[[int, int], None]],
) -> None:
    path, fill = busy_and_idle
    root = Path(find_mounts(Path("/sys"), Path("/proc")).v1["cpu"])
    where = Path(f"{root}{path}")

    def held() -> int:
        links = [os.readlink(f) for f in Path("/proc/self/fd").iterdir() if os.path.lexists(f)]
        return sum(link.removesuffix(" (deleted)").endswith(path) for link in links)

    collector = collector_of(Path("/"), task_states=True)
    reader = reader_of(collector, path)
    assert sum(reader.read()[2:]) == held() == 0
    fill(0, 1)
    assert (sum(reader.read()[2:]), held()) == (1, 1)
    reader.park()
    assert held() == 0
    assert (sum(reader.read()[2:]), sum(reader.read()[2:]), held()) == (1, 1, 1)
    pid = (where / "cgroup.procs").read_text()
    (root / "cgroup.procs").write_text(pid)
    where.rmdir()
    assert reader.read() == (None,) * 7
    where.mkdir()
    (where / "cgroup.procs").write_text(pid)
    assert (sum(reader.read()[2:]), held()) == (1, 1)
    (root / "cgroup.procs").write_text(pid)
    where.rmdir()
    where.mkdir()
    (where / "cgroup.procs").write_text(pid)
    assert (sum(reader.read()[2:]), held()) == (1, 1), "the one that is kept is gone, and looks empty"
    reader.close()
    reader.close()
    assert held() == 0
    collector.close()
