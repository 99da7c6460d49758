"""The databases that the SQL sink writes to, for tests of what must hold on each: SQLite, and a real PostgreSQL.

Everything is read with plain SQL over drivers alone: nothing of the package's reading code.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa
from tests.servers import PostgresServer

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, SCALAR_TABLES
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import Container, Spec
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.database import open_database
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.tables import sql_name


class Sqlite:
    kind = "sqlite"

    def sink(self, folder: Path, **options: Any) -> SqlSink:
        """A new sink, over the same database for the same folder."""
        return SqlSink(SqlConfig(state_dir=folder, **options))


class Postgresql:
    kind = "postgresql"

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._made: list[str] = []

    def sink(self, folder: Path, **options: Any) -> SqlSink:
        """A new sink, over the same database for the same folder, migrated."""
        return SqlSink(SqlConfig(url=self.url(folder), password=self.server.password, state_dir=folder, **options))

    def url(self, folder: Path) -> str:
        """URL of the folder's database, which is made if there is none: a copy of one that was migrated once."""
        name = f"test_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
        names = {n for (n,) in self.server.sql("SELECT datname FROM pg_database")}
        if "migrated" not in names:
            self.server.role("agent")
            url = self.server.database("migrated", "agent")
            migrate.upgrade(open_database(url, password=self.server.password))
        if name not in names:
            self.server.sql(f"CREATE DATABASE {name} OWNER agent TEMPLATE migrated")
            self._made.append(name)
        return self.server.url(name, "agent")

    def close(self) -> None:
        """Drops the databases that were made: each takes some 12 MB."""
        for name in self._made:
            self.server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def dicts(sink: SqlSink, sql: str, *arguments: Any) -> Iterator[dict[str, Any]]:
    """Rows of a question with `?`, by column, over a connection of its own."""
    if sink.database.is_embedded:
        with contextlib.closing(sqlite3.connect(sink.path)) as conn:
            cursor = conn.execute(sql, arguments)
            names = [c[0] for c in cursor.description or ()]
            rows: list[Any] = cursor.fetchall()
            conn.commit()
    else:
        url = sa.make_url(sink.url)
        with psycopg.connect(
            host=url.host, port=url.port, user=url.username, password=PostgresServer.password, dbname=url.database
        ) as conn:
            found = conn.execute(sql.replace("?", "%s"), arguments)
            names = [c.name for c in found.description or ()]
            rows = found.fetchall() if names else []
    for row in rows:
        yield dict(zip(names, map(_number, row), strict=True))


def ask(sink: SqlSink, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in dicts(sink, sql, *arguments)]


def _number(value: Any) -> Any:
    """NUMERIC as SQLite would have it."""
    if isinstance(value, Decimal):
        return int(value) if "." not in f"{value:f}" and abs(value) < 1 << 63 else float(value)
    return value


def everything(sink: SqlSink) -> list[tuple[tuple[str, int, int], dict[str, Any]]]:
    """All samples in the form of `flat`."""
    out: dict[tuple[str, int, int], dict[str, Any]] = {}
    for table in (*SCALAR_TABLES, *INSTANCE_LABELS):
        label = INSTANCE_LABELS.get(table)
        sql = f"SELECT c.instance AS c_i, c.epoch AS c_e, t.* FROM {sql_name(table)} t JOIN container c ON c.id = container"
        for values in dicts(sink, sql):
            key = (values.pop("c_i"), values.pop("c_e"), values.pop("ts_ms"))
            del values["container"]
            into = out.setdefault(key, {}) if table == "sample" else out[key]
            if table == "sample" and values.pop("is_closing"):
                into["is_closing"] = 1
            instance = values.pop(label) if label else ""
            if table == "custom":
                values = {values["metric"]: values["value"]}
            suffix = f"[{instance}]" if instance else ""
            into |= {f"{name}{suffix}": v for name, v in values.items() if v is not None}
    return list(out.items())


def live(sink: SqlSink) -> list[Container]:
    """Containers that have not ended, with their newest metadata, ordered by path; without what is not stored."""
    found = []
    for row in dicts(
        sink,
        "SELECT c.number, c.source, c.instance, c.epoch, c.boot_id, c.path, c.host, c.created_ms, m.* "
        "FROM container c JOIN container_metadata m ON m.container = c.id WHERE c.ended_ms IS NULL "
        "AND valid_from_ms = (SELECT max(valid_from_ms) FROM container_metadata WHERE container = c.id) ORDER BY c.path",
    ):
        del row["container"]
        spec = Spec(**{name: row.pop(name) for name in Spec.__struct_fields__})
        aliases, labels, environment, machine = (row.pop(n) for n in ("aliases", "labels", "environment", "machine"))
        found.append(
            Container(
                **row,
                aliases=tuple(json.loads(aliases)),
                labels=json.loads(labels),
                environment=json.loads(environment),
                spec=None if spec == Spec() else spec,
                machine=None if machine is None else msgspec.json.decode(machine, type=Machine),
            )
        )
    return found
