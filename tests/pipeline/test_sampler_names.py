"""Names and ends in the log: what the sampler makes of what a Naming says, when it says it."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from tests.pipeline.sampler_rig import Rig, SamplerClock, World

from tidegauge.pipeline.naming import Parting
from tidegauge.pipeline.records import Container, End, Event
from tidegauge.pipeline.sampler_config import PolicyConfig, SamplerConfig

PATH = "/docker/c1"


class ToldNaming:
    """Says what it is told; writes down what it is asked."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.parting = Parting()
        self.appearances: list[Container] = []
        self.ends: list[str] = []
        self.forgotten: list[str] = []
        self.bind: Callable[[str, str, Mapping[str, Any]], None]
        self.depart: Callable[[str, int | None], None]

    def attach(self, bind: Callable[[str, str, Mapping[str, Any]], None], depart: Callable[[str, int | None], None]) -> None:
        self.bind, self.depart = bind, depart

    def named(self, record: Container) -> Container:
        return msgspec.structs.replace(record, name=self.names.get(record.path, record.name))

    def appeared(self, record: Container) -> None:
        self.appearances.append(record)

    def gone(self, record: Container) -> Parting:
        self.ends.append(record.instance)
        return self.parting

    def forget(self, instance: str) -> None:
        self.forgotten.append(instance)


@pytest.fixture
def naming() -> ToldNaming:
    return ToldNaming()


@pytest.fixture
def rig(naming: ToldNaming) -> Rig:
    return Rig(naming=naming)


def _make(rig: Rig, path: str = PATH) -> Container:
    rig.world.make(path)
    rig.run(1)
    record: Container = rig.containers(path)[-1]
    return record


def _deletions(rig: Rig) -> list[Event]:
    return [e for e in rig.events if e.kind == "deletion"]


def test_a_name_that_the_path_tells_is_in_the_first_record(rig: Rig, naming: ToldNaming) -> None:
    naming.names[PATH] = "web"
    record = _make(rig)
    assert [c.name for c in rig.containers(PATH)] == ["web"]
    assert naming.appearances[-1] == record


def test_a_name_that_comes_later_is_a_record_valid_from_then(rig: Rig, naming: ToldNaming) -> None:
    first = _make(rig)
    rig.run(5)
    naming.bind(PATH, first.instance, {"name": "web", "restart_count": 2})
    rig.run(1)
    second = rig.containers(PATH)[-1]
    assert (second.name, second.restart_count, second.number, second.instance) == ("web", 2, first.number, first.instance)
    assert second.valid_from_ms > first.valid_from_ms
    naming.bind(PATH, first.instance, {"name": "web"})
    rig.run(1)
    assert len(rig.containers(PATH)) == 2


def test_two_names_within_a_millisecond_are_apart_in_time(rig: Rig, naming: ToldNaming) -> None:
    first = _make(rig)
    for name in ("a", "b", "c"):
        naming.bind(PATH, first.instance, {"name": name})
    rig.run(1)
    records = rig.containers(PATH)
    assert [c.name for c in records] == [None, "a", "b", "c"]
    assert len({c.valid_from_ms for c in records}) == 4


def test_a_name_for_one_that_is_gone_or_another_is_nobody_s(rig: Rig, naming: ToldNaming) -> None:
    first = _make(rig)
    rig.world.remove(PATH)
    rig.run(1)
    naming.bind(PATH, first.instance, {"name": "late"})
    second = _make(rig)
    naming.bind(PATH, first.instance, {"name": "later"})
    rig.run(1)
    assert first.instance != second.instance
    assert {c.name for c in rig.containers(PATH)} == {None}


def test_a_name_stays_through_an_epoch_and_a_new_start(naming: ToldNaming) -> None:
    world, clock = World(), SamplerClock()
    rig = Rig(naming=naming, world=world, clock=clock)
    first = _make(rig)
    naming.bind(PATH, first.instance, {"name": "web"})
    rig.run(1)
    clock.step(-30)
    rig.run(2)
    known = rig.containers(PATH)[-1]
    assert (known.name, known.epoch, known.number != first.number) == ("web", 1, True)
    naming.bind(PATH, first.instance, {"name": "shop"})
    rig.run(1)
    known = rig.containers(PATH)[-1]
    assert (known.name, known.epoch) == ("shop", 1)
    rig.close()
    again = Rig(
        naming=naming, world=world, clock=clock, known=[known, *rig.containers("/")[-1:]], last_time_ms=known.valid_from_ms
    )
    assert again.containers(PATH) == []
    assert naming.appearances[-1].name == "shop"


def test_a_path_that_tells_more_than_an_older_version_knew(naming: ToldNaming) -> None:
    world, clock = World(), SamplerClock()
    rig = Rig(world=world, clock=clock)
    known = _make(rig)
    rig.close()
    naming.names[PATH] = "web"
    again = Rig(naming=naming, world=world, clock=clock, known=[known], last_time_ms=known.valid_from_ms)
    record = again.containers(PATH)[-1]
    assert (record.name, record.instance, record.number) == ("web", known.instance, known.number)
    assert record.valid_from_ms >= known.valid_from_ms


def test_a_name_brings_its_policy_and_the_next_reading_at_once(naming: ToldNaming) -> None:
    rig = Rig(SamplerConfig(policies=(PolicyConfig(name="web*", base_interval_s=5, max_interval_s=10),)), naming=naming)
    first = _make(rig)
    rig.run(40)
    assert (first.base_interval_s, first.max_interval_s) == (1, 60)
    before = len(rig.samples(PATH))
    naming.bind(PATH, first.instance, {"name": "web-1"})
    rig.run(5)
    second = rig.containers(PATH)[-1]
    assert (second.name, second.base_interval_s, second.max_interval_s) == ("web-1", 5, 10)
    assert len(rig.containers(PATH)) == 2
    assert second.valid_from_ms > first.valid_from_ms
    # the last time that it was seen still, and the reading with which the new policy begins
    assert [s.is_closing for s in rig.samples(PATH)[before:]] == [True, False]
    count = len(rig.samples(PATH))
    rig.run(70)
    assert 6 <= len(rig.samples(PATH)) - count <= 9
    naming.bind(PATH, first.instance, {"name": "db"})
    rig.run(1)
    third = rig.containers(PATH)[-1]
    assert (third.name, third.base_interval_s, third.max_interval_s) == ("db", 1, 60)


def test_a_name_in_the_path_or_in_the_log_has_its_policy_from_the_first_record_on(naming: ToldNaming) -> None:
    world, clock = World(), SamplerClock()
    config = SamplerConfig(policies=(PolicyConfig(name="web*", base_interval_s=5),))
    naming.names[PATH] = "web"
    rig = Rig(config, naming=naming, world=world, clock=clock)
    known = _make(rig)
    assert [(c.name, c.base_interval_s) for c in rig.containers(PATH)] == [("web", 5)]
    rig.close()
    del naming.names[PATH]
    known_all = [known, *rig.containers("/")[-1:]]
    again = Rig(config, naming=naming, world=world, clock=clock, known=known_all, last_time_ms=known.valid_from_ms)
    assert again.containers(PATH) == []


# Ends.


def test_an_end_without_a_runtime_is_written_at_once(rig: Rig, naming: ToldNaming) -> None:
    record = _make(rig)
    rig.world.remove(PATH)
    rig.run(1)
    assert [e.details for e in _deletions(rig)] == [{"path": PATH}]
    assert [e.container for e in rig.ends] == [record.number]
    assert naming.forgotten == [record.instance]


def test_an_exit_code_that_is_known_stands_in_the_event(rig: Rig, naming: ToldNaming) -> None:
    _make(rig)
    naming.parting = Parting(137)
    rig.world.remove(PATH)
    rig.run(1)
    assert _deletions(rig)[0].details == {"path": PATH, "exit_code": 137}


def test_an_end_waits_for_its_exit_code(rig: Rig, naming: ToldNaming) -> None:
    record = _make(rig)
    naming.parting = Parting(None, 2.0)
    rig.world.remove(PATH)
    rig.run(1)
    gone_ms = rig.clock.time_ns() // 1_000_000
    assert rig.ends == []
    assert naming.forgotten == []
    naming.bind(PATH, record.instance, {"name": "brief"})
    naming.depart(record.instance, 0)
    rig.run(1)
    last = rig.outlet.items[-3:] if not isinstance(rig.outlet.items[-1], list) else rig.outlet.items[-4:-1]
    assert [type(i) for i in last] == [Container, Event, End]
    event = _deletions(rig)[0]
    assert (event.container, event.details) == (record.number, {"path": PATH, "exit_code": 0})
    assert event.ts_ms <= gone_ms
    assert rig.containers(PATH)[-1].name == "brief"
    assert naming.forgotten == [record.instance]
    naming.depart(record.instance, 1)
    rig.run(1)
    assert len(rig.ends) == 1


def test_an_end_does_not_wait_longer_than_it_may(naming: ToldNaming) -> None:
    rig = Rig(SamplerConfig(base_interval_s=30), naming=naming)
    rig.world.make(PATH)
    rig.sampler.turn()
    naming.parting = Parting(None, 2.0)
    rig.world.remove(PATH)
    rig.due_ns = rig.sampler.turn()
    assert rig.ends == []
    assert (rig.due_ns - rig.clock.monotonic_ns()) / 1e9 == pytest.approx(2.0)
    rig.run(2)
    assert [e.details for e in _deletions(rig)] == [{"path": PATH}]
    assert len(rig.ends) == 1


def test_the_next_container_at_the_path_does_not_wait(rig: Rig, naming: ToldNaming) -> None:
    old = _make(rig)
    naming.parting = Parting(None, 2.0)
    rig.world.remove(PATH)
    rig.world.make(PATH)
    rig.run(1)
    new = rig.containers(PATH)[-1]
    assert new.instance != old.instance
    assert rig.samples(PATH)[-1].container == new.number
    naming.depart(old.instance, 3)
    rig.run(1)
    assert [(e.container, e.details.get("exit_code")) for e in _deletions(rig)] == [(old.number, 3)]
    assert [e.container for e in rig.ends] == [old.number]


def test_nothing_waits_beyond_a_stop_or_an_epoch(rig: Rig, naming: ToldNaming) -> None:
    for end in (lambda: (rig.clock.step(-30), rig.run(1)), rig.close):
        record = _make(rig)
        naming.parting = Parting(None, 60.0)
        rig.world.remove(PATH)
        rig.run(1)
        assert record.number not in {e.container for e in rig.ends}
        end()
        assert record.number in {e.container for e in rig.ends}
        assert record.number in {e.container for e in _deletions(rig)}


def test_one_that_is_no_longer_wanted_asks_nobody(rig: Rig, naming: ToldNaming) -> None:
    record = _make(rig)
    naming.parting = Parting(None, 60.0)
    rig.sampler.reload(SamplerConfig(exclude=("/docker*",)))
    rig.run(1)
    assert naming.ends == []
    assert naming.forgotten == [record.instance]
    assert [e.container for e in rig.ends] == [record.number]
    assert _deletions(rig) == []
