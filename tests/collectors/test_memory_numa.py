"""Memory by node: every recorded cgroup against a plain reading, several nodes, and this machine."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, keyed, paths_of, text
from tests.collectors.v1_mounts import removed
from tests.support import need
from tests.vm.worker import MIB, Worker, touch_memory

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.memory_numa import MemoryNumaCollector, MemoryNumaConfig, parse
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import MAX_INT

COLUMNS = [m.name for m in Catalogue().of_table("numa")]


def truth(content: str, is_v1: bool) -> dict[str, dict[str, int]]:
    """Node -> metric -> bytes."""
    out: dict[str, dict[str, int]] = {}
    for line in content.splitlines():
        key, *nodes = line.split()
        key = key.split("=")[0]
        own = "own_" if is_v1 and not key.startswith("hierarchical_") else ""
        name = f"numa_{own}{key.removeprefix('hierarchical_')}_bytes"
        if name in COLUMNS:
            for pair in nodes:
                node, number = pair.split("=")
                out.setdefault(node[1:], {})[name] = int(number) * (4096 if is_v1 else 1)
    return out


def as_truth(rows: Any) -> dict[str, dict[str, int]]:
    return {row[0]: {c: v for c, v in zip(COLUMNS, row[1:], strict=True) if v is not None} for row in rows or ()}


@pytest.mark.parametrize("host", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_every_recorded_cgroup(recorded_tree: Callable[[str], Path], host: str) -> None:
    need(os.sysconf("SC_PAGE_SIZE") == 4096, "pages of 4 KiB, as where the trees were recorded")
    root = recorded_tree(host) / "snapshot-2"
    is_v1 = host != "cgroup2"
    hierarchy = root / "sys/fs/cgroup" / ("memory" if is_v1 else "")
    collector = MemoryNumaCollector(MemoryNumaConfig(sys=root / "sys", proc=root / "proc"))
    seen = 0
    for path in paths_of(hierarchy):
        content = text(Path(f"{hierarchy}{path}/memory.numa_stat"))
        (rows,) = collector.reader(container(path)).read_tables()
        assert as_truth(rows) == truth(content or "", is_v1), path
        if content is None:
            assert rows is None
        seen += bool(rows and max(rows[0][1:3]) > 0)
    assert seen > 10
    assert collector.counters() == {"absurd_values": 0, "unreadable_files": 0}


def test_several_nodes_come_by_number() -> None:
    raw = b"anon N0=1 N10=2 N2=3\nfile N0=4 N2=5\nanon_thp N0=9\nunevictable N0=junk\n"
    faults = Faults()
    assert parse(raw, False, 4096, faults) == (
        ("0", 4, 1, None, None, None, None),
        ("2", 5, 3, None, None, None, None),
        ("10", None, 2, None, None, None, None),
    )
    assert faults.absurd_values == 1
    assert parse(b"total=9 N0=9\nfile=2 N0=2\nhierarchical_file=3 N0=3\n", True, 4096, faults) == (
        ("0", 3 * 4096, None, None, 2 * 4096, None, None),
    )


@given(st.dictionaries(st.integers(0, 999), st.integers(0, MAX_INT), max_size=8), st.binary(max_size=200))
def test_nodes_come_back_and_no_bytes_break_the_parser(nodes: dict[int, int], junk: bytes) -> None:
    raw = b"anon" + b"".join(b" N%d=%d" % item for item in nodes.items()) + b"\n"
    assert [(row[0], row[2]) for row in parse(raw, False, 1, Faults())] == [(str(n), v) for n, v in sorted(nodes.items())]
    for is_v1 in (True, False):
        for row in parse(junk, is_v1, 4096, Faults()):
            assert all(v is None or (isinstance(v, int) and 0 <= v <= MAX_INT) for v in row[1:])


def test_without_a_memory_controller_there_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    with pytest.raises(NoData):
        MemoryNumaCollector(MemoryNumaConfig(sys=tmp_path / "sys", proc=tmp_path / "proc")).reader(container("/"))


@pytest.mark.integration
def test_memory_of_a_process_is_on_the_nodes_of_its_cgroup_and_of_the_one_above() -> None:
    root = find_mounts(Path("/sys"), Path("/proc")).v1.get("memory")
    need(root and os.geteuid() == 0, "the memory controller of cgroup v1, and root")
    assert root is not None
    above = root / f"tidegauge-test-{os.getpid()}-{time.monotonic_ns()}"
    below = above / "below"
    below.mkdir(parents=True)
    worker = Worker([below])
    collector = MemoryNumaCollector(MemoryNumaConfig())
    readers = {where: collector.reader(container(f"/{where.relative_to(root)}")) for where in (above, below)}
    try:
        worker.do(touch_memory)
        for _ in range(100):
            sums = {where: Counter[str]() for where in readers}
            for where, reader in readers.items():
                for row in as_truth(reader.read_tables()[0]).values():
                    sums[where].update(row)
            resident = keyed(above / "memory.stat")["total_rss"]
            if all(abs(s["numa_anon_bytes"] - resident) < MIB for s in sums.values()):
                break
            time.sleep(0.05)  # the kernel adds its per-CPU counters up now and then
        assert resident >= 24 * MIB
        for where in readers:
            assert sums[where]["numa_anon_bytes"] == pytest.approx(resident, abs=MIB), where
        assert sums[below]["numa_own_anon_bytes"] == pytest.approx(resident, abs=MIB)
        assert sums[above]["numa_own_anon_bytes"] < 12 * MIB
    finally:
        worker.end()
        removed(below)
        removed(above)
