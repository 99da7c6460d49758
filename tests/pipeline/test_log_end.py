"""The end of the log: told by one thread, awaited by others."""

import threading
import time

from tidegauge.pipeline.log_end import LogEnd


def test_nothing_is_known_before_it_was_told() -> None:
    end = LogEnd()
    assert end.get() is None
    end.set(7, 5, 6)
    assert end.get() == (7, 5, 6)


def test_wait_returns_at_once_when_the_log_is_ahead() -> None:
    end = LogEnd()
    end.set(7, 5, 6)
    started = time.monotonic()
    end.wait(6, 30)
    assert time.monotonic() - started < 10


def test_waiters_are_woken_by_rows_and_by_wake() -> None:
    end = LogEnd()
    for wake in (lambda: end.set(9, 9, 8), end.wake):
        waiting = threading.Thread(target=end.wait, args=(50, 30))
        waiting.start()
        while waiting.is_alive():
            wake()
            waiting.join(0.01)
        assert not waiting.is_alive()


def test_wait_ends_after_its_time() -> None:
    LogEnd().wait(0, 0.01)
