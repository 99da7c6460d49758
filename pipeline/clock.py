"""The machine's clocks, and what happened to them: wall-clock steps and suspends."""

import threading
import time
from typing import NamedTuple, Protocol

THRESHOLD_NS = 500_000_000
"""A shift of more than this between two looks is a step or a suspend; less is drift."""


class Clock(Protocol):
    """All in integer nanoseconds. Tests give their own."""

    def time_ns(self) -> int:
        """Wall clock, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Never steps and stands still while the machine is suspended."""
        ...

    def boottime_ns(self) -> int:
        """Never steps and counts suspended time."""
        ...

    def cpu_ns(self) -> int:
        """CPU time of the calling thread."""
        ...


class MachineClock:
    """The kernel's clocks."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def cpu_ns(self) -> int:
        return time.thread_time_ns()


class RunnerClock:
    """The clocks of a thread that waits; tests give their own."""

    def time_ms(self) -> int:
        """Wall clock, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds; never steps."""
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Waits until the event is set or the time has passed; whether it is set."""
        return event.wait(timeout_s)


class ClockChange(NamedTuple):
    """What happened since the look before."""

    step_ms: int
    """How far the wall clock was set, negative: back; 0: it was not."""
    suspended_ms: int
    """How long the machine was suspended; 0: it was not."""
    before_ms: int
    """Wall-clock time of the look before."""


class ClockWatch:
    """Compares the wall clock and the monotonic clock with the one that counts suspended time. One thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall, self._mono, self._boot = self._read()

    def look(self) -> ClockChange | None:
        """What happened since the last look, or None if the clocks went on as they should."""
        wall, mono, boot = self._read()
        step = (wall - boot) - (self._wall - self._boot)
        suspended = (boot - mono) - (self._boot - self._mono)
        before_ms = self._wall // 1_000_000
        self._wall, self._mono, self._boot = wall, mono, boot
        step_ms = step // 1_000_000 if abs(step) > THRESHOLD_NS else 0
        suspended_ms = suspended // 1_000_000 if suspended > THRESHOLD_NS else 0
        return ClockChange(step_ms, suspended_ms, before_ms) if step_ms or suspended_ms else None

    def _read(self) -> tuple[int, int, int]:
        return self._clock.time_ns(), self._clock.monotonic_ns(), self._clock.boottime_ns()
