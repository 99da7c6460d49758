"""The encoder against influxdb_client.Point as oracle, and by its rules where Point has other ones."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client import Point, WritePrecision
from tests.line_parser import parse

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.records import MAX_INT, UNLIMITED, Batch, Container, Kind, Metric, Sample, Schema, TableSchema
from tidegauge.sinks.line_protocol import MAX_TS_MS, LineEncoder, NoLine, escape, escape_string

CATALOGUE = Catalogue()
SCHEMA = CATALOGUE.schema(["cpu_usage_ns", "memory_usage_bytes", "load1", "uptime_seconds"], ["network", "percpu"])
TS = 1_790_000_000_123


def container(number: int = 1, **changes: Any) -> Container:
    base = Container(number, "source", f"{number:016x}", 0, "boot", "/docker/abc", "host1", 0, 0)
    return msgspec.structs.replace(base, **changes)


def encode(sample: Sample, c: Container | None = None, schema: Schema = SCHEMA) -> list[str]:
    return LineEncoder().encode_sample(c or container(), schema, sample).decode().split("\n")


def typed(fields: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    return {k: (type(v), v) for k, v in fields.items()}


# Without surrogates, and without a backslash before a separator or at the end: there we deliberately differ from Point.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda t: re.search(r"\\([,= ]|$)", t) is None and t.isprintable()
)
INT64 = st.integers(-(2**63), MAX_INT)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)


@given(
    path=TEXT,
    host=TEXT,
    name=st.none() | TEXT,
    image=st.none() | TEXT,
    namespace=st.none() | TEXT,
    labels=st.dictionaries(TEXT, TEXT | st.just(""), max_size=4),
    epoch=st.integers(0, 3),
    values=st.lists(st.none() | INT64 | FLOAT, min_size=1, max_size=12),
    ts=st.integers(-MAX_TS_MS, MAX_TS_MS),
)
def test_a_line_says_what_point_says(
    path: str,
    host: str,
    name: str | None,
    image: str | None,
    namespace: str | None,
    labels: dict[str, str],
    epoch: int,
    values: list[int | float | None],
    ts: int,
) -> None:
    schema = Schema.of([Metric(f"m{i} x,=", Kind.GAUGE, "count", "custom", "") for i in range(len(values))])
    c = container(path=path, host=host, name=name, image=image, namespace=namespace, labels=labels, epoch=epoch)
    ours = LineEncoder().encode_sample(c, schema, Sample(1, ts, schema.id, tuple(values))).decode()
    point = Point("host" if path == "/" else "container").tag("host", host).tag("container", path)
    point.tag("instance", c.instance).tag("epoch", epoch or None)
    point.tag("name", name).tag("image", image).tag("namespace", namespace).time(ts, WritePrecision.MS)
    for k, v in labels.items():
        point.tag(f"label_{k}", v)
    for m, value in zip(schema.metrics, values, strict=True):
        point.field(m.name, value)
    theirs = point.to_line_protocol()
    assert bool(ours) == bool(theirs)
    if not ours:
        return
    assert ours.split(" ")[0].split(",")[0] == theirs.split(" ")[0].split(",")[0]
    a, b = parse(ours), parse(theirs)
    assert (a[0], a[1], typed(a[2]), a[3]) == (b[0], b[1], typed(b[2]), b[3])


def test_every_field_of_a_sample_stands_in_one_line_with_its_type() -> None:
    assert encode(Sample(1, TS, SCHEMA.id, (7, UNLIMITED, 0.25, 12))) == [
        "container,container=/docker/abc,host=host1,instance=0000000000000001 "
        f"cpu_usage_ns=7i,memory_usage_bytes=9223372036854775807i,load1=0.25,uptime_seconds=12 {TS}"
    ]


def test_the_host_has_a_measurement_of_its_own() -> None:
    (line,) = encode(Sample(1, TS, SCHEMA.id, (7, None, None, None)), container(path="/"))
    assert line == f"host,container=/,host=host1,instance=0000000000000001 cpu_usage_ns=7i {TS}"


def test_rows_of_tables_are_lines_with_the_instance_as_tag() -> None:
    rows = ((("eth0", 1, 2, None, None, None, None, None, None), ("lo", *([None] * 8))), (("3", 9),))
    assert encode(Sample(1, TS, SCHEMA.id, (None,) * 4, rows, True)) == [
        "network,container=/docker/abc,host=host1,instance=0000000000000001,interface=eth0 "
        f"network_receive_bytes=1i,network_receive_packets=2i,is_closing=true {TS}",
        f"percpu,container=/docker/abc,cpu=3,host=host1,instance=0000000000000001 percpu_usage_ns=9i,is_closing=true {TS}",
    ]


def test_a_table_row_without_its_name_would_overwrite_its_neighbour() -> None:
    with pytest.raises(NoLine, match="percpu: a row without cpu"):
        encode(Sample(1, TS, SCHEMA.id, (1, None, None, None), (None, ((None, 9),))))


def test_the_instance_label_of_the_custom_table_does_not_hide_the_container() -> None:
    schema = Schema.of([], [TableSchema("custom", "instance", (Metric("m", Kind.GAUGE, "count", "custom", ""),))])
    (line,) = encode(Sample(1, TS, schema.id, (), ((("a", 1),),)), schema=schema)
    assert line == f"custom,container=/docker/abc,custom_instance=a,host=host1,instance=0000000000000001 m=1i {TS}"


def test_a_closing_sample_says_so_and_one_without_values_is_no_line() -> None:
    (line,) = encode(Sample(1, TS, SCHEMA.id, (7, None, None, None), (), True))
    assert line.endswith(f" cpu_usage_ns=7i,is_closing=true {TS}")
    assert encode(Sample(1, TS, SCHEMA.id, (None,) * 4, (None, ()), True)) == [""]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b,c=d", r"a\ b\,c\=d"),
        (r"machine-qemu\x2d1.scope", r"machine-qemu\x2d1.scope"),
        ("two\nlines\r\tand", r"two\nlines\r\tand"),
        (r"a\,b", r"a\\\,b"),
        (r"a\\,b", r"a\\\,b"),
        (r"a\ b", r"a\\\ b"),
        ("end\\", "end\\\\\\ "),
        ('"quoted" #é', '"quoted"\\ #é'),
        ("lone \udcff", r"lone\ \udcff"),
    ],
)
def test_escapes(text: str, line: str) -> None:
    assert escape(text).decode() == line


@pytest.mark.timeout(60)
def test_a_long_run_of_backslashes_is_escaped_at_once() -> None:
    """It takes minutes where every backslash may begin the run."""
    run = "\\" * 400_000
    assert escape(f"{run}a b") == f"{run}a\\ b".encode()


def test_labels_that_are_written_alike_are_one_tag() -> None:
    (line,) = encode(Sample(1, TS, SCHEMA.id, (7, None, None, None)), container(labels={"a\n": "1", "a\\n": "2"}))
    assert line.count("label_a") == 1


def test_string_fields_escape_quotes_and_backslashes() -> None:
    assert escape_string('say "a\\b"') == rb'"say \"a\\b\""'


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(1, TS, SCHEMA.id, (2**63, None, None, None)), "cpu_usage_ns: expected .* got 9223372036854775808"),
        (Sample(1, TS, SCHEMA.id, (1, None, float("nan"), None)), "load1: expected .* got nan"),
        (Sample(1, TS, SCHEMA.id, (1, None, float("-inf"), None)), "load1: expected .* got -inf"),
        (Sample(1, TS, SCHEMA.id, ("7", None, None, None)), "cpu_usage_ns: expected .* got '7'"),  # type: ignore[arg-type]
        (Sample(1, TS, SCHEMA.id, (1, 2)), "2 values: expected 4"),
        (Sample(1, MAX_TS_MS + 1, SCHEMA.id, (1, 2, 3.0, 4)), "expected one within"),
        (Sample(1, TS, SCHEMA.id, (1, 2, 3.0, 4), (None, None, None)), "3 tables: expected 2"),
        (
            Sample(1, TS, SCHEMA.id, (1, 2, 3.0, 4), (None, (("0", 2**70),))),
            "percpu_usage_ns: expected .* got 1180591620717411303424",
        ),
        (Sample(9, TS, SCHEMA.id, (1, 2, 3.0, 4)), "no record of container 9"),
        (Sample(1, TS, 5, (1, 2, 3.0, 4)), "no record of schema 5"),
        (Sample(2, TS, SCHEMA.id, (1, 2, 3.0, 4)), "series key of 700.. bytes"),
    ],
)
def test_what_has_no_line_is_rejected_and_the_rest_goes_on(sample: Sample, reason: str) -> None:
    containers = {1: container(), 2: container(2, labels={"long": "x" * 70_000})}
    good = Sample(1, TS, SCHEMA.id, (1, 2, 3.0, 4))
    lines, rejected = LineEncoder().encode_batch(Batch([good, sample, good], [10, 11, 12], {SCHEMA.id: SCHEMA}, containers))
    assert lines[0] == lines[2] != b""
    assert lines[1] == b""
    assert list(rejected) == [11]
    assert re.search(reason, rejected[11])


# Few values, so that patterns come again and templates are used.
VALUE = st.sampled_from([None, None, 7, 2**63 - 1, 2**63, 1.5, float("inf"), "text"])


@given(st.lists(st.tuples(st.integers(1, 3), st.tuples(VALUE, VALUE, VALUE), st.booleans()), min_size=20, max_size=60))
def test_what_an_encoder_remembers_changes_no_line(rows: list[tuple[int, tuple[Any, ...], bool]]) -> None:
    schema = CATALOGUE.schema(["cpu_usage_ns", "memory_usage_bytes", "pids_current"])
    containers = {n: container(n, path=f"/c{n}") for n in (1, 2, 3)}
    old = LineEncoder()
    for n, values, is_closing in rows:
        sample = Sample(n, TS, schema.id, values, (), is_closing)
        batch = Batch([sample], [1], {schema.id: schema}, containers)
        assert old.encode_batch(batch) == LineEncoder().encode_batch(batch)


def test_new_names_of_a_container_are_in_the_next_line() -> None:
    encoder = LineEncoder()
    sample = Sample(1, TS, SCHEMA.id, (7, None, None, None))
    assert b",name=" not in encoder.encode_sample(container(), SCHEMA, sample)
    assert b",name=web" in encoder.encode_sample(container(name="web"), SCHEMA, sample)
