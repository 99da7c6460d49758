"""What the sampler says about itself."""

from collections import deque
from collections.abc import Mapping

LATE_NS = 50_000_000
"""A tick that begins later than this counts as late."""
_RECENT = 1000


class Lateness:
    """How late the last 1000 ticks began."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=_RECENT)

    def observe(self, late_ns: int) -> None:
        self._recent.append(late_ns)

    def quantile(self, q: float) -> float:
        """Seconds that the share q of the ticks stayed within; 0 before the first."""
        ordered = sorted(self._recent.copy())
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)] / 1e9 if ordered else 0.0


class SamplerStats:
    """Counters of the sampling thread, written by it alone; reading them from another thread is safe."""

    def __init__(self) -> None:
        self.lateness = Lateness()
        self.ticks = 0
        self.late_ticks = 0
        """Began more than 50 ms late."""
        self.missed_ticks = 0
        """Passed over because the tick before took too long."""
        self.samples = 0
        self.closing_samples = 0
        self.probes = 0
        self.cpu_ns = 0
        self.probe_cpu_ns = 0
        self.overflows = 0
        """Batches dropped because too many waited for the journal."""
        self.overflow_rows = 0
        self.clock_steps = 0
        self.containers = 0
        self.idle_containers = 0
        self.descriptors = 0
        """Open in this process when last counted."""
        self.probe_every = 1
        self.blindness_ns = 0
        """Longest time between two looks at an idle container, in this window of 1000 looks or the one before."""
        self._blindness_window = [0, 0]
        self._looks = 0

    def looked(self, blind_ns: int) -> None:
        """Idle containers were looked at, `blind_ns` after the look before."""
        self._blindness_window[0] = max(self._blindness_window[0], blind_ns)
        self.blindness_ns = max(self._blindness_window)
        self._looks += 1
        if self._looks >= _RECENT:
            self._looks = 0
            self._blindness_window = [0, self._blindness_window[0]]

    def values(self) -> Mapping[str, int | float]:
        """Everything by name."""
        return {
            "ticks": self.ticks,
            "late_ticks": self.late_ticks,
            "missed_ticks": self.missed_ticks,
            "lateness_p50_seconds": self.lateness.quantile(0.5),
            "lateness_p99_seconds": self.lateness.quantile(0.99),
            "lateness_max_seconds": self.lateness.quantile(1.0),
            "samples": self.samples,
            "closing_samples": self.closing_samples,
            "probes": self.probes,
            "collection_cpu_seconds": self.cpu_ns / 1e9,
            "probe_cpu_seconds": self.probe_cpu_ns / 1e9,
            "greatest_blindness_seconds": self.blindness_ns / 1e9,
            "probe_period_ticks": self.probe_every,
            "overflows": self.overflows,
            "overflow_rows": self.overflow_rows,
            "clock_steps": self.clock_steps,
            "containers": self.containers,
            "idle_containers": self.idle_containers,
            "descriptors": self.descriptors,
        }
