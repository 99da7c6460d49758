"""Readings as cAdvisor's samples: v1, v2.0, v2.1 and of the machine. Pure; what is not known is Go's zero value.

Source: cAdvisor info/v1/container.go, info/v2/conversion.go, info/v2/machine.go.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import UNSET

from tidegauge.api.cadvisor import shapes as s
from tidegauge.api.cadvisor.reading import Reading, Row, Table, go_time
from tidegauge.pipeline.builtin_metrics import TCP_STATES, tcp_metric
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import UNLIMITED
from tidegauge.pipeline.series import split_series

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SECTOR = 512
_NS_PER_US, _NS_PER_MS = 1000, 1_000_000
_OWN_TYPES = frozenset({"zfs", "nfs", "nfs4", "devicemapper"})
"""Filesystem types that cAdvisor calls by their names; all others are `vfs`."""
_NO_PSI = s.PsiShare(total=0, avg10=0.0, avg60=0.0, avg300=0.0)
_NO_NUMA = s.NumaStats()
_NO_TCP = s.TcpStat(**dict.fromkeys(s.TcpStat.__struct_fields__, 0))
_NO_UDP = s.UdpStat(Listen=0, Dropped=0, RxQueued=0, TxQueued=0)
_NO_ADVANCED = s.TcpAdvanced(*[0] * len(s.ADVANCED_FIELDS))
_ADVANCED = tuple(tcp_metric(field) for field in s.ADVANCED_FIELDS)
_TCP = tuple(zip(s.TcpStat.__struct_fields__, (f"tcp_{state}" for state in TCP_STATES), strict=True))
_NO_DISK = dict.fromkeys(("reads_completed", "reads_merged", "sectors_read", "read_time"), 0) | dict.fromkeys(
    ("writes_completed", "writes_merged", "sectors_written", "write_time", "io_in_progress", "io_time", "weighted_io_time"), 0
)
_OPS = (("Async", "async"), ("Discard", "discard"), ("Read", "read"), ("Sync", "sync"), ("Write", "write"))


class Host(NamedTuple):
    """What of the machine samples need."""

    disks: Mapping[str, tuple[int, int]]
    """Major and minor number by name."""
    types: Mapping[str, str]
    """cAdvisor's word for a filesystem's type, by device."""

    @classmethod
    def of(cls, machine: Machine | None) -> "Host":
        if machine is None:
            return cls({}, {})
        return cls(
            {d.name: (d.major, d.minor) for d in machine.disks}, {f.device: fs_type(f.type) for f in machine.filesystems}
        )


def fs_type(type_: str) -> str:
    return type_ if type_ in _OWN_TYPES else "vfs"


def of_v1(r: Reading, host: Host, health: str | None) -> s.ContainerStats:
    """The whole sample."""
    network = _network(r)
    return s.ContainerStats(
        timestamp=go_time(r.ts_ms),
        cpu=_cpu(r),
        diskio=_disk_io(r, host) if "disk_io" in r.tables or _has_psi(r, "io") else UNSET,
        memory=_memory(r),
        hugetlb=_hugetlb(r),
        network=UNSET if network is None else s.NetworkStats(**_first(network), **_parts(r, network)),
        filesystem=_filesystems(r, host),
        task_stats=s.LoadStats(
            nr_sleeping=r.value("tasks_sleeping"),
            nr_running=r.value("tasks_running"),
            nr_stopped=r.value("tasks_stopped"),
            nr_uninterruptible=r.value("tasks_uninterruptible"),
            nr_io_wait=r.value("tasks_io_waiting"),
        ),
        processes=_processes(r) if r.values.get("process_count") is not None else UNSET,
        custom_metrics=_custom(r),
        perf_stats=_perf(r),
        referenced_memory=r.value("memory_referenced_bytes"),
        resctrl=_resctrl(r),
        cpuset=s.CpusetStats(memory_migrate=r.value("cpuset_memory_migrate")),
        health=s.Health(status=health or ""),
    )


def of_v21(
    r: Reading, before: Reading | None, host: Host, spec: s.ContainerSpec, is_strict: bool = False
) -> s.ContainerStatsV21:
    """What the spec says that the container has. `before`: the sample before it in the answer."""
    network = _network(r) if spec.has_network else None
    filesystems = _filesystems(r, host) if spec.has_filesystem else []
    resctrl = _resctrl(r)
    inst = cpu_inst(before, r) if spec.has_cpu else None
    return s.ContainerStatsV21(
        timestamp=go_time(r.ts_ms),
        cpu=_cpu(r) if spec.has_cpu else UNSET,
        cpu_inst=UNSET if inst is None else inst,
        diskio=_disk_io(r, host) if spec.has_diskio else UNSET,
        memory=_memory(r) if spec.has_memory else UNSET,
        hugetlb=_hugetlb(r) if spec.has_hugetlb else UNSET,
        network=UNSET if network is None else s.NetworkStatsV2(**_parts(r, network, is_strict)),
        processes=_processes(r) if spec.has_processes else UNSET,
        filesystem=_one_filesystem(filesystems[0]) if len(filesystems) == 1 else UNSET,
        custom_metrics=_custom(r) if spec.has_custom_metrics else {},
        perf_stats=_perf(r),
        referenced_memory=r.value("memory_referenced_bytes"),
        resctrl=resctrl if resctrl.memory_bandwidth or resctrl.cache else UNSET,
    )


def of_v20(
    r: Reading, before: Reading | None, host: Host, spec: s.ContainerSpec, is_strict: bool = False
) -> s.ContainerStatsV20:
    """Everything, what the spec says that the container has not as zeros. `before`: the sample before it in the answer."""
    inst = cpu_inst(before, r) if spec.has_cpu else None
    zero = Reading(r.ts_ms, {}, {})
    of_network = r if spec.has_network else zero
    network = s.NetworkStatsV2(**_parts(of_network, _network(of_network) or [], is_strict))
    if is_strict:
        network = s.NetworkStatsV2(
            interfaces=network.interfaces, tcp=_NO_TCP, tcp6=_NO_TCP, udp=_NO_UDP, udp6=_NO_UDP, tcp_advanced=_NO_ADVANCED
        )
    has_processes = spec.has_processes and not is_strict
    return s.ContainerStatsV20(
        timestamp=go_time(r.ts_ms),
        has_cpu=spec.has_cpu,
        cpu=_cpu(r if spec.has_cpu else zero),
        cpu_inst=UNSET if inst is None else inst,
        has_diskio=spec.has_diskio,
        diskio=_disk_io(r if spec.has_diskio else zero, host),
        has_memory=spec.has_memory,
        memory=_memory(r if spec.has_memory else zero),
        has_hugetlb=spec.has_hugetlb,
        hugetlb=_hugetlb(r) if spec.has_hugetlb else {},
        has_network=spec.has_network,
        network=network,
        has_processes=has_processes,
        processes=_processes(r if has_processes else zero),
        has_filesystem=spec.has_filesystem,
        filesystem=_filesystems(r, host) if spec.has_filesystem else [],
        has_load=False,
        load_stats=s.LoadStats(nr_sleeping=0, nr_running=0, nr_stopped=0, nr_uninterruptible=0, nr_io_wait=0),
        has_custom_metrics=spec.has_custom_metrics,
        custom_metrics=_custom(r) if spec.has_custom_metrics else {},
    )


def of_machine(
    r: Reading, before: Reading | None, host: Host, spec: s.ContainerSpec, is_strict: bool = False
) -> s.MachineStats:
    """A sample of the container `/`, as v2.1 `machinestats` has it."""
    network = _network(r) if spec.has_network else None
    inst = cpu_inst(before, r) if spec.has_cpu else None
    return s.MachineStats(
        timestamp=go_time(r.ts_ms),
        cpu=_cpu(r) if spec.has_cpu else UNSET,
        cpu_inst=UNSET if inst is None else inst,
        memory=_memory(r) if spec.has_memory else UNSET,
        network=UNSET if network is None else s.NetworkStatsV2(**_parts(r, network, is_strict)),
        filesystem=[_of_machine(f) for f in _filesystems(r, host)],
    )


def cpu_inst(before: Reading | None, r: Reading) -> s.CpuInstStats | None:
    """Nanocores since the reading before; None without one, over a new epoch, a counter that fell or other CPUs.

    Truncated, as cAdvisor's integer arithmetic does.
    """
    if before is None or before.number != r.number or r.ts_ms <= before.ts_ms:
        return None
    last, now = _usage(before), _usage(r)
    if len(last.per_cpu_usage) != len(now.per_cpu_usage):
        return None
    span_ns = (r.ts_ms - before.ts_ms) * _NS_PER_MS
    pairs = [(now.total, last.total), (now.user, last.user), (now.system, last.system)]
    pairs += zip(now.per_cpu_usage, last.per_cpu_usage, strict=True)
    if any(new < old for new, old in pairs):
        return None
    total, user, system, *each = ((new - old) * 10**9 // span_ns for new, old in pairs)
    return s.CpuInstStats(usage=s.CpuUsage(total=total, user=user, system=system, per_cpu_usage=each))


def _usage(r: Reading) -> s.CpuUsage:
    return s.CpuUsage(
        total=r.value("cpu_usage_ns"),
        user=r.value("cpu_user_ns"),
        system=r.value("cpu_system_ns"),
        per_cpu_usage=[int(row["percpu_usage_ns"] or 0) for _, row in _numbered(r.table("percpu"))],
    )


def _numbered(table: Table) -> list[tuple[str, Row]]:
    """Rows by their number."""
    return sorted(table.items(), key=lambda item: (int(item[0]) if item[0].isdecimal() else math.inf, item[0]))


def _cpu(r: Reading) -> s.CpuStats:
    return s.CpuStats(
        usage=_usage(r),
        cfs=s.CpuCfs(
            periods=r.value("cpu_periods"),
            throttled_periods=r.value("cpu_throttled_periods"),
            throttled_time=r.value("cpu_throttled_ns"),
            bursts_periods=r.value("cpu_burst_periods"),
            burst_time=r.value("cpu_burst_ns"),
        ),
        schedstat=s.CpuSchedstat(
            run_time=r.value("cpu_schedstat_run_ns"),
            runqueue_time=r.value("cpu_schedstat_wait_ns"),
            run_periods=r.value("cpu_schedstat_slices"),
        ),
        load_average=r.value("cpu_load_milli"),
        load_d_average=r.value("cpu_load_d_milli"),
        psi=_psi(r, "cpu"),
    )


def _psi(r: Reading, resource: str) -> s.Psi:
    return s.Psi(full=_psi_share(r, resource, "full"), some=_psi_share(r, resource, "some"))


def _psi_share(r: Reading, resource: str, share: str) -> s.PsiShare:
    total = r.value(f"{resource}_pressure_{share}_ns")
    return s.PsiShare(total=total // _NS_PER_US, avg10=0.0, avg60=0.0, avg300=0.0) if total else _NO_PSI


def _has_psi(r: Reading, resource: str) -> bool:
    return r.values.get(f"{resource}_pressure_some_ns") is not None


def _memory(r: Reading) -> s.MemoryStats:
    faults, major = r.value("memory_page_faults"), r.value("memory_major_page_faults")
    numa = r.table("numa")
    is_v2 = r.values.get("memory_high_events") is not None
    failures = r.value("memory_failures")
    return s.MemoryStats(
        usage=r.value("memory_usage_bytes"),
        max_usage=r.value("memory_max_usage_bytes"),
        cache=r.value("memory_cache_bytes"),
        rss=r.value("memory_rss_bytes"),
        swap=r.value("memory_swap_bytes"),
        mapped_file=r.value("memory_mapped_file_bytes"),
        working_set=r.value("memory_working_set_bytes"),
        total_active_file=r.value("memory_active_file_bytes"),
        total_inactive_file=r.value("memory_inactive_file_bytes"),
        file_dirty=r.value("memory_dirty_bytes"),
        file_writeback=r.value("memory_writeback_bytes"),
        kernel=r.value("memory_kernel_bytes"),
        pgscan=r.value("memory_reclaim_scanned_pages"),
        pgsteal=r.value("memory_reclaimed_pages"),
        workingset_refault_file=r.value("memory_refaulted_file_pages"),
        workingset_refault_anon=r.value("memory_refaulted_anon_pages"),
        failcnt=0 if is_v2 else failures,
        container_data=s.MemoryFaults(pgfault=faults, pgmajfault=major, numa_stats=_numa(numa, "own_")),
        hierarchical_data=s.MemoryFaults(pgfault=faults, pgmajfault=major, numa_stats=_numa(numa, "")),
        events=s.MemoryEvents(high=r.value("memory_high_events"), max=failures if is_v2 else 0),
        psi=_psi(r, "memory"),
    )


def _numa(table: Table, own: str) -> s.NumaStats:
    if not table:
        return _NO_NUMA
    parts: dict[str, dict[str, int]] = {}
    for what in ("file", "anon", "unevictable"):
        name = f"numa_{own}{what}_bytes"
        parts[what] = {node: int(v) // _PAGE for node, row in _numbered(table) if (v := row.get(name)) is not None}
    return s.NumaStats(**parts)


def _hugetlb(r: Reading) -> dict[str, s.HugetlbStats]:
    return {
        size: s.HugetlbStats(
            usage=int(row.get("hugetlb_reserved_bytes") or row.get("hugetlb_usage_bytes") or 0),
            max_usage=int(row.get("hugetlb_max_usage_bytes") or 0),
            failcnt=int(row.get("hugetlb_failures") or 0),
        )
        for size, row in r.table("hugetlb").items()
    }


def _disk_io(r: Reading, host: Host) -> s.DiskIoStats:
    devices = sorted(r.table("disk_io").items())
    ext = sorted(r.table("disk_io_ext").items())

    def of(table: list[tuple[str, Row]], columns: Mapping[str, str], scale: int = 1) -> list[s.PerDiskStats]:
        found = []
        for name, row in table:
            stats = {key: int(v) // scale for key, column in columns.items() if (v := row.get(column)) is not None}
            if stats:
                found.append(_per_disk(name, stats, host))
        return found

    def by_operation(what: str) -> list[s.PerDiskStats]:
        found = []
        for name, row in devices:
            stats = {key: int(v) for key, op in _OPS if (v := row.get(f"disk_{op}_{what}")) is not None}
            if not stats:
                continue
            if "Sync" in stats:  # v1's files have a total, v2's have not
                stats["Total"] = sum(stats.get(key, 0) for key in ("Read", "Write", "Discard"))
            else:
                stats.pop("Discard", None)
            found.append(_per_disk(name, dict(sorted(stats.items())), host))
        return found

    if not ext:  # most machines have none of these
        return s.DiskIoStats(io_service_bytes=by_operation("bytes"), io_serviced=by_operation("ops"), psi=_psi(r, "io"))
    return s.DiskIoStats(
        io_service_bytes=by_operation("bytes"),
        io_serviced=by_operation("ops"),
        io_queued=of(ext, {"Total": "disk_queued"}),
        sectors=of(ext, {"Count": "disk_sectors"}),
        io_service_time=of(ext, {"Read": "disk_read_service_ns", "Write": "disk_write_service_ns"}),
        io_wait_time=of(ext, {"Read": "disk_read_wait_ns", "Write": "disk_write_wait_ns"}),
        io_merged=of(ext, {"Read": "disk_reads_merged", "Write": "disk_writes_merged"}),
        io_time=of(ext, {"Count": "disk_busy_ns"}, _NS_PER_MS),
        io_cost_usage=of(ext, {"Count": "disk_cost_usage_ns"}, _NS_PER_US),
        io_cost_wait=of(ext, {"Count": "disk_cost_wait_ns"}, _NS_PER_US),
        io_cost_indebt=of(ext, {"Count": "disk_cost_indebt_ns"}, _NS_PER_US),
        io_cost_indelay=of(ext, {"Count": "disk_cost_indelay_ns"}, _NS_PER_US),
        psi=_psi(r, "io"),
    )


def _per_disk(name: str, stats: Mapping[str, int], host: Host) -> s.PerDiskStats:
    numbers = host.disks.get(name)
    if numbers is not None:
        return s.PerDiskStats(device=f"/dev/{name}", major=numbers[0], minor=numbers[1], stats=stats)
    major, colon, minor = name.partition(":")
    if colon and major.isdecimal() and minor.isdecimal():
        return s.PerDiskStats(device="", major=int(major), minor=int(minor), stats=stats)
    return s.PerDiskStats(device=f"/dev/{name}", major=0, minor=0, stats=stats)


_TRAFFIC = tuple(
    (f"{short}_{what}", f"network_{way}_{what}")
    for short, way in (("rx", "receive"), ("tx", "transmit"))
    for what in ("bytes", "packets", "errors", "dropped")
)


def _network(r: Reading) -> list[s.InterfaceStats] | None:
    """Interfaces in the kernel's order; None if the container has no network of its own that is known."""
    if "network" not in r.tables and "tcp" not in r.tables:
        return None
    return [
        s.InterfaceStats(name=name, **{key: int(row.get(column) or 0) for key, column in _TRAFFIC})
        for name, row in r.table("network").items()
    ]


def _first(interfaces: list[s.InterfaceStats]) -> dict[str, Any]:
    if not interfaces:
        return {"name": "", **{key: 0 for key, _ in _TRAFFIC}}
    return {key: getattr(interfaces[0], key) for key in s.InterfaceStats.__struct_fields__}


def _parts(r: Reading, interfaces: list[s.InterfaceStats], is_strict: bool = False) -> dict[str, Any]:
    """Fields of a network besides the first interface. cAdvisor's v2 leaves UDP and the kernel's TCP counters at zero."""
    tcp, udp = r.table("tcp"), {} if is_strict else r.table("udp")
    return {
        "interfaces": interfaces,
        "tcp": _tcp(tcp.get("tcp")),
        "tcp6": _tcp(tcp.get("tcp6")),
        "udp": _udp(udp.get("udp")),
        "udp6": _udp(udp.get("udp6")),
        "tcp_advanced": _NO_ADVANCED if is_strict or _ADVANCED[0] not in r.values else _advanced(r),
    }


def _tcp(row: Row | None) -> s.TcpStat:
    return _NO_TCP if row is None else s.TcpStat(**{key: int(row.get(column) or 0) for key, column in _TCP})


def _udp(row: Row | None) -> s.UdpStat:
    if row is None:
        return _NO_UDP
    return s.UdpStat(
        Listen=int(row.get("udp_listen") or 0),
        Dropped=int(row.get("udp_dropped") or 0),
        RxQueued=int(row.get("udp_receive_queue_bytes") or 0),
        TxQueued=int(row.get("udp_transmit_queue_bytes") or 0),
    )


def _advanced(r: Reading) -> Any:
    return s.TcpAdvanced(*[r.value(name) for name in _ADVANCED])


def _filesystems(r: Reading, host: Host) -> list[s.FsStats]:
    """Of the host its filesystems with their disks' counters; of a container its writable layer and logs."""
    if "filesystem" in r.tables:
        disks = r.table("host_disk")
        return [
            _fs(device, row, host, disks.get(device.rpartition("/")[2]))
            for device, row in sorted(r.table("filesystem").items())
        ]
    found = []
    for device, row in sorted(r.table("disk_usage").items()):
        found.append(
            s.FsStats(
                device=device,
                type=host.types.get(device, "vfs"),
                capacity=int(row.get("disk_usage_limit_bytes") or 0),
                usage=int(row.get("disk_usage_bytes") or 0),
                base_usage=int(row.get("disk_usage_layer_bytes") or 0),
                available=0,
                has_inodes=False,
                inodes=int(row.get("disk_usage_inodes") or 0),
                inodes_free=0,
                **_NO_DISK,
            )
        )
    return found


def _fs(device: str, row: Row, host: Host, disk: Row | None) -> s.FsStats:
    inodes = row.get("filesystem_inodes")
    counters = _NO_DISK if disk is None else _disk(disk)
    return s.FsStats(
        device=device,
        type=host.types.get(device, "vfs"),
        capacity=int(row.get("filesystem_limit_bytes") or 0),
        usage=int(row.get("filesystem_usage_bytes") or 0),
        base_usage=0,
        available=int(row.get("filesystem_available_bytes") or 0),
        has_inodes=inodes is not None,
        inodes=int(inodes or 0),
        inodes_free=int(row.get("filesystem_inodes_free") or 0),
        **counters,
    )


def _disk(row: Row) -> dict[str, int]:
    def of(name: str, scale: int = 1) -> int:
        return int(row.get(f"host_disk_{name}") or 0) // scale

    return {
        "reads_completed": of("reads"),
        "reads_merged": of("reads_merged"),
        "sectors_read": of("read_bytes", _SECTOR),
        "read_time": of("read_ns", _NS_PER_MS),
        "writes_completed": of("writes"),
        "writes_merged": of("writes_merged"),
        "sectors_written": of("written_bytes", _SECTOR),
        "write_time": of("write_ns", _NS_PER_MS),
        "io_in_progress": of("io_now"),
        "io_time": of("io_ns", _NS_PER_MS),
        "weighted_io_time": of("weighted_io_ns", _NS_PER_MS),
    }


def _one_filesystem(fs: s.FsStats) -> s.FilesystemStatsV2:
    return s.FilesystemStatsV2(totalUsageBytes=fs.usage, baseUsageBytes=fs.base_usage, containter_inode_usage=fs.inodes)


def _of_machine(fs: s.FsStats) -> s.MachineFsStats:
    return s.MachineFsStats(
        device=fs.device,
        type=fs.type,
        capacity=fs.capacity,
        usage=fs.usage,
        available=fs.available,
        inodes_free=fs.inodes_free if fs.has_inodes else UNSET,
        inline=s.MachineFsIo(
            reads_completed=fs.reads_completed,
            reads_merged=fs.reads_merged,
            sectors_read=fs.sectors_read,
            read_duration=fs.read_time * _NS_PER_MS,
            writes_completed=fs.writes_completed,
            writes_merged=fs.writes_merged,
            sectors_written=fs.sectors_written,
            write_duration=fs.write_time * _NS_PER_MS,
            io_in_progress=fs.io_in_progress,
            io_duration=fs.io_time * _NS_PER_MS,
            weighted_io_duration=fs.weighted_io_time * _NS_PER_MS,
        ),
    )


def _processes(r: Reading) -> s.ProcessStats:
    limit = r.value("pids_limit")
    ulimits = []
    soft, hard = r.values.get("open_files_soft_limit"), r.values.get("open_files_hard_limit")
    if soft is not None and hard is not None:
        ulimits.append(s.Ulimit(name="max_open_files", soft_limit=_ulimit(soft), hard_limit=_ulimit(hard)))
    return s.ProcessStats(
        process_count=r.value("process_count"),
        fd_count=r.value("open_files"),
        socket_count=r.value("open_sockets"),
        threads_current=r.value("pids_current"),
        threads_max=0 if limit == UNLIMITED else limit,
        ulimits=ulimits,
    )


def _ulimit(value: float) -> int:
    return -1 if value == UNLIMITED else int(value)


def _custom(r: Reading) -> dict[str, list[s.MetricVal]]:
    found: dict[str, list[s.MetricVal]] = {}
    for text, row in sorted(r.table("app").items()):
        name, labels = split_series(text)
        value = next((v for v in row.values() if v is not None), None)
        if value is None:
            continue
        number = {"int_value": value} if isinstance(value, int) else {"float_value": value}
        found.setdefault(name, []).append(
            s.MetricVal(label=text[len(name) :].strip("{}"), labels=labels, timestamp=go_time(r.ts_ms), **number)
        )
    return found


def _perf(r: Reading) -> list[s.PerfStat]:
    """One entry an event, summed over the CPUs, so its `cpu` is -1: no CPU's own."""
    return [
        s.PerfStat(
            scaling_ratio=float(row.get("perf_scaling_ratio") or 0), value=int(row.get("perf_count") or 0), name=name, cpu=-1
        )
        for name, row in sorted(r.table("perf").items())
    ]


def _resctrl(r: Reading) -> s.ResctrlStats:
    rows = [row for _, row in _numbered(r.table("resctrl"))]
    return s.ResctrlStats(
        memory_bandwidth=[
            s.MemoryBandwidth(
                mbm_total_bytes=int(row.get("memory_bandwidth_bytes") or 0),
                mbm_local_bytes=int(row.get("memory_bandwidth_local_bytes") or 0),
            )
            for row in rows
        ],
        cache=[s.CacheOccupancy(llc_occupancy=int(row.get("llc_occupancy_bytes") or 0)) for row in rows],
    )
