"""The v1 collector against recorded v1 and hybrid hosts, against this machine, and when the kernel misbehaves."""

import errno
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import as_dict, blkio_truth, container, paths_of, truth_v1
from tests.collectors.v1_mounts import removed
from tests.support import need
from tests.vm.worker import burst

from tidegauge.collectors import _cgroup_reader
from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.pipeline.catalogue import METRICS, Catalogue
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.records import UNLIMITED, Kind

HOSTS = {
    "cgroup1": {c: c for c in ("cpu", "cpuacct", "memory", "blkio", "pids")} | {"unified": "unified"},
    "cgroup1-vm": {"cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct", "memory": "memory", "blkio": "blkio", "pids": "pids"},
}
DISK_METRICS = [m.name for m in Catalogue().of_table("disk_io")]
COUNTERS = {m.name for m in METRICS if m.kind is Kind.COUNTER}


def collector_of(root: Path) -> CgroupV1Collector:
    return CgroupV1Collector(CgroupV1Config(sys=root / "sys", proc=root / "proc"))


def mounts_of(root: Path, host: str) -> dict[str, Path]:
    return {c: root / "sys/fs/cgroup" / folder for c, folder in HOSTS[host].items()}


def all_paths(mounts: dict[str, Path]) -> list[str]:
    return sorted({p for c, root in mounts.items() if c != "unified" for p in paths_of(root)})


def busy_copy(recorded_tree: Callable[[str], Path], tmp_path: Path) -> tuple[Path, str]:
    """A writable copy of the joint v1 tree, and a container in it that did I/O."""
    root = tmp_path / "root"
    shutil.copytree(recorded_tree("cgroup1-vm") / "snapshot-1", root)
    blkio = root / "sys/fs/cgroup/blkio"
    path = next(p for p in paths_of(blkio)[1:] if blkio_truth(Path(f"{blkio}{p}"), "blkio.throttle.{}_recursive"))
    return root, path


def test_metrics_are_the_catalogues_sample_table_without_the_load() -> None:
    expected = {m.name for m in METRICS if m.table == "sample" and m.group != "cpuLoad"}
    metrics = CgroupV1Collector(CgroupV1Config()).metrics
    assert set(metrics) == expected
    assert len(metrics) == len(expected)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("snapshot", ["snapshot-1", "snapshot-2"])
def test_every_value_of_every_recorded_cgroup(recorded_tree: Callable[[str], Path], host: str, snapshot: str) -> None:
    root = recorded_tree(host) / snapshot
    mounts = mounts_of(root, host)
    collector = collector_of(root)
    seen = 0
    for path in all_paths(mounts):
        reader = collector.reader(container(path))
        if reader is None:
            assert path == "/docker"  # recorded without its files
            continue
        seen += 1
        expected = truth_v1(mounts, path, root / "proc", mounts.get("unified"))
        assert as_dict(collector, reader) == expected, path
        probed = next(v for v in (expected[m] for m in ("cpu_usage_ns", "memory_usage_bytes", "pids_current")) if v is not None)
        assert reader.probe() == probed
        reader.close()
    assert seen > 15
    assert collector.counters() == {"absurd_values": 0, "unreadable_files": 0}
    assert collector.complaint() is None


@pytest.mark.parametrize("host", HOSTS)
def test_disk_and_percpu_rows_of_every_recorded_cgroup(recorded_tree: Callable[[str], Path], host: str) -> None:
    root = recorded_tree(host) / "snapshot-2"
    mounts = mounts_of(root, host)
    collector = collector_of(root)
    with_disk = 0
    for path in all_paths(mounts):
        if (reader := collector.reader(container(path))) is None:
            continue
        reader.read()
        disk, percpu = reader.read_tables()
        expected: dict[str, dict[str, int]] = {}
        for policy in ("blkio.bfq.{}_recursive", "blkio.throttle.{}_recursive"):
            expected = expected or blkio_truth(Path(f"{mounts['blkio']}{path}"), policy)
        if not Path(f"{mounts['blkio']}{path}").exists():
            assert disk is None
        else:
            assert disk is not None
            names = {"254:0": "vda", "254:16": "vdb"}
            assert [r[0] for r in disk] == sorted(names[d] for d in expected)
            for number, values in expected.items():
                row = next(r for r in disk if r[0] == names[number])
                assert {k: v for k, v in zip(DISK_METRICS, row[1:], strict=True) if v is not None} == values
            with_disk += bool(disk)
        usage = Path(f"{mounts['cpuacct']}{path}/cpuacct.usage_percpu")
        if usage.exists():
            assert percpu == tuple((str(i), int(n)) for i, n in enumerate(usage.read_text().split()))
        else:
            assert percpu is None
        reader.close()
    assert with_disk > 2


@pytest.mark.parametrize("host", HOSTS)
def test_counters_do_not_fall_from_one_snapshot_to_the_next(recorded_tree: Callable[[str], Path], host: str) -> None:
    first, second = (recorded_tree(host) / s for s in ("snapshot-1", "snapshot-2"))
    moved: set[str] = set()
    old, new = collector_of(first), collector_of(second)
    for path in all_paths(mounts_of(first, host)):
        a, b = old.reader(container(path)), new.reader(container(path))
        if a is None or b is None:
            continue
        before, after = as_dict(old, a), as_dict(new, b)
        for name in COUNTERS & set(before):
            x, y = before[name], after[name]
            if x is not None and y is not None:
                assert y >= x, (path, name)
                if y > x:
                    moved.add(name)
        a.close()
        b.close()
    assert {"cpu_usage_ns", "cpu_user_ns", "cpu_throttled_ns", "memory_page_faults", "cpu_pressure_some_ns"} <= moved


def test_a_pure_v2_host_is_left_to_the_other_collector(recorded_tree: Callable[[str], Path]) -> None:
    collector = collector_of(recorded_tree("cgroup2") / "snapshot-1")
    assert collector.hierarchies() == ()
    assert collector.reader(container("/")) is None


def test_a_container_that_is_nowhere_has_no_reader(recorded_tree: Callable[[str], Path]) -> None:
    assert collector_of(recorded_tree("cgroup1") / "snapshot-1").reader(container("/never/was")) is None


def test_a_controller_without_the_directory_gives_none(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    shutil.rmtree(Path(f"{root}/sys/fs/cgroup/memory{path}"))
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    values = as_dict(collector, reader)
    assert all(v is None for k, v in values.items() if k.startswith("memory_"))
    assert values["cpu_usage_ns"] is not None
    assert values["pids_current"] is not None
    assert collector.counters()["unreadable_files"] == 0
    reader.close()


def test_without_cpuacct_the_probe_is_memory_usage(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    shutil.rmtree(Path(f"{root}/sys/fs/cgroup/cpu,cpuacct{path}"))
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    values = as_dict(collector, reader)
    assert reader.probe() == values["memory_usage_bytes"]
    assert values["cpu_usage_ns"] is None
    assert reader.read_tables()[1] is None
    reader.close()


def test_controllers_of_the_unified_hierarchy_are_read_there(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    unified = root / "sys/fs/cgroup/unified"
    where = Path(f"{unified}{path}")
    where.mkdir(parents=True)
    shutil.rmtree(root / "sys/fs/cgroup/memory")
    shutil.rmtree(root / "sys/fs/cgroup/blkio")
    (unified / "cgroup.controllers").write_text("memory io\n")
    (where / "memory.current").write_text("5000\n")
    (where / "memory.max").write_text("max\n")
    (where / "memory.stat").write_text("anon 11\nfile 22\ninactive_file 6000\n")
    (where / "memory.pressure").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
    (where / "io.stat").write_text("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n")
    collector = collector_of(root)
    assert [h.name for h in collector.hierarchies()] == ["cpuacct", "pids", "unified"]
    reader = collector.reader(container(path))
    assert reader is not None
    values = as_dict(collector, reader)
    assert values["cpu_usage_ns"] == int(Path(f"{root}/sys/fs/cgroup/cpu,cpuacct{path}/cpuacct.usage").read_text())
    assert values["memory_usage_bytes"] == 5000
    assert values["memory_working_set_bytes"] == 0
    assert values["memory_limit_bytes"] == UNLIMITED
    assert (values["memory_pressure_some_ns"], values["memory_pressure_full_ns"]) == (7000, None)
    assert reader.read_tables()[0] == (("vda", 1, 2, 5, None, None, 3, 4, 6, None, None),)
    reader.close()


def test_what_changed_is_read_anew_and_a_file_may_grow(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    mounts = mounts_of(root, "cgroup1-vm")
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    assert reader.read() == reader.read()
    percpu = Path(f"{mounts['cpuacct']}{path}/cpuacct.usage_percpu")
    percpu.write_text(" ".join(str(10**18 + i) for i in range(300)) + " \n")
    Path(f"{mounts['memory']}{path}/memory.usage_in_bytes").write_text("123456789\n")
    assert as_dict(collector, reader) == truth_v1(mounts, path, root / "proc")
    assert reader.read_tables()[1] == tuple((str(i), 10**18 + i) for i in range(300))
    reader.close()


def test_the_first_io_of_a_container_chooses_the_policy_and_stays_with_it(
    recorded_tree: Callable[[str], Path], tmp_path: Path
) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    where = Path(f"{root}/sys/fs/cgroup/blkio{path}")
    for old in where.glob("blkio.*"):
        old.unlink()
    for policy in ("bfq", "throttle"):
        for file in ("io_service_bytes", "io_serviced"):
            (where / f"blkio.{policy}.{file}_recursive").write_text("Total 0\n")
            (root / f"sys/fs/cgroup/blkio/blkio.{policy}.{file}_recursive").write_text("Total 0\n")
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    reader.read()
    assert reader.read_tables()[0] == ()
    (where / "blkio.throttle.io_service_bytes_recursive").write_text("254:0 Read 1\n254:0 Total 1\nTotal 1\n")
    (where / "blkio.throttle.io_serviced_recursive").write_text("254:0 Read 2\n8:99 Write 3\nTotal 5\n")
    reader.read()
    disk, percpu = reader.read_tables()
    none = (None,) * 4
    assert disk == (("8:99", *none, None, None, 3, None, None, None), ("vda", 1, *none, 2, *none))
    assert percpu is not None
    (where / "blkio.bfq.io_service_bytes_recursive").write_text("254:0 Read 77\n")
    reader.park()
    reader.read()
    assert reader.read_tables()[0] == disk
    reader.close()


def test_absurd_numbers_are_none_and_counted(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    mounts = mounts_of(root, "cgroup1-vm")
    stat = Path(f"{mounts['memory']}{path}/memory.stat")
    stat.write_text(f"total_rss {2**63}\ntotal_cache -1\ntotal_mapped_file 1e3\ntotal_pgfault {2**63 - 1}\n")
    Path(f"{mounts['cpuacct']}{path}/cpuacct.usage").write_text("junk\n")
    Path(f"{mounts['pids']}{path}/pids.current").write_text("")
    Path(f"{mounts['memory']}{path}/memory.limit_in_bytes").write_text(f"{2**64 - 4096}\n")
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    values = as_dict(collector, reader)
    for name in ("memory_rss_bytes", "memory_cache_bytes", "memory_mapped_file_bytes", "cpu_usage_ns", "pids_current"):
        assert values[name] is None, name
    assert values["memory_limit_bytes"] is None
    assert values["memory_page_faults"] == 2**63 - 1
    assert collector.counters()["absurd_values"] == 6
    assert reader.probe() == 0
    reader.read()
    assert collector.counters()["absurd_values"] == 6  # the same bytes are not counted again
    reader.close()


def failing_pread(monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], int | None]) -> None:
    """`pread` of a file whose path makes `fails` answer an errno raises that."""
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if code := fails(os.readlink(f"/proc/self/fd/{fd}")):
            raise OSError(code, os.strerror(code))
        return real(fd, size, offset)

    monkeypatch.setattr(_cgroup_reader, "_pread", pread)


def test_a_cgroup_that_vanishes_in_the_middle_of_a_read(
    recorded_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    collector = collector_of(root)
    reader, parked = collector.reader(container(path)), collector.reader(container(path))
    assert reader is not None
    assert parked is not None
    reader.read()
    failing_pread(monkeypatch, lambda file: errno.ENODEV)
    with pytest.raises(FileNotFoundError):
        reader.read()
    with pytest.raises(FileNotFoundError):
        reader.probe()
    with pytest.raises(FileNotFoundError):
        parked.read()
    reader.close()
    parked.close()


def test_a_cgroup_that_vanishes_while_its_files_are_opened(
    recorded_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened by name after that could be a successor's."""
    root, path = busy_copy(recorded_tree, tmp_path)
    parked = collector_of(root).reader(container(path))
    assert parked is not None
    seen: list[str] = []

    def gone_at_the_second_look(file: str) -> int | None:
        seen.append(file)
        return errno.ENODEV if sum(f.endswith("cpuacct.usage") for f in seen) > 1 else None

    start = psutil.Process().num_fds()
    failing_pread(monkeypatch, gone_at_the_second_look)
    with pytest.raises(FileNotFoundError):
        parked.read()
    assert len(seen) > 10
    assert psutil.Process().num_fds() == start
    parked.close()


def test_a_directory_that_goes_from_one_hierarchy_alone(
    recorded_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    before = as_dict(collector, reader)
    failing_pread(monkeypatch, lambda file: errno.ENODEV if "/memory/" in file else None)
    after = as_dict(collector, reader)
    assert {k for k, v in after.items() if v is None and before[k] is not None} == {
        k for k, v in before.items() if k.startswith("memory_") and v is not None
    }
    assert as_dict(collector, reader) == after
    reader.close()


def test_a_failure_that_is_not_the_end_is_a_collect_error(
    recorded_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    collector = collector_of(root)
    reader = collector.reader(container(path))
    assert reader is not None
    reader.read()
    failing_pread(monkeypatch, lambda file: errno.EIO if file.endswith("cpuacct.usage") else None)
    with pytest.raises(CollectError, match="Input/output"):
        reader.read()
    reader.close()


def test_an_unreadable_file_is_none_and_counted(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root, to become somebody who may not read")
    root, path = busy_copy(recorded_tree, tmp_path)
    mounts = mounts_of(root, "cgroup1-vm")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    for controller, name in (("memory", "memory.stat"), ("cpuacct", "cpuacct.usage")):
        Path(f"{mounts[controller]}{path}/{name}").chmod(0)
    os.seteuid(65534)
    try:
        collector = collector_of(root)
        reader = collector.reader(container(path))
        assert reader is not None
        values = as_dict(collector, reader)
    finally:
        os.seteuid(0)
    assert values["cpu_usage_ns"] is None
    assert values["cpu_user_ns"] is not None
    assert values["memory_rss_bytes"] is None
    assert values["memory_working_set_bytes"] is None
    assert values["memory_usage_bytes"] is not None
    assert collector.counters()["unreadable_files"] == 2
    complaint = collector.complaint()
    assert complaint is not None
    assert complaint.endswith("cpuacct.usage: Permission denied")
    reader.close()


def test_a_parked_reader_keeps_the_probes_descriptor_only(recorded_tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    collector = collector_of(root)
    start = psutil.Process().num_fds()
    reader = collector.reader(container(path))
    assert reader is not None
    assert psutil.Process().num_fds() == start + 1
    values, tables = reader.read(), reader.read_tables()
    assert psutil.Process().num_fds() > start + 10
    reader.park()
    reader.park()
    assert psutil.Process().num_fds() == start + 1
    assert reader.probe() == as_dict(collector, reader)["cpu_usage_ns"]
    assert (reader.read(), reader.read_tables()) == (values, tables)
    reader.close()
    reader.close()
    assert psutil.Process().num_fds() == start


def test_a_descriptor_limit_leaves_no_descriptor_behind(
    recorded_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path = busy_copy(recorded_tree, tmp_path)
    reader = collector_of(root).reader(container(path))
    assert reader is not None
    real = os.open
    left = iter(range(5))

    def limited(file: str, flags: int) -> int:
        if next(left, None) is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(file, flags)

    start = psutil.Process().num_fds()
    monkeypatch.setattr(os, "open", limited)
    with pytest.raises(CollectError, match="Too many open files"):
        reader.read()
    monkeypatch.undo()
    assert psutil.Process().num_fds() == start
    assert reader.read()[0] is not None
    reader.close()


@pytest.fixture
def real_cgroup() -> Iterator[tuple[dict[str, Path], str]]:
    """A cgroup of our own in every v1 hierarchy of this machine, removed at the end."""
    collector = CgroupV1Collector(CgroupV1Config())
    need(collector.hierarchies() and os.geteuid() == 0, "cgroup v1 controllers and root")
    mounts = {c: Path(p) for c, p in collector._mounts.v1.items()}
    need(set(mounts) >= {"cpuacct", "cpu", "memory", "pids"}, "the usual v1 controllers")
    path = f"/tidegauge-test-{os.getpid()}-{time.monotonic_ns()}"
    for root in set(mounts.values()):
        Path(f"{root}{path}").mkdir()
    yield mounts, path
    for root in set(mounts.values()):
        removed(Path(f"{root}{path}"))


def run_inside(mounts: dict[str, Path], path: str, code: Callable[[], None]) -> resource.struct_rusage:
    """Runs `code` in a child that first joins the cgroup; waits for it and gives what the kernel says that it used."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for root in set(mounts.values()):
                Path(f"{root}{path}/cgroup.procs").write_text(str(os.getpid()))
            code()
            status = 0
        finally:
            os._exit(status)
    _, result, used = os.wait4(pid, 0)
    assert result == 0
    wait_until_still(Path(f"{mounts['cpuacct']}{path}/cpuacct.usage"))
    return used


def wait_until_still(counter: Path) -> None:
    """A child that was waited for still runs its last instructions in the kernel, and these are charged a moment later."""
    before = ""
    for _ in range(100):
        before, now = counter.read_text(), before
        if before == now:
            return
        time.sleep(0.05)
    pytest.fail(f"{counter} does not stand still")


@pytest.mark.integration
def test_this_machines_cgroup_is_read_as_its_files_say(real_cgroup: tuple[dict[str, Path], str]) -> None:
    mounts, path = real_cgroup
    Path(f"{mounts['memory']}{path}/memory.limit_in_bytes").write_text(str(64 << 20))
    Path(f"{mounts['pids']}{path}/pids.max").write_text("17")
    Path(f"{mounts['cpu']}{path}/cpu.cfs_quota_us").write_text("20000")
    collector = CgroupV1Collector(CgroupV1Config())
    reader = collector.reader(container(path))
    assert reader is not None
    before = as_dict(collector, reader)
    assert before["memory_limit_bytes"] == 64 << 20
    assert before["pids_limit"] == 17

    def burn() -> None:
        end = time.process_time_ns() + 150_000_000
        block = bytearray(8 << 20)
        while time.process_time_ns() < end:
            block[::4096] = b"x" * len(block[::4096])

    used = run_inside(mounts, path, burn)
    after = as_dict(collector, reader)
    assert after == truth_v1(mounts, path, Path("/proc"), collector._mounts.unified)
    risen = {name: (after[name] or 0) - (before[name] or 0) for name in after}
    assert risen["cpu_usage_ns"] / 1e9 == pytest.approx(used.ru_utime + used.ru_stime, abs=0.1)
    assert used.ru_utime + used.ru_stime >= 0.14
    # some faults came before it joined, and some wait in per-CPU counters of the kernel
    assert used.ru_minflt * 0.4 <= risen["memory_page_faults"] <= used.ru_minflt + 100
    assert reader.probe() == after["cpu_usage_ns"]
    percpu = reader.read_tables()[1]
    assert percpu is not None
    assert sum(int(row[1] or 0) for row in percpu) == after["cpu_usage_ns"]
    for name in ("cpu_user_ns", "cpu_throttled_periods", "cpu_throttled_ns", "memory_page_faults"):
        assert risen[name] > 0, name
    assert (after["memory_max_usage_bytes"] or 0) >= 8 << 20
    reader.close()


@pytest.mark.integration
def test_the_end_of_a_real_cgroup_is_told_to_open_and_parked_readers(real_cgroup: tuple[dict[str, Path], str]) -> None:
    mounts, path = real_cgroup
    collector = CgroupV1Collector(CgroupV1Config())
    active, idle = collector.reader(container(path)), collector.reader(container(path))
    assert active is not None
    assert idle is not None
    active.read()
    for again in range(2):
        for root in set(mounts.values()):
            Path(f"{root}{path}").rmdir()
        if not again:  # the same name again: still not this container
            for root in set(mounts.values()):
                Path(f"{root}{path}").mkdir()
        for gone in (active, idle):
            with pytest.raises(FileNotFoundError):
                gone.probe()
            with pytest.raises(FileNotFoundError):
                gone.read()
    active.close()
    idle.close()


@pytest.mark.integration
def test_cpu_time_saved_up_is_used_in_bursts(real_cgroup: tuple[dict[str, Path], str]) -> None:
    mounts, path = real_cgroup
    cpu = Path(f"{mounts['cpu']}{path}")
    need((cpu / "cpu.cfs_burst_us").exists(), "a kernel that knows bursts (5.14)")
    for name, value in (("period", 100_000), ("quota", 40_000), ("burst", 40_000)):
        (cpu / f"cpu.cfs_{name}_us").write_text(str(value))
    collector = CgroupV1Collector(CgroupV1Config())
    reader = collector.reader(container(path))
    assert reader is not None
    before = as_dict(collector, reader)
    assert before["cpu_burst_periods"] == before["cpu_burst_ns"] == 0
    for _ in range(40):
        run_inside(mounts, path, burst)
        after = as_dict(collector, reader)
        if after["cpu_burst_periods"]:
            break
    assert 0 < (after["cpu_burst_ns"] or 0) <= 40_000_000 * (after["cpu_burst_periods"] or 0)
    for _ in range(60):  # periods pass for a moment after the last task
        expected = truth_v1(mounts, path, Path("/proc"), collector._mounts.unified)
        values = as_dict(collector, reader)
        if expected == truth_v1(mounts, path, Path("/proc"), collector._mounts.unified):
            break
        time.sleep(0.05)
    assert values == expected
    reader.close()
