"""Announcements: what cAdvisor's configuration files may say, and every endpoint that is not the container's own refused."""

import json
from typing import Any

import pytest

from tidegauge.collectors.app.announced import MAX_ANNOUNCEMENTS, Refused, announcements, own_addresses, parse
from tidegauge.collectors.app.scrape import Metric, Target
from tidegauge.pipeline.plugin import Metadata

OWN = ("10.1.2.3", "fd00::3")


def prometheus(endpoint: Any, **more: Any) -> Any:
    return parse("prometheus", json.dumps({"endpoint": endpoint, **more}).encode(), OWN, 10.0)


def generic(*metrics: dict[str, Any], endpoint: Any = "http://localhost:8000/status") -> Any:
    return parse("nginx", json.dumps({"endpoint": endpoint, "metrics_config": metrics}).encode(), OWN, 10.0)


def test_labels_that_announce() -> None:
    labels = {"io.cadvisor.metric.prometheus": "/etc/p.json", "io.cadvisor.metric.empty": "", "other": "/x"}
    assert announcements(labels) == {"prometheus": "/etc/p.json"}
    assert len(announcements({f"io.cadvisor.metric.{i}": "/x" for i in range(100)})) == MAX_ANNOUNCEMENTS


def test_prometheus_with_all_that_it_may_say() -> None:
    found = prometheus("http://localhost:9100/metrics?x=1", polling_frequency=30_000_000_000, metrics_config=["up", "hits"])
    assert found.target == Target(False, "10.1.2.3", 9100, "/metrics?x=1")
    assert (found.interval_s, found.wanted, found.metrics) == (30.0, ("up", "hits"), None)
    assert prometheus("http://localhost/").interval_s == 10.0
    assert prometheus("http://localhost/", polling_frequency=1).interval_s == 1.0


def test_generic_with_all_that_it_may_say() -> None:
    found = generic(
        {
            "name": "connections",
            "metric_type": "gauge",
            "units": "number of active connections",
            "data_type": "int",
            "polling_frequency": 20_000_000_000,
            "regex": "Active connections: ([0-9]+)",
        },
        {
            "name": "handled",
            "metric_type": "cumulative",
            "data_type": "float",
            "polling_frequency": 5_000_000_000,
            "regex": "(x)",
        },
    )
    assert found.metrics == (
        Metric("connections", "Active connections: ([0-9]+)", False, True),
        Metric("handled", "(x)", True, False),
    )
    assert found.interval_s == 5.0


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ({"protocol": "http", "port": 8000, "path": "/metrics"}, Target(False, "10.1.2.3", 8000, "/metrics")),
        ({"protocol": "https", "port": "8443", "path": "m"}, Target(True, "10.1.2.3", 8443, "/m")),
        ("http://localhost", Target(False, "10.1.2.3", 80, "/")),
        ("https://127.0.0.1/x", Target(True, "10.1.2.3", 443, "/x")),
        ("http://[::1]:81", Target(False, "10.1.2.3", 81, "/")),
        ("http://[fd00::3]:81", Target(False, "fd00::3", 81, "/")),
        ("http://10.1.2.3:82/", Target(False, "10.1.2.3", 82, "/")),
    ],
)
def test_endpoints_of_the_container_itself(endpoint: Any, target: Target) -> None:
    assert prometheus(endpoint).target == target


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://169.254.169.254/latest/meta-data", "another address"),
        ("http://10.1.2.4/", "another address"),
        ("http://0.0.0.0/", "another address"),
        ("http://[::ffff:169.254.169.254]/", "another address"),
        ("http://metadata.google.internal/", "another host"),
        ("http://localhost.evil.test/", "another host"),
        ("http://localhost@evil.test/", "a user in it"),
        ("http://evil.test#@localhost/", "another host"),
        ("http://evil.test\\@localhost/", "another host|a user"),
        ("http://2130706433/", "another host"),
        ("http:///metrics", "another host"),
        ("http://[::1/", "no URL"),
        ("file:///etc/passwd", "another host"),
        ("gopher://localhost/", "http or https"),
        ("ftp://localhost:21/", "http or https"),
        ("http://localhost:99999/", "no URL"),
        ("http://localhost:0/", "a port"),
        ("http://localhost/a b", "printable"),
        ("http://localhost/" + "a" * 3000, "printable"),
        ({"protocol": "unix", "port": 1}, "http or https"),
        ({"port": 0}, "a port"),
        ({"port": -80}, "a port"),
        ({"port": "8０"}, "a port"),
        ({"port": 80, "path": "/a\r\nHost: evil"}, "printable"),
    ],
)
def test_every_other_endpoint_is_refused(endpoint: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        prometheus(endpoint)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no JSON"),
        (b"root:secret:0:0", "no JSON"),
        (b'{"endpoint": "\xff"}', "no JSON|configuration file"),
        (b'{"x":' + b"[" * 60_000, "no JSON"),
        (b"{}", "endpoint"),
        (b'{"endpoint": 5}', "endpoint"),
        (b'{"endpoint": "http://localhost/", "polling_frequency": "10s"}', "polling_frequency"),
        (b'{"endpoint": "http://localhost/", "polling_frequency": 99999999999999999999}', "polling_frequency"),
    ],
)
def test_a_file_that_is_none_is_refused_without_its_content(raw: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        parse("prometheus", raw, OWN, 10.0)
    assert "secret" not in str(caught.value)


def test_types_that_are_none() -> None:
    with pytest.raises(Refused, match=r"metrics_config\[0\]\.metric_type: expected one of gauge, cumulative"):
        generic({"name": "a", "regex": "(x)", "metric_type": "delta"})
    with pytest.raises(Refused, match=r"metrics_config\[0\]\.data_type: expected one of int, float"):
        generic({"name": "a", "regex": "(x)", "data_type": "string"})


def test_addresses_are_the_runtime_s_word_and_the_container_s_own() -> None:
    assert own_addresses(Metadata(addresses=("fd00::3", "nonsense", "10.1.2.3"), network="own")) == ("10.1.2.3", "fd00::3")
    for network in ("host", "container:abc"):
        with pytest.raises(Refused, match=f"network {network}"):
            own_addresses(Metadata(addresses=("10.1.2.3",), network=network))
    for address in ("127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1"):
        with pytest.raises(Refused, match="no address of its own"):
            own_addresses(Metadata(addresses=(address,)))
