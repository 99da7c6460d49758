"""The stdout sink: JSON that holds everything, lines, a table for people, and a reader that goes away."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegauge.pipeline.errors import PartialWriteError, RetryableError
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import UNLIMITED, Value
from tidegauge.pipeline.testing import (
    START_MS,
    SinkContract,
    Stored,
    generate_records,
    make_batch,
    make_container,
    make_sample,
    make_schema,
)
from tidegauge.sinks.stdout import StdoutConfig, StdoutSink, bytes_text

_PATHS: dict[int, Path] = {}
_STREAMS: list[io.FileIO] = []


@pytest.fixture(autouse=True)
def _streams() -> Iterator[None]:
    """Closes what the tests wrote to."""
    yield
    while _STREAMS:
        _STREAMS.pop().close()


def stream(fd: int) -> io.FileIO:
    _STREAMS.append(io.FileIO(fd, "w"))
    return _STREAMS[-1]


def to_file(tmp_path: Path, **options: str) -> tuple[StdoutSink, Path]:
    path = tmp_path / "out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sink = StdoutSink(StdoutConfig(**options), stream(fd))  # type: ignore[arg-type]
    _PATHS[id(sink)] = path
    return sink, path


class TestStdoutSink(SinkContract):
    is_idempotent = False
    keeps_order = True
    is_lasting = True

    def make_sink(self, tmp_path: Path) -> Sink:
        return to_file(tmp_path)[0]

    def stored(self, sink: Sink) -> Stored:
        for text in _PATHS[id(sink)].read_bytes().splitlines():
            entry = json.loads(text)
            values: dict[str, Value] = entry["metrics"]
            for rows in entry.get("tables", {}).values():
                values |= {f"{m}[{name}]": v for name, row in rows.items() for m, v in row.items()}
            if entry.get("is_closing"):
                values["is_closing"] = 1
            yield (entry["instance"], entry.get("epoch", 0), entry["ts_ms"]), values

    def make_unreachable_sink(self, tmp_path: Path) -> Sink | None:
        ours, theirs = os.pipe()
        os.close(ours)
        return StdoutSink(StdoutConfig(), stream(theirs))


def test_json_bears_row_names_and_labels(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path)
    sink.write([make_batch([make_sample(make_schema(), cpu_usage_ns=7)], first_row=41)])
    entry = json.loads(path.read_text())
    assert (entry["row"], entry["ts_ms"], entry["host"], entry["name"]) == (41, START_MS, "host-a", "web-1")
    assert entry["labels"] == {"tier": "front", "com.example.team": "blue"}
    assert entry["metrics"] == {"cpu_usage_ns": 7}


def test_repeat_prints_again_with_the_same_row_number(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path)
    batch = make_batch([make_sample(make_schema(), cpu_usage_ns=7)], first_row=41)
    sink.write([batch])
    sink.write([batch])
    assert [json.loads(x)["row"] for x in path.read_text().splitlines()] == [41, 41]


def test_line_format_is_line_protocol_in_milliseconds(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path, format="line")
    sink.write([make_batch([make_sample(make_schema(), cpu_usage_ns=7, pids_current=2)])])
    [line] = path.read_text().splitlines()
    assert line.startswith("container,")
    assert line.endswith(f" {START_MS}")
    assert "cpu_usage_ns=7i" in line
    assert "pids_current=2i" in line


def test_what_has_no_line_is_rejected_and_the_rest_is_written(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path, format="line")
    schema = make_schema(("cpu_usage_ns", "load1"))
    samples = [make_sample(schema, cpu_usage_ns=1, load1=float("nan")), make_sample(schema, cpu_usage_ns=2, load1=1.0)]
    with pytest.raises(PartialWriteError) as caught:
        sink.write([make_batch(samples, schemas=(schema,), first_row=8)])
    assert set(caught.value.rejected) == {8}
    assert len(path.read_text().splitlines()) == 1


def test_table_is_aligned_and_has_rates_and_units(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path, format="table")
    schema = make_schema()

    def rows(n: int) -> tuple[tuple[tuple[str, int, int, int, int, int, int, int, int], ...], ...]:
        return ((("eth0", n * 2048, 0, 0, 0, 0, 0, 0, 0), ("lo", n * 10**9, 0, 0, 0, 0, 0, 0, 0)),)

    samples = [
        make_sample(schema, 1, START_MS, rows(0), cpu_usage_ns=10**9, memory_usage_bytes=3 << 20, memory_limit_bytes=UNLIMITED),
        make_sample(schema, 1, START_MS + 1000, is_closing=True, cpu_usage_ns=10**9),
        make_sample(schema, 1, START_MS + 2000, rows(4), cpu_usage_ns=3 * 10**9, memory_usage_bytes=5 << 30, pids_current=0),
    ]
    sink.write([make_batch(samples)])
    header, first, closing, last = path.read_text().splitlines()
    assert header.split() == ["TIME", "CONTAINER", "CPU", "MEMORY", "WORKING", "SET", "LIMIT", "TASKS", "RECEIVED", "SENT"]
    assert first.split() == ["22:13:20.000", "web-1", "-", "3.0", "MiB", "-", "none", "-", "-", "-"]
    assert closing.split() == ["22:13:21.000", "web-1", "0.000", "cores", "-", "-", "-", "-", "-", "-"]
    assert last.split()[2:8] == ["2.000", "cores", "5.0", "GiB", "-", "-"]
    assert last.split()[8] == "0"
    at = header.index("CPU") + 3
    assert [line[at - 5 : at] for line in (closing, last)] == ["cores", "cores"]


def test_table_never_shows_a_rate_over_a_counter_that_went_back(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path, format="table")
    schema = make_schema()
    sink.write([make_batch([make_sample(schema, 1, START_MS + i * 1000, cpu_usage_ns=v) for i, v in enumerate((9, 5))])])
    assert "cores" not in path.read_text()


def test_table_survives_odd_names(tmp_path: Path) -> None:
    sink, path = to_file(tmp_path, format="table")
    container = make_container(1, name="a\x1b[31m\n" + "x" * 100)
    sink.write([make_batch([make_sample(make_schema(), cpu_usage_ns=1)], (container,))])
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]


def test_closed_reader_may_come_back() -> None:
    ours, theirs = os.pipe()
    sink = StdoutSink(StdoutConfig(), stream(theirs))
    records = list(generate_records(1))
    os.close(ours)
    for _ in range(2):
        with pytest.raises(RetryableError, match="write to stdout"):
            sink.write(records)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (3 << 50, "3072.0 TiB"),
        (UNLIMITED, "none"),
    ],
)
def test_sizes_are_readable(value: Value, text: str) -> None:
    assert bytes_text(value) == text
