"""Who is sampled: discovery, identity over restarts and re-use, errors of collectors, slow collectors, reload."""

import logging
import threading
from typing import Any

import pytest
from tests.pipeline.sampler_rig import ORIGIN, CpuCollector, Rig, SamplerClock, World

from tidegauge.pipeline.budgets import DescriptorBudget
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.identity import live_containers
from tidegauge.pipeline.log_thread import Heads
from tidegauge.pipeline.records import MAX_INT, Container, End, Event
from tidegauge.pipeline.sampler_config import PolicyConfig, SamplerConfig


class Scripted:
    """A collector whose reader does what it is told."""

    metrics = ("queue_depth",)
    tables: tuple[str, ...] = ()
    is_slow = False

    def __init__(self, path: str = "/") -> None:
        self.path = path
        self.result: Any = (1,)
        self.at_open: Exception | None = None
        self.opened = 0
        self.reads = 0

    def reader(self, container: Container) -> "Scripted | None":
        if container.path != self.path:
            return None
        self.opened += 1
        if self.at_open is not None:
            raise self.at_open
        return self

    def read(self) -> Any:
        self.reads += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def close(self) -> None: ...


def live(rig: Rig) -> list[Container]:
    """What a restart finds in the log."""
    heads = Heads()
    for item in rig.outlet.items:
        if not isinstance(item, list):
            from tidegauge.pipeline.records import encode_record

            heads.note(item, encode_record(item)[1])
    return live_containers(heads.frames())


def depths(rig: Rig, path: str = "/") -> list[Any]:
    return [rig.values(s).get("queue_depth") for s in rig.samples(path)]


def test_a_container_is_known_to_the_log_before_its_first_sample() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.sampler.turn()
    assert [type(i).__name__ for i in rig.outlet.items[-2:]] == ["Container", "Event"]
    assert (rig.events[0].kind, rig.events[0].details) == ("creation", {"path": "/a"})
    assert rig.samples("/a") == []
    rig.close()


def test_the_end_of_a_container_is_appended_at_once() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.run(1)
    rig.world.remove("/a")
    rig.sampler.turn()
    assert [(e.kind, e.details) for e in rig.events] == [("creation", {"path": "/a"}), ("deletion", {"path": "/a"})]
    assert [e.container for e in rig.ends] == [rig.containers("/a")[0].number]
    assert isinstance(rig.outlet.items[-1], End)
    assert rig.cpu.readers["/a"].is_closed
    rig.close()


def test_a_path_used_again_is_a_new_instance_after_the_end_of_the_old_one() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.run(1)
    rig.world.make("/a")
    rig.run(1)
    old, new = rig.containers("/a")
    assert old.instance != new.instance
    assert old.number != new.number
    kinds = [type(i) for i in rig.outlet.items if isinstance(i, Container | End) and i not in rig.containers("/")]
    assert kinds == [Container, End, Container]
    rig.close()


def test_a_second_hierarchy_adds_its_pair_and_readers_to_the_same_instance() -> None:
    rig = Rig()
    rig.world.make("/a", "cpuacct")
    rig.run(1)
    rig.world.make("/a", "memory")
    rig.run(1)
    first, second = rig.containers("/a")
    assert (first.number, first.instance) == (second.number, second.instance)
    assert [h for h, _ in second.pairs] == ["cpuacct", "memory"]
    assert rig.cpu.made.count("/a") == 2
    assert [e.kind for e in rig.events] == ["creation"]
    rig.close()


def test_a_path_used_again_hierarchy_by_hierarchy_is_one_new_instance() -> None:
    rig = Rig()
    rig.world.make("/a", "cpuacct", "memory")
    rig.run(1)
    rig.world.make("/a", "cpuacct")
    rig.run(1)
    rig.world.make("/a", "memory")
    rig.run(1)
    old, new, newer = rig.containers("/a")
    assert old.instance != new.instance == newer.instance
    assert [h for h, _ in new.pairs] == ["cpuacct"]
    assert dict(newer.pairs) == rig.world.dirs["/a"]
    rig.close()


def test_a_container_of_which_nobody_has_anything_to_say_has_no_samples_until_somebody_has() -> None:
    rig = Rig(SamplerConfig(max_interval_s=4))
    hidden = {"/a"}
    original = rig.cpu.reader

    def reader(container: Container) -> Any:
        return None if container.path in hidden else original(container)

    rig.cpu.reader = reader  # type: ignore[method-assign]
    rig.world.make("/a")
    rig.run(20)
    assert rig.samples("/a") == []
    assert len(rig.containers("/a")) == 1
    hidden.clear()
    rig.run(6)
    assert rig.samples("/a")
    rig.close()


def test_a_container_gone_before_its_readers_were_made_ends_without_a_sample() -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.sampler.turn()
    rig.tree.is_deaf = True

    def reader(container: Container) -> Any:
        raise FileNotFoundError(container.path)

    rig.cpu.reader = reader  # type: ignore[method-assign]
    rig.world.remove("/a")
    rig.run(1)
    assert len(rig.ends) == 1
    assert rig.samples("/a") == []
    assert rig.sampler.counters()["collect_errors"] == {}
    rig.close()


def test_a_container_lives_while_any_hierarchy_has_it() -> None:
    rig = Rig()
    rig.world.make("/a", "cpuacct", "memory")
    rig.run(1)
    del rig.world.dirs["/a"]["cpuacct"]
    rig.run(1)
    assert rig.ends == []
    del rig.world.dirs["/a"]
    rig.run(1)
    assert len(rig.ends) == 1
    rig.close()


def test_a_restart_keeps_instance_and_number_and_writes_the_gap_first() -> None:
    first = Rig()
    first.world.make("/a")
    first.world.make("/b")
    first.run(2)
    known = live(first)
    last_ms = first.clock.time_ms()
    first.close()
    del first.world.dirs["/b"]
    first.clock.advance(30)
    rig = Rig(world=first.world, clock=first.clock, known=known, last_time_ms=last_ms)
    rig.world.make("/c")
    rig.run(2)
    gap = rig.outlet.items[0]
    assert gap == rig.gaps[0]
    assert (gap.from_ms, gap.to_ms, gap.reason) == (last_ms, last_ms + 30_000, "agent_down")
    assert rig.containers("/a") == []
    numbers = {c.path: c.number for c in known}
    batch = next(i for i in rig.outlet.items if isinstance(i, list))
    assert {s.container for s in batch} == {numbers["/"], numbers["/a"]}
    assert [e.container for e in rig.ends] == [numbers["/b"]]
    assert [(e.kind, e.details["path"]) for e in rig.events] == [("deletion", "/b"), ("creation", "/c")]
    assert rig.containers("/c")[0].number == max(numbers.values()) + 1
    rig.close()


def test_a_restart_with_the_clock_set_back_begins_an_epoch() -> None:
    first = Rig()
    first.world.make("/a")
    first.run(2)
    known, last_ms = live(first), first.clock.time_ms()
    first.close()
    first.clock.step(-100)
    rig = Rig(world=first.world, clock=first.clock, known=known, last_time_ms=last_ms)
    assert rig.gaps == []
    assert [e.kind for e in rig.events] == ["clock_step"]
    for old in known:
        (new,) = rig.containers(old.path)
        assert (new.instance, new.epoch) == (old.instance, 1)
        assert new.number > max(c.number for c in known)
    assert {e.container for e in rig.ends} == {c.number for c in known}
    rig.close()


def test_a_restart_a_moment_back_in_time_goes_on_after_the_last_sample() -> None:
    first = Rig()
    first.run(2)
    known, last_ms = live(first), first.clock.time_ms()
    first.close()
    first.clock.step(-0.3)
    rig = Rig(world=first.world, clock=first.clock, known=known, last_time_ms=last_ms)
    batch = next(i for i in rig.outlet.items if isinstance(i, list))
    assert [s.ts_ms for s in batch] == [last_ms + 1]
    rig.close()


def test_after_a_boot_every_container_is_another_instance() -> None:
    first = Rig()
    first.world.make("/a")
    first.run(1)
    known = live(first)
    first.close()
    rig = Rig(world=first.world, known=known, last_time_ms=1, origin=ORIGIN._replace(boot_id="boot-2"))
    assert {e.container for e in rig.ends} == {c.number for c in known}
    assert rig.containers("/a")[0].instance not in {c.instance for c in known}
    rig.close()


def test_a_container_that_vanishes_under_its_reader_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.world.make("/a")
    rig.world.make("/b")
    rig.run(1)
    rig.tree.is_deaf = True
    rig.world.remove("/a")
    rig.run(1)
    assert [e.kind for e in rig.events][-1] == "deletion"
    assert len(rig.samples("/b")) == 2
    assert rig.sampler.counters()["collect_errors"] == {}
    assert caplog.records == []
    rig.close()


def test_a_part_that_vanishes_while_the_container_lives_is_an_error_of_its_collector() -> None:
    part = Scripted("/a")
    rig = Rig(SamplerConfig(dynamic=False), [("part", part)])
    rig.world.make("/a")
    rig.run(1)
    part.result = FileNotFoundError("gone")
    rig.run(1)
    assert rig.sampler.counters()["collect_errors"] == {}  # the rest of the container may be about to go
    rig.run(2)
    part.result = (2,)
    rig.run(1)
    assert depths(rig, "/a") == [1, None, None, None, 2]
    assert rig.sampler.counters()["collect_errors"] == {"part": 2}
    assert rig.ends == []
    rig.close()


@pytest.mark.parametrize("error", [CollectError("odd"), PermissionError(13, "no"), ZeroDivisionError("bug")])
def test_a_failing_collector_is_counted_and_logged_at_its_start_and_end(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bad = Scripted()
    rig = Rig(extra=[("bad", bad)])
    bad.result = error
    rig.run(3)
    bad.result = (3,)
    rig.run(1)
    assert depths(rig) == [1, None, None, None, 3]
    assert all(rig.values(s)["cpu_usage_ns"] == 0 for s in rig.samples("/"))
    assert rig.sampler.counters()["collect_errors"] == {"bad": 3}
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    assert "bad" in caplog.records[0].getMessage()
    rig.close()


def test_a_reader_that_cannot_be_made_is_tried_again() -> None:
    late = Scripted()
    late.at_open = CollectError("not yet")
    rig = Rig(extra=[("late", late)])
    rig.run(1)
    late.at_open = None
    rig.run(1)
    assert depths(rig) == [None, None, 1]
    rig.close()


def test_no_data_is_no_error_and_not_asked_for_again() -> None:
    absent = Scripted()
    absent.at_open = NoData("not here")
    rig = Rig(extra=[("absent", absent)])
    rig.run(3)
    assert absent.opened == 1
    assert rig.sampler.counters()["collect_errors"] == {}
    rig.close()


@pytest.mark.parametrize("absurd", [MAX_INT + 1, -MAX_INT - 2, float("nan"), float("inf"), "7", True])
def test_a_value_that_no_store_could_hold_becomes_none_and_is_counted(absurd: Any) -> None:
    odd = Scripted()
    rig = Rig(extra=[("odd", odd)])
    odd.result = (absurd,)
    rig.run(1)
    odd.result = (MAX_INT,)
    rig.run(1)
    assert depths(rig) == [1, None, MAX_INT]
    assert rig.sampler.counters()["absurd_values"] == 1
    rig.close()


def test_what_a_collector_counts_and_cannot_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Counting(Scripted):
        said: str | None = None

        def counters(self) -> dict[str, int]:
            return {"absurd_values": 2, "unreadable_files": int(self.said is not None)}

        def complaint(self) -> str | None:
            return self.said

    odd = Counting()
    rig = Rig(extra=[("odd", odd)])
    rig.run(1)
    assert rig.sampler.counters()["collector_faults"] == {}
    odd.said = "/sys/x: Permission denied"
    rig.run(2)
    told = rig.sampler.counters()
    assert told["collector_counters"] == {"odd": {"absurd_values": 2, "unreadable_files": 1}}
    assert told["collector_faults"] == {"odd": "/sys/x: Permission denied"}
    assert told["absurd_values"] == 2
    assert caplog.messages == ["collector odd goes on without what it cannot read, first /sys/x: Permission denied"]
    odd.result = CollectError("the file of today is broken")
    rig.run(1)
    assert rig.sampler.counters()["collector_faults"] == {"odd": "/: the file of today is broken"}
    rig.close()


@pytest.mark.parametrize("result", [(), (1, 2), None])
def test_a_tuple_of_the_wrong_length_is_an_error(result: Any) -> None:
    odd = Scripted()
    rig = Rig(extra=[("odd", odd)])
    odd.result = result
    rig.run(1)
    assert depths(rig) == [1, None]
    assert rig.sampler.counters()["collect_errors"] == {"odd": 1}
    rig.close()


def test_a_metric_that_two_collectors_name_is_taken_from_the_first_that_has_it() -> None:
    one, two = Scripted(), Scripted()
    two.result = (2,)
    rig = Rig(extra=[("one", one), ("two", two)])
    one.result = (None,)
    rig.run(1)
    one.result = CollectError("gone")
    rig.run(1)
    assert depths(rig) == [1, 2, 2]
    rig.close()


def test_a_container_without_a_probe_is_read_at_growing_intervals_while_its_values_stay() -> None:
    class Unprobed(CpuCollector):
        def reader(self, container: Container) -> Any:
            reader = super().reader(container)
            return type("Plain", (), {"read": reader.read, "read_tables": reader.read_tables, "close": reader.close})()

    rig = Rig()
    plain = Unprobed(rig.world)
    rig.sampler._readings._sources[0] = rig.sampler._readings._sources[0]._replace(collector=plain)
    rig.world.make("/a")
    rig.run(16)
    rig.world.memory["/a"] = 1
    while len(rig.samples("/a")) < 7:
        rig.run(1)
    *still, changed, after = rig.seconds("/a")
    assert still == [0, 1, 3, 7, 15]
    assert 23 <= changed <= 31
    assert after == changed + 1
    assert not any(s.is_closing for s in rig.samples("/a"))
    rig.close()


def test_a_slow_collector_is_read_elsewhere_and_joined_once() -> None:
    slow = Scripted()
    slow.is_slow = True
    rig = Rig(extra=[("slow", slow)])
    (readings,) = rig.sampler.slow
    rig.run(1)
    assert slow.reads == 0
    readings.run()
    rig.run(2)
    slow.result = CollectError("hung up")
    readings.run()
    rig.run(1)
    assert depths(rig) == [None, None, 1, None, None]
    assert rig.sampler.counters()["collect_errors"] == {"slow": 1}
    rig.close()


def test_a_slow_collector_with_nothing_new_leaves_what_waits_to_be_taken() -> None:
    slow = Scripted()
    slow.is_slow = True
    rig = Rig(extra=[("slow", slow)])
    (readings,) = rig.sampler.slow
    rig.run(1)  # tells it whom to read
    readings.run()
    slow.result = None
    readings.run()
    rig.run(2)
    assert [d for d in depths(rig) if d is not None] == [1]
    assert rig.sampler.counters()["collect_errors"] == {}
    rig.close()


def test_a_slow_collector_that_hangs_holds_nobody() -> None:
    slow = Scripted()
    slow.is_slow = True
    hang = threading.Event()
    slow.read = lambda: (hang.wait(30), (5,))[1]  # type: ignore[method-assign]
    rig = Rig(extra=[("slow", slow)])
    worker = threading.Thread(target=rig.sampler.slow[0].run)
    worker.start()
    rig.run(3)
    assert rig.seconds("/") == [0, 1, 2, 3]
    hang.set()
    worker.join()
    rig.run(1)
    assert depths(rig)[-1] == 5
    rig.close()


def test_beyond_the_cpu_budget_idle_containers_are_looked_at_less_often_and_it_shows() -> None:
    rig = Rig(SamplerConfig(cpu_budget_percent=2.0))
    rig.world.make("/a")
    cohort_look = rig.cpu.reader(rig.containers("/")[0]).probe
    probe_cost_ns = 30_000_000
    original = type(rig.cpu.readers["/"]).probe

    def costly(reader: Any) -> int:
        rig.clock.spent_ns += probe_cost_ns
        return int(original(reader))

    assert cohort_look() == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.pipeline.sampler_rig.CpuReader.probe", costly)
        rig.run(60)
        assert rig.sampler.stats.probe_every == 2
        assert rig.sampler.stats.values()["greatest_blindness_seconds"] == 2
        probe_cost_ns = 1000
        rig.run(60)
        assert rig.sampler.stats.probe_every == 1
    rig.close()


def test_beyond_the_descriptor_budget_readers_are_parked_after_each_reading() -> None:
    count = 10
    rig = Rig(SamplerConfig(dynamic=False), descriptors=DescriptorBudget(limit=100, count=lambda: count))
    for n in range(40):
        rig.world.make(f"/{n}")
    rig.run(2)
    assert sum(r.parked for r in rig.cpu.readers.values()) == 0
    count = 101
    for n in range(40, 80):
        rig.world.make(f"/{n}")
    rig.run(1)
    rig.run(1)
    assert all(r.parked for r in rig.cpu.readers.values())
    rig.close()


def test_patterns_choose_what_is_sampled() -> None:
    rig = Rig(SamplerConfig(include=("/docker/*",)))
    rig.world.make("/docker/a")
    rig.world.make("/system.slice")
    rig.run(1)
    assert {c.path for c in rig.of(Container)} == {"/", "/docker/a"}
    rig.close()


def test_a_reload_takes_over_policies_and_patterns_without_loss() -> None:
    rig = Rig(SamplerConfig(max_interval_s=8))
    for path in ("/a", "/b", "/c"):
        rig.world.make(path)
    rig.run(20)
    rig.sampler.reload(
        SamplerConfig(
            max_interval_s=8, exclude=("/b",), include=("/a", "/b", "/d"), policies=(PolicyConfig("/a", base_interval_s=2),)
        )
    )
    rig.world.make("/d")
    rig.run(12)
    first, second = rig.containers("/a")
    assert (first.number, first.instance) == (second.number, second.instance)
    assert (second.base_interval_s, second.max_interval_s) == (2, 8)
    assert {e.container for e in rig.ends} == {rig.containers(p)[0].number for p in ("/b", "/c")}
    assert [e for e in rig.events if e.kind == "deletion"] == []
    assert len(rig.containers("/d")) == 1
    rig.world.cpu["/a"] += 1
    rig.run(4)
    times = [s.ts_ms for s in rig.samples("/a")]
    assert times == sorted(set(times))
    # excluded and taken in again: the same instance
    rig.sampler.reload(SamplerConfig(max_interval_s=8))
    rig.run(2)
    again = rig.containers("/b")
    assert again[0].instance == again[-1].instance
    rig.close()


def test_a_host_without_cgroups_is_sampled() -> None:
    world = World()
    world.dirs = {}
    rig = Rig(world=world, clock=SamplerClock())
    rig.run(1)
    assert len(rig.samples("/")) == 2
    assert rig.containers("/")[0].pairs == ()
    assert not any(isinstance(i, Event) for i in rig.outlet.items)
    rig.close()


def test_a_host_that_is_not_sampled_has_its_record_and_all_else_goes_on() -> None:
    rig = Rig(SamplerConfig(sample_host=False))
    rig.world.make("/docker/a")
    rig.run(3)
    (record,) = rig.containers("/")
    assert rig.samples("/") == []
    assert len(rig.samples("/docker/a")) > 0
    rig.world.remove("/docker/a")
    rig.run(3)
    assert rig.samples("/") == []
    rig.clock.step(-30)
    rig.run(3)
    assert rig.samples("/") == []
    rig.sampler.reload(SamplerConfig())
    rig.run(3)
    assert len(rig.samples("/")) > 1
    rig.sampler.reload(SamplerConfig(sample_host=False))
    rig.run(1)
    count = len(rig.samples("/"))
    rig.world.make("/docker/b")
    rig.run(5)
    assert len(rig.samples("/")) == count
    assert len(rig.samples("/docker/b")) > 1
    assert record.instance == rig.containers("/")[-1].instance
