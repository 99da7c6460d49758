"""The image: built from the Dockerfile, never privileged, and yet it samples the machine and the containers beside it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from tests.containers.agent import wait_until_well

from tidegauge.pipeline.catalogue import METRICS

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(900)]
NO_RIGHTS: dict[str, Any] = {"network_mode": "none", "read_only": True, "cap_drop": ["ALL"], "remove": True}
COUNT = """
import json, sqlite3
database = sqlite3.connect("file:/var/lib/tidegauge/server/tidegauge.db?mode=ro", uri=True)
query = "SELECT path, count(*) FROM sample JOIN container ON container.id = sample.container GROUP BY path"
print(json.dumps(dict(database.execute(query))))
"""


def sampled(container: Any) -> dict[str, int]:
    """Samples stored of each container, by path."""
    code, output = container.exec_run(["python3", "-c", COUNT])
    return {} if code else dict(json.loads(output))


def test_starts_without_any_right(client: "docker.DockerClient", image: str) -> None:
    assert client.containers.run(image, "version", **NO_RIGHTS).startswith(b"tidegauge ")
    identity = client.containers.run(image, "-u", entrypoint="id", **NO_RIGHTS)
    assert identity.strip() != b"0"


def test_holds_the_wheel_of_this_source(client: "docker.DockerClient", image: str) -> None:
    code = "import tidegauge.pipeline.catalogue as c; print(c.__file__, len(c.METRICS))"
    path, count = (
        client.containers.run(image, ["-c", code], entrypoint="/opt/tidegauge/bin/python", **NO_RIGHTS).decode().split()
    )
    assert path.startswith("/opt/tidegauge/lib/python")
    assert int(count) == len(METRICS)


def test_can_check_every_kind_of_password_file(client: "docker.DockerClient", image: str) -> None:
    code = "import bcrypt, passlib.hash; print('there')"
    assert client.containers.run(image, ["-c", code], entrypoint="/opt/tidegauge/bin/python", **NO_RIGHTS) == b"there\n"


@pytest.fixture
def neighbour(client: "docker.DockerClient", image: str) -> Iterator[str]:
    """Id of a container that keeps a fifth of a CPU busy."""
    code = "while True: sum(range(10000))"
    busy = client.containers.run(
        image, ["-c", code], entrypoint="python3", detach=True, network_mode="none", nano_cpus=200_000_000
    )
    yield str(busy.id)
    busy.remove(force=True)


def test_samples_the_machine_from_inside(image: str, neighbour: str) -> None:
    from testcontainers.core.container import DockerContainer  # reads the environment that `engine` sets

    container = DockerContainer(image).with_exposed_ports(4194)
    container.with_kwargs(pid_mode="host", cgroupns="host", uts_mode="host", cap_drop=["ALL"])
    container.with_volume_mapping("/sys/fs/cgroup", "/sys/fs/cgroup", "ro")
    container.with_volume_mapping("/", "/rootfs", "ro")
    with container:
        wrapped = container.get_wrapped_container()
        wait_until_well(wrapped)
        end = time.monotonic() + 30
        while sum(n for path, n in sampled(wrapped).items() if neighbour in path) < 3:
            assert time.monotonic() < end, (sampled(wrapped), wrapped.logs().decode())
            time.sleep(0.1)
        assert sampled(wrapped)["/"] >= 3
        assert wrapped.exec_run(["tidegauge", "status"]).exit_code == 0
        wrapped.stop(timeout=20)
        wrapped.reload()
        assert wrapped.attrs["State"]["ExitCode"] == 0, wrapped.logs().decode()
        assert not wrapped.attrs["HostConfig"]["Privileged"]
