"""Filters by pattern, against their plain meaning."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.filters import Filter
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch
from tidegauge.pipeline.testing import flat, generate_records, make_container, make_schema

NAMES = [m.name for m in make_schema().metrics] + [m.name for m in make_schema().tables[0].metrics]
PATTERNS = st.lists(
    st.sampled_from(["*", "cpu_*", "*_bytes", "network_*", "memory_usage_bytes", "?pu*", "[mn]*", "none"]), max_size=3
)


@given(PATTERNS, PATTERNS)
def test_what_is_left_of_samples_is_what_the_patterns_say(include: list[str], exclude: list[str]) -> None:
    def takes(name: str) -> bool:
        plain = name.partition("[")[0]
        if plain == "is_closing":
            return True
        if any(fnmatchcase(plain, p) for p in exclude):
            return False
        return not include or any(fnmatchcase(plain, p) for p in include)

    chosen = Filter(RunnerOptions(metrics_include=tuple(include), metrics_exclude=tuple(exclude)))
    for record in generate_records(6):
        if not isinstance(record, Batch):
            continue
        [schema] = record.schemas.values()
        left = chosen.schema(schema)
        samples, rows = (
            (record.samples, record.rows) if chosen.keeps_metrics else chosen.samples(record.samples, record.rows, schema)
        )
        expected = {
            row: {n: v for n, v in values.items() if takes(n)}
            for row, (_, values) in zip(record.rows, flat([record]), strict=True)
        }
        expected = {row: values for row, values in expected.items() if values.keys() - {"is_closing"}}
        got: dict[int, Any] = {}
        if left is not None and samples:
            batch = Batch(samples, rows, {left.id: left}, record.containers)
            got = {row: values for row, (_, values) in zip(rows, flat([batch]), strict=True)}
        assert got == expected


@pytest.mark.parametrize(
    ("include", "exclude", "takes"),
    [
        ((), (), True),
        (("/docker/*",), (), True),
        (("web-*",), (), True),
        (("other",), (), False),
        (("/docker/*",), ("web-1",), False),
        ((), ("/docker/*",), False),
        ((), ("WEB-1",), True),
    ],
)
def test_a_container_is_known_by_path_or_name(include: tuple[str, ...], exclude: tuple[str, ...], takes: bool) -> None:
    chosen = Filter(RunnerOptions(containers_include=include, containers_exclude=exclude))
    assert chosen.takes_container(make_container(1)) is takes


@pytest.mark.parametrize(
    ("labels", "left"), [(None, {"tier", "com.example.team", "site"}), ((), {"site"}), (("t*",), {"tier", "site"})]
)
def test_labels_and_tags(labels: tuple[str, ...] | None, left: set[str]) -> None:
    chosen = Filter(RunnerOptions(labels=labels, tags={"site": "north"}))
    assert set(chosen.container(make_container(1)).labels) == left
