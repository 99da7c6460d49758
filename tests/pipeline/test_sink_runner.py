"""Delivery to one sink: every row ends in exactly one place, whatever the store does."""

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tidegauge.pipeline.errors import PartialWriteError, PermanentError, RetryableError, TooLargeError
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch, Container, Event, Gap, Record, Schema
from tidegauge.pipeline.sink_runner import RunnerClock, SinkRunner
from tidegauge.pipeline.testing import (
    SOURCE,
    START_MS,
    FakeClock,
    ListLog,
    RecordingSink,
    flat,
    generate_records,
    make_container,
    make_sample,
    make_schema,
    rows_of,
)

SCHEMA = make_schema()


class Bench:
    """A runner over a log in memory, without a thread and with a clock that only moves when told."""

    def __init__(
        self,
        tmp_path: Path,
        sink: RecordingSink | None = None,
        log: ListLog | None = None,
        clock: RunnerClock | None = None,
        **options: Any,
    ) -> None:
        self.folder = tmp_path
        self.log = log or ListLog()
        self.clock = FakeClock()
        self.real_clock = clock
        self.sink = sink or RecordingSink()
        self.options = options
        self.runner = self.start()

    def start(self) -> SinkRunner:
        """As after a kill: what was in memory is gone."""
        self.runner = SinkRunner(
            "test",
            self.sink,
            RunnerOptions(**({"flush_interval_s": 0.0} | self.options)),
            journal_folder=self.folder,
            state_folder=self.folder,
            log_end=self.log.end,
            source=SOURCE,
            log=self.log,
            clock=self.real_clock or self.clock,
            uniform=lambda low, high: high,
        )
        return self.runner

    def run(self, turns: int = 20_000) -> None:
        """Turns until the runner has nothing to do."""
        for _ in range(turns):
            wait_s = self.runner.step()
            account = self.runner.account()
            assert account.is_exact, account
            if wait_s:
                break
        self.clock.advance(1.5)
        self.runner.step()

    def fill(self, records: Sequence[Record]) -> None:
        for record in records:
            self.log.append(record)
        self.log.tell()

    def ticks(self, count: int, containers: int = 3) -> None:
        """Schema, containers and ticks of one sample each, one second apart."""
        if not self.log.frames:
            self.log.append(SCHEMA)
            for n in range(1, containers + 1):
                self.log.append(make_container(n, valid_from_ms=START_MS))
        done = sum(1 for f in self.log.frames if f.rows > 1 or f.type == 3)
        for tick in range(done, done + count):
            ts_ms = START_MS + tick * 1000
            self.log.append([make_sample(SCHEMA, n, ts_ms, cpu_usage_ns=tick * 100 + n) for n in range(1, containers + 1)])
        self.log.tell()

    @property
    def samples(self) -> list[Record]:
        return [r for r in self.sink.written if isinstance(r, Batch)]

    @property
    def gaps(self) -> list[Gap]:
        return [r for r in self.sink.written if isinstance(r, Gap)]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda *a, **k: Bench(tmp_path, *a, **k)


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


def test_a_frame_of_nonsense_is_damage_under_a_gap(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(1)
    row = b.log.append_frame(3, b"\xc1nonsense", 3, START_MS + 1000)
    b.ticks(2)
    b.run()
    assert b.runner.account().dropped == {"damage": 3}
    [gap] = b.gaps
    assert (gap.reason, gap.row, gap.rows, gap.from_ms, gap.to_ms) == (
        "dropped:damage", row, 3, START_MS + 1000, START_MS + 1000,
    )  # fmt: skip
    at = b.sink.written.index(gap)
    assert max(rows_of(b.sink.written[:at])) < row < min(rows_of(b.sink.written[at + 1 :]))


def test_retryable_error_keeps_the_batch_and_its_order(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(5)
    b.sink.script.extend([RetryableError("down")] * 50)
    b.run()
    assert b.sink.attempts == 51
    assert rows_of(b.sink.written) == list(range(1, 20))
    assert b.runner.counters()["retries"] == 50


def test_back_off_doubles_up_to_its_maximum(bench: Callable[..., Bench]) -> None:
    b = bench(retry_min_s=0.5, retry_max_s=3.0)
    b.ticks(1)
    times: list[float] = []

    def fail(_: Sequence[Record]) -> None:
        times.append(b.clock.monotonic())
        raise RetryableError("down")

    b.sink.script.extend([fail] * 6)
    b.run()
    waits = [round(y - x, 3) for x, y in pairwise(times)]
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_retry_after_is_honoured(bench: Callable[..., Bench]) -> None:
    b = bench(retry_min_s=0.5, retry_max_s=1.0)
    b.ticks(1)
    before = b.clock.monotonic()
    seen: list[float] = []
    b.sink.script.extend([RetryableError("429", 90.0), lambda _: seen.append(b.clock.monotonic())])
    b.run()
    assert 90.0 <= seen[0] - before <= 90.5


def poison(sink: RecordingSink, bad: set[int], error: Callable[[str], Exception]) -> None:
    """Makes every write that holds a bad row fail."""

    def check(records: Sequence[Record]) -> None:
        found = bad & set(rows_of(r for r in records if not (isinstance(r, Gap) and r.reason.startswith("dropped:"))))
        if found:
            raise error(f"row {min(found)}")

    sink.script.extend([check] * 100_000)


@pytest.mark.parametrize("error", [PermanentError, TooLargeError, ValueError], ids=lambda e: e.__name__)
def test_halving_finds_exactly_the_bad_rows(bench: Callable[..., Bench], error: type[Exception]) -> None:
    b = bench(batch_rows=1000, unknown_attempts=3)
    b.ticks(100, containers=10)
    bad = {15, 16, 500, 1011}
    poison(b.sink, bad, error)
    b.run()
    account = b.runner.account()
    assert account.dead_letter == 4
    assert rows_of(b.sink.written) == [r for r in range(1, 1012) if r not in bad]
    letters = b.runner.list_letters()
    assert [x["id"] for x in letters] == sorted(bad)
    assert all(error.__name__ in x["reason"] and f"row {x['id']}" in x["reason"] for x in letters)
    assert letters[0]["record"]["metrics"]["cpu_usage_ns"] == 4
    assert b.sink.attempts < 120


def test_unknown_errors_are_tried_a_bounded_number_of_times(bench: Callable[..., Bench]) -> None:
    b = bench(unknown_attempts=4)
    b.ticks(1)
    b.sink.script.extend([ZeroDivisionError("bug")] * 3)
    b.run()
    assert b.runner.account().dead_letter == 0
    assert b.sink.attempts == 4
    assert b.runner.counters()["unknown_errors"] == 3


def test_partial_write_sends_the_named_rows_alone_to_the_dead_letters(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(3)

    def partly(records: Sequence[Record]) -> None:
        raise PartialWriteError("two bad", {6: "type conflict", 9: "type conflict", 4242: "not ours"})

    b.sink.script.append(partly)
    b.run()
    account = b.runner.account()
    assert (account.dead_letter, account.written) == (2, account.accepted - 2)
    assert [(x["id"], x["reason"]) for x in b.runner.list_letters()] == [(6, "type conflict"), (9, "type conflict")]


def test_replayed_letters_become_written_and_discarded_ones_dropped(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(4)
    poison(b.sink, {5, 7, 9}, PermanentError)
    b.run()
    b.sink.script.clear()
    before = b.runner.account()
    assert b.runner.replay([5, 123]) == 1
    assert b.runner.discard([7]) == 1
    account = b.runner.account()
    assert (account.written, account.dead_letter, account.dropped) == (before.written + 1, 1, {"discarded": 1})
    assert account.is_exact
    assert rows_of(b.sink.written)[-1] == 5
    b.start()
    b.run()
    assert b.runner.account() == account
    assert b.runner.replay() == 1
    assert len(b.sink.store) == 11
    assert b.runner.list_letters() == []


def test_replay_keeps_what_is_refused_again(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(4)
    poison(b.sink, {5, 7, 9}, PermanentError)
    b.run()
    b.sink.script.clear()
    poison(b.sink, {7}, PermanentError)
    assert b.runner.replay() == 2
    assert [x["id"] for x in b.runner.list_letters()] == [7]
    b.sink.script.clear()
    b.sink.script.append(RetryableError("down"))
    assert b.runner.replay() == 0
    assert b.runner.account().dead_letter == 1
    assert b.runner.account().is_exact


@pytest.mark.parametrize(
    ("found", "changed"),
    [(b'"kind":"Sample"', b'"kind":"Reading"'), (b'"record":[', b'"record":["one",'), (b'"row":8', b'"row":"eight"')],
    ids=["kind", "record", "letter"],
)
def test_a_letter_that_cannot_be_read_stays_and_holds_up_no_other(
    bench: Callable[..., Bench], found: bytes, changed: bytes
) -> None:
    """As another version of the program may have written it."""
    b = bench()
    b.ticks(4)
    poison(b.sink, {5, 7, 8, 9}, PermanentError)
    b.run()
    b.sink.script.clear()
    b.runner.stop(0)
    file = b.folder / "test.dead-letters"
    lines = file.read_bytes().splitlines()
    [at] = [i for i, line in enumerate(lines) if line.split(b" ")[1] == b"8"]
    rest = lines[at].partition(b" ")[2].replace(found, changed)
    lines[at] = b"%08x %s" % (zlib.crc32(rest), rest)
    file.write_bytes(b"\n".join(lines) + b"\n")
    b.start()
    b.run()
    assert b.runner.replay() == 3
    assert rows_of(b.sink.written)[-3:] == [5, 7, 9]
    assert b.runner.account().dead_letter == 1
    assert b.runner.counters()["unreadable_letters"] == 1
    assert b.runner.discard() == 1
    assert b.runner.account().dropped == {"discarded": 1}
    assert b.runner.account().is_exact


def test_full_dead_letters_drop_the_row_under_a_gap(bench: Callable[..., Bench]) -> None:
    b = bench(dead_letter_bytes=2500)
    b.ticks(4)
    poison(b.sink, set(range(5, 17)), PermanentError)
    b.run()
    b.sink.script.clear()
    b.ticks(1)
    b.run()
    account = b.runner.account()
    assert account.dead_letter == len(b.runner.list_letters()) > 0
    assert account.dropped == {"dead_letter_full": 12 - account.dead_letter}
    assert (b.folder / "test.dead-letters").stat().st_size <= 2500
    [gap] = b.gaps
    assert gap.reason == "dropped:dead_letter_full"
    assert gap.rows == 12 - account.dead_letter


def test_lag_bound_drops_the_oldest_and_says_so_first(bench: Callable[..., Bench]) -> None:
    b = bench(lag_age_s=100.0)
    b.ticks(10)
    b.run()
    b.sink.script.extend([RetryableError("down")] * 8)
    b.clock.advance(300)
    b.ticks(290)
    b.run()
    b.run()
    account = b.runner.account()
    dropped = account.dropped["bound"]
    assert account.written == account.accepted - dropped
    [gap] = b.gaps
    kept = rows_of(b.sink.written[b.sink.written.index(gap) + 1 :])
    assert (gap.reason, gap.row, gap.rows) == ("dropped:bound", 35, dropped)
    assert kept[0] == 35 + dropped
    assert gap.from_ms == START_MS + 9000
    following = b.sink.written[b.sink.written.index(gap) + 1]
    assert isinstance(following, Batch)
    assert gap.to_ms == following.samples[0].ts_ms
    assert b.runner.needed_row() == b.log.row


class Killed(BaseException):
    """Stands for a kill in the middle of a write."""


def kill(_: Sequence[Record]) -> None:
    raise Killed


def test_gap_of_a_drop_survives_a_kill_until_the_sink_has_it(bench: Callable[..., Bench]) -> None:
    b = bench(lag_age_s=100.0)
    b.ticks(10)
    b.run()
    b.clock.advance(300)
    b.ticks(290)
    b.sink.script.extend([RetryableError("down"), RetryableError("down"), kill])
    with pytest.raises(Killed):
        b.run()
    before = b.runner.account().dropped["bound"]
    assert b.gaps == []
    b.start()
    b.run()
    [gap] = b.gaps
    dropped = b.runner.account().dropped["bound"]
    assert (gap.row, gap.rows) == (35, dropped)
    assert dropped >= before > 500


@pytest.mark.parametrize("batch_rows", [1, 3, 5000])
def test_downsample_keeps_exactly_the_rows_it_says(bench: Callable[..., Bench], batch_rows: int) -> None:
    b = bench(lag_policy="downsample", downsample_keep=5, lag_age_s=1000.0, batch_rows=batch_rows)
    b.ticks(10, containers=10)
    b.run()
    b.clock.advance(900)
    b.ticks(880, containers=10)
    first = b.log.frames[-880].first_row
    b.runner.step()
    b.run()
    account = b.runner.account()
    late = [r for r in rows_of(b.samples) if r >= first]
    assert late == [r for r in range(first, b.log.row) if r % 5 == 0]
    assert account.dropped == {"downsample": 8800 - len(late)}
    b.clock.advance(10)
    b.ticks(10, containers=10)
    b.run()
    b.ticks(10, containers=10)
    b.run()
    assert b.runner.account().dropped == account.dropped
    assert sum(g.rows or 0 for g in b.gaps) == account.dropped["downsample"]


def test_rows_gone_from_the_log_are_counted_with_their_reason(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(10)
    b.run()
    b.ticks(10)
    b.log.lose(18, "disk_full")
    b.run()
    account = b.runner.account()
    assert account.dropped == {"disk_full": 12}
    [gap] = b.gaps
    assert (gap.row, gap.rows, gap.from_ms, gap.to_ms) == (35, 12, START_MS + 9000, START_MS + 14000)
    assert rows_of(b.sink.written) == [*range(1, 35), 35, *range(47, 65)]


def test_damaged_frame_loses_itself_alone(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(10)
    b.log.damage(8)
    b.run()
    assert b.runner.account().dropped == {"damage": 3}
    assert [g.rows for g in b.gaps] == [3]
    assert set(range(1, 35)) - set(rows_of(b.samples)) - {1, 2, 3, 4} == {17, 18, 19}


def test_samples_whose_container_was_lost_are_damage(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(10)
    b.log.damage(2)
    b.run()
    account = b.runner.account()
    assert account.dropped == {"damage": 11}
    assert {s.container for r in b.samples if isinstance(r, Batch) for s in r.samples} == {1, 3}
    b.log.append(Event(START_MS + 60_000, "oom"))
    b.log.tell()
    b.run()
    assert sum(g.rows or 0 for g in b.gaps) == 11


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


def test_a_gap_refused_for_good_does_not_block(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ticks(2)
    b.log.damage(4)

    def refuse(records: Sequence[Record]) -> None:
        if any(isinstance(r, Gap) for r in records):
            raise PermanentError("no gaps here")

    b.sink.script.extend([refuse] * 100)
    b.run()
    account = b.runner.account()
    assert (account.dead_letter, account.dropped, account.written) == (0, {"damage": 3}, 7)
    assert b.runner.counters()["refused_gaps"] == 1


def test_open_is_tried_until_it_works(bench: Callable[..., Bench]) -> None:
    class Shy(RecordingSink):
        attempts_to_open = 0

        def open(self) -> None:
            self.attempts_to_open += 1
            if self.attempts_to_open < 4:
                raise (RetryableError("down") if self.attempts_to_open % 2 else RuntimeError("bug"))

    sink = Shy()
    b = bench(sink)
    b.ticks(1)
    b.run()
    b.run()
    assert sink.attempts_to_open == 4
    assert b.runner.account().pending == 0


def test_failures_are_logged_when_they_begin_and_end(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    b = bench()
    b.ticks(1)
    b.sink.script.extend([RetryableError("down")] * 20)
    with caplog.at_level("INFO"):
        b.run()
    texts = [r.getMessage() for r in caplog.records]
    assert texts == ["sink test fails: RetryableError: down", "sink test works again"]


def test_rows_refused_all_the_time_do_not_fill_the_program_log(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    b = bench()
    poison(b.sink, set(range(5, 100, 3)), PermanentError)
    for _ in range(20):
        b.ticks(1)
        b.run()
    assert b.runner.account().dead_letter == 20
    assert len(caplog.records) == 1


def test_stop_drains_although_rows_are_refused(bench: Callable[..., Bench]) -> None:
    b = bench(batch_rows=2, clock=RunnerClock(), lag_age_s=1e12)
    poison(b.sink, set(range(5, 100, 3)), PermanentError)
    b.ticks(20)
    b.runner.start()
    b.runner.stop(5.0)
    assert b.runner.account().pending == 0


def test_maintenance_runs_between_writes_when_due(bench: Callable[..., Bench]) -> None:
    class Kept(RecordingSink):
        maintenance_interval_s = 60.0
        times = 0

        def maintain(self, now_ms: int, is_stopping: Callable[[], bool]) -> None:
            self.times += 1
            if self.times == 2:
                raise RuntimeError("disk full")

    sink = Kept()
    b = bench(sink)
    for _ in range(3):
        b.ticks(1)
        b.run()
        b.run()
        b.clock.advance(60)
    assert sink.times == 3
    assert b.runner.counters()["maintenance_errors"] == 1


def test_a_sink_that_hangs_is_left_behind_in_time_and_moves_no_cursor(tmp_path: Path) -> None:
    log = ListLog()
    sink = RecordingSink()
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_: Sequence[Record]) -> None:
        hangs.set()
        goes_on.wait(20)
        raise PartialWriteError("late", {7: "bad"})

    sink.script.append(hang)
    b = Bench(tmp_path, sink, log, RunnerClock(), lag_age_s=1e12)
    b.ticks(3)
    b.runner.start()
    assert hangs.wait(10)
    started = time.monotonic()
    b.runner.stop(0.1)
    assert time.monotonic() - started < 5
    assert b.runner.is_alive()
    goes_on.set()
    assert b.runner._thread is not None
    b.runner._thread.join(10)
    assert not (tmp_path / "test.dead-letters").exists()
    b.sink = RecordingSink()
    b.start()
    b.run()
    assert rows_of(b.sink.written) == list(range(1, 14))


def test_stop_drains_what_the_store_takes(tmp_path: Path) -> None:
    b = Bench(tmp_path, clock=RunnerClock(), lag_age_s=1e12, flush_interval_s=1000.0)
    b.ticks(50)
    b.runner.start()
    b.runner.stop(5.0)
    assert not b.runner.is_alive()
    assert b.runner.account().pending == 0
    assert not b.sink.is_open
    b.start()
    b.run()
    assert b.runner.account().written == 154
    assert len(rows_of(b.sink.written)) == 154


def test_stop_in_the_middle_of_halving_keeps_to_its_time(bench: Callable[..., Bench]) -> None:
    b = bench()

    def refuse_slowly(_: Sequence[Record]) -> None:
        b.clock.advance(1)
        raise PermanentError("bad")

    b.sink.script.extend([refuse_slowly] * 10_000)
    b.ticks(100)
    b.runner._stop.set()
    b.runner._drain_until_s = b.clock.monotonic() + 10
    b.runner.step()
    assert 10 <= b.sink.attempts <= 11
    assert b.runner._is_done()
    assert b.runner.account().is_exact


def test_stop_does_not_wait_for_a_store_that_is_down(tmp_path: Path) -> None:
    b = Bench(tmp_path, clock=RunnerClock(), lag_age_s=1e12, retry_min_s=100.0, retry_max_s=100.0)
    tried = threading.Event()

    def fail(_: Sequence[Record]) -> None:
        tried.set()
        raise RetryableError("down")

    b.sink.script.extend([fail] * 100)
    b.ticks(5)
    b.runner.start()
    assert tried.wait(10)
    started = time.monotonic()
    b.runner.stop(10.0)
    assert time.monotonic() - started < 5
    assert not b.runner.is_alive()
    assert b.runner.account().pending == 19
    assert b.sink.attempts == 1


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


def test_metrics_are_filtered_by_pattern(bench: Callable[..., Bench]) -> None:
    b = bench(metrics_include=("cpu_*", "network_receive_*"), metrics_exclude=("*_packets", "cpu_system_ns"))
    records = list(generate_records(6))
    b.fill(records)
    b.run()
    expected = [
        (
            key,
            {
                n: v
                for n, v in values.items()
                if n.startswith(("cpu_", "network_receive_", "is_closing")) and "packets" not in n
            },
        )
        for key, values in flat(records)
    ]
    assert flat(b.sink.written) == expected
    [schema] = [r for r in b.sink.written if isinstance(r, Schema)]
    assert schema.names == ("cpu_usage_ns", "cpu_user_ns")
    assert schema.row == 1


def test_a_row_of_which_no_value_is_left_is_filtered(bench: Callable[..., Bench]) -> None:
    b = bench(metrics_include=("memory_*",))
    records = list(generate_records(10))
    b.fill(records)
    b.run()
    closing = sum(1 for _, v in flat(records) if "is_closing" in v)
    assert closing
    assert b.runner.account().filtered == closing


def test_containers_are_filtered_by_path_or_name(bench: Callable[..., Bench]) -> None:
    b = bench(containers_include=("/docker/*", "web-1"), containers_exclude=("web-3",))
    records = list(generate_records(4, 4))
    b.fill(records)
    b.run()
    assert {s.container for r in b.samples if isinstance(r, Batch) for s in r.samples} == {1, 2, 4}
    assert {r.number for r in b.sink.written if isinstance(r, Container)} == {1, 2, 4}
    assert {r.container for r in b.sink.written if isinstance(r, Event)} == {1, 2, 4}
    assert b.runner.account().filtered == 2 + 4


def test_labels_pass_by_allow_list_and_tags_are_added(bench: Callable[..., Bench]) -> None:
    b = bench(labels=("com.*",), tags={"site": "north"})
    b.ticks(1)
    b.run()
    wanted = {"com.example.team": "blue", "site": "north"}
    assert [dict(r.labels) for r in b.sink.written if isinstance(r, Container)] == [wanted] * 3
    assert all(dict(c.labels) == wanted for r in b.samples if isinstance(r, Batch) for c in r.containers.values())


def bare(number: int, at_ms: int, **fields: Any) -> Container:
    return make_container(number, valid_from_ms=at_ms, **({"name": None, "image": None, "labels": {}} | fields))


def names(b: Bench, number: int) -> list[str | None]:
    return [r.containers[number].name for r in b.samples if isinstance(r, Batch) for s in r.samples if s.container == number]


class TestNames:
    """`names_wait_s`: the first rows of a container wait for its names, by record times."""

    def tick(self, b: Bench, second: float, *numbers: int) -> None:
        ts_ms = START_MS + round(second * 1000)
        b.log.append([make_sample(SCHEMA, n, ts_ms, cpu_usage_ns=1) for n in numbers])
        b.log.tell()

    def test_rows_wait_and_bear_the_names_that_came(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        self.tick(b, 1, 1)
        b.run()
        assert b.samples == []
        assert b.runner.account().pending == 2
        b.log.append(make_container(1, name="late", valid_from_ms=START_MS + 1500))
        b.log.tell()
        b.run()
        self.tick(b, 2, 1)
        b.run()
        assert names(b, 1) == ["late", "late", "late"]

    def test_time_ends_the_wait(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        for second in (0, 1, 2, 3):
            self.tick(b, second, 1)
        b.log.append(make_container(1, name="too late", valid_from_ms=START_MS + 3500))
        self.tick(b, 4, 1)
        b.run()
        assert names(b, 1) == [None, None, None, None, "too late"]

    def test_names_that_come_too_late_are_not_for_the_first_rows(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        b.log.append(make_container(1, name="too late", valid_from_ms=START_MS + 2500))
        self.tick(b, 3, 1)
        b.run()
        assert names(b, 1) == [None, "too late"]

    def test_end_of_the_container_ends_the_wait(self, bench: Callable[..., Bench]) -> None:
        from tidegauge.pipeline.records import End

        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        b.log.append(End(1, START_MS + 100))
        b.log.tell()
        b.run()
        assert names(b, 1) == [None]

    def test_clock_set_back_ends_the_wait(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS))
        self.tick(b, 0, 1)
        self.tick(b, -3600, 1)
        b.run()
        assert names(b, 1) == [None, None]

    def test_host_and_named_containers_do_not_wait(self, bench: Callable[..., Bench]) -> None:
        b = bench(names_wait_s=2.0)
        b.log.append(SCHEMA)
        b.log.append(bare(1, START_MS, path="/"))
        b.log.append(make_container(2, valid_from_ms=START_MS))
        self.tick(b, 0, 1, 2)
        b.run()
        assert len(names(b, 1)) == 1

    @pytest.mark.parametrize("kill_after", range(1, 9))
    def test_repeat_bears_the_same_names(self, tmp_path: Path, kill_after: int) -> None:
        log = ListLog()
        log.append(SCHEMA)
        log.append(bare(1, START_MS))
        log.append(bare(2, START_MS + 200))
        for second in (0.1, 1.0, 1.2):
            log.append([make_sample(SCHEMA, n, START_MS + round(second * 1000), cpu_usage_ns=1) for n in (1, 2)])
        log.append(make_container(1, name="one", valid_from_ms=START_MS + 1300))
        for second in (1.4, 2.0, 2.3, 3.0):
            log.append([make_sample(SCHEMA, n, START_MS + round(second * 1000), cpu_usage_ns=1) for n in (1, 2)])
        log.append(make_container(2, name="two", valid_from_ms=START_MS + 3100))
        log.append([make_sample(SCHEMA, n, START_MS + 4000, cpu_usage_ns=1) for n in (1, 2)])

        def tags(sink: RecordingSink) -> dict[tuple[int, int], str | None]:
            found: dict[tuple[int, int], str | None] = {}
            for r in sink.written:
                if isinstance(r, Batch):
                    for s in r.samples:
                        name = r.containers[s.container].name
                        assert found.setdefault((s.container, s.ts_ms), name) == name
            return found

        whole = Bench(tmp_path, log=log, names_wait_s=2.0)
        log.tell()
        whole.run()
        expected = tags(whole.sink)
        assert len(expected) == 16
        (tmp_path / "test.cursor").unlink()

        # Bit by bit, killed once on the way: the same tags, although fewer frames could be seen ahead.
        b = Bench(tmp_path, log=log, names_wait_s=2.0, batch_rows=1)
        for i, frame in enumerate(log.frames):
            log.end.set(frame.end_row, frame.end_row, log.accepted[i] + frame.rows)
            b.run()
            if i == kill_after:
                b.start()
        b.run()
        assert tags(b.sink) == expected
