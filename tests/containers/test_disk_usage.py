"""Space of real containers' layers and logs, against `du` and the engines' own figures."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.collectors import cgroup_truth
from tests.containers.own_engine import IMAGE, OwnEngine, remove_all, run
from tests.containers.own_podman import OwnPodman
from tests.containers.test_runtimes_containerd import NAMESPACE, OwnContainerd
from tests.containers.watching import eventually

from tidegauge.collectors.disk_usage import DiskUsageCollector, DiskUsageConfig, DiskUsageReader
from tidegauge.pipeline.records import TableRow, TableRows

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(300)]
OPEN = ["apparmor=unconfined", "seccomp=unconfined"]
FILL = (
    "for n in 1 2 3 4 5; do busybox dd if=/dev/zero of=/f$n bs=1000 count=1000 2>/dev/null; done; busybox ln /f1 /linked;"
    " busybox dd if=/dev/zero of=/sparse bs=1 count=1 seek=1000000000 2>/dev/null; busybox mkdir /ready; echo filled;"
    " sleep 1000"
)


@pytest.fixture
def collector() -> Iterator[DiskUsageCollector]:
    made = DiskUsageCollector(DiskUsageConfig(interval_s=0.5, rest_factor=0.0))
    yield made
    made.close()


def _du(path: str, option: str = "-B1") -> int:
    done = subprocess.run(["du", "-s", "-x", option, path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def _size(path: str) -> int:
    done = subprocess.run(["df", "-B1", "--output=size", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1])


def _source(path: str) -> str:
    done = subprocess.run(["df", "--output=source", path], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def _figures(reader: DiskUsageReader) -> TableRows | None:
    """Of the last walk, handed over already or not."""
    reader.read()
    return reader.read_tables()[0]


def _row(collector: DiskUsageCollector, path: str, is_settled: Callable[[TableRow], bool]) -> TableRow:
    reader = collector.reader(cgroup_truth.container(path))
    assert reader is not None

    def row() -> TableRow | None:
        rows = _figures(reader)
        return rows[0] if rows and len(rows) == 1 and is_settled(rows[0]) else None

    found = eventually(row, 60)
    assert found is not None
    reader.close()
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    made = OwnEngine()
    try:
        yield made.start()
    finally:
        made.remove()


def test_docker(engine: OwnEngine, collector: DiskUsageCollector) -> None:
    client = engine.client()
    try:
        container = run(client, ["sh", "-c", FILL], name="filled")
        inspect = client.api.inspect_container(container.id)
        upper = inspect["GraphDriver"]["Data"]["UpperDir"]
        logs = str(Path(inspect["LogPath"]).parent)
        eventually(lambda: Path(upper, "ready").is_dir() and container.logs(), 60)
        wanted = (_source(upper), _du(upper) + _du(logs), _du(upper), _du(upper, "--inodes"), _size(upper))
        assert _row(collector, f"{engine.parent}/{container.id}", lambda row: row == wanted) == wanted
        # `docker ps -s` adds up sizes, so the sparse file counts for more there, and the unused rest of blocks for nothing
        (listed,) = client.api.containers(size=True)
        assert wanted[2] <= listed["SizeRw"] - 1_000_000_000 + 16 * 4096
        assert wanted[2] > 5_000_000
        assert collector.complaint() is None
    finally:
        remove_all(client)
        client.close()


def test_one_that_ends_has_no_figures_and_is_no_fault(engine: OwnEngine, collector: DiskUsageCollector) -> None:
    client = engine.client()
    try:
        container = run(client, ["sleep", "1000"], name="ends")
        path = f"{engine.parent}/{container.id}"
        _row(collector, path, lambda row: True)
        reader = collector.reader(cgroup_truth.container(path))
        assert reader is not None
        eventually(lambda: _figures(reader) is not None, 60)
        container.remove(force=True)
        eventually(lambda: _figures(reader) is None, 60)
        assert collector.complaint() is None
    finally:
        remove_all(client)
        client.close()


def test_a_container_that_mounts_a_root_of_its_own_sends_us_nowhere(engine: OwnEngine, collector: DiskUsageCollector) -> None:
    """With the right to mount, as `--privileged` or a user namespace give it, its root can be any overlay it likes."""
    client = engine.client()
    mounts = (
        "for d in l u w m; do busybox mkdir -p /tmp/$d; done; busybox mount -t tmpfs none /tmp;"
        "for d in l u w m; do busybox mkdir -p /tmp/$d; done;"
        "busybox mount -t overlay none -o lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w /tmp/m;"
        "busybox mkdir -p /tmp/m/bin; busybox cp /bin/busybox /tmp/m/bin/; busybox ln -s busybox /tmp/m/bin/sleep;"
        "busybox mkdir /tmp/m/old; cd /tmp/m; busybox pivot_root . old; busybox touch /old/moved; exec /bin/sleep 1000"
    )
    try:
        container = run(client, ["sh", "-c", mounts], name="moves", cap_add=["SYS_ADMIN"], security_opt=OPEN)
        upper = client.api.inspect_container(container.id)["GraphDriver"]["Data"]["UpperDir"]
        path = f"{engine.parent}/{container.id}"
        eventually(lambda: Path(upper, "moved").exists(), 60, str(container.logs()))
        reader = collector.reader(cgroup_truth.container(path))
        assert reader is not None
        walks = collector.counters()["walks"]
        keeper = run(client, ["sleep", "1000"], name="keeper")
        _row(collector, f"{engine.parent}/{keeper.id}", lambda row: True)
        time.sleep(0.1)
        assert _figures(reader) is None
        assert collector.counters()["walks"] > walks
    finally:
        remove_all(client)
        client.close()


@pytest.fixture(scope="module", params=["overlay", "vfs"])
def podman(request: pytest.FixtureRequest) -> Iterator[OwnPodman]:
    made = OwnPodman(request.param)
    try:
        yield made
    finally:
        made.remove()


def test_podman_whose_layer_is_an_overlay_or_a_whole_folder(podman: OwnPodman, collector: DiskUsageCollector) -> None:
    id_ = podman.run("filled", "sh", "-c", FILL)
    inspect = json.loads(podman.podman("inspect", id_))[0]
    layer = inspect["GraphDriver"]["Data"].get("UpperDir") if inspect["GraphDriver"]["Data"] else None
    layer = layer or podman.podman("mount", id_)
    logs = str(Path(inspect["StaticDir"]).parent)
    eventually(lambda: Path(layer, "ready").is_dir() and podman.podman("logs", id_), 60)
    wanted = (_source(layer), _du(layer) + _du(logs), _du(layer), _du(layer, "--inodes"), _size(layer))
    assert _row(collector, f"/libpod_parent/libpod-{id_}", lambda row: row == wanted) == wanted


@pytest.fixture
def containerd() -> Iterator[OwnContainerd]:
    made = OwnContainerd()
    try:
        yield made
    finally:
        made.remove()


def test_containerd_s_own_store_of_images(
    engine: OwnEngine, containerd: OwnContainerd, collector: DiskUsageCollector, tmp_path: Path
) -> None:
    """As Docker with containerd's image store has it: a snapshot, of which no runtime's inspect tells."""
    client = engine.client()
    (tmp_path / "image.tar").write_bytes(b"".join(client.images.get(IMAGE).save(named=True)))
    client.close()
    containerd.ctr("images", "import", "--snapshotter", "overlayfs", str(tmp_path / "image.tar"))
    (image,) = containerd.ctr("images", "ls", "-q").split()
    id_ = "ab" * 32
    containerd.ctr("run", "-d", "--null-io", "--snapshotter", "overlayfs", image, id_, "/bin/sh", "-c", FILL)
    mounts = containerd.ctr("snapshots", "mounts", str(tmp_path), id_)
    upper = mounts.partition("upperdir=")[2].partition(",")[0]
    eventually(lambda: Path(upper, "ready").is_dir(), 60)
    wanted = (_source(upper), _du(upper), _du(upper), _du(upper, "--inodes"), _size(upper))
    assert _row(collector, f"/{NAMESPACE}/{id_}", lambda row: row == wanted) == wanted
    # `ctr snapshots usage` counts blocks too
    size = containerd.ctr("snapshots", "usage", "-b", id_).split()
    assert abs(int(size[size.index(id_) + 1]) - wanted[2]) <= 64 * 4096
