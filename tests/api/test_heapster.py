"""Heapster's APIs over the memory store and a SQL store, filled with pods whose sums are known."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient
from tests.api.access import View
from tests.history_rig import BEGIN_MS, RolledReader
from tests.history_rig import records as rig_records

from tidegauge.api import app
from tidegauge.api.heapster import kube, model, routes
from tidegauge.api.heapster.memory import MemoryReader
from tidegauge.api.heapster.shapes import Points, PointsList, time_text
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.history import Bounds, HistoryReader, StoreError, TooMuch
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import Batch, Container, Record, Sample, Spec
from tidegauge.pipeline.testing.records import START_MS, make_container
from tidegauge.sinks.memory import MemoryConfig, MemorySink
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

MINUTES = 6
NOW_MS = START_MS // 60_000 * 60_000 + 905_000
"""The APIs' clock stands still."""
NAMES = ("cpu_usage_ns", "memory_usage_bytes", "memory_working_set_bytes", "memory_page_faults", "uptime_seconds")
SCHEMA = Catalogue().schema(NAMES, ("network", "filesystem"))
SPEC = Spec(cpu_shares=512, cpu_quota_us=50_000, cpu_period_us=100_000, memory_limit_bytes=256 << 20)


def pod(number: int, name: str, namespace: str, container: str, cgroup: str, **more: Any) -> Container:
    fields: dict[str, Any] = {"pod": name, "pod_namespace": namespace, "pod_uid": f"uid-{name}", "runtime": "containerd"}
    path = f"/kubepods/pod-{name}/{cgroup}" if cgroup else f"/kubepods/pod-{name}"
    return make_container(number, path, name=container, container_id=cgroup or f"uid-{name}", spec=SPEC, **(fields | more))


CONTAINERS = (
    make_container(1, "/", name=None, image=None, labels={}, machine=Machine(cpus=4, memory_bytes=8 << 30)),
    pod(2, "web-0", "shop", "", "", runtime="kubernetes", labels={}),
    pod(3, "web-0", "shop", "nginx", "aaaa", labels={"app": "web"}),
    pod(4, "web-0", "shop", "side", "bbbb", labels={"app": "web"}),
    pod(5, "db-0", "data", "db", "cccc", labels={"app": "db"}),
    make_container(6, "/system.slice/sshd.service", name="sshd.service", image=None, labels={}),
)
MILLICORES = {1: 1500, 2: 350, 3: 200, 4: 100, 5: 40, 6: 7}
MEBIBYTES = {1: 4096, 2: 130, 3: 80, 4: 40, 5: 20, 6: 5}


class Api(NamedTuple):
    client: TestClient
    now_ms: int

    def get(self, path: str, **query: str) -> Any:
        answer = self.client.get(path + (f"?{urlencode(query)}" if query else ""))
        return answer.status_code, json.loads(answer.content) if answer.status_code == 200 else answer.text

    def values(self, path: str, **query: str) -> list[Any]:
        status, found = self.get(path, **query)
        assert status == 200, found
        return [point.get("floatValue", point["value"]) for point in found["metrics"]]

    def start(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now_ms / 1000 - 60 * MINUTES))


def records(start_ms: int) -> Iterator[Record]:
    containers = {c.number: c for c in CONTAINERS}
    row = 100
    yield SCHEMA
    yield from CONTAINERS
    for second in range(0, MINUTES * 60 + 20, 5):
        samples = []
        for number in containers:
            memory = MEBIBYTES[number] << 20
            values = (second * MILLICORES[number] * 10**6, memory, memory // 2, second * 3, 1000.5 + second)
            network = (("eth0", second * 7007 // 10, *(0,) * 7), ("lo", 0, *(0,) * 7))
            filesystem = (("/dev/sda1", 100, 40, 60, 10, 5), ("/dev/sdb1", 200, 90, 110, 10, 5)) if number == 1 else None
            samples.append(Sample(number, start_ms + second * 1000 + number, SCHEMA.id, values, (network, filesystem)))
        yield Batch(samples, range(row, row + len(samples)), {SCHEMA.id: SCHEMA}, containers)
        row += len(samples)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    everything = list(records(NOW_MS - MINUTES * 60_000 - 10_000))
    memory = MemorySink(MemoryConfig())
    sql = SqlSink(SqlConfig(url=f"sqlite:///{tmp_path_factory.mktemp('sql')}/a.db"))
    sql.open()
    for sink in (memory, sql):
        sink.write(everything)
    history: HistoryReader = sql.history()

    class Filled(View):
        def latest(self) -> MemorySink:
            return memory

        def samples(self) -> MemorySink:
            return memory

        def histories(self) -> Mapping[str, HistoryReader]:
            return {"sql": history}

    client = TestClient(app.build(Filled(), HttpConfig(), "here"), base_url="http://localhost")  # type: ignore[arg-type]
    with client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "_now_ms", lambda: NOW_MS)
        yield Api(client, NOW_MS)
    sql.close()


ROOTS = ("/api/v1/model", "/api/v1/historical")


@pytest.mark.parametrize("root", ROOTS)
def test_what_there_is(api: Api, root: str) -> None:
    expected = {
        "nodes/": ["host-a"],
        "namespaces/": ["data", "shop"],
        "namespaces/shop/pods/": ["web-0"],
        "namespaces/shop/pods/web-0/containers": ["nginx", "side"],
        "nodes/host-a/freecontainers/": ["system.slice/sshd.service"],
        "namespaces/nowhere/pods/": [],
    }
    for path, names in expected.items():
        assert api.get(f"{root}/{path}") == (200, names)


def test_every_set_has_a_key(api: Api) -> None:
    assert api.get("/api/v1/model/debug/allkeys/")[1] == [
        "cluster",
        "namespace:data",
        "namespace:data/pod:db-0",
        "namespace:data/pod:db-0/container:db",
        "namespace:shop",
        "namespace:shop/pod:web-0",
        "namespace:shop/pod:web-0/container:nginx",
        "namespace:shop/pod:web-0/container:side",
        "node:host-a",
        "node:host-a/container:system.slice/sshd.service",
    ]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nodes/host-a/metrics/cpu/usage_rate", 1500),
        ("nodes/host-a/metrics/memory/usage", 4096 << 20),
        ("nodes/host-a/freecontainers/system.slice/sshd.service/metrics/cpu/usage_rate", 7),
        ("nodes/host-a/freecontainers/system.slice%2Fsshd.service/metrics/cpu-usage", 7),
        ("namespaces/shop/pods/web-0/containers/nginx/metrics/cpu/usage_rate", 200),
        ("namespaces/shop/pods/web-0/containers/side/metrics/memory/working_set", 20 << 20),
        ("namespaces/data/metrics/cpu/usage_rate", 40),
        ("namespaces/data/metrics/memory/usage", 20 << 20),
    ],
)
def test_series_of_one_set(api: Api, root: str, path: str, value: float) -> None:
    found = api.values(f"{root}/{path}", start=api.start())
    assert len(found) >= MINUTES - 2
    assert set(found) == {value}


@pytest.mark.parametrize("root", ROOTS)
def test_a_namespace_is_the_sum_of_its_pods_and_the_cluster_of_all(api: Api, root: str) -> None:
    start = api.start()
    [pods] = set(api.values(f"{root}/namespaces/shop/pods/web-0/metrics/cpu/usage_rate", start=start))
    assert pods == 300, "the sum of the containers, not what the pod's own cgroup used"
    assert set(api.values(f"{root}/namespaces/shop/metrics/cpu/usage_rate", start=start)) == {pods}
    assert set(api.values(f"{root}/metrics/cpu/usage_rate", start=start)) == {pods + 40}


def test_limits_and_capacity_are_told_by_the_model(api: Api) -> None:
    of_pod = "/api/v1/model/namespaces/shop/pods/web-0"
    assert set(api.values(f"{of_pod}/containers/nginx/metrics/cpu/limit")) == {500}
    assert set(api.values(f"{of_pod}/metrics/cpu/limit")) == {1000}
    assert set(api.values("/api/v1/model/namespaces/shop/metrics/memory/limit")) == {512 << 20}
    assert set(api.values("/api/v1/model/metrics/cpu/request")) == {1500}
    assert set(api.values("/api/v1/model/nodes/host-a/metrics/cpu/node_capacity")) == {4000.0}
    assert set(api.values("/api/v1/model/nodes/host-a/metrics/memory/node_utilization")) == {0.5}


@pytest.mark.parametrize("root", ROOTS)
def test_floats_are_kept(api: Api, root: str) -> None:
    status, found = api.get(f"{root}/nodes/host-a/metrics/network/rx_rate", start=api.start())
    assert status == 200
    for point in found["metrics"]:
        assert point["floatValue"] == pytest.approx(700.7, abs=0.2)
        assert point["value"] == round(point["floatValue"])
    assert found["latestTimestamp"] == found["metrics"][-1]["timestamp"]
    assert found["latestTimestamp"].endswith(":00Z")


@pytest.mark.parametrize("root", ROOTS)
def test_labeled_metrics_by_all_their_labels(api: Api, root: str) -> None:
    path, start = f"{root}/nodes/host-a/metrics/filesystem/usage", api.start()
    assert set(api.values(path, start=start, labels="resource_id:/dev/sda1")) == {40}
    assert set(api.values(path, start=start, labels="resource_id:/dev/sdb1")) == {90}
    assert api.values(path, start=start) == []
    status, text = api.get(path, start=start, labels="bad")
    assert (status, text.startswith("invalid label pair 'bad'")) == (400, True)


@pytest.mark.parametrize("root", ROOTS)
def test_what_there_is_not_is_empty(api: Api, root: str) -> None:
    nothing = (200, {"metrics": [], "latestTimestamp": "0001-01-01T00:00:00Z"})
    for path in ("nodes/nowhere/metrics/cpu/usage", "namespaces/shop/pods/none/metrics/cpu/usage", "metrics/no/such"):
        assert api.get(f"{root}/{path}", start=api.start()) == nothing
    status, found = api.get(f"{root}/namespaces/shop/pod-list/web-0,none/metrics/memory/usage", start=api.start())
    assert status == 200
    assert [bool(item["metrics"]) for item in found["items"]] == [True, False]
    for path in ("", "nodes/host-a", "namespaces/shop/what", "debug/other"):
        assert api.get(f"{root}/{path}")[0] == 404


def test_aggregates(api: Api) -> None:
    path = "/api/v1/historical/namespaces/data/metrics-aggregated"
    status, found = api.get(f"{path}/average,max,min,median,count,95-perc/memory/usage", start=api.start(), bucket="2m")
    assert status == 200
    assert found["bucketSize"] == 120 * 10**9
    assert sum(b["count"] for b in found["buckets"]) >= MINUTES - 2
    memory = {"intValue": 20 << 20}
    for bucket in found["buckets"]:
        assert {k: v for k, v in bucket.items() if k not in ("timestamp", "count")} == {
            **dict.fromkeys(("average", "maximum", "minimum", "median"), memory),
            "percentiles": {"95": memory},
        }
    status, found = api.get(f"{path}/count/memory/usage", start=api.start())
    assert (status, found["bucketSize"], len(found["buckets"])) == (200, 0, 1)
    by_uid = "/api/v1/historical/pod-id-list/uid-db-0,uid-none/metrics-aggregated/max/memory/usage"
    status, found = api.get(by_uid, start=api.start())
    assert [len(item["buckets"]) for item in found["items"]] == [1, 0]


def test_a_path_of_many_pods_looks_containers_up_once_and_ends_when_its_time_is_over() -> None:
    store = RolledReader(rig_records(), settled_ms=BEGIN_MS)
    path = f"namespaces/shop/pod-list/{'nobody,' * 1000}nobody/metrics/cpu/usage_rate"
    asked = {"start": time_text(BEGIN_MS)}
    with mock.patch.object(store, "containers", wraps=store.containers) as containers:
        bounds = Bounds(10**6, time.monotonic() + 600)
        found = model.answer(store, path, asked, bounds, BEGIN_MS + 600_000, reach_ms=600_000, is_past=True)
    assert isinstance(found, PointsList)
    assert (len(found.items), containers.call_count) == (1001, 1)
    with pytest.raises(TooMuch):
        model.answer(*(store, path, asked, Bounds(10**6, 0.0), BEGIN_MS + 600_000), reach_ms=600_000, is_past=True)


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("metrics-aggregated/sum/cpu/usage", {"start": "2026-01-01T00:00:00Z"}, "Unknown aggregation 'sum'"),
        ("metrics/cpu/usage_rate", {}, "start: expected a time"),
        ("metrics/cpu/usage_rate", {"start": "yesterday"}, "start: expected a time as"),
        ("metrics-aggregated/max/cpu/usage_rate", {"start": "2026-01-01T00:00:00Z", "bucket": "10x"}, "bucket: expected"),
        ("metrics-aggregated/max/cpu/usage_rate", {"start": "2026-01-01T00:00:00Z", "bucket": "5"}, "bucket: expected"),
        (
            "metrics-aggregated/max/cpu/usage_rate",
            {"start": "2026-01-01T00:00:00Z", "bucket": "9" * 20 + "ms"},
            "bucket: expec",
        ),
        (
            "metrics-aggregated/max/cpu/usage_rate",
            {"start": "2026-01-01T00:00:00Z", "bucket": "9" * 4000 + "s"},
            "bucket: expec",
        ),
        (
            "metrics-aggregated/max/cpu/usage_rate",
            {"start": "2026-01-01T00:00:00Z", "bucket": "10000000000s"},
            "bucket: expected",
        ),
    ],
)
def test_bad_parameters(api: Api, path: str, query: dict[str, str], said: str) -> None:
    status, text = api.get(f"/api/v1/historical/{path}", **query)
    assert (status, text[: len(said)]) == (400, said)


def test_names_of_metrics(api: Api) -> None:
    status, names = api.get("/api/v1/model/namespaces/shop/metrics/")
    assert (status, names) == (200, ["cpu/limit", "cpu/request", "cpu/usage_rate", "memory/limit", "memory/usage"])
    _, names = api.get("/api/v1/model/nodes/host-a/metrics/")
    assert {"uptime", "cpu/usage", "cpu/node_utilization", "network/rx_rate"} <= set(names)
    assert "filesystem/usage" not in names


def test_export_and_its_schema(api: Api) -> None:
    status, sets = api.get("/api/v1/metric-export")
    assert status == 200
    by_name = {(s["labels"].get("pod_name"), s["labels"]["container_name"]): s for s in sets}
    assert set(by_name) == {
        (None, "machine"),
        (None, "system.slice/sshd.service"),
        ("web-0", "/pod"),
        ("web-0", "nginx"),
        ("web-0", "side"),
        ("db-0", "db"),
    }
    [usage] = by_name["web-0", "nginx"]["metrics"]["memory/usage"]
    assert (usage["value"], usage["start"]) == (80 << 20, usage["end"])
    devices = {p["labels"]["resource_id"]: p["value"] for p in by_name[None, "machine"]["metrics"]["filesystem/usage"]}
    assert devices == {"/dev/sda1": 40, "/dev/sdb1": 90}
    status, schema = api.get("/api/v1/metric-export-schema")
    exported = {name for s in sets for name in s["metrics"]}
    assert exported <= {m["name"] for m in schema["metrics"]}


def test_metrics_of_kubernetes(api: Api) -> None:
    root = "/apis/metrics.k8s.io/v1alpha1"
    status, node = api.get(f"{root}/nodes/host-a")
    assert (status, node["usage"], node["window"]) == (200, {"cpu": "1500m", "memory": "2Gi"}, "1m0s")
    status, pods = api.get(f"{root}/namespaces/shop/pods/")
    assert [(p["metadata"]["name"], [c["name"] for c in p["containers"]]) for p in pods["items"]] == [
        ("web-0", ["nginx", "side"])
    ]
    assert pods["items"][0]["containers"][0]["usage"] == {"cpu": "200m", "memory": "40Mi"}
    for selector, names in (("app=db", ["db-0"]), ("app in (web, x)", ["web-0"]), ("app!=web", ["db-0"]), ("!app", [])):
        status, found = api.get(f"{root}/pods", labelSelector=selector)
        assert [p["metadata"]["name"] for p in found["items"]] == names, selector
    for selector in ("app in (", "app in (" + " " * 7000, " " * 7000 + "(", "app in (" + "b," * 1000, "app" + " " * 7000 + "!"):
        assert api.get(f"{root}/pods", labelSelector=selector)[0] == 400  # soon: else a text would hold the server for minutes
    assert api.get(f"{root}/nodes/none")[0] == 404
    assert api.get(f"{root}/what")[0] == 404


def test_without_stores_it_says_so(tmp_path: Path) -> None:
    class Empty(View):
        def latest(self) -> None:
            return None

        def samples(self) -> None:
            return None

        def histories(self) -> Mapping[str, HistoryReader]:
            return {}

    with TestClient(app.build(Empty(), HttpConfig(), "here"), base_url="http://localhost") as client:  # type: ignore[arg-type]
        for path in ("/api/v1/model/nodes/", "/api/v1/historical/nodes/", "/api/v1/metric-export"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


class _Broken:
    """A store that is down."""

    def oldest_ms(self, *asked: object) -> int:
        raise StoreError("it is down")

    containers = metrics = series = gaps = oldest_ms


def node_rates(memory: MemorySink, older: Any) -> object:
    """What the model says of the CPU of the node, of a memory and of what stands behind it."""
    return model.answer(
        MemoryReader(memory),
        "nodes/host-a/metrics/cpu/usage_rate",
        {},
        Bounds(10**6, time.monotonic() + 600),
        NOW_MS,
        reach_ms=routes.MODEL_REACH_MS,
        is_past=False,
        older=older,
    )


def test_a_store_that_is_down_takes_nothing_from_what_the_memory_knows(api: Api) -> None:
    memory = MemorySink(MemoryConfig(storage_duration_s=100))
    for record in records(NOW_MS - MINUTES * 60_000 - 10_000):
        memory.write([record])
    told = {}
    for name, store in (("none", None), ("down", _Broken())):
        told[name] = node_rates(memory, store)
    assert told["none"] == told["down"]
    assert isinstance(told["none"], Points)
    assert {p.value for p in told["none"].metrics} == {1500}
    whole = api.values("/api/v1/model/nodes/host-a/metrics/cpu/usage_rate")
    assert len(whole) > len(told["none"].metrics), "the store tells what the memory holds no longer"


def test_a_window_that_the_memory_holds_in_part_is_told_by_the_store(api: Api) -> None:
    """Of a counter that moves in the first half of each minute alone, a part of a minute has another rate."""
    start_ms = NOW_MS - MINUTES * 60_000 - 5_000
    memory, whole = MemorySink(MemoryConfig(storage_duration_s=100)), MemorySink(MemoryConfig(storage_duration_s=10_000))
    for second in range(0, MINUTES * 60 + 1, 5):
        values = ((second // 60 * 30 + min(second % 60, 30)) * 10**9, None, None, None, None)
        sample = Sample(1, start_ms + second * 1000, SCHEMA.id, values, (None, None))
        for sink in (memory, whole):
            sink.write([Batch([sample], [100 + second], {SCHEMA.id: SCHEMA}, {1: CONTAINERS[0]})])
    found = node_rates(memory, MemoryReader(whole))
    assert isinstance(found, Points)
    assert [p.value for p in found.metrics] == [500] * MINUTES


def test_start_and_end_are_within(api: Api) -> None:
    path = "/api/v1/model/nodes/host-a/metrics/memory/usage"
    times = [p["timestamp"] for p in api.get(path)[1]["metrics"]]
    for root in ROOTS:
        _, found = api.get(path.replace(ROOTS[0], root), start=times[1], end=times[3])
        assert [p["timestamp"] for p in found["metrics"]] == times[1:4]
        assert api.values(path.replace(ROOTS[0], root), start=times[3], end=times[1]) == []


@pytest.mark.parametrize(
    ("text", "expected"), [(0, "0"), (1023, "1023"), (1024, "1Ki"), (1536 << 20, "1536Mi"), ((1 << 30) + 1, "1073741825")]
)
def test_quantities_are_exact(text: int, expected: str) -> None:
    assert kube._quantity(text) == expected


def test_percentiles_are_of_the_nearest_rank() -> None:
    _, found = model._aggregated(0, [float(v) for v in range(1, 11)], ("50-perc", "95-perc", "median", "average"))
    assert found == {"50-perc": 5, "95-perc": 10, "median": 5.5, "average": 5.5}


def _asked_of(reader: HistoryReader, since_ms: int, until_ms: int) -> Points:
    found = model.answer(
        reader,
        "nodes/host-a/metrics/cpu/usage_rate",
        {"start": time_text(since_ms), "end": time_text(until_ms)},
        Bounds(10**6, time.monotonic() + 600),
        until_ms,
        reach_ms=routes.PAST_REACH_MS,
        is_past=True,
    )
    assert isinstance(found, Points)
    return found


def test_minutes_while_samples_are_held_and_the_windows_of_roll_ups_before_that() -> None:
    given, end_ms = rig_records(), BEGIN_MS + 10_800_000
    fresh = _asked_of(RolledReader(given, settled_ms=end_ms), BEGIN_MS, end_ms)
    assert 170 < len(fresh.metrics) < 180, "every minute but those in gaps"
    pruned = _asked_of(RolledReader(given, settled_ms=end_ms, raw_ms=BEGIN_MS + 9_000_000), BEGIN_MS, end_ms)
    assert [p.timestamp for p in pruned.metrics] == [time_text(BEGIN_MS + i * 300_000) for i in range(1, 37)]
    mean = lambda points: sum(p.float_value or p.value for p in points) / len(points)  # noqa: E731
    assert mean(pruned.metrics) == pytest.approx(mean(fresh.metrics), rel=0.01)
