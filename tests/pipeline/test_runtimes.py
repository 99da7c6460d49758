"""The binder: names come late, from slow, hanging, restarted and absent engines, on real sockets."""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.collectors.runtimes.engine_server import EngineServer
from tests.support import eventually

from tidegauge.collectors.runtimes.containerd import ContainerdConfig, ContainerdRuntime
from tidegauge.collectors.runtimes.docker import DockerConfig, DockerRuntime
from tidegauge.collectors.runtimes.kubernetes import KubernetesConfig, KubernetesRuntime
from tidegauge.collectors.runtimes.systemd import SystemdConfig, SystemdRuntime
from tidegauge.pipeline import runtime_asker, runtimes
from tidegauge.pipeline.metadata import MAX_BYTES, MetadataConfig, allowed, bounded, described_fields
from tidegauge.pipeline.naming import Parting
from tidegauge.pipeline.plugin import Metadata, RuntimeRef
from tidegauge.pipeline.records import Container, encode_record
from tidegauge.pipeline.runtimes import Binder

UID = "1be2c244-a7b8-5bf9-21df-7bf52074492b"
COMPOSE = {"com.docker.compose.project": "shop", "secret": "x"}


def _id(n: int) -> str:
    return f"{n:064x}"


def _record(path: str, instance: str | None = None, **fields: Any) -> Container:
    return Container(1, "source", instance or f"i{path}", 0, "boot", path, "host", 1, 1, **fields)


def _docker(n: int, instance: str | None = None) -> Container:
    return _record(f"/docker/{_id(n)}", instance)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_asker, "_UNKNOWN_S", (0.005, 0.02))
    monkeypatch.setattr(runtime_asker, "_ABSENT_S", (0.005, 0.02))
    monkeypatch.setattr(runtimes, "_ASK_AGAIN_S", 0.005)


class Bench:
    """A binder over one engine; what it binds and lets go of is kept."""

    def __init__(self, folder: Path, config: MetadataConfig | None = None, timeout_s: float = 5.0) -> None:
        self.server = EngineServer(folder / "docker.sock")
        self.docker = DockerRuntime(DockerConfig(sockets=(str(self.server.path),), timeout_s=timeout_s))
        self.containerd = ContainerdRuntime(ContainerdConfig(rootfs=folder))
        plugins = [
            ("containerd", self.containerd),
            ("docker", self.docker),
            ("kubernetes", KubernetesRuntime(KubernetesConfig())),
            ("systemd", SystemdRuntime(SystemdConfig())),
        ]
        self.binder = Binder(plugins, config)
        self.bound: list[tuple[str, Mapping[str, Any]]] = []
        self.departed: list[tuple[str, int | None]] = []
        self.binder.attach(self._bind, lambda instance, code: self.departed.append((instance, code)))
        self.binder.start()

    def _bind(self, path: str, instance: str, fields: Mapping[str, Any]) -> None:
        self.bound.append((instance, fields))

    def of(self, record: Container, field: str = "name") -> Any:
        """The newest that was bound to it."""
        return next((fields.get(field) for instance, fields in reversed(self.bound) if instance == record.instance), None)

    def is_connected(self) -> bool:
        return bool(self.server.followers and self.binder.counters()["runtime_connected"]["docker"])

    def is_idle(self) -> bool:
        """Everything that was to be asked for has been answered, after a connection as well."""
        with self.binder.lock:
            return self.binder._askers["docker"]._wakes_s == float("inf")

    def close(self) -> None:
        self.binder.stop()
        self.server.hangs = False
        self.server.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_name_comes_when_the_engine_answers(bench: Bench) -> None:
    web = _docker(1)
    bench.server.start()
    bench.server.has(
        _id(1), "web", RestartCount=2, HostConfig={"NetworkMode": "host"}, Config={"Image": "i", "Labels": COMPOSE}
    )
    bench.binder.appeared(web)
    eventually(lambda: bench.bound)
    assert bench.bound[0] == (
        web.instance,
        {
            "name": "web",
            "runtime": "docker",
            "container_id": _id(1),
            "pod": None,
            "pod_namespace": None,
            "pod_uid": None,
            "aliases": ("web", _id(1)),
            "namespace": "docker",
            "image": "i",
            "labels": {"com.docker.compose.project": "shop"},
            "environment": {},
            "started_ms": 1795432563694,
            "runtime_created_ms": None,
            "restart_count": 2,
            "health": None,
            "network": "host",
        },
    )
    said = bench.binder.metadata(web.instance)
    assert said is not None
    assert said.labels == COMPOSE


def test_every_field_that_is_bound_is_a_field_of_the_record(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web")
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.bound)
    record = msgspec.structs.replace(_docker(1), **bench.bound[0][1])
    assert (record.name, record.namespace) == ("web", "docker")


def test_the_sampling_thread_waits_for_nobody(bench: Bench) -> None:
    """The engine hangs; the calls return although nobody ever answers."""
    bench.server.hangs = True
    bench.server.start()
    done = threading.Event()

    def calls() -> None:
        for n in range(50):
            bench.binder.named(_docker(n))
            bench.binder.appeared(_docker(n))
        bench.binder.gone(_docker(1))
        bench.binder.forget(_docker(1).instance)
        done.set()

    eventually(lambda: bench.binder.appeared(_docker(99)) or bench.server.targets)
    threading.Thread(target=calls).start()
    assert done.wait(2)
    assert not bench.bound


def test_an_engine_that_starts_after_us(bench: Bench) -> None:
    records = [_docker(n) for n in range(1, 6)]
    for n, record in enumerate(records, 1):
        bench.server.has(_id(n), f"c{n}")
        bench.binder.appeared(record)
    eventually(lambda: bench.binder.counters()["runtime_asks"]["docker"] > 2)
    assert not bench.bound
    assert bench.binder.counters()["runtime_errors"]["docker"] == 0
    assert bench.binder.counters()["containers_unnamed"] == 5
    bench.server.start()
    eventually(lambda: {bench.of(r) for r in records} == {"c1", "c2", "c3", "c4", "c5"})
    assert bench.binder.counters()["containers_unnamed"] == 0


def test_an_engine_that_hangs_and_recovers(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout_s=0.05)
    try:
        bench.server.hangs = True
        bench.server.start()
        bench.server.has(_id(1), "web")
        bench.binder.appeared(_docker(1))
        eventually(lambda: bench.binder.counters()["runtime_errors"]["docker"] > 2)
        bench.server.hangs = False
        eventually(lambda: bench.of(_docker(1)) == "web")
    finally:
        bench.close()


def test_an_engine_that_talks_nonsense_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.server.says = b"HTTP/1.0 200 OK\r\n\r\nwhat?"
    bench.server.start()
    bench.server.has(_id(1), "web")
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.binder.counters()["runtime_errors"]["docker"] > 5)
    assert [r.levelname for r in caplog.records if "docker" in r.message] == ["WARNING"]
    bench.server.says = None
    eventually(lambda: bench.of(_docker(1)) == "web")


def test_one_that_the_engine_does_not_know_yet(bench: Bench) -> None:
    bench.server.start()
    bench.binder.appeared(_docker(1))
    eventually(lambda: sum("containers" in t for t in bench.server.targets) > 3)
    bench.server.has(_id(1), "late")
    eventually(lambda: bench.of(_docker(1)) == "late")


def test_one_that_does_not_run_yet_is_asked_again(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web", State={"Running": False, "StartedAt": "0001-01-01T00:00:00Z"})
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.bound)
    assert (bench.of(_docker(1)), bench.of(_docker(1), "started_ms")) == ("web", None)
    bench.server.has(_id(1), "web")
    eventually(lambda: bench.of(_docker(1), "started_ms"))


def test_rename_and_health_come_by_events(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web")
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.of(_docker(1)) == "web" and bench.is_connected())
    bench.server.has(_id(1), "shop", State={"Health": {"Status": "unhealthy"}})
    bench.server.tell("rename", _id(1))
    eventually(lambda: bench.of(_docker(1)) == "shop")
    assert bench.of(_docker(1), "health") == "unhealthy"


def test_an_event_that_a_container_has_changed_is_passed_on(bench: Bench) -> None:
    changed: list[str] = []
    bench.binder.changed = changed.append
    bench.server.start()
    for n in (1, 2):
        bench.server.has(_id(n), f"c{n}")
        bench.binder.appeared(_docker(n))
    eventually(bench.is_connected)
    eventually(lambda: bench.of(_docker(1)) and bench.of(_docker(2)))
    assert not changed
    bench.server.tell("update", _id(2))
    eventually(lambda: changed)
    assert changed == [_docker(2).instance]


def test_nothing_new_makes_no_record(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web")
    bench.binder.appeared(_docker(1))
    eventually(bench.is_connected)
    eventually(lambda: bench.bound)
    asked = len(bench.server.targets)
    for _ in range(3):
        bench.server.tell("update", _id(1))
    eventually(lambda: len(bench.server.targets) > asked)
    bench.server.has(_id(1), "shop")
    bench.server.tell("update", _id(1))
    eventually(lambda: bench.of(_docker(1)) == "shop")
    assert [fields["name"] for _, fields in bench.bound] == ["web", "shop"]


def test_what_changed_while_the_engine_was_away(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web")
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.of(_docker(1)) == "web" and bench.is_connected())
    bench.server.stop()
    bench.server.has(_id(1), "shop")
    eventually(lambda: not bench.binder.counters()["runtime_connected"]["docker"])
    bench.server.start()
    eventually(lambda: bench.of(_docker(1)) == "shop")


def test_a_survey_finds_what_no_event_told(bench: Bench) -> None:
    bench.server.start()
    for n in (1, 2):
        bench.server.has(_id(n), f"c{n}")
        bench.binder.appeared(_docker(n))
    eventually(lambda: bench.of(_docker(1)) and bench.of(_docker(2)) and bench.is_connected())
    bench.server.has(_id(2), "told")
    bench.server.tell("rename", _id(2))
    eventually(lambda: bench.of(_docker(2)) == "told")  # what was to be asked for before that, has been
    bench.binder.resync()
    bench.server.targets.clear()
    bench.binder.resync()
    assert bench.server.targets == ["/containers/json"]
    bench.server.has(_id(2), "shop")
    bench.binder.resync()
    eventually(lambda: bench.of(_docker(2)) == "shop")
    assert f"/containers/{_id(1)}/json" not in bench.server.targets


def test_a_survey_without_containers_or_engine_asks_nobody(bench: Bench) -> None:
    bench.binder.resync()
    bench.server.start()
    bench.binder.resync()
    assert bench.server.targets == []
    bench.server.stop()
    bench.binder.appeared(_docker(1))
    bench.binder.resync()
    assert bench.binder.counters()["runtime_errors"]["docker"] == 0


# Ends.


def _is_up(bench: Bench, *numbers: int) -> None:
    bench.server.start()
    for n in numbers:
        bench.server.has(_id(n), f"c{n}")
        bench.binder.appeared(_docker(n))
    eventually(lambda: all(bench.of(_docker(n)) for n in numbers) and bench.is_connected())
    eventually(bench.is_idle)


def test_an_exit_code_that_comes_before_the_end(bench: Bench) -> None:
    _is_up(bench, 1, 2)
    bench.server.tell("die", _id(1), exitCode="3")
    bench.server.tell("rename", _id(2))
    bench.server.has(_id(2), "later")
    eventually(lambda: bench.of(_docker(2)) == "later")
    assert bench.binder.gone(_docker(1)) == Parting(3)
    assert bench.departed == []


def test_an_exit_code_is_void_once_the_same_cgroup_has_another_run(bench: Bench) -> None:
    _is_up(bench, 1)
    bench.server.tell("die", _id(1), exitCode="3")
    bench.server.has(_id(1), "again", State={"StartedAt": "2026-11-23T12:00:00Z"})
    bench.server.tell("start", _id(1))
    eventually(lambda: bench.of(_docker(1)) == "again")
    assert bench.binder.gone(_docker(1)).exit_code is None


def test_an_exit_code_that_comes_after_the_end(bench: Bench) -> None:
    _is_up(bench, 1)
    assert bench.binder.gone(_docker(1)) == Parting(None, 2.0)
    bench.server.tell("die", _id(1), exitCode="137")
    eventually(lambda: bench.departed)
    assert bench.departed == [(_docker(1).instance, 137)]


def test_an_exit_code_that_no_event_tells_is_asked_for(bench: Bench) -> None:
    _is_up(bench, 1)
    bench.server.has(_id(1), "c1", State={"Running": False, "ExitCode": 9})
    assert bench.binder.gone(_docker(1)).wait_s
    eventually(lambda: bench.departed)
    assert bench.departed == [(_docker(1).instance, 9)]


def test_the_exit_code_of_one_that_runs_again_is_not_the_new_one_s(bench: Bench) -> None:
    _is_up(bench, 1)
    old, new = _docker(1), _docker(1, "again")
    assert bench.binder.gone(old).wait_s
    bench.binder.appeared(new)
    bench.server.has(_id(1), "c1", RestartCount=1, State={"StartedAt": "2026-11-23T12:00:00Z"})
    eventually(lambda: bench.of(new, "restart_count") == 1)
    asked = len(bench.server.targets)
    eventually(lambda: len(bench.server.targets) > asked + 2)  # for the exit code of the old one
    assert bench.of(old, "restart_count") == 0
    bench.server.tell("die", _id(1), exitCode="4")
    eventually(lambda: bench.departed)
    assert bench.departed == [(old.instance, 4)]
    bench.binder.forget(old.instance)
    bench.server.tell("die", _id(1), exitCode="5")
    eventually(lambda: bench.binder.gone(new) == Parting(5))


@pytest.mark.parametrize("is_told_first", [True, False])
def test_an_exit_code_that_is_told_before_the_name_waits_for_the_name(bench: Bench, is_told_first: bool) -> None:
    """As on a machine so busy that the container has ended before it could be asked for."""
    _is_up(bench, 2)
    brief = _docker(1)
    bench.server.hangs = True
    bench.binder.appeared(brief)
    eventually(lambda: len(bench.server.targets) > 2)
    if not is_told_first:
        assert bench.binder.gone(brief) == Parting(None, 2.0)
    bench.server.tell("die", _id(1), exitCode="3")
    if is_told_first:
        eventually(lambda: bench.binder.gone(brief).exit_code == 3)
        assert bench.binder.gone(brief) == Parting(3, 2.0)
    assert bench.departed == []
    bench.server.has(_id(1), "brief", State={"Running": False, "ExitCode": 3})
    bench.server.hangs = False
    eventually(lambda: bench.departed)
    assert bench.of(brief) == "brief"
    assert bench.departed == [(brief.instance, 3)]


def test_an_exit_code_does_not_wait_for_a_name_that_nobody_knows(bench: Bench) -> None:
    _is_up(bench, 2)
    brief = _docker(1)
    bench.server.hangs = True
    bench.binder.appeared(brief)
    eventually(lambda: len(bench.server.targets) > 2)
    assert bench.binder.gone(brief) == Parting(None, 2.0)
    bench.server.tell("die", _id(1), exitCode="3")
    bench.server.hangs = False
    eventually(lambda: bench.departed)
    assert bench.departed == [(brief.instance, 3)]


def test_one_that_was_too_short_for_its_name_gets_it_at_its_end(bench: Bench) -> None:
    _is_up(bench, 2)
    bench.server.has(_id(1), "brief", State={"Running": False, "ExitCode": 0})
    bench.binder.appeared(_docker(1))
    bench.binder.gone(_docker(1))
    eventually(lambda: bench.departed)
    assert bench.of(_docker(1)) == "brief"
    assert bench.departed == [(_docker(1).instance, 0)]


def test_one_too_short_for_its_name_does_not_get_the_start_of_its_next_run(bench: Bench) -> None:
    _is_up(bench, 2)
    old = _docker(1)
    bench.binder.appeared(old)
    bench.binder.gone(old)
    bench.server.has(_id(1), "brief", RestartCount=1)
    eventually(lambda: bench.of(old) == "brief")
    assert (bench.of(old, "image"), bench.of(old, "started_ms"), bench.of(old, "restart_count")) == ("busybox:1", None, None)


def test_an_exit_code_is_asked_for_until_it_is_there(bench: Bench) -> None:
    _is_up(bench, 1)
    asked = len(bench.server.targets)
    assert bench.binder.gone(_docker(1)).wait_s
    eventually(lambda: len(bench.server.targets) > asked + 2)
    assert bench.departed == []
    bench.server.has(_id(1), "c1", State={"Running": False, "ExitCode": 9})
    eventually(lambda: bench.departed)


def test_a_cgroup_inside_a_container_has_no_exit_code(bench: Bench) -> None:
    _is_up(bench, 1)
    part = _record(f"/docker/{_id(1)}/init")
    bench.binder.appeared(part)
    eventually(lambda: bench.of(part))
    assert bench.binder.gone(part) == Parting()
    bench.server.tell("die", _id(1), exitCode="3")
    eventually(lambda: bench.binder.gone(_docker(1)) == Parting(3))


def test_nobody_waits_for_a_runtime_that_does_not_know_the_container(bench: Bench) -> None:
    _is_up(bench, 2)
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.binder.counters()["runtime_asks"]["docker"] > 3)
    assert bench.binder.gone(_docker(1)) == Parting()


def test_nobody_waits_where_nobody_could_tell(bench: Bench, tmp_path: Path) -> None:
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.binder.counters()["runtime_asks"]["docker"])
    eventually(lambda: bench.binder.gone(_docker(1)) == Parting())  # the engine is not there
    assert bench.binder.gone(_record("/system.slice/ssh.service")) == Parting()
    assert bench.binder.gone(_record("/never/seen/before")) == Parting()


def test_a_forgotten_one_is_asked_for_no_more(bench: Bench) -> None:
    bench.server.start()
    bench.binder.appeared(_docker(1))
    eventually(lambda: len(bench.server.targets) > 3)
    bench.binder.forget(_docker(1).instance)
    bench.binder.forget(_docker(1).instance)
    bench.server.has(_id(1), "web")
    bench.server.has(_id(2), "other")
    bench.binder.appeared(_docker(2))
    eventually(lambda: bench.of(_docker(2)))
    assert bench.of(_docker(1)) is None
    assert bench.binder.counters()["containers_unnamed"] == 0


# Paths.


def test_units_are_named_by_their_paths_at_once(bench: Bench) -> None:
    named = bench.binder.named(_record("/system.slice/ssh.service"))
    assert (named.name, named.runtime, named.container_id) == ("ssh.service", "systemd", None)
    bench.binder.appeared(named)
    assert bench.binder.counters()["containers_unnamed"] == 0


def test_what_a_path_tells_is_in_the_first_record(bench: Bench) -> None:
    named = bench.binder.named(_docker(1))
    assert (named.name, named.runtime, named.container_id) == (None, "docker", _id(1))
    either = bench.binder.named(_record(f"/kubepods/pod{UID}/{_id(1)}"))
    assert (either.runtime, either.container_id, either.pod_uid) == (None, _id(1), UID)
    anything = _record("/user/foo")
    assert bench.binder.named(anything) == anything
    assert bench.binder.named(_record("/")) == _record("/")


def test_what_the_log_knows_already_is_kept(bench: Bench) -> None:
    known = _record(f"/kubepods/pod{UID}/{_id(1)}", name="web", runtime="docker", container_id=_id(1), pod_uid="other")
    assert bench.binder.named(known) == known


def test_a_cgroup_inside_a_container_is_no_second_container(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "dind", Config={"Image": "i", "Labels": COMPOSE})
    inner = _record(f"/docker/{_id(1)}/init")
    bench.binder.appeared(inner)
    eventually(lambda: bench.bound)
    assert {k: v for k, v in bench.bound[0][1].items() if v is not None} == {
        "name": "dind/init",
        "runtime": "docker",
        "container_id": _id(1),
    }


def test_a_pod_gets_its_name_from_its_containers(bench: Bench) -> None:
    """In whichever order they come, and each pod its own."""
    bench.server.start()
    other = UID.replace("1", "2")
    pod, container, stranger = (
        _record(f"/kubepods/burstable/pod{UID}"),
        _record(f"/kubepods/burstable/pod{UID}/{_id(1)}"),
        _record(f"/kubepods/burstable/pod{other}"),
    )
    labels = {"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": UID}
    bench.server.has(_id(1), "k8s_app", Config={"Labels": labels})
    bench.binder.appeared(pod)
    bench.binder.appeared(stranger)
    bench.binder.appeared(container)
    eventually(lambda: bench.of(pod))
    assert (bench.of(pod), bench.of(pod, "pod_namespace"), bench.of(container, "pod")) == ("web-0", "shop", "web-0")
    assert bench.of(stranger) is None
    bench.bound.clear()
    again = _record(pod.path, "again")
    bench.binder.appeared(again)
    assert bench.of(again) == "web-0"
    assert bench.binder.gone(pod) == Parting()


def test_a_bare_id_is_asked_of_everybody_and_the_one_who_knows_names_it(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web")
    record = _record(f"/my/parent/{_id(1)}")
    bench.binder.appeared(record)
    eventually(lambda: bench.of(record))
    assert bench.of(record, "runtime") == "docker"


def test_what_only_might_be_a_container_is_not_asked_for_for_ever(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "run/containerd/io.containerd.runtime.v2.task").mkdir(parents=True)
    bench.binder.appeared(_record("/user/foo"))
    eventually(lambda: bench.binder.counters()["runtime_asks"]["containerd"] == 3)
    sure = _record(f"/system.slice/nerdctl-{_id(1)}.scope")
    bench.binder.appeared(sure)
    eventually(lambda: bench.binder.counters()["runtime_asks"]["containerd"] >= 8)
    bench.binder.forget(sure.instance)
    asked = bench.binder.counters()["runtime_asks"]["containerd"]
    time.sleep(0.1)  # five times the longest back-off here
    assert bench.binder.counters()["runtime_asks"]["containerd"] <= asked + 1


# Allow-lists.


def test_allowed_labels_are_patterns() -> None:
    labels = {"b.x": "2", "a": "1", "b.y": "3", "c": "4"}
    assert list(allowed(("b.*", "a"), labels).items()) == [("a", "1"), ("b.x", "2"), ("b.y", "3")]
    assert allowed((), labels) == {}


# Bounds.


def _bytes(fields: Mapping[str, Any]) -> int:
    return len(encode_record(_record("/x", **fields))) - len(encode_record(_record("/x")))


@given(
    st.dictionaries(st.text(max_size=6000), st.text(max_size=9000), max_size=90),
    st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=90),
    st.lists(st.text(max_size=6000), max_size=70),
    st.text(max_size=40_000),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_said_a_record_stays_small(
    labels: dict[str, str], environment: dict[str, str], aliases: list[str], name: str
) -> None:
    said = Metadata(name=name, image=name, aliases=tuple(aliases), labels=labels, environment=environment)
    config = MetadataConfig(labels=("*",), environment=("*",))
    ref = RuntimeRef("docker", _id(1))
    whole = described_fields(ref, said, config)
    fields, cut = bounded(whole)
    assert _bytes(fields) < MAX_BYTES + 4096  # what frames the values
    assert (cut == 0) == (fields == whole)
    assert bounded(fields) == (fields, 0)
    turned = msgspec.structs.replace(said, labels=dict(reversed(labels.items())))
    assert bounded(described_fields(ref, turned, config)) == (fields, cut)


def test_what_stays_of_too_many_labels_are_the_first_by_name() -> None:
    labels = {f"l{n:03}": "v" for n in reversed(range(100))}
    fields, cut = bounded({"name": "n", "labels": labels, "environment": {"long": "x" * 5000}})
    assert list(fields["labels"]) == [f"l{n:03}" for n in range(64)]
    assert fields["environment"] == {"long": "x" * 4096}
    assert cut == 37
    assert len(bounded({"labels": {f"l{n:03}": "v" * 3000 for n in range(64)}})[0]["labels"]) == 10
    assert bounded({"image": "\U0001f600" * 9000, "name": "n" * 20_000})[0] == {
        "image": "\U0001f600" * 4096,
        "name": "n" * 4096,
    }


def test_metadata_without_bounds_are_cut_counted_and_told_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.server.start()
    for n in (1, 2):
        bench.server.has(_id(n), f"c{n}", Config={"Labels": {"com.docker.compose.project": "x" * 3_000_000}})
        bench.binder.appeared(_docker(n))
    eventually(lambda: bench.of(_docker(1)) and bench.of(_docker(2)))
    assert all(_bytes(fields) < MAX_BYTES + 4096 for _, fields in bench.bound)
    assert bench.of(_docker(2), "labels") == {"com.docker.compose.project": "x" * 4096}
    assert bench.binder.counters()["metadata_cut"] == 2
    assert len([r for r in caplog.records if "more metadata than a record takes" in r.getMessage()]) == 1


def test_other_allow_lists_hold_for_what_is_known_already(bench: Bench) -> None:
    bench.server.start()
    bench.server.has(_id(1), "web", Config={"Image": "i", "Labels": COMPOSE, "Env": ["MODE=test", "TOKEN=x"]})
    bench.binder.appeared(_docker(1))
    eventually(lambda: bench.bound)
    bench.binder.reload(MetadataConfig(labels=("sec*",), environment=("MODE",)))
    assert (bench.of(_docker(1), "labels"), bench.of(_docker(1), "environment")) == ({"secret": "x"}, {"MODE": "test"})


def test_a_runtime_that_raises_anything_holds_up_nobody_else(tmp_path: Path) -> None:
    class Broken:
        Config = object

        def __init__(self, config: object) -> None: ...

        def identify(self, path: str) -> RuntimeRef | None:
            return RuntimeRef("broken", "x") if path.startswith("/docker/") else None

        def describe(self, ref: RuntimeRef) -> Metadata | None:
            raise ZeroDivisionError

    server = EngineServer(tmp_path / "docker.sock").start()
    server.has(_id(1), "web")
    docker = DockerRuntime(DockerConfig(sockets=(str(server.path),)))
    binder = Binder([("broken", Broken(None)), ("docker", docker)])
    bound: list[Any] = []
    binder.attach(lambda path, instance, fields: bound.append(fields), lambda instance, code: None)
    binder.start()
    try:
        binder.appeared(_docker(1))
        eventually(lambda: bound and binder.counters()["runtime_errors"]["broken"] > 1)
        assert bound[0]["name"] == "web"
    finally:
        binder.stop()
        server.stop()


def test_a_runtime_that_says_nonsense_harms_neither_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Wild:
        Config = object

        def __init__(self, config: object) -> None:
            self.asked = 0

        def identify(self, path: str) -> RuntimeRef | None:
            return RuntimeRef("wild", {"/a": "a"}[path])

        def describe(self, ref: RuntimeRef) -> Any:
            self.asked += 1
            return "a name" if self.asked < 3 else Metadata(name="tame")

    binder = Binder([("wild", Wild(None)), ("systemd", SystemdRuntime(SystemdConfig()))])
    bound: list[Any] = []
    binder.attach(lambda path, instance, fields: bound.append(fields["name"]), lambda instance, code: None)
    binder.start()
    try:
        for path in ("/x.service", "/y.service"):
            assert binder.named(_record(path)).name == path[1:]
            binder.appeared(_record(path))
        binder.appeared(_record("/a"))
        eventually(lambda: bound == ["tame"])
        assert binder.counters()["runtime_errors"] == {"wild": 2 + 4}
        assert len([r for r in caplog.records if "cannot tell" in r.message]) == 1
    finally:
        binder.stop()


def test_the_threads_end_when_it_stops(bench: Bench) -> None:
    _is_up(bench, 1)
    before = {t for t in threading.enumerate() if t.name.endswith((" docker", " containerd"))}
    assert before
    bench.binder.stop()
    bench.binder.stop()
    eventually(lambda: not any(t.is_alive() for t in before))
