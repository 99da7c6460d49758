"""The sampling thread: which container is read when, and what of it goes to the journal.

One thread serves cohorts of containers by due time. A tick looks at the idle containers, reads the active ones, those that
moved and those whose interval has passed, and hands one batch to the outlet. Between ticks it takes what discovery, walks,
slow collectors and the owner have for it. It never waits for a disk, a network or a worker.

Privileges: those of the collectors, no more.
"""

import os
import select
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from tidegauge.pipeline.budgets import DescriptorBudget, ProbeBudget
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.clock import THRESHOLD_NS, Clock, ClockWatch, MachineClock
from tidegauge.pipeline.cohort import Cohort, Live
from tidegauge.pipeline.discovery import Discovery, walk
from tidegauge.pipeline.handover import Handover
from tidegauge.pipeline.housekeeping import is_pruned, next_interval, spread
from tidegauge.pipeline.identity import Origin
from tidegauge.pipeline.kmsg import OomReport
from tidegauge.pipeline.log_thread import Outlet
from tidegauge.pipeline.machine import Machine, settled
from tidegauge.pipeline.naming import Naming
from tidegauge.pipeline.oom import REPORT_WAIT_S, OomWatch
from tidegauge.pipeline.plugin import Hierarchy, HierarchySource, MachineSource, OomCounter, SpecSource
from tidegauge.pipeline.reading import Complaints, Faults, Readings, SlowSource, Source, Vanished, in_order
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.roster import HOST, Roster, Tree
from tidegauge.pipeline.sampler_config import SamplerConfig
from tidegauge.pipeline.sampler_stats import LATE_NS, SamplerStats
from tidegauge.pipeline.slow import SlowReadings
from tidegauge.pipeline.specs import SpecWatch
from tidegauge.pipeline.telemetry import counters_of

_RECOUNT_TICKS = 60
"""Descriptors are counted at least once in so many ticks."""
_SETTLE_MS = 20.0
"""Wait after the first event of discovery: on v1 the directories of a container are made one after another."""
_GATHER_MS = 100.0
"""Wait after the first command: the names of many containers that come together go to the journal together."""


def hierarchies_of(sources: Sequence[Source]) -> tuple[Hierarchy, ...]:
    """Every hierarchy that a collector knows, each name once, in order of preference."""
    found: dict[str, Hierarchy] = {}
    for source in sources:
        if isinstance(source.collector, HierarchySource):
            for hierarchy in source.collector.hierarchies():
                found.setdefault(hierarchy.name, hierarchy)
    return tuple(found.values())


class Sampler:
    """Samples the host and every container. `begin`, then `turn` again and again from one thread, or `run`, which does both.

    `known` are the containers that the log shows as live and `last_time_ms` its newest time, both from before this start;
    `first_row` is where this start begins in the log.
    From other threads: `submit`, `read_soon`, `reload`, `stop`, `walk_job`, `machine_job`, `run` of `slow` and `specs`,
    `counters`.
    """

    def __init__(
        self,
        config: SamplerConfig,
        collectors: Sequence[tuple[str, Any]],
        catalogue: Catalogue,
        origin: Origin,
        outlet: Outlet,
        *,
        known: Sequence[Container] = (),
        last_time_ms: int | None = None,
        first_row: int = 0,
        clock: Clock | None = None,
        tree: Tree | None = None,
        descriptors: DescriptorBudget | None = None,
        naming: Naming | None = None,
        has_oom_events: bool = True,
    ) -> None:
        self._clock: Clock = clock or MachineClock()
        self._sources = in_order(collectors)
        self.faults = Faults()
        self._complaints = Complaints(self._sources)
        self.stats = SamplerStats()
        self.slow = tuple(SlowReadings(s, config.slow_budget_percent) for s in self._sources if s.is_slow)
        spec_sources = [s.collector for s in self._sources if isinstance(s.collector, SpecSource)]
        self.specs = SpecWatch(spec_sources, self.bind, config.spec_interval_s, self._clock)
        self._machine_sources = [s.collector for s in self._sources if isinstance(s.collector, MachineSource)]
        self._readings = Readings(self._sources, catalogue, self.faults)
        self._tree: Tree = tree or Discovery(hierarchies_of(self._sources), partial(is_pruned, config.exclude))
        self._handover = Handover(outlet, origin.source, self.stats, self._now_ms)
        self._roster = Roster(
            config, origin, self._tree, self._clock, self._handover, self.faults, known, last_time_ms, first_row, naming
        )
        self._last_time_ms = last_time_ms
        oom_counters = [s.collector for s in self._sources if has_oom_events and isinstance(s.collector, OomCounter)]
        self._ooms = OomWatch(oom_counters, self._roster, self._handover, self._clock, last_time_ms)
        self._roster.on_parting = self._ooms.parting
        self._descriptors = descriptors or DescriptorBudget()
        self._probe_budget = ProbeBudget(config.cpu_budget_percent)
        self._watch = ClockWatch(self._clock)
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_stopping = False
        if naming is not None:
            naming.attach(self.bind, self.depart)
        self.request_walk: Callable[[], None] = self._walk_now
        """Called in the sampling thread when events were lost; the owner may set something that walks on a worker."""
        self.on_clock_step: Callable[[], None] = _nothing
        """Called in the sampling thread after a step of the wall clock."""

    # From any thread.

    def submit(self, command: Callable[[], None]) -> None:
        """Has the sampling thread run something, within its next turn."""
        self._commands.append(command)
        self._awake()

    def bind(self, path: str, instance: str, fields: Mapping[str, Any]) -> None:
        """Has fields of a container's record set, as a runtime said them."""
        self.submit(partial(self._roster.bind, path, instance, fields))

    def depart(self, instance: str, exit_code: int | None) -> None:
        """Has the last records of a container written that waited for its exit code."""
        self.submit(partial(self._roster.depart, instance, exit_code))

    def expect_oom_reports(self, is_behind: Callable[[], bool]) -> None:
        """Somebody reads the kernel's log and calls `report_oom`; `is_behind` if there is more to read. Before `run`."""
        self._ooms.awaits_reports = True
        self._ooms.is_behind = lambda: is_behind() or bool(self._commands)
        self._roster.hold_s = lambda: REPORT_WAIT_S if self._ooms.is_behind() else 0.0

    def report_oom(self, report: OomReport) -> None:
        """Hands over what the kernel's log says of an OOM kill."""
        self.submit(partial(self._ooms.told, report))

    def read_soon(self, numbers: Collection[int]) -> None:
        """Has these containers read at the next tick of theirs, as if they were due."""
        self.submit(partial(self._read_soon, numbers))

    def reload(self, config: SamplerConfig) -> None:
        """Takes over new intervals, policies, patterns and budget; nothing that is sampled before and after is lost."""
        self.submit(partial(self._reload, config))

    def walk_job(self) -> None:
        """Walks all hierarchies on the calling thread and leaves the result to the sampling thread."""
        walked = walk(self._tree.hierarchies, self._tree.is_pruned)
        self.submit(lambda: self._roster.apply(self._tree.reconcile(walked)))

    def machine_job(self) -> None:
        """Looks on the calling thread at what the machine is, and leaves the first answer to the sampling thread."""
        for source in self._machine_sources:
            if (machine := source.machine()) is not None:
                self.submit(partial(self._bind_machine, machine))
                return

    def counters(self) -> Mapping[str, Any]:
        """Everything that is counted, by name; of the collectors also, as text, what each cannot read now."""
        counted = {s.name: counters for s in self._sources if (counters := counters_of(s.collector))}
        return {
            **self.stats.values(),
            "collect_errors": dict(self.faults.counts),
            "discovery_overflows": self._tree.overflows,
            "unwatched_directories": self._tree.unwatched,
            "absurd_values": self.faults.absurd_values + sum(c.get("absurd_values", 0) for c in counted.values()),
            "collector_counters": counted,
            "collector_faults": {s.name: text for s in self._sources if (text := s.complaint()) is not None}
            | dict(self.faults.texts),
        }

    def stop(self) -> None:
        """Has `run` return after the turn under way."""
        self._is_stopping = True
        self._awake()

    # From the sampling thread.

    def run(self) -> None:
        """Samples until `stop`, then gives everything back."""
        try:
            self.begin()
            while not self._is_stopping:
                self._wait(self.turn())
        finally:
            self.close()

    def begin(self) -> None:
        """Finds what is there and writes what happened while nobody looked. The first tick is due at once."""
        now_ms = self._now_ms()
        last_ms = self._last_time_ms
        is_new_epoch = last_ms is not None and now_ms < last_ms - THRESHOLD_NS // 1_000_000
        if last_ms is not None and is_new_epoch:
            self._stepped(now_ms - last_ms)
        elif last_ms is not None and now_ms > last_ms:
            self._handover.gap(last_ms, "agent_down")
        self._roster.begin(is_new_epoch)
        self._handover.flush()

    def turn(self) -> int:
        """Takes what waits and serves what is due. Returns the next due time on the monotonic clock."""
        cpu_ns = self._clock.cpu_ns()
        self._look_at_clocks()
        while self._commands:
            self._commands.popleft()()
        self._roster.apply(self._tree.read())
        self._roster.let_go()
        if self._tree.needs_walk:
            self._tree.needs_walk = False
            self.request_walk()
        cohorts = self._roster.cohorts
        for cohort in tuple(cohorts.values()):
            if cohort.due_ns <= (now_ns := self._clock.monotonic_ns()):
                self._serve(cohort, now_ns)
        self._ooms.settle()
        self.stats.containers = len(self._roster.lives)
        self.stats.idle_containers = sum(len(c.idle) for c in cohorts.values())
        self.stats.descriptors = self._descriptors.open
        self._complaints.listen()
        self._handover.flush()
        self.stats.cpu_ns += self._clock.cpu_ns() - cpu_ns
        return self._roster.due_ns

    def close(self) -> None:
        """Hands over what is left and gives back every descriptor; safe twice."""
        self._roster.let_go(is_all=True)
        self._handover.flush()
        self._roster.close()
        self._tree.close()
        for slow in self.slow:
            slow.close()
        for source in self._sources:
            source.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    # Time.

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    def _awake(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _wait(self, due_ns: int) -> None:
        """Until the due time, a command, or an event of discovery and a moment more."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._tree.fileno(), select.POLLIN)
        ready = poll.poll(self._left_ms(due_ns))
        if ready and all(fd != self._wake for fd, _ in ready):
            poll.unregister(self._tree.fileno())
            ready = poll.poll(min(_SETTLE_MS, self._left_ms(due_ns)))
        if any(fd == self._wake for fd, _ in ready):
            if not self._is_stopping:
                select.select([], [], [], min(_GATHER_MS, self._left_ms(due_ns)) / 1000)
            os.eventfd_read(self._wake)

    def _left_ms(self, due_ns: int) -> float:
        return max(0.0, (due_ns - self._clock.monotonic_ns()) / 1e6)

    def _look_at_clocks(self) -> None:
        change = self._watch.look()
        if change is None:
            return
        now_ms = self._now_ms()
        if change.suspended_ms and now_ms > change.before_ms:
            self._handover.gap(change.before_ms, "suspend")
        if change.step_ms:
            self._stepped(change.step_ms)
        if change.step_ms < 0:
            self._roster.begin_epoch()
        self._handover.clock_changed()
        for cohort in self._roster.cohorts.values():
            cohort.served_ms = now_ms

    def _stepped(self, step_ms: int) -> None:
        self.stats.clock_steps += 1
        self._handover.event(self._now_ms(), "clock_step", None, {"step_ms": step_ms})
        self.on_clock_step()

    # Commands.

    def _walk_now(self) -> None:
        self._roster.apply(self._tree.reconcile(walk(self._tree.hierarchies, self._tree.is_pruned)))

    def _read_soon(self, numbers: Collection[int]) -> None:
        for number in numbers:
            if (live := self._roster.by_number.get(number)) is not None:
                live.read_due_ns = 0  # of those that are read at each tick it says nothing

    def _bind_machine(self, machine: Machine) -> None:
        host = self._roster.lives[HOST].record
        self._roster.bind(HOST, host.instance, {"machine": settled(host.machine, machine)})

    def _reload(self, config: SamplerConfig) -> None:
        self.specs.interval_s = config.spec_interval_s
        self._probe_budget.percent = config.cpu_budget_percent
        for slow in self.slow:
            slow.budget_percent = config.slow_budget_percent
        self._roster.reload(config)

    # Reading.

    def _serve(self, cohort: Cohort, now_ns: int) -> None:
        """One tick of a cohort."""
        due_ns = cohort.due_ns
        late_ns = now_ns - due_ns
        now_ms = self._now_ms()
        self.stats.ticks += 1
        self.stats.lateness.observe(late_ns)
        self.stats.late_ticks += late_ns > LATE_NS
        if self.stats.ticks % _RECOUNT_TICKS == 1:
            self._descriptors.recount()
        silent_ns = 0 if cohort.served_ns is None else now_ns - cohort.served_ns
        if (late_ns > 2 * cohort.base_ns or silent_ns > 3 * cohort.base_ns) and now_ms > cohort.served_ms:
            self._stalled(cohort)
        cohort.served_ms, cohort.served_ns = now_ms, now_ns
        self._take_slow()
        active = tuple(cohort.active)
        fresh = [live for live in active if live.reading is None]
        self._descriptors.probes, self._descriptors.waiting = len(self._roster.lives), len(fresh)
        still_ms = cohort.still_ms
        moved: list[Live] = []
        if cohort.idle and self._probe_budget.is_look(cohort.tick):
            moved = self._look(cohort, now_ns)
            cohort.still_ms = now_ms
        elif not cohort.idle:
            cohort.looked_ns = None
        for live in moved:
            self._read(live, cohort, due_ns, still_ms)
        for live in cohort.due(due_ns):
            self._read(live, cohort, due_ns, cohort.still_ms)
        for live in active:
            if live.reading is not None:
                self._read(live, cohort, due_ns, None)
        self._welcome(fresh, cohort, due_ns, now_ns)
        ended_ns = self._clock.monotonic_ns()
        self.stats.missed_ticks += cohort.advance(ended_ns)
        beyond_ns = ended_ns - now_ns - cohort.base_ns
        if beyond_ns > 0:  # the tick that should have come meanwhile is late, although none is served for it
            self.stats.lateness.observe(beyond_ns)
            self.stats.late_ticks += beyond_ns > LATE_NS

    def _welcome(self, fresh: Sequence[Live], cohort: Cohort, due_ns: int, now_ns: int) -> None:
        """First readings, which cost several times as much: as many as half an interval has room for, the others next time.

        In the first tick all: nobody else waits.
        """
        until_ns = now_ns + cohort.base_ns // 2
        for live in fresh:
            if self.stats.ticks > 1 and self._clock.monotonic_ns() > until_ns:
                return
            self._descriptors.waiting -= 1
            self._read(live, cohort, due_ns, None)

    def _stalled(self, cohort: Cohort) -> None:
        """Nothing is known since the last tick: of all containers, or of this cohort's if there are others."""
        if len(self._roster.cohorts) == 1:
            self._handover.gap(cohort.served_ms, "stall")
            return
        for live in (*cohort.active, *cohort.idle):
            self._handover.gap(cohort.served_ms, "stall", live.record.number)

    def _look(self, cohort: Cohort, now_ns: int) -> list[Live]:
        before_ns = self._clock.cpu_ns()
        moved = cohort.look()
        cpu_ns = self._clock.cpu_ns() - before_ns
        self._probe_budget.spent(cpu_ns, now_ns)
        self.stats.probe_every = self._probe_budget.every
        self.stats.probe_cpu_ns += cpu_ns
        self.stats.probes += len(cohort.idle)
        if cohort.looked_ns is not None:
            self.stats.looked(now_ns - cohort.looked_ns)
        cohort.looked_ns = now_ns
        return moved

    def _read(self, live: Live, cohort: Cohort, due_ns: int, still_ms: int | None, is_again: bool = False) -> None:
        """One reading; before it a closing sample if it stood still at `still_ms` and moved since. None: it was not idle."""
        if live.is_ended:
            return
        if live.needs_readers or live.reading is None:
            self._equip(live)
        reading = live.reading
        assert reading is not None
        if reading.is_empty:
            self._pass_over(live, cohort, due_ns)
            return
        ts_ms = max(self._now_ms(), live.last_ms + 1)
        probed = self._probe(live)
        has_moved = probed is None or probed != live.probed
        if has_moved and still_ms is not None and reading.probe is not None and live.probed is not None:
            closing = live.closing(still_ms)
            if closing is not None:
                self._handover.add_sample(*closing)
                ts_ms = max(ts_ms, live.last_ms + 1)
        was_open = reading.is_open
        try:
            values, tables = reading.read(live.is_partial or live.record.is_host, is_again)
        except Vanished:
            if self._roster.is_here(live):
                self._equip(live)
                live.is_partial = True
                self._read(live, cohort, due_ns, None, is_again=True)
            return
        if not was_open:
            self._descriptors.opened()
        if reading.probe is None:
            has_moved = live.stored is None or (values, tables) != live.stored[1:]
        live.probed = probed
        self._handover.add_sample(live.sample(ts_ms, values, tables), reading.schema)
        self._ooms.sampled(live, reading.schema, values)
        before_s = live.interval_s
        live.interval_s = next_interval(live.policy, before_s, has_moved)
        if live.interval_s > live.policy.base_s:
            is_longer = live.interval_s > max(before_s, 2 * live.policy.base_s)
            wait_s = spread(live.interval_s, live.record.number) if is_longer else live.interval_s
            cohort.rest(live, due_ns + round(wait_s * 1e9))
        else:
            cohort.activate(live)
        if live in cohort.idle or self._descriptors.is_exceeded:
            reading.park()
            self._descriptors.parked()

    def _probe(self, live: Live) -> int | None:
        """What the probe says, None if it fails; the reading that follows finds out whether the container is gone."""
        try:
            probed = live.probe()
        except FileNotFoundError:
            return None
        except Exception as exc:  # noqa: BLE001 - one plug-in's failure never stops another
            self.faults.failed("probe", live.record, exc)
            return None
        self.faults.worked("probe", live.record.number)
        return probed

    def _pass_over(self, live: Live, cohort: Cohort, due_ns: int) -> None:
        """Nobody has anything to say of it: no sample; asked again at growing intervals, for that may change."""
        if self._roster.is_here(live):
            live.needs_readers = True
            live.interval_s = next_interval(live.policy, live.interval_s, False)
            cohort.rest(live, due_ns + round(live.interval_s * 1e9))

    def _equip(self, live: Live) -> None:
        number = live.record.number
        slow = [SlowSource(s.source, partial(s.take, number)) for s in self.slow if s.source.name in live.slow]
        live.equip(*self._readings.make(live.record, slow))

    def _take_slow(self) -> None:
        """Tells who is to be read outside the thread, and gives containers for which that had a result a place for it."""
        if self._roster.has_changed:
            self.specs.containers = containers = tuple(live.record for live in self._roster.lives.values())
            for slow in self.slow:
                slow.containers = containers
        self._roster.has_changed = False
        for slow in self.slow:
            for number in slow.fresh():
                live = self._roster.by_number.get(number)
                if live is not None and slow.source.name not in live.slow:
                    live.slow |= {slow.source.name}
                    live.needs_readers = True


def _nothing() -> None:
    return None
