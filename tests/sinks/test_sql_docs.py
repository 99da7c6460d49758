"""The SQL of the documentation, run as it stands there; only 'now' is replaced by a fixed time."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from tidegauge.pipeline.records import Event, Gap
from tidegauge.pipeline.testing import SOURCE, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.tables import metadata

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = make_schema(("cpu_usage_ns", "memory_working_set_bytes"), ())


def statements() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", (DOCS / "sinks" / "sql.md").read_text(), re.DOTALL)


def ask(sink: SqlSink, word: str, now: str, limit: int = 1) -> list[tuple[Any, ...]]:
    (sql,) = (s for s in statements() if word in s)
    sql = sql.replace("LIMIT 1", f"LIMIT {limit}")
    conn = sqlite3.connect(sink.path)
    try:
        return conn.execute(sql.replace("'now'", f"'{now}'")).fetchall()
    finally:
        conn.close()


def ms(text: str) -> int:
    (seconds,) = sqlite3.connect(":memory:").execute("SELECT unixepoch(?)", (text,)).fetchone()
    return int(seconds) * 1000


def test_most_memory_last_tuesday(tmp_path: Path) -> None:
    sink = SqlSink(SqlConfig(state_dir=tmp_path))
    host, outer, web, db = (make_container(n, p, name=None) for n, p in enumerate(("/", "/pod", "/pod/web", "/pod/db"), 1))
    web = msgspec.structs.replace(web, name="web")
    again = make_container(5, "/pod/web", instance=web.instance, epoch=1, name="web")

    def memory(number: int, at: str, mib: int | None) -> Any:
        return make_sample(SCHEMA, number, ms(at), memory_working_set_bytes=None if mib is None else mib << 20)

    samples = [
        memory(4, "2023-11-13 23:59:59", 9000),
        memory(1, "2023-11-14 10:00:00", 8000),
        memory(2, "2023-11-14 10:00:00", 700),
        memory(3, "2023-11-14 00:00:00", 400),
        memory(3, "2023-11-14 10:00:00", None),
        memory(4, "2023-11-14 10:00:00", 399),
        memory(5, "2023-11-14 23:59:59", 401),
        memory(4, "2023-11-15 00:00:00", 9000),
    ]
    sink.write([make_batch(samples, (host, outer, web, db, again), (SCHEMA,))])
    for now in ("2023-11-15 00:00:00", "2023-11-20 12:00:00", "2023-11-21 12:00:00"):
        assert ask(sink, "peak_mib", now) == [("web", "host-a", 401.0, "2023-11-14 23:59:59")], now
    ranking = ask(sink, "peak_mib", "2023-11-20 12:00:00", limit=9)
    assert [(name, mib) for name, _, mib, _ in ranking] == [("web", 401.0), ("/pod/db", 399.0)]
    assert ask(sink, "peak_mib", "2023-11-22 12:00:00") == []
    sink.close()


def test_cpu_rates_respect_closing_samples_epochs_resets_and_gaps(tmp_path: Path) -> None:
    sink = SqlSink(SqlConfig(state_dir=tmp_path))
    start = ms("2023-11-15 10:00:00")
    web, later = make_container(1, "/web"), make_container(2, "/web", epoch=1)
    other = make_container(3, "/other", source="another-agent", instance="ff")

    def cpu(number: int, seconds: float, cpu_s: float, *, is_closing: bool = False) -> Any:
        ts_ms = start + int(seconds * 1000)
        return make_sample(SCHEMA, number, ts_ms, is_closing=is_closing, cpu_usage_ns=int(cpu_s * 1e9))

    samples = [
        cpu(1, 0, 10),
        cpu(1, 2, 11),  # half a core
        cpu(1, 50, 11, is_closing=True),  # idle since
        cpu(1, 51, 13),  # a burst of two cores in one second
        make_sample(SCHEMA, 1, start + 51_500, memory_working_set_bytes=1),  # CPU not read: the step spans it
        cpu(1, 52, 13.5),
        cpu(1, 120, 20),  # longer than 60 s + 1 s: unknown
        cpu(1, 121, 1),  # reset
        cpu(1, 122, 2),
        cpu(1, 124, 9),  # under a gap
        cpu(1, 125, 9.25),
        cpu(2, 90, 500),  # another epoch: no step from the first
        cpu(2, 91, 500.5),
        cpu(3, 0, 0),
        cpu(3, 1, 0.5),
        cpu(3, 123, 1),
        cpu(3, 124, 2),  # the gap is not this agent's
    ]
    sink.write(
        [
            make_batch(samples, (web, later, other), (SCHEMA,)),
            Gap(SOURCE, start + 122_500, start + 123_000, "stall", 1, None, 99),
        ]
    )
    rows = ask(sink, "AS cores", "2023-11-15 10:10:00")
    assert [(path, (a - start) / 1000, (b - start) / 1000, cores) for path, a, b, cores in rows] == [
        ("/other", 0, 1, 0.5),
        ("/other", 123, 124, 1.0),
        ("/web", 0, 2, 0.5),
        ("/web", 2, 50, 0.0),
        ("/web", 50, 51, 2.0),
        ("/web", 51, 52, 0.5),
        ("/web", 90, 91, 0.5),
        ("/web", 121, 122, 1.0),
        ("/web", 124, 125, 0.25),
    ]
    sink.write([Gap(SOURCE, start + 500, start + 1000, "suspend", None, None, 100)])
    paths = [(path, (b - start) // 1000) for path, _, b, _ in ask(sink, "AS cores", "2023-11-15 10:10:00")]
    assert ("/web", 2) not in paths
    assert ("/other", 1) in paths
    assert len(paths) == 8
    sink.close()


def test_events_and_gaps(tmp_path: Path) -> None:
    sink = SqlSink(SqlConfig(state_dir=tmp_path))
    at = ms("2023-11-15 10:00:00")
    sink.write(
        [
            make_container(1, "/a"),
            Event(at, "oom_kill", 1, {}, 5, SOURCE),
            Gap(SOURCE, at + 1000, at + 3500, "stall", None, None, 6),
        ]
    )
    assert ask(sink, "UNION ALL", "now") == [
        ("2023-11-15 10:00:00", "oom_kill", "/a", "{}"),
        ("2023-11-15 10:00:01", "gap: stall", "(all)", "2500 ms"),
    ]
    sink.close()


def test_every_statement_of_the_page_is_tested() -> None:
    words = ("peak_mib", "AS cores", "UNION ALL")
    assert [[w for w in words if w in s] for s in statements()] == [[w] for w in words]


def test_every_table_is_described() -> None:
    text = (DOCS / "schema.md").read_text()
    described = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert described == {*metadata.tables, "alembic_version"}


def test_every_option_is_described() -> None:
    text = (DOCS / "sinks" / "sql.md").read_text()
    described = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert described == {f.name for f in msgspec.structs.fields(SqlConfig)}
