"""The memory sink: what it holds, what it lets go, and what readers see meanwhile."""

import threading
from pathlib import Path

import msgspec
import pytest

from tidegauge.pipeline.plugin import PointReader, Sink
from tidegauge.pipeline.records import Batch, End
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
from tidegauge.sinks.memory import MemoryConfig, MemorySink

SCHEMA = make_schema()


def held(sink: Sink) -> Stored:
    assert isinstance(sink, MemorySink)
    for series in sink._series.values():
        c = series.container
        ts = [s.ts_ms for s in series.samples]
        points = [p for p in sink.points(c.instance, None, None, None) if p.ts_ms in ts] if c.epoch == 0 else None
        for i, s in enumerate(series.samples):
            point = points[i] if points is not None else sink.points(c.instance, s.ts_ms, s.ts_ms, 1)[0]
            values = dict(point.values)
            for rows in point.tables.values():
                values |= {f"{metric}[{name}]": v for name, row in rows.items() for metric, v in row.items()}
            if point.is_closing:
                values["is_closing"] = 1
            yield (c.instance, c.epoch, point.ts_ms), values


class TestMemorySink(SinkContract):
    is_lasting = False

    def make_sink(self, tmp_path: Path) -> Sink:
        return MemorySink(MemoryConfig())

    def stored(self, sink: Sink) -> Stored:
        return held(sink)


def fill(sink: MemorySink, seconds: int, containers: int = 2, first: int = 0) -> None:
    all_of_them = [make_container(n) for n in range(1, containers + 1)]
    for second in range(first, first + seconds):
        samples = [make_sample(SCHEMA, c.number, START_MS + second * 1000, cpu_usage_ns=second) for c in all_of_them]
        sink.write([make_batch(samples, all_of_them, (SCHEMA,), second * containers + 1)])


def test_it_is_a_history_reader() -> None:
    assert isinstance(MemorySink(MemoryConfig()), PointReader)


def test_samples_older_than_the_storage_duration_go() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 100)
    points = sink.points(make_container(1).instance, None, None, None)
    assert [p.values["cpu_usage_ns"] for p in points] == list(range(89, 100))


def test_bytes_are_bounded() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=1e6, limit_bytes=100_000))
    fill(sink, 2000)
    assert sink.used_bytes <= 100_000
    points = sink.points(make_container(2).instance, None, None, None)
    assert 50 < len(points) < 1000
    assert points[-1].values["cpu_usage_ns"] == 1999


def test_estimate_of_bytes_is_near_the_truth() -> None:
    import tracemalloc

    from tidegauge.pipeline.records import decode_samples, encode_samples

    schema = make_schema(tuple(m.name for m in make_schema().metrics), ("network",))
    rows = tuple((f"eth{i}", *range(10**9 + i, 10**9 + i + 8)) for i in range(2))
    payload = encode_samples([make_sample(schema, 1, START_MS + i, (rows,), cpu_usage_ns=i + 10**9) for i in range(2000)])
    sink = MemorySink(MemoryConfig())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sink.write([make_batch(decode_samples(payload), (make_container(1),), (schema,))])
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.7 < taken / sink.used_bytes < 1.3


def test_points_are_the_newest_within_the_span_oldest_first() -> None:
    sink = MemorySink(MemoryConfig())
    fill(sink, 20)
    instance = make_container(1).instance
    points = sink.points(instance, START_MS + 5000, START_MS + 12_000, 3)
    assert [p.ts_ms - START_MS for p in points] == [10_000, 11_000, 12_000]
    assert sink.points(instance, None, None, 0) == []
    assert sink.points("nobody", None, None, None) == []


def test_epochs_of_an_instance_follow_each_other_in_log_order() -> None:
    sink = MemorySink(MemoryConfig())
    first, second = make_container(1, "/a"), make_container(2, "/a", epoch=1)
    sink.write([make_batch([make_sample(SCHEMA, 1, START_MS, cpu_usage_ns=1)], (first,), (SCHEMA,), 1)])
    sink.write([make_batch([make_sample(SCHEMA, 2, START_MS - 5000, cpu_usage_ns=2)], (first, second), (SCHEMA,), 2)])
    assert [p.values["cpu_usage_ns"] for p in sink.points(first.instance, None, None, None)] == [1, 2]
    assert [c.epoch for c in sink.live_containers()] == [1]


def test_ended_container_is_not_live_and_keeps_its_samples_until_they_age() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 5)
    sink.write([End(2, START_MS + 5000, 100)])
    assert [c.number for c in sink.live_containers()] == [1]
    assert len(sink.points(make_container(2).instance, None, None, None)) == 5
    fill(sink, 20, containers=1, first=200)
    assert sink.points(make_container(2).instance, None, None, None) == []
    assert [c.number for c in sink.live_containers()] == [1]


def test_late_sample_of_an_ended_container_does_not_revive_it() -> None:
    sink = MemorySink(MemoryConfig())
    fill(sink, 2)
    sink.write([End(2, START_MS + 5000, 100)])
    sink._series.clear()
    fill(sink, 1)
    assert [c.number for c in sink.live_containers()] == [1]


def test_newest_metadata_is_seen() -> None:
    sink = MemorySink(MemoryConfig())
    sink.write([make_container(1, name=None), make_batch([make_sample(SCHEMA, cpu_usage_ns=1)])])
    sink.write([make_container(1, name="web")])
    assert [c.name for c in sink.live_containers()] == ["web"]


def test_old_rows_that_come_late_push_nothing_out() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 10, first=1000)
    old = make_batch([make_sample(SCHEMA, 1, START_MS, cpu_usage_ns=0)], first_row=5)
    sink.write([old])
    assert len(sink.points(make_container(1).instance, START_MS + 1, None, None)) == 10


def test_clock_set_back_does_not_freeze_it() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 10, first=10_000)
    back = make_container(9, "/back", epoch=1)
    for second in range(5):
        sample = make_sample(SCHEMA, 9, START_MS + second * 1000, cpu_usage_ns=second)
        sink.write([make_batch([sample], (back,), (SCHEMA,), 100_000 + second)])
    assert len(sink.points(back.instance, None, None, None)) == 5
    assert sink.points(make_container(1).instance, None, None, None) == []


def test_readers_meet_a_writer() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=5))
    faults: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                times = [p.ts_ms for p in sink.points(make_container(1).instance, None, None, None)]
                assert times == sorted(times)
                sink.live_containers()
            except Exception as exc:  # noqa: BLE001
                faults.append(exc)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for r in readers:
        r.start()
    fill(sink, 300, containers=20)
    done.set()
    for r in readers:
        r.join()
    assert faults == []


def test_generated_log_leaves_the_right_ones_live() -> None:
    sink = MemorySink(MemoryConfig())
    sink.write([r for r in generate_records(5, 4) if isinstance(r, sink.takes)])
    assert [c.number for c in sink.live_containers()] == [1, 2, 3]


@pytest.mark.parametrize("bad", [{"storage_duration_s": 0}, {"limit_bytes": 0}, {"limit": 1}])
def test_wrong_options_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, MemoryConfig)


def test_batch_is_needed() -> None:
    assert Batch in MemorySink.takes
