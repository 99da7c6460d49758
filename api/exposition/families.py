"""Which families of cAdvisor's page come from which metrics of the catalogue: one table, read by the renderer.

Durations are stored in ns and shown in seconds: that follows from the catalogue's unit and is not said here. What else is
converted is. A family whose metrics nobody reads on a host is not on the page; `docs/prometheus.md` lists what differs from
cAdvisor.
"""

import os
from typing import Literal, NamedTuple

from tidegauge.pipeline.builtin_metrics import TCP_EXT_FIELDS, TCP_FIELDS, TCP_STATES, tcp_metric

Kind = Literal["counter", "gauge"]

PAGE = os.sysconf("SC_PAGE_SIZE")
SECTOR = 512
"""Bytes of a sector, as the kernel counts them on every device."""


class Scalar(NamedTuple):
    """One line of a family from one value a container."""

    metric: str
    labels: str = ""
    """Further labels as the page has them, `state="running"`."""
    when: Literal["", "quota", "no percpu"] = ""
    """`quota`: only of containers with a CPU quota. `no percpu`: only where no CPU has a value of its own, and above 0."""
    unlimited: int | None = None
    """Shown for a limit that is none."""


class Rows(NamedTuple):
    """A line for each row of an instance table."""

    table: str
    metric: str
    label: Literal[
        "cpu", "device", "disk", "disk with numbers", "interface", "pagesize", "node", "node_id", "event", "udp", "tcp"
    ]
    """How the row's instance is shown; `labels.row_labels`. Of `tcp` and `udp` only the rows of one protocol are."""
    labels: str = ""
    per: float | None = None
    """The value is divided by this."""
    plus: str | None = None
    """Added to the metric, where both are there."""
    protocol: str = ""
    skips_zero: bool = False


class Family(NamedTuple):
    name: str
    kind: Kind
    help: str
    sources: tuple[Scalar | Rows, ...]
    """In order of strength: of two that have a line with equal labels for the host, the first counts.

    What the block layer counts of a whole disk comes before what the host's cgroup has of it by scheduler, often only zeros.
    """


def _one(name: str, kind: Kind, help: str, metric: str, *, unlimited: int | None = None) -> Family:
    return Family(f"container_{name}", kind, help, (Scalar(metric, unlimited=unlimited),))


def _disk(name: str, kind: Kind, help: str, *sources: Rows) -> Family:
    return Family(f"container_fs_{name}", kind, help, sources)


def _io(metric: str, plus: str | None = None) -> Rows:
    return Rows("disk_io_ext", metric, "disk", plus=plus)


def _host(metric: str, per: float | None = None) -> Rows:
    return Rows("host_disk", metric, "disk", per=per)


_CPU = (
    _one("cpu_user_seconds_total", "counter", "CPU time used in user mode.", "cpu_user_ns"),
    _one("cpu_system_seconds_total", "counter", "CPU time used in the kernel.", "cpu_system_ns"),
    Family(
        "container_cpu_usage_seconds_total",
        "counter",
        'CPU time used, by CPU, or cpu="total" where the kernel does not split it.',
        (
            Rows("percpu", "percpu_usage_ns", "cpu", skips_zero=True),
            Scalar("cpu_usage_ns", 'cpu="total"', when="no percpu"),
        ),
    ),
    *(
        Family(f"container_cpu_cfs_{name}_total", "counter", help, (Scalar(metric, when="quota"),))
        for name, help, metric in (
            ("periods", "Enforcement periods of the CPU quota that passed.", "cpu_periods"),
            ("throttled_periods", "Periods in which the CPU quota was used up.", "cpu_throttled_periods"),
            ("throttled_seconds", "Time for which tasks were held back by the CPU quota.", "cpu_throttled_ns"),
            ("burst_periods", "Periods in which CPU time saved up beyond the quota was used.", "cpu_burst_periods"),
            ("burst_seconds", "CPU time used beyond the quota.", "cpu_burst_ns"),
        )
    ),
    _one("cpu_schedstat_run_seconds_total", "counter", "Time that threads were on a CPU.", "cpu_schedstat_run_ns"),
    _one("cpu_schedstat_runqueue_seconds_total", "counter", "Time that threads waited for a CPU.", "cpu_schedstat_wait_ns"),
    _one("cpu_schedstat_run_periods_total", "counter", "Times that a thread was put on a CPU.", "cpu_schedstat_slices"),
    _one("cpu_load_average_10s", "gauge", "Running tasks times 1000, smoothed over 10 s.", "cpu_load_milli"),
    _one("cpu_load_d_average_10s", "gauge", "Tasks that sleep uninterruptibly times 1000, over 10 s.", "cpu_load_d_milli"),
    Family(
        "container_tasks_state",
        "gauge",
        "Tasks in each state.",
        tuple(
            Scalar(f"tasks_{metric}", f'state="{state}"')
            for state, metric in (
                ("sleeping", "sleeping"),
                ("running", "running"),
                ("stopped", "stopped"),
                ("uninterruptible", "uninterruptible"),
                ("iowaiting", "io_waiting"),
            )
        ),
    ),
)


def _huge(name: str, kind: Kind, help: str, metric: str) -> Family:
    return Family(f"container_hugetlb_{name}", kind, help, (Rows("hugetlb", metric, "pagesize"),))


_HUGETLB = (
    _huge("failcnt", "counter", "Times that the use of huge pages hit the limit.", "hugetlb_failures"),
    _huge("usage_bytes", "gauge", "Huge pages in use.", "hugetlb_usage_bytes"),
    _huge("max_usage_bytes", "gauge", "Most huge pages that were ever in use.", "hugetlb_max_usage_bytes"),
)

_MEMORY = (
    _one("memory_cache", "gauge", "Page cache, in bytes.", "memory_cache_bytes"),
    _one("memory_rss", "gauge", "Anonymous memory, in bytes; not the sum of the processes' RSS.", "memory_rss_bytes"),
    _one("memory_kernel_usage", "gauge", "Memory that the kernel uses for the container, in bytes.", "memory_kernel_bytes"),
    _one("memory_mapped_file", "gauge", "Page cache that is mapped, in bytes.", "memory_mapped_file_bytes"),
    _one("memory_swap", "gauge", "Swap used, in bytes.", "memory_swap_bytes"),
    _one("memory_failcnt", "counter", "Times that memory usage hit the limit.", "memory_failures"),
    _one("memory_usage_bytes", "gauge", "Memory charged, page cache included.", "memory_usage_bytes"),
    _one("memory_max_usage_bytes", "gauge", "Highest memory usage on record.", "memory_max_usage_bytes"),
    _one("memory_working_set_bytes", "gauge", "Memory usage less inactive page cache.", "memory_working_set_bytes"),
    _one("memory_total_active_file_bytes", "gauge", "Page cache used lately.", "memory_active_file_bytes"),
    _one("memory_total_inactive_file_bytes", "gauge", "Page cache that is reclaimed first.", "memory_inactive_file_bytes"),
    Family(
        "container_memory_failures_total",
        "counter",
        "Page faults, those of child cgroups included, whatever the scope says.",
        tuple(
            Scalar(metric, f'failure_type="{type_}",scope="{scope}"')
            for scope in ("container", "hierarchy")
            for type_, metric in (("pgfault", "memory_page_faults"), ("pgmajfault", "memory_major_page_faults"))
        ),
    ),
    _one("memory_events_high_total", "counter", "Times that tasks were slowed beyond memory.high.", "memory_high_events"),
    _one("memory_events_max_total", "counter", "Times that memory usage was about to pass the limit.", "memory_failures"),
    _one("memory_file_dirty_bytes", "gauge", "Page cache that waits to be written.", "memory_dirty_bytes"),
    _one("memory_file_writeback_bytes", "gauge", "Page cache that is being written.", "memory_writeback_bytes"),
    _one("memory_pgscan_total", "counter", "Pages looked at to reclaim memory.", "memory_reclaim_scanned_pages"),
    _one("memory_pgsteal_total", "counter", "Pages reclaimed.", "memory_reclaimed_pages"),
    _one(
        "memory_workingset_refault_file_total",
        "counter",
        "Pages of page cache read again soon after they were reclaimed.",
        "memory_refaulted_file_pages",
    ),
    _one(
        "memory_workingset_refault_anon_total",
        "counter",
        "Anonymous pages read again soon after they were reclaimed.",
        "memory_refaulted_anon_pages",
    ),
    _one("memory_migrate", "gauge", "1 if memory moves along when its nodes change.", "cpuset_memory_migrate"),
    Family(
        "container_memory_numa_pages",
        "gauge",
        "Pages of memory on each NUMA node.",
        tuple(
            Rows("numa", f"numa_{own}{type_}_bytes", "node", f'type="{type_}",scope="{scope}"', per=PAGE)
            for scope, own in (("hierarchy", ""), ("container", "own_"))
            for type_ in ("file", "anon", "unevictable")
        ),
    ),
)

_FILESYSTEM = (
    _disk("inodes_free", "gauge", "Inodes that are not used.", Rows("filesystem", "filesystem_inodes_free", "device")),
    _disk(
        "inodes_total",
        "gauge",
        "Inodes of the filesystem; of a container those that its own layer takes.",
        Rows("filesystem", "filesystem_inodes", "device"),
        Rows("disk_usage", "disk_usage_inodes", "device"),
    ),
    _disk(
        "limit_bytes",
        "gauge",
        "Size of the filesystem, or the container's quota on it.",
        Rows("filesystem", "filesystem_limit_bytes", "device"),
        Rows("disk_usage", "disk_usage_limit_bytes", "device"),
    ),
    _disk(
        "usage_bytes",
        "gauge",
        "Space used; of a container that of its own layer and its logs.",
        Rows("filesystem", "filesystem_usage_bytes", "device"),
        Rows("disk_usage", "disk_usage_bytes", "device"),
    ),
)

_DISK_IO = (
    _disk(
        "reads_bytes_total",
        "counter",
        "Bytes read.",
        Rows("disk_io", "disk_read_bytes", "disk"),
        _host("host_disk_read_bytes"),
    ),
    _disk("reads_total", "counter", "Reads completed.", Rows("disk_io", "disk_read_ops", "disk"), _host("host_disk_reads")),
    _disk("sector_reads_total", "counter", "Sectors of 512 bytes read.", _host("host_disk_read_bytes", SECTOR)),
    _disk(
        "reads_merged_total",
        "counter",
        "Reads merged with a neighbour.",
        _host("host_disk_reads_merged"),
        _io("disk_reads_merged"),
    ),
    _disk("read_seconds_total", "counter", "Time spent reading.", _host("host_disk_read_ns"), _io("disk_read_service_ns")),
    _disk(
        "writes_bytes_total",
        "counter",
        "Bytes written.",
        Rows("disk_io", "disk_write_bytes", "disk"),
        _host("host_disk_written_bytes"),
    ),
    _disk("writes_total", "counter", "Writes completed.", Rows("disk_io", "disk_write_ops", "disk"), _host("host_disk_writes")),
    _disk("sector_writes_total", "counter", "Sectors of 512 bytes written.", _host("host_disk_written_bytes", SECTOR)),
    _disk(
        "writes_merged_total",
        "counter",
        "Writes merged with a neighbour.",
        _host("host_disk_writes_merged"),
        _io("disk_writes_merged"),
    ),
    _disk("write_seconds_total", "counter", "Time spent writing.", _host("host_disk_write_ns"), _io("disk_write_service_ns")),
    _disk("io_current", "gauge", "Requests under way.", _host("host_disk_io_now"), _io("disk_queued")),
    _disk(
        "io_time_seconds_total",
        "counter",
        "Time in which requests were served.",
        _host("host_disk_io_ns"),
        _io("disk_read_service_ns", "disk_write_service_ns"),
    ),
    _disk(
        "io_time_weighted_seconds_total",
        "counter",
        "Time of requests under way, weighted by their number.",
        _host("host_disk_weighted_io_ns"),
    ),
    *(
        _disk(f"io_cost_{part}_seconds_total", "counter", help, _io(f"disk_cost_{part}_ns"))
        for part, help in (
            ("usage", "Device time used, as the I/O cost model sees it."),
            ("wait", "Time spent waiting for device time."),
            ("indebt", "Time spent in debt of device time."),
            ("indelay", "Time for which tasks were held back to pay that debt."),
        )
    ),
    Family(
        "container_blkio_device_usage_total",
        "counter",
        "Bytes moved to and from a block device, by kind of request; the kinds overlap.",
        tuple(
            Rows("disk_io", f"disk_{operation.lower()}_bytes", "disk with numbers", f'operation="{operation}"')
            for operation in ("Read", "Write", "Discard", "Sync", "Async")
        ),
    ),
)

_NETWORK = tuple(
    Family(f"container_network_{name}_total", "counter", help, (Rows("network", metric, "interface"),))
    for way, verb in (("receive", "received"), ("transmit", "sent"))
    for name, help, metric in (
        (f"{way}_bytes", f"Bytes {verb}.", f"network_{way}_bytes"),
        (f"{way}_packets", f"Packets {verb}.", f"network_{way}_packets"),
        (f"{way}_packets_dropped", f"Packets dropped while being {verb}.", f"network_{way}_dropped"),
        (f"{way}_errors", f"Errors while packets were {verb}.", f"network_{way}_errors"),
    )
)

_SOCKETS = (
    *(
        Family(
            f"container_network_{protocol}_usage_total",
            "gauge",
            f"TCP sockets in each state, {version}.",
            tuple(
                Rows("tcp", f"tcp_{state}", "tcp", f'tcp_state="{state.replace("_", "")}"', protocol=protocol)
                for state in TCP_STATES
            ),
        )
        for protocol, version in (("tcp", "IPv4"), ("tcp6", "IPv6"))
    ),
    Family(
        "container_network_advance_tcp_stats_total",
        "gauge",
        "The kernel's SNMP counters of TCP, by name.",
        tuple(Scalar(tcp_metric(field), f'tcp_state="{field.lower()}"') for field in (*TCP_FIELDS, *TCP_EXT_FIELDS)),
    ),
    *(
        Family(
            f"container_network_{protocol}_usage_total",
            "gauge",
            f"UDP sockets, {version}: their number, datagrams dropped, bytes in their queues.",
            tuple(
                Rows("udp", f"udp_{metric}", "udp", f'udp_state="{state}"', protocol=protocol)
                for state, metric in (
                    ("listen", "listen"),
                    ("dropped", "dropped"),
                    ("rxqueued", "receive_queue_bytes"),
                    ("txqueued", "transmit_queue_bytes"),
                )
            ),
        )
        for protocol, version in (("udp6", "IPv6"), ("udp", "IPv4"))
    ),
)

_PROCESSES = (
    _one("processes", "gauge", "Processes of the cgroup itself, without those of child cgroups.", "process_count"),
    _one("file_descriptors", "gauge", "Open file descriptors of these processes.", "open_files"),
    _one("sockets", "gauge", "Open descriptors that are sockets.", "open_sockets"),
    _one("threads_max", "gauge", "Limit of tasks; 0: none.", "pids_limit", unlimited=0),
    _one("threads", "gauge", "Tasks, those of child cgroups included.", "pids_current"),
    Family(
        "container_ulimits_soft",
        "gauge",
        "Soft limits of the oldest process; -1: none.",
        (Scalar("open_files_soft_limit", 'ulimit="max_open_files"', unlimited=-1),),
    ),
)

_COUNTERS_OF_THE_CPU = (
    Family(
        "container_perf_events_total",
        "counter",
        "Times that an event of the CPU or the kernel happened, over all CPUs.",
        (Rows("perf", "perf_count", "event"),),
    ),
    Family(
        "container_perf_events_scaling_ratio",
        "gauge",
        "Share of the time in which the event was counted.",
        (Rows("perf", "perf_scaling_ratio", "event"),),
    ),
    _one("referenced_bytes", "gauge", "Memory touched since the kernel's marks were last cleared.", "memory_referenced_bytes"),
    *(
        Family(f"container_{name}", "gauge", help, (Rows("resctrl", name, "node_id"),))
        for name, help in (
            ("memory_bandwidth_bytes", "Bytes moved to and from memory since the start."),
            ("memory_bandwidth_local_bytes", "Bytes moved to and from the node's own memory since the start."),
            ("llc_occupancy_bytes", "Last-level cache held."),
        )
    ),
)

_STALLS = (
    _one("oom_events_total", "counter", "Processes killed for want of memory.", "memory_oom_kills"),
    *(
        _one(f"pressure_{resource}_{word}_seconds_total", "counter", help.format(resource), f"{resource}_pressure_{share}_ns")
        for resource in ("cpu", "memory", "io")
        for word, share, help in (
            ("stalled", "full", "Time in which all tasks stalled for want of {}."),
            ("waiting", "some", "Time in which some task waited for {}."),
        )
    ),
)

FAMILIES: tuple[Family, ...] = (
    *_CPU,
    *_HUGETLB,
    *_MEMORY,
    *_FILESYSTEM,
    *_DISK_IO,
    *_NETWORK,
    *_SOCKETS,
    *_PROCESSES,
    *_COUNTERS_OF_THE_CPU,
    *_STALLS,
)
"""Every family of a container's samples."""
