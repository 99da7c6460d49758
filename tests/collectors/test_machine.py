"""What the machine is: written trees, a recorded machine that cAdvisor saw too, and this one against other tools."""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.host import HOST
from tests.collectors.machine_trees import DMI, DMI_OF_NOBODY, arm_without_topology, listed, two_sockets, write
from tests.support import need

from tidegauge.collectors._dmi import judged
from tidegauge.collectors._sysfs import cpu_list, inside
from tidegauge.collectors.filesystem import FilesystemCollector, FilesystemConfig
from tidegauge.collectors.machine import MachineCollector, MachineConfig
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.log_thread import MAX_PAYLOAD
from tidegauge.pipeline.machine import Cache, Dimms, Disk, Filesystem, HugePages, Machine, NetworkDevice

T = TypeVar("T")
DETAILED = DEFAULT_GROUPS | {"cpu_topology"}


def machine_of(root: Path, groups: frozenset[str] = DETAILED) -> Machine:
    return MachineCollector(MachineConfig(root / "sys", root / "proc", root, groups)).machine()


def answer(*command: str) -> Any:
    need(shutil.which(command[0]), f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout


def test_two_sockets_with_equal_core_numbers_are_not_merged(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    machine = machine_of(tmp_path)
    assert (machine.cpus, machine.physical_cores, machine.sockets) == (16, 8, 2)
    assert (machine.books, machine.drawers) == (None, None)
    assert machine.cpu_frequency_khz == 3_600_000
    assert [n.id for n in machine.nodes] == [0, 1, 2, 3]
    assert [n.memory_bytes for n in machine.nodes] == [1024 * (1000 + n) for n in range(4)]
    assert machine.nodes[1].distances == (12, 10, 32, 32)
    assert machine.nodes[2].huge_pages == (HugePages(2 << 20, 2), HugePages(1 << 30, 0))
    assert [c.threads for c in machine.nodes[3].cores] == [(6, 14), (7, 15)]
    assert [(c.id, c.socket) for n in machine.nodes for c in n.cores] == [(i % 4, i // 4) for i in range(8)]
    core = machine.nodes[2].cores[1]
    assert core.caches == (Cache(1, "Data", 48 << 10, 5), Cache(1, "Instruction", 32 << 10, 5), Cache(2, "Unified", 2 << 20, 5))
    # of a cache of two nodes each node knows that all of its own CPUs share it
    assert machine.nodes[2].caches == (Cache(3, "Unified", 30 << 20, 2), Cache(4, "Unified", 128 << 20, 1))
    assert machine.dimms == (Dimms("Non-volatile-RAM", 1), Dimms("Registered-DDR5", 3, 65536 << 20))
    assert machine.huge_pages == (HugePages(2 << 20, 6),)
    assert machine.memory_bytes == 4006 * 1024


def test_a_cache_of_some_cores_of_a_node(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    write(tmp_path, {"sys/devices/system/node/node0/cpulist": "0-15"})
    for n in (1, 2, 3):
        shutil.rmtree(tmp_path / f"sys/devices/system/node/node{n}")
    (node,) = machine_of(tmp_path).nodes
    assert node.caches == ()
    assert [c.shared_caches[0].id for c in node.cores] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {len(c.caches) for c in node.cores} == {3}


def test_caches_and_distances_only_with_their_group(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    plain = machine_of(tmp_path, DEFAULT_GROUPS)
    assert {(n.distances, n.caches, c.caches, c.shared_caches) for n in plain.nodes for c in n.cores} == {((), (), (), ())}
    assert [c.threads for c in plain.nodes[0].cores] == [(0, 8), (1, 9)]


def test_cpus_that_are_offline_do_not_count(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    write(tmp_path, {"sys/devices/system/cpu/online": "0-3,8-10"})
    for cpu in (4, 5, 6, 7, 11, 12, 13, 14, 15):
        shutil.rmtree(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology")
    write(tmp_path, {"sys/devices/system/cpu/cpu3/topology/core_cpus_list": 3})
    machine = machine_of(tmp_path)
    assert (machine.cpus, machine.physical_cores, machine.sockets) == (7, 4, 1)
    assert [c.threads for n in machine.nodes for c in n.cores] == [(0, 8), (1, 9), (2, 10), (3,)]


def test_without_lists_of_threads_cores_are_pairs_of_socket_and_core(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    for path in tmp_path.glob("sys/devices/system/cpu/cpu*/topology/*_list"):
        path.unlink()
    machine = machine_of(tmp_path)
    assert (machine.physical_cores, machine.sockets) == (8, 2)
    assert [c.threads for c in machine.nodes[0].cores] == [(0, 8), (1, 9)]


def test_without_sysfs_what_cpuinfo_says(tmp_path: Path) -> None:
    lines = []
    for cpu in range(8):
        lines += [f"processor : {cpu}", "vendor_id : GenuineIntel", "model name : Some CPU: at 2.10GHz", "cpu MHz : 2095.07"]
        lines += [f"physical id : {cpu % 2}", f"core id : {cpu // 2 % 2}", ""]
    write(tmp_path, {"proc/cpuinfo": "\n".join(lines)})
    machine = machine_of(tmp_path)
    assert (machine.cpus, machine.physical_cores, machine.sockets, machine.nodes) == (8, 4, 2, ())
    assert (machine.cpu_vendor, machine.cpu_model) == ("GenuineIntel", "Some CPU: at 2.10GHz")
    assert machine.cpu_frequency_khz == 2_095_070


def test_arm_without_topology(tmp_path: Path) -> None:
    arm_without_topology(tmp_path)
    machine = machine_of(tmp_path)
    assert (machine.cpus, machine.physical_cores, machine.sockets, machine.cpu_frequency_khz) == (4, None, None, None)
    assert (machine.cpu_vendor, machine.cpu_model) == ("0x41", None)
    assert [(c.id, c.threads, c.socket) for c in machine.nodes[0].cores] == [(-1, (n,), None) for n in range(4)]


def test_firmware_that_tells_minus_one(tmp_path: Path) -> None:
    arm_without_topology(tmp_path)
    for cpu in range(4):
        folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
        write(tmp_path, {f"{folder}/physical_package_id": -1, f"{folder}/core_id": -1, f"{folder}/core_cpus_list": cpu})
    machine = machine_of(tmp_path)
    assert (machine.physical_cores, machine.sockets) == (4, None)


def test_books_and_drawers_where_the_kernel_has_them(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    for cpu in range(16):
        folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
        write(tmp_path, {f"{folder}/book_id": cpu % 8 // 4, f"{folder}/drawer_id": 0})
    machine = machine_of(tmp_path)
    assert (machine.books, machine.drawers) == (2, 1)


def test_the_frequency_of_the_moment_is_no_news(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0\ncpu MHz : 2100.000\n"})
    collector = MachineCollector(MachineConfig(tmp_path / "sys", tmp_path / "proc", tmp_path))
    first = collector.machine()
    write(tmp_path, {"proc/cpuinfo": "processor : 0\ncpu MHz : 2834.123\n"})
    assert collector.machine() == first


def test_nothing_at_all(tmp_path: Path) -> None:
    assert machine_of(tmp_path) == Machine()


@given(st.sets(st.integers(0, 4000)))
def test_lists_of_cpus_as_the_kernel_writes_them(cpus: set[int]) -> None:
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][-1] == cpu - 1:
            ranges[-1].append(cpu)
        else:
            ranges.append([cpu])
    text = ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges)
    assert cpu_list(text) == cpu_list(listed(cpus)) == tuple(sorted(cpus))


@given(st.text("0123456789-, x\n"))
def test_any_text_for_a_list_of_cpus(text: str) -> None:
    assert all(0 <= n <= 999_999 for n in cpu_list(text))


@pytest.mark.parametrize(("provider", "instance_type"), DMI)
def test_whose_virtual_machine_it_is(tmp_path: Path, provider: str, instance_type: str | None) -> None:
    fields = DMI[provider, instance_type]
    write(tmp_path, {f"sys/class/dmi/id/{field}": value for field, value in fields.items()})
    machine = machine_of(tmp_path)
    assert (machine.cloud_provider, machine.instance_type) == (provider, instance_type)


@pytest.mark.parametrize("name", DMI_OF_NOBODY)
def test_nobody_s_machine(name: str) -> None:
    assert judged(DMI_OF_NOBODY[name]) == (None, None)


def test_disks_that_are_left_out_and_schedulers(tmp_path: Path) -> None:
    for name, number, size, files in (
        ("nvme0n1", "259:0", 1000, {"queue/scheduler": "[none] mq-deadline kyber"}),
        ("sda", "8:0", 2000, {"queue/scheduler": "none [mq-deadline]"}),
        ("cciss!c0d0", "104:0", 8, {}),
        ("dm-0", "253:0", 16, {"queue/scheduler": "none"}),
        ("nvme1c1n1", "259:1", 1000, {"hidden": "1"}),
        ("sdb", "8:16", 0, {}),
        ("loop0", "7:0", 8, {}),
        ("sr0", "11:0", 8, {}),
        ("ram0", "1:0", 8, {}),
    ):
        write(tmp_path, {f"sys/block/{name}/dev": number, f"sys/block/{name}/size": size})
        write(tmp_path, {f"sys/block/{name}/{file}": content for file, content in files.items()})
    assert machine_of(tmp_path).disks == (
        Disk("cciss/c0d0", 104, 0, 8 * 512),
        Disk("dm-0", 253, 0, 16 * 512, "none"),
        Disk("nvme0n1", 259, 0, 512_000, "none"),
        Disk("sda", 8, 0, 1_024_000, "mq-deadline"),
    )


def test_network_devices_that_lead_into_containers_are_left_out(tmp_path: Path) -> None:
    def device(name: str, index: int, link: int, **files: str | int) -> None:
        own = {"ifindex": index, "iflink": link, "mtu": 1500, "address": f"02:00:00:00:00:0{index}"} | files
        write(tmp_path, {f"sys/class/net/{name}/{file}": value for file, value in own.items()})

    device("lo", 1, 1)
    device("eth0", 2, 2, speed=10_000)
    device("eth1", 3, 3, speed=-1)
    device("veth12ab", 4, 3)
    device("cali00ff", 5, 4)
    device("docker0", 6, 6)
    device("br-12ab", 7, 7)
    device("eth0.100", 8, 2, speed=10_000)
    (tmp_path / "sys/class/net/eth0.100/lower_eth0").symlink_to("../eth0")
    device("ipip0", 9, 0)
    assert machine_of(tmp_path).network_devices == (
        NetworkDevice("br-12ab", "02:00:00:00:00:07", None, 1500),
        NetworkDevice("eth0", "02:00:00:00:00:02", 10_000, 1500),
        NetworkDevice("eth0.100", "02:00:00:00:00:08", 10_000, 1500),
        NetworkDevice("eth1", "02:00:00:00:00:03", None, 1500),
        NetworkDevice("ipip0", "02:00:00:00:00:09", None, 1500),
    )


def test_a_machine_of_many_of_each_still_fits_into_the_journal(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    lines = []
    for n in range(600):
        write(tmp_path, {f"sys/block/sd{n}/dev": f"8:{n}", f"sys/block/sd{n}/size": 8, f"sys/class/net/eth{n}/mtu": 1500})
        point = f"/var/lib/kubelet/plugins/kubernetes.io/csi/pv/pvc-{n:036}/globalmount"
        lines.append(f"{n + 2} 1 8:{n} / {tmp_path}{point} rw - ext4 /dev/sd{n} rw")
    write(tmp_path, {"proc/self/mountinfo": "\n".join(lines)})
    machine = machine_of(tmp_path)
    assert [len(part) for part in (machine.disks, machine.filesystems, machine.network_devices)] == [500] * 3
    assert len(msgspec.msgpack.encode(machine)) < MAX_PAYLOAD / 2


def test_ids_and_names_are_the_host_s_also_behind_absolute_links(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "nix/store/abc-etc/os-release": 'ID=nixos\nPRETTY_NAME="NixOS 24.05 (Uakari)"',
            "var/lib/dbus/machine-id": "0123",
            "proc/sys/kernel/random/boot_id": "b",
            "proc/sys/kernel/osrelease": "6.1.0-21-amd64",
            "sys/class/dmi/id/product_uuid": "1e2d",
        },
    )
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/static").symlink_to("/nix/store/abc-etc")
    (tmp_path / "etc/os-release").symlink_to("/etc/static/os-release")
    machine = machine_of(tmp_path)
    assert (machine.os_name, machine.machine_id, machine.boot_id) == ("NixOS 24.05 (Uakari)", "0123", "b")
    assert (machine.kernel_version, machine.system_uuid) == ("6.1.0-21-amd64", "1e2d")


def test_the_uuid_of_a_device_tree(tmp_path: Path) -> None:
    write(tmp_path, {"proc/device-tree/vm,uuid": "77aa\0"})
    assert machine_of(tmp_path).system_uuid == "77aa"


def test_links_that_would_lead_out_or_around(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("../../../../b")
    (tmp_path / "b").symlink_to("/c/./d")
    (tmp_path / "loop").symlink_to("loop")
    assert inside(tmp_path, "/a") == tmp_path / "c/d"
    assert inside(tmp_path, "/../x/../y") == tmp_path / "y"
    assert str(inside(tmp_path, "/loop/x")).startswith(str(tmp_path))
    assert inside(Path("/"), "/etc/os-release") == Path("/etc/os-release")


def test_the_same_as_cadvisor_said_of_a_recorded_machine(recorded_tree: Callable[[str], Path]) -> None:
    root = recorded_tree("cgroup1-vm")
    said = json.loads((root / "cadvisor-0.35/machine.json").read_text())
    machine = machine_of(root / "snapshot-2")
    assert machine.cpus == said["num_cores"]
    assert machine.cpu_frequency_khz == said["cpu_frequency_khz"]
    assert machine.memory_bytes == said["memory_capacity"]
    disks = {f"{d.major}:{d.minor}": (d.name, d.size_bytes, d.scheduler) for d in machine.disks}
    assert disks == {number: (d["name"], d["size"], d["scheduler"]) for number, d in said["disk_map"].items()}
    assert [(n.id, n.memory_bytes) for n in machine.nodes] == [(n["node_id"], n["memory"]) for n in said["topology"]]
    theirs = [tuple(c["thread_ids"]) for c in said["topology"][0]["cores"]]
    assert [c.threads for c in machine.nodes[0].cores] == theirs
    assert (machine.physical_cores, machine.sockets) == (2, 1)
    assert machine.cloud_provider is None


def with_this_machine(ask: Callable[[], T]) -> tuple[T, Machine]:
    """What a tool says, and this machine at a moment before and after which the tool said the same."""
    collector = MachineCollector(MachineConfig(groups=DETAILED))
    for _ in range(50):
        before = ask()
        machine = collector.machine()
        if ask() == before:
            return before, machine
        time.sleep(0.05)
    raise AssertionError(f"it never stood still: {before}")


@pytest.mark.integration
class TestThisMachine:
    """Against psutil and the tools of util-linux, iproute2 and coreutils."""

    def test_cpus(self) -> None:
        said, here = with_this_machine(lambda: (psutil.cpu_count(), psutil.cpu_count(logical=False)))
        assert (here.cpus, here.physical_cores) == said

    def test_topology_as_lscpu_tells_it(self) -> None:
        if platform.machine() != "x86_64":
            pytest.skip("other architectures tell less")
        text, here = with_this_machine(lambda: answer("lscpu", "-p=CPU,CORE,SOCKET,NODE"))
        rows = [line.split(",") for line in text.splitlines() if line[:1] != "#"]
        assert here.cpus == len(rows)
        assert here.physical_cores == len({row[1] for row in rows})
        assert here.sockets == len({row[2] for row in rows})
        threads = {t: (n.id, c.socket) for n in here.nodes for c in n.cores for t in c.threads}
        assert threads == {int(cpu): (int(node or 0), int(socket)) for cpu, _, socket, node in rows}
        fields = {f["field"].rstrip(":"): f["data"] for f in _flat(answer("lscpu", "-J")["lscpu"])}
        assert fields["Vendor ID"] == here.cpu_vendor
        assert fields["Model name"] == here.cpu_model

    def test_caches_as_lscpu_tells_them(self) -> None:
        said, here = with_this_machine(lambda: answer("lscpu", "-C", "-B", "-J"))
        ours: dict[tuple[int, str], set[int | None]] = {}
        for node in here.nodes:
            for cache in (*node.caches, *(c for core in node.cores for c in (*core.caches, *core.shared_caches))):
                ours.setdefault((cache.level, cache.type), set()).add(cache.size_bytes)
        assert ours == {(int(row["level"]), row["type"]): {int(row["one-size"])} for row in said["caches"]}

    def test_memory(self) -> None:
        def free() -> dict[str, int]:
            return {line.split()[0]: int(line.split()[1]) for line in answer("free", "-b").splitlines()[1:]}

        total, here = with_this_machine(free)
        assert (here.memory_bytes, here.swap_bytes) == (total["Mem:"], total["Swap:"])
        page = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "Hugepagesize" in line)
        assert page * 1024 in {pool.page_size_bytes for pool in here.huge_pages}

    def test_disks(self) -> None:
        ask = ("lsblk", "-J", "-b", "-d", "-e", "1,7,11", "-o", "NAME,MAJ:MIN,SIZE,SCHED")
        said, here = with_this_machine(lambda: answer(*ask))
        theirs = {(d["name"], d["maj:min"], int(d["size"]), d["sched"]) for d in said["blockdevices"] if int(d["size"])}
        assert {(d.name, f"{d.major}:{d.minor}", d.size_bytes, d.scheduler) for d in here.disks} == theirs

    def test_filesystems(self) -> None:
        text, here = with_this_machine(lambda: answer("df", "-B1", "--output=source,size,itotal,target", "/"))
        source, size, inodes, _ = text.splitlines()[1].split()
        root = next(f for f in here.filesystems if f.mount_point == "/")
        assert root.capacity_bytes == int(size)
        if root.type == "ext4":
            assert root.inodes == int(inodes)
        assert root.type in {p.fstype for p in psutil.disk_partitions(all=True) if p.mountpoint == "/"}
        assert root.device in (source, "/")

    def test_network_devices(self) -> None:
        def devices() -> dict[str, Any]:
            return {link["ifname"]: link for link in answer("ip", "-j", "-d", "link")}

        links, here = with_this_machine(devices)
        for device in here.network_devices:
            assert (device.mac_address, device.mtu_bytes) == (links[device.name]["address"], links[device.name]["mtu"])
        left_out = set(links) - {d.name for d in here.network_devices}
        kinds = {name: links[name].get("linkinfo", {}).get("info_kind") for name in left_out}
        assert {n for n, kind in kinds.items() if kind != "veth" and not n.startswith(("docker", "nerdctl"))} == {"lo"}

    def test_names(self) -> None:
        here = MachineCollector(MachineConfig()).machine()
        assert here.kernel_version == os.uname().release
        assert here.os_name == platform.freedesktop_os_release()["PRETTY_NAME"]
        assert here.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def test_a_filesystem_mounted_later_appears_and_goes(self, tmp_path: Path) -> None:
        need(os.geteuid() == 0 and shutil.which("mkfs.ext4"), "root and mkfs.ext4 are needed to mount a filesystem")
        image, point = tmp_path / "image", tmp_path / "point"
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        machines = MachineCollector(MachineConfig())
        rows = FilesystemCollector(FilesystemConfig()).reader(HOST)
        assert rows is not None

        def mounted() -> tuple[list[Filesystem], list[Any]]:
            rows.read()
            (table,) = rows.read_tables()
            own = [f for f in machines.machine().filesystems if f.mount_point == str(point)]
            return own, [row for row in table or () if row[0] in {f.device for f in own}]

        assert mounted() == ([], [])
        done = subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, check=False)
        need(done.returncode == 0, f"a loop device is needed: {done.stderr.decode()}")
        try:
            (own,), (row,) = mounted()
            size = os.statvfs(point)
            assert (own.type, own.capacity_bytes, own.inodes) == ("ext4", size.f_blocks * size.f_frsize, size.f_files)
            assert row[1] == own.capacity_bytes
        finally:
            subprocess.run(["umount", str(point)], check=True)
        assert mounted() == ([], [])


def _flat(fields: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """lscpu of util-linux 2.39 and later nests them."""
    for field in fields:
        yield field
        yield from _flat(field.get("children", []))
