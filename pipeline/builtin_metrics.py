"""Every built-in metric: name, kind, unit, table, group, one line of help, kernel sources, kernel it needs.

Only `catalogue` imports this. Units of stored values: ns for durations, bytes, count, seconds (floats), ratio. A limit that
the kernel states as none is `records.UNLIMITED`.
"""

from tidegauge.pipeline.records import Kind, Metric

C, G = Kind.COUNTER, Kind.GAUGE


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _metric(
    table: str,
    group: str,
    name: str,
    kind: Kind,
    unit: str,
    help: str,
    v1: str,
    v2: str,
    held: bool = False,
    kernel: str = "",
) -> Metric:
    return Metric(name, kind, unit, table, help, held, v1, v2, group, kernel)


def _sample(
    group: str,
    name: str,
    kind: Kind,
    unit: str,
    help: str,
    v1: str,
    v2: str,
    held: bool = False,
    kernel: str = "",
) -> Metric:
    return _metric("sample", group, name, kind, unit, help, v1, v2, held, kernel)


def _pressure(resource: str, share: str) -> Metric:
    who = "some task was" if share == "some" else "all tasks were"
    return _sample(
        "pressure",
        f"{resource}_pressure_{share}_ns",
        C,
        "ns",
        f"Time in which {who} stalled for want of {resource}.",
        "",
        f"{resource}.pressure: {share} total (host: /proc/pressure/{resource})",
        kernel="4.20; full of CPU 5.13" if resource == "cpu" else "4.20",
    )


_SAMPLE = (
    _sample("cpu", "cpu_usage_ns", C, "ns", "CPU time used.", "cpuacct.usage", "cpu.stat: usage_usec", held=True),
    _sample(
        "cpu", "cpu_user_ns", C, "ns", "CPU time used in user mode.", "cpuacct.stat: user", "cpu.stat: user_usec", held=True
    ),
    _sample(
        "cpu",
        "cpu_system_ns",
        C,
        "ns",
        "CPU time used in the kernel.",
        "cpuacct.stat: system",
        "cpu.stat: system_usec",
        held=True,
    ),
    _sample(
        "cpu",
        "cpu_periods",
        C,
        "count",
        "Enforcement periods of the CPU quota that passed.",
        "cpu.stat: nr_periods",
        "cpu.stat: nr_periods",
    ),
    _sample(
        "cpu",
        "cpu_throttled_periods",
        C,
        "count",
        "Periods in which the CPU quota was used up.",
        "cpu.stat: nr_throttled",
        "cpu.stat: nr_throttled",
    ),
    _sample(
        "cpu",
        "cpu_throttled_ns",
        C,
        "ns",
        "Time for which tasks were held back by the CPU quota.",
        "cpu.stat: throttled_time",
        "cpu.stat: throttled_usec",
    ),
    _sample(
        "cpu",
        "cpu_burst_periods",
        C,
        "count",
        "Periods in which CPU time saved up beyond the quota was used.",
        "cpu.stat: nr_bursts",
        "cpu.stat: nr_bursts",
        kernel="5.14",
    ),
    _sample(
        "cpu",
        "cpu_burst_ns",
        C,
        "ns",
        "CPU time used beyond the quota.",
        "cpu.stat: burst_time",
        "cpu.stat: burst_usec",
        kernel="5.14",
    ),
    _sample(
        "cpuLoad",
        "cpu_load_milli",
        G,
        "count",
        "Running tasks, smoothed over 10 s, times 1000.",
        "netlink taskstats: cgroupstats",
        "/proc/PID/task/TID/stat: state",
    ),
    _sample(
        "cpuLoad",
        "cpu_load_d_milli",
        G,
        "count",
        "Tasks in uninterruptible sleep, smoothed over 10 s, times 1000.",
        "netlink taskstats: cgroupstats",
        "/proc/PID/task/TID/stat: state",
    ),
    _sample(
        "memory",
        "memory_usage_bytes",
        G,
        "bytes",
        "Memory charged, page cache included.",
        "memory.usage_in_bytes",
        "memory.current (root: memory.stat anon + file)",
    ),
    _sample(
        "memory",
        "memory_max_usage_bytes",
        G,
        "bytes",
        "Highest memory usage since creation or reset.",
        "memory.max_usage_in_bytes",
        "memory.peak",
        kernel="v2 5.19",
    ),
    _sample(
        "memory",
        "memory_working_set_bytes",
        G,
        "bytes",
        "Memory usage less inactive page cache.",
        "usage - memory.stat: total_inactive_file",
        "usage - memory.stat: inactive_file",
    ),
    _sample("memory", "memory_rss_bytes", G, "bytes", "Anonymous memory.", "memory.stat: total_rss", "memory.stat: anon"),
    _sample("memory", "memory_cache_bytes", G, "bytes", "Page cache.", "memory.stat: total_cache", "memory.stat: file"),
    _sample(
        "memory",
        "memory_mapped_file_bytes",
        G,
        "bytes",
        "Page cache that is mapped.",
        "memory.stat: total_mapped_file",
        "memory.stat: file_mapped",
    ),
    _sample("memory", "memory_swap_bytes", G, "bytes", "Swap used.", "memory.stat: total_swap", "memory.swap.current"),
    _sample(
        "memory",
        "memory_active_file_bytes",
        G,
        "bytes",
        "Page cache used lately.",
        "memory.stat: total_active_file",
        "memory.stat: active_file",
    ),
    _sample(
        "memory",
        "memory_inactive_file_bytes",
        G,
        "bytes",
        "Page cache that can be reclaimed first.",
        "memory.stat: total_inactive_file",
        "memory.stat: inactive_file",
    ),
    _sample("memory", "memory_page_faults", C, "count", "Page faults.", "memory.stat: total_pgfault", "memory.stat: pgfault"),
    _sample(
        "memory",
        "memory_major_page_faults",
        C,
        "count",
        "Page faults that had to read from a disk.",
        "memory.stat: total_pgmajfault",
        "memory.stat: pgmajfault",
    ),
    _sample(
        "memory", "memory_limit_bytes", G, "bytes", "Memory limit of this cgroup alone.", "memory.limit_in_bytes", "memory.max"
    ),
    _sample(
        "memory",
        "memory_kernel_bytes",
        G,
        "bytes",
        "Memory that the kernel uses for the container.",
        "memory.kmem.usage_in_bytes",
        "memory.stat: kernel",
        kernel="v2 5.18",
    ),
    _sample(
        "memory",
        "memory_dirty_bytes",
        G,
        "bytes",
        "Page cache that waits to be written.",
        "memory.stat: total_dirty",
        "memory.stat: file_dirty",
    ),
    _sample(
        "memory",
        "memory_writeback_bytes",
        G,
        "bytes",
        "Page cache that is being written.",
        "memory.stat: total_writeback",
        "memory.stat: file_writeback",
    ),
    _sample(
        "memory",
        "memory_reclaim_scanned_pages",
        C,
        "count",
        "Pages looked at to reclaim memory.",
        "",
        "memory.stat: pgscan",
        kernel="v2 5.18",
    ),
    _sample(
        "memory",
        "memory_reclaimed_pages",
        C,
        "count",
        "Pages reclaimed.",
        "",
        "memory.stat: pgsteal",
        kernel="v2 5.18",
    ),
    _sample(
        "memory",
        "memory_refaulted_file_pages",
        C,
        "count",
        "Pages of page cache read again soon after they were reclaimed.",
        "memory.stat: total_workingset_refault_file",
        "memory.stat: workingset_refault_file",
        kernel="5.9",
    ),
    _sample(
        "memory",
        "memory_refaulted_anon_pages",
        C,
        "count",
        "Anonymous pages read again soon after they were reclaimed.",
        "memory.stat: total_workingset_refault_anon",
        "memory.stat: workingset_refault_anon",
        kernel="5.9",
    ),
    _sample(
        "memory",
        "memory_high_events",
        C,
        "count",
        "Times that tasks were throttled for memory beyond memory.high.",
        "",
        "memory.events: high",
    ),
    _sample("memory", "memory_failures", C, "count", "Times that usage hit the limit.", "memory.failcnt", "memory.events: max"),
    _sample(
        "oom_event",
        "memory_oom_kills",
        C,
        "count",
        "Processes killed by the OOM killer.",
        "memory.oom_control: oom_kill",
        "memory.events: oom_kill",
    ),
    _sample("pids", "pids_current", G, "count", "Tasks, those of child cgroups included.", "pids.current", "pids.current"),
    _sample("pids", "pids_limit", G, "count", "Limit of tasks.", "pids.max", "pids.max"),
    _pressure("cpu", "some"),
    _pressure("cpu", "full"),
    _pressure("memory", "some"),
    _pressure("memory", "full"),
    _pressure("io", "some"),
    _pressure("io", "full"),
)


def _host(name: str, kind: Kind, unit: str, help: str, source: str) -> Metric:
    return _metric("sample_host", "host", name, kind, unit, help, source, source)


_HOST = (
    _host("load1", G, "count", "Load average of the host over 1 minute.", "/proc/loadavg"),
    _host("load5", G, "count", "Load average of the host over 5 minutes.", "/proc/loadavg"),
    _host("load15", G, "count", "Load average of the host over 15 minutes.", "/proc/loadavg"),
    _host("uptime_seconds", G, "seconds", "Time since boot.", "/proc/uptime"),
    _host("host_memory_total_bytes", G, "bytes", "Memory of the host.", "/proc/meminfo: MemTotal"),
    _host("host_memory_free_bytes", G, "bytes", "Memory of the host that is not used at all.", "/proc/meminfo: MemFree"),
    _host(
        "host_memory_available_bytes",
        G,
        "bytes",
        "Memory of the host that new work can have without swapping.",
        "/proc/meminfo: MemAvailable",
    ),
    _host("host_memory_buffers_bytes", G, "bytes", "Buffers of block devices.", "/proc/meminfo: Buffers"),
    _host("host_memory_cached_bytes", G, "bytes", "Page cache of the host.", "/proc/meminfo: Cached"),
    _host("host_memory_dirty_bytes", G, "bytes", "Page cache that waits to be written.", "/proc/meminfo: Dirty"),
    _host("host_memory_shmem_bytes", G, "bytes", "Shared memory and tmpfs.", "/proc/meminfo: Shmem"),
    _host("host_memory_slab_bytes", G, "bytes", "Memory of kernel slabs.", "/proc/meminfo: Slab"),
    _host("host_swap_total_bytes", G, "bytes", "Swap of the host.", "/proc/meminfo: SwapTotal"),
    _host("host_swap_free_bytes", G, "bytes", "Swap of the host that is not used.", "/proc/meminfo: SwapFree"),
    _host("host_swap_in_bytes", C, "bytes", "Memory read back from swap.", "/proc/vmstat: pswpin"),
    _host("host_swap_out_bytes", C, "bytes", "Memory written to swap.", "/proc/vmstat: pswpout"),
    _host("host_context_switches", C, "count", "Context switches.", "/proc/stat: ctxt"),
    _host("host_interrupts", C, "count", "Interrupts served.", "/proc/stat: intr"),
    _host("host_forks", C, "count", "Processes and threads created.", "/proc/stat: processes"),
    _host("host_processes_running", G, "count", "Runnable tasks.", "/proc/stat: procs_running"),
    _host("host_processes_blocked", G, "count", "Tasks that wait for I/O.", "/proc/stat: procs_blocked"),
)

_EXT = tuple(
    _metric(
        "sample_ext",
        "cpuLoad",
        f"tasks_{state}",
        G,
        "count",
        f"Tasks that are {text}.",
        "netlink taskstats: cgroupstats",
        "/proc/PID/task/TID/stat: state",
    )
    for state, text in (
        ("sleeping", "asleep"),
        ("running", "running or runnable"),
        ("stopped", "stopped"),
        ("uninterruptible", "in uninterruptible sleep"),
        ("io_waiting", "waiting for I/O"),
    )
)

_SCHEDSTAT = tuple(
    _metric("sample_ext", "sched", f"cpu_schedstat_{name}", C, unit, help, source, source)
    for name, unit, help, source in (
        ("run_ns", "ns", "Time on a CPU, of the cgroup's own threads that live or were seen.", "/proc/TID/schedstat: field 1"),
        ("wait_ns", "ns", "Time ready to run and waiting for a CPU, of the same threads.", "/proc/TID/schedstat: field 2"),
        ("slices", "count", "Times put on a CPU, of the same threads.", "/proc/TID/schedstat: field 3"),
    )
)

_PROCESS = tuple(
    _metric("sample_ext", "process", name, G, "count", help, source, source)
    for name, help, source in (
        ("process_count", "Processes of the cgroup itself, without its children's.", "cgroup.procs"),
        ("open_files", "Open file descriptors of these processes.", "/proc/PID/fd"),
        ("open_sockets", "Those that are sockets.", "/proc/PID/fd: socket links"),
        ("open_files_soft_limit", "Soft limit of open files of the oldest process.", "/proc/PID/limits: Max open files"),
        ("open_files_hard_limit", "Hard limit of open files of the oldest process.", "/proc/PID/limits: Max open files"),
    )
)

_REFERENCED = (
    _metric(
        "sample_ext",
        "referenced_memory",
        "memory_referenced_bytes",
        G,
        "bytes",
        "Memory touched since the kernel's marks were last cleared, summed over processes.",
        "/proc/PID/smaps_rollup: Referenced",
        "/proc/PID/smaps_rollup: Referenced",
        kernel="4.14",
    ),
)

_CPUSET = (
    _metric(
        "sample_ext",
        "cpuset",
        "cpuset_cpus",
        G,
        "count",
        "CPUs that the container may use.",
        "cpuset.effective_cpus",
        "cpuset.cpus.effective",
    ),
    _metric(
        "sample_ext",
        "cpuset",
        "cpuset_memory_nodes",
        G,
        "count",
        "NUMA nodes whose memory the container may use.",
        "cpuset.effective_mems",
        "cpuset.mems.effective",
    ),
    _metric(
        "sample_ext",
        "cpuset",
        "cpuset_memory_migrate",
        G,
        "count",
        "1 if memory moves along when the memory nodes change.",
        "cpuset.memory_migrate",
        "",
    ),
)

_HUGETLB = tuple(
    _metric("hugetlb", "hugetlb", f"hugetlb_{name}", kind, unit, help, f"hugetlb.SIZE.{v1}", f"hugetlb.SIZE.{v2}" if v2 else "")
    for name, kind, unit, help, v1, v2 in (
        ("usage_bytes", G, "bytes", "Huge pages used.", "usage_in_bytes", "current"),
        ("max_usage_bytes", G, "bytes", "Most that was ever used.", "max_usage_in_bytes", ""),
        ("reserved_bytes", G, "bytes", "Huge pages reserved.", "rsvd.usage_in_bytes", "rsvd.current"),
        ("limit_bytes", G, "bytes", "Limit of use.", "limit_in_bytes", "max"),
        ("failures", C, "count", "Times that use hit the limit.", "failcnt", "events: max"),
    )
)

_NUMA = tuple(
    _metric(
        "numa",
        "memory_numa",
        f"numa_{own}{what}_bytes",
        G,
        "bytes",
        f"{noun} on the node{', without that of child cgroups' if own else ''}.",
        f"memory.numa_stat: {'' if own else 'hierarchical_'}{what}",
        "" if own else f"memory.numa_stat: {what}",
        kernel="v2 5.10",
    )
    for own in ("", "own_")
    for what, noun in (("file", "Page cache"), ("anon", "Anonymous memory"), ("unevictable", "Memory that cannot be reclaimed"))
)

_DISK_IO_EXT = tuple(
    _metric("disk_io_ext", "diskIO", f"disk_{name}", kind, unit, help, v1, v2)
    for name, kind, unit, help, v1, v2 in (
        ("read_service_ns", C, "ns", "Time from dispatch to completion of reads.", "blkio io_service_time: Read", ""),
        ("write_service_ns", C, "ns", "Time from dispatch to completion of writes.", "blkio io_service_time: Write", ""),
        ("read_wait_ns", C, "ns", "Time that reads waited in the scheduler.", "blkio io_wait_time: Read", ""),
        ("write_wait_ns", C, "ns", "Time that writes waited in the scheduler.", "blkio io_wait_time: Write", ""),
        ("reads_merged", C, "count", "Reads merged with a neighbour.", "blkio io_merged: Read", ""),
        ("writes_merged", C, "count", "Writes merged with a neighbour.", "blkio io_merged: Write", ""),
        ("queued", G, "count", "Requests in the scheduler.", "blkio io_queued: Total", ""),
        ("sectors", C, "count", "Sectors of 512 bytes moved.", "blkio sectors", ""),
        ("busy_ns", C, "ns", "Time for which the device served the container.", "blkio time", ""),
        ("cost_usage_ns", C, "ns", "Device time used, as the I/O cost model sees it.", "", "io.stat: cost.usage"),
        ("cost_wait_ns", C, "ns", "Time spent waiting for device time.", "", "io.stat: cost.wait"),
        ("cost_indebt_ns", C, "ns", "Time spent in debt of device time.", "", "io.stat: cost.indebt"),
        ("cost_indelay_ns", C, "ns", "Time for which tasks were held back to pay that debt.", "", "io.stat: cost.indelay"),
    )
)

_DISK_USAGE = tuple(
    _metric("disk_usage", "disk", f"disk_usage_{name}", G, unit, help, source, source)
    for name, unit, help, source in (
        ("bytes", "bytes", "Space of the writable layer and the logs.", "walk or project quota"),
        ("layer_bytes", "bytes", "Space of the writable layer.", "walk or project quota"),
        ("inodes", "count", "Inodes of the writable layer.", "walk or project quota"),
        ("limit_bytes", "bytes", "Size of the filesystem that they lie on, or the quota.", "statvfs: f_blocks"),
    )
)

TCP_STATES = (
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
)
"""In the order of the numbers that /proc/net/tcp gives them, 01 to 0B; 0C (a request not yet accepted) counts as syn_recv."""

_TCP = tuple(
    _metric("tcp", "tcp", f"tcp_{state}", G, "count", f"Sockets in {state.upper()}.", "/proc/PID/net/tcp", "/proc/PID/net/tcp")
    for state in TCP_STATES
)

_UDP = tuple(
    _metric("udp", "udp", f"udp_{name}", kind, unit, help, "/proc/PID/net/udp", "/proc/PID/net/udp")
    for name, kind, unit, help in (
        ("listen", G, "count", "Sockets."),
        ("dropped", G, "count", "Datagrams that the sockets there are have dropped."),
        ("receive_queue_bytes", G, "bytes", "Received and not yet read."),
        ("transmit_queue_bytes", G, "bytes", "Given to the kernel and not yet sent."),
    )
)

TCP_FIELDS: tuple[str, ...] = _words(
    """RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs
    InErrs OutRsts InCsumErrors"""
)
"""Fields of the group Tcp of /proc/net/snmp."""

TCP_EXT_FIELDS: tuple[str, ...] = _words(
    """EmbryonicRsts SyncookiesSent SyncookiesRecv SyncookiesFailed PruneCalled RcvPruned OfoPruned OutOfWindowIcmps
    LockDroppedIcmps TW TWRecycled TWKilled TCPTimeWaitOverflow TCPTimeouts TCPSpuriousRTOs TCPLossProbes TCPLossProbeRecovery
    TCPRenoRecoveryFail TCPSackRecoveryFail TCPRenoFailures TCPSackFailures TCPLossFailures DelayedACKs DelayedACKLocked
    DelayedACKLost ListenOverflows ListenDrops TCPHPHits TCPPureAcks TCPHPAcks TCPRenoRecovery TCPSackRecovery TCPSACKReneging
    TCPSACKReorder TCPRenoReorder TCPTSReorder TCPFullUndo TCPPartialUndo TCPDSACKUndo TCPLossUndo TCPFastRetrans
    TCPSlowStartRetrans TCPLostRetransmit TCPRetransFail TCPRcvCollapsed TCPDSACKOldSent TCPDSACKOfoSent TCPDSACKRecv
    TCPDSACKOfoRecv TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed
    TCPMemoryPressures TCPMemoryPressuresChrono TCPSACKDiscard TCPDSACKIgnoredOld TCPDSACKIgnoredNoUndo TCPMD5NotFound
    TCPMD5Unexpected TCPMD5Failure TCPSackShifted TCPSackMerged TCPSackShiftFallback TCPBacklogDrop PFMemallocDrop
    TCPMinTTLDrop TCPDeferAcceptDrop IPReversePathFilter TCPReqQFullDoCookies TCPReqQFullDrop TCPFastOpenActive
    TCPFastOpenActiveFail TCPFastOpenPassive TCPFastOpenPassiveFail TCPFastOpenListenOverflow TCPFastOpenCookieReqd
    TCPSynRetrans TCPOrigDataSent PAWSActive PAWSEstab TCPFACKReorder"""
)
"""Fields of the group TcpExt of /proc/net/netstat; which of them there are depends on the kernel."""

_TCP_GAUGES = ("RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn", "CurrEstab")


def tcp_metric(field: str) -> str:
    """Name of the metric of a field of Tcp or TcpExt."""
    return f"tcp_{field.lower().removeprefix('tcp')}"


_TCP_ADVANCED = tuple(
    _metric(
        "sample_tcp",
        "advtcp",
        tcp_metric(field),
        G if field in _TCP_GAUGES else C,
        "count",
        f"{field} of the network namespace, as the kernel's SNMP counters have it.",
        f"{file}: {field}",
        f"{file}: {field}",
    )
    for file, fields in (("/proc/PID/net/snmp Tcp", TCP_FIELDS), ("/proc/PID/net/netstat TcpExt", TCP_EXT_FIELDS))
    for field in fields
)

_PERF = tuple(
    _metric("perf", "perf_event", name, kind, unit, help, "perf_event_open(2)", "perf_event_open(2)")
    for name, kind, unit, help in (
        ("perf_count", C, "count", "Times that the event happened, scaled up if it was counted part of the time."),
        ("perf_scaling_ratio", G, "ratio", "Share of the time in which it was counted, the least of all CPUs."),
    )
)

_RESCTRL = tuple(
    _metric("resctrl", "resctrl", name, kind, "bytes", help, source, source)
    for name, kind, help, source in (
        ("memory_bandwidth_bytes", C, "Bytes moved to and from memory.", "resctrl: mbm_total_bytes"),
        ("memory_bandwidth_local_bytes", C, "Those of the node's own memory.", "resctrl: mbm_local_bytes"),
        ("llc_occupancy_bytes", G, "Last-level cache held.", "resctrl: llc_occupancy"),
    )
)

_NETWORK = tuple(
    _metric(
        "network",
        "network",
        f"network_{way}_{what}",
        C,
        "bytes" if what == "bytes" else "count",
        text,
        "/proc/PID/net/dev",
        "/proc/PID/net/dev",
    )
    for way, verb in (("receive", "received"), ("transmit", "sent"))
    for what, text in (
        ("bytes", f"Bytes {verb}."),
        ("packets", f"Packets {verb}."),
        ("errors", f"Errors while packets were {verb}."),
        ("dropped", f"Packets dropped while being {verb}."),
    )
)

_IO_STAT = {"disk_read_bytes": "rbytes", "disk_write_bytes": "wbytes", "disk_discard_bytes": "dbytes"} | {
    "disk_read_ops": "rios",
    "disk_write_ops": "wios",
    "disk_discard_ops": "dios",
}

_DISK_IO = tuple(
    _metric("disk_io", "diskIO", name, C, unit, f"{noun} {text}.", f"{v1}: {op.capitalize()}", f"io.stat: {key}" if key else "")
    for what, unit, noun, v1 in (
        ("bytes", "bytes", "Bytes", "blkio io_service_bytes"),
        ("ops", "count", "Requests", "blkio io_serviced"),
    )
    for op, text in (
        ("read", "read from a block device"),
        ("write", "written to a block device"),
        ("discard", "discarded on a block device"),
        ("sync", "moved synchronously"),
        ("async", "moved asynchronously"),
    )
    for name in (f"disk_{op}_{what}",)
    for key in (_IO_STAT.get(name),)
)

_PERCPU = (
    _metric("percpu", "percpu", "percpu_usage_ns", C, "ns", "CPU time used on one CPU.", "cpuacct.usage_percpu", "", held=True),
)

_HOST_CPU = tuple(
    _metric(
        "host_cpu",
        "host",
        f"host_cpu_{mode}_ns",
        C,
        "ns",
        f"CPU time of the host {text}.",
        f"/proc/stat: {mode}",
        f"/proc/stat: {mode}",
    )
    for mode, text in (
        ("user", "in user mode, guests and nice excluded"),
        ("nice", "in user mode at low priority, guests excluded"),
        ("system", "in the kernel"),
        ("idle", "spent idle"),
        ("iowait", "spent idle while I/O was under way"),
        ("irq", "serving interrupts"),
        ("softirq", "serving soft interrupts"),
        ("steal", "taken by the hypervisor"),
        ("guest", "running guests"),
        ("guest_nice", "running guests at low priority"),
    )
)

_HOST_DISK = tuple(
    _metric(
        "host_disk",
        "host",
        f"host_disk_{name}",
        kind,
        unit,
        help,
        f"/proc/diskstats: field {field}",
        f"/proc/diskstats: field {field}",
    )
    for name, kind, unit, help, field in (
        ("reads", C, "count", "Reads completed.", 4),
        ("reads_merged", C, "count", "Reads merged with a neighbour.", 5),
        ("read_bytes", C, "bytes", "Bytes read.", 6),
        ("read_ns", C, "ns", "Time spent reading, summed over requests.", 7),
        ("writes", C, "count", "Writes completed.", 8),
        ("writes_merged", C, "count", "Writes merged with a neighbour.", 9),
        ("written_bytes", C, "bytes", "Bytes written.", 10),
        ("write_ns", C, "ns", "Time spent writing, summed over requests.", 11),
        ("io_now", G, "count", "Requests under way.", 12),
        ("io_ns", C, "ns", "Time in which at least one request was under way.", 13),
        ("weighted_io_ns", C, "ns", "Time of requests under way, weighted by their number.", 14),
        ("discards", C, "count", "Discards completed.", 15),
        ("discarded_bytes", C, "bytes", "Bytes discarded.", 17),
    )
)

_FILESYSTEM = tuple(
    _metric("filesystem", "filesystem", f"filesystem_{name}", G, unit, help, f"statvfs: {field}", f"statvfs: {field}")
    for name, unit, help, field in (
        ("limit_bytes", "bytes", "Size of the filesystem.", "f_blocks"),
        ("usage_bytes", "bytes", "Space used.", "f_blocks - f_bfree"),
        ("available_bytes", "bytes", "Space that an ordinary user can have.", "f_bavail"),
        ("inodes", "count", "Inodes of the filesystem.", "f_files"),
        ("inodes_free", "count", "Inodes that are not used.", "f_ffree"),
    )
)

_APP = tuple(
    _metric("app", "app", f"app_{name}", kind, unit, help, "the container's endpoint", "the container's endpoint")
    for name, kind, unit, help in (
        ("counter", C, "number", "A counter that the application offers."),
        ("gauge", G, "number", "A gauge that the application offers, or a value of no stated type."),
        ("histogram", C, "number", "A bucket, the sum or the count of a histogram that the application offers."),
        ("summary", C, "number", "The sum or the count of a summary that the application offers."),
        ("quantile", G, "number", "A quantile of a summary that the application offers."),
        ("integer_counter", C, "count", "A counter that the application's configuration declares as a whole number."),
        ("integer_gauge", G, "count", "A gauge that the application's configuration declares as a whole number."),
    )
)

METRICS: tuple[Metric, ...] = (
    *_SAMPLE,
    *_HOST,
    *_EXT,
    *_SCHEDSTAT,
    *_PROCESS,
    *_REFERENCED,
    *_CPUSET,
    *_TCP_ADVANCED,
    *_NETWORK,
    *_TCP,
    *_UDP,
    *_DISK_IO,
    *_DISK_IO_EXT,
    *_DISK_USAGE,
    *_HUGETLB,
    *_NUMA,
    *_PERF,
    *_RESCTRL,
    *_PERCPU,
    *_HOST_CPU,
    *_HOST_DISK,
    *_FILESYSTEM,
    *_APP,
)
