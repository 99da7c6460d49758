"""Questions of history in Flux, to InfluxDB 2.x. Answers are read as they come, one field of a line at a time."""

from collections.abc import Iterable, Iterator, Sequence

from tidegauge.sinks.influxdb_history import SAMPLES, WITNESSES, Lines
from tidegauge.sinks.influxdb_http import StoredRow, quoted
from tidegauge.sinks.influxdb_v2 import V2Transport

_END_MS = 4_102_444_800_000
"""2100-01-01: later than any sample."""


class FluxAsker:
    """An Asker of 2.x."""

    def __init__(self, transport: V2Transport) -> None:
        self._transport = transport

    def fields(self, measurements: Sequence[str]) -> Iterator[str]:
        for row in self._ask(
            'import "influxdata/influxdb/schema"\n'
            f"schema.fieldKeys(bucket: {quoted(self._transport.bucket)}, "
            f"predicate: (r) => {_any('_measurement', measurements)}, start: time(v: 0))"
        ):
            yield from map(str, row.fields.values())

    def edges(self, is_newest: bool) -> Iterator[StoredRow]:
        what = f"({_any('_measurement', SAMPLES)}) and ({_any('_field', WITNESSES)})"
        yield from self._ask(f"{self._filtered(0, _END_MS, what)} |> {'last' if is_newest else 'first'}()")

    def infos(self, until_ms: int) -> Iterator[StoredRow]:
        yield from self._ask(f"{self._filtered(0, until_ms + 1, _any('_measurement', ['container_info']))} |> last()")

    def ends(self) -> Iterator[StoredRow]:
        yield from self._ask(self._filtered(0, _END_MS, _any("_measurement", ["container_end"])))

    def gaps(self, since_ms: int, until_ms: int) -> Iterator[StoredRow]:
        what = f"{_any('_measurement', ['gap'])} and {_any('_field', ['to_ms'])}"
        yield from self._ask(f"{self._filtered(0, until_ms + 1, what)} |> filter(fn: (r) => r._value >= {since_ms})")

    def lines(self, wanted: Lines, deadline_s: float) -> Iterator[StoredRow]:
        what = " and ".join(
            f"({_any(column, values)})"
            for column, values in (
                ("_measurement", wanted.measurements),
                ("_field", wanted.fields),
                ("instance", wanted.instances),
            )
        )
        tags = ("instance", "epoch", *([wanted.tag] if wanted.tag else ()))
        columns = ", ".join(map(quoted, ("_time", "_value", "_field", *tags)))
        # Of a bool, an integer and a float no column could be made: a table for each field. Without the other tags, those
        # of a container whose name changed are one.
        groups = ", ".join(map(quoted, ("_field", *tags)))
        found = self._filtered(wanted.since_ms, wanted.until_ms + 1, what)
        yield from self._ask(f"{found} |> keep(columns: [{columns}]) |> group(columns: [{groups}])")

    def close(self) -> None:
        self._transport.close()

    def _filtered(self, from_ms: int, to_ms: int, what: str) -> str:
        return f"{self._transport.from_bucket(from_ms, to_ms)} |> filter(fn: (r) => {what})"

    def _ask(self, flux: str) -> Iterator[StoredRow]:
        return self._transport.ask(flux)


def _any(column: str, values: Iterable[str]) -> str:
    return " or ".join(f"r.{column} == {quoted(v)}" for v in values)
