"""`tidegauge ps` of a container of a real Docker engine, beside what the engine itself says of its processes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.containers.own_engine import OwnEngine, remove_all, run
from tests.e2e.program import Program, eventually

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
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


def test_processes_by_name_id_and_path_are_those_of_the_engine(
    client: "docker.DockerClient", engine: OwnEngine, tmp_path: Path
) -> None:
    work = "sleep 1001 & sleep 1002 & exec sleep 1003"
    web = run(client, ["sh", "-c", work], name="web", user="1234:1234")
    other = run(client, ["sleep", "1004"], name="other")
    config = f'[sampler]\ninclude = ["{engine.parent}*"]\n[runtimes.docker]\nsockets = ["{engine.socket}"]\n'

    def listed(program: Program, *words: str) -> list[dict[str, Any]]:
        done = program.call("ps", *words, "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)["processes"] if done.returncode == 0 else []
        return found

    with Program(tmp_path, config) as program:

        def sleepers() -> list[dict[str, Any]]:
            found = listed(program, "web")
            return found if [p["command_line"][0] for p in found] == ["sleep"] * 3 else []

        by_name = eventually(sleepers, 60, "its three processes")
        top = web.top(ps_args="-eo pid,ppid,euid,args")["Processes"]
        assert {(int(pid), int(ppid), int(uid), args) for pid, ppid, uid, args in top} == {
            (p["pid"], p["parent_pid"], p["uid"], " ".join(p["command_line"])) for p in by_name
        }
        assert {p["cgroup"] for p in by_name} == {f"{engine.parent}/{web.id}"}
        assert {p["user"] for p in by_name} == {"1234"}
        pids = [p["pid"] for p in by_name]
        assert [p["pid"] for p in listed(program, web.id[:12])] == pids
        assert [p["pid"] for p in listed(program, f"{engine.parent}/{web.id}")] == pids
        (single,) = listed(program, "other")
        assert single["pid"] == client.api.inspect_container(other.id)["State"]["Pid"]
        shown = program.call("ps", "web")
        assert "sleep 1003" in shown.stdout
        other.kill()
        eventually(lambda: program.call("ps", "other").returncode == 1, 60, "it is still found")
