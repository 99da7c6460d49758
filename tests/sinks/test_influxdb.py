"""The sink against real stores: InfluxDB 1.6 by /write, VictoriaMetrics by /api/v2/write, InfluxDB 2 where one is named."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
from tests.servers import Influxd, VictoriaMetrics, need_influxd, need_victoria_metrics

from tidegauge.pipeline.errors import ConfigError, PartialWriteError, PermanentError, RetryableError, TooLargeError
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import UNLIMITED, Batch, End, Event, Gap
from tidegauge.pipeline.testing import (
    METRICS,
    PLUGIN_METRICS,
    SOURCE,
    START_MS,
    SinkContract,
    Stored,
    make_batch,
    make_container,
    make_sample,
    make_schema,
)
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink

MEASUREMENTS = ("container_info", "container_end", "container", "host", "event", "gap", "network", "disk_io")
TAGS = ("container", "host", "image", "name", "namespace", "epoch", "instance")
SCHEMA = make_schema(fragment=PLUGIN_METRICS)


@pytest.fixture
def victoria(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    """One a test, since it knows no databases and does not forget a deleted series at once."""
    need_victoria_metrics()
    with VictoriaMetrics(tmp_path / "victoria") as server:
        yield server


_numbers = itertools.count()


@pytest.fixture
def database() -> str:
    """A database of the test's own: the server is shared."""
    return f"test{next(_numbers)}"


def gather(rows: Iterator[tuple[str, dict[str, str], int, dict[str, Any]]]) -> Stored:
    """Samples in the contract's flat form from (measurement, tags, ts_ms, fields)."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for measurement, tags, ts_ms, fields in rows:
        if measurement in ("container_info", "container_end", "event", "gap"):
            continue
        labels = [v for k, v in tags.items() if v and k not in TAGS and not k.startswith("label_")]
        suffix = "" if measurement in ("host", "container") else f"[{labels[0]}]"
        values = found.setdefault((tags["instance"], int(tags.get("epoch") or 0), ts_ms), {})
        for name, value in fields.items():
            if name == "is_closing":
                values[name] = int(value)
                continue
            assert name + suffix not in values, "a sample is there twice"
            values[name + suffix] = value
    return found.items()


def influxd_rows(server: Influxd, database: str) -> Iterator[tuple[str, dict[str, str], int, dict[str, Any]]]:
    """All lines that the database holds; msgpack, since JSON does not tell 1.0 from 1."""
    fields = {"q": "SELECT * FROM /.*/ GROUP BY *", "db": database, "epoch": "ms"}
    headers = {"Accept": "application/x-msgpack"}
    http = urllib3.PoolManager(retries=False)
    answer = http.request("POST", f"{server.url}/query", fields=fields, encode_multipart=False, headers=headers)
    http.clear()
    for result in msgspec.msgpack.decode(answer.data)["results"]:
        assert "error" not in result
        for series in result.get("series", ()):
            for time, *cells in series["values"]:
                named = zip(series["columns"][1:], cells, strict=True)
                tags = {k: v for k, v in series["tags"].items() if v}
                yield series["name"], tags, time, {k: v for k, v in named if v is not None}


@pytest.mark.integration
class TestInfluxdbSinkOnInfluxd(SinkContract):
    @pytest.fixture(autouse=True)
    def _server(self, influxd: Influxd, database: str) -> None:
        self.server, self.database = influxd, database

    def make_sink(self, tmp_path: Path) -> Sink:
        return InfluxdbSink(InfluxdbConfig(url=self.server.url, database=self.database))

    def make_unreachable_sink(self, tmp_path: Path) -> Sink:
        return InfluxdbSink(InfluxdbConfig(url="http://127.0.0.1:9", timeout_s=2))

    def stored(self, sink: Sink) -> Stored:
        return gather(influxd_rows(self.server, self.database))

    def stored_rows(self, sink: Sink) -> list[int]:
        rows = influxd_rows(self.server, self.database)
        return [fields["row"] for measurement, _, _, fields in rows if measurement in ("event", "gap")]


@pytest.mark.integration
class TestInfluxdbSinkOnVictoriaMetrics(SinkContract):
    """Its values are floats, so integers beyond 2**53 come back rounded: the limit that is none as 2**63."""

    @pytest.mark.parametrize("values", [{}])
    def test_values_come_back_exactly(self, sink: Sink, values: dict[str, Any]) -> None:
        """As exactly as a store of decimal floats can hold them."""
        schema = make_schema((*METRICS, "load1", "load5", "load15", "uptime_seconds"))
        host = make_container(1, "/")
        values = {"cpu_usage_ns": 2**53 - 1, "memory_usage_bytes": 0, "pids_current": -1, "memory_limit_bytes": UNLIMITED}
        exact = make_batch([make_sample(schema, 1, START_MS, load1=0.1, load5=0.0, **values)], (host,), (schema,))
        rough = {"cpu_usage_ns": 2**53 + 1, "load15": 1e300, "uptime_seconds": 1.2345678901234567}
        rounded = make_batch([make_sample(schema, 1, START_MS + 1, **rough)], (host,), (schema,))
        self.write(sink, schema, host, exact)
        self.check(sink, exact)
        self.write(sink, rounded)
        (*_, (_, got)) = sorted(self.stored(sink))
        assert got == pytest.approx(rough, rel=1e-12)

    @pytest.fixture(autouse=True)
    def _server(self, victoria: VictoriaMetrics) -> None:
        self.server = victoria

    def make_sink(self, tmp_path: Path) -> Sink:
        return InfluxdbSink(InfluxdbConfig(url=self.server.url))

    def stored(self, sink: Sink) -> Stored:
        return gather(self._rows())

    def _rows(self) -> Iterator[tuple[str, dict[str, str], int, dict[str, Any]]]:
        for series in self.server.export('{__name__!=""}'):
            tags = series["metric"]
            full_name = tags.pop("__name__")
            measurement = next(m for m in MEASUREMENTS if full_name.startswith(f"{m}_"))
            for ts_ms, value in zip(series["timestamps"], series["values"], strict=True):
                exact = UNLIMITED if float(value) == float(UNLIMITED) else value
                yield measurement, tags, ts_ms, {full_name.removeprefix(f"{measurement}_"): exact}


@pytest.mark.integration
class TestInfluxdbSinkOnInfluxdb2(SinkContract):
    """Runs where TIDEGAUGE_TEST_INFLUXDB2_URL, _TOKEN and _ORG name a server; there is none in Debian, nor in CI."""

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path: Path) -> None:
        self.url = os.environ.get("TIDEGAUGE_TEST_INFLUXDB2_URL", "")
        if not self.url:
            pytest.skip("TIDEGAUGE_TEST_INFLUXDB2_URL names no InfluxDB 2")
        self.token = os.environ["TIDEGAUGE_TEST_INFLUXDB2_TOKEN"]
        self.org = os.environ.get("TIDEGAUGE_TEST_INFLUXDB2_ORG", "tidegauge")
        self.bucket = f"test-{os.getpid()}-{tmp_path.name}"

    def make_sink(self, tmp_path: Path) -> Sink:
        return InfluxdbSink(InfluxdbConfig(url=self.url, token=self.token, org=self.org, bucket=self.bucket))

    def stored(self, sink: Sink) -> Stored:
        from influxdb_client.client.influxdb_client import InfluxDBClient

        flux = f'from(bucket: "{self.bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z)'
        client: Any = InfluxDBClient(self.url, self.token, org=self.org)
        hidden = ("result", "table", "_start", "_stop", "_time", "_value", "_field", "_measurement")
        with client:
            rows = [
                (
                    record.get_measurement(),
                    {k: v for k, v in record.values.items() if k not in hidden},
                    round(record.get_time().timestamp() * 1000),
                    {record.get_field(): record.get_value()},
                )
                for table in client.query_api().query(flux)
                for record in table.records
            ]
        return gather(iter(rows))


def opened(config: InfluxdbConfig) -> InfluxdbSink:
    sink = InfluxdbSink(config)
    sink.open()
    return sink


def one(ts_ms: int = START_MS, **values: Any) -> Batch:
    return make_batch([make_sample(SCHEMA, ts_ms=ts_ms, **values)], schemas=(SCHEMA,))


@pytest.mark.integration
def test_a_conflict_of_types_is_permanent_and_the_good_lines_are_stored(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    sink.write([one(queue_depth=1)])
    samples = [make_sample(SCHEMA, ts_ms=START_MS + i, queue_depth=v) for i, v in enumerate((2, 2.5, 3, -1e-9))]
    batch = make_batch(samples, schemas=(SCHEMA,), first_row=50)
    with pytest.raises(PartialWriteError) as caught:
        sink.write([batch])
    assert caught.value.rejected.keys() == {51, 53}
    assert f"write to {influxd.url}: HTTP 400: partial write: field type conflict" in caught.value.rejected[51]
    assert 'input field "queue_depth" on measurement "container" is type float' in caught.value.rejected[51]
    sink.close()
    assert [r["queue_depth"] for r in influxd.query("SELECT queue_depth FROM container", database)] == [2, 3]


@pytest.mark.integration
def test_conflicts_in_several_shards_are_all_found(influxd: Influxd, database: str) -> None:
    """Of two days with a conflict each the store tells one: the rest is written again until it is silent."""
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    days = [START_MS + i * 86_400_000 * 30 for i in range(3)]
    for first in (one(days[0], queue_depth=1), one(days[1], cpu_usage_ns=1.5), one(days[2], queue_depth=1)):
        sink.write([first])
    values = zip(days, (2.5, 2, 3), (None, 7, None), strict=True)
    samples = [make_sample(SCHEMA, ts_ms=t + 1, queue_depth=depth, cpu_usage_ns=cpu) for t, depth, cpu in values]
    with pytest.raises(PartialWriteError) as caught:
        sink.write([make_batch(samples, schemas=(SCHEMA,), first_row=60)])
    assert caught.value.rejected.keys() == {60, 61}
    assert "queue_depth" in caught.value.rejected[60]
    assert "cpu_usage_ns" in caught.value.rejected[61]
    sink.close()
    assert [r["queue_depth"] for r in influxd.query("SELECT queue_depth FROM container", database)] == [1, 1, 3]


@pytest.mark.integration
def test_a_conflict_that_names_nobody_is_taken_apart(influxd: Influxd, database: str) -> None:
    """Two fields of one day conflict, and the count is that of both: the runner halves, and the good lines stay."""
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    sink.write([one(queue_depth=1, cpu_usage_ns=1)])
    values: tuple[dict[str, Any], ...] = ({"queue_depth": 2.5}, {"cpu_usage_ns": 0.5}, {"queue_depth": 3})
    samples = [make_sample(SCHEMA, ts_ms=START_MS + i, **v) for i, v in enumerate(values, 1)]
    batch = make_batch(samples, schemas=(SCHEMA,))
    with pytest.raises(PermanentError, match="dropped=2"):
        sink.write([batch])
    # As the runner does: halve, down to the row that is to blame.
    for row, sample in zip(batch.rows, samples, strict=True):
        single = msgspec.structs.replace(batch, samples=[sample], rows=[row])
        if row == 3:
            sink.write([single])
            continue
        with pytest.raises(PartialWriteError) as caught:
            sink.write([single])
        assert caught.value.rejected.keys() == {row}
    sink.close()
    assert [r["queue_depth"] for r in influxd.query("SELECT queue_depth FROM container", database)] == [1, 3]


@pytest.mark.integration
def test_a_metric_in_seconds_is_a_float_even_where_a_reader_gives_an_int(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    sink.write([one(queue_age_seconds=7)])
    sink.write([one(START_MS + 1, queue_age_seconds=0.5)])
    sink.close()
    assert [r["queue_age_seconds"] for r in influxd.query("SELECT queue_age_seconds FROM container", database)] == [7, 0.5]


@pytest.mark.integration
def test_rows_older_than_the_retention_are_named(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database, retention_s=3600))
    (policy,) = influxd.query("SHOW RETENTION POLICIES", database)
    assert policy["duration"] == "1h0m0s"
    future = 4_000_000_000_000
    times = [future, START_MS, future + 1, START_MS + 1]
    batch = make_batch([make_sample(SCHEMA, ts_ms=t, cpu_usage_ns=t) for t in times], schemas=(SCHEMA,), first_row=10)
    bad = msgspec.structs.replace(batch.samples[0], ts_ms=future + 2, values=(2**63, *batch.samples[0].values[1:]))
    with pytest.raises(PartialWriteError) as caught:
        sink.write([batch, msgspec.structs.replace(batch, samples=[bad], rows=[14])])
    assert caught.value.rejected.keys() == {11, 13, 14}
    assert "points beyond retention policy" in caught.value.rejected[11]
    assert "cpu_usage_ns: expected an integer of 64 bit" in caught.value.rejected[14]
    sink.close()
    assert [r["cpu_usage_ns"] for r in influxd.query("SELECT cpu_usage_ns FROM container", database)] == [future, future + 1]


@pytest.mark.integration
def test_a_database_that_is_missing_is_a_fault_of_configuration(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database, create=False))
    with pytest.raises(RetryableError, match="HTTP 404: database not found") as caught:
        sink.write([one(cpu_usage_ns=1)])
    assert caught.value.is_config_fault
    influxd.query(f"CREATE DATABASE {database}")
    sink.write([one(cpu_usage_ns=1)])
    sink.close()


@pytest.mark.integration
def test_a_retention_policy_is_made_and_written_to(influxd: Influxd, database: str) -> None:
    config = InfluxdbConfig(url=influxd.url, database=database, retention_policy="long \"'one", retention_s=86400 * 3650)
    for _ in range(2):
        sink = opened(config)
        sink.write([one(cpu_usage_ns=1)])
        sink.close()
    rows = influxd.query('SELECT cpu_usage_ns FROM "long \\"\'one".container', database)
    assert [r["cpu_usage_ns"] for r in rows] == [1]


@pytest.mark.integration
@pytest.mark.parametrize("version", ["1", "auto"])
def test_compressed_lines_arrive(influxd: Influxd, database: str, version: Any) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database, gzip=True, version=version))
    sink.write([one(cpu_usage_ns=1)])
    sink.close()
    assert len(influxd.query("SELECT cpu_usage_ns FROM container", database)) == 1


@pytest.mark.integration
def test_compressed_lines_arrive_through_the_client(victoria: VictoriaMetrics) -> None:
    sink = opened(InfluxdbConfig(url=victoria.url, gzip=True))
    sink.write([one(cpu_usage_ns=5)])
    sink.close()
    (series,) = victoria.export("container_cpu_usage_ns")
    assert (series["values"], series["timestamps"]) == ([5], [START_MS])


@pytest.mark.integration
def test_tags_are_names_and_labels_and_empty_ones_are_left_out(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    odd = {'a b,c=d"': 'x y,z="\\1', "empty": ""}
    container = make_container(7, "/a b", name="n", image="i:1", namespace="docker", labels=odd, epoch=2)
    sink.write([make_batch([make_sample(SCHEMA, 7, cpu_usage_ns=1)], (container,), (SCHEMA,))])
    sink.close()
    ((_, tags, _, _),) = influxd_rows(influxd, database)
    assert tags == {
        "host": "host-a",
        "container": "/a b",
        "instance": container.instance,
        "epoch": "2",
        "name": "n",
        "image": "i:1",
        "namespace": "docker",
        'label_a b,c=d"': 'x y,z="\\1',
    }


@pytest.mark.integration
def test_events_and_gaps_are_measurements(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database, host="host-a"))
    event = Event(START_MS, "oom_kill", 3, {"process": 'a "b\\', "pid": 7}, 21)
    gap = Gap(SOURCE, START_MS, START_MS + 9000, "dropped:bound", None, 12, 22)
    sink.write([event, gap])
    sink.write([gap, event])
    sink.close()
    a, b = sorted(influxd_rows(influxd, database))
    assert a[:3] == ("event", {"container_number": "3", "host": "host-a", "kind": "oom_kill"}, START_MS)
    assert json.loads(a[3].pop("details")) == event.details
    assert a[3] == {"row": 21}
    assert b == (
        "gap",
        {"host": "host-a", "reason": "dropped:bound", "source": SOURCE},
        START_MS,
        {"row": 22, "rows": 12, "to_ms": START_MS + 9000},
    )


@pytest.mark.integration
def test_a_container_record_tells_whose_number_events_name(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database, host="host-a"))
    container = make_container(3, "/docker/abc", row=20, aliases=("abc",), runtime="docker")
    sink.write([container, Event(START_MS, "oom_kill", 3, row=21), End(3, START_MS + 1, 22)])
    sink.close()
    (row,) = influxd.query("SELECT * FROM container_info", database)
    assert row.pop("time") == container.valid_from_ms
    assert {k: v for k, v in row.items() if v is not None} == {
        "agent": "host-a",
        "aliases": '["abc"]',
        "container": "/docker/abc",
        "container_number": "3",
        "created_ms": container.created_ms,
        "host": "host-a",
        "image": container.image,
        "instance": container.instance,
        "name": container.name,
        "row": 20,
        "runtime": "docker",
        "silence_ms": 61_000,
        "source": SOURCE,
    }
    (event,) = influxd.query("SELECT * FROM event", database)
    assert event["container_number"] == "3"
    (end,) = influxd.query("SELECT * FROM container_end", database)
    assert end == {"time": START_MS + 1, "container_number": "3", "host": "host-a", "row": 22}


@pytest.mark.integration
def test_events_out_of_range_are_rejected(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    with pytest.raises(PartialWriteError) as caught:
        sink.write([Event(2**60, "creation", row=5), one(cpu_usage_ns=1)])
    assert caught.value.rejected.keys() == {5}
    assert len(influxd.query("SELECT cpu_usage_ns FROM container", database)) == 1
    sink.close()


@pytest.mark.integration
def test_too_large_a_body_is_to_be_halved(influxd: Influxd, database: str) -> None:
    sink = opened(InfluxdbConfig(url=influxd.url, database=database))
    container = make_container(labels={f"l{i}": "x" * 1000 for i in range(60)})
    samples = [make_sample(SCHEMA, ts_ms=START_MS + i, cpu_usage_ns=i) for i in range(450)]
    with pytest.raises(TooLargeError, match="HTTP 413"):
        sink.write([make_batch(samples, (container,), (SCHEMA,))])
    sink.close()


@pytest.mark.integration
def test_a_store_that_went_away_and_came_back_is_written_to_again(tmp_path: Path) -> None:
    need_influxd()
    with Influxd(tmp_path / "influxd") as server:
        sink = opened(InfluxdbConfig(url=server.url, timeout_s=5))
        sink.write([one(cpu_usage_ns=1)])
        server.kill()
        with pytest.raises(RetryableError) as caught:
            sink.write([one(START_MS + 1, cpu_usage_ns=2)])
        assert not caught.value.is_config_fault
        server.start()
        sink.write([one(START_MS + 1, cpu_usage_ns=2)])
        sink.close()
        assert [r["cpu_usage_ns"] for r in server.query("SELECT cpu_usage_ns FROM container", "tidegauge")] == [1, 2]


@pytest.mark.integration
def test_passwords_from_a_file_are_read_again_after_a_refusal(tmp_path: Path) -> None:
    need_influxd()
    with Influxd(tmp_path / "influxd", auth=True) as server:
        server.query("CREATE USER admin WITH PASSWORD 'first ü:x' WITH ALL PRIVILEGES")
        file = tmp_path / "password"
        file.write_text("wrong one\n")
        sink = opened(InfluxdbConfig(url=server.url, user="admin", password_file=file))
        with pytest.raises(RetryableError, match="HTTP 401: authorization failed") as caught:
            sink.write([one(cpu_usage_ns=1)])
        assert caught.value.is_config_fault
        assert "wrong one" not in str(caught.value)
        file.write_text("first ü:x\n")
        sink.write([one(cpu_usage_ns=1)])
        # Exchanged under a sink that works: in the store first, in the file later.
        server.query("SET PASSWORD FOR admin = 'second'", user="admin", password="first ü:x")
        for _ in range(2):
            with pytest.raises(RetryableError, match="HTTP 401: authorization failed"):
                sink.write([one(START_MS + 1000, cpu_usage_ns=2)])
        file.write_text("second\n")
        sink.write([one(START_MS + 1000, cpu_usage_ns=2)])
        sink.close()
        rows = server.query("SELECT cpu_usage_ns FROM container", "tidegauge", "admin", "second")
        assert [r["cpu_usage_ns"] for r in rows] == [1, 2]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tidegauge-test"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    (tmp_path / "both.pem").write_text(key.read_text() + cert.read_text())
    return cert


@pytest.mark.integration
@pytest.mark.parametrize("version", ["1", "2"])
def test_a_certificate_must_be_trusted(tmp_path: Path, certificate: Path, version: Any) -> None:
    """By both ways of writing. InfluxDB 1.6 answers 404 to the second's, which shows that it was reached."""
    need_influxd()
    with Influxd(tmp_path / "influxd", tls=certificate.with_name("both.pem")) as server:

        def attempt(**options: Any) -> RetryableError | None:
            sink = InfluxdbSink(InfluxdbConfig(url=server.url, version=version, **options))
            try:
                sink.open()
                sink.write([one(cpu_usage_ns=1)])
            except RetryableError as exc:
                return exc
            finally:
                sink.close()
            return None

        refused = attempt()
        assert refused is not None
        assert "certificate" in str(refused).lower()
        assert refused.is_config_fault
        with pytest.raises(RetryableError, match=r"(?i)certificate"):  # at the question for the version
            InfluxdbSink(InfluxdbConfig(url=server.url)).connect()
        for trusting in (attempt(ca_file=certificate), attempt(verify_tls=False)):
            assert (trusting is None) if version == "1" else "HTTP 404" in str(trusting)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8086"}, "sinks.influxdb.url: expected http://HOST:PORT"),
        ({"url": "http://host:8086/?db=x"}, "sinks.influxdb.url"),
        ({"url": "http://me:secret@host:8086"}, "no user or password in it"),
        ({"url": "ftp://me:secret@host:8086"}, "sinks.influxdb.url"),
        ({"token": "secret", "token_file": Path("f")}, "sinks.influxdb.token_file: expected one of"),
        ({"timeout_s": 0}, "sinks.influxdb.timeout_s"),
        ({"retention_s": 60}, "sinks.influxdb.retention_s: expected at least 3600, got 60"),
        ({"regular_s": 0.0}, "sinks.influxdb.regular_s"),
    ],
)
def test_a_wrong_configuration_is_named_without_secrets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        InfluxdbSink(InfluxdbConfig(**options))
    assert "secret" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    config = InfluxdbConfig(token="secret-token", password="secret-password", url="http://h:1")
    assert "secret-" not in repr(config)
    assert "http://h:1" in repr(config)
    assert "secret-" not in repr(InfluxdbSink(config)._endpoint("user", "secret-token"))


def test_a_secret_file_that_is_missing_is_a_fault_of_configuration(tmp_path: Path) -> None:
    sink = InfluxdbSink(InfluxdbConfig(version="2", token_file=tmp_path / "none", create=False))
    with pytest.raises(RetryableError, match=r"token_file .*none: No such file") as caught:
        sink.open()
    assert caught.value.is_config_fault


def test_importing_the_sink_imports_no_client() -> None:
    code = "import sys, tidegauge.sinks.influxdb; sys.exit('influxdb_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
