"""Long work gives the interpreter away again and again."""

import time

import pytest

from tidegauge.pipeline.pace import paced


def test_items_come_in_order_and_none_is_lost() -> None:
    assert list(paced(range(1000))) == list(range(1000))
    assert list(paced(())) == []


def test_there_is_a_pause_between_items_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in paced(range(20)):
        until_s = time.thread_time() + 0.002
        while time.thread_time() < until_s:
            pass
    assert pauses == [0.004] * 19
