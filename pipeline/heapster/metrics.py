"""Heapster's metrics as a table: name, type, unit, and what they are made from. Pure.

Types and units are Heapster's, so that what was made for it goes on working; where a value is not what Heapster had, the
`help` says so. Source: Heapster docs/storage-schema.md and metrics/core/metrics.go of its last release, 1.5.4.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from tidegauge.pipeline.records import Kind

RESOURCE = "resource_id"
"""Label of a labeled metric: the device."""
CUSTOM = "custom/"
"""Prefix of what applications offer."""


class Type(StrEnum):
    CUMULATIVE = "cumulative"
    GAUGE = "gauge"


class Scalar(NamedTuple):
    """A metric of one value a container."""

    metric: str


class Sum(NamedTuple):
    """The sum over all rows of an instance table."""

    table: str
    metric: str


class Each(NamedTuple):
    """A labeled metric: a value for each row of an instance table. Of the host another table may tell it."""

    table: str
    metric: str
    host_table: str = ""
    host_metric: str = ""

    def of(self, is_host: bool) -> tuple[str, str]:
        """(table, metric); empty where there is none."""
        return (self.host_table, self.host_metric) if is_host else (self.table, self.metric)


class Rate(NamedTuple):
    """How fast a cumulative metric rises, a second, times `factor`."""

    of: str
    factor: float = 1.0


class Fact(NamedTuple):
    """From what is known of the container, or of its machine, rather than from samples; `sets` tells it."""


class Share(NamedTuple):
    """One gauge of a node divided by another, 0 to 1 and more."""

    part: str
    whole: str


Origin = Scalar | Sum | Each | Rate | Fact | Share


class HeapsterMetric(NamedTuple):
    name: str
    type: Type
    is_integer: bool
    """Heapster's value type: int64, else double."""
    unit: str
    """As Heapster's schema prints it: bytes, ms, ns, or nothing."""
    origin: Origin
    help: str

    @property
    def is_labeled(self) -> bool:
        return isinstance(self.origin, Each) or (
            isinstance(self.origin, Rate) and isinstance(BY_NAME[self.origin.of].origin, Each)
        )


_C, _G = Type.CUMULATIVE, Type.GAUGE


def _metric(name: str, type_: Type, unit: str, origin: Origin, help_: str, *, is_float: bool = False) -> HeapsterMetric:
    return HeapsterMetric(name, type_, not is_float, unit, origin, help_)


def _rate(of: str, help_: str) -> HeapsterMetric:
    return _metric(f"{of}_rate", _G, "", Rate(of), help_, is_float=True)


METRICS: tuple[HeapsterMetric, ...] = (
    _metric("uptime", _C, "ms", Fact(), "Time since the container was started, or the host booted."),
    _metric("cpu/usage", _C, "ns", Scalar("cpu_usage_ns"), "CPU time used on all cores."),
    _metric("cpu/load", _G, "", Scalar("cpu_load_milli"), "Running tasks, smoothed over 10 s, times 1000."),
    _metric("memory/usage", _G, "bytes", Scalar("memory_usage_bytes"), "Memory charged, page cache included."),
    _metric("memory/cache", _G, "bytes", Scalar("memory_cache_bytes"), "Page cache."),
    _metric("memory/rss", _G, "bytes", Scalar("memory_rss_bytes"), "Anonymous memory."),
    _metric("memory/working_set", _G, "bytes", Scalar("memory_working_set_bytes"), "Memory usage less inactive page cache."),
    _metric("memory/page_faults", _C, "", Scalar("memory_page_faults"), "Page faults."),
    _metric("memory/major_page_faults", _C, "", Scalar("memory_major_page_faults"), "Page faults that read from a disk."),
    _metric("network/rx", _C, "bytes", Sum("network", "network_receive_bytes"), "Bytes received on all interfaces."),
    _metric("network/rx_errors", _C, "", Sum("network", "network_receive_errors"), "Errors while packets were received."),
    _metric("network/tx", _C, "bytes", Sum("network", "network_transmit_bytes"), "Bytes sent on all interfaces."),
    _metric("network/tx_errors", _C, "", Sum("network", "network_transmit_errors"), "Errors while packets were sent."),
    _metric("ephemeral_storage/usage", _G, "bytes", Sum("disk_usage", "disk_usage_bytes"), "Space of writable layer and logs."),
    _metric("restart_count", _C, "", Fact(), "How often the container was made anew, where its runtime tells."),
    _metric("cpu/request", _G, "", Fact(), "Millicores asked for, from the cgroup's CPU shares or weight; 0: none."),
    _metric("cpu/limit", _G, "", Fact(), "Millicores allowed, from the cgroup's CPU quota; 0: no limit."),
    _metric("memory/request", _G, "bytes", Fact(), "Memory kept for it (memory.min, which Memory QoS sets); 0: none."),
    _metric("memory/limit", _G, "bytes", Fact(), "Memory limit of the cgroup; 0: no limit."),
    _metric("cpu/usage_rate", _G, "", Rate("cpu/usage", 1e-6), "Millicores used."),
    _rate("memory/page_faults", "Page faults a second."),
    _rate("memory/major_page_faults", "Page faults that read from a disk, a second."),
    _rate("network/rx", "Bytes received a second."),
    _rate("network/rx_errors", "Errors a second while packets were received."),
    _rate("network/tx", "Bytes sent a second."),
    _rate("network/tx_errors", "Errors a second while packets were sent."),
    _metric("cpu/node_capacity", _G, "", Fact(), "Millicores of the machine.", is_float=True),
    _metric("cpu/node_allocatable", _G, "", Fact(), "The same: what is kept from pods is not known here.", is_float=True),
    _metric("cpu/node_utilization", _G, "", Share("cpu/usage_rate", "cpu/node_allocatable"), "Part used.", is_float=True),
    _metric("cpu/node_reservation", _G, "", Share("cpu/request", "cpu/node_allocatable"), "Part asked for.", is_float=True),
    _metric("memory/node_capacity", _G, "", Fact(), "Bytes of memory of the machine.", is_float=True),
    _metric("memory/node_allocatable", _G, "", Fact(), "The same: what is kept from pods is not known here.", is_float=True),
    _metric("memory/node_utilization", _G, "", Share("memory/usage", "memory/node_allocatable"), "Part used.", is_float=True),
    _metric(
        "memory/node_reservation", _G, "", Share("memory/request", "memory/node_allocatable"), "Part asked for.", is_float=True
    ),
    _metric(
        "filesystem/usage",
        _G,
        "bytes",
        Each("disk_usage", "disk_usage_bytes", "filesystem", "filesystem_usage_bytes"),
        "Space used of a filesystem.",
    ),
    _metric(
        "filesystem/limit",
        _G,
        "bytes",
        Each("disk_usage", "disk_usage_limit_bytes", "filesystem", "filesystem_limit_bytes"),
        "Size of a filesystem.",
    ),
    _metric(
        "filesystem/available",
        _G,
        "bytes",
        Each("", "", "filesystem", "filesystem_available_bytes"),
        "Space that an ordinary user can have.",
    ),
    _metric("filesystem/inodes", _G, "", Each("", "", "filesystem", "filesystem_inodes"), "Inodes of a filesystem."),
    _metric(
        "filesystem/inodes_free", _G, "", Each("", "", "filesystem", "filesystem_inodes_free"), "Inodes that are not used."
    ),
    _metric(
        "disk/io_read_bytes",
        _C,
        "bytes",
        Each("disk_io", "disk_read_bytes", "host_disk", "host_disk_read_bytes"),
        "Bytes read from a block device.",
    ),
    _metric(
        "disk/io_write_bytes",
        _C,
        "bytes",
        Each("disk_io", "disk_write_bytes", "host_disk", "host_disk_written_bytes"),
        "Bytes written to a block device.",
    ),
    _rate("disk/io_read_bytes", "Bytes read a second."),
    _rate("disk/io_write_bytes", "Bytes written a second."),
)
"""All but those of applications, which have a name of their own each."""

BY_NAME: Mapping[str, HeapsterMetric] = {m.name: m for m in METRICS}
RATES: Mapping[str, HeapsterMetric] = {m.origin.of: m for m in METRICS if isinstance(m.origin, Rate)}
"""The rate of a cumulative metric, by the name of that metric."""
NOT_KNOWN: Mapping[str, str] = {
    **dict.fromkeys(
        (f"ephemeral_storage/{what}" for what in ("request", "limit", "node_capacity", "node_allocatable")),
        "stands in the pod's specification, which is not read",
    ),
    **dict.fromkeys(
        (f"ephemeral_storage/{what}" for what in ("node_utilization", "node_reservation")), "made from what is not known"
    ),
    **dict.fromkeys((f"accelerator/{what}" for what in ("memory_total", "memory_used", "duty_cycle")), "not collected"),
}
"""Metrics that Heapster had and that cannot be told here, with the reason."""

SUMMED = ("cpu/usage_rate", "memory/usage", "cpu/request", "cpu/limit", "memory/request", "memory/limit")
"""What namespaces and the cluster have: sums over pods."""
SUMMED_ON_NODES = ("cpu/request", "cpu/limit", "memory/request", "memory/limit")
"""What a node has as the sum over its pods."""

_APPLICATION: Sequence[tuple[str, Kind, bool]] = (
    ("app_counter", Kind.COUNTER, False),
    ("app_gauge", Kind.GAUGE, False),
    ("app_histogram", Kind.COUNTER, False),
    ("app_summary", Kind.COUNTER, False),
    ("app_quantile", Kind.GAUGE, False),
    ("app_integer_counter", Kind.COUNTER, True),
    ("app_integer_gauge", Kind.GAUGE, True),
)
APPLICATION: Mapping[str, tuple[Type, bool]] = {
    name: (Type.CUMULATIVE if kind is Kind.COUNTER else Type.GAUGE, is_integer) for name, kind, is_integer in _APPLICATION
}
"""Metrics of the table `app`: type, and whether they are whole numbers."""


def whole(value: float, is_integer: bool) -> int | float:
    """The value in Heapster's value type; whole numbers are rounded to the nearest, where Heapster cut them off."""
    return round(value) if is_integer else float(value)
