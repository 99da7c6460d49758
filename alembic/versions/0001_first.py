"""The first schema: containers, samples, instance tables, custom metrics, events, gaps.

Written out, not derived from the catalogue, so that it makes the same tables for ever.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def integers(*names: str, nullable: bool = True) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=nullable, autoincrement=False) for name in names]


def reals(*names: str, nullable: bool = True) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double, nullable=nullable) for name in names]


def texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def create_sample_table(name: str, *columns: sa.Column[Any], key: tuple[str, ...] = ()) -> None:
    """A table with the key (ts_ms, container, *key).

    SQLite keeps rows in the order of the key, which is then that of their coming. PostgreSQL keeps them as they come, in
    partitions by day, or in chunks where TimescaleDB is there, and the key is an index for reading one container.
    """
    bind = op.get_bind()
    is_postgresql = bind.dialect.name == "postgresql"
    is_timescale = (
        is_postgresql and bind.scalar(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'")) is not None
    )
    first = ("container", "ts_ms") if is_postgresql else ("ts_ms", "container")
    op.create_table(
        name,
        *columns,
        sa.PrimaryKeyConstraint(*first, *key, name=f"pk_{name}"),
        sqlite_with_rowid=False,
        postgresql_partition_by=None if is_timescale else "RANGE (ts_ms)",
    )
    if is_timescale:
        op.execute(
            f"SELECT create_hypertable('{name}', 'ts_ms', chunk_time_interval => 86400000, create_default_indexes => false)"
        )


def upgrade() -> None:
    op.create_table(
        "container",
        sa.Column("id", ID, nullable=False),
        *texts("source", "instance"),
        *integers("epoch", nullable=False),
        *texts("agent"),
        *integers("number", nullable=False),
        *texts("host", "path", "boot_id"),
        *integers("created_ms", nullable=False),
        *integers("ended_ms"),
        sa.PrimaryKeyConstraint("id", name="pk_container"),
        sa.UniqueConstraint("source", "instance", "epoch", name="uq_container"),
    )
    op.create_index("ix_container_number", "container", ["agent", "number"])
    op.create_index("ix_container_path", "container", ["source", "path"])
    op.create_table(
        "container_span",
        sa.Column("container", ID, nullable=False, autoincrement=False),
        *integers("first_ms", "last_ms", nullable=False),
        sa.PrimaryKeyConstraint("container", name="pk_container_span"),
    )
    op.create_table(
        "container_metadata",
        *integers("container", "valid_from_ms", nullable=False),
        *texts("name", "namespace", "image", nullable=True),
        *texts("aliases", "labels"),
        *integers("started_ms"),
        *reals("base_interval_s", "max_interval_s", nullable=False),
        *texts("runtime", "container_id", nullable=True),
        *integers("runtime_created_ms", "restart_count"),
        *texts("health", "network", "pod", "pod_namespace", "pod_uid", nullable=True),
        *texts("environment"),
        *integers("cpu_shares", "cpu_weight", "cpu_quota_us", "cpu_period_us"),
        *texts("cpus", "memory_nodes", nullable=True),
        *integers(
            "memory_limit_bytes",
            "memory_effective_limit_bytes",
            "memory_swap_limit_bytes",
            "memory_reservation_bytes",
            "memory_min_bytes",
            "memory_high_bytes",
            "pids_limit",
        ),
        *texts("machine", nullable=True),
        sa.PrimaryKeyConstraint("container", "valid_from_ms", name="pk_container_metadata"),
    )
    create_sample_table(
        "sample",
        *integers("ts_ms", "container", nullable=False),
        sa.Column("is_closing", sa.Boolean, nullable=False),
        *integers(
            "cpu_usage_ns",
            "cpu_user_ns",
            "cpu_system_ns",
            "cpu_periods",
            "cpu_throttled_periods",
            "cpu_throttled_ns",
            "cpu_burst_periods",
            "cpu_burst_ns",
            "cpu_load_milli",
            "cpu_load_d_milli",
            "memory_usage_bytes",
            "memory_max_usage_bytes",
            "memory_working_set_bytes",
            "memory_rss_bytes",
            "memory_cache_bytes",
            "memory_mapped_file_bytes",
            "memory_swap_bytes",
            "memory_active_file_bytes",
            "memory_inactive_file_bytes",
            "memory_page_faults",
            "memory_major_page_faults",
            "memory_limit_bytes",
            "memory_kernel_bytes",
            "memory_dirty_bytes",
            "memory_writeback_bytes",
            "memory_reclaim_scanned_pages",
            "memory_reclaimed_pages",
            "memory_refaulted_file_pages",
            "memory_refaulted_anon_pages",
            "memory_high_events",
            "memory_failures",
            "memory_oom_kills",
            "pids_current",
            "pids_limit",
            "cpu_pressure_some_ns",
            "cpu_pressure_full_ns",
            "memory_pressure_some_ns",
            "memory_pressure_full_ns",
            "io_pressure_some_ns",
            "io_pressure_full_ns",
        ),
    )
    create_sample_table(
        "sample_host",
        *integers("ts_ms", "container", nullable=False),
        *reals("load1", "load5", "load15", "uptime_seconds"),
        *integers(
            "host_memory_total_bytes",
            "host_memory_free_bytes",
            "host_memory_available_bytes",
            "host_memory_buffers_bytes",
            "host_memory_cached_bytes",
            "host_memory_dirty_bytes",
            "host_memory_shmem_bytes",
            "host_memory_slab_bytes",
            "host_swap_total_bytes",
            "host_swap_free_bytes",
            "host_swap_in_bytes",
            "host_swap_out_bytes",
            "host_context_switches",
            "host_interrupts",
            "host_forks",
            "host_processes_running",
            "host_processes_blocked",
        ),
    )
    create_sample_table(
        "sample_ext",
        *integers("ts_ms", "container", nullable=False),
        *integers(
            "tasks_sleeping",
            "tasks_running",
            "tasks_stopped",
            "tasks_uninterruptible",
            "tasks_io_waiting",
            "cpu_schedstat_run_ns",
            "cpu_schedstat_wait_ns",
            "cpu_schedstat_slices",
            "process_count",
            "open_files",
            "open_sockets",
            "open_files_soft_limit",
            "open_files_hard_limit",
            "memory_referenced_bytes",
            "cpuset_cpus",
            "cpuset_memory_nodes",
            "cpuset_memory_migrate",
        ),
    )
    create_sample_table(
        "sample_tcp",
        *integers("ts_ms", "container", nullable=False),
        *integers(
            "tcp_rtoalgorithm",
            "tcp_rtomin",
            "tcp_rtomax",
            "tcp_maxconn",
            "tcp_activeopens",
            "tcp_passiveopens",
            "tcp_attemptfails",
            "tcp_estabresets",
            "tcp_currestab",
            "tcp_insegs",
            "tcp_outsegs",
            "tcp_retranssegs",
            "tcp_inerrs",
            "tcp_outrsts",
            "tcp_incsumerrors",
            "tcp_embryonicrsts",
            "tcp_syncookiessent",
            "tcp_syncookiesrecv",
            "tcp_syncookiesfailed",
            "tcp_prunecalled",
            "tcp_rcvpruned",
            "tcp_ofopruned",
            "tcp_outofwindowicmps",
            "tcp_lockdroppedicmps",
            "tcp_tw",
            "tcp_twrecycled",
            "tcp_twkilled",
            "tcp_timewaitoverflow",
            "tcp_timeouts",
            "tcp_spuriousrtos",
            "tcp_lossprobes",
            "tcp_lossproberecovery",
            "tcp_renorecoveryfail",
            "tcp_sackrecoveryfail",
            "tcp_renofailures",
            "tcp_sackfailures",
            "tcp_lossfailures",
            "tcp_delayedacks",
            "tcp_delayedacklocked",
            "tcp_delayedacklost",
            "tcp_listenoverflows",
            "tcp_listendrops",
            "tcp_hphits",
            "tcp_pureacks",
            "tcp_hpacks",
            "tcp_renorecovery",
            "tcp_sackrecovery",
            "tcp_sackreneging",
            "tcp_sackreorder",
            "tcp_renoreorder",
            "tcp_tsreorder",
            "tcp_fullundo",
            "tcp_partialundo",
            "tcp_dsackundo",
            "tcp_lossundo",
            "tcp_fastretrans",
            "tcp_slowstartretrans",
            "tcp_lostretransmit",
            "tcp_retransfail",
            "tcp_rcvcollapsed",
            "tcp_dsackoldsent",
            "tcp_dsackofosent",
            "tcp_dsackrecv",
            "tcp_dsackoforecv",
            "tcp_abortondata",
            "tcp_abortonclose",
            "tcp_abortonmemory",
            "tcp_abortontimeout",
            "tcp_abortonlinger",
            "tcp_abortfailed",
            "tcp_memorypressures",
            "tcp_memorypressureschrono",
            "tcp_sackdiscard",
            "tcp_dsackignoredold",
            "tcp_dsackignorednoundo",
            "tcp_md5notfound",
            "tcp_md5unexpected",
            "tcp_md5failure",
            "tcp_sackshifted",
            "tcp_sackmerged",
            "tcp_sackshiftfallback",
            "tcp_backlogdrop",
            "tcp_pfmemallocdrop",
            "tcp_minttldrop",
            "tcp_deferacceptdrop",
            "tcp_ipreversepathfilter",
            "tcp_reqqfulldocookies",
            "tcp_reqqfulldrop",
            "tcp_fastopenactive",
            "tcp_fastopenactivefail",
            "tcp_fastopenpassive",
            "tcp_fastopenpassivefail",
            "tcp_fastopenlistenoverflow",
            "tcp_fastopencookiereqd",
            "tcp_synretrans",
            "tcp_origdatasent",
            "tcp_pawsactive",
            "tcp_pawsestab",
            "tcp_fackreorder",
        ),
    )
    create_sample_table(
        "percpu",
        *integers("ts_ms", "container", nullable=False),
        *texts("cpu"),
        *integers("percpu_usage_ns"),
        key=("cpu",),
    )
    create_sample_table(
        "sample_network",
        *integers("ts_ms", "container", nullable=False),
        *texts("interface"),
        *integers(
            "network_receive_bytes",
            "network_receive_packets",
            "network_receive_errors",
            "network_receive_dropped",
            "network_transmit_bytes",
            "network_transmit_packets",
            "network_transmit_errors",
            "network_transmit_dropped",
        ),
        key=("interface",),
    )
    create_sample_table(
        "disk_io",
        *integers("ts_ms", "container", nullable=False),
        *texts("device"),
        *integers(
            "disk_read_bytes",
            "disk_write_bytes",
            "disk_discard_bytes",
            "disk_sync_bytes",
            "disk_async_bytes",
            "disk_read_ops",
            "disk_write_ops",
            "disk_discard_ops",
            "disk_sync_ops",
            "disk_async_ops",
        ),
        key=("device",),
    )
    create_sample_table(
        "host_cpu",
        *integers("ts_ms", "container", nullable=False),
        *texts("cpu"),
        *integers(
            "host_cpu_user_ns",
            "host_cpu_nice_ns",
            "host_cpu_system_ns",
            "host_cpu_idle_ns",
            "host_cpu_iowait_ns",
            "host_cpu_irq_ns",
            "host_cpu_softirq_ns",
            "host_cpu_steal_ns",
            "host_cpu_guest_ns",
            "host_cpu_guest_nice_ns",
        ),
        key=("cpu",),
    )
    create_sample_table(
        "host_disk",
        *integers("ts_ms", "container", nullable=False),
        *texts("device"),
        *integers(
            "host_disk_reads",
            "host_disk_reads_merged",
            "host_disk_read_bytes",
            "host_disk_read_ns",
            "host_disk_writes",
            "host_disk_writes_merged",
            "host_disk_written_bytes",
            "host_disk_write_ns",
            "host_disk_io_now",
            "host_disk_io_ns",
            "host_disk_weighted_io_ns",
            "host_disk_discards",
            "host_disk_discarded_bytes",
        ),
        key=("device",),
    )
    create_sample_table(
        "sample_filesystem",
        *integers("ts_ms", "container", nullable=False),
        *texts("device"),
        *integers(
            "filesystem_limit_bytes",
            "filesystem_usage_bytes",
            "filesystem_available_bytes",
            "filesystem_inodes",
            "filesystem_inodes_free",
        ),
        key=("device",),
    )
    create_sample_table(
        "tcp",
        *integers("ts_ms", "container", nullable=False),
        *texts("protocol"),
        *integers(
            "tcp_established",
            "tcp_syn_sent",
            "tcp_syn_recv",
            "tcp_fin_wait1",
            "tcp_fin_wait2",
            "tcp_time_wait",
            "tcp_close",
            "tcp_close_wait",
            "tcp_last_ack",
            "tcp_listen",
            "tcp_closing",
        ),
        key=("protocol",),
    )
    create_sample_table(
        "udp",
        *integers("ts_ms", "container", nullable=False),
        *texts("protocol"),
        *integers("udp_listen", "udp_dropped", "udp_receive_queue_bytes", "udp_transmit_queue_bytes"),
        key=("protocol",),
    )
    create_sample_table(
        "disk_io_ext",
        *integers("ts_ms", "container", nullable=False),
        *texts("device"),
        *integers(
            "disk_read_service_ns",
            "disk_write_service_ns",
            "disk_read_wait_ns",
            "disk_write_wait_ns",
            "disk_reads_merged",
            "disk_writes_merged",
            "disk_queued",
            "disk_sectors",
            "disk_busy_ns",
            "disk_cost_usage_ns",
            "disk_cost_wait_ns",
            "disk_cost_indebt_ns",
            "disk_cost_indelay_ns",
        ),
        key=("device",),
    )
    create_sample_table(
        "disk_usage",
        *integers("ts_ms", "container", nullable=False),
        *texts("device"),
        *integers("disk_usage_bytes", "disk_usage_layer_bytes", "disk_usage_inodes", "disk_usage_limit_bytes"),
        key=("device",),
    )
    create_sample_table(
        "hugetlb",
        *integers("ts_ms", "container", nullable=False),
        *texts("page_size"),
        *integers(
            "hugetlb_usage_bytes",
            "hugetlb_max_usage_bytes",
            "hugetlb_reserved_bytes",
            "hugetlb_limit_bytes",
            "hugetlb_failures",
        ),
        key=("page_size",),
    )
    create_sample_table(
        "numa",
        *integers("ts_ms", "container", nullable=False),
        *texts("node"),
        *integers(
            "numa_file_bytes",
            "numa_anon_bytes",
            "numa_unevictable_bytes",
            "numa_own_file_bytes",
            "numa_own_anon_bytes",
            "numa_own_unevictable_bytes",
        ),
        key=("node",),
    )
    create_sample_table(
        "perf",
        *integers("ts_ms", "container", nullable=False),
        *texts("event"),
        *integers("perf_count"),
        *reals("perf_scaling_ratio"),
        key=("event",),
    )
    create_sample_table(
        "resctrl",
        *integers("ts_ms", "container", nullable=False),
        *texts("node"),
        *integers("memory_bandwidth_bytes", "memory_bandwidth_local_bytes", "llc_occupancy_bytes"),
        key=("node",),
    )
    create_sample_table(
        "app",
        *integers("ts_ms", "container", nullable=False),
        *texts("series"),
        *reals("app_counter", "app_gauge", "app_histogram", "app_summary", "app_quantile"),
        *integers("app_integer_counter", "app_integer_gauge"),
        key=("series",),
    )
    create_sample_table(
        "custom",
        *integers("ts_ms", "container", nullable=False),
        *texts("metric", "instance"),
        sa.Column("value", sa.Numeric(asdecimal=False), nullable=False),
        key=("metric", "instance"),
    )
    op.create_table(
        "metric",
        *texts("name", "kind", "unit", "stored_in", "help"),
        sa.PrimaryKeyConstraint("name", name="pk_metric"),
    )
    op.create_table(
        "event",
        *texts("source"),
        *integers("row", "ts_ms", nullable=False),
        *texts("kind"),
        *integers("container"),
        *texts("details"),
        sa.PrimaryKeyConstraint("source", "row", name="pk_event"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_event_ts_ms", "event", ["ts_ms"])
    op.create_index("ix_event_kind", "event", ["kind", "ts_ms"])
    op.create_table(
        "gap",
        *texts("source"),
        *integers("row", "from_ms", "to_ms", nullable=False),
        *texts("reason"),
        *integers("container", "rows_lost"),
        sa.PrimaryKeyConstraint("source", "row", name="pk_gap"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_gap_to_ms", "gap", ["source", "to_ms"])
    op.create_table(
        "writer",
        *integers("min_version", "max_version", nullable=False),
    )
    op.execute("INSERT INTO writer (min_version, max_version) VALUES (1, 1)")
