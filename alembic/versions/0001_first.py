"""The first schema: containers, samples, instance tables, custom metrics, events, gaps.

Written out, not derived from the catalogue, so that it makes the same tables for ever.
"""

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


def upgrade() -> None:
    op.create_table(
        "container",
        sa.Column("id", ID, nullable=False),
        *texts("source", "instance"),
        *integers("epoch", "number", nullable=False),
        *texts("host", "path", "boot_id"),
        *integers("created_ms", nullable=False),
        *integers("ended_ms"),
        sa.PrimaryKeyConstraint("id", name="pk_container"),
        sa.UniqueConstraint("source", "instance", "epoch", name="uq_container"),
    )
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
        sa.PrimaryKeyConstraint("container", "valid_from_ms", name="pk_container_metadata"),
    )
    op.create_table(
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
            "cpu_load_milli",
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
        sa.PrimaryKeyConstraint("ts_ms", "container", name="pk_sample"),
        sqlite_with_rowid=False,
    )
    op.create_table(
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
        sa.PrimaryKeyConstraint("ts_ms", "container", name="pk_sample_host"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sample_ext",
        *integers("ts_ms", "container", nullable=False),
        *integers("tasks_sleeping", "tasks_running", "tasks_stopped", "tasks_uninterruptible", "tasks_io_waiting"),
        sa.PrimaryKeyConstraint("ts_ms", "container", name="pk_sample_ext"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "percpu",
        *integers("ts_ms", "container", nullable=False),
        *texts("cpu"),
        *integers("percpu_usage_ns"),
        sa.PrimaryKeyConstraint("ts_ms", "container", "cpu", name="pk_percpu"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "network",
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
        sa.PrimaryKeyConstraint("ts_ms", "container", "interface", name="pk_network"),
        sqlite_with_rowid=False,
    )
    op.create_table(
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
        sa.PrimaryKeyConstraint("ts_ms", "container", "device", name="pk_disk_io"),
        sqlite_with_rowid=False,
    )
    op.create_table(
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
        sa.PrimaryKeyConstraint("ts_ms", "container", "cpu", name="pk_host_cpu"),
        sqlite_with_rowid=False,
    )
    op.create_table(
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
        sa.PrimaryKeyConstraint("ts_ms", "container", "device", name="pk_host_disk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "filesystem",
        *integers("ts_ms", "container", nullable=False),
        *texts("device"),
        *integers(
            "filesystem_limit_bytes",
            "filesystem_usage_bytes",
            "filesystem_available_bytes",
            "filesystem_inodes",
            "filesystem_inodes_free",
        ),
        sa.PrimaryKeyConstraint("ts_ms", "container", "device", name="pk_filesystem"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "custom",
        *integers("ts_ms", "container", nullable=False),
        *texts("metric", "instance"),
        sa.Column("value", sa.Numeric(asdecimal=False), nullable=False),
        sa.PrimaryKeyConstraint("ts_ms", "container", "metric", "instance", name="pk_custom"),
        sqlite_with_rowid=False,
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
    op.create_table(
        "gap",
        *texts("source"),
        *integers("row", "from_ms", "to_ms", nullable=False),
        *texts("reason"),
        *integers("container", "rows_lost"),
        sa.PrimaryKeyConstraint("source", "row", name="pk_gap"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "writer",
        *integers("min_version", "max_version", nullable=False),
    )
    op.execute("INSERT INTO writer (min_version, max_version) VALUES (1, 1)")
