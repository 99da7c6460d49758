"""Asking other hosts: the way into the journal, failures, starts, and who is whose."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.pipeline.test_remote_roster import METRICS, TABLES, Log, T, answer, roster, seconds, told
from tests.support import eventually

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.groups import DEFAULT_GROUPS
from tidegauge.pipeline.housekeeping import Policy
from tidegauge.pipeline.identity import REMOTE_NUMBERS, Identities, Origin, first_number, first_remote_number, live_containers
from tidegauge.pipeline.journal import JournalConfig, JournalWriter
from tidegauge.pipeline.log_thread import WAITING, Heads, Item, LogThread
from tidegauge.pipeline.metadata import MetadataConfig
from tidegauge.pipeline.plugin import RemoteAnswer
from tidegauge.pipeline.records import Container, End, Gap
from tidegauge.pipeline.remote_options import RemoteOptions
from tidegauge.pipeline.remote_roster import Numbers
from tidegauge.pipeline.remotes import Claims, PatientOutlet, Remote, RemoteFeed, Remotes, last_readings
from tidegauge.pipeline.testing import FakeClock


class NoConfig(msgspec.Struct, frozen=True):
    pass


class FakeHost:
    """Gives the answers in turn, the last one again and again; raises those that are errors."""

    Config = NoConfig
    metrics = METRICS
    tables = TABLES
    base_interval_s = 1.0
    max_interval_s = 60.0
    keeps_history = True

    def __init__(self, *answers: RemoteAnswer | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[int | None] = []
        self.is_closed = False

    def ask(self, since_ms: int | None) -> RemoteAnswer:
        self.asked.append(since_ms)
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, Exception):
            raise said
        return said

    def close(self) -> None:
        self.is_closed = True

    def counters(self) -> dict[str, int]:
        return {"absurd_values": 2, "unreadable_containers": 1}


class FullQueue:
    """A journal's queue of which the test sets how many wait."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.taken = 0

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        self.taken += 1
        self.waiting += 1
        return self.waiting <= WAITING


def test_half_of_the_queue_is_left_to_the_sampling_thread() -> None:
    queue = FullQueue(0)
    stop = threading.Event()
    outlet = PatientOutlet(queue, stop, patience_s=0.05, look_s=0.001)
    threads = [threading.Thread(target=outlet.put, args=([], 0)) for _ in range(WAITING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.taken == queue.waiting == WAITING // 2


def test_a_place_is_waited_for_but_not_at_the_end() -> None:
    queue = FullQueue(WAITING)
    stop = threading.Event()
    outlet = PatientOutlet(queue, stop, patience_s=600, look_s=0.001)
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(outlet.put([], 0)))
    waiter.start()
    queue.waiting = 0
    waiter.join(60)
    assert results == [True]
    stop.set()
    queue.waiting = WAITING
    assert not outlet.put([], 0)


def feed(log: Log, *answers: RemoteAnswer | Exception, name: str = "web", claims: Claims | None = None) -> RemoteFeed:

    options = RemoteOptions(interval_s=5, retry_min_s=1, retry_max_s=8)
    remote = Remote(name, options, FakeHost(*answers))
    return RemoteFeed(remote, roster(log, Numbers(1)), claims or Claims(), FakeClock())


def test_a_host_that_does_not_answer_is_logged_once_and_asked_ever_less(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    down = CollectError("http://web/api: refused")
    f = feed(log, answer(told("/", seconds(0, 5))), *[down] * 6, answer(told("/", seconds(60, 65))))
    assert f.counters()["reachable"] is False
    with caplog.at_level("INFO"):
        assert f.poll() == 5
        assert f.counters()["reachable"] is True
        waits = [f.poll() for _ in range(6)]
        assert f.counters() == {
            "asks": 7,
            "errors": 6,
            "samples": 6,
            "overflow_rows": 0,
            "absurd_values": 2,
            "unreadable_containers": 1,
            "shortened_answers": 0,
            "containers": 1,
            "reachable": False,
            "answer_age_seconds": 0.0,
        }
        assert f.fault == "http://web/api: refused"
        f.poll()
    assert all(5 <= wait <= 5 + 8 for wait in waits)
    assert [r.getMessage() for r in caplog.records] == [
        "remote web: http://web/api: refused",
        "remote web answers again",
    ]

    assert [(g.from_ms, g.to_ms, g.reason) for g in log.of(Gap)] == [(T + 5000, T + 60_000, "remote_down")]
    assert f.fault is None


def test_a_plug_in_that_breaks_is_a_fault_like_another(caplog: pytest.LogCaptureFixture) -> None:
    f = feed(Log(), ZeroDivisionError("oops"))
    f.poll()
    assert f.fault == "ZeroDivisionError: oops"
    assert "Traceback" in caplog.text


def test_two_tables_for_one_machine_are_a_fault_of_the_second() -> None:
    log, claims = Log(), Claims()
    first = feed(log, answer(told("/", seconds(0, 1))), claims=claims)
    second = feed(log, answer(told("/", seconds(0, 1))), name="again", claims=claims)
    first.poll()
    second.poll()
    assert first.fault is None
    assert second.fault is not None
    assert "remote web" in second.fault
    assert len(log.live) == 1


def test_numbers_of_others_are_never_ours() -> None:
    for first_row in (0, 1 << 32, 7 << 32, 9000 << 32):
        ours, theirs, next_ours = (first_number(first_row), first_remote_number(first_row), first_number(first_row + (1 << 32)))
        last = theirs + REMOTE_NUMBERS - 1
        assert ours + 1_000_000 < theirs < last - 1_000_000
        assert last < next_ours
    identities = Identities(Origin("s", "h", "b"), [], first_number(1 << 32))

    number = identities.admit("/", {}, Policy(1, 60, True), 0, 0).record.number
    assert number < first_remote_number(1 << 32)


class Start:
    """A start of the sampler process as far as remotes go, over a real journal."""

    def __init__(self, folder: Path, *hosts: tuple[str, FakeHost]) -> None:
        self.heads = Heads()
        self.writer = JournalWriter(folder, JournalConfig(segment_bytes=65536), self.heads.frames, lambda: T)
        self.found = self.writer.open()
        self.known = live_containers((f.type, f.payload) for f in self.found.frames)
        self.heads.begin(self.known)
        self.journal = LogThread(self.writer, self.heads, 0.01)
        self.remotes = Remotes(
            [Remote(name, RemoteOptions(interval_s=0.1), host) for name, host in hosts],
            Catalogue(),
            DEFAULT_GROUPS,
            MetadataConfig(),
            self.journal,
            folder,
            known=[c for c in self.known if c.remote],
            first_row=self.found.first_row,
            last_time_ms=self.found.last_time_ms,
            clock=FakeClock(T),
        )
        self.hosts = [host for _, host in hosts]
        self.journal.start()
        self.remotes.start()

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_: object) -> None:
        self.remotes.stop(timeout_s=60)
        assert self.journal.stop(60)
        self.writer.close()

    def are_asked(self, times: int) -> bool:
        return all(len(h.asked) > times for h in self.hosts)


def live(folder: Path) -> list[Container]:
    writer = JournalWriter(folder, JournalConfig(segment_bytes=65536), Heads().frames, lambda: T)
    try:
        return live_containers((f.type, f.payload) for f in writer.open().frames)
    finally:
        writer.close()


def test_starts_go_on_and_what_is_not_configured_any_more_ends(tmp_path: Path) -> None:
    one = answer(told("/", seconds(0, 5)), told("/a", seconds(0, 5)))
    two = answer(told("/", seconds(0, 5)), machine="m2", boot="b2")
    with Start(tmp_path, ("one", FakeHost(one)), ("two", FakeHost(two))) as start:
        eventually(lambda: start.are_asked(1))
        counters = start.remotes.counters()
        assert counters["remote_samples"] == {"one": 12, "two": 6}
        assert counters["remote_reachable"] == {"one": True, "two": True}
        assert counters["remote_faults"] == {}
    assert all(h.is_closed for h in start.hosts)
    before = live(tmp_path)
    assert [(c.remote, c.path) for c in sorted(before, key=lambda c: (c.remote, c.path))] == [
        ("one", "/"), ("one", "/a"), ("two", "/"),
    ]  # fmt: skip
    assert len({c.number for c in before}) == 3
    assert len({c.source for c in before}) == 2

    numbers = {c.number for c in before if c.remote == "one"}
    with Start(tmp_path, ("one", FakeHost(one))) as start:
        found = last_readings(tmp_path, start.known, start.found.first_row, start.found.last_time_ms)
        assert found == {c.number: T + 5000 for c in before}
        eventually(lambda: start.are_asked(1))
        assert start.hosts[0].asked[0] == T + 5000 - 3000
        assert start.remotes.counters()["remote_samples"] == {"one": 0}  # all of it is in the log
    assert {c.number for c in live(tmp_path)} == numbers


def test_without_remotes_no_thread_is_begun(tmp_path: Path) -> None:
    before = threading.active_count()
    remotes = Remotes([], Catalogue(), DEFAULT_GROUPS, MetadataConfig(), FullQueue(0), tmp_path)
    remotes.start()
    assert threading.active_count() == before
    remotes.stop()
    assert remotes.counters() == {"remote_faults": {}}


def test_a_stop_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    asked, release = threading.Event(), threading.Event()

    class Hanging(FakeHost):
        def ask(self, since_ms: int | None) -> RemoteAnswer:
            asked.set()
            release.wait(60)
            raise CollectError("released")

    remotes = Remotes(
        [Remote("web", RemoteOptions(), Hanging(CollectError("")))], Catalogue(), DEFAULT_GROUPS, MetadataConfig(),
        FullQueue(0), tmp_path,
    )  # fmt: skip
    remotes.start()
    assert asked.wait(60)
    remotes.stop(timeout_s=0.01)  # returns, or the test ends by its timeout
    release.set()
    remotes.stop(timeout_s=60)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("remote"):
            thread.join(60)
            assert not thread.is_alive()


def test_an_end_is_written_for_a_container_of_nobody(tmp_path: Path) -> None:
    log = Log()

    class Queue:
        waiting = 0

        def put(self, items: Sequence[Item], time_ms: int) -> bool:
            return log.put(items, time_ms)

    stranger = Container(7, "s", "i", 0, "b", "/a", "far", 1, 5, remote="gone")
    remotes = Remotes(
        [], Catalogue(), DEFAULT_GROUPS, MetadataConfig(), Queue(), tmp_path, known=[stranger], clock=FakeClock(T)
    )
    remotes.start()
    remotes.stop(timeout_s=60)
    assert log.items == [End(7, 5)]
