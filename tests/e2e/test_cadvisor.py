"""The whole program on live cgroups of the layout in which a cAdvisor 0.35 was recorded, asked what that one was asked."""

import contextlib
import http.client
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.api.cadvisor_rig import Answer, compare, unlisted
from tests.e2e.program import Program, _UnixConnection, eventually, real_cgroups
from tests.support import need

PARENT = f"tg-rest-{os.getpid()}"
CONFIG = """
[metrics]
enable = ["cpu_topology"]
[http]
listen = ""
{http}
[sinks.memory]
storage_duration_s = 600
"""
BAD_REQUESTS = (
    *("count", "unable to decode", "unknown 'type'", "invalid request", "unknown request for Docker"),
    "must be uninitialized",
)
NEWER_TEXTS = (
    ("unable to find Docker container", "unable to find container"),
    ("failed to parse 'count' option: -2", "invalid 'count' option"),
)


def recorded(rest: Path) -> Iterator[tuple[str, str, str, bytes, int, str, str]]:
    for line in (rest / "raw/INDEX.tsv").read_text().splitlines():
        file, path, method, status, content_type, *rest_of_line = line.split("\t")
        if path.startswith("/api"):
            method, _, body = method.partition(" ")
            location = rest_of_line[0] if rest_of_line else ""
            yield file, path, method, body.encode(), int(status), content_type, location


def ask(program: Program, path: str, method: str = "GET", body: bytes = b"") -> Answer:
    connection = _UnixConnection(program.state / "tidegauge.sock")
    with contextlib.closing(connection):
        connection.request(method, path, body or None)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@pytest.fixture(scope="module", params=["", 'compat = "strict"'], ids=["right", "strict"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    need(os.geteuid() == 0, "root, to make cgroups")
    need(os.access("/sys/fs/cgroup", os.W_OK), "a writable cgroup hierarchy")
    folder = tmp_path_factory.mktemp("program")
    with real_cgroups(PARENT, ("a", "b")), Program(folder, CONFIG.format(http=request.param)) as program:
        _limit()
        eventually(lambda: _samples(program) >= 4, 60, "there are no samples")
        eventually(lambda: "quota" in _spec(program)["cpu"], 90, "the limits are not read")
        eventually(lambda: ask(program, "/api/v1.3/machine").status == 200, 60, "the machine is not read")
        eventually(lambda: all("filesystem" in s for s in _of_machine(program)), 90, "the filesystems are not read")
        yield program


def _limit() -> None:
    """The limits of the recorded cgroup `a`."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        files = {"cpu.max": "50000 100000", "cpu.weight": "20", "memory.max": "134217728", "memory.low": "67108864"}
        files |= {"pids.max": "40"}
        places = {f"{PARENT}/a/{name}": text for name, text in files.items()}
    else:
        of_cpu = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000", "cpu.shares": "512"}
        of_memory = {"memory.limit_in_bytes": "134217728", "memory.soft_limit_in_bytes": "67108864"}
        places = {f"cpu/{PARENT}/a/{name}": text for name, text in of_cpu.items()}
        places |= {f"memory/{PARENT}/a/{name}": text for name, text in of_memory.items()}
        places |= {f"pids/{PARENT}/a/pids.max": "40"}
    for place, text in places.items():
        (root / place).write_text(text)


def _samples(program: Program) -> int:
    answer = ask(program, f"/api/v1.3/containers/{PARENT}/a")
    return len(answer.json.get("stats", ())) if answer.status == 200 else 0


def _of_machine(program: Program) -> list[Any]:
    found: list[Any] = ask(program, "/api/v2.1/machinestats?count=2").json
    return found


def _spec(program: Program) -> Any:
    return ask(program, f"/api/v1.3/containers/{PARENT}/a").json["spec"]


def is_strict(program: Program) -> bool:
    return "strict" in program.file.read_text()


def renamed(value: Any) -> Any:
    """A recorded answer with our cgroup's name."""
    return json.loads(json.dumps(value).replace("bench-contract", PARENT))


@pytest.mark.integration
def test_recorded_requests_have_the_recorded_status_and_shape(program: Program, recorded_tree: Any) -> None:
    rest = recorded_tree("cadvisor-rest")
    asked = shapes = 0
    problems: list[str] = []
    for file, path, method, body, status, content_type, location in recorded(rest):
        said = (rest / "raw" / file).read_bytes()
        if file == "v1.3-containers-a-range.json":
            body = b'{"num_stats":-1,"start":"2026-11-23T11:21:29Z"}'  # no end, since samples are of today here
        if file == "err-v2-bad-maxage.txt":
            status, content_type = 500, "text/plain; charset=utf-8"  # 0.35 did not know the parameter
        answer = ask(program, path.replace("bench-contract", PARENT), method, body)
        text = said.decode(errors="replace").replace("bench-contract", PARENT)
        if status == 500 and not is_strict(program):
            status = 400 if any(word in text for word in BAD_REQUESTS) or "max_age" in path else 404
        assert answer.status == status, (path, answer)
        asked += 1
        if status == 301:
            assert location.endswith(answer.headers["location"])
            assert answer.body == said
        elif status != 200:
            assert answer.headers["content-type"] == content_type
            _same_text(file, text, answer)
        else:
            assert answer.headers["content-type"] == content_type, path
            if answer.body != said and said not in (b"[]", b"{}", b'""'):
                problems += _other_shape(file, renamed(json.loads(said)), answer.json)
                shapes += 1
    assert not problems, "\n".join(dict.fromkeys(problems))
    assert asked == 66
    assert shapes > 30


def _same_text(file: str, said: str, answer: Answer) -> None:
    if file in ("err-bad-json.txt", "err-bad-json-type.txt", "err-v2-bad-maxage.txt"):
        # behind the colon stands what another language's decoder says
        assert file == "err-v2-bad-maxage.txt" or answer.text.startswith("unable to decode the json value: ")
        return
    if any(old in said and new in answer.text for old, new in NEWER_TEXTS):
        return
    assert answer.text == said.rstrip("\n")


def _other_shape(file: str, theirs: Any, ours: Any) -> list[str]:
    """Differences that are not listed; of containers those that both have."""
    names = re.compile(rf"/(?!{PARENT})")
    if isinstance(theirs, dict) and any(k.startswith("/") for k in theirs):
        theirs = {k: v for k, v in theirs.items() if not names.match(k) or k == "/"}
        ours = {k: v for k, v in ours.items() if not names.match(k) or k == "/"}
        theirs = {k: v for k, v in theirs.items() if k in ours}
        assert theirs, file
    elif isinstance(theirs, list) and theirs and "spec" in theirs[0]:
        by_name = {c["name"]: c for c in theirs}
        pairs = [(by_name[o["name"]], o) for o in ours if o["name"] in by_name]
        assert pairs, file
        return [problem for t, o in pairs for problem in _other_shape(file, t, o)]
    elif isinstance(theirs, list) and theirs and "event_type" in theirs[0]:
        # what happened here is not what happened there: each of ours is held against one of theirs of its type
        by_type = {e["event_type"]: [e] for e in theirs}
        return [p for o in ours if o["event_type"] in by_type for p in _shape(file, by_type[o["event_type"]], [o])]
    return _shape(file, theirs, ours)


def _shape(file: str, theirs: Any, ours: Any) -> list[str]:
    found = unlisted(compare(theirs, ours, "machine" if file.endswith(("machine.json", "attributes.json")) else ""))
    # the recorded cgroups did block I/O, and ours may have nothing to do it on; recorded trees show its form
    found = [d for d in found if not (d.kind == "missing" and d.place.endswith(("io_service_bytes", "io_serviced")))]
    return [f"{d.kind} {d.place} in {file}: theirs {str(d.theirs)[:60]}, ours {str(d.ours)[:60]}" for d in found]


@pytest.mark.integration
def test_events_are_streamed_a_line_each(program: Program) -> None:
    """As recorded: chunked, without a content type, only what comes after the call."""
    connection = _UnixConnection(program.state / "tidegauge.sock")
    with contextlib.closing(connection):
        connection.request("GET", f"/api/v1.3/events/{PARENT}-new?stream=true&all_events=true&subcontainers=true")
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("transfer-encoding") == "chunked"
        assert response.getheader("content-type") is None
        with real_cgroups(f"{PARENT}-new", ("x",)):
            names = {_next(response)["container_name"] for _ in range(2)}
            assert names == {f"/{PARENT}-new", f"/{PARENT}-new/x"}
        gone = [_next(response) for _ in range(2)]
        assert {e["event_type"] for e in gone} == {"containerDeletion"}
        assert all(e["event_data"] == {"container_deletion": {"exit_code": -1}} for e in gone)


def _next(response: http.client.HTTPResponse) -> Any:
    while not (line := response.readline()).strip():
        assert line, "the stream has ended"
    return json.loads(line)


@pytest.mark.integration
def test_limits_and_counters_are_the_kernels(program: Program) -> None:
    """Two answers around a reading of the kernel's own file."""
    root = Path("/sys/fs/cgroup")
    path = f"/api/v1.3/containers/{PARENT}/a"
    before = ask(program, path, "POST", b'{"num_stats":1}').json["stats"][0]["cpu"]["usage"]["total"]
    if (root / "cgroup.controllers").exists():
        text = (root / PARENT / "a/cpu.stat").read_text()
        kernel = int(text.split()[1]) * 1000
    else:
        kernel = int((root / "cpuacct" / PARENT / "a/cpuacct.usage").read_text())
    assert before <= kernel

    def caught_up() -> bool:
        return int(ask(program, path, "POST", b'{"num_stats":1}').json["stats"][0]["cpu"]["usage"]["total"]) >= kernel

    eventually(caught_up, 30, "the counter does not arrive")


@pytest.mark.integration
def test_an_idle_container_is_read_when_a_younger_sample_is_asked_for(program: Program) -> None:
    with real_cgroups(f"{PARENT}-idle", ()):
        path = f"/api/v2.1/stats/{PARENT}-idle?count=1"

        def newest_ms(more: str = "") -> float:
            (found,) = ask(program, path + more).json.values()
            return datetime.fromisoformat(found["stats"][-1]["timestamp"]).timestamp() * 1000

        def is_old() -> bool:
            answer = ask(program, path)
            return (
                answer.status == 200
                and bool(answer.json.get(f"/{PARENT}-idle", {}).get("stats"))
                and _age_ms(newest_ms()) > 3000
            )

        eventually(is_old, 60, "it is not left alone")
        asked_ms = time.time() * 1000
        # the first answer has it, unless the machine is so loaded that a tick takes longer than an answer waits
        eventually(lambda: newest_ms("&max_age=0s") >= asked_ms - 1, 30, "it is not read")


def _age_ms(ts_ms: float) -> float:
    return time.time() * 1000 - ts_ms
