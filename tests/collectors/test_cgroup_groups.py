"""Groups of metrics that are off: not named, not read, and all else as before."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.collectors.cgroup_truth import as_dict, container

from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.groups import DEFAULT_GROUPS

CATALOGUE = Catalogue()
FILES = {
    "percpu": ("usage_percpu",),
    "memory": ("memory.stat", "memory.failcnt", "memory.peak", "memory.current"),
    "pids": ("pids.max",),
    "pressure": (".pressure", "/pressure/"),
    "diskIO": ("blkio.", "io.stat"),
}
"""Parts of the names of files that nobody needs without the group. The first file of a directory serves as the probe."""
HOSTS: dict[str, tuple[Any, Any, str]] = {
    "cgroup1": (CgroupV1Collector, CgroupV1Config, "/docker"),
    "cgroup1-vm": (CgroupV1Collector, CgroupV1Config, ""),
    "cgroup2": (CgroupV2Collector, CgroupV2Config, ""),
}


def gathered(
    collector: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, int | None], dict[str, Any], list[str]]:
    """Values, tables, and the names of the files that were opened."""
    opened: list[str] = []
    real_open = os.open

    def noting(file: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(str(file))
        return real_open(file, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", noting)
        reader = collector.reader(container(path))
        assert reader is not None
        values = as_dict(collector, reader)
        tables = dict(zip(collector.tables, reader.read_tables(), strict=True))
        reader.close()
    return values, tables, opened


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("group", ["cpu", "percpu", "memory", "pids", "oom_event", "pressure", "diskIO"])
def test_a_group_that_is_off_is_neither_named_nor_read(
    recorded_tree: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, host: str, group: str
) -> None:
    root = recorded_tree(host) / "snapshot-1"
    collector_class, config, _ = HOSTS[host]

    def collector_with(groups: frozenset[str]) -> Any:
        return collector_class(config(sys=root / "sys", proc=root / "proc", groups=groups))

    whole, without = collector_with(DEFAULT_GROUPS), collector_with(DEFAULT_GROUPS - {group})
    values, tables, opened = gathered(whole, "/", monkeypatch)
    fewer, fewer_tables, fewer_opened = gathered(without, "/", monkeypatch)
    assert fewer == {name: v for name, v in values.items() if CATALOGUE[name].group != group}
    assert fewer_tables == {name: rows for name, rows in tables.items() if CATALOGUE.of_table(name)[0].group != group}
    assert len(fewer_opened) <= len(opened)
    for part in FILES.get(group, ()):
        first = [f for f in fewer_opened if part in f and not f.endswith(("memory.usage_in_bytes", "memory.current"))]
        assert not first, part


def test_one_group_alone(recorded_tree: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = recorded_tree("cgroup2") / "snapshot-1"
    collector = CgroupV2Collector(CgroupV2Config(sys=root / "sys", proc=root / "proc", groups=frozenset({"oom_event"})))
    assert collector.metrics == ("memory_oom_kills",)
    assert collector.tables == ()
    path = next(p for p in ("/system.slice", "/init.scope") if (root / f"sys/fs/cgroup{p}").exists())
    values, tables, opened = gathered(collector, path, monkeypatch)
    assert values["memory_oom_kills"] == 0
    assert tables == {}
    assert sorted(f.rpartition("/")[2] for f in opened) == ["cpu.stat", "memory.events"]
