"""Errors of a store: tried again, halved, or given to the dead letters."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from tests.pipeline.sink_bench import Bench, poison

from tidegauge.pipeline.errors import PartialWriteError, PermanentError, RetryableError, TooLargeError
from tidegauge.pipeline.records import Record
from tidegauge.pipeline.testing import (
    RecordingSink,
    rows_of,
)


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
