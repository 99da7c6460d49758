"""Disk usage of containers: who is walked when, what becomes of it, and that nothing waits for a walk."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import container
from tests.collectors.host import HOST
from tests.support import descriptors_beyond_1023, eventually

from tidegauge.collectors._disk_walker import Failed, Found, Measured, Walker
from tidegauge.collectors._layers import Layer, Layers, Mount
from tidegauge.collectors.disk_usage import DiskUsageCollector, DiskUsageConfig, DiskUsageReader, Rounds, _Entry, rows_of
from tidegauge.pipeline.records import TableRows

ID = "c0" * 32
MOUNTS = (Mount(b"8:1", "/", "/", "ext4", "/dev/sda1", b"rw"), Mount(b"8:2", "/", "/logs", "xfs", "/dev/sdb1", b"rw"))
WAIT_S = 60.0


# The child.


@pytest.fixture
def walker() -> Iterator[Walker]:
    made = Walker(1.0, WAIT_S)
    yield made
    made.stop()
    made.close()


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    folder = tmp_path / "layer"
    folder.mkdir()
    (folder / "file").write_bytes(b"x" * 50_000)
    return folder


def _is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_one_child_of_the_lowest_priority_answers_every_question(walker: Walker, layer: Path) -> None:
    found = walker.measure(str(layer), [], None)
    assert isinstance(found, Found)
    du = subprocess.run(["du", "-s", "-B1", str(layer)], capture_output=True, text=True, check=True)
    assert (found.layer.bytes, found.layer.inodes, found.logs) == (int(du.stdout.split()[0]), 2, ())
    pid = walker.pid
    assert pid is not None
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert psutil.Process(pid).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    assert isinstance(walker.measure(str(layer), [str(layer)], None), Found)
    assert walker.pid == pid


def test_an_agent_with_very_many_open_files_is_answered_too(walker: Walker, layer: Path) -> None:
    with descriptors_beyond_1023():
        assert isinstance(walker.measure(str(layer), [], None), Found)


def test_what_cannot_be_measured_is_said(walker: Walker, layer: Path) -> None:
    gone = walker.measure(str(layer / "none"), [], None)
    assert isinstance(gone, Failed)
    assert gone.is_gone
    other = walker.measure(str(layer), [], os.geteuid() + 1)
    assert isinstance(other, Failed)
    assert (other.is_gone, "another user" in other.reason) == (False, True)


def test_a_child_that_dies_is_followed_by_another(walker: Walker, layer: Path) -> None:
    walker.measure(str(layer), [], None)
    first = walker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not _is_there(first))
    assert isinstance(walker.measure(str(layer), [], None), Failed)
    assert isinstance(walker.measure(str(layer), [], None), Found)
    assert walker.pid not in (None, first)


def test_a_walk_that_never_ends_is_given_up_at_the_deadline_and_stopped_at_once(tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(1000)\n")
    walker = Walker(1.0, 0.2, script=script)
    failed = walker.measure("/x", [], None)
    assert isinstance(failed, Failed)
    assert failed.reason == "not done after 0.2 s"
    assert walker.pid is None
    long = Walker(1.0, 1000.0, script=script)
    results: list[Found | Failed] = []
    thread = threading.Thread(target=lambda: results.append(long.measure("/x", [], None)))
    thread.start()
    eventually(lambda: long.pid)
    pid = long.pid
    assert pid is not None
    long.stop()
    thread.join(WAIT_S)
    long.close()
    assert isinstance(results[0], Failed)
    assert not _is_there(pid)
    assert isinstance(long.measure("/x", [], None), Failed)


class _Stuck:
    """A child in a system call that no signal ends."""

    def __init__(self) -> None:
        near, self.far = os.pipe()
        self.pid = 0
        self.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), "wb")
        self.stdout = os.fdopen(near, "rb")
        self.is_over = False

    def kill(self) -> None: ...

    def poll(self) -> int | None:
        return 0 if self.is_over else None

    def wait(self, timeout: float) -> int:
        raise subprocess.TimeoutExpired("walk", timeout)


def test_some_children_may_hang_in_the_kernel_and_no_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    walker = Walker(1.0, 0.001, max_hanging=2)
    made: list[_Stuck] = []

    def start() -> _Stuck:
        made.append(_Stuck())
        return made[-1]

    monkeypatch.setattr(walker, "_start", start)
    reasons = []
    for _ in range(4):
        failed = walker.measure("/x", [], None)
        assert isinstance(failed, Failed)
        reasons.append(failed.reason)
    assert reasons == ["not done after 0.001 s"] * 2 + ["2 walks hang and cannot be ended"] * 2
    assert len(made) == 2
    made[0].is_over = True
    walker.measure("/x", [], None)
    assert len(made) == 3
    for stuck in made:
        os.close(stuck.far)


def test_the_child_ends_with_its_parent(layer: Path) -> None:
    code = (
        "import sys, os; from tidegauge.collectors._disk_walker import Walker\n"
        "w = Walker(1.0, 60); w.measure(sys.argv[1], [], None); print(w.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(layer)], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    eventually(lambda: not _is_there(pid))


# Rows.


def _found(bytes_: int, logs: Sequence[Measured] = (), work_s: float = 0.0) -> Found:
    return Found(Measured("/layers/1", bytes_, 7, 1000), tuple(logs), work_s)


def _device(path: str) -> str:
    return "/dev/sdb1" if path.startswith("/logs") else "/dev/sda1"


def test_logs_on_the_layer_s_device_are_in_its_row_and_others_have_their_own() -> None:
    assert rows_of(_found(100), _device) == (("/dev/sda1", 100, 100, 7, 1000),)
    here, there = Measured("/var/log/x", 20, None, 1000), Measured("/logs/x", 30, None, 5000)
    assert rows_of(_found(100, [here, here]), _device) == (("/dev/sda1", 140, 100, 7, 1000),)
    assert rows_of(_found(100, [here, there]), _device) == (
        ("/dev/sda1", 120, 100, 7, 1000),
        ("/dev/sdb1", 30, None, None, 5000),
    )
    assert rows_of(_found(2**63), _device) == (("/dev/sda1", None, None, 7, 1000),)


# Who is walked when.


class _Layers(Layers):
    def __init__(self) -> None:
        self.layer: Layer | None = Layer("/var/lib/docker/overlay2/1/diff", None)

    def own_mounts(self) -> tuple[Mount, ...]:
        return MOUNTS

    def find(self, path: str, seen: tuple[Mount, ...]) -> Layer | None:
        return self.layer


class _Walker(Walker):
    def __init__(self, said: Found | Failed) -> None:
        self.said = said
        self.asked: list[tuple[str, tuple[str, ...], int | None]] = []
        self.is_measuring = threading.Lock()

    def measure(self, layer: str, logs: Sequence[str], owner: int | None) -> Found | Failed:
        assert self.is_measuring.acquire(blocking=False), "two walks at a time"
        self.asked.append((layer, tuple(logs), owner))
        self.is_measuring.release()
        return self.said

    def stop(self) -> None: ...
    def close(self) -> None: ...


def _rounds(said: Found | Failed, **options: object) -> tuple[Rounds, _Layers, _Walker]:
    layers, walker = _Layers(), _Walker(said)
    return Rounds(DiskUsageConfig(**options), layers, walker), layers, walker  # type: ignore[arg-type]


def test_the_next_walk_waits_for_a_multiple_of_what_this_one_cost() -> None:
    waits = [_rounds(_found(1, work_s=work_s))[0].measure(_Entry("/c", ID)) for work_s in (0.001, 2.0, 100.0)]
    assert waits == [60.0, 200.0, 1200.0]


def test_after_errors_the_wait_doubles_and_the_figures_are_gone() -> None:
    rounds, _, walker = _rounds(_found(100))
    entry = _Entry("/c", ID)
    rounds.measure(entry)
    assert entry.rows == (("/dev/sda1", 100, 100, 7, 1000),)
    walker.said = Failed("not done after 120 s", False, 12.0)
    assert [rounds.measure(entry) for _ in range(6)] == [120.0, 240.0, 480.0, 960.0, 1200.0, 1200.0]
    assert entry.rows is None
    assert (rounds.failures, rounds.complaint) == (6, "/c: /var/lib/docker/overlay2/1/diff: not done after 120 s")
    walker.said = _found(50)
    assert rounds.measure(entry) == 60.0
    assert rounds.complaint is None
    assert entry.rows == (("/dev/sda1", 50, 50, 7, 1000),)


def test_a_layer_that_is_not_known_yet_is_looked_for_soon_and_walked_by_nobody() -> None:
    rounds, layers, walker = _rounds(_found(100))
    entry = _Entry("/c", ID)
    layers.layer = None
    assert [rounds.measure(entry) for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert (walker.asked, entry.rows, rounds.complaint) == ([], None, None)


def test_a_layer_that_is_gone_is_no_fault() -> None:
    rounds, _, _ = _rounds(Failed("No such file or directory", True, 0.0))
    entry = _Entry("/c", ID)
    assert rounds.measure(entry) == 60.0
    assert (entry.rows, rounds.failures, rounds.complaint) == (None, 0, None)


def test_logs_are_looked_for_beside_the_layer_below_the_host_s_root_and_never_for_a_user() -> None:
    rounds, layers, walker = _rounds(_found(100), rootfs=Path("/rootfs"), logs=("{root}/containers/{id}", "/log/*-{id}.log"))
    rounds.measure(_Entry("/c", ID))
    layers.layer = Layer("/home/u/[1]/overlay/1/diff", 1000)
    rounds.measure(_Entry("/c", ID))
    layers.layer = Layer("/data/[1]/overlay/1/diff", None)
    rounds.measure(_Entry("/c", ID))
    assert walker.asked == [
        (
            "/rootfs/var/lib/docker/overlay2/1/diff",
            (f"/rootfs/var/lib/docker/containers/{ID}", f"/rootfs/log/*-{ID}.log"),
            None,
        ),
        ("/rootfs/home/u/[1]/overlay/1/diff", (), 1000),
        ("/rootfs/data/[1]/overlay/1/diff", (f"/rootfs/data/[[]1]/containers/{ID}", f"/rootfs/log/*-{ID}.log"), None),
    ]


def test_the_figures_of_a_walk_are_handed_over_once() -> None:
    rounds, layers, walker = _rounds(_found(100))
    entry = _Entry("/c", ID)
    reader = DiskUsageReader(entry)

    def told() -> TableRows | None:
        return None if reader.read() is None else reader.read_tables()[0]

    assert told() is None
    for bytes_ in (100, 100, 50):
        walker.said = _found(bytes_)
        rounds.measure(entry)
        assert told() == (("/dev/sda1", bytes_, bytes_, 7, 1000),), "a walk that finds the same is read all the same"
        assert told() is None
    layers.layer = None
    rounds.measure(entry)
    assert told() is None


def test_many_are_walked_one_after_another_and_those_that_ended_no_more() -> None:
    rounds, _, _ = _rounds(_found(100), interval_s=0.001, rest_factor=0.0)
    entries = [_Entry(f"/c{n}", ID) for n in range(20)]
    for entry in entries:
        rounds.add(entry)
    eventually(lambda: all(e.rows for e in entries))
    eventually(lambda: rounds.walks > 60)
    for entry in entries:
        entry.is_gone = True
    eventually(lambda: not rounds._due)
    rounds.close()
    rounds.close()
    assert not any(t.name == "disk usage" for t in threading.enumerate())


def test_an_oddity_of_one_container_leaves_the_others_their_figures() -> None:
    rounds, _, _ = _rounds(_found(100), interval_s=0.01)
    good, odd = _Entry("/good", ID), _Entry("/odd", ID)

    def measure(entry: _Entry) -> float:
        if entry is odd:
            raise ValueError("odd")
        return Rounds.measure(rounds, entry)

    rounds.measure = measure  # type: ignore[method-assign]
    rounds.add(odd)
    rounds.add(good)
    eventually(lambda: good.rows)
    eventually(lambda: rounds.failures)
    rounds.close()


# The collector.


def test_containers_have_a_reader_and_what_lies_in_them_or_is_none_has_not(tmp_path: Path) -> None:
    collector = DiskUsageCollector(DiskUsageConfig(sys=tmp_path, proc=tmp_path))
    try:
        for path in (f"/docker/{ID}", f"/libpod_parent/libpod-{ID}", f"/kubepods.slice/cri-containerd-{ID}.scope"):
            reader = collector.reader(container(path))
            assert reader is not None
            assert reader.read() is None
            reader.close()
        for path in (f"/docker/{ID}/init", "/system.slice/cron.service", "/docker"):
            assert collector.reader(container(path)) is None
        assert collector.reader(HOST) is None
        assert collector.complaint() is None
    finally:
        collector.close()
