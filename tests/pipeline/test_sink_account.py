"""The account against a model: under any script of failures, kills, damage and bounds every row is in exactly one place."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegauge.pipeline.errors import PartialWriteError, PermanentError, RetryableError, TooLargeError
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.records import Batch, Event, Gap, Record
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.testing import (
    SOURCE,
    START_MS,
    FakeClock,
    ListLog,
    RecordingSink,
    make_container,
    make_sample,
    make_schema,
    rows_of,
)

SCHEMA = make_schema()


class Killed(BaseException):
    """Stands for a kill: whatever was in memory is gone."""


class World:
    """A log, a store, and a runner that is killed and started again."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = RunnerOptions(flush_interval_s=0.0, unknown_attempts=2, **options)
        self.log = ListLog()
        self.clock = FakeClock()
        self.times: dict[int, int] = {}
        """Every accepted row and its time."""
        self.store: dict[int, Record] = {}
        self.gaps: dict[int, Gap] = {}
        self.bad: set[int] = set()
        self.plan: list[str] = []
        self.tick = 0
        self._append(SCHEMA)
        for n in (1, 2, 3):
            self._append(make_container(n, valid_from_ms=START_MS))
        self.runner = self.start()

    def start(self) -> SinkRunner:
        sink = RecordingSink()
        sink.script.extend([self._write] * 100_000)
        self.runner = SinkRunner(
            "s",
            sink,
            self.options,
            journal_folder=self.folder,
            state_folder=self.folder,
            log_end=self.log.end,
            source=SOURCE,
            log=self.log,
            clock=self.clock,  # type: ignore[arg-type]
        )
        return self.runner

    def _append(self, record: Any) -> None:
        first = self.log.append(record)
        frame = self.log.frames[-1]
        self.times.update(dict.fromkeys(range(first, frame.end_row), frame.time_ms))

    def _keep(self, records: Sequence[Record], but: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        for record in records:
            if isinstance(record, Gap) and record.reason.startswith("dropped:"):
                self.gaps[record.row] = record
            else:
                self.store.update(dict.fromkeys(set(rows_of([record])) - but, record))

    def _write(self, records: Sequence[Record]) -> None:
        """The store: does what the plan says, then refuses bad rows one way or another, then takes all."""
        own = [r for r in records if not (isinstance(r, Gap) and r.reason.startswith("dropped:"))]
        step = self.plan.pop(0) if self.plan else "take"
        found = self.bad & set(rows_of(own))
        if step == "kill before":
            raise Killed
        if step == "kill after":
            if not found:
                self._keep(records)
            raise Killed
        if step == "retry":
            raise RetryableError("down")
        if step == "bug":
            raise ValueError("bug")
        if step == "large" and len(rows_of(own)) > 1:
            raise TooLargeError("413")
        if found and step == "partial":
            self._keep(records, found)
            raise PartialWriteError("some", dict.fromkeys(found, "bad"))
        if found:
            raise PermanentError(f"bad rows {sorted(found)}")
        self._keep(records)

    def run(self) -> None:
        self.log.tell(self.log.end.get()[1] if self.log.end.get() and self.tick % 3 else None)  # type: ignore[index]
        for _ in range(60):
            try:
                wait_s = self.runner.step()
            except Killed:
                self.start()
                continue
            account = self.runner.account()
            assert account.is_exact, account
            if wait_s:
                break
        self.clock.advance(1.1)

    def do(self, action: tuple[str, Any]) -> None:
        kind, value = action
        match kind:
            case "ticks":
                for _ in range(value):
                    self.tick += 1
                    self.clock.advance(1)
                    ts_ms = START_MS + self.tick * 1000
                    self._append([make_sample(SCHEMA, n, ts_ms, cpu_usage_ns=self.tick) for n in (1, 2, 3)])
                self.run()
            case "plan":
                self.plan += value
                self.run()
            case "bad":
                self.bad |= {self.log.row + i for i in value}
            case "cure":
                self.bad.clear()
            case "kill":
                self.start()
                self.run()
            case "restart log":
                self.log.restart()
            case "damage":
                if len(self.log.frames) > 5:
                    self.log.damage(4 + value % (len(self.log.frames) - 4))
            case "lose":
                if len(self.log.frames) > 5:
                    self.log.lose(4 + value % (len(self.log.frames) - 4), "disk_full")
            case "nonsense":
                row = self.log.append_frame(3, b"\xc1", 2, START_MS + self.tick * 1000)
                self.times |= {row: START_MS + self.tick * 1000, row + 1: START_MS + self.tick * 1000}
            case "replay":
                self.plan.clear()
                self.runner.replay()
            case "discard":
                self.runner.discard([x["id"] for x in self.runner.list_letters()][:value])
            case "sleep":
                self.clock.advance(value)
                self.run()

    def finish(self) -> None:
        """The store takes everything from now on, and the log comes to rest."""
        self.plan.clear()
        self.bad = {row for row in self.bad if row < self.log.row}
        self.tick = 3
        for _ in range(3):
            self._append(Event(START_MS + 10_000_000, "oom"))
            self.run()
        account = self.runner.account()
        assert account.pending == 0
        assert account.is_exact
        assert account.accepted == len(self.times) == self.log.total


ACTIONS = st.one_of(
    st.tuples(st.just("ticks"), st.integers(1, 6)),
    st.tuples(st.just("ticks"), st.integers(1, 6)),
    st.tuples(
        st.just("plan"),
        st.lists(st.sampled_from(["take", "kill before", "kill after", "retry", "bug", "large", "partial"]), max_size=5),
    ),
    st.tuples(st.just("bad"), st.lists(st.integers(0, 20), max_size=3)),
    st.tuples(st.sampled_from(["cure", "kill", "restart log", "nonsense", "replay"]), st.none()),
    st.tuples(st.just("discard"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["damage", "lose"]), st.integers(0, 10**6)),
    st.tuples(st.just("sleep"), st.integers(1, 40)),
)
OPTIONS = st.fixed_dictionaries(
    {"batch_rows": st.integers(1, 12)},
    optional={
        "lag_age_s": st.sampled_from([15.0, 60.0]),
        "lag_policy": st.sampled_from(["drop_oldest", "downsample"]),
        "downsample_keep": st.sampled_from([2, 5]),
        "dead_letter_bytes": st.sampled_from([0, 1500]),
    },
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(OPTIONS, st.lists(ACTIONS, max_size=25))
def test_every_row_is_in_exactly_one_place(options: dict[str, Any], actions: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        w = World(Path(folder), **options)
        w.run()
        for action in actions:
            w.do(action)
        w.finish()
        account = w.runner.account()
        letters = {x["id"] for x in w.runner.list_letters()}
        assert account.dead_letter == len(letters)
        assert account.filtered == 0
        missing = w.times.keys() - w.store.keys() - letters
        # What a user discards has no gap, and a gap on which the sink itself fails again and again is given up.
        if "discarded" not in account.dropped and not any("bug" in str(value) for _, value in actions):
            uncovered = [r for r in missing if not any(g.from_ms <= w.times[r] <= g.to_ms for g in w.gaps.values())]
            assert uncovered == []
        # A row that was stored before a kill and lost before its repeat is in the store and counts as dropped.
        assert account.written <= len(w.store)
        assert len(missing) <= sum(account.dropped.values())
        if not any(kind in ("kill",) or "kill" in str(value) for kind, value in actions):
            assert account.written == len(w.store)
            assert len(missing) == sum(account.dropped.values())


@pytest.mark.parametrize("when", ["kill before", "kill after"])
@pytest.mark.parametrize("at", range(8))
def test_a_kill_at_any_write_loses_and_doubles_nothing(tmp_path: Path, when: str, at: int) -> None:
    w = World(tmp_path, batch_rows=5)
    w.bad = {7, 20, 21}
    w.plan = ["take"] * at + [when]
    w.do(("ticks", 8))
    w.finish()
    account = w.runner.account()
    assert (account.dead_letter, account.dropped) == (3, {})
    assert w.store.keys() == w.times.keys() - w.bad
    assert account.written == len(w.store)
    assert [x["id"] for x in w.runner.list_letters()] == [7, 20, 21]


def test_letters_damaged_on_disk_are_counted(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.bad = {7, 8, 9}
    w.do(("ticks", 8))
    w.run()
    path = tmp_path / "s.dead-letters"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    lines[2] = lines[2].replace(b"cpu_usage_ns", b"cpu_usage_xx", 1)
    path.write_bytes(b"".join(lines) + b"torn")
    w.start()
    w.run()
    account = w.runner.account()
    assert (account.dead_letter, account.dropped) == (2, {"damage": 1})
    assert account.is_exact
    assert isinstance(w.store[10], Batch)


def test_a_record_of_a_letter_is_as_the_sink_was_given_it(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.bad = {3, 7}
    w.do(("ticks", 3))
    w.bad = set()
    w.run()
    assert w.runner.replay() == 2
    assert w.store[3] == make_container(2, valid_from_ms=START_MS, row=3)
    batch = w.store[7]
    assert isinstance(batch, Batch)
    assert batch.samples == (make_sample(SCHEMA, 3, START_MS + 1000, cpu_usage_ns=1),)
    assert batch.containers[3].name == "web-3"
