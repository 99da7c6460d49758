"""CPU time of work done side by side, in turns, so that each repeat compares neighbours in time."""

import gc
import time
from collections.abc import Callable, Mapping


def cpu_us(work: Callable[[], object]) -> float:
    """CPU microseconds, user and kernel, of all threads of this process while `work` runs."""
    gc.collect()
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1000


Work = Callable[[], object]
Prepare = Callable[[], Work]
"""Makes what the work needs, not timed, and returns the work."""


def in_turns(works: Mapping[str, Prepare], repeats: int) -> dict[str, tuple[float, ...]]:
    """CPU microseconds of each, `repeats` times, one after the other in each repeat, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, prepare in works.items():
            used = cpu_us(prepare())
            if repeat:
                found[name].append(used)
    return {name: tuple(times) for name, times in found.items()}
