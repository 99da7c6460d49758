"""What the host's machine is: CPUs, memory, disks, filesystems, network devices, names. Part of the host's Container record.

In the journal and as JSON each of these is an object of its fields by name, without those that are at their default. A field
may be added with a default, never removed. None: this kernel, machine or user does not tell. Sizes in bytes.
"""

import msgspec

_SAME_SIZE = 0.01
"""Part by which a filesystem's size may move and still count as the same: on ZFS it follows what other datasets use."""


class HugePages(msgspec.Struct, frozen=True, omit_defaults=True):
    """The pool of huge pages of one size."""

    page_size_bytes: int
    pages: int | None = None


class Cache(msgspec.Struct, frozen=True, omit_defaults=True):
    level: int
    type: str
    """`Data`, `Instruction` or `Unified`."""
    size_bytes: int | None = None
    id: int | None = None
    """Unique among caches of this level and type, where the kernel numbers them."""


class Core(msgspec.Struct, frozen=True, omit_defaults=True):
    id: int
    """The kernel's number: unique within a socket only, -1 where the machine does not say."""
    threads: tuple[int, ...]
    """Logical CPUs that are online."""
    socket: int | None = None
    caches: tuple[Cache, ...] = ()
    """Its own. Caches are read only if the group `cpu_topology` is on."""
    shared_caches: tuple[Cache, ...] = ()
    """Those that it shares with other cores, but not with all of its node."""


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """A NUMA node; a machine without NUMA is one node, 0."""

    id: int
    memory_bytes: int | None = None
    huge_pages: tuple[HugePages, ...] = ()
    distances: tuple[int, ...] = ()
    """To each node in the order of the nodes, 10 to itself. Only if the group `cpu_topology` is on."""
    cores: tuple[Core, ...] = ()
    caches: tuple[Cache, ...] = ()
    """Those that all of its CPUs share."""


class Disk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block device; partitions are not told."""

    name: str
    major: int
    minor: int
    size_bytes: int
    scheduler: str | None = None
    """`none` if requests are not sorted; None where the device has no queue of its own."""


class Filesystem(msgspec.Struct, frozen=True, omit_defaults=True):
    device: str
    """Named as in the table `filesystem`."""
    type: str
    mount_point: str
    """As the host names it."""
    capacity_bytes: int | None = None
    """None: it did not answer."""
    inodes: int | None = None
    """None where inodes are made as they are wanted (XFS, Btrfs, ZFS) or are none."""


class NetworkDevice(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    mac_address: str | None = None
    speed_mbits: int | None = None
    """Megabits a second; None while it is down, and for virtual devices."""
    mtu_bytes: int | None = None


class Dimms(msgspec.Struct, frozen=True, omit_defaults=True):
    """The memory modules of one type."""

    type: str
    """As the memory controller's driver names it: `Registered-DDR4`."""
    count: int
    capacity_bytes: int | None = None


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    cpus: int | None = None
    """Logical CPUs that are online."""
    physical_cores: int | None = None
    sockets: int | None = None
    books: int | None = None
    drawers: int | None = None
    """IBM Z only, as are books."""
    cpu_frequency_khz: int | None = None
    """The highest there is; where the kernel does not tell, the one first seen."""
    cpu_vendor: str | None = None
    cpu_model: str | None = None
    memory_bytes: int | None = None
    swap_bytes: int | None = None
    huge_pages: tuple[HugePages, ...] = ()
    dimms: tuple[Dimms, ...] = ()
    nodes: tuple[Node, ...] = ()
    disks: tuple[Disk, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    network_devices: tuple[NetworkDevice, ...] = ()
    machine_id: str | None = None
    """Of the installed system: machine-id(5)."""
    system_uuid: str | None = None
    """Of the hardware, or of the virtual machine. Root only."""
    boot_id: str | None = None
    kernel_version: str | None = None
    os_name: str | None = None
    """PRETTY_NAME of os-release(5)."""
    cloud_provider: str | None = None
    """Whose virtual machine it is, as the firmware's tables tell; None: nobody's that is known."""
    instance_type: str | None = None


def settled(before: Machine | None, now: Machine) -> Machine:
    """`now`, with the former size of each filesystem that has moved by less than 1 %: no news are equal then. Pure."""
    if before is None:
        return now
    known = {f.device: f for f in before.filesystems}
    return msgspec.structs.replace(now, filesystems=tuple(_settled(known.get(f.device, f), f) for f in now.filesystems))


def _settled(before: Filesystem, now: Filesystem) -> Filesystem:
    old, new = before.capacity_bytes, now.capacity_bytes
    if old is None or new is None or abs(new - old) > _SAME_SIZE * old:
        return now
    return msgspec.structs.replace(now, capacity_bytes=old)
