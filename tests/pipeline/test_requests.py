"""Requests from server to sampler: over real sockets, with threads on both sides and either side started again."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import eventually

from tidegauge.pipeline import requests
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.messages import MAX_BYTES, Answer, Channel, LogMoved, Request, pair
from tidegauge.pipeline.requests import Asker, Responder, parts_of

LONG_S = 60.0
"""Longer than any machine takes: these waits end as soon as there is an answer."""


class Side:
    """One process's channel thread: hands each message to `take` until it is ended."""

    def __init__(self, end: socket.socket, take: Callable[[Channel], Callable[[Any], None]]) -> None:
        self.channel = Channel(end.dup())
        self._take = take(self.channel)
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._is_ended.is_set():
            message = self.channel.receive(0.01)
            if isinstance(message, Answer | Request):
                self._take(message)

    def stop(self) -> None:
        self._is_ended.set()
        self._thread.join()

    def end(self) -> None:
        """As a kill does: nothing is read any more; the parent still holds the end of the pair."""
        self.stop()
        self.channel.close()


class Link:
    """Both sides over one pair that a parent would hold. `sampler` and `server` may be ended and begun again."""

    def __init__(self) -> None:
        self.ends = pair()
        self.silent_s = 0.0
        self.handlers: dict[str, requests.Handler] = {"echo": lambda arguments, deadline_ns: dict(arguments)}
        self.hanging = threading.Event()
        self.begin_sampler()
        self.begin_server()

    def begin_sampler(self) -> None:
        def take(channel: Channel) -> Callable[[Any], None]:
            self.responder = Responder(channel)
            for kind, handler in self.handlers.items():
                self.responder.add(kind, handler)
            return self.responder.take

        self.sampler = Side(self.ends[0], take)

    def begin_server(self) -> None:
        def take(channel: Channel) -> Callable[[Any], None]:
            self.asker = Asker(channel, lambda: self.silent_s)
            return self.asker.hear

        self.server = Side(self.ends[1], take)

    def hang(self, arguments: Mapping[str, Any], deadline_ns: int) -> str:
        assert self.hanging.wait(LONG_S)
        return "at last"

    def close(self) -> None:
        self.hanging.set()
        eventually(lambda: not self.responder._running.total(), why="a handler did not end")
        self.sampler.end()
        self.server.end()
        for end in self.ends:
            end.close()


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("request-")], why="threads are left")


def refused(link: Link, kind: str, arguments: Mapping[str, Any], timeout_s: float = LONG_S) -> RequestError:
    with pytest.raises(RequestError) as caught:
        link.asker.ask(kind, arguments, timeout_s)
    assert link.asker.waiting == 0
    return caught.value


def test_an_answer_comes_back_to_each_of_many_threads(link: Link) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for i in range(20):
            sent = {"number": number, "i": i, "text": "x" * (number * 1000)}
            while True:
                try:
                    got = link.asker.ask("echo", sent, LONG_S)
                    break
                except RequestError as exc:  # two of a kind at a time; the others come again
                    if exc.reason is not Reason.BUSY:
                        wrong.append(exc)
                        return
                    time.sleep(0.001)
            if got != sent:
                wrong.append(got)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert link.asker.counters()["answered"] == 120
    eventually(lambda: link.responder.counters()["answered"] == 120, why="the responder counts what it sent")
    assert link.asker.waiting == 0


def test_an_answer_of_many_parts_leaves_room_for_other_messages(link: Link) -> None:
    big = {"list": ["y" * 1000] * 8000}
    link.handlers["big"] = lambda arguments, deadline_ns: big
    link.responder.add("big", link.handlers["big"])
    result: list[Any] = []
    link.server.stop()  # nobody reads for now: the answer fills what it may of the buffer
    thread = threading.Thread(target=lambda: result.append(link.asker.ask("big", {}, LONG_S)))
    thread.start()
    eventually(lambda: link.asker.waiting, why="nothing was asked")
    eventually(lambda: link.responder._running.total(), why="the sampler did not hear of it")
    time.sleep(0.05)
    assert link.sampler.channel.send(LogMoved(1, 2, 3))
    assert link.sampler.channel.send(LogMoved(4, 5, 6))
    assert link.sampler.channel.unsent == 0
    take = link.asker.hear
    while thread.is_alive():
        message = link.server.channel.receive(0.01)
        if isinstance(message, Answer):
            take(message)
    thread.join()
    assert result == [big]


def test_a_handlers_failure_is_told_in_words(link: Link) -> None:
    def fail(arguments: Mapping[str, Any], deadline_ns: int) -> None:
        raise KeyError("the thing")

    def refuse(arguments: Mapping[str, Any], deadline_ns: int) -> None:
        raise RequestError("there is no such thing", Reason.NOT_FOUND)

    link.responder.add("fail", fail)
    link.responder.add("refuse", refuse)
    link.responder.add("odd", lambda arguments, deadline_ns: object())
    error = refused(link, "fail", {})
    assert (error.reason, str(error)) == (Reason.FAILED, "fail: KeyError: 'the thing'")
    error = refused(link, "refuse", {})
    assert (error.reason, str(error)) == (Reason.NOT_FOUND, "there is no such thing")
    assert refused(link, "odd", {}).reason is Reason.FAILED
    error = refused(link, "unknown", {})
    assert (error.reason, str(error)) == (
        Reason.REFUSED,
        "kind: expected one of echo, fail, odd, refuse, got 'unknown'",
    )
    assert link.asker.ask("echo", {"a": 1}, LONG_S) == {"a": 1}
    assert link.asker.counters() == {"failed": 2, "not_found": 1, "refused": 1, "answered": 1}


def test_a_handler_that_hangs_costs_its_place_and_no_more(link: Link) -> None:
    def occupy(kind: str, already: int) -> None:
        link.server.channel.send(Request(already, kind, {}, time.monotonic_ns() + int(2 * LONG_S * 1e9)))
        eventually(lambda: link.responder._running.total() == already + 1, why="the request was not taken")

    link.responder.add("hang", link.hang)
    link.responder.add("hang as well", link.hang)
    occupy("hang", 0)
    occupy("hang", 1)
    error = refused(link, "hang", {})
    assert (error.reason, str(error)) == (Reason.BUSY, "the sampler is busy with other requests (kind 'hang')")
    assert link.asker.ask("echo", {}, LONG_S) == {}
    eventually(lambda: link.responder._running.total() == 2, why="the answered one keeps its place")
    occupy("hang as well", 2)
    occupy("hang as well", 3)
    assert refused(link, "echo", {}).reason is Reason.BUSY
    link.hanging.set()
    eventually(lambda: link.asker.counters().get("late") == 4, why="what nobody waits for came back")
    eventually(lambda: link.responder._running.total() == 0, why="the places are free again")
    assert link.asker.ask("echo", {}, LONG_S) == {}


def test_who_asks_waits_no_longer_than_said(link: Link) -> None:
    def too_long(arguments: Mapping[str, Any], deadline_ns: int) -> str:
        while time.monotonic_ns() <= deadline_ns:
            time.sleep(0.005)
        return "late"

    link.responder.add("long", too_long)
    error = refused(link, "long", {}, 0.05)
    assert (error.reason, str(error)) == (Reason.TIMED_OUT, "long: no whole answer within 0.05 s")
    eventually(lambda: {"unsent", "expired"} & link.responder.counters().keys(), why="it was sent all the same")
    assert "late" not in link.asker.counters()


def test_a_late_answer_is_dropped_and_counted(link: Link) -> None:
    link.server.channel.send(Request(77, "echo", {"x": 1}, time.monotonic_ns() + int(LONG_S * 1e9)))
    eventually(lambda: link.asker.counters().get("late") == 1, why="the answer to nobody did not come")
    assert link.asker.ask("echo", {"a": 2}, LONG_S) == {"a": 2}


def test_a_request_whose_time_has_passed_in_the_buffer_is_not_served(link: Link) -> None:
    called: list[int] = []
    link.sampler.end()
    assert refused(link, "note", {}, 0.02).reason is Reason.TIMED_OUT
    link.silent_s = 5
    assert refused(link, "note", {}, 0.02).reason is Reason.NOT_RUNNING
    link.silent_s = 0
    link.handlers["note"] = lambda arguments, deadline_ns: called.append(1)
    link.begin_sampler()
    eventually(lambda: link.responder.counters().get("expired") == 2, why="the old requests were not met")
    assert called == []
    assert link.asker.ask("note", {}, LONG_S) is None
    assert called == [1]


def test_a_sampler_started_again_answers_what_waits(link: Link) -> None:
    link.sampler.end()
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(link.asker.ask("echo", {"w": 1}, LONG_S)))
    thread.start()
    eventually(lambda: link.asker.waiting, why="nothing was asked")
    link.begin_sampler()
    thread.join()
    assert result == [{"w": 1}]


def test_an_answer_cut_off_by_the_end_of_the_sampler_is_a_clean_timeout(link: Link) -> None:
    link.sampler.end()
    result: list[RequestError] = []
    thread = threading.Thread(target=lambda: result.append(refused(link, "echo", {}, 0.5)))
    thread.start()
    lost = Channel(link.ends[0].dup())
    request = lost.receive(LONG_S)
    assert isinstance(request, Request)
    first = next(parts_of(request.id, b"z" * 100_000))
    assert lost.send(first)
    lost.close()
    link.begin_sampler()
    thread.join()
    assert result[0].reason is Reason.TIMED_OUT
    assert link.asker.ask("echo", {}, LONG_S) == {}


def test_a_server_started_again_takes_no_answer_to_the_one_before(link: Link) -> None:
    link.responder.add("hang", link.hang)
    before = link.asker
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(before.ask("hang", {}, 2 * LONG_S)))
    thread.start()
    eventually(lambda: link.responder._running.total(), why="the sampler did not hear of it")
    link.server.end()
    link.begin_server()
    asked_since: list[Any] = []
    go_on = threading.Event()
    link.responder.add("wait", lambda arguments, deadline_ns: go_on.wait(LONG_S))
    since = threading.Thread(target=lambda: asked_since.append(link.asker.ask("wait", {}, 2 * LONG_S)))
    since.start()
    eventually(lambda: link.responder._running["wait"], why="the sampler did not hear of that either")
    link.hanging.set()
    eventually(lambda: link.asker.counters().get("late") or asked_since, why="the answer went astray")
    go_on.set()
    since.join()
    assert asked_since == [True]
    (id,) = before._waiting
    before.hear(Answer(id, 0, True, msgspec.msgpack.encode("no longer")))
    thread.join()
    assert result == ["no longer"]


def test_lost_and_disordered_parts_are_an_error_at_once(link: Link) -> None:
    def skips(request: Any) -> None:
        parts = list(parts_of(request.id, b"z" * 100_000))
        for part in (parts[0], parts[2], parts[3]):
            link.sampler.channel.send(part)

    link.sampler._take = skips
    error = refused(link, "echo", {})
    assert (error.reason, str(error)) == (Reason.FAILED, "part 1 of the answer was lost")


def test_sizes_are_bounded(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(link, "echo", {"x": "y" * requests.MAX_ARGUMENTS_BYTES}).reason is Reason.TOO_LARGE
    assert refused(link, "echo", {"x": object()}).reason is Reason.REFUSED
    monkeypatch.setattr(requests, "MAX_ANSWER_BYTES", 100)
    assert refused(link, "echo", {"x": "y" * 200}).reason is Reason.TOO_LARGE
    link.sampler._take = lambda request: [link.sampler.channel.send(p) for p in parts_of(request.id, bytes(300), 80)]
    assert refused(link, "echo", {}).reason is Reason.TOO_LARGE
    monkeypatch.setattr(requests, "MAX_WAITING", 0)
    assert refused(link, "echo", {}).reason is Reason.BUSY


def test_a_silent_sampler_is_not_asked(link: Link) -> None:
    link.silent_s = 11
    error = refused(link, "echo", {})
    assert (error.reason, str(error)) == (Reason.NOT_RUNNING, "the sampler does not run: it has said nothing for 11 s")
    link.silent_s = 0
    link.sampler.end()
    errors = [refused(link, "echo", {"x": "y" * 30000}, 0.001).reason for _ in range(200)]
    assert errors[0] is Reason.TIMED_OUT
    assert errors[-1] is Reason.NOT_RUNNING, "the buffer is full"
    link.begin_sampler()
    eventually(lambda: link.responder.counters().get("expired"), why="the buffer was not emptied")
    assert link.asker.ask("echo", {}, LONG_S) == {}


def test_a_closed_channel_ends_who_waits_for_room() -> None:
    one, other = (Channel(end) for end in pair())
    one.close()
    assert not one.send_when_room(Answer(1, 0, True, b""), time.monotonic_ns() + int(LONG_S * 1e9))
    other.close()


def test_a_kind_has_one_handler(link: Link) -> None:
    with pytest.raises(ValueError, match="echo"):
        link.responder.add("echo", link.hang)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_parts_are_the_whole_in_order(payload: bytes, size: int) -> None:
    parts = list(parts_of(5, payload, size))
    assert b"".join(p.payload for p in parts) == payload
    assert [p.part for p in parts] == list(range(len(parts)))
    assert [p.is_last for p in parts] == [False] * (len(parts) - 1) + [True]
    assert all(p.id == 5 and p.fault is None and len(p.payload) <= size for p in parts)
    assert len(parts) == max(1, -(-len(payload) // size))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_every_part_fits_a_packet(id: int, part: int) -> None:
    assert len(msgspec.msgpack.encode(Answer(id, part, False, bytes(requests.PART_BYTES)))) < MAX_BYTES
    request = Request(id, "k" * 100, {"x": bytes(requests.MAX_ARGUMENTS_BYTES)}, id)
    assert len(msgspec.msgpack.encode(request)) < MAX_BYTES
