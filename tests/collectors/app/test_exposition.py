"""Prometheus' text format, against the parser and the writer of prometheus_client."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tidegauge.collectors.app.exposition import Column, Limits, parse
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.series import series_text

PLENTY = Limits(10_000, 100_000)
COLUMNS = tuple(m.name for m in Catalogue().of_table("app"))


def found(text: str, wanted: Iterable[str] = ()) -> dict[str, tuple[str, float]]:
    """Name of the column and value by series."""
    series = parse(text, frozenset(wanted), PLENTY).series
    return {k: (COLUMNS[column], value) for k, (column, value) in series.items()}


def peer(text: str) -> dict[str, float]:
    """What prometheus_client reads, times and types aside, without the suffix that it gives to counters."""
    out = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            if math.isfinite(s.value):
                out[series_text(s.name, s.labels)] = s.value
    return out


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    requests = Counter("requests", "Requests.", ["path"], registry=made)
    requests.labels('/a"b\\c\nd').inc(3)
    requests.labels("/").inc(1e18)
    Gauge("temperature", "Degrees.", registry=made).set(-2.5)
    latency = Histogram("latency_seconds", "Latency.", buckets=(0.1, 1), registry=made)
    for seconds in (0.05, 0.5, 5):
        latency.observe(seconds)
    Summary("size_bytes", "Sizes.", registry=made).observe(7)
    return made


def test_columns_are_those_of_the_catalogue_in_order() -> None:
    assert tuple(f"app_{c.name.lower()}" for c in Column) == COLUMNS


def test_types_are_kept() -> None:
    made = {k: v for k, v in found(generate_latest(registry()).decode()).items() if "_created" not in k}
    assert made == {
        r'requests_total{path="/a\"b\\c\nd"}': ("app_counter", 3.0),
        'requests_total{path="/"}': ("app_counter", 1e18),
        "temperature": ("app_gauge", -2.5),
        'latency_seconds_bucket{le="0.1"}': ("app_histogram", 1.0),
        'latency_seconds_bucket{le="1.0"}': ("app_histogram", 2.0),
        'latency_seconds_bucket{le="+Inf"}': ("app_histogram", 3.0),
        "latency_seconds_sum": ("app_histogram", 5.55),
        "latency_seconds_count": ("app_histogram", 3.0),
        "size_bytes_sum": ("app_summary", 7.0),
        "size_bytes_count": ("app_summary", 1.0),
    }


def test_openmetrics_says_the_same() -> None:
    with_exemplar = Counter("sales", "Sales.", registry=(made := registry()))
    with_exemplar.inc(2, {"trace_id": "a # b"})
    text = openmetrics.generate_latest(made).decode()
    assert " # {" in text
    by_openmetrics = {k: v for k, v in found(text).items() if "_created" not in k}
    by_text = {k: v for k, v in found(generate_latest(made).decode()).items() if "_created" not in k}
    assert by_openmetrics == by_text


def test_quantiles_untyped_values_times_and_blanks() -> None:
    text = """
# HELP rpc Not a type: # TYPE x counter
# TYPE rpc summary
rpc { quantile = "0.5" , } 4.5 1395066363000
rpc_sum 9
# TYPE hits counter
hits 5
# a remark
some_total 6\r
not_there NaN
endless +Inf
{"named.otherwise",a="b"} 1
"""
    assert found(text) == {
        'rpc{quantile="0.5"}': ("app_quantile", 4.5),
        "rpc_sum": ("app_summary", 9.0),
        "hits": ("app_counter", 5.0),
        "some_total": ("app_gauge", 6.0),
        'named_otherwise{a="b"}': ("app_gauge", 1.0),
    }


def test_only_the_wanted_metrics_by_their_own_or_their_family_s_name() -> None:
    text = generate_latest(registry()).decode()
    assert set(found(text, ["latency_seconds_sum", "temperature"])) == {"latency_seconds_sum", "temperature"}
    assert {k.partition("{")[0] for k in found(text, ["size_bytes"])} == {"size_bytes_sum", "size_bytes_count"}


def test_of_a_series_that_occurs_twice_the_last_one_counts() -> None:
    assert found('a{b="1",c="2"} 1\na{c="2",b="1"} 2\n') == {'a{b="1",c="2"}': ("app_gauge", 2.0)}


def test_limits_keep_the_first_and_count_the_rest() -> None:
    text = "".join(f'm{i % 4}{{n="{i}"}} {i}\n' for i in range(100))
    by_names = parse(text, (), Limits(2, 1000))
    assert {k.partition("{")[0] for k in by_names.series} == {"m0", "m1"}
    assert (len(by_names.series), by_names.left_out) == (50, 50)
    by_series = parse(text, (), Limits(100, 7))
    assert (len(by_series.series), by_series.left_out) == (7, 93)
    too_long = parse(f"a 1\n{'b' * 300} 2\n", (), PLENTY)
    assert (set(too_long.series), too_long.left_out) == ({"a"}, 1)


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        "a",
        "a{",
        'a{b="c"',
        'a{b="c"} ',
        "a{b=c} 1",
        'a{b="c",b="d"} 1',
        "a 1_000",
        "a one",
        '{b="c"} 1',
        'a{b="c" d="e"} 1',
    ],
)
def test_what_is_none_of_the_format_is_named_by_its_line_alone(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2 is none of Prometheus' text format$"):
        parse(f"fine 1\n{line}\n", (), PLENTY)


def test_a_last_line_without_its_end_may_be_cut() -> None:
    with pytest.raises(ValueError, match="cut off"):
        parse("a 1\nb 12", (), PLENTY)
    assert parse("", (), PLENTY).series == {}


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
            st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,4}", fullmatch=True), st.text(max_size=8), max_size=3),
            st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=True)),
            st.sampled_from(["", " 1395066363000", "  "]),
        ),
        max_size=8,
    )
)
def test_reads_what_prometheus_client_reads(samples: list[tuple[str, dict[str, str], Any, str]]) -> None:
    lines = []
    for name, labels, value, rest in samples:
        inner = ",".join(
            '{}="{}"'.format(k, v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for k, v in labels.items()
        )
        lines.append(f"{name}{{{inner}}} {value}{rest}" if labels else f"{name} {value}{rest}")
    text = "\n".join(lines) + "\n"
    assert {k: v for k, (_, v) in found(text).items()} == peer(text)


@given(st.text(alphabet='ab_{}="\\,# \n1.eE+-NTYPE', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    said = "line "
    try:
        parse(f"{text}\n", (), PLENTY)
    except ValueError as exc:
        said = str(exc)
    assert said.startswith("line ")
