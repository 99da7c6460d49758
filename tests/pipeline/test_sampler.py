"""What is read when, and what of it is stored."""

from bisect import bisect_right
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.sampler_rig import CpuReader, Rig, SamplerClock

from tidegauge.pipeline.records import Container
from tidegauge.pipeline.sampler_config import PolicyConfig, SamplerConfig


def test_an_active_container_is_read_at_each_base_interval() -> None:
    rig = Rig()
    rig.world.make("/a")
    for _ in range(5):
        rig.world.cpu["/a"] += 10
        rig.run(1)
    assert rig.seconds("/a") == [0, 1, 2, 3, 4]
    rig.close()


def test_an_idle_container_is_read_at_doubling_intervals_that_stay_at_the_maximum() -> None:
    rig = Rig(SamplerConfig(max_interval_s=16))
    rig.world.make("/a")
    rig.run(100)
    gaps = [b - a for a, b in pairwise(rig.seconds("/a"))]
    intervals = [1, 2, 4, 8, 16]
    assert all(half / 2 <= gap <= half for gap, half in zip(gaps, intervals, strict=False))
    assert gaps[5:] == [16] * len(gaps[5:])
    assert len(gaps) > 8
    assert not any(s.is_closing for s in rig.samples("/a"))
    rig.close()


def test_the_host_is_read_at_each_base_interval_although_nothing_changes() -> None:
    rig = Rig()
    rig.run(5)
    assert rig.seconds("/") == [0, 1, 2, 3, 4, 5]
    rig.close()


def test_without_dynamic_every_container_is_read_at_each_base_interval() -> None:
    rig = Rig(SamplerConfig(dynamic=False))
    rig.world.make("/a")
    rig.run(5)
    assert rig.seconds("/a") == [0, 1, 2, 3, 4]
    rig.close()


def test_a_policy_by_pattern_sets_the_interval_and_stands_in_the_container_record() -> None:
    rig = Rig(SamplerConfig(policies=(PolicyConfig("/slow/*", base_interval_s=5, max_interval_s=10),)))
    rig.world.make("/slow/a")
    rig.world.make("/b")
    rig.run(59)
    assert [b - a for a, b in pairwise(rig.seconds("/slow/a"))] == [5, 10, 10, 10, 10]
    assert rig.seconds("/b")[:3] == [0, 1, 3]
    assert [(c.base_interval_s, c.max_interval_s) for c in rig.containers("/slow/a")] == [(5, 10)]
    rig.close()


def test_containers_that_are_due_together_make_one_batch() -> None:
    rig = Rig()
    for path in ("/a", "/b", "/c"):
        rig.world.make(path)
    rig.run(1)
    before = sum(isinstance(i, list) for i in rig.outlet.items)
    for path in ("/a", "/b", "/c"):
        rig.world.cpu[path] += 1
    rig.run(1)
    batches = [i for i in rig.outlet.items if isinstance(i, list)]
    assert len(batches) == before + 1
    assert len(batches[-1]) == 4
    rig.close()


def test_a_burst_after_an_idle_span_gets_a_closing_sample_with_what_the_probe_proves() -> None:
    rig = Rig()
    rig.world.cpu["/"] = 0
    rig.world.make("/a")
    rig.world.cpu["/a"] = 500
    rig.run(20)
    rig.world.memory["/a"] = 9999
    rig.world.cpu["/a"] = 800
    rig.run(1)
    *_, last_still, closing, reading = rig.samples("/a")
    assert (last_still.is_closing, closing.is_closing, reading.is_closing) == (False, True, False)
    assert rig.values(closing) == {"cpu_usage_ns": 500, "memory_usage_bytes": None}
    assert closing.tables == ((("0", 500),), None)
    assert reading.ts_ms - closing.ts_ms == 1000
    assert rig.values(reading) == {"cpu_usage_ns": 800, "memory_usage_bytes": 9999}
    rig.close()


def test_a_counter_that_moves_while_the_container_is_read_is_not_taken_for_still() -> None:
    """It ran right after its usage was read, then never again: the next look must find that out."""
    rig = Rig()
    rig.world.make("/a")
    rig.world.cpu["/a"] = 100
    rig.run(1)
    reader = rig.cpu.readers["/a"]
    read = reader.read

    def read_and_run() -> tuple[int, int]:
        values = read()
        rig.world.cpu["/a"] = 150
        return values

    reader.read = read_and_run  # type: ignore[method-assign]
    rig.sampler._roster.lives["/a"].needs_readers = True
    rig.cpu.reader = lambda container: reader if container.path == "/a" else CpuReader(rig.world, container.path)  # type: ignore[method-assign]
    rig.run(6)
    first, second, *later = rig.samples("/a")
    assert [rig.values(s)["cpu_usage_ns"] for s in (first, second)] == [100, 100]
    assert [rig.values(s)["cpu_usage_ns"] for s in later] == [150] * len(later)
    assert rig.seconds("/a")[2] == 2
    rig.close()


def test_no_closing_sample_where_the_container_was_read_at_the_last_still_look() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.run(2)
    rig.world.cpu["/a"] += 1
    rig.run(1)
    assert rig.seconds("/a") == [0, 1, 2]
    assert not any(s.is_closing for s in rig.samples("/a"))
    rig.close()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=6), st.integers(0, 10**6))
def test_cpu_rates_from_stored_samples_are_the_truth_at_base_resolution(spans: list[tuple[int, int]], start: int) -> None:
    """Bursts after idle spans: the counter rebuilt from the stored samples is the true one at every base interval."""
    rig = Rig()
    rig.world.make("/a")
    rig.world.cpu["/a"] = start
    truth: list[tuple[int, int]] = []

    def second() -> None:
        rig.run(1)
        truth.append((rig.clock.time_ms(), rig.world.cpu["/a"]))

    second()
    for idle_s, busy_s in spans:
        for _ in range(idle_s):
            second()
        for step in range(busy_s):
            rig.world.cpu["/a"] += 1000 + step
            second()
    samples = rig.samples("/a")
    times = [s.ts_ms for s in samples]
    assert times == sorted(set(times))
    for ts_ms, cpu in truth:
        # between two samples the counter stood still up to the closing sample: the sample at or before tells it
        at = bisect_right(times, ts_ms) - 1
        stored = rig.values(samples[at])["cpu_usage_ns"]
        assert stored == cpu
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps, default=0) <= 61_000
    rig.close()


def test_what_does_not_move_the_cpu_counter_is_stored_as_it_was_read_and_no_sooner() -> None:
    rig = Rig(SamplerConfig(max_interval_s=8))
    rig.world.make("/a")
    rig.run(16)
    before = len(rig.samples("/a"))
    rig.world.memory["/a"] = 1
    rig.run(5)
    assert len(rig.samples("/a")) == before
    rig.run(8)
    later = rig.samples("/a")[before:]
    assert [rig.values(s)["memory_usage_bytes"] for s in later] == [1]
    assert not any(s.is_closing for s in later)
    rig.close()


def test_an_idle_container_that_is_asked_for_is_read_at_the_next_tick_and_once() -> None:
    rig = Rig(SamplerConfig(max_interval_s=16))
    rig.world.make("/a")
    rig.run(100)
    while rig.clock.time_ms() - rig.samples("/a")[-1].ts_ms < 5000:
        rig.run(1)
    before = len(rig.samples("/a"))
    for _ in range(3):
        rig.sampler.read_soon([rig.samples("/a")[-1].container, 999])
    rig.run(1)
    assert len(rig.samples("/a")) == before + 1
    rig.run(5)
    assert len(rig.samples("/a")) == before + 1
    rig.close()


def test_readers_of_an_idle_container_are_parked() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.run(1)
    assert rig.cpu.readers["/a"].parked == 0
    rig.run(1)
    assert rig.cpu.readers["/a"].parked == 1
    rig.close()


def test_times_of_a_container_grow_although_the_clock_stands_still() -> None:
    rig = Rig(SamplerConfig(dynamic=False))
    rig.world.make("/a")
    for _ in range(4):
        rig.run(1)
        rig.clock.step(-0.4)
    times = [s.ts_ms for s in rig.samples("/a")]
    assert times == sorted(set(times))
    for _ in range(3):
        rig.run(1)
        rig.clock.step(-0.2)
    assert [c.epoch for c in rig.containers("/a")] == [0]
    rig.close()


def test_a_tick_that_is_late_by_more_than_two_intervals_leaves_a_gap_and_no_burst() -> None:
    rig = Rig(SamplerConfig(dynamic=False))
    rig.run(2)
    before = rig.clock.time_ms()
    rig.clock.advance(5.3)
    rig.run(2)
    assert [(g.from_ms, g.to_ms, g.reason, g.container) for g in rig.gaps] == [(before, before + 5300, "stall", None)]
    assert rig.seconds("/") == [0, 1, 2, 7.3, 8, 9]
    assert rig.sampler.stats.missed_ticks == 4
    assert rig.sampler.stats.late_ticks == 1
    rig.close()


class Dawdling:
    """A collector each of whose readings takes its time."""

    Config: Any = None
    metrics = ("load1",)

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.takes_s = 0.0

    def reader(self, container: Container) -> "Dawdling":
        return self

    def read(self) -> tuple[float]:
        self.clock.advance(self.takes_s)
        return (1.0,)

    def close(self) -> None: ...


def test_a_tick_that_takes_more_than_three_intervals_leaves_a_gap_and_is_late() -> None:
    clock = SamplerClock()
    slow = Dawdling(clock)
    rig = Rig(SamplerConfig(dynamic=False), [("slow", slow)], clock=clock)
    rig.run(2)
    before = clock.time_ms()
    slow.takes_s = 9.4
    rig.run(10.4)
    slow.takes_s = 0.0
    rig.run(2)
    # the reading under way took 9.4 s from the tick one second after `before`
    assert [(g.from_ms, g.to_ms, g.reason) for g in rig.gaps] == [(before + 1000, before + 11_000, "stall")]
    assert rig.sampler.stats.missed_ticks == 9
    assert rig.sampler.stats.late_ticks == 1
    assert rig.sampler.stats.values()["lateness_max_seconds"] == pytest.approx(8.4)
    rig.close()


def test_many_new_containers_do_not_hold_up_those_that_are_there() -> None:
    clock = SamplerClock()
    slow = Dawdling(clock)
    rig = Rig(SamplerConfig(dynamic=False), [("slow", slow)], clock=clock)
    rig.world.make("/old")
    rig.run(2)
    for n in range(30):
        rig.world.make(f"/{n}")
    slow.takes_s = 0.1
    rig.run(1)
    assert rig.sampler.stats.missed_ticks == 0
    seen = [n for n in range(30) if rig.samples(f"/{n}")]
    assert 0 < len(seen) < 10
    slow.takes_s = 0.0
    rig.run(1)
    assert all(rig.samples(f"/{n}") for n in range(30))
    assert len(rig.samples("/old")) == 4
    rig.close()


def test_a_stall_of_one_cohort_among_others_is_a_gap_of_its_containers() -> None:
    rig = Rig(SamplerConfig(dynamic=False, policies=(PolicyConfig("/a", base_interval_s=10, max_interval_s=10),)))
    rig.world.make("/a")
    rig.run(3)
    rig.clock.advance(4.5)
    rig.run(1)
    assert {g.container for g in rig.gaps} == {c.number for c in rig.containers("/")}
    rig.close()


def test_a_suspend_leaves_a_gap_and_no_clock_step() -> None:
    rig = Rig()
    rig.run(2)
    before = rig.clock.time_ms()
    rig.clock.suspend(600)
    rig.run(1)
    assert [(g.from_ms, g.to_ms, g.reason) for g in rig.gaps] == [(before, before + 601_000, "suspend")]
    assert rig.events == []
    rig.close()


def test_a_backward_step_begins_an_epoch_with_new_numbers_for_all() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.run(10)
    rig.clock.step(-3600)
    rig.world.cpu["/a"] += 5
    rig.run(3)
    assert [(e.kind, e.details) for e in rig.events if e.kind == "clock_step"] == [("clock_step", {"step_ms": -3_600_000})]
    for path in ("/", "/a"):
        old, new = rig.containers(path)
        assert (old.epoch, new.epoch) == (0, 1)
        assert old.instance == new.instance
        assert old.number in {e.container for e in rig.ends}
        fresh = [s for s in rig.samples(path) if s.container == new.number]
        assert not any(s.is_closing for s in fresh)
        assert rig.outlet.items.index(new) < next(
            n for n, i in enumerate(rig.outlet.items) if isinstance(i, list) and fresh[0] in i
        )
    assert len({c.number for c in rig.of(Container)}) == 4
    assert [e.kind for e in rig.events if e.kind == "deletion"] == []
    rig.close()


@pytest.mark.parametrize("seconds", [1, 2, 10])
def test_no_closing_sample_bears_a_time_of_the_epoch_before(seconds: int) -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.run(30)
    rig.clock.step(-20)
    rig.run(seconds)
    rig.world.cpu["/a"] += 5
    rig.run(2)
    new = rig.containers("/a")[-1]
    times = [s.ts_ms for s in rig.samples("/a") if s.container == new.number]
    assert times == sorted(set(times))
    assert all(t <= rig.clock.time_ms() for t in times)
    rig.close()


def test_a_forward_step_is_an_event_alone() -> None:
    rig = Rig()
    rig.run(2)
    rig.clock.step(3600)
    rig.run(2)
    assert [(e.kind, e.details) for e in rig.events] == [("clock_step", {"step_ms": 3_600_000})]
    assert [c.epoch for c in rig.containers("/")] == [0]
    assert rig.gaps == []
    rig.close()


def test_a_full_queue_drops_samples_under_a_gap_and_keeps_every_other_record() -> None:
    rig = Rig(SamplerConfig(dynamic=False))
    rig.run(2)
    last = rig.clock.time_ms()
    rig.outlet.is_full = True
    rig.world.make("/a")
    rig.run(3)
    rig.outlet.is_full = False
    rig.run(1)
    gap = rig.gaps[0]
    assert (gap.from_ms, gap.to_ms, gap.reason, gap.rows) == (last, last + 4000, "overflow", 3 + 3)
    assert len(rig.containers("/a")) == 1
    assert [e.kind for e in rig.events] == ["creation"]
    assert len(rig.samples("/a")) == 1
    assert rig.sampler.stats.overflows == 3
    assert rig.sampler.stats.samples == 6 + len(rig.samples("/")) + len(rig.samples("/a"))
    rig.close()


def test_what_waits_for_the_journal_does_not_grow_with_containers_that_come_and_go() -> None:
    rig = Rig(SamplerConfig(dynamic=False))
    rig.outlet.is_full = True
    for n in range(50):
        rig.world.make(f"/{n}")
        rig.run(1)
        rig.world.remove(f"/{n}")
    rig.run(1)
    rig.outlet.is_full = False
    rig.run(1)
    assert [c.path for c in rig.of(Container)] == ["/"]
    assert rig.events == []
    rig.close()
