"""Containers: what they are, and what came of them. Source: cAdvisor info/v1/container.go, info/v2/container.go."""

from datetime import datetime

import msgspec

from tidegauge.client.decoding import ZERO_TIME, Model, known_time
from tidegauge.client.samples import ContainerStats, ContainerStatsV2


class CpuSpec(Model, frozen=True):
    """`limit` in shares of cgroup v1, 1024 for a CPU's worth; quota and period in microseconds, 0 for none."""

    limit: int = 0
    max_limit: int = 0
    mask: str = ""
    quota: int = 0
    period: int = 0


class MemorySpec(Model, frozen=True):
    """Bytes. No limit is a very large number, up to 2^64 - 1, or the memory of the machine."""

    limit: int = 0
    reservation: int = 0
    swap_limit: int = 0


class ProcessSpec(Model, frozen=True):
    """0 where the server does not say it, 2^64 - 1 for no limit."""

    limit: int = 0


class MetricSpec(Model, frozen=True):
    """A metric of an application: `gauge` or `cumulative`, `int` or `float`."""

    name: str = ""
    type: str = ""
    format: str = ""
    units: str = ""


class ContainerSpec(Model, frozen=True):
    """What a container has and may use. `aliases` and `namespace` are filled by v2 alone."""

    creation_time: datetime | None = None
    start_time: datetime | None = None
    aliases: tuple[str, ...] = ()
    namespace: str = ""
    labels: dict[str, str] = {}
    envs: dict[str, str] = {}
    has_cpu: bool = False
    cpu: CpuSpec = CpuSpec()
    has_memory: bool = False
    memory: MemorySpec = MemorySpec()
    has_hugetlb: bool = False
    has_network: bool = False
    has_processes: bool = False
    processes: ProcessSpec = ProcessSpec()
    has_filesystem: bool = False
    has_diskio: bool = False
    has_custom_metrics: bool = False
    custom_metrics: tuple[MetricSpec, ...] = ()
    image: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "creation_time", known_time(self.creation_time))
        msgspec.structs.force_setattr(self, "start_time", known_time(self.start_time))


class ContainerReference(Model, frozen=True):
    id: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    namespace: str = ""


class ContainerInfo(Model, frozen=True):
    """A container with its samples, oldest first. `name` is its cgroup path."""

    id: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    namespace: str = ""
    subcontainers: tuple[ContainerReference, ...] = ()
    spec: ContainerSpec = ContainerSpec()
    stats: tuple[ContainerStats, ...] = ()


class ContainerInfoV2(Model, frozen=True):
    """A container with its samples, oldest first."""

    spec: ContainerSpec = ContainerSpec()
    stats: tuple[ContainerStatsV2, ...] = ()


class Percentiles(Model, frozen=True):
    """All 0 unless `present`. `std` and `count` are newer than cAdvisor 0.35."""

    present: bool = False
    mean: int = 0
    std: int = 0
    max: int = 0
    fifty: int = 0
    ninety: int = 0
    ninetyfive: int = 0
    count: int = 0


class Usage(Model, frozen=True):
    """CPU in thousandths of a core, memory as the working set in bytes."""

    percent_complete: int = 0
    cpu: Percentiles = Percentiles()
    memory: Percentiles = Percentiles()


class InstantUsage(Model, frozen=True):
    cpu: int = 0
    memory: int = 0


class DerivedStats(Model, frozen=True):
    """What a container used lately."""

    timestamp: datetime = ZERO_TIME
    latest_usage: InstantUsage = InstantUsage()
    minute_usage: Usage = Usage()
    hour_usage: Usage = Usage()
    day_usage: Usage = Usage()


class ProcessInfo(Model, frozen=True):
    """As ps(1) has it: times and states are its texts, percentages of one CPU and of all memory, sizes in bytes."""

    user: str = ""
    pid: int = 0
    parent_pid: int = 0
    start_time: str = ""
    percent_cpu: float = 0.0
    percent_mem: float = 0.0
    rss: int = 0
    virtual_size: int = 0
    status: str = ""
    running_time: str = ""
    cgroup_path: str = ""
    cmd: str = ""
    fd_count: int = 0
    psr: int = 0


class AppMetric(Model, frozen=True):
    """A value of an application: whole in `int_value`, otherwise in `float_value`."""

    timestamp: datetime = ZERO_TIME
    int_value: int = 0
    float_value: float = 0.0
