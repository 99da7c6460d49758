"""cAdvisor's JSON of containers and their samples, field for field. Names, units and spelling are cAdvisor's.

A field with a default is left out while it has that value, as Go's `omitempty` does; a field without one is always there.
Times are RFC 3339 text in UTC. Source: cAdvisor info/v1/container.go, info/v2/container.go.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tidegauge.pipeline.builtin_metrics import TCP_EXT_FIELDS, TCP_FIELDS

ZERO_TIME = "0001-01-01T00:00:00Z"


class Shape(msgspec.Struct, omit_defaults=True, gc=False):
    """What all of them have in common. They hold no cycles."""


class CpuUsage(Shape, kw_only=True):
    """Nanoseconds; in `cpu_inst` nanocores."""

    total: int
    per_cpu_usage: Sequence[int] = msgspec.field(default_factory=list)
    user: int
    system: int


class CpuCfs(Shape, kw_only=True):
    periods: int
    throttled_periods: int
    throttled_time: int
    bursts_periods: int
    burst_time: int


class CpuSchedstat(Shape, kw_only=True):
    run_time: int
    runqueue_time: int
    run_periods: int


class PsiShare(Shape, kw_only=True):
    """`total` in microseconds, as the kernel has it; the means in percent."""

    total: int
    avg10: float
    avg60: float
    avg300: float


class Psi(Shape, kw_only=True):
    full: PsiShare
    some: PsiShare


class CpuStats(Shape, kw_only=True):
    usage: CpuUsage
    cfs: CpuCfs
    schedstat: CpuSchedstat
    load_average: int
    load_d_average: int
    psi: Psi


class CpuInstStats(Shape, kw_only=True):
    usage: CpuUsage


class PerDiskStats(Shape, kw_only=True):
    device: str
    major: int
    minor: int
    stats: Mapping[str, int]


class DiskIoStats(Shape, kw_only=True):
    io_service_bytes: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_serviced: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_queued: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    sectors: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_service_time: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_wait_time: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_merged: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_time: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_cost_usage: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_cost_wait: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_cost_indebt: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    io_cost_indelay: Sequence[PerDiskStats] = msgspec.field(default_factory=list)
    psi: Psi


class NumaStats(Shape, kw_only=True):
    """Pages by node."""

    file: Mapping[str, int] = msgspec.field(default_factory=dict)
    anon: Mapping[str, int] = msgspec.field(default_factory=dict)
    unevictable: Mapping[str, int] = msgspec.field(default_factory=dict)


class MemoryFaults(Shape, kw_only=True):
    pgfault: int
    pgmajfault: int
    numa_stats: NumaStats


class MemoryEvents(Shape, kw_only=True):
    high: int
    max: int


class MemoryStats(Shape, kw_only=True):
    usage: int
    max_usage: int
    cache: int
    rss: int
    swap: int
    mapped_file: int
    working_set: int
    total_active_file: int
    total_inactive_file: int
    file_dirty: int
    file_writeback: int
    kernel: int
    pgscan: int
    pgsteal: int
    workingset_refault_file: int
    workingset_refault_anon: int
    failcnt: int
    container_data: MemoryFaults
    hierarchical_data: MemoryFaults
    events: MemoryEvents
    psi: Psi


class HugetlbStats(Shape, kw_only=True):
    usage: int = 0
    max_usage: int = 0
    failcnt: int


class InterfaceStats(Shape, kw_only=True):
    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class TcpStat(Shape, kw_only=True):
    Established: int
    SynSent: int
    SynRecv: int
    FinWait1: int
    FinWait2: int
    TimeWait: int
    Close: int
    CloseWait: int
    LastAck: int
    Listen: int
    Closing: int


class UdpStat(Shape, kw_only=True):
    Listen: int
    Dropped: int
    RxQueued: int
    TxQueued: int


ADVANCED_FIELDS = (*TCP_FIELDS, *TCP_EXT_FIELDS)
TcpAdvanced: Any = msgspec.defstruct("TcpAdvanced", [(name, int) for name in ADVANCED_FIELDS], bases=(Shape,), module=__name__)


class NetworkStats(InterfaceStats, kw_only=True):
    """The first interface once more at the top, as cAdvisor has it."""

    interfaces: Sequence[InterfaceStats] = msgspec.field(default_factory=list)
    tcp: TcpStat
    tcp6: TcpStat
    udp: UdpStat
    udp6: UdpStat
    tcp_advanced: Any


class NetworkStatsV2(Shape, kw_only=True):
    interfaces: Sequence[InterfaceStats] = msgspec.field(default_factory=list)
    tcp: TcpStat
    tcp6: TcpStat
    udp: UdpStat
    udp6: UdpStat
    tcp_advanced: Any


class FsStats(Shape, kw_only=True):
    """Bytes; times in milliseconds."""

    device: str = ""
    type: str
    capacity: int
    usage: int
    base_usage: int
    available: int
    has_inodes: bool
    inodes: int
    inodes_free: int
    reads_completed: int
    reads_merged: int
    sectors_read: int
    read_time: int
    writes_completed: int
    writes_merged: int
    sectors_written: int
    write_time: int
    io_in_progress: int
    io_time: int
    weighted_io_time: int


class LoadStats(Shape, kw_only=True):
    nr_sleeping: int
    nr_running: int
    nr_stopped: int
    nr_uninterruptible: int
    nr_io_wait: int


class Ulimit(Shape, kw_only=True):
    name: str
    soft_limit: int
    hard_limit: int


class ProcessStats(Shape, kw_only=True):
    process_count: int
    fd_count: int
    socket_count: int
    threads_current: int = 0
    threads_max: int = 0
    ulimits: Sequence[Ulimit] = msgspec.field(default_factory=list)


class MetricVal(Shape, kw_only=True):
    label: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    timestamp: str
    int_value: int = 0
    float_value: float = 0.0


class PerfStat(Shape, kw_only=True):
    scaling_ratio: float
    value: int
    name: str
    cpu: int


class MemoryBandwidth(Shape, kw_only=True):
    mbm_total_bytes: int = 0
    mbm_local_bytes: int = 0


class CacheOccupancy(Shape, kw_only=True):
    llc_occupancy: int = 0


class ResctrlStats(Shape, kw_only=True):
    memory_bandwidth: Sequence[MemoryBandwidth] = msgspec.field(default_factory=list)
    cache: Sequence[CacheOccupancy] = msgspec.field(default_factory=list)


class CpusetStats(Shape, kw_only=True):
    memory_migrate: int


class Health(Shape, kw_only=True):
    status: str


class ContainerStats(Shape, kw_only=True):
    """One sample, v1."""

    timestamp: str
    cpu: CpuStats
    cpu_inst: CpuInstStats | UnsetType = UNSET
    diskio: DiskIoStats | UnsetType = UNSET
    memory: MemoryStats
    hugetlb: Mapping[str, HugetlbStats] = msgspec.field(default_factory=dict)
    network: NetworkStats | UnsetType = UNSET
    filesystem: Sequence[FsStats] = msgspec.field(default_factory=list)
    task_stats: LoadStats
    accelerators: Sequence[Any] = msgspec.field(default_factory=list)
    processes: ProcessStats | UnsetType = UNSET
    custom_metrics: Mapping[str, Sequence[MetricVal]] = msgspec.field(default_factory=dict)
    perf_stats: Sequence[PerfStat] = msgspec.field(default_factory=list)
    perf_uncore_stats: Sequence[Any] = msgspec.field(default_factory=list)
    referenced_memory: int = 0
    resctrl: ResctrlStats
    cpuset: CpusetStats
    oom_events: int = 0
    health: Health


class FilesystemStatsV2(Shape, kw_only=True):
    totalUsageBytes: int | UnsetType = UNSET
    baseUsageBytes: int | UnsetType = UNSET
    containter_inode_usage: int | UnsetType = UNSET
    """So spelt by cAdvisor."""


class ContainerStatsV21(Shape, kw_only=True):
    """One sample, v2.1: what the spec says that the container has."""

    timestamp: str
    cpu: CpuStats | UnsetType = UNSET
    cpu_inst: CpuInstStats | UnsetType = UNSET
    diskio: DiskIoStats | UnsetType = UNSET
    memory: MemoryStats | UnsetType = UNSET
    hugetlb: Mapping[str, HugetlbStats] | UnsetType = UNSET
    network: NetworkStatsV2 | UnsetType = UNSET
    processes: ProcessStats | UnsetType = UNSET
    filesystem: FilesystemStatsV2 | UnsetType = UNSET
    custom_metrics: Mapping[str, Sequence[MetricVal]] = msgspec.field(default_factory=dict)
    perf_stats: Sequence[PerfStat] = msgspec.field(default_factory=list)
    referenced_memory: int = 0
    resctrl: ResctrlStats | UnsetType = UNSET


class ContainerStatsV20(Shape, kw_only=True):
    """One sample, v2.0 (`DeprecatedContainerStats`)."""

    timestamp: str
    has_cpu: bool
    cpu: CpuStats
    cpu_inst: CpuInstStats | UnsetType = UNSET
    has_diskio: bool
    diskio: DiskIoStats
    has_memory: bool
    memory: MemoryStats
    has_hugetlb: bool
    hugetlb: Mapping[str, HugetlbStats] = msgspec.field(default_factory=dict)
    has_network: bool
    network: NetworkStatsV2
    has_processes: bool
    processes: ProcessStats
    has_filesystem: bool
    filesystem: Sequence[FsStats] = msgspec.field(default_factory=list)
    has_load: bool
    load_stats: LoadStats
    has_custom_metrics: bool
    custom_metrics: Mapping[str, Sequence[MetricVal]] = msgspec.field(default_factory=dict)


class MachineFsIo(Shape, kw_only=True):
    """Durations in nanoseconds."""

    reads_completed: int
    reads_merged: int
    sectors_read: int
    read_duration: int
    writes_completed: int
    writes_merged: int
    sectors_written: int
    write_duration: int
    io_in_progress: int
    io_duration: int
    weighted_io_duration: int


class MachineFsStats(Shape, kw_only=True):
    device: str
    type: str
    capacity: int
    usage: int
    available: int
    inodes_free: int | UnsetType = UNSET
    inline: MachineFsIo


class MachineStats(Shape, kw_only=True):
    timestamp: str
    cpu: CpuStats | UnsetType = UNSET
    cpu_inst: CpuInstStats | UnsetType = UNSET
    memory: MemoryStats | UnsetType = UNSET
    network: NetworkStatsV2 | UnsetType = UNSET
    filesystem: Sequence[MachineFsStats] = msgspec.field(default_factory=list)


class CpuSpec(Shape, kw_only=True):
    """Shares in v1's scale; quota and period in microseconds."""

    limit: int
    max_limit: int
    mask: str = ""
    quota: int = 0
    period: int = 0


class MemorySpec(Shape, kw_only=True):
    limit: int = 0
    reservation: int = 0
    swap_limit: int = 0


class ProcessSpec(Shape, kw_only=True):
    limit: int = 0


class MetricSpec(Shape, kw_only=True):
    name: str
    type: str
    format: str
    units: str


class ContainerSpec(Shape, kw_only=True):
    """v1, and with aliases and namespace v2."""

    creation_time: str
    start_time: str
    aliases: Sequence[str] = msgspec.field(default_factory=list)
    namespace: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    envs: Mapping[str, str] = msgspec.field(default_factory=dict)
    has_cpu: bool
    cpu: CpuSpec
    has_memory: bool
    memory: MemorySpec
    has_hugetlb: bool
    has_network: bool
    has_processes: bool
    processes: ProcessSpec
    has_filesystem: bool
    has_diskio: bool
    has_custom_metrics: bool
    custom_metrics: Sequence[MetricSpec] = msgspec.field(default_factory=list)
    image: str = ""


class ContainerReference(Shape, kw_only=True):
    id: str = ""
    name: str
    aliases: Sequence[str] = msgspec.field(default_factory=list)
    namespace: str = ""


class ContainerInfo(Shape, kw_only=True):
    """`stats` is put in when it is encoded: its samples are kept in that form."""

    id: str = ""
    name: str
    aliases: Sequence[str] = msgspec.field(default_factory=list)
    namespace: str = ""
    subcontainers: Sequence[ContainerReference] = msgspec.field(default_factory=list)
    spec: ContainerSpec
    stats: Sequence[ContainerStats] = msgspec.field(default_factory=list)


class ContainerInfoV2(Shape, kw_only=True):
    """An entry of v2.1 `stats`."""

    spec: ContainerSpec
    stats: Sequence[ContainerStatsV21]


class MetricValBasic(Shape, kw_only=True):
    timestamp: str
    int_value: int = 0
    float_value: float = 0.0


class Percentiles(Shape, kw_only=True):
    present: bool
    mean: int
    std: int
    max: int
    fifty: int
    ninety: int
    ninetyfive: int
    count: int


class Usage(Shape, kw_only=True):
    percent_complete: int
    cpu: Percentiles
    memory: Percentiles


class InstantUsage(Shape, kw_only=True):
    cpu: int
    memory: int


class DerivedStats(Shape, kw_only=True):
    """CPU in milli-cores, memory as the working set in bytes."""

    timestamp: str
    latest_usage: InstantUsage
    minute_usage: Usage
    hour_usage: Usage
    day_usage: Usage


class ProcessInfo(Shape, kw_only=True):
    user: str
    pid: int
    parent_pid: int
    start_time: str
    percent_cpu: float
    percent_mem: float
    rss: int
    virtual_size: int
    status: str
    running_time: str
    cgroup_path: str
    cmd: str
    fd_count: int
    psr: int


class OomKillData(Shape, kw_only=True):
    pid: int
    process_name: str
    constraint: str


class DeletionData(Shape, kw_only=True):
    exit_code: int


class EventData(Shape, kw_only=True):
    oom: OomKillData | UnsetType = UNSET
    container_deletion: DeletionData | UnsetType = UNSET


class EventInfo(Shape, kw_only=True):
    container_name: str
    timestamp: str
    event_type: str
    event_data: EventData
