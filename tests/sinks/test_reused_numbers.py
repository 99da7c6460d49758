"""A container number given out again: a repeat of the rows before takes nothing from the one that has the number now."""

import itertools
import sqlite3
from pathlib import Path

import msgspec
import pytest

from tidegauge.pipeline.records import Container, End, Event, Record
from tidegauge.pipeline.testing import SOURCE, START_MS, make_batch, make_container, make_sample, make_schema
from tidegauge.sinks.memory import MemoryConfig, MemorySink
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink

SCHEMA = make_schema()
OLD = make_container(3, instance="a" * 16, path="/old", created_ms=START_MS, valid_from_ms=START_MS)
# Made before the other ended, found after it.
NEW = make_container(3, instance="b" * 16, path="/new", created_ms=START_MS - 5000, valid_from_ms=START_MS + 10)


def _tick(container: Container, at_ms: int, row: int) -> Record:
    return make_batch([make_sample(SCHEMA, 3, START_MS + at_ms, cpu_usage_ns=at_ms)], [container], (SCHEMA,), row)


LOG: list[Record] = [
    msgspec.structs.replace(SCHEMA, row=1),
    msgspec.structs.replace(OLD, row=2),
    _tick(OLD, 1, 3),
    Event(START_MS + 2, "oom", 3, {}, 4, SOURCE),
    _tick(OLD, 3, 5),
    End(3, START_MS + 10, 6),
    msgspec.structs.replace(NEW, row=7),
    _tick(NEW, 20, 8),
    Event(START_MS + 21, "oom", 3, {}, 9, SOURCE),
    _tick(NEW, 22, 10),
]
REPEATS = list(itertools.combinations(range(len(LOG) + 1), 2))


@pytest.mark.parametrize("is_killed", [False, True], ids=["again", "restarted"])
def test_sql_keeps_the_two_apart(tmp_path: Path, is_killed: bool) -> None:
    sink = SqlSink(SqlConfig(state_dir=tmp_path))
    sink.open()
    sink.write(LOG)
    for start, end in REPEATS:
        if is_killed:
            sink.close()
            sink = SqlSink(SqlConfig(state_dir=tmp_path))
            sink.open()
        sink.write(LOG[start:end])
        with sqlite3.connect(sink.path) as db:
            found = {path: (id_, ended_ms) for id_, path, ended_ms in db.execute("SELECT id, path, ended_ms FROM container")}
            times = {path: [t - START_MS for (t,) in db.execute("SELECT ts_ms FROM sample WHERE container = ?", (id_,))]
                     for path, (id_, _) in found.items()}  # fmt: skip
            events = dict(db.execute("SELECT e.row, path FROM event e JOIN container c ON c.id = e.container"))
        db.close()
        assert {path: ended_ms for path, (_, ended_ms) in found.items()} == {"/old": START_MS + 10, "/new": None}, (start, end)
        assert times == {"/old": [1, 3], "/new": [20, 22]}, (start, end)
        assert events == {4: "/old", 9: "/new"}
    sink.close()


@pytest.mark.parametrize(("start", "end"), REPEATS)
def test_memory_keeps_the_two_apart(start: int, end: int) -> None:
    sink = MemorySink(MemoryConfig())
    for record in LOG:
        sink.write([record])
    sink.write(LOG[start:end])
    assert [c.path for c, _ in sink.latest()] == ["/new"]
    assert [s.ts_ms - START_MS for s, _ in sink.samples(NEW.instance)] == [20, 22]
    assert {s.ts_ms - START_MS for s, _ in sink.samples(OLD.instance)} <= {1, 3}
