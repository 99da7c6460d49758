"""The page docs/metrics.md, from the catalogue and the measured costs: `python -m bench.metrics_page > docs/metrics.md`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.groups import COSTS, OF_THE_HOST
from tidegauge.pipeline import registry
from tidegauge.pipeline.catalogue import METRICS
from tidegauge.pipeline.groups import GROUPS, Group

_HEAD = """# Metrics

Made from the catalogue by `python -m bench.metrics_page > docs/metrics.md`; do not edit.

Every metric has one name, which is its column in [SQL](schema.md), its field in InfluxDB and its key everywhere else. Metrics
are switched by group; the names are those of cAdvisor's metric kinds where it has one:

    [metrics]
    enable = ["tcp", "process"]
    disable = ["percpu"]

`all` stands for every group: `disable = ["all"]` with `enable = ["cpu", "memory"]` leaves these two. What is not there on a
host is absent, never 0. A source that is empty: not there on that kind of host. Paths below `/proc/PID` are those of processes
of the container. A kernel that is not named is 4.19, the oldest that counts.

## Groups

The cost is the CPU time in microseconds of reading the group once for one container with a process, measured on
{machine}.
It grows with the number of processes, sockets and CPUs. "Each sample" is each base interval for a container that is active, and
up to each maximum interval for one that is idle. What is read apart, by threads of its own, joins the next sample. The
container measured has no TCP sockets: with some, `tcp` costs 5 ms for each of `tcp` and `tcp6`, as the kernel walks a table of
all namespaces. `resctrl` was measured on files as the kernel describes them, for want of the hardware.
"""
_ON_WRITTEN_FILES: Mapping[str, float] = {"resctrl": 140.0}
_APART: Mapping[str, str] = {
    "app": "at most every second, see [applications](applications.md)",
    "cpu_topology": "with the [machine's description](collectors/machine.md)",
    "disk": "by a process of its own, see [disk_usage](collectors/disk_usage.md)",
}


def page() -> str:
    costs = json.loads(COSTS.read_text())
    us: Mapping[str, float] = {**_ON_WRITTEN_FILES, **costs["microseconds"]}
    return "\n".join([_HEAD.format(machine=costs["machine"]), *_groups(us), *_metrics(us)]) + "\n"


def _groups(us: Mapping[str, float]) -> Iterator[str]:
    yield "| group | default | us | read | what |"
    yield "| --- | --- | --- | --- | --- |"
    slow = _slow_groups()
    for group in GROUPS.values():
        when = _APART.get(group.name) or ("apart" if group.name in slow else "each sample")
        if group.name in OF_THE_HOST:
            when += " of the host"
        yield f"| `{group.name}` | {_default(group)} | {_cost(us, group.name)} | {when} | {group.help} |"
    yield ""


def _metrics(us: Mapping[str, float]) -> Iterator[str]:
    yield "## Every metric\n"
    yield "Durations are nanoseconds. The cost is that of the whole group.\n"
    yield "| metric | kind | unit | cgroup v1 | cgroup v2 | kernel | group | default | us | what |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    order = list(GROUPS)
    for m in sorted(METRICS, key=lambda m: order.index(m.group)):
        group = GROUPS[m.group]
        sources = f"{_code(m.v1)} | {_code(m.v2)}"
        what = m.help.replace("|", "\\|")
        yield (
            f"| `{m.name}` | {m.kind} | {m.unit} | {sources} | {m.kernel} | `{m.group}` | {_default(group)} | "
            f"{_cost(us, m.group)} | {what} |"
        )


def _slow_groups() -> set[str]:
    """Groups whose collectors are read by threads of their own."""
    out: set[str] = set()
    for name in registry.available(registry.COLLECTORS):
        cls: Any = registry.load(registry.COLLECTORS, name)
        if cls.__module__.startswith("tidegauge.") and getattr(cls, "is_slow", False):
            out.update(getattr(cls, "groups", ()))
    return out - {"diskIO"}


def _default(group: Group) -> str:
    return "on" if group.is_default else "off"


def _cost(us: Mapping[str, float], name: str) -> str:
    value = us.get(name)
    return "" if value is None else f"{value:g}" if value >= 0.1 else "< 0.1"


def _code(source: str) -> str:
    return f"`{source}`" if source else ""


if __name__ == "__main__":
    print(page(), end="")
