"""Stores that history is loaded into through the real sinks, each with the eight questions in its own language."""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import psutil
import urllib3
from tests.servers import Influxd, PostgresServer, StoreServer, VictoriaMetrics

from bench.questions import DAY_MS, HOUR_MS, MINUTE_MS, QUESTIONS, RELATIVE, SKETCH_RELATIVE, Answer, Asked, Refused, Span
from bench.sql_questions import OF_DUCKDB, OF_POSTGRESQL, TABLES, VIEWS
from bench.typed import HOURLY, TYPED
from tidegauge.pipeline.plugin import KeepsHistory, Maintained, Sink
from tidegauge.pipeline.records import MAX_INT, Batch, Record
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.migrate import upgrade
from tidegauge.sinks.sql.parquet import export, views
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

IDLE_S = 60.0
"""How often a sink is maintained that has no work left."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Loaded(NamedTuple):
    """What writing cost."""

    wall_s: float
    client_s: float
    """CPU time of this process in `write`."""
    upkeep_s: float
    """CPU time of this process in `maintain`, which makes the roll-ups."""
    server_s: float
    """CPU time of the server meanwhile and until it had settled; 0 where there is none."""
    written_bytes: int
    """What this process had the kernel write to the disk; of servers nothing is known."""


class Store:
    """One store: `load` it once, then `ask`. A context manager that starts and ends its server."""

    name: str
    ways: Mapping[str, str] = {"own": ""}
    """How it can be asked, and what that is called: `own` language, for SQL `views`, `typed` history, of it only `hours`."""

    has_rollups = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "Store":
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def load(self, writes: Iterable[Sequence[Record]], *, is_settled: bool = True) -> Loaded:
        """Writes all of it, one call of the sink's `write` each, as the runner does. `is_settled`: waits for the store's own
        work on it, which can then be asked about in any case."""
        server_s, written = self._server_s(), _written_bytes()
        wall_s = client_s = upkeep_s = 0.0
        due_ms = 0
        for records in writes:
            cpu, wall = time.process_time(), time.perf_counter()
            self._sink.write(records)
            client_s += time.process_time() - cpu
            wall_s += time.perf_counter() - wall
            now_ms = max((r.samples[-1].ts_ms for r in records if isinstance(r, Batch)), default=0)
            due_ms = due_ms or now_ms
            cpu = time.process_time()
            while due_ms <= now_ms:
                due_ms += self._maintain(due_ms)
            upkeep_s += time.process_time() - cpu
        cpu = time.process_time()
        while self._maintain(due_ms) < 1000 * IDLE_S:
            pass
        upkeep_s += time.process_time() - cpu
        self._flush()
        if is_settled:
            self._settle()
        return Loaded(wall_s, client_s, upkeep_s, self._server_s() - server_s, _written_bytes() - written)

    def size_bytes(self) -> int:
        """What the store takes on the disk."""
        raise NotImplementedError

    def ask(self, question: str, asked: Asked, way: str = "own") -> Answer:
        """The answer in the form of `bench.questions`. `way` is one of `ways`. Refused if the store gives none."""
        if way == "own":
            answer: Answer = getattr(self, f"_{question}")(asked)
            return answer
        reader = self._sink.history() if isinstance(self._sink, KeepsHistory) else None
        if reader is None:
            raise Refused(f"{self.name} has no typed history")
        return (HOURLY if way == "hours" else TYPED)[question](reader, asked)

    def questions(self, way: str) -> Sequence[str]:
        """Those of QUESTIONS that can be asked this way."""
        some = {"typed": TYPED, "hours": HOURLY}.get(way, QUESTIONS)
        return [question for question in QUESTIONS if question in some]

    def check(self, question: str, asked: Asked, way: str = "own") -> list[str]:
        """What is wrong with the answer, in words; nothing if it is right."""
        relative = SKETCH_RELATIVE if way in ("typed", "hours") and question == "p95" else RELATIVE
        return asked.differences(question, self.ask(question, asked, way), relative, is_clipped=way in ("typed", "hours"))

    def latency_ms(self, question: str, asked: Asked, way: str = "own", budget_s: float = 12.0) -> tuple[float, ...]:
        """Times of runs one after the other: seven, or as many as fit into the budget, at least one."""
        times: list[float] = []
        while not times or (len(times) < 7 and sum(times) < 1000 * budget_s):
            start = time.perf_counter()
            self.ask(question, asked, way)
            times.append(1000 * (time.perf_counter() - start))
        return tuple(times)

    def _start(self) -> None:
        raise NotImplementedError

    def _opened(self, sink: Any) -> Sink:
        self._exit.callback(sink.close)
        sink.open()
        opened: Sink = sink
        return opened

    def _server_s(self) -> float:
        return 0.0

    def _maintain(self, now_ms: int) -> int:
        """What the runner has the sink do between two writes; ms until it is asked for again."""
        if not isinstance(self._sink, Maintained):
            return round(1000 * IDLE_S)
        self._sink.maintain(now_ms, lambda: False)
        return round(1000 * self._sink.maintenance_interval_s)

    def _flush(self) -> None:
        """Makes what was written answer questions, where that takes a while."""

    def _settle(self) -> None:
        """Waits until what was written is where it stays."""

    _sink: Sink


_TYPED = "by tidegauge's typed history"


class SqlStore(Store):
    """A database that is asked in SQL, over a connection that can only read."""

    ways = {"own": "in SQL on tables", "views": "in SQL on views", "typed": _TYPED, "hours": f"{_TYPED}, hourly roll-ups"}
    has_rollups = True
    tables = TABLES
    """Statements on tables."""

    def _begin(self, config: SqlConfig) -> None:
        """Makes the schema and opens sink and connection."""
        database = open_database(config.url, busy_timeout_s=30, password=config.password)
        upgrade(database)
        sink = SqlSink(config)
        self._exit.callback(sink.history().close)
        self._sink = self._opened(sink)
        engine = database.reading_engine()
        self._exit.callback(engine.dispose)
        self._conn = self._exit.enter_context(engine.connect())

    def _rows(self, sql: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
        found = self._conn.exec_driver_sql(sql, parameters).fetchall()
        self._conn.rollback()
        return [tuple(row) for row in found]

    def ask(self, question: str, asked: Asked, way: str = "own") -> Answer:
        if way in ("typed", "hours"):
            return super().ask(question, asked, way)
        sql, parameters = (VIEWS if way == "views" else self.tables)[question]
        rows = self._rows(sql, *parameters(asked))
        return _set(rows) if question in ("failures", "alive") else _pairs(rows)


class SqliteStore(SqlStore):
    name = "SQLite"

    def _start(self) -> None:
        self.folder.mkdir(parents=True)
        self.path = self.folder / "store.db"
        self.config = SqlConfig(url=f"sqlite:///{self.path}", retention_s=0, retention_bytes=0)
        self._begin(self.config)

    def size_bytes(self) -> int:
        """Once all is in the file itself."""
        with contextlib.closing(sqlite3.connect(self.path)) as conn:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.stat().st_size


RAW = "SQLite, raw samples alone"


class _RawStore(SqliteStore):
    name = RAW
    has_rollups = False

    def _maintain(self, now_ms: int) -> int:
        """Nothing: the export of samples is what is measured."""
        return round(1000 * IDLE_S)


class ParquetStore(SqlStore):
    """What `tidegauge export` makes of a SQLite file, asked through DuckDB."""

    name = "Parquet"
    ways = {"own": "in SQL by DuckDB"}
    has_rollups = False
    tables = OF_DUCKDB

    def _start(self) -> None:
        import duckdb

        self.source = _RawStore(self.folder / "sqlite")
        self._exit.enter_context(self.source)
        self._duckdb = self._exit.enter_context(duckdb.connect())

    def load(self, writes: Iterable[Sequence[Record]], *, is_settled: bool = True) -> Loaded:
        """Costs of the export alone; what the file of raw samples cost that it is made of is `source_loaded`."""
        self.source_loaded = self.source.load(writes, is_settled=is_settled)
        written, cpu, wall = _written_bytes(), time.process_time(), time.perf_counter()
        with contextlib.closing(SqlSink(self.source.config).tables()) as tables:
            export(tables, self.folder / "files", 0, MAX_INT, lambda at_ms: None)
        loaded = Loaded(time.perf_counter() - wall, time.process_time() - cpu, 0.0, 0.0, _written_bytes() - written)
        for table, files in views(self.folder / "files"):
            self._duckdb.execute(f"CREATE VIEW {table} AS SELECT * FROM '{files}'")
        return loaded

    def _rows(self, sql: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
        return list(self._duckdb.execute(sql, parameters).fetchall())

    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self.folder / "files").rglob("*.parquet"))


class PostgresStore(SqlStore):
    """A server that syncs as one in service does, with half a GiB for pages."""

    name = "PostgreSQL"
    tables = OF_POSTGRESQL

    def _start(self) -> None:
        settings = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "1GB"}
        self._server = self._exit.enter_context(PostgresServer(**settings))
        self._begin(SqlConfig(url=self._server.url(), password=self._server.password, retention_s=0))
        self._empty_bytes = 0
        self._empty_bytes = self.size_bytes()

    def _server_s(self) -> float:
        """Of all its processes; those that have ended are in the time of the first one."""
        first = psutil.Process(self._server.pid)
        return sum(_cpu_s(p.pid) for p in (first, *first.children()))

    def _flush(self) -> None:
        """Statistics for the planner, which come of themselves within minutes, and the visibility of rows."""
        self._server.sql("VACUUM ANALYZE")

    def _settle(self) -> None:
        self._server.sql("CHECKPOINT")

    def size_bytes(self) -> int:
        """Without what an empty database takes."""
        return int(self._rows("SELECT pg_database_size(current_database())")[0][0]) - self._empty_bytes


class _QuickInfluxd(Influxd):
    """Brings what was written into its last form at once, not after hours without a write."""

    def environment(self) -> Mapping[str, str]:
        return {
            "INFLUXDB_DATA_CACHE_SNAPSHOT_WRITE_COLD_DURATION": "1s",
            "INFLUXDB_DATA_COMPACT_FULL_WRITE_COLD_DURATION": "2s",
        }


class _HttpStore(Store):
    """A store with a server of its own, asked over HTTP."""

    _server: StoreServer
    _data: str

    def _start(self) -> None:
        self._server = self._exit.enter_context(self._made())
        self._http = urllib3.PoolManager(retries=False, timeout=600.0)
        self._exit.callback(self._http.clear)
        self._sink = self._opened(InfluxdbSink(InfluxdbConfig(url=self._server.url, timeout_s=60)))

    def _made(self) -> StoreServer:
        raise NotImplementedError

    def _server_s(self) -> float:
        return _cpu_s(self._server.pid)

    def _settle(self) -> None:
        """Until neither the size nor the CPU time of the server have changed for some seconds; two minutes at most."""
        until, still, last = time.monotonic() + 120, 0, (0, 0.0)
        while still < 5 and time.monotonic() < until:
            time.sleep(1)
            now = (self.size_bytes(), round(self._server_s(), 1))
            still = still + 1 if now[0] == last[0] and now[1] - last[1] < 0.15 else 0
            last = now

    def size_bytes(self) -> int:
        total = 0
        for file in (self.folder / self._data).rglob("*"):
            with contextlib.suppress(OSError):  # merged away meanwhile
                total += file.stat().st_size if file.is_file() else 0
        return total

    def _get(self, path: str, **fields: object) -> bytes:
        answer = self._http.request("GET", f"{self._server.url}{path}?{urlencode(fields)}")
        if answer.status != 200:
            raise Refused(_reason(answer.data))
        return answer.data


class InfluxdbStore(_HttpStore):
    """InfluxDB 1.x in InfluxQL."""

    name = "InfluxDB"
    ways = {"own": "in InfluxQL", "typed": _TYPED}
    _data = "."

    def _made(self) -> StoreServer:
        return _QuickInfluxd(self.folder)

    def _series(self, q: str) -> Sequence[tuple[Mapping[str, str], list[list[Any]]]]:
        """(tags, rows) of each series."""
        document = json.loads(self._get("/query", q=q, db="tidegauge", epoch="ms"))
        [result] = document["results"]
        if "error" in result:
            raise Refused(result["error"])
        return [(s.get("tags", {}), s["values"]) for s in result.get("series", ())]

    def _each(self, q: str) -> Answer:
        """The first value of the only row of each container."""
        return {tags["container"]: float(rows[0][1]) for tags, rows in self._series(q)}

    def _buckets(self, q: str, from_ms: int) -> Answer:
        """By time. The bucket before the window is asked for too, since the first difference needs it, and left out here."""
        return {t: v / 1e9 for _, rows in self._series(q) for t, v in rows if t >= from_ms and v is not None}

    def _last(self, asked: Asked) -> Answer:
        return self._each("SELECT last(memory_working_set_bytes) FROM container GROUP BY container")

    def _rate(self, asked: Asked) -> Answer:
        hour = asked.hour
        return self._buckets(
            "SELECT non_negative_derivative(last(cpu_usage_ns), 1s) FROM container "
            f"WHERE container = '{asked.path}' AND {_between(hour, MINUTE_MS)} GROUP BY time(1m) fill(none)",
            hour.from_ms,
        )

    def _top(self, asked: Asked) -> Answer:
        found = self._series(
            "SELECT top(m, container, 10) FROM (SELECT mean(memory_working_set_bytes) AS m FROM container "
            f"WHERE {_between(asked.day)} GROUP BY container)"
        )
        ten = [(str(row[2]), float(row[1])) for _, rows in found for row in rows]
        return dict(sorted(ten, key=lambda kv: -kv[1]))

    def _p95(self, asked: Asked) -> Answer:
        found = self._each(
            "SELECT percentile(r, 95) FROM (SELECT non_negative_derivative(cpu_usage_ns, 1s) AS r FROM container "
            f"WHERE {_between(asked.whole)} GROUP BY container) GROUP BY container"
        )
        return {path: v / 1e9 for path, v in found.items()}

    def _namespace(self, asked: Asked) -> Answer:
        day, step = asked.day, 5 * MINUTE_MS
        return self._buckets(
            "SELECT sum(r) FROM (SELECT non_negative_derivative(last(cpu_usage_ns), 1s) AS r FROM container "
            f"WHERE namespace = '{asked.namespace}' AND {_between(day, step)} GROUP BY time(5m), container fill(none)) "
            f"WHERE {_between(day, step)} GROUP BY time(5m) fill(none)",
            day.from_ms,
        )

    def _failures(self, asked: Asked) -> Answer:
        found = self._series(
            "SELECT f, o FROM (SELECT spread(memory_failures) AS f, spread(memory_oom_kills) AS o FROM container "
            f"WHERE {_between(asked.day)} GROUP BY container) WHERE f > 0 OR o > 0 GROUP BY container"
        )
        return _set([(tags["container"],) for tags, _ in found])

    def _alive(self, asked: Asked) -> Answer:
        found = self._series(f"SELECT count(pids_current) FROM container WHERE {_between(asked.alive_hour)} GROUP BY container")
        return _set([(tags["container"],) for tags, _ in found])

    def _export(self, asked: Asked) -> Answer:
        q = f"SELECT memory_working_set_bytes FROM container WHERE container = '{asked.path}' AND {_between(asked.whole)}"
        return {t: float(v) for _, rows in self._series(q) for t, v in rows}


class VictoriaMetricsStore(_HttpStore):
    """VictoriaMetrics in MetricsQL; its cache of answers is off."""

    name = "VictoriaMetrics"
    ways = {"own": "in MetricsQL"}
    _data = "data"

    def _made(self) -> StoreServer:
        return VictoriaMetrics(self.folder)

    def _flush(self) -> None:
        self._get("/internal/force_flush")

    def _instant(self, query: str, at_ms: int) -> Sequence[tuple[str, float]]:
        data = json.loads(self._get("/api/v1/query", query=query, time=at_ms / 1000, nocache=1, step="10s"))["data"]
        return [(r["metric"].get("container", ""), float(r["value"][1])) for r in data["result"]]

    def _range(self, query: str, span: Span, step_ms: int) -> Answer:
        """By begin of the bucket; MetricsQL looks back from its end."""
        fields = {"query": query, "start": (span.from_ms + step_ms) / 1000, "end": span.to_ms / 1000, "step": step_ms / 1000}
        [series] = json.loads(self._get("/api/v1/query_range", nocache=1, **fields))["data"]["result"]
        return {round(1000 * t) - step_ms: float(v) / 1e9 for t, v in series["values"]}

    def _last(self, asked: Asked) -> Answer:
        window = _window(asked.whole)
        return _pairs(self._instant(f"last_over_time(container_memory_working_set_bytes[{window}])", asked.whole.to_ms))

    def _rate(self, asked: Asked) -> Answer:
        return self._range(f'rate(container_cpu_usage_ns{{container="{asked.path}"}}[1m])', asked.hour, MINUTE_MS)

    def _top(self, asked: Asked) -> Answer:
        query = f"topk(10, avg_over_time(container_memory_working_set_bytes[{_window(asked.day)}]))"
        return dict(sorted(self._instant(query, asked.day.to_ms), key=lambda kv: -kv[1]))

    def _p95(self, asked: Asked) -> Answer:
        step = f"{asked.history.interval_ms}ms"
        query = f"quantile_over_time(0.95, irate(container_cpu_usage_ns[{step}])[{_window(asked.whole)}:{step}])"
        return {path: v / 1e9 for path, v in self._instant(query, asked.whole.to_ms)}

    def _namespace(self, asked: Asked) -> Answer:
        query = f'sum(rate(container_cpu_usage_ns{{namespace="{asked.namespace}"}}[5m]))'
        return self._range(query, asked.day, 5 * MINUTE_MS)

    def _failures(self, asked: Asked) -> Answer:
        window = _window(asked.day)
        rose = [
            f"(max_over_time(container_{m}[{window}]) - min_over_time(container_{m}[{window}])) > 0"
            for m in ("memory_failures", "memory_oom_kills")
        ]
        return _set(self._instant(" or ".join(rose), asked.day.to_ms))

    def _alive(self, asked: Asked) -> Answer:
        hour = asked.alive_hour
        return _set(self._instant(f"count_over_time(container_pids_current[{_window(hour)}])", hour.to_ms))

    def _export(self, asked: Asked) -> Answer:
        match = f'container_memory_working_set_bytes{{container="{asked.path}"}}'
        fields = {"match[]": match, "start": asked.whole.from_ms / 1000, "end": asked.whole.to_ms / 1000}
        lines = [json.loads(line) for line in self._get("/api/v1/export", **fields).splitlines()]
        return {t: float(v) for line in lines for t, v in zip(line["timestamps"], line["values"], strict=True)}


STORES: Mapping[str, type[Store]] = {
    "sqlite": SqliteStore,
    "parquet": ParquetStore,
    "postgresql": PostgresStore,
    "influxdb": InfluxdbStore,
    "victoriametrics": VictoriaMetricsStore,
}


def _pairs(rows: Iterable[Sequence[Any]]) -> Answer:
    return {row[0]: float(row[1]) for row in rows}


def _set(rows: Iterable[Sequence[Any]]) -> Answer:
    return {row[0]: 1.0 for row in rows}


def _between(span: Span, lead_ms: int = 0) -> str:
    """Condition of InfluxQL."""
    return f"time >= {span.from_ms - lead_ms}ms AND time < {span.to_ms}ms"


def _window(span: Span) -> str:
    """A window of MetricsQL."""
    length = span.to_ms - span.from_ms
    for unit, name in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m")):
        if length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length}ms"


def _reason(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip()


def _cpu_s(pid: int) -> float:
    """CPU time of a process with its threads and the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) * _TICK_S


def _written_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return 0
