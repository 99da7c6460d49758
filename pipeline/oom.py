"""Events of kind `oom` (a limit was hit and nothing could be freed) and `oom_kill` (a process was killed for it).

What counts are the kernel's counters of each cgroup alone: the difference to what events were written for already, which the
container's record carries from one start to the next, so that no kill is told twice and those of a time when nobody looked
are told once. They are read when a sampled value moves, and when the kernel's log speaks of the container. The log gives pid,
name and constraint, and stands alone where there is no counter: on cgroup v1 for `oom`, for the host, and for a container that
is gone already.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from tidegauge.pipeline.clock import Clock
from tidegauge.pipeline.cohort import Live
from tidegauge.pipeline.handover import Handover
from tidegauge.pipeline.kmsg import OomReport
from tidegauge.pipeline.plugin import OomCounter, OomCounts
from tidegauge.pipeline.records import Container, Schema, Values
from tidegauge.pipeline.roster import Roster

OOM, OOM_KILL = "oom", "oom_kill"
KINDS = (OOM, OOM_KILL)
REPORT_WAIT_S = 1.0
"""So long a count waits for what the kernel's log says of it; the log is read within milliseconds."""
_BEHIND_NS = 5_000_000_000
"""So much longer it waits while the log was not read to its end: on a busy machine its reader has its turn late."""
_CONTAINER_WAIT_NS = 2_000_000_000
"""So long a report waits for its container to be discovered."""
_LATE_NS = 10_000_000_000
"""A report that comes so much after its event was written without it is not taken for another kill."""
_WAITING = 1000
"""Reports that may wait; beyond it the oldest is written without its container."""


class _Pending:
    """What the counters told of a container and no event says yet."""

    __slots__ = ("counts", "due_ns", "record", "since_ms", "ts_ms")

    def __init__(self, record: Container) -> None:
        self.record = record
        self.counts = dict.fromkeys(KINDS, 0)
        self.due_ns = 0
        self.ts_ms = 0
        self.since_ms: int | None = None


class OomWatch:
    """Makes OOM events out of counters and of what the kernel's log says. Sampling thread only.

    `last_time_ms` is the newest time of the log before this run. What is sampled before the first `settle` was there then.
    """

    def __init__(
        self,
        counters: Sequence[OomCounter],
        roster: Roster,
        handover: Handover,
        clock: Clock,
        last_time_ms: int | None,
    ) -> None:
        self._counters = counters
        self._signs = {name for counter in counters for name in counter.oom_signs}
        self._roster = roster
        self._handover = handover
        self._clock = clock
        self._is_first_turn = True
        self._last_time_ms = last_time_ms or 0
        self.awaits_reports = False
        """True while somebody reads the kernel's log: a count then waits a moment for its report."""
        self.is_behind: Callable[[], bool] = bool
        """Whether there is more of the log than was told so far."""
        self._getters: dict[int, Callable[[Values], Any] | None] = {}
        self._pending: dict[str, _Pending] = {}
        self._waiting: list[tuple[int, str, str, OomReport]] = []
        """(due, kind, path, report) of containers that are not known."""
        self._bare: dict[tuple[str, str], tuple[int, int]] = {}
        """(path, kind) -> how many were written without a report, and until when one is still expected."""

    def sampled(self, live: Live, schema: Schema, values: Values) -> None:
        """Looks at the counters if the values that go with them moved. In the path of every sample: some 0.2 us."""
        try:
            getter = self._getters[schema.id]
        except KeyError:
            getter = self._getters[schema.id] = self._getter(schema)
        if getter is None:
            return
        signs = getter(values)
        if signs == live.oom_signs:
            return
        is_first = live.oom_signs is None
        live.oom_signs = signs
        if any(signs):
            self._look(live, is_first)

    def told(self, report: OomReport) -> None:
        """Takes what the kernel's log said."""
        if report.is_repeat and self._known(report.victim_path) is None:
            return
        for kind, path in ((OOM, report.limit_path), (OOM_KILL, report.victim_path)):
            if path is not None and (kind == OOM or report.pid is not None) and not self._attribute(kind, path, report):
                self._waiting.append((self._clock.monotonic_ns() + _CONTAINER_WAIT_NS, kind, path, report))
                if len(self._waiting) > _WAITING:
                    self._write_alone(*self._waiting.pop(0)[1:])

    def settle(self) -> None:
        """Writes what has waited long enough. At the end of each turn."""
        self._is_first_turn = False
        if not (self._pending or self._waiting or self._bare):
            return
        now_ns = self._clock.monotonic_ns()
        waiting, self._waiting = self._waiting, []
        for due_ns, kind, path, report in waiting:
            if self._attribute(kind, path, report):
                continue
            if due_ns <= now_ns:
                self._write_alone(kind, path, report)
            else:
                self._waiting.append((due_ns, kind, path, report))
        for instance in [i for i, p in self._pending.items() if p.due_ns <= now_ns]:
            if now_ns >= self._pending[instance].due_ns + _BEHIND_NS or not self.is_behind():
                self._write_bare(instance, now_ns)
        for key in [key for key, (_, until_ns) in self._bare.items() if until_ns <= now_ns]:
            del self._bare[key]

    def parting(self, record: Container) -> None:
        """The container's last records are about to be written: its own events come before them."""
        if record.instance in self._pending:
            self._write_bare(record.instance, self._clock.monotonic_ns())

    def _getter(self, schema: Schema) -> Callable[[Values], Any] | None:
        places = [i for i, name in enumerate(schema.names) if name in self._signs]
        if len(places) == 1:
            places *= 2  # itemgetter gives no tuple of one
        return itemgetter(*places) if places else None

    def _counts(self, record: Container) -> OomCounts:
        for counter in self._counters:
            counts = counter.oom_counts(record)
            if counts is not None:
                return counts
        return OomCounts(None, None)

    def _look(self, live: Live, is_first: bool = False) -> OomCounts:
        """Reads the container's counters; what is new waits for its report, or is written at once if none will come."""
        record = live.record
        counts = self._counts(record)
        pending = self._pending.get(record.instance) or _Pending(record)
        fresh = {
            OOM: (counts.ooms or 0) - record.ooms_told - pending.counts[OOM],
            OOM_KILL: (counts.kills or 0) - record.oom_kills_told - pending.counts[OOM_KILL],
        }
        if all(n <= 0 for n in fresh.values()):
            return counts
        now_ns = self._clock.monotonic_ns()
        is_past = is_first and self._is_first_turn
        if record.instance not in self._pending:
            self._pending[record.instance] = pending
            pending.ts_ms = self._now_ms()
            pending.due_ns = now_ns + (round(REPORT_WAIT_S * 1e9) if self.awaits_reports and not is_past else 0)
        for kind, n in fresh.items():
            pending.counts[kind] += max(0, n)
        if is_past:
            pending.since_ms = max(record.created_ms, self._last_time_ms)
        if pending.due_ns <= now_ns:
            self._write_bare(record.instance, now_ns)
        return counts

    def _attribute(self, kind: str, path: str, report: OomReport) -> bool:
        """Writes the event if the container is known, or does nothing if it was written already. False: not known."""
        live, record = self._roster.lives.get(path), self._known(path)
        if record is None:
            return self._is_late(kind, path)
        is_counted = False
        if live is not None:
            counts = self._look(live)
            is_counted = (counts.ooms if kind == OOM else counts.kills) is not None
            record = live.record
        pending = self._pending.get(record.instance)
        if pending is not None and pending.counts[kind]:
            # an oom is counted once for each task that hit the limit, and reported once
            n = pending.counts[kind] if kind == OOM else 1
            pending.counts[kind] -= n
            if not any(pending.counts.values()):
                del self._pending[record.instance]
            if report.is_repeat:
                self._roster.told_of_ooms(record, 0, n)
            else:
                self._write(record, kind, n, report.ts_ms, _details(kind, report))
        elif not (is_counted or report.is_repeat or self._is_late(kind, path)):
            self._write(record, kind, 1, report.ts_ms, _details(kind, report), is_counted=False)
        return True

    def _known(self, path: str | None) -> Container | None:
        """The container at this path, also one whose last records still wait."""
        if path is None:
            return None
        live = self._roster.lives.get(path)
        return self._roster.leaving(path) if live is None else live.record

    def _is_late(self, kind: str, path: str) -> bool:
        """Whether this report's event was written without it a moment ago."""
        n, until_ns = self._bare.get((path, kind), (0, 0))
        if not n or until_ns <= self._clock.monotonic_ns():
            return False
        self._bare[path, kind] = (n - 1, until_ns)
        return True

    def _write_bare(self, instance: str, now_ns: int) -> None:
        """Writes what the counters alone tell."""
        pending = self._pending.pop(instance)
        record = self._current(pending.record)
        details = {} if pending.since_ms is None else {"since_ms": pending.since_ms}
        for kind in KINDS:
            if n := pending.counts[kind]:
                self._write(record, kind, n, pending.ts_ms, details)
                record = self._current(record)
                if pending.since_ms is None:
                    self._bare[record.path, kind] = (n, now_ns + _LATE_NS)

    def _write_alone(self, kind: str, path: str, report: OomReport) -> None:
        """The container was gone before it was discovered, or is left out by the configuration."""
        if self._roster.is_wanted(path):
            details = {"path": path, "count": 1, **_details(kind, report)}
            self._handover.event(report.ts_ms, kind, None, details)

    def _write(
        self, record: Container, kind: str, n: int, ts_ms: int, details: Mapping[str, Any], is_counted: bool = True
    ) -> None:
        self._handover.event(ts_ms, kind, record.number, {"path": record.path, "count": n, **details})
        if is_counted:
            # behind the event: a kill between the two tells it again rather than never
            self._roster.told_of_ooms(record, *((n, 0) if kind == OOM else (0, n)))

    def _current(self, record: Container) -> Container:
        """The newest record of the same container."""
        live = self._roster.lives.get(record.path)
        if live is not None and live.record.instance == record.instance:
            return live.record
        leaving = self._roster.leaving(record.path)
        return leaving if leaving is not None and leaving.instance == record.instance else record

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _details(kind: str, report: OomReport) -> dict[str, Any]:
    """What the kernel's log adds: who was killed and why, and the container at the other end."""
    other = report.victim_path if kind == OOM else report.limit_path
    said = {
        "pid": report.pid,
        "process": report.process,
        "constraint": report.constraint,
        "victim_path" if kind == OOM else "limit_path": other,
    }
    return {key: value for key, value in said.items() if value is not None}
