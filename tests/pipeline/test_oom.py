"""OOM events out of counters and of the kernel's log: the right container, once, in order, over restarts."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.sampler_rig import ORIGIN, Rig, World

from tidegauge.pipeline.identity import live_containers
from tidegauge.pipeline.kmsg import OomReport
from tidegauge.pipeline.plugin import OomCounter, OomCounts
from tidegauge.pipeline.records import Container, End, Event, encode_record
from tidegauge.pipeline.sampler_config import SamplerConfig

KILLED = OomReport(5, "/a", "/a/b", 42, "stress", "CONSTRAINT_MEMCG")


class Kernel:
    """Counters by path. `is_v1`: an OOM is counted nowhere, a kill where its victim lived; else also an OOM, at its limit."""

    def __init__(self, is_v1: bool) -> None:
        self.is_v1 = is_v1
        self.ooms: dict[str, int] = {}
        self.kills: dict[str, int] = {}

    def kill(self, limit: str, victim: str) -> None:
        self.ooms[limit] = self.ooms.get(limit, 0) + 1
        self.kills[victim] = self.kills.get(victim, 0) + 1


class Reader:
    def __init__(self, kernel: Kernel, path: str) -> None:
        self.kernel, self.path = kernel, path

    def read(self) -> tuple[int | None]:
        """v1: the cgroup's own kills; v2: those below it too. The root of v2 has no counter."""
        kernel = self.kernel
        if kernel.is_v1:
            return (kernel.kills.get(self.path, 0),)
        if self.path == "/":
            return (None,)
        return (sum(n for path, n in kernel.kills.items() if f"{path}/".startswith(f"{self.path}/")),)

    def close(self) -> None: ...


class Collector:
    metrics = ("memory_oom_kills",)
    oom_signs = ("memory_oom_kills",)

    def __init__(self, kernel: Kernel, world: World) -> None:
        self.kernel, self.world = kernel, world
        self.asked = 0

    def reader(self, container: Container) -> Reader:
        return Reader(self.kernel, container.path)

    def oom_counts(self, container: Container) -> OomCounts | None:
        self.asked += 1
        path, kernel = container.path, self.kernel
        if path not in self.world.dirs or (path == "/" and not kernel.is_v1):
            return None
        return OomCounts(None if kernel.is_v1 else kernel.ooms.get(path, 0), kernel.kills.get(path, 0))


class Bench:
    def __init__(self, is_v1: bool = False, has_log: bool = True, bench: "Bench | None" = None, **options: Any) -> None:
        self.is_behind = False
        self.kernel = Kernel(is_v1) if bench is None else bench.kernel
        self.world = World() if bench is None else bench.world
        if bench is None:
            for path in ("/a", "/a/b", "/a/c"):
                self.world.make(path)
        self.collector = Collector(self.kernel, self.world)
        steady = SamplerConfig(dynamic=False, exclude=("/left-out",))
        self.rig = Rig(steady, [("oom", self.collector)], world=self.world, is_begun=False, **options)
        if has_log:
            self.rig.sampler.expect_oom_reports(lambda: self.is_behind)
        self.rig.sampler.begin()
        self.rig.due_ns = self.rig.sampler.turn()

    def events(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(kind, path by number, details without the path) of all OOM events."""
        paths = {c.number: c.path for c in self.rig.of(Container)} | {None: "?"}
        found = [e for e in self.rig.events if e.kind.startswith("oom")]
        for e in found:
            assert e.details["path"] == paths[e.container] or e.container is None
        return [(e.kind, paths[e.container], {k: v for k, v in e.details.items() if k != "path"}) for e in found]

    def say(self, report: OomReport = KILLED) -> None:
        self.rig.sampler.report_oom(report)
        self.rig.sampler.turn()

    def restarted(self, seconds: float = 60) -> "Bench":
        """A new sampler over the same kernel, which knows what the log shows as live."""
        self.rig.close()
        frames = [encode_record(i) for i in self.rig.outlet.items if isinstance(i, Container | End | Event)]
        clock = self.rig.clock
        last_ms = clock.time_ms()
        clock.advance(seconds)
        return Bench(has_log=False, bench=self, known=live_containers(frames), last_time_ms=last_ms, clock=clock)


SAID = {"count": 1, "pid": 42, "process": "stress", "constraint": "CONSTRAINT_MEMCG"}


def test_the_collector_is_one_that_tells_counters() -> None:
    assert isinstance(Collector(Kernel(True), World()), OomCounter)


@pytest.mark.parametrize("is_v1", [True, False])
def test_limit_and_victim_each_get_their_own_event(is_v1: bool) -> None:
    bench = Bench(is_v1)
    bench.kernel.kill("/a", "/a/b")
    bench.say()
    expected = [("oom", "/a", {**SAID, "victim_path": "/a/b"}), ("oom_kill", "/a/b", {**SAID, "limit_path": "/a"})]
    assert bench.events() == expected
    bench.rig.run(20)
    assert bench.events() == expected, "a counter told it again"


def test_counters_alone_tell_who_and_how_often() -> None:
    bench = Bench(has_log=False)
    bench.kernel.kill("/a", "/a/b")
    bench.kernel.kill("/a", "/a/b")
    bench.kernel.kill("/a/c", "/a/c")
    bench.rig.run(3)
    assert sorted(bench.events(), key=lambda e: e[:2]) == [
        ("oom", "/a", {"count": 2}),
        ("oom", "/a/c", {"count": 1}),
        ("oom_kill", "/a/b", {"count": 2}),
        ("oom_kill", "/a/c", {"count": 1}),
    ]


def test_on_v1_nobody_but_the_log_tells_whose_limit_it_was() -> None:
    bench = Bench(is_v1=True, has_log=False)
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(3)
    assert bench.events() == [("oom_kill", "/a/b", {"count": 1})]


def test_a_sample_before_its_report_waits_for_it() -> None:
    bench = Bench()
    bench.rig.run(1)
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(1)
    assert bench.events() == []
    bench.say()
    assert [e[:2] for e in bench.events()] == [("oom", "/a"), ("oom_kill", "/a/b")]
    assert bench.events()[1][2]["pid"] == 42
    bench.rig.run(5)
    assert len(bench.events()) == 2


def test_a_report_that_comes_too_late_is_no_second_kill() -> None:
    bench = Bench()
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(4)
    told = bench.events()
    assert told == [("oom", "/a", {"count": 1}), ("oom_kill", "/a/b", {"count": 1})]
    bench.say()
    assert bench.events() == told


def test_a_count_waits_longer_for_its_report_while_the_log_is_not_read_to_its_end_but_not_for_ever() -> None:
    bench = Bench()
    bench.is_behind = True
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(4)
    assert bench.events() == []
    bench.say()
    assert [details.get("pid") for _, _, details in bench.events()] == [42, 42]
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(9)
    assert bench.events()[2:] == [("oom", "/a", {"count": 1}), ("oom_kill", "/a/b", {"count": 1})]


def test_two_kills_of_which_the_log_tells_one() -> None:
    bench = Bench()
    bench.kernel.kill("/a", "/a/b")
    bench.kernel.kill("/a", "/a/b")
    bench.say()
    bench.rig.run(4)
    kills = [details for kind, _, details in bench.events() if kind == "oom_kill"]
    assert [(d["count"], d.get("pid")) for d in kills] == [(1, 42), (1, None)]


def test_a_process_that_the_kernel_kills_and_counts_twice_is_told_once() -> None:
    bench = Bench()
    bench.kernel.kill("/a", "/a/b")
    bench.kernel.kills["/a/b"] += 1
    bench.say()
    bench.say(KILLED._replace(limit_path=None, is_repeat=True))
    bench.rig.run(4)
    assert [(kind, details["count"]) for kind, _, details in bench.events()] == [("oom", 1), ("oom_kill", 1)]
    bench.world.remove("/a/b")
    bench.rig.run(4)
    bench.say(KILLED._replace(limit_path=None, is_repeat=True))
    bench.rig.run(4)
    assert len(bench.events()) == 2


def test_a_container_that_is_gone_at_once_has_its_event_before_its_end() -> None:
    bench = Bench()
    bench.kernel.kill("/a/b", "/a/b")
    bench.world.remove("/a/b")
    bench.say(KILLED._replace(limit_path="/a/b"))
    number = bench.rig.containers("/a/b")[0].number
    story = [
        (i.kind if isinstance(i, Event) else "end")
        for i in bench.rig.outlet.items
        if isinstance(i, Event | End) and i.container == number
    ]
    assert story == ["creation", "oom", "oom_kill", "deletion", "end"]


def test_what_waits_for_its_report_is_written_before_the_end() -> None:
    bench = Bench()
    bench.kernel.kill("/a/b", "/a/b")
    bench.rig.run(1)
    bench.world.remove("/a/b")
    bench.rig.sampler.turn()
    kinds = [e.kind for e in bench.rig.events]
    assert kinds.index("oom_kill") < kinds.index("deletion")
    bench.say(KILLED._replace(limit_path="/a/b"))
    bench.rig.run(5)
    assert [e[:2] for e in bench.events()] == [("oom", "/a/b"), ("oom_kill", "/a/b")], "its report came late, and counted again"


def test_an_end_waits_while_the_log_is_not_read_to_its_end() -> None:
    bench = Bench()
    bench.is_behind = True
    bench.kernel.kill("/a/b", "/a/b")
    bench.world.remove("/a/b")
    bench.rig.sampler.turn()
    assert [e.kind for e in bench.rig.events if e.kind != "creation"] == []
    bench.say(KILLED._replace(limit_path="/a/b"))
    bench.rig.run(3)
    assert [e.kind for e in bench.rig.events if e.kind != "creation"] == ["oom", "oom_kill", "deletion"]
    bench.world.remove("/a/c")
    bench.rig.run(3)
    assert bench.rig.events[-1].kind == "deletion", "an end waits for ever"


def test_a_report_behind_the_event_of_a_container_that_leaves_is_no_second_kill() -> None:
    bench = Bench()
    bench.kernel.kill("/a/b", "/a/b")
    bench.rig.run(2.2)
    bench.is_behind = True
    bench.world.remove("/a/b")
    bench.rig.sampler.turn()
    bench.rig.run(0.2)
    told = [("oom", "/a/b", {"count": 1}), ("oom_kill", "/a/b", {"count": 1})]
    assert bench.events() == told
    assert bench.rig.sampler._roster.leaving("/a/b") is not None
    bench.say(KILLED._replace(limit_path="/a/b"))
    assert bench.events() == told


def test_one_more_kill_while_another_waits_for_its_report() -> None:
    bench = Bench()
    bench.kernel.kill("/a/b", "/a/b")
    bench.rig.run(1)
    assert bench.events() == []
    bench.kernel.kill("/a/b", "/a/b")
    bench.rig.run(5)
    assert bench.events() == [("oom", "/a/b", {"count": 2}), ("oom_kill", "/a/b", {"count": 2})]


def test_a_container_that_nobody_ever_saw_is_named_by_its_path() -> None:
    bench = Bench()
    bench.say(OomReport(5, "/x", "/x", 42, "stress", "CONSTRAINT_MEMCG"))
    assert bench.events() == []
    bench.rig.run(4)
    assert [e[:2] for e in bench.events()] == [("oom", "?"), ("oom_kill", "?")]
    assert {e.details["path"] for e in bench.rig.events if e.kind.startswith("oom")} == {"/x"}


def test_a_container_that_is_discovered_behind_its_report() -> None:
    bench = Bench()
    bench.rig.tree.is_deaf = True
    bench.world.make("/x")
    bench.kernel.kill("/x", "/x")
    bench.say(OomReport(5, "/x", "/x", 42, "stress", "CONSTRAINT_MEMCG"))
    bench.rig.tree.is_deaf = False
    bench.rig.run(5)
    assert [e[:2] for e in bench.events()] == [("oom", "/x"), ("oom_kill", "/x")]
    assert bench.events()[1][2]["pid"] == 42


def test_what_the_configuration_leaves_out_has_no_events() -> None:
    bench = Bench()
    bench.say(OomReport(5, "/left-out", "/left-out/x", 42, "stress", "CONSTRAINT_MEMCG"))
    bench.rig.run(4)
    assert bench.events() == []


def test_the_machine_itself_runs_out() -> None:
    for is_v1 in (True, False):
        bench = Bench(is_v1)
        bench.kernel.kill("", "/a/b")
        bench.say(OomReport(5, "/", "/a/b", 42, "stress", "CONSTRAINT_NONE"))
        bench.rig.run(3)
        assert [e[:2] for e in bench.events()] == [("oom", "/"), ("oom_kill", "/a/b")]


def test_switched_off_there_are_none() -> None:
    bench = Bench(has_log=False, has_oom_events=False)
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(5)
    assert bench.events() == []
    assert bench.collector.asked == 0


def test_counters_are_read_only_when_something_moved() -> None:
    bench = Bench(has_log=False)
    bench.rig.run(30)
    assert bench.collector.asked == 0
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(30)
    assert bench.collector.asked == 2, "the container itself and the one around it"


@pytest.mark.parametrize("is_v1", [True, False])
def test_kills_while_nobody_looked_are_told_once(is_v1: bool) -> None:
    first = Bench(is_v1, has_log=False)
    first.kernel.kill("/a/b", "/a/b")
    first.rig.run(2)
    assert len([e for e in first.events() if e[0] == "oom_kill"]) == 1
    down_ms = first.rig.clock.time_ms()
    first.kernel.kill("/a/b", "/a/b")
    first.kernel.kill("/a/c", "/a/c")
    second = first.restarted()
    kills = [(path, d) for kind, path, d in second_events(second, first) if kind == "oom_kill"]
    assert sorted(kills, key=lambda k: k[0]) == [
        ("/a/b", {"count": 1, "since_ms": down_ms}),
        ("/a/c", {"count": 1, "since_ms": down_ms}),
    ]
    third = second.restarted()
    third.rig.run(5)
    assert second_events(third, second) == []


def second_events(bench: Bench, before: Bench) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Events of a bench that did not write the records of what it knew from before."""
    paths = {c.number: c.path for c in [*before.rig.of(Container), *bench.rig.of(Container)]}
    return [
        (e.kind, paths[e.container], {k: v for k, v in e.details.items() if k != "path"})
        for e in bench.rig.events
        if e.kind.startswith("oom") and e.container is not None
    ]


def test_a_step_of_the_clock_tells_nothing_again() -> None:
    bench = Bench(has_log=False)
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(3)
    told = len(bench.events())
    bench.rig.clock.step(-3600)
    bench.rig.run(5)
    assert bench.rig.containers("/a/b")[-1].epoch == 1
    assert len(bench.events()) == told
    bench.kernel.kill("/a", "/a/b")
    bench.rig.run(3)
    assert bench.events()[told:] == [("oom", "/a", {"count": 1}), ("oom_kill", "/a/b", {"count": 1})]


def test_names_keep_their_time_when_an_event_is_noted() -> None:
    bench = Bench(has_log=False)
    before = bench.rig.containers("/a/b")[-1]
    bench.kernel.kill("/a/b", "/a/b")
    bench.rig.run(3)
    after = bench.rig.containers("/a/b")[-1]
    assert (after.ooms_told, after.oom_kills_told) == (1, 1)
    assert msgspec.structs.replace(after, ooms_told=0, oom_kills_told=0) == before


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("kill"), st.booleans(), st.sampled_from(["/a/b", "/a/c"]), st.booleans()),
        st.tuples(st.just("run"), st.floats(0.1, 5)),
        st.tuples(st.just("hear")),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.booleans())
def test_every_kill_is_counted_exactly_once_whatever_the_log_tells_and_when(steps: list[tuple[Any, ...]], is_v1: bool) -> None:
    """Against a model: of each container the sum of the counts of its events is what the kernel counted."""
    bench = Bench(is_v1)
    unheard: list[OomReport] = []
    killed: dict[str, int] = {}
    for step in steps:
        match step:
            case ("kill", is_own_limit, victim, is_logged):
                limit = victim if is_own_limit else "/a"
                bench.kernel.kill(limit, victim)
                killed[victim] = killed.get(victim, 0) + 1
                if is_logged:
                    unheard.append(OomReport(bench.rig.clock.time_ms(), limit, victim, 1000 + sum(killed.values()), "x", "C"))
            case ("run", seconds):
                bench.rig.run(seconds)
            case ("hear",):
                while unheard:
                    bench.say(unheard.pop(0))
    bench.rig.run(5)
    told: dict[str, int] = {}
    pids = []
    for kind, path, details in bench.events():
        if kind == "oom_kill":
            told[path] = told.get(path, 0) + details["count"]
            if "pid" in details:
                assert details["count"] == 1
                pids.append(details["pid"])
    assert told == killed
    assert len(pids) == len(set(pids))
    if not is_v1:
        ooms: dict[str, int] = {}
        for kind, path, details in bench.events():
            if kind == "oom":
                ooms[path] = ooms.get(path, 0) + details["count"]
        assert ooms == bench.kernel.ooms


def test_origin_is_in_the_events() -> None:
    bench = Bench()
    bench.kernel.kill("/a", "/a/b")
    bench.say()
    assert {e.source for e in bench.rig.events} == {ORIGIN.source}
