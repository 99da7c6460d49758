"""CPUs and memory nodes: every recorded cgroup against a plain count, odd lists, and a real cpuset of this machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, paths_of, text
from tests.collectors.v1_mounts import removed
from tests.support import need

from tidegauge.collectors._kernel_text import Faults
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.cpuset import CpusetCollector, CpusetConfig, count
from tidegauge.pipeline.errors import NoData

FILES = {
    True: ("cpuset.effective_cpus", "cpuset.effective_mems", "cpuset.memory_migrate"),
    False: ("cpuset.cpus.effective", "cpuset.mems.effective", "cpuset.none"),
}


def members(content: str | None) -> int | None:
    """Plainly: every number written out."""
    if content is None:
        return None
    out: set[int] = set()
    for part in content.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            out.update(range(int(low), int(high or low) + 1))
    return len(out)


@pytest.mark.parametrize("host", ["cgroup1", "cgroup1-vm", "cgroup2"])
def test_every_recorded_cgroup(recorded_tree: Callable[[str], Path], host: str) -> None:
    root = recorded_tree(host) / "snapshot-1"
    is_v1 = host != "cgroup2"
    hierarchy = root / "sys/fs/cgroup" / ("cpuset" if is_v1 else "")
    collector = CpusetCollector(CpusetConfig(sys=root / "sys", proc=root / "proc"))
    seen = 0
    for path in paths_of(hierarchy):
        cpus, nodes, migrate = (text(Path(f"{hierarchy}{path}/{name}")) for name in FILES[is_v1])
        values = collector.reader(container(path)).read()
        assert values == (members(cpus), members(nodes), None if migrate is None else int(migrate)), path
        seen += values[0] is not None
    assert seen > 15


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 50)), max_size=20))
def test_lists_are_counted(spans: list[tuple[int, int]]) -> None:
    text = ",".join(f"{a}-{a + n}" if n else f"{a}" for a, n in spans)
    assert count(f"{text}\n".encode(), Faults()) == sum(n + 1 for _, n in spans)


@pytest.mark.parametrize("raw", [b"x", b"3-1", b"0-", b"-1", b"1,,2", b"0-99999999999", b"1-2-3"])
def test_what_is_no_list_is_none_and_counted(raw: bytes) -> None:
    faults = Faults()
    assert count(raw, faults) is None
    assert faults.absurd_values > 0


@given(st.binary(max_size=60))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    assert (count(raw, Faults()) or 0) >= 0


def test_without_a_cpuset_controller_there_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    with pytest.raises(NoData):
        CpusetCollector(CpusetConfig(sys=tmp_path / "sys", proc=tmp_path / "proc")).reader(container("/"))


@pytest.mark.integration
def test_a_cpuset_of_this_machine() -> None:
    root = find_mounts(Path("/sys"), Path("/proc")).optional.get("cpuset")
    need(root and os.geteuid() == 0, "the cpuset controller of cgroup v1, and root")
    assert root is not None
    where = root / f"tidegauge-test-{os.getpid()}-{time.monotonic_ns()}"
    where.mkdir()
    try:
        collector = CpusetCollector(CpusetConfig())
        reader = collector.reader(container(f"/{where.name}"))
        (where / "cpuset.cpus").write_text("0")
        (where / "cpuset.mems").write_text("0")
        (where / "cpuset.memory_migrate").write_text("1")
        pid = os.fork()
        if pid == 0:  # what the kernel lets a process of the cgroup run on is the other witness
            (where / "cgroup.procs").write_text(str(os.getpid()))
            os._exit(len(os.sched_getaffinity(0)))
        allowed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert reader.read() == (allowed, 1, 1)
        assert collector.reader(container("/")).read()[0] == members((root / "cpuset.effective_cpus").read_text())
    finally:
        removed(where)
    with pytest.raises(FileNotFoundError):
        reader.read()
