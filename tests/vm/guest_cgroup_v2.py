"""Inside a VM with cgroup v2 alone: the collectors against the raw files of the same moment and against other witnesses."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import Truth, as_dict, container, io_stat_truth, truth_v2
from tests.vm.worker import MIB, Worker, be_killed, burn, map_file, read_all, start_threads, touch_memory, write_directly

from tidegauge.collectors._cgroup_reader import CgroupReader
from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.collectors.netdev import NetdevCollector, NetdevConfig
from tidegauge.collectors.process_list import ProcessLists
from tidegauge.collectors.taskload import TaskloadCollector, TaskloadConfig
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.records import UNLIMITED

pytestmark = pytest.mark.integration
ROOT, PROC = Path("/sys/fs/cgroup"), Path("/proc")
DISK_METRICS = [m.name for m in Catalogue().of_table("disk_io")]


@pytest.fixture(scope="module")
def collector() -> CgroupV2Collector:
    return CgroupV2Collector(CgroupV2Config())


def removed(where: Path) -> None:
    for _ in range(100):
        try:
            where.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)


@pytest.fixture
def path() -> Iterator[str]:
    path = f"/tidegauge-{time.monotonic_ns()}"
    Path(f"{ROOT}{path}").mkdir()
    yield path
    removed(Path(f"{ROOT}{path}"))


@pytest.fixture
def worker(path: str) -> Iterator[Worker]:
    worker = Worker([Path(f"{ROOT}{path}")])
    yield worker
    worker.end()


@pytest.fixture
def reader(collector: CgroupV2Collector, path: str, worker: Worker) -> Iterator[CgroupReader]:
    reader = collector.reader(container(path))
    assert reader is not None
    yield reader
    reader.close()


def at_one_moment(collector: CgroupV2Collector, reader: CgroupReader, path: str) -> Truth:
    """Values of a read before and after which the files said the same; they are compared on the way."""
    for _ in range(60):
        before = truth_v2(ROOT, path, PROC)
        values = as_dict(collector, reader)
        if before == truth_v2(ROOT, path, PROC):
            assert values == before
            return values
        time.sleep(0.05)
    raise AssertionError("the cgroup never stood still")


def rise(before: Truth, after: Truth, name: str) -> int:
    a, b = before[name], after[name]
    assert a is not None
    assert b is not None
    return b - a


def test_this_host_is_the_v2_collectors_alone(collector: CgroupV2Collector) -> None:
    assert [(h.name, h.root) for h in collector.hierarchies()] == [("unified", ROOT)]
    other = CgroupV1Collector(CgroupV1Config())
    assert other.hierarchies() == ()
    assert other.reader(container("/")) is None


def test_every_metric_but_old_kernels_absences_has_a_value(
    collector: CgroupV2Collector, reader: CgroupReader, path: str
) -> None:
    values = at_one_moment(collector, reader, path)
    missing = {k for k, v in values.items() if v is None}
    assert missing <= {"memory_swap_bytes"}
    assert (values["memory_limit_bytes"], values["pids_limit"]) == (UNLIMITED, UNLIMITED)


def test_cpu_time_is_that_of_the_process(collector: CgroupV2Collector, reader: CgroupReader, path: str, worker: Worker) -> None:
    before, process = at_one_moment(collector, reader, path), psutil.Process(worker.pid)
    start = process.cpu_times()
    worker.do(burn)
    after, end = at_one_moment(collector, reader, path), process.cpu_times()
    used = end.user + end.system - start.user - start.system
    assert rise(before, after, "cpu_usage_ns") / 1e9 == pytest.approx(used, abs=0.1)
    assert used >= 0.25
    assert rise(before, after, "cpu_user_ns") > 0
    assert reader.probe() == after["cpu_usage_ns"]


def test_a_quota_shows_in_periods_and_throttling(
    collector: CgroupV2Collector, reader: CgroupReader, path: str, worker: Worker
) -> None:
    before = at_one_moment(collector, reader, path)
    Path(f"{ROOT}{path}/cpu.max").write_text("20000 100000")
    worker.do(burn)
    after = at_one_moment(collector, reader, path)
    assert rise(before, after, "cpu_periods") >= 5
    assert 3 <= rise(before, after, "cpu_throttled_periods") <= rise(before, after, "cpu_periods")
    assert rise(before, after, "cpu_throttled_ns") > 100_000_000
    assert rise(before, after, "cpu_pressure_some_ns") > 0


def test_memory_and_page_faults(collector: CgroupV2Collector, reader: CgroupReader, path: str, worker: Worker) -> None:
    before, process = at_one_moment(collector, reader, path), psutil.Process(worker.pid)
    resident, faults = process.memory_info().rss, minor_faults(worker.pid)
    worker.do(touch_memory)
    after = at_one_moment(collector, reader, path)
    grown = process.memory_info().rss - resident
    assert grown >= 23 * MIB  # of 24: the kernel adds up a task's pages in batches
    for name in ("memory_rss_bytes", "memory_usage_bytes", "memory_working_set_bytes", "memory_max_usage_bytes"):
        assert rise(before, after, name) == pytest.approx(grown, abs=2 * MIB), name
    assert rise(before, after, "memory_page_faults") == pytest.approx(minor_faults(worker.pid) - faults, rel=0.1, abs=64)


def minor_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def test_page_cache_mapped_files_and_disk_reads(
    collector: CgroupV2Collector, reader: CgroupReader, path: str, worker: Worker
) -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")
    before, io = at_one_moment(collector, reader, path), psutil.Process(worker.pid).io_counters()
    assert reader.read_tables() == ((),)
    worker.do(map_file)
    after = at_one_moment(collector, reader, path)
    for name in ("memory_cache_bytes", "memory_mapped_file_bytes"):
        assert rise(before, after, name) >= 8 * MIB, name
    assert rise(before, after, "memory_major_page_faults") > 0
    assert rise(before, after, "memory_inactive_file_bytes") + rise(before, after, "memory_active_file_bytes") >= 8 * MIB
    row = disk_row(reader)
    assert row["disk_read_bytes"] == psutil.Process(worker.pid).io_counters().read_bytes - io.read_bytes
    assert row == io_stat_truth(Path(f"{ROOT}{path}/io.stat"))["254:0"]


def disk_row(reader: CgroupReader) -> dict[str, object]:
    reader.read()
    (rows,) = reader.read_tables()
    assert rows is not None
    assert [r[0] for r in rows] == ["vda"]
    return {k: v for k, v in zip(DISK_METRICS, rows[0][1:], strict=True) if v is not None}


def test_direct_writes(reader: CgroupReader, path: str, worker: Worker) -> None:
    reader.read()
    worker.do(write_directly)
    row = disk_row(reader)
    assert row["disk_write_bytes"] == 4 * MIB
    assert int(str(row["disk_write_ops"])) >= 16
    assert row == io_stat_truth(Path(f"{ROOT}{path}/io.stat"))["254:0"]


def test_a_limit_that_is_hit_and_an_oom_kill(
    collector: CgroupV2Collector, reader: CgroupReader, path: str, worker: Worker
) -> None:
    before = at_one_moment(collector, reader, path)
    Path(f"{ROOT}{path}/memory.max").write_text(str(40 * MIB))
    worker.do(read_all)
    full = at_one_moment(collector, reader, path)
    assert full["memory_limit_bytes"] == 40 * MIB
    assert (full["memory_usage_bytes"] or 0) <= 40 * MIB
    assert rise(before, full, "memory_failures") > 0
    assert rise(before, full, "memory_oom_kills") == 0
    worker.do(be_killed)
    assert rise(full, at_one_moment(collector, reader, path), "memory_oom_kills") == 1


def test_tasks_their_limit_and_their_states(
    collector: CgroupV2Collector, reader: CgroupReader, path: str, worker: Worker
) -> None:
    Path(f"{ROOT}{path}/pids.max").write_text("9")
    assert (as_dict(collector, reader)["pids_current"], as_dict(collector, reader)["pids_limit"]) == (1, 9)
    worker.do(start_threads)
    values = as_dict(collector, reader)
    assert values["pids_current"] == psutil.Process(worker.pid).num_threads() == 4
    load = TaskloadCollector(TaskloadConfig(task_states=True))
    states = load.reader(container(path))
    assert states is not None
    assert states.read() == (0, 0, 4, 0, 0, 0, None)
    spinning = [Worker([Path(f"{ROOT}{path}")]) for _ in range(2)]
    for one in spinning:
        os.write(one._orders, b"burn")
    time.sleep(0.05)
    seen = states.read()
    assert (seen[2], seen[3]) == (4, 2)
    assert 0 < (seen[0] or 0) < 2000
    for one in spinning:
        assert os.read(one._answers, 1) == b"."
        one.end()


def test_the_host(collector: CgroupV2Collector) -> None:
    reader = collector.reader(container("/"))
    assert reader is not None
    start = psutil.cpu_times()
    before = as_dict(collector, reader)
    burn()
    after, end = as_dict(collector, reader), psutil.cpu_times()
    busy = end.user + end.system + end.nice - start.user - start.system - start.nice
    assert rise(before, after, "cpu_usage_ns") / 1e9 == pytest.approx(busy, abs=0.15)
    memory = psutil.virtual_memory()
    assert abs((after["memory_cache_bytes"] or 0) - memory.cached - memory.buffers) < 64 * MIB
    absent = {k for k, v in after.items() if v is None}
    assert absent == {
        *("memory_max_usage_bytes", "memory_swap_bytes", "memory_limit_bytes", "memory_failures", "memory_oom_kills"),
        "memory_high_events",
        *("pids_current", "pids_limit"),
    }
    reader.close()


def test_the_end_of_a_cgroup_and_the_same_name_again(collector: CgroupV2Collector) -> None:
    where = ROOT / "again"
    where.mkdir()
    active, parked = collector.reader(container("/again")), collector.reader(container("/again"))
    assert active is not None
    assert parked is not None
    active.read()
    removed(where)
    where.mkdir()
    for reader in (active, parked):
        with pytest.raises(FileNotFoundError):
            reader.probe()
        with pytest.raises(FileNotFoundError):
            reader.read()
        reader.close()
    removed(where)


def test_threaded_cgroups_have_no_memory_and_are_still_read(collector: CgroupV2Collector, path: str) -> None:
    inner = Path(f"{ROOT}{path}/inner")
    inner.mkdir()
    (inner / "cgroup.type").write_text("threaded")
    worker = Worker([Path(f"{ROOT}{path}")])
    (inner / "cgroup.threads").write_text(str(worker.pid))
    with pytest.raises(OSError):
        (inner / "cgroup.procs").read_text()
    reader = collector.reader(container(f"{path}/inner"))
    assert reader is not None
    values = as_dict(collector, reader)
    assert values["cpu_usage_ns"] is not None
    assert values["memory_usage_bytes"] is None
    states = TaskloadCollector(TaskloadConfig(task_states=True)).reader(container(f"{path}/inner"))
    assert states is not None
    assert states.read() == (0, 0, 1, 0, 0, 0, None)
    network = NetdevCollector(NetdevConfig())
    assert list(network.namespaces.pids(f"{path}/inner")) == [worker.pid]
    reader.close()
    worker.end()
    removed(inner)


def test_a_process_is_listed_in_a_threaded_cgroup_that_has_but_one_of_its_threads(path: str, worker: Worker) -> None:
    lists = ProcessLists(Path("/sys"), PROC, Path("/"))
    inner = Path(f"{ROOT}{path}/inner")
    inner.mkdir()
    (inner / "cgroup.type").write_text("threaded")
    worker.do(start_threads)
    assert lists.of(f"{path}/inner").processes == ()
    *_, thread = sorted(psutil.Process(worker.pid).threads())
    assert thread.id != worker.pid
    (inner / "cgroup.threads").write_text(str(thread.id))
    with pytest.raises(OSError):
        (inner / "cgroup.procs").read_text()
    for asked, is_recursive in ((f"{path}/inner", False), (path, False), (path, True)):
        (process,) = lists.of(asked, is_recursive).processes
        assert (process.pid, process.cgroup, process.threads) == (worker.pid, path, 4)
    (Path(f"{ROOT}{path}") / "cgroup.threads").write_text(str(thread.id))
    assert lists.of(f"{path}/inner").processes == ()
    removed(inner)


def test_a_network_namespace_of_its_own(path: str, run: Callable[..., subprocess.Popen[bytes]]) -> None:
    collector = NetdevCollector(NetdevConfig(exclude=()))
    command = "ip link set lo up && ip link add veth0 type veth peer name veth1 && echo ready && exec sleep 100"
    process = run("unshare", "-n", "sh", "-c", command)
    assert process.stdout is not None
    process.stdout.readline()
    Path(f"{ROOT}{path}/cgroup.procs").write_text(str(process.pid))
    inode, host = (os.stat(f"/proc/{p}/net/dev").st_ino for p in (process.pid, 1))
    assert inode != host
    assert os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/1/ns/net")
    (rows,) = collector.reader(container(path)).read_tables()
    assert rows is not None
    assert [r[0] for r in rows] == ["lo", "veth0", "veth1"]


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> subprocess.Popen[bytes]:
        assert shutil.which(command[0])
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()
