"""Walks of real trees against `du`, and of trees that somebody changes or makes to mislead us."""

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import need

from tidegauge.collectors import _disk_walk
from tidegauge.collectors._disk_walk import Pace, TooMuch, measure_layer, measure_logs, parse_quota, walk


def _nothing() -> None: ...


def _walk(top: Path, step: Callable[[], None] = _nothing) -> tuple[int, int]:
    before = _descriptors()
    found = walk(os.open(top, os.O_RDONLY), step)
    assert _descriptors() == before
    return found


def _descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def _du(top: Path) -> tuple[int, int]:
    def run(option: str) -> int:
        done = subprocess.run(["du", "-s", "-x", option, str(top)], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[0])

    return run("-B1"), run("--inodes")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Some hundred inodes of every kind."""
    top = tmp_path / "layer"
    top.mkdir()
    dice = random.Random(1)
    folders = [top]
    for n in range(60):
        folder = dice.choice(folders) / f"d{n}"
        folder.mkdir()
        folders.append(folder)
    for n in range(600):
        (dice.choice(folders) / f"f{n}").write_bytes(b"x" * dice.choice((0, 1, 4096, 5000, 70000)))
    first = top / "linked"
    first.write_bytes(b"y" * 100_000)
    for n in range(20):
        os.link(first, dice.choice(folders) / f"link{n}")
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 20)
        file.write(b"z" * 10_000)
    os.mkfifo(top / "fifo")
    (top / "to-a-file").symlink_to(first)
    (top / ("long" * 60)).symlink_to("/" + "l" * 3000)
    (top / "to-usr").symlink_to("/usr")
    (top / os.fsdecode(b"no utf-8 \xff\n")).mkdir()
    yield top
    shutil.rmtree(top)


def test_a_tree_takes_what_du_says(tree: Path) -> None:
    assert _walk(tree) == _du(tree)


def test_an_empty_one_and_a_deep_one(tmp_path: Path) -> None:
    assert _walk(tmp_path) == _du(tmp_path)
    deep = tmp_path
    for _ in range(200):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").write_bytes(b"x" * 5000)
    assert _walk(tmp_path) == _du(tmp_path)


def test_what_is_mounted_within_is_another_s(tree: Path) -> None:
    before = _walk(tree)
    inner = tree / "mounted"
    inner.mkdir()
    added = inner.lstat().st_blocks * 512
    need(os.geteuid() == 0, "only root can mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"nothing can be mounted here: {done.stderr}")
    try:
        (inner / "file").write_bytes(b"x" * 100_000)
        assert _walk(tree) == _du(tree)
        assert _walk(tree)[0] <= before[0] + added
    finally:
        subprocess.run(["umount", str(inner)], check=True)


def test_a_folder_that_becomes_a_link_while_we_walk_leads_nowhere(tmp_path: Path) -> None:
    layer, secret = tmp_path / "layer", tmp_path / "secret"
    (layer / "trap").mkdir(parents=True)
    secret.mkdir()
    (secret / "big").write_bytes(b"x" * 1_000_000)

    def swap() -> None:
        if not (layer / "trap").is_symlink():
            (layer / "trap").rename(layer / "away")
            (layer / "trap").symlink_to(secret)

    used, inodes = _walk(layer, swap)
    assert used < 100_000
    assert inodes <= 3


def test_what_is_removed_while_we_walk_is_passed_over(tree: Path) -> None:
    count = 0

    def remove() -> None:
        nonlocal count
        count += 1
        if count == 100:
            for below in list(os.scandir(tree)):
                if below.is_dir(follow_symlinks=False):
                    shutil.rmtree(below.path)

    used, inodes = _walk(tree, remove)
    assert 0 < inodes < 700
    assert used > 0


def test_a_tree_that_would_fill_the_memory_is_given_up(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_disk_walk, "_MAX_HELD", 5)
    with pytest.raises(TooMuch, match="more than 5 directories"):
        _walk(tree)
    monkeypatch.undo()
    monkeypatch.setattr(_disk_walk, "_MAX_DEPTH", 2)
    before = _descriptors()
    with pytest.raises(TooMuch, match="in one another"):
        _walk(tree)
    assert _descriptors() == before


def test_a_walk_is_at_work_no_more_than_its_share_of_the_time() -> None:
    now_s, rests = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now_s
        rests.append(seconds)
        now_s += seconds

    pace = Pace(0.1, lambda: now_s, sleep)
    for _ in range(10_000):
        now_s += 0.001
        pace.step()
    assert pace.stop() == pytest.approx(10.0)
    assert sum(rests) == pytest.approx(90.0, rel=0.05)
    assert max(rests) < 3


def test_a_layer_with_its_filesystem(tree: Path) -> None:
    found = measure_layer(str(tree), None, Pace(1.0))
    assert (found["bytes"], found["inodes"]) == _du(tree)
    df = subprocess.run(["df", "-B1", "--output=size", str(tree)], capture_output=True, text=True, check=True)
    assert found["limit"] == int(df.stdout.split()[1])
    assert found["path"] == str(tree)


def test_a_layer_of_somebody_else_is_not_looked_at(tree: Path) -> None:
    with pytest.raises(PermissionError, match="another user"):
        measure_layer(str(tree), os.geteuid() + 1, Pace(1.0))


def test_a_layer_that_is_a_link_is_none(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(NotADirectoryError):
        measure_layer(str(tmp_path / "link"), None, Pace(1.0))


def test_logs_are_a_folder_or_a_file_behind_a_link(tmp_path: Path) -> None:
    folder, pods = tmp_path / "containers" / "c1", tmp_path / "pods"
    for made in (folder, pods, tmp_path / "links"):
        made.mkdir(parents=True)
    (folder / "c1-json.log").write_bytes(b"x" * 10_000)
    (folder / "c1-json.log.1").write_bytes(b"x" * 10_000)
    (pods / "0.log").write_bytes(b"x" * 20_000)
    (tmp_path / "links" / "web-c1.log").symlink_to(pods / "0.log")
    patterns = [str(tmp_path / "none"), str(folder), f"{tmp_path}/links/*-c1.log"]
    (as_folder,) = measure_logs(patterns, Pace(1.0))
    assert as_folder["bytes"] == _du(folder)[0]
    (as_file,) = measure_logs(patterns[2:], Pace(1.0))
    assert (as_file["bytes"], as_file["path"]) == (_du(pods / "0.log")[0], str(pods / "0.log"))
    assert list(measure_logs(patterns[:1], Pace(1.0))) == []


class _FsDiskQuota(ctypes.Structure):
    """As quotactl(2) and linux/dqblk_xfs.h have it."""

    _fields_ = [
        ("d_version", ctypes.c_int8),
        ("d_flags", ctypes.c_int8),
        ("d_fieldmask", ctypes.c_uint16),
        ("d_id", ctypes.c_uint32),
        ("d_blk_hardlimit", ctypes.c_uint64),
        ("d_blk_softlimit", ctypes.c_uint64),
        ("d_ino_hardlimit", ctypes.c_uint64),
        ("d_ino_softlimit", ctypes.c_uint64),
        ("d_bcount", ctypes.c_uint64),
        ("d_icount", ctypes.c_uint64),
        ("d_rest", ctypes.c_uint8 * 56),
    ]


def test_a_quota_is_counted_in_blocks_of_512_bytes() -> None:
    raw = bytes(_FsDiskQuota(d_version=1, d_id=7, d_blk_hardlimit=2048, d_bcount=10, d_icount=3))
    assert parse_quota(raw) == (5120, 3, 1 << 20)
    assert parse_quota(bytes(_FsDiskQuota(d_bcount=10, d_icount=3))) == (5120, 3, None)
