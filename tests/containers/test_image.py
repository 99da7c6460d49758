"""The image: built from the Dockerfile, never privileged, and yet it samples the machine and the containers beside it."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.containers.agent import wait_until_well

from tidegauge.pipeline.catalogue import METRICS

pytestmark = [pytest.mark.integration, pytest.mark.docker]
NO_RIGHTS: dict[str, Any] = {"network_mode": "none", "read_only": True, "cap_drop": ["ALL"], "remove": True}


def sampled(database: Path) -> dict[str, int]:
    """Samples stored of each container, by path."""
    if not database.exists():
        return {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
        try:
            query = "SELECT path, count(*) FROM sample JOIN container ON container.id = sample.container GROUP BY path"
            return dict(connection.execute(query))
        except sqlite3.OperationalError:
            return {}  # not migrated yet


@pytest.mark.parametrize("user", ["root", "tidegauge"])
def test_starts_without_any_right(client: "docker.DockerClient", image: str, user: str) -> None:
    assert client.containers.run(image, "version", user=user, **NO_RIGHTS).startswith(b"tidegauge ")


def test_holds_the_wheel_of_this_source(client: "docker.DockerClient", image: str) -> None:
    code = "import tidegauge.pipeline.catalogue as c; print(c.__file__, len(c.METRICS))"
    path, count = (
        client.containers.run(image, ["-c", code], entrypoint="/opt/tidegauge/bin/python", **NO_RIGHTS).decode().split()
    )
    assert path.startswith("/opt/tidegauge/lib/python")
    assert int(count) == len(METRICS)


@pytest.fixture
def neighbour(client: "docker.DockerClient", image: str) -> Iterator[str]:
    """Id of a container that keeps a fifth of a CPU busy."""
    code = "while True: sum(range(10000))"
    busy = client.containers.run(
        image, ["-c", code], entrypoint="python3", detach=True, network_mode="none", nano_cpus=200_000_000
    )
    yield str(busy.id)
    busy.remove(force=True)


def test_samples_the_machine_from_inside(image: str, neighbour: str, tmp_path: Path) -> None:
    from testcontainers.core.container import DockerContainer  # reads the environment that `engine` sets

    state = tmp_path / "state"
    state.mkdir(mode=0o711)
    container = DockerContainer(image).with_exposed_ports(4194)
    container.with_kwargs(pid_mode="host", cgroupns="host", uts_mode="host")
    container.with_volume_mapping("/sys/fs/cgroup", "/sys/fs/cgroup", "ro")
    container.with_volume_mapping("/", "/rootfs", "ro")
    container.with_volume_mapping(str(state), "/var/lib/tidegauge", "rw")
    with container:
        wrapped = container.get_wrapped_container()
        wait_until_well(wrapped)
        end = time.monotonic() + 30
        while sum(n for path, n in sampled(state / "server" / "tidegauge.db").items() if neighbour in path) < 3:
            assert time.monotonic() < end, (sampled(state / "server" / "tidegauge.db"), wrapped.logs().decode())
            time.sleep(0.1)
        assert sampled(state / "server" / "tidegauge.db")["/"] >= 3
        assert wrapped.exec_run(["tidegauge", "status"]).exit_code == 0
        wrapped.stop(timeout=20)
        wrapped.reload()
        assert wrapped.attrs["State"]["ExitCode"] == 0, wrapped.logs().decode()
        assert not wrapped.attrs["HostConfig"]["Privileged"]
