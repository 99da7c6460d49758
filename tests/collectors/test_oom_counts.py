"""A cgroup's own OOM counters: which file tells them on which kernel, and never those of another directory."""

from pathlib import Path

import msgspec
import pytest
from tests.collectors.cgroup_truth import container

from tidegauge.collectors._oom_files import keyed, read_of
from tidegauge.collectors.cgroup_v1 import CgroupV1Collector, CgroupV1Config
from tidegauge.collectors.cgroup_v2 import CgroupV2Collector, CgroupV2Config, unified_oom_counts
from tidegauge.pipeline.plugin import OomCounter, OomCounts

LOCAL = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\noom_group_kill 0\n"
ALL = "low 0\nhigh 0\nmax 99\noom 9\noom_kill 8\noom_group_kill 0\n"


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "memory.events").write_text(ALL)
    (folder / "memory.events.local").write_text(LOCAL)
    return folder


def test_descendants_are_not_counted(tmp_path: Path, cgroup: Path) -> None:
    assert unified_oom_counts(tmp_path, container("/a")) == OomCounts(2, 1)
    (cgroup / "memory.events.local").unlink()
    assert unified_oom_counts(tmp_path, container("/a")) == OomCounts(9, 8), "before Linux 5.2"


def test_where_there_is_no_counter(tmp_path: Path, cgroup: Path) -> None:
    assert unified_oom_counts(tmp_path, container("/b")) is None
    assert unified_oom_counts(tmp_path, container("/")) is None
    assert unified_oom_counts(None, container("/a")) is None
    (cgroup / "memory.events.local").write_text("low 0\nhigh 0\nmax 0\noom 3\n")
    assert unified_oom_counts(tmp_path, container("/a")) == OomCounts(3, None), "before Linux 4.13"


def test_a_directory_made_anew_under_the_same_name_is_not_this_container(tmp_path: Path, cgroup: Path) -> None:
    inode = cgroup.stat().st_ino
    this = msgspec.structs.replace(container("/a"), pairs=(("unified", inode),))
    other = msgspec.structs.replace(container("/a"), pairs=(("unified", inode + 1),))
    assert unified_oom_counts(tmp_path, this) == OomCounts(2, 1)
    assert unified_oom_counts(tmp_path, other) is None
    assert read_of(tmp_path, "memory", other, "memory.events") is not None, "its inode in this hierarchy is not known"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", {"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 4}),
        (b"", {}),
        (b"oom_kill -1\noom_kill x\noom 99999999999999999999\n\xff\xfe 1 2\n", {}),
    ],
)
def test_lines_of_the_file(text: bytes, numbers: dict[str, int]) -> None:
    assert keyed(text) == numbers


def test_both_collectors_can_tell_and_name_what_moves_with_it() -> None:
    for collector in (CgroupV1Collector(CgroupV1Config()), CgroupV2Collector(CgroupV2Config())):
        assert isinstance(collector, OomCounter)
        assert set(collector.oom_signs) <= set(collector.metrics)
        assert collector.oom_counts(container("/tidegauge-is-not-there")) is None
