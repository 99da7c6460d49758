"""Making records and handing them to four sinks: one object a container-sample, as here, against one a metric value."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from bench.data import containers, per_sample, schema, ticks
from bench.report import Row, Section, cheaper
from bench.timing import Prepare, in_turns
from tidegauge.pipeline.records import Sample, decode_samples, encode_samples

SINKS, ROUNDS = 4, 200


class Value(msgspec.Struct, frozen=True, array_like=True):
    """What would travel if each metric value were an object."""

    container: int
    ts_ms: int
    name: str
    value: int | float | None


def run(folder: Path, count: int = 50, repeats: int = 5) -> list[Section]:
    batch = next(ticks(1, containers(count)))
    raw = [(s.container, s.ts_ms, s.values) for s in batch.samples]
    names = schema().names
    id_ = schema().id
    decode_values = msgspec.msgpack.Decoder(list[Value]).decode

    def samples() -> list[Any]:
        return [Sample(c, ts, id_, values) for c, ts, values in raw]

    def values() -> list[Any]:
        return [Value(c, ts, name, v) for c, ts, own in raw for name, v in zip(names, own, strict=True)]

    def queued(make: Callable[[], list[Any]]) -> Prepare:
        def work() -> None:
            queues: list[SimpleQueue[list[Any] | None]] = [SimpleQueue() for _ in range(SINKS)]
            threads = [threading.Thread(target=_drain, args=(q,)) for q in queues]
            for t in threads:
                t.start()
            for _ in range(ROUNDS):
                made = make()
                for q in queues:
                    q.put(made)
            for q in queues:
                q.put(None)
            for t in threads:
                t.join()

        return lambda: work

    def coded(make: Callable[[], list[Any]], decode: Callable[[bytes], Iterable[Any]]) -> Prepare:
        def work() -> None:
            for _ in range(ROUNDS):
                payload = encode_samples(make())
                for _ in range(SINKS):
                    for _ in decode(payload):
                        pass

        return lambda: work

    works = {
        "queue": queued(samples),
        "queue each": queued(values),
        "log": coded(samples, decode_samples),
        "log each": coded(values, decode_values),
    }
    us = {name: per_sample(t, count * ROUNDS) for name, t in in_turns(works, repeats).items()}
    return [
        Section(
            f"Making records and handing them to {SINKS} sinks, CPU of one container-sample of {len(names)} values",
            [
                Row("one object a sample, a queue and a thread for each sink", "us", us["queue"]),
                Row("one object a value, the same way", "us", us["queue each"]),
                Row("one object a sample, encoded once and decoded for each sink, as through the journal", "us", us["log"]),
                Row("one object a value, the same way", "us", us["log each"]),
                cheaper("by queues: an object a value / a sample", us["queue"], us["queue each"], "at least 8", 8),
                cheaper("through the log: an object a value / a sample", us["log"], us["log each"]),
            ],
        )
    ]


def _drain(queue: "SimpleQueue[list[Any] | None]") -> None:
    while (records := queue.get()) is not None:
        for _ in records:
            pass
