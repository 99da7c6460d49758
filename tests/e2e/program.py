"""The whole program as a subprocess, real cgroups with work in them, and what was stored, for end-to-end tests."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests import support

T = TypeVar("T")


def eventually(what: Callable[[], T], timeout_s: float = 60.0, why: str = "") -> T:
    """As of `support`, of a program that may not answer yet."""
    return support.eventually(what, timeout_s, why, (OSError, KeyError, sqlite3.OperationalError, http.client.HTTPException))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


class Program:
    """`tidegauge run` on a state folder of its own. Restartable; a context manager that stops it."""

    def __init__(self, folder: Path, config: str = "", environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.file = folder / "tidegauge.toml"
        self.log = folder / "log"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGAUGE_")} | dict(environ or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Writes the file; [http] listens on the Unix socket only unless the text says otherwise."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(config if "[http]" in config else config + '\n[http]\nlisten = ""\n')

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tidegauge.cli.main", *words, "--config", str(self.file), "--state-dir", str(self.state)]

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Another command of the program on the same configuration."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, env=self.environ, timeout=60, check=False)

    def start(self) -> "Program":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command("run"), stdout=log, stderr=log, env=self.environ)
        eventually(lambda: self.status()["log"], 30, "the program did not start")
        return self

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def children(self) -> dict[str, int]:
        """Process ids by name (`sampler`, `server`)."""
        assert self.process is not None
        out = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                out[Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("tg-")] = int(pid)
        return out

    def kill(self, name: str) -> None:
        """SIGKILL for `sampler`, `server` or `parent`. The parent is started again, as a service manager does."""
        assert self.process is not None
        if name == "parent":
            children = self.children()
            self.process.kill()
            self.process.wait()
            eventually(
                lambda: not any(Path(f"/proc/{p}").exists() for p in children.values()), 10, "children outlive the parent"
            )
            self.start()
        else:
            pid = eventually(lambda: self.children().get(name), 20, f"there is no process {name}")
            os.kill(pid, signal.SIGKILL)

    def get(self, path: str, method: str = "GET") -> bytes:
        connection = _UnixConnection(self.state / "tidegauge.sock")
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (response.status, body)
            return body

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.get("/api/v1/status"))
        return status

    def account(self, sink: str) -> dict[str, Any]:
        """The sink's account, checked: it adds up."""
        account: dict[str, Any] = self.status()["sinks"][sink]
        parts = ("written", "filtered", "dead_letter", "pending")
        assert account["accepted"] == sum(account[k] for k in parts) + sum(account["dropped"].values()), account
        return account

    def drained(self, sink: str, timeout_s: float = 60.0) -> None:
        """Waits until the sink has all that the log held when this was called."""
        accepted = self.status()["log"]["accepted"]

        def is_drained() -> bool:
            account = self.account(sink)
            return bool(account["accepted"] >= accepted and account["accepted"] - account["pending"] >= accepted)

        eventually(is_drained, timeout_s, f"{sink} did not drain")

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def database(self) -> Path:
        return self.state / "server" / "tidegauge.db"

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute(query, parameters).fetchall()

    def __enter__(self) -> "Program":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
            finally:
                self.process = None


_CONTROLLERS = ("cpu", "cpuacct", "memory", "blkio", "pids")


@contextlib.contextmanager
def real_cgroups(parent: str, names: tuple[str, ...]) -> Iterator[dict[str, Path]]:
    """Cgroups below PARENT with a process in each that works a little every 50 ms; v1 and v2. Gives name -> cpu directory."""
    root = Path("/sys/fs/cgroup")
    roots = [root] if (root / "cgroup.controllers").exists() else [p for c in _CONTROLLERS if (p := root / c).is_dir()]
    made: list[Path] = []
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for base in roots:
            for name in ("", *names):
                folder = base / parent / name
                folder.mkdir(exist_ok=True)
                made.append(folder)
        work = "while :; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; sleep 0.05; done"
        for name in names:
            process = subprocess.Popen(["sh", "-c", work])
            processes.append(process)
            for base in roots:
                (base / parent / name / "cgroup.procs").write_text(str(process.pid))
        usage = next((b for b in roots if b.name == "cpuacct"), roots[0])
        yield {name: usage / parent / name for name in names}
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for folder in reversed(made):
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)


SEQUENCE_PLUGIN = '''
"""A collector that numbers its readings and writes each number down before it gives it away."""
import os
import msgspec
from pathlib import Path
from tidegauge.pipeline.records import Kind, Metric

class SequenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    folder: Path = Path(os.environ["E2E_SEQUENCE_FOLDER"])

class SequenceReader:
    def __init__(self, path):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._fd).st_size
        self._number = int(os.pread(self._fd, 20, size - 21)) if size else 0
    def read(self):
        self._number += 1
        os.write(self._fd, b"%020d\\n" % self._number)
        return (self._number,)
    def close(self):
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

class SequenceCollector:
    Config = SequenceConfig
    metrics = ("e2e_sequence",)
    fragment = (Metric("e2e_sequence", Kind.COUNTER, "count", "custom", "Number of the reading."),)
    def __init__(self, config):
        self._folder = config.folder
    def reader(self, container):
        if not (container.is_host or "tg-e2e" in container.path):
            return None
        return SequenceReader(self._folder / (container.path.strip("/").replace("/", "_") or "host"))
'''


def install_sequence_plugin(folder: Path) -> dict[str, str]:
    """Puts the plug-in where a Python path finds it with its entry point; gives the environment that does so."""
    package = folder / "plugin"
    info = package / "e2e_sequence-1.0.dist-info"
    info.mkdir(parents=True)
    numbers = folder / "numbers"
    numbers.mkdir()
    (package / "e2e_sequence.py").write_text(SEQUENCE_PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: e2e-sequence\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tidegauge.collectors]\nsequence = e2e_sequence:SequenceCollector\n")
    return {"PYTHONPATH": str(package), "E2E_SEQUENCE_FOLDER": str(numbers)}


def handed_out(folder: Path) -> dict[str, list[int]]:
    """Numbers that the plug-in gave away, by container."""
    return {p.name: [int(line) for line in p.read_text().splitlines()] for p in (folder / "numbers").iterdir()}
