"""Names from a real containerd, its containers made by `ctr`."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers.watching import Watching
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(120)]
NAMESPACE = f"tg-containerd-{os.getpid()}"
ID = "c064fbca9d9de8dd9bb0624984403b28d0da807a69365d4f7fb09123ecb0c405"


class OwnContainerd:
    """A daemon in a folder of its own; `ctr(words)` runs the command line."""

    def __init__(self) -> None:
        need(shutil.which("containerd") and shutil.which("ctr"), "containerd is not installed")
        need(os.geteuid() == 0, "only root can run containerd")
        need(Path("/bin/busybox").exists(), "busybox-static is not installed")
        self.folder = f = Path(tempfile.mkdtemp(prefix="tidegauge-containerd-", dir="/var/tmp"))
        self.state = f / "run"
        (f / "rootfs" / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", f / "rootfs" / "bin" / "sleep")
        (f / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        command = ["containerd", "--config", f"{f}/config.toml", "--root", f"{f}/root", "--state", str(self.state)]
        with (f / "log").open("wb") as log:
            self._daemon = subprocess.Popen([*command, "--address", f"{f}/sock"], stdout=log, stderr=log)
        end_s = time.monotonic() + 20
        while self._call("version").returncode:
            assert time.monotonic() < end_s, (f / "log").read_text()[-2000:]
            time.sleep(0.05)

    def ctr(self, *words: str) -> str:
        done = self._call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, id_: str, *options: str) -> None:
        self.ctr("run", "-d", "--null-io", *options, "--rootfs", f"{self.folder}/rootfs", id_, "/bin/sleep", "1000")

    def end(self, id_: str) -> None:
        self._call("task", "kill", "-s", "KILL", id_)
        self._call("task", "rm", "-f", id_)
        self._call("container", "rm", id_)

    def remove(self) -> None:
        for id_ in self._call("container", "ls", "-q").stdout.split():
            self.end(id_)
        self._daemon.terminate()
        self._daemon.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)
        for cgroup in Path("/sys/fs/cgroup").glob(f"*/{NAMESPACE}"):
            cgroup.rmdir()

    def _call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = ["ctr", "--address", f"{self.folder}/sock", "--namespace", NAMESPACE, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture(scope="module")
def containerd() -> Iterator[OwnContainerd]:
    made = OwnContainerd()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def watching(containerd: OwnContainerd) -> Iterator[Watching]:
    with Watching({"containerd": {"state": str(containerd.state)}}, [f"/{NAMESPACE}*"]) as made:
        yield made


def test_a_container_with_a_word_as_its_id(containerd: OwnContainerd, watching: Watching) -> None:
    before_ms = time.time() * 1000 - 1000
    containerd.run("job-1", "--net-host")
    record = watching.named("job-1")
    assert record.path == f"/{NAMESPACE}/job-1"
    assert (record.name, record.namespace, record.runtime, record.container_id) == (
        "job-1",
        "containerd",
        "containerd",
        "job-1",
    )
    assert (record.aliases, record.image, record.network) == (("job-1",), None, "host")
    assert record.runtime_created_ms is not None
    assert before_ms < record.runtime_created_ms <= time.time() * 1000
    containerd.end("job-1")
    assert watching.deletion(record).details == {"path": record.path}


def test_annotations_as_the_kubelet_s_and_nerdctl_s(containerd: OwnContainerd, watching: Watching) -> None:
    told = {"container-name": "app", "sandbox-name": "web-0", "sandbox-namespace": "shop", "image-name": "i:1"}
    annotations = [f"io.kubernetes.cri.{key}={value}" for key, value in told.items()]
    containerd.run(ID, *(word for annotation in annotations for word in ("--annotation", annotation)))
    record = watching.named(ID)
    assert (record.name, record.image, record.network, record.aliases) == ("app", "i:1", "own", ("app", ID))
    assert (record.pod, record.pod_namespace) == ("web-0", "shop")
    assert record.labels == {
        "io.kubernetes.container.name": "app",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
    }
