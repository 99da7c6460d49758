"""Slow collectors: read on a worker thread, their values joined once into the next sample.

A round over many containers is spread out: after some milliseconds of CPU the worker rests, so that it takes no more than its
share of a core and does not keep the sampling thread from the interpreter. A reading that hangs holds nobody but its own
worker: the sampling thread takes what is there, and the next round of this collector does not begin before it has ended.
"""

import threading
import time
from typing import Any

from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.plugin import Reader, TableReader
from tidegauge.pipeline.reading import Source, Tables
from tidegauge.pipeline.records import Container, Values

_REST_AFTER_S = 0.002
"""CPU time after which the worker rests: less than the time for which the interpreter keeps other threads waiting."""

_CLOSE_WITHIN_S = 0.05
"""A worker that rests is woken by `close` and ends its round well within this."""


class SlowReadings:
    """The readers of one slow collector. `run` from a worker thread, all else from the sampling thread."""

    def __init__(self, source: Source, budget_percent: float = 100.0) -> None:
        self.source = source
        self.budget_percent = budget_percent
        """Share of one core that reading may take; 100: it never rests."""
        self.containers: tuple[Container, ...] = ()
        """Who is to be read: replaced as a whole."""
        self._readers: dict[int, Reader | None] = {}
        self._fresh: dict[int, tuple[Values, Tables] | Exception] = {}
        self._lock = threading.Lock()
        self._round = threading.Lock()
        self._closing = threading.Event()

    def run(self) -> None:
        """One round over all containers. Errors wait for `take`; a container that is gone is passed over."""
        with self._round:
            self._run()

    def close(self) -> None:
        """Gives the readers back, unless a round still hangs: then they end with the program."""
        self._closing.set()
        if self._round.acquire(timeout=_CLOSE_WITHIN_S):
            for number in list(self._readers):
                self._forget(number)
            self._round.release()

    def _run(self) -> None:
        containers = self.containers
        numbers = {c.number for c in containers}
        for number in [n for n in self._readers if n not in numbers]:
            self._forget(number)
        rested_s = time.thread_time()
        for container in containers:
            if (used_s := time.thread_time() - rested_s) > _REST_AFTER_S:
                if self._closing.wait(used_s * (100 / self.budget_percent - 1)):
                    return
                rested_s = time.thread_time()
            try:
                result: Any = self._read(container)
            except (NoData, FileNotFoundError):
                self._forget(container.number)
                continue
            except Exception as exc:  # noqa: BLE001 - handed to the sampling thread, which counts it
                result = exc
            if result is not None:
                with self._lock:
                    self._fresh[container.number] = result

    def fresh(self) -> set[int]:
        """Numbers of the containers that have something to take."""
        with self._lock:
            return set(self._fresh)

    def take(self, number: int) -> tuple[Values, Tables] | None:
        """What was read of this container since the last call, or None. Raises what its reader raised."""
        with self._lock:
            result = self._fresh.pop(number, None)
        if isinstance(result, Exception):
            raise result
        return result

    def _read(self, container: Container) -> tuple[Values, Tables] | None:
        if container.number not in self._readers:
            self._readers[container.number] = self.source.collector.reader(container)
        reader = self._readers[container.number]
        if reader is None:
            return None
        values: Values | None = reader.read()
        if values is None:
            return None
        return values, reader.read_tables() if self.source.tables and isinstance(reader, TableReader) else ()

    def _forget(self, number: int) -> None:
        reader = self._readers.pop(number, None)
        with self._lock:
            self._fresh.pop(number, None)
        if reader is not None:
            try:
                reader.close()
            except Exception:  # noqa: BLE001 - nothing is lost with a reader that is not used again
                return
