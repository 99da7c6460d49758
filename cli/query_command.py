"""`tidegauge query "SELECT ..."`: asks the database of an SQL sink, under the same bounds as the endpoint."""

import contextlib
import csv
import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.errors import TidegaugeError
from tidegauge.pipeline.sql_query import MOST_ROWS, KeepsSql, Question, SqlAnswer, ask
from tidegauge.pipeline.state import drop_to, server_ids

_LEAST_WIDTH = 8
"""To which a column of text is cut at most where a terminal is too narrow."""


@click.command("query")
@click.argument("sql")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
@click.option("--limit", type=click.IntRange(1, MOST_ROWS), default=10_000, show_default=True, help="Rows at most.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Seconds.")
@click.option("--sink", help="Name of the sink; else the one named sql, or the only one.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of the terminal.")
@common
def command(
    config_file: Path | None,
    state_dir: Path | None,
    assignments: tuple[str, ...],
    sql: str,
    form: str,
    limit: int,
    timeout_s: float,
    sink: str | None,
    output: Path | None,
) -> None:
    """Ask the database in SQL: one SELECT, or - to read it from the standard input.

    The views cpu, memory, network, disk, filesystem, events and containers are made for this. Times: ms('-1 hour'),
    ms('last tuesday', '+1 day').
    """
    config = load(config_file, state_dir, assignments)
    store = _store(config, sink)
    text = sys.stdin.read() if sql == "-" else sql
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("--format parquet: expected --output FILE, or a pipe")
    with contextlib.ExitStack() as stack:
        # what a reader leaves beside a file of the server's belongs to the server, what it writes to the user
        opened = None if output is None else stack.enter_context(_opened(output))
        drop_to(server_ids(config.server_user, config.state_dir))
        found = ask(store.query_target(), Question(text, limit, timeout_s))
        width = shutil.get_terminal_size().columns if opened is None and sys.stdout.isatty() else None
        written = _FORMS[form](found) if form != "table" else _lines(table(found, width))
        try:
            if opened is not None:
                opened.truncate()
                opened.write(written)
            else:
                sys.stdout.buffer.write(written)
                sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        except OSError as exc:
            raise TidegaugeError(f"{output or 'standard output'}: {exc.strerror}") from exc
    if found.is_cut:
        click.echo(f"tidegauge: there are more rows than these {len(found.rows)} (--limit)", err=True)


def _store(config: configuration.Config, name: str | None) -> KeepsSql:
    found: dict[str, KeepsSql] = {}
    for each, settings in configuration.sink_tables(config).items():
        if name in (None, each) and str(settings.get("plugin") or each) not in ("memory", "stdout", "influxdb"):
            cls, _, own = configuration.split_sink(each, settings, config)
            made = cls(own)
            if isinstance(made, KeepsSql):
                found[each] = made
    if name is not None and name not in found:
        raise TidegaugeError(f"--sink {name}: there is no sink of that name that keeps its rows in SQL")
    if not found:
        raise TidegaugeError("no sink that keeps its rows in SQL is configured")
    if name is None and len(found) > 1 and "sql" not in found:
        raise TidegaugeError(f"--sink: expected one of {', '.join(sorted(found))}")
    return found[name or ("sql" if "sql" in found else next(iter(found)))]


def _opened(path: Path) -> BinaryIO:
    """To be written, but not emptied yet."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb")
    except OSError as exc:
        raise TidegaugeError(f"{path}: {exc.strerror}") from exc


def table(answer: SqlAnswer, width: int | None = None) -> list[str]:
    """Lines of a header, a rule and the rows: numbers to the right, `-` for NULL, no control characters.

    With a width, the widest columns of text are cut so that a line fits; where that does not do, each row becomes a block
    with a line for each column.
    """
    is_number = [
        any(row[i] is not None for row in answer.rows) and all(isinstance(row[i], int | float | None) for row in answer.rows)
        for i in range(len(answer.columns))
    ]
    cells = [[_printable(name) for name in answer.columns], *([_cell(value) for value in row] for row in answer.rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max((i for i in range(len(widths)) if not is_number[i]), key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _LEAST_WIDTH:
            return _blocks(cells)
        over = sum(widths) + 2 * (len(widths) - 1) - width
        second = sorted((w for i, w in enumerate(widths) if not is_number[i]), reverse=True)[1:2]
        widths[widest] = max(_LEAST_WIDTH, widths[widest] - max(1, min(over, widths[widest] - (second or [0])[0])))
    lines = [
        "  ".join(_padded(_cut(text, w), w, to_right=right) for text, w, right in zip(row, widths, is_number, strict=True))
        for row in cells
    ]
    return [line.rstrip() for line in (lines[0], "  ".join("-" * w for w in widths), *lines[1:])]


def _blocks(cells: Sequence[Sequence[str]]) -> list[str]:
    names, *rows = cells
    width = max(map(_width, names))
    out: list[str] = []
    for number, row in enumerate(rows, 1):
        out.append(f"-- row {number}")
        out += [f"{_padded(name, width, to_right=False)}  {text}".rstrip() for name, text in zip(names, row, strict=True)]
    return out


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _cell(value: int | float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e15:
        whole, _, part = f"{value:.6f}".partition(".")
        return f"{whole}.{part.rstrip('0')}" if part.strip("0") else whole
    return f"{value:.6g}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _width(text: str) -> int:
    """Columns that it takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) >= width:
        text = text[:-1]
    return f"{text}…"


def _padded(text: str, width: int, *, to_right: bool) -> str:
    space = " " * (width - _width(text))
    return f"{space}{text}" if to_right else f"{text}{space}"


def _names(columns: Sequence[str]) -> list[str]:
    """The columns' names, later ones of the same name with a number."""
    out: list[str] = []
    for name in columns:
        fresh, n = name, 1
        while fresh in out:
            n += 1
            fresh = f"{name}_{n}"
        out.append(fresh)
    return out


def _csv(answer: SqlAnswer) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)
    return out.getvalue().encode(errors="replace")


def _json(answer: SqlAnswer) -> bytes:
    """A list of objects, one a line."""
    names = _names(answer.columns)
    rows = b",\n".join(msgspec.json.encode(dict(zip(names, row, strict=True))) for row in answer.rows)
    return b"[" + rows + b"]\n"


def _parquet(answer: SqlAnswer) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise TidegaugeError("--format parquet: expected pyarrow, pip install 'tidegauge[parquet]'") from exc
    columns = [_one_type([row[i] for row in answer.rows]) for i in range(len(answer.columns))]
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, names=_names(answer.columns)), out, compression="zstd")
    return out.getvalue()


def _one_type(values: list[Any]) -> list[Any]:
    """A column of Parquet has one type: of integers and floats floats, of anything else mixed texts."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    to = float if kinds == {int, float} else str
    return [None if value is None else to(value) for value in values]


_FORMS = {"csv": _csv, "json": _json, "parquet": _parquet}
