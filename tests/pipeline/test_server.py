"""What the server makes of messages, of silence, and of a changed configuration."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import server as server_module
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.messages import Channel, LogMoved, Needed, SamplerCounters, pair
from tidegauge.pipeline.server import Server


class Rig:
    """A server without a sampler; the test plays it."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        (tmp_path / "journal").mkdir()
        (tmp_path / "server").mkdir()
        self.sampler, end = (Channel(e) for e in pair())
        self.channel = end
        self.server = Server(self.config(), end, 0)

    def config(self, **sinks: dict[str, Any]) -> Config:
        off = {"sql": {"enabled": False}, "memory": {"enabled": False}}
        return configuration.load(Path("/dev/null"), {"state_dir": str(self.tmp_path), "sinks": {**off, **sinks}}, {})

    def hear(self, **counters: Any) -> None:
        self.server._hear(SamplerCounters(counters))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    r = Rig(tmp_path)
    yield r
    r.server.stop()
    r.sampler.close()
    r.channel.close()


def _later(rig: Rig, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.monotonic()
    monkeypatch.setattr(server_module.time, "monotonic", lambda: now + seconds)


def test_a_sampler_that_talks_but_makes_no_tick_is_a_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.hear(ticks=4)
    rig.server._hear(LogMoved(1, 1, 1))
    assert rig.server.faults() == []
    _later(rig, monkeypatch, 60)
    rig.hear(ticks=4)
    assert rig.server.faults() == ["the sampler has made no tick for 60 s"]


def test_ticks_of_which_nothing_comes_to_the_journal_are_a_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.server._hear(LogMoved(9, 9, 9))
    _later(rig, monkeypatch, 60)
    rig.server._hear(LogMoved(9, 9, 9))
    rig.hear(ticks=70)
    assert rig.server.faults() == ["nothing was appended to the journal for 60 s"]
    rig.server._hear(LogMoved(10, 9, 10))
    assert rig.server.faults() == []


def test_silence_is_a_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    _later(rig, monkeypatch, 60)
    assert rig.server.faults() == ["the sampler has said nothing for 60 s"]


def test_the_channel_outlives_an_exception(rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def needed() -> Needed:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(24, "Too many open files")
        return Needed(None)

    monkeypatch.setattr(rig.server, "_needed", needed)
    rig.server.start()
    assert rig.sampler.receive(10) == Needed(None)
    assert rig.server.channel_errors == 1
    assert "the channel to the sampler failed" in caplog.text


def test_only_sinks_whose_table_changed_are_started_again(rig: Rig) -> None:
    rig.server.apply(rig.config(one={"plugin": "stdout"}, two={"plugin": "stdout"}))
    before = {r.name: r for r in rig.server._running()}
    rig.server.apply(rig.config(one={"plugin": "stdout"}, two={"plugin": "stdout", "batch_rows": 7}))
    after = {r.name: r for r in rig.server._running()}
    assert after["one"] is before["one"]
    assert after["two"] is not before["two"]
    assert before["two"].state() == "stopped"
    rig.server.apply(rig.config(one={"plugin": "stdout"}))
    assert [r.name for r in rig.server._running()] == ["one"]


def test_without_the_memory_sink_nobody_can_list_containers(rig: Rig) -> None:
    assert rig.server.containers() is None
    rig.hear(ticks=1, containers=12)
    assert rig.server.status()["containers"] == 12


def test_stores_that_hold_no_history_are_not_offered_for_it(rig: Rig) -> None:
    """The first one by name is asked where none is named."""
    nowhere = {"plugin": "influxdb", "url": "http://127.0.0.1:9", "timeout_s": 1}
    layouts = {layout: {**nowhere, "layout": layout} for layout in ("cadvisor", "heapster", "native")}
    rig.server.apply(rig.config(**layouts, out={"plugin": "stdout"}))
    assert list(rig.server.histories()) == ["native"]
