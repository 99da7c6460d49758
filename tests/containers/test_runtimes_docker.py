"""Names from a real Docker engine: before us and after us, renamed, restarted, killed, and with its daemon gone for a while."""

import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.containers.own_engine import IMAGE, OwnEngine, remove_all, run
from tests.containers.watching import Watching, eventually
from tests.e2e.program import Program

from tidegauge.pipeline.records import UNLIMITED, Container, Event, Spec

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(600)]
SLEEP = ["sleep", "1000"]


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    made = OwnEngine()
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture
def client(engine: OwnEngine) -> Iterator["docker.DockerClient"]:
    made = engine.client()
    yield made
    remove_all(made)
    made.close()


@pytest.fixture
def watching(engine: OwnEngine) -> Iterator[Watching]:
    with Watching({"docker": {"sockets": [str(engine.socket)]}}, [f"{engine.parent}*", "/docker/*"]) as made:
        yield made


def _is_connected(watching: Watching) -> bool:
    return bool(watching.binder.counters()["runtime_connected"]["docker"])


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_all_that_inspect_says(client: "docker.DockerClient", watching: Watching) -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web", "private": "x"}
    container = run(client, SLEEP, name="web", labels=labels, environment={"TOKEN": "x"})
    record = watching.named(container.id, health=None)
    assert record.started_ms is not None
    inspect = client.api.inspect_container(container.id)
    assert (record.name, record.namespace, record.runtime, record.container_id) == ("web", "docker", "docker", container.id)
    assert record.aliases == ("web", container.id)
    assert record.image == inspect["Config"]["Image"] == IMAGE
    assert record.labels == {k: v for k, v in labels.items() if k != "private"}
    assert record.environment == {}
    assert record.started_ms == _ms(inspect["State"]["StartedAt"])
    assert record.runtime_created_ms == _ms(inspect["Created"])
    assert (record.restart_count, record.network) == (0, "own")
    said = watching.binder.metadata(record.instance)
    assert said is not None
    assert (said.labels["private"], said.environment["TOKEN"], said.pid) == ("x", "x", inspect["State"]["Pid"])
    assert watching.samples(record)


def test_limits_as_inspect_tells_them_and_as_they_are_changed(client: "docker.DockerClient", watching: Watching) -> None:
    limits = {"mem_limit": 64 << 20, "memswap_limit": 96 << 20, "mem_reservation": 32 << 20, "nano_cpus": 500_000_000}
    bound = run(client, SLEEP, name="bound", **limits, cpuset_cpus="0", cpu_shares=300, pids_limit=77)
    free = run(client, SLEEP, name="free")
    is_v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()

    def told(id_: str) -> dict[str, Any]:
        """The newest record's limits, in the words of the Engine API, where 0 is none."""
        watching.sampler.specs.run()
        record = watching.newest(id_)
        spec = (record and record.spec) or Spec()
        quota, period = spec.cpu_quota_us, spec.cpu_period_us
        found = {
            "Memory": spec.memory_limit_bytes if spec.memory_limit_bytes != UNLIMITED else 0,
            "MemorySwap": spec.memory_swap_limit_bytes if spec.memory_swap_limit_bytes != UNLIMITED else 0,
            "MemoryReservation": spec.memory_reservation_bytes if spec.memory_reservation_bytes != UNLIMITED else 0,
            "NanoCpus": 0 if quota == UNLIMITED else quota is not None and period and quota * 10**9 // period,
            "CpusetCpus": spec.cpus,
            "CpuShares": spec.cpu_shares,
            "PidsLimit": spec.pids_limit,
        }
        if is_v2:  # a weight has fewer steps than shares
            del found["CpuShares"]
        return found

    def wanted(id_: str) -> dict[str, Any]:
        return {k: client.api.inspect_container(id_)["HostConfig"][k] for k in told(id_)}

    first = wanted(bound.id)
    assert (first["Memory"], first["PidsLimit"]) == (64 << 20, 77)
    eventually(lambda: told(bound.id) == first, 60, f"limits {first}")
    all_cpus = Path("/sys/devices/system/cpu/online").read_text().strip()
    everything = {"CpusetCpus": all_cpus, "PidsLimit": UNLIMITED} | ({} if is_v2 else {"CpuShares": 1024})
    eventually(lambda: told(free.id) == wanted(free.id) | everything, 60, "no limits")
    before = watching.named(bound.id)
    bound.update(mem_limit=80 << 20, cpu_shares=600)
    second = first | {"Memory": 80 << 20} | ({} if is_v2 else {"CpuShares": 600})
    assert wanted(bound.id) == second
    eventually(lambda: told(bound.id) == second, 120, f"limits {second}")
    after = watching.named(bound.id)
    assert (after.instance, after.number) == (before.instance, before.number)
    assert after.valid_from_ms > before.valid_from_ms
    assert before in watching.records(bound.id)


def test_the_path_in_docker_s_own_cgroup(client: "docker.DockerClient", watching: Watching) -> None:
    container = run(client, SLEEP, name="usual", cgroup_parent="/docker")
    record = watching.named(container.id, name="usual")
    assert record.path == f"/docker/{container.id}"
    assert watching.records(container.id)[0].runtime == "docker"


def test_one_that_ran_before_us(client: "docker.DockerClient", engine: OwnEngine) -> None:
    container = run(client, SLEEP, name="before")
    with Watching({"docker": {"sockets": [str(engine.socket)]}}, [f"{engine.parent}*"]) as watching:
        watching.named(container.id, name="before")


def test_a_rename(client: "docker.DockerClient", watching: Watching) -> None:
    container = run(client, SLEEP, name="old")
    first = watching.named(container.id, name="old")
    eventually(lambda: _is_connected(watching))
    container.rename("new")
    second = watching.named(container.id, name="new")
    assert (second.instance, second.aliases) == (first.instance, ("new", container.id))
    assert second.valid_from_ms > first.valid_from_ms


def test_health_as_it_changes(client: "docker.DockerClient", watching: Watching) -> None:
    check = {"test": ["CMD", "test", "-f", "/well"], "interval": 300_000_000, "timeout": 5_000_000_000, "retries": 1}
    container = run(client, SLEEP, name="ill", healthcheck=check)
    watching.named(container.id, health="unhealthy")
    assert container.exec_run(["touch", "/well"]).exit_code == 0
    watching.named(container.id, health="healthy")
    client.api.inspect_container(container.id)
    seen = [c.health for c in watching.records(container.id)]
    assert seen[-1] == "healthy"
    assert "starting" in seen or seen.count("unhealthy") == 1


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_in_the_deletion_event(client: "docker.DockerClient", watching: Watching, code: int) -> None:
    container = run(client, ["sh", "-c", f"sleep 1; exit {code}"], name=f"ends-{code}")
    record = watching.named(container.id)
    assert watching.deletion(record).details == {"path": record.path, "exit_code": code}


def test_the_exit_code_of_one_that_is_killed_and_removed_at_once(client: "docker.DockerClient", watching: Watching) -> None:
    container = run(client, SLEEP, name="removed", auto_remove=True)
    record = watching.named(container.id)
    eventually(lambda: _is_connected(watching))
    container.kill()
    assert watching.deletion(record).details == {"path": record.path, "exit_code": 137}


def test_one_so_short_that_it_is_gone_before_its_name_is_asked_for(client: "docker.DockerClient", watching: Watching) -> None:
    keeper = run(client, SLEEP, name="keeper")
    watching.named(keeper.id)
    container = run(client, ["true"], name="brief")
    record = watching.named(container.id, name="brief")
    assert watching.deletion(record).details == {"path": record.path, "exit_code": 0}


def test_restarts_are_counted_and_each_run_is_an_instance(client: "docker.DockerClient", watching: Watching) -> None:
    policy = {"Name": "on-failure", "MaximumRetryCount": 2}
    # each run ends when it is told to: one that is over before its turn to be asked about has the number of the next
    container = run(client, ["sh", "-c", "until rm /end; do sleep 0.1; done; exit 4"], name="again", restart_policy=policy)
    seen: set[str] = set()
    for number in range(3):
        last = eventually(lambda: c if (c := watching.named(container.id)).instance not in seen else None)
        watching.named(container.id, restart_count=number)
        seen.add(last.instance)
        container.exec_run(["touch", "/end"], detach=True)
    assert watching.deletion(last).details["exit_code"] == 4
    runs: dict[str, Container] = {c.instance: c for c in watching.records(container.id)}
    assert [c.restart_count for c in runs.values()] == [0, 1, 2]
    assert len({c.started_ms for c in runs.values()}) == 3
    assert len({c.runtime_created_ms for c in runs.values()}) == 1
    codes = [e.details.get("exit_code") for e in watching.of(Event) if e.kind == "deletion" and e.details["path"] == last.path]
    assert codes == [4, 4, 4]


def test_a_restart_by_hand_is_a_new_instance_with_a_later_start(client: "docker.DockerClient", watching: Watching) -> None:
    container = run(client, SLEEP, name="hand")
    first = watching.named(container.id)
    container.restart(timeout=0)
    second = eventually(lambda: c if (c := watching.named(container.id)).instance != first.instance else None)
    assert watching.deletion(first).details["exit_code"] == 137
    second = watching.named(container.id, started_ms=_ms(client.api.inspect_container(container.id)["State"]["StartedAt"]))
    assert (second.name, second.runtime_created_ms) == ("hand", first.runtime_created_ms)


def test_whose_network_it_is(client: "docker.DockerClient", watching: Watching) -> None:
    owner = run(client, SLEEP, name="owner")
    guest = run(client, SLEEP, name="guest", network_mode=f"container:{owner.id}")
    host = run(client, SLEEP, name="host", network_mode="host")
    networks = [watching.named(c.id).network for c in (owner, guest, host)]
    assert networks == ["own", f"container:{owner.id}", "host"]


def test_the_daemon_is_killed_and_comes_back(client: "docker.DockerClient", engine: OwnEngine, watching: Watching) -> None:
    """What happens while it is away is made up for, and sampling does not notice."""
    stays, changes = run(client, SLEEP, name="stays"), run(client, SLEEP, name="changes")
    first = watching.named(stays.id, name="stays")
    watching.named(changes.id, name="changes")
    eventually(lambda: _is_connected(watching))
    engine.kill()
    eventually(lambda: not _is_connected(watching))
    sampled = len(watching.samples(first)) + len(watching.samples(watching.of(Container)[0]))
    eventually(lambda: len(watching.samples(first)) + len(watching.samples(watching.of(Container)[0])) > sampled + 3)
    assert watching.named(stays.id).name == "stays"
    engine.start()
    changes.rename("changed")
    watching.named(changes.id, name="changed")
    after = run(client, SLEEP, name="after")
    watching.named(after.id, name="after")
    assert {c.instance for c in watching.records(stays.id)} == {first.instance}
    stays.kill()
    assert watching.deletion(first).details.get("exit_code") == 137


def test_a_daemon_that_starts_after_us_and_after_its_containers(client: "docker.DockerClient", engine: OwnEngine) -> None:
    container = run(client, SLEEP, name="early")
    engine.kill()
    try:
        with Watching({"docker": {"sockets": [str(engine.socket)]}}, [f"{engine.parent}*"]) as watching:
            record = eventually(lambda: watching.newest(container.id))
            eventually(lambda: watching.samples(record))
            assert (record.name, record.container_id) == (None, container.id)
            engine.start()
            assert watching.named(container.id, name="early").instance == record.instance
    finally:
        if not engine.socket.exists() or engine._daemon is None:
            engine.start()


@pytest.mark.e2e
def test_the_whole_program_stores_names(client: "docker.DockerClient", engine: OwnEngine, tmp_path: Path) -> None:
    early = run(client, SLEEP, name="early", labels={"com.docker.compose.service": "db", "other": "x"})
    config = f'[sampler]\ninclude = ["{engine.parent}*"]\n[runtimes.docker]\nsockets = ["{engine.socket}"]\n'
    with Program(tmp_path, config) as program:
        late = run(client, ["sh", "-c", "sleep 3; exit 5"], name="late")

        def rows() -> dict[str, tuple[Any, ...]]:
            names = "path, name, namespace, image, labels, started_ms"
            query = f"SELECT {names} FROM container JOIN container_metadata m ON m.container = container.id"
            return {path.rpartition("/")[2]: tuple(rest) for path, *rest in program.sql(f"{query} ORDER BY valid_from_ms")}

        wanted = {early.id: "early", late.id: "late"}
        eventually(lambda: {k: v[0] for k, v in _rows(rows).items() if k in wanted} == wanted, 30)
        stored = rows()
        assert stored[early.id][1:3] == ("docker", IMAGE)
        assert stored[early.id][3].replace(" ", "") == '{"com.docker.compose.service":"db"}'
        started = client.api.inspect_container(early.id)["State"]["StartedAt"]
        eventually(lambda: rows()[early.id][4] == _ms(started))

        def code() -> Any:
            found = program.sql("SELECT details FROM event WHERE kind = 'deletion' AND details LIKE ?", f"%{late.id}%")
            return found and '"exit_code":5' in found[0][0].replace(" ", "")

        eventually(code, 30)
        program.configure(config + '[metadata]\nlabels = ["*"]\n')
        assert program.process is not None
        program.process.send_signal(signal.SIGHUP)
        eventually(lambda: '"other"' in rows()[early.id][3], 30)
        program.kill("sampler")
        early.rename("renamed")
        eventually(lambda: rows()[early.id][0] == "renamed", 30)
        instances = program.sql("SELECT count(DISTINCT instance) FROM container WHERE path LIKE ?", f"%{early.id}")
        assert instances == [(1,)]


@pytest.mark.e2e
def test_a_limit_that_is_changed_is_stored_without_waiting_for_the_next_round(
    client: "docker.DockerClient", engine: OwnEngine, tmp_path: Path
) -> None:
    container = run(client, SLEEP, name="updated", mem_limit=64 << 20)
    config = f'[sampler]\ninclude = ["{engine.parent}*"]\nspec_interval_s = 3600\n'
    with Program(tmp_path, f'{config}[runtimes.docker]\nsockets = ["{engine.socket}"]\n') as program:

        def limits() -> list[tuple[Any, ...]]:
            query = "SELECT memory_limit_bytes FROM container JOIN container_metadata m ON m.container = container.id"
            found = program.sql(f"{query} WHERE path LIKE ? AND name IS NOT NULL ORDER BY valid_from_ms", f"%{container.id}")
            return found[-1:]

        eventually(lambda: program.database.exists() and program.sql("SELECT 1 FROM sqlite_master WHERE name = 'writer'"), 60)
        eventually(lambda: limits() == [(64 << 20,)], 60)
        begun_s = time.monotonic()
        eventually(lambda: time.monotonic() > begun_s + 12, 60)  # it is read three times at first, the last after ten seconds
        container.update(mem_limit=80 << 20, memswap_limit=-1)
        eventually(lambda: limits() == [(80 << 20,)], 60)


def _rows(rows: Any) -> dict[str, tuple[Any, ...]]:
    """Nothing while the database is being made."""
    try:
        return dict(rows())
    except Exception:  # noqa: BLE001 - the file or its tables are not there yet
        time.sleep(0.1)
        return {}
