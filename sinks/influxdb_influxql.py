"""Questions of history in InfluxQL, to InfluxDB 1.x. Answers are read as they come."""

import time
from collections.abc import Iterable, Iterator, Sequence

from tidegauge.sinks.influxdb_history import SAMPLES, WITNESSES, Lines
from tidegauge.sinks.influxdb_http import StoredRow, literal, quoted
from tidegauge.sinks.influxdb_v1 import V1Transport

_CHUNK_ROWS = 5000


class InfluxqlAsker:
    """An Asker of 1.x. Answers come in chunks of 5000 rows, of which one is in memory at a time."""

    def __init__(self, transport: V1Transport, limit_s: float) -> None:
        self._transport = transport
        self._limit_s = limit_s

    def fields(self, measurements: Sequence[str]) -> Iterator[str]:
        for row in self._rows(f"SHOW FIELD KEYS FROM {_names(measurements)}"):
            yield row.fields["fieldKey"]

    def edges(self, is_newest: bool) -> Iterator[StoredRow]:
        order = "DESC" if is_newest else "ASC"
        yield from self._rows(f"SELECT {_names(WITNESSES)} FROM {_names(SAMPLES)} GROUP BY * ORDER BY time {order} LIMIT 1")

    def infos(self, until_ms: int) -> Iterator[StoredRow]:
        # All tags in GROUP BY, so that they are told from fields: a series for each name, the newest of which counts.
        yield from self._rows(f"SELECT * FROM container_info WHERE time <= {until_ms}ms GROUP BY * ORDER BY time DESC LIMIT 1")

    def ends(self) -> Iterator[StoredRow]:
        yield from self._rows("SELECT * FROM container_end GROUP BY *")

    def gaps(self, since_ms: int, until_ms: int) -> Iterator[StoredRow]:
        yield from self._rows(f"SELECT to_ms FROM gap WHERE time <= {until_ms}ms AND to_ms >= {since_ms} GROUP BY *")

    def lines(self, wanted: Lines, deadline_s: float) -> Iterator[StoredRow]:
        instances = " OR ".join(f"instance = {literal(i)}" for i in wanted.instances)
        tags = _names(("instance", "epoch", *([wanted.tag] if wanted.tag else ())))
        yield from self._rows(
            f"SELECT {_names(wanted.fields)} FROM {_names(wanted.measurements)} "
            f"WHERE time >= {wanted.since_ms}ms AND time <= {wanted.until_ms}ms AND ({instances}) GROUP BY {tags}",
            max(0.01, deadline_s - time.monotonic()),
        )

    def close(self) -> None:
        self._transport.close()

    def _rows(self, q: str, limit_s: float | None = None) -> Iterator[StoredRow]:
        for document in self._transport.ask(q, self._limit_s if limit_s is None else limit_s, _CHUNK_ROWS):
            for result in document.get("results", ()):
                for series in result.get("series", ()):
                    tags = {k: v for k, v in series.get("tags", {}).items() if v}
                    columns = series["columns"]
                    for values in series["values"]:
                        row = {k: v for k, v in zip(columns, values, strict=True) if v is not None}
                        yield StoredRow(series["name"], tags, row.pop("time", 0), row)


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))
