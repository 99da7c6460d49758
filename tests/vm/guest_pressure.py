"""Inside a VM with cgroup v2 alone: loads that move what quiet containers never do: bursts, reclaim, swap, stalls."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.collectors.cgroup_truth import Truth, as_dict, container, io_stat_truth, truth_v2
from tests.collectors.v1_mounts import removed
from tests.support import need
from tests.vm.worker import (
    DISK,
    MIB,
    Worker,
    burst,
    discard,
    fill_pipes,
    flush,
    read_all,
    touch_again,
    touch_memory,
    write_cached,
    write_directly,
)

from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.catalogue import Catalogue

pytestmark = pytest.mark.integration
ROOT, PROC = Path("/sys/fs/cgroup"), Path("/proc")
DISK_METRICS = [m.name for m in Catalogue().of_table("disk_io")]
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


class Loaded:
    """A cgroup with a worker in it, and the reader under test."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.worker = Worker([where])
        self.collector = CgroupV2Collector(CgroupV2Config())
        reader = self.collector.reader(container(f"/{where.name}"))
        assert reader is not None
        self.reader = reader

    def set(self, name: str, value: object) -> None:
        (self.where / name).write_text(str(value))

    def read(self) -> Truth:
        """Values of a reading before and after which the files said the same; they are compared on the way."""
        for _ in range(100):
            before = truth_v2(ROOT, f"/{self.where.name}", PROC)
            values = as_dict(self.collector, self.reader)
            if before == truth_v2(ROOT, f"/{self.where.name}", PROC):
                assert values == before
                return values
            time.sleep(0.05)
        raise AssertionError("the cgroup never stood still")

    def until(self, load: Callable[[], None], *names: str) -> dict[str, int]:
        """Repeats the load until each of these counters has risen; by how much."""
        before = self.read()
        risen: dict[str, int] = {}
        for _ in range(40):
            load()
            after = self.read()
            risen = {name: (after[name] or 0) - (before[name] or 0) for name in names}
            if all(n > 0 for n in risen.values()):
                return risen
        raise AssertionError(f"not all have risen: {risen}")


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    where = ROOT / f"tidegauge-{time.monotonic_ns()}"
    where.mkdir()
    loaded = Loaded(where)
    with DISK.open("rb"):  # the last one to close a disk writes its page cache and drops it
        yield loaded
    loaded.reader.close()
    loaded.worker.end()
    removed(where)


def test_cpu_time_saved_up_is_used_in_bursts(loaded: Loaded) -> None:
    loaded.set("cpu.max", "40000 100000")
    loaded.set("cpu.max.burst", 40000)
    risen = loaded.until(lambda: loaded.worker.do(burst), "cpu_burst_periods", "cpu_burst_ns", "cpu_periods")
    # each burst is what went beyond the quota in one period, and the most that can be saved up
    assert risen["cpu_burst_ns"] <= 40_000_000 * risen["cpu_burst_periods"]
    assert risen["cpu_burst_periods"] <= risen["cpu_periods"]


def test_a_quota_stalls_all_tasks(loaded: Loaded) -> None:
    loaded.set("cpu.max", "10000 100000")
    loaded.until(lambda: loaded.worker.do(burst), "cpu_pressure_some_ns", "cpu_pressure_full_ns", "cpu_throttled_ns")


def test_memory_beyond_high_is_reclaimed_read_again_and_waited_for(loaded: Loaded) -> None:
    loaded.set("memory.high", 16 * MIB)
    reclaimed = loaded.until(
        lambda: loaded.worker.do(read_all),
        *("memory_reclaim_scanned_pages", "memory_reclaimed_pages", "memory_refaulted_file_pages", "memory_high_events"),
        *("memory_pressure_some_ns", "memory_pressure_full_ns", "cpu_system_ns"),
    )
    # of the 64 MiB of a round no more than 16 can stay
    assert reclaimed["memory_reclaimed_pages"] >= 40 * MIB // 4096
    assert reclaimed["memory_reclaimed_pages"] <= reclaimed["memory_reclaim_scanned_pages"]


def test_anonymous_memory_goes_to_swap_and_comes_back(loaded: Loaded, swap: None) -> None:
    loaded.set("memory.high", 12 * MIB)
    loaded.worker.do(touch_memory)
    out = loaded.read()
    used = psutil.swap_memory().used
    assert (out["memory_swap_bytes"] or 0) >= 8 * MIB
    assert out["memory_swap_bytes"] == pytest.approx(used, abs=4 * MIB)  # nobody else is short of memory here
    faults = major_faults(loaded.worker.pid)
    risen = loaded.until(
        lambda: loaded.worker.do(touch_again), "memory_refaulted_anon_pages", "memory_major_page_faults", "io_pressure_some_ns"
    )
    assert risen["memory_major_page_faults"] == pytest.approx(major_faults(loaded.worker.pid) - faults, rel=0.1, abs=64)


def major_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


@pytest.fixture
def swap() -> Iterator[None]:
    """The disk as swap, which it is no more when the test is over."""
    tools = {name: shutil.which(name, path=_PATH) for name in ("mkswap", "swapon", "swapoff")}
    need(all(tools.values()), "mkswap, swapon and swapoff")
    for name in ("mkswap", "swapon"):
        subprocess.run([str(tools[name]), str(DISK)], check=True, capture_output=True)
    yield
    subprocess.run([str(tools["swapoff"]), str(DISK)], check=True, capture_output=True)


def test_memory_of_the_kernel(loaded: Loaded) -> None:
    before = loaded.read()["memory_kernel_bytes"] or 0
    loaded.worker.do(fill_pipes)
    for _ in range(100):
        if (loaded.read()["memory_kernel_bytes"] or 0) - before >= 2 * MIB:
            break
        time.sleep(0.05)
    assert 2 * MIB <= (loaded.read()["memory_kernel_bytes"] or 0) - before <= 8 * MIB


def test_writes_wait_and_are_written(loaded: Loaded) -> None:
    loaded.worker.do(write_cached)
    assert (loaded.read()["memory_dirty_bytes"] or 0) >= 4 * MIB
    loaded.set("io.max", "254:0 wbps=1048576")
    loaded.worker.do(flush)
    for _ in range(200):
        if as_dict(loaded.collector, loaded.reader)["memory_writeback_bytes"]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("nothing was ever being written")
    loaded.set("io.max", "254:0 wbps=max")
    for _ in range(200):
        values = loaded.read()
        if not values["memory_dirty_bytes"] and not values["memory_writeback_bytes"]:
            return
        time.sleep(0.05)
    pytest.fail("writing never came to an end")


def test_discards_and_waiting_for_the_disk(loaded: Loaded) -> None:
    loaded.set("io.max", "254:0 wbps=8388608")
    loaded.until(lambda: loaded.worker.do(write_directly), "io_pressure_some_ns", "io_pressure_full_ns")
    loaded.set("io.max", "254:0 wbps=max")
    loaded.worker.do(discard)
    loaded.reader.read()
    (rows,) = loaded.reader.read_tables()
    assert rows is not None
    row = {k: v for k, v in zip(DISK_METRICS, rows[0][1:], strict=True) if v is not None}
    assert row == io_stat_truth(loaded.where / "io.stat")["254:0"]
    assert (row["disk_discard_bytes"], row["disk_discard_ops"]) == (MIB, 1)
