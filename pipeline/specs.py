"""Reads the limits of each container soon after it appears and then seldom, and has what is new put into its record.

A runtime makes the cgroup first and writes its limits right after, so a container is read at once, a second and ten seconds
later. What a person changes while it runs is seen within `[sampler] spec_interval_s`, and at once where a runtime tells that
something has changed. A coarse job on a worker thread: the
sampling thread only tells which containers there are, and takes what has changed.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidegauge.pipeline.clock import Clock
from tidegauge.pipeline.housekeeping import spread
from tidegauge.pipeline.plugin import SpecSource
from tidegauge.pipeline.records import Container, Spec

RUN_INTERVAL_S = 1.0
"""How often the job runs: so late at most a new container is read first."""
_AGAIN_S = (1.0, 9.0)
"""Waits between the first readings."""
_AT_ONCE = 200
"""Containers read in one run, so that many new ones do not keep a core from the sampling thread."""

Bind = Callable[[str, str, Mapping[str, Any]], None]


class _Plan:
    """When a container is read next."""

    def __init__(self, due_ns: int) -> None:
        self.due_ns = due_ns
        self.readings = 0


class SpecWatch:
    """`run` from a worker thread, one run at a time; all else from any."""

    def __init__(self, sources: Sequence[SpecSource], bind: Bind, interval_s: float, clock: Clock) -> None:
        self.containers: tuple[Container, ...] = ()
        """Who is to be read, with the specs in force: replaced as a whole."""
        self.interval_s = interval_s
        self._sources = sources
        self._bind = bind
        self._clock = clock
        self._plans: dict[str, _Plan] = {}
        self._lock = threading.Lock()
        self._changed: set[str] = set()

    def soon(self, instance: str) -> None:
        """Has the container read in the next run; nothing if it is not known by then."""
        with self._lock:
            self._changed.add(instance)

    def run(self) -> None:
        """Reads who is due, those longest due first. Raises, after all of them, what the first source that failed raised."""
        now_ns = self._clock.monotonic_ns()
        plans = self._plans
        self._plans = {c.instance: plans.get(c.instance) or _Plan(now_ns) for c in self.containers}
        with self._lock:
            changed, self._changed = self._changed, set()
        for instance in changed & self._plans.keys():
            self._plans[instance].due_ns = min(now_ns, self._plans[instance].due_ns)
        due = [(plan.due_ns, i, c) for i, c in enumerate(self.containers) if (plan := self._plans[c.instance]).due_ns <= now_ns]
        failure: Exception | None = None
        for _, _, container in sorted(due, key=lambda one: one[:2])[:_AT_ONCE]:
            self._planned(container, now_ns)
            try:
                spec = self._spec(container)
            except Exception as exc:  # noqa: BLE001 - one container's failure never stops the others
                failure = failure or exc
                continue
            if spec is not None and spec != container.spec:
                self._bind(container.path, container.instance, {"spec": spec})
        if failure is not None:
            raise failure

    def _planned(self, container: Container, now_ns: int) -> None:
        plan = self._plans[container.instance]
        if plan.readings < len(_AGAIN_S):
            wait_s = _AGAIN_S[plan.readings]
        elif plan.readings == len(_AGAIN_S):
            wait_s = spread(self.interval_s, container.number)
        else:
            wait_s = self.interval_s
        plan.readings += 1
        plan.due_ns = now_ns + round(min(wait_s, self.interval_s) * 1e9)

    def _spec(self, container: Container) -> Spec | None:
        """What the first source says that knows the container."""
        return next((spec for s in self._sources if (spec := s.spec(container)) is not None), None)
