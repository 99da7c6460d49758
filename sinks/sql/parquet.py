"""The tables as Parquet files: FOLDER/<table>/<hour>.parquet for what has a time, FOLDER/<table>.parquet for the rest.

Of roll-ups a file has a day of 5 minutes, or a month of hours.

Within a file rows are sorted by container and time, which a column store packs to a sixth of SQLite's size. Needs pyarrow.
"""

import functools
import itertools
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tidegauge.pipeline.catalogue import INSTANCE_LABELS, SCALAR_TABLES
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.history import StoreError
from tidegauge.sinks.sql.sql_tables import TIME_COLUMNS
from tidegauge.sinks.sql.tables import sql_name
from tidegauge.sinks.sql.tables_rollup import FIVE_MINUTES_MS, SUFFIXES, metadata, periods, rolled_tables
from tidegauge.sinks.sql.tables_source import Rows, TableSource, as_number, named_rows

HOUR_MS = 3_600_000
TIMED = (*SCALAR_TABLES, *INSTANCE_LABELS, "event", "gap")
SMALL = ("container", "container_metadata", "container_span", "metric", "rollup_deleted")
ROLLED = tuple((table.name(width_ms), width_ms) for width_ms in SUFFIXES for table in rolled_tables())
_HOUR = "%Y-%m-%dT%H"
_FORMS = {FIVE_MINUTES_MS: "%Y-%m-%d", HOUR_MS: "%Y-%m"}
"""Names of files, those of roll-ups by their width."""
_STEP_MS = 600_000
"""An hour is read in steps of so much: a read transaction stays short."""
_ROLLED_ROWS = 5000
"""Of roll-ups that are read at once."""


def pyarrow() -> Any:
    """The library, loaded when it is needed. ConfigError with what to install if it is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise ConfigError("Parquet needs pyarrow: pip install 'tidegauge[parquet]'") from exc
    return pyarrow


def export(
    tables: TableSource,
    folder: Path,
    since_ms: int,
    until_ms: int,
    progress: Callable[[int], None],
    along: Callable[[float], None] = lambda share: None,
) -> tuple[int, int]:
    """Writes whole hours that touch the span, roll-ups, and the small tables. (rows, files) written. OSError, StoreError.

    `progress` gets the time that samples have reached, then `along` the share of roll-ups that are written.
    A file is put in place when it is whole, and one that is there is made anew, so that it may be repeated.
    """
    pa = pyarrow()
    folder.mkdir(parents=True, exist_ok=True)
    rows = files = 0
    at_ms = since_ms // HOUR_MS * HOUR_MS
    while (next_ms := tables.next_ms(at_ms)) is not None and next_ms < until_ms:
        hour_ms = next_ms // HOUR_MS * HOUR_MS
        name = f"{datetime.fromtimestamp(hour_ms / 1000, UTC):{_HOUR}}.parquet"
        for table in TIMED:
            if columns := tables.columns(table):
                steps = (tables.rows(table, ms, ms + _STEP_MS) for ms in range(hour_ms, hour_ms + HOUR_MS, _STEP_MS))
                made = [_arrow(pa, table, columns, step) for step in steps if step]
                if made:
                    rows, files = rows + sum(part.num_rows for part in made), files + 1
                    _write(pa, folder / sql_name(table) / name, _sorted(pa.concat_tables(made, promote_options="permissive")))
        at_ms = hour_ms + HOUR_MS
        progress(min(at_ms, until_ms))
    progress(until_ms)
    spans = [*named_rows(tables, "container_span", "first_ms", "last_ms")]
    since_ms = max(since_ms, min((first_ms for first_ms, _ in spans), default=until_ms))
    until_ms = min(until_ms, max((last_ms for _, last_ms in spans), default=since_ms) + 1)
    for done, (table, width_ms) in enumerate(ROLLED):
        for begin, from_ms, to_ms in periods(width_ms, since_ms, until_ms) if tables.columns(table) else ():
            name = f"{begin:{_FORMS[width_ms]}}.parquet"
            made_of = (_arrow(pa, table, tables.columns(table), rows) for rows in tables.rolled(table, from_ms, to_ms) if rows)
            written = _write_parts(pa, folder / table / name, made_of)
            rows, files = rows + written, files + bool(written)
            along((done + min(1.0, (to_ms - since_ms) / (until_ms - since_ms))) / len(ROLLED))
    # last, so that containers stand in them that came while rows were read
    for table in SMALL:
        last = _arrow(pa, table, tables.columns(table), tables.all(table))
        _write(pa, folder / f"{table}.parquet", last)
        rows, files = rows + last.num_rows, files + 1
    return rows, files


def _sorted(table: Any) -> Any:
    keys = [c for c in ("container", "ts_ms") if c in table.column_names and "kind" not in table.column_names]
    return table.sort_by([(key, "ascending") for key in keys]) if len(keys) == 2 else table


def _type(pa: Any, column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.Boolean):
        return pa.bool_()
    if isinstance(column.type, sa.Double):
        return pa.float64()
    if isinstance(column.type, sa.LargeBinary):
        return pa.binary()
    return pa.int64() if isinstance(column.type, sa.Integer) else pa.string()


def _arrow(pa: Any, table: str, columns: Sequence[str], rows: Rows) -> Any:
    by_column = dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(columns, ())
    arrays, names = [], []
    for name in columns:
        values: Sequence[Any] = by_column[name]
        if table == "custom" and name == "value":
            # one column a type, so that an integer of 64 bits stays what it is
            numbers = [as_number(v) for v in values]
            arrays.append(pa.array([v if isinstance(v, int) else None for v in numbers], pa.int64()))
            arrays.append(pa.array([None if isinstance(v, int) else v for v in numbers], pa.float64()))
            names += ["value_integer", "value_real"]
            continue
        type_ = _type(pa, metadata.tables[sql_name(table)].c[name])
        arrays.append(_integers(pa, f"{table}.{name}", values) if type_ == pa.int64() else pa.array(values, type_))
        names.append(name)
    return pa.table(arrays, names)


def _integers(pa: Any, column: str, values: Sequence[Any]) -> Any:
    """A column of whole numbers; where SQLite was given a fraction for it, of fractions: told a type, pyarrow cuts them."""
    try:
        made = pa.array(values)
        if made.type not in (pa.int64(), pa.float64()):
            made = made.cast(pa.int64())
    except pa.ArrowException as exc:
        raise StoreError(f"read the database: {column}: expected numbers: {exc}") from exc
    return made


def _write(pa: Any, path: Path, table: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    pa.parquet.write_table(table, fresh, compression="zstd", use_dictionary=_repeating(pa, table.schema))
    os.replace(fresh, path)


def _write_parts(pa: Any, path: Path, tables: Iterator[Any]) -> int:
    """As `_write`, without having all rows in memory; no file if there are none. The number of rows."""
    first = next(tables, None)
    if first is None:
        return 0
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    rows = 0
    dictionaries = _repeating(pa, first.schema)
    with pa.parquet.ParquetWriter(fresh, first.schema, compression="zstd", use_dictionary=dictionaries) as writer:
        for table in itertools.chain([first], tables):
            if table.schema != first.schema:
                raise StoreError(f"read the database: {path.parent.name}: expected whole numbers, got fractions among them")
            writer.write_table(table)
            rows += table.num_rows
    os.replace(fresh, path)
    return rows


def _repeating(pa: Any, schema: Any) -> list[str]:
    """Columns that get a dictionary. Counters move: a dictionary of theirs is as large as they are, and in another order, which
    leaves zstd less to find (1.36 bytes a value against 0.82)."""
    return [f.name for f in schema if f.name == "container" or pa.types.is_string(f.type)]


class ParquetTables:
    """A `tables_source.TableSource` over a folder that `export` has written. Holds one hour of each table."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreError if there are no such files."""
        self._pa = pyarrow()
        self._folder = folder
        if not (folder / "container.parquet").is_file():
            raise StoreError(f"{folder}: expected a folder written by `tidegauge export`, found no container.parquet")
        self._files = {t: sorted((folder / sql_name(t)).glob("*.parquet")) for t in (*TIMED, *(t for t, _ in ROLLED))}
        self._hours = {t: {_time_ms(f, _HOUR): f for f in self._files[t]} for t in TIMED}
        self._held: dict[str, tuple[int, Any, Sequence[int]]] = {}
        """By table: the hour, its rows by key as a table of pyarrow, their times."""

    def columns(self, table: str) -> list[str]:
        file = self._folder / f"{table}.parquet" if table in SMALL else next(iter(self._files[table]), None)
        if file is None or (table == "rollup_deleted" and not file.exists()):
            return []
        names = list(self._read(self._pa.parquet.read_schema, file).names)
        known = [c.name for c in metadata.tables[sql_name(table)].columns]
        return [c for c in known if c in names or (c == "value" and "value_real" in names)]

    def all(self, table: str) -> Rows:
        read = self._read(self._pa.parquet.read_table, self._folder / f"{table}.parquet")
        return _rows_of(read, self.columns(table))

    def rows(self, table: str, from_ms: int, to_ms: int) -> Rows:
        out: list[tuple[Any, ...]] = []
        for hour_ms in range(from_ms // HOUR_MS * HOUR_MS, to_ms, HOUR_MS):
            if hour_ms in self._hours[table]:
                held, times = self._hour(table, hour_ms)
                low, high = bisect_left(times, from_ms), bisect_left(times, to_ms)
                out += _rows_of(held.slice(low, high - low), self.columns(table))
        return out

    def next_ms(self, at_ms: int) -> int | None:
        found: list[int] = []
        for table in ("sample", "event", "gap"):
            hours = sorted(h for h in self._hours[table] if h + HOUR_MS > at_ms)
            found += next(([later[0]] for h in hours if (later := self._later(table, h, at_ms))), [])
        return min(found, default=None)

    def full_ms(self, from_ms: int, to_ms: int, rows: int) -> int | None:
        """To an hour, where that is behind the one in memory."""
        for hour_ms in range(from_ms // HOUR_MS * HOUR_MS, to_ms, HOUR_MS):
            if hour_ms not in self._hours["sample"]:
                continue
            if hour_ms > from_ms:
                rows -= self._read(self._pa.parquet.read_metadata, self._hours["sample"][hour_ms]).num_rows
                if rows < 0:
                    return hour_ms
                continue
            times = self._later("sample", hour_ms, from_ms)
            if len(times) > rows:
                return times[rows] if times[rows] < to_ms else None
            rows -= len(times)
        return None

    def rolled(self, table: str, from_ms: int, to_ms: int) -> Iterator[Rows]:
        width_ms = dict(ROLLED)[table]
        names = self.columns(table)
        time = names.index("ts_ms")
        for file in self._files[table]:
            first_ms = _time_ms(file, _FORMS[width_ms])
            if first_ms >= to_ms or all(end_ms <= from_ms for _, _, end_ms in periods(width_ms, first_ms, first_ms + 1)):
                continue
            parts = self._read(self._pa.parquet.ParquetFile, file).iter_batches(batch_size=_ROLLED_ROWS)
            while (part := self._read(functools.partial(_next, parts), file)) is not None:
                yield [row for row in _rows_of(part, names) if from_ms <= row[time] < to_ms]

    def _later(self, table: str, hour_ms: int, at_ms: int) -> Sequence[int]:
        times = self._hour(table, hour_ms)[1]
        return times[bisect_left(times, at_ms) :]

    def close(self) -> None:
        self._held.clear()

    def _hour(self, table: str, hour_ms: int) -> tuple[Any, Sequence[int]]:
        """Rows of an hour by key, in columns: as Python's they would take several times the memory. And their times."""
        held = self._held.get(table)
        if held is None or held[0] != hour_ms:
            time = TIME_COLUMNS.get(table, "ts_ms")
            key = [c.name for c in metadata.tables[sql_name(table)].primary_key.columns if c.name != time]
            read = self._read(self._pa.parquet.read_table, self._hours[table][hour_ms])
            read = read.sort_by([(name, "ascending") for name in (time, *key)])
            times = array("q")
            for chunk in read[time].chunks:
                times.extend(chunk.to_pylist())
            held = self._held[table] = (hour_ms, read, times)
        return held[1], held[2]

    def _read(self, read: Callable[[Path], Any], file: Path) -> Any:
        try:
            return read(file)
        except (OSError, self._pa.ArrowException) as exc:
            raise StoreError(f"read {file}: {exc}") from exc


def _rows_of(read: Any, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of a table or a batch of pyarrow, in the order of our columns."""
    there = dict(zip(read.schema.names, (c.to_pylist() for c in read.columns), strict=True))
    if "value_real" in there:
        pairs = zip(there["value_integer"], there["value_real"], strict=True)
        there["value"] = [real if integer is None else integer for integer, real in pairs]
    nothing = [None] * read.num_rows
    return list(zip(*(there.get(c, nothing) for c in columns), strict=True))


def _next(parts: Iterator[Any], _: Path) -> Any:
    return next(parts, None)


def _time_ms(file: Path, form: str) -> int:
    """The time in a file's name. StoreError if it has another."""
    try:
        return round(datetime.strptime(file.stem, form).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as exc:
        wanted = datetime(2026, 11, 23, 14).strftime(form)
        raise StoreError(f"{file}: expected a name such as {wanted}.parquet") from exc


def views(folder: Path) -> Iterator[tuple[str, str]]:
    """(table, pattern of its files) of what a folder holds, for whoever asks it in SQL."""
    for table in SMALL:
        if (folder / f"{table}.parquet").is_file():
            yield table, str(folder / f"{table}.parquet")
    for table in (*(sql_name(table) for table in TIMED), *(table for table, _ in ROLLED)):
        if any((folder / table).glob("*.parquet")):
            yield table, str(folder / table / "*.parquet")
