"""The sampler with its coarse jobs, and once without them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.sampler_rig import ORIGIN, CpuCollector, Rig, World
from tests.support import eventually

from tidegauge.pipeline import sampling
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.plugin import Hierarchy
from tidegauge.pipeline.records import Batch, Container, Event
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.schedule import Schedule


class Slow:
    """A slow collector of the host's load."""

    metrics = ("load1",)
    is_slow = True

    def __init__(self) -> None:
        self.interval_s: float | None = None
        self.read_by: list[str] = []
        self.was_read = threading.Semaphore(0)
        self.is_closed = False
        self.hang = threading.Event()
        self.hang.set()

    def reader(self, container: Container) -> "Slow | None":
        return self if container.is_host else None

    def read(self) -> tuple[float]:
        self.read_by.append(threading.current_thread().name)
        self.hang.wait(30)
        self.was_read.release()
        return (0.5,)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    s = Schedule()
    yield s
    s.stop()


def test_slow_collectors_run_at_once_on_threads_of_their_own(schedule: Schedule) -> None:
    slow = Slow()
    rig = Rig(extra=[("slow", slow)])
    config = SamplerConfig(slow_interval_s=0.02)
    sampling.add_jobs(schedule, rig.sampler, config)
    schedule.start()
    assert slow.was_read.acquire(timeout=5)
    assert slow.was_read.acquire(timeout=5)
    assert set(slow.read_by) == {"job collector slow"}
    schedule.stop()
    eventually(lambda: rig.sampler.slow[0].fresh())
    rig.run(1)
    assert rig.values(rig.samples("/")[-1])["load1"] == 0.5
    rig.close()
    assert slow.is_closed


def test_lost_events_are_made_good_by_a_walk_on_a_worker(schedule: Schedule) -> None:
    rig = Rig()
    sampling.add_jobs(schedule, rig.sampler, SamplerConfig())
    schedule.start()
    rig.tree.is_deaf = True
    rig.world.make("/a")
    rig.run(1)
    assert rig.containers("/a") == []
    rig.tree.needs_walk = True
    rig.run(1)
    while not rig.containers("/a"):
        rig.run(1)
        time.sleep(0.001)
    eventually(lambda: schedule.counters()["job_runs"][sampling.WALK] == 1)
    rig.close()


def test_without_a_schedule_the_walk_is_made_at_once() -> None:
    rig = Rig()
    rig.tree.is_deaf = True
    rig.world.make("/a")
    rig.tree.needs_walk = True
    rig.run(1)
    assert len(rig.containers("/a")) == 1
    rig.close()


def test_a_clock_step_has_the_coarse_jobs_run(schedule: Schedule) -> None:
    rig = Rig()
    sampling.add_jobs(schedule, rig.sampler, SamplerConfig())
    schedule.start()
    rig.clock.step(-3600)
    rig.run(1)
    eventually(lambda: schedule.counters()["job_runs"][sampling.WALK])
    rig.close()


def test_a_reload_changes_intervals_of_jobs_and_of_sampling(schedule: Schedule) -> None:
    slow = Slow()
    rig = Rig(extra=[("slow", slow)])
    sampling.add_jobs(schedule, rig.sampler, SamplerConfig(slow_interval_s=3600))
    schedule.start()
    assert slow.was_read.acquire(timeout=5)
    sampling.reload(schedule, rig.sampler, SamplerConfig(slow_interval_s=0.02, base_interval_s=2))
    assert slow.was_read.acquire(timeout=5)
    rig.run(1)
    assert rig.containers("/")[-1].base_interval_s == 2
    rig.close()


def test_a_slow_collector_may_have_an_interval_of_its_own(schedule: Schedule) -> None:
    often, seldom, as_set = Slow(), Slow(), Slow()
    often.interval_s, seldom.interval_s = 0.02, 3600.0
    rig = Rig(extra=[("often", often), ("seldom", seldom), ("as_set", as_set)])
    sampling.add_jobs(schedule, rig.sampler, SamplerConfig(slow_interval_s=3600))
    schedule.start()
    for slow in (seldom, as_set, often, often):
        assert slow.was_read.acquire(timeout=5)
    sampling.reload(schedule, rig.sampler, SamplerConfig(slow_interval_s=0.02))
    for slow in (as_set, as_set, as_set, often):
        assert slow.was_read.acquire(timeout=5)
    assert len(seldom.read_by) == 1
    rig.close()


class Folders:
    """A collector over plain folders: the number in the file `usage` of each."""

    metrics = ("cpu_usage_ns",)

    def __init__(self, root: Path) -> None:
        self.root = root

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        return (Hierarchy("cpuacct", self.root),)

    def reader(self, container: Container) -> "FolderReader | None":
        path = Path(f"{self.root}{container.path}") / "usage"
        return FolderReader(path) if path.exists() else None


class FolderReader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[int]:
        return (int(self.path.read_text()),)

    def close(self) -> None: ...


def test_the_running_thread_hears_of_containers_commands_and_its_end(tmp_path: Path) -> None:
    out = sampling.Collected()
    sampler = Sampler(SamplerConfig(base_interval_s=0.02), [("folders", Folders(tmp_path))], Catalogue(), ORIGIN, out)
    thread = threading.Thread(target=sampler.run)
    thread.start()

    def seen(kind: str, path: str) -> bool:
        return any(isinstance(i, Event) and i.kind == kind and i.details["path"] == path for i in tuple(out.items))

    try:
        (tmp_path / "a").mkdir()
        eventually(lambda: seen("creation", "/a"))
        (tmp_path / "a" / "usage").write_text("7")
        eventually(lambda: any(isinstance(i, list) and i[0].values == (7,) for i in tuple(out.items)))
        sampler.reload(SamplerConfig(base_interval_s=3600, max_interval_s=3600))
        eventually(lambda: any(isinstance(i, Container) and i.base_interval_s == 3600 for i in tuple(out.items)))
        # nothing is due for an hour, and yet
        (tmp_path / "b").mkdir()
        eventually(lambda: seen("creation", "/b"))
        (tmp_path / "b").rmdir()
        eventually(lambda: seen("deletion", "/b"))
    finally:
        sampler.stop()
        thread.join(10)
    assert not thread.is_alive()
    sampler.stop()
    sampler.close()


def once(*extra: tuple[str, Any], world: World | None = None, **options: Any) -> list[Any]:
    collectors = [("cpu", CpuCollector(world or World())), *extra]
    return list(sampling.sample_once(SamplerConfig(base_interval_s=0.05), collectors, Catalogue(), ORIGIN, **options))


def test_once_gives_two_readings_with_all_that_is_needed_to_read_them() -> None:
    slow = Slow()
    records = once(("slow", slow))
    first, second = (r for r in records if isinstance(r, Batch))
    rows = [row for b in (first, second) for row in b.as_dicts()]
    assert [r["container"] for r in rows] == ["/", "/"]
    assert rows[1]["ts_ms"] > rows[0]["ts_ms"]
    assert rows[1]["metrics"]["load1"] == 0.5
    numbers = [n for r in records for n in (r.rows if isinstance(r, Batch) else [r.row])]
    assert numbers == list(range(len(numbers)))
    assert slow.is_closed


def test_once_does_not_wait_for_a_slow_collector_that_hangs() -> None:
    slow = Slow()
    slow.hang.clear()
    records = once(("slow", slow), slow_deadline_s=0.02)
    slow.hang.set()
    rows = [row for b in records if isinstance(b, Batch) for row in b.as_dicts()]
    assert len(rows) == 2
    assert all("load1" not in r["metrics"] for r in rows)
