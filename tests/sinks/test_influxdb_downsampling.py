"""Downsampling: continuous queries on a real InfluxDB 1.6, texts of tasks and the calls that make them."""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from click.testing import CliRunner
from tests.servers import Influxd
from tests.support import eventually

from tidegauge.cli.main import main
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import PermanentError
from tidegauge.pipeline.testing import PLUGIN_METRICS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.influxdb_admin import Downsampling
from tidegauge.sinks.influxdb_downsampling import Step, backfill, continuous_query, duration, fields, seconds, task
from tidegauge.sinks.influxdb_v1 import V1Transport

SCHEMA = make_schema(("cpu_usage_ns", "memory_usage_bytes"), ("network",), PLUGIN_METRICS)
START_S = 1_700_000_100
"""A multiple of 300."""


@pytest.mark.parametrize(("s", "text"), [(1, "1s"), (90, "90s"), (300, "5m"), (3600, "1h"), (86400 * 14, "14d"), (0, "0d")])
def test_durations_are_written_in_their_largest_unit(s: int, text: str) -> None:
    assert duration(s) == text
    assert seconds(text) == s


@pytest.mark.parametrize(("text", "s"), [("168h0m0s", 604_800), ("0s", 0), ("1h30m0s", 5400), ("1m0s", 60)])
def test_durations_of_the_store_are_read(text: str, s: int) -> None:
    assert seconds(text) == s


def test_a_number_without_a_unit_is_no_duration() -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        seconds("12")


def test_fields_are_the_catalogues_and_those_of_plug_ins() -> None:
    found = fields({"container": ["cpu_usage_ns", "is_closing", "queue_depth", "queue_depth_max", "jobs_total", "load_max"]})
    container = found["container"]
    assert {"memory_usage_bytes", "queue_depth", "load_max"} <= set(container.gauges)
    assert {"cpu_usage_ns", "jobs_total"} <= set(container.counters)
    assert not {"is_closing", "queue_depth_max"} & {*container.gauges, *container.counters}
    assert "load1" in found["host"].gauges
    assert "load1" not in container.gauges
    assert found["network"].gauges == []
    assert "app" not in found
    assert set(fields({"app": ["app_gauge"]})["app"].gauges) == {"app_gauge"}
    catalogue = {m.name for m in Catalogue() if m.table not in ("sample_tcp", "app")}
    assert catalogue == {name for of in fields({}).values() for name in (*of.gauges, *of.counters)}


def test_a_query_names_policies_windows_and_functions() -> None:
    of = fields({})["percpu"]
    assert continuous_query(Step(300, None), "my db", "auto", "percpu", of) == (
        'CREATE CONTINUOUS QUERY "tidegauge_5m_percpu" ON "my db" RESAMPLE EVERY 5m FOR 65m BEGIN '
        'SELECT last("percpu_usage_ns") AS "percpu_usage_ns" INTO "my db"."tidegauge_5m"."percpu" '
        'FROM "my db"."auto"."percpu" GROUP BY time(5m), * END'
    )
    days = list(backfill(Step(300, None), "d", "auto", "percpu", of, (START_S + 7, START_S + 100_000)))
    assert [d.partition("WHERE ")[2].partition("GROUP")[0] for d in days] == [
        f"time >= {START_S}s AND time < {START_S + 86_400}s ",
        f"time >= {START_S + 86_400}s AND time < {START_S + 100_000}s ",
    ]


def test_a_task_makes_whole_windows_of_each_kind() -> None:
    of = fields({})["perf"]
    assert task(Step(3600, 10**6, 7000), "b", "o", "perf", of) == (
        'option task = {name: "tidegauge b 1h perf", every: 1h, offset: 10s}\n'
        'data = from(bucket: "b") |> range(start: -3h) |> filter(fn: (r) => r._measurement == "perf")\n'
        'gauges = ["perf_scaling_ratio"]\n'
        "data |> filter(fn: (r) => contains(value: r._field, set: gauges)) "
        '|> aggregateWindow(fn: mean, every: 1h, createEmpty: false, timeSrc: "_start") |> to(bucket: "b_1h", org: "o")\n'
        "data |> filter(fn: (r) => contains(value: r._field, set: gauges)) "
        '|> aggregateWindow(fn: min, every: 1h, createEmpty: false, timeSrc: "_start") '
        '|> map(fn: (r) => ({r with _field: r._field + "_min"})) |> to(bucket: "b_1h", org: "o")\n'
        "data |> filter(fn: (r) => contains(value: r._field, set: gauges)) "
        '|> aggregateWindow(fn: max, every: 1h, createEmpty: false, timeSrc: "_start") '
        '|> map(fn: (r) => ({r with _field: r._field + "_max"})) |> to(bucket: "b_1h", org: "o")\n'
        'counters = ["perf_count"]\n'
        "data |> filter(fn: (r) => contains(value: r._field, set: counters)) "
        '|> aggregateWindow(fn: last, every: 1h, createEmpty: false, timeSrc: "_start") |> to(bucket: "b_1h", org: "o")\n'
    )


def write(server: Influxd, database: str, *samples: Any, **options: Any) -> InfluxdbSink:
    sink = InfluxdbSink(InfluxdbConfig(url=server.url, database=database, **options))
    sink.open()
    sink.write([make_batch(samples, (make_container(),), (SCHEMA,))])
    return sink


def sample(at_s: float, memory: int, cpu: int, depth: float | None = None, received: int | None = None) -> Any:
    network = None if received is None else (("eth0", received, *[0] * 7),)
    values = {"memory_usage_bytes": memory, "cpu_usage_ns": cpu, "queue_age_seconds": depth}
    return make_sample(SCHEMA, 1, int(at_s * 1000), (network,), **values)


@pytest.mark.integration
def test_windows_of_the_past_are_made(influxd: Influxd) -> None:
    """Least, greatest and mean of gauges, the last of counters, in a policy of their own, with all tags; twice the same."""
    sink = write(
        influxd,
        "past",
        *(sample(START_S + 60 * i, 100 + i, 1000 * i, i / 2, 7 * i) for i in range(10)),
    )
    transport = sink.connect()
    for _ in range(2):
        work = Downsampling(transport, Step(300, 86400 * 3650))
        list(work.apply())
        assert len(list(work.backfill(START_S, START_S + 600))) == len(fields({}))
        rows = influxd.query('SELECT * FROM "tidegauge_5m"."container" GROUP BY *', "past")
        kept = {k: v for k, v in rows[0].items() if v is not None}
        assert len(rows) == 2
        assert kept["time"] == START_S * 1000
        assert (kept["memory_usage_bytes"], kept["memory_usage_bytes_min"], kept["memory_usage_bytes_max"]) == (102, 100, 104)
        assert (kept["cpu_usage_ns"], rows[1]["cpu_usage_ns"]) == (4000, 9000)
        assert (kept["queue_age_seconds"], kept["queue_age_seconds_max"]) == (1.0, 2.0)
        assert (kept["name"], kept["label_tier"], kept["host"]) == ("web-1", "front", "host-a")
        (eth0, _) = influxd.query('SELECT * FROM "tidegauge_5m"."network" GROUP BY *', "past")
        assert (eth0["network_receive_bytes"], eth0["interface"]) == (28, "eth0")
    # History reads the samples, not the windows, and knows no metric that only windows have.
    reader = sink.history()
    assert [m.name for m in reader.metrics() if m.table == "custom"] == ["queue_age_seconds"]
    assert reader.oldest_ms() == START_S * 1000
    transport.close()
    sink.close()


@pytest.mark.integration
def test_a_continuous_query_runs_and_takes_late_rows(influxd: Influxd) -> None:
    now_s = int(time.time())
    sink = write(influxd, "now", *(sample(now_s - 20 + i / 10, 100, 5) for i in range(100)))
    transport = sink.connect()
    said = list(Downsampling(transport, Step(1, None, 600)).apply())
    assert said[0] == "made the retention policy tidegauge_1s"
    assert "made the continuous query tidegauge_1s_container" in said

    def windows() -> dict[int, dict[str, Any]]:
        return {r["time"] // 1000: r for r in influxd.query('SELECT * FROM "tidegauge_1s"."container"', "now")}

    eventually(lambda: now_s - 15 in windows())
    assert windows()[now_s - 15]["memory_usage_bytes"] == 100
    sink.write([make_batch([sample(now_s - 15 + 0.05, 400, 9)], (make_container(),), (SCHEMA,), first_row=500)])
    eventually(lambda: windows()[now_s - 15]["memory_usage_bytes_max"] == 400)
    transport.close()
    sink.close()
    influxd.query("DROP DATABASE now")


@pytest.mark.integration
def test_setting_up_again_changes_only_what_is_wrong(influxd: Influxd) -> None:
    sink = write(influxd, "again db", sample(START_S, 1, 1), retention_policy="")
    transport = sink.connect()
    assert isinstance(transport, V1Transport)

    def apply(retention_s: int | None = 86400, late_s: int = 3600) -> list[str]:
        return list(Downsampling(transport, Step(300, retention_s, late_s)).apply())

    first = apply()
    assert first[0] == "made the retention policy tidegauge_5m"
    assert len(first) == 1 + len(fields({}))
    assert apply() == []
    assert apply(retention_s=None) == [
        "retention policy tidegauge_5m of database again db keeps data for 1d, configured is for ever: it is left as it is; "
        'to change it: ALTER RETENTION POLICY "tidegauge_5m" ON "again db" DURATION 0s'
    ]
    influxd.query('ALTER RETENTION POLICY "tidegauge_5m" ON "again db" DURATION 0s')
    assert apply(retention_s=None) == []
    influxd.query('DROP CONTINUOUS QUERY "tidegauge_5m_percpu" ON "again db"')
    assert apply(retention_s=None) == ["made the continuous query tidegauge_5m_percpu"]
    changed = apply(retention_s=None, late_s=7200)
    assert len(changed) == len(fields({}))
    assert apply(retention_s=None, late_s=7200) == []
    assert "FOR 125m" in transport.continuous_queries()["tidegauge_5m_percpu"]
    transport.close()
    sink.close()


@pytest.mark.integration
def test_a_retention_that_differs_is_told_once_and_left(influxd: Influxd, caplog: pytest.LogCaptureFixture) -> None:
    influxd.query("CREATE DATABASE kept WITH DURATION 26h NAME chosen")
    sink = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="kept", retention_s=7200))
    for _ in range(2):
        sink.open()
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("tidegauge.sinks.influxdb")]
    assert message == (
        f"{influxd.url}: retention policy chosen of database kept keeps data for 26h, configured is for 2h: "
        'it is left as it is; to change it: ALTER RETENTION POLICY "chosen" ON "kept" DURATION 7200s'
    )
    (policy,) = influxd.query("SHOW RETENTION POLICIES ON kept")
    assert policy["duration"] == "26h0m0s"
    influxd.query('ALTER RETENTION POLICY "chosen" ON "kept" DURATION 7200s')
    caplog.clear()
    sink.open()
    sink.close()
    assert caplog.records == []


@pytest.mark.integration
def test_the_command_sets_up_and_prints(influxd: Influxd, tmp_path: Any) -> None:
    write(influxd, "cli", sample(time.time() - 700, 1, 1)).close()
    config = tmp_path / "t.toml"
    config.write_text(
        f'[sinks.influxdb]\nurl = "{influxd.url}"\ndatabase = "cli"\n'
        f'[sinks.old]\nplugin = "influxdb"\nurl = "{influxd.url}"\nlayout = "heapster"\n'
    )

    def run(*options: str) -> str:
        arguments = ["influxdb", "downsampling", "--config", str(config), "--state-dir", str(tmp_path), *options]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    assert run("--print", "--every", "60").startswith('CREATE CONTINUOUS QUERY "tidegauge_1m_container" ON "cli"')
    transport = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="cli")).connect()
    assert isinstance(transport, V1Transport)
    assert transport.continuous_queries() == {}
    said = run("--every", "60", "--retention", "86400", "--since", "3600")
    assert "made the retention policy tidegauge_1m" in said
    assert "made windows of the past" in said
    assert len(influxd.query('SELECT * FROM "tidegauge_1m"."container"', "cli")) == 1
    assert transport.continuous_queries().keys() == {f"tidegauge_1m_{m}" for m in fields({})}
    transport.close()
    refused = CliRunner().invoke(main, ["influxdb", "downsampling", "--sink", "other", "--config", str(config)])
    assert refused.exit_code == 78
    assert "--sink: expected one of influxdb, old, got other" in refused.output


class Api(BaseHTTPRequestHandler):
    """Buckets and tasks of InfluxDB 2 as its API reference shows them."""

    buckets: ClassVar[dict[str, dict[str, Any]]]
    tasks: ClassVar[list[dict[str, Any]]]

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/api/v2/buckets":
            found = [b for n, b in self.buckets.items() if n == query["name"][0]]
            self._send(200 if found else 404, {"buckets": found} if found else {"code": "not found", "message": "no bucket"})
        elif path == "/api/v2/tasks":
            self._send(200, {"tasks": [t for t in self.tasks if t["name"] == query["name"][0]]})
        elif path == "/api/v2/orgs":
            self._send(200, {"orgs": [{"id": "01", "name": "tidegauge"}]})
        else:
            self._send(404, {})

    def do_POST(self) -> None:
        body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/api/v2/buckets"):
            self.buckets[body["name"]] = body | {"id": f"b{len(self.buckets)}"}
            self._send(201, self.buckets[body["name"]])
            return
        name = body["flux"].partition('name: "')[2].partition('"')[0]
        self.tasks.append({"id": f"t{len(self.tasks)}", "name": name, "orgID": "01", **body})
        self._send(201, self.tasks[-1])

    def do_PATCH(self) -> None:
        body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
        task = next(t for t in self.tasks if t["id"] == self.path.rpartition("/")[2])
        task.update(body)
        self._send(200, task)

    def _send(self, status: int, document: Any) -> None:
        body = msgspec.json.encode(document)
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_buckets_and_tasks_of_2_are_made_once_and_mended() -> None:
    handler = type("OneApi", (Api,), {"buckets": {}, "tasks": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    transport = InfluxdbSink(InfluxdbConfig(url=url, version="2", token="t")).connect()
    try:
        first = list(Downsampling(transport, Step(300, 86400)).apply())
        assert first[0] == "made the bucket tidegauge_5m"
        assert len(first) == 1 + len(fields({}))
        (rule,) = handler.buckets["tidegauge_5m"]["retentionRules"]
        assert (rule["type"], rule["everySeconds"]) == ("expire", 86400)
        made = next(t for t in handler.tasks if t["name"] == "tidegauge tidegauge 5m percpu")
        assert made["flux"] == task(Step(300, 86400), "tidegauge", "tidegauge", "percpu", fields({})["percpu"])
        assert (made["status"], made["org"]) == ("active", "tidegauge")
        assert list(Downsampling(transport, Step(300, 86400)).apply()) == []
        assert list(Downsampling(transport, Step(300, 3600)).apply()) == [
            "bucket tidegauge_5m keeps data for 1d, configured is for 1h: it is left as it is; "
            "to change it: influx bucket update --id b0 --retention 3600s"
        ]
        made["flux"] = "option task = {}"
        assert list(Downsampling(transport, Step(300, 86400)).apply()) == ["made the task tidegauge tidegauge 5m percpu"]
        assert made["flux"].startswith('option task = {name: "tidegauge tidegauge 5m percpu"')
        with pytest.raises(PermanentError, match="run the tasks again"):
            list(Downsampling(transport, Step(300, 86400)).backfill(0, 1))
        sink = InfluxdbSink(InfluxdbConfig(url=url, version="2", token="t", bucket="new", retention_s=7200))
        sink.open()
        assert handler.buckets["new"]["retentionRules"][0]["everySeconds"] == 7200
        sink.close()
    finally:
        transport.close()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.integration
def test_a_real_influxdb_2_takes_the_tasks() -> None:
    """Runs where TIDEGAUGE_TEST_INFLUXDB2_URL, _TOKEN and _ORG name a server, which reads each task when it is made."""
    url = os.environ.get("TIDEGAUGE_TEST_INFLUXDB2_URL", "")
    if not url:
        pytest.skip("TIDEGAUGE_TEST_INFLUXDB2_URL names no InfluxDB 2")
    org = os.environ.get("TIDEGAUGE_TEST_INFLUXDB2_ORG", "tidegauge")
    bucket = f"tasks-{os.getpid()}"
    sink = InfluxdbSink(InfluxdbConfig(url=url, org=org, token=os.environ["TIDEGAUGE_TEST_INFLUXDB2_TOKEN"], bucket=bucket))
    sink.open()
    sink.close()
    transport = sink.connect()
    try:
        made = list(Downsampling(transport, Step(300, 86400)).apply())
        assert made[0] == f"made the bucket {bucket}_5m"
        assert len(made) == 1 + len(fields({}))
        assert list(Downsampling(transport, Step(300, 86400)).apply()) == []
    finally:
        transport.close()
