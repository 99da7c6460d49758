"""Families that come from what is known of a container and of the machine rather than from samples. Pure.

A limit that is none is shown as 0, as cAdvisor does.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from tidegauge.pipeline.machine import Cache, Machine
from tidegauge.pipeline.records import UNLIMITED, Container
from tidegauge.pipeline.version import VERSION


class Fact(NamedTuple):
    """One family of the page, its lines made by the functions below."""

    name: str
    help: str


class Line(NamedTuple):
    family: str
    labels: Mapping[str, str]
    value: int | float


CONTAINER_FACTS = (
    Fact("container_creation_time_seconds", "When the container was made, Unix time."),
    Fact("container_start_time_seconds", "When the container was started, Unix time."),
    Fact("container_health_state", "1: healthy; 0: starting or unhealthy; -1: nobody checks."),
    Fact("container_spec_cpu_period", "Length of the CPU quota's period, in microseconds."),
    Fact("container_spec_cpu_quota", "CPU time allowed in each period, in microseconds."),
    Fact("container_spec_cpu_shares", "Share of CPU time relative to others; on cgroup v2 from the weight."),
    Fact("container_spec_memory_limit_bytes", "Memory limit; 0: none."),
    Fact("container_spec_memory_swap_limit_bytes", "Limit of memory and swap together; 0: none."),
    Fact("container_spec_memory_reservation_limit_bytes", "Memory that is kept from reclaim; 0: none."),
)
LAST_SEEN = Fact("container_last_seen", "When the page was made: containers on it live. Unix time.")
MACHINE_FACTS = (
    Fact("cadvisor_version_info", "Versions of kernel, system and this program; always 1."),
    Fact("container_scrape_error", "1 while nothing is known of the containers, else 0."),
    Fact("machine_scrape_error", "1 while nothing is known of the machine, else 0."),
    Fact("machine_cpu_physical_cores", "CPU cores."),
    Fact("machine_cpu_cores", "Logical CPUs that are online."),
    Fact("machine_cpu_sockets", "CPU sockets."),
    Fact("machine_cpu_books", "Books of an IBM Z machine."),
    Fact("machine_cpu_drawers", "Drawers of an IBM Z machine."),
    Fact("machine_memory_bytes", "Memory of the machine."),
    Fact("machine_swap_bytes", "Swap of the machine."),
    Fact("machine_dimm_count", "Memory modules, by type."),
    Fact("machine_dimm_capacity_bytes", "Size of all memory modules of a type."),
    Fact("machine_cpu_cache_capacity_bytes", "Size of a CPU cache."),
    Fact("machine_thread_siblings_count", "Threads of the core that a logical CPU is of."),
    Fact("machine_node_memory_capacity_bytes", "Memory of a NUMA node."),
    Fact("machine_node_hugepages_count", "Huge pages in the pool of a NUMA node."),
    Fact("machine_node_distance", "Distance from one NUMA node to another; 10 to itself."),
)

_HEALTH = {"healthy": 1, "starting": 0, "unhealthy": 0, None: -1}


def of_container(container: Container, machine: Machine | None) -> Iterator[tuple[str, int | float]]:
    """Family and value of what is known of a container. `machine` is that of its host."""
    created_ms = container.runtime_created_ms or container.created_ms
    yield "container_creation_time_seconds", created_ms / 1000
    yield "container_start_time_seconds", (container.started_ms or created_ms) / 1000
    if container.container_id is not None:
        yield "container_health_state", _HEALTH.get(container.health, 0)
    spec = container.spec
    if spec is None:
        return
    memory_limit, swap_limit = spec.memory_limit_bytes, spec.memory_swap_limit_bytes
    if container.is_host and machine is not None:  # the root has no limits but these
        memory_limit = machine.memory_bytes if memory_limit in (None, UNLIMITED) else memory_limit
        swap_limit = machine.swap_bytes if swap_limit in (None, UNLIMITED) else swap_limit
    values = {
        "cpu_period": spec.cpu_period_us,
        "cpu_quota": spec.cpu_quota_us if has_quota(container) else None,
        "cpu_shares": spec.cpu_shares,
        "memory_limit_bytes": memory_limit,
        "memory_swap_limit_bytes": swap_limit,
        "memory_reservation_limit_bytes": spec.memory_reservation_bytes,
    }
    for name, value in values.items():
        if value is not None:
            yield f"container_spec_{name}", 0 if value == UNLIMITED else value


def has_quota(container: Container) -> bool:
    quota = None if container.spec is None else container.spec.cpu_quota_us
    return quota is not None and quota != UNLIMITED


def of_machine(machine: Machine | None, groups: Collection[str], has_containers: bool) -> Iterator[Line]:
    """Lines of machine, version and scrape errors. `groups`: those that are on; the topology is one of them."""
    yield Line("container_scrape_error", {}, 0 if has_containers else 1)
    yield Line("machine_scrape_error", {}, 1 if machine is None else 0)
    versions = {
        "kernelVersion": (machine.kernel_version if machine else None) or "",
        "osVersion": (machine.os_name if machine else None) or "",
        "dockerVersion": "",
        "cadvisorVersion": VERSION,
        "cadvisorRevision": "",
    }
    yield Line("cadvisor_version_info", versions, 1)
    if machine is None:
        return
    ids = {
        "machine_id": machine.machine_id or "",
        "system_uuid": machine.system_uuid or "",
        "boot_id": machine.boot_id or "",
    }
    plain = {
        "cpu_physical_cores": machine.physical_cores,
        "cpu_cores": machine.cpus,
        "cpu_sockets": machine.sockets,
        "cpu_books": machine.books,
        "cpu_drawers": machine.drawers,
        "memory_bytes": machine.memory_bytes,
        "swap_bytes": machine.swap_bytes,
    }
    for name, value in plain.items():
        if value is not None:
            yield Line(f"machine_{name}", ids, value)
    for dimms in machine.dimms:
        yield Line("machine_dimm_count", ids | {"type": dimms.type}, dimms.count)
        if dimms.capacity_bytes is not None:
            yield Line("machine_dimm_capacity_bytes", ids | {"type": dimms.type}, dimms.capacity_bytes)
    if "cpu_topology" in groups:
        yield from _topology(machine, ids)


def _topology(machine: Machine, ids: Mapping[str, str]) -> Iterator[Line]:
    for node in machine.nodes:
        of_node = {**ids, "node_id": str(node.id)}
        if node.memory_bytes is not None:
            yield Line("machine_node_memory_capacity_bytes", of_node, node.memory_bytes)
        for pool in node.huge_pages:
            if pool.pages is not None:
                size = {"page_size": str(pool.page_size_bytes // 1024)}
                yield Line("machine_node_hugepages_count", of_node | size, pool.pages)
        for other, distance in zip(machine.nodes, node.distances, strict=False):
            yield Line("machine_node_distance", of_node | {"target_node_id": str(other.id)}, distance)
        yield from _caches(node.caches, of_node | {"core_id": ""})
        for core in node.cores:
            # a core's number is unique within its socket only
            of_core = of_node | {"core_id": str(core.id)} | ({} if core.socket is None else {"socket_id": str(core.socket)})
            yield from _caches((*core.caches, *core.shared_caches), of_core)
            for thread in core.threads:
                yield Line("machine_thread_siblings_count", of_core | {"thread_id": str(thread)}, len(core.threads))


def _caches(caches: Collection[Cache], labels: Mapping[str, str]) -> Iterator[Line]:
    for cache in caches:
        if cache.size_bytes is not None:
            kind = {"type": cache.type, "level": str(cache.level)} | ({} if cache.id is None else {"cache_id": str(cache.id)})
            yield Line("machine_cpu_cache_capacity_bytes", {**labels, **kind}, cache.size_bytes)
