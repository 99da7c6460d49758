"""The machine. Source: cAdvisor info/v1/machine.go, info/v2/container.go, info/v2/machine.go."""

from datetime import datetime

import msgspec

from tidegauge.client.decoding import ZERO_TIME, Model


class HugePagesInfo(Model, frozen=True):
    """Page size in KiB."""

    page_size: int = 0
    num_pages: int = 0


class CacheInfo(Model, frozen=True):
    """Bytes."""

    id: int = 0
    size: int = 0
    type: str = ""
    level: int = 0


class CoreInfo(Model, frozen=True):
    core_id: int = 0
    thread_ids: tuple[int, ...] = ()
    caches: tuple[CacheInfo, ...] = ()
    uncore_caches: tuple[CacheInfo, ...] = ()
    socket_id: int = 0
    book_id: str = ""
    drawer_id: str = ""


class NodeInfo(Model, frozen=True):
    """Memory in bytes."""

    node_id: int = 0
    memory: int = 0
    hugepages: tuple[HugePagesInfo, ...] = ()
    cores: tuple[CoreInfo, ...] = ()
    caches: tuple[CacheInfo, ...] = ()
    distances: tuple[int, ...] = ()


class MachineFsInfo(Model, frozen=True):
    device: str = ""
    capacity: int = 0
    type: str = ""
    inodes: int = 0
    has_inodes: bool = False


class DiskInfo(Model, frozen=True):
    """Size in bytes."""

    name: str = ""
    major: int = 0
    minor: int = 0
    size: int = 0
    scheduler: str = ""


class NetInfo(Model, frozen=True):
    """Speed in Mbit/s; -1 or 0 where it is not known."""

    name: str = ""
    mac_address: str = ""
    speed: int = 0
    mtu: int = 0


class MemoryInfo(Model, frozen=True):
    """Bytes and modules."""

    capacity: int = 0
    dimm_count: int = 0


class NvmInfo(Model, frozen=True):
    memory_mode_capacity: int = 0
    app_direct_mode_capacity: int = msgspec.field(default=0, name="app direct_mode_capacity")
    avg_power_budget: int = 0


class MachineInfo(Model, frozen=True):
    """`num_cores` counts logical CPUs. Capacities in bytes."""

    timestamp: datetime = ZERO_TIME
    vendor_id: str = ""
    num_cores: int = 0
    num_physical_cores: int = 0
    num_sockets: int = 0
    num_books: int = 0
    num_drawers: int = 0
    cpu_frequency_khz: int = 0
    memory_capacity: int = 0
    swap_capacity: int = 0
    memory_by_type: dict[str, MemoryInfo] = {}
    nvm: NvmInfo | None = None
    hugepages: tuple[HugePagesInfo, ...] = ()
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    filesystems: tuple[MachineFsInfo, ...] = ()
    disk_map: dict[str, DiskInfo] = {}
    network_devices: tuple[NetInfo, ...] = ()
    topology: tuple[NodeInfo, ...] = ()
    cloud_provider: str = ""
    instance_type: str = ""
    instance_id: str = ""


class Attributes(Model, frozen=True):
    """The machine with its software, v2."""

    kernel_version: str = ""
    container_os_version: str = ""
    docker_version: str = ""
    docker_api_version: str = ""
    cadvisor_version: str = ""
    num_cores: int = 0
    cpu_frequency_khz: int = 0
    memory_capacity: int = 0
    machine_id: str = ""
    system_uuid: str = ""
    hugepages: tuple[HugePagesInfo, ...] = ()
    filesystems: tuple[MachineFsInfo, ...] = ()
    disk_map: dict[str, DiskInfo] = {}
    network_devices: tuple[NetInfo, ...] = ()
    topology: tuple[NodeInfo, ...] = ()
    cloud_provider: str = ""
    instance_type: str = ""


class FsInfo(Model, frozen=True):
    """A filesystem of the machine, v2. Bytes."""

    timestamp: datetime = ZERO_TIME
    device: str = ""
    mountpoint: str = ""
    capacity: int = 0
    available: int = 0
    usage: int = 0
    labels: tuple[str, ...] = ()
    inodes: int | None = None
    inodes_free: int | None = None
