"""Machines written down as the kernel shows them below /sys and /proc, for the tests of what a machine is."""

from collections.abc import Iterable
from pathlib import Path


def write(root: Path, files: dict[str, str | int]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def listed(cpus: Iterable[int]) -> str:
    return ",".join(map(str, sorted(cpus)))


def two_sockets(root: Path) -> None:
    """Two sockets of four cores, two threads each: CPUs 0-7 are first threads, 8-15 the second; `core_id` begins at 0 in both.

    Each socket is two nodes of two cores; an L2 a core, an L3 a node, and one more, L4, for the pair of nodes.
    """
    cpus = "sys/devices/system/cpu"
    write(root, {f"{cpus}/online": "0-15", f"{cpus}/cpu0/cpufreq/cpuinfo_max_freq": 3_600_000})
    for cpu in range(16):
        core = cpu % 8
        threads, of_node = (core, core + 8), [c for c in range(16) if c % 8 // 2 == core // 2]
        of_socket = [c for c in range(16) if c % 8 // 4 == core // 4]
        topology = {"physical_package_id": core // 4, "core_id": core % 4, "die_id": 0}
        topology |= {"core_cpus_list": listed(threads), "thread_siblings_list": listed(threads)}
        write(root, {f"{cpus}/cpu{cpu}/topology/{name}": value for name, value in topology.items()})
        sharing = [("Data", 1, "48K", threads, core), ("Instruction", 1, "32K", threads, core)]
        sharing += [("Unified", 2, "2048K", threads, core), ("Unified", 3, "30M", of_node, core // 2)]
        sharing += [("Unified", 4, "128M", of_socket, core // 4)]
        for index, (kind, level, size, shared, number) in enumerate(sharing):
            cache: dict[str, str | int] = {"type": kind, "level": level, "size": size, "id": number}
            cache["shared_cpu_list"] = listed(shared)
            write(root, {f"{cpus}/cpu{cpu}/cache/index{index}/{name}": value for name, value in cache.items()})
    for node in range(4):
        folder = f"sys/devices/system/node/node{node}"
        own = [c for c in range(16) if c % 8 // 2 == node]
        write(
            root,
            {
                f"{folder}/cpulist": listed(own),
                f"{folder}/meminfo": f"Node {node} MemTotal:       {1000 + node} kB\nNode {node} MemFree:  5 kB",
                f"{folder}/distance": " ".join("10" if n == node else "12" if n // 2 == node // 2 else "32" for n in range(4)),
                f"{folder}/hugepages/hugepages-2048kB/nr_hugepages": node,
                f"{folder}/hugepages/hugepages-1048576kB/nr_hugepages": 0,
            },
        )
    write(
        root, {"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": 6, "proc/meminfo": "MemTotal: 4006 kB\nSwapTotal: 0 kB"}
    )
    for n, size in enumerate((16384, 16384, 32768)):
        dimm = f"sys/devices/system/edac/mc/mc{n % 2}/dimm{n}"
        write(root, {f"{dimm}/dimm_mem_type": "Registered-DDR5", f"{dimm}/size": size})
    write(root, {"sys/devices/system/edac/mc/mc0/dimm9/dimm_mem_type": "Non-volatile-RAM"})


def arm_without_topology(root: Path) -> None:
    """A virtual machine whose firmware says nothing of cores, with the cpuinfo of arm64."""
    lines = []
    for cpu in range(4):
        lines += [f"processor\t: {cpu}", "BogoMIPS\t: 243.75", "Features\t: fp asimd", "CPU implementer\t: 0x41"]
        lines += ["CPU architecture: 8", "CPU variant\t: 0x3", "CPU part\t: 0xd0c", "CPU revision\t: 1", ""]
    write(root, {"proc/cpuinfo": "\n".join(lines), "sys/devices/system/cpu/online": "0-3"})


DMI: dict[tuple[str, str | None], dict[str, str]] = {
    ("AWS", "m5.large"): {"sys_vendor": "Amazon EC2", "product_name": "m5.large", "bios_vendor": "Amazon EC2"},
    ("AWS", None): {"sys_vendor": "Xen", "product_name": "HVM domU", "product_version": "4.11.amazon", "bios_vendor": "Xen"},
    ("GCE", None): {"sys_vendor": "Google", "product_name": "Google Compute Engine", "bios_vendor": "Google"},
    ("Azure", None): {
        "sys_vendor": "Microsoft Corporation",
        "product_name": "Virtual Machine",
        "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77",
    },
    ("Alibaba Cloud", None): {"sys_vendor": "Alibaba Cloud", "product_name": "Alibaba Cloud ECS"},
    ("Oracle Cloud", None): {"sys_vendor": "QEMU", "chassis_asset_tag": "OracleCloud.com"},
    ("Huawei Cloud", None): {"product_name": "OpenStack Nova", "chassis_asset_tag": "HUAWEICLOUD"},
    ("OpenStack", None): {"sys_vendor": "OpenStack Foundation", "product_name": "OpenStack Compute"},
    ("Scaleway", "SCW-DEV1-S"): {"sys_vendor": "Scaleway", "product_name": "SCW-DEV1-S"},
    ("Hetzner", None): {"sys_vendor": "Hetzner", "product_name": "vServer"},
    ("DigitalOcean", None): {"sys_vendor": "DigitalOcean", "product_name": "Droplet"},
}
"""What the firmware's tables hold on the machines of providers, by provider and instance type."""

DMI_OF_NOBODY: dict[str, dict[str, str]] = {
    "Hyper-V": {"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine", "chassis_asset_tag": "9281-1155"},
    "Chromebook": {"sys_vendor": "Google", "product_name": "Eve"},
    "QEMU": {"sys_vendor": "QEMU", "product_name": "Standard PC (Q35 + ICH9, 2009)", "product_version": "pc-q35-7.2"},
    "server": {"sys_vendor": "Dell Inc.", "product_name": "PowerEdge R640", "chassis_asset_tag": "A1"},
}
