"""Rounds of slow collectors: spread out over time by their share of a core, and ended when the program ends."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from tidegauge.pipeline.reading import Source
from tidegauge.pipeline.records import Container, Values
from tidegauge.pipeline.slow import SlowReadings


def containers(count: int) -> tuple[Container, ...]:
    return tuple(Container(n, "s", f"{n:016x}", 0, "b", f"/{n}", "h", 0, 0) for n in range(1, count + 1))


class Burning:
    """A collector each of whose readings takes some CPU time."""

    Config: Any = None
    metrics: Sequence[str] = ("load1",)
    is_slow = True

    def __init__(self, cpu_s: float) -> None:
        self.cpu_s = cpu_s
        self.spans: list[tuple[float, float]] = []

    def reader(self, container: Container) -> "Burning":
        return self

    def read(self) -> Values:
        start, cpu_s = time.monotonic(), time.thread_time()
        while time.thread_time() - cpu_s < self.cpu_s:
            pass
        self.spans.append((start, time.monotonic()))
        return (1.0,)

    def close(self) -> None: ...


def test_a_round_rests_in_proportion_to_the_cpu_time_that_it_takes() -> None:
    burning = Burning(0.003)
    readings = SlowReadings(Source.of("burning", burning), budget_percent=10)
    readings.containers = containers(10)
    cpu_s, start = time.thread_time(), time.monotonic()
    readings.run()
    used_s = time.thread_time() - cpu_s
    # ten readings, nine rests; the sleeping is at least what the share asks for, whatever else the machine does
    assert time.monotonic() - start >= 9 * 0.003 * 9
    assert used_s >= 10 * 0.003
    assert readings.fresh() == set(range(1, 11))
    readings.close()


def test_without_a_bound_it_never_rests() -> None:
    burning = Burning(0.003)
    readings = SlowReadings(Source.of("burning", burning))
    readings.containers = containers(20)
    waits: list[float] = []
    readings._closing.wait = lambda timeout=None: bool(waits.append(timeout or 0.0))  # type: ignore[method-assign]
    readings.run()
    assert set(waits) <= {0.0}
    readings.close()


def test_closing_ends_a_round_that_rests() -> None:
    burning = Burning(0.01)
    readings = SlowReadings(Source.of("burning", burning), budget_percent=0.01)
    readings.containers = containers(3)
    worker = threading.Thread(target=readings.run)
    worker.start()
    while not burning.spans:
        time.sleep(0.01)
    readings.close()
    worker.join(30)
    assert not worker.is_alive()
    assert len(burning.spans) < 3
