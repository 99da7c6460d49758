"""A store that is gone for good: the sink says so, and gets again all that the log keeps."""

from collections.abc import Sequence
from pathlib import Path

from tests.pipeline.sink_bench import Bench

from tidegauge.pipeline.errors import PermanentError, StoreLostError
from tidegauge.pipeline.records import Record
from tidegauge.pipeline.testing import RecordingSink, rows_of


class Losing(RecordingSink):
    """Loses everything at the call of this number, and then takes it all."""

    def __init__(self, at: int, call: str = "write") -> None:
        super().__init__()
        self.at, self.call = at, call
        self.calls = 0
        self.refuses = False
        self.maintenance_interval_s = 0.0

    def _count(self, call: str) -> None:
        if call == self.call:
            self.calls += 1
            if self.calls == self.at:
                self.written.clear()
                raise StoreLostError("store: damaged")

    def open(self) -> None:
        self._count("open")
        super().open()

    def write(self, records: Sequence[Record]) -> None:
        self._count("write")
        if self.refuses:
            raise PermanentError("not these")
        super().write(records)

    def maintain(self, now_ms: int, is_stopping: object) -> None:
        self._count("maintain")


def held(b: Bench) -> list[int]:
    return rows_of(b.sink.written)


def test_at_a_write_everything_comes_again_and_counts_once(tmp_path: Path) -> None:
    b = Bench(tmp_path, Losing(3), batch_rows=5)
    b.ticks(10)
    b.run()
    assert held(b) == list(range(1, b.log.row))
    account = b.runner.account()
    assert (account.written, account.accepted, account.pending) == (b.log.total, b.log.total, 0)
    assert b.runner.counters()["stores_lost"] == 1


def test_at_the_opening_and_in_maintenance(tmp_path: Path) -> None:
    for call in ("open", "maintain"):
        b = Bench(tmp_path / call, Losing(1 if call == "open" else 3, call), batch_rows=5)
        (tmp_path / call).mkdir()
        b.ticks(10)
        b.run()
        assert held(b) == list(range(1, b.log.row)), call
        assert b.runner.account().is_exact


def test_the_new_account_lasts(tmp_path: Path) -> None:
    b = Bench(tmp_path, Losing(3), batch_rows=5)
    b.ticks(10)
    b.run()
    b.start()
    b.run()
    assert held(b) == list(range(1, b.log.row))
    assert b.runner.account().written == b.log.total


def test_what_the_log_keeps_no_more_is_not_asked_for(tmp_path: Path) -> None:
    b = Bench(tmp_path, Losing(3), batch_rows=5)
    b.ticks(10)
    b.log.lose(4)
    first = b.log.first_row().row
    b.run()
    assert held(b) == list(range(first, b.log.row))
    account = b.runner.account()
    assert (account.accepted, account.written) == (len(held(b)), len(held(b)))


def test_while_dead_letters_are_delivered_again(tmp_path: Path) -> None:
    sink = Losing(10**6)
    b = Bench(tmp_path, sink, batch_rows=1)
    b.ticks(5)
    b.run()
    sink.refuses = True
    b.ticks(1)
    b.run()
    assert b.runner.account().dead_letter > 0
    sink.refuses, sink.at = False, sink.calls + 1
    b.runner.replay()
    b.run()
    assert held(b) == list(range(1, b.log.row))
    account = b.runner.account()
    assert (account.written, account.dead_letter) == (b.log.total, 0)
    assert (tmp_path / "test.dead-letters.old").exists()
