"""Groups of metrics: what is on by default, what a table switches, and that every metric belongs to one."""

from pathlib import Path

import pytest

from tidegauge.pipeline import collecting
from tidegauge.pipeline.catalogue import METRICS
from tidegauge.pipeline.config import load
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.groups import DEFAULT_GROUPS, GROUPS, MetricsConfig

_KINDS = """cpu percpu sched cpuLoad memory memory_numa hugetlb diskIO disk network tcp udp advtcp app process perf_event
referenced_memory cpu_topology resctrl cpuset oom_event pressure"""
KINDS = _KINDS.split()
"""cAdvisor's metric kinds."""


def test_every_kind_of_cadvisor_is_a_group() -> None:
    assert set(KINDS) <= set(GROUPS)


def test_every_metric_belongs_to_a_group() -> None:
    assert {m.group for m in METRICS} <= set(GROUPS)
    # this one is no values of samples
    assert set(GROUPS) - {m.group for m in METRICS} == {"cpu_topology"}


def test_what_is_on_by_default() -> None:
    issue = {"cpu", "percpu", "memory", "network", "diskIO", "filesystem", "cpuLoad", "oom_event", "pressure"}
    assert issue <= DEFAULT_GROUPS
    off = {"sched", "memory_numa", "hugetlb", "disk", "tcp", "udp", "advtcp", "app", "process", "cpuset", "cpu_topology"}
    assert not DEFAULT_GROUPS & (off | {"referenced_memory", "resctrl", "perf_event"})


@pytest.mark.parametrize(
    ("enable", "disable", "expected"),
    [
        ((), (), DEFAULT_GROUPS),
        (("tcp",), (), DEFAULT_GROUPS | {"tcp"}),
        ((), ("percpu",), DEFAULT_GROUPS - {"percpu"}),
        (("all",), (), frozenset(GROUPS)),
        (("all",), ("app",), frozenset(GROUPS) - {"app"}),
        (("cpu", "memory"), ("all",), frozenset({"cpu", "memory"})),
        ((), ("all",), frozenset()),
    ],
)
def test_tables_add_and_take_away(enable: tuple[str, ...], disable: tuple[str, ...], expected: frozenset[str]) -> None:
    assert MetricsConfig(enable, disable).groups == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('enable = ["tpc"]', r"metrics\.enable: expected some of all, cpu, .*, got 'tpc'"),
        ('disable = ["x"]', r"metrics\.disable: expected some of all, .*, got 'x'"),
        (
            'enable = ["tcp"]\ndisable = ["tcp"]',
            r"metrics\.enable: expected no group that metrics\.disable names too, got 'tcp'",
        ),
    ],
)
def test_a_wrong_group_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tidegauge.toml"
    file.write_text(f"[metrics]\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load(file, environ={})


def test_a_collector_runs_if_one_of_its_groups_is_on(tmp_path: Path) -> None:
    def names(**flags: list[str]) -> set[str]:
        config = load(None, {"state_dir": str(tmp_path), "metrics": flags}, {})
        collectors, _ = collecting.build(config)
        for _, collector in collectors:
            if (close := getattr(collector, "close", None)) is not None:
                close()
        return {name for name, _ in collectors}

    assert {"netdev", "filesystem", "taskload", "loadavg", "cgroup_v1", "cgroup_v2"} <= names()
    assert names(disable=["network", "host"]).isdisjoint({"netdev", "loadavg", "stat", "meminfo", "diskstats", "uptime"})
    assert names(disable=["all"], enable=["pressure"]) == {"cgroup_v1", "cgroup_v2", "machine"}  # which has no metrics
