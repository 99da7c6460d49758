"""Samples of containers and machines. Source: cAdvisor info/v1/container.go, info/v2/container.go, info/v2/machine.go.

Times are UTC to the microsecond. Counters of time are nanoseconds, memory is bytes, unless said otherwise.
"""

from datetime import datetime

import msgspec

from tidegauge.client.decoding import ZERO_TIME, Model


class PsiShare(Model, frozen=True):
    """`total` in microseconds, the kernel's; means in percent."""

    total: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


class PsiStats(Model, frozen=True):
    full: PsiShare = PsiShare()
    some: PsiShare = PsiShare()


class CpuUsage(Model, frozen=True):
    """Nanoseconds since the container began; in `CpuInstStats` nanocores."""

    total: int = 0
    per_cpu_usage: tuple[int, ...] = ()
    user: int = 0
    system: int = 0


class CpuCfs(Model, frozen=True):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    bursts_periods: int = 0
    burst_time: int = 0


class CpuSchedstat(Model, frozen=True):
    run_time: int = 0
    runqueue_time: int = 0
    run_periods: int = 0


class CpuStats(Model, frozen=True):
    """Loads in thousandths of a task, smoothed over 10 s."""

    usage: CpuUsage = CpuUsage()
    cfs: CpuCfs = CpuCfs()
    schedstat: CpuSchedstat = CpuSchedstat()
    load_average: int = 0
    load_d_average: int = 0
    psi: PsiStats | None = None


class CpuInstStats(Model, frozen=True):
    """Between this sample and the one before it."""

    usage: CpuUsage = CpuUsage()


class PerDiskStats(Model, frozen=True):
    """`stats` by kind: Read, Write, Sync, Async, Discard, Total or Count."""

    device: str = ""
    major: int = 0
    minor: int = 0
    stats: dict[str, int] = {}


class DiskIoStats(Model, frozen=True):
    """Bytes, operations, sectors of 512 bytes, nanoseconds; `io_time` milliseconds, `io_cost_...` microseconds."""

    io_service_bytes: tuple[PerDiskStats, ...] = ()
    io_serviced: tuple[PerDiskStats, ...] = ()
    io_queued: tuple[PerDiskStats, ...] = ()
    sectors: tuple[PerDiskStats, ...] = ()
    io_service_time: tuple[PerDiskStats, ...] = ()
    io_wait_time: tuple[PerDiskStats, ...] = ()
    io_merged: tuple[PerDiskStats, ...] = ()
    io_time: tuple[PerDiskStats, ...] = ()
    io_cost_usage: tuple[PerDiskStats, ...] = ()
    io_cost_wait: tuple[PerDiskStats, ...] = ()
    io_cost_indebt: tuple[PerDiskStats, ...] = ()
    io_cost_indelay: tuple[PerDiskStats, ...] = ()
    psi: PsiStats | None = None


class NumaStats(Model, frozen=True):
    """Pages by node."""

    file: dict[int, int] = {}
    anon: dict[int, int] = {}
    unevictable: dict[int, int] = {}


class MemoryFaults(Model, frozen=True):
    pgfault: int = 0
    pgmajfault: int = 0
    numa_stats: NumaStats | None = None


class MemoryEvents(Model, frozen=True):
    high: int = 0
    max: int = 0


class MemoryStats(Model, frozen=True):
    """Bytes; `pg...` and `workingset_...` pages, `failcnt` how often the limit was hit."""

    usage: int = 0
    max_usage: int = 0
    cache: int = 0
    rss: int = 0
    swap: int = 0
    mapped_file: int = 0
    working_set: int = 0
    total_active_file: int = 0
    total_inactive_file: int = 0
    file_dirty: int = 0
    file_writeback: int = 0
    kernel: int = 0
    pgscan: int = 0
    pgsteal: int = 0
    workingset_refault_file: int = 0
    workingset_refault_anon: int = 0
    failcnt: int = 0
    container_data: MemoryFaults = MemoryFaults()
    hierarchical_data: MemoryFaults = MemoryFaults()
    events: MemoryEvents | None = None
    psi: PsiStats | None = None


class HugetlbStats(Model, frozen=True):
    usage: int = 0
    max_usage: int = 0
    failcnt: int = 0


class InterfaceStats(Model, frozen=True):
    name: str = ""
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class TcpStats(Model, frozen=True, rename="pascal"):
    """Sockets in each state."""

    established: int = 0
    syn_sent: int = 0
    syn_recv: int = 0
    fin_wait1: int = 0
    fin_wait2: int = 0
    time_wait: int = 0
    close: int = 0
    close_wait: int = 0
    last_ack: int = 0
    listen: int = 0
    closing: int = 0


class UdpStats(Model, frozen=True, rename="pascal"):
    listen: int = 0
    dropped: int = 0
    rx_queued: int = 0
    tx_queued: int = 0


class NetworkStats(InterfaceStats, frozen=True):
    """The numbers at the top are those of the first interface (v1 only). `tcp_advanced` has the kernel's names."""

    interfaces: tuple[InterfaceStats, ...] = ()
    tcp: TcpStats = TcpStats()
    tcp6: TcpStats = TcpStats()
    udp: UdpStats = UdpStats()
    udp6: UdpStats = UdpStats()
    tcp_advanced: dict[str, int] = {}


class FsStats(Model, frozen=True):
    """Bytes; times in milliseconds. For a container `inodes` are those that it uses."""

    device: str = ""
    type: str = ""
    capacity: int = 0
    usage: int = 0
    base_usage: int = 0
    available: int = 0
    has_inodes: bool = False
    inodes: int = 0
    inodes_free: int = 0
    reads_completed: int = 0
    reads_merged: int = 0
    sectors_read: int = 0
    read_time: int = 0
    writes_completed: int = 0
    writes_merged: int = 0
    sectors_written: int = 0
    write_time: int = 0
    io_in_progress: int = 0
    io_time: int = 0
    weighted_io_time: int = 0


class LoadStats(Model, frozen=True):
    """Tasks by state."""

    nr_sleeping: int = 0
    nr_running: int = 0
    nr_stopped: int = 0
    nr_uninterruptible: int = 0
    nr_io_wait: int = 0


class AcceleratorStats(Model, frozen=True):
    """An NVIDIA card, as cAdvisor before 0.48 has them. Bytes; `duty_cycle` in percent."""

    make: str = ""
    model: str = ""
    id: str = ""
    memory_total: int = 0
    memory_used: int = 0
    duty_cycle: int = 0


class UlimitSpec(Model, frozen=True):
    """-1: no limit."""

    name: str = ""
    soft_limit: int = 0
    hard_limit: int = 0


class ProcessStats(Model, frozen=True):
    process_count: int = 0
    fd_count: int = 0
    socket_count: int = 0
    threads_current: int = 0
    threads_max: int = 0
    ulimits: tuple[UlimitSpec, ...] = ()


class MetricVal(Model, frozen=True):
    """A value of an application: whole in `int_value`, otherwise in `float_value`."""

    label: str = ""
    labels: dict[str, str] = {}
    timestamp: datetime = ZERO_TIME
    int_value: int = 0
    float_value: float = 0.0


class PerfStat(Model, frozen=True):
    """An event counter of a CPU; scaled by how much of the time it counted."""

    scaling_ratio: float = 0.0
    value: int = 0
    name: str = ""
    cpu: int = 0


class PerfUncoreStat(Model, frozen=True):
    scaling_ratio: float = 0.0
    value: int = 0
    name: str = ""
    socket: int = 0
    pmu: str = ""


class MemoryBandwidth(Model, frozen=True):
    """Bytes."""

    mbm_total_bytes: int = 0
    mbm_local_bytes: int = 0


class CacheOccupancy(Model, frozen=True):
    """Bytes."""

    llc_occupancy: int = 0


class ResctrlStats(Model, frozen=True):
    memory_bandwidth: tuple[MemoryBandwidth, ...] = ()
    cache: tuple[CacheOccupancy, ...] = ()


class CpusetStats(Model, frozen=True):
    memory_migrate: int = 0


class Health(Model, frozen=True):
    """`healthy`, `unhealthy`, `starting` or empty."""

    status: str = ""


class ContainerStats(Model, frozen=True):
    """One sample of a container, v1."""

    timestamp: datetime = ZERO_TIME
    cpu: CpuStats = CpuStats()
    cpu_inst: CpuInstStats | None = None
    diskio: DiskIoStats = DiskIoStats()
    memory: MemoryStats = MemoryStats()
    hugetlb: dict[str, HugetlbStats] = {}
    network: NetworkStats | None = None
    filesystem: tuple[FsStats, ...] = ()
    task_stats: LoadStats = LoadStats()
    accelerators: tuple[AcceleratorStats, ...] = ()
    processes: ProcessStats | None = None
    custom_metrics: dict[str, tuple[MetricVal, ...]] = {}
    perf_stats: tuple[PerfStat, ...] = ()
    perf_uncore_stats: tuple[PerfUncoreStat, ...] = ()
    referenced_memory: int = 0
    resctrl: ResctrlStats | None = None
    cpuset: CpusetStats | None = None
    oom_events: int = 0
    health: Health | None = None


class FilesystemUsage(Model, frozen=True):
    """Bytes, inodes; None where it is not known."""

    total_usage_bytes: int | None = msgspec.field(default=None, name="totalUsageBytes")
    base_usage_bytes: int | None = msgspec.field(default=None, name="baseUsageBytes")
    container_inode_usage: int | None = msgspec.field(default=None, name="containter_inode_usage")
    """So spelt in the JSON."""


class ContainerStatsV2(Model, frozen=True):
    """One sample of a container, v2.1. None: the container has none of it."""

    timestamp: datetime = ZERO_TIME
    cpu: CpuStats | None = None
    cpu_inst: CpuInstStats | None = None
    diskio: DiskIoStats | None = None
    memory: MemoryStats | None = None
    hugetlb: dict[str, HugetlbStats] = {}
    network: NetworkStats | None = None
    processes: ProcessStats | None = None
    filesystem: FilesystemUsage | None = None
    load_stats: LoadStats | None = None
    accelerators: tuple[AcceleratorStats, ...] = ()
    custom_metrics: dict[str, tuple[MetricVal, ...]] = {}
    perf_stats: tuple[PerfStat, ...] = ()
    perf_uncore_stats: tuple[PerfUncoreStat, ...] = ()
    referenced_memory: int = 0
    resctrl: ResctrlStats | None = None


class DeprecatedContainerStats(Model, frozen=True):
    """One sample of a container, v2.0."""

    timestamp: datetime = ZERO_TIME
    has_cpu: bool = False
    cpu: CpuStats = CpuStats()
    cpu_inst: CpuInstStats | None = None
    has_diskio: bool = False
    diskio: DiskIoStats = DiskIoStats()
    has_memory: bool = False
    memory: MemoryStats = MemoryStats()
    has_hugetlb: bool = False
    hugetlb: dict[str, HugetlbStats] = {}
    has_network: bool = False
    network: NetworkStats = NetworkStats()
    has_processes: bool = False
    processes: ProcessStats = ProcessStats()
    has_filesystem: bool = False
    filesystem: tuple[FsStats, ...] = ()
    has_load: bool = False
    load_stats: LoadStats = LoadStats()
    has_custom_metrics: bool = False
    custom_metrics: dict[str, tuple[MetricVal, ...]] = {}


class DiskTimes(Model, frozen=True):
    """Operations, sectors of 512 bytes; durations in nanoseconds."""

    reads_completed: int = 0
    reads_merged: int = 0
    sectors_read: int = 0
    read_duration: int = 0
    writes_completed: int = 0
    writes_merged: int = 0
    sectors_written: int = 0
    write_duration: int = 0
    io_in_progress: int = 0
    io_duration: int = 0
    weighted_io_duration: int = 0


class MachineFsStats(Model, frozen=True):
    device: str = ""
    type: str = ""
    capacity: int = 0
    usage: int = 0
    available: int = 0
    inodes_free: int | None = None
    disk: DiskTimes = msgspec.field(default=DiskTimes(), name="inline")


class MachineStats(Model, frozen=True):
    """One sample of the machine. None: it has none of it."""

    timestamp: datetime = ZERO_TIME
    cpu: CpuStats | None = None
    cpu_inst: CpuInstStats | None = None
    memory: MemoryStats | None = None
    network: NetworkStats | None = None
    filesystem: tuple[MachineFsStats, ...] = ()
    load_stats: LoadStats | None = None
