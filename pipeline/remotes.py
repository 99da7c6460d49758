"""Other hosts, sampled over the network: a thread each in the sampler process, into the same log under sources of their own.

None of them delays the sampling thread: they share nothing with it but the way into the journal, and of that they leave it
half. What each tells becomes records in `remote_roster`.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from tidegauge.pipeline.backoff import Backoff
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.clock import Clock, MachineClock
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.handover import Handover
from tidegauge.pipeline.identity import first_remote_number
from tidegauge.pipeline.journal import JournalReader, RowGone, row_at_time
from tidegauge.pipeline.log_thread import WAITING, Item, Outlet
from tidegauge.pipeline.metadata import MetadataConfig
from tidegauge.pipeline.plugin import RemoteHost
from tidegauge.pipeline.records import Container, End, RecordType, decode_samples
from tidegauge.pipeline.remote_options import RemoteOptions
from tidegauge.pipeline.remote_roster import Numbers, RemoteRoster, schemas_of
from tidegauge.pipeline.sampler_stats import SamplerStats
from tidegauge.pipeline.telemetry import counters_of

_LOG = logging.getLogger(__name__)
_LOOK_BACK_MS = 300_000
"""So far back the log is read at a start for the last reading of each container: no remote keeps as much."""
_READ_BYTES = 1 << 20
_MAX_TEXT = 300
_MOST_FAULTS = 20
"""Characters of what is said of a fault, and so many faults: they go to the server in a message of bounded size."""


class Remote(NamedTuple):
    """Another host as the configuration names it."""

    name: str
    options: RemoteOptions
    plugin: RemoteHost


class Queue(Outlet, Protocol):
    """What is used of the journal's thread."""

    @property
    def waiting(self) -> int: ...


class PatientOutlet:
    """The way into the journal for those who may wait: they leave half of the places to the sampling thread. Any thread."""

    def __init__(self, queue: Queue, is_stopping: threading.Event, patience_s: float = 10.0, look_s: float = 0.02) -> None:
        self._queue = queue
        self._is_stopping = is_stopping
        self._patience_s = patience_s
        self._look_s = look_s
        self._lock = threading.Lock()

    def put(self, items: Sequence[Item], time_ms: int) -> bool:
        """Waits for a place, up to the patience; False: there was none."""
        end_s = time.monotonic() + self._patience_s
        while True:
            with self._lock:  # or several would see the same free place
                if self._queue.waiting < WAITING // 2 and self._queue.put(items, time_ms):
                    return True
            if self._is_stopping.wait(self._look_s) or time.monotonic() > end_s:
                return False


class RemoteFeed:
    """Asks one other host again and again. `poll` in one thread, `run` does it until told to stop; `counters` from any."""

    def __init__(self, remote: Remote, roster: RemoteRoster, claims: "Claims", clock: Clock) -> None:
        self.name = remote.name
        self._plugin = remote.plugin
        self._interval_s = remote.options.interval_s
        self._roster = roster
        self._claims = claims
        self._clock = clock
        self._backoff = Backoff(remote.options.retry_min_s, remote.options.retry_max_s)
        self._answered_ns: int | None = None
        self._is_failing = False
        self.asks = 0
        self.errors = 0
        self.fault: str | None = None
        """What is wrong now; None: it answered."""

    def run(self, is_stopping: threading.Event) -> None:
        wait_s = 0.0
        while not is_stopping.wait(wait_s):
            begun_ns = self._clock.monotonic_ns()
            wait_s = self.poll()
            wait_s = max(0.0, wait_s - (self._clock.monotonic_ns() - begun_ns) / 1e9)
        self._plugin.close()

    def poll(self) -> float:
        """Asks once and writes what is new. Seconds until the next time."""
        self.asks += 1
        try:
            answer = self._plugin.ask(self._roster.since_ms)
            self._claims.claim(answer.machine, self.name)
            self._roster.take(answer)
        except Exception as exc:  # noqa: BLE001 - whatever a remote or a plug-in does, the others go on
            self._failed(exc)
            return self._interval_s + self._backoff.next_s()
        self._answered_ns = self._clock.monotonic_ns()
        self._backoff.reset()
        if self.fault is not None:
            _LOG.info("remote %s answers again", self.name)
        self.fault = None
        return self._interval_s

    def counters(self) -> dict[str, Any]:
        """Counts by name."""
        age_s = None if self._answered_ns is None else (self._clock.monotonic_ns() - self._answered_ns) / 1e9
        own = counters_of(self._plugin)
        return {
            "asks": self.asks,
            "errors": self.errors,
            "samples": self._roster.stats.samples,
            "overflow_rows": self._roster.stats.overflow_rows,
            "absurd_values": self._roster.absurd_values + own.get("absurd_values", 0),
            "unreadable_containers": own.get("unreadable_containers", 0),
            "shortened_answers": own.get("shortened_answers", 0),
            "containers": self._roster.containers,
            "reachable": self._answered_ns is not None and self.fault is None,
            "answer_age_seconds": None if age_s is None else round(age_s, 3),
        }

    def _failed(self, exc: Exception) -> None:
        self.errors += 1
        self._roster.gap_reason = "remote_down"
        is_known = isinstance(exc, CollectError | OSError)
        text = (str(exc) if is_known else f"{type(exc).__name__}: {exc}")[:_MAX_TEXT]
        if self.fault is None:
            _LOG.warning("remote %s: %s", self.name, text, exc_info=None if is_known else exc)
        self.fault = text


class Claims:
    """Which remote stands for which machine: two for one would write each reading twice. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}

    def claim(self, machine: str, name: str) -> None:
        """CollectError if another remote has this machine. Who comes with another machine gives the old one back."""
        if not machine:
            return
        with self._lock:
            owner = self._names.get(machine, name)
            if owner != name:
                raise CollectError(
                    f"it says that it is the machine {machine!r}, as remote {owner} does; expected each machine once"
                )
            for old in [m for m, n in self._names.items() if n == name]:
                del self._names[old]
            self._names[machine] = name


class Remotes:
    """All other hosts. `start` and `stop` from the owner, `counters` from any thread.

    `known` are the containers of others that the log shows as live, `first_row` is where this start begins in the log.
    """

    def __init__(
        self,
        remotes: Sequence[Remote],
        catalogue: Catalogue,
        groups: Collection[str],
        metadata: MetadataConfig,
        queue: Queue,
        folder: Path,
        *,
        known: Sequence[Container] = (),
        first_row: int = 0,
        last_time_ms: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._remotes = remotes
        self._catalogue = catalogue
        self._groups = groups
        self._metadata = metadata
        self._folder = folder
        self._known = known
        self._first_row = first_row
        self._last_time_ms = last_time_ms
        self._clock: Clock = clock or MachineClock()
        self._is_stopping = threading.Event()
        self._outlet = PatientOutlet(queue, self._is_stopping)
        self._threads: list[threading.Thread] = []
        self.feeds: tuple[RemoteFeed, ...] = ()

    def start(self) -> None:
        """Begins to ask, on threads of their own; the log is read there too."""
        if self._remotes or self._known:
            self._spawn("remotes", self._begin)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Asks no more; one that waits for an answer is not waited for longer than this."""
        self._is_stopping.set()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def counters(self) -> Mapping[str, Any]:
        """For the page and for `tidegauge status`: by counter, then by remote; and what is wrong with which."""
        counted = {feed.name: feed.counters() for feed in self.feeds}
        faults = [(f.name, f.fault) for f in self.feeds if f.fault is not None]
        out: dict[str, Any] = {"remote_faults": dict(faults[:_MOST_FAULTS])}
        for key in sorted({key for values in counted.values() for key in values}):
            out[f"remote_{key}"] = {n: values[key] for n, values in counted.items() if values[key] is not None}
        return out

    def _begin(self) -> None:
        last_ms = last_readings(self._folder, self._known, self._first_row, self._last_time_ms)
        self._end_strangers(last_ms)
        numbers, claims = Numbers(first_remote_number(self._first_row)), Claims()
        feeds = []
        for remote in self._remotes:
            options, plugin = remote.options, remote.plugin
            roster = RemoteRoster(
                remote.name,
                options,
                (options.base_interval_s or plugin.base_interval_s, options.max_interval_s or plugin.max_interval_s),
                plugin.keeps_history,
                schemas_of(self._catalogue, plugin.metrics, plugin.tables, lambda group: not group or group in self._groups),
                self._metadata,
                numbers,
                self._outlet,
                self._clock,
                [c for c in self._known if c.remote == remote.name],
                last_ms,
            )
            feeds.append(RemoteFeed(remote, roster, claims, self._clock))
        self.feeds = tuple(feeds)
        for feed in feeds:
            self._spawn(f"remote {feed.name}", lambda feed=feed: feed.run(self._is_stopping))

    def _end_strangers(self, last_ms: Mapping[int, int]) -> None:
        """Ends what the log shows as live of hosts that are not asked any more."""
        names = {r.name for r in self._remotes}
        strangers = [c for c in self._known if c.remote not in names]
        if not strangers:
            return
        now_ms = self._now_ms
        handover = Handover(self._outlet, "", SamplerStats(), now_ms)
        for container in strangers:
            handover.add(End(container.number, max(last_ms.get(container.number, 0), container.valid_from_ms)))
        handover.flush()

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    def _spawn(self, name: str, work: Any) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def last_readings(folder: Path, known: Iterable[Container], end_row: int, last_time_ms: int | None) -> dict[int, int]:
    """Time of the last reading of each of these containers that the last minutes of the log hold, by number."""
    found: dict[int, int] = {}
    numbers = {c.number for c in known}
    if not numbers or last_time_ms is None:
        return found
    reader = JournalReader(folder, row_at_time(folder, last_time_ms - _LOOK_BACK_MS).row)
    try:
        while reader.row < end_row:
            try:
                frames = reader.read(end_row, _READ_BYTES)
            except RowGone:
                continue
            if not frames:
                break
            for frame in frames:
                if frame.type == RecordType.SAMPLES and not frame.is_copy:
                    _note(frame.payload, numbers, found)
    finally:
        reader.close()
    return found


def _note(payload: bytes, numbers: Collection[int], found: dict[int, int]) -> None:
    try:
        samples = decode_samples(payload)
    except msgspec.DecodeError:
        return
    for sample in samples:
        if sample.container in numbers:
            found[sample.container] = max(found.get(sample.container, 0), sample.ts_ms)
