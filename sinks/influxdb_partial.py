"""Which rows a store left out of a write that it took the rest of, by what it says. No I/O.

InfluxDB stores the good lines of a request and answers 400 (1.x) or 422 (2.x) with `partial write: ... dropped=N` and one
reason, which names no line. Where exactly N lines fit the reason they are the ones; where not, nobody is named, and the runner
halves the batch, which changes nothing of what is stored. VictoriaMetrics has no types of fields, and says nothing of points
that are too old.

Source: influxd 1.6.7 tsdb/shard.go, coordinator/points_writer.go; InfluxDB 2 API reference, /api/v2/write.
"""

import re
from collections.abc import Iterator, Sequence

from tidegauge.sinks.line_protocol import escape

_BEYOND = re.compile(r"points beyond retention policy dropped=(\d+)")
_CONFLICT = re.compile(
    r'field type conflict: input field \\?"(?P<field>.+?)\\?" on measurement \\?"(?P<measurement>.+?)\\?" '
    r"is type (?P<type>\w+), already exists as type \w+ dropped=(?P<dropped>\d+)"
)
_FORMS = {"integer": rb"-?\d+i", "float": rb"-?[\d.][\d.eE+-]*", "boolean": rb"true|false", "string": rb'"(?:[^"\\]|\\.)*"'}
_FIELDS = re.compile(rb"(?<!\\) ")


def left_out(reason: str, lines: Sequence[bytes], rows: Sequence[int]) -> list[int] | None:
    """Row numbers of the lines to blame (those of `rows[i]` are `lines[i]`, b"" or several); None where that is not sure."""
    if found := _BEYOND.search(reason):
        return _oldest(lines, rows, int(found[1]))
    if found := _CONFLICT.search(reason):
        return _conflicting(lines, rows, found)
    return None


def is_complete(reason: str) -> bool:
    """Whether all that was left out is told: points too old are told only if nothing else was wrong.

    Of several shards one alone tells its conflicts, so what is left must be written again to be sure.
    """
    return _BEYOND.search(reason) is not None


def _oldest(lines: Sequence[bytes], rows: Sequence[int], dropped: int) -> list[int] | None:
    """Rows whose last line is among the `dropped` oldest of all lines; None if these do not end between two times."""
    times = sorted(int(one.rpartition(b" ")[2]) for _, one in _each(lines, rows))
    if not 0 < dropped <= len(times) or (dropped < len(times) and times[dropped] == times[dropped - 1]):
        return None
    newest = times[dropped - 1]
    return [row for row, line in zip(rows, lines, strict=True) if line and int(line.rpartition(b" ")[2]) <= newest]


def _conflicting(lines: Sequence[bytes], rows: Sequence[int], conflict: re.Match[str]) -> list[int] | None:
    """Rows with a line that has this field of this type."""
    form = _FORMS.get(conflict["type"])
    if form is None:
        return None
    start = re.compile(re.escape(escape(conflict["measurement"])) + rb"[, ]")
    field = re.compile(rb"[ ,]" + re.escape(escape(conflict["field"])) + rb"=(?:" + form + rb")(?=[, ])")
    blamed = []
    for row, line in _each(lines, rows):
        if start.match(line) and (space := _FIELDS.search(line)) and field.search(line, space.start()):
            blamed.append(row)
    return blamed if blamed and len(blamed) == int(conflict["dropped"]) else None


def _each(lines: Sequence[bytes], rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    for row, line in zip(rows, lines, strict=True):
        if line:
            for one in line.split(b"\n"):
                yield row, one
