"""Writes samples to InfluxDB 1.x (`/write`), 2.x and what speaks `/api/v2/write` (VictoriaMetrics), as line protocol.

One line a sample with all its fields, and one a row of an instance table (`line_protocol.py`). Other records are the
measurements `event`, `gap` and `container_info`; the last tells whose number the others name. Writing the same rows again
leaves InfluxDB as it was; VictoriaMetrics keeps equal points twice unless started with `-dedup.minScrapeInterval=1ms`. No
privileges; needs a network way to the store.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from tidegauge.pipeline.errors import ConfigError, PartialWriteError, PermanentError, RetryableError, SinkError
from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Record
from tidegauge.sinks.influxdb_admin import difference
from tidegauge.sinks.influxdb_cadvisor import CadvisorEncoder
from tidegauge.sinks.influxdb_flux import FluxAsker
from tidegauge.sinks.influxdb_grid import Grid
from tidegauge.sinks.influxdb_history import Asker, InfluxdbHistory
from tidegauge.sinks.influxdb_http import Endpoint, Transport, ping
from tidegauge.sinks.influxdb_influxql import InfluxqlAsker
from tidegauge.sinks.influxdb_notes import note_line
from tidegauge.sinks.influxdb_partial import is_complete, left_out
from tidegauge.sinks.influxdb_v1 import V1Transport
from tidegauge.sinks.influxdb_v2 import V2Transport
from tidegauge.sinks.line_protocol import LineEncoder, NoLine, SampleEncoder, encode_batch

if TYPE_CHECKING:
    from tidegauge.sinks.influxdb_heapster import HeapsterEncoder

_LOG = logging.getLogger(__name__)
_ROUNDS = 4
"""A store names one reason at a time; with more in one batch the runner halves it."""


class InfluxdbConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`token` and `password` come from the environment or, with `_file`, from files read at each opening."""

    url: str = "http://127.0.0.1:8086"
    version: Literal["auto", "1", "2"] = "auto"
    org: str = "tidegauge"
    """2.x: organization."""
    bucket: str = "tidegauge"
    """2.x: bucket."""
    token: str = ""
    token_file: Path | None = None
    database: str = "tidegauge"
    """1.x: database."""
    retention_policy: str = ""
    """1.x: retention policy to write to; empty: the database's default."""
    user: str = ""
    """1.x: user; empty: no credential is sent."""
    password: str = ""
    password_file: Path | None = None
    gzip: bool = False
    """Worth it when the store is not on this host: a quarter of the bytes for twice the CPU of encoding."""
    timeout_s: float = 10.0
    verify_tls: bool = True
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    create: bool = True
    """Make the database or bucket if it is not there and the store allows it."""
    retention_s: int | None = None
    """Retention of what `create` makes; none: for ever. What is there already is told where it differs, and left."""
    regular_s: float | None = None
    """Also write held values at this step, for readers that want even spacing."""
    layout: Literal["native", "cadvisor", "heapster"] = "native"
    """What lines look like: our own, or those of cAdvisor's driver or of Heapster's sink, for dashboards made for these."""
    withfields: bool = False
    """Layout `heapster`: a measurement for each family of metrics with a field for each, instead of one for each metric."""
    cluster_name: str = "default"
    """Layout `heapster`: tag of every line."""
    disable_counter_metrics: bool = False
    """Layout `heapster`: leave out what has a rate."""
    host: str = ""
    """Tag `host` of events and gaps; the program's own setting unless given."""

    def __repr__(self) -> str:
        secret = ("token", "password")
        shown = (f"{n}={'***' if n in secret and getattr(self, n) else repr(getattr(self, n))}" for n in self.__struct_fields__)
        return f"InfluxdbConfig({', '.join(shown)})"


class InfluxdbSink:
    """Idempotent in InfluxDB. Names in tags are those of the frame's container record."""

    Config = InfluxdbConfig
    takes: tuple[type, ...] = (Batch, Container, Event, Gap, End)
    names_wait_s = 2.0

    def __init__(self, config: InfluxdbConfig) -> None:
        parts = urlsplit(config.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(
                f"sinks.influxdb.url: expected http://HOST:PORT or https://HOST:PORT, got {_no_password(config.url)}"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError("sinks.influxdb.url: expected no user or password in it; there are user and password_file")
        for name, given in (("token", config.token), ("password", config.password)):
            if given and getattr(config, f"{name}_file") is not None:
                raise ConfigError(f"sinks.influxdb.{name}_file: expected one of {name} and {name}_file, got both")
        if config.timeout_s <= 0:
            raise ConfigError(f"sinks.influxdb.timeout_s: expected more than 0, got {config.timeout_s}")
        if config.retention_s is not None and config.retention_s < 3600:
            raise ConfigError(f"sinks.influxdb.retention_s: expected at least 3600, got {config.retention_s}")
        if config.regular_s is not None and not 0.1 <= config.regular_s <= 86400:
            raise ConfigError(f"sinks.influxdb.regular_s: expected 0.1 to 86400, got {config.regular_s}")
        if config.regular_s is not None and config.layout != "native":
            raise ConfigError(f"sinks.influxdb.regular_s: expected none with layout = {config.layout}, got {config.regular_s}")
        self._config = config
        self._encoder: SampleEncoder = CadvisorEncoder() if config.layout == "cadvisor" else LineEncoder()
        self._heapster = _heapster(config)
        if config.layout == "cadvisor":
            self.takes = (Batch,)
        elif config.layout == "heapster":
            self.takes = (Batch, Gap, End)
        self._transport: Transport | None = None
        self._grid: Grid | None = None
        self._history = InfluxdbHistory(self._asker)
        self._told: str | None = None

    def open(self) -> None:
        """Asks the store what it is and makes the database or bucket. The grid of `regular_s` begins anew."""
        self.close()
        transport = self.connect()
        try:
            if self._config.create:
                transport.create(self._config.retention_s)
                if self._config.retention_s is not None:
                    text = difference(transport.retention(), self._config.retention_s)
                    if text is not None and text != self._told:
                        _LOG.warning("%s: %s", self._config.url, text)
                    self._told = text
        except BaseException:
            transport.close()
            raise
        self._transport = transport
        self._grid = Grid(self._config.regular_s) if self._config.regular_s is not None else None

    def write(self, records: Sequence[Record]) -> None:
        """PartialWriteError names the rows that have no line, those too old for the store's retention, and those with a field
        of another type than the store has."""
        if self._transport is None:
            self.open()
        transport = self._transport
        assert transport is not None
        try:
            lines, rows, rejected = self._encode(records, transport)
            rejected |= _send(transport, lines, rows)
        except SinkError as exc:
            for memory in (self._grid, self._heapster):
                if memory is not None:
                    memory.rollback()
            if isinstance(exc, RetryableError) and exc.is_config_fault:
                # The next write reads the secrets again: a token that was exchanged is then taken.
                self._transport = None
                transport.close()
            raise
        for memory in (self._grid, self._heapster):
            if memory is not None:
                memory.commit()
        if rejected:
            where = f"write to {self._config.url}: "
            first = rejected[min(rejected)].removeprefix(where)
            raise PartialWriteError(f"{where}{len(rejected)} rows rejected, the first because of: {first}", rejected)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def history(self) -> InfluxdbHistory | None:
        """What this sink has written, by queries; in the layout `native` alone. VictoriaMetrics has no such queries."""
        return self._history if self._config.layout == "native" else None

    def _asker(self) -> Asker:
        transport = self.connect()
        if isinstance(transport, V1Transport):
            return InfluxqlAsker(transport, self._config.timeout_s)
        return FluxAsker(transport)

    def connect(self) -> V1Transport | V2Transport:
        """A connection of the caller's own; nothing is made there. Raises SinkError."""
        c = self._config
        version = c.version
        if version == "auto":
            # VictoriaMetrics names no version; its 2.x way takes what its 1.x way takes.
            version = "1" if ping(self._endpoint()).startswith(("0.", "1.")) else "2"
        if version == "1":
            return V1Transport(self._endpoint(c.user, self._secret("password")), c.database, c.retention_policy)
        return V2Transport(self._endpoint("", self._secret("token")), c.org, c.bucket)

    def _endpoint(self, user: str = "", secret: str = "") -> Endpoint:
        c = self._config
        return Endpoint(c.url.rstrip("/"), c.timeout_s, c.gzip, c.verify_tls, c.ca_file, user, secret)

    def _secret(self, name: str) -> str:
        path: Path | None = getattr(self._config, f"{name}_file")
        if path is None:
            secret: str = getattr(self._config, name)
            return secret
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
            raise RetryableError(f"{name}_file {path}: {reason}", is_config_fault=True) from None

    def _encode(self, records: Sequence[Record], transport: Transport) -> tuple[list[bytes], list[int], dict[int, str]]:
        """Lines (b"" where there is none) with the row number of each, and the rows that are rejected."""
        batches = [r for r in records if isinstance(r, Batch)]
        if self._grid is not None:
            self._restore(self._grid, batches, transport)
        if self._heapster is not None:
            self._heapster.begin(batches)
        lines: list[bytes] = []
        rows: list[int] = []
        rejected: dict[int, str] = {}
        for record in records:
            if isinstance(record, Batch):
                heapster = self._heapster
                some, bad = encode_batch(self._encoder, record) if heapster is None else heapster.encode_batch(record)
                rejected |= bad
                lines += some if self._grid is None else self._filled(self._grid, record, some)
                rows += record.rows
            elif self._heapster is not None:
                if isinstance(record, Gap):
                    self._heapster.gap(record)
                elif isinstance(record, End):
                    self._heapster.end(record.container)
            elif isinstance(record, Container | Event | Gap | End) and type(record) in self.takes:
                if isinstance(record, Gap) and self._grid is not None:
                    self._grid.gap(record)
                try:
                    lines.append(note_line(record, self._config.host))
                except NoLine as exc:
                    rejected[record.row] = str(exc)
                    lines.append(b"")
                rows.append(record.row)
        return lines, rows, rejected

    def _restore(self, grid: Grid, batches: Sequence[Batch], transport: Transport) -> None:
        spans = grid.unknown(batches)
        if not spans:
            return
        tables = {t.name for b in batches for s in b.schemas.values() for t in s.tables}
        try:
            rows = list(transport.read_back(list(spans.values()), ["host", "container", *sorted(tables)]))
        except PermanentError:
            rows = []  # VictoriaMetrics has no such query.
        except RetryableError as exc:
            if not exc.is_config_fault:
                raise
            rows = []  # A credential that may only write; one that is wrong shows in the write.
        grid.restore(spans, rows, batches)

    def _filled(self, grid: Grid, batch: Batch, lines: Sequence[bytes]) -> Iterator[bytes]:
        """The lines of the batch, each with those of the grid points before it."""
        for sample, line in zip(batch.samples, lines, strict=True):
            if not line:
                yield line
                continue
            container, schema = batch.containers[sample.container], batch.schemas[sample.schema]
            points = [self._encoder.encode_sample(container, s, point) for s, point in grid.before(container, schema, sample)]
            yield b"\n".join(filter(None, (*points, line)))


def _heapster(config: InfluxdbConfig) -> "HeapsterEncoder | None":
    if config.layout != "heapster":
        return None
    from tidegauge.sinks.influxdb_heapster import HeapsterEncoder, HeapsterOptions

    return HeapsterEncoder(HeapsterOptions(config.withfields, config.cluster_name, config.disable_counter_metrics))


def _send(transport: Transport, lines: Sequence[bytes], rows: Sequence[int]) -> dict[int, str]:
    """Writes the lines; row number -> reason of those that the store left out. PermanentError where nobody can be named."""
    rejected: dict[int, str] = {}
    for is_last in (*[False] * _ROUNDS, True):
        body = b"\n".join(filter(None, lines))
        if not body:
            break
        try:
            transport.write(body)
        except PermanentError as exc:
            blamed = None if is_last else left_out(str(exc), lines, rows)
            if blamed is None:
                raise
            rejected |= dict.fromkeys(blamed, str(exc))
            if is_complete(str(exc)):
                break
            lines, rows = _without(lines, rows, rejected)
        else:
            break
    return rejected


def _without(lines: Sequence[bytes], rows: Sequence[int], left_out: Mapping[int, str]) -> tuple[list[bytes], list[int]]:
    kept = [i for i, row in enumerate(rows) if row not in left_out]
    return [lines[i] for i in kept], [rows[i] for i in kept]


def _no_password(url: str) -> str:
    return repr(url.rpartition("@")[2])
