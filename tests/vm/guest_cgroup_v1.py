"""Inside a VM with v1's joint mounts: block I/O, which the host's own kernel may not count; the rest is tested there too."""

import time
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import as_dict, blkio_truth, container, truth_v1
from tests.collectors.v1_mounts import removed
from tests.vm.worker import (
    DISK,
    MIB,
    Worker,
    be_killed,
    discard,
    fill_pipes,
    map_file,
    read_all,
    start_threads,
    write_behind,
    write_directly,
)

from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.pipeline.catalogue import Catalogue

pytestmark = pytest.mark.integration
DISK_METRICS = [m.name for m in Catalogue().of_table("disk_io")]


def test_joint_mounts_block_io_and_tasks() -> None:
    collector = CgroupV1Collector(CgroupV1Config())
    hierarchies = collector.hierarchies()
    assert [h.name for h in hierarchies] == ["cpuacct", "memory", "blkio", "pids"]
    mounts = {h.name: h.root for h in hierarchies} | {"cpu": hierarchies[0].root}
    path = "/tidegauge-io"
    places = [Path(f"{h.root}{path}") for h in hierarchies]
    for place in places:
        place.mkdir()
    for way in ("read", "write"):  # without a rule this kernel counts nothing
        (mounts["blkio"] / path[1:] / f"blkio.throttle.{way}_bps_device").write_text(f"254:0 {1 << 40}")
    worker = Worker(places)
    reader = collector.reader(container(path))
    assert reader is not None
    reader.read()
    before = psutil.Process(worker.pid).io_counters()
    for load in (write_directly, discard, write_behind, map_file, start_threads):  # writing past the page cache would empty it
        worker.do(load)
    for _ in range(60):
        expected = truth_v1(mounts, path, Path("/proc"))
        values = as_dict(collector, reader)
        if expected == truth_v1(mounts, path, Path("/proc")):
            break
        time.sleep(0.05)
    assert values == expected
    assert values["pids_current"] == 4
    for name in ("memory_cache_bytes", "memory_mapped_file_bytes"):
        assert (values[name] or 0) >= 8 * MIB, name
    for name in ("memory_major_page_faults", "cpu_system_ns"):
        assert (values[name] or 0) > 0, name
    disk = reader.read_tables()[0]
    assert disk is not None
    row = {k: v for k, v in zip(DISK_METRICS, disk[0][1:], strict=True) if v is not None}
    assert disk[0][0] == "vda"
    assert row == blkio_truth(Path(f"{mounts['blkio']}{path}"), "blkio.throttle.{}_recursive")["254:0"]
    after = psutil.Process(worker.pid).io_counters()
    assert row["disk_write_bytes"] == after.write_bytes - before.write_bytes == 5 * MIB
    assert (row["disk_discard_bytes"], row["disk_discard_ops"]) == (MIB, 1)
    for name in ("disk_sync_bytes", "disk_sync_ops", "disk_async_bytes", "disk_async_ops"):
        assert int(str(row[name])) > 0, name
    assert row["disk_read_bytes"] == after.read_bytes - before.read_bytes
    worker.end()
    reader.close()
    for place in places:
        place.rmdir()


def test_a_memory_limit_that_is_hit_files_read_again_and_an_oom_kill() -> None:
    collector = CgroupV1Collector(CgroupV1Config())
    mounts = {h.name: h.root for h in collector.hierarchies()}
    mounts["cpu"] = mounts["cpuacct"]
    path = "/tidegauge-memory"
    places = [Path(f"{root}{path}") for root in {*mounts.values()}]
    for place in places:
        place.mkdir()
    worker = Worker(places)
    reader = collector.reader(container(path))
    assert reader is not None
    before = as_dict(collector, reader)
    memory = mounts["memory"] / path[1:]
    (memory / "memory.limit_in_bytes").write_text(str(16 * MIB))
    wanted = ("memory_failures", "memory_refaulted_file_pages", "memory_page_faults")
    with DISK.open("rb"):  # the last one to close a disk drops its page cache
        for _ in range(20):
            worker.do(read_all)
            after = as_dict(collector, reader)
            if all((after[name] or 0) > (before[name] or 0) for name in wanted):
                break
            time.sleep(0.05)
    assert all((after[name] or 0) > (before[name] or 0) for name in wanted), after
    assert after["memory_limit_bytes"] == 16 * MIB
    assert after["memory_oom_kills"] == 0
    worker.do(fill_pipes)
    worker.do(be_killed)
    for _ in range(60):
        expected = truth_v1(mounts, path, Path("/proc"))
        values = as_dict(collector, reader)
        if expected == truth_v1(mounts, path, Path("/proc")):
            break
        time.sleep(0.05)
    assert values == expected
    assert values["memory_oom_kills"] == 1
    assert (values["memory_kernel_bytes"] or 0) >= 2 * MIB
    worker.end()
    reader.close()
    for place in places:
        removed(place)
