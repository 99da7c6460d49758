"""Directories found by inotify and by walking; on plain folders, and on this machine's cgroups where it has them."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.support import need

from tidegauge.pipeline.discovery import Discovery, walk
from tidegauge.pipeline.housekeeping import is_pruned
from tidegauge.pipeline.plugin import Hierarchy


def nothing(path: str) -> bool:
    return False


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Hierarchy, ...]:
    names = ("cpuacct", "memory")
    for name in names:
        (tmp_path / name).mkdir()
    return tuple(Hierarchy(name, tmp_path / name) for name in names)


@pytest.fixture
def found(roots: tuple[Hierarchy, ...]) -> Iterator[Discovery]:
    discovery = Discovery(roots, nothing)
    discovery.begin()
    yield discovery
    discovery.close()


def test_the_first_scan_finds_what_is_there_in_order_of_preference(roots: tuple[Hierarchy, ...]) -> None:
    for root in roots:
        os.makedirs(root.root / "a/b")
    discovery = Discovery(roots, nothing)
    assert set(discovery.begin()) == {"/", "/a", "/a/b"}
    inode = os.stat(roots[0].root / "a/b").st_ino
    assert next(iter(discovery.pairs("/a/b").items())) == ("cpuacct", inode)
    assert list(discovery.pairs("/a/b")) == ["cpuacct", "memory"]
    discovery.close()


def test_directories_made_and_removed_are_heard_of(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    os.makedirs(roots[0].root / "a/b/c")
    assert set(found.read()) == {"/a", "/a/b", "/a/b/c"}
    shutil.rmtree(roots[0].root / "a/b")
    assert set(found.read()) == {"/a/b", "/a/b/c"}
    assert found.pairs("/a/b/c") == {}
    assert set(found.pairs("/a")) == {"cpuacct"}


def test_a_path_is_there_while_any_hierarchy_has_it(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    for root in roots:
        (root.root / "a").mkdir()
    found.read()
    (roots[0].root / "a").rmdir()
    assert list(found.read()) == ["/a"]
    assert set(found.pairs("/a")) == {"memory"}


def test_what_was_removed_and_made_again_before_anyone_looked_has_the_new_inode(
    roots: tuple[Hierarchy, ...], found: Discovery
) -> None:
    path = roots[0].root / "a"
    path.mkdir()
    found.read()
    before = found.pairs("/a")
    path.rename(roots[0].root / "kept")
    path.mkdir()
    assert set(found.read()) == {"/a", "/kept"}
    assert found.pairs("/a") != before
    assert found.pairs("/kept") == before
    (path / "child").mkdir()
    (roots[0].root / "kept" / "child").mkdir()
    assert set(found.read()) == {"/a/child", "/kept/child"}


def test_a_renamed_directory_takes_what_is_below_it_along(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    os.makedirs(roots[0].root / "a/b/c")
    found.read()
    (roots[0].root / "a").rename(roots[0].root / "z")
    assert set(found.read()) == {"/a", "/a/b", "/a/b/c", "/z", "/z/b", "/z/b/c"}
    assert found.paths() == {"/", "/z", "/z/b", "/z/b/c"}
    (roots[0].root / "z/b/d").mkdir()
    assert list(found.read()) == ["/z/b/d"]


def test_files_are_no_containers(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    (roots[0].root / "tasks").write_text("")
    (roots[0].root / "link").symlink_to(roots[1].root)
    assert list(found.read()) == []
    assert walk(roots, nothing)[0].keys() == {"/"}


def test_a_pruned_path_is_left_out_with_all_below_it(roots: tuple[Hierarchy, ...]) -> None:
    os.makedirs(roots[0].root / "a.mount/b")
    discovery = Discovery(roots, lambda p: is_pruned(("*.mount",), p))
    discovery.begin()
    os.makedirs(roots[0].root / "c.mount/d")
    discovery.read()
    discovery.reconcile(walk(roots, discovery.is_pruned))
    assert discovery.paths() == {"/"}
    assert "/a.mount/b" in set(discovery.prune(nothing))
    (roots[0].root / "a.mount/b/e").mkdir()
    assert list(discovery.read()) == ["/a.mount/b/e"]
    assert "/a.mount" in set(discovery.prune(lambda p: is_pruned(("*.mount",), p)))
    assert discovery.paths() == {"/"}
    discovery.close()


def test_a_name_that_is_not_utf8_is_left_out(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    os.mkdir(os.fsencode(roots[0].root) + b"/\xff")
    assert list(found.read()) == []
    assert list(found.reconcile(walk(roots, nothing))) == []


def test_a_walk_finds_what_no_event_told_of(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    (roots[0].root / "gone").mkdir()
    found.read()
    walked = walk(roots, nothing)
    (roots[0].root / "gone").rmdir()
    (roots[0].root / "new").mkdir()
    found._inotify.read(timeout=0)
    assert list(found.reconcile(walked)) == []  # stale: both are as it says no longer, or not yet
    assert set(found.reconcile(walk(roots, nothing))) == {"/gone", "/new"}
    (roots[0].root / "new/child").mkdir()
    assert list(found.read()) == ["/new/child"]


@pytest.mark.integration
def test_lost_events_ask_for_a_walk() -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    need(limit <= 65536 and os.access("/dev/shm", os.W_OK), "an inotify queue that a test can overflow, and /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        roots = (Hierarchy("cpuacct", Path(folder)),)
        discovery = Discovery(roots, nothing)
        discovery.begin()
        for n in range(limit // 2 + 1):
            os.mkdir(f"{folder}/{n}")
            os.rmdir(f"{folder}/{n}")
        os.mkdir(f"{folder}/last")
        discovery.read()
        assert discovery.needs_walk
        assert discovery.overflows == 1
        assert "/last" not in discovery.paths()
        discovery.reconcile(walk(roots, nothing))
        assert "/last" in discovery.paths()
        discovery.close()


def test_without_watches_left_walks_still_find_everything(roots: tuple[Hierarchy, ...]) -> None:
    with patch("tidegauge.pipeline.discovery.INotify.add_watch", side_effect=OSError(28, "no space")):
        discovery = Discovery(roots, nothing)
        discovery.begin()
        os.makedirs(roots[0].root / "a/b")
        assert set(discovery.reconcile(walk(roots, nothing))) == {"/a", "/a/b"}
        assert discovery.unwatched == 4
        discovery.close()


CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def cgroups() -> Iterator[tuple[Hierarchy, ...]]:
    """A directory of our own in two real v1 hierarchies, taken as roots."""
    name = f"tgtest-{os.getpid()}"
    roots = tuple(Hierarchy(h, CGROUPS / h / name) for h in ("cpuacct", "memory"))
    need(all(os.access(r.root.parent, os.W_OK) for r in roots), "a writable cgroup v1 (cpuacct and memory) is needed")
    try:
        for root in roots:
            root.root.mkdir()
        yield roots
    finally:
        for root in roots:
            for path, _, _ in os.walk(root.root, topdown=False):
                os.rmdir(path)


@pytest.mark.integration
def test_of_nested_cgroups_made_at_once_none_is_missed(cgroups: tuple[Hierarchy, ...]) -> None:
    discovery = Discovery(cgroups, nothing)
    discovery.begin()
    seen: set[str] = set()
    for n in range(100):
        os.makedirs(cgroups[0].root / f"{n}/b/c")
        if n % 3 == 0:
            seen |= set(discovery.read())
    seen |= set(discovery.read())
    assert {p for p in seen if p != "/"} == {f"/{n}{tail}" for n in range(100) for tail in ("", "/b", "/b/c")}
    discovery.close()


@pytest.mark.integration
def test_a_cgroup_made_again_has_another_inode_and_one_that_stays_keeps_it(cgroups: tuple[Hierarchy, ...]) -> None:
    discovery = Discovery(cgroups, nothing)
    path = cgroups[0].root / "a"
    path.mkdir()
    discovery.begin()
    first = discovery.pairs("/a")
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert list(discovery.reconcile(walk(cgroups, nothing))) == []
    path.rmdir()
    path.mkdir()
    assert list(discovery.read()) == ["/a"]
    assert discovery.pairs("/a") != first
    discovery.close()


@pytest.mark.integration
def test_creation_and_end_make_the_descriptor_readable_at_once(cgroups: tuple[Hierarchy, ...]) -> None:
    discovery = Discovery(cgroups, nothing)
    discovery.begin()
    for change, expected in ((os.mkdir, {"cpuacct"}), (os.rmdir, set[str]())):
        change(cgroups[0].root / "a")
        deadline = time.monotonic() + 1
        while set(discovery.pairs("/a")) != expected and time.monotonic() < deadline:
            discovery.read()
        assert set(discovery.pairs("/a")) == expected
    discovery.close()


def watches(discovery: Discovery) -> int:
    """Directories that are watched, as the kernel lists them."""
    info = Path(f"/proc/self/fdinfo/{discovery.fileno()}").read_text()
    return sum(line.startswith("inotify ") for line in info.splitlines())


@pytest.mark.integration
def test_no_watch_stays_behind_when_cgroups_go(cgroups: tuple[Hierarchy, ...]) -> None:
    discovery = Discovery(cgroups, nothing)
    discovery.begin()
    before = watches(discovery)
    for turn in range(3):
        for root in cgroups:
            os.makedirs(root.root / "a/b")
        discovery.read()
        assert watches(discovery) == before + 2 * len(cgroups)
        for root in cgroups:
            (root.root / "a/b").rmdir()
            (root.root / "a").rmdir()
        if turn == 1:
            discovery.check("/a")  # the parent is missed before the events of what was in it are read
        discovery.read()
        assert discovery.pairs("/a/b") == {}
        assert watches(discovery) == before
    discovery.read()
    assert discovery.paths() == {"/"}
    discovery.close()


def test_a_directory_made_again_unseen_leaves_one_watch(roots: tuple[Hierarchy, ...], found: Discovery) -> None:
    place = roots[0].root / "a"
    for _ in range(5):
        place.mkdir()
        keep = os.open(place, os.O_RDONLY)  # its inode number cannot be used at once for the next
        place.rmdir()
        place.mkdir()
        found.read()
        assert watches(found) == 3
        os.close(keep)
        place.rmdir()
        found.read()
        assert watches(found) == 2
