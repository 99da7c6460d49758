"""The questions in SQL, for SQLite, PostgreSQL and DuckDB alike: on the tables of raw samples, and on the views for people.

`?` stands for a parameter.
"""

from collections.abc import Callable, Mapping, Sequence

from bench.questions import Asked

InSql = Mapping[str, tuple[str, Callable[[Asked], Sequence[object]]]]
"""By question: the statement, and what its parameters are."""

TABLES: InSql = {
    "last": (
        # CROSS JOIN keeps SQLite from reading all of `sample` to look its rows up in the other table
        """
        SELECT path, memory_working_set_bytes FROM container JOIN container_span p ON p.container = id
        CROSS JOIN sample s WHERE s.container = p.container AND s.ts_ms = p.last_ms
        """,
        lambda asked: (),
    ),
    "rate": (
        """
        WITH r AS (SELECT ts_ms, cpu_usage_ns - lag(cpu_usage_ns) OVER w AS used, ts_ms - lag(ts_ms) OVER w AS passed
                   FROM sample WHERE container = (SELECT id FROM container WHERE path = ?) AND ts_ms >= ? AND ts_ms < ?
                   WINDOW w AS (ORDER BY ts_ms))
        SELECT ts_ms - ts_ms % 60000, sum(used) / 1e6 / sum(passed) FROM r WHERE ts_ms >= ? GROUP BY 1 ORDER BY 1
        """,
        lambda asked: (asked.path, asked.hour.from_ms - asked.lead_ms, asked.hour.to_ms, asked.hour.from_ms),
    ),
    "top": (
        """
        SELECT path, mean FROM (SELECT container, avg(memory_working_set_bytes) AS mean FROM sample
                                WHERE ts_ms >= ? AND ts_ms < ? GROUP BY container ORDER BY 2 DESC LIMIT 10) AS ten
        JOIN container ON id = container ORDER BY mean DESC
        """,
        lambda asked: asked.day,
    ),
    "p95": (
        """
        WITH r AS (SELECT container, (cpu_usage_ns - lag(cpu_usage_ns) OVER w) / 1e6 / (ts_ms - lag(ts_ms) OVER w) AS cores
                   FROM sample WHERE ts_ms >= ? AND ts_ms < ? WINDOW w AS (PARTITION BY container ORDER BY ts_ms)),
        ranked AS (SELECT container, cores, row_number() OVER (PARTITION BY container ORDER BY cores) AS place,
                   count(*) OVER (PARTITION BY container) AS many FROM r WHERE cores IS NOT NULL)
        SELECT path, cores FROM ranked JOIN container ON id = container
        WHERE 100 * place >= 95 * many AND 100 * place < 95 * many + 100
        """,
        lambda asked: asked.whole,
    ),
    "namespace": (
        """
        WITH r AS (SELECT s.container, ts_ms, cpu_usage_ns - lag(cpu_usage_ns) OVER w AS used,
                          ts_ms - lag(ts_ms) OVER w AS passed FROM sample s WHERE ts_ms >= ? AND ts_ms < ?
                   AND s.container IN (SELECT container FROM container_metadata WHERE namespace = ?)
                   WINDOW w AS (PARTITION BY s.container ORDER BY ts_ms)),
        each_one AS (SELECT ts_ms - ts_ms % 300000 AS bucket, sum(used) / 1e6 / sum(passed) AS cores
                     FROM r WHERE ts_ms >= ? AND used IS NOT NULL GROUP BY container, 1)
        SELECT bucket, sum(cores) FROM each_one GROUP BY 1 ORDER BY 1
        """,
        lambda asked: (asked.day.from_ms - asked.lead_ms, asked.day.to_ms, asked.namespace, asked.day.from_ms),
    ),
    "failures": (
        """
        SELECT path FROM container JOIN (SELECT container FROM sample WHERE ts_ms >= ? AND ts_ms < ? GROUP BY container
            HAVING max(memory_failures) > min(memory_failures) OR max(memory_oom_kills) > min(memory_oom_kills)) AS rose
        ON container = id
        """,
        lambda asked: asked.day,
    ),
    "alive": (
        "SELECT path FROM container JOIN container_span ON container = id WHERE first_ms < ? AND last_ms >= ?",
        lambda asked: (asked.alive_hour.to_ms, asked.alive_hour.from_ms),
    ),
    "export": (
        """
        SELECT ts_ms, memory_working_set_bytes FROM sample WHERE container = (SELECT id FROM container WHERE path = ?)
        AND ts_ms >= ? AND ts_ms < ? ORDER BY ts_ms
        """,
        lambda asked: (asked.path, *asked.whole),
    ),
}

VIEWS: InSql = {
    "last": (
        "SELECT c.path, m.memory_working_set_bytes FROM containers c "
        "CROSS JOIN memory m WHERE m.id = c.id AND m.ts_ms = c.last_ms",
        lambda asked: (),
    ),
    "rate": (
        "SELECT ts_ms - ts_ms % 60000, sum(cpu_seconds) / sum(seconds) FROM cpu "
        "WHERE path = ? AND ts_ms >= ? AND ts_ms < ? GROUP BY 1 ORDER BY 1",
        lambda asked: (asked.path, *asked.hour),
    ),
    "top": (
        "SELECT path, avg(memory_working_set_bytes) FROM memory WHERE ts_ms >= ? AND ts_ms < ? "
        "GROUP BY path ORDER BY 2 DESC LIMIT 10",
        lambda asked: asked.day,
    ),
    "p95": (
        """
        SELECT path, cpu_cores FROM (
            SELECT path, cpu_cores, row_number() OVER (PARTITION BY path ORDER BY cpu_cores) AS place,
                count(*) OVER (PARTITION BY path) AS many
            FROM cpu WHERE cpu_cores IS NOT NULL AND ts_ms >= ? AND ts_ms < ?) AS ranked
        WHERE 100 * place >= 95 * many AND 100 * place < 95 * many + 100
        """,
        lambda asked: asked.whole,
    ),
    "namespace": (
        """
        SELECT bucket, sum(cores) FROM (
            SELECT ts_ms - ts_ms % 300000 AS bucket, path, sum(cpu_seconds) / sum(seconds) AS cores
            FROM cpu WHERE namespace = ? AND ts_ms >= ? AND ts_ms < ? GROUP BY 1, 2) AS each_one
        GROUP BY 1 ORDER BY 1
        """,
        lambda asked: (asked.namespace, *asked.day),
    ),
    "failures": (
        "SELECT path FROM memory WHERE ts_ms >= ? AND ts_ms < ? GROUP BY path "
        "HAVING sum(memory_failures) > 0 OR sum(oom_kills) > 0",
        lambda asked: asked.day,
    ),
    "alive": (
        "SELECT path FROM containers WHERE first_ms < ? AND last_ms >= ?",
        lambda asked: (asked.alive_hour.to_ms, asked.alive_hour.from_ms),
    ),
    "export": (
        "SELECT ts_ms, memory_working_set_bytes FROM memory WHERE path = ? AND ts_ms >= ? AND ts_ms < ? ORDER BY ts_ms",
        lambda asked: (asked.path, *asked.whole),
    ),
}
"""The questions on the views for people: rates are already there."""

_RATES = """
WITH r AS (SELECT container, (cpu_usage_ns - lag(cpu_usage_ns) OVER w) / 1e6 / (ts_ms - lag(ts_ms) OVER w) AS cores
           FROM sample WHERE ts_ms >= ? AND ts_ms < ? WINDOW w AS (PARTITION BY container ORDER BY ts_ms))
SELECT path, {} FROM r JOIN container ON id = container WHERE cores IS NOT NULL GROUP BY path
"""
OF_POSTGRESQL: InSql = {
    **TABLES,
    "p95": (_RATES.format("percentile_disc(0.95) WITHIN GROUP (ORDER BY cores)"), lambda asked: asked.whole),
}
"""It has percentiles of its own."""
OF_DUCKDB: InSql = {**TABLES, "p95": (_RATES.format("quantile_disc(cores, 0.95)"), lambda asked: asked.whole)}
"""So has DuckDB."""
