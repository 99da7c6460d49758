import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import CONTAINER, HOST
from tests.support import need

from tidegauge.collectors.filesystem import FilesystemCollector, FilesystemConfig, FilesystemReader, MountFaults, parse, values
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import TableRows

TYPES = FilesystemConfig().types


class Answer(NamedTuple):
    f_frsize: int = 4096
    f_blocks: int = 100
    f_bfree: int = 40
    f_bavail: int = 30
    f_files: int = 50
    f_ffree: int = 20


FULL = (409600, 245760, 122880, 50, 20)


def line(id: int, parent: int, path: str, type: str = "ext4", source: str = "/dev/sda", optional: str = "") -> str:
    return f"{id} {parent} 8:1 / {path} rw,relatime {optional}- {type} {source} rw\n"


def names(text: str, rootfs: str = "/", types: tuple[str, ...] = TYPES) -> list[tuple[str, str]]:
    return [(m.device, m.path) for m in parse(text.encode(), rootfs, types)]


def rows_of(reader: FilesystemReader) -> TableRows:
    assert reader.read() == ()
    (rows,) = reader.read_tables()
    assert rows is not None
    return rows


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cgroup1", [("/dev/vda", "/")]),
        ("cgroup1-vm", [("/", "/"), ("/dev/vda", "/mnt/scratch")]),
        ("cgroup2", [("/", "/"), ("/dev/vda", "/mnt/scratch")]),
    ],
)
def test_mounts_of_recorded_hosts(recorded_tree: Callable[[str], Path], name: str, expected: list[tuple[str, str]]) -> None:
    text = (recorded_tree(name) / "snapshot-1/proc/self/mountinfo").read_text()
    assert names(text) == expected


def test_the_first_mount_of_a_source_wins() -> None:
    text = line(1, 0, "/") + line(2, 1, "/srv", source="/dev/sdb") + line(3, 1, "/home", source="/dev/sdb")
    assert names(text) == [("/dev/sda", "/"), ("/dev/sdb", "/srv")]


def test_a_tmpfs_bears_its_mount_point_and_comes_only_when_configured() -> None:
    text = line(1, 0, "/") + line(2, 1, "/run", "tmpfs", "tmpfs") + line(3, 1, "/tmp", "tmpfs", "tmpfs")
    assert names(text) == [("/dev/sda", "/")]
    assert names(text, types=(*TYPES, "tmpfs")) == [("/dev/sda", "/"), ("/run", "/run"), ("/tmp", "/tmp")]


def test_the_host_in_a_container_is_what_lies_below_rootfs() -> None:
    text = (
        line(1, 0, "/", "overlay", "overlay")
        + line(2, 1, "/etc/hosts", source="/dev/sdx")
        + line(3, 1, "/rootfs", source="/dev/sda", optional="master:1 ")
        + line(4, 3, "/rootfs/boot", "vfat", "/dev/sdb", "shared:3 master:2 ")
        + line(5, 3, "/rootfs/run", "tmpfs", "tmpfs")
        + line(6, 1, "/rootfsx", source="/dev/sdy")
    )
    assert names(text, "/rootfs") == [("/dev/sda", "/rootfs"), ("/dev/sdb", "/rootfs/boot")]
    assert ("/run", "/rootfs/run") in names(text, "/rootfs", (*TYPES, "tmpfs"))


def test_a_mount_under_another_one_is_not_mistaken_for_it() -> None:
    same_place = line(1, 0, "/") + line(2, 1, "/mnt", source="/dev/sdb") + line(3, 2, "/mnt", source="/dev/sdc")
    assert names(same_place) == [("/dev/sda", "/"), ("/dev/sdc", "/mnt")]
    covered = line(1, 0, "/") + line(2, 1, "/a/b", source="/dev/sdb") + line(3, 1, "/a", "tmpfs", "tmpfs")
    assert names(covered) == [("/dev/sda", "/")]
    listed_after_its_mounts = line(2, 27, "/home", source="/dev/sdb") + line(27, 1, "/")
    assert names(listed_after_its_mounts) == [("/dev/sdb", "/home"), ("/dev/sda", "/")]


def test_of_two_mounts_of_a_source_the_one_that_can_be_reached_is_taken() -> None:
    text = line(1, 0, "/") + line(2, 1, "/a", source="/dev/sdb") + line(3, 2, "/a", "tmpfs", "tmpfs")
    assert names(text + line(4, 1, "/b", source="/dev/sdb")) == [("/dev/sda", "/"), ("/dev/sdb", "/b")]


path_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00/"), min_size=1, max_size=12).filter(
    lambda s: s not in (".", "..")
)


@given(st.lists(path_text, min_size=1, max_size=5, unique=True))
def test_names_with_blanks_and_backslashes_are_read(parts: list[str]) -> None:
    def escape(s: str) -> str:
        for c in "\\ \t\n":  # the backslash first: the others bring it in
            s = s.replace(c, f"\\{ord(c):03o}")
        return s

    text = b"".join(
        line(i, 0, escape(f"/mnt/{p}"), source=escape(f"//server/{p}")).encode() for i, p in enumerate(parts, start=2)
    )
    mounts = parse(text, "/", TYPES)
    assert [(m.device, m.path) for m in mounts] == [(f"//server/{p}", f"/mnt/{p}") for p in parts]


@given(st.binary(max_size=200))
def test_anything_else_is_a_collect_error_or_mounts(text: bytes) -> None:
    try:
        mounts = parse(text, "/", TYPES)
    except CollectError:
        return
    assert len({m.device for m in mounts}) == len(mounts)


@given(st.builds(Answer, *[st.integers(0, 2**64 - 1)] * 6))
def test_values_fit_63_bit_or_are_absent(answer: Answer) -> None:
    assert all(v is None or 0 <= v < 2**63 for v in values(answer))


def test_a_filesystem_that_does_not_count_inodes_has_none() -> None:
    assert values(Answer()) == FULL
    assert values(Answer(f_files=0, f_ffree=0)) == (409600, 245760, 122880, None, None)


def test_agrees_with_psutil() -> None:
    reader = FilesystemCollector(FilesystemConfig()).reader(HOST)
    assert reader is not None
    disks = {p.device: p.mountpoint for p in reversed(psutil.disk_partitions(all=False))}
    before = {d: psutil.disk_usage(m) for d, m in disks.items()}
    rows = {row[0]: row[1:] for row in rows_of(reader)}
    need(rows.keys() & disks.keys(), "no mount of a block device here")
    slack = 256 << 20  # others write meanwhile
    for device in rows.keys() & disks.keys():
        limit, usage, available, inodes, _ = rows[device]
        assert limit == os.statvfs(disks[str(device)]).f_blocks * os.statvfs(disks[str(device)]).f_frsize
        assert abs(usage - before[str(device)].used) <= slack  # type: ignore[operator]
        assert abs(available - before[str(device)].free) <= slack  # type: ignore[operator]
        assert inodes is None or inodes > 0  # type: ignore[operator]


class Stage:
    """A mountinfo file in a folder and filesystems that answer, hang or fail as they are told."""

    def __init__(self, folder: Path) -> None:
        self.mountinfo = folder / "mountinfo"
        self.released = threading.Event()
        self.is_hanging: set[str] = set()
        self.fails: set[str] = set()
        self.asked: list[str] = []
        self.faults = MountFaults()
        self.mounts(line(1, 0, "/"), line(2, 1, "/nfs", "nfs4", "server:/export"))

    def mounts(self, *lines: str) -> None:
        self.mountinfo.write_text("".join(lines))

    def ask(self, path: str) -> Answer:
        self.asked.append(path)
        if path in self.fails:
            raise PermissionError(13, "Permission denied")
        if path in self.is_hanging:
            self.released.wait(30)
        return Answer()

    def reader(self, deadline_s: float = 0.05) -> FilesystemReader:
        return FilesystemReader(self.mountinfo, "/", TYPES, deadline_s, self.ask, self.faults)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.released.set()


def test_a_mount_that_hangs_is_marked_and_left_alone_until_it_answers(stage: Stage) -> None:
    stage.is_hanging.add("/nfs")
    reader = stage.reader()
    marked = (("/dev/sda", *FULL), ("server:/export", None, None, None, None, None))
    assert rows_of(reader) == marked
    assert reader.hanging == ("server:/export",)
    assert rows_of(reader) == marked
    assert stage.asked.count("/nfs") == 1
    assert stage.faults.hanging_mounts == 2
    assert stage.faults.complaint == "/nfs: no answer within 0.05 s"
    stage.is_hanging.clear()
    stage.released.set()
    for t in threading.enumerate():
        if t.name == "statvfs /nfs":
            t.join(10)
    assert rows_of(reader) == (("/dev/sda", *FULL), ("server:/export", *FULL))
    assert reader.hanging == ()
    assert (stage.faults.hanging_mounts, stage.faults.complaint) == (2, None)
    reader.close()


def test_a_new_mount_in_the_place_of_one_that_hangs_is_asked(stage: Stage) -> None:
    stage.is_hanging.add("/nfs")
    reader = stage.reader()
    rows_of(reader)
    stage.is_hanging.clear()
    stage.mounts(line(1, 0, "/"), line(9, 1, "/nfs", "nfs4", "server:/export"))
    assert rows_of(reader)[1] == ("server:/export", *FULL)


def test_mounts_that_come_and_go_are_seen(stage: Stage) -> None:
    reader = stage.reader(5)
    assert [row[0] for row in rows_of(reader)] == ["/dev/sda", "server:/export"]
    stage.mounts(line(1, 0, "/"), line(3, 1, "/usb", "vfat", "/dev/sdb1"))
    assert [row[0] for row in rows_of(reader)] == ["/dev/sda", "/dev/sdb1"]


def test_a_filesystem_that_refuses_has_a_row_without_values(stage: Stage) -> None:
    stage.fails.add("/nfs")
    assert rows_of(stage.reader(5)) == (("/dev/sda", *FULL), ("server:/export", None, None, None, None, None))
    assert stage.faults.unreadable_mounts == 1
    assert stage.faults.complaint == "/nfs: Permission denied"


def test_what_the_readers_meet_is_shown_by_their_collector(stage: Stage) -> None:
    (stage.mountinfo.parent / "self").mkdir()
    (stage.mountinfo.parent / "self/mountinfo").write_text(line(1, 0, "/") + line(2, 1, "/nowhere/at/all", "ext4", "/dev/sdc"))
    collector = FilesystemCollector(FilesystemConfig(proc=stage.mountinfo.parent))
    reader = collector.reader(HOST)
    assert reader is not None
    assert rows_of(reader)[0][1] is not None
    assert collector.counters() == {"hanging_mounts": 0, "unreadable_mounts": 1}
    assert collector.complaint() == "/nowhere/at/all: No such file or directory"


def test_a_mountinfo_that_cannot_be_read_leaves_no_rows_of_before(stage: Stage) -> None:
    reader = stage.reader(5)
    rows_of(reader)
    stage.mounts("1 x\n")
    with pytest.raises(CollectError, match="mountinfo: expected a mount"):
        reader.read()
    assert reader.read_tables() == (None,)


def test_only_the_host_has_filesystems_and_they_are_slow(tmp_path: Path) -> None:
    assert FilesystemCollector.is_slow
    assert FilesystemCollector(FilesystemConfig(proc=tmp_path)).reader(CONTAINER) is None
    with pytest.raises(NoData, match="mountinfo does not exist"):
        FilesystemCollector(FilesystemConfig(proc=tmp_path)).reader(HOST)


@pytest.mark.integration
def test_a_real_mount_that_appears_later_is_seen_with_its_numbers(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "mounting needs root")
    place = tmp_path / "a b"
    place.mkdir()
    reader = FilesystemReader(Path("/proc/self/mountinfo"), "/", (*TYPES, "tmpfs"), 5)
    assert str(place) not in [row[0] for row in rows_of(reader)]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "none", str(place)], check=False)
    need(mounted.returncode == 0, "mount is not permitted here")
    try:
        (place / "file").write_bytes(bytes(65536))
        row = next(row for row in rows_of(reader) if row[0] == str(place))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert row[1:] == (1 << 20, 65536, (1 << 20) - 65536, 64, 62)
