"""cAdvisor's JSON of the machine, field for field. Source: cAdvisor info/v1/machine.go, info/v2/container.go.

A field with a default is left out while it has that value.
"""

from collections.abc import Mapping, Sequence

import msgspec

from tidegauge.api.cadvisor.shapes import Shape


class HugePagesInfo(Shape, kw_only=True):
    """Page size in KiB."""

    page_size: int
    num_pages: int


class CacheInfo(Shape, kw_only=True):
    id: int
    size: int
    type: str
    level: int


class CoreInfo(Shape, kw_only=True):
    core_id: int
    thread_ids: Sequence[int]
    caches: Sequence[CacheInfo] | None
    uncore_caches: Sequence[CacheInfo] | None
    socket_id: int
    book_id: str = ""
    drawer_id: str = ""


class NodeInfo(Shape, kw_only=True):
    node_id: int
    memory: int
    hugepages: Sequence[HugePagesInfo] | None
    cores: Sequence[CoreInfo] | None
    caches: Sequence[CacheInfo] | None
    distances: Sequence[int] | None


class MachineFsInfo(Shape, kw_only=True):
    device: str
    capacity: int
    type: str
    inodes: int
    has_inodes: bool


class DiskInfo(Shape, kw_only=True):
    name: str
    major: int
    minor: int
    size: int
    scheduler: str


class NetInfo(Shape, kw_only=True):
    """Speed in Mbit/s."""

    name: str
    mac_address: str
    speed: int
    mtu: int


class DimmInfo(Shape, kw_only=True):
    capacity: int
    dimm_count: int


class NvmInfo(Shape, kw_only=True):
    memory_mode_capacity: int
    app_direct_mode_capacity: int = msgspec.field(name="app direct_mode_capacity")
    avg_power_budget: int


class MachineInfo(Shape, kw_only=True):
    timestamp: str
    vendor_id: str
    num_cores: int
    num_physical_cores: int
    num_sockets: int
    num_books: int = 0
    num_drawers: int = 0
    cpu_frequency_khz: int
    memory_capacity: int
    swap_capacity: int
    memory_by_type: Mapping[str, DimmInfo]
    nvm: NvmInfo
    hugepages: Sequence[HugePagesInfo] | None
    machine_id: str
    system_uuid: str
    boot_id: str
    filesystems: Sequence[MachineFsInfo] | None
    disk_map: Mapping[str, DiskInfo]
    network_devices: Sequence[NetInfo] | None
    topology: Sequence[NodeInfo] | None
    cloud_provider: str
    instance_type: str
    instance_id: str


class Attributes(Shape, kw_only=True):
    kernel_version: str
    container_os_version: str
    docker_version: str
    docker_api_version: str
    cadvisor_version: str
    num_cores: int
    cpu_frequency_khz: int
    memory_capacity: int
    machine_id: str
    system_uuid: str
    hugepages: Sequence[HugePagesInfo] | None
    filesystems: Sequence[MachineFsInfo] | None
    disk_map: Mapping[str, DiskInfo]
    network_devices: Sequence[NetInfo] | None
    topology: Sequence[NodeInfo] | None
    cloud_provider: str
    instance_type: str


class FsInfo(Shape, kw_only=True):
    timestamp: str
    device: str
    mountpoint: str
    capacity: int
    available: int
    usage: int
    labels: Sequence[str]
    inodes: int = 0
    inodes_free: int = 0
