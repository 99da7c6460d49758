"""Limits of containers: against the raw files and cAdvisor's answers of recorded hosts, and odd ones."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.cgroup_truth import container, number, paths_of, text

from tidegauge.collectors._spec import shares
from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config
from tidegauge.pipeline.records import UNLIMITED, Spec

V1_NUMBERS = {
    "cpu_shares": ("cpu", "cpu.shares"),
    "cpu_period_us": ("cpu", "cpu.cfs_period_us"),
    "memory_limit_bytes": ("memory", "memory.limit_in_bytes"),
    "memory_swap_limit_bytes": ("memory", "memory.memsw.limit_in_bytes"),
    "memory_reservation_bytes": ("memory", "memory.soft_limit_in_bytes"),
    "pids_limit": ("pids", "pids.max"),
}
V2_NUMBERS = {
    "cpu_weight": "cpu.weight",
    "memory_limit_bytes": "memory.max",
    "memory_reservation_bytes": "memory.low",
    "memory_min_bytes": "memory.min",
    "memory_high_bytes": "memory.high",
    "pids_limit": "pids.max",
}


def above(path: str) -> list[str]:
    """The container and all that it lies in, below the root."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:n]) for n in range(len(parts), 0, -1)]


def least(limits: Iterable[int | None]) -> int | None:
    return min((n for n in limits if n is not None), default=None)


def v1(root: Path) -> CgroupV1Collector:
    return CgroupV1Collector(CgroupV1Config(sys=root / "sys", proc=root / "proc"))


def v2(root: Path) -> CgroupV2Collector:
    return CgroupV2Collector(CgroupV2Config(sys=root / "sys", proc=root / "proc"))


@pytest.mark.parametrize(("host", "cpu"), [("cgroup1", "cpu"), ("cgroup1-vm", "cpu,cpuacct")])
def test_every_limit_of_every_recorded_v1_cgroup(recorded_tree: Callable[[str], Path], host: str, cpu: str) -> None:
    root = recorded_tree(host) / "snapshot-2"
    groups = root / "sys/fs/cgroup"
    places = {"cpu": groups / cpu, "memory": groups / "memory", "pids": groups / "pids", "cpuset": groups / "cpuset"}
    collector, limited = v1(root), 0
    for path in paths_of(places["memory"])[1:]:
        spec = collector.spec(container(path))
        assert spec is not None
        at = {c: Path(f"{place}{path}") for c, place in places.items()}
        for field, (controller, name) in V1_NUMBERS.items():
            assert getattr(spec, field) == number(at[controller] / name), (path, field)
        quota = text(at["cpu"] / "cpu.cfs_quota_us")
        assert spec.cpu_quota_us == (None if quota is None else UNLIMITED if quota.strip() == "-1" else int(quota))
        assert spec.cpus == ((text(at["cpuset"] / "cpuset.effective_cpus") or "").strip() or None)
        assert spec.memory_nodes == ((text(at["cpuset"] / "cpuset.effective_mems") or "").strip() or None)
        own = [number(Path(f"{places['memory']}{p}/memory.limit_in_bytes")) for p in above(path)]
        assert spec.memory_effective_limit_bytes == least(own)
        assert (spec.cpu_weight, spec.memory_min_bytes, spec.memory_high_bytes) == (None, None, None)
        limited += spec.memory_limit_bytes != UNLIMITED
    assert limited > 1


def test_every_limit_of_every_recorded_v2_cgroup(recorded_tree: Callable[[str], Path]) -> None:
    root = recorded_tree("cgroup2") / "snapshot-2"
    place = root / "sys/fs/cgroup"
    collector, narrowed = v2(root), 0
    for path in paths_of(place)[1:]:
        spec = collector.spec(container(path))
        assert spec is not None
        at = Path(f"{place}{path}")
        for field, name in V2_NUMBERS.items():
            assert getattr(spec, field) == number(at / name), (path, field)
        limit = text(at / "cpu.max")
        assert (spec.cpu_quota_us is None) == (limit is None)
        if limit is not None:
            quota, period = limit.split()
            assert spec.cpu_quota_us == (UNLIMITED if quota == "max" else int(quota))
            assert spec.cpu_period_us == int(period)
        memory, swap = number(at / "memory.max"), number(at / "memory.swap.max")
        if memory is None or swap is None:
            assert spec.memory_swap_limit_bytes is None
        else:
            is_unlimited = UNLIMITED in (memory, swap)
            assert spec.memory_swap_limit_bytes == (UNLIMITED if is_unlimited else memory + swap)
        assert spec.memory_effective_limit_bytes == least(number(Path(f"{place}{p}/memory.max")) for p in above(path))
        narrowed += spec.memory_effective_limit_bytes != spec.memory_limit_bytes
        cpus = [text(Path(f"{place}{p}/cpuset.cpus.effective")) for p in (*above(path), "")]
        assert spec.cpus == next((c.strip() for c in cpus if c is not None), None)
    assert narrowed > 0


def test_the_same_as_cadvisor_said_of_the_same_moment(recorded_tree: Callable[[str], Path]) -> None:
    root = recorded_tree("cgroup1-vm")
    collector = v1(root / "snapshot-2")
    said = json.loads((root / "cadvisor-0.35/v2.0-spec.json").read_text())
    machine = json.loads((root / "cadvisor-0.35/machine.json").read_text())
    compared = 0
    for path, theirs in said.items():
        ours = collector.spec(container(path))
        if ours is None or path == "/":
            continue

        def theirs_of(value: int | None) -> int | None:
            return 9223372036854771712 if value == UNLIMITED else value

        assert theirs["memory"] == {
            "limit": theirs_of(ours.memory_limit_bytes),
            "reservation": theirs_of(ours.memory_reservation_bytes),
            "swap_limit": theirs_of(ours.memory_swap_limit_bytes),
        }
        assert theirs["cpu"]["limit"] == ours.cpu_shares
        assert theirs["cpu"]["mask"] == (ours.cpus or f"0-{machine['num_cores'] - 1}")
        limit = theirs["processes"].get("limit")
        assert limit is None or limit == ours.pids_limit
        compared += 1
    assert compared > 10


def test_the_host_has_no_limits_of_its_own(recorded_tree: Callable[[str], Path]) -> None:
    of_v2 = v2(recorded_tree("cgroup2") / "snapshot-2").spec(container("/"))
    assert of_v2 is not None
    assert {f: v for f, v in msgspec.structs.asdict(of_v2).items() if v is not None} == {"cpus": "0-1", "memory_nodes": "0"}
    of_v1 = v1(recorded_tree("cgroup1-vm") / "snapshot-2").spec(container("/"))
    assert of_v1 is not None
    assert (of_v1.memory_limit_bytes, of_v1.cpu_quota_us, of_v1.pids_limit) == (UNLIMITED, UNLIMITED, None)


def test_each_collector_answers_for_its_own_hosts(recorded_tree: Callable[[str], Path]) -> None:
    roots = {name: recorded_tree(name) / "snapshot-2" for name in ("cgroup1", "cgroup2")}
    assert v1(roots["cgroup2"]).spec(container("/")) is None
    assert v2(roots["cgroup1"]).spec(container("/")) is None


class Tree:
    """A v2 host in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.groups = root / "sys/fs/cgroup"
        self.write("/", {"cgroup.controllers": "cpuset cpu io memory pids"})

    def write(self, path: str, files: dict[str, str]) -> None:
        where = Path(f"{self.groups}{path}")
        where.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (where / name).write_text(content + "\n")

    def spec(self, path: str, *pairs: tuple[str, int]) -> Spec | None:
        return v2(self.root).spec(msgspec.structs.replace(container(path), pairs=pairs))

    def inode(self, path: str) -> int:
        return Path(f"{self.groups}{path}").stat().st_ino


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_weights_become_shares_as_runtimes_convert_them() -> None:
    assert [shares(w) for w in (1, 39, 100, 10000)] == [2, 998, 2597, 262144]
    assert shares(0) == 2


@given(st.integers(1, 10000), st.integers(1, 10000))
def test_more_weight_is_never_less_shares(a: int, b: int) -> None:
    assert 2 <= shares(a) <= 262144
    assert (a <= b) <= (shares(a) <= shares(b))


def test_a_limit_above_counts_even_where_the_controller_is_off_below(tree: Tree) -> None:
    tree.write("/a", {"memory.max": "1048576", "cpuset.cpus.effective": "1", "cpuset.mems.effective": "0"})
    tree.write("/a/b", {})
    spec = tree.spec("/a/b")
    assert spec is not None
    assert (spec.memory_limit_bytes, spec.memory_effective_limit_bytes) == (None, 1048576)
    assert (spec.cpus, spec.memory_nodes) == ("1", "0")
    tree.write("/a/b", {"memory.max": "max", "memory.swap.max": "0"})
    spec = tree.spec("/a/b")
    assert spec is not None
    assert (spec.memory_limit_bytes, spec.memory_effective_limit_bytes) == (UNLIMITED, 1048576)
    assert spec.memory_swap_limit_bytes == UNLIMITED


def test_what_cannot_be_is_none_and_counted(tree: Tree) -> None:
    tree.write("/a", {"memory.max": "-5", "cpu.max": "", "cpu.weight": "1e3", "pids.max": "99999999999999999999"})
    collector = v2(tree.root)
    spec = collector.spec(container("/a"))
    assert spec is not None
    assert {spec.memory_limit_bytes, spec.cpu_quota_us, spec.cpu_weight, spec.cpu_shares, spec.pids_limit} == {None}
    assert collector.counters()["absurd_values"] == 3


def test_a_container_that_is_gone_or_another_by_now_has_no_spec(tree: Tree) -> None:
    tree.write("/a", {"memory.max": "1048576"})
    inode = tree.inode("/a")
    assert tree.spec("/a", ("unified", inode)) is not None
    assert tree.spec("/a", ("unified", inode + 1)) is None
    shutil.rmtree(tree.groups / "a")
    assert tree.spec("/a", ("unified", inode)) is None


def test_controllers_of_a_hybrid_host_are_read_where_they_live(tmp_path: Path) -> None:
    groups = tmp_path / "sys/fs/cgroup"
    for name, content in {
        "memory/a/memory.limit_in_bytes": "1048576",
        "memory/a/memory.memsw.limit_in_bytes": "2097152",
        "memory/a/memory.stat": "cache 0\nhierarchical_memory_limit 524288\nhierarchical_memsw_limit 1",
        "unified/cgroup.controllers": "cpuset cpu pids",
        "unified/a/cpu.max": "50000 100000",
        "unified/a/cpu.weight": "100",
        "unified/a/pids.max": "max",
        "unified/cpuset.cpus.effective": "0-7",
    }.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(content + "\n")
    spec = v1(tmp_path).spec(container("/a"))
    assert spec == Spec(
        cpu_shares=2597,
        cpu_weight=100,
        cpu_quota_us=50000,
        cpu_period_us=100000,
        cpus="0-7",
        memory_limit_bytes=1048576,
        memory_effective_limit_bytes=524288,
        memory_swap_limit_bytes=2097152,
        pids_limit=UNLIMITED,
    )
