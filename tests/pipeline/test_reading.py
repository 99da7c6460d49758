"""Joining readers into one sample, with plug-ins that misbehave."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError, ConfigError
from tidegauge.pipeline.reading import Complaints, Faults, Reading, Readings, Source, Vanished, in_order, is_storable
from tidegauge.pipeline.records import MAX_INT, Container, Sample, decode_samples, encode_samples
from tidegauge.pipeline.testing import make_container


class Fixed:
    """A collector and its only reader."""

    def __init__(self, metrics: tuple[str, ...], values: Any, tables: tuple[str, ...] = (), rows: Any = ()) -> None:
        self.metrics, self.values, self.tables, self.rows = metrics, values, tables, rows
        self.calls: list[str] = []

    def reader(self, container: Container) -> "Fixed":
        return self

    def read(self) -> Any:
        self.calls.append("read")
        if isinstance(self.values, Exception):
            raise self.values
        return self.values

    def read_tables(self) -> Any:
        self.calls.append("read_tables")
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows

    def close(self) -> None:
        self.calls.append("close")


class Cgroups(Fixed):
    def hierarchies(self) -> tuple[Any, ...]:
        return ()


def reading(*collectors: Fixed) -> tuple[Reading, Faults]:
    faults = Faults()
    made, is_complete = Readings([Source.of(f"c{n}", c) for n, c in enumerate(collectors)], Catalogue(), faults).make(
        make_container()
    )
    assert is_complete
    return made, faults


def test_values_stand_in_the_order_of_the_schema_and_tables_too() -> None:
    one = Fixed(("load1", "load5"), (1.0, 5.0), ("percpu",), ((("0", 7),),))
    two = Fixed(("uptime_seconds",), (9.5,), ("filesystem",), (None,))
    made, _ = reading(one, two)
    assert made.schema.names == ("load1", "load5", "uptime_seconds")
    assert [t.name for t in made.schema.tables] == ["percpu", "filesystem"]
    assert made.read(False) == ((1.0, 5.0, 9.5), ((("0", 7),), None))
    assert one.calls == ["read", "read_tables"]


def test_without_any_row_there_are_no_tables() -> None:
    made, _ = reading(Fixed((), (), ("percpu",), (None,)))
    assert made.read(False) == ((), ())


def test_collectors_that_know_cgroups_are_read_first() -> None:
    plain, cgroups = Fixed(("load1",), (1.0,)), Cgroups(("cpu_usage_ns",), (1,))
    assert [s.name for s in in_order([("plain", plain), ("cgroups", cgroups)])] == ["cgroups", "plain"]


def test_equal_sets_of_collectors_share_one_schema() -> None:
    readings = Readings([Source.of("c", Fixed(("load1",), (1.0,)))], Catalogue(), Faults())
    assert readings.make(make_container(1))[0].schema is readings.make(make_container(2))[0].schema


def test_a_table_named_twice_is_taken_from_the_first_that_has_rows() -> None:
    made, _ = reading(Fixed((), (), ("percpu",), (None,)), Fixed((), (), ("percpu",), ((("1", 2),),)))
    assert made.read(False) == ((), ((("1", 2),),))
    assert [t.name for t in made.schema.tables] == ["percpu"]


def test_a_failing_table_reader_loses_the_whole_reading_of_its_collector_alone() -> None:
    made, faults = reading(Fixed(("load1",), (1.0,), ("percpu",), ValueError("bug")), Fixed(("load5",), (5.0,)))
    assert made.read(False) == ((None, 5.0), ())
    assert faults.counts == {"c0": 1}


@pytest.mark.parametrize("gone", [FileNotFoundError(2, "gone"), OSError(19, "no such device")])
def test_a_container_that_is_gone_stops_the_reading_unless_tolerated(gone: OSError) -> None:
    other = Fixed(("load5",), (5.0,))
    made, faults = reading(Fixed(("load1",), gone), other)
    with pytest.raises(Vanished):
        made.read(False)
    assert other.calls == []
    assert made.read(True, True) == ((None, 5.0), ())
    assert faults.counts == {}
    assert made.read(True) == ((None, 5.0), ())
    assert faults.counts == {"c0": 1}


@pytest.mark.parametrize(
    ("rows", "kept", "absurd"),
    [
        ((("0", 1), ("1", None)), (("0", 1), ("1", None)), 0),
        ((("0", MAX_INT + 1), ("1", 2)), (("0", None), ("1", 2)), 1),
        ((("0", float("nan")),), (("0", None),), 1),
        ((("0", 1, 2), ("1", 2)), (("1", 2),), 1),
        (((0, 1), ["1", 2]), (), 2),
        ((("/mnt/\udcff", 1),), (("/mnt/\\udcff", 1),), 0),
    ],
)
def test_rows_that_no_store_could_hold_are_mended_or_left_out_and_counted(rows: Any, kept: Any, absurd: int) -> None:
    made, faults = reading(Fixed((), (), ("percpu",), (rows,)))
    assert made.read(False) == ((), (kept,))
    assert faults.absurd_values == absurd


@pytest.mark.parametrize("wrap", [list, tuple])
def test_rows_that_a_plug_in_changes_in_place_are_looked_at_again(wrap: Any) -> None:
    row: Any = ["0", 1] if wrap is tuple else ("0", 1)
    rows = [row]
    made, faults = reading(Fixed((), (), ("percpu",), (wrap(rows),)))
    made.read(False)
    if wrap is list:
        made._slots[0].source.collector.rows[0].append(("1", MAX_INT + 1))
        assert made.read(False) == ((), ((("0", 1), ("1", None)),))
    else:
        row[1] = MAX_INT + 1
        assert made.read(False) == ((), ((),))
    assert faults.absurd_values > 0


@pytest.mark.parametrize("value", [1, MAX_INT + 1])
def test_the_very_same_rows_are_mended_at_each_reading_or_need_no_mending(value: int) -> None:
    made, faults = reading(Fixed((), (), ("percpu",), ((("0", value),),)))
    kept = value if value <= MAX_INT else None
    assert [made.read(False) for _ in range(3)] == [((), ((("0", kept),),))] * 3
    assert faults.absurd_values == (0 if value <= MAX_INT else 3)


@pytest.mark.parametrize("rows", [7, "ab", [7], {"0": 1}, object()])
def test_rows_of_no_shape_at_all_do_not_stop_the_others(rows: Any) -> None:
    made, _ = reading(Fixed((), (), ("percpu",), (rows,)), Fixed(("load5",), (5.0,)))
    values, tables = made.read(False)
    assert values == (5.0,)
    assert tables in ((), ((),))


@pytest.mark.parametrize("values", [[1.0], {1.0: 2}, 7, object()])
def test_values_that_are_no_tuple_do_not_stop_the_others(values: Any) -> None:
    made, _ = reading(Fixed(("load1",), values), Fixed(("load5",), (5.0,)))
    assert made.read(False)[0] in ((1.0, 5.0), (None, 5.0))


def test_something_that_is_no_reader_is_an_error_of_its_collector() -> None:
    class Odd(Fixed):
        def reader(self, container: Container) -> Any:
            return 7

    faults = Faults()
    made, is_complete = Readings(
        [Source.of("odd", Odd(("load1",), ())), Source.of("good", Fixed(("load5",), (5.0,)))], Catalogue(), faults
    ).make(make_container())
    assert not is_complete
    assert faults.counts == {"odd": 1}
    assert made.read(False) == ((5.0,), ())


@pytest.mark.parametrize(
    ("metrics", "tables"), [(("load1", "load1"), ()), (("nothing_known",), ()), ((), ("no_table",)), ((), ("percpu", "percpu"))]
)
def test_names_that_cannot_be_stop_the_start(metrics: tuple[str, ...], tables: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="c0"):
        reading(Fixed(metrics, (), tables))


def test_readers_are_closed_although_one_fails_to() -> None:
    bad, good = Fixed(("load1",), (1.0,)), Fixed(("load5",), (5.0,))
    bad.close = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    made, faults = reading(bad, good)
    made.close()
    assert good.calls == ["close"]
    assert faults.counts == {"c0": 1}


def test_what_cannot_be_read_is_logged_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    class Halting(Fixed):
        said: str | None = None

        def complaint(self) -> str | None:
            return self.said

    collector = Halting(("load1",), (1.0,))
    complaints = Complaints([Source.of("mute", Fixed(("load5",), (1.0,))), Source.of("halting", collector)])
    caplog.set_level(logging.INFO)
    complaints.listen()
    for text in ("/sys/a: Permission denied", "/sys/a: Permission denied", "/sys/b: Input/output error"):
        collector.said = text
        complaints.listen()
    assert caplog.messages == ["collector halting goes on without what it cannot read, first /sys/a: Permission denied"]
    collector.said = None
    complaints.listen()
    complaints.listen()
    assert caplog.messages[1:] == ["collector halting reads everything again"]


def test_a_complaint_that_fails_or_is_long_is_a_complaint_all_the_same() -> None:
    class Broken(Fixed):
        def complaint(self) -> Any:
            return self.values() if callable(self.values) else self.values

    assert Source.of("b", Broken((), lambda: 1 // 0)).complaint() == "its complaint failed: integer division or modulo by zero"
    assert Source.of("b", Broken((), "x" * 100_000)).complaint() == "x" * 300


def test_what_fails_now_is_told_with_its_reason_until_the_last_container_is_well() -> None:
    bad = Fixed(("load1",), CollectError("/proc/loadavg: Input/output error"))
    made, faults = reading(bad)
    made.read(False)
    assert faults.texts == {"c0": f"{made.container.path}: /proc/loadavg: Input/output error"}
    bad.values = (1.0,)
    made.read(False)
    assert faults.texts == {}


text = st.text(st.characters(categories=("Cs", "L")), max_size=3)  # lone surrogates too, as os.fsdecode makes them
anything = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), text, st.binary(max_size=3))
rows_of_anything = st.lists(st.one_of(st.lists(anything, max_size=3), st.tuples(text, anything).map(list)), max_size=3)


@given(st.lists(anything, min_size=3, max_size=3), rows_of_anything)
def test_whatever_a_plug_in_gives_the_journal_can_hold_and_read_back(values: list[Any], rows: list[list[Any]]) -> None:
    made, faults = reading(Fixed(("load1", "load5", "load15"), tuple(values), ("percpu",), (tuple(map(tuple, rows)),)))
    read, tables = made.read(False)
    sample = Sample(1, 2, made.schema.id, read, tables)
    assert decode_samples(encode_samples([sample])) == [sample]
    assert [v for v in values if is_storable(v)] == [v for v, w in zip(read, values, strict=True) if is_storable(w)]
    assert faults.counts == {}
