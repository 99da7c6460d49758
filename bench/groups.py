"""What each group of metrics costs: CPU time of reading it once for one container, on real cgroups of this host.

`python -m bench.groups --write` puts the figures into docs/group-costs.json, from which docs/metrics.md is made.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.cgroups import Cgroups
from bench.collect import allow_many_files, container
from bench.report import Row, Section, machine, markdown
from tidegauge.pipeline import collecting, registry
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.groups import GROUPS, MetricsConfig
from tidegauge.pipeline.records import Container

COSTS = Path(__file__).parent.parent / "docs/group-costs.json"
OF_THE_HOST = ("filesystem", "host")
"""Groups of which only the host has values: their cost is that of the host's sample."""
_NO_READING = ("app", "cpu_topology", "disk")
"""Asked for by label, read with the machine's description, walked by a process of its own: no cost of a reading."""
_PACE_S = 1.0


def run(folder: Path, count: int = 100, repeats: int = 5) -> list[Section]:
    allow_many_files()
    costs = measure(folder, count, repeats)
    rows = [Row(f"`{name}`", "us", values) for name, values in costs.items()]
    note = f"{count} cgroups, 3 % busy, read at 1 Hz. `host` and `filesystem`: of the host's sample."
    return [Section("Groups of metrics: CPU of reading one container once", rows, note)]


def measure(folder: Path, count: int, repeats: int) -> dict[str, tuple[float, ...]]:
    """Microseconds a container by group, each repeat; a group that this host cannot give is left out."""
    folder.chmod(0o755)
    with Cgroups(count, folder, has_network=True, more=("cpuset", "hugetlb", "perf_event", "unified")) as group:
        group.busy(max(1, count * 3 // 100))
        containers = [container(i, path) for i, path in enumerate(group.paths, 2)]
        base = _timed(_works(frozenset(), containers), repeats, count)
        out: dict[str, tuple[float, ...]] = {}
        for name in GROUPS:
            if name in _NO_READING:
                continue
            of_host = name in OF_THE_HOST
            works = _works(frozenset({name}), [container(1, "/")] if of_host else containers)
            used = _timed(works, repeats, 1 if of_host else count)
            if any(works.gives()):
                is_cgroup = any(w in ("cgroup_v1", "cgroup_v2") for w in works.names) and not of_host
                out[name] = tuple(max(0.0, u - statistics.median(base)) for u in used) if is_cgroup else used
        return out


class _Works:
    """The readers of some containers, and what they gave last."""

    def __init__(self, names: Sequence[str], readers: Sequence[tuple[Any, Callable[[], Any], Callable[[], Any]]]) -> None:
        self.names = names
        self._readers = readers
        self._given: list[tuple[Any, Any]] = []

    def once(self) -> None:
        given = self._given = []
        for _, read, read_tables in self._readers:
            try:
                given.append((read(), read_tables()))
            except (NoData, OSError):
                continue

    def gives(self) -> list[bool]:
        return [
            any(v is not None for v in values) or any(rows is not None for rows in tables) for values, tables in self._given
        ]

    def close(self) -> None:
        for reader, _, _ in self._readers:
            reader.close()


def _works(groups: frozenset[str], containers: Sequence[Container]) -> _Works:
    """Without a group: the cgroup readers with nothing but their probes, as what is paid in any case."""
    config = configuration.load(None, {"state_dir": "/nonexistent"}, {})
    if groups:
        config = msgspec.structs.replace(config, metrics=MetricsConfig(enable=tuple(groups), disable=("all",)))
        collectors, _ = collecting.build(config)
    else:
        collectors = []
        for name in ("cgroup_v1", "cgroup_v2"):
            cls = registry.load(registry.COLLECTORS, name)
            collectors.append((name, cls(cls.Config(groups=frozenset()))))
    names, readers = [], []
    for name, collector in collectors:
        for c in containers:
            try:
                reader = collector.reader(c)
            except (NoData, OSError):
                continue
            if reader is not None:
                names.append(name)
                readers.append((reader, reader.read, getattr(reader, "read_tables", tuple)))
    return _Works(tuple(dict.fromkeys(names)), readers)


def _timed(works: _Works, repeats: int, count: int) -> tuple[float, ...]:
    found = []
    for repeat in range(repeats + 2):
        start, cpu = time.monotonic(), time.process_time_ns()
        works.once()
        used = (time.process_time_ns() - cpu) / 1000 / count
        if repeat > 1:
            found.append(used)
        time.sleep(max(0.0, _PACE_S - (time.monotonic() - start)))
    works.close()
    gc.collect()
    return tuple(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.groups", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"put the figures into docs/{COSTS.name}")
    arguments = parser.parse_args()
    head = machine()
    with tempfile.TemporaryDirectory(prefix="tidegauge-bench-") as name:
        sections = run(Path(name))
    print(markdown(sections))
    if arguments.write:
        figures = {row.what.strip("`"): round(row.median, 1) for row in sections[0].rows}
        COSTS.write_text(json.dumps({"machine": head, "microseconds": figures}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
