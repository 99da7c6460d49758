"""Which hierarchies are found, on recorded hosts and for the layouts that mountinfo can show."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.collectors.cgroup_paths import Mode, directory, find_mounts, parse_mountinfo

JOINT = """\
36 31 0:31 / /sys/fs/cgroup rw - tmpfs cgroup rw,mode=755
38 36 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 36 0:35 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 36 0:32 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 36 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def tree(tmp_path: Path, mountinfo: str) -> tuple[Path, Path]:
    """(sys, proc) with this mountinfo, where `SYS` in it stands for the sys folder."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys").mkdir()
    (tmp_path / "proc/self/mountinfo").write_text(mountinfo.replace("SYS", str(tmp_path / "sys")))
    return tmp_path / "sys", tmp_path / "proc"


@pytest.mark.parametrize(
    ("name", "mode", "hierarchies"),
    [
        ("cgroup1", Mode.HYBRID, ["cpuacct", "cpu", "memory", "blkio", "pids"]),
        ("cgroup1-vm", Mode.V1, ["cpuacct", "memory", "blkio", "pids"]),
        ("cgroup2", Mode.V2, ["unified"]),
    ],
)
def test_recorded_hosts(recorded_tree: Callable[[str], Path], name: str, mode: Mode, hierarchies: list[str]) -> None:
    root = recorded_tree(name) / "snapshot-1"
    mounts = find_mounts(root / "sys", root / "proc")
    assert mounts.mode is mode
    assert [h.name for h in mounts.hierarchies()] == hierarchies
    assert all(h.root.is_dir() and h.root.is_relative_to(root) for h in mounts.hierarchies())


def test_joint_mounts_are_one_hierarchy_named_after_the_preferred_controller(tmp_path: Path) -> None:
    sys, proc = tree(tmp_path, JOINT.replace("/sys/", "SYS/"))
    mounts = find_mounts(sys, proc)
    assert mounts.mode is Mode.HYBRID
    assert [(h.name, h.root.name) for h in mounts.hierarchies()] == [("cpuacct", "cpu,cpuacct"), ("memory", "memory")]
    assert mounts.v1["cpu"] == mounts.v1["cpuacct"]
    assert mounts.unified == sys / "fs/cgroup/unified"


def test_the_whole_hierarchy_wins_over_a_part_of_it_and_the_usual_place_over_another(tmp_path: Path) -> None:
    sys, proc = tree(
        tmp_path,
        "1 0 0:1 /docker/a SYS/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "2 0 0:1 / SYS/other/memory rw - cgroup cgroup rw,memory\n"
        "3 0 0:2 / SYS/elsewhere/pids rw - cgroup cgroup rw,pids\n"
        "4 0 0:2 / SYS/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "5 0 0:3 / /not/below/cpuacct rw - cgroup cgroup rw,cpuacct\n",
    )
    mounts = find_mounts(sys, proc)
    assert mounts.v1 == {"memory": sys / "other/memory", "pids": sys / "fs/cgroup/pids"}


def test_a_host_root_mounted_elsewhere_is_found_below_the_configured_sys(tmp_path: Path) -> None:
    sys, proc = tree(
        tmp_path,
        "1 0 0:1 /system.slice/agent /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n2 0 0:1 / SYS/fs/cgroup ro - cgroup2 cgroup2 rw\n",
    )
    assert find_mounts(sys, proc).unified == sys / "fs/cgroup"


def test_a_hidden_mount_does_not_count() -> None:
    text = "1 0 0:1 / /c rw - cgroup cgroup rw,memory\n2 0 0:2 / /c rw - cgroup2 cgroup2 rw\n"
    assert [m.is_unified for m in parse_mountinfo(text)] == [True]


def test_blanks_in_a_mount_point_are_read_back() -> None:
    assert parse_mountinfo("1 0 0:1 / /a\\040b\\134c rw - cgroup cgroup rw,pids")[0].point == "/a b\\c"


def test_a_controller_of_the_unified_hierarchy_on_a_hybrid_host_is_watched_there(tmp_path: Path) -> None:
    sys, proc = tree(tmp_path, JOINT.replace("/sys/", "SYS/"))
    (sys / "fs/cgroup/unified").mkdir(parents=True)
    (sys / "fs/cgroup/unified/cgroup.controllers").write_text("pids io hugetlb\n")
    mounts = find_mounts(sys, proc)
    assert [h.name for h in mounts.hierarchies()] == ["cpuacct", "memory", "unified"]
    assert mounts.lives_in_unified("blkio")
    assert mounts.lives_in_unified("pids")
    assert not mounts.lives_in_unified("memory")


def test_a_unified_mount_with_v1_mounts_that_hold_nothing_for_us_is_pure_v2(tmp_path: Path) -> None:
    sys, proc = tree(
        tmp_path,
        "1 0 0:1 / SYS/fs/cgroup rw - cgroup2 cgroup2 rw\n2 1 0:2 / SYS/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n",
    )
    assert find_mounts(sys, proc).mode is Mode.V2


def test_nothing_is_mounted(tmp_path: Path) -> None:
    mounts = find_mounts(tmp_path / "sys", tmp_path / "proc")
    assert mounts.mode is Mode.NONE
    assert mounts.hierarchies() == ()


def test_directories_of_the_root_and_of_a_container(recorded_tree: Callable[[str], Path]) -> None:
    root = recorded_tree("cgroup1-vm") / "snapshot-1"
    mounts = find_mounts(root / "sys", root / "proc")
    assert directory(mounts.v1["memory"], "/") == str(mounts.v1["memory"])
    assert [Path(d).name for d in mounts.directories("/a/b")] == ["b"] * 4


@given(st.text() | st.text(alphabet=" /-\\0147ab,\ncgroupmemory2rw"))
def test_any_text_is_taken(text: str) -> None:
    for mount in parse_mountinfo(text):
        assert isinstance(mount.point, str)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cgroup1", {"cpuset": "cpuset", "memory": "memory", "hugetlb": "unified", "perf_event": "unified"}),
        ("cgroup1-vm", {"cpuset": "cpuset", "memory": "memory", "hugetlb": "hugetlb", "perf_event": "perf_event"}),
        ("cgroup2", {"cpuset": "cgroup", "memory": "cgroup", "hugetlb": "cgroup", "perf_event": "cgroup"}),
    ],
)
def test_where_each_optional_controller_lives(
    recorded_tree: Callable[[str], Path], name: str, expected: dict[str, str]
) -> None:
    root = recorded_tree(name) / "snapshot-1"
    mounts = find_mounts(root / "sys", root / "proc")
    places = {controller: mounts.place(controller) for controller in expected}
    assert {controller: place and place.name for controller, place in places.items()} == expected
    assert mounts.place("net_cls") is None


def test_a_controller_that_containers_are_not_found_by_makes_no_v1_host(tmp_path: Path) -> None:
    sys, proc = tree(
        tmp_path,
        "1 0 0:1 / SYS/fs/cgroup rw - cgroup2 cgroup2 rw\n2 0 0:2 / SYS/fs/cgroup/net rw - cgroup cgroup rw,perf_event\n",
    )
    mounts = find_mounts(sys, proc)
    assert mounts.mode is Mode.V2
    assert mounts.place("perf_event") == sys / "fs/cgroup/net"
    assert [h.name for h in mounts.hierarchies()] == ["unified"]
