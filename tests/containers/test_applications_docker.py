"""Metrics of applications in real containers: announced by label, asked at their own address, stored with their types."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.program import Program, eventually
from tests.support import need

docker = pytest.importorskip("docker")
pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.e2e, pytest.mark.timeout(600)]

IMAGE = "tidegauge-test-application:1"
LABEL = "io.cadvisor.metric.prometheus"
WAIT_S = 90.0
METRICS = b"""# TYPE hits counter
hits{page="/"} 3
hits{page="/a\\"b"} 4
# TYPE temperature gauge
temperature -1.5
# TYPE latency_seconds histogram
latency_seconds_bucket{le="0.5"} 1
latency_seconds_bucket{le="+Inf"} 2
latency_seconds_sum 1.25
latency_seconds_count 2
"""
EXPECTED = {
    ('hits{page="/"}', 3.0, None, None),
    (r'hits{page="/a\"b"}', 4.0, None, None),
    ("temperature", None, -1.5, None),
    ('latency_seconds_bucket{le="0.5"}', None, None, 1.0),
    ('latency_seconds_bucket{le="+Inf"}', None, None, 2.0),
    ("latency_seconds_sum", None, None, 1.25),
    ("latency_seconds_count", None, None, 2.0),
}
STATUS = b"Active connections: 17\nload 0.5\n"


def _config(endpoint: Any, **more: Any) -> bytes:
    return json.dumps({"endpoint": endpoint, "polling_frequency": 1_000_000_000, **more}).encode()


FILES = {
    "www/metrics": METRICS,
    "www/status": STATUS,
    "app/prometheus.json": _config("http://localhost:8000/metrics"),
    "app/generic.json": json.dumps(
        {
            "endpoint": {"protocol": "http", "port": 8000, "path": "/status"},
            "metrics_config": [
                {"name": "connections", "metric_type": "gauge", "data_type": "int", "regex": r"connections: (\d+)"},
                {"name": "load", "metric_type": "gauge", "data_type": "float", "regex": r"load (\S+)"},
            ],
        }
    ).encode(),
    "app/metadata.json": _config("http://169.254.169.254/latest/meta-data"),
    "app/host.json": _config("http://198.18.201.1:8000/metrics"),
    "app/large.json": b" " * 65 * 1024,
}
LINKS = {
    "app/absolute.json": "/etc/hostname-of-the-host",
    "app/out.json": "../../../../../../etc/os-release",
    "app/kernel": "/proc/1/root/app/prometheus.json",
}


@pytest.fixture(scope="module")
def image(client: Any) -> str:
    """busybox with a web server, the files above, and what nobody ought to open."""
    need(Path("/bin/busybox").exists(), "busybox-static is not installed")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (*LINKS.items(), ("bin/sh", "busybox")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        fifo = tarfile.TarInfo("app/fifo.json")
        fifo.type = tarfile.FIFOTYPE
        tar.addfile(fifo)
    repository, _, tag = IMAGE.partition(":")
    client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    return IMAGE


class Shop:
    """Containers of the image, removed at the end."""

    def __init__(self, client: Any, image: str) -> None:
        self._client = client
        self._image = image
        self._made: list[Any] = []

    def open(
        self, name: str, labels: dict[str, str], command: str = "exec /bin/busybox httpd -f -p 8000 -h /www", **options: Any
    ) -> Any:
        made = self._client.containers.run(
            self._image, ["/bin/sh", "-c", command], detach=True, name=name, labels=labels, stop_signal="KILL", **options
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in list(self._made):
            self.shut(made)

    def shut(self, made: Any) -> None:
        """Removes a container; one that is being removed already is let go."""
        self._made.remove(made)
        try:
            made.remove(force=True)
        except docker.errors.APIError as exc:
            if exc.status_code not in (404, 409):
                raise


@pytest.fixture
def shop(client: Any, image: str) -> Iterator[Shop]:
    made = Shop(client, image)
    yield made
    made.close()


@pytest.fixture
def program(engine: str, tmp_path: Path) -> Iterator[Program]:
    socket = engine.removeprefix("unix://")
    config = (
        f'[metrics]\nenable = ["app"]\n[collectors.app]\ncontainers = ["app-*"]\n[runtimes.docker]\nsockets = ["{socket}"]\n'
    )
    with Program(tmp_path, config) as made:
        yield made


REFUSED: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("/app/absolute.json", "", "No such file", {}),
    ("/app/out.json", "", "No such file", {}),
    ("/app/kernel", "", "symbolic links", {}),
    ("/app/fifo.json", "", "no regular file", {}),
    ("/dev/zero", "", "no regular file", {}),
    ("/app/large.json", "", "longer than 65536 bytes", {}),
    ("/app/metadata.json", "", "another address than the container's own", {}),
    ("/app/host.json", "", "another address than the container's own", {}),
    ("/app/prometheus.json", "sleep 1000", "cannot be reached", {}),
    ("/app/prometheus.json", "nc -l -p 8000 </dev/zero", "no HTTP", {}),
    ("/app/prometheus.json", "", "no network of its own", {"network_mode": "host"}),
)
"""Configuration file, what busybox runs unless it sleeps, the reason that is told, options of the container."""
COLUMNS = "series, app_counter, app_gauge, app_histogram"


def stored(program: Program, container: Any, columns: str = COLUMNS) -> set[tuple[Any, ...]]:
    return set(
        program.sql(
            f"SELECT {columns} FROM app JOIN container ON container.id = app.container WHERE path LIKE ?", f"%{container.id}"
        )
    )


def test_values_come_with_their_types_and_after_a_restart_too(program: Program, shop: Shop) -> None:
    web = shop.open("app-web", {LABEL: "/app/prometheus.json", "io.cadvisor.metric.web": "/app/generic.json"})
    not_allowed = shop.open("other", {LABEL: "/app/prometheus.json"})
    eventually(lambda: len(stored(program, web)) >= len(EXPECTED) + 2, WAIT_S, "no values")
    rows = stored(program, web, f"{COLUMNS}, app_integer_gauge")
    assert {row[:4] for row in rows if row[0] not in ("connections", "load")} == EXPECTED
    assert {row for row in rows if row[0] in ("connections", "load")} == {
        ("connections", None, None, None, 17),
        ("load", None, 0.5, None, None),
    }
    times = "SELECT count(DISTINCT ts_ms) FROM app JOIN container c ON c.id = app.container WHERE path LIKE ? AND instance != ?"
    eventually(lambda: program.sql(times, f"%{web.id}", "")[0][0] >= 3, WAIT_S, "it is asked once only")
    (instance,) = program.sql("SELECT DISTINCT instance FROM container WHERE path LIKE ?", f"%{web.id}")[0]
    web.restart(timeout=0)
    eventually(lambda: program.sql(times, f"%{web.id}", instance)[0][0] >= 1, WAIT_S, "no values after the restart")
    assert stored(program, not_allowed) == set()
    kinds = program.sql("SELECT name, kind FROM metric WHERE name IN ('app_counter', 'app_gauge', 'app_histogram')")
    assert dict(kinds) == {"app_counter": "counter", "app_gauge": "gauge", "app_histogram": "counter"}


def test_what_is_refused_says_why_and_leaves_the_others_alone(program: Program, shop: Shop) -> None:
    web = shop.open("app-web", {LABEL: "/app/prometheus.json"})
    times = "SELECT count(DISTINCT ts_ms) FROM app"
    eventually(lambda: program.sql(times)[0][0] >= 1, WAIT_S, "no values")
    for number, (file, command, why, options) in enumerate(REFUSED):
        evil = shop.open(f"app-evil-{number}", {LABEL: file}, f"exec /bin/busybox {command or 'sleep 1000'}", **options)

        def is_told(why: str = why, id_: str = evil.id) -> bool:
            said = str(program.status()["sampler"]["collector_faults"].get("app"))
            return why in said and id_ in said

        eventually(is_told, WAIT_S, f"{file}: not refused as {why}")
        shop.shut(evil)
        assert stored(program, evil) == set()
    before = program.sql(times)[0][0]
    eventually(lambda: program.sql(times)[0][0] > before, WAIT_S, "the one that works is held up")
    assert {row[0] for row in stored(program, web)} == {row[0] for row in EXPECTED}
