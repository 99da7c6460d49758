"""Inside a VM with v1's joint mounts: block I/O, which the host's own kernel may not count; the rest is tested there too."""

import time
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import as_dict, blkio_truth, container, truth_v1
from tests.vm.worker import MIB, Worker, map_file, start_threads, write_directly

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
    for load in (write_directly, map_file, start_threads):  # writing past the page cache would empty it
        worker.do(load)
    for _ in range(60):
        expected = truth_v1(mounts, path, Path("/proc"))
        values = as_dict(collector, reader)
        if expected == truth_v1(mounts, path, Path("/proc")):
            break
        time.sleep(0.05)
    assert values == expected
    assert values["pids_current"] == 4
    assert (values["memory_cache_bytes"] or 0) >= 8 * MIB
    disk = reader.read_tables()[0]
    assert disk is not None
    row = {k: v for k, v in zip(DISK_METRICS, disk[0][1:], strict=True) if v is not None}
    assert disk[0][0] == "vda"
    assert row == blkio_truth(Path(f"{mounts['blkio']}{path}"), "blkio.throttle.{}_recursive")["254:0"]
    after = psutil.Process(worker.pid).io_counters()
    assert row["disk_write_bytes"] == after.write_bytes - before.write_bytes == 4 * MIB
    assert row["disk_read_bytes"] == after.read_bytes - before.read_bytes
    worker.end()
    reader.close()
    for place in places:
        place.rmdir()
