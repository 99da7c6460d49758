"""Sums over pods made of real cgroups, against what the kernel's own files and the processes themselves say.

Two containers of a pod are cgroups with a process each that burns CPU time on demand and holds memory. The readings are the
collectors' own; only their times are put on a grid, so that a minute need not pass.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from tests.collectors.real_container import RealContainer, ask
from tests.support import need

from tidegauge.api.heapster import model, routes
from tidegauge.api.heapster.memory import MemoryReader
from tidegauge.api.heapster.shapes import Points
from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.history import Bounds
from tidegauge.pipeline.records import Batch, Container, Sample
from tidegauge.pipeline.testing import START_MS, make_container
from tidegauge.sinks.memory import MemoryConfig, MemorySink

pytestmark = pytest.mark.integration

BEGIN_MS = START_MS // 60_000 * 60_000
UID = "0b9f3a1e-55c2-4f6e-a1f7-3c2d9e8b7a60"
HELD_BYTES = 64 << 20
_SPIN = "end = time.process_time() + {}\nwhile time.process_time() < end: pass"


def _collector() -> Any:
    """Of the hierarchy that this machine has."""
    found = None
    for collector in (CgroupV2Collector(CgroupV2Config()), CgroupV1Collector(CgroupV1Config())):
        with contextlib.suppress(NoData):
            if collector.hierarchies() and {"cpu_usage_ns", "memory_usage_bytes"} <= set(collector.metrics):
                found = collector
    need(found, "a cgroup hierarchy")
    return found


@pytest.fixture
def pod() -> Iterator[tuple[RealContainer, RealContainer]]:
    with RealContainer() as one, RealContainer() as other:
        yield one, other


def _record(number: int, real: RealContainer) -> Container:
    id_ = f"{number:064x}"
    names = {"pod": "web-0", "pod_namespace": "shop", "pod_uid": UID, "runtime": "containerd"}
    labels = {"io.kubernetes.container.name": f"c{number}"}
    return make_container(number, f"/kubepods/pod{UID}/{id_}", container_id=id_, labels=labels, created_ms=BEGIN_MS, **names)


def test_a_pod_is_the_sum_of_what_the_kernel_says_of_its_containers(pod: tuple[RealContainer, RealContainer]) -> None:
    collector = _collector()
    schema = Catalogue().schema(collector.metrics)
    processes = [real.run(f"held = b'x' * {HELD_BYTES}") for real in pod]
    readers = [collector.reader(make_container(n, real.path)) for n, real in enumerate(pod, 1)]
    records = {n: _record(n, real) for n, real in enumerate(pod, 1)}
    used = [psutil.Process(p.pid) for p in processes]
    memory = MemorySink(MemoryConfig(storage_duration_s=1e6))
    memory.write(list(records.values()))
    before = [sum(p.cpu_times()[:2]) for p in used]

    def sample(at_ms: int) -> None:
        samples = [Sample(n, at_ms, schema.id, tuple(r.read()), ()) for n, r in enumerate(readers, 1)]
        memory.write([Batch(samples, range(at_ms // 1000, at_ms // 1000 + 2), {schema.id: schema}, records)])

    sample(BEGIN_MS)
    for process, seconds in zip(processes, (0.6, 0.3), strict=True):
        ask(process, f"exec({_SPIN.format(seconds)!r})")
    sample(BEGIN_MS + 60_000)
    burnt = [sum(p.cpu_times()[:2]) - b for p, b in zip(used, before, strict=True)]
    for reader in readers:
        reader.close()

    def value(path: str) -> float:
        found = model.answer(
            *(MemoryReader(memory), path, {}, Bounds(10**6, time.monotonic() + 60), BEGIN_MS + 125_000),
            reach_ms=routes.MODEL_REACH_MS,
            is_past=False,
        )
        assert isinstance(found, Points)
        assert found.metrics, path
        point = next(p for p in found.metrics if p.timestamp == "2023-11-14T22:14:00Z")
        return point.value if point.float_value is None else point.float_value

    each = [value(f"namespaces/shop/pods/web-0/containers/c{n}/metrics/cpu/usage_rate") for n in (1, 2)]
    for got, seconds in zip(each, burnt, strict=True):
        # the kernel's times of a process come in ticks
        assert got == pytest.approx(seconds / 60 * 1000, rel=0.2, abs=1)
    for path in ("namespaces/shop/pods/web-0", "namespaces/shop", ""):
        assert value(f"{path}/metrics/cpu/usage_rate") == pytest.approx(sum(each))
        assert value(f"{path}/metrics/memory/usage") >= 2 * HELD_BYTES * 0.9
