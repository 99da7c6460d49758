"""What one SQL store hands to another beside records: roll-ups, which reach further back than the samples they were made of,
the times of first and last samples, and whose number a container bears.

Roll-ups go by key. Where the target has made one of its own, the one that knows more stays; so it may be repeated.
"""

from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from tidegauge.pipeline.copying import Taken
from tidegauge.sinks.sql.database import Database, Writer, columns
from tidegauge.sinks.sql.retention import SET_DELETED
from tidegauge.sinks.sql.rows import Columns, Insert
from tidegauge.sinks.sql.store import SPAN
from tidegauge.sinks.sql.tables import metadata
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, SUFFIXES, RolledTable, periods, rolled_tables
from tidegauge.sinks.sql.tables_source import TableSource, named_rows

_IDENTITY = "UPDATE container SET agent = ?, number = ? WHERE id = ?"
_IDENTITIES = "SELECT id, source, instance, epoch FROM container"
_UNMARK = "DELETE FROM rollup_dirty WHERE width_ms = ? AND ts_ms < ? AND container = ?"


def take_rollups(source: TableSource, conn: sa.Connection, database: Database, since_ms: int, until_ms: int) -> Iterator[Taken]:
    """Yields after each transaction what it took. Containers that the target does not have are left out.

    Raises StoreError where the source cannot be read, sqlalchemy.exc.DBAPIError for the target.
    """
    writer = database.writer(conn)
    with conn.begin():
        ids, is_all = _ids(source, conn)
        identities = {id_: rest for id_, *rest in named_rows(source, "container", "id", "agent", "number")}
        if ids:
            conn.exec_driver_sql(_IDENTITY, [(*identities[own], id_) for own, id_ in ids.items()])
        told = named_rows(source, "container_span", "container", "first_ms", "last_ms")
        spans = [(ids[own], *of) for own, *of in told if own in ids and of[0] < until_ms and of[1] >= since_ms]
        first_ms = max(since_ms, min((of[0] for _, *of in spans), default=until_ms))
        end_ms = min(until_ms, 1 + max((of[1] for _, *of in spans), default=since_ms))
        insert = Insert("container_span", ("container", "first_ms", "last_ms"), 1, SPAN)
        insert.rows = [(id_, max(since_ms, first), min(last, until_ms - 1)) for id_, first, last in spans]
        if spans:
            writer.insert(insert)
        deleted = dict(named_rows(source, "rollup_deleted", "width_ms", "before_ms"))
        if ids and 0 in deleted:
            # around that time the target has less to make roll-ups of than the source had
            silences = named_rows(source, "container_metadata", "max_interval_s", "base_interval_s")
            until_made_ms = deleted[0] + 2 * round(1000 * max((sum(of) for of in silences), default=0))
            conn.exec_driver_sql(_UNMARK, [(FIVE_MINUTES_MS, until_made_ms, id_) for id_ in ids.values()])
        if ids and deleted and is_all:
            conn.exec_driver_sql(SET_DELETED, sorted(deleted.items()))
        found = columns(conn, metadata.tables)
    yield Taken(0, 0.0)
    if not spans:
        return
    # hours last: one that the target makes meanwhile is made of all its 5 minutes
    names = [(table, width_ms) for width_ms in SUFFIXES for table in rolled_tables(found)]
    for done, (table, width_ms) in enumerate(names):
        for rows, at_ms in _take(source, conn, writer, table, width_ms, found, ids, first_ms // width_ms * width_ms, end_ms):
            yield Taken(rows, (done + max(0.0, (at_ms - first_ms) / (end_ms - first_ms))) / len(names))


def _take(
    source: TableSource,
    conn: sa.Connection,
    writer: Writer,
    table: RolledTable,
    width_ms: int,
    found: Columns,
    ids: Mapping[int, int],
    since_ms: int,
    until_ms: int,
) -> Iterator[tuple[int, int]]:
    """Roll-ups of one table: how many, and of what time, after each transaction."""
    name = table.name(width_ms)
    names = source.columns(name)
    at = [i for i, n in enumerate(names) if n in found[name]]
    insert = _insert(table, name, [names[i] for i in at])
    for _, from_ms, to_ms in periods(width_ms, since_ms, until_ms) if names else ():
        for rows in source.rolled(name, max(from_ms, since_ms), min(to_ms, until_ms)):
            insert.rows = [(ids[row[0]], *(row[i] for i in at[1:])) for row in rows if row[0] in ids]
            if insert.rows:
                with conn.begin():
                    writer.insert(insert)
            yield len(insert.rows), max(from_ms, since_ms)


def _ids(source: TableSource, conn: sa.Connection) -> tuple[Mapping[int, int], bool]:
    """Ids of containers in the source -> those in the target; whether these are all that the target has."""
    there = {tuple(key): id_ for id_, *key in conn.exec_driver_sql(_IDENTITIES)}
    own = {id_: tuple(key) for id_, *key in named_rows(source, "container", "id", "source", "instance", "epoch")}
    ids = {id_: there[key] for id_, key in own.items() if key in there}
    return ids, len(ids) == len(there)


def _insert(table: RolledTable, name: str, names: Sequence[str]) -> Insert:
    knows_more = f"(excluded.covered_ms, excluded.count) > ({name}.covered_ms, {name}.count)"
    new = ", ".join(f'"{n}" = excluded."{n}"' for n in names if n not in table.key)
    return Insert(name, names, len(table.key), f"SET {new} WHERE {knows_more}")
