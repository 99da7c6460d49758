"""Collection alone: the cgroup and network readers of this host against the C program that reads the same files.

Both keep running beside each other and are asked in turn, so that a repeat compares neighbours in time.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.cgroups import Cgroups
from bench.native import Limit, Measuring, Wanted, kind_of
from bench.report import Row, Section, ratio
from tidegauge.pipeline import collecting, registry
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.clock import MachineClock
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.sampler import Sampler

PACE_MS = 1000


def container(number: int, path: str) -> Container:
    """A container as discovery would make it."""
    return Container(
        number=number,
        source="00000000-0000-0000-0000-000000000000",
        instance=f"{number:016x}",
        epoch=0,
        boot_id="00000000-0000-0000-0000-000000000000",
        path=path,
        host="bench",
        created_ms=0,
        valid_from_ms=0,
    )


def cgroup_collector() -> Any:
    """The collector of this host's hierarchy."""
    from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
    from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config

    v1 = CgroupV1Collector(CgroupV1Config())
    return v1 if v1.hierarchies() else CgroupV2Collector(CgroupV2Config())


def collector(name: str) -> Any:
    """A collector by its name, with its defaults; `cgroup` for the one of this host's hierarchy."""
    if name == "cgroup":
        return cgroup_collector()
    cls = registry.load(registry.COLLECTORS, name)
    return cls(cls.Config())


def allow_many_files() -> None:
    """Raises the soft limit of descriptors to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def files_of(path: str) -> list[str]:
    """The kernel files that the cgroup reader of one container keeps open, in its order."""
    reader = cgroup_collector().reader(container(1, path))
    reader.read()
    kept = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            kept.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # the descriptor that listed the folder
    reader.close()
    return [file for file in kept if f"{path}/" in file]


def wanted(paths: Sequence[str], pids: Sequence[int] = ()) -> Iterator[Wanted]:
    """What the C program is to read: the same files as the readers of these containers, and net/dev where pids are given."""
    for i, path in enumerate(paths):
        for file in files_of(path):
            yield Wanted(i, kind_of(file), "k", file)
    for i, pid in enumerate(pids):
        yield Wanted(i, "d", "k", f"/proc/{pid}/net/dev")


class Worker(Measuring):
    """This module as a process of its own that holds the readers and measures on demand, as `Limit` does."""

    def __init__(self, what: str, paths: Sequence[str]) -> None:
        super().__init__([sys.executable, "-m", "bench.collect", what], " ".join(paths) + "\n")


def serve(what: str) -> None:
    """Body of the worker process: readers of one collector, or the whole `sampler` without a journal behind it."""
    allow_many_files()
    paths = sys.stdin.readline().split()
    work = sampler(paths) if what == "sampler" else readers(what, paths)
    work()
    print("ready", flush=True)
    for line in sys.stdin:
        rounds, pace_ms = map(int, line.split())
        used = 0
        due = time.monotonic()
        for number in range(rounds + 1):
            start = time.process_time_ns()
            kept = work()
            if number:
                used += time.process_time_ns() - start
            del kept
            due += pace_ms / 1000
            if number < rounds:
                time.sleep(max(0.0, due - time.monotonic()))
        print(used, flush=True)


def readers(what: str, paths: Sequence[str]) -> Callable[[], object]:
    """Reads every container once with one collector's readers."""
    made = collector(what)
    own = [made.reader(container(i, p)) for i, p in enumerate(paths, 1)]
    steps = [(r.read, getattr(r, "read_tables", tuple)) for r in own]
    return lambda: [(read(), read_tables()) for read, read_tables in steps]


class _Nowhere:
    """An outlet that takes everything and keeps nothing."""

    def put(self, items: Sequence[object], time_ms: int) -> bool:
        return True


class _Steps(MachineClock):
    """Goes on by one second each time it is told, so that one turn serves one tick, however late it is."""

    def __init__(self) -> None:
        self.ns = super().time_ns()

    def time_ns(self) -> int:
        return self.ns

    monotonic_ns = boottime_ns = time_ns


def sampler(paths: Sequence[str]) -> Callable[[], object]:
    """One turn of a static sampler with every collector over these containers and the host."""
    config = configuration.load(Path(os.devnull), {"sampler": {"dynamic": False, "include": list(paths)}}, {})
    made, catalogue = collecting.build(config)
    clock = _Steps()
    whole = Sampler(config.sampler, made, catalogue, Origin("bench", "bench", "bench"), _Nowhere(), clock=clock)
    whole.begin()

    def turn() -> None:
        before = whole.stats.ticks
        clock.ns += 1_000_000_000
        whole.turn()
        assert whole.stats.ticks in (before + 1, before + 2), "one tick a turn, two at the first"

    return turn


def run(folder: Path, counts: tuple[int, ...] = (100, 300, 1000), rounds: int = 4, repeats: int = 3) -> list[Section]:
    """At each count, 3 % busy and all busy: CPU of one container-sample at 1 Hz, ours and C's."""
    allow_many_files()
    rows: list[Row] = []
    ours_at: dict[int, list[float]] = {}
    for count in counts:
        with ExitStack() as stack:
            group = stack.enter_context(Cgroups(count, folder))
            paths = list(group.paths)
            limit = stack.enter_context(Limit(wanted(paths), folder))
            worker = stack.enter_context(Worker("cgroup", paths))
            for label, busy, goal in (
                (f"{max(1, count * 3 // 100)} busy", max(1, count * 3 // 100), 1.3),
                ("all busy", count, 1.6),
            ):
                group.busy(busy)
                time.sleep(1)
                ours, theirs = [], []
                for _ in range(repeats):
                    theirs.append(limit.measure(rounds, PACE_MS) / count)
                    ours.append(worker.measure(rounds, PACE_MS) / count)
                rows += [
                    Row(f"{count} cgroups, {label}: C", "us", tuple(theirs)),
                    Row(f"{count} cgroups, {label}: readers", "us", tuple(ours)),
                    ratio(f"{count} cgroups, {label}: readers / C", ours, theirs, f"at most {goal}", goal),
                ]
                if busy != count or count == busy == 1:
                    ours_at[count] = ours
    few, many = min(counts), max(counts)
    if few != many:
        rows.append(ratio(f"flat, 3 % busy: readers at {many} / at {few}", ours_at[many], ours_at[few], "at most 1.1", 1.1))
    rows += _network(folder, 300, rounds, repeats)
    return [Section("Collection alone, CPU of one container-sample at 1 Hz", rows)]


def _network(folder: Path, count: int, rounds: int, repeats: int) -> list[Row]:
    """net/dev, which is opened for each reading, since a descriptor that is kept would keep the namespace."""
    with Cgroups(count, folder, has_network=True) as group, ExitStack() as stack:
        files = [Wanted(i, "d", "o", f"/proc/{pid}/net/dev") for i, pid in enumerate(group.pids)]
        limit = stack.enter_context(Limit(files, folder))
        worker = stack.enter_context(Worker("netdev", group.paths))
        ours, theirs = [], []
        for _ in range(repeats):
            theirs.append(limit.measure(rounds, PACE_MS) / count)
            ours.append(worker.measure(rounds, PACE_MS) / count)
    return [
        Row(f"net/dev of {count}: C, opened each time", "us", tuple(theirs)),
        Row(f"net/dev of {count}: readers", "us", tuple(ours)),
        ratio(f"net/dev of {count}: readers / C", ours, theirs),
    ]


if __name__ == "__main__":
    serve(sys.argv[1])
