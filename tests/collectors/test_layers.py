"""Where layers lie, by lists of mounts as real hosts have them, and by those that a container has made up."""

from pathlib import Path

import pytest

from tidegauge.collectors._layers import Layer, Layers, device_of, parse, root_of, upper_of
from tidegauge.collectors.cgroup_paths import CgroupMounts

ID = "c0" * 32
PATH = f"/docker/{ID}"
HOST = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
OVERLAY2 = "/var/lib/docker/overlay2/31fc/"
SEEN = (
    f"40 21 0:53 / {OVERLAY2}merged rw,relatime shared:9 - overlay overlay "
    f"rw,lowerdir={OVERLAY2[:-1]}-init/diff:/var/lib/docker/overlay2/8f/diff,upperdir={OVERLAY2}diff,workdir={OVERLAY2}work\n"
)
INSIDE = (
    "700 600 0:53 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/whatever,workdir=/w\n"
    "701 700 0:60 / /proc rw,nosuid - proc proc rw\n"
)


class Host:
    """A made-up /proc and a hierarchy with one container, whose parent outside is process 50."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        self.process(1, 0, "/", HOST)
        self.process(50, 1, "/system.slice/containerd.service", HOST)
        self.mounts("self", HOST)

    def mounts(self, pid: str, text: str) -> None:
        (self.proc / pid).mkdir(parents=True, exist_ok=True)
        (self.proc / pid / "mountinfo").write_text(text)

    def process(self, pid: int, parent: int, path: str, mounts: str, user: int = 0) -> None:
        folder = self.proc / str(pid)
        self.mounts(str(pid), mounts)
        (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t{user}\t{user}\t{user}\t{user}\n")
        (folder / "cgroup").write_text(f"4:memory:{path}\n0::/\n")
        where = Path(f"{self.cgroups}{path}")
        where.mkdir(parents=True, exist_ok=True)
        with (where / "cgroup.procs").open("a") as procs:
            procs.write(f"{pid}\n")

    def find(self, path: str = PATH, rootfs: str = "/") -> Layer | None:
        layers = Layers(CgroupMounts({"memory": self.cgroups}, None, frozenset()), self.proc, Path(rootfs))
        return layers.find(path, layers.own_mounts())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_docker_s_overlay_as_we_see_it_ourselves(host: Host) -> None:
    host.mounts("self", HOST + SEEN)
    host.process(100, 50, PATH, INSIDE)
    assert host.find() == Layer(f"{OVERLAY2}diff", None)


def test_an_engine_with_mounts_of_its_own_is_asked_by_its_shim(host: Host) -> None:
    host.process(50, 1, "/system.slice/containerd.service", HOST + SEEN)
    host.process(100, 50, PATH, INSIDE)
    host.process(101, 100, PATH, INSIDE)
    assert host.find() == Layer(f"{OVERLAY2}diff", None)


def test_a_user_s_engine_may_speak_of_that_user_s_folders_only(host: Host) -> None:
    host.process(50, 1, "/user.slice/conmon", HOST + SEEN, user=1000)
    host.process(100, 50, PATH, INSIDE)
    assert host.find() == Layer(f"{OVERLAY2}diff", 1000)


def test_an_overlay_that_a_container_made_itself_is_not_believed(host: Host) -> None:
    host.mounts("self", HOST + SEEN)
    own = "800 700 0:99 / / rw - overlay none rw,lowerdir=/a,upperdir=/home/secret,workdir=/w\n"
    host.process(100, 50, PATH, own)
    assert host.find() is None
    host.process(101, 50, PATH, INSIDE)
    assert host.find() == Layer(f"{OVERLAY2}diff", None)


def test_mounts_of_a_process_within_the_container_are_no_view_from_outside(host: Host) -> None:
    fake = HOST + "800 700 0:99 / /m rw - overlay none rw,lowerdir=/a,upperdir=/home/secret,workdir=/w\n"
    own = "800 700 0:99 / / rw - overlay none rw,lowerdir=/a,upperdir=/home/secret,workdir=/w\n"
    host.process(100, 50, f"{PATH}/inner", fake)
    host.process(101, 100, PATH, own)
    assert host.find() is None


def test_one_that_has_still_the_host_s_root_has_no_layer_yet(host: Host) -> None:
    host.mounts("self", HOST + SEEN)
    host.process(100, 50, PATH, HOST + SEEN)
    assert host.find() is None


def test_a_host_whose_root_is_an_overlay_is_no_layer_either(host: Host) -> None:
    live = "21 1 0:20 / / rw - overlay overlay rw,lowerdir=/ro,upperdir=/cow,workdir=/w\n"
    host.mounts("self", live + SEEN)
    host.process(50, 1, "/system.slice/containerd.service", live)
    host.process(100, 50, PATH, live)
    assert host.find() is None


def test_a_folder_of_the_host_is_the_layer_of_vfs_and_btrfs(host: Host) -> None:
    root = "/var/lib/containers/storage/vfs/dir/abc"
    host.process(100, 50, PATH, f"700 600 254:0 {root} / rw - ext4 /dev/vda rw\n")
    assert host.find() == Layer(root, None)


def test_a_folder_of_a_filesystem_that_is_mounted_elsewhere(host: Host) -> None:
    host.mounts("self", HOST + "30 21 254:1 /data /var/lib/containers rw - xfs /dev/vdb rw\n")
    host.process(100, 50, PATH, "700 600 254:1 /data/storage/vfs/dir/abc / rw - xfs /dev/vdb rw\n")
    assert host.find() == Layer("/var/lib/containers/storage/vfs/dir/abc", None)
    host.process(100, 50, PATH, "700 600 254:1 /database / rw - xfs /dev/vdb rw\n")
    assert host.find() is None


def test_a_filesystem_of_its_own_is_no_folder_to_walk(host: Host) -> None:
    host.process(100, 50, PATH, "700 600 254:7 / / rw - ext4 /dev/mapper/docker-1 rw\n")
    assert host.find() is None


def test_processes_in_cgroups_within_count_where_its_own_has_none(host: Host) -> None:
    host.mounts("self", HOST + SEEN)
    host.process(100, 50, f"{PATH}/container", INSIDE)
    (host.cgroups / PATH[1:] / "cgroup.procs").write_text("")
    assert host.find() == Layer(f"{OVERLAY2}diff", None)


def test_nothing_is_known_of_one_without_processes_or_that_is_gone(host: Host) -> None:
    assert host.find() is None
    host.process(100, 50, PATH, INSIDE)
    (host.proc / "100/mountinfo").unlink()
    assert host.find() is None


def test_from_within_a_container_the_host_s_mounts_are_below_its_root(host: Host) -> None:
    agent = "1 0 0:80 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/agent,workdir=/w\n"
    seen = "".join(
        line.replace(" / / rw,", " / /rootfs rw,").replace(f" / {OVERLAY2}", f" / /rootfs{OVERLAY2}") + "\n"
        for line in (HOST + SEEN).splitlines()
    )
    host.mounts("self", agent + seen)
    (host.proc / "50/mountinfo").unlink()
    host.process(100, 50, PATH, INSIDE)
    assert host.find(rootfs="/rootfs") == Layer(f"{OVERLAY2}diff", None)
    host.process(100, 50, PATH, "700 600 254:0 /var/lib/vfs/dir/a / rw - ext4 /dev/vda rw\n")
    assert host.find(rootfs="/rootfs") == Layer("/var/lib/vfs/dir/a", None)


def test_an_upper_folder_as_engines_shorten_and_the_kernel_escapes_it() -> None:
    def upper(options: str) -> str | None:
        (mount,) = parse(f"1 0 0:5 / /store/overlay2/31fc/merged rw - overlay overlay {options}\n".encode())
        return upper_of(mount)

    assert upper("rw,lowerdir=l/A:l/B,upperdir=31fc/diff,workdir=31fc/work") == "/store/overlay2/31fc/diff"
    assert upper("rw,lowerdir=/a,upperdir=/b\\054c\\040d,workdir=/w") == "/b,c d"
    assert upper("ro,lowerdir=/a:/b") is None


def test_the_last_root_covers_the_others() -> None:
    mounts = list(parse(b"1 0 0:2 / / rw - rootfs rootfs rw\n2 1 8:1 / / rw - ext4 /dev/sda1 rw\njunk\n\n"))
    found = root_of(mounts)
    assert found is not None
    assert found.source == "/dev/sda1"


def test_the_device_is_that_of_the_nearest_mount_above() -> None:
    mounts = list(
        parse(
            b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /var rw - xfs /dev/sdb1 rw\n"
            b"3 1 0:9 / /variable rw - tmpfs tmpfs rw\n"
            b"4 1 0:30 / /pool rw - zfs pool/data rw\n"
        )
    )
    places = ("/etc", "/var", "/var/lib/x", "/variable/x", "/various", "/pool/x")
    assert [device_of(p, mounts) for p in places] == [
        "/dev/sda1",
        "/dev/sdb1",
        "/dev/sdb1",
        "/variable",
        "/dev/sda1",
        "pool/data",
    ]
