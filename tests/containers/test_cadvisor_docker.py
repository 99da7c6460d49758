"""A real Docker engine's containers, made like those of the recording, asked for as cAdvisor was, compared field by field."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.api.cadvisor_rig import compare, unlisted
from tests.api.exposition_rig import parsed
from tests.containers.own_engine import IMAGE, OwnEngine, remove_all, run
from tests.e2e.program import Program, eventually
from tests.e2e.test_cadvisor import ask

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.timeout(600)]

CONFIG = """
[metrics]
enable = ["disk", "process"]
[metadata]
labels = ["*"]
environment = ["*"]
[runtimes.docker]
sockets = ["{socket}"]
[collectors.disk_usage]
interval_s = 1
"""
WORK = ["sh", "-c", "while true; do echo x; echo x > /file; sleep 0.2; done"]
LABELS = {
    "com.example.role": "web",
    "com.example.team": "metrics",
    "io.example/path": "x/y",
    "org.example.src": "busybox-static",
    "weird-key.1": "val",
}
WEB = {
    "labels": LABELS,
    "environment": {"TOKEN": "secret"},
    "cpu_shares": 512,
    "cpu_quota": 50_000,
    "cpu_period": 100_000,
    "cpuset_cpus": "0",
    "mem_limit": 64 << 20,
    "memswap_limit": 64 << 20,
    "mem_reservation": 32 << 20,
    "pids_limit": 50,
}
"""As the recorded container ts-web was started."""


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    made = OwnEngine()
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture(scope="module")
def client(engine: OwnEngine) -> Iterator["docker.DockerClient"]:
    made = engine.client()
    yield made
    remove_all(made)
    made.close()


@pytest.fixture(scope="module")
def ids(client: "docker.DockerClient") -> dict[str, str]:
    return {name: run(client, WORK, name=name, **options).id for name, options in (("ts-web", WEB), ("ts-cpu", {}))}


@pytest.fixture(scope="module")
def program(engine: OwnEngine, ids: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program(tmp_path_factory.mktemp("program"), CONFIG.format(socket=engine.socket)) as program:
        eventually(lambda: all(_is_complete(program, name) for name in ids), 120, "the containers are not complete")
        yield program


def one(program: Program, name: str) -> Any:
    answer = ask(program, f"/api/v1.3/docker/{name}", "POST", b'{"num_stats": 3}')
    return next(iter(answer.json.values())) if answer.status == 200 else None


def _is_complete(program: Program, name: str) -> bool:
    found = one(program, name)
    stats = (found or {}).get("stats", [])
    return len(stats) == 3 and all("filesystem" in s and "processes" in s for s in stats) and found["spec"]["has_cpu"]


def check(theirs: Any, ours: Any) -> None:
    found = unlisted(compare(theirs, ours))
    # the test's engine has no bridge, so its containers have no interface; and their I/O may not have reached a disk
    places = ("network", "interfaces", "io_service_bytes", "io_serviced")
    found = [d for d in found if not (d.kind == "missing" and d.place.endswith(places))]
    assert not found, "\n".join(f"{d.kind} {d.place}: theirs {str(d.theirs)[:80]}, ours {str(d.ours)[:80]}" for d in found)


def test_a_container_of_the_recorded_kind(
    program: Program, ids: dict[str, str], client: "docker.DockerClient", recorded_tree: Callable[[str], Path]
) -> None:
    recorded = recorded_tree("cadvisor-rest") / "docker/all-metrics_v1.3-docker-ts-web.json"
    (theirs,) = json.loads(recorded.read_bytes()).values()
    ours = one(program, "ts-web")
    check({**theirs, "stats": theirs["stats"][-3:]}, ours)
    assert (ours["id"], ours["aliases"], ours["namespace"]) == (ids["ts-web"], ["ts-web", ids["ts-web"]], "docker")
    spec = ours["spec"]
    for field in ("cpu", "labels", "has_cpu", "has_memory", "has_processes", "has_filesystem", "has_diskio", "processes"):
        assert spec[field] == theirs["spec"][field], field
    assert spec["memory"]["limit"] == theirs["spec"]["memory"]["limit"]
    assert spec["memory"]["reservation"] == theirs["spec"]["memory"]["reservation"]
    assert spec["image"] == IMAGE
    assert spec["envs"]["TOKEN"] == "secret"
    created = client.api.inspect_container(ids["ts-web"])["Created"]
    assert spec["creation_time"][:19] == created[:19]
    assert ours["stats"][-1]["filesystem"][0]["base_usage"] > 0


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("v2.1-stats-docker-ts-web.json", "/api/v2.1/stats/ts-web?type=docker&count=3"),
        ("v2.1-stats-docker-recursive.json", "/api/v2.1/stats?type=docker&count=2&recursive=true"),
        ("v2.0-stats-docker-recursive.json", "/api/v2.0/stats?type=docker&count=2&recursive=true"),
        ("v2.0-spec-docker-recursive.json", "/api/v2.0/spec?type=docker&recursive=true"),
        ("v2.1-spec-docker-ts-web.json", "/api/v2.1/spec/ts-web?type=docker"),
        ("v2.0-summary-docker-ts-cpu.json", "/api/v2.0/summary/ts-cpu?type=docker"),
        ("v2.0-ps-docker-ts-web.json", "/api/v2.0/ps/ts-web?type=docker"),
    ],
)
def test_recorded_requests_of_v2(
    program: Program, ids: dict[str, str], recorded_tree: Callable[[str], Path], file: str, path: str
) -> None:
    theirs = json.loads((recorded_tree("cadvisor-rest") / "docker" / file).read_bytes())
    answer = ask(program, path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    ours = answer.json
    if isinstance(ours, list):
        check(theirs, ours)
        return
    assert {name.rpartition("/")[2] for name in ours} <= set(ids.values())
    (example,) = [v for k, v in theirs.items() if "9ffe89d7" in k] or [next(iter(theirs.values()))]
    of_web = [v for k, v in ours.items() if k.endswith(ids["ts-web"])] or list(ours.values())
    check({"{}": example}, {"{}": of_web[0]})


def test_an_unknown_container(program: Program, recorded_tree: Callable[[str], Path]) -> None:
    said = (recorded_tree("cadvisor-rest") / "docker/v1.3-docker-nosuch.txt").read_text().rstrip("\n")
    answer = ask(program, "/api/v1.3/docker/nosuch")
    assert (answer.status, answer.text) == (
        404,
        said.replace('unable to find Docker container "nosuch"', 'unable to find container "nosuch" in "docker" namespace'),
    )


FAMILIES = Path(__file__).parent.parent / "api/cadvisor_families.tsv"
ELSEWHERE = {
    "container_cpu_load_average_10s": "what counts tasks may be refused here",
    "container_tasks_state": "the same",
}
"""Recorded families that need not be on this host's page, and why; those of interfaces and disks besides."""
OF_DEVICES = ("container_network_", "container_fs_", "container_blkio_")


def test_the_page_for_prometheus_names_containers_as_cadvisor_did(program: Program, ids: dict[str, str]) -> None:
    """Families, types and label names against those of the recorded page of a host with Docker."""
    page = parsed(program.get("/metrics").decode())
    rows = [line.split("\t") for line in FAMILIES.read_text().splitlines()[1:]]
    recorded = {name: (kind, set(filter(None, labels.split(",")))) for name, kind, labels, seen in rows if "docker" in seen}
    recorded = {name: row for name, row in recorded.items() if not name.startswith(("go_", "process_"))}
    assert len(recorded) > 50
    missing = {n for n in recorded.keys() - page.kinds.keys() - ELSEWHERE.keys() if not n.startswith(OF_DEVICES)}
    assert missing == set()
    for name in recorded.keys() & page.kinds.keys():
        kind, labels = recorded[name]
        assert page.kinds[name] == kind, name
        assert labels <= {label for s in page.series if s.name == name for label, _ in s.labels}, name
    for name, id_ in ids.items():
        of_one = [dict(s.labels) for s in page.series if dict(s.labels).get("name") == name]
        assert len({s.name for s in page.series if dict(s.labels).get("name") == name}) > 20
        assert {(labels["image"], labels["id"].rpartition("/")[2]) for labels in of_one} == {(IMAGE, id_)}
    web = next(dict(s.labels) for s in page.series if dict(s.labels).get("name") == "ts-web")
    keys = {"container_label_com_example_role": "web", "container_label_weird_key_1": "val"}
    assert {key: web[key] for key in keys} == keys
    assert page.value("container_spec_memory_limit_bytes", name="ts-web") == WEB["mem_limit"]
    assert page.value("container_spec_cpu_quota", name="ts-web") == WEB["cpu_quota"]
    bare = {label for s in page.series if dict(s.labels).get("id") == "/" for label, value in s.labels if value}
    assert not {"name", "image"} & bare
