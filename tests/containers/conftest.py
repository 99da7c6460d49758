"""The engine and the image, made once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from tests.containers import engine as engines


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """URL of a Docker engine, also set for testcontainers."""
    with engines.engine() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", url)
        # no second image just to clean up; published ports are on the loopback address
        patch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
        patch.setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
        patch.setenv("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
        yield url


@pytest.fixture(scope="session")
def client(engine: str) -> Iterator["docker.DockerClient"]:
    made = docker.DockerClient(engine, timeout=300)
    yield made
    made.close()


@pytest.fixture(scope="session")
def image(client: "docker.DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our image, built from the Dockerfile without any network on a base made of the machine's own packages."""
    from testcontainers.core.image import DockerImage  # reads the environment that `engine` sets

    base = engines.make_base_image(client)
    command = "import sys; print('%d.%d' % sys.version_info[:2])"
    python_version = client.containers.run(base, ["python3", "-c", command], network_mode="none", remove=True).decode().strip()
    context = tmp_path_factory.mktemp("context")
    engines.copy_source(context)
    wheels = context / "wheels"
    wheels.mkdir()
    engines.download_wheels(wheels, python_version)
    arguments = {"BASE": base, "PIP_NO_INDEX": "1"}
    with DockerImage(context, tag="tidegauge:test", buildargs=arguments, network_mode="none", rm=True) as built:
        yield str(built)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o711)
    return folder
