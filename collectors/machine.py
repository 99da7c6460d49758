"""What the host's machine is, from SYS, PROC and the host's root filesystem; starts no program and asks no network.

Source: kernel documentation ABI/*/sysfs-*, proc(5), machine-id(5), os-release(5). Privileges: none, but for the system's UUID,
which only root may read.
"""

import re
from pathlib import Path

import msgspec

from tidegauge.collectors._cpu_topology import huge_pages, topology
from tidegauge.collectors._dmi import cloud
from tidegauge.collectors._sysfs import entries, inside, number, parse_number, text
from tidegauge.collectors.filesystem import FilesystemConfig, FilesystemReader
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.machine import Dimms, Disk, Filesystem, Machine, NetworkDevice
from tidegauge.pipeline.records import Container

_NO_DISKS = ("loop", "ram", "sr")
_NO_DEVICES = ("veth", "docker", "nerdctl")
"""As cAdvisor leaves them out: they come and go with containers."""
_MOST = 500
"""Disks, filesystems and network devices that are told of each: the record must stay well below what the journal takes."""
_WITHOUT_FIXED_INODES = frozenset({"bcachefs", "btrfs", "xfs", "zfs"})
_SCHEDULER = re.compile(r"\[([^\]]+)\]")


class MachineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    rootfs: Path = Path("/")
    groups: frozenset[str] = DEFAULT_GROUPS


class MachineCollector:
    """No metrics: the field `machine` of the host's record."""

    Config = MachineConfig
    metrics = ()

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._sys, self._proc, self._rootfs = config.sys, config.proc, config.rootfs
        self._filesystems: FilesystemReader | None = None
        self._khz_seen: int | None = None

    def reader(self, container: Container) -> None:
        return None

    def machine(self) -> Machine:
        """All that can be read now. Takes 2 s at most where a filesystem hangs. One thread at a time."""
        sys, proc = self._sys, self._proc
        cpus = topology(sys, is_detailed="cpu_topology" in self._config.groups)
        cpuinfo = _cpuinfo(text(proc / "cpuinfo") or "")
        meminfo = _meminfo(text(proc / "meminfo") or "")
        nodes = cpus.nodes
        if len(nodes) == 1 and nodes[0].memory_bytes is None:
            nodes = (msgspec.structs.replace(nodes[0], memory_bytes=meminfo.get("MemTotal")),)
        whose = cloud(sys)
        return Machine(
            cpus=cpus.cpus or cpuinfo.cpus,
            physical_cores=cpus.physical_cores or cpuinfo.physical_cores,
            sockets=cpus.sockets or cpuinfo.sockets,
            books=cpus.books,
            drawers=cpus.drawers,
            cpu_frequency_khz=self._khz(cpuinfo.khz),
            cpu_vendor=cpuinfo.vendor,
            cpu_model=cpuinfo.model,
            memory_bytes=meminfo.get("MemTotal"),
            swap_bytes=meminfo.get("SwapTotal"),
            huge_pages=huge_pages(sys / "kernel/mm/hugepages"),
            dimms=_dimms(sys / "devices/system/edac/mc"),
            nodes=nodes,
            disks=_disks(sys / "block"),
            filesystems=self._mounted(),
            network_devices=_network_devices(sys / "class/net"),
            machine_id=self._first("/etc/machine-id", "/var/lib/dbus/machine-id"),
            system_uuid=self._system_uuid(),
            boot_id=text(proc / "sys/kernel/random/boot_id"),
            kernel_version=text(proc / "sys/kernel/osrelease"),
            os_name=_pretty_name(self._first("/etc/os-release", "/usr/lib/os-release") or ""),
            cloud_provider=whose.provider,
            instance_type=whose.instance_type,
        )

    def _khz(self, current: int | None) -> int | None:
        """The current one wanders, and would be a new record each time."""
        top = number(self._sys / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
        self._khz_seen = self._khz_seen or current
        return top or self._khz_seen

    def _first(self, *paths: str) -> str | None:
        return next((found for p in paths if (found := text(inside(self._rootfs, p))) is not None), None)

    def _system_uuid(self) -> str | None:
        tree = self._proc / "device-tree"
        places = (self._sys / "class/dmi/id/product_uuid", tree / "system-id", tree / "vm,uuid")
        return next((found for p in places if (found := text(p)) is not None), None)

    def _mounted(self) -> tuple[Filesystem, ...]:
        try:
            if self._filesystems is None:
                options = FilesystemConfig()
                where = self._proc / "self" / "mountinfo"
                self._filesystems = FilesystemReader(where, str(self._rootfs), options.types, options.deadline_s)
            self._filesystems.read()
        except (NoData, CollectError):
            return ()
        (rows,) = self._filesystems.read_tables()
        found = []
        for mount, row in list(zip(self._filesystems.mounts, rows or (), strict=True))[:_MOST]:
            capacity, inodes = row[1], row[4]
            assert not isinstance(capacity, str | float)
            assert not isinstance(inodes, str | float)
            if mount.type in _WITHOUT_FIXED_INODES:
                inodes = None
            found.append(Filesystem(mount.device, mount.type, mount.point, capacity, inodes))
        return tuple(sorted(found, key=lambda f: f.device))


class _Cpuinfo(msgspec.Struct, frozen=True):
    cpus: int | None
    physical_cores: int | None
    sockets: int | None
    vendor: str | None
    model: str | None
    khz: int | None


def _cpuinfo(content: str) -> _Cpuinfo:
    """What PROC/cpuinfo tells; which keys there are differs from one architecture to the other."""
    first: dict[str, str] = {}
    cpus: list[dict[str, str]] = []
    for line in content.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if key == "processor" and value.isdigit():
            cpus.append({})
        if cpus:
            cpus[-1].setdefault(key, value)
        first.setdefault(key, value)
    sockets = {cpu.get("physical id") for cpu in cpus}
    cores = {(cpu.get("physical id"), cpu.get("core id")) for cpu in cpus}
    are_told = bool(cpus) and not any(None in core for core in cores)
    whole, _, fraction = (first.get("cpu MHz") or first.get("clock", "").removesuffix("MHz")).partition(".")
    khz = parse_number(whole, 1000)
    return _Cpuinfo(
        len(cpus) or None,
        len(cores) if are_told else None,
        len(sockets) if are_told else None,
        first.get("vendor_id") or first.get("CPU implementer") or None,
        first.get("model name") or first.get("cpu") or None,
        khz and khz + (parse_number(fraction[:3].ljust(3, "0")) or 0),
    )


def _meminfo(content: str) -> dict[str, int]:
    """Sizes in bytes of the lines in kB."""
    found = {}
    for line in content.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB" and (size := parse_number(words[1], 1024)) is not None:
            found[words[0].rstrip(":")] = size
    return found


def _disks(folder: Path) -> tuple[Disk, ...]:
    """Disks that are not empty: a drive without a medium is none."""
    found = []
    for name in entries(folder):
        path = folder / name
        if name.startswith(_NO_DISKS) or number(path / "hidden") == 1:
            continue
        major, _, minor = (text(path / "dev") or "").partition(":")
        sectors = parse_number(text(path / "size"), 512)
        if not (major.isdigit() and minor.isdigit() and sectors):
            continue
        schedulers = text(path / "queue/scheduler")
        chosen = _SCHEDULER.search(schedulers or "")
        # sysfs writes the slash of names such as cciss/c0d0 as an exclamation mark
        found.append(
            Disk(name.replace("!", "/"), int(major), int(minor), sectors, chosen[1] if chosen is not None else schedulers)
        )
    return tuple(found[:_MOST])


def _network_devices(folder: Path) -> tuple[NetworkDevice, ...]:
    found = []
    for name in entries(folder):
        path = folder / name
        if name == "lo" or name.lower().startswith(_NO_DEVICES) or _is_pair_end(path):
            continue
        speed = number(path / "speed")
        found.append(
            NetworkDevice(
                name, text(path / "address"), speed if speed is not None and speed > 0 else None, number(path / "mtu")
            )
        )
    return tuple(found[:_MOST])


def _is_pair_end(path: Path) -> bool:
    """Whether it leads into a container: a device linked to one of another namespace, and upon none of this one."""
    index, link = number(path / "ifindex"), number(path / "iflink")
    return link not in (None, 0, index) and not any(name.startswith("lower_") for name in entries(path))


def _dimms(folder: Path) -> tuple[Dimms, ...]:
    """Memory modules as the memory controller's driver counts them, by type."""
    found: dict[str, list[int | None]] = {}
    for controller in entries(folder):
        for module in entries(folder / controller):
            path = folder / controller / module
            if module.startswith(("dimm", "rank")) and (kind := text(path / "dimm_mem_type")) is not None:
                found.setdefault(kind, []).append(parse_number(text(path / "size"), 1 << 20))
    return tuple(
        Dimms(kind, len(sizes), None if None in sizes else sum(size or 0 for size in sizes))
        for kind, sizes in sorted(found.items())
    )


def _pretty_name(content: str) -> str | None:
    for line in content.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "PRETTY_NAME":
            return value.strip().strip("\"'") or None
    return None
