"""Delivery to one sink: every row once, in order, from where it stood."""

from collections.abc import Callable

import pytest
from tests.pipeline.sink_bench import Bench, poison

from tidegauge.pipeline.errors import PermanentError
from tidegauge.pipeline.records import Batch
from tidegauge.pipeline.testing import (
    START_MS,
    ListLog,
    RecordingSink,
    flat,
    generate_records,
    make_container,
    rows_of,
)


def test_everything_arrives_once_in_order_as_it_was(bench: Callable[..., Bench]) -> None:
    b = bench()
    records = list(generate_records(20))
    b.fill(records)
    b.run()
    assert rows_of(b.sink.written) == rows_of(records)
    assert flat(b.sink.written) == flat(records)
    assert b.runner.account().written == len(rows_of(records))
    assert b.runner.account().pending == 0


def test_batch_waits_for_its_flush_interval_or_its_size(bench: Callable[..., Bench]) -> None:
    b = bench(flush_interval_s=10.0, batch_rows=11)
    b.ticks(2)
    assert 0 < b.runner.step() <= 10
    assert b.sink.attempts == 0
    b.clock.advance(10)
    b.runner.step()
    assert b.sink.attempts == 1
    assert b.runner.account().pending == 0
    b.ticks(4)
    b.runner.step()
    assert b.sink.attempts == 2
    assert b.runner.account().pending == 1


def test_batches_are_cut_within_a_frame(bench: Callable[..., Bench]) -> None:
    b = bench(batch_rows=4)
    sizes: list[int] = []
    b.sink.script.extend([lambda r: sizes.append(len(rows_of(r)))] * 10)
    b.ticks(3, containers=7)
    b.run()
    assert sizes == [4] * 7 + [1]
    assert rows_of(b.sink.written) == list(range(1, 30))


def test_types_not_taken_are_filtered(bench: Callable[..., Bench]) -> None:
    sink = RecordingSink()
    sink.takes = (Batch,)
    b = bench(sink)
    records = list(generate_records(6))
    b.fill(records)
    b.run()
    account = b.runner.account()
    assert flat(sink.written) == flat(records)
    assert account.filtered == sum(1 for r in records if not isinstance(r, Batch))


def test_unknown_record_types_are_filtered_and_counted(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(1)
    b.log.append_frame(77, b"\x00", 2, START_MS)
    b.ticks(1)
    b.run()
    assert b.runner.account().filtered == 2
    assert b.runner.counters()["unknown_records"] == 1


def test_numbers_skipped_between_starts_are_no_rows(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(3)
    b.log.restart()
    b.ticks(3)
    b.run()
    account = b.runner.account()
    assert (account.written, account.pending, account.dropped) == (22, 0, {})


def test_cursor_does_not_go_beyond_the_synced_row(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(5)
    b.log.tell(synced_row=1)
    b.run()
    assert b.runner.needed_row() == 1
    assert b.runner.account().pending == 0
    b.start()
    assert b.runner.needed_row() is None
    b.log.tell()
    b.run()
    assert b.runner.needed_row() == b.log.row
    assert rows_of(b.sink.written) == [*range(1, 20)] * 2
    assert b.runner.account().written == 19


def test_restart_goes_on_from_the_cursor_with_its_account(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(5)
    b.run()
    before = b.runner.account()
    b.runner.stop(0)
    assert not b.sink.is_open
    b.start()
    b.run()
    assert b.runner.account() == before
    b.ticks(5)
    b.run()
    assert rows_of(b.sink.written) == list(range(1, 35))


def test_repeat_after_a_kill_is_identical(bench: Callable[..., Bench]) -> None:
    b = bench(batch_rows=7)
    records = list(generate_records(12, 4))
    b.fill(records)
    b.log.tell(synced_row=20)
    b.run()
    first = flat(b.sink.written), [r for r in b.sink.written if not isinstance(r, Batch)]
    b.sink.written.clear()
    b.start()
    b.run()
    again = flat(b.sink.written), [r for r in b.sink.written if not isinstance(r, Batch)]
    assert again[0] == first[0][-len(again[0]) :]
    assert again[1] == first[1][-len(again[1]) :]


def test_another_log_begins_a_new_account(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(20)
    b.run()
    poison(b.sink, {66}, PermanentError)
    b.ticks(1)
    b.run()
    b.sink.script.clear()
    assert b.runner.account().dead_letter == 1
    b.log = ListLog()
    b.ticks(2)
    b.start()
    b.run()
    account = b.runner.account()
    assert (account.accepted, account.written, account.dead_letter) == (10, 10, 0)
    assert (b.folder / "test.dead-letters.old").exists()


@pytest.mark.parametrize(("start", "rows"), [("beginning", 19), ("end", 0), ("2023-11-14T22:13:23+00:00", 6)])
def test_a_new_sink_begins_where_it_is_told(bench: Callable[..., Bench], start: str, rows: int) -> None:
    b = bench(start=start)
    b.ticks(5)
    b.run()
    assert b.runner.account().accepted == b.runner.account().written == rows
    b.ticks(1)
    b.run()
    assert b.runner.account().written == rows + 3


def test_a_sink_without_a_lasting_cursor_begins_anew(bench: Callable[..., Bench]) -> None:
    sink = RecordingSink()
    sink.cursor_lasts = False
    b = bench(sink)
    b.ticks(5)
    b.run()
    assert b.runner.account().accepted == 0
    b.ticks(1)
    b.run()
    assert b.runner.account().written == 3
    b.start()
    b.run()
    assert b.runner.account().accepted == 0
    assert list(b.folder.glob("*.cursor")) == []


def test_records_handed_out_are_never_changed(bench: Callable[..., Bench]) -> None:
    b = bench(batch_rows=3)
    b.ticks(2)
    b.run()
    batch = b.samples[0]
    assert isinstance(batch, Batch)
    before = dict(batch.containers)
    b.log.append(make_container(9))
    b.log.append(make_container(1, name="renamed"))
    b.ticks(1)
    b.run()
    assert dict(batch.containers) == before
    newest = b.samples[-1]
    assert isinstance(newest, Batch)
    assert newest.containers[1].name == "renamed"
