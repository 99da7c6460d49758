"""Engines of users beside root's, on real sockets: they hang, fail and lie, and nobody but their owner notices."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.collectors.runtimes.engine_server import EngineServer
from tests.support import eventually

from tidegauge.collectors.runtimes.docker import DockerConfig, DockerRuntime
from tidegauge.collectors.runtimes.kubernetes import KubernetesConfig, KubernetesRuntime
from tidegauge.pipeline import runtime_asker, runtimes
from tidegauge.pipeline.naming import Parting
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.runtime_asker import user_of
from tidegauge.pipeline.runtimes import Binder

ALICE, BOB = 1000, 1001
POD = "1be2c244-a7b8-5bf9-21df-7bf52074492b"
_ADDRESSES = {"Networks": {"bridge": {"IPAddress": "10.1.2.3"}}}


def _id(n: int) -> str:
    return f"{n:064x}"


def _slice(user: int) -> str:
    return f"/user.slice/user-{user}.slice/user@{user}.service/app.slice"


def _container(n: int, user: int = 0) -> Container:
    path = f"{_slice(user)}/docker-{_id(n)}.scope" if user else f"/docker/{_id(n)}"
    return Container(1, "source", f"i{path}", 0, "boot", path, "host", 1, 1)


def _pods(user: int) -> tuple[str, str]:
    """The cgroup of root's pod, and of one of the same uid in a user's slice."""
    return f"/kubepods/pod{POD}", f"{_slice(user)}/kubepods/pod{POD}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_asker, "_UNKNOWN_S", (0.005, 0.02))
    monkeypatch.setattr(runtime_asker, "_ABSENT_S", (0.005, 0.02))
    monkeypatch.setattr(runtimes, "_ASK_AGAIN_S", 0.005)


class Bench:
    """A binder over root's engine and users'. A hanging one holds up whoever asks it for longer than any test waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: dict[int, EngineServer] = {}
        docker = DockerRuntime(DockerConfig(rootfs=folder, timeout_s=300))
        self.binder = Binder([("docker", docker), ("kubernetes", KubernetesRuntime(KubernetesConfig()))])
        self.bound: list[tuple[str, Mapping[str, Any]]] = []
        self.departed: dict[str, int | None] = {}
        self.binder.attach(lambda path, instance, fields: self.bound.append((instance, fields)), self.departed.__setitem__)
        self.binder.start()

    def engine(self, user: int = 0) -> EngineServer:
        folder = self.folder / "run" / "user" / str(user) if user else self.folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        self.servers[user] = made = EngineServer(folder / "docker.sock")
        return made.start()

    def of(self, record: Container, field: str = "name") -> Any:
        return next((fields.get(field) for instance, fields in reversed(self.bound) if instance == record.instance), None)

    def count(self, counter: str, asker: str = "docker") -> Any:
        return self.binder.counters()[counter].get(asker)

    def close(self) -> None:
        self.binder.stop()
        for server in self.servers.values():
            server.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("path", "user"),
    [
        ("/user.slice/user-1000.slice", 1000),
        (f"{_slice(1000)}/libpod-{_id(1)}.scope", 1000),
        ("/user.slice/user-0.slice/session-1.scope", 0),
        ("/user.slice", 0),
        (f"/docker/{_id(1)}/user.slice/user-1000.slice/x.service", 0),
        ("/user.slice/user-1000.slice.d", 0),
        ("/user.slice/user-1000x.slice/a", 0),
    ],
)
def test_whose_slice_a_path_lies_in(path: str, user: int) -> None:
    assert user_of(path) == user


def test_each_is_named_by_the_engine_of_his_own(bench: Bench) -> None:
    for user, name in ((0, "root"), (ALICE, "alice"), (BOB, "bob")):
        engine = bench.engine(user)
        for n in (0, ALICE, BOB):
            engine.has(_id(n), f"{name}-says-{n}")
    for user in (0, ALICE, BOB):
        bench.binder.appeared(_container(user, user))
    eventually(lambda: len(bench.bound) >= 3)
    assert [bench.of(_container(user, user)) for user in (0, ALICE, BOB)] == [
        "root-says-0",
        f"alice-says-{ALICE}",
        f"bob-says-{BOB}",
    ]
    assert not any(_id(ALICE) in t or _id(0) in t for t in bench.servers[BOB].targets)
    assert not any(_id(BOB) in t or _id(0) in t for t in bench.servers[ALICE].targets)


def test_one_that_never_answers_holds_up_its_owner_s_names_alone(bench: Bench) -> None:
    root, bob = bench.engine(), bench.engine(BOB)
    alice = bench.engine(ALICE)
    alice.hangs = True
    bench.binder.appeared(_container(9, ALICE))
    eventually(lambda: any("containers" in t for t in alice.targets) and any("events" in t for t in alice.targets))
    for n in range(1, 6):
        root.has(_id(n), f"c{n}")
        bench.binder.appeared(_container(n))
    bob.has(_id(7), "bobs")
    bench.binder.appeared(_container(7, BOB))
    eventually(lambda: all(bench.of(_container(n)) == f"c{n}" for n in range(1, 6)) and bench.of(_container(7, BOB)) == "bobs")
    eventually(lambda: bench.count("runtime_connected"))
    bench.binder.resync()  # waits for nobody's but root's
    assert bench.of(_container(9, ALICE)) is None


def test_one_that_fails_leaves_the_events_of_root_s_alone(bench: Bench) -> None:
    root, alice = bench.engine(), bench.engine(ALICE)
    alice.says = b"HTTP/1.0 500 Oops\r\n\r\n"
    root.has(_id(1), "web")
    bench.binder.appeared(_container(9, ALICE))
    bench.binder.appeared(_container(1))
    eventually(lambda: bench.of(_container(1)) and bench.count("runtime_connected") and root.followers)
    eventually(lambda: bench.count("runtime_errors", f"docker/{ALICE}"))
    root.has(_id(1), "shop")
    root.tell("rename", _id(1))
    eventually(lambda: bench.of(_container(1)) == "shop")
    assert bench.count("runtime_errors") == 0
    root.tell("die", _id(1), exitCode="3")
    bench.binder.gone(_container(1))
    eventually(lambda: bench.departed.get(_container(1).instance) == 3)


def test_a_liar_is_not_believed_about_others(bench: Bench) -> None:
    """Root's engine is down; a user's says that it has root's container and that it ended."""
    alice = bench.engine(ALICE)
    for n in (1, 9):
        alice.has(_id(n), f"mine-{n}", NetworkSettings=_ADDRESSES)
    for record in (_container(1), _container(1, BOB), _container(9, ALICE)):
        bench.binder.appeared(record)
    eventually(lambda: bench.of(_container(9, ALICE)) == "mine-9" and alice.followers)
    eventually(lambda: bench.count("runtime_connected", f"docker/{ALICE}"))
    for n in (1, 9):
        alice.tell("die", _id(n), exitCode="7")
    parting = bench.binder.gone(_container(9, ALICE))
    eventually(lambda: 7 in (parting.exit_code, bench.departed.get(_container(9, ALICE).instance)))
    eventually(lambda: bench.count("runtime_asks") >= 4)
    assert {instance for instance, _ in bench.bound} == {_container(9, ALICE).instance}
    assert bench.binder.metadata(_container(1).instance) is None
    assert bench.binder.gone(_container(1)) == Parting()
    assert not any(_id(1) in t for t in alice.targets)


def test_a_user_gives_no_addresses(bench: Bench) -> None:
    for user in (0, ALICE):
        bench.engine(user).has(_id(user), "web", NetworkSettings=_ADDRESSES)
        bench.binder.appeared(_container(user, user))
    eventually(lambda: bench.of(_container(0)) and bench.of(_container(ALICE, ALICE)))
    said = {user: bench.binder.metadata(_container(user, user).instance) for user in (0, ALICE)}
    assert [m.addresses for m in said.values() if m is not None] == [("10.1.2.3",), ()]


def test_a_cgroup_with_the_id_of_another_s_container_takes_no_exit_code_away(bench: Bench) -> None:
    root, alice = bench.engine(), bench.engine(ALICE)
    root.has(_id(1), "web")
    alice.has(_id(1), "fake")
    for record in (_container(1), _container(1, ALICE)):
        bench.binder.appeared(record)
    eventually(lambda: bench.of(_container(1)) == "web" and bench.of(_container(1, ALICE)) == "fake")
    eventually(lambda: bench.count("runtime_connected") and root.followers)
    root.tell("die", _id(1), exitCode="3")
    bench.binder.gone(_container(1))
    eventually(lambda: bench.departed.get(_container(1).instance) == 3)


def test_a_user_names_no_pod_but_of_his_own_slice(bench: Bench) -> None:
    labels = {
        "io.kubernetes.pod.uid": POD,
        "io.kubernetes.pod.name": "fake",
        "io.kubernetes.pod.namespace": "x",
    }
    alice = bench.engine(ALICE)
    alice.has(_id(9), "mine", Config={"Image": "i", "Labels": labels})
    of_root, own = (Container(1, "source", f"i{p}", 0, "boot", p, "host", 1, 1) for p in _pods(ALICE))
    bench.binder.appeared(of_root)
    bench.binder.appeared(own)
    bench.binder.appeared(_container(9, ALICE))
    eventually(lambda: bench.of(_container(9, ALICE)) == "mine")
    assert (bench.of(own), bench.of(of_root)) == ("fake", None)


def test_root_s_engine_may_know_what_lies_in_a_user_s_slice(bench: Bench) -> None:
    """As for a rootless tidegauge in a container, where the socket that was mounted for it looks like root's."""
    root = bench.engine()
    root.has(_id(9), "mounted")
    bench.binder.appeared(_container(9, ALICE))
    eventually(lambda: bench.of(_container(9, ALICE)) == "mounted")


def test_users_are_bounded_and_make_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtimes, "_MOST_OF_USERS", 2)
    users = range(2000, 2005)
    for user in users:
        bench.engine(user).has(_id(user), f"of-{user}")
    for user in users:
        bench.binder.appeared(_container(user, user))
    eventually(lambda: bench.of(_container(2000, 2000)) and bench.of(_container(2001, 2001)))
    assert len([r for r in caplog.records if "is not" in r.message]) == 1
    assert not any(bench.servers[user].targets for user in (2002, 2003, 2004))
    bench.engine().has(_id(1), "roots")
    bench.binder.appeared(_container(1))
    eventually(lambda: bench.of(_container(1)) == "roots")
    old = [t for t in threading.enumerate() if t.name.endswith("docker/2000")]
    assert old
    bench.binder.forget(_container(2000, 2000).instance)
    bench.binder.appeared(_container(2004, 2004))
    eventually(lambda: bench.of(_container(2004, 2004)) == "of-2004")
    eventually(lambda: not any(t.is_alive() for t in old))
    assert set(bench.binder.counters()["runtime_asks"]) == {"docker", "docker/2001", "docker/2004"}
