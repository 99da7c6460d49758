"""Containers of a real Docker engine that run out of memory and are removed at once: their events come before their end."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.containers.own_engine import OwnEngine, remove_all, run
from tests.e2e.program import Program, eventually
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.e2e, pytest.mark.timeout(600)]
GREEDY = ["sh", "-c", "a=0123456789abcdef; while :; do a=$a$a; done"]


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


def test_ten_containers_killed_and_removed_at_once(client: "docker.DockerClient", engine: OwnEngine, tmp_path: Path) -> None:
    need(os.access("/dev/kmsg", os.R_OK), "the right to read /dev/kmsg")
    config = f'[sampler]\ninclude = ["{engine.parent}*"]\n[runtimes.docker]\nsockets = ["{engine.socket}"]\n'
    with Program(tmp_path, config) as program:
        run(client, ["sleep", "1000"])  # an engine is asked once it has a container
        eventually(lambda: program.status()["sampler"]["runtime_connected"]["docker"], 60, "Docker is not connected")
        made = [run(client, GREEDY, mem_limit="32m", memswap_limit="32m", auto_remove=True).id for _ in range(10)]

        def stories() -> dict[str, list[tuple[str, dict[str, Any]]]]:
            rows = program.sql(
                "SELECT path, kind, details FROM event JOIN container ON container.id = event.container ORDER BY event.row"
            )
            return {id_: [(kind, json.loads(details)) for path, kind, details in rows if path.endswith(id_)] for id_ in made}

        def have_all_ended() -> bool:
            return all(any(kind == "deletion" for kind, _ in story) for story in stories().values())

        eventually(have_all_ended, 60, "not all were deleted")
        for id_, story in stories().items():
            assert [kind for kind, _ in story] == ["creation", "oom", "oom_kill", "deletion"], (id_, story)
            (_, oom), (_, kill), (_, end) = story[1:]
            assert (kill["count"], kill["process"], kill["constraint"]) == (1, "sh", "CONSTRAINT_MEMCG")
            assert kill["limit_path"] == oom["path"] == oom["victim_path"] == kill["path"]
            assert kill["pid"] == oom["pid"] > 1
            assert end["exit_code"] == 137

        def names() -> dict[str, str | None]:
            found = json.loads(program.get("/api/v1/events?kind=oom_kill&limit=0"))
            return {event["path"].rpartition("/")[2]: event.get("name") for event in found}

        eventually(lambda: set(names()) == set(made), 60, "the listener does not show all of them")
        assert None not in names().values()
