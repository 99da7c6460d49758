"""The last events: bounds of each kind, what a query takes, and readers that cannot hold up who makes events."""

import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.event_store import EventLimits, EventQuery, EventStore, KeepsEvents, StoredEvent, as_dict
from tidegauge.pipeline.records import Container, Event
from tidegauge.pipeline.testing import START_MS, FakeClock, make_container
from tidegauge.sinks.memory import MemoryConfig, MemorySink

PATHS = ("/", "/a", "/a/b", "/ab", "/a/b/c")
KINDS = ("creation", "deletion", "oom", "oom_kill")


def container(path: str) -> Container:
    return msgspec.structs.replace(make_container(PATHS.index(path) + 1), path=path)


def event(ts_ms: int, kind: str = "oom", path: str = "/a", row: int = 0) -> tuple[Event, Container]:
    return Event(ts_ms, kind, PATHS.index(path) + 1, {"path": path, "count": 1}, row), container(path)


def rows(found: list[StoredEvent]) -> list[int]:
    return [s.event.row for s in found]


def times(found: list[StoredEvent]) -> list[int]:
    return [s.event.ts_ms for s in found]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (EventQuery(), [0, 1, 2, 3, 4]),
        (EventQuery(path="/", subcontainers=False), [0]),
        (EventQuery(path="/a"), [1, 2, 4]),
        (EventQuery(path="/a/"), [1, 2, 4]),
        (EventQuery(path="/a", subcontainers=False), [1]),
        (EventQuery(path="/b"), []),
        (EventQuery(kinds=frozenset({"creation", "oom_kill"})), [0, 3, 4]),
        (EventQuery(kinds=frozenset({"nonsense"})), []),
        (EventQuery(start_ms=START_MS + 1, end_ms=START_MS + 3), [1, 2, 3]),
        (EventQuery(path="/a", limit=2), [2, 4]),
        (EventQuery(limit=0), []),
    ],
)
def test_what_a_query_takes(clock: FakeClock, query: EventQuery, expected: list[int]) -> None:
    store = EventStore(now_ms=clock.time_ms)
    for i, (path, kind) in enumerate(zip(PATHS, ("creation", "deletion", "oom", "oom_kill", "creation"), strict=True)):
        store.add(*event(START_MS + i, kind, path, i))
    assert rows(store.find(query)) == expected


def test_the_limit_is_applied_to_what_the_filter_lets_pass(clock: FakeClock) -> None:
    store = EventStore(now_ms=clock.time_ms)
    store.add(*event(START_MS, path="/a/b"))
    for i in range(100):
        store.add(*event(START_MS + 1 + i, path="/ab"))
    assert times(store.find(EventQuery(path="/a/b", limit=10))) == [START_MS]


def test_each_kind_has_its_own_bounds(clock: FakeClock) -> None:
    limits = EventLimits({"oom": 10.0}, {"default": 50, "creation": 5, "deletion": 0})
    store = EventStore(limits, clock.time_ms)
    for i in range(100):
        clock.advance(1)
        for kind in KINDS:
            store.add(*event(clock.time_ms(), kind, row=i))

    def of(kind: str) -> list[int]:
        return rows(store.find(EventQuery(kinds=frozenset({kind}))))

    assert of("creation") == [95, 96, 97, 98, 99]
    assert of("deletion") == []
    assert of("oom") == list(range(89, 100))
    assert of("oom_kill") == list(range(50, 100))
    clock.advance(60)
    assert of("oom") == [], "too old, though nothing came after"


def test_old_containers_found_at_a_start_are_old_events(clock: FakeClock) -> None:
    store = EventStore(EventLimits({"default": 86_400.0}), clock.time_ms)
    with store.follow(EventQuery()) as reader:
        store.add(*event(clock.time_ms() - 2 * 86_400_000, "creation"))
        store.add(*event(clock.time_ms() - 3_600_000, "creation", row=1))
        store.add(*event(clock.time_ms(), "creation", row=2))
        store.add(*event(clock.time_ms() - 7_200_000, "creation", row=3))
        assert rows(reader.take()[1]) == [0, 1, 2, 3], "a follower is told all the same"
    assert rows(store.find(EventQuery())) == [3, 1, 2]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(-40, 5), st.sampled_from(KINDS), st.sampled_from(PATHS)),
        st.tuples(st.just("pass"), st.integers(0, 20)),
        st.tuples(
            st.just("find"),
            st.one_of(st.none(), st.integers(-30, 10)),
            st.one_of(st.none(), st.integers(-30, 10)),
            st.one_of(st.none(), st.frozensets(st.sampled_from(KINDS))),
            st.sampled_from((*PATHS, "/none")),
            st.booleans(),
            st.one_of(st.none(), st.integers(0, 5)),
        ),
    ),
    max_size=60,
)


@given(OPERATIONS, st.dictionaries(st.sampled_from((*KINDS, "default")), st.integers(0, 4)))
def test_against_a_model_that_keeps_everything(operations: list[tuple[Any, ...]], counts: dict[str, int]) -> None:
    clock = FakeClock()
    limits = EventLimits({"default": 30.0, "oom": 5.0}, counts)
    store, model = EventStore(limits, clock.time_ms), []
    for number, operation in enumerate(operations, 1):
        match operation:
            case ("add", seconds, kind, path):
                new = event(clock.time_ms() + seconds * 1000, kind, path, number)
                store.add(*new)
                model.append(new[0])
            case ("pass", seconds):
                clock.advance(seconds)
            case ("find", start, end, kinds, path, subcontainers, limit):
                now = clock.time_ms()
                low, high = (None if s is None else now + s * 1000 for s in (start, end))
                expected = []
                for kind in KINDS:
                    age_ms = 5000 if kind == "oom" else 30_000
                    count = counts.get(kind, counts.get("default", 100_000))
                    # what was too old or too many at any time is gone; a late one may have pushed out another
                    mine = _kept(model, operations, kind, age_ms, count, number)
                    expected += [
                        e
                        for e in mine
                        if (kinds is None or kind in kinds)
                        and (low is None or e.ts_ms >= low)
                        and (high is None or e.ts_ms <= high)
                        and _is_below(str(e.details["path"]), path, subcontainers)
                    ]
                expected.sort(key=lambda e: (e.ts_ms, e.row))
                wanted = [e.row for e in expected]
                if limit is not None:
                    wanted = wanted[-limit:] if limit else []
                query = EventQuery(low, high, kinds, path, subcontainers, limit)
                assert rows(store.find(query)) == wanted


def _is_below(path: str, above: str, subcontainers: bool) -> bool:
    if not subcontainers:
        return path == above
    parts, head = [p for p in path.split("/") if p], [p for p in above.split("/") if p]
    return parts[: len(head)] == head


def _kept(model: list[Event], operations: list[tuple[Any, ...]], kind: str, age_ms: int, count: int, until: int) -> list[Event]:
    """The events of a kind that are within both bounds after each operation, played from the beginning."""
    now_ms, kept = START_MS, []
    by_row = {e.row: e for e in model}
    for number, operation in enumerate(operations[:until], 1):
        if operation[0] == "pass":
            now_ms += operation[1] * 1000
        elif operation[0] == "add" and operation[2] == kind:
            kept = sorted([*kept, by_row[number]], key=lambda e: (e.ts_ms, e.row))
        kept = [e for e in kept if e.ts_ms >= now_ms - age_ms]
        kept = kept[len(kept) - count :] if count < len(kept) else kept
    return kept


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    store = EventStore()
    with store.follow(EventQuery(), size=10) as slow, store.follow(EventQuery(), size=1000) as fast:
        for i in range(100):
            store.add(*event(START_MS + i, row=i))
        missed, found = slow.take()
        assert (missed, rows(found)) == (90, list(range(90, 100)))
        assert slow.take() == (0, [])
        assert fast.take()[0] == 0
        store.add(*event(START_MS, row=100))
        assert rows(slow.take()[1]) == [100]


def test_a_reader_that_never_takes_holds_nobody_up() -> None:
    """The producer ends, and what waits for the reader stays bounded; nobody else runs."""
    store = EventStore(EventLimits(count={"default": 10}))
    stuck = store.follow(EventQuery(), size=5)
    producer = threading.Thread(target=lambda: [store.add(*event(START_MS + i, row=i)) for i in range(20_000)])
    producer.start()
    producer.join(60)
    assert not producer.is_alive()
    missed, found = stuck.take()
    assert missed == 19_995
    assert rows(found) == list(range(19_995, 20_000))


def test_every_event_is_taken_or_counted_as_missed() -> None:
    store = EventStore()
    taken: list[int] = []
    missed = 0
    with store.follow(EventQuery(kinds=frozenset({"oom"})), size=7) as reader:

        def produce() -> None:
            for i in range(5000):
                store.add(*event(START_MS + i, "oom" if i % 2 else "creation", row=i))
            store.close()

        producer = threading.Thread(target=produce)
        producer.start()
        while not reader.is_closed or reader.wait(0):
            reader.wait(1)
            lost, found = reader.take()
            missed += lost
            taken += rows(found)
        producer.join(60)
    assert taken == sorted(taken)
    assert all(i % 2 for i in taken)
    assert missed + len(taken) == 2500


def test_readiness_is_told_once_until_it_is_taken() -> None:
    store, told = EventStore(), []
    reader = store.follow(EventQuery(), on_ready=lambda: told.append(1))
    for i in range(3):
        store.add(*event(START_MS + i))
    assert len(told) == 1
    reader.take()
    store.add(*event(START_MS))
    assert len(told) == 2
    store.close()
    assert len(told) == 3
    assert reader.is_closed
    assert reader.wait(0), "what waits can still be taken"


def test_who_left_or_came_too_late_gets_nothing() -> None:
    store = EventStore()
    with store.follow(EventQuery()) as left:
        pass
    store.add(*event(START_MS))
    assert left.take() == (0, [])
    assert not left.wait(0)
    store.close()
    store.close()
    late = store.follow(EventQuery())
    assert late.is_closed
    assert not late.wait(10)


def test_what_is_shown_of_an_event() -> None:
    store = EventStore(now_ms=lambda: START_MS)
    made = msgspec.structs.replace(container("/a"), name="web", image="nginx", namespace="docker")
    store.add(Event(START_MS, "oom_kill", 2, {"path": "/a", "count": 1, "pid": 7}), made)
    store.add(Event(START_MS, "clock_step", None, {"step_ms": -5}, 1), None)
    store.add(Event(START_MS, "oom", None, {"path": "/gone", "count": 1}, 2), None)
    assert [as_dict(s) for s in store.find(EventQuery())] == [
        {
            "ts_ms": START_MS,
            "kind": "oom_kill",
            "path": "/a",
            "instance": made.instance,
            "host": made.host,
            "name": "web",
            "namespace": "docker",
            "image": "nginx",
            "details": {"count": 1, "pid": 7},
        },
        {"ts_ms": START_MS, "kind": "clock_step", "path": "/", "details": {"step_ms": -5}},
        {"ts_ms": START_MS, "kind": "oom", "path": "/gone", "details": {"count": 1}},
    ]


def test_the_memory_sink_feeds_it_with_the_container_of_that_time() -> None:
    sink = MemorySink(MemoryConfig(event_limit={"oom": 1}))
    assert isinstance(sink, KeepsEvents)
    now = FakeClock()
    sink.events._now_ms = now.time_ms
    one = msgspec.structs.replace(make_container(1), row=1)
    named = msgspec.structs.replace(one, name="web", row=4)
    events = [Event(START_MS, "oom", 1, {"path": one.path, "count": 1}, row) for row in (2, 3, 5)]
    sink.write([one, *events[:2], named, events[2]])
    sink.write([one, *events[:2], named, events[2]])
    (found,) = sink.events.find(EventQuery(path=one.path))
    assert (found.event.row, found.name, found.instance) == (5, "web", one.instance)
    reader = sink.events.follow(EventQuery())
    sink.close()
    assert reader.is_closed
