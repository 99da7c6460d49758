"""Real stores as subprocesses of the tests: InfluxDB 1.x (`influxd`), VictoriaMetrics, PostgreSQL, on free ports of 127.0.0.1.

Each server keeps its port and its folder over `stop`, `kill` and `start`, so that a test can take a store away and bring it
back. They come from Debian's packages `influxdb`, `victoria-metrics` and `postgresql`; `need_influxd`, `need_victoria_metrics`
and `need_postgres` skip the test where they are missing.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import psutil
import psycopg
import urllib3
from tests.support import need

START_TIMEOUT_S = 30.0


def need_influxd() -> None:
    need(shutil.which("influxd"), "influxd (Debian package influxdb) is not installed")


def need_victoria_metrics() -> None:
    need(shutil.which("victoria-metrics"), "victoria-metrics (Debian package of that name) is not installed")


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listened a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class StoreServer:
    """A store in a process of its own; a context manager that starts and stops it."""

    scheme = "http"

    def __init__(self, folder: Path, ca_file: Path | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._http = urllib3.PoolManager(retries=False, ca_certs=str(ca_file) if ca_file else None, timeout=10.0)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def start(self) -> None:
        """Starts the process and returns when it answers /ping."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env={**os.environ, **self.environment()}, cwd=self.folder
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.kill()
            raise

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if self._http.request("GET", f"{self.url}/ping").status < 500:
                    return
            except urllib3.exceptions.HTTPError as exc:
                reason = str(exc)
            else:
                reason = "it answers with errors"
            if process.poll() is not None or time.monotonic() > end:
                text = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{process.args!r} did not come up: {reason}\n{text}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Asks it to end (SIGTERM) and waits; safe twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._http.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Influxd(StoreServer):
    """InfluxDB 1.x. `tls` is a file with certificate and key; `auth` turns authentication on (create the admin first)."""

    def __init__(self, folder: Path, *, tls: Path | None = None, auth: bool = False) -> None:
        super().__init__(folder, tls)
        self.scheme = "https" if tls else "http"
        self._tls = tls
        self._auth = auth

    def command(self) -> list[str]:
        config = self.folder / "influxdb.conf"
        config.write_text(
            f'reporting-enabled = false\nbind-address = "127.0.0.1:0"\n'
            f'[meta]\ndir = "{self.folder}/meta"\n[data]\ndir = "{self.folder}/data"\nwal-dir = "{self.folder}/wal"\n'
            f"[monitor]\nstore-enabled = false\n"
            f'[http]\nbind-address = "127.0.0.1:{self.port}"\nlog-enabled = false\n'
            f"auth-enabled = {str(self._auth).lower()}\n"
            + (f'https-enabled = true\nhttps-certificate = "{self._tls}"\n' if self._tls else "")
        )
        return ["influxd", "run", "-config", str(config)]

    def query(self, q: str, database: str = "", user: str = "", password: str = "") -> list[dict[str, Any]]:
        """Every row of every series of the answer as a mapping of columns and tags, `time` in ms UTC."""
        fields = {"q": q, "db": database, "epoch": "ms"}
        # Credentials count in the address only.
        credential = "?" + urlencode({"u": user, "p": password}) if user else ""
        answer = self._http.request("POST", f"{self.url}/query{credential}", fields=fields, encode_multipart=False)
        document = json.loads(answer.data)
        assert answer.status == 200, document
        rows: list[dict[str, Any]] = []
        for result in document["results"]:
            assert "error" not in result, result
            for series in result.get("series", ()):
                tags = series.get("tags", {})
                rows += [tags | dict(zip(series["columns"], values, strict=True)) for values in series["values"]]
        return rows


class VictoriaMetrics(StoreServer):
    """VictoriaMetrics, single node, with ten years of retention; equal points are one, as our documentation asks for."""

    def command(self) -> list[str]:
        return [
            "victoria-metrics",
            f"-storageDataPath={self.folder}/data",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-retentionPeriod=10y",
            "-dedup.minScrapeInterval=1ms",
            "-memory.allowedBytes=64MB",
        ]

    def export(self, match: str) -> list[dict[str, Any]]:
        """Series that match, each with `metric` (labels and `__name__`), `values` and `timestamps` (ms UTC)."""
        self._http.request("GET", f"{self.url}/internal/force_flush")
        # Without an end, the export stops at the second that has just passed.
        fields = {"match[]": match, "start": "0", "end": str(int(time.time()) + 86400)}
        answer = self._http.request("GET", f"{self.url}/api/v1/export", fields=fields)
        assert answer.status == 200, answer.data
        return [json.loads(line) for line in answer.data.splitlines()]


_POSTGRES_USERS = ("postgres", "nobody")


def _postgres_folder() -> Path | None:
    """Where initdb and postgres of version 15 or newer are: the newest of Debian's folders. None if there is none."""
    versions = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if p.parent.name.isdigit() and (p / "initdb").exists()]
    newest = max(versions, key=lambda p: int(p.parent.name), default=None)
    return newest if newest is not None and int(newest.parent.name) >= 15 else None


def need_postgres() -> None:
    need(_postgres_folder(), "PostgreSQL 15 or newer (Debian package postgresql) is not installed")


class PostgresServer:
    """PostgreSQL with a superuser `postgres`, in a temporary folder of its own, which `close` removes.

    It refuses to run as root: then it runs as `postgres` or `nobody`, and the folder is theirs. Over TCP everybody needs a
    password. Words are ordered as in a dictionary, as in most installations and unlike in SQLite. Nothing is synced, since
    what the kernel has survives a killed process; `options` are further settings, `{"max_connections": 3}`.
    """

    password = "secret-word"
    """Of the superuser and of every role that `role` makes."""

    def __init__(self, **options: object) -> None:
        binaries = _postgres_folder()
        assert binaries is not None, "call need_postgres() first"
        self._binaries = binaries
        self._user = next((u for u in _POSTGRES_USERS if _is_user(u)), None) if os.geteuid() == 0 else None
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="tidegauge-postgres-"))
        self.data = self.folder / "data"
        if self._user is not None:
            shutil.chown(self.folder, self._user)

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """For our sink: without a password unless one is given, since the sink takes none in its URL."""
        secret = "" if password is None else f":{password}"
        return f"postgresql+psycopg://{user}{secret}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """Of the running server; what it does for clients it does in children of it."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Returns when it takes connections; the first time a cluster is made."""
        if not self.data.exists():
            self._initialize()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": 30,
            "dynamic_shared_memory_type": "mmap",
            **self._options,
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, *arguments],
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                cwd=self.folder,
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.kill()
            raise

    def _initialize(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        arguments = ["-D", self.data, "-U", "postgres", f"--pwfile={secret}", "--no-sync", "--no-instructions", "-E", "UTF8"]
        arguments += ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        arguments += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        done = subprocess.run(
            [self._binaries / "initdb", *arguments],
            capture_output=True,
            text=True,
            check=False,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.sql("SELECT 1")
                return
            except psycopg.OperationalError as exc:
                if process.poll() is not None or time.monotonic() > end:
                    raise AssertionError(f"PostgreSQL did not come up: {exc}\n{self.log()[-2000:]}") from exc
            time.sleep(0.05)

    def log(self) -> str:
        """What the server has written so far."""
        return (self.folder / "server.log").read_text(errors="replace")

    def sql(self, statement: str, *arguments: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Rows of a statement of the superuser, through a connection of its own, outside of a transaction."""
        with psycopg.connect(host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True) as conn:
            cursor = conn.execute(statement, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str, owner: str = "postgres") -> str:
        """Makes a database; its URL for its owner, without a password."""
        self.sql(f'CREATE DATABASE "{name}" OWNER "{owner}"')
        return self.url(name, owner)

    def role(self, name: str, attributes: str = "") -> str:
        """Makes a role that may log in with `password`; its name."""
        self.sql(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{self.password}' {attributes}")
        return name

    def disconnect(self, database: str) -> None:
        """Ends every connection to the database, as an administrator or a network does."""
        self.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", database)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Every process of it stands still meanwhile; the kernel goes on to take connections and what is sent over them."""
        parent = psutil.Process(self.pid)
        parent.suspend()
        children = parent.children(recursive=True)
        try:
            for child in children:
                child.suspend()
            yield
        finally:
            for process in (*children, parent):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def stop(self) -> None:
        """Ends it without waiting for its clients; safe twice."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends every process of it as a power cut would, except that the kernel still writes what it was given."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # A server does not start again while backends of the one before still have its shared memory.
        try:
            backends = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            backends = []
        process.send_signal(number)
        if number == signal.SIGKILL:
            for backend in backends:
                with contextlib.suppress(psutil.NoSuchProcess):
                    backend.kill()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end = time.monotonic() + 20
        while any(map(_is_alive, backends)) and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        """Kills it and removes its folder; safe twice."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
