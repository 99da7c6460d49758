"""Layout `cadvisor`: the measurements of cAdvisor's InfluxDB driver, one value a line, for dashboards made for it. No I/O.

Every line has the integer field `value` and the tags `machine` (the host) and `container_name` (the container's first alias,
else its path), and what tells rows apart: `instance` of a CPU, `device` and `type` of a filesystem, `page_size`, `node_id`,
`name` of a perf event, `scope` and `failure_type` of page faults. Of the network only the first interface is told, as there.

It differs where cAdvisor's driver errs. A value that is not known has no line there, never 0. The four series of
`memory_failure` have tags of their own instead of overwriting one another. `perf_stat` bears no scaling ratio as a tag, which
made a series of each value; its counts are those of all CPUs, `cpu` -1. Times are whole milliseconds.

Source: cAdvisor v0.35 and v0.60 cmd/internal/storage/influxdb/influxdb.go.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tidegauge.pipeline.records import Container, Sample, Schema
from tidegauge.sinks.line_protocol import NoLine, series_key
from tidegauge.sinks.line_template import Field, LineTemplate

_VALUES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("cpu_usage_total", "cpu_usage_ns", {}),
    ("cpu_usage_system", "cpu_system_ns", {}),
    ("cpu_usage_user", "cpu_user_ns", {}),
    ("load_average", "cpu_load_milli", {}),
    ("memory_usage", "memory_usage_bytes", {}),
    ("memory_max_usage", "memory_max_usage_bytes", {}),
    ("memory_cache", "memory_cache_bytes", {}),
    ("memory_rss", "memory_rss_bytes", {}),
    ("memory_swap", "memory_swap_bytes", {}),
    ("memory_mapped_file", "memory_mapped_file_bytes", {}),
    ("memory_working_set", "memory_working_set_bytes", {}),
    ("memory_total_active_file", "memory_active_file_bytes", {}),
    ("memory_total_inactive_file", "memory_inactive_file_bytes", {}),
    ("memory_failcnt", "memory_failures", {}),
    *(
        ("memory_failure", name, {"failure_type": failure, "scope": scope})
        for failure, name in (("pgfault", "memory_page_faults"), ("pgmajfault", "memory_major_page_faults"))
        for scope in ("container", "hierarchical")
    ),
    ("referenced_memory", "memory_referenced_bytes", {}),
)
"""(measurement, metric, tags) of one value a sample."""

_Rows = tuple[tuple[str, str, Mapping[str, str]], ...]
_TABLES: Mapping[str, tuple[str, _Rows]] = {
    "percpu": ("instance", (("cpu_usage_per_cpu", "percpu_usage_ns", {}),)),
    "network": (
        "",
        (
            ("rx_bytes", "network_receive_bytes", {}),
            ("rx_errors", "network_receive_errors", {}),
            ("tx_bytes", "network_transmit_bytes", {}),
            ("tx_errors", "network_transmit_errors", {}),
        ),
    ),
    "hugetlb": (
        "page_size",
        (
            ("hugetlb_usage", "hugetlb_usage_bytes", {}),
            ("hugetlb_max_usage", "hugetlb_max_usage_bytes", {}),
            ("hugetlb_failcnt", "hugetlb_failures", {}),
        ),
    ),
    "perf": ("name", (("perf_stat", "perf_count", {"cpu": "-1"}),)),
    "resctrl": (
        "node_id",
        (
            ("resctrl_memory_bandwidth_total", "memory_bandwidth_bytes", {}),
            ("resctrl_memory_bandwidth_local", "memory_bandwidth_local_bytes", {}),
            ("resctrl_llc_occupancy", "llc_occupancy_bytes", {}),
        ),
    ),
    "filesystem": (
        "device",
        (
            ("fs_usage", "filesystem_usage_bytes", {"type": "usage"}),
            ("fs_limit", "filesystem_limit_bytes", {"type": "limit"}),
        ),
    ),
    "disk_usage": (
        "device",
        (("fs_usage", "disk_usage_bytes", {"type": "usage"}), ("fs_limit", "disk_usage_limit_bytes", {"type": "limit"})),
    ),
}
"""Instance table -> (tag that tells its rows apart, its values). Of the network one row is told, without such a tag."""

MEASUREMENTS = tuple(dict.fromkeys(m for _, rows in (("", _VALUES), *_TABLES.values()) for m, _, _ in rows))

_RUNTIMES = frozenset({"docker", "podman", "containerd", "crio"})
_CACHE_LIMIT = 20_000
_VALUE = b"value"


class CadvisorEncoder:
    """A SampleEncoder. Keeps templates by container and schema, which only save time."""

    def __init__(self) -> None:
        self._by_container: dict[int, _Templates] = {}

    def encode_sample(self, container: Container, schema: Schema, sample: Sample) -> bytes:
        kept = self._by_container.get(sample.container)
        if kept is None or (kept.container is not container and kept.container != container):
            if len(self._by_container) >= _CACHE_LIMIT:
                self._by_container.clear()
            kept = self._by_container[sample.container] = _Templates(container)
        if len(sample.values) != len(schema.metrics):
            raise NoLine(f"{len(sample.values)} values: expected {len(schema.metrics)} by the schema")
        lines = [kept.of_values(schema).render(sample.values, sample.ts_ms)]
        if len(sample.tables) > len(schema.tables):
            raise NoLine(f"{len(sample.tables)} tables: expected {len(schema.tables)} by the schema")
        for i, rows in enumerate(sample.tables):
            if not rows or schema.tables[i].name not in _TABLES:
                continue
            for row in rows[:1] if schema.tables[i].name == "network" else rows:
                lines.append(kept.of_row(schema, i, row[0]).render(row, sample.ts_ms))
        return b"\n".join(filter(None, lines))


def container_name(container: Container) -> str:
    """What cAdvisor calls it: the first alias of what a runtime made, else the path."""
    if container.namespace in _RUNTIMES and container.container_id is not None:
        return container.name or next(iter(container.aliases), container.container_id)
    return container.path


class _Templates:
    """Of one container record."""

    __slots__ = ("_rows", "_tags", "_values", "container")

    def __init__(self, container: Container) -> None:
        self.container = container
        self._tags = {"machine": container.host, "container_name": container_name(container)}
        self._values: dict[int, LineTemplate] = {}
        self._rows: dict[tuple[int, int, Any], LineTemplate] = {}

    def of_values(self, schema: Schema) -> LineTemplate:
        template = self._values.get(schema.id)
        if template is None:
            template = self._made(self._values, schema.id, lambda: self._template(_VALUES, schema.names, {}))
        return template

    def of_row(self, schema: Schema, i: int, name: Any) -> LineTemplate:
        key = (schema.id, i, name)
        template = self._rows.get(key)
        if template is None:
            table = schema.tables[i]
            if not isinstance(name, str) or not name:
                raise NoLine(f"{table.name}: a row without {table.instance_label}")
            tag, rows = _TABLES[table.name]
            names = ("", *(m.name for m in table.metrics))
            template = self._made(self._rows, key, lambda: self._template(rows, names, {tag: name} if tag else {}))
        return template

    def _made(self, kept: dict[Any, LineTemplate], key: Any, make: Callable[[], LineTemplate]) -> LineTemplate:
        if len(kept) >= 1000:
            kept.clear()
        template = kept[key] = make()
        return template

    def _template(self, rows: _Rows, names: tuple[str, ...], tags: Mapping[str, str]) -> LineTemplate:
        places = {name: i for i, name in enumerate(names)}
        return LineTemplate(
            [
                (series_key(measurement, {**self._tags, **more, **tags}), [Field(_VALUE, places[metric])])
                for measurement, metric, more in rows
                if metric in places
            ]
        )
