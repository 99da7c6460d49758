"""Podman with storage, sockets and settings of the test's own; nothing of the machine's podman is touched.

As root with `runc` and the cgroupfs manager, which work on hosts with cgroup v1 and inside of containers too. The image is
made locally.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from tests.support import need

IMAGE = "localhost/tidegauge-test-busybox:1"
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
events_logger = "file"
"""


class OwnPodman:
    """`podman(words)` runs the command line; `serve` and `kill` its API service."""

    def __init__(self, driver: str = "vfs") -> None:
        """`driver`: how layers are stored; `overlay` works on usual filesystems only."""
        need(shutil.which("podman"), "podman is not installed")
        need(shutil.which("runc"), "runc is not installed")
        need(os.geteuid() == 0, "only root can run podman here")
        need(Path("/bin/busybox").exists(), "busybox-static is not installed")
        self.folder = f = Path(tempfile.mkdtemp(prefix="tidegauge-podman-", dir="/var/tmp"))
        self.socket = f / "podman.sock"
        (f / "containers.conf").write_text(_SETTINGS)
        self._environ = os.environ | {"CONTAINERS_CONF": str(f / "containers.conf")}
        self._command = ["podman", "--root", f"{f}/root", "--runroot", f"{f}/run", "--tmpdir", f"{f}/tmp"]
        self._command += ["--storage-driver", driver, "--cgroup-manager", "cgroupfs", "--runtime", str(shutil.which("runc"))]
        self._service: subprocess.Popen[bytes] | None = None
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add("/bin/busybox", "bin/busybox")
            for name in ("sh", "sleep", "true"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        (f / "image.tar").write_bytes(archive.getvalue())
        made = self._run("import", "-q", f"{f}/image.tar", IMAGE)
        need(made.returncode == 0, f"podman cannot keep an image here: {made.stderr[-300:]}")

    def podman(self, *words: str, may_fail: bool = False) -> str:
        done = self._run(*words)
        assert may_fail or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Id of a container in the background."""
        return self.podman("run", "-d", "--name", name, *options, IMAGE, *command)

    def serve(self) -> "OwnPodman":
        command = [*self._command, "system", "service", "-t", "0", f"unix://{self.socket}"]
        with (self.folder / "log").open("ab") as log:
            # conmon leaves a file `oom` in the folder where it was started
            self._service = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ, cwd=self.folder
            )
        end_s = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < end_s, (self.folder / "log").read_text()
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        if self._service is not None:
            self._service.kill()
            self._service.wait()
            self._service = None
            self.socket.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leaves nothing behind."""
        for _ in range(3):  # one whose network another one uses goes after that one only
            if self._run("rm", "-a", "-f", "-t", "0").returncode == 0:
                break
        self._run("pod", "rm", "-a", "-f")
        self.kill()
        mark = f"{self.folder}/".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "cmdline").read_bytes() and process.name != str(os.getpid()):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
            for cgroup in (*parent.iterdir(), parent):
                with contextlib.suppress(OSError):  # not empty: somebody else's
                    cgroup.rmdir()

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [*self._command, *words]
        return subprocess.run(
            command, env=self._environ, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(str(self.socket))
                s.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in s.recv(64)
        except OSError:
            return False
