"""Stores that history is loaded into through the real sinks, each with the eight questions in its own language."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import sqlalchemy as sa
import urllib3
from tests.servers import Influxd, StoreServer, VictoriaMetrics

from bench.questions import DAY_MS, HOUR_MS, MINUTE_MS, Answer, Asked, Span
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import Record
from tidegauge.sinks.influxdb import InfluxdbConfig, InfluxdbSink
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Refused(Exception):
    """The store does not answer such a question; the text is what it said."""


class Loaded(NamedTuple):
    """What writing cost."""

    wall_s: float
    client_s: float
    """CPU time of this process in `write`."""
    server_s: float
    """CPU time of the server meanwhile and until it had settled; 0 where there is none."""
    written_bytes: int
    """What this process had the kernel write to the disk; of servers nothing is known."""


class Store:
    """One store: `load` it once, then `ask`. A context manager that starts and ends its server."""

    name: str

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
        sink, server_s, written = self._sink, self._server_s(), _written_bytes()
        wall_s = client_s = 0.0
        for records in writes:
            cpu, wall = time.process_time(), time.perf_counter()
            sink.write(records)
            client_s += time.process_time() - cpu
            wall_s += time.perf_counter() - wall
        self._flush()
        if is_settled:
            self._settle()
        return Loaded(wall_s, client_s, self._server_s() - server_s, _written_bytes() - written)

    def size_bytes(self) -> int:
        """What the store takes on the disk."""
        raise NotImplementedError

    def ask(self, question: str, asked: Asked) -> Answer:
        """The answer in the form of `bench.questions`. Refused if the store gives none."""
        answer: Answer = getattr(self, f"_{question}")(asked)
        return answer

    def latency_ms(self, question: str, asked: Asked, budget_s: float = 15.0) -> tuple[float, ...]:
        """Times of warm runs: seven, or as many as fit into the budget, at least three."""
        times: list[float] = []
        self.ask(question, asked)
        while len(times) < 3 or (len(times) < 7 and sum(times) < 1000 * budget_s):
            start = time.perf_counter()
            self.ask(question, asked)
            times.append(1000 * (time.perf_counter() - start))
        return tuple(times)

    def _start(self) -> None:
        raise NotImplementedError

    def _opened(self, sink: Sink) -> Sink:
        self._exit.callback(sink.close)
        sink.open()
        return sink

    def _server_s(self) -> float:
        return 0.0

    def _flush(self) -> None:
        """Makes what was written answer questions, where that takes a while."""

    def _settle(self) -> None:
        """Waits until what was written is where it stays."""

    _sink: Sink


class SqlStore(Store):
    """The eight questions in SQL on the tables of raw samples; `?` stands for a parameter."""

    def _rows(self, sql: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
        raise NotImplementedError

    _P95 = """
    WITH r AS (SELECT container, (cpu_usage_ns - lag(cpu_usage_ns) OVER w) / 1e6 / (ts_ms - lag(ts_ms) OVER w) AS cores
               FROM sample WHERE ts_ms >= ? AND ts_ms < ? WINDOW w AS (PARTITION BY container ORDER BY ts_ms)),
    ranked AS (SELECT container, cores, row_number() OVER (PARTITION BY container ORDER BY cores) AS place,
               count(*) OVER (PARTITION BY container) AS many FROM r WHERE cores IS NOT NULL)
    SELECT path, cores FROM ranked JOIN container ON id = container WHERE place = (95 * many + 99) / 100
    """

    def _last(self, asked: Asked) -> Answer:
        return _pairs(
            self._rows(
                # CROSS JOIN keeps SQLite from reading all of `sample` to look its rows up in the other table
                "SELECT path, memory_working_set_bytes FROM container JOIN container_span p ON p.container = id "
                "CROSS JOIN sample s WHERE s.container = p.container AND s.ts_ms = p.last_ms"
            )
        )

    def _rate(self, asked: Asked) -> Answer:
        sql = """
        WITH r AS (SELECT ts_ms, cpu_usage_ns - lag(cpu_usage_ns) OVER w AS used, ts_ms - lag(ts_ms) OVER w AS passed
                   FROM sample WHERE container = (SELECT id FROM container WHERE path = ?) AND ts_ms >= ? AND ts_ms < ?
                   WINDOW w AS (ORDER BY ts_ms))
        SELECT ts_ms - ts_ms % 60000, sum(used) / 1e6 / sum(passed) FROM r WHERE ts_ms >= ? GROUP BY 1 ORDER BY 1
        """
        hour = asked.hour
        return _pairs(self._rows(sql, asked.path, hour.from_ms - asked.lead_ms, hour.to_ms, hour.from_ms))

    def _top(self, asked: Asked) -> Answer:
        sql = """
        SELECT path, mean FROM (SELECT container, avg(memory_working_set_bytes) AS mean FROM sample
                                WHERE ts_ms >= ? AND ts_ms < ? GROUP BY container ORDER BY 2 DESC LIMIT 10) AS ten
        JOIN container ON id = container ORDER BY mean DESC
        """
        return _pairs(self._rows(sql, *asked.day))

    def _p95(self, asked: Asked) -> Answer:
        return _pairs(self._rows(self._P95, *asked.whole))

    def _namespace(self, asked: Asked) -> Answer:
        sql = """
        WITH r AS (SELECT s.container, ts_ms, cpu_usage_ns - lag(cpu_usage_ns) OVER w AS used,
                          ts_ms - lag(ts_ms) OVER w AS passed FROM sample s WHERE ts_ms >= ? AND ts_ms < ?
                   AND s.container IN (SELECT container FROM container_metadata WHERE namespace = ?)
                   WINDOW w AS (PARTITION BY s.container ORDER BY ts_ms)),
        each AS (SELECT ts_ms - ts_ms % 300000 AS bucket, sum(used) / 1e6 / sum(passed) AS cores
                 FROM r WHERE ts_ms >= ? AND used IS NOT NULL GROUP BY container, 1)
        SELECT bucket, sum(cores) FROM each GROUP BY 1 ORDER BY 1
        """
        day = asked.day
        return _pairs(self._rows(sql, day.from_ms - asked.lead_ms, day.to_ms, asked.namespace, day.from_ms))

    def _failures(self, asked: Asked) -> Answer:
        sql = """
        SELECT path FROM container JOIN (SELECT container FROM sample WHERE ts_ms >= ? AND ts_ms < ? GROUP BY container
            HAVING max(memory_failures) > min(memory_failures) OR max(memory_oom_kills) > min(memory_oom_kills)) AS rose
        ON container = id
        """
        return _set(self._rows(sql, *asked.day))

    def _alive(self, asked: Asked) -> Answer:
        hour = asked.alive_hour
        sql = "SELECT path FROM container JOIN container_span ON container = id WHERE first_ms < ? AND last_ms >= ?"
        return _set(self._rows(sql, hour.to_ms, hour.from_ms))

    def _export(self, asked: Asked) -> Answer:
        sql = """
        SELECT ts_ms, memory_working_set_bytes FROM sample WHERE container = (SELECT id FROM container WHERE path = ?)
        AND ts_ms >= ? AND ts_ms < ? ORDER BY ts_ms
        """
        return _pairs(self._rows(sql, asked.path, *asked.whole))


class SqliteStore(SqlStore):
    name = "SQLite"

    def _start(self) -> None:
        self.folder.mkdir(parents=True)
        self.path = self.folder / "store.db"
        self.config = SqlConfig(url=f"sqlite:///{self.path}", retention_s=0, retention_bytes=0)
        self._sink = self._opened(SqlSink(self.config))
        engine = sa.create_engine(f"sqlite:///{self.path}")
        self._exit.callback(engine.dispose)
        self._conn = self._exit.enter_context(engine.connect())

    def _rows(self, sql: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
        found = self._conn.exec_driver_sql(sql, parameters).fetchall()
        self._conn.rollback()
        return [tuple(row) for row in found]

    def size_bytes(self) -> int:
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.stat().st_size


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


STORES: Mapping[str, Callable[[Path], Store]] = {
    "sqlite": SqliteStore,
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
