"""Time that only moves when told."""

import threading

from tidegauge.pipeline.testing.records import START_MS


class FakeClock:
    """Wall and monotonic time that only move when told."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._wall_ns = now_ms * 1_000_000
        self._mono_ns = 1_000_000_000

    def time_ns(self) -> int:
        return self._wall_ns

    def time_ms(self) -> int:
        return self._wall_ns // 1_000_000

    def time(self) -> float:
        return self._wall_ns / 1e9

    def monotonic_ns(self) -> int:
        return self._mono_ns

    def monotonic(self) -> float:
        return self._mono_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Lets time pass on both clocks."""
        self._wall_ns += round(seconds * 1e9)
        self._mono_ns += round(seconds * 1e9)

    sleep = advance

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Time passes at once, at least a nanosecond; whether the event is set."""
        self.advance(max(timeout_s, 1e-9))
        return event.is_set()

    def step(self, seconds: float) -> None:
        """Sets the wall clock forward or back, as an administrator or NTP does."""
        self._wall_ns += round(seconds * 1e9)
