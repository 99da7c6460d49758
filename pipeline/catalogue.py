"""Every metric once: name, kind, unit, table, group, one line of help, kernel source. Everything else derives from it.

SQL columns, Influx fields, exposition families, JSON places and the reference page take names, kinds and units from here.
A plug-in brings metrics of its own as a fragment in the same form; these go to the `custom` table.

Units of stored values: ns for durations, bytes, count, seconds (floats), ratio, number (a float in whatever unit). A limit
that the kernel states as none is `records.UNLIMITED`. Compatible APIs convert at their edge.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from tidegauge.pipeline.builtin_metrics import METRICS as METRICS
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.records import Metric, Schema, TableSchema

INSTANCE_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "percpu": "cpu",
        "network": "interface",
        "tcp": "protocol",
        "udp": "protocol",
        "disk_io": "device",
        "disk_io_ext": "device",
        "disk_usage": "device",
        "hugetlb": "page_size",
        "numa": "node",
        "perf": "event",
        "resctrl": "node",
        "host_cpu": "cpu",
        "host_disk": "device",
        "filesystem": "device",
        "app": "series",
        "custom": "instance",
    }
)
"""Instance tables and the label that tells their rows apart. `custom` is narrow: (metric, instance, value)."""

SCALAR_TABLES = ("sample", "sample_host", "sample_ext", "sample_tcp")
"""Tables with one row a sample: for every container, for the host alone, for optional groups, for TCP's counters."""


class Catalogue:
    """Metrics by name: the built-in ones and the fragments of plug-ins."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._owners: dict[str, str] = {}
        self.add("tidegauge", METRICS)

    def add(self, owner: str, fragment: Iterable[Metric]) -> None:
        """Takes the metrics of a plug-in. ConfigError if a name is owned already, with both owners named."""
        for m in fragment:
            if (other := self._owners.get(m.name)) is not None:
                raise ConfigError(f"metric {m.name}: brought by both {other} and {owner}")
            if owner != "tidegauge" and m.table != "custom":
                raise ConfigError(f"metric {m.name} of {owner}: table: expected custom, got {m.table}")
            self._metrics[m.name] = m
            self._owners[m.name] = owner

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __contains__(self, name: object) -> bool:
        return name in self._metrics

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def of_table(self, table: str) -> tuple[Metric, ...]:
        """Metrics of one table, in catalogue order: the order of columns and of the values in a table row."""
        return tuple(m for m in self._metrics.values() if m.table == table)

    def schema(self, names: Iterable[str], tables: Iterable[str] = ()) -> Schema:
        """Schema of samples whose values stand in the order of `names` and whose instance tables are `tables`."""
        return Schema.of(
            [self._metrics[n] for n in names],
            [TableSchema(t, INSTANCE_LABELS[t], self.of_table(t)) for t in tables],
        )
