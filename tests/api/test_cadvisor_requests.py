"""Each request type, parameter, body, redirect and error of cAdvisor's API, over stores with known content."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.api.cadvisor_rig import Api
from tests.api.exposition_rig import MACHINE, SPEC

from tidegauge.api.cadvisor import routes
from tidegauge.api.cadvisor.request import TYPES, options_of
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.records import End, Event
from tidegauge.pipeline.testing import START_MS, make_container, make_sample, make_schema

NAMES = (
    *("cpu_usage_ns", "cpu_user_ns", "cpu_system_ns", "memory_usage_bytes", "memory_working_set_bytes"),
    *("memory_limit_bytes", "pids_current", "process_count"),
)
TABLES = ("percpu", "network", "disk_io", "filesystem")
SCHEMA = make_schema(NAMES, TABLES)
PLAIN: dict[str, Any] = {"name": None, "image": None, "labels": {}}
ID_A, ID_B = "ab" + "1" * 62, "ab" + "2" * 62
CONTAINERS = [
    make_container(1, "/", machine=MACHINE, spec=SPEC, **PLAIN),
    make_container(2, "/docker", spec=SPEC, **PLAIN),
    *(
        make_container(
            n, f"/docker/{id_}", name=name, aliases=(name,), namespace="docker", container_id=id_, spec=SPEC,
            environment={"TOKEN": "x<y"},
        )
        for n, id_, name in ((3, ID_A, "web"), (4, ID_B, "wet"))
    ),
    make_container(5, f"/docker/{ID_A}/init", namespace="docker", container_id=ID_A, name="web", spec=SPEC),
    make_container(6, "/docker-sib", spec=SPEC, **PLAIN),
]  # fmt: skip
COUNT = 5


def filled(*, is_strict: bool = False) -> Api:
    """Five samples a second apart of each container: at second i CPU stands at i * 500 ms, memory at 1000 + i."""
    api = Api(is_strict=is_strict)
    for i in range(COUNT):
        samples = []
        for c in CONTAINERS:
            traffic = ("eth0", *range(8))
            disk = ("vda", *[i + 1] * 10)
            tables = (
                (("0", i * 10**9), ("1", 7)),
                (traffic,) if c.is_host or c.namespace else None,
                (disk,),
                (("/dev/vda1", 100, 60, 30, 10, 4),) if c.is_host else None,
            )
            values = {"cpu_usage_ns": i * 500_000_000, "memory_usage_bytes": 1000 + i, "memory_working_set_bytes": 900 + i}
            samples.append(make_sample(SCHEMA, c.number, START_MS + i * 1000, tables, process_count=1, **values))
        api.add(samples, CONTAINERS, SCHEMA)
    return api


@pytest.fixture(scope="module")
def api() -> Api:
    return filled()


@pytest.fixture(scope="module")
def strict() -> Api:
    return filled(is_strict=True)


def stamp(i: int) -> str:
    return f"2023-11-14T22:13:{20 + i}Z"


ERRORS = [
    ("/api/", 400, 400, "Supported API versions: v1.0,v1.1,v1.2,v1.3,v2.0,v2.1"),
    ("/api/v1.0", 400, 400, 'Supported request types: "containers,machine"'),
    ("/api/v1.3/", 400, 400, 'Supported request types: "containers,docker,events,machine,subcontainers"'),
    (
        "/api/v2.1",
        400,
        400,
        'Supported request types: "appmetrics,attributes,events,machine,machinestats,ps,spec,stats,storage,summary,version"',
    ),
    ("/api/v9.9/machine", 404, 500, 'unsupported API version "v9.9"'),
    ("/api/v1.3/nosuch", 404, 500, 'unknown request type "nosuch"'),
    ("/api/v1.0/subcontainers/", 404, 500, 'unknown request type "subcontainers"'),
    ("/api/v2.0/machinestats", 404, 500, 'unknown request type "machinestats"'),
    ("/api/v1.3/containers/no/such", 404, 500, 'failed to get container "/no/such" with error: unknown container "/no/such"'),
    (
        "/api/v1.3/subcontainers/no/such",
        404,
        500,
        'failed to get subcontainers for container "/no/such" with error: no containers found',
    ),
    (
        "/api/v1.3/docker/abc",
        404,
        500,
        'failed to get Docker container "abc" with error: unable to find container "abc" in "docker" namespace',
    ),
    (
        "/api/v1.3/docker/ab",
        400,
        500,
        'failed to get Docker container "ab" with error: unable to find container in "docker" namespace. '
        'Container "ab" is not unique',
    ),
    ("/api/v1.3/docker/a/b", 400, 500, "unknown request for Docker container [a b]"),
    ("/api/v2.0/stats/no/such", 404, 500, 'unknown container "/no/such"'),
    ("/api/v2.1/stats/no/such?recursive=true", 404, 500, 'unknown container: "/no/such"'),
    ("/api/v2.0/stats/?type=zzz", 400, 500, "unknown 'type' \"zzz\""),
    ("/api/v2.0/version?count=x", 400, 500, "failed to parse 'count' option: x"),
    ("/api/v2.0/stats/?count=-2", 400, 500, "invalid 'count' option: only -1 and larger values allowed, not -2"),
    ("/api/v2.0/spec/x?type=docker&recursive=true", 400, 500, 'invalid request for docker container "/x" with subcontainers'),
    ("/api/v2.1/spec/x?type=podman", 404, 500, 'unable to find container "x" in "podman" namespace'),
    ("/api/v2.0/storage?label=nope", 404, 500, 'non-existent label "nope"'),
    ("/api/v2.0/storage?uuid=nope", 404, 500, "cadvisor: no such device"),
    (
        "/api/v1.3/events?stream=true&start_time=2020-01-01T00:00:00Z",
        400,
        500,
        "for a call to watch, request.StartTime and request.EndTime must be uninitialized",
    ),
]


@pytest.mark.parametrize(("path", "status", "strict_status", "text"), ERRORS)
def test_errors_have_cadvisors_texts(api: Api, strict: Api, path: str, status: int, strict_status: int, text: str) -> None:
    answer = api.get(path)
    assert (answer.status, answer.text) == (status, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert (strict.get(path).status, strict.get(path).text) == (strict_status, text)


def test_every_request_type_of_every_version_is_answered(api: Api) -> None:
    api.processes = {"processes": []}
    pairs = [(version, type_) for version, types in TYPES.items() for type_ in types]
    assert len(pairs) == 35
    for version, type_ in pairs:
        answer = api.get(f"/api/{version}/{type_}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), (version, type_, answer)
        json.loads(answer.body)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api", "/api/"),
        ("/api//v1.3/machine?x=1", "/api/v1.3/machine?x=1"),
        ("/api/v1.3/containers/../machine", "/api/v1.3/machine"),
        ("/api/v1.3/containers/a%2F..%2Fb", "/api/v1.3/containers/b"),
        ("/api/v1.3/containers//", "/api/v1.3/containers/"),
        ("/api/v1.3/./machine?a=%3Cb%3E", "/api/v1.3/machine?a=%3Cb%3E"),
    ],
)
def test_unclean_paths_are_redirected(api: Api, path: str, target: str) -> None:
    answer = api.get(path)
    assert (answer.status, answer.headers["location"]) == (301, target)
    assert answer.body.decode() == f'<a href="{target}">Moved Permanently</a>.\n\n'


def test_a_redirect_never_leads_away(api: Api) -> None:
    answer = api.get("/api/..//evil.example/x")
    assert answer.status == 301
    assert answer.headers["location"] == "/evil.example/x"


def test_other_paths_are_not_ours(api: Api) -> None:
    assert api.get("/apis").status == 404


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b"", [0, 1, 2, 3, 4]),
        (b"{}", [0, 1, 2, 3, 4]),
        (b'{"num_stats": 2, "num_samples": 7}', [3, 4]),
        (b'{"num_stats": 1}', [4]),
        (b'{"num_stats": -1}', [0, 1, 2, 3, 4]),
        (b'{"num_stats": 0}', None),
        (b'{"num_stats": 2, "end": "2023-11-14T22:13:22Z"}', [1, 2]),
        (b'{"start": "2023-11-14T23:13:21.000000001+01:00", "end": "2023-11-14T22:13:23.999Z"}', [2, 3]),
        (b'{"start": "0001-01-01T00:00:00Z", "end": "0001-01-01T00:00:00Z"}', [0, 1, 2, 3, 4]),
        (b'{"start": "2030-01-01T00:00:00Z"}', None),
    ],
)
def test_a_body_chooses_samples(api: Api, body: bytes, seconds: list[int] | None) -> None:
    found = api.get("/api/v1.3/containers/docker", "POST", body).json
    if seconds is None:
        assert "stats" not in found
    else:
        assert [s["timestamp"] for s in found["stats"]] == [stamp(i) for i in seconds]
        assert [s["cpu"]["usage"]["total"] for s in found["stats"]] == [i * 500_000_000 for i in seconds]


@pytest.mark.parametrize("body", [b"{bad", b'{"num_stats":"x"}', b'{"start":"yesterday"}', b"[]", b"\xff"])
def test_a_body_that_is_none_is_refused(api: Api, strict: Api, body: bytes) -> None:
    answer = api.get("/api/v1.3/containers/", "POST", body)
    assert answer.status == 400
    assert answer.text.startswith("unable to decode the json value: ")
    assert strict.get("/api/v1.3/containers/", "POST", body).status == 500


def test_a_container_is_shown_with_its_children(api: Api) -> None:
    found = api.get("/api/v1.0/containers/docker/").json
    assert found["name"] == "/docker"
    assert found["subcontainers"] == [{"name": f"/docker/{ID_A}"}, {"name": f"/docker/{ID_B}"}]
    assert not {"id", "aliases", "namespace"} & found.keys()
    root = api.get("/api/v1.0/containers").json
    assert [c["name"] for c in root["subcontainers"]] == ["/docker", "/docker-sib"]


def test_a_runtimes_container_has_its_names(api: Api) -> None:
    ((name, found),) = api.get("/api/v1.2/docker/web").json.items()
    assert name == found["name"] == f"/docker/{ID_A}"
    assert (found["id"], found["aliases"], found["namespace"]) == (ID_A, ["web", ID_A], "docker")
    assert "subcontainers" not in found
    assert found["spec"]["image"] == "registry.example/web:1.2"


@pytest.mark.parametrize("word", ["web", ID_A, ID_A[:3]])
def test_a_docker_container_by_name_id_or_beginning(api: Api, word: str) -> None:
    assert list(api.get(f"/api/v1.3/docker/{word}").json) == [f"/docker/{ID_A}"]
    assert list(api.get(f"/api/v2.1/spec/{word}?type=docker").json) == [f"/docker/{ID_A}"]


@pytest.mark.parametrize("path", ["/api/v1.3/docker", "/api/v1.3/docker/", "/api/v2.0/stats?type=docker&recursive=true"])
def test_all_docker_containers_without_the_cgroups_inside(api: Api, path: str) -> None:
    assert list(api.get(path).json) == [f"/docker/{ID_A}", f"/docker/{ID_B}"]


def test_a_sibling_of_like_name_is_not_below(api: Api, strict: Api) -> None:
    below = ["/docker", f"/docker/{ID_A}", f"/docker/{ID_A}/init", f"/docker/{ID_B}"]
    assert [c["name"] for c in api.get("/api/v1.1/subcontainers/docker").json] == below
    assert list(api.get("/api/v2.0/spec/docker?recursive=true").json) == below
    assert [c["name"] for c in strict.get("/api/v1.1/subcontainers/docker").json] == ["/docker", "/docker-sib", *below[1:]]
    assert len(api.get("/api/v1.1/subcontainers").json) == len(CONTAINERS)


@pytest.mark.parametrize("text", ["1", "TRUE", "True", ""])
def test_only_the_word_true_is_recursive(api: Api, text: str) -> None:
    assert list(api.get(f"/api/v2.0/spec/docker?recursive={text}").json) == ["/docker"]


@pytest.mark.parametrize(("query", "seconds"), [("", [0, 1, 2, 3, 4]), ("count=2", [3, 4]), ("count=-1", [0, 1, 2, 3, 4]),
                                                ("count=0", []), ("count=1&max_age=999999h1.5s", [4])])  # fmt: skip
def test_counts_of_v2(api: Api, query: str, seconds: list[int]) -> None:
    expected = [stamp(i) for i in seconds]
    assert [s["timestamp"] for s in api.get(f"/api/v2.0/stats/docker?{query}").json["/docker"]] == expected
    found = api.get(f"/api/v2.1/stats/docker?{query}").json["/docker"]
    assert [s["timestamp"] for s in found["stats"]] == expected
    assert [s["timestamp"] for s in api.get(f"/api/v2.1/machinestats/what/ever?{query}").json] == expected


def test_a_max_age_that_is_none(api: Api) -> None:
    answer = api.get("/api/v2.1/stats?max_age=5")
    assert (answer.status, answer.text) == (400, "failed to parse 'max_age' option: time: invalid duration \"5\"")


@pytest.fixture
def now_ms(monkeypatch: pytest.MonkeyPatch) -> int:
    """The time is three seconds behind the newest sample."""
    monkeypatch.setattr(routes.time, "time_ns", lambda: (START_MS + 7000) * 1_000_000)
    return START_MS + 7000


@pytest.mark.parametrize("path", ["/api/v2.0/stats/docker", "/api/v2.1/stats/docker", "/api/v2.1/machinestats"])
def test_a_sample_that_is_too_old_is_waited_for(now_ms: int, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    api = filled()
    number = 1 if path.endswith("machinestats") else 2
    container = next(c for c, _ in api.sink.latest() if c.number == number)  # type: ignore[union-attr]

    def ask(kind: str, arguments: Mapping[str, Any], timeout_s: float) -> None:
        api.asked.append((kind, arguments))
        if len(api.asked) == 1:
            raise RequestError("busy", Reason.BUSY)
        api.add([make_sample(SCHEMA, number, now_ms + 1, cpu_usage_ns=1)], [container], SCHEMA)

    monkeypatch.setattr(api, "ask", ask)
    newest = lambda answer: (answer if isinstance(answer, list) else _stats(answer))[-1]["timestamp"]  # noqa: E731
    assert newest(api.get(f"{path}?max_age=3s").json) == stamp(4)
    assert api.asked == []
    assert newest(api.get(f"{path}?max_age=2.9s").json) == "2023-11-14T22:13:27.001Z"
    assert api.asked == [("read_soon", {"containers": [number]})] * 2
    assert newest(api.get(f"{path}?max_age=0s").json) == "2023-11-14T22:13:27.001Z"
    assert len(api.asked) == 2


def _stats(answer: Any) -> Any:
    (found,) = answer.values()
    return found["stats"] if isinstance(found, dict) else found


def test_who_waits_for_a_sample_does_not_wait_for_ever(now_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "RENEW_S", 0.1)
    api = filled()
    assert _stats(api.get("/api/v2.1/stats/docker?max_age=0").json)[-1]["timestamp"] == stamp(4)
    assert len(api.asked) == 1
    api.processes = RequestError("gone", Reason.NOT_RUNNING)
    monkeypatch.setattr(routes, "RENEW_S", 1e9)
    assert _stats(api.get("/api/v2.1/stats/docker?max_age=0").json)[-1]["timestamp"] == stamp(4)
    assert api.get("/api/v2.1/stats/nosuch?max_age=0").status == 404
    assert api.get("/api/v2.1/spec/docker?max_age=0").status == 200


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("0s", 0), ("1.5s", 1500), ("1m30s", 90_000), ("2h", 7_200_000), ("-5s", 0), (".5s", 500), ("1500us", 2)],
)
def test_durations_of_go(text: str, ms: int) -> None:
    assert options_of({"max_age": text}, False).max_age_ms == ms


def test_rates_of_v2_are_since_the_sample_before_in_the_answer(api: Api) -> None:
    for stats in (api.get("/api/v2.0/stats/docker?count=3").json["/docker"], api.get("/api/v2.1/machinestats?count=3").json):
        assert "cpu_inst" not in stats[0]
        for s in stats[1:]:
            assert s["cpu_inst"]["usage"] == {"total": 5 * 10**8, "per_cpu_usage": [10**9, 0], "user": 0, "system": 0}


def test_v21_leaves_the_root_out(api: Api) -> None:
    assert api.get("/api/v2.1/stats/?count=1").json == {}
    assert "/" in api.get("/api/v2.0/stats/?count=1").json
    assert "/" not in api.get("/api/v2.1/stats/?count=1&recursive=true").json


def test_environment_only_for_who_may_see_it(api: Api) -> None:
    raw = api.get("/api/v1.3/docker/web")
    assert raw.json[f"/docker/{ID_A}"]["spec"]["envs"] == {"TOKEN": "x<y"}
    assert rb"x\u003cy" in raw.body
    for path in (
        "/api/v1.3/docker",
        "/api/v2.0/spec?recursive=true",
        "/api/v2.1/stats?recursive=true",
        "/api/v1.3/containers/",
    ):
        assert b"TOKEN" not in api.get(f"/api/{path}", is_local=False).body


def test_processes_only_for_who_may_see_them(api: Api) -> None:
    process = {
        "pid": 7, "parent_pid": 1, "user": None, "uid": 1000, "status": "S", "command": "sh", "cgroup": "/docker",
        "start_ms": None, "cpu_ns": 93_784 * 10**9, "cpu_percent": 1.26, "memory_percent": None, "rss_bytes": 4096,
        "virtual_bytes": 8192, "threads": 1, "processor": 1, "descriptors": None,
    }  # fmt: skip
    api.processes = {"processes": [process]}
    api.asked.clear()
    assert api.get("/api/v2.0/ps/docker", is_local=False).status == 403
    assert api.asked == []
    (shown,) = api.get("/api/v2.0/ps/web?type=docker").json
    assert shown == {
        "user": "1000", "pid": 7, "parent_pid": 1, "start_time": "", "percent_cpu": 1.3, "percent_mem": 0.0, "rss": 4096,
        "virtual_size": 8192, "status": "S", "running_time": "01-02:03:04", "cgroup_path": "", "cmd": "sh", "fd_count": 0,
        "psr": 1,
    }  # fmt: skip
    assert api.asked == [("processes", {"path": f"/docker/{ID_A}", "recursive": False})]
    assert api.get("/api/v2.1/ps?recursive=true").json[0]["cgroup_path"] == "/docker"
    api.processes = RequestError("too late", Reason.TIMED_OUT)
    assert api.get("/api/v2.1/ps").status == 504


def test_storage_and_its_choices(api: Api) -> None:
    (fs,) = api.get("/api/v2.1/storage").json
    assert fs == {
        "timestamp": stamp(4), "device": "/dev/vda1", "mountpoint": "", "capacity": 100, "available": 30, "usage": 60,
        "labels": [], "inodes": 10, "inodes_free": 4,
    }  # fmt: skip


def test_answers_longer_than_a_piece_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from tidegauge.api.cadvisor import routes

    api = filled()
    whole = api.get("/api/v1.3/subcontainers/").json
    monkeypatch.setattr(routes, "WHOLE_BYTES", 100)
    answer = api.get("/api/v1.3/subcontainers/")
    assert "content-length" not in answer.headers
    assert answer.json == whole


def test_without_the_memory_sink_it_says_so(api: Api) -> None:
    api = Api()
    api.sink = None
    for path in ("/api/v1.3/containers/", "/api/v2.1/stats", "/api/v1.3/events", "/api/v1.3/machine"):
        assert api.get(path).status == 503
    assert api.get("/api/v2.0/version").status == 200


def test_what_is_known_of_a_container_is_carried_over_samples_that_say_less() -> None:
    api = Api()
    c = make_container(1, "/a", **PLAIN)
    rows = (None, (("eth0", *range(8)),), None, None)
    api.add([make_sample(SCHEMA, 1, START_MS, rows, memory_usage_bytes=5)], [c], SCHEMA)
    api.add([make_sample(SCHEMA, 1, START_MS + 1000, cpu_usage_ns=9, is_closing=True)], [c], SCHEMA)
    first, second = api.get("/api/v1.3/containers/a").json["stats"]
    assert (first["memory"]["usage"], first["cpu"]["usage"]["total"]) == (5, 0)
    assert (second["memory"]["usage"], second["cpu"]["usage"]["total"]) == (5, 9)
    assert second["network"]["interfaces"] == first["network"]["interfaces"]
    api.add([make_sample(SCHEMA, 1, START_MS + 500, memory_usage_bytes=7)], [c], SCHEMA)
    assert [s["memory"]["usage"] for s in api.get("/api/v1.3/containers/a").json["stats"]] == [5, 7, 7]


def test_a_container_that_ended_is_unknown() -> None:
    api = filled()
    api.write(End(6, START_MS + 9000))
    assert api.get("/api/v1.3/containers/docker-sib").status == 404
    assert "/docker-sib" not in api.get("/api/v2.0/spec?recursive=true").json


def test_containers_of_other_hosts_are_not_shown() -> None:
    api = Api()
    containers = [make_container(1, "/", **PLAIN), make_container(2, "/elsewhere", remote="other", **PLAIN)]
    api.add([make_sample(SCHEMA, c.number) for c in containers], containers, SCHEMA)
    assert list(api.get("/api/v2.0/spec?recursive=true").json) == ["/"]


def events_api(*, is_strict: bool = False) -> Api:
    api = filled(is_strict=is_strict)
    details = {"pid": 5, "process": "tail", "constraint": "CONSTRAINT_MEMCG"}
    api.write(
        *(Event(START_MS + i, "creation", 6, {}, row=100 + i) for i in range(2)),
        *(Event(START_MS + 10 + i, "creation", 2, {}, row=110 + i) for i in range(20)),
        Event(START_MS + 40, "oom", 2, details, row=140),
        Event(START_MS + 41, "oom_kill", 3, details, row=141),
        Event(START_MS + 50, "deletion", 4, {"exit_code": 137}, row=150),
        Event(START_MS + 51, "deletion", 6, {}, row=151),
        Event(START_MS + 52, "clock_step", None, {"step_ms": 1}, row=152),
    )
    return api


@pytest.fixture(scope="module")
def told() -> Api:
    return events_api()


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 0),
        ("all_events=true", 0),
        ("all_events=true&subcontainers=true&max_events=-1", 26),
        ("all_events=1&subcontainers=T&max_events=0", 26),
        ("all_events=yes&subcontainers=true", 0),
        ("creation_events=true&subcontainers=true", 10),
        ("creation_events=true&subcontainers=true&max_events=x", 10),
        ("creation_events=true&subcontainers=true&max_events=3", 3),
        ("oom_events=true&oom_kill_events=true&subcontainers=true", 2),
        ("deletion_events=true&subcontainers=true&start_time=2023-11-14T22:13:20.051Z", 1),
        ("deletion_events=true&subcontainers=true&end_time=2023-11-14T22:13:20.050Z", 1),
        ("deletion_events=true&subcontainers=true&end_time=1700000000", 2),
    ],
)
def test_events_are_chosen(told: Api, query: str, count: int) -> None:
    found = told.get(f"/api/v1.3/events?{query}").json
    assert len(found) == count
    times = [datetime.fromisoformat(e["timestamp"]) for e in found]
    assert times == sorted(times)


def test_events_of_a_container_are_chosen_before_they_are_counted(told: Api) -> None:
    assert len(told.get("/api/v1.3/events/docker-sib?creation_events=true").json) == 2
    strict = events_api(is_strict=True)
    assert strict.get("/api/v1.3/events/docker-sib?creation_events=true").json == []


def test_the_data_of_events(told: Api) -> None:
    found = told.get("/api/v2.1/events/docker?all_events=true&subcontainers=true&max_events=3").json
    assert found == [
        {"container_name": "/docker", "timestamp": "2023-11-14T22:13:20.04Z", "event_type": "oom", "event_data": {}},
        {
            "container_name": f"/docker/{ID_A}",
            "timestamp": "2023-11-14T22:13:20.041Z",
            "event_type": "oomKill",
            "event_data": {"oom": {"pid": 5, "process_name": "tail", "constraint": "CONSTRAINT_MEMCG"}},
        },
        {
            "container_name": f"/docker/{ID_B}",
            "timestamp": "2023-11-14T22:13:20.05Z",
            "event_type": "containerDeletion",
            "event_data": {"container_deletion": {"exit_code": 137}},
        },
    ]


def test_strict_names_the_killed_container_in_oom() -> None:
    strict = events_api(is_strict=True)
    found = strict.get("/api/v2.1/events/docker?oom_events=1&oom_kill_events=1&subcontainers=true").json
    assert [(e["event_type"], e["container_name"]) for e in found] == [("oomKill", "/docker"), ("oom", f"/docker/{ID_A}")]


@pytest.mark.parametrize(
    "path", ["/api/v1.3/docker/web", "/api/v2.1/stats?type=docker&recursive=true", "/api/v2.0/spec/docker/odd"]
)
def test_control_characters_in_names_and_labels_stay_within_their_strings(path: str) -> None:
    text = '"\x00\x07\x1b[31m\r\n\u2028</script>\x7f'
    api = Api()
    odd = make_container(
        9,
        "/docker/odd",
        name="web",
        aliases=("web", text),
        namespace="docker",
        container_id="odd",
        image=text,
        labels={text: text},
    )
    api.add([make_sample(SCHEMA, 9, cpu_usage_ns=1)], [odd], SCHEMA)
    answer = api.get(path)
    assert answer.status == 200
    assert not any(byte < 32 for byte in answer.body)
    assert b"</script>" not in answer.body
    (found,) = answer.json.values()
    spec = found.get("spec", found)
    assert (spec["image"], spec["labels"]) == (text, {text: text})


@pytest.mark.parametrize(("is_strict", "kind", "other"), [(False, "oom_kill", "oom"), (True, "oom", "oom_kill")])
def test_an_oom_kill_of_which_nothing_more_is_known_has_the_same_shape(is_strict: bool, kind: str, other: str) -> None:
    """The kernel's log may leave out who was killed."""
    api = filled(is_strict=is_strict)
    api.write(Event(START_MS, kind, 3, {"count": 1}, row=100), Event(START_MS + 1, other, 3, {"count": 1}, row=101))
    found = api.get("/api/v2.1/events/docker?oom_events=1&oom_kill_events=1&subcontainers=true").json
    assert [(e["event_type"], e["event_data"]) for e in found] == [
        ("oomKill", {"oom": {"pid": 0, "process_name": "", "constraint": ""}}),
        ("oom", {}),
    ]


def test_storage_by_uuid_and_label(tmp_path: Path, api: Api) -> None:
    from tidegauge.api.cadvisor import v2

    (tmp_path / "0a-1B").symlink_to("/dev/vda1")
    sources = _sources(api)
    options = v2.Options("name", 1, False, "", "0a-1B")
    (found,) = v2.storage(options, sources, tmp_path)
    assert json.loads(found)["device"] == "/dev/vda1"
    with pytest.raises(v2.ApiError):
        list(v2.storage(options._replace(uuid="../vda1"), sources, tmp_path))


def _sources(api: Api) -> Any:
    from tidegauge.api.cadvisor.catalog import Catalogs
    from tidegauge.api.cadvisor.series import Series
    from tidegauge.api.cadvisor.sources import Sources
    from tidegauge.api.cadvisor.summary import Summaries

    assert api.sink is not None
    return Sources(api.sink, None, Catalogs().now(api.sink), Series(), Summaries(), False, True)


def test_what_was_read_before_the_samples_that_are_held_is_in_all_of_them() -> None:
    """A table that is read seldom: the store has let go of the sample that had it, and knows its rows still."""
    schema = make_schema(("cpu_usage_ns", "memory_usage_bytes"), ("disk_usage",))
    container = make_container(9, path="/docker/seldom")
    api = Api()
    assert api.sink is not None
    api.sink._age_ms = 5000
    rows = (("/dev/sda1", 100, 100, 7, 1000),)
    for n, tables in enumerate([(rows,), (None,), (None,)]):
        sample = make_sample(schema, 9, START_MS + n * 4000, tables=tables, cpu_usage_ns=n, memory_usage_bytes=1)
        api.add([sample], [container], schema)
    held = [len(s.tables[0] or ()) for s, _ in api.sink.samples(container.instance)]
    assert held == [0, 0]
    answer = api.get("/api/v1.3/containers/docker/seldom").json
    assert [[f["usage"] for f in stats["filesystem"]] for stats in answer["stats"]] == [[100], [100]]
