"""How long to wait before the next attempt."""

import random
from collections.abc import Callable

RETRY_AFTER_MAX_S = 3600.0
"""A store that asks for more is asked again after this."""


class Backoff:
    """Full jitter: a random time below a ceiling that doubles with each failure in a row."""

    def __init__(self, min_s: float, max_s: float, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._min_s = min_s
        self._max_s = max(min_s, max_s)
        self._uniform = uniform
        self._ceiling_s = min_s

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait now. Never less than the store asked for; jitter on top, so that many agents come apart."""
        if retry_after_s is not None and retry_after_s > 0:
            return min(retry_after_s, RETRY_AFTER_MAX_S) + self._uniform(0, self._min_s)
        ceiling = self._ceiling_s
        self._ceiling_s = min(ceiling * 2, self._max_s)
        return self._uniform(0, ceiling)

    def reset(self) -> None:
        """After a success: the next failure is the first again."""
        self._ceiling_s = self._min_s
