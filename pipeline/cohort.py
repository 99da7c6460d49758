"""Containers as the sampling thread holds them, and the groups of equal base interval in which they are served."""

from collections.abc import Callable

from tidegauge.pipeline.housekeeping import Policy
from tidegauge.pipeline.reading import Reading, Tables
from tidegauge.pipeline.records import Container, Sample, Schema, Values


def _unmoving() -> int:
    return 0


class Live:
    """A container that is sampled, with what its next sample depends on. Sampling thread only."""

    __slots__ = (
        "interval_s",
        "is_ended",
        "is_partial",
        "last_ms",
        "needs_readers",
        "oom_signs",
        "policy",
        "probe",
        "probed",
        "read_due_ns",
        "reading",
        "record",
        "slow",
        "stored",
        "stored_ms",
    )

    def __init__(self, record: Container, policy: Policy, last_ms: int) -> None:
        self.record = record
        self.policy = policy
        self.interval_s = policy.base_s
        self.read_due_ns = 0
        """When an idle container is read next although it does not move."""
        self.reading: Reading | None = None
        self.needs_readers = True
        self.oom_signs: Values | None = None
        """Those of its values that move with every OOM, as last sampled."""
        self.is_ended = False
        self.is_partial = False
        """True: a reader says that its part is gone while the container is still there."""
        self.slow: frozenset[str] = frozenset()
        """Slow collectors that have given something for it."""
        self.probe: Callable[[], int] = _unmoving
        self.probed: int | None = None
        """What the probe said before the last reading."""
        self.last_ms = last_ms
        """Time of the newest sample of this instance and epoch: the next one is later."""
        self.stored_ms: int | None = None
        """The same, None if this run has made none in this epoch."""
        self.stored: tuple[Reading, Values, Tables] | None = None

    def equip(self, reading: Reading, is_complete: bool) -> None:
        """Takes new readers in place of the old."""
        if self.reading is not None:
            self.reading.close()
        if self.reading is None or self.reading.probe_source != reading.probe_source:
            self.probed = None
        self.reading = reading
        self.probe = reading.probe or _unmoving
        self.needs_readers = not is_complete
        self.is_partial = False

    def begin_epoch(self, record: Container) -> None:
        """The same container under a new number, with nothing before it."""
        self.record = record
        self.last_ms = 0
        self.stored_ms = None
        self.stored = None
        self.interval_s = self.policy.base_s
        if self.reading is not None:
            self.reading.container = record

    def closing(self, still_ms: int) -> tuple[Sample, Schema] | None:
        """A sample at the last time that the probe stood still, with what that proves; None if it would tell nothing."""
        if self.stored is None or self.stored_ms is None or still_ms <= self.stored_ms:
            return None
        reading, values, tables = self.stored
        held = tuple(v if h else None for v, h in zip(values, reading.held, strict=True))
        if all(v is None for v in held):
            return None
        rows = tuple(t if h else None for t, h in zip(tables, reading.held_tables, strict=False))
        self.last_ms = self.stored_ms = still_ms
        told = rows if any(r is not None for r in rows) else ()
        return Sample(self.record.number, still_ms, reading.schema.id, held, told, True), reading.schema

    def sample(self, ts_ms: int, values: Values, tables: Tables) -> Sample:
        """The sample of a reading that has just been made."""
        assert self.reading is not None
        self.last_ms = self.stored_ms = ts_ms
        self.stored = (self.reading, values, tables)
        return Sample(self.record.number, ts_ms, self.reading.schema.id, values, tables)

    def close(self) -> None:
        """Gives back the readers; it is not sampled any more."""
        self.is_ended = True
        if self.reading is not None:
            self.reading.close()


class Cohort:
    """Containers of one base interval. Ticks lie on multiples of it, so that what is due together is served together."""

    def __init__(self, base_ns: int, due_ns: int, now_ms: int) -> None:
        self.base_ns = base_ns
        self.due_ns = due_ns
        self.tick = 0
        self.active: dict[Live, None] = {}
        """Read at each tick."""
        self.idle: dict[Live, None] = {}
        """Looked at, and read when they move or their own interval has passed."""
        self.still_ms = 0
        """Wall-clock time of the last look; an idle container that was looked at stood still then."""
        self.looked_ns: int | None = None
        """Monotonic time of the last look; None when there was nobody to look at."""
        self.served_ms = now_ms
        """Wall-clock time of the last tick."""
        self.served_ns: int | None = None
        """Monotonic time of the last tick, None before the first."""

    def __len__(self) -> int:
        return len(self.active) + len(self.idle)

    def activate(self, live: Live) -> None:
        self.idle.pop(live, None)
        self.active[live] = None

    def rest(self, live: Live, read_due_ns: int) -> None:
        live.read_due_ns = read_due_ns
        self.active.pop(live, None)
        self.idle[live] = None

    def remove(self, live: Live) -> None:
        self.active.pop(live, None)
        self.idle.pop(live, None)

    def look(self) -> list[Live]:
        """Idle containers whose probe moved or failed. The hot loop: about 1 us a container, nearly all of it the kernel's."""
        moved: list[Live] = []
        lives = iter(tuple(self.idle))
        while True:
            try:
                for live in lives:
                    if live.probe() != live.probed:
                        moved.append(live)
            except Exception:  # noqa: BLE001 - the reading that follows meets the error again and counts it
                moved.append(live)
            else:
                return moved

    def due(self, now_ns: int) -> list[Live]:
        """Idle containers whose own interval has passed."""
        return [live for live in self.idle if live.read_due_ns <= now_ns]

    def advance(self, now_ns: int) -> int:
        """Sets the next due time, the first multiple after now, and returns how many were passed over."""
        missed = max(0, (now_ns - self.due_ns) // self.base_ns)
        self.due_ns += (missed + 1) * self.base_ns
        self.tick += 1
        return missed
