"""What a bound, damage or thinning takes: counted, and told to the sink as a gap."""

from collections.abc import Callable, Sequence

import pytest
from tests.pipeline.sink_bench import Bench, Killed, kill

from tidegauge.pipeline.errors import PermanentError, RetryableError
from tidegauge.pipeline.records import Batch, Event, Gap, Record
from tidegauge.pipeline.testing import (
    START_MS,
    RecordingSink,
    rows_of,
)


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


def test_thinning_holds_for_rows_that_were_read_before_it_began(bench: Callable[..., Bench]) -> None:
    b = bench(lag_policy="downsample", downsample_keep=5, lag_age_s=1000.0, flush_interval_s=10.0)
    b.ticks(10)
    b.runner.step()
    assert b.sink.attempts == 0
    b.clock.advance(900)
    b.ticks(870)
    b.run()
    b.clock.advance(10)
    b.run()
    assert rows_of(b.samples) == [row for row in range(5, b.log.row) if row % 5 == 0]
    assert b.sink.attempts == 1, "in batches as ever, although most ticks are left out whole"
    assert b.runner.account().is_exact


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


@pytest.mark.parametrize("lag_policy", ["drop_oldest", "downsample"])
def test_rows_overwritten_while_the_store_is_down_are_not_lost_to_the_bound(
    bench: Callable[..., Bench], lag_policy: str
) -> None:
    b = bench(lag_policy=lag_policy, batch_rows=3)
    b.ticks(10)
    b.run()
    b.ticks(20)
    b.log.lose(24, "disk_full")
    b.clock.advance(20)
    b.run()
    account = b.runner.account()
    assert set(account.dropped) == {"disk_full"}
    assert {g.reason for g in b.gaps} == {"dropped:disk_full"}
    assert sum(g.rows or 0 for g in b.gaps) == account.dropped["disk_full"] == account.accepted - account.written > 0


@pytest.mark.parametrize("can_open", [True, False])
def test_a_loss_before_any_row_was_settled_is_under_a_gap_from_the_first_row_on(
    bench: Callable[..., Bench], can_open: bool
) -> None:
    class Closed(RecordingSink):
        is_down = not can_open

        def open(self) -> None:
            if self.is_down:
                raise RetryableError("down")

    sink = Closed()
    b = bench(sink)
    b.ticks(10)
    b.sink.script.append(RetryableError("down"))
    b.runner.step()
    # Killed meanwhile, and the rows are gone.
    b.ticks(20)
    b.log.lose(24, "disk_full")
    sink.is_down = False
    b.start()
    b.run()
    [gap] = b.gaps
    assert (gap.from_ms, gap.to_ms) == (START_MS, START_MS + 20_000)
    assert b.runner.account().dropped == {"disk_full": gap.rows}


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


def test_a_sink_that_hangs_holds_the_log_no_longer_than_its_bound(bench: Callable[..., Bench]) -> None:
    """No turn of its runner ends, so that nothing moves its cursor: what may be recycled is told all the same."""
    b = bench(lag_age_s=100.0)
    b.ticks(10)
    b.run()
    assert b.runner.needed_row() == b.log.row == 35
    needed = []

    def hang(_: Sequence[Record]) -> None:
        for _ in range(8):
            b.clock.advance(40)
            b.ticks(40)
            needed.append(b.runner.needed_row())
        raise Killed

    b.sink.script.append(hang)
    b.ticks(1)
    with pytest.raises(Killed):
        b.run()
    assert needed[:2] == [35, 35]
    assert needed == sorted(needed)
    kept = [f for f in b.log.frames if f.first_row >= (needed[-1] or 0)]
    assert b.clock.time_ms() - 100_000 <= kept[0].time_ms <= b.clock.time_ms() - 90_000
    b.start()
    b.run()
    [gap] = b.gaps
    assert (gap.reason, gap.row, b.runner.account().is_exact) == ("dropped:bound", 35, True)
    assert gap.row + (gap.rows or 0) == kept[0].first_row
