"""Stacks, profiles and memory: of this very process, whose threads the tests know."""

import gc
import os
import re
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.api.access import Listener, get, listening

from tidegauge.pipeline import introspection
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import Reason, RequestError

HOUR_NS = 3600 * 10**9


def far() -> int:
    return time.monotonic_ns() + HOUR_NS


def _turning(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(100))


def _waiting(stop: threading.Event) -> None:
    stop.wait()


@pytest.fixture
def busy() -> Iterator[None]:
    """A thread that turns and one that waits, named so."""
    stop = threading.Event()
    threads = [threading.Thread(target=f, args=(stop,), name=n) for f, n in ((_turning, "turns"), (_waiting, "waits"))]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(30)


def test_stacks_of_all_threads(busy: None) -> None:
    text = introspection.threads()
    blocks = dict(re.findall(r"\nthread (\S+) \(native id (\d+)\)\n", text))
    assert "api/test_debug.py:" in text
    assert " _turning" in text
    waits = text.split("\nthread waits ")[1].split("\n\n")[0]
    assert waits.index("_waiting") < waits.rindex(".wait"), "the innermost call is last"
    assert {int(blocks[n]) for n in ("turns", "waits")} <= {t.id for t in psutil.Process().threads()}


def test_a_profile_has_the_stacks_of_the_threads_in_the_form_of_flame_graphs(busy: None) -> None:
    lines = introspection.profile(0.3, far()).splitlines()
    counts = {stack: int(count) for stack, _, count in (line.rpartition(" ") for line in lines)}
    assert all(count > 0 and ";" in stack for stack, count in counts.items())
    turned = sum(count for stack, count in counts.items() if stack.startswith("turns;") and "._turning" in stack)
    waited = sum(count for stack, count in counts.items() if stack.startswith("waits;") and "._waiting;" in stack)
    assert turned > 0
    assert 0 < waited <= 0.3 * introspection.PROFILE_HZ + 2
    assert not any("_profile" in stack for stack in counts), "not itself"


def test_a_profile_ends_at_its_deadline_and_within_its_bounds() -> None:
    started = time.monotonic_ns()
    introspection.profile(60.0, started + 50_000_000)
    assert time.monotonic_ns() - started < 50 * 10**9
    for seconds in (0.0, -1.0, 61.0, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="at most 60"):
            introspection.profile(seconds, far())


def test_one_at_a_time() -> None:
    deadline_ns = far()
    stop = threading.Event()
    thread = threading.Thread(target=lambda: (introspection._busy.acquire(), stop.wait(), introspection._busy.release()))
    thread.start()
    try:
        while not introspection._busy.locked():
            time.sleep(0.01)
        for ask in (lambda: introspection.profile(0.1, deadline_ns), lambda: introspection.heap(deadline_ns)):
            with pytest.raises(RequestError) as raised:
                ask()
            assert raised.value.reason is Reason.BUSY
    finally:
        stop.set()
        thread.join(30)
    assert introspection.profile(0.05, deadline_ns) is not None


def test_different_stacks_are_bounded(busy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection, "MAX_STACKS", 1)
    lines = introspection.profile(0.2, far()).splitlines()
    assert len(lines) == 2
    assert any(line.startswith("other ") for line in lines)


class Held:
    pass


def test_the_heap_by_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection, "_MOST_TYPES", 100_000)
    held = [Held() for _ in range(1234)]
    text = introspection.heap(far())
    name = f"{Held.__module__}.Held"
    assert next(line for line in text.splitlines() if line.endswith(f" {name}")).split()[1] == str(len(held))
    rss = int(next(line for line in text.splitlines() if line.startswith("rss ")).split()[1])
    assert 0.5 < rss / psutil.Process().memory_info().rss < 2
    with pytest.raises(RequestError, match="no whole count in time"):
        introspection.heap(0)
    gc.collect()


def test_the_heap_by_line_where_it_is_traced() -> None:
    tracemalloc.start()
    try:
        held = bytearray(3_000_000)
        text = introspection.heap(far())
    finally:
        tracemalloc.stop()
    assert len(held) == 3_000_000
    line = next(line for line in text.splitlines() if "test_debug.py:" in line)
    assert int(line.split()[0]) >= 3_000_000


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with listening(HttpConfig(debug=True), tmp_path) as found:
        yield found


@pytest.fixture
def local(listener: Listener) -> Iterator[httpx2.Client]:
    transport = httpx2.HTTPTransport(uds=str(listener.socket_path))
    with httpx2.Client(transport=transport, base_url="http://localhost", timeout=120) as client:
        yield client


def test_both_processes_are_on_the_page(listener: Listener, local: httpx2.Client) -> None:
    listener.view.answers = {"debug_threads": "process 7\n", "debug_heap": "process 7\n", "debug_profile": "main;a.b 3\n"}
    for path in ("/debug/threads", "/debug/heap"):
        answer = local.get(path)
        assert answer.status_code == 200
        server, sampler = answer.text.split("== sampler")
        assert f"process {os.getpid()}" in server
        assert "process 7" in sampler
    lines = local.get("/debug/profile?seconds=0.1").text.splitlines()
    assert "sampler;main;a.b 3" in lines
    assert any(line.startswith("server;") and ";uvicorn." in line for line in lines), "the listener's own thread"
    assert listener.view.asked[-1] == ("debug_profile", {"seconds": 0.1})


def test_the_server_answers_while_the_sampler_does_not(local: httpx2.Client) -> None:
    assert "the sampler does not run" in local.get("/debug/threads").text
    lines = local.get("/debug/profile?seconds=0.05").text.splitlines()
    assert "sampler;the sampler does not run 1" in lines
    assert all(re.fullmatch(r".+;.+ \d+", line) for line in lines)


def test_a_second_profile_meanwhile_is_refused(local: httpx2.Client) -> None:
    assert introspection._busy.acquire(timeout=60)
    try:
        assert local.get("/debug/profile?seconds=0.05").status_code == 503
    finally:
        introspection._busy.release()


@pytest.mark.parametrize("query", ["seconds=0", "seconds=61", "seconds=x", "seconds=nan", "seconds=-1", "other=1", "seconds="])
def test_what_is_asked_is_checked(local: httpx2.Client, query: str) -> None:
    assert local.get(f"/debug/profile?{query}").status_code == 400
    assert local.get(f"/debug/threads?{query}").status_code == 400


def test_it_is_off_unless_switched_on(tmp_path: Path) -> None:
    with listening(HttpConfig(), tmp_path) as found:
        assert get(found, "/debug/threads")[0] == 404
