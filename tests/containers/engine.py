"""A real Docker engine for tests, and images for it that need no registry.

An engine that already answers is used as it is. Where none does and the tests run as root, they start a `dockerd` of their
own in a folder of its own, and remove it afterwards: no iptables rule, no IP forwarding, so that the machine's own network is
left alone; containers reach each other and the host, ports are published by docker-proxy on 127.0.0.1, the outside is not
reached. So nothing can be pulled or fetched in a build: the base image is made of the machine's own Debian or Ubuntu
packages by `mmdebstrap`, and wheels are downloaded outside.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from tests.support import need

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "tests"
"""Kept between runs and ignored by git: the base image's archive, downloaded wheels."""
BASE_IMAGE = "tidegauge-test-base:local"
START_TIMEOUT_S = 60.0


def answers(url: str) -> bool:
    """Whether an engine answers there. Only Unix sockets count: behind another address it may be another machine's."""
    if not url.startswith("unix://"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(url.removeprefix("unix://"))
            s.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in s.recv(64)
    except OSError:
        return False


@contextmanager
def engine() -> Iterator[str]:
    """URL of an engine: the one that answers on DOCKER_HOST or the usual socket, or one started for this while."""
    for url in (os.environ.get("DOCKER_HOST"), "unix:///var/run/docker.sock"):
        if url and answers(url):
            yield url
            return
    need(shutil.which("dockerd"), "no Docker engine answers, and dockerd (Debian package docker.io) is not installed")
    need(os.geteuid() == 0, "no Docker engine answers, and only root can start one")
    with _own_dockerd() as url:
        yield url


def _remove_bridges_of_killed_runs() -> None:
    """One that stays takes the packets for the addresses of all later ones."""
    for device in Path("/sys/class/net").glob("tgdocker*"):
        if not Path(f"/proc/{device.name.removeprefix('tgdocker')}").exists():
            subprocess.run(["ip", "link", "delete", device.name], check=False, capture_output=True)


@contextmanager
def _own_dockerd() -> Iterator[str]:
    # not below /tmp: where that is a tmpfs, images would fill the memory
    folder = Path(tempfile.mkdtemp(prefix="tidegauge-dockerd-", dir="/var/tmp"))
    url = f"unix://{folder}/docker.sock"
    there_before = set(_engine_cgroups())
    # Not docker0: an engine that is started without a bridge, as others of the tests are, takes away the one of that name.
    bridge = f"tgdocker{os.getpid() % 10**6}"
    _remove_bridges_of_killed_runs()
    for words in (f"add name {bridge} type bridge", f"set dev {bridge} up"):
        subprocess.run(["ip", "link", *words.split()], check=True, capture_output=True)
    subprocess.run(["ip", "address", "add", "198.18.201.1/24", "dev", bridge], check=True, capture_output=True)
    # A mount namespace of its own: nothing stays mounted when it ends, and / is shared there, as systemd makes it, so that
    # a container can have it with propagation `rslave`.
    command = ["unshare", "--mount", "--propagation", "shared", "dockerd", "--host", url]
    command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/pid", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    command += ["--ip", "127.0.0.1", "--bridge", bridge, "--default-address-pool", "base=198.18.202.0/23,size=26"]
    command += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
    with (folder / "dockerd.log").open("wb") as log:
        dockerd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while not answers(url):
            if dockerd.poll() is not None or time.monotonic() > end:
                tail = (folder / "dockerd.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"dockerd did not come up:\n{tail}")
            time.sleep(0.1)
        yield url
        client = docker.DockerClient(url)
        for container in client.containers.list(all=True):
            container.remove(force=True, v=True)
        client.close()
    finally:
        dockerd.send_signal(signal.SIGTERM)
        try:
            dockerd.wait(30)
        except subprocess.TimeoutExpired:
            dockerd.kill()
            dockerd.wait()
        shutil.rmtree(folder, ignore_errors=True)
        for cgroup in sorted(set(_engine_cgroups()) - there_before, reverse=True):
            # deepest first; one that is not empty belongs to somebody by now
            try:
                cgroup.rmdir()
            except OSError:
                pass
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)


def _engine_cgroups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    tops = [root / "docker", *root.glob("*/docker")]
    return [path for top in tops if top.is_dir() for path in (top, *(p for p in top.rglob("*") if p.is_dir()))]


def make_base_image(client: "docker.DockerClient") -> str:
    """Name of an image with this machine's own distribution and its Python, made if the engine has none yet."""
    if client.images.list(name=BASE_IMAGE):
        return BASE_IMAGE
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().replace('"', "").splitlines() if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "")
    archive = CACHE / f"base-{suite}.tar"
    if not archive.exists():
        need(shutil.which("mmdebstrap"), "mmdebstrap (Debian package of that name) is not installed")
        lists = (f"sources.list.d/{release.get('ID')}.sources", "sources.list")
        sources = next((p for name in lists if (p := Path("/etc/apt") / name).exists()), None)
        need(sources, "neither Debian's nor Ubuntu's package sources are configured here")
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".new")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale", "info")]
        with unfinished.open("wb") as out:
            done = subprocess.run([*command, suite, "-", str(sources)], stdout=out, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        unfinished.rename(archive)
    repository, _, tag = BASE_IMAGE.partition(":")
    client.api.import_image(src=str(archive), repository=repository, tag=tag)
    return BASE_IMAGE


def download_wheels(into: Path, python_version: str) -> None:
    """Wheels of everything that tidegauge needs to be built and run under that Python (`3.11`), for a build without network."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in ("auth", "postgresql"):  # those that the image has
        wanted += project["project"]["optional-dependencies"][extra]
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", python_version]
    subprocess.run([*command, "--dest", str(into), *wanted], check=True, stdin=subprocess.DEVNULL)


def source_files(*folders: str) -> list[str]:
    """Names of the files of the working tree that git knows or would take, below these folders; in a clone, all there are."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


def copy_source(into: Path) -> None:
    """The working tree as a fresh clone would have it, links included."""
    for name in source_files():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
