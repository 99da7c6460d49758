"""The Grafana dashboard asks for what the sink `influxdb` writes, and takes rates of counters only, by time elapsed."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.containers.engine import ROOT

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, METRICS, SCALAR_TABLES
from tidegauge.pipeline.records import Kind

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "containers.json").read_text())
PANELS = DASHBOARD["panels"]
BY_NAME = {m.name: m for m in METRICS}
TAGS = {"host", "container", "instance", "epoch", "name", "image", "namespace"}


def values_of(key: str, node: Any) -> Iterator[Any]:
    """Every value under that key, however deep."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from values_of(key, child)


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"])
def test_panel_asks_for_metrics_that_are_written(panel: dict[str, Any]) -> None:
    (target,) = panel["targets"]
    query = target["query"]
    (measurement,) = re.findall(r'r\._measurement == "(\w+)"', query)
    fields = re.findall(r'r\._field == "(\w+)"', query.split("|> map")[0])
    assert fields
    for field in fields:
        table = BY_NAME[field].table
        expected = (
            {"container", "host"} if table in ("sample", "sample_ext") else {"host"} if table in SCALAR_TABLES else {table}
        )
        assert measurement in expected, field
    tags = TAGS | ({INSTANCE_LABELS[measurement]} if measurement in INSTANCE_LABELS else set())
    used = set(re.findall(r"\br\.([a-z]+)\b", query)) - {"elapsed", "until"}
    assert used <= tags, used - tags


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"])
def test_counters_become_rates_and_gauges_do_not(panel: dict[str, Any]) -> None:
    query = panel["targets"][0]["query"]
    kinds = {BY_NAME[field].kind for field in re.findall(r'r\._field == "(\w+)"', query.split("|> map")[0])}
    steps = re.findall(r"\|> (\w+)\(", query)
    if kinds == {Kind.COUNTER}:
        # per series: a new instance or epoch is another one, so no difference reaches across
        assert "group" not in steps[: steps.index("difference")]
        assert steps[steps.index("elapsed") :][:6] == ["elapsed", "difference", "filter", "toFloat", "window", "sum"]
        assert "nonNegative: true" in query
        assert "mean" not in query
    else:
        assert kinds == {Kind.GAUGE}
        assert "difference" not in steps
        assert "fn: last" in query


def test_everything_asks_the_provisioned_source() -> None:
    source = (GRAFANA / "provisioning" / "datasources" / "influxdb.yaml").read_text()
    uids = {d["uid"] for d in values_of("datasource", DASHBOARD)}
    assert len(uids) == 1
    assert f"uid: {uids.pop()}\n" in source
    assert "$__file{/run/secrets/influxdb_token}" in source


def test_ids_are_unique_and_panels_do_not_overlap() -> None:
    assert len({p["id"] for p in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for p in PANELS
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
