"""Limits of real cgroups v1 and this very machine, through the sampler and its jobs into SQLite and back."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.pipeline.sampler_rig import ORIGIN
from tests.sinks.databases import live
from tests.support import eventually, need

from tidegauge.collectors.cgroup_v1 import CgroupV1Collector
from tidegauge.collectors.machine import MachineCollector
from tidegauge.pipeline import sampling
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.records import UNLIMITED, Container, Spec
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.sampling import Collected
from tidegauge.pipeline.schedule import Schedule
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.tables import SPEC_COLUMNS

pytestmark = pytest.mark.integration

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids")


class Cgroup:
    """`/tgspec-PID` in every hierarchy, and one below it."""

    def __init__(self) -> None:
        self.name = f"/tgspec-{os.getpid()}"
        self.inner = f"{self.name}/inner"

    def write(self, path: str, name: str, value: object) -> None:
        (ROOT / name.partition(".")[0] / path.lstrip("/") / name).write_text(f"{value}\n")

    def make(self) -> None:
        for controller in CONTROLLERS:
            for path in (self.name, self.inner):
                (ROOT / controller / path.lstrip("/")).mkdir(exist_ok=True)

    def remove(self) -> None:
        for controller in CONTROLLERS:
            for path in (self.inner, self.name):
                where = ROOT / controller / path.lstrip("/")
                if where.is_dir():
                    where.rmdir()


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    need(all(os.access(ROOT / c, os.W_OK) for c in CONTROLLERS), f"writable cgroup v1 {', '.join(CONTROLLERS)} are needed")
    made = Cgroup()
    try:
        yield made
    finally:
        made.remove()


def test_limits_and_the_machine_reach_sqlite_and_so_does_a_changed_limit(cgroup: Cgroup, tmp_path: Path) -> None:
    log, schedule = Collected(), Schedule()
    config = SamplerConfig(base_interval_s=0.1, include=(f"{cgroup.name}*",), spec_interval_s=1)
    collectors = [("cgroup_v1", CgroupV1Collector(CgroupV1Collector.Config()))]
    machines = MachineCollector(MachineCollector.Config())
    sampler = Sampler(config, [*collectors, ("machine", machines)], Catalogue(), ORIGIN, log)
    sampling.add_jobs(schedule, sampler, config)

    def newest(path: str) -> Container | None:
        found = [i for i in tuple(log.items) if isinstance(i, Container) and i.path == path]
        return found[-1] if found else None

    def spec() -> Spec | None:
        record = newest(cgroup.inner)
        return record and record.spec

    before = Spec(
        cpu_shares=512,
        cpu_quota_us=25_000,
        cpu_period_us=50_000,
        cpus="0",
        memory_nodes="0",
        memory_limit_bytes=UNLIMITED,
        memory_effective_limit_bytes=64 << 20,
        memory_swap_limit_bytes=UNLIMITED,
        memory_reservation_bytes=16 << 20,
        pids_limit=42,
    )
    after = msgspec.structs.replace(
        before, cpu_quota_us=UNLIMITED, memory_limit_bytes=32 << 20, memory_effective_limit_bytes=32 << 20
    )
    thread = threading.Thread(target=sampler.run)
    schedule.start()
    thread.start()
    try:
        eventually(lambda: (host := newest("/")) is not None and host.machine is not None)
        cgroup.make()
        cgroup.write(cgroup.name, "memory.limit_in_bytes", 64 << 20)
        for name, value in (
            ("cpu.shares", 512),
            ("cpu.cfs_period_us", 50_000),
            ("cpu.cfs_quota_us", 25_000),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
            ("memory.soft_limit_in_bytes", 16 << 20),
            ("pids.max", 42),
        ):
            if name.startswith("cpuset"):  # a cpuset has no more than the one above it
                cgroup.write(cgroup.name, name, value)
            cgroup.write(cgroup.inner, name, value)
        eventually(lambda: spec() == before)
        cgroup.write(cgroup.inner, "memory.limit_in_bytes", 32 << 20)
        cgroup.write(cgroup.inner, "cpu.cfs_quota_us", -1)
        eventually(lambda: spec() == after)
    finally:
        schedule.stop()
        sampler.stop()
        thread.join()
    sink = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path}/a.db"))
    sink.open()
    sink.write(log.records())
    stored = {c.path: c for c in live(sink)}
    sink.close()
    db = sqlite3.connect(tmp_path / "a.db")
    rows = db.execute(
        f"SELECT {', '.join(SPEC_COLUMNS)} FROM container_metadata JOIN container ON id = container "
        "WHERE path = ? ORDER BY valid_from_ms",
        (cgroup.inner,),
    ).fetchall()
    machine_rows = db.execute("SELECT path FROM container_metadata JOIN container ON id = container WHERE machine IS NOT NULL")
    assert {path for (path,) in machine_rows} == {"/"}
    db.close()
    assert msgspec.structs.astuple(before) in rows[:-1]
    assert rows[-1] == msgspec.structs.astuple(after)
    assert stored[cgroup.inner].spec == after
    host = newest("/")
    assert host is not None
    assert stored["/"].machine == host.machine
    assert host.machine is not None
    assert host.machine.cpus == os.cpu_count()
