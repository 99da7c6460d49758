"""What sampling itself may cost."""

import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.budgets import WINDOW_NS, DescriptorBudget, ProbeBudget

SECOND_NS = 10**9


def window(budget: ProbeBudget, start_s: int, cost_ms: float) -> int:
    """Looks at the ticks of a little more than a window, each at this cost; returns the second after it."""
    end_s = start_s + WINDOW_NS // SECOND_NS + 64
    for second in range(start_s, end_s):
        if budget.is_look(second):
            budget.spent(round(cost_ms * 1e6), second * SECOND_NS)
    return end_s


def test_within_the_budget_every_tick_is_a_look() -> None:
    budget = ProbeBudget(2.0)
    window(budget, 0, 19)
    assert budget.every == 1


def test_beyond_it_the_period_doubles_until_it_fits_and_shrinks_when_there_is_room() -> None:
    budget = ProbeBudget(2.0)
    second = 0
    for _ in range(10):
        second = window(budget, second, 70)
    assert budget.every == 4
    for _ in range(10):
        second = window(budget, second, 1)
    assert budget.every == 1


@given(st.floats(0.1, 100), st.floats(0, 5000))
def test_the_period_settles_within_the_budget_or_at_its_bound(percent: float, cost_ms: float) -> None:
    budget = ProbeBudget(percent)
    second = 0
    for _ in range(30):
        second = window(budget, second, cost_ms)
    settled = budget.every
    second = window(budget, second, cost_ms)
    share = 100 * cost_ms / 1000 / settled
    assert settled == 64 or share <= percent * 2
    assert 1 <= settled <= 64


def test_descriptors_are_counted_after_some_readers_and_freed_at_half_of_what_probes_leave() -> None:
    counts = iter([10001, 7001, 6999])
    budget = DescriptorBudget(10000, lambda: next(counts))
    budget.probes = 4000
    for _ in range(31):
        budget.opened()
    assert budget.open == 0
    budget.opened()
    assert (budget.open, budget.is_exceeded) == (10001, True)
    budget.recount()
    assert budget.is_exceeded
    budget.recount()
    assert not budget.is_exceeded


@given(st.integers(100, 5000), st.integers(0, 90), st.integers(1, 30))
def test_the_limit_is_not_passed_by_more_than_one_reader(limit: int, probes_percent: int, files: int) -> None:
    held = limit * probes_percent // 100
    budget = DescriptorBudget(limit, lambda: held)
    budget.probes = held
    budget.recount()
    for _ in range(limit):
        held += files
        budget.opened()
        if budget.is_exceeded:
            held -= files
            budget.parked()
        assert held <= limit


def test_readers_opened_and_parked_again_are_not_counted_anew() -> None:
    budget = DescriptorBudget(100_000, lambda: 1 // 0)
    for _ in range(1000):
        budget.opened()
        budget.parked()


def test_descriptors_of_this_process_are_counted() -> None:
    budget = DescriptorBudget()
    budget.recount()
    before = budget.open
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(7)]
    budget.recount()
    assert budget.open == before + 7
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(("limit", "budget"), [(64, 48), (1024, 768), (4096, 3072), (20000, 18976), (1 << 20, 1047552)])
def test_what_is_left_to_all_else_is_a_quarter_and_at_most_1024(
    limit: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert DescriptorBudget().limit == budget


def test_the_limit_of_open_files_is_raised_to_what_is_allowed() -> None:
    code = (
        "import resource as r\n"
        "from tidegauge.pipeline.budgets import raise_descriptor_limit\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "print(raise_descriptor_limit() == hard)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_many_threads_share_two_arenas() -> None:
    code = (
        "import ctypes, sys, threading\n"
        "from tidegauge.pipeline.budgets import share_arenas\n"
        "if sys.argv[1] == 'few': share_arenas()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "together = threading.Barrier(8)\n"
        "def work():\n"
        "    together.wait(60)\n"
        "    libc.malloc(5000)\n"
        "    together.wait(60)\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]\n"
        "libc.malloc_stats()\n"
    )
    arenas = {}
    for how in ("few", "many"):
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True)
        arenas[how] = done.stderr.count("Arena ")
    assert arenas["few"] <= 2 < arenas["many"]
