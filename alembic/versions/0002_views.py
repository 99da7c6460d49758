"""Views for people: rates already computed, units in the names of columns. `docs/query.md` describes them.

A migration that changes what they read drops them, and makes them again in its own words.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNLIMITED = 2**63 - 1
_SILENCE = "CAST(round(1000 * (m.max_interval_s + m.base_interval_s)) AS BIGINT)"
"""The longest time between two samples over which silence says that a container was idle, ms."""
_METADATA = """
JOIN container c ON c.id = s.container
LEFT JOIN container_metadata m ON m.container = s.container AND m.valid_from_ms = coalesce(
    (SELECT max(v.valid_from_ms) FROM container_metadata v WHERE v.container = s.container AND v.valid_from_ms <= s.ts_ms),
    (SELECT min(v.valid_from_ms) FROM container_metadata v WHERE v.container = s.container))"""
_NO_GAP = """NOT EXISTS (
    SELECT 1 FROM gap g WHERE g.source = c.source AND (g.container IS NULL OR g.container = s.container)
    AND g.from_ms < s.ts_ms AND g.to_ms > p.ts_ms)"""


def _time(ms: str, is_sqlite: bool) -> str:
    if is_sqlite:
        return f"strftime('%Y-%m-%d %H:%M:%f', {ms} / 1000.0, 'unixepoch')"
    return f"to_timestamp(CAST({ms} AS DOUBLE PRECISION) / 1000)"


def _innermost(is_sqlite: bool) -> str:
    if is_sqlite:
        below = "d.path > c.path || '/' AND d.path < c.path || '0'"  # a range of the index, '0' being next to '/'
    else:
        below = "starts_with(d.path, c.path || '/')"
    return f"c.path <> '/' AND NOT EXISTS (SELECT 1 FROM container d WHERE d.source = c.source AND {below})"


def _said(column: str) -> str:
    """What is known of a container at a sample's time, or else what was first said of it afterwards."""
    return f"""coalesce(m.{column}, (
        SELECT v.{column} FROM container_metadata v
        WHERE v.container = s.container AND v.valid_from_ms > s.ts_ms AND v.{column} IS NOT NULL
        ORDER BY v.valid_from_ms LIMIT 1))"""


def _who(is_sqlite: bool, row: str = "s") -> str:
    return f"""
    {_time(f"{row}.ts_ms", is_sqlite)} AS time, {row}.ts_ms AS ts_ms,
    coalesce({_said("name")}, c.path) AS container, c.path AS path, c.host AS host, {_said("namespace")} AS namespace,
    {_said("image")} AS image, s.container AS id, ({_innermost(is_sqlite)}) AS is_innermost"""


def _joined(kind: str, table: str, row: str, which: str, on: str, is_sqlite: bool) -> str:
    """One row, or few, looked up for each row so far. PostgreSQL would make a hash of the whole table of it, hence OFFSET."""
    if is_sqlite:
        return f"{kind} {table} {row} ON {which} AND {on}"
    return f"{kind} LATERAL (SELECT {row}.* FROM {table} {row} WHERE {which} OFFSET 0) {row} ON {on}"


def _limit(column: str) -> str:
    return f"nullif({column}, {_UNLIMITED})"


def _rise(column: str) -> str:
    """Increase of a counter from row p to row s; NULL if it fell, or if one of them is not known."""
    return f"CASE WHEN s.{column} >= p.{column} THEN s.{column} - p.{column} END"


def _per_second(column: str, since: str, scale: str = "1000.0") -> str:
    return f"CAST({_rise(column)} AS DOUBLE PRECISION) * {scale} / (s.ts_ms - {since})"


def _cpu(is_sqlite: bool) -> str:
    cores = "0.000001"
    before = f"""p.container = s.container AND p.ts_ms = (
    SELECT max(b.ts_ms) FROM sample b
    WHERE b.container = s.container AND b.ts_ms < s.ts_ms AND b.ts_ms >= s.ts_ms - {_SILENCE})"""
    return f"""
SELECT {_who(is_sqlite)}, s.is_closing AS is_closing,
    p.ts_ms AS from_ms, CAST(s.ts_ms - p.ts_ms AS DOUBLE PRECISION) / 1000 AS seconds,
    CAST({_rise("cpu_usage_ns")} AS DOUBLE PRECISION) / 1000000000 AS cpu_seconds,
    {_per_second("cpu_usage_ns", "p.ts_ms", cores)} AS cpu_cores,
    {_per_second("cpu_user_ns", "p.ts_ms", cores)} AS cpu_user_cores,
    {_per_second("cpu_system_ns", "p.ts_ms", cores)} AS cpu_system_cores,
    CAST({_limit("m.cpu_quota_us")} AS DOUBLE PRECISION) / m.cpu_period_us AS cpu_limit_cores,
    CAST({_rise("cpu_throttled_ns")} AS DOUBLE PRECISION) / 1000000000 AS throttled_seconds,
    CASE WHEN s.cpu_periods > p.cpu_periods AND s.cpu_throttled_periods >= p.cpu_throttled_periods THEN CASE
        WHEN s.cpu_throttled_periods - p.cpu_throttled_periods > s.cpu_periods - p.cpu_periods THEN 1.0
        ELSE CAST(s.cpu_throttled_periods - p.cpu_throttled_periods AS DOUBLE PRECISION) / (s.cpu_periods - p.cpu_periods)
    END END AS throttled_share
FROM sample s {_METADATA}
{_joined("LEFT JOIN", "sample", "p", before, _NO_GAP, is_sqlite)}"""


def _memory(is_sqlite: bool) -> str:
    def rise(column: str) -> str:
        return f"""(
        SELECT {_rise(column)} FROM sample p WHERE p.container = s.container AND p.ts_ms = (
            SELECT max(b.ts_ms) FROM sample b WHERE b.container = s.container AND NOT b.is_closing
            AND b.ts_ms < s.ts_ms AND b.ts_ms >= s.ts_ms - {_SILENCE})
        AND {_NO_GAP})"""

    gauges = ("usage", "working_set", "rss", "cache", "swap", "kernel", "mapped_file", "dirty")
    return f"""
SELECT {_who(is_sqlite)}, {", ".join(f"s.memory_{g}_bytes AS memory_{g}_bytes" for g in gauges)},
    {_limit("s.memory_limit_bytes")} AS memory_limit_bytes,
    CAST(s.memory_working_set_bytes AS DOUBLE PRECISION) / nullif({_limit("s.memory_limit_bytes")}, 0) AS memory_limit_share,
    {rise("memory_page_faults")} AS page_faults, {rise("memory_major_page_faults")} AS major_page_faults,
    {rise("memory_failures")} AS memory_failures, {rise("memory_oom_kills")} AS oom_kills
FROM sample s {_METADATA}
WHERE NOT s.is_closing"""


def _instances(is_sqlite: bool, table: str, label: str, rates: dict[str, str], rises: dict[str, str]) -> str:
    """Rows of an instance table, and a row without increase where a closing sample says that a container was idle."""
    columns = {name: _rise(column) for name, column in rises.items()}
    columns |= {f"{name}_per_second": _per_second(column, "coalesce(k.ts_ms, p.ts_ms)") for name, column in rates.items()}
    known = [f"CASE WHEN ok.yes = 1 THEN {expression} END AS {name}" for name, expression in columns.items()]
    still = [f"CASE WHEN p.{column} IS NOT NULL THEN 0 END AS {name}" for name, column in rises.items()]
    still += [f"CASE WHEN p.{column} IS NOT NULL THEN 0.0 END AS {name}_per_second" for name, column in rates.items()]
    of_row = f"SELECT max(b.ts_ms) FROM {table} b WHERE b.container = s.container AND b.ts_ms < s.ts_ms AND b.ts_ms >= s.ts_ms"
    of_container = "p.container = s.container"
    same = f"{of_container} AND p.{label} = s.{label} AND p.ts_ms = ({of_row} - 2 * {_SILENCE})"
    closing = """k.container = s.container AND k.ts_ms = (
    SELECT max(b.ts_ms) FROM sample b
    WHERE b.container = s.container AND b.is_closing AND b.ts_ms > p.ts_ms AND b.ts_ms < s.ts_ms)"""
    seconds = "AS DOUBLE PRECISION) / 1000 AS seconds"
    return f"""
SELECT {_who(is_sqlite)}, s.{label} AS {label}, FALSE AS is_closing,
    CASE WHEN ok.yes = 1 THEN coalesce(k.ts_ms, p.ts_ms) END AS from_ms,
    CAST(CASE WHEN ok.yes = 1 THEN s.ts_ms - coalesce(k.ts_ms, p.ts_ms) END {seconds},
    {", ".join(known)}
FROM {table} s {_METADATA}
{_joined("LEFT JOIN", table, "p", same, "TRUE", is_sqlite)}
{_joined("LEFT JOIN", "sample", "k", closing, "TRUE", is_sqlite)}
LEFT JOIN (SELECT 1 AS yes) ok ON s.ts_ms - coalesce(k.ts_ms, p.ts_ms) <= {_SILENCE}
    AND (k.ts_ms IS NULL OR k.ts_ms - p.ts_ms <= {_SILENCE}) AND {_NO_GAP}
UNION ALL
SELECT {_who(is_sqlite)}, p.{label}, s.is_closing, p.ts_ms, CAST(s.ts_ms - p.ts_ms {seconds},
    {", ".join(still)}
FROM sample s {_METADATA}
{_joined("JOIN", table, "p", f"{of_container} AND p.ts_ms = ({of_row} - {_SILENCE})", _NO_GAP, is_sqlite)}
WHERE s.is_closing"""


def _network(is_sqlite: bool) -> str:
    ways = ("receive", "transmit")
    rates = {f"{way}_{what}": f"network_{way}_{what}" for way in ways for what in ("bytes", "packets")}
    rises = {f"{way}_{what}": f"network_{way}_{what}" for way in ways for what in ("bytes", "packets", "errors", "dropped")}
    return _instances(is_sqlite, "sample_network", "interface", rates, rises)


def _disk(is_sqlite: bool) -> str:
    moved = {f"{way}_{what}": f"disk_{way}_{what}" for way in ("read", "write", "discard") for what in ("bytes", "ops")}
    return _instances(is_sqlite, "disk_io", "device", moved, moved)


def _filesystem(is_sqlite: bool) -> str:
    return f"""
SELECT {_who(is_sqlite)}, s.device AS device, s.filesystem_limit_bytes AS size_bytes, s.filesystem_usage_bytes AS used_bytes,
    s.filesystem_available_bytes AS available_bytes,
    CAST(s.filesystem_usage_bytes AS DOUBLE PRECISION)
        / nullif(s.filesystem_usage_bytes + s.filesystem_available_bytes, 0) AS used_share,
    s.filesystem_inodes AS inodes, s.filesystem_inodes_free AS inodes_free
FROM sample_filesystem s {_METADATA}"""


def _events(is_sqlite: bool) -> str:
    left = _METADATA.replace("\nJOIN container c", "\nLEFT JOIN container c")
    who = f"coalesce({_said('name')}, c.path) AS container, c.path AS path"
    more = f"{_said('namespace')} AS namespace, {_said('image')} AS image, s.container AS id, s.source AS source"
    host = "coalesce(c.host, (SELECT max(h.host) FROM container h WHERE h.source = s.source AND h.path = '/')) AS host"
    if is_sqlite:
        details = "json_object('reason', s.reason, 'to_ms', s.to_ms, 'rows_lost', s.rows_lost)"
    else:
        details = "jsonb_build_object('reason', s.reason, 'to_ms', s.to_ms, 'rows_lost', s.rows_lost)"
    told = "s.details" if is_sqlite else "CAST(s.details AS JSONB)"
    return f"""
SELECT {_time("s.ts_ms", is_sqlite)} AS time, s.ts_ms AS ts_ms, s.kind AS kind, {who}, {host}, {more}, {told} AS details
FROM event s {left}
UNION ALL
SELECT {_time("s.from_ms", is_sqlite)}, s.from_ms, 'gap', {who}, {host}, {more}, {details}
FROM gap s {left}""".replace("FROM gap s", "FROM (SELECT from_ms AS ts_ms, * FROM gap) s")


def _containers(is_sqlite: bool) -> str:
    yes = "(c.ended_ms IS NULL)"
    kept = ", ".join(
        f"m.{name} AS {name}" for name in ("runtime", "container_id", "health", "restart_count", "pod", "pod_namespace")
    )
    return f"""
SELECT coalesce(m.name, c.path) AS container, m.name AS name, c.path AS path, c.host AS host, m.namespace AS namespace,
    m.image AS image, c.id AS id, {yes} AS is_alive, ({_innermost(is_sqlite)}) AS is_innermost,
    {_time("c.created_ms", is_sqlite)} AS created, c.created_ms AS created_ms,
    {_time("c.ended_ms", is_sqlite)} AS ended, c.ended_ms AS ended_ms,
    {_time("w.first_ms", is_sqlite)} AS first_sample, w.first_ms AS first_ms,
    {_time("w.last_ms", is_sqlite)} AS last_sample, w.last_ms AS last_ms,
    {kept}, {"m.labels" if is_sqlite else "CAST(m.labels AS JSONB)"} AS labels,
    {_limit("m.memory_limit_bytes")} AS memory_limit_bytes,
    CAST({_limit("m.cpu_quota_us")} AS DOUBLE PRECISION) / m.cpu_period_us AS cpu_limit_cores,
    c.source AS source, c.instance AS instance, c.epoch AS epoch
FROM container c
LEFT JOIN container_metadata m ON m.container = c.id AND m.valid_from_ms = (
    SELECT max(v.valid_from_ms) FROM container_metadata v WHERE v.container = c.id)
LEFT JOIN container_span w ON w.container = c.id"""


_VIEWS = {
    "cpu": _cpu,
    "memory": _memory,
    "network": _network,
    "disk": _disk,
    "filesystem": _filesystem,
    "events": _events,
    "containers": _containers,
}


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name, text in _VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {text(is_sqlite)}".replace(":", "\\:"))
