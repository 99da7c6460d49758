"""The database as a source of tables, for copies and exports. A call is one short read transaction."""

from collections.abc import Iterator

import sqlalchemy as sa

from tidegauge.pipeline.history import StoreError
from tidegauge.sinks.sql.tables import container_span, sql_name
from tidegauge.sinks.sql.tables_rollup import metadata
from tidegauge.sinks.sql.tables_source import Rows

TIME_COLUMNS = {"gap": "from_ms"}
"""The column that tells the time of a table's rows, where it is not `ts_ms`."""
_CONTAINERS = 32
"""Whose roll-ups are read at once: of a day of 5 minutes 9000 rows, if it is one a container."""


class SqlTables:
    """A `tables_source.TableSource` over an engine, which it closes."""

    def __init__(self, engine: sa.Engine) -> None:
        """Raises StoreError if the database cannot be read or holds no tables of ours."""
        self._engine = engine
        try:
            with engine.connect() as conn:
                found = sa.inspect(conn)
                there = set(found.get_table_names())
                self._columns = {
                    name: {c["name"] for c in found.get_columns(name)} for name in metadata.tables if name in there
                }
        except sa.exc.SQLAlchemyError as exc:
            raise StoreError(f"read the database: {getattr(exc, 'orig', None) or exc}") from exc
        if "sample" not in self._columns:
            raise StoreError("read the database: it holds no tables of tidegauge")

    def columns(self, table: str) -> list[str]:
        return [c.name for c in self._chosen(table)]

    def all(self, table: str) -> Rows:
        of = metadata.tables[sql_name(table)]
        return self._fetch(sa.select(*self._chosen(table)).order_by(*of.primary_key.columns))

    def rows(self, table: str, from_ms: int, to_ms: int) -> Rows:
        of = metadata.tables[sql_name(table)]
        time = of.c[TIME_COLUMNS.get(table, "ts_ms")]
        order = of.primary_key.columns if time.primary_key else (time, *of.primary_key.columns)
        return self._fetch(sa.select(*self._chosen(table)).where(time >= from_ms, time < to_ms).order_by(*order))

    def next_ms(self, at_ms: int) -> int | None:
        found = []
        for table in ("sample", "event", "gap"):
            time = metadata.tables[table].c[TIME_COLUMNS.get(table, "ts_ms")]
            found += [row[0] for row in self._fetch(sa.select(sa.func.min(time)).where(time >= at_ms))]
        return min((ms for ms in found if ms is not None), default=None)

    def full_ms(self, from_ms: int, to_ms: int, rows: int) -> int | None:
        time = metadata.tables["sample"].c.ts_ms
        found = self._fetch(sa.select(time).where(time >= from_ms, time < to_ms).order_by(time).offset(rows).limit(1))
        return int(found[0][0]) if found else None

    def rolled(self, table: str, from_ms: int, to_ms: int) -> Iterator[Rows]:
        """By container, which is how they lie."""
        of, span = metadata.tables[table], container_span.c
        lived = sa.select(span.container).where(span.first_ms < to_ms, span.last_ms >= from_ms).order_by(span.container)
        ids = [row[0] for row in self._fetch(lived)]
        asked = sa.select(*self._chosen(table)).where(of.c.ts_ms >= from_ms, of.c.ts_ms < to_ms)
        for first in range(0, len(ids), _CONTAINERS):
            some: list[sa.ColumnElement[int]] = [sa.literal_column(str(int(id_))) for id_ in ids[first : first + _CONTAINERS]]
            yield self._fetch(asked.where(of.c.container.in_(some)).order_by(*of.primary_key.columns))

    def close(self) -> None:
        self._engine.dispose()

    def _chosen(self, table: str) -> list[sa.Column[object]]:
        name = sql_name(table)
        there = self._columns.get(name, set())
        # a type that makes floats of all numbers would lose which of them were integers
        return [
            sa.type_coerce(c, sa.types.NullType()).label(c.name) if isinstance(c.type, sa.Numeric) and name == "custom" else c  # type: ignore[misc]
            for c in metadata.tables[name].columns
            if c.name in there
        ]

    def _fetch(self, query: sa.Executable) -> Rows:
        try:
            with self._engine.connect() as conn:
                return [tuple(row) for row in conn.execute(query)]
        except sa.exc.SQLAlchemyError as exc:
            raise StoreError(f"read the database: {getattr(exc, 'orig', None) or exc}") from exc
