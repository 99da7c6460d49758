"""Inside a VM with cgroup v2 alone: the optional groups, each moved by a load and compared with another witness."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.collectors.cgroup_truth import container, table_of, text
from tests.collectors.hugepages import BUS, PAGE, Taker, pages
from tests.collectors.test_disk_io_ext import COLUMNS as COST_COLUMNS
from tests.collectors.test_hugetlb import COLUMNS as HUGE_PAGES_COLUMNS
from tests.collectors.test_hugetlb import truth as huge_pages_truth
from tests.collectors.test_memory_numa import as_truth as nodes_of
from tests.collectors.test_memory_numa import truth as nodes_truth
from tests.collectors.test_perf_event import check_against_rusage
from tests.collectors.v1_mounts import removed
from tests.vm.worker import MIB, Worker, map_file, touch_memory, write_directly

from tidegauge.collectors.cpuset import CpusetCollector, CpusetConfig
from tidegauge.collectors.disk_io_ext import DiskIoExtCollector, DiskIoExtConfig
from tidegauge.collectors.hugetlb import HugetlbCollector, HugetlbConfig
from tidegauge.collectors.memory_numa import MemoryNumaCollector, MemoryNumaConfig
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import UNLIMITED

pytestmark = pytest.mark.integration
ROOT = Path("/sys/fs/cgroup")
COSTS = ("usage", "wait", "indebt", "indelay")


@pytest.fixture
def where() -> Iterator[Path]:
    """A cgroup with every controller that is tested here."""
    for controller in ("hugetlb", "cpuset"):
        (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
    where = ROOT / f"tidegauge-{time.monotonic_ns()}"
    where.mkdir()
    yield where
    removed(where)


@pytest.fixture
def worker(where: Path) -> Iterator[Worker]:
    worker = Worker([where])
    yield worker
    worker.end()


def test_huge_pages(where: Path) -> None:
    with pages(4):
        collector = HugetlbCollector(HugetlbConfig())
        assert collector.reader(container("/")) is None
        reader = collector.reader(container(f"/{where.name}"))
        taker = Taker(where)
        (where / "hugetlb.2MB.max").write_text(str(2 * PAGE))
        assert taker.take()
        assert taker.take()
        rows = table_of(reader, HUGE_PAGES_COLUMNS) or {}
        assert rows == huge_pages_truth(where, False, tuple(rows))
        used = {"usage_bytes": 2 * PAGE, "reserved_bytes": 2 * PAGE, "limit_bytes": 2 * PAGE, "failures": 0}
        assert rows["2MB"] == used
        assert rows["1GB"]["limit_bytes"] == UNLIMITED
        assert not taker.take()
        assert taker.end() == BUS
        after = table_of(reader, HUGE_PAGES_COLUMNS) or {}
        assert after == huge_pages_truth(where, False, tuple(after))
        assert after["2MB"]["failures"] > 0
        assert after["2MB"]["usage_bytes"] == 0


def test_memory_by_node(where: Path, worker: Worker) -> None:
    reader = MemoryNumaCollector(MemoryNumaConfig()).reader(container(f"/{where.name}"))
    process = psutil.Process(worker.pid)
    resident = process.memory_info().rss
    before = settled(reader, where)
    worker.do(touch_memory)
    worker.do(map_file)
    grown = process.memory_info().rss - resident
    after = settled(reader, where)
    anon, file = (sum(row[f"numa_{k}_bytes"] for row in after.values()) for k in ("anon", "file"))
    assert anon - sum(row["numa_anon_bytes"] for row in before.values()) == pytest.approx(grown - 8 * MIB, abs=2 * MIB)
    assert file >= 8 * MIB
    assert not [name for row in after.values() for name in row if "own" in name]


def settled(reader: Any, where: Path) -> dict[str, dict[str, int]]:
    """Values of a reading before and after which the file said the same."""
    for _ in range(100):
        before = nodes_truth(text(where / "memory.numa_stat") or "", False)
        values = nodes_of(reader.read_tables()[0])
        if before == nodes_truth(text(where / "memory.numa_stat") or "", False):
            assert values == before
            return values
        time.sleep(0.05)
    raise AssertionError("the cgroup never stood still")


def test_a_cpuset(where: Path, worker: Worker) -> None:
    collector = CpusetCollector(CpusetConfig())
    reader = collector.reader(container(f"/{where.name}"))
    assert reader.read() == (len(os.sched_getaffinity(worker.pid)), 1, None) == (2, 1, None)
    (where / "cpuset.cpus").write_text("1")
    assert reader.read() == (len(os.sched_getaffinity(worker.pid)), 1, None) == (1, 1, None)
    assert collector.reader(container("/")).read() == (2, 1, None)


def test_events_of_the_kernel(where: Path) -> None:
    check_against_rusage(where, Path("/sys"))


def test_what_the_cost_model_charges(where: Path, worker: Worker) -> None:
    collector = DiskIoExtCollector(DiskIoExtConfig())
    host = collector.reader(container("/"))
    assert table_of(host, COST_COLUMNS) is None
    with pytest.raises(NoData):
        collector.reader(container(f"/{where.name}"))
    details = Path("/sys/module/blk_cgroup/parameters/blkcg_debug_stats")
    details.write_text("1")
    (ROOT / "io.cost.qos").write_text("254:0 enable=1")
    try:
        table_of(host, COST_COLUMNS)
        reader = collector.reader(container(f"/{where.name}"))
        row: dict[str, int] = {}
        for _ in range(40):  # the model adds up now and then
            worker.do(write_directly)
            row = (table_of(reader, COST_COLUMNS) or {}).get("vda", {})
            if row.get("disk_cost_usage_ns"):
                break
            time.sleep(0.05)
        assert row["disk_cost_usage_ns"] > 0
        raw: dict[str, int] = {}
        for _ in range(100):
            raw = costs_of(where)
            row = (table_of(reader, COST_COLUMNS) or {})["vda"]
            if raw == costs_of(where):
                break
            time.sleep(0.05)
        assert row == raw
        assert len(row) == len(COSTS)
    finally:
        (ROOT / "io.cost.qos").write_text("254:0 enable=0")
        details.write_text("0")


def costs_of(where: Path) -> dict[str, int]:
    """Plainly, what io.stat says of the disk."""
    pairs = (pair.partition("=") for pair in (where / "io.stat").read_text().split())
    return {f"disk_{key.replace('.', '_')}_ns": 1000 * int(value) for key, _, value in pairs if key[5:] in COSTS}
