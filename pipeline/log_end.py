"""How far the log may be read: told by one thread, awaited by every runner."""

import threading


class LogEnd:
    """The end of the log as the sampler last told it. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._end: tuple[int, int, int] | None = None

    def set(self, appended_row: int, synced_row: int, accepted: int) -> None:
        """Exclusive ends of what was written and of what is on the disk; rows accepted over all starts."""
        with self._changed:
            self._end = (appended_row, synced_row, accepted)
            self._changed.notify_all()

    def get(self) -> tuple[int, int, int] | None:
        """(appended_row, synced_row, accepted); None until it was told once."""
        with self._changed:
            return self._end

    def wait(self, after_row: int, timeout_s: float) -> None:
        """Returns when the log reaches beyond the row, when woken, or after the timeout."""
        with self._changed:
            if self._end is None or self._end[0] <= after_row:
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        """Lets every waiter look around."""
        with self._changed:
            self._changed.notify_all()
