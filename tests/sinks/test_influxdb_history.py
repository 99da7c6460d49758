"""History out of InfluxDB: the real 1.6 must answer as SQLite does on the same records; 2.x by what its documentation shows."""

import os
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from tests.servers import Influxd, need_influxd

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.history import Bounds, ContainerKey, HistoryReader, StoredContainer, StoreError, TooMuch
from tidegauge.pipeline.plugin import KeepsHistory
from tidegauge.pipeline.records import Container, End, Gap, Kind, Metric, Record
from tidegauge.pipeline.testing import (
    PLUGIN_METRICS,
    SOURCE,
    START_MS,
    generate_records,
    make_batch,
    make_container,
    make_sample,
    make_schema,
)
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

CATALOGUE = Catalogue()
NAMES = ("cpu_usage_ns", "memory_usage_bytes", "load1", "cpu_pressure_some_ns")
SCHEMA = make_schema(NAMES, ("network", "percpu"), PLUGIN_METRICS)
FAR = 4_000_000_000_000


def bounds(rows: int = 10**6) -> Bounds:
    return Bounds(rows, time.monotonic() + 60)


def records() -> list[Record]:
    """Several lives: names that come late, an epoch, a gap of one and of all, tables, a plug-in's metrics, an end."""
    web = make_container(11, "/docker/web", name=None, image=None, row=101, valid_from_ms=START_MS, instance="aa" * 8)
    named = msgspec.structs.replace(
        web,
        name='web, the = "1"',
        image="web:1",
        aliases=("web", "abc"),
        row=102,
        valid_from_ms=START_MS + 3000,
        runtime="docker",
        container_id="abc",
        pod="p",
        pod_namespace="ns",
        pod_uid="u",
        max_interval_s=30.0,
    )
    later = msgspec.structs.replace(named, number=12, epoch=1, row=103, valid_from_ms=START_MS + 9000)
    out: list[Record] = [SCHEMA, web]

    def batch(container: Container, *samples: Any) -> None:
        out.append(make_batch(samples, (container,), (SCHEMA,), first_row=200 + 20 * len(out)))

    network = (("eth0", 10, 1, 0, 0, 20, 2, 0, 0), ("lo", 0, 0, 0, 0, 0, 0, None, None))
    batch(
        web,
        make_sample(SCHEMA, 11, START_MS + 1000, (network, (("0", 5), ("1", 6))), cpu_usage_ns=100, memory_usage_bytes=4096),
        make_sample(SCHEMA, 11, START_MS + 2000, cpu_usage_ns=100, is_closing=True),
    )
    out.append(named)
    batch(
        named,
        make_sample(SCHEMA, 11, START_MS + 3000, cpu_usage_ns=2**62 + 1, queue_depth=3, queue_age_seconds=0.25),
        make_sample(SCHEMA, 11, START_MS + 4000, (network, None), memory_usage_bytes=8192, queue_age_seconds=2.0),
    )
    out += [
        Gap(SOURCE, START_MS + 4000, START_MS + 5000, "stall", 11, row=190),
        Gap(SOURCE, START_MS + 8000, START_MS + 9000, "suspend", row=191),
    ]
    out.append(later)
    batch(later, make_sample(SCHEMA, 12, START_MS + 9500, cpu_usage_ns=1, memory_usage_bytes=1, cpu_pressure_some_ns=7))
    out.append(End(12, START_MS + 10_000, row=192))
    return [*generate_records(ticks=20, containers=4), *out]


@pytest.fixture(scope="module")
def both(influxd: Influxd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HistoryReader, HistoryReader]]:
    """The same records in InfluxDB and in SQLite."""
    influx = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="history", host="host-a"))
    sql = SqlSink(SqlConfig(state_dir=tmp_path_factory.mktemp("sql")))
    for sink in (influx, sql):
        sink.open()
        sink.write([r for r in records() if isinstance(r, sink.takes)])
    assert isinstance(influx, KeepsHistory)
    assert influx.history() is influx.history()
    yield influx.history(), sql.history()
    influx.close()
    sql.close()


def plain(containers: Sequence[StoredContainer]) -> list[StoredContainer]:
    return [msgspec.structs.replace(c, ref=None) for c in containers]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("since_ms", "until_ms"),
    [
        (0, FAR),
        (START_MS + 2500, START_MS + 2600),
        (START_MS, START_MS + 1000),
        (START_MS + 9400, FAR),
        (FAR, FAR),
        (0, START_MS),
    ],
)
def test_containers_are_told_as_by_sqlite(both: tuple[HistoryReader, HistoryReader], since_ms: int, until_ms: int) -> None:
    influx, sql = (plain(store.containers(since_ms, until_ms)) for store in both)
    assert influx == sql
    if until_ms == FAR and since_ms == 0:
        assert len(influx) == 6
        assert {c.ended_ms for c in influx} == {None, START_MS + 10_000, START_MS + 20_001}


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        "network_receive_bytes",
        "network_transmit_dropped",
        "percpu_usage_ns",
        "queue_depth",
        "queue_age_seconds",
        "tcp_close",
    ],
)
@pytest.mark.parametrize("span", [(0, FAR), (START_MS + 2000, START_MS + 4000)])
def test_readings_are_those_of_sqlite(both: tuple[HistoryReader, HistoryReader], name: str, span: tuple[int, int]) -> None:
    answers = []
    for store in both:
        metric = next(m for m in store.metrics() if m.name == name)
        found = store.series(store.containers(*span), metric, *span, bounds())
        answers.append(
            {k: {i: [tuple(r) for r in rs] for i, rs in own.items() if rs} for k, own in found.items() if any(own.values())}
        )
    assert answers[0] == answers[1]
    if name in ("cpu_usage_ns", "network_receive_bytes"):
        assert answers[0], "nothing was compared"


@pytest.mark.integration
@pytest.mark.parametrize("span", [(0, FAR), (START_MS + 4500, START_MS + 4600), (START_MS + 9000, FAR), (FAR, FAR)])
def test_gaps_are_those_of_sqlite(both: tuple[HistoryReader, HistoryReader], span: tuple[int, int]) -> None:
    influx, sql = (
        {key: [tuple(s) for s in spans] for key, spans in store.gaps(store.containers(0, FAR), *span).items()} for store in both
    )
    assert influx == sql


@pytest.mark.integration
def test_the_oldest_sample_is_that_of_sqlite(both: tuple[HistoryReader, HistoryReader]) -> None:
    assert both[0].oldest_ms() == both[1].oldest_ms() == START_MS + 1000


@pytest.mark.integration
def test_a_question_that_reads_too_much_ends_early(both: tuple[HistoryReader, HistoryReader]) -> None:
    influx, _ = both
    containers = influx.containers(0, FAR)
    with pytest.raises(TooMuch, match="more than 5 rows"):
        influx.series(containers, CATALOGUE["cpu_usage_ns"], 0, FAR, bounds(5))
    with pytest.raises(TooMuch, match="too long"):
        influx.series(containers, CATALOGUE["cpu_usage_ns"], 0, FAR, Bounds(10**6, time.monotonic() - 1))


@pytest.mark.integration
def test_what_the_retention_has_taken_is_told_from_tags(influxd: Influxd) -> None:
    sink = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="taken"))
    sink.open()
    assert (sink.history().containers(0, FAR), sink.history().oldest_ms()) == ([], None)
    web = make_container(3, "/docker/web", namespace="docker", row=1)
    sink.write([web, make_batch([make_sample(SCHEMA, 3, cpu_usage_ns=1)], (web,), (SCHEMA,))])
    influxd.query("DROP MEASUREMENT container_info", "taken")
    (found,) = sink.history().containers(0, FAR)
    assert (found.key.source, found.host, found.path, found.name) == ("", "host-a", "/docker/web", "web-3")
    assert (found.namespace, found.image, found.created_ms) == ("docker", web.image, None)
    assert found.labels == web.labels
    assert sink.history().gaps([found], 0, FAR) == {found.key: []}
    sink.close()


@pytest.mark.integration
def test_long_answers_come_in_pieces(influxd: Influxd) -> None:
    sink = InfluxdbSink(InfluxdbConfig(url=influxd.url, database="long"))
    sink.open()
    samples = [make_sample(SCHEMA, 1, START_MS + i, cpu_usage_ns=i) for i in range(12_001)]
    for at in range(0, len(samples), 4000):
        sink.write([make_batch(samples[at : at + 4000], (make_container(),), (SCHEMA,))])
    (container,) = sink.history().containers(0, FAR)
    (found,) = sink.history().series([container], CATALOGUE["cpu_usage_ns"], 0, FAR, bounds()).values()
    assert found == {"": [(START_MS + i, False, i) for i in range(12_001)]}
    sink.close()


@pytest.mark.integration
def test_a_store_that_cannot_be_asked_says_so(influxd: Influxd) -> None:
    with pytest.raises(StoreError, match="database not found: none"):
        InfluxdbSink(InfluxdbConfig(url=influxd.url, database="none")).history().oldest_ms()
    with pytest.raises(StoreError, match="refused"):
        InfluxdbSink(InfluxdbConfig(url="http://127.0.0.1:9", timeout_s=2)).history().containers(0, FAR)


@pytest.mark.integration
def test_a_password_that_was_exchanged_is_read_at_the_next_question(tmp_path: Path) -> None:
    need_influxd()
    with Influxd(tmp_path / "influxd", auth=True) as server:
        server.query("CREATE USER admin WITH PASSWORD 'right' WITH ALL PRIVILEGES")
        file = tmp_path / "password"
        file.write_text("wrong")
        sink = InfluxdbSink(InfluxdbConfig(url=server.url, user="admin", password_file=file))
        with pytest.raises(StoreError, match="HTTP 401"):
            sink.history().oldest_ms()
        file.write_text("right")
        sink.open()
        assert sink.history().oldest_ms() is None
        sink.history().close()
        sink.close()


TYPES = (
    "#datatype,string,long,dateTime:RFC3339,{},string,string,string\r\n"
    "#group,false,false,false,false,true,true,true\r\n#default,_result,,,,,,\r\n"
)
HEAD = ",result,table,_time,_value,_field,instance,epoch\r\n"
LINES = (
    TYPES.format("long")
    + HEAD
    + ",,0,2023-11-14T22:13:21Z,100,cpu_usage_ns,aaaa,\r\n"
    + ",,0,2023-11-14T22:13:22.5Z,4611686018427387905,cpu_usage_ns,aaaa,\r\n"
    + ",,1,2023-11-14T22:13:22.5Z,7,cpu_usage_ns,aaaa,1\r\n\r\n"
    + TYPES.format("boolean")
    + HEAD
    + ",,2,2023-11-14T22:13:22.5Z,true,is_closing,aaaa,\r\n\r\n"
    + TYPES.format("long")
    + HEAD
    + ",,3,2023-11-14T22:13:21Z,4096,memory_usage_bytes,aaaa,\r\n"
    + ",,3,2023-11-14T22:13:24Z,8192,memory_usage_bytes,aaaa,\r\n"
)
"""As the reference of annotated CSV has it: annotations, a header, a table a group, an empty line between two schemas."""


class Flux(BaseHTTPRequestHandler):
    """Answers every query with the next one of `answers` and keeps what it was asked."""

    answers: ClassVar[list[str]]
    asked: ClassVar[list[tuple[str, dict[str, Any]]]]

    def do_POST(self) -> None:
        body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        answer = self.answers.pop(0).encode()
        self.send_response_only(200 if answer else 400)
        self.send_header("Content-Type", "text/csv; charset=utf-8")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def flux() -> Iterator[tuple[type[Flux], HistoryReader]]:
    handler = type("OneFlux", (Flux,), {"answers": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    sink = InfluxdbSink(InfluxdbConfig(url=f"http://127.0.0.1:{server.server_port}", version="2", bucket='b"1'))
    yield handler, sink.history()
    sink.history().close()
    server.shutdown()
    server.server_close()
    thread.join()


def stored(epoch: int = 0) -> StoredContainer:
    return StoredContainer(key=ContainerKey("s", "aaaa", epoch), host="h", path="/p", first_ms=0, last_ms=1)


def test_readings_of_flux_are_joined_by_time(flux: tuple[type[Flux], HistoryReader]) -> None:
    handler, reader = flux
    handler.answers.append(LINES)
    found = reader.series([stored(), stored(1)], CATALOGUE["cpu_usage_ns"], START_MS, FAR, bounds())
    assert found == {
        stored().key: {"": [(START_MS + 1000, False, 100), (START_MS + 2500, True, 2**62 + 1), (START_MS + 4000, False, None)]},
        stored(1).key: {"": [(START_MS + 2500, False, 7)]},
    }
    ((path, body),) = handler.asked
    assert (urlsplit(path).path, parse_qs(urlsplit(path).query)) == ("/api/v2/query", {"org": ["tidegauge"]})
    assert body["query"] == (
        f'from(bucket: "b\\"1") |> range(start: time(v: {START_MS}000000), stop: time(v: 4000000000001000000)) '
        '|> filter(fn: (r) => (r._measurement == "container" or r._measurement == "host") and '
        '(r._field == "cpu_usage_ns" or r._field == "memory_usage_bytes" or r._field == "pids_current" '
        'or r._field == "is_closing") and (r.instance == "aaaa")) '
        '|> keep(columns: ["_time", "_value", "_field", "instance", "epoch"]) '
        '|> group(columns: ["_field", "instance", "epoch"])'
    )


def test_readings_of_tables_are_told_apart_by_their_tag(flux: tuple[type[Flux], HistoryReader]) -> None:
    handler, reader = flux
    handler.answers.append(
        "#datatype,string,long,dateTime:RFC3339,long,string,string,string\r\n#group,false,false,false,false,true,true,true\r\n"
        "#default,_result,,,,,,\r\n,result,table,_time,_value,_field,instance,interface\r\n"
        ",,0,2023-11-14T22:13:21Z,10,network_receive_bytes,aaaa,eth0\r\n"
        ",,1,2023-11-14T22:13:21Z,0,network_receive_bytes,aaaa,lo\r\n"
    )
    found = reader.series([stored()], CATALOGUE["network_receive_bytes"], 0, FAR, bounds())
    assert found == {stored().key: {"eth0": [(START_MS + 1000, False, 10)], "lo": [(START_MS + 1000, False, 0)]}}
    query = handler.asked[0][1]["query"]
    assert '(r._measurement == "network") and (r._field == "network_receive_bytes")' in query
    assert 'group(columns: ["_field", "instance", "epoch", "interface"])' in query


def test_containers_of_flux_are_made_of_four_questions(flux: tuple[type[Flux], HistoryReader]) -> None:
    handler, reader = flux

    def one(type_: str, field: str, value: str, at: str, tags: dict[str, str]) -> str:
        names, values = ",".join(tags), ",".join(tags.values())
        n, measurement = len(tags), "container_info" if "container_number" in tags else "container"
        return (
            f"#datatype,string,long,dateTime:RFC3339,{type_},string,string{',string' * n}\r\n"
            f"#group,false,false,false,false,true,true{',true' * n}\r\n#default,_result,,,,,{',' * n}\r\n"
            f",result,table,_time,_value,_field,_measurement,{names}\r\n"
            f",,0,{at},{value},{field},{measurement},{values}\r\n\r\n"
        )

    tags = {"host": "h", "container": "/p", "instance": "aaaa", "name": "web", "label_tier": "front"}
    info = {**tags, "container_number": "3"}
    del info["label_tier"]
    first, last, known = "2023-11-14T22:13:21Z", "2023-11-14T22:14:20Z", "2023-11-14T22:13:20Z"
    handler.answers += [
        one("long", "cpu_usage_ns", "1", first, tags) + one("long", "memory_usage_bytes", "1", last, tags),
        one("long", "cpu_usage_ns", "9", last, tags),
        one("long", "created_ms", "1700000000000", known, info)
        + one("long", "silence_ms", "31000", known, info)
        + one("string", "source", "s", known, info)
        + one("string", "agent", "h", known, info)
        + one("string", "aliases", '"[""web""]"', known, info),
        one("long", "row", "7", "2023-11-14T22:14:30Z", {"host": "h", "container_number": "3"}),
    ]
    (found,) = reader.containers(START_MS, FAR)
    assert msgspec.structs.replace(found, ref=None) == StoredContainer(
        key=stored().key,
        host="h",
        path="/p",
        name="web",
        aliases=("web",),
        labels={"tier": "front"},
        created_ms=1_700_000_000_000,
        first_ms=START_MS + 1000,
        last_ms=START_MS + 60_000,
        ended_ms=START_MS + 70_000,
        silence_ms=31_000,
    )
    queries = [body["query"] for _, body in handler.asked]
    assert [q.rpartition("|> ")[2] for q in queries[:3]] == ["first()", "last()", "last()"]
    handler.answers.append(
        "#datatype,string,long,dateTime:RFC3339,long,string,string,string\r\n#group,false,false,false,false,true,true,true\r\n"
        "#default,_result,,,,,,\r\n,result,table,_time,_value,_field,_measurement,source\r\n"
        ",,0,2023-11-14T22:13:21Z,1700000002000,to_ms,gap,s\r\n,,0,2023-11-14T22:13:25Z,1700000006000,to_ms,gap,t\r\n"
    )
    assert reader.gaps([found], START_MS, FAR) == {found.key: [(START_MS + 1000, START_MS + 2000)]}
    assert "r._value >= " in handler.asked[-1][1]["query"]


def test_metrics_of_plug_ins_are_found_by_their_fields(flux: tuple[type[Flux], HistoryReader]) -> None:
    handler, reader = flux
    handler.answers.append(
        "#datatype,string,long,string\r\n#group,false,false,false\r\n#default,_result,,\r\n,result,table,_value\r\n"
        ",,0,cpu_usage_ns\r\n,,0,is_closing\r\n,,0,jobs_total\r\n,,0,queue_depth\r\n"
    )
    found = [m for m in reader.metrics() if m.name not in CATALOGUE]
    assert found == [
        Metric("jobs_total", Kind.COUNTER, "number", "custom", ""),
        Metric("queue_depth", Kind.GAUGE, "number", "custom", ""),
    ]


def test_what_flux_refuses_is_an_error_of_the_store(flux: tuple[type[Flux], HistoryReader]) -> None:
    handler, reader = flux
    handler.answers.append("")
    with pytest.raises(StoreError, match="HTTP 400"):
        reader.oldest_ms()


@pytest.mark.integration
def test_a_real_influxdb_2_answers_as_sqlite(tmp_path: Path) -> None:
    """Runs where TIDEGAUGE_TEST_INFLUXDB2_URL, _TOKEN and _ORG name a server."""
    url = os.environ.get("TIDEGAUGE_TEST_INFLUXDB2_URL", "")
    if not url:
        pytest.skip("TIDEGAUGE_TEST_INFLUXDB2_URL names no InfluxDB 2")
    options = {"url": url, "token": os.environ["TIDEGAUGE_TEST_INFLUXDB2_TOKEN"], "bucket": f"history-{os.getpid()}"}
    influx = InfluxdbSink(
        InfluxdbConfig(org=os.environ.get("TIDEGAUGE_TEST_INFLUXDB2_ORG", "tidegauge"), host="host-a", **options)
    )
    sql = SqlSink(SqlConfig(state_dir=tmp_path))
    for sink in (influx, sql):
        sink.open()
        sink.write([r for r in records() if isinstance(r, sink.takes)])
    assert plain(influx.history().containers(0, FAR)) == plain(sql.history().containers(0, FAR))
    for name in ("cpu_usage_ns", "network_receive_bytes"):
        answers = [s.history().series(s.history().containers(0, FAR), CATALOGUE[name], 0, FAR, bounds()) for s in (influx, sql)]
        assert answers[0] == answers[1]
    for sink in (influx, sql):
        sink.close()
