"""The sampler with the real collector on real cgroups v1 of this machine, against an observer of its own."""

import os
import subprocess
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.sampler_rig import ORIGIN
from tests.support import eventually, need

from tidegauge.collectors.cgroup_v1 import CgroupV1Collector
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.identity import live_containers
from tidegauge.pipeline.log_thread import Heads, frames_of
from tidegauge.pipeline.records import Batch, Container, Event, Gap, Sample, Schema
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.sampling import Collected, sample_once

pytestmark = pytest.mark.integration

ROOT = Path("/sys/fs/cgroup")
BASE_S = 0.1
HIERARCHIES = ("cpuacct", "memory", "freezer")


class Cgroups:
    """Cgroups of our own below `/tgtest-PID` in three hierarchies."""

    def __init__(self) -> None:
        self.name = f"/tgtest-{os.getpid()}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def make(self, path: str, *hierarchies: str) -> str:
        for h in hierarchies or HIERARCHIES:
            os.makedirs(self.file(h, path))
        return self.name + path

    def remove(self, path: str, *hierarchies: str) -> None:
        for h in hierarchies or HIERARCHIES:
            self.file(h, path).rmdir()

    def file(self, hierarchy: str, path: str, name: str = "") -> Path:
        return ROOT / hierarchy / (self.name + path).lstrip("/") / name

    def start(self, path: str, code: str, *hierarchies: str) -> "subprocess.Popen[bytes]":
        """A Python process in the cgroup; it runs `code` once it gets a line."""
        script = f"import sys, time\nsys.stdin.readline()\n{code}\n"
        process = subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE)
        self.processes.append(process)
        for h in hierarchies or HIERARCHIES:
            self.file(h, path, "cgroup.procs").write_text(str(process.pid))
        return process

    def close(self) -> None:
        for state in (ROOT / "freezer" / self.name.lstrip("/")).rglob("freezer.state"):
            state.write_text("THAWED")
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for h in HIERARCHIES:
            for path, _, _ in os.walk(ROOT / h / self.name.lstrip("/"), topdown=False):
                for _ in range(100):
                    try:
                        os.rmdir(path)
                        break
                    except OSError:
                        time.sleep(0.02)


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    need(all(os.access(ROOT / h, os.W_OK) for h in HIERARCHIES), "writable cgroup v1 cpuacct, memory and freezer are needed")
    made = Cgroups()
    try:
        yield made
    finally:
        made.close()


class Running:
    """A sampler on a thread, restricted to the cgroups of the test."""

    def __init__(self, cgroups: Cgroups, max_interval_s: float = 60.0, **options: Any) -> None:
        config = SamplerConfig(base_interval_s=BASE_S, max_interval_s=max_interval_s, include=(cgroups.name + "*",))
        self.out = Collected()
        collector = CgroupV1Collector(CgroupV1Collector.Config())
        self.sampler = Sampler(config, [("cgroup_v1", collector)], Catalogue(), ORIGIN, self.out, **options)
        self._thread = threading.Thread(target=self.sampler.run)
        self._thread.start()

    def stop(self) -> None:
        self.sampler.stop()
        self._thread.join()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def of(self, kind: type[Any]) -> list[Any]:
        return [i for i in tuple(self.out.items) if isinstance(i, kind)]

    def samples(self, path: str) -> list[Sample]:
        numbers = {c.number for c in self.of(Container) if c.path == path}
        return [s for i in self.of(list) for s in tuple(i) if s.container in numbers]

    def column(self, path: str, metric: str) -> list[tuple[int, Any]]:
        schemas: dict[int, Schema] = {s.id: s for s in self.of(Schema)}
        return [(s.ts_ms, s.values[schemas[s.schema].names.index(metric)]) for s in self.samples(path)]

    def until_idle(self, path: str) -> None:
        """Waits for a moment in an idle span, several looks after the last reading and some before the next."""
        eventually(lambda: 3.5 * BASE_S < time.time() - self.samples(path)[-1].ts_ms / 1000 < 5 * BASE_S)


class Observer:
    """Reads one file every few milliseconds on its own thread."""

    def __init__(self, path: Path) -> None:
        self.times: list[float] = []
        self.values: list[int] = []
        self._path = path
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.004):
            value = int(self._path.read_text())
            self.times.append(time.time() * 1000)
            self.values.append(value)

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def bounds(self, ts_ms: float, slack_ms: float) -> tuple[int, int]:
        """Values that the counter had just before and just after."""
        low = max(0, bisect_left(self.times, ts_ms - slack_ms) - 1)
        high = min(len(self.times) - 1, bisect_right(self.times, ts_ms + slack_ms))
        return self.values[low], self.values[high]


def test_a_burst_in_an_idle_container_has_its_true_rate_at_base_resolution(cgroups: Cgroups) -> None:
    path = cgroups.make("/a")
    burn = "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ntime.sleep(60)"
    process = cgroups.start("/a", burn)
    assert process.stdin is not None
    observer = Observer(cgroups.file("cpuacct", "/a", "cpuacct.usage"))
    try:
        with Running(cgroups) as running:
            eventually(lambda: len(running.samples(path)) > 1)
            idle_from = len(running.samples(path))
            running.until_idle(path)
            usage_before = running.column(path, "cpu_usage_ns")[-1][1]
            process.stdin.write(b"go\n")
            process.stdin.flush()
            eventually(lambda: any(s.is_closing for s in running.samples(path)[idle_from:]))
            eventually(lambda: running.column(path, "cpu_usage_ns")[-1][1] - usage_before > 0.3e9)
            time.sleep(3 * BASE_S)
    finally:
        observer.stop()
    samples = running.samples(path)
    usage = running.column(path, "cpu_usage_ns")
    # each stored value is what the counter was at its time, give or take the moment of reading it
    for ts_ms, value in usage:
        low, high = observer.bounds(ts_ms, 25)
        assert low <= value <= high
    at = next(n for n, s in enumerate(samples) if s.is_closing and n >= idle_from)
    closing, reading = samples[at], samples[at + 1]
    assert not reading.is_closing
    assert usage[at][1] == usage[at - 1][1]
    # between the two lies one tick, however long the idle span was
    stats = running.sampler.stats
    tick_s = BASE_S * (1 + stats.missed_ticks) + stats.lateness.quantile(1.0)
    assert reading.ts_ms - closing.ts_ms <= 1000 * tick_s + 5
    assert closing.ts_ms - samples[at - 1].ts_ms > 0
    assert usage[-1][1] - usage[at][1] == observer.values[-1] - usage_before
    schema = next(s for s in running.of(Schema) if s.id == closing.schema)
    assert {m.name for m, v in zip(schema.metrics, closing.values, strict=True) if v is not None} <= {
        "cpu_usage_ns",
        "cpu_user_ns",
        "cpu_system_ns",
    }
    assert [t.name for t, rows in zip(schema.tables, closing.tables, strict=True) if rows] == ["percpu"]


def test_what_does_not_move_the_cpu_counter_is_stored_only_as_it_was_read(cgroups: Cgroups, tmp_path: Path) -> None:
    """Memory reclaimed from outside, a changed limit, a process moved in: no closing sample, no sample out of turn."""
    path = cgroups.make("/a")
    process = cgroups.start("/a", f"open({str(tmp_path / 'fill')!r}, 'wb').write(bytes(20 << 20))\ntime.sleep(60)")
    cgroups.make("/b")
    asleep = cgroups.start("/b", "pass")
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    usage = cgroups.file("memory", "/a", "memory.usage_in_bytes")
    with Running(cgroups, max_interval_s=1.6) as running:
        eventually(lambda: int(usage.read_text()) > 20 << 20)
        eventually(lambda: running.sampler.stats.idle_containers >= 1)
        eventually(lambda: len(s := running.samples(path)) > 1 and s[-1].ts_ms - s[-2].ts_ms > 500)
        count = len(running.samples(path))
        cpu = cgroups.file("cpuacct", "/a", "cpuacct.usage").read_text()
        cgroups.file("memory", "/a", "memory.limit_in_bytes").write_text(str(256 << 20))
        for hierarchy in HIERARCHIES:
            cgroups.file(hierarchy, "/a", "cgroup.procs").write_text(str(asleep.pid))
        cgroups.file("memory", "/a", "memory.force_empty").write_text("0")
        assert int(usage.read_text()) < 20 << 20
        assert cgroups.file("cpuacct", "/a", "cpuacct.usage").read_text() == cpu
        eventually(lambda: len(running.samples(path)) >= count + 2)
    limits = running.column(path, "memory_limit_bytes")
    rss = running.column(path, "memory_usage_bytes")
    assert limits[count - 1][1] > 256 << 20
    assert limits[-1][1] == 256 << 20
    assert rss[count - 1][1] > 20 << 20 > rss[-1][1]
    later = running.samples(path)[count - 1 :]
    assert not any(s.is_closing for s in later)
    assert all(b.ts_ms - a.ts_ms > 1000 for a, b in pairwise(later))


def test_a_frozen_container_stands_still_and_is_read_anew_when_thawed(cgroups: Cgroups) -> None:
    path = cgroups.make("/a")
    process = cgroups.start("/a", "while True: sum(range(2000)); time.sleep(0.002)")
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    state = cgroups.file("freezer", "/a", "freezer.state")
    with Running(cgroups) as running:
        eventually(lambda: len(running.samples(path)) > 4)
        state.write_text("FROZEN")
        eventually(lambda: state.read_text().strip() == "FROZEN")
        running.until_idle(path)
        state.write_text("THAWED")
        eventually(lambda: any(s.is_closing for s in running.samples(path)))
    samples = running.samples(path)
    at = next(n for n, s in enumerate(samples) if s.is_closing)
    usage = running.column(path, "cpu_usage_ns")
    assert usage[at][1] == usage[at - 1][1] < usage[at + 1][1]


def test_creation_and_end_are_told_within_a_second(cgroups: Cgroups) -> None:
    cgroups.make("")
    with Running(cgroups) as running:
        eventually(lambda: running.of(list))
        for n in range(5):
            path = cgroups.make(f"/{n}/b/c")
            for suffix in ("", "/b", "/b/c"):
                eventually(lambda p=f"{cgroups.name}/{n}{suffix}": p in _paths(running, "creation"), 1.0)
            for p in (f"/{n}/b/c", f"/{n}/b", f"/{n}"):
                cgroups.remove(p)
            eventually(lambda p=path: p in _paths(running, "deletion"), 1.0)
        assert running.sampler.counters()["collect_errors"] == {}
        assert len(_paths(running, "creation")) == 16
    # the directories of the hierarchies are made one after another: no container is taken for two
    assert len({c.number for c in running.of(Container)}) == 17


def _paths(running: Running, kind: str) -> list[str]:
    return [e.details["path"] for e in running.of(Event) if e.kind == kind]


def test_identity_outlives_cache_reclaim_and_a_restart_but_not_the_directory(cgroups: Cgroups) -> None:
    path = cgroups.make("/a", "cpuacct")
    with Running(cgroups) as first:
        eventually(lambda: first.samples(path))
        cgroups.make("/a", "memory")
        eventually(lambda: len([c for c in first.of(Container) if c.path == path]) == 2)
        eventually(lambda: first.column(path, "memory_usage_bytes")[-1][1] is not None)
        Path("/proc/sys/vm/drop_caches").write_text("2")
        first.sampler.walk_job()
        time.sleep(0.3)
        assert first.of(Event)[-1].kind == "creation"
    heads = Heads()
    for frame in frames_of([i for i in first.out.items if not isinstance(i, list)]):
        assert frame.record is not None
        heads.note(frame.record, frame.payload)
    known = live_containers(heads.frames())
    last_ms = max(s.ts_ms for i in first.of(list) for s in i)
    with Running(cgroups, known=known, last_time_ms=last_ms) as second:
        eventually(lambda: second.of(list))
        assert [c for c in second.of(Container) if c.path == path] == []
        assert second.of(Gap)[0].reason == "agent_down"
        cgroups.remove("/a", "cpuacct", "memory")
        cgroups.make("/a", "cpuacct", "memory")
        eventually(lambda: [c for c in second.of(Container) if c.path == path])
    old = next(c for c in known if c.path == path)
    new = next(c for c in second.of(Container) if c.path == path)
    assert new.instance != old.instance
    assert new.number not in {c.number for c in known}


def test_once_reads_everything_twice_and_leaves_nothing_open(cgroups: Cgroups) -> None:
    path = cgroups.make("/a")
    before = set(os.listdir("/proc/self/fd"))
    collector = CgroupV1Collector(CgroupV1Collector.Config())
    records = sample_once(SamplerConfig(base_interval_s=0.1), [("cgroup_v1", collector)], Catalogue(), ORIGIN)
    assert set(os.listdir("/proc/self/fd")) <= before
    batches = [r for r in records if isinstance(r, Batch)]
    rows = [row for b in batches for row in b.as_dicts() if row["container"] == path]
    assert len(rows) == 2
    assert all("cpu_usage_ns" in r["metrics"] for r in rows)
    assert {r["container"] for b in batches for r in b.as_dicts()} >= {"/", path}
    assert 50 <= rows[1]["ts_ms"] - rows[0]["ts_ms"] <= 5000
