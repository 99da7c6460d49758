"""Slow collectors: read on a worker thread, their values joined once into the next sample.

A reading that hangs holds nobody but its own worker: the sampling thread takes what is there, and the next round of this
collector does not begin before the one that hangs has ended.
"""

import threading
from typing import Any

from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.plugin import Reader, TableReader
from tidegauge.pipeline.reading import Source, Tables
from tidegauge.pipeline.records import Container, Values


class SlowReadings:
    """The readers of one slow collector. `run` from a worker thread, all else from the sampling thread."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.containers: tuple[Container, ...] = ()
        """Who is to be read: replaced as a whole."""
        self._readers: dict[int, Reader | None] = {}
        self._fresh: dict[int, tuple[Values, Tables] | Exception] = {}
        self._lock = threading.Lock()
        self._round = threading.Lock()

    def run(self) -> None:
        """One round over all containers. Errors wait for `take`; a container that is gone is passed over."""
        with self._round:
            self._run()

    def close(self) -> None:
        """Gives the readers back, unless a round still hangs: then they end with the program."""
        if self._round.acquire(blocking=False):
            for number in list(self._readers):
                self._forget(number)
            self._round.release()

    def _run(self) -> None:
        containers = self.containers
        numbers = {c.number for c in containers}
        for number in [n for n in self._readers if n not in numbers]:
            self._forget(number)
        for container in containers:
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
