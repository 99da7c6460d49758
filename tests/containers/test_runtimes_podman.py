"""Names from a real Podman over its Docker-compatible socket."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.containers.own_podman import IMAGE, OwnPodman
from tests.containers.watching import Watching, eventually

from tidegauge.pipeline.records import Event

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(300)]
SLEEP = ("sleep", "1000")


@pytest.fixture(scope="module")
def podman() -> Iterator[OwnPodman]:
    made = OwnPodman()
    try:
        yield made.serve()
    finally:
        made.remove()


@pytest.fixture
def watching(podman: OwnPodman) -> Iterator[Watching]:
    with Watching({"podman": {"sockets": [str(podman.socket)]}}, ["/libpod_parent/*"]) as made:
        yield made


def _inspect(podman: OwnPodman, id_: str) -> dict[str, Any]:
    inspected: dict[str, Any] = json.loads(podman.podman("inspect", id_))[0]
    return inspected


def _is_connected(watching: Watching) -> bool:
    return bool(watching.binder.counters()["runtime_connected"]["podman"])


def test_all_that_inspect_says(podman: OwnPodman, watching: Watching) -> None:
    labels = ("--label", "com.docker.compose.service=web", "--label", "private=x")
    id_ = podman.run("web", *SLEEP, options=labels)
    record = watching.named(id_)
    assert (record.name, record.namespace, record.runtime, record.container_id) == ("web", "podman", "podman", id_)
    assert (record.aliases, record.image) == (("web", id_), IMAGE)
    assert (record.labels, record.network, record.health) == ({"com.docker.compose.service": "web"}, "own", None)
    assert record.path == f"/libpod_parent/libpod-{id_}"
    said = watching.binder.metadata(record.instance)
    assert said is not None
    assert said.pid == _inspect(podman, id_)["State"]["Pid"]
    assert watching.samples(record)


def test_networks_and_pods(podman: OwnPodman, watching: Watching) -> None:
    owner = podman.run("owner", *SLEEP)
    guest = podman.run("guest", *SLEEP, options=("--network", f"container:{owner}"))
    host = podman.run("host", *SLEEP, options=("--network", "host"))
    assert [watching.named(c).network for c in (owner, guest, host)] == ["own", f"container:{owner}", "host"]
    pod = podman.podman("pod", "create", "--infra=false", "--name", "pod")
    inside = podman.run("inside", *SLEEP, options=("--pod", pod))
    record = watching.named(inside, name="inside")
    assert (record.pod, record.pod_uid) == ("pod", pod)


def test_rename_and_exit_code(podman: OwnPodman, watching: Watching) -> None:
    id_ = podman.run("old", *SLEEP)
    first = watching.named(id_, name="old")
    eventually(lambda: _is_connected(watching))
    podman.podman("rename", "old", "new")
    second = watching.named(id_, name="new")
    assert second.instance == first.instance
    podman.podman("kill", "new")
    assert watching.deletion(second).details == {"path": second.path, "exit_code": 137}


def test_a_run_that_ends_by_itself(podman: OwnPodman, watching: Watching) -> None:
    id_ = podman.run("ends", "sh", "-c", "sleep 1; exit 3", options=("--rm",))
    assert watching.deletion(watching.named(id_)).details["exit_code"] == 3


def test_the_service_comes_later_and_comes_back(podman: OwnPodman) -> None:
    id_ = podman.run("early", *SLEEP)
    podman.kill()
    with Watching({"podman": {"sockets": [str(podman.socket)]}}, ["/libpod_parent/*"]) as watching:
        record = eventually(lambda: watching.newest(id_))
        eventually(lambda: watching.samples(record))
        assert (record.name, record.runtime, record.container_id) == (None, "podman", id_)
        podman.serve()
        watching.named(id_, name="early")
        eventually(lambda: _is_connected(watching))
        podman.kill()
        eventually(lambda: not _is_connected(watching))
        podman.podman("rename", "early", "late")
        podman.serve()
        assert watching.named(id_, name="late").instance == record.instance
        assert not [e for e in watching.of(Event) if e.kind == "deletion" and e.container == record.number]
