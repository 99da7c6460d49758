"""The containers that are sampled, kept in line with the directories that there are; every change becomes records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec

from tidegauge.pipeline.clock import Clock
from tidegauge.pipeline.cohort import Cohort, Live
from tidegauge.pipeline.discovery import IsPruned, Walked
from tidegauge.pipeline.handover import Handover
from tidegauge.pipeline.housekeeping import Policy, is_included, is_pruned, policy_of
from tidegauge.pipeline.identity import Identities, Origin, first_number, is_same
from tidegauge.pipeline.naming import Naming, NoNames
from tidegauge.pipeline.plugin import Hierarchy
from tidegauge.pipeline.reading import Faults
from tidegauge.pipeline.records import Container, End
from tidegauge.pipeline.sampler_config import SamplerConfig

HOST = "/"


class Tree(Protocol):
    """What is used of Discovery; tests give their own."""

    needs_walk: bool
    overflows: int
    unwatched: int

    @property
    def hierarchies(self) -> tuple[Hierarchy, ...]: ...
    @property
    def is_pruned(self) -> IsPruned: ...
    def fileno(self) -> int: ...
    def pairs(self, path: str) -> dict[str, int]: ...
    def paths(self) -> Iterable[str]: ...
    def created_ms(self, path: str) -> int | None: ...
    def begin(self) -> Iterable[str]: ...
    def read(self) -> Iterable[str]: ...
    def check(self, path: str) -> Iterable[str]: ...
    def reconcile(self, walked: Walked) -> Iterable[str]: ...
    def prune(self, is_pruned: IsPruned) -> Iterable[str]: ...
    def close(self) -> None: ...


class _Leaving(NamedTuple):
    """A container that is gone and whose last records wait for its exit code."""

    record: Container
    ts_ms: int
    due_ns: int
    exit_code: int | None = None


class Roster:
    """Containers by path and by number, in cohorts by base interval (in ns). Sampling thread only.

    `known` are the containers that the log shows as live and `last_time_ms` its newest time, both from before this start;
    `first_row` is where this start begins in the log.
    """

    def __init__(
        self,
        config: SamplerConfig,
        origin: Origin,
        tree: Tree,
        clock: Clock,
        handover: Handover,
        faults: Faults,
        known: Sequence[Container],
        last_time_ms: int | None,
        first_row: int,
        naming: Naming | None = None,
    ) -> None:
        self.lives: dict[str, Live] = {}
        self.by_number: dict[int, Live] = {}
        self.cohorts: dict[int, Cohort] = {}
        self.has_changed = True
        """Set at each change of who is sampled; whoever follows these changes sets it back."""
        self._config = config
        self._tree = tree
        self._clock = clock
        self._handover = handover
        self._faults = faults
        self._identities = Identities(origin, known, first_number(first_row))
        self._naming: Naming = naming or NoNames()
        self._leaving: dict[str, _Leaving] = {}
        self.on_parting: Callable[[Container], None] = _nothing
        """Called before the last records of a container."""
        self.hold_s: Callable[[], float] = _no_time
        """How long the last records of a container that ends now are to wait for what may still be said of it."""
        self._last_time_ms = last_time_ms or 0
        self._origin_ns = clock.monotonic_ns()
        self._has_begun = False

    def begin(self, is_new_epoch: bool) -> None:
        """Takes in the host and what discovery finds, and ends what is known from before and gone. The first tick is now."""
        now_ms = self._now_ms()
        self._origin_ns = self._clock.monotonic_ns()
        if is_new_epoch:
            self._identities.epoch += 1
            self._last_time_ms = 0
        self.apply({HOST: None, **dict.fromkeys(self._tree.begin())})
        for lost in self._identities.take_lost():
            live = self.lives.get(lost.path)
            if not lost.is_host and (live is None or live.record.instance != lost.instance):
                self._handover.event(now_ms, "deletion", lost.number, {"path": lost.path})
            self._handover.add(End(lost.number, now_ms))
        self._has_begun = True

    def begin_epoch(self) -> None:
        """New numbers for all. Each is read at its next tick, so that the epoch begins with a whole sample."""
        now_ms = self._now_ms()
        self.let_go(is_all=True)
        self._identities.epoch += 1
        for live in self.lives.values():
            old = live.record
            self._handover.add(End(old.number, max(live.last_ms, old.valid_from_ms)))
            self._faults.ended(old.number)
            del self.by_number[old.number]
            live.begin_epoch(self._identities.renumber(old, now_ms))
            self.by_number[live.record.number] = live
            self._handover.add(live.record)
            self._activate(live)
        for cohort in self.cohorts.values():
            cohort.still_ms = 0
        self.has_changed = True

    def apply(self, touched: Iterable[str]) -> None:
        """Brings what is known of these paths into line with the directories that are there."""
        for path in touched:
            self._settle(path)

    def is_here(self, live: Live) -> bool:
        """Looks whether the container's directories are there; ends it if not."""
        self.apply(self._tree.check(live.record.path))
        return not live.is_ended

    def cohort_of(self, live: Live) -> Cohort:
        return self.cohorts[_ns(live.policy.base_s)]

    def reload(self, config: SamplerConfig) -> None:
        """Takes over policies and patterns. A container whose policy changed is read at its next tick."""
        old, self._config = self._config, config
        for live in self.lives.values():
            policy = policy_of(config, live.record.path, live.record)
            if policy != live.policy:
                self._take_policy(live, policy)
                self._replace(live, self._identities.amend(live.record, {}, policy, self._now_ms()))
        if config.exclude != old.exclude:
            self.apply(self._tree.prune(partial(is_pruned, config.exclude)))
        if config.include != old.include:
            self.apply(self._tree.paths())
        if config.sample_host != old.sample_host:
            self._activate(self.lives[HOST])
        for cohort in list(self.cohorts.values()):
            self._drop_if_empty(cohort)

    def bind(self, path: str, instance: str, fields: Mapping[str, Any]) -> None:
        """Takes what a runtime said of a container; nothing if it is gone, or said no more than is known.

        If another policy holds for it now, it is read at its next tick.
        """
        live, leaving = self.lives.get(path), self._leaving.get(instance)
        if live is not None and live.record.instance == instance:
            record = self._with(live.record, fields)
            policy = policy_of(self._config, path, record)
            if policy != live.policy:
                record = self._identities.amend(record, {}, policy, record.valid_from_ms)
                cohort = self.cohort_of(live)
                self._take_policy(live, policy)
                self._drop_if_empty(cohort)
            self._replace(live, record)
        elif leaving is not None and (record := self._with(leaving.record, fields)) != leaving.record:
            self._leaving[instance] = leaving._replace(record=record)
            self._handover.add(record)

    def leaving(self, path: str) -> Container | None:
        """The container that was at this path and whose last records still wait."""
        found = [one.record for one in self._leaving.values() if one.record.path == path]
        return found[-1] if found else None

    def is_wanted(self, path: str) -> bool:
        """Whether a container at this path would be sampled."""
        return is_included(self._config.include, path) and not is_pruned(self._config.exclude, path)

    def told_of_ooms(self, record: Container, ooms: int, kills: int) -> None:
        """Notes that events were written for so many more; a restart then knows it from the container's record."""
        live = self.lives.get(record.path)
        if live is not None and live.record.instance == record.instance:
            told = (live.record.ooms_told + ooms, live.record.oom_kills_told + kills)
            fresh = msgspec.structs.replace(live.record, ooms_told=told[0], oom_kills_told=told[1], row=0)
            self._replace(live, fresh)

    def depart(self, instance: str, exit_code: int | None) -> None:
        """Writes the last records of a container that is gone, if they still wait."""
        leaving = self._leaving.pop(instance, None)
        if leaving is not None:
            self._take_leave(leaving.record, leaving.ts_ms, leaving.exit_code if exit_code is None else exit_code)

    def let_go(self, is_all: bool = False) -> None:
        """Waits no longer for the exit codes that are overdue, or for any."""
        now_ns = self._clock.monotonic_ns()
        for instance in [i for i, leaving in self._leaving.items() if is_all or leaving.due_ns <= now_ns]:
            self.depart(instance, None)

    @property
    def due_ns(self) -> int:
        """When `turn` is wanted next, by the cohorts and by those that leave."""
        return min([c.due_ns for c in self.cohorts.values()] + [leaving.due_ns for leaving in self._leaving.values()])

    def close(self) -> None:
        """Gives back every descriptor; nothing is sampled afterwards."""
        for live in self.lives.values():
            live.close()
        self.lives, self.by_number, self.cohorts = {}, {}, {}

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    def _settle(self, path: str) -> None:
        pairs = self._tree.pairs(path)
        live = self.lives.get(path)
        if path != HOST and not (pairs and is_included(self._config.include, path)):
            if live is not None:
                self._end(live, is_gone=not pairs and not self._tree.is_pruned(path))
            return
        if live is not None and not is_same(live.record, pairs):
            old = dict(live.record.pairs)
            self._end(live, is_gone=True)
            pairs = {h: i for h, i in pairs.items() if old.get(h) != i} or pairs
            live = None
        if live is None:
            self._admit(path, pairs)
            return
        live.needs_readers = True
        live.read_due_ns = 0
        self._replace(live, self._identities.amend(live.record, pairs, live.policy, self._now_ms()))

    def _replace(self, live: Live, record: Container) -> None:
        if record != live.record:
            live.record = record
            self._handover.add(record)
            self.has_changed = True

    def _admit(self, path: str, pairs: Mapping[str, int]) -> None:
        now_ms = self._now_ms()
        policy = policy_of(self._config, path, self._identities.known(path, pairs))
        record, is_new, is_logged = self._identities.admit(path, pairs, policy, self._created_ms(path, now_ms), now_ms)
        if (named := self._naming.named(record)) != record:
            policy = policy_of(self._config, path, named)
            record = self._identities.amend(msgspec.structs.replace(named, valid_from_ms=now_ms), {}, policy, now_ms)
            is_logged = False
        live = Live(record, policy, 0 if is_new else self._last_time_ms)
        self.lives[path] = live
        self.by_number[record.number] = live
        self.has_changed = True
        if not is_logged:
            self._handover.add(record)
        if is_new and path != HOST:
            self._handover.event(record.created_ms, "creation", record.number, {"path": path})
        self._activate(live)
        self._naming.appeared(record)

    def _take_policy(self, live: Live, policy: Policy) -> None:
        """Has the container read at its next tick, and as the policy says from then on."""
        cohort = self.cohort_of(live)
        if live in cohort.idle and (closing := live.closing(cohort.still_ms)) is not None:
            self._handover.add_sample(*closing)
        cohort.remove(live)
        live.policy, live.interval_s = policy, policy.base_s
        self._activate(live)

    def _activate(self, live: Live) -> None:
        cohort = self._cohort(live.policy)
        if live.record.is_host and not self._config.sample_host:
            cohort.remove(live)
        else:
            cohort.activate(live)

    def _drop_if_empty(self, cohort: Cohort) -> None:
        """The host's stays, whether it is sampled or not: without any there would be no ticks."""
        if not cohort and cohort is not self.cohort_of(self.lives[HOST]):
            del self.cohorts[cohort.base_ns]

    def _with(self, record: Container, fields: Mapping[str, Any]) -> Container:
        """The record with these fields; the same one if they say nothing new."""
        fresh = msgspec.structs.replace(record, **fields)
        if fresh == record:
            return record
        # later than the record before it, whatever the clock did: stores know the records of a container by this time
        return msgspec.structs.replace(fresh, valid_from_ms=max(self._now_ms(), record.valid_from_ms + 1), row=0)

    def _created_ms(self, path: str, now_ms: int) -> int:
        if path == HOST:
            return (self._clock.time_ns() - self._clock.boottime_ns()) // 1_000_000
        created = self._tree.created_ms(path)
        return now_ms if created is None else min(created, now_ms)

    def _end(self, live: Live, is_gone: bool) -> None:
        """`is_gone`: the container ended; False: it is no longer wanted."""
        now_ms = max(self._now_ms(), live.last_ms)
        number = live.record.number
        del self.lives[live.record.path]
        del self.by_number[number]
        self.cohort_of(live).remove(live)
        self.has_changed = True
        live.close()
        self._faults.ended(number)
        if not is_gone:
            self.on_parting(live.record)
            self._naming.forget(live.record.instance)
            self._handover.add(End(number, now_ms))
            return
        parting = self._naming.gone(live.record)
        if wait_s := max(parting.wait_s, self.hold_s()):
            due_ns = self._clock.monotonic_ns() + _ns(wait_s)
            self._leaving[live.record.instance] = _Leaving(live.record, now_ms, due_ns, parting.exit_code)
        else:
            self._take_leave(live.record, now_ms, parting.exit_code)

    def _take_leave(self, record: Container, ts_ms: int, exit_code: int | None) -> None:
        self.on_parting(record)
        details: dict[str, Any] = {"path": record.path}
        if exit_code is not None:
            details["exit_code"] = exit_code
        self._handover.event(ts_ms, "deletion", record.number, details)
        self._handover.add(End(record.number, ts_ms))
        self._naming.forget(record.instance)

    def _cohort(self, policy: Policy) -> Cohort:
        base_ns = _ns(policy.base_s)
        cohort = self.cohorts.get(base_ns)
        if cohort is None:
            since_ns = self._clock.monotonic_ns() - self._origin_ns if self._has_begun else 0
            cohort = Cohort(base_ns, self._origin_ns + -(-since_ns // base_ns) * base_ns, self._now_ms())
            self.cohorts[base_ns] = cohort
        return cohort


def _nothing(record: Container) -> None:
    return None


def _no_time() -> float:
    return 0.0


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
