"""CPUs by core, socket and NUMA node with their caches, from SYS/devices/system. No privileges.

Source: kernel documentation ABI/stable/sysfs-devices-system-cpu, ABI/stable/sysfs-devices-node, admin-guide/cputopology.rst.

CPUs that are offline have no topology and are left out. Cores are told apart by the list of their threads, not by `core_id`,
which begins anew in each socket.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tidegauge.collectors._sysfs import cpu_list, entries, number, numbered, parse_number, text
from tidegauge.pipeline.machine import Cache, Core, HugePages, Node

_HUGE_PAGES = re.compile(r"hugepages-([0-9]{1,12})kB")
_SIZE = re.compile(r"([0-9]{1,12})([KMG]?)")
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Topology(NamedTuple):
    cpus: int | None = None
    physical_cores: int | None = None
    sockets: int | None = None
    books: int | None = None
    drawers: int | None = None
    nodes: tuple[Node, ...] = ()


class _Cpu(NamedTuple):
    id: int
    core: object
    """Equal for the threads of one core; None: not told."""
    core_id: int
    socket: int | None
    book: int | None
    drawer: int | None


def topology(sys: Path, *, is_detailed: bool) -> Topology:
    """Everything; caches and distances only if `is_detailed`. Fields are None where SYS has no CPUs or no topology of them."""
    folder = sys / "devices/system/cpu"
    numbers = cpu_list(text(folder / "online")) or tuple(n for n, _ in numbered(folder, "cpu"))
    cpus = {n: _cpu(folder / f"cpu{n}/topology", n) for n in numbers}
    if not cpus:
        return Topology()
    caches = {n: _caches(folder / f"cpu{n}/cache") for n in cpus} if is_detailed else {}
    return Topology(
        len(cpus),
        None if any(c.core is None for c in cpus.values()) else len({c.core for c in cpus.values()}),
        _distinct(c.socket for c in cpus.values()),
        _distinct(c.book for c in cpus.values()),
        _distinct(c.drawer for c in cpus.values()),
        _nodes(sys / "devices/system/node", cpus, caches, is_detailed),
    )


def huge_pages(folder: Path) -> tuple[HugePages, ...]:
    """Pools by page size, of the machine (SYS/kernel/mm/hugepages) or of a node."""
    found = []
    for entry in entries(folder):
        if (match := _HUGE_PAGES.fullmatch(entry)) is not None:
            found.append(HugePages(int(match[1]) << 10, number(folder / entry / "nr_hugepages")))
    return tuple(sorted(found, key=lambda pool: pool.page_size_bytes))


def _distinct(numbers: Iterable[int | None]) -> int | None:
    """How many different ones there are; None where one is not told."""
    found = set(numbers)
    return None if None in found else len(found)


def _cpu(folder: Path, n: int) -> _Cpu:
    def known(name: str) -> int | None:
        value = number(folder / name)
        return value if value is not None and value >= 0 else None  # -1: the firmware does not tell

    core_id, socket = known("core_id"), known("physical_package_id")
    siblings = text(folder / "core_cpus_list") or text(folder / "thread_siblings_list")
    core: object = siblings if siblings is not None or core_id is None else (socket, core_id)
    return _Cpu(n, core, -1 if core_id is None else core_id, socket, known("book_id"), known("drawer_id"))


def _caches(folder: Path) -> list[tuple[frozenset[int], Cache]]:
    """(CPUs that share it, cache) of one CPU."""
    found = []
    for _, path in numbered(folder, "index"):
        level, kind = number(path / "level"), text(path / "type")
        if level is None or kind is None:
            continue
        size = _SIZE.fullmatch(text(path / "size") or "")
        size_bytes = int(size[1]) * _FACTOR[size[2]] if size is not None else None
        shared = frozenset(cpu_list(text(path / "shared_cpu_list")))
        found.append((shared, Cache(level, kind, size_bytes, number(path / "id"))))
    return found


def _nodes(
    folder: Path, cpus: dict[int, _Cpu], caches: dict[int, list[tuple[frozenset[int], Cache]]], is_detailed: bool
) -> tuple[Node, ...]:
    found = []
    for n, path in numbered(folder, "node"):
        own = [cpus[i] for i in cpu_list(text(path / "cpulist")) if i in cpus]
        distances = (text(path / "distance") or "").split() if is_detailed else []
        steps = tuple(d for word in distances if (d := parse_number(word)) is not None)
        found.append(_node(Node(n, _memory(path, n), huge_pages(path / "hugepages"), steps), own, caches))
    return tuple(found) or (_node(Node(0), list(cpus.values()), caches),)


def _memory(path: Path, n: int) -> int | None:
    for line in (text(path / "meminfo") or "").splitlines():
        words = line.split()
        if words[:3] == ["Node", str(n), "MemTotal:"] and len(words) > 3:
            return parse_number(words[3], 1024)
    return None


def _node(node: Node, cpus: list[_Cpu], caches: dict[int, list[tuple[frozenset[int], Cache]]]) -> Node:
    """The node with its cores, and each cache where it belongs."""
    all_ids = {c.id for c in cpus}
    threads: dict[object, list[_Cpu]] = {}
    for cpu in cpus:
        threads.setdefault(cpu.id if cpu.core is None else cpu.core, []).append(cpu)
    cores: list[Core] = []
    common: dict[tuple[frozenset[int], Cache], None] = {}
    for own in threads.values():
        ids = {c.id for c in own}
        private: dict[Cache, None] = {}
        shared: dict[Cache, None] = {}
        for cpu in own:
            for sharers, cache in caches.get(cpu.id, ()):
                if (sharers & all_ids) <= ids:
                    private[cache] = None
                elif sharers >= all_ids:
                    common[sharers, cache] = None
                else:
                    shared[cache] = None
        cores.append(Core(own[0].core_id, tuple(sorted(ids)), own[0].socket, tuple(private), tuple(shared)))
    cores.sort(key=lambda core: core.threads)
    return Node(node.id, node.memory_bytes, node.huge_pages, node.distances, tuple(cores), tuple(cache for _, cache in common))
