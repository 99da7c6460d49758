"""Line protocol: our encoder, fast way and general way, against `Point` of influxdb-client for the same values and tags."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.data import containers, per_sample, schema, ticks
from bench.report import Row, Section, cheaper
from bench.timing import Prepare, in_turns
from tidegauge.pipeline.records import Batch, Sample


def run(folder: Path, count: int = 300, repeats: int = 7) -> list[Section]:
    # Half a second of import that other benches need not pay. Its functions have no types.
    from influxdb_client.client.write.point import Point

    from tidegauge.sinks.influxdb_cadvisor import CadvisorEncoder
    from tidegauge.sinks.influxdb_heapster import HeapsterEncoder, HeapsterOptions
    from tidegauge.sinks.line_protocol import LineEncoder, container_tags, encode_batch

    of = containers(count)
    batch = next(ticks(1, of))
    *before, full = ticks(3, of, has_tables=True)
    mixed = _mixed(batch)
    names = schema().names
    untyped: Any = Point

    def points() -> list[str]:
        lines = []
        for s in batch.samples:
            point: Any = untyped("container")
            for key, value in container_tags(of[s.container]).items():
                point.tag(key, value)
            for name, v in zip(names, s.values, strict=True):
                if v is not None:
                    point.field(name, v)
            lines.append(point.time(s.ts_ms, "ms").to_line_protocol())
        return lines

    def encode(what: Batch) -> Prepare:
        encoder = LineEncoder()
        return lambda: lambda: encoder.encode_batch(what)

    def cadvisor() -> Callable[[], object]:
        encoder = CadvisorEncoder()
        encode_batch(encoder, before[0])
        return lambda: encode_batch(encoder, full)

    def heapster() -> Callable[[], object]:
        # A rate needs the sample before, and templates are made at the first rate.
        encoder = HeapsterEncoder(HeapsterOptions())
        for one in before:
            encoder.begin([one])
            encoder.encode_batch(one)
            encoder.commit()
        encoder.begin([full])
        return lambda: encoder.encode_batch(full)

    ours = LineEncoder().encode_batch(batch)[0]
    if [_parts(line.decode()) for line in ours] != [_parts(line) for line in points()]:
        raise AssertionError("the two encoders do not say the same")
    times = in_turns(
        {
            "point": lambda: points,
            "template": encode(batch),
            "general": encode(mixed),
            "tables": encode(full),
            "cadvisor": cadvisor,
            "heapster": heapster,
        },
        repeats,
    )
    us = {name: per_sample(t, count) for name, t in times.items()}
    rows = [
        Row("influxdb_client.Point", "us", us["point"]),
        Row("LineEncoder, template of the sample before", "us", us["template"]),
        Row("LineEncoder, another pattern of values at each sample", "us", us["general"]),
        Row("LineEncoder, with a disk, an interface and 2 CPUs (5 lines)", "us", us["tables"]),
        Row("layout cadvisor, the same (a line a value)", "us", us["cadvisor"]),
        Row("layout heapster, the same, told (a line a value, with rates)", "us", us["heapster"]),
        cheaper("Point / template", us["template"], us["point"], "at least 10", 10),
        cheaper("Point / another pattern each", us["general"], us["point"], "at least 5", 5),
    ]
    return [Section(f"Line encoder, CPU of one container-sample of {len(names)} fields", rows)]


def _mixed(batch: Batch) -> Batch:
    """The same with a different value missing in each sample than in the one before, so that its template never fits."""
    samples = []
    for i, s in enumerate(batch.samples):
        gone = i % len(s.values)
        values = tuple(None if k == gone else v for k, v in enumerate(s.values))
        samples.append(Sample(s.container, s.ts_ms, s.schema, values))
    return Batch(samples, batch.rows, batch.schemas, batch.containers)


def _parts(line: str) -> tuple[str, frozenset[str], str]:
    """Series, fields in no order, time; no value here has a space in it."""
    series, fields, ts = line.split(" ")
    return series, frozenset(fields.split(",")), ts
