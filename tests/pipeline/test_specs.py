"""When limits are read, and what of them becomes a record."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from tests.collectors.cgroup_truth import container
from tests.pipeline.sampler_rig import Rig, SamplerClock

from tidegauge.pipeline.machine import Disk, Filesystem, Machine
from tidegauge.pipeline.records import Container, RecordType, Spec, decode_record, encode_record
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.specs import RUN_INTERVAL_S, SpecWatch


class ToldSpecs:
    """Tells the specs that it is given, and when it was asked."""

    metrics = ()

    def __init__(self, clock: SamplerClock) -> None:
        self.specs: dict[str, Spec | Exception] = {}
        self.asked: dict[str, list[float]] = {}
        self._clock = clock
        self._began_ns = clock.monotonic_ns()

    def reader(self, container: Container) -> None:
        return None

    def spec(self, container: Container) -> Spec | None:
        self.asked.setdefault(container.path, []).append((self._clock.monotonic_ns() - self._began_ns) / 1e9)
        told = self.specs.get(container.path)
        if isinstance(told, Exception):
            raise told
        return told


class Bound:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Mapping[str, Any]]] = []

    def __call__(self, path: str, instance: str, fields: Mapping[str, Any]) -> None:
        self.calls.append((path, instance, fields))


@pytest.fixture
def clock() -> SamplerClock:
    return SamplerClock()


@pytest.fixture
def told(clock: SamplerClock) -> ToldSpecs:
    return ToldSpecs(clock)


def _container(number: int) -> Container:
    return msgspec.structs.replace(container(f"/{number}"), number=number, instance=f"{number:016x}")


def _run(watch: SpecWatch, clock: SamplerClock, seconds: float) -> None:
    for _ in range(round(seconds / RUN_INTERVAL_S)):
        watch.run()
        clock.advance(RUN_INTERVAL_S)


def test_what_a_runtime_says_has_changed_is_read_in_the_next_run(clock: SamplerClock, told: ToldSpecs) -> None:
    watch = SpecWatch([told], Bound(), 60, clock)
    watch.containers = (_container(1), _container(2))
    _run(watch, clock, 20)
    before = len(told.asked["/1"])
    watch.soon(_container(1).instance)
    watch.soon(_container(3).instance)
    _run(watch, clock, 3)
    assert told.asked["/1"][before:] == [20]
    assert max(told.asked["/2"]) < 20
    watch.containers = (*watch.containers, _container(3))
    _run(watch, clock, 60)
    assert told.asked["/3"][:3] == [23, 24, 33]
    assert told.asked["/1"][before + 1 :] == [80]  # as seldom as ever after that


def test_read_at_once_soon_again_and_then_seldom(clock: SamplerClock, told: ToldSpecs) -> None:
    watch = SpecWatch([told], Bound(), 60, clock)
    watch.containers = (_container(1),)
    _run(watch, clock, 200)
    first, second, third, fourth, *later = told.asked["/1"]
    assert (first, second, third) == (0, 1, 10)
    assert 40 <= fourth <= 70
    assert later == [fourth + 60, *([fourth + 120] if fourth + 120 < 200 else [])]


def test_many_that_come_together_are_read_in_parts_and_spread(clock: SamplerClock, told: ToldSpecs) -> None:
    watch = SpecWatch([told], Bound(), 60, clock)
    watch.containers = tuple(_container(n) for n in range(1000))
    watch.run()
    assert len(told.asked) == 200
    clock.advance(1)
    _run(watch, clock, 300)
    assert len(told.asked) == 1000
    by_second: dict[int, int] = {}
    for times in told.asked.values():
        assert len(times) >= 6
        for t in times:
            if t > 120:
                by_second[int(t)] = by_second.get(int(t), 0) + 1
    assert max(by_second.values()) <= 60


def test_only_what_is_new_is_bound(clock: SamplerClock, told: ToldSpecs) -> None:
    bound = Bound()
    watch = SpecWatch([told], bound, 60, clock)
    spec = Spec(cpu_shares=512)
    told.specs = {"/1": spec, "/2": spec}
    watch.containers = (_container(1), msgspec.structs.replace(_container(2), spec=spec), _container(3))
    watch.run()
    assert bound.calls == [("/1", f"{1:016x}", {"spec": spec})]


def test_one_that_fails_leaves_the_others_and_is_told(clock: SamplerClock, told: ToldSpecs) -> None:
    bound = Bound()
    watch = SpecWatch([told], bound, 60, clock)
    told.specs = {"/1": OSError(5, "Input/output error"), "/2": Spec(cpu_shares=2)}
    watch.containers = (_container(1), _container(2))
    with pytest.raises(OSError, match="Input/output"):
        watch.run()
    assert [path for path, _, _ in bound.calls] == ["/2"]
    watch.run()  # not at once again
    assert told.asked["/1"] == [0]


def test_the_first_source_that_knows_a_container_is_believed(clock: SamplerClock, told: ToldSpecs) -> None:
    bound, other = Bound(), ToldSpecs(clock)
    watch = SpecWatch([told, other], bound, 60, clock)
    other.specs = {"/1": Spec(pids_limit=1), "/2": Spec(pids_limit=2)}
    told.specs = {"/1": Spec(pids_limit=3)}
    watch.containers = (_container(1), _container(2))
    watch.run()
    assert [fields["spec"].pids_limit for _, _, fields in bound.calls] == [3, 2]


def test_an_instance_that_takes_the_path_of_another_is_read_anew(clock: SamplerClock, told: ToldSpecs) -> None:
    watch = SpecWatch([told], Bound(), 60, clock)
    watch.containers = (_container(1),)
    _run(watch, clock, 5)
    watch.containers = (msgspec.structs.replace(_container(1), instance="f" * 16),)
    watch.run()
    assert told.asked["/1"] == [0, 1, 5]


def test_limits_in_the_log(clock: SamplerClock, told: ToldSpecs) -> None:
    rig = Rig(extra=[("told", told)], clock=clock)
    rig.world.make("/c")
    rig.run(2)
    assert [c.spec for c in rig.containers("/c")] == [None]
    told.specs = {"/c": Spec(cpu_shares=512)}
    rig.sampler.specs.run()
    rig.run(3)
    told.specs = {"/c": Spec(cpu_shares=1024)}
    for _ in range(3):
        rig.sampler.specs.run()
        rig.run(20)
    records = rig.containers("/c")
    assert [c.spec for c in records] == [None, Spec(cpu_shares=512), Spec(cpu_shares=1024)]
    assert len({(c.number, c.instance) for c in records}) == 1
    assert records[0].valid_from_ms < records[1].valid_from_ms < records[2].valid_from_ms
    # what the log knows is no news after a restart
    known = [msgspec.structs.replace(c, row=0) for c in (*rig.containers("/")[-1:], records[-1])]
    rig.close()
    again = Rig(extra=[("told", told)], clock=clock, world=rig.world, known=known, last_time_ms=clock.time_ns() // 10**6)
    again.run(2)
    again.sampler.specs.run()
    again.run(2)
    assert again.containers("/c") == []
    again.close()


def test_a_changed_interval_is_taken_over(clock: SamplerClock, told: ToldSpecs) -> None:
    rig = Rig(extra=[("told", told)], clock=clock)
    rig.sampler.reload(SamplerConfig(spec_interval_s=5))
    rig.run(1)
    assert rig.sampler.specs.interval_s == 5
    rig.close()


class ToldMachine:
    metrics = ()

    def __init__(self, machine: Machine | None) -> None:
        self.now = machine

    def reader(self, container: Container) -> None:
        return None

    def machine(self) -> Machine | None:
        return self.now


def _machine(capacity: int, **fields: Any) -> Machine:
    return Machine(cpus=2, filesystems=(Filesystem("tank", "zfs", "/", capacity),), **fields)


def test_the_machine_in_the_host_s_record() -> None:
    silent, source = ToldMachine(None), ToldMachine(_machine(10**9))
    rig = Rig(extra=[("silent", silent), ("machine", source)])
    rig.sampler.machine_job()
    rig.run(1)
    assert [c.machine for c in rig.containers("/")] == [None, source.now]
    source.now = _machine(10**9 + 5_000_000)  # half a per cent
    rig.sampler.machine_job()
    rig.run(1)
    assert len(rig.containers("/")) == 2
    source.now = _machine(2 * 10**9, disks=(Disk("sdb", 8, 16, 1 << 30),))
    rig.sampler.machine_job()
    rig.run(1)
    assert [c.machine for c in rig.containers("/")][2:] == [source.now]
    assert all(c.machine is None for c in rig.of(Container) if c.path != "/")
    type_, payload = encode_record(rig.containers("/")[-1])
    assert decode_record(type_, payload, 0) == rig.containers("/")[-1]
    rig.close()


def test_a_record_of_before_there_was_a_machine_can_be_read() -> None:
    _, payload = encode_record(container("/"))
    fields = msgspec.msgpack.decode(payload)
    at = Container.__struct_fields__.index("machine")
    old = decode_record(RecordType.CONTAINER, msgspec.msgpack.encode(fields[:at]), 0)
    assert old == container("/")
