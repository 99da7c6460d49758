"""Layout `cadvisor`: lines taken apart by an independent parser, and a real InfluxDB asked as dashboards for it do."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.line_parser import parse
from tests.servers import Influxd, VictoriaMetrics, need_victoria_metrics

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, Catalogue
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import MAX_INT, Container, Event, Sample
from tidegauge.pipeline.testing import START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.influxdb_cadvisor import CadvisorEncoder
from tidegauge.sinks.line_protocol import NoLine, encode_batch

TAGS = ("container_name", "machine")
DRIVER = {
    **dict.fromkeys(("cpu_usage_total", "cpu_usage_system", "cpu_usage_user", "load_average"), TAGS),
    "cpu_usage_per_cpu": (*TAGS, "instance"),
    **dict.fromkeys(("rx_bytes", "rx_errors", "tx_bytes", "tx_errors"), TAGS),
    **dict.fromkeys(("memory_usage", "memory_max_usage", "memory_cache", "memory_rss", "memory_swap"), TAGS),
    **dict.fromkeys(("memory_mapped_file", "memory_working_set", "memory_failcnt", "referenced_memory"), TAGS),
    **dict.fromkeys(("memory_total_active_file", "memory_total_inactive_file"), TAGS),
    "memory_failure": (*TAGS, "failure_type", "scope"),
    **dict.fromkeys(("hugetlb_usage", "hugetlb_max_usage", "hugetlb_failcnt"), (*TAGS, "page_size")),
    "perf_stat": (*TAGS, "cpu", "name"),
    **dict.fromkeys(("resctrl_memory_bandwidth_total", "resctrl_memory_bandwidth_local"), (*TAGS, "node_id")),
    "resctrl_llc_occupancy": (*TAGS, "node_id"),
    **dict.fromkeys(("fs_usage", "fs_limit"), (*TAGS, "device", "type")),
}
"""What cAdvisor's driver writes, by measurement with its tags: its source, read once and written down here by hand."""

NAMES = tuple(m.name for m in Catalogue() if m.table in ("sample", "sample_ext"))
TABLES = ("percpu", "network", "hugetlb", "perf", "resctrl", "filesystem", "disk_io")
SCHEMA = make_schema(NAMES, TABLES)
WEB = make_container(1, "/docker/abc", name="web", aliases=("web", "abc"), namespace="docker", container_id="abc")


def rows(table: str, *names: str) -> tuple[tuple[Any, ...], ...]:
    """Rows whose n-th value is 100 times the row and n."""
    width = len(Catalogue().of_table(table))
    return tuple((name, *(100 * i + n for n in range(1, width + 1))) for i, name in enumerate(names, 1))


def full(container: int = 1, ts_ms: int = START_MS) -> Sample:
    """Every value is there, the n-th scalar is 1000 + n."""
    tables = (
        rows("percpu", "0", "1"),
        rows("network", "eth0", "lo"),
        rows("hugetlb", "2MB"),
        rows("perf", "cycles"),
        rows("resctrl", "0"),
        rows("filesystem", "/dev/sda1"),
        rows("disk_io", "sda"),
    )
    return make_sample(SCHEMA, container, ts_ms, tables, **{n: 1000 + i for i, n in enumerate(NAMES)})


def encode(sample: Sample, container: Container = WEB) -> list[tuple[str, dict[str, str], dict[str, Any], int]]:
    text = CadvisorEncoder().encode_sample(container, SCHEMA, sample).decode()
    return [parse(line) for line in text.split("\n")] if text else []


def test_every_measurement_of_the_driver_is_there_with_its_tags() -> None:
    assert len(DRIVER) == 30
    found = encode(full())
    assert {(m, tuple(sorted(tags))) for m, tags, _, _ in found} == {(m, tuple(sorted(tags))) for m, tags in DRIVER.items()}
    assert all(tags["machine"] == "host-a" and tags["container_name"] == "web" for _, tags, _, _ in found)
    assert all(list(fields) == ["value"] and type(fields["value"]) is int and ts == START_MS for _, _, fields, ts in found)
    series = [(m, tuple(sorted(tags.items()))) for m, tags, _, _ in found]
    assert len(set(series)) == len(series), "two values of one series at one time"


def test_values_are_those_of_our_metrics() -> None:
    def scalar(name: str) -> int:
        return 1000 + NAMES.index(name)

    found = {(m, *(v for k, v in sorted(tags.items()) if k not in TAGS)): f["value"] for m, tags, f, _ in encode(full())}
    assert found[("cpu_usage_total",)] == scalar("cpu_usage_ns")
    assert found[("load_average",)] == scalar("cpu_load_milli")
    assert found[("memory_working_set",)] == scalar("memory_working_set_bytes")
    assert found[("memory_failure", "pgfault", "hierarchical")] == scalar("memory_page_faults")
    assert found[("memory_failure", "pgmajfault", "container")] == scalar("memory_major_page_faults")
    assert (found[("cpu_usage_per_cpu", "0")], found[("cpu_usage_per_cpu", "1")]) == (101, 201)
    assert (found[("rx_bytes",)], found[("rx_errors",)], found[("tx_bytes",)]) == (101, 103, 105), "of the first interface"
    assert (found[("fs_limit", "/dev/sda1", "limit")], found[("fs_usage", "/dev/sda1", "usage")]) == (101, 102)
    assert found[("perf_stat", "-1", "cycles")] == 101


def test_what_is_not_known_has_no_line() -> None:
    assert encode(make_sample(SCHEMA)) == []
    (one,) = encode(make_sample(SCHEMA, cpu_usage_ns=7, is_closing=True))
    assert one == ("cpu_usage_total", {"container_name": "web", "machine": "host-a"}, {"value": 7}, START_MS)


@pytest.mark.parametrize(
    ("container", "name"),
    [
        (make_container(1, "/"), "/"),
        (make_container(1, "/system.slice/ssh.service", name="ssh.service", namespace="systemd"), "/system.slice/ssh.service"),
        (WEB, "web"),
        (make_container(1, "/docker/abc", name=None, namespace="docker", container_id="abc"), "abc"),
    ],
)
def test_names_are_those_of_cadvisor(container: Container, name: str) -> None:
    ((_, tags, _, _),) = encode(make_sample(SCHEMA, cpu_usage_ns=7), container)
    assert tags["container_name"] == name


@given(
    st.lists(
        st.tuples(st.lists(st.none() | st.integers(-(2**63), MAX_INT), min_size=4, max_size=4), st.integers(0, 10**6)),
        min_size=1,
        max_size=8,
    )
)
def test_what_an_encoder_remembers_changes_no_line(samples: list[tuple[list[int | None], int]]) -> None:
    names = ("cpu_usage_ns", "memory_usage_bytes", "memory_page_faults", "memory_rss_bytes")
    keeping = CadvisorEncoder()
    for values, ts in samples:
        sample = make_sample(SCHEMA, ts_ms=ts, **dict(zip(names, values, strict=True)))
        lines = keeping.encode_sample(WEB, SCHEMA, sample)
        assert lines == CadvisorEncoder().encode_sample(WEB, SCHEMA, sample)
        got = sorted(f["value"] for _, _, f, _ in map(parse, lines.decode().split("\n") if lines else []))
        usage, memory, faults, rss = values
        assert got == sorted(v for v in (usage, memory, faults, faults, rss) if v is not None)


def test_a_value_without_a_form_rejects_its_row_alone() -> None:
    samples = [
        make_sample(SCHEMA, ts_ms=START_MS + i, memory_usage_bytes=v) for i, v in enumerate((1, 2**63, float("nan"), 4.7))
    ]
    lines, rejected = encode_batch(CadvisorEncoder(), make_batch(samples, (WEB,), (SCHEMA,)))
    assert rejected.keys() == {2, 3}
    assert "expected a number of 64 bit" in rejected[2]
    assert [parse(line.decode())[2] for line in lines if line] == [{"value": 1}, {"value": 4}]
    with pytest.raises(NoLine, match="time"):
        CadvisorEncoder().encode_sample(WEB, SCHEMA, make_sample(SCHEMA, ts_ms=2**60, cpu_usage_ns=1))


def test_new_names_of_a_container_are_in_the_next_line() -> None:
    encoder = CadvisorEncoder()
    sample = make_sample(SCHEMA, cpu_usage_ns=1)
    before = encoder.encode_sample(make_container(1, "/docker/abc", namespace="docker", name=None), SCHEMA, sample)
    assert b"container_name=/docker/abc" in before
    assert b"container_name=web" in encoder.encode_sample(WEB, SCHEMA, sample)


def test_every_table_of_the_layout_is_in_the_catalogue() -> None:
    assert set(TABLES) <= INSTANCE_LABELS.keys()


def test_even_spacing_is_of_the_native_layout() -> None:
    with pytest.raises(ConfigError, match=r"sinks\.influxdb\.regular_s: expected none with layout = cadvisor"):
        InfluxdbSink(InfluxdbConfig(layout="cadvisor", regular_s=10))


@pytest.mark.integration
def test_dashboards_of_the_driver_are_answered(influxd: Influxd) -> None:
    """Queries as Grafana's boards for cAdvisor's driver make them."""
    sink: Sink = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="cadvisor", layout="cadvisor"))
    assert sink.takes == (type(make_batch([])),)
    db = make_container(2, "/docker/def", name="db", namespace="docker", container_id="def")
    start = 1_700_000_040_000
    samples = []
    for second in range(0, 120, 10):
        for number in (1, 2):
            values = {
                "cpu_usage_ns": number * second * 10**8,
                "memory_usage_bytes": number << 20,
                "memory_working_set_bytes": (number << 19) + second,
                "memory_page_faults": second * number,
                "memory_major_page_faults": second,
            }
            tables = (None, (("eth0", 1000 * second, *[0] * 3, 10 * second, *[0] * 3), ("lo", *[9] * 8)))
            samples.append(make_sample(SCHEMA, number, start + second * 1000, tables, **values))
    sink.open()
    for _ in range(2):
        sink.write([make_batch(samples, (WEB, db), (SCHEMA,))])
    sink.write([Event(start, "oom", 1, row=99)])
    sink.close()

    def ask(q: str) -> list[dict[str, Any]]:
        return influxd.query(q, "cadvisor")

    when = f"time >= {start}ms AND time < {start + 120_000}ms"
    assert {r["name"] for r in ask("SHOW MEASUREMENTS")} <= DRIVER.keys()
    assert {r["value"] for r in ask('SHOW TAG VALUES FROM "memory_usage" WITH KEY = "container_name"')} == {"web", "db"}
    rate = ask(
        'SELECT derivative(mean("value"), 1s) / 1000000000 AS cores FROM "cpu_usage_total" '
        f'WHERE "container_name" = \'db\' AND {when} GROUP BY time(10s), "machine" fill(none)'
    )
    assert [r["cores"] for r in rate] == pytest.approx([0.2] * 11)
    means = ask(f'SELECT mean("value") FROM "memory_usage" WHERE {when} GROUP BY time(1m), "container_name"')
    assert {(r["container_name"], r["mean"]) for r in means} == {("web", 1 << 20), ("db", 2 << 20)}
    ((last,), (top,)) = (
        ask('SELECT last("value") FROM "memory_working_set" WHERE "container_name" =~ /^web$/'),
        ask('SELECT top("value", "container_name", 1) FROM "memory_working_set"'),
    )
    assert (last["last"], top["container_name"]) == ((1 << 19) + 110, "db")
    traffic = ask(f'SELECT non_negative_derivative(max("value"), 1s) FROM "rx_bytes" WHERE {when} GROUP BY time(1m), "machine"')
    assert [r["non_negative_derivative"] for r in traffic] == [1000.0]
    faults = ask(f'SELECT max("value") FROM "memory_failure" WHERE {when} GROUP BY "failure_type", "container_name", "scope"')
    assert {(r["failure_type"], r["container_name"], r["scope"], r["max"]) for r in faults} == {
        (kind, name, scope, value)
        for kind, name, value in (
            ("pgfault", "web", 110),
            ("pgfault", "db", 220),
            ("pgmajfault", "web", 110),
            ("pgmajfault", "db", 110),
        )
        for scope in ("container", "hierarchical")
    }
    total = ask(f'SELECT sum("value") FROM "memory_usage" WHERE {when} GROUP BY time(10s) LIMIT 1')
    assert total[0]["sum"] == 3 << 20
    ((count,),) = (ask('SELECT count("value") FROM "tx_bytes"'),)
    assert count["count"] == 24, "a repeat is the same points"


@pytest.mark.integration
def test_victoria_metrics_has_a_series_for_each_measurement(tmp_path: Path) -> None:
    need_victoria_metrics()
    with VictoriaMetrics(tmp_path / "victoria") as server:
        sink = InfluxdbSink(InfluxdbConfig(url=server.url, layout="cadvisor"))
        sink.open()
        for _ in range(2):
            sink.write([make_batch([full()], (WEB,), (SCHEMA,))])
        sink.close()
        found = server.export('{__name__!=""}')
    assert {series["metric"]["__name__"] for series in found} == {f"{m}_value" for m in DRIVER}
    (usage,) = (series for series in found if series["metric"]["__name__"] == "memory_usage_value")
    assert usage["metric"] == {"__name__": "memory_usage_value", "container_name": "web", "machine": "host-a"}
    assert (usage["values"], usage["timestamps"]) == ([1000 + NAMES.index("memory_usage_bytes")], [START_MS])
