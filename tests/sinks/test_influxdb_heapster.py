"""Layout `heapster`: what its sink was seen to write, sets, rates and windows; and a real InfluxDB asked as its boards do."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.line_parser import parse
from tests.servers import Influxd

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import RetryableError
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import UNLIMITED, Batch, Container, End, Gap, Record, Sample, Spec
from tidegauge.pipeline.testing import SOURCE, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.influxdb_heapster import HeapsterEncoder, HeapsterOptions

W = 1_700_000_040_000
"""A whole minute."""
NAMES = tuple(m.name for m in Catalogue() if m.table in ("sample", "sample_host"))
SCHEMA = make_schema(NAMES, ("network", "disk_io", "filesystem", "disk_usage", "host_disk"))
NODE = make_container(1, "/", name=None, image=None, labels={})
POD_PATH = "/kubepods/pod11"
_OF_POD = {"pod": "web-1", "pod_namespace": "shop", "pod_uid": "11"}
POD = make_container(2, POD_PATH, runtime="kubernetes", name=None, image=None, labels={}, **_OF_POD)
WEB = make_container(
    3,
    f"{POD_PATH}/abc",
    runtime="containerd",
    container_id="abc",
    name="web",
    image="nginx:1",
    labels={"io.kubernetes.container.name": "web", "tier": "front", "app": "shop"},
    **_OF_POD,
    spec=Spec(
        cpu_shares=512, cpu_quota_us=150_000, cpu_period_us=100_000, memory_limit_bytes=1 << 30, memory_min_bytes=1 << 29
    ),
)
FREE = make_container(4, "/system.slice/ssh.service", name="ssh.service", image=None, labels={}, namespace="systemd")
ALL = (NODE, POD, WEB, FREE)

Stored = dict[tuple[str, tuple[tuple[str, str], ...], int, str], Any]


def store(encoder: HeapsterEncoder, *records: Record, into: Stored | None = None) -> Stored:
    """What an InfluxDB holds after one write of these records, later lines over earlier ones."""
    found: Stored = {} if into is None else into
    encoder.begin([r for r in records if isinstance(r, Batch)])
    for record in records:
        if isinstance(record, Gap):
            encoder.gap(record)
        elif isinstance(record, End):
            encoder.end(record.container)
        elif isinstance(record, Batch):
            lines, rejected = encoder.encode_batch(record)
            assert rejected == {}
            for text in lines:
                for line in text.decode().split("\n") if text else ():
                    measurement, tags, fields, ts_ms = parse(line)
                    found |= {(measurement, tuple(sorted(tags.items())), ts_ms, f): v for f, v in fields.items()}
    encoder.commit()
    return found


def batch(*samples: Sample, containers: Sequence[Container] = ALL, first_row: int = 1) -> Batch:
    return make_batch(samples, containers, (SCHEMA,), first_row)


def sample(container: int, at_s: float, *, closing: bool = False, network: int | None = None, **values: Any) -> Sample:
    tables = (
        ((("eth0", network, 1, 2, 0, network * 2, 1, 3, 0), ("eth1", 1, 0, 0, 0, 1, 0, 0, 0)),) if network is not None else ()
    )
    return make_sample(SCHEMA, container, W + round(at_s * 1000), tables, is_closing=closing, **values)


def of(found: Stored, name: str, kind: str = "", field: str = "value") -> dict[int, Any]:
    """Values of one measurement by seconds after W."""
    return {
        (ts_ms - W) / 1000: value
        for (measurement, tags, ts_ms, f), value in found.items()
        if measurement == name and f == field and kind in ("", dict(tags)["type"])
    }


def encoder(**options: Any) -> HeapsterEncoder:
    return HeapsterEncoder(HeapsterOptions(**options))


def full() -> list[Record]:
    """Two minutes of everything."""
    out: list[Record] = []
    for n, at_s in enumerate((0, 30, 60, 90, 120)):
        samples = []
        for c in ALL:
            values = {m: 10_000 * c.number + 100 * n + i for i, m in enumerate(NAMES) if not m.startswith(("load", "uptime"))}
            network = (("eth0", *range(n, n + 8)),) if c is not FREE else None
            disks = (("sda", *range(n, n + 10)),)
            filesystem = (("/dev/sda1", 100, 60, 40, 1000, 900),) if c is NODE else None
            usage = (("/dev/sda1", 50, 30, 7, 100),) if c is WEB else None
            host_disk = (("sda", *range(100 + n, 113 + n)),) if c is NODE else None
            tables = (network, None if c is NODE else disks, filesystem, usage, host_disk)
            samples.append(make_sample(SCHEMA, c.number, W + at_s * 1000, tables, **values))
        out.append(batch(*samples, first_row=1 + 4 * n))
    return out


INTEGERS = {
    "cpu": ("limit", "load", "request", "usage", "usage_rate"),
    "memory": ("cache", "limit", "major_page_faults", "page_faults", "request", "rss", "usage", "working_set"),
    "network": ("rx", "rx_errors", "tx", "tx_errors"),
    "disk": ("io_read_bytes", "io_write_bytes"),
    "filesystem": ("available", "inodes", "inodes_free", "limit", "usage"),
    "ephemeral_storage": ("usage",),
    "uptime": ("value",),
}
FLOATS = {
    "cpu": ("node_allocatable", "node_capacity", "node_reservation", "node_utilization"),
    "memory": (
        *("node_allocatable", "node_capacity", "node_reservation", "node_utilization"),
        *("page_faults_rate", "major_page_faults_rate"),
    ),
    "network": ("rx_rate", "rx_errors_rate", "tx_rate", "tx_errors_rate"),
    "disk": ("io_read_bytes_rate", "io_write_bytes_rate"),
}
"""Fields that Heapster's sink was seen to write with `withfields=true`, but those that cannot be known here."""
TAGS = {
    "node": {"cluster_name", "nodename", "type"},
    "pod": {"cluster_name", "namespace_name", "nodename", "pod_name", "type"},
    "pod_container": {
        *("cluster_name", "labels", "namespace_name", "nodename", "pod_name", "type"),
        *("container_base_image", "container_name"),
    },
    "sys_container": {"cluster_name", "container_name", "nodename", "type"},
}
"""Tags that it was seen to write, but `schedulable` of a node; `labels` only where there are some."""


def with_machine() -> list[Record]:
    node = msgspec.structs.replace(NODE, machine=Machine(cpus=4, memory_bytes=1 << 34))
    return [msgspec.structs.replace(r, containers={**r.containers, 1: node}) if isinstance(r, Batch) else r for r in full()]


@pytest.mark.parametrize("with_fields", [False, True])
def test_measurements_fields_types_and_tags_are_those_seen(with_fields: bool) -> None:
    found = store(encoder(with_fields=with_fields, cluster_name="c1"), *with_machine())
    types = {(m, f): type(v) for (m, _, _, f), v in found.items()}
    wanted = {(family, name): int for family, names in INTEGERS.items() for name in names}
    wanted |= {(family, name): float for family, names in FLOATS.items() for name in names}
    if not with_fields:
        wanted = {(f"{m}/{f}" if f != "value" else m, "value"): kind for (m, f), kind in wanted.items()}
    assert types == wanted
    for _, tags, ts_ms, _ in found:
        plain = {k: v for k, v in tags if k != "resource_id"}
        assert plain.keys() == TAGS[plain["type"]], plain
        assert plain["cluster_name"] == "c1"
        assert ts_ms % 60_000 == 0
    (web,) = {tags for m, tags, _, _ in found if m.startswith("memory") and dict(tags)["type"] == "pod_container"}
    assert dict(web) == {
        "cluster_name": "c1",
        "container_base_image": "nginx:1",
        "container_name": "web",
        "labels": "app:shop,tier:front",
        "namespace_name": "shop",
        "nodename": "host-a",
        "pod_name": "web-1",
        "type": "pod_container",
    }


def test_labeled_metrics_bear_their_device() -> None:
    found = store(encoder(), *with_machine())
    devices = {(m, dict(tags)["type"], dict(tags).get("resource_id")) for m, tags, _, _ in found}
    assert {d for d in devices if d[2] is not None and d[0] in ("filesystem/usage", "disk/io_read_bytes")} == {
        ("filesystem/usage", "node", "/dev/sda1"),
        ("filesystem/usage", "pod_container", "/dev/sda1"),
        ("disk/io_read_bytes", "node", "sda"),
        ("disk/io_read_bytes", "pod", "sda"),
        ("disk/io_read_bytes", "pod_container", "sda"),
        ("disk/io_read_bytes", "sys_container", "sda"),
    }


def test_counters_with_a_rate_may_be_left_out() -> None:
    found = store(encoder(disable_counters=True), *full())
    names = {m for m, _, _, _ in found}
    assert not names & {"cpu/usage", "network/rx", "memory/page_faults", "disk/io_read_bytes"}
    assert {"cpu/usage_rate", "network/rx_rate", "disk/io_read_bytes_rate", "uptime", "memory/usage"} <= names


def test_requests_and_limits_are_those_of_the_cgroup_and_summed_on_the_node() -> None:
    found = store(encoder(), *full())
    assert set(of(found, "cpu/request", "pod_container").values()) == {500}
    assert set(of(found, "cpu/limit", "pod_container").values()) == {1500}
    assert set(of(found, "memory/limit", "pod_container").values()) == {1 << 30}
    assert set(of(found, "cpu/request", "node").values()) == {500}
    assert set(of(found, "cpu/limit", "pod").values()) == {1500}
    other = msgspec.structs.replace(WEB, number=9, path=f"{POD_PATH}/def", container_id="def")
    other = msgspec.structs.replace(other, spec=Spec(cpu_shares=1024, memory_limit_bytes=UNLIMITED))
    other = msgspec.structs.replace(other, restart_count=3)
    rows = batch(sample(1, 1, cpu_usage_ns=1), sample(2, 1, cpu_usage_ns=1), containers=(*ALL, other))
    both = store(encoder(), rows)
    assert of(both, "cpu/request", "pod") == {60: 1500}
    assert of(both, "restart_count", "pod") == {60: 3}
    assert of(both, "cpu/request", "node") == {60: 1500}
    assert of(both, "memory/limit", "node") == {60: 1 << 30}


def test_a_pods_network_is_that_of_whoever_it_is_counted_at() -> None:
    found = store(encoder(), batch(sample(3, 1, network=7, memory_usage_bytes=5)))
    assert of(found, "network/rx", "pod") == {60: 8}
    assert of(found, "network/rx", "pod_container") == {}
    assert of(found, "memory/usage", "pod_container") == {60: 5}


def test_the_newest_sample_of_a_window_stands_at_its_end() -> None:
    found = store(
        encoder(), *(batch(sample(2, s, memory_usage_bytes=int(s)), first_row=i) for i, s in enumerate((1, 59, 60, 61)))
    )
    assert of(found, "memory/usage") == {60: 60, 120: 61}
    assert of(found, "uptime") == {60: W + 60_000 - POD.created_ms, 120: W + 120_000 - POD.created_ms}


def test_a_rate_is_over_the_window() -> None:
    """2 cores for 20 s, then 0.5 cores: of the first window 1 core on average, over the 60 s since the sample before it."""
    at = [(0, 0), (20, 40), (60, 60), (90, 75)]
    found = store(encoder(), *(batch(sample(2, s, cpu_usage_ns=cpu * 10**9), first_row=i) for i, (s, cpu) in enumerate(at)))
    assert of(found, "cpu/usage_rate") == {60: 1000, 120: 500}
    assert of(found, "cpu/usage") == {0: 0, 60: 60 * 10**9, 120: 75 * 10**9}


def test_a_counter_that_fell_has_no_rate_over_the_fall() -> None:
    at = [(0, 1000), (30, 4000), (60, 100), (90, 400)]
    found = store(encoder(), *(batch(sample(2, s, memory_page_faults=v), first_row=i) for i, (s, v) in enumerate(at)))
    assert of(found, "memory/page_faults_rate") == {60: 100.0, 120: 10.0}


@pytest.mark.parametrize(
    "gap", [Gap(SOURCE, W + 40_000, W + 50_000, "stall", 2), Gap(SOURCE, W + 40_000, W + 50_000, "suspend")]
)
def test_nothing_is_known_across_a_gap(gap: Gap) -> None:
    first, last = (
        batch(sample(2, 40, cpu_usage_ns=0, memory_usage_bytes=1)),
        batch(sample(2, 70, cpu_usage_ns=10**9), first_row=2),
    )
    found = store(encoder(), first, gap, last)
    assert of(found, "cpu/usage_rate") == {}
    others = store(encoder(), first, Gap("another", W + 40_000, W + 50_000, "stall"), last)
    assert of(others, "cpu/usage_rate") == {120: 33}


def test_silence_that_is_too_long_is_unknown() -> None:
    found = store(encoder(), batch(sample(2, 0, cpu_usage_ns=0)), batch(sample(2, 200, cpu_usage_ns=10**9), first_row=2))
    assert of(found, "cpu/usage_rate") == {}
    assert of(found, "cpu/usage").keys() == {0, 240}


def test_a_window_without_a_sample_holds_what_was_before() -> None:
    first = batch(sample(2, 59.9, cpu_usage_ns=0, memory_usage_bytes=7))
    found = store(encoder(), first, batch(sample(2, 120.1, cpu_usage_ns=602 * 10**7, memory_usage_bytes=9), first_row=2))
    assert of(found, "memory/usage") == {60: 7, 120: 7, 180: 9}
    assert of(found, "cpu/usage_rate") == {120: 100, 180: 100}


def test_a_closing_sample_says_that_the_cpu_was_idle() -> None:
    records = (
        batch(sample(2, 10, cpu_usage_ns=5, memory_usage_bytes=7)),
        batch(sample(2, 59, cpu_usage_ns=5, closing=True), first_row=2),
        batch(sample(2, 61, cpu_usage_ns=5 + 2 * 10**9, memory_usage_bytes=8), first_row=3),
    )
    found = store(encoder(), *records)
    assert of(found, "cpu/usage_rate") == {60: 0, 120: 1000}
    assert of(found, "memory/usage") == {60: 7, 120: 8}


TICK = st.tuples(st.integers(1, 45_000), st.none() | st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
TICKS = st.lists(TICK, min_size=1, max_size=12)
Ticks = list[tuple[int, int | None, int, bool]]


@settings(max_examples=40)
@given(TICKS, st.data())
def test_the_store_is_the_same_however_rows_are_cut_and_repeated(ticks: Ticks, data: Any) -> None:
    """All in one write; in writes of any size; and some of these failed first, so that they came again."""
    at_ms, rows = 0, []
    for i, (step_ms, memory, cpu, with_network) in enumerate(ticks):
        at_ms += step_ms
        network = cpu if with_network and i % 2 else None
        values = {"memory_usage_bytes": memory, "cpu_usage_ns": cpu}
        rows.append(batch(sample(2 + i % 2, at_ms / 1000, network=network, **values), first_row=i))
    once = store(encoder(), *rows)
    cut: Stored = {}
    keeping = encoder()
    at = 0
    while at < len(rows):
        size = data.draw(st.integers(1, len(rows)))
        if data.draw(st.booleans()):
            keeping.begin(rows[at : at + size])
            for one in rows[at : at + size]:
                keeping.encode_batch(one)
            keeping.rollback()
        store(keeping, *rows[at : at + size], into=cut)
        at += size
    assert cut == once
    again = dict(once)
    store(keeping, *rows, into=again)
    assert again == once, "rows that are written again in the same run"


@settings(max_examples=40)
@given(TICKS, st.data())
def test_after_a_restart_only_rates_of_its_minute_and_what_was_held_differ(ticks: Ticks, data: Any) -> None:
    at_ms, rows = 0, []
    for i, (step_ms, memory, cpu, with_network) in enumerate(ticks):
        at_ms += step_ms
        values = {"memory_usage_bytes": memory, "cpu_usage_ns": cpu}
        rows.append(batch(sample(3, at_ms / 1000, network=cpu if with_network else None, **values), first_row=i))
    once = store(encoder(), *rows)
    cut = data.draw(st.integers(0, len(rows)))
    restarted = store(encoder(), *rows[:cut])
    store(encoder(), *rows[cut:], into=restarted)
    assert restarted.keys() <= once.keys()
    window = -(-rows[cut].samples[0].ts_ms // 60_000) * 60_000 if cut < len(rows) else 0
    for key, value in restarted.items():
        measurement, _, ts_ms, _ = key
        assert value == once[key] or (measurement.endswith("_rate") and ts_ms == window)
    assert {k for k in once if k[0] == "cpu/usage" and k not in restarted} <= {k for k in once if W < k[2] < window}, (
        "but a minute without a sample"
    )


@settings(max_examples=40)
@given(TICKS)
def test_rates_are_those_of_all_known_intervals_that_end_in_the_window(ticks: Ticks) -> None:
    at_ms, points = 0, []
    for step_ms, _, cpu, _ in ticks:
        at_ms += step_ms
        points.append((at_ms, cpu * 10**6))
    found = store(encoder(), *(batch(sample(2, t / 1000, cpu_usage_ns=v), first_row=i) for i, (t, v) in enumerate(points)))
    sums: dict[int, list[int]] = {}
    for (t0, v0), (t1, v1) in pairwise(points):
        if v1 >= v0:
            inside = sums.setdefault(-(-t1 // 60_000) * 60, [0, 0])
            inside[0] += v1 - v0
            inside[1] += t1 - t0
    got = of(found, "cpu/usage_rate")
    assert got.keys() == sums.keys()
    assert all(abs(got[w] - rise / 1000 / took) < 0.501 for w, (rise, took) in sums.items()), "rounded to the nearest"


def test_a_container_that_is_gone_is_forgotten() -> None:
    keeping = encoder()
    store(keeping, batch(sample(2, 1, cpu_usage_ns=0)), End(2, W + 2000, 2))
    assert of(store(keeping, batch(sample(2, 31, cpu_usage_ns=10**9), first_row=3)), "cpu/usage_rate") == {}


def test_a_row_without_a_form_is_rejected_alone() -> None:
    keeping = encoder()
    rows = batch(sample(2, 1, memory_usage_bytes=2**63), sample(3, 1, memory_usage_bytes=1), make_sample(SCHEMA, 4, 2**60))
    keeping.begin([rows])
    lines, rejected = keeping.encode_batch(rows)
    assert rejected.keys() == {1, 3}
    assert b"memory/usage" in lines[1]


@pytest.mark.integration
def test_boards_of_heapster_are_answered(influxd: Influxd) -> None:
    """Queries as the boards that came with Heapster make them, and as its own historical API did."""
    sink = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="k8s", layout="heapster"))
    assert sink.takes == (Batch, Gap, End)
    sink.open()
    for record in (*with_machine(), *with_machine()):
        sink.write([record])
    sink.write([Gap(SOURCE, W, W + 1, "stall", row=900), End(4, W + 2, 901)])
    sink.close()

    def ask(q: str) -> list[dict[str, Any]]:
        return influxd.query(q, "k8s")

    when = f"time >= {W}ms AND time <= {W + 120_000}ms"
    families = {r["name"].partition("/")[0] for r in ask("SHOW MEASUREMENTS")}
    assert families == {"cpu", "disk", "ephemeral_storage", "filesystem", "memory", "network", "uptime"}
    last = 10_000 + 400
    (working,) = ask(f'SELECT last("value") FROM "memory/working_set" WHERE "type" = \'node\' AND {when} GROUP BY "nodename"')
    assert (working["last"], working["nodename"]) == (last + NAMES.index("memory_working_set_bytes"), "host-a")
    limits = ask(
        f'SELECT sum("value") FROM "cpu/request" WHERE "type" = \'node\' AND {when} GROUP BY time(1m), "nodename" fill(null)'
    )
    assert [r["sum"] for r in limits] == [500, 500, 500]
    pods = ask(
        'SELECT sum("value") FROM "memory/usage" WHERE "type" = \'pod_container\' AND "namespace_name" =~ /^shop$/ '
        f'AND "pod_name" =~ /^web-1$/ AND {when} GROUP BY time(1m), "container_name"'
    )
    usage = NAMES.index("memory_usage_bytes")
    assert [(r["container_name"], r["sum"]) for r in pods] == [("web", 30_000 + 100 * n + usage) for n in (0, 2, 4)]
    names = ask('SHOW TAG VALUES FROM "uptime" WITH KEY = "pod_name" WHERE "namespace_name" = \'shop\'')
    assert {r["value"] for r in names} == {"web-1"}
    rates = ask(f'SELECT "value" FROM "network/rx_rate" WHERE "type" = \'pod\' AND {when} GROUP BY "pod_name"')
    assert [r["value"] for r in rates] == pytest.approx([1 / 30, 1 / 30])
    (used,) = ask(f'SELECT max("value") FROM "memory/node_utilization" WHERE {when}')
    assert used["max"] == pytest.approx((last + usage) / (1 << 34))
    (free,) = ask('SELECT last("value") FROM "filesystem/available" WHERE "type" = \'node\' AND "resource_id" = \'/dev/sda1\'')
    assert free["last"] == 40
    system = ask('SHOW TAG VALUES FROM "cpu/usage_rate" WITH KEY = "container_name" WHERE "type" = \'sys_container\'')
    assert {r["value"] for r in system} == {"system.slice/ssh.service"}
    (count,) = ask('SELECT count("value") FROM "uptime" WHERE "type" = \'pod\'')
    assert count["count"] == 3, "one a window, though everything was written twice"


@pytest.mark.integration
def test_fields_are_merged_into_one_line_a_set(influxd: Influxd) -> None:
    config = InfluxdbConfig(
        url=influxd.url, database="fields", layout="heapster", withfields=True, disable_counter_metrics=True
    )
    sink = InfluxdbSink(config)
    sink.open()
    sink.write(with_machine())
    sink.close()
    rows = influxd.query("SELECT * FROM memory WHERE type = 'node'", "fields")
    assert [r["time"] for r in rows] == [W, W + 60_000, W + 120_000]
    assert rows[2]["page_faults_rate"] == pytest.approx(100 / 30)
    assert "page_faults" not in rows[2]
    assert rows[2]["node_capacity"] == float(1 << 34)
    keys = {r["fieldKey"]: r["fieldType"] for r in influxd.query("SHOW FIELD KEYS FROM cpu", "fields")}
    assert (keys["usage_rate"], keys["request"], keys["node_capacity"]) == ("integer", "integer", "float")


def test_a_failed_write_is_made_again_the_same() -> None:
    sink = InfluxdbSink(InfluxdbConfig(url="http://127.0.0.1:9", layout="heapster", version="1", create=False, timeout_s=2))
    sink.open()
    for _ in range(2):
        with pytest.raises(RetryableError):
            sink.write(full())
    assert sink._heapster is not None
    assert sink._heapster._states == {}
    sink.close()
