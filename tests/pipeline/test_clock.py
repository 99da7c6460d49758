"""Steps and suspends told apart."""

import time

from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.sampler_rig import SamplerClock

from tidegauge.pipeline.clock import ClockWatch, MachineClock


def test_time_that_passes_is_no_change() -> None:
    clock = SamplerClock()
    watch = ClockWatch(clock)
    for seconds in (0, 1, 3600, 86400):
        clock.advance(seconds)
        assert watch.look() is None


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 1e5))
def test_a_step_and_a_suspend_are_told_by_their_lengths(step_s: float, suspend_s: float, pass_s: float) -> None:
    clock = SamplerClock()
    watch = ClockWatch(clock)
    before_ms = clock.time_ms()
    clock.advance(pass_s)
    clock.step(step_s)
    clock.suspend(suspend_s)
    change = watch.look()
    is_step, is_suspend = abs(step_s) > 0.5001, suspend_s > 0.5001
    if abs(step_s) < 0.4999 and suspend_s < 0.4999:
        assert change is None
    if is_step or is_suspend:
        assert change is not None
        assert change.before_ms == before_ms
        assert abs(change.step_ms - 1000 * step_s) <= 2 if is_step else change.step_ms in (0, round(1000 * step_s))
        assert abs(change.suspended_ms - 1000 * suspend_s) <= 2 if is_suspend else change.suspended_ms < 502
    assert watch.look() is None


def test_the_machine_s_clocks_are_those_of_the_time_module() -> None:
    clock = MachineClock()
    assert abs(clock.time_ns() - time.time_ns()) < 10**10
    assert abs(clock.monotonic_ns() - time.monotonic_ns()) < 10**10
    assert clock.boottime_ns() >= clock.monotonic_ns() - 10**9
    assert 0 <= clock.cpu_ns() <= time.thread_time_ns()
    watch = ClockWatch(clock)
    assert watch.look() is None
