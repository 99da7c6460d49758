"""Inside a VM with cgroup v2 alone: limits that are written, as the whole sampler records them; and the machine."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.collectors.machine import MachineCollector, MachineConfig
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.records import UNLIMITED, Container, Spec
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.sampling import Collected

pytestmark = pytest.mark.integration
ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = "+cpu +memory +pids +cpuset"


def until(condition: Callable[[], object], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def outer() -> Iterator[Path]:
    """A cgroup in which another may be made with limits of its own."""
    (ROOT / "cgroup.subtree_control").write_text(CONTROLLERS)
    made = ROOT / f"tgspec-{os.getpid()}"
    (made / "inner").mkdir(parents=True)
    (made / "cgroup.subtree_control").write_text(CONTROLLERS)
    yield made
    for folder in (made / "inner", made):
        folder.rmdir()


@pytest.fixture
def log(outer: Path) -> Iterator[Collected]:
    """What a sampler records whose jobs run all the time."""
    log = Collected()
    collectors = [("v2", CgroupV2Collector(CgroupV2Config())), ("machine", MachineCollector(MachineConfig()))]
    config = SamplerConfig(base_interval_s=0.2, include=(f"/{outer.name}*",), spec_interval_s=0.5)
    sampler = Sampler(config, collectors, Catalogue(), Origin("source", "host", "boot"), log)
    is_over = threading.Event()

    def jobs() -> None:
        while not is_over.wait(0.2):
            sampler.specs.run()
            sampler.machine_job()

    threads = [threading.Thread(target=sampler.run), threading.Thread(target=jobs)]
    for thread in threads:
        thread.start()
    yield log
    is_over.set()
    sampler.stop()
    for thread in threads:
        thread.join()


def newest(log: Collected, path: str) -> Container | None:
    found = [i for i in tuple(log.items) if isinstance(i, Container) and i.path == path]
    return found[-1] if found else None


def test_limits_that_are_written_and_changed(outer: Path, log: Collected) -> None:
    def spec(path: str) -> Spec | None:
        record = newest(log, path)
        return record and record.spec

    path = f"/{outer.name}/inner"
    cpus = (ROOT / "cpuset.cpus.effective").read_text().strip()
    swap = UNLIMITED if (outer / "memory.swap.max").exists() else None
    untouched = Spec(
        cpu_shares=2597,
        cpu_weight=100,
        cpu_quota_us=UNLIMITED,
        cpu_period_us=100_000,
        cpus=cpus,
        memory_nodes="0",
        memory_limit_bytes=UNLIMITED,
        memory_effective_limit_bytes=UNLIMITED,
        memory_swap_limit_bytes=swap,
        memory_reservation_bytes=0,
        memory_min_bytes=0,
        memory_high_bytes=UNLIMITED,
        pids_limit=UNLIMITED,
    )
    until(lambda: spec(path) == untouched)
    (outer / "memory.max").write_text(str(64 << 20))
    for name, value in {
        "cpu.weight": 39,
        "cpu.max": "25000 50000",
        "cpuset.cpus": 0,
        "memory.max": 128 << 20,
        "memory.low": 8 << 20,
        "memory.min": 4 << 20,
        "memory.high": 96 << 20,
        "pids.max": 42,
    }.items():
        (outer / "inner" / name).write_text(str(value))
    if swap is not None:
        (outer / "inner/memory.swap.max").write_text(str(16 << 20))
    bound = Spec(
        cpu_shares=998,
        cpu_weight=39,
        cpu_quota_us=25_000,
        cpu_period_us=50_000,
        cpus="0",
        memory_nodes="0",
        memory_limit_bytes=128 << 20,
        memory_effective_limit_bytes=64 << 20,
        memory_swap_limit_bytes=None if swap is None else 144 << 20,
        memory_reservation_bytes=8 << 20,
        memory_min_bytes=4 << 20,
        memory_high_bytes=96 << 20,
        pids_limit=42,
    )
    until(lambda: spec(path) == bound)
    (outer / "memory.max").write_text("max")
    until(lambda: spec(path) == msgspec.structs.replace(bound, memory_effective_limit_bytes=128 << 20))
    records = [i for i in log.items if isinstance(i, Container) and i.path == path]
    assert len({c.instance for c in records}) == 1
    assert [c.valid_from_ms for c in records] == sorted({c.valid_from_ms for c in records})


def test_the_machine_that_the_guest_is(log: Collected) -> None:
    until(lambda: (host := newest(log, "/")) is not None and host.machine is not None)
    host = newest(log, "/")
    assert host is not None
    machine = host.machine
    assert machine is not None
    assert machine.cpus == 2
    assert machine.memory_bytes is not None
    assert 700 << 20 < machine.memory_bytes <= 1024 << 20
    assert machine.swap_bytes == 0
    disk = next(d for d in machine.disks if d.name == "vda")
    assert disk.size_bytes == 64 << 20
    assert machine.kernel_version == os.uname().release
    assert machine.cloud_provider is None
    uuid = Path("/sys/class/dmi/id/product_uuid")
    assert machine.system_uuid == (uuid.read_text().strip() if uuid.exists() else None)
    assert [f.type for f in machine.filesystems if f.mount_point == "/"] == ["overlay"]
