"""A Docker engine of the test's own, that can be killed and started again while its containers live on.

Beside whatever engine runs already: a folder and a socket of its own, no bridge, no iptables. Containers lie below a cgroup of
their own, so that nobody else's are mistaken for them.
"""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
from tests.containers.engine import START_TIMEOUT_S, answers
from tests.support import need

IMAGE = "tidegauge-test-busybox:1"


class OwnEngine:
    """`start`, `kill`, `start` ... `remove`. Live restore is on: containers outlive the daemon.

    `options`: more of dockerd's.
    """

    def __init__(self, *options: str) -> None:
        need(shutil.which("dockerd"), "dockerd (Debian package docker.io) is not installed")
        need(os.geteuid() == 0, "only root can start a Docker engine")
        need(Path("/bin/busybox").exists(), "busybox-static is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix="tidegauge-own-", dir="/var/tmp"))
        self.socket = self.folder / "docker.sock"
        self.parent = f"/tg-runtimes-{os.getpid()}"
        self._options = options
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> "OwnEngine":
        f = self.folder
        command = ["dockerd", "--host", self.url, "--pidfile", f"{f}/pid"]
        command += ["--data-root", f"{f}/data", "--exec-root", f"{f}/exec"]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--live-restore"]
        command += ["--cgroup-parent", self.parent, "--exec-opt", "native.cgroupdriver=cgroupfs", *self._options]
        with (f / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + START_TIMEOUT_S
        while not answers(self.url):
            if self._daemon.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"dockerd did not come up:\n{(f / 'dockerd.log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """The daemon and its containerd, at once; the containers and their shims go on."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self._daemon = None
        # a new daemon takes a process that is dead and not reaped yet for one that still runs
        for left in ("pid", "exec/containerd/containerd.pid"):
            (self.folder / left).unlink(missing_ok=True)

    def client(self) -> "docker.DockerClient":
        client = docker.DockerClient(self.url, timeout=60)
        if not client.images.list(name=IMAGE):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add("/bin/busybox", "bin/busybox")
                for name in ("sh", "sleep", "true", "test", "touch", "rm"):
                    link = tarfile.TarInfo(f"bin/{name}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    tar.addfile(link)
            repository, _, tag = IMAGE.partition(":")
            client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
        return client

    def remove(self) -> None:
        """Leaves nothing behind, whatever state it is in."""
        try:
            if self._daemon is None:
                self.start()
            client = docker.DockerClient(self.url, timeout=60)
            remove_all(client)
            client.close()
        finally:
            if self._daemon is not None:
                self._daemon.send_signal(signal.SIGTERM)
                try:
                    self._daemon.wait(30)
                except subprocess.TimeoutExpired:
                    self._daemon.kill()
                    self._daemon.wait()
            self._remove_rests()

    def _remove_rests(self) -> None:
        mark = f"{self.folder}/".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "cmdline").read_bytes() and process.name != str(os.getpid()):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue
        tops = [top / self.parent[1:] for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*"))]
        for file in (f for top in tops for f in top.glob("*/cgroup.procs")):
            for pid in file.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        for top in (t for t in tops if t.is_dir()):
            for cgroup in (*sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True), top):
                _rmdir(cgroup)


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass


def remove_all(client: "docker.DockerClient") -> None:
    """Every container of the engine; one that removes itself at the moment is let go."""
    for container in client.containers.list(all=True, ignore_removed=True):
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError as exc:
            if exc.status_code not in (404, 409):
                raise


def run(client: "docker.DockerClient", command: list[str] | str, **options: Any) -> Any:
    """A container of the busybox image without network, in the background, killed at once when it is stopped."""
    return client.containers.run(IMAGE, command, detach=True, **{"network_mode": "none", "stop_signal": "KILL", **options})
