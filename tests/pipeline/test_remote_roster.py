"""What answers of another host become: containers, readings once each, gaps, ends, epochs."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.log_thread import Item, frames_of
from tidegauge.pipeline.metadata import MetadataConfig
from tidegauge.pipeline.plugin import Metadata, RemoteAnswer, RemoteContainer, RemoteReading, RuntimeRef
from tidegauge.pipeline.records import Container, End, Event, Gap, Sample, Schema
from tidegauge.pipeline.remote_options import RemoteOptions
from tidegauge.pipeline.remote_roster import Numbers, RemoteRoster, schemas_of, source_of
from tidegauge.pipeline.testing import FakeClock

T = 1_800_000_000_000
METRICS = ("cpu_usage_ns", "memory_usage_bytes", "host_memory_total_bytes")
TABLES = ("network", "filesystem")


class Log:
    """Takes bundles as the journal does and keeps their records one by one."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.times: list[int] = []
        self.is_full = False

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        if self.is_full:
            return False
        list(frames_of(items, lost=lambda rows: pytest.fail(f"{rows} rows cannot be encoded")))
        for item in items:
            self.items += item if isinstance(item, list) else [item]
        self.times.append(time_ms)
        return True

    def of(self, kind: type) -> list[Any]:
        return [i for i in self.items if isinstance(i, kind)]

    @property
    def live(self) -> list[Container]:
        live: dict[int, Container] = {}
        for item in self.items:
            if isinstance(item, Container):
                live[item.number] = item
            elif isinstance(item, End):
                del live[item.container]
        return list(live.values())

    @property
    def newest(self) -> dict[int, int]:
        newest: dict[int, int] = {}
        for s in self.of(Sample):
            assert s.ts_ms > newest.get(s.container, -1), "times of a container do not grow"
            newest[s.container] = s.ts_ms
        return newest


def roster(
    log: Log, numbers: Numbers, *, known: Sequence[Container] = (), groups: tuple[str, ...] = (), **options: Any
) -> RemoteRoster:
    schemas = schemas_of(Catalogue(), METRICS, TABLES, lambda group: not groups or group in groups)
    return RemoteRoster(
        "web",
        RemoteOptions(**options),
        (1.0, 60.0),
        True,
        schemas,
        MetadataConfig(),
        numbers,
        log,
        FakeClock(42_000),
        known,
        log.newest,
    )


def told(path: str, times: Sequence[int], created_ms: int = T - 10_000, cpu: int = 0, **said: Any) -> RemoteContainer:
    readings = [RemoteReading(t, {"cpu_usage_ns": cpu + t - T, "memory_usage_bytes": 7}, {}) for t in times]
    ref = RuntimeRef("docker", "c0ffee") if said else None
    return RemoteContainer(path, created_ms, readings, ref, Metadata(**said) if said else None)


def answer(*containers: RemoteContainer, machine: str = "m", boot: str = "b", date_ms: int | None = None) -> RemoteAnswer:
    return RemoteAnswer(machine, boot, "far", containers, date_ms)


def seconds(first: int, last: int) -> list[int]:
    return [T + 1000 * i for i in range(first, last + 1)]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def numbers() -> Numbers:
    return Numbers(1000)


def test_containers_and_readings_of_a_first_answer(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    assert r.since_ms is None
    web = told("/docker/x", seconds(0, 2), name="web", image="nginx", labels={"com.docker.compose.service": "w", "secret": "s"})
    r.take(answer(told("/", seconds(0, 2)), web))
    host, container = log.live
    assert (host.path, host.host, host.boot_id, host.remote, host.epoch) == ("/", "far", "b", "web", 0)
    assert host.source == container.source == source_of("m", "web")
    assert (container.name, container.image, container.runtime, container.container_id) == ("web", "nginx", "docker", "c0ffee")
    assert container.labels == {"com.docker.compose.service": "w"}
    assert (container.created_ms, container.valid_from_ms) == (T - 10_000, T)
    assert (container.base_interval_s, container.max_interval_s) == (1.0, 60.0)
    assert {host.number, container.number} == {1000, 1001}
    assert [(s.container, s.ts_ms) for s in log.of(Sample)] == [(n, t) for t in seconds(0, 2) for n in (1000, 1001)]
    assert [(e.kind, e.container, e.ts_ms, e.source) for e in log.of(Event)] == [("creation", 1001, T - 10_000, host.source)]
    schemas = {s.id: s for s in log.of(Schema)}
    of_host, of_container = (schemas[s.schema] for s in log.of(Sample)[:2])
    assert of_host.names == METRICS
    assert of_container.names == METRICS[:2]
    assert [t.name for t in of_container.tables] == ["network"]
    assert log.of(Sample)[1].values == (0, 7)
    assert r.since_ms == T + 2000 - 3000
    assert log.times == [42_000]  # the log's time is ours, whatever that of the readings


def test_a_reading_is_taken_once(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 5))))
    r.take(answer(told("/", seconds(3, 8))))
    r.take(answer(told("/", seconds(3, 8))))
    assert [s.ts_ms for s in log.of(Sample)] == seconds(0, 8)
    assert log.of(Gap) == []
    assert len(log.of(Container)) == 1


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_overlapping_answers_give_each_reading_once_and_in_order(windows: list[tuple[int, int]]) -> None:
    """Against a model: answers hold a span of the past that ends at a moving now."""
    log, now, seen = Log(), 0, -1
    r = roster(log, Numbers(1))
    expected: list[int] = []
    gaps = 0
    for step, back in windows:
        now += step
        times = seconds(max(0, now - back), now)
        fresh = [t for t in times if t > T + 1000 * seen]
        gaps += bool(fresh) and bool(expected) and fresh[0] - expected[-1] > 5000
        expected += fresh
        seen = max(seen, now)
        r.take(answer(told("/", times)))
    assert [s.ts_ms for s in log.of(Sample)] == expected
    assert len(log.of(Gap)) == gaps


def test_a_hole_is_a_gap_and_a_filled_one_is_none(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 5)), told("/a", seconds(0, 5))))
    r.gap_reason = "remote_down"
    r.take(answer(told("/", seconds(3, 60)), told("/a", seconds(3, 60))))  # all of it was kept there
    assert log.of(Gap) == []
    r.gap_reason = "remote_down"
    r.take(answer(told("/", seconds(100, 110)), told("/a", seconds(90, 110))))
    source = source_of("m", "web")
    assert log.of(Gap) == [Gap(source, T + 60_000, T + 100_000, "remote_down")]
    r.take(answer(told("/", seconds(120, 130)), told("/a", seconds(120, 130))))
    assert log.of(Gap)[-1] == Gap(source, T + 110_000, T + 120_000, "stall")


def test_a_container_that_is_not_listed_any_more_has_ended(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 1)), told("/a", seconds(0, 1))))
    r.take(answer(told("/", seconds(0, 9))))
    assert [c.path for c in log.live] == ["/"]
    assert [(e.kind, e.ts_ms, e.container) for e in log.of(Event)[1:]] == [("deletion", T + 9000, 1001)]
    assert log.of(End) == [End(1001, T + 9000)]


@pytest.mark.parametrize(
    ("created_ms", "times", "cpu", "is_new"),
    [
        (T - 10_000, seconds(6, 9), 0, False),
        (T - 9_500, seconds(6, 9), 0, False),  # reckoned from the uptime
        (T + 2_000, seconds(6, 9), 0, False),  # we have readings of it after that time
        (T + 6_000, seconds(6, 9), 0, True),
        (T + 6_000, seconds(3, 9), 0, False),  # it has readings of before: the directory's times moved
        (T + 6_000, seconds(3, 9), -10_000, True),  # and its counter began again
    ],
)
def test_a_container_made_anew_is_another_instance(
    log: Log, numbers: Numbers, created_ms: int, times: list[int], cpu: int, is_new: bool
) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 5)), told("/a", seconds(0, 5))))
    before = next(c for c in log.live if c.path == "/a")
    r.take(answer(told("/", seconds(3, 9)), told("/a", times, created_ms, cpu)))
    after = next(c for c in log.live if c.path == "/a")
    assert (after.instance != before.instance, after.number != before.number) == (is_new, is_new)
    assert [e.kind for e in log.of(Event)] == ["creation", *(["deletion", "creation"] if is_new else [])]
    log.newest  # noqa: B018 - checks that times grow


def test_names_that_come_late_make_a_record_later_than_the_first(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 1)), told("/a", seconds(0, 1))))
    r.take(answer(told("/", seconds(2, 3)), told("/a", seconds(2, 3), name="late")))
    r.take(answer(told("/", seconds(2, 3)), told("/a", seconds(2, 3), name="later")))
    records = [c for c in log.of(Container) if c.path == "/a"]
    assert [(c.name, c.valid_from_ms) for c in records] == [(None, T), ("late", T + 2000), ("later", T + 3000)]
    assert len({c.instance for c in records}) == 1


def test_a_boot_ends_everything(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 1)), told("/a", seconds(0, 1))))
    r.take(answer(told("/", seconds(30, 31), T + 29_000), told("/a", seconds(30, 31), T + 29_500), boot="b2"))
    assert [(e.container, e.ts_ms) for e in log.of(End)] == [(1000, T + 1000), (1001, T + 1000)]
    assert [(c.path, c.boot_id) for c in log.live] == [("/", "b2"), ("/a", "b2")]
    assert len({c.instance for c in log.of(Container)}) == 4
    assert [(g.from_ms, g.to_ms) for g in log.of(Gap)] == [(T + 1000, T + 30_000)]


def test_another_machine_at_the_same_address_is_another_source(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 1)), told("/a", seconds(0, 1))))
    r.take(answer(told("/", seconds(-50, -40)), machine="m2", boot="b2"))
    assert [(c.source, c.path) for c in log.live] == [(source_of("m2", "web"), "/")]
    assert {e.container for e in log.of(End)} == {1000, 1001}
    assert log.of(Gap) == []
    assert [s.ts_ms for s in log.of(Sample) if s.container == 1002] == seconds(-50, -40)


def test_a_clock_set_back_begins_an_epoch(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    old = told("/", seconds(0, 100)), told("/a", seconds(0, 100))
    r.take(answer(*old, date_ms=T + 100_000))
    r.take(answer(*(told(c.path, []) for c in old), date_ms=T + 50_000))  # it has nothing since a time that is to come
    assert [e.details for e in log.of(Event) if e.kind == "clock_step"] == [{"step_ms": -50_000}]
    # readings of before the step stand beside the new ones
    r.take(answer(*(told(p, [*seconds(90, 100), *seconds(49, 55)]) for p in ("/", "/a")), date_ms=T + 55_000))
    assert [(c.epoch, c.path) for c in log.live] == [(1, "/"), (1, "/a")]
    assert [s.ts_ms for s in log.of(Sample) if s.container == log.live[0].number] == seconds(49, 55)
    assert len({c.instance for c in log.of(Container)}) == 2
    assert {e.container for e in log.of(End)} == {1000, 1001}
    r.take(answer(*(told(p, seconds(54, 60)) for p in ("/", "/a")), date_ms=T + 60_000))
    assert len([e for e in log.of(Event) if e.kind == "clock_step"]) == 1


def test_a_date_that_never_fits_is_not_believed(log: Log, numbers: Numbers) -> None:
    """Of a proxy whose own clock is behind, say."""
    r = roster(log, numbers)
    for i in range(5):
        r.take(answer(told("/", seconds(i, i + 1)), date_ms=T - 3_600_000))
    assert [s.ts_ms for s in log.of(Sample)] == seconds(0, 5)
    assert [e.kind for e in log.of(Event)] == []


def test_a_date_that_lies_after_a_start_costs_one_epoch_at_most(log: Log, numbers: Numbers) -> None:
    roster(log, numbers).take(answer(told("/", seconds(0, 9))))
    r = roster(log, Numbers(5000), known=log.live)
    for i in range(10, 20):
        r.take(answer(told("/", seconds(0, i)), date_ms=T - 3_600_000))
    assert [e.kind for e in log.of(Event)] == ["clock_step"]
    assert log.of(Sample)[-1].ts_ms == T + 19_000


def test_times_ahead_and_behind_ours_are_kept(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    assert log.times == []
    r.take(answer(told("/", seconds(0, 1))))  # decades ahead of the clock of this test
    assert [s.ts_ms for s in log.of(Sample)] == seconds(0, 1)
    assert log.times == [42_000]


def test_a_start_goes_on_where_the_log_ends(log: Log, numbers: Numbers) -> None:
    roster(log, numbers).take(
        answer(told("/", seconds(0, 20)), told("/a", seconds(0, 20), name="a"), told("/b", seconds(0, 9)))
    )
    r = roster(log, Numbers(5000), known=log.live)
    r.take(answer(told("/", seconds(5, 24)), told("/a", seconds(5, 24), name="a")))
    assert [s.ts_ms for s in log.of(Sample) if s.container == 1001] == seconds(0, 24)
    assert [c.number for c in log.of(Container)] == [1000, 1001, 1002]  # nothing that is known is written again
    assert [e.container for e in log.of(End)] == [1002]
    assert log.of(Gap) == []


def test_a_start_after_a_long_time_tells_of_the_gap(log: Log, numbers: Numbers) -> None:
    roster(log, numbers).take(answer(told("/", seconds(0, 20))))
    roster(log, Numbers(5000), known=log.live).take(answer(told("/", seconds(100, 120))))
    assert [(g.from_ms, g.to_ms, g.reason) for g in log.of(Gap)] == [(T + 20_000, T + 100_000, "agent_down")]


def test_patterns_leave_containers_out(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers, include=("/docker/*",), exclude=("/docker/x",))
    r.take(answer(*(told(p, seconds(0, 1)) for p in ("/", "/a", "/docker/x", "/docker/x/y", "/docker/z"))))
    assert [c.path for c in log.live] == ["/", "/docker/z"]


def test_groups_that_are_off_are_left_out(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers, groups=("memory",))
    r.take(answer(told("/a", seconds(0, 1))))
    assert log.of(Schema)[0].names == ("memory_usage_bytes",)
    assert log.of(Schema)[0].tables == ()


def test_absurd_values_and_rows_are_counted_and_left_out(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    values: Any = {"cpu_usage_ns": 2**63, "memory_usage_bytes": "much", "unknown": 1}
    tables: Any = {"network": (("eth0", 1, 2, 3, 4, 5, 6, 7, 8), ("eth1", 1), ("eth2", *[2**64] * 8))}
    r.take(answer(RemoteContainer("/a", None, [RemoteReading(T, values, tables)])))
    assert log.of(Sample)[0].values == (None, None)
    assert log.of(Sample)[0].tables == ((("eth0", 1, 2, 3, 4, 5, 6, 7, 8),),)
    assert r.absurd_values == 4
    assert log.live[0].created_ms == T


def test_a_journal_that_is_full_costs_samples_and_no_container(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    r.take(answer(told("/", seconds(0, 1))))
    log.is_full = True
    r.take(answer(told("/", seconds(2, 3)), told("/a", seconds(2, 3))))
    log.is_full = False
    r.take(answer(told("/", seconds(4, 5)), told("/a", seconds(4, 5))))
    assert [(g.reason, g.rows) for g in log.of(Gap)] == [("overflow", 4)]
    assert [c.path for c in log.live] == ["/", "/a"]
    assert [s.ts_ms for s in log.of(Sample) if s.container == 1000] == [*seconds(0, 1), *seconds(4, 5)]
    assert r.stats.overflow_rows == 4


def test_times_that_cannot_be_cost_nothing_but_themselves(log: Log, numbers: Numbers) -> None:
    r = roster(log, numbers)
    far = 253_402_300_799_000  # the last second of the year 9999
    for i in range(4):
        now = seconds(2 * i, 2 * i + 1)
        odd = told("/a", [now[1], far], created_ms=far)
        r.take(answer(told("/", now), odd, told("/idle", [], created_ms=far), date_ms=now[1]))
    assert [s.ts_ms for s in log.of(Sample) if s.container == 1000] == seconds(0, 7)
    assert [s.ts_ms for s in log.of(Sample) if s.container == 1001] == [T + 1000 * i for i in (1, 3, 5, 7)]
    assert len(log.of(Container)) == 3
    assert all(c.created_ms <= T + 1000 for c in log.live)


def test_numbers_end_where_those_of_the_next_start_begin(log: Log) -> None:
    r = roster(log, Numbers(1000, most=2))
    with pytest.raises(CollectError, match="no number is left"):
        r.take(answer(*(told(p, seconds(0, 1)) for p in ("/", "/a", "/b"))))
    assert [(c.number, c.path) for c in log.live] == [(1000, "/"), (1001, "/a")]
    assert [s.container for s in log.of(Sample)] == [1000, 1001] * 2


def test_hostile_names_are_bounded(log: Log, numbers: Numbers) -> None:
    many = {f"com.docker.compose.service{i}": "x" for i in range(3)}
    r = roster(log, numbers)
    r.take(answer(told("/" + "a" * 5000, seconds(0, 1)), told("/b", seconds(0, 1), name="n" * 10**6, labels=many)))
    assert [c.path for c in log.live] == ["/b"]
    assert len(log.live[0].name or "") == 4096


@pytest.fixture(autouse=True)
def _every_sample_has_its_schema_and_container(log: Log) -> Iterator[None]:
    yield
    known: set[int] = set()
    for item in log.items:
        if isinstance(item, Container):
            known.add(item.number)
        elif isinstance(item, Sample | Event | End):
            assert item.container is None or item.container in known
