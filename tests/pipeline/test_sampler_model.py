"""Random lives of a host: whatever happens, the log keeps its promises."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.sampler_rig import Rig

from tidegauge.pipeline.identity import live_containers
from tidegauge.pipeline.records import Container, End, Event, Gap, Schema, encode_record
from tidegauge.pipeline.sampler_config import SamplerConfig

CONFIG = SamplerConfig(max_interval_s=8)
PATHS = ("/a", "/b", "/c")
paths = st.sampled_from(PATHS)
hierarchies = st.sampled_from([("cpuacct",), ("memory",), ("cpuacct", "memory")])
steps = st.one_of(
    st.tuples(st.just("make"), paths, hierarchies),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("lose"), paths, st.sampled_from(["cpuacct", "memory"])),
    st.tuples(st.just("burn"), paths, st.integers(1, 1000)),
    st.tuples(st.just("run"), st.integers(1, 25)),
    st.tuples(st.just("run"), st.integers(1, 3)),
    st.tuples(st.just("step"), st.sampled_from([-3600.0, -2.0, -0.4, -0.3, 0.3, 3600.0])),
    st.tuples(st.just("suspend"), st.sampled_from([0.2, 600.0])),
    st.tuples(st.just("stall"), st.sampled_from([0.4, 0.95, 1.5, 7.3])),
    st.tuples(st.just("full"), st.booleans()),
    st.tuples(st.just("deaf"), st.booleans()),
    st.tuples(st.just("restart"), st.sampled_from([0.1, 0.5, 30.0])),
)


class History:
    """Runs steps, over restarts, and keeps the whole log."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.rig = Rig(CONFIG)
        self.starts = 1

    def play(self, step: tuple[Any, ...]) -> None:
        world, clock = self.rig.world, self.rig.clock
        match step:
            case ("make", path, names):
                if path not in world.dirs:
                    world.cpu[path] = 0
                world.make(path, *names)
            case ("remove", path) if path in world.dirs:
                world.remove(path)
            case ("lose", path, name) if len(world.dirs.get(path, {})) > 1:
                world.dirs[path].pop(name, None)
            case ("burn", path, amount) if path in world.dirs:
                world.cpu[path] += amount
            case ("run", seconds):
                before = len(self.rig.outlet.items)
                self.rig.run(seconds)
                times = [s.ts_ms for i in self.rig.outlet.items[before:] if isinstance(i, list) for s in i]
                assert max(times, default=0) <= clock.time_ms() + 500, "no sample is later than its clock but for drift"
            case ("step", seconds):
                clock.step(seconds)
            case ("suspend", seconds):
                clock.suspend(seconds)
            case ("stall", seconds):
                clock.advance(seconds)
            case ("full", is_full):
                self.rig.outlet.is_full = is_full
            case ("deaf", is_deaf):
                self.rig.tree.is_deaf = is_deaf
            case ("restart", seconds):
                self.restart(seconds)

    def restart(self, seconds: float) -> None:
        self.stop()
        records = [i for i in self.log if not isinstance(i, list)]
        times = [s.ts_ms for i in self.log if isinstance(i, list) for s in i]
        self.rig.clock.advance(seconds)
        self.starts += 1
        self.rig = Rig(
            CONFIG,
            world=self.rig.world,
            clock=self.rig.clock,
            known=live_containers([encode_record(r) for r in records]),
            last_time_ms=times[-1] if times else None,
            first_row=self.starts << 32,
        )

    def stop(self) -> None:
        self.rig.close()
        self.log += self.rig.outlet.items
        self.rig.outlet.items = []


@settings(deadline=None, max_examples=150)
@given(st.lists(steps, max_size=40))
def test_whatever_happens_the_log_keeps_its_promises(history: list[tuple[Any, ...]]) -> None:
    h = History()
    for step in history:
        h.play(step)
    h.rig.outlet.is_full = h.rig.tree.is_deaf = False
    h.rig.run(30)
    there = set(h.rig.world.dirs)
    h.stop()

    containers: dict[int, Container] = {}
    used: set[int] = set()
    schemas: dict[int, Schema] = {}
    newest: dict[tuple[str, int], tuple[int, int | None]] = {}
    gaps: list[Gap] = [i for i in h.log if isinstance(i, Gap)]
    last: dict[int, int] = {}
    for item in h.log:
        match item:
            case Schema():
                schemas[item.id] = item
            case Container():
                old = containers.get(item.number)
                assert old is not None or item.number not in used, "a number is not used again"
                assert old is None or (old.instance, old.epoch) == (item.instance, item.epoch)
                containers[item.number] = item
                used.add(item.number)
            case End():
                del containers[item.container]
            case Event():
                assert item.container is None or item.container in containers
            case list():
                for s in item:
                    c = containers[s.container]
                    values = dict(zip(schemas[s.schema].names, s.values, strict=True))
                    key = (c.instance, c.epoch)
                    before_ms, before_cpu = newest.get(key, (0, None))
                    assert s.ts_ms > before_ms, "times grow within an instance and epoch"
                    cpu = values["cpu_usage_ns"]
                    assert before_cpu is None or cpu >= before_cpu, "no negative rate"
                    if s.is_closing:
                        assert cpu == before_cpu or any(g.reason == "overflow" for g in gaps)
                        assert values["memory_usage_bytes"] is None
                    newest[key] = (s.ts_ms, cpu)
                    if s.container in last and not s.is_closing:
                        check_silence(last[s.container], s.ts_ms, s.container, gaps, h.log)
                    last[s.container] = s.ts_ms
    assert {c.path for c in containers.values()} == there
    assert len(containers) == len(there)


def check_silence(from_ms: int, to_ms: int, number: int, gaps: list[Gap], log: list[Any]) -> None:
    """Longer than the maximum and one base interval only under a gap, or where the clock was set forward."""
    if to_ms - from_ms <= 1000 * (CONFIG.max_interval_s + CONFIG.base_interval_s):
        return
    covered = any(g.container in (None, number) and g.from_ms < to_ms and g.to_ms > from_ms for g in gaps)
    stepped = any(isinstance(e, Event) and e.kind == "clock_step" and e.details["step_ms"] > 0 for e in log)
    assert covered or stepped
