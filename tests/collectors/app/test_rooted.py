"""Files of a container are read beneath its root, whatever links, devices and sizes it puts in the way."""

import ctypes
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support import need

from tidegauge.collectors.app.announced import Refused
from tidegauge.collectors.app.rooted import MAX_BYTES, Unreadable, read, read_beneath
from tidegauge.collectors.app.workers import read_file


def own_cgroup() -> str:
    """Of this very process, in the first hierarchy that is told."""
    return Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root, with a file of the host's beside it that nobody in it may have."""
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("of the host")
    (made / "etc/config.json").write_text("{}")
    return made


@pytest.fixture
def read_in(root: Path) -> Iterator["ReadIn"]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield ReadIn(fd)
    os.close(fd)


class ReadIn:
    def __init__(self, root: int) -> None:
        self._root = root

    def __call__(self, file: str) -> bytes:
        try:
            return read_beneath(self._root, file)
        except Unreadable as exc:
            need("openat2" not in str(exc), str(exc))
            raise


@pytest.mark.parametrize("file", ["/etc/config.json", "etc/config.json", "/etc/../etc/./config.json", "/../../etc/config.json"])
def test_a_regular_file_by_any_path_within(read_in: ReadIn, file: str) -> None:
    assert read_in(file) == b"{}"


def test_links_within_are_the_container_s_own_affair(read_in: ReadIn, root: Path) -> None:
    (root / "absolute").symlink_to("/etc/config.json")
    (root / "relative").symlink_to("etc/config.json")
    assert read_in("/absolute") == read_in("/relative") == b"{}"


@pytest.mark.parametrize(
    "to", ["/secret", "../secret", "../../../../../../../../etc/hostname", "/etc/passwd", "{outside}/secret"]
)
def test_no_link_leads_out(read_in: ReadIn, root: Path, tmp_path: Path, to: str) -> None:
    (root / "link").symlink_to(to.format(outside=tmp_path))
    (root / "folder").symlink_to("..")
    with pytest.raises(Unreadable, match="No such file"):
        read_in("/link")
    with pytest.raises(Unreadable, match="No such file"):
        read_in("/folder/secret")


def test_links_of_the_kernel_s_own_are_refused(root: Path) -> None:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for file in ("/proc/self/root/etc/passwd", "/proc/thread-self/cwd/x", "/proc/self/exe"):
            with pytest.raises(Unreadable, match="symbolic links"):
                read_beneath(fd, file)
    finally:
        os.close(fd)


def test_what_is_no_regular_file(read_in: ReadIn, root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "to_fifo").symlink_to("fifo")
    for file in ("/fifo", "/to_fifo", "/etc", "/"):
        with pytest.raises(Unreadable, match="no regular file"):
            read_in(file)


@pytest.mark.integration
def test_a_device_is_refused_unopened(read_in: ReadIn, root: Path) -> None:
    need(os.geteuid() == 0, "only root can make a device")
    try:
        # no driver has this number: whoever opened it would be told so
        os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(240, 77))
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        need(False, "devices may not be made here")
    for file in ("/device", "/zero"):
        with pytest.raises(Unreadable, match="no regular file"):
            read_in(file)


def test_the_size_is_bounded(read_in: ReadIn, root: Path) -> None:
    (root / "most").write_bytes(b"x" * MAX_BYTES)
    (root / "more").write_bytes(b"x" * (MAX_BYTES + 1024))
    with (root / "holes").open("wb") as file:
        file.truncate(1 << 40)
    assert len(read_in("/most")) == MAX_BYTES
    for name in ("/more", "/holes"):
        with pytest.raises(Unreadable, match=r"longer than 65536 bytes"):
            read_in(name)


def test_files_that_the_kernel_makes_of_its_own_state_are_refused_unopened() -> None:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    files = [f for f in ("/proc/uptime", "/sys/kernel/notes", "/proc/kmsg", "/proc/1/status") if os.path.exists(f)]
    assert files
    try:
        for file in files:
            with pytest.raises(Unreadable, match="made for files"):
                read_beneath(fd, file)
    finally:
        os.close(fd)


@pytest.mark.parametrize("file", ["", "a\0b", "/" + "a" * 5000, "/nothing/there"])
def test_paths_that_are_none(read_in: ReadIn, file: str) -> None:
    with pytest.raises(Unreadable):
        read_in(file)


@pytest.mark.integration
def test_through_the_root_of_a_process_in_the_container(root: Path) -> None:
    need(os.geteuid() == 0, "only root can change the root of a process")
    need(Path("/bin/busybox").exists(), "busybox-static is not installed")
    (root / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "busybox").chmod(0o755)
    with subprocess.Popen(
        ["chroot", str(root), "/busybox", "sh", "-c", "echo up; exec /busybox sleep 1000"], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert read("/proc", process.pid, own_cgroup(), "/etc/config.json") == b"{}"
            assert read_file("/proc", process.pid, own_cgroup(), "/etc/config.json", 30) == b"{}"
            with pytest.raises(Refused, match="cannot be read: No such file"):
                read_file("/proc", process.pid, own_cgroup(), "/etc/passwd", 30)
            with pytest.raises(Refused, match="not in the container"):
                read_file("/proc", process.pid, "/another", "/etc/config.json", 30)
        finally:
            process.kill()


_CONTAINER = """
mount -t tmpfs none "$1" && cd "$1" && mkdir ram lower upper work merged && mount -t overlay \\
    -o lowerdir=lower,upperdir=upper,workdir=work none merged && echo ram > ram/file && echo over > merged/file || exit 1
mkdir own && mount -t proc none own && touch bound && mount --bind /proc/kmsg bound && echo up && exec cat
"""
"""A container with file systems of its own: the usual /proc, one more, and a file of it bound elsewhere."""


def _unread_log_bytes() -> int:
    return int(ctypes.CDLL(None).klogctl(9, None, 0))


@pytest.mark.integration
def test_the_kernel_s_log_is_not_emptied_by_a_container_that_names_it(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "only root can mount")
    (tmp_path / "file").write_text("disk")
    (tmp_path / "mounts").mkdir()
    command = ["unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _CONTAINER, "sh"]
    with subprocess.Popen([*command, str(tmp_path / "mounts")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            need(process.stdout.readline() == b"up\n", "namespaces and an overlay may not be made here")
            (inside,) = psutil.Process(process.pid).children()
            before = _unread_log_bytes()
            for file in ("/proc/kmsg", "mounts/own/kmsg", "mounts/bound", "/proc/uptime", "/sys/kernel/notes"):
                named = f"{tmp_path}/{file}" if file.startswith("mounts") else file
                with pytest.raises(Refused, match="made for files"):
                    read_file("/proc", inside.pid, own_cgroup(), named, 30)
            # others may take from it and the kernel may add to it meanwhile, but nobody drains it in so short a time
            assert _unread_log_bytes() >= before // 2
            for file, content in (("file", b"disk"), ("mounts/ram/file", b"ram\n"), ("mounts/merged/file", b"over\n")):
                assert read_file("/proc", inside.pid, own_cgroup(), f"{tmp_path}/{file}", 30) == content
        finally:
            process.kill()


def test_a_cgroup_below_is_the_container_s_and_one_of_like_name_is_not(root: Path, tmp_path: Path) -> None:
    process = tmp_path / "7"
    process.mkdir()
    (process / "cgroup").write_text("4:memory:/other\n0::/docker/abcd/init:1\n")
    (process / "root").symlink_to(root)
    for cgroup in ("/docker/abcd", "/docker/abcd/init:1", "/other"):
        assert read(str(tmp_path), 7, cgroup, "/etc/config.json") == b"{}"
    for cgroup in ("/docker/abc", "/docker/abcd/init", "/docker/abcd/init:1/x", "/"):
        with pytest.raises(Unreadable, match="not in the container"):
            read(str(tmp_path), 7, cgroup, "/etc/config.json")


def test_a_process_of_another_cgroup_shows_no_root() -> None:
    with pytest.raises(Unreadable, match="not in the container"):
        read("/proc", os.getpid(), own_cgroup().rstrip("/") + "/x", "/etc/passwd")


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(Unreadable, match=f"/proc/{process.pid}"):
        read("/proc", process.pid, "/", "/etc/passwd")


@pytest.mark.integration
def test_a_file_system_that_never_answers_costs_one_deadline(tmp_path: Path) -> None:
    """The folder that stands for /proc lies behind a FIFO's reader that never comes: opening it for reading would wait."""
    os.mkfifo(tmp_path / "cgroup")
    (tmp_path / "7").mkdir()
    os.rename(tmp_path / "cgroup", tmp_path / "7/cgroup")
    with pytest.raises(Refused, match=r"no answer within 0\.5 s"):
        read_file(str(tmp_path), 7, "/a", "/etc/config.json", 0.5)
