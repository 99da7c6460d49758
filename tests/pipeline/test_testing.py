"""The contract suite passes a right sink and fails wrong ones; the builders keep their promises."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tidegauge.pipeline.plugin import Sink
from tidegauge.pipeline.records import Batch, Record
from tidegauge.pipeline.testing import (
    FakeClock,
    Key,
    RecordingSink,
    SinkContract,
    Stored,
    flat,
    generate_records,
    make_batch,
    make_sample,
    make_schema,
    rows_of,
)

_STORES: dict[Path, dict[Key, dict[str, int | float | None]]] = {}


class TestRecordingSink(SinkContract):
    def make_sink(self, tmp_path: Path) -> Sink:
        return RecordingSink(store=_STORES.setdefault(tmp_path, {}))

    def stored(self, sink: Sink) -> Stored:
        assert isinstance(sink, RecordingSink)
        return sink.store.items()


class Doubling(RecordingSink):
    """Keeps a repeat as a second row."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[Key, dict[str, int | float | None]]] = []

    def keep(self, records: Sequence[Record]) -> None:
        self.all += flat(records)


class Zeroing(Doubling):
    """Stores 0 for what is not known."""

    def keep(self, records: Sequence[Record]) -> None:
        self.all += [(k, {"pids_current": 0} | v) for k, v in flat(records)]


class Rounding(Doubling):
    """Stores every value as a float."""

    def keep(self, records: Sequence[Record]) -> None:
        self.all += [(k, {n: float(x or 0) for n, x in v.items()}) for k, v in flat(records)]


class Losing(Doubling):
    """Keeps the first batch of a call alone."""

    def keep(self, records: Sequence[Record]) -> None:
        self.all += flat([r for r in records if isinstance(r, Batch)][:1])


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Doubling, lambda c, s: c.test_duplicates_are_harmless(s)),
        (Zeroing, lambda c, s: c.test_closing_sample_holds_what_it_proves(s)),
        (Rounding, lambda c, s: c.test_values_come_back_exactly(s, {"cpu_usage_ns": 2**53 + 1})),
        (Losing, lambda c, s: c.test_every_record_type_in_log_order(s)),
    ],
)
def test_contract_fails_a_wrong_sink(wrong: type[Doubling], check: Callable[[SinkContract, Sink], None]) -> None:
    class Contract(SinkContract):
        def stored(self, sink: Sink) -> Stored:
            assert isinstance(sink, Doubling)
            return sink.all

    with pytest.raises(AssertionError):
        check(Contract(), wrong())


def test_generated_records_are_the_same_each_time_and_number_every_row() -> None:
    records = list(generate_records(20, 4))
    assert records == list(generate_records(20, 4))
    rows = rows_of(records)
    assert rows == list(range(1, len(rows) + 1))
    sequence = [s.values[0] for r in records if isinstance(r, Batch) for s in r.samples]
    assert sequence == [row for r in records if isinstance(r, Batch) for row in r.rows]
    keys = [key for key, _ in flat(records)]
    assert len(keys) == len(set(keys)) == 80


def test_flat_leaves_out_what_is_not_known_and_keeps_zero() -> None:
    schema = make_schema()
    sample = make_sample(schema, tables=((("eth0", 0, None, 1, 2, 3, 4, 5, 6),),), cpu_usage_ns=0)
    [(_, values)] = flat([make_batch([sample])])
    assert values["cpu_usage_ns"] == 0
    assert "memory_usage_bytes" not in values
    assert values["network_receive_bytes[eth0]"] == 0
    assert "network_receive_packets[eth0]" not in values


def test_clock_steps_do_not_move_monotonic_time() -> None:
    clock = FakeClock()
    wall, mono = clock.time_ms(), clock.monotonic_ns()
    clock.step(-3600)
    clock.advance(1.5)
    assert clock.time_ms() == wall - 3_598_500
    assert clock.monotonic_ns() == mono + 1_500_000_000
