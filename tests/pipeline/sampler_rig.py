"""A sampler without a kernel: clocks that are told, cgroups in a dict, collectors that read them, a log in a list."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.discovery import IsPruned, Walked
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.log_thread import Item
from tidegauge.pipeline.plugin import Hierarchy
from tidegauge.pipeline.records import Container, End, Event, Gap, Kind, Metric, Sample, Schema
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.testing import FakeClock

ORIGIN = Origin("7d3c6f52-9b1e-4a57-8d0f-2f1c5a6e9b04", "host-a", "boot-1")
PLUGIN_METRIC = Metric("queue_depth", Kind.GAUGE, "count", "custom", "Jobs that wait.")


class SamplerClock(FakeClock):
    """With a clock that counts suspended time, and CPU time of the thread that is told too."""

    def __init__(self) -> None:
        super().__init__()
        self.suspended_ns = 0
        self.spent_ns = 0

    def boottime_ns(self) -> int:
        return self.monotonic_ns() + self.suspended_ns

    def cpu_ns(self) -> int:
        return self.spent_ns

    def suspend(self, seconds: float) -> None:
        self.step(seconds)
        self.suspended_ns += round(seconds * 1e9)


class World:
    """What the kernel would hold: directories and counters by cgroup path."""

    def __init__(self) -> None:
        self.dirs: dict[str, dict[str, int]] = {"/": {"cpuacct": 1}}
        self.cpu: dict[str, int] = {"/": 0}
        self.memory: dict[str, int] = {"/": 0}
        self._inode = 1

    def make(self, path: str, *hierarchies: str) -> None:
        for hierarchy in hierarchies or ("cpuacct",):
            self._inode += 1
            self.dirs.setdefault(path, {})[hierarchy] = self._inode
        self.cpu.setdefault(path, 0)
        self.memory.setdefault(path, 4096)

    def remove(self, path: str) -> None:
        del self.dirs[path], self.cpu[path], self.memory[path]


class FakeTree:
    """Discovery over a World. With `is_deaf` it hears of nothing and must be told to look."""

    hierarchies: tuple[Hierarchy, ...] = ()

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: dict[str, dict[str, int]] = {}
        self.is_deaf = False
        self.needs_walk = False
        self.overflows = self.unwatched = 0
        self.is_pruned: IsPruned = lambda path: False
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    def pairs(self, path: str) -> dict[str, int]:
        return dict(self.seen.get(path, {}))

    def paths(self) -> Iterable[str]:
        return list(self.seen)

    def created_ms(self, path: str) -> int | None:
        return 1_600_000_000_000

    def begin(self) -> Iterable[str]:
        return self._look(self.world.dirs)

    def read(self) -> Iterable[str]:
        return () if self.is_deaf else self._look({**self.seen, **self.world.dirs})

    def check(self, path: str) -> Iterable[str]:
        return self._look([path])

    def reconcile(self, walked: Walked) -> Iterable[str]:
        return self._look({**self.seen, **self.world.dirs})

    def prune(self, is_pruned: IsPruned) -> Iterable[str]:
        self.is_pruned = is_pruned
        return self._look({**self.seen, **self.world.dirs})

    def close(self) -> None:
        for fd in self._pipe:
            if fd >= 0:
                os.close(fd)
        self._pipe = (-1, -1)

    def _look(self, paths: Iterable[str]) -> list[str]:
        touched = []
        for path in list(paths):
            there = {} if self.is_pruned(path) else dict(self.world.dirs.get(path, {}))
            if there != self.seen.get(path, {}):
                touched.append(path)
                self.seen[path] = there
                if not there:
                    del self.seen[path]
        return touched


class CpuReader:
    def __init__(self, world: World, path: str) -> None:
        self.world, self.path = world, path
        self.parked = 0
        self.is_closed = False

    def read(self) -> tuple[int, int]:
        if self.path not in self.world.cpu:
            raise FileNotFoundError(self.path)
        return self.world.cpu[self.path], self.world.memory[self.path]

    def read_tables(self) -> tuple[Any, ...]:
        return ((("0", self.world.cpu[self.path]),), (("sda", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),))

    def probe(self) -> int:
        if self.path not in self.world.cpu:
            raise FileNotFoundError(self.path)
        return self.world.cpu[self.path]

    def park(self) -> None:
        self.parked += 1

    def close(self) -> None:
        self.is_closed = True


class CpuCollector:
    """CPU usage (held by the probe) and memory usage (not held), a table of each sort."""

    metrics = ("cpu_usage_ns", "memory_usage_bytes")
    tables = ("percpu", "disk_io")

    def __init__(self, world: World) -> None:
        self.world = world
        self.made: list[str] = []
        self.readers: dict[str, CpuReader] = {}

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        return ()

    def reader(self, container: Container) -> CpuReader:
        self.made.append(container.path)
        self.readers[container.path] = CpuReader(self.world, container.path)
        return self.readers[container.path]


class ListOutlet:
    """The log as a list; refuses while `is_full`."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.is_full = False

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        if self.is_full:
            return False
        self.items.extend(items)
        return True


class Rig:
    """A sampler over a World, driven tick by tick."""

    def __init__(
        self,
        config: SamplerConfig | None = None,
        extra: Sequence[tuple[str, Any]] = (),
        *,
        world: World | None = None,
        clock: SamplerClock | None = None,
        is_begun: bool = True,
        **options: Any,
    ) -> None:
        self.world = world or World()
        self.clock = clock or SamplerClock()
        self.tree = FakeTree(self.world)
        self.cpu = CpuCollector(self.world)
        self.outlet = ListOutlet()
        catalogue = Catalogue()
        catalogue.add("a plug-in", [PLUGIN_METRIC])
        self.sampler = Sampler(
            config or SamplerConfig(),
            [*extra, ("cpu", self.cpu)],
            catalogue,
            options.pop("origin", ORIGIN),
            self.outlet,
            clock=self.clock,
            tree=self.tree,
            **options,
        )
        if is_begun:
            self.sampler.begin()
            self.due_ns = self.sampler.turn()

    def run(self, seconds: float) -> None:
        """Lets time pass, a turn at each due time, as the waiting thread does."""
        end_ns = self.clock.monotonic_ns() + round(seconds * 1e9)
        while self.due_ns <= end_ns:
            self.clock.advance(max(0, self.due_ns - self.clock.monotonic_ns()) / 1e9)
            self.due_ns = self.sampler.turn()
        self.clock.advance((end_ns - self.clock.monotonic_ns()) / 1e9)

    def close(self) -> None:
        self.sampler.close()

    def of(self, kind: type[Any]) -> list[Any]:
        return [i for i in self.outlet.items if isinstance(i, kind)]

    @property
    def events(self) -> list[Event]:
        return self.of(Event)

    @property
    def gaps(self) -> list[Gap]:
        return self.of(Gap)

    @property
    def ends(self) -> list[End]:
        return self.of(End)

    def containers(self, path: str) -> list[Container]:
        return [c for c in self.of(Container) if c.path == path]

    def samples(self, path: str) -> list[Sample]:
        """Samples of every number that the path had, in log order."""
        numbers = {c.number for c in self.containers(path)}
        return [s for i in self.outlet.items if isinstance(i, list) for s in i if s.container in numbers]

    def values(self, sample: Sample) -> dict[str, Any]:
        schema = next(s for s in self.of(Schema) if s.id == sample.schema)
        return dict(zip(schema.names, sample.values, strict=True))

    def seconds(self, path: str) -> list[float]:
        """Times of a path's samples since the first, in seconds."""
        times = [s.ts_ms for s in self.samples(path)]
        return [(t - times[0]) / 1000 for t in times]
