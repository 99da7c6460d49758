"""SQL write at the catalogue's real width: the sink against SQLAlchemy Core with dicts and the ORM, on SQLite files.

All three store the same samples in the same table with the same settings, 300 rows a commit. The sink's figure holds all that
it does besides (spans, conflicts).
"""

import itertools
import time
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session, registry

from bench.data import containers, folder, per_sample, schema, ticks
from bench.report import Row, Section, cheaper
from bench.timing import Prepare, Work, in_turns
from tidegauge.pipeline.records import Batch


def run(parent: Path, count: int = 300, commits: int = 20, repeats: int = 3) -> list[Section]:
    from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
    from tidegauge.sinks.sql.sqlite import SqliteDatabase
    from tidegauge.sinks.sql.tables import metadata

    of = containers(count)
    batches = list(ticks(commits, of))
    full = list(ticks(commits, of, has_tables=True))
    table = metadata.tables["sample"]
    names = schema().names
    serial = itertools.count()

    class SampleRow:
        def __init__(self, **values: Any) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    registry().map_imperatively(SampleRow, table)

    def rows(batch: Batch) -> list[dict[str, Any]]:
        return [
            {"ts_ms": s.ts_ms, "container": s.container, "is_closing": False} | dict(zip(names, s.values, strict=True))
            for s in batch.samples
        ]

    def sink(what: list[Batch]) -> Prepare:
        def prepare() -> Work:
            made = SqlSink(SqlConfig(url=f"sqlite:///{folder(parent, f'sql{next(serial)}')}/sink.db"))
            made.open()
            made.write([schema(), *of.values()])
            live = _of_now(what)

            def work() -> None:
                for batch in live:
                    made.write([batch])
                made.close()

            return work

        return prepare

    def engine() -> sa.Engine:
        made = SqliteDatabase(folder(parent, f"sql{next(serial)}") / "rows.db").writing_engine()
        with made.begin() as conn:
            table.create(conn)
        return made

    def core() -> Work:
        made = engine()
        insert = table.insert().prefix_with("OR IGNORE")

        def work() -> None:
            with made.connect() as conn:
                for batch in batches:
                    with conn.begin():
                        conn.execute(insert, rows(batch))

        return work

    def orm() -> Work:
        made = engine()

        def work() -> None:
            with Session(made) as session:
                for batch in batches:
                    session.add_all(SampleRow(**row) for row in rows(batch))
                    session.commit()

        return work

    times = in_turns({"sink": sink(batches), "core": core, "orm": orm, "full": sink(full)}, repeats)
    us = {name: per_sample(t, count * commits) for name, t in times.items()}
    return [
        Section(
            f"SQL write to SQLite, CPU of one container-sample of {len(names)} columns",
            [
                Row("sql sink", "us", us["sink"]),
                Row("sql sink, with a disk, an interface and 2 CPUs (5 rows)", "us", us["full"]),
                Row("SQLAlchemy Core, dicts", "us", us["core"]),
                Row("SQLAlchemy ORM, add_all", "us", us["orm"]),
                cheaper("Core dicts / sink", us["sink"], us["core"], "at least 2", 2),
                cheaper("ORM add_all / sink", us["sink"], us["orm"], "at least 8", 8),
            ],
        )
    ]


def _of_now(batches: list[Batch]) -> list[Batch]:
    """As they come: for late rows the sink also marks the roll-ups that are to be made again."""
    later_ms = time.time_ns() // 1_000_000 - batches[0].samples[0].ts_ms
    return [
        msgspec.structs.replace(b, samples=[msgspec.structs.replace(s, ts_ms=s.ts_ms + later_ms) for s in b.samples])
        for b in batches
    ]
