"""The server process: a runner for each sink, fed by the journal; what it shows of itself.

The sampler tells how far the log may be read; this process alone moves cursors and tells the sampler the lowest row that one
of them still needs. A restart of either process, or a new configuration, loses nothing: the cursors stand on disk.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import ConfigError
from tidegauge.pipeline.log_end import LogEnd
from tidegauge.pipeline.messages import Answer, Channel, LogMoved, Needed, Request, SamplerCounters
from tidegauge.pipeline.plugin import HistoryReader
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.sink_runner import SinkRunner
from tidegauge.pipeline.state import StateDir
from tidegauge.pipeline.telemetry import Family, Point, by, one
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
        self._heard_s = time.monotonic()
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="channel", daemon=True)
        self._answers: dict[int, Answer | None] = {}
        self._answered = threading.Condition()
        self._next_request = 1
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
        while not self._stopping.is_set():
            message = self._channel.receive(timeout_s=0.5)
            match message:
                case LogMoved():
                    self._heard_s = time.monotonic()
                    self._log_end.set(message.appended_row, message.synced_row, message.accepted)
                case SamplerCounters():
                    self._heard_s = time.monotonic()
                    self._sampler = message.values
                case Answer():
                    with self._answered:
                        if message.id in self._answers:
                            self._answers[message.id] = message
                            self._answered.notify_all()
            now = time.monotonic()
            if now - tell_s >= _TELL_EVERY_S:
                tell_s = now
                if (needed := self._needed()) is not None:
                    self._channel.send(needed)

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

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float = 5.0) -> Any:
        """The sampler's answer to a request. TimeoutError if none comes, RuntimeError with its text if it refuses."""
        with self._answered:
            number = self._next_request
            self._next_request += 1
            self._answers[number] = None
            try:
                self._channel.send(Request(number, kind, arguments))
                if not self._answered.wait_for(lambda: self._answers[number] is not None, timeout_s):
                    raise TimeoutError(f"the sampler did not answer a request for {kind} within {timeout_s:g} s")
                answer = self._answers[number]
            finally:
                del self._answers[number]
        assert answer is not None
        if answer.error is not None:
            raise RuntimeError(answer.error)
        return answer.result

    # What the listener shows (api.app.ServerView); any thread.

    def faults(self) -> list[str]:
        limit = max(_SILENCE_S, 5 * self._config.sampler.base_interval_s)
        silent = time.monotonic() - self._heard_s
        out = []
        if silent > limit:
            out.append(f"the sampler has said nothing for {silent:.0f} s")
        if self._log_end.get() is None and time.time() - self.started_s > limit:
            out.append("the journal has not been opened")
        out.extend(f"sink {r.name}: its thread has ended" for r in self._running() if not r.is_alive())
        return out

    def containers(self) -> list[Container]:
        for runner in self._running():
            if isinstance(runner.sink, HistoryReader) and runner.name == "memory":
                return list(runner.sink.live_containers())
        return []

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
            "containers": len(self.containers()),
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

    def families(self) -> list[Family]:
        return [*self._own_families(), *self._sink_families(), *_sampler_families(self._sampler)]

    def _own_families(self) -> Iterator[Family]:
        times = os.times()
        yield Family("tidegauge_build_info", "gauge", "Version that runs; always 1.", [Point({"version": VERSION}, 1)])
        yield by(
            "tidegauge_process_restarts_total",
            "counter",
            "Times that the parent had to start a process again.",
            "process",
            {"server": self._restarts, "sampler": self._sampler.get("restarts", 0)},
        )
        cpu = {"server": round(times.user + times.system, 3)}
        if "process_cpu_s" in self._sampler:
            cpu["sampler"] = self._sampler["process_cpu_s"]
        yield by("tidegauge_process_cpu_seconds_total", "counter", "CPU time used by each process.", "process", cpu)
        yield one(
            "tidegauge_messages_unsent_total",
            "counter",
            "Messages to the sampler that it had no room for.",
            self._channel.unsent,
        )

    def _sink_families(self) -> Iterator[Family]:
        runners = sorted(self._running(), key=lambda r: r.name)
        accounts = {r.name: r.account() for r in runners}
        terms = (
            ("accepted_rows_total", "counter", "Rows that the journal accepted since the sink's start row."),
            ("written_rows_total", "counter", "Rows that the store took."),
            ("filtered_rows_total", "counter", "Rows that the sink does not take or its filters leave out."),
            ("dead_letter_rows", "gauge", "Rows that the store refused, kept on disk."),
            ("pending_rows", "gauge", "Rows in the journal that are not yet delivered."),
        )
        for term, kind, help in terms:
            field = term.removesuffix("_total").removesuffix("_rows")
            yield by(f"tidegauge_sink_{term}", kind, help, "sink", {n: getattr(a, field) for n, a in accounts.items()})
        yield Family(
            "tidegauge_sink_dropped_rows_total",
            "counter",
            "Rows lost to a bound or to damage; each loss is under a gap record.",
            [Point({"sink": n, "reason": why}, rows) for n, a in accounts.items() for why, rows in sorted(a.dropped.items())],
        )
        counters = {r.name: r.counters() for r in runners}
        for key, kind, help in (
            ("writes", "counter", "Calls of the sink's write that succeeded."),
            ("retries", "counter", "Calls of the sink's write that failed and are tried again."),
            ("unknown_errors", "counter", "Failures of a kind that the sink does not state."),
            ("config_faults", "counter", "Refusals that a wrong configuration explains (401, 403, 404)."),
            ("unknown_records", "counter", "Journal records of a type that this version does not know."),
        ):
            yield by(f"tidegauge_sink_{key}_total", kind, help, "sink", {n: c.get(key, 0) for n, c in counters.items()})
        yield by(
            "tidegauge_sink_lag_seconds",
            "gauge",
            "Age of the oldest row that is not yet delivered.",
            "sink",
            {r.name: lag for r in runners if (lag := r.lag_s()) is not None},
        )


_COUNTERS: Mapping[str, str] = {
    "ticks": "Ticks served.",
    "late_ticks": "Ticks that began more than 50 ms late.",
    "missed_ticks": "Ticks left out because an earlier one took too long.",
    "samples": "Samples made.",
    "closing_samples": "Closing samples made at the end of an idle span.",
    "probes": "Looks at the CPU counter of idle containers.",
    "collection_cpu_seconds": "CPU time of the sampling thread.",
    "probe_cpu_seconds": "CPU time spent looking at idle containers.",
    "overflows": "Ticks whose samples were lost because the journal did not keep up; each is under a gap record.",
    "overflow_rows": "Samples lost in such ticks.",
    "absurd_values": "Values that no reader of 64 bit numbers could take, stored as absent.",
    "clock_steps": "Steps of the wall clock.",
    "journal_overwritten_unread_segments": "Segments used again before every sink had read them.",
    "journal_overwritten_unread_rows": "Rows in such segments.",
    "journal_append_errors": "Appends that the disk refused.",
    "journal_sync_errors": "Syncs that the disk refused.",
}
_GAUGES: Mapping[str, str] = {
    "lateness_p50_seconds": "Median lateness of the last ticks.",
    "lateness_p99_seconds": "Lateness that 99 % of the last ticks stayed within.",
    "lateness_max_seconds": "Greatest lateness of the last ticks.",
    "greatest_blindness_seconds": "Longest time for which an idle container was not looked at.",
    "probe_period_ticks": "Idle containers are looked at each so many ticks.",
    "containers": "Containers that are sampled, the host included.",
    "idle_containers": "Containers that are only looked at.",
    "descriptors": "Files that readers keep open.",
    "journal_bytes": "Size of the journal on disk.",
    "journal_segments": "Segments of the journal.",
    "journal_oldest_age_seconds": "Age of the oldest row in the journal.",
}
_COUNTERS_BY: Mapping[str, tuple[str, str]] = {
    "collect_errors": ("collector", "Readings that failed."),
    "job_runs": ("job", "Runs of coarse jobs."),
    "job_failures": ("job", "Runs of coarse jobs that failed."),
    "job_skipped": ("job", "Coarse jobs that were due while they still ran."),
}


def _sampler_families(values: Mapping[str, Any]) -> Iterator[Family]:
    for key, help in _COUNTERS.items():
        yield one(f"tidegauge_{key}_total", "counter", help, values.get(key))
    for key, help in _GAUGES.items():
        yield one(f"tidegauge_{key}", "gauge", help, values.get(key))
    for key, (label, help) in _COUNTERS_BY.items():
        yield by(f"tidegauge_{key}_total", "counter", help, label, values.get(key) or {})
