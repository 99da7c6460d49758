"""What a container is and may use, as cAdvisor's ContainerSpec. Pure.

Source: cAdvisor container/common/helpers.go, info/v1/container.go, info/v2/conversion.go.
"""

from collections.abc import Iterable

from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.reading import Reading, go_time
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import UNLIMITED, Container, Spec
from tidegauge.pipeline.series import split_series

_NONE_V1 = 9223372036854771712
_NONE_V2 = 18446744073709551615
"""No limit, as the two hierarchies' files have it for cAdvisor."""
RUNTIMES = frozenset({"docker", "podman", "containerd", "crio"})
_EMPTY = Spec()


def is_of_runtime(container: Container) -> bool:
    """True for what a container runtime made, so that cAdvisor gives it aliases and a namespace."""
    return container.namespace in RUNTIMES and container.container_id is not None


def is_v2(container: Container) -> bool:
    """Whether its limits are those of cgroup v2."""
    spec = container.spec
    if spec is not None and (spec.cpu_weight is not None or spec.memory_high_bytes is not None):
        return True
    return bool(container.pairs) and all(hierarchy == "unified" for hierarchy, _ in container.pairs)


def of(
    container: Container,
    reading: Reading | None,
    machine: Machine | None,
    *,
    for_v2: bool = False,
    has_secrets: bool = False,
    is_strict: bool = False,
) -> s.ContainerSpec:
    """`reading` tells what is measured; `machine` is the host's. Environment variables only with `has_secrets`."""
    spec = container.spec or _EMPTY
    tables = {} if reading is None else reading.tables
    cpus = (machine.cpus if machine is not None else None) or 1
    limits = spec.memory_limit_bytes if spec.memory_limit_bytes is not None else spec.memory_effective_limit_bytes
    has_cpu = spec.cpu_shares is not None or container.is_host
    has_memory = limits is not None or container.is_host
    has_processes = spec.pids_limit is not None
    cpu = s.CpuSpec(
        limit=spec.cpu_shares or 0,
        max_limit=0,
        mask=(spec.cpus or f"0-{cpus - 1}") if has_cpu else "",
        quota=0 if for_v2 or spec.cpu_quota_us in (None, UNLIMITED) else spec.cpu_quota_us or 0,
        period=0 if for_v2 else spec.cpu_period_us or 0,
    )
    series = tables.get("app", {})
    created_ms = container.runtime_created_ms or container.created_ms
    of_runtime = is_of_runtime(container)
    return s.ContainerSpec(
        creation_time=go_time(created_ms),
        start_time=go_time(container.started_ms) if container.started_ms else s.ZERO_TIME,
        aliases=_aliases(container) if for_v2 and of_runtime else [],
        namespace=(container.namespace or "") if for_v2 and of_runtime else "",
        labels=dict(container.labels),
        envs=dict(container.environment) if has_secrets else {},
        has_cpu=has_cpu,
        cpu=cpu,
        has_memory=has_memory,
        memory=_memory(container, spec, machine, is_strict) if has_memory else s.MemorySpec(),
        has_hugetlb="hugetlb" in tables,
        has_network="network" in tables,
        has_processes=has_processes,
        processes=s.ProcessSpec(limit=_NONE_V2 if spec.pids_limit == UNLIMITED else spec.pids_limit or 0),
        has_filesystem="filesystem" in tables or "disk_usage" in tables,
        has_diskio="disk_io" in tables,
        has_custom_metrics=bool(series),
        custom_metrics=_metric_specs(series, tables),
        image=container.image or "",
    )


def aliases(container: Container) -> list[str]:
    """Names and id of what a runtime made; [] for any other cgroup."""
    return _aliases(container) if is_of_runtime(container) else []


def _aliases(container: Container) -> list[str]:
    names = [*container.aliases]
    if container.name is not None and container.name not in names:
        names.insert(0, container.name)
    if container.container_id is not None and container.container_id not in names:
        names.append(container.container_id)
    return names


def _memory(container: Container, spec: Spec, machine: Machine | None, is_strict: bool) -> s.MemorySpec:
    none = _NONE_V2 if is_v2(container) else _NONE_V1

    def said(limit: int | None) -> int:
        return 0 if limit is None else none if limit == UNLIMITED else limit

    limit, swap, reservation = spec.memory_limit_bytes, spec.memory_swap_limit_bytes, spec.memory_reservation_bytes
    if container.is_host and machine is not None:
        return s.MemorySpec(limit=machine.memory_bytes or 0, reservation=said(reservation), swap_limit=machine.swap_bytes or 0)
    if is_strict and is_v2(container):
        # cAdvisor takes memory.min for the reservation, and the swap's limit without the memory's
        reservation = spec.memory_min_bytes
        if swap not in (None, UNLIMITED) and limit not in (None, UNLIMITED):
            swap = (swap or 0) - (limit or 0)
    return s.MemorySpec(
        limit=said(limit) or (machine.memory_bytes or 0 if machine is not None else 0),
        reservation=said(reservation),
        swap_limit=said(swap),
    )


def _metric_specs(series: Iterable[str], tables: object) -> list[s.MetricSpec]:
    found: dict[str, s.MetricSpec] = {}
    rows = tables.get("app", {}) if isinstance(tables, dict) else {}
    for text in series:
        name, _ = split_series(text)
        column = next((c for c, v in rows[text].items() if v is not None), "")
        is_counter = column in ("app_counter", "app_histogram", "app_summary", "app_integer_counter")
        found.setdefault(
            name,
            s.MetricSpec(
                name=name,
                type="cumulative" if is_counter else "gauge",
                format="int" if column.startswith("app_integer") else "float",
                units="",
            ),
        )
    return list(found.values())
