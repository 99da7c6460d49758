"""Writes samples to standard output: JSON lines, line protocol, or a table for people.

Needs no privileges. Nothing lasts: each start of the program begins at the end of the log.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

import msgspec

from tidegauge.pipeline.errors import PartialWriteError, RetryableError
from tidegauge.pipeline.records import UNLIMITED, Batch, Container, Record, Sample, Schema, Value
from tidegauge.sinks.line_protocol import LineEncoder

_HEADER_EVERY = 40
_REMEMBERED = 30_000
_NAME_WIDTH = 40
_COLUMNS = ("TIME", "CONTAINER", "CPU", "MEMORY", "WORKING SET", "LIMIT", "TASKS", "RECEIVED", "SENT")
_WIDTHS = (12, -_NAME_WIDTH, 12, 11, 11, 11, 6, 12, 12)


class StdoutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[sinks.stdout]`."""

    format: Literal["json", "line", "table"] = "json"
    """`json`: one object a line and sample; `line`: InfluxDB line protocol with times in ms; `table`: aligned, for people."""


class StdoutSink:
    """One line or more a sample, in log order. Not idempotent: a repeat prints again, in JSON with the same row number.

    A sample counts as written when the pipe or terminal has it; nobody says whether it was read.
    """

    Config = StdoutConfig
    takes: tuple[type, ...] = (Batch,)
    cursor_lasts: ClassVar[bool] = False

    def __init__(self, config: StdoutConfig, stream: io.RawIOBase | None = None) -> None:
        self._config = config
        self._stream = stream
        self._owned: io.FileIO | None = None
        self._json = msgspec.json.Encoder()
        self._lines = LineEncoder()
        self._table = Table()

    def open(self) -> None:
        if self._stream is None and self._owned is None:
            # Not through sys.stdout's buffer: what a closed pipe refuses would stay in it and be tried again at exit.
            self._owned = io.FileIO(sys.__stdout__.fileno() if sys.__stdout__ else 1, "w", closefd=False)

    def write(self, records: Sequence[Record]) -> None:
        rejected: dict[int, str] = {}
        out = bytearray()
        for batch in records:
            if not isinstance(batch, Batch):
                continue
            if self._config.format == "json":
                for entry in batch.as_dicts():
                    out += self._json.encode(entry) + b"\n"
            elif self._config.format == "line":
                lines, refused = self._lines.encode_batch(batch)
                rejected |= refused
                for line in lines:
                    if line:
                        out += line + b"\n"
            else:
                for text in self._table.lines(batch):
                    out += text.encode("utf-8", "replace") + b"\n"
        self._send(out)
        if rejected:
            raise PartialWriteError(f"{len(rejected)} samples have no form in line protocol", rejected)

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def _send(self, data: bytearray) -> None:
        stream = self._stream or self._owned
        if stream is None:
            raise RetryableError("stdout is not open")
        view = memoryview(data)
        try:
            while view:
                view = view[stream.write(view) or 0 :]
        except (OSError, ValueError) as exc:  # ValueError: the stream was closed on our side
            raise RetryableError(f"write to stdout: {exc}") from exc


class Table:
    """Lines for people. CPU and traffic are rates since the sample before of the same container; `-`: not known."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, str], tuple[int, Value]] = {}
        self._lines_left = 0

    def lines(self, batch: Batch) -> Iterator[str]:
        """A line a sample, and the heads of the columns from time to time."""
        for sample in batch.samples:
            if self._lines_left == 0:
                self._lines_left = _HEADER_EVERY
                yield _aligned(_COLUMNS)
            self._lines_left -= 1
            yield self._line(sample, batch.schemas[sample.schema], batch.containers.get(sample.container))

    def remember(self, batch: Batch) -> None:
        """Takes the samples as those before, without a line: rates of the next ones start from them."""
        for sample in batch.samples:
            self._line(sample, batch.schemas[sample.schema], batch.containers.get(sample.container))

    def _line(self, sample: Sample, schema: Schema, container: Container | None) -> str:
        values: Mapping[str, Value] = dict(zip(schema.names, sample.values, strict=True))
        if len(self._before) > _REMEMBERED:
            self._before.clear()
        cpu = self._rate(sample, "cpu", values.get("cpu_usage_ns"))
        received, sent = (
            self._rate(sample, name, total) for name, total in zip(("in", "out"), _traffic(schema, sample), strict=True)
        )
        return _aligned(
            (
                datetime.fromtimestamp(sample.ts_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:12],
                _name(container, sample.container),
                "-" if cpu is None else f"{cpu / 1e9:.3f} cores",
                bytes_text(values.get("memory_usage_bytes")),
                bytes_text(values.get("memory_working_set_bytes")),
                bytes_text(values.get("memory_limit_bytes")),
                "-" if values.get("pids_current") is None else str(values["pids_current"]),
                "-" if received is None else f"{bytes_text(received)}/s",
                "-" if sent is None else f"{bytes_text(sent)}/s",
            )
        )

    def _rate(self, sample: Sample, name: str, value: Value) -> float | None:
        """Per second since the reading before; None where one of the two is missing, or the counter went back."""
        if value is None:
            return None
        before_ms, before = self._before.get((sample.container, name), (0, None))
        self._before[sample.container, name] = (sample.ts_ms, value)
        if before is None or sample.ts_ms <= before_ms or value < before:
            return None
        return (value - before) * 1000 / (sample.ts_ms - before_ms)


def bytes_text(value: Value) -> str:
    """A size with a binary unit and three or four digits; `none` for a limit that is not set, `-` for what is not known."""
    if value is None:
        return "-"
    if value == UNLIMITED:
        return "none"
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _traffic(schema: Schema, sample: Sample) -> tuple[Value, Value]:
    """Bytes received and sent over all interfaces but the loopback; None where none was read."""
    for table, rows in zip(schema.tables, sample.tables, strict=False):
        if table.name == "network" and rows is not None:
            names = ["", *(m.name for m in table.metrics)]
            out: list[Value] = []
            for name in ("network_receive_bytes", "network_transmit_bytes"):
                cells = [r[names.index(name)] for r in rows if r[0] != "lo"] if name in names else []
                numbers = [c for c in cells if isinstance(c, int)]
                out.append(sum(numbers) if numbers else None)
            return out[0], out[1]
    return None, None


def _name(container: Container | None, number: int) -> str:
    text = f"#{number}" if container is None else container.name or container.path
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _NAME_WIDTH else f"{text[: _NAME_WIDTH // 2 - 1]}..{text[1 - _NAME_WIDTH // 2 :]}"


def _aligned(cells: Sequence[str]) -> str:
    return "  ".join(c.ljust(-w) if w < 0 else c.rjust(w) for c, w in zip(cells, _WIDTHS, strict=True)).rstrip()
