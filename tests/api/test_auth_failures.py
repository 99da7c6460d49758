"""Guessing gets slow, the right ones wait no longer than the bound, and the table does not grow."""

import pytest

from tidegauge.api import auth_failures
from tidegauge.api.auth_failures import FREE, MAX_WAIT_S, Failures, neighbourhood


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_each_further_one_waits_longer_up_to_the_bound() -> None:
    clock = Clock()
    failures = Failures(clock)
    waits = []
    for _ in range(FREE + 20):
        failures.add("a")
        waits.append(failures.wait_s("a"))
        clock.now_s += waits[-1]
        assert failures.wait_s("a") == 0, "after the wait the next one is looked at"
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE : FREE + 5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert max(waits) == MAX_WAIT_S
    assert failures.wait_s("b") == 0


def test_the_beginning_of_the_wait_is_told_once() -> None:
    failures = Failures(Clock())
    assert [failures.add("a") for _ in range(FREE + 3)] == [False] * FREE + [True, False, False]


def test_it_is_forgotten_after_a_while() -> None:
    clock = Clock()
    failures = Failures(clock)
    for _ in range(FREE):
        failures.add("a")
    clock.now_s += auth_failures.FORGOTTEN_AFTER_S + 1
    failures.add("a")
    assert failures.wait_s("a") == 0


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_failures, "MAX_ADDRESSES", 10)
    failures = Failures(Clock())
    for i in range(100):
        failures.add(f"10.0.0.{i}")
        assert len(failures) <= 10


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_host_cannot_change_its_address_to_be_free_again(address: str, one: str) -> None:
    assert neighbourhood(address) == one
