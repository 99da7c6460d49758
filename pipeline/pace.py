"""Work that must not keep the sampling thread waiting, though it shares the interpreter with it."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_WORK_NS = 1_000_000
_PAUSE_S = 0.004


def paced(items: Iterable[T]) -> Iterator[T]:
    """The items, with a pause of 4 ms after each ms of CPU that the calling thread spends on them.

    A thread that computes gives the interpreter away only each 5 ms, and a tick of 1000 reads asks for it 1000 times.
    """
    begun_ns = time.thread_time_ns()
    for item in items:
        if time.thread_time_ns() - begun_ns > _WORK_NS:
            time.sleep(_PAUSE_S)
            begun_ns = time.thread_time_ns()
        yield item
