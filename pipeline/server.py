"""The server process: a runner for each sink, fed by the journal; what it shows of itself.

The sampler tells how far the log may be read; this process alone moves cursors and tells the sampler the lowest row that one
of them still needs. A restart of either process, or a new configuration, loses nothing: the cursors stand on disk.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline import self_metrics
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.event_store import EventStore, KeepsEvents
from tidegauge.pipeline.history import HistoryReader
from tidegauge.pipeline.latest import KeepsLatest, KeepsSamples
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.messages import Answer, Channel, LogMoved, Message, Needed, SamplerCounters
from tidegauge.pipeline.plugin import KeepsHistory, PointReader
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.requests import Asker
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.sql_query import KeepsSql
from tidegauge.pipeline.state import StateDir
from tidegauge.pipeline.telemetry import Family, by
from tidegauge.pipeline.version import VERSION

log = logging.getLogger(__name__)

_TELL_EVERY_S = 1.0
_SILENCE_S = 15.0
"""Without a word from the sampler for this long (or five base intervals) the program counts as not well."""
STOP_SINKS_WITHIN_S = 2.0


class Server:
    """Composes runners and channel; `start`, then `apply` for new configurations, then `stop`. One owner thread."""

    def __init__(self, config: Config, channel: Channel, restarts: int) -> None:
        self._config = config
        self._channel = channel
        self._restarts = restarts
        self._state = StateDir(config.state_dir)
        self._log_end = LogEnd()
        self._runners: dict[str, SinkRunner] = {}
        self._tables: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        self._sampler: Mapping[str, Any] = {}
        self._heard_s = self._ticked_s = self._appended_s = time.monotonic()
        self._asker = Asker(channel, lambda: time.monotonic() - self._heard_s)
        self.channel_errors = 0
        """Times that the thread of the channel met an exception and went on."""
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="channel", daemon=True)
        self.started_s = time.time()

    def start(self) -> None:
        """Starts what the configuration names. ConfigError if a sink's table is wrong."""
        self._change_runners(self._config)
        self._listener.start()

    def apply(self, config: Config) -> None:
        """Takes a new configuration: sinks that changed are stopped and started, the others go on untouched."""
        self._change_runners(config)
        self._config = config

    def stop(self) -> None:
        """Drains what can be drained within the time, and stops every runner."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_SINKS_WITHIN_S
        threads = [
            threading.Thread(target=r.stop, args=(max(0.1, deadline - time.monotonic()),), daemon=True) for r in self._running()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline + 0.5 - time.monotonic()))

    def _running(self) -> list[SinkRunner]:
        with self._lock:
            return list(self._runners.values())

    def _change_runners(self, config: Config) -> None:
        tables = configuration.sink_tables(config)
        parts = {n: configuration.split_sink(n, t, config) for n, t in tables.items() if self._tables.get(n) != t}
        fresh = {n: (cls(own), options) for n, (cls, options, own) in parts.items()}
        gone = [n for n in self._runners if n not in tables or n in fresh]
        for name in gone:
            self._runners[name].stop(STOP_SINKS_WITHIN_S)
        with self._lock:
            for name in gone:
                del self._runners[name]
        for name, (sink, options) in fresh.items():
            runner = SinkRunner(
                name,
                sink,
                options,
                journal_folder=self._state.journal,
                state_folder=self._state.server,
                log_end=self._log_end,
                source=self._state.source(),
            )
            runner.start()
            with self._lock:
                self._runners[name] = runner
        self._tables = tables

    def _listen(self) -> None:
        tell_s = 0.0
        is_failing = False
        while not self._stopping.is_set():
            try:
                self._hear(self._channel.receive(timeout_s=0.5))
                now = time.monotonic()
                if now - tell_s >= _TELL_EVERY_S:
                    tell_s = now
                    if (needed := self._needed()) is not None:
                        self._channel.send(needed)
            except Exception:
                self.channel_errors += 1
                if not is_failing:
                    log.exception("the channel to the sampler failed")
                is_failing = True
                self._stopping.wait(0.5)
            else:
                is_failing = False

    def _hear(self, message: Message | None) -> None:
        now = time.monotonic()
        match message:
            case LogMoved():
                self._heard_s = now
                end = self._log_end.get()
                if end is None or end[0] != message.appended_row:
                    self._appended_s = now
                self._log_end.set(message.appended_row, message.synced_row, message.accepted)
            case SamplerCounters():
                self._heard_s = now
                if message.values.get("ticks") != self._sampler.get("ticks"):
                    self._ticked_s = now
                self._sampler = message.values
            case Answer():
                self._asker.hear(message)

    def _needed(self) -> Needed | None:
        """What to tell the sampler; None while a runner does not know its row yet."""
        rows = []
        for runner in self._running():
            if runner.cursor_lasts:
                row = runner.needed_row()
                if row is None:
                    return None
                rows.append(row)
        return Needed(min(rows, default=None))

    # What the listener shows (api.app.ServerView); any thread.

    def _sampler_fault(self) -> str | None:
        """Why what is known of containers is old; None while it is not."""
        limit = max(_SILENCE_S, 5 * self._config.sampler.base_interval_s)
        now = time.monotonic()
        if now - self._heard_s > limit:
            return f"the sampler has said nothing for {now - self._heard_s:.0f} s"
        if now - self._ticked_s > limit:
            return f"the sampler has made no tick for {now - self._ticked_s:.0f} s"
        if now - self._appended_s > limit:
            return f"nothing was appended to the journal for {now - self._appended_s:.0f} s"
        return None

    def faults(self) -> list[str]:
        fault = self._sampler_fault()
        out = [] if fault is None else [fault]
        out.extend(f"sink {r.name}: its thread has ended" for r in self._running() if not r.is_alive())
        return out

    def containers(self) -> list[Container] | None:
        """Those that live; None when no sink that could tell runs."""
        store = self.samples()
        return None if store is None else [container for container, _ in store.latest()]

    def latest(self) -> KeepsLatest | None:
        """The store of the newest values; None when none runs, or the sampler is silent and what it holds is old."""
        if self._sampler_fault() is not None:
            return None
        return next((r.sink for r in self._running() if isinstance(r.sink, KeepsLatest)), None)

    def samples(self) -> KeepsSamples | None:
        """The store of the last samples, however old they are; None when none runs."""
        return next((r.sink for r in self._running() if isinstance(r.sink, KeepsSamples)), None)

    def history(self) -> PointReader | None:
        """The store of older samples; None when none runs."""
        return next((h for h in self.histories().values() if isinstance(h, PointReader)), None)

    def histories(self) -> Mapping[str, HistoryReader]:
        """The stores that can be asked about the past, by the names of their sinks."""
        readers = {r.name: r.sink.history() for r in self._running() if isinstance(r.sink, KeepsHistory)}
        return {name: reader for name, reader in readers.items() if reader is not None}

    def sql_stores(self) -> Mapping[str, KeepsSql]:
        """The sinks whose stores can be asked in SQL, by name."""
        return {r.name: r.sink for r in self._running() if isinstance(r.sink, KeepsSql)}

    def events(self) -> EventStore | None:
        """What keeps the last events; None when no sink that does runs."""
        return next((r.sink.events for r in self._running() if isinstance(r.sink, KeepsEvents)), None)

    def status(self) -> dict[str, Any]:
        sinks = {}
        for runner in self._running():
            account = runner.account()
            sinks[runner.name] = {
                "state": runner.state(),
                "accepted": account.accepted,
                "written": account.written,
                "filtered": account.filtered,
                "dropped": dict(account.dropped),
                "dead_letter": account.dead_letter,
                "pending": account.pending,
                "lag_s": runner.lag_s(),
                "last_error": runner.last_error(),
            }
        end = self._log_end.get()
        return {
            "version": VERSION,
            "host": self._config.host,
            "state_dir": str(self._config.state_dir),
            "source": self._state.source(),
            "pid": os.getpid(),
            "uptime_s": round(time.time() - self.started_s, 3),
            "restarts": self._restarts,
            "faults": self.faults(),
            "containers": self._sampler.get("containers", 0),
            "log": None if end is None else {"appended_row": end[0], "synced_row": end[1], "accepted": end[2]},
            "sampler": dict(self._sampler),
            "sinks": sinks,
        }

    def dead_letters(self, sink: str, action: str, ids: list[int] | None) -> dict[str, Any]:
        with self._lock:
            runner = self._runners[sink]
        if action == "list":
            return {"letters": runner.list_letters()}
        if action == "replay":
            return {"replayed": runner.replay(ids)}
        if action == "discard":
            return {"discarded": runner.discard(ids)}
        raise ConfigError(f"dead letters: expected list, replay or discard, got {action!r}")

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """What the sampler answers to a request of this kind. RequestError if it does not. Waits; not the channel's thread."""
        return self._asker.ask(kind, arguments, timeout_s)

    def families(self) -> list[Family]:
        asks = by("tidegauge_asks_total", "counter", "Requests to the sampler.", "outcome", self._asker.counters())
        return [*self_metrics.families(self._restarts, self._channel, self._running(), self._sampler), asks]
