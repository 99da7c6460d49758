"""Docker's and Podman's answers, recorded ones and bad ones, and the socket that they come through."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.collectors.runtimes.engine_server import EngineServer
from tests.support import descriptors_beyond_1023, eventually

from tidegauge.collectors.runtimes._engine import parse_event, parse_inspect, parse_list, time_ms
from tidegauge.collectors.runtimes.docker import DockerConfig, DockerRuntime
from tidegauge.collectors.runtimes.podman import PodmanConfig, PodmanRuntime
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import Metadata, RuntimeNews, RuntimeRef

ID = "c064fbca9d9de8dd9bb0624984403b28d0da807a69365d4f7fb09123ecb0c405"
REF = RuntimeRef("docker", ID)
TEAM = {"com.example.team": "metrics", "org.example.src": "busybox-static"}


@pytest.fixture
def recorded(recorded_tree: Callable[[str], Path]) -> Path:
    return recorded_tree("runtimes")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EngineServer]:
    made = EngineServer(tmp_path / "docker.sock").start()
    yield made
    made.stop()


def _docker(server: EngineServer, timeout_s: float = 5.0) -> DockerRuntime:
    return DockerRuntime(DockerConfig(sockets=(str(server.path),), timeout_s=timeout_s))


def _said(recorded: Path, name: str) -> Metadata:
    return parse_inspect((recorded / "docker" / f"inspect-{name}.json").read_bytes(), "docker")


def test_a_recorded_docker_container(recorded: Path) -> None:
    assert _said(recorded, "ts-unhealthy") == Metadata(
        name="ts-unhealthy",
        aliases=("ts-unhealthy", "0aa6c25f66902aef153cc611f10b0590443242b50f90db80f4d65f2efc79715c"),
        namespace="docker",
        image="busybox:local",
        labels=TEAM,
        environment={"PATH": "/bin"},
        created_ms=1795432562960,
        started_ms=1795432563285,
        restart_count=0,
        health="unhealthy",
        exit_code=None,
        pid=26984,
        network="own",
    )


def test_a_recorded_podman_container(recorded: Path) -> None:
    said = parse_inspect((recorded / "podman" / "inspect-p1.json").read_bytes(), "podman")
    assert (said.name, said.namespace, said.image) == ("p1", "podman", "localhost/busybox:local")
    assert said.labels == {"com.example.role": "pod"}
    assert (said.started_ms, said.restart_count, said.health, said.network, said.pid) == (1795434522523, 0, None, "own", 4726)


@pytest.mark.parametrize(
    ("name", "network", "addresses"),
    [
        ("ts-web", "own", ("172.30.1.2",)),
        ("ts-cpu", "own", ("172.30.0.4",)),
        ("ts-hostnet", "host", ()),
        ("ts-sidecar", "container:9ffe89d709968054fe5f79f07714d2e83d8b403ea513a258cf7f6ae1063b4276", ()),
        ("ts-unhealthy", "own", ()),
    ],
)
def test_whose_network_it_is(recorded: Path, name: str, network: str, addresses: tuple[str, ...]) -> None:
    assert (_said(recorded, name).network, _said(recorded, name).addresses) == (network, addresses)


def test_restarts_and_exit_codes(recorded: Path) -> None:
    restarted, killed = _said(recorded, "ts-restart"), _said(recorded, "ts-oom")
    assert (restarted.is_running, restarted.restart_count, restarted.exit_code) == (False, 3, 3)
    assert (killed.is_running, killed.restart_count, killed.exit_code) == (False, 0, 137)
    assert _said(recorded, "ts-web").exit_code is None


def test_one_between_two_runs_has_the_exit_code_of_the_last() -> None:
    raw = {
        "Id": ID,
        "Name": "/x",
        "State": {"Running": True, "Restarting": True, "ExitCode": 3, "StartedAt": "0001-01-01T00:00:00Z"},
    }
    said = parse_inspect(json.dumps(raw).encode(), "docker")
    assert (said.is_running, said.exit_code, said.started_ms) == (False, 3, None)


def test_a_container_of_kubernetes_names_its_pod() -> None:
    labels = {
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "u-1",
        "annotation.io.kubernetes.container.restartCount": "4",
    }
    raw = {"Id": ID, "Name": "/k8s_app_web-0", "RestartCount": 0, "Config": {"Labels": labels}}
    said = parse_inspect(json.dumps(raw).encode(), "docker")
    assert (said.pod, said.pod_namespace, said.pod_uid, said.restart_count) == ("web-0", "shop", "u-1", 4)


def test_null_where_an_object_is_usual() -> None:
    raw = {
        "Id": ID,
        "Name": "/x",
        "State": {"Health": None},
        "Config": {"Labels": None, "Env": None},
        "NetworkSettings": {"Networks": None},
    }
    said = parse_inspect(json.dumps(raw).encode(), "podman")
    assert (said.name, said.labels, said.addresses) == ("x", {}, ())


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-23T11:16:03.285493185Z", 1795432563285),
        ("2026-11-23T12:16:03.285493185+01:00", 1795432563285),
        ("2026-11-23T11:16:03Z", 1795432563000),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("", None),
        ("soon", None),
    ],
)
def test_times(text: str, ms: int | None) -> None:
    assert time_ms(text) == ms


def test_a_list_differs_when_inspect_would(recorded: Path) -> None:
    raw = (recorded / "docker" / "list.json").read_bytes()
    before = parse_list(raw)
    assert len(before) > 8
    assert parse_list(raw.replace(b"Up 2 minutes", b"Up 3 minutes")) == before
    after = parse_list(raw.replace(b"(unhealthy)", b"(healthy)").replace(b'"/ts-io"', b'"/io"'))
    assert sum(after[id_] != print_ for id_, print_ in before.items()) == 2
    assert len(parse_list((recorded / "podman" / "list.json").read_bytes())) == 3


def test_events(recorded: Path) -> None:
    noise = (recorded / "docker" / "events.jsonl").read_bytes().splitlines()
    assert len(noise) > 20
    assert {parse_event(line) for line in noise} == {None}

    told = [parse_event(line) for line in (recorded / "podman" / "events.jsonl").read_bytes().splitlines()]
    assert [n and (n.kind, n.exit_code) for n in told if n] == [
        ("changed", None),
        ("exited", 137),
        ("changed", None),
        ("changed", None),
    ]

    def news(action: str, **attributes: str) -> RuntimeNews | None:
        return parse_event(json.dumps({"Action": action, "Actor": {"ID": ID, "Attributes": attributes}}).encode())

    assert news("die", exitCode="137") == RuntimeNews("exited", ID, 137)
    assert news("died", containerExitCode="3") == RuntimeNews("exited", ID, 3)
    assert news("die") == RuntimeNews("exited", ID, None)
    assert {news("start"), news("rename", oldName="/a"), news("health_status: healthy")} == {RuntimeNews("changed", ID)}
    assert news("top") is None


# The socket.


def test_it_asks_and_is_told(server: EngineServer) -> None:
    server.has(ID, "web")
    said = _docker(server).describe(REF)
    assert said is not None
    assert (said.name, said.image) == ("web", "busybox:1")
    assert server.targets == [f"/containers/{ID}/json"]


def test_one_that_is_not_known_is_none(server: EngineServer) -> None:
    assert _docker(server).describe(REF) is None


def test_nobody_there_is_no_data(tmp_path: Path, server: EngineServer) -> None:
    docker = _docker(server)
    server.stop()
    with pytest.raises(NoData):  # the file is there and refuses
        docker.describe(REF)
    for pattern in ("none.sock", "*/docker.sock"):
        with pytest.raises(NoData):
            DockerRuntime(DockerConfig(sockets=(str(tmp_path / pattern),))).survey()
        with pytest.raises(NoData):
            DockerRuntime(DockerConfig(sockets=(str(tmp_path / pattern),))).watch(lambda news: None, lambda: False)


def test_an_engine_that_hangs_costs_the_deadline_and_no_more(server: EngineServer) -> None:
    server.hangs = True
    begun_s = time.monotonic()
    with pytest.raises(CollectError, match="in time"):
        _docker(server, 0.05).describe(REF)
    assert time.monotonic() - begun_s >= 0.05
    with pytest.raises(CollectError, match="in time"):
        _docker(server, 0.05).watch(lambda news: None, lambda: False)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b'HTTP/1.0 500 Oops\r\n\r\n{"message":"no"}', "HTTP 500"),
        (b"HTTP/1.0 200 OK\r\n\r\nnonsense", "an answer that is none"),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", "an answer that is none"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"Id":"x","Name":"\\ud800"}', "an answer that is none"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"Id":"x","Name":"\xff"}', "an answer that is none"),
        (b"HTTP/1.0 200 OK", "no end of its head"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n", "chunked"),
        (b"", "no end of its head"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(server: EngineServer, says: bytes, why: str) -> None:
    server.says = says
    with pytest.raises(CollectError, match=why):
        _docker(server).describe(REF)


def test_an_answer_without_end_is_given_up(server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegauge.collectors.runtimes._engine.LIMIT_BYTES", 1000)
    server.says = b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000
    with pytest.raises(CollectError, match="more than 1000 bytes"):
        _docker(server).describe(REF)


def test_what_a_user_s_engine_may_send_is_bounded(tmp_path: Path) -> None:
    """Else one user could keep the program busy with nothing but answers and events."""
    (tmp_path / "run" / "user" / "1000").mkdir(parents=True)
    server = EngineServer(tmp_path / "run" / "user" / "1000" / "docker.sock").start()
    docker = DockerRuntime(DockerConfig(rootfs=tmp_path)).of_user(1000)
    told: list[RuntimeNews] = []
    thread = threading.Thread(target=docker.watch, args=(told.append, lambda: False))
    thread.start()
    try:
        eventually(lambda: server.followers)
        server.flood(10_000, "start", ID)
        eventually(lambda: told.count(RuntimeNews("changed", ID)) > 1)
        server.says = b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (3 << 20)
        with pytest.raises(CollectError, match="more than 2097152 bytes"):
            docker.describe(REF)
    finally:
        server.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert len(told) < 5000


def test_events_are_told_until_the_engine_goes(server: EngineServer) -> None:
    told: list[RuntimeNews] = []
    thread = threading.Thread(target=_docker(server).watch, args=(told.append, lambda: False))
    thread.start()
    eventually(lambda: told)
    eventually(lambda: server.followers)
    server.tell("exec_start: x", ID)
    server.tell("rename", ID)
    server.tell("die", ID, exitCode="7")
    eventually(lambda: len(told) == 3)
    server.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert told == [RuntimeNews("connected"), RuntimeNews("changed", ID), RuntimeNews("exited", ID, 7)]


def test_an_agent_with_very_many_open_files_hears_of_events_too(server: EngineServer) -> None:
    told: list[RuntimeNews] = []
    with descriptors_beyond_1023():
        thread = threading.Thread(target=_docker(server).watch, args=(told.append, lambda: len(told) > 1))
        thread.start()
        eventually(lambda: server.followers)
        server.tell("rename", ID)
        thread.join(20)
    assert not thread.is_alive()
    assert told == [RuntimeNews("connected"), RuntimeNews("changed", ID)]


def test_an_event_that_comes_together_with_the_head_is_not_kept_back(server: EngineServer) -> None:
    line = json.dumps({"Action": "start", "Actor": {"ID": ID}}).encode() + b"\n"
    server.says = b"HTTP/1.0 200 OK\r\n\r\n" + line + line[:10]
    told: list[RuntimeNews] = []
    _docker(server).watch(told.append, lambda: len(told) > 1)
    assert told == [RuntimeNews("connected"), RuntimeNews("changed", ID)]


def test_docker_is_asked_for_the_events_that_matter_alone(server: EngineServer) -> None:
    _docker(server).watch(lambda news: None, lambda: True)
    assert server.targets[0].startswith("/events?filters=")
    assert "health_status" in server.targets[0]
    assert "exec" not in server.targets[0]


def test_podman_has_a_socket_for_each_user(tmp_path: Path) -> None:
    servers = []
    for user in ("0", "1000", "1001"):
        (tmp_path / user).mkdir()
        servers.append(EngineServer(tmp_path / user / "podman.sock").start())
    servers[0].stop()
    servers[2].has(ID, "mine")
    podman = PodmanRuntime(PodmanConfig(sockets=(str(tmp_path / "*" / "podman.sock"),)))
    try:
        said = podman.describe(RuntimeRef("podman", ID))
        assert said is not None
        assert (said.name, said.namespace) == ("mine", "podman")
        assert set(podman.survey()) == {ID}
        told: list[RuntimeNews] = []
        thread = threading.Thread(target=podman.watch, args=(told.append, lambda: False))
        thread.start()
        eventually(lambda: servers[1].followers and servers[2].followers)
        servers[1].tell("start", "a")
        servers[2].tell("start", "b")
        eventually(lambda: len(told) == 3)
        assert set(told[1:]) == {RuntimeNews("changed", "a"), RuntimeNews("changed", "b")}
    finally:
        for server in servers:
            server.stop()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("is_there", [False, True])
def test_an_engine_that_comes_or_recovers_later_is_followed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    monkeypatch.setattr("tidegauge.collectors.runtimes._engine._LOOK_S", 0.01)
    monkeypatch.setattr("tidegauge.collectors.runtimes._engine._NEW_SOCKETS_S", 0.01)
    servers = [EngineServer(tmp_path / f"{n}.sock") for n in range(2)]
    servers[0].says = b"HTTP/1.0 500 Oops\r\n\r\n"
    if is_there:
        servers[0].start()
    servers[1].start()
    podman = PodmanRuntime(PodmanConfig(sockets=(str(tmp_path / "*.sock"),)))
    told: list[RuntimeNews] = []
    thread = threading.Thread(target=podman.watch, args=(told.append, lambda: False))
    thread.start()
    try:
        eventually(lambda: servers[1].followers)
        assert not servers[0].followers
        servers[0].says = None
        if not is_there:
            servers[0].start()
        eventually(lambda: servers[0].followers and len(told) == 2)
        assert told == [RuntimeNews("connected")] * 2  # what changed before it was followed has to be asked for
        servers[1].tell("start", "a")
        servers[0].tell("start", "b")
        eventually(lambda: set(told[2:]) == {RuntimeNews("changed", "a"), RuntimeNews("changed", "b")})
    finally:
        for server in servers:
            server.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_an_answer_about_another_container_is_none(server: EngineServer) -> None:
    server.has(ID, "web")
    server.containers[ID]["Id"] = ID.replace("c", "d")
    with pytest.raises(CollectError, match="about another one"):
        _docker(server).describe(REF)


def test_an_engine_in_trouble_does_not_hide_what_another_knows(tmp_path: Path) -> None:
    servers = [EngineServer(tmp_path / f"{n}.sock").start() for n in range(2)]
    servers[0].says = b"HTTP/1.0 500 Oops\r\n\r\n"
    servers[1].has(ID, "mine")
    podman = PodmanRuntime(PodmanConfig(sockets=(str(tmp_path / "*.sock"),)))
    try:
        assert podman.describe(RuntimeRef("podman", ID)) is not None
        with pytest.raises(CollectError, match="HTTP 500"):
            podman.describe(RuntimeRef("podman", ID.replace("c", "d")))
    finally:
        for server in servers:
            server.stop()


def test_the_socket_is_looked_for_below_the_host_s_root_first(tmp_path: Path) -> None:
    (tmp_path / "rootfs" / "run").mkdir(parents=True)
    server = EngineServer(tmp_path / "rootfs" / "run" / "docker.sock").start()
    server.stop()
    (tmp_path / "rootfs" / "var").mkdir()
    (tmp_path / "rootfs" / "var" / "run").symlink_to("/run")
    for patterns in (DockerConfig().sockets, ("/var/run/docker.sock",)):
        docker = DockerRuntime(DockerConfig(sockets=patterns, rootfs=tmp_path / "rootfs"))
        assert docker.sockets() == [server.path]
    mounted = EngineServer(tmp_path / "docker.sock").start()
    mounted.stop()
    docker = DockerRuntime(DockerConfig(sockets=(str(mounted.path),), rootfs=tmp_path / "rootfs"))
    assert docker.sockets() == [mounted.path]
