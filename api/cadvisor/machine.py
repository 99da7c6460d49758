"""The machine as cAdvisor's MachineInfo, Attributes and FsInfo. Pure. Source: cAdvisor info/v1/machine.go."""

from collections.abc import Iterable, Sequence

from tidegauge.api.cadvisor import machine_shapes as m
from tidegauge.api.cadvisor.reading import Reading, go_time
from tidegauge.api.cadvisor.stats import fs_type
from tidegauge.pipeline.machine import Cache, HugePages, Machine
from tidegauge.pipeline.version import VERSION

_KIB = 1024
ROOT_LABEL = "root"


def info(machine: Machine, ts_ms: int) -> m.MachineInfo:
    """`ts_ms`: when it was read, or at least known."""
    return m.MachineInfo(
        timestamp=go_time(ts_ms),
        vendor_id=machine.cpu_vendor or "",
        num_cores=machine.cpus or 0,
        num_physical_cores=machine.physical_cores or 0,
        num_sockets=machine.sockets or 0,
        num_books=machine.books or 0,
        num_drawers=machine.drawers or 0,
        cpu_frequency_khz=machine.cpu_frequency_khz or 0,
        memory_capacity=machine.memory_bytes or 0,
        swap_capacity=machine.swap_bytes or 0,
        memory_by_type={d.type: m.DimmInfo(capacity=d.capacity_bytes or 0, dimm_count=d.count) for d in machine.dimms},
        nvm=m.NvmInfo(memory_mode_capacity=0, app_direct_mode_capacity=0, avg_power_budget=0),
        hugepages=_huge_pages(machine.huge_pages),
        machine_id=machine.machine_id or "",
        system_uuid=machine.system_uuid or machine.machine_id or "",
        boot_id=machine.boot_id or "",
        filesystems=_filesystems(machine),
        disk_map=_disks(machine),
        network_devices=_network(machine),
        topology=_topology(machine),
        cloud_provider=machine.cloud_provider or "Unknown",
        instance_type=machine.instance_type or "Unknown",
        instance_id="",
    )


def attributes(machine: Machine) -> m.Attributes:
    """Docker's versions are empty, as in cAdvisor since it no longer asks."""
    return m.Attributes(
        kernel_version=machine.kernel_version or "",
        container_os_version=machine.os_name or "",
        docker_version="",
        docker_api_version="",
        cadvisor_version=VERSION,
        num_cores=machine.cpus or 0,
        cpu_frequency_khz=machine.cpu_frequency_khz or 0,
        memory_capacity=machine.memory_bytes or 0,
        machine_id=machine.machine_id or "",
        system_uuid=machine.system_uuid or machine.machine_id or "",
        hugepages=_huge_pages(machine.huge_pages),
        filesystems=_filesystems(machine),
        disk_map=_disks(machine),
        network_devices=_network(machine),
        topology=_topology(machine),
        cloud_provider=machine.cloud_provider or "Unknown",
        instance_type=machine.instance_type or "Unknown",
    )


def storage(machine: Machine | None, reading: Reading) -> list[m.FsInfo]:
    """The host's filesystems by device, as the newest sample has them; the one of `/` is labelled."""
    points = {} if machine is None else {f.device: f.mount_point for f in machine.filesystems}
    found = []
    for device, row in sorted(reading.table("filesystem").items()):
        point = points.get(device, "")
        found.append(
            m.FsInfo(
                timestamp=go_time(reading.ts_ms),
                device=device,
                mountpoint=point,
                capacity=int(row.get("filesystem_limit_bytes") or 0),
                available=int(row.get("filesystem_available_bytes") or 0),
                usage=int(row.get("filesystem_usage_bytes") or 0),
                labels=[ROOT_LABEL] if point == "/" else [],
                inodes=int(row.get("filesystem_inodes") or 0),
                inodes_free=int(row.get("filesystem_inodes_free") or 0),
            )
        )
    return found


def _huge_pages(pools: Iterable[HugePages]) -> list[m.HugePagesInfo]:
    return [m.HugePagesInfo(page_size=p.page_size_bytes // _KIB, num_pages=p.pages or 0) for p in pools]


def _filesystems(machine: Machine) -> list[m.MachineFsInfo]:
    return [
        m.MachineFsInfo(
            device=f.device,
            capacity=f.capacity_bytes or 0,
            type=fs_type(f.type),
            inodes=f.inodes or 0,
            has_inodes=f.inodes is not None,
        )
        for f in machine.filesystems
    ]


def _disks(machine: Machine) -> dict[str, m.DiskInfo]:
    return {
        f"{d.major}:{d.minor}": m.DiskInfo(
            name=d.name, major=d.major, minor=d.minor, size=d.size_bytes, scheduler=d.scheduler or "none"
        )
        for d in machine.disks
    }


def _network(machine: Machine) -> list[m.NetInfo]:
    return [
        m.NetInfo(name=n.name, mac_address=n.mac_address or "", speed=n.speed_mbits or 0, mtu=n.mtu_bytes or 0)
        for n in machine.network_devices
    ]


def _topology(machine: Machine) -> list[m.NodeInfo]:
    return [
        m.NodeInfo(
            node_id=node.id,
            memory=node.memory_bytes or 0,
            hugepages=_huge_pages(node.huge_pages),
            cores=[
                m.CoreInfo(
                    core_id=core.id,
                    thread_ids=core.threads,
                    caches=_caches(core.caches),
                    uncore_caches=_caches(core.shared_caches),
                    socket_id=core.socket or 0,
                )
                for core in node.cores
            ],
            caches=_caches(node.caches),
            distances=node.distances or None,
        )
        for node in machine.nodes
    ]


def _caches(caches: Sequence[Cache]) -> list[m.CacheInfo] | None:
    """None (JSON null) where there is none, as Go writes a list that was never made."""
    if not caches:
        return None
    return [m.CacheInfo(id=c.id or 0, size=c.size_bytes or 0, type=c.type, level=c.level) for c in caches]
