"""How an answer in SQL is written: a table for people, CSV, JSON, Parquet."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from tidegauge.pipeline.sql_query import SqlAnswer, Value, readable
from tidegauge.sinks.sql.parquet import pyarrow

_LEAST_WIDTH = 8
"""To which a column of text is cut at most where a terminal is too narrow."""


def as_table(answer: SqlAnswer, width: int | None = None) -> bytes:
    return "".join(f"{line}\n" for line in table(answer, width)).encode(errors="replace")


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


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, bytes):
        return value.hex()
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


def as_csv(answer: SqlAnswer) -> bytes:
    """A header and the rows; NULL is empty, bytes are hexadecimal digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(map(readable, answer.rows))
    return out.getvalue().encode(errors="replace")


def as_json(answer: SqlAnswer) -> bytes:
    """A list of objects, one a line; bytes are hexadecimal digits."""
    names = _names(answer.columns)
    rows = b",\n".join(msgspec.json.encode(dict(zip(names, readable(row), strict=True))) for row in answer.rows)
    return b"[" + rows + b"]\n"


def as_parquet(answer: SqlAnswer) -> bytes:
    """A file with a column of one type for each, all of which may hold NULL, packed by zstd. ConfigError without pyarrow.

    Integers int64; floats, and integers among them, double; text; bytes; what is mixed otherwise as text. A column that holds
    nothing but NULL has no other type than null.
    """
    pa = pyarrow()
    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary(), type(None): pa.null()}
    columns = []
    for i in range(len(answer.columns)):
        kind, values = _one_kind([row[i] for row in answer.rows])
        columns.append(pa.array(values, types[kind]))
    out = io.BytesIO()
    pa.parquet.write_table(pa.table(columns, names=_names(answer.columns)), out, compression="zstd")
    return out.getvalue()


def _one_kind(values: list[Value]) -> tuple[type, list[Any]]:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return next(iter(kinds), type(None)), values
    to = float if kinds == {int, float} else str
    return to, [None if value is None else to(value) for value in readable(values)]
