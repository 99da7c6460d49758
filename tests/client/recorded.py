"""What a real cAdvisor 0.35 answered, the call of the client that asks for it, and a comparison of the two."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from tidegauge.client import Client, ContainerInfoQuery, EventQuery
from tidegauge.client.decoding import ZERO_TIME

A = "/bench-contract/a"
WEB = "9ffe89d709968054fe5f79f07714d2e83d8b403ea513a258cf7f6ae1063b4276"
CPU = "18775b6979003783ed469997576f07c464813add8ad5dce0d5f129d5dca24cc1"
_EVERYTHING = EventQuery()
_RANGE = ContainerInfoQuery(
    num_stats=-1, start=datetime(2026, 11, 23, 11, 21, 29, tzinfo=UTC), end=datetime(2026, 11, 23, 11, 21, 39, tzinfo=UTC)
)


class Recorded(NamedTuple):
    file: str
    call: Callable[[Client], Any]
    target: str
    """What the client asks for; the version may differ from the one that was recorded, for their answers are the same."""
    body: dict[str, Any] | None = None


def _n(number: int) -> ContainerInfoQuery:
    return ContainerInfoQuery(num_stats=number)


def _v1(file: str, call: Callable[[Client], Any], rest: str, body: dict[str, Any] | None = None) -> Recorded:
    return Recorded(file, call, f"/api/v1.3/{rest}", body)


def _v2(file: str, call: Callable[[Client], Any], rest: str, version: str = "v2.1") -> Recorded:
    return Recorded(file, call, f"/api/{version}/{rest}")


_ALL = "max_events=-1&all_events=true&subcontainers=true"
ANSWERS = (
    _v1("raw/v1.3-machine.json", lambda c: c.machine_info(), "machine"),
    _v1("raw/v1.0-machine.json", lambda c: c.machine_info(), "machine"),
    _v1("raw/v1.3-containers-root.json", lambda c: c.container_info("/", _n(3)), "containers/", {"num_stats": 3}),
    _v1("raw/v1.3-containers-a-3stats.json", lambda c: c.container_info(A, _n(3)), f"containers{A}", {"num_stats": 3}),
    _v1("raw/v1.3-containers-a-default.json", lambda c: c.container_info(A), f"containers{A}"),
    _v1("raw/v1.3-containers-a-all.json", lambda c: c.container_info(A, _n(-1)), f"containers{A}", {"num_stats": -1}),
    _v1("raw/v1.3-containers-a-zero.json", lambda c: c.container_info(A, _n(0)), f"containers{A}", {"num_stats": 0}),
    _v1(
        "raw/v1.3-containers-a-range.json",
        lambda c: c.container_info(A, _RANGE),
        f"containers{A}",
        {"num_stats": -1, "start": "2026-11-23T11:21:29+00:00", "end": "2026-11-23T11:21:39+00:00"},
    ),
    _v1("raw/v1.3-containers-b-3stats.json", lambda c: c.container_info("bench-contract/b"), "containers/bench-contract/b"),
    _v1("raw/v1.3-containers-parent.json", lambda c: c.container_info("/bench-contract"), "containers/bench-contract"),
    _v1("raw/v1.3-containers-parent-slash.json", lambda c: c.container_info("/bench-contract/"), "containers/bench-contract"),
    _v1(
        "raw/v1.3-subcontainers-parent.json", lambda c: c.subcontainers_info("/bench-contract"), "subcontainers/bench-contract"
    ),
    _v1(
        "raw/v1.1-subcontainers-parent.json", lambda c: c.subcontainers_info("/bench-contract"), "subcontainers/bench-contract"
    ),
    _v1("raw/v1.3-docker.json", lambda c: c.all_docker_containers(), "docker/"),
    _v1("raw/v1.3-docker-slash.json", lambda c: c.all_docker_containers(), "docker/"),
    _v1("raw/v1.3-events-all.json", lambda c: c.events(), f"events/?{_ALL}"),
    _v1(
        "raw/v1.3-events-none.json",
        lambda c: c.events(query=EventQuery(types=(), subcontainers=False, max_events=10)),
        "events/?max_events=10",
    ),
    _v1(
        "raw/v1.3-events-a.json",
        lambda c: c.events(A, EventQuery(types=["containerCreation"], subcontainers=False)),
        f"events{A}?max_events=-1&creation_events=true",
    ),
    _v1(
        "raw/v1.3-events-a-default10.json",
        lambda c: c.events(A, EventQuery(types=["containerCreation"], subcontainers=False, max_events=10)),
        f"events{A}?max_events=10&creation_events=true",
    ),
    _v1("raw/v2.0-events-sub.json", lambda c: c.events("/bench-contract"), f"events/bench-contract?{_ALL}"),
    _v2("raw/v2.0-version.json", lambda c: c.v2.version(), "version"),
    _v2("raw/v2.0-attributes.json", lambda c: c.v2.attributes(), "attributes"),
    _v2("raw/v2.0-machine.json", lambda c: c.v2.machine_info(), "machine"),
    _v2("raw/v2.0-stats-a.json", lambda c: c.v2.deprecated_stats(A, count=3), f"stats{A}?count=3", "v2.0"),
    _v2(
        "raw/v2.0-stats-parent-recursive.json",
        lambda c: c.v2.deprecated_stats("/bench-contract", count=1, recursive=True),
        "stats/bench-contract?count=1&recursive=true",
        "v2.0",
    ),
    _v2(
        "raw/v2.0-stats-type-docker.json",
        lambda c: c.v2.deprecated_stats(recursive=True, named="docker"),
        "stats/?recursive=true&type=docker",
        "v2.0",
    ),
    _v2("raw/err-v2-bad-maxage.txt", lambda c: c.v2.deprecated_stats(), "stats/", "v2.0"),
    _v2("raw/v2.1-stats-a.json", lambda c: c.v2.stats(A, count=3), f"stats{A}?count=3"),
    _v2(
        "raw/v2.1-stats-a-maxage0.json",
        lambda c: c.v2.stats(A, count=2, max_age_s=0),
        f"stats{A}?count=2&max_age=0.000000000s",
    ),
    _v2(
        "raw/v2.1-stats-parent-recursive.json",
        lambda c: c.v2.stats("/bench-contract", count=1, recursive=True),
        "stats/bench-contract?count=1&recursive=true",
    ),
    _v2("raw/v2.1-stats-root.json", lambda c: c.v2.stats(count=1), "stats/?count=1"),
    _v2("raw/v2.1-machinestats.json", lambda c: c.v2.machine_stats(count=2), "machinestats?count=2"),
    _v2("raw/v2.0-summary-a.json", lambda c: c.v2.summary(A), f"summary{A}"),
    _v2("raw/v2.0-summary-root.json", lambda c: c.v2.summary(), "summary/"),
    _v2("raw/v2.0-spec-a.json", lambda c: c.v2.spec(A), f"spec{A}"),
    _v2("raw/v2.1-spec-a.json", lambda c: c.v2.spec(A), f"spec{A}"),
    _v2(
        "raw/v2.0-spec-recursive.json",
        lambda c: c.v2.spec("/bench-contract", recursive=True),
        "spec/bench-contract?recursive=true",
    ),
    _v2("raw/v2.0-storage.json", lambda c: c.v2.storage(), "storage"),
    _v2("raw/v2.0-ps-a.json", lambda c: c.v2.ps(A), f"ps{A}"),
    _v2("raw/v2.0-ps-root.json", lambda c: c.v2.ps(), "ps/"),
    _v2("raw/v2.0-appmetrics-a.json", lambda c: c.v2.app_metrics(A), f"appmetrics{A}"),
    _v1("docker/v1.3-docker.json", lambda c: c.all_docker_containers(), "docker/"),
    _v1("docker/v1.3-docker-ts-web-byname.json", lambda c: c.docker_container("ts-web"), "docker/ts-web"),
    _v1("docker/v1.3-docker-ts-web-byid.json", lambda c: c.docker_container(WEB), f"docker/{WEB}"),
    _v1("docker/all-metrics_v1.3-docker-ts-web.json", lambda c: c.docker_container("ts-web"), "docker/ts-web"),
    _v1("docker/v1.3-containers-docker-ts-web.json", lambda c: c.container_info(f"/docker/{WEB}"), f"containers/docker/{WEB}"),
    _v1("docker/v1.3-subcontainers-docker.json", lambda c: c.subcontainers_info("/docker"), "subcontainers/docker"),
    _v1("docker/v1.3-events-all.json", lambda c: c.events(), f"events/?{_ALL}"),
    _v1("docker/v2.0-events-all.json", lambda c: c.events(), f"events/?{_ALL}"),
    _v1(
        "docker/v1.3-events-oom.json",
        lambda c: c.events(query=EventQuery(types=["oom"], max_events=50)),
        "events/?max_events=50&oom_events=true&subcontainers=true",
    ),
    _v1(
        "docker/v1.3-events-oom-kill.json",
        lambda c: c.events(query=EventQuery(types=["oomKill"], max_events=50)),
        "events/?max_events=50&oom_kill_events=true&subcontainers=true",
    ),
    _v1(
        "docker/v1.3-events-creation.json",
        lambda c: c.events(query=EventQuery(types=["containerCreation"], max_events=50)),
        "events/?max_events=50&creation_events=true&subcontainers=true",
    ),
    _v1(
        "docker/v1.3-events-deletion.json",
        lambda c: c.events(query=EventQuery(types=["containerDeletion"], max_events=50)),
        "events/?max_events=50&deletion_events=true&subcontainers=true",
    ),
    _v2(
        "docker/v2.1-stats-docker-recursive.json",
        lambda c: c.v2.stats(count=2, recursive=True, named="docker"),
        "stats/?count=2&recursive=true&type=docker",
    ),
    _v2(
        "docker/all-metrics_v2.1-stats-docker.json",
        lambda c: c.v2.stats(count=2, recursive=True, named="docker"),
        "stats/?count=2&recursive=true&type=docker",
    ),
    _v2(
        "docker/v2.1-stats-docker-ts-web.json",
        lambda c: c.v2.stats("ts-web", count=3, named="docker"),
        "stats/ts-web?count=3&type=docker",
    ),
    _v2(
        "docker/v2.0-stats-docker-recursive.json",
        lambda c: c.v2.deprecated_stats(count=2, recursive=True, named="docker"),
        "stats/?count=2&recursive=true&type=docker",
        "v2.0",
    ),
    _v2(
        "docker/v2.0-spec-docker-recursive.json",
        lambda c: c.v2.spec(recursive=True, named="docker"),
        "spec/?recursive=true&type=docker",
    ),
    _v2("docker/v2.1-spec-docker-ts-web.json", lambda c: c.v2.spec("ts-web", named="docker"), "spec/ts-web?type=docker"),
    _v2("docker/all-metrics_v2.1-spec-ts-web.json", lambda c: c.v2.spec("ts-web", named="docker"), "spec/ts-web?type=docker"),
    _v2(
        "docker/v2.0-summary-docker-ts-cpu.json", lambda c: c.v2.summary("ts-cpu", named="docker"), "summary/ts-cpu?type=docker"
    ),
    _v2(
        "docker/v2.0-summary-docker-recursive.json",
        lambda c: c.v2.summary(recursive=True, named="docker"),
        "summary/?recursive=true&type=docker",
    ),
    _v2("docker/v2.0-ps-docker-ts-web.json", lambda c: c.v2.ps("ts-web", named="docker"), "ps/ts-web?type=docker"),
    _v2("docker/v2.0-ps-name-ts-cpu.json", lambda c: c.v2.ps(f"/docker/{CPU}"), f"ps/docker/{CPU}"),
    _v2("docker/v2.0-ps-root.json", lambda c: c.v2.ps(), "ps/"),
    _v2("docker/v2.0-storage.json", lambda c: c.v2.storage(), "storage"),
    _v2("docker/v2.0-attributes.json", lambda c: c.v2.attributes(), "attributes"),
    _v2("docker/v2.1-machinestats.json", lambda c: c.v2.machine_stats(), "machinestats"),
    _v2("docker/v2.0-machine.json", lambda c: c.v2.machine_info(), "machine"),
)
"""Every recorded success but the streams."""

STREAMS = ("raw/stream-events.ndjson", "raw/stream-events-oom.ndjson")


def differences(value: Any, recorded: Any, at: str = "$") -> list[str]:
    """Where a decoded value does not say what the recorded JSON says; a field of the JSON that no type has is one."""
    if recorded is None:
        return [] if value in (None, (), {}, "", 0, ZERO_TIME) or value == _empty(value) else [f"{at}: {value!r} for null"]
    if isinstance(recorded, dict):
        if isinstance(value, msgspec.Struct):
            names = {f.encode_name: f.name for f in msgspec.structs.fields(value)}
            value = {key: getattr(value, name) for key, name in names.items()}
            missing = [f"{at}.{key}: in no type" for key in recorded.keys() - value.keys()]
        else:
            value = {str(key): v for key, v in value.items()}
            missing = [] if value.keys() == recorded.keys() else [f"{at}: keys differ"]
        return missing + [d for k in recorded.keys() & value.keys() for d in differences(value[k], recorded[k], f"{at}.{k}")]
    if isinstance(recorded, list):
        if len(value) != len(recorded):
            return [f"{at}: {len(value)} for {len(recorded)}"]
        return [d for i, (v, r) in enumerate(zip(value, recorded, strict=True)) for d in differences(v, r, f"{at}[{i}]")]
    if isinstance(value, datetime):
        return [] if _is_time(value, recorded) else [f"{at}: {value!r} for {recorded!r}"]
    if value is None and recorded == "0001-01-01T00:00:00Z":
        return []
    return (
        []
        if value == recorded and isinstance(value, bool) == isinstance(recorded, bool)
        else [f"{at}: {value!r} for {recorded!r}"]
    )


def _empty(value: Any) -> Any:
    return type(value)() if isinstance(value, msgspec.Struct) else None


def _is_time(value: datetime, text: str) -> bool:
    """To the microsecond; the text has up to nine digits and Z."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    expected = datetime.fromisoformat(f"{whole}.{fraction.ljust(6, '0')[:6]}+00:00")
    return abs((value - expected).total_seconds()) <= 1e-6


def load(data: bytes) -> Any:
    return json.loads(data)
