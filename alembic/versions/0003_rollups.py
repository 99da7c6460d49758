"""Roll-ups of 5 minutes and of hours, and the marks on what is to be made.

Of a gauge the columns are avg, min, max and last, of a counter increase and last; with `*` it has a sketch too, with `~` its
values are floats.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WIDTH_MS = 300_000
COUNTER, GAUGE = "increase last", "avg min max last"

TABLES = {
    ("sample", None): """
        counter cpu_usage_ns *
        counter cpu_user_ns
        counter cpu_system_ns
        counter cpu_periods
        counter cpu_throttled_periods
        counter cpu_throttled_ns
        counter cpu_burst_periods
        counter cpu_burst_ns
        gauge cpu_load_milli
        gauge cpu_load_d_milli
        gauge memory_usage_bytes
        gauge memory_max_usage_bytes
        gauge memory_working_set_bytes *
        gauge memory_rss_bytes
        gauge memory_cache_bytes
        gauge memory_mapped_file_bytes
        gauge memory_swap_bytes
        gauge memory_active_file_bytes
        gauge memory_inactive_file_bytes
        counter memory_page_faults
        counter memory_major_page_faults
        gauge memory_limit_bytes
        gauge memory_kernel_bytes
        gauge memory_dirty_bytes
        gauge memory_writeback_bytes
        counter memory_reclaim_scanned_pages
        counter memory_reclaimed_pages
        counter memory_refaulted_file_pages
        counter memory_refaulted_anon_pages
        counter memory_high_events
        counter memory_failures
        counter memory_oom_kills
        gauge pids_current
        gauge pids_limit
        counter cpu_pressure_some_ns
        counter cpu_pressure_full_ns
        counter memory_pressure_some_ns
        counter memory_pressure_full_ns
        counter io_pressure_some_ns
        counter io_pressure_full_ns
    """,
    ("sample_host", None): """
        gauge load1 ~
        gauge load5 ~
        gauge load15 ~
        gauge uptime_seconds ~
        gauge host_memory_total_bytes
        gauge host_memory_free_bytes
        gauge host_memory_available_bytes
        gauge host_memory_buffers_bytes
        gauge host_memory_cached_bytes
        gauge host_memory_dirty_bytes
        gauge host_memory_shmem_bytes
        gauge host_memory_slab_bytes
        gauge host_swap_total_bytes
        gauge host_swap_free_bytes
        counter host_swap_in_bytes
        counter host_swap_out_bytes
        counter host_context_switches
        counter host_interrupts
        counter host_forks
        gauge host_processes_running
        gauge host_processes_blocked
    """,
    ("sample_network", "interface"): """
        counter network_receive_bytes *
        counter network_receive_packets
        counter network_receive_errors
        counter network_receive_dropped
        counter network_transmit_bytes *
        counter network_transmit_packets
        counter network_transmit_errors
        counter network_transmit_dropped
    """,
    ("disk_io", "device"): """
        counter disk_read_bytes
        counter disk_write_bytes
        counter disk_discard_bytes
        counter disk_sync_bytes
        counter disk_async_bytes
        counter disk_read_ops
        counter disk_write_ops
        counter disk_discard_ops
        counter disk_sync_ops
        counter disk_async_ops
    """,
    ("sample_filesystem", "device"): """
        gauge filesystem_limit_bytes
        gauge filesystem_usage_bytes
        gauge filesystem_available_bytes
        gauge filesystem_inodes
        gauge filesystem_inodes_free
    """,
}


def columns(line: str) -> list[sa.Column[object]]:
    kind, name, flags = (*line.split(), "")[:3]
    value = sa.Double if "~" in flags else sa.BigInteger
    parts = {part: sa.Double if part == "avg" else value for part in (COUNTER if kind == "counter" else GAUGE).split()}
    if "*" in flags:
        parts["sketch"] = sa.LargeBinary
    return [sa.Column(f"{name}_{part}", type_) for part, type_ in parts.items()]


def upgrade() -> None:
    for (raw, label), lines in TABLES.items():
        for suffix in ("5m", "1h"):
            table = f"{raw}_{suffix}"
            labels = [] if label is None else [label]
            op.create_table(
                table,
                sa.Column("container", sa.BigInteger, nullable=False, autoincrement=False),
                sa.Column("ts_ms", sa.BigInteger, nullable=False, autoincrement=False),
                *(sa.Column(name, sa.Text, nullable=False) for name in labels),
                sa.Column("count", sa.BigInteger, nullable=False),
                sa.Column("covered_ms", sa.BigInteger, nullable=False),
                sa.Column("partial", sa.Text),
                *(column for line in lines.strip().splitlines() for column in columns(line)),
                sa.PrimaryKeyConstraint("container", "ts_ms", *labels, name=f"pk_{table}"),
                sqlite_with_rowid=False,
            )
    op.create_table(
        "rollup_dirty",
        sa.Column("width_ms", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("ts_ms", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("container", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("marks", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("width_ms", "ts_ms", "container", name="pk_rollup_dirty"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_deleted",
        sa.Column("width_ms", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("before_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("width_ms", name="pk_rollup_deleted"),
        sqlite_with_rowid=False,
    )
    _mark_what_is_there()


def _mark_what_is_there() -> None:
    """Has roll-ups made of the samples that were stored before there were any; a bucket too many costs a look."""
    conn = op.get_bind()
    conn.exec_driver_sql(
        f"INSERT INTO rollup_dirty (width_ms, ts_ms, container, marks) "
        f"SELECT DISTINCT {WIDTH_MS}, ts_ms / {WIDTH_MS} * {WIDTH_MS}, container, 1 FROM sample"
    )
    silence_s = conn.exec_driver_sql("SELECT max(max_interval_s + base_interval_s) FROM container_metadata").scalar() or 0
    reach = int(2000 * silence_s) // WIDTH_MS + 1
    shifts = ", ".join(f"({shift * WIDTH_MS})" for shift in range(-reach, reach + 1) if shift)
    conn.exec_driver_sql(
        f"WITH shift (of_ms) AS (VALUES {shifts}) INSERT INTO rollup_dirty (width_ms, ts_ms, container, marks) "
        f"SELECT DISTINCT {WIDTH_MS}, ts_ms + of_ms, container, 1 FROM rollup_dirty CROSS JOIN shift WHERE true "
        "ON CONFLICT (width_ms, ts_ms, container) DO NOTHING"
    )
