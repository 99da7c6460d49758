"""The client with what a real cAdvisor 0.35 answered, over a real connection."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.client.recorded import ANSWERS, STREAMS, Recorded, differences, load
from tests.client.serving import Server, answer, stream

from tidegauge.client import Client, HttpError

Tree = Callable[[str], Path]


@pytest.mark.parametrize("recorded", ANSWERS, ids=lambda r: r.file)
def test_every_recorded_answer_is_told_field_for_field(recorded: Recorded, recorded_tree: Tree) -> None:
    data = (recorded_tree("cadvisor-rest") / recorded.file).read_bytes()
    with Server(answer(data)) as server, Client(server.url) as client:
        value = recorded.call(client)
        [request] = server.requests
    assert request.target == recorded.target
    if recorded.body is None:
        assert (request.method, request.body) == ("GET", b"")
    else:
        assert (request.method, load(request.body)) == ("POST", recorded.body)
    raw = load(data)
    if isinstance(value, list) and isinstance(raw, dict):  # docker: the names are in the containers too
        raw = list(raw.values())
    elif isinstance(raw, dict) and "docker/" in request.target and "/v1.3/docker" in request.target:
        [raw] = raw.values()
    assert differences(value, raw) == []


def test_no_recorded_answer_is_left_out(recorded_tree: Tree) -> None:
    root = recorded_tree("cadvisor-rest")
    files = {str(p.relative_to(root)) for folder in ("raw", "docker") for p in (root / folder).glob("*.json")}
    errors = {"docker/all-metrics_v2.0-ps.json"}
    assert files - errors == {r.file for r in ANSWERS if r.file.endswith(".json")}
    assert set(STREAMS) == {str(p.relative_to(root)) for p in root.glob("*/*.ndjson")}


def test_a_difference_would_be_seen() -> None:
    with Server(answer(b'{"num_cores":2,"later":1,"hugepages":null}')) as server, Client(server.url) as client:
        value = client.machine_info()
    assert differences(value, {"num_cores": 2, "hugepages": None}) == []
    assert differences(value, {"num_cores": 3, "later": 1}) != []
    assert differences(value, {"later": 1}) == ["$.later: in no type"]
    assert differences(value, {"hugepages": [{}]}) != []


def test_some_values_by_hand(recorded_tree: Tree) -> None:
    root = recorded_tree("cadvisor-rest")
    with Server(answer((root / "raw/v1.3-containers-a-3stats.json").read_bytes())) as server, Client(server.url) as client:
        info = client.container_info("/bench-contract/a")
    assert info.name == "/bench-contract/a"
    assert (info.spec.cpu.limit, info.spec.cpu.quota, info.spec.cpu.period) == (512, 50_000, 100_000)
    assert (info.spec.memory.limit, info.spec.memory.reservation, info.spec.processes.limit) == (128 << 20, 64 << 20, 40)
    assert info.spec.start_time is None  # newer than 0.35
    first, second, third = info.stats
    assert first.timestamp < second.timestamp < third.timestamp
    assert first.timestamp.utcoffset() == datetime.now(UTC).utcoffset()
    cores = (third.cpu.usage.total - first.cpu.usage.total) / 1e9 / (third.timestamp - first.timestamp).total_seconds()
    assert 0.1 < cores < 0.6  # half a CPU was allowed, on a busy machine
    assert 32 << 20 <= third.memory.usage <= 128 << 20
    assert first.cpu.psi is None
    assert first.memory.events is None


@pytest.mark.parametrize("file", STREAMS)
def test_a_recorded_stream(file: str, recorded_tree: Tree) -> None:
    lines = (recorded_tree("cadvisor-rest") / file).read_bytes().splitlines(keepends=True)
    with (
        Server(stream(*lines)) as server,
        Client(server.url) as client,
        client.stream_events("/bench-contract") as events,
    ):
        found = list(events)
    assert server.requests[0].target == "/api/v1.3/events/bench-contract?stream=true&all_events=true&subcontainers=true"
    assert [differences(event, json.loads(line)) for event, line in zip(found, lines, strict=True)] == [[], []]


def test_errors_say_status_and_text(recorded_tree: Tree) -> None:
    root = recorded_tree("cadvisor-rest")
    index = [line.split("\t") for line in (root / "raw/INDEX.tsv").read_text().splitlines()]
    for file, _, _, status, kind, *_ in index:
        if file.startswith("err-") and status[0] in "45":
            body = (root / "raw" / file).read_bytes()
            script = answer(body, f"{status} Whatever", f"Content-Type: {kind}")
            with Server(script) as server, Client(server.url) as client, pytest.raises(HttpError) as caught:
                client.machine_info()
            assert caught.value.status == int(status)
            assert caught.value.text == body.decode().strip()
            assert caught.value.url == f"{server.url}/api/v1.3/machine"
            assert body.decode().strip() in str(caught.value)
