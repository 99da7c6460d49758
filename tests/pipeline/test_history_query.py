"""What can be asked of history, and how it is written: every parameter, and what is said of those that cannot be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.history import ContainerKey, StoredContainer
from tidegauge.pipeline.history_query import (
    BadQuestion,
    Given,
    Question,
    Select,
    duration_ms,
    group_of,
    percentile_of,
    question,
    time_ms,
)

NOW_MS = 1_700_000_000_000
CPU = Catalogue()["cpu_usage_ns"]
MEMORY = Catalogue()["memory_working_set_bytes"]
NETWORK = Catalogue()["network_receive_bytes"]


def _asked(**values: str | list[str]) -> Question:
    return question(Given({k: [v] if isinstance(v, str) else v for k, v in values.items()}), NOW_MS)


def _container(**fields: Any) -> StoredContainer:
    defaults: dict[str, Any] = {
        "key": ContainerKey("s", "0123456789abcdef", 0),
        "host": "host-a",
        "path": "/docker/0123456789ab",
        "name": "web-1",
        "aliases": ("www",),
        "namespace": "docker",
        "image": "nginx:1.27",
        "labels": {"app": "web"},
        "container_id": "0123456789ab",
        "first_ms": 0,
        "last_ms": 1,
    }
    return StoredContainer(**(defaults | fields))


def test_a_question_is_read_with_all_its_parts() -> None:
    asked = _asked(
        metric="cpu_usage_ns",
        since="2h",
        until="now",
        bucket="5m",
        agg="p99.9",
        group=["namespace,label:app"],
        label=["app=w*"],
        host="host-?",
        top="3",
        resolution="5m",
    )
    assert asked == Question(
        metric="cpu_usage_ns",
        since_ms=NOW_MS - 7_200_000,
        until_ms=NOW_MS,
        bucket_ms=300_000,
        agg="p99.9",
        group=("namespace", "label:app"),
        select=Select(host=("host-?",), labels=(("app", "w*"),)),
        top=3,
        resolution="5m",
    )
    assert asked.percentile == 99.9
    asked.check(CPU)


def test_without_times_it_is_about_the_last_hour() -> None:
    assert _asked(metric="m") == Question(metric="m", since_ms=NOW_MS - 3_600_000, until_ms=NOW_MS)
    assert _asked(metric="m", until="1d").since_ms == NOW_MS - 86_400_000 - 3_600_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW_MS - 90_000),
        ("1w", NOW_MS - 7 * 86_400_000),
        ("now", NOW_MS),
        ("1699999999999", 1_699_999_999_999),
        ("2023-11-14T22:13:20Z", NOW_MS),
        ("2023-11-14T23:13:20+01:00", NOW_MS),
        ("2023-11-14T23:13:20 01:00", NOW_MS),
    ],
)
def test_times_are_relative_or_absolute(text: str, expected: int) -> None:
    assert time_ms(text, "since", NOW_MS) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "h", "-1h", "2023-11-14T22:13:20", "1.5h", "9" * 20, "٣h"])
def test_what_is_no_time_is_said_to_be_none(text: str) -> None:
    with pytest.raises(BadQuestion, match="since: expected"):
        time_ms(text, "since", NOW_MS)


def test_durations_add_up() -> None:
    assert duration_ms("1h30m", "bucket") == 5_400_000
    assert duration_ms("250ms", "bucket") == 250
    for text in ("", "5", "5 m", "m5", "5m-1s", "1y"):
        with pytest.raises(BadQuestion, match="bucket: expected a duration"):
            duration_ms(text, "bucket")


@given(st.integers(0, 10**12))
def test_a_duration_in_ms_is_read_as_it_is(ms: int) -> None:
    assert duration_ms(f"{ms % 10**11}ms", "bucket") == ms % 10**11


def test_percentiles() -> None:
    assert percentile_of("p95") == 95
    assert percentile_of("p0") == 0
    assert percentile_of("median") == 50
    assert percentile_of("p100") == 100
    for text in ("p", "p101", "p-1", "95", "pp95", "p9e1", "avg", "p1.0000001"):
        assert percentile_of(text) is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"since_ms": 5, "until_ms": 5}, "beginning before the end"),
        ({"since_ms": -4 * 10**12}, "100 years"),
        ({"since_ms": -(10**13)}, "1680 to 2260"),
        ({"until_ms": 10**13}, "1680 to 2260"),
        ({"bucket_ms": 0}, "above 0"),
        ({"bucket_ms": 1}, "more than 100000"),
        ({"agg": "mean"}, "agg: expected one of avg, .* p95, got 'mean'"),
        ({"agg": "p101"}, "agg: expected"),
        ({"group": ("color",)}, "group: expected one of container"),
        ({"group": ("label:",)}, "group: expected"),
        ({"agg": "last", "group": ("host",)}, "the last value is one container's"),
        ({"instance": "eth0"}, "cpu_usage_ns has one value a container"),
        ({"top": 0}, "top: expected"),
        ({"top": 100_000}, "top: expected"),
    ],
)
def test_what_does_not_fit_is_said_by_name(fields: dict[str, Any], text: str) -> None:
    asked = Question(**({"metric": CPU.name, "since_ms": 0, "until_ms": 3_600_000} | fields))
    with pytest.raises(BadQuestion, match=text):
        asked.check(CPU)


@pytest.mark.parametrize("agg", ["increase", "rate"])
def test_a_gauge_has_no_rate(agg: str) -> None:
    with pytest.raises(BadQuestion, match="is a gauge"):
        Question(metric=MEMORY.name, since_ms=0, until_ms=1, agg=agg).check(MEMORY)
    Question(metric=CPU.name, since_ms=0, until_ms=1, agg=agg).check(CPU)
    Question(metric=NETWORK.name, since_ms=0, until_ms=1, agg=agg, instance="eth*").check(NETWORK)


def test_every_parameter_may_be_bad() -> None:
    for values, text in (
        ({}, "metric: expected a name"),
        ({"metric": ["a", "b"]}, "metric: expected one, got 2"),
        ({"metric": "m", "top": "many"}, "top: expected a number"),
        ({"metric": "m", "top": "-1"}, "top: expected a number"),
        ({"metric": "m", "label": "app"}, "label: expected KEY=VALUE"),
        ({"metric": "m", "resolution": "1m"}, "resolution: expected one of auto, raw, 5m, 1h, got '1m'"),
    ):
        with pytest.raises(BadQuestion, match=text):
            _asked(**values)  # type: ignore[arg-type]


def test_buckets_begin_at_multiples_and_the_last_is_cut() -> None:
    asked = Question(metric="m", since_ms=7, until_ms=31, bucket_ms=10).aligned()
    assert asked.since_ms == 0
    assert list(asked.starts()) == [0, 10, 20, 30]
    assert list(Question(metric="m", since_ms=10, until_ms=30, bucket_ms=10).aligned().starts()) == [10, 20]
    assert list(Question(metric="m", since_ms=7, until_ms=30).aligned().starts()) == [7]
    assert list(Question(metric="m", since_ms=-7, until_ms=13, bucket_ms=10).aligned().starts()) == [-10, 0, 10]


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [
        ({}, True),
        ({"container": ("web-1",)}, True),
        ({"container": ("www",)}, True),
        ({"container": ("0123",)}, True),
        ({"container": ("012",)}, False),
        ({"container": ("/docker/*",)}, True),
        ({"container": ("other", "web-?")}, True),
        ({"name": ("www",)}, False),
        ({"path": ("/docker/0123456789ab",)}, True),
        ({"path": ("/docker",)}, False),
        ({"id": ("0123456789abcdef",)}, True),
        ({"id": ("0123456",)}, True),
        ({"namespace": ("docker",)}, True),
        ({"image": ("nginx:*",)}, True),
        ({"pod": ("*",)}, False),
        ({"labels": (("app", "w?b"),)}, True),
        ({"labels": (("app", "web"), ("tier", "*"))}, False),
        ({"name": ("web-1",), "host": ("host-b",)}, False),
        ({"name": ("WEB-1",)}, False),
    ],
)
def test_containers_are_chosen_by_what_is_known_of_them(fields: dict[str, Any], is_taken: bool) -> None:
    assert Select(**fields).takes(_container()) is is_taken


def test_a_bracket_in_a_name_can_be_given_as_it_is() -> None:
    assert Select(name=("a[1]",)).takes(_container(name="a[1]"))
    assert Select(name=("a[1]",)).takes(_container(name="a1"))


def test_a_pods_namespace_is_that_of_kubernetes() -> None:
    c = _container(namespace="k8s.io", pod_namespace="shop")
    assert Select(namespace=("shop",)).takes(c)
    assert not Select(namespace=("k8s.io",)).takes(c)
    assert group_of(c, ("namespace", "label:app", "label:none")) == (
        ("namespace", "shop"),
        ("label:app", "web"),
        ("label:none", ""),
    )
    assert group_of(c, ("container",)) == (("host", "host-a"), ("path", "/docker/0123456789ab"))
    assert group_of(c, ()) == ()
