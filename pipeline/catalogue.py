"""Every metric once: name, kind, unit, table, one line of help, kernel source. Everything else derives from it.

SQL columns, Influx fields, exposition families, JSON places and the reference page take names, kinds and units from here.
A plug-in brings metrics of its own as a fragment in the same form; these go to the `custom` table.

Units of stored values: ns for durations, bytes, count, seconds (floats), ratio. A limit that the kernel states as none is
`records.UNLIMITED`. Compatible APIs convert at their edge.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.records import Kind, Metric, Schema, TableSchema

C, G = Kind.COUNTER, Kind.GAUGE

INSTANCE_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "percpu": "cpu",
        "network": "interface",
        "disk_io": "device",
        "host_cpu": "cpu",
        "host_disk": "device",
        "filesystem": "device",
        "custom": "instance",
    }
)
"""Instance tables and the label that tells their rows apart. `custom` is narrow: (metric, instance, value)."""

SCALAR_TABLES = ("sample", "sample_host", "sample_ext")
"""Tables with one row a sample: for every container, for the host alone, for optional kinds."""


def _metric(table: str, name: str, kind: Kind, unit: str, help: str, v1: str, v2: str, held: bool = False) -> Metric:
    return Metric(name, kind, unit, table, help, held, v1, v2)


def _sample(name: str, kind: Kind, unit: str, help: str, v1: str, v2: str, held: bool = False) -> Metric:
    return _metric("sample", name, kind, unit, help, v1, v2, held)


def _pressure(resource: str, share: str) -> Metric:
    who = "some task was" if share == "some" else "all tasks were"
    return _sample(
        f"{resource}_pressure_{share}_ns",
        C,
        "ns",
        f"Time in which {who} stalled for want of {resource}.",
        "",
        f"{resource}.pressure: {share} total (host: /proc/pressure/{resource})",
    )


_SAMPLE = (
    _sample("cpu_usage_ns", C, "ns", "CPU time used.", "cpuacct.usage", "cpu.stat: usage_usec", held=True),
    _sample("cpu_user_ns", C, "ns", "CPU time used in user mode.", "cpuacct.stat: user", "cpu.stat: user_usec", held=True),
    _sample(
        "cpu_system_ns",
        C,
        "ns",
        "CPU time used in the kernel.",
        "cpuacct.stat: system",
        "cpu.stat: system_usec",
        held=True,
    ),
    _sample(
        "cpu_periods",
        C,
        "count",
        "Enforcement periods of the CPU quota that passed.",
        "cpu.stat: nr_periods",
        "cpu.stat: nr_periods",
    ),
    _sample(
        "cpu_throttled_periods",
        C,
        "count",
        "Periods in which the CPU quota was used up.",
        "cpu.stat: nr_throttled",
        "cpu.stat: nr_throttled",
    ),
    _sample(
        "cpu_throttled_ns",
        C,
        "ns",
        "Time for which tasks were held back by the CPU quota.",
        "cpu.stat: throttled_time",
        "cpu.stat: throttled_usec",
    ),
    _sample(
        "cpu_load_milli",
        G,
        "count",
        "Running tasks, smoothed over 10 s, times 1000.",
        "netlink taskstats: cgroupstats",
        "/proc/PID/task/TID/stat: state",
    ),
    _sample(
        "memory_usage_bytes",
        G,
        "bytes",
        "Memory charged, page cache included.",
        "memory.usage_in_bytes",
        "memory.current (root: memory.stat anon + file)",
    ),
    _sample(
        "memory_max_usage_bytes",
        G,
        "bytes",
        "Highest memory usage since creation or reset.",
        "memory.max_usage_in_bytes",
        "memory.peak",
    ),
    _sample(
        "memory_working_set_bytes",
        G,
        "bytes",
        "Memory usage less inactive page cache.",
        "usage - memory.stat: total_inactive_file",
        "usage - memory.stat: inactive_file",
    ),
    _sample("memory_rss_bytes", G, "bytes", "Anonymous memory.", "memory.stat: total_rss", "memory.stat: anon"),
    _sample("memory_cache_bytes", G, "bytes", "Page cache.", "memory.stat: total_cache", "memory.stat: file"),
    _sample(
        "memory_mapped_file_bytes",
        G,
        "bytes",
        "Page cache that is mapped.",
        "memory.stat: total_mapped_file",
        "memory.stat: file_mapped",
    ),
    _sample("memory_swap_bytes", G, "bytes", "Swap used.", "memory.stat: total_swap", "memory.swap.current"),
    _sample(
        "memory_active_file_bytes",
        G,
        "bytes",
        "Page cache used lately.",
        "memory.stat: total_active_file",
        "memory.stat: active_file",
    ),
    _sample(
        "memory_inactive_file_bytes",
        G,
        "bytes",
        "Page cache that can be reclaimed first.",
        "memory.stat: total_inactive_file",
        "memory.stat: inactive_file",
    ),
    _sample("memory_page_faults", C, "count", "Page faults.", "memory.stat: total_pgfault", "memory.stat: pgfault"),
    _sample(
        "memory_major_page_faults",
        C,
        "count",
        "Page faults that had to read from a disk.",
        "memory.stat: total_pgmajfault",
        "memory.stat: pgmajfault",
    ),
    _sample("memory_limit_bytes", G, "bytes", "Memory limit of this cgroup alone.", "memory.limit_in_bytes", "memory.max"),
    _sample("memory_failures", C, "count", "Times that usage hit the limit.", "memory.failcnt", "memory.events: max"),
    _sample(
        "memory_oom_kills",
        C,
        "count",
        "Processes killed by the OOM killer.",
        "memory.oom_control: oom_kill",
        "memory.events: oom_kill",
    ),
    _sample("pids_current", G, "count", "Tasks, those of child cgroups included.", "pids.current", "pids.current"),
    _sample("pids_limit", G, "count", "Limit of tasks.", "pids.max", "pids.max"),
    _pressure("cpu", "some"),
    _pressure("cpu", "full"),
    _pressure("memory", "some"),
    _pressure("memory", "full"),
    _pressure("io", "some"),
    _pressure("io", "full"),
)


def _host(name: str, kind: Kind, unit: str, help: str, source: str) -> Metric:
    return _metric("sample_host", name, kind, unit, help, source, source)


_HOST = (
    _host("load1", G, "count", "Load average of the host over 1 minute.", "/proc/loadavg"),
    _host("load5", G, "count", "Load average of the host over 5 minutes.", "/proc/loadavg"),
    _host("load15", G, "count", "Load average of the host over 15 minutes.", "/proc/loadavg"),
    _host("uptime_seconds", G, "seconds", "Time since boot.", "/proc/uptime"),
    _host("host_memory_total_bytes", G, "bytes", "Memory of the host.", "/proc/meminfo: MemTotal"),
    _host("host_memory_free_bytes", G, "bytes", "Memory of the host that is not used at all.", "/proc/meminfo: MemFree"),
    _host(
        "host_memory_available_bytes",
        G,
        "bytes",
        "Memory of the host that new work can have without swapping.",
        "/proc/meminfo: MemAvailable",
    ),
    _host("host_memory_buffers_bytes", G, "bytes", "Buffers of block devices.", "/proc/meminfo: Buffers"),
    _host("host_memory_cached_bytes", G, "bytes", "Page cache of the host.", "/proc/meminfo: Cached"),
    _host("host_memory_dirty_bytes", G, "bytes", "Page cache that waits to be written.", "/proc/meminfo: Dirty"),
    _host("host_memory_shmem_bytes", G, "bytes", "Shared memory and tmpfs.", "/proc/meminfo: Shmem"),
    _host("host_memory_slab_bytes", G, "bytes", "Memory of kernel slabs.", "/proc/meminfo: Slab"),
    _host("host_swap_total_bytes", G, "bytes", "Swap of the host.", "/proc/meminfo: SwapTotal"),
    _host("host_swap_free_bytes", G, "bytes", "Swap of the host that is not used.", "/proc/meminfo: SwapFree"),
    _host("host_swap_in_bytes", C, "bytes", "Memory read back from swap.", "/proc/vmstat: pswpin"),
    _host("host_swap_out_bytes", C, "bytes", "Memory written to swap.", "/proc/vmstat: pswpout"),
    _host("host_context_switches", C, "count", "Context switches.", "/proc/stat: ctxt"),
    _host("host_interrupts", C, "count", "Interrupts served.", "/proc/stat: intr"),
    _host("host_forks", C, "count", "Processes and threads created.", "/proc/stat: processes"),
    _host("host_processes_running", G, "count", "Runnable tasks.", "/proc/stat: procs_running"),
    _host("host_processes_blocked", G, "count", "Tasks that wait for I/O.", "/proc/stat: procs_blocked"),
)

_EXT = tuple(
    _metric(
        "sample_ext",
        f"tasks_{state}",
        G,
        "count",
        f"Tasks that are {text}.",
        "netlink taskstats: cgroupstats",
        "/proc/PID/task/TID/stat: state",
    )
    for state, text in (
        ("sleeping", "asleep"),
        ("running", "running or runnable"),
        ("stopped", "stopped"),
        ("uninterruptible", "in uninterruptible sleep"),
        ("io_waiting", "waiting for I/O"),
    )
)

_NETWORK = tuple(
    _metric(
        "network",
        f"network_{way}_{what}",
        C,
        "bytes" if what == "bytes" else "count",
        text,
        "/proc/PID/net/dev",
        "/proc/PID/net/dev",
    )
    for way, verb in (("receive", "received"), ("transmit", "sent"))
    for what, text in (
        ("bytes", f"Bytes {verb}."),
        ("packets", f"Packets {verb}."),
        ("errors", f"Errors while packets were {verb}."),
        ("dropped", f"Packets dropped while being {verb}."),
    )
)

_IO_STAT = {"disk_read_bytes": "rbytes", "disk_write_bytes": "wbytes", "disk_discard_bytes": "dbytes"} | {
    "disk_read_ops": "rios",
    "disk_write_ops": "wios",
    "disk_discard_ops": "dios",
}

_DISK_IO = tuple(
    _metric("disk_io", name, C, unit, f"{noun} {text}.", f"{v1}: {op.capitalize()}", f"io.stat: {key}" if key else "")
    for what, unit, noun, v1 in (
        ("bytes", "bytes", "Bytes", "blkio io_service_bytes"),
        ("ops", "count", "Requests", "blkio io_serviced"),
    )
    for op, text in (
        ("read", "read from a block device"),
        ("write", "written to a block device"),
        ("discard", "discarded on a block device"),
        ("sync", "moved synchronously"),
        ("async", "moved asynchronously"),
    )
    for name in (f"disk_{op}_{what}",)
    for key in (_IO_STAT.get(name),)
)

_PERCPU = (_metric("percpu", "percpu_usage_ns", C, "ns", "CPU time used on one CPU.", "cpuacct.usage_percpu", "", held=True),)

_HOST_CPU = tuple(
    _metric(
        "host_cpu",
        f"host_cpu_{mode}_ns",
        C,
        "ns",
        f"CPU time of the host {text}.",
        f"/proc/stat: {mode}",
        f"/proc/stat: {mode}",
    )
    for mode, text in (
        ("user", "in user mode, guests and nice excluded"),
        ("nice", "in user mode at low priority, guests excluded"),
        ("system", "in the kernel"),
        ("idle", "spent idle"),
        ("iowait", "spent idle while I/O was under way"),
        ("irq", "serving interrupts"),
        ("softirq", "serving soft interrupts"),
        ("steal", "taken by the hypervisor"),
        ("guest", "running guests"),
        ("guest_nice", "running guests at low priority"),
    )
)

_HOST_DISK = tuple(
    _metric(
        "host_disk",
        f"host_disk_{name}",
        kind,
        unit,
        help,
        f"/proc/diskstats: field {field}",
        f"/proc/diskstats: field {field}",
    )
    for name, kind, unit, help, field in (
        ("reads", C, "count", "Reads completed.", 4),
        ("reads_merged", C, "count", "Reads merged with a neighbour.", 5),
        ("read_bytes", C, "bytes", "Bytes read.", 6),
        ("read_ns", C, "ns", "Time spent reading, summed over requests.", 7),
        ("writes", C, "count", "Writes completed.", 8),
        ("writes_merged", C, "count", "Writes merged with a neighbour.", 9),
        ("written_bytes", C, "bytes", "Bytes written.", 10),
        ("write_ns", C, "ns", "Time spent writing, summed over requests.", 11),
        ("io_now", G, "count", "Requests under way.", 12),
        ("io_ns", C, "ns", "Time in which at least one request was under way.", 13),
        ("weighted_io_ns", C, "ns", "Time of requests under way, weighted by their number.", 14),
        ("discards", C, "count", "Discards completed.", 15),
        ("discarded_bytes", C, "bytes", "Bytes discarded.", 17),
    )
)

_FILESYSTEM = tuple(
    _metric("filesystem", f"filesystem_{name}", G, unit, help, f"statvfs: {field}", f"statvfs: {field}")
    for name, unit, help, field in (
        ("limit_bytes", "bytes", "Size of the filesystem.", "f_blocks"),
        ("usage_bytes", "bytes", "Space used.", "f_blocks - f_bfree"),
        ("available_bytes", "bytes", "Space that an ordinary user can have.", "f_bavail"),
        ("inodes", "count", "Inodes of the filesystem.", "f_files"),
        ("inodes_free", "count", "Inodes that are not used.", "f_ffree"),
    )
)

METRICS: tuple[Metric, ...] = _SAMPLE + _HOST + _EXT + _NETWORK + _DISK_IO + _PERCPU + _HOST_CPU + _HOST_DISK + _FILESYSTEM


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
