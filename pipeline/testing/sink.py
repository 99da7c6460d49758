"""A sink that remembers what it was given, and fails as told."""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from tidegauge.pipeline.records import Batch, Container, End, Event, Gap, Record, Schema, Value
from tidegauge.pipeline.testing.records import Key, flat


class RecordingConfig(msgspec.Struct, frozen=True):
    pass


class RecordingSink:
    """Holds what it is given in memory, by key, and fails as told. Give two the same `store` to restart one.

    `script` is consumed one entry a write: None stores, an exception is raised, a callable is called with the records and
    may raise. After it every write stores. What was stored in order, with repeats, is in `written`.
    """

    Config = RecordingConfig
    takes: tuple[type, ...] = (Batch, Schema, Container, Event, Gap, End)
    cursor_lasts: bool = True

    def __init__(self, config: RecordingConfig | None = None, store: dict[Key, dict[str, Value]] | None = None) -> None:
        self.store: dict[Key, dict[str, Value]] = {} if store is None else store
        self.script: deque[BaseException | Callable[[Sequence[Record]], None] | None] = deque()
        self.written: list[Record] = []
        self.attempts = 0
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def write(self, records: Sequence[Record]) -> None:
        self.attempts += 1
        step = self.script.popleft() if self.script else None
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            step(records)
        self.keep(records)

    def keep(self, records: Sequence[Record]) -> None:
        """Stores without asking the script; for callables that take some rows and refuse others."""
        self.written.extend(records)
        self.store.update(flat(records))

    def close(self) -> None:
        self.is_open = False
