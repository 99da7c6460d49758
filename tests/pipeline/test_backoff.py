"""Full jitter: from nothing up to a ceiling that doubles, on top of what the store asked for."""

import random
import statistics
from collections.abc import Callable

import pytest

from tidegauge.pipeline.backoff import RETRY_AFTER_MAX_S, Backoff


def seeded() -> Callable[[float, float], float]:
    return random.Random(5).uniform


def nth_waits(failures: int, retry_after_s: float | None = None) -> list[float]:
    """The wait after so many failures in a row, for many agents."""
    uniform = seeded()
    waits = []
    for _ in range(4000):
        backoff = Backoff(0.5, 30.0, uniform)
        waits.append([backoff.next_s(retry_after_s) for _ in range(failures)][-1])
    return waits


@pytest.mark.parametrize(("failures", "ceiling_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (20, 30.0)])
def test_waits_are_spread_evenly_from_nothing_to_the_ceiling(failures: int, ceiling_s: float) -> None:
    waits = nth_waits(failures)
    assert 0 <= min(waits) < 0.01 * ceiling_s
    assert 0.99 * ceiling_s < max(waits) <= ceiling_s
    for tenth, edge in enumerate(statistics.quantiles(waits, n=10), 1):
        assert edge == pytest.approx(ceiling_s * tenth / 10, abs=0.03 * ceiling_s)


@pytest.mark.parametrize("asked_s", [0.001, 1.0, 90.0, RETRY_AFTER_MAX_S])
def test_what_the_store_asks_for_is_the_least_and_agents_come_apart(asked_s: float) -> None:
    waits = nth_waits(3, asked_s)
    assert asked_s <= min(waits) < asked_s + 0.01
    assert asked_s + 0.49 < max(waits) <= asked_s + 0.5
    assert statistics.mean(waits) == pytest.approx(asked_s + 0.25, abs=0.02)


def test_a_store_that_asks_for_days_is_asked_again_after_an_hour() -> None:
    assert max(nth_waits(1, 1e9)) <= RETRY_AFTER_MAX_S + 0.5


@pytest.mark.parametrize("asked_s", [0.0, -5.0])
def test_no_time_asked_for_is_none(asked_s: float) -> None:
    assert max(nth_waits(1, asked_s)) <= 0.5


def test_a_success_begins_again_below() -> None:
    backoff = Backoff(0.5, 30.0, lambda low, high: high)
    assert [backoff.next_s() for _ in range(3)] == [0.5, 1.0, 2.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_a_maximum_below_the_minimum_is_the_minimum() -> None:
    backoff = Backoff(2.0, 1.0, lambda low, high: high)
    assert [backoff.next_s() for _ in range(3)] == [2.0, 2.0, 2.0]
