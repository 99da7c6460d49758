"""The memory sink: what it holds, what it lets go, and what readers see meanwhile."""

import threading
from pathlib import Path

import msgspec
import pytest

from tidegauge.pipeline.latest import KeepsSamples
from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import Batch, Container, End, Value
from tidegauge.pipeline.testing import (
    START_MS,
    SinkContract,
    Stored,
    flat,
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
    containers = {s.container.number: s.container for s in sink._series.values()}
    for instance in {c.instance for c in containers.values()}:
        for sample, schema in sink.samples(instance):
            yield from flat([make_batch([sample], [containers[sample.container]], [schema])])


def times(sink: MemorySink, container: Container) -> list[int]:
    """Of its samples, in ms since the start."""
    return [sample.ts_ms - START_MS for sample, _ in sink.samples(container.instance)]


def cpu(sink: MemorySink, container: Container) -> list[Value]:
    at = SCHEMA.names.index("cpu_usage_ns")
    return [sample.values[at] for sample, _ in sink.samples(container.instance)]


def live(sink: MemorySink) -> list[Container]:
    return [container for container, _ in sink.latest()]


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


def test_it_keeps_samples() -> None:
    sink = MemorySink(MemoryConfig())
    assert isinstance(sink, KeepsSamples)
    assert sink.samples("nobody") == []


def test_samples_older_than_the_storage_duration_go() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 100)
    assert cpu(sink, make_container(1)) == list(range(89, 100))


def test_bytes_are_bounded() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=1e6, limit_bytes=100_000))
    fill(sink, 2000)
    assert sink.used_bytes <= 100_000
    kept = cpu(sink, make_container(2))
    assert 50 < len(kept) < 1000
    assert kept[-1] == 1999


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


def test_epochs_of_an_instance_follow_each_other_in_log_order() -> None:
    sink = MemorySink(MemoryConfig())
    first, second = make_container(1, "/a"), make_container(2, "/a", epoch=1)
    sink.write([make_batch([make_sample(SCHEMA, 1, START_MS, cpu_usage_ns=1)], (first,), (SCHEMA,), 1)])
    sink.write([make_batch([make_sample(SCHEMA, 2, START_MS - 5000, cpu_usage_ns=2)], (first, second), (SCHEMA,), 2)])
    assert cpu(sink, first) == [1, 2]
    assert [c.epoch for c in live(sink)] == [1]


def test_ended_container_is_not_live_and_keeps_its_samples_until_they_age() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 5)
    sink.write([End(2, START_MS + 5000, 100)])
    assert [c.number for c in live(sink)] == [1]
    assert len(times(sink, make_container(2))) == 5
    fill(sink, 20, containers=1, first=200)
    assert times(sink, make_container(2)) == []
    assert [c.number for c in live(sink)] == [1]


def test_late_sample_of_an_ended_container_does_not_revive_it() -> None:
    sink = MemorySink(MemoryConfig())
    fill(sink, 2)
    sink.write([End(2, START_MS + 5000, 100)])
    sink._series.clear()
    fill(sink, 1)
    assert [c.number for c in live(sink)] == [1]


def test_newest_metadata_is_seen() -> None:
    sink = MemorySink(MemoryConfig())
    sink.write([make_container(1, name=None), make_batch([make_sample(SCHEMA, cpu_usage_ns=1)])])
    sink.write([make_container(1, name="web")])
    assert [c.name for c in live(sink)] == ["web"]


def test_old_rows_that_come_late_push_nothing_out() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 10, first=1000)
    old = make_batch([make_sample(SCHEMA, 1, START_MS, cpu_usage_ns=0)], first_row=5)
    sink.write([old])
    assert len([ms for ms in times(sink, make_container(1)) if ms]) == 10


def test_clock_set_back_does_not_freeze_it() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=10))
    fill(sink, 10, first=10_000)
    back = make_container(9, "/back", epoch=1)
    for second in range(5):
        sample = make_sample(SCHEMA, 9, START_MS + second * 1000, cpu_usage_ns=second)
        sink.write([make_batch([sample], (back,), (SCHEMA,), 100_000 + second)])
    assert len(times(sink, back)) == 5
    assert times(sink, make_container(1)) == []


def test_readers_meet_a_writer() -> None:
    sink = MemorySink(MemoryConfig(storage_duration_s=5))
    faults: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                found = times(sink, make_container(1))
                assert found == sorted(found)
                live(sink)
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
    assert [c.number for c in live(sink)] == [1, 2, 3]


@pytest.mark.parametrize("bad", [{"storage_duration_s": 0}, {"limit_bytes": 0}, {"limit": 1}])
def test_wrong_options_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, MemoryConfig)


def test_batch_is_needed() -> None:
    assert Batch in MemorySink.takes
