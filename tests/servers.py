"""Real stores as subprocesses of the tests: InfluxDB 1.x (`influxd`) and VictoriaMetrics, on free ports of 127.0.0.1.

Each server keeps its port and its folder over `stop`, `kill` and `start`, so that a test can take a store away and bring it
back. Both come from Debian's packages `influxdb` and `victoria-metrics`; `need_influxd` and `need_victoria_metrics` skip the
test where they are missing.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

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
