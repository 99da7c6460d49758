"""The client asks a running tidegauge, over TCP and over the Unix socket, about real cgroups."""

import os
import re
import threading
from collections.abc import Iterator

import psutil
import pytest
from tests.e2e.program import Program, eventually, real_cgroups
from tests.support import need

from tidegauge.client import (
    Client,
    ClientError,
    ContainerInfoQuery,
    Event,
    EventQuery,
    HttpError,
    Missed,
    RecordedEvent,
    RecordedEventQuery,
)

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

PARENT = f"tg-client-{os.getpid()}"
ONE = f"/{PARENT}/one"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    need(os.geteuid() == 0, "root, to make cgroups")
    need(os.access("/sys/fs/cgroup", os.W_OK), "a writable cgroup hierarchy")
    with (
        real_cgroups(PARENT, ("one", "two")),
        Program(tmp_path_factory.mktemp("live"), '[http]\nlisten = "127.0.0.1:0"\n') as running,
    ):
        yield running


@pytest.fixture
def local(program: Program) -> Iterator[Client]:
    with Client(unix_socket=program.state / "tidegauge.sock", timeout_s=60) as client:
        yield _ready(client)


@pytest.fixture
def remote(program: Program) -> Iterator[Client]:
    found = eventually(lambda: re.findall(r"http://127\.0\.0\.1:\d+", program.text()), 30, "no address in the log")
    with Client(found[0], timeout_s=60) as client:
        yield _ready(client)


def _ready(client: Client) -> Client:
    def has_begun() -> bool:
        """Samples come at once; limits and the machine when slow readers had their turn."""
        try:
            info = client.container_info(ONE)
            is_machine_known = client.machine_info().num_cores > 0
        except ClientError:
            return False
        return len(info.stats) >= 3 and info.spec.has_cpu and is_machine_known

    eventually(has_begun, 120, f"{ONE} and the machine are not known")
    return client


@pytest.mark.parametrize("way", ["local", "remote"])
def test_v1(way: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(way)
    machine = client.machine_info()
    assert machine.num_cores == psutil.cpu_count()
    assert machine.memory_capacity == psutil.virtual_memory().total
    info = client.container_info(ONE, ContainerInfoQuery(num_stats=2))
    assert info.name == ONE
    earlier, later = info.stats
    assert earlier.timestamp < later.timestamp
    assert 0 < earlier.cpu.usage.total <= later.cpu.usage.total
    assert later.memory.usage > 0
    assert info.spec.has_cpu
    assert info.spec.creation_time is not None
    below = client.subcontainers_info(f"/{PARENT}", ContainerInfoQuery(num_stats=1))
    assert [c.name for c in below] == [f"/{PARENT}", ONE, f"/{PARENT}/two"]
    assert "/" + PARENT in [c.name for c in client.container_info("/", ContainerInfoQuery(num_stats=0)).subcontainers]
    assert isinstance(client.all_docker_containers(), list)
    with pytest.raises(HttpError, match="unknown container") as caught:
        client.container_info("/no/such")
    assert caught.value.status == 404
    with pytest.raises(HttpError, match="unable to find") as caught:
        client.docker_container("no-such-container")
    assert caught.value.status == 404


@pytest.mark.parametrize("way", ["local", "remote"])
def test_v2(way: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(way)
    assert client.v2.version() == client.tidegauge.status().version != ""
    assert client.v2.attributes().kernel_version == os.uname().release
    assert client.v2.machine_info().num_cores == psutil.cpu_count()
    found = client.v2.stats(f"/{PARENT}", count=2, recursive=True)
    assert found.keys() == {f"/{PARENT}", ONE, f"/{PARENT}/two"}
    assert found[ONE].spec.has_memory
    last = found[ONE].stats[-1]
    assert last.cpu is not None
    assert last.cpu.usage.total > 0
    [deprecated] = client.v2.deprecated_stats(ONE, count=1)[ONE]
    assert deprecated.has_cpu
    assert client.v2.machine_stats(count=1)[0].cpu is not None
    assert client.v2.spec(ONE)[ONE].has_cpu
    assert client.v2.summary(ONE).keys() == {ONE}
    assert client.v2.app_metrics(ONE) == {ONE: {}}
    assert all(fs.capacity >= fs.usage >= 0 for fs in client.v2.storage())
    with pytest.raises(HttpError, match="unable to find container"):
        client.v2.stats("no-such-container", named="podman")


def test_processes_where_they_may_be_seen(local: Client, remote: Client) -> None:
    # the shell, and now and then its sleep
    assert {"sh"} <= {p.cmd for p in local.v2.ps(ONE)} <= {"sh", "sleep"}
    own = local.tidegauge.processes(ONE)
    assert own.path == ONE
    shell = next(p for p in own.processes if p.command == "sh")
    assert shell.command_line is not None
    assert shell.command_line[:2] == ("sh", "-c")
    for ask in (lambda: remote.v2.ps(ONE), lambda: remote.tidegauge.processes(ONE)):
        with pytest.raises(HttpError) as caught:
            ask()
        assert caught.value.status == 403


def test_status(local: Client) -> None:
    status = local.tidegauge.status()
    assert status.log is not None
    assert status.containers >= 4
    memory = status.sinks["memory"]
    parts = memory.written + memory.filtered + memory.dead_letter + memory.pending + sum(memory.dropped.values())
    assert memory.accepted == parts


@pytest.mark.parametrize("way", ["local", "remote"])
def test_events(way: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(way)
    name = f"{PARENT}-{way}"
    query = EventQuery(types=["containerCreation", "containerDeletion"])
    own = RecordedEventQuery(kinds=["creation", "deletion"], path=f"/{name}")
    with client.stream_events(query=query, idle_s=120) as stream, client.tidegauge.stream_events(own, idle_s=120) as recorded:
        with real_cgroups(name, ("it",)):
            told = _first(stream, f"/{name}/it", "containerCreation")
        assert told.timestamp < _first(stream, f"/{name}/it", "containerDeletion").timestamp
        kinds = []
        for event in recorded:
            assert isinstance(event, RecordedEvent | Missed)
            if isinstance(event, RecordedEvent) and event.path == f"/{name}/it":
                kinds.append(event.kind)
                if event.kind == "deletion":
                    break
    assert kinds == ["creation", "deletion"]
    kept = client.events(f"/{name}/it", query)
    assert [e.event_type for e in kept] == ["containerCreation", "containerDeletion"]
    assert kept[0] == told
    assert [e.kind for e in client.tidegauge.events(own) if e.path == f"/{name}/it"] == ["creation", "deletion"]


def _first(stream: "Iterator[Event]", name: str, type_: str) -> Event:
    return next(e for e in stream if e.container_name == name and e.event_type == type_)


def test_a_stream_outlives_the_server(local: Client, program: Program) -> None:
    name = f"{PARENT}-again"
    with local.stream_events(query=EventQuery(types=["containerCreation"]), reconnects=True) as stream:
        program.kill("server")
        found: list[Event] = []
        thread = threading.Thread(target=lambda: found.append(_first(stream, f"/{name}/it", "containerCreation")))
        thread.start()
        eventually(lambda: stream.connections > 1, 60, "the stream did not connect again")
        with real_cgroups(name, ("it",)):
            thread.join(60)
        assert not thread.is_alive()
    assert found[0].container_name == f"/{name}/it"
    _ready(local)
