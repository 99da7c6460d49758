"""A file of a real collector that may not be read: said once, counted, and the rest goes on."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.pipeline.sampler_rig import ORIGIN, ListOutlet, SamplerClock
from tests.support import need

from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.records import Container, Sample, Schema
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig

NOBODY = 65534


@pytest.fixture
def root(recorded_tree: Callable[[str], Path]) -> Iterator[Path]:
    """A recorded host where everybody may reach it."""
    with tempfile.TemporaryDirectory(prefix="tidegauge-") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(recorded_tree("cgroup2") / "snapshot-1", Path(folder) / "root", symlinks=True)
        yield Path(folder) / "root"


def test_what_may_not_be_read_is_said_once_and_the_rest_goes_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    need(os.geteuid() == 0, "root, to become somebody who may not read")
    slice_ = root / "sys/fs/cgroup/system.slice"
    for name in ("memory.stat", "pids.current"):
        (slice_ / name).chmod(0)
    need(os.stat(root).st_mode & 0o005 == 0o005, "a recorded tree that everybody may read")
    clock, outlet = SamplerClock(), ListOutlet()
    os.seteuid(NOBODY)
    try:
        collector = CgroupV2Collector(CgroupV2Config(root / "sys", root / "proc"))
        sampler = Sampler(SamplerConfig(), [("cgroup_v2", collector)], Catalogue(), ORIGIN, outlet, clock=clock)
        sampler.begin()
        for _ in range(4):
            due_ns = sampler.turn()
            clock.advance(max(0, due_ns - clock.monotonic_ns()) / 1e9)
        told = sampler.counters()
        sampler.close()
    finally:
        os.seteuid(0)
    said = f"{slice_}/memory.stat: Permission denied"
    assert caplog.messages == [f"collector cgroup_v2 goes on without what it cannot read, first {said}"]
    assert told["collector_faults"] == {"cgroup_v2": said}
    assert told["collector_counters"]["cgroup_v2"]["unreadable_files"] >= 2
    assert told["collect_errors"] == {}
    [number] = {i.number for i in outlet.items if isinstance(i, Container) and i.path == "/system.slice"}
    samples: list[Sample] = [s for i in outlet.items if isinstance(i, list) for s in i if s.container == number]
    schema = next(i for i in outlet.items if isinstance(i, Schema) and i.id == samples[0].schema)
    values = dict(zip(schema.names, samples[0].values, strict=True))
    assert values["memory_usage_bytes"] == int((slice_ / "memory.current").read_text())
    assert values["memory_rss_bytes"] is values["pids_current"] is None
