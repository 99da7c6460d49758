"""Dead letters of a runner: replayed, discarded, full."""

import zlib
from collections.abc import Callable

import pytest
from tests.pipeline.sink_bench import Bench, poison

from tidegauge.pipeline.errors import PermanentError, RetryableError
from tidegauge.pipeline.testing import (
    rows_of,
)


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
