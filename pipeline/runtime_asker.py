"""Asks one runtime for the containers that may be its own: when each is asked for, asked again, and asked no more.

What it finds it tells the binder (`pipeline/runtimes.py`), whose lock guards what both look at.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tidegauge.pipeline.backoff import Backoff
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.plugin import Describer, Metadata, RuntimeNews, RuntimeRef, Watcher

if TYPE_CHECKING:
    from tidegauge.pipeline.runtimes import Binder

_LOG = logging.getLogger(__name__)
_UNKNOWN_S = (0.25, 60.0)
"""Back-off for a container that its runtime does not know, or about which it fails."""
_ABSENT_S = (0.5, 10.0)
"""Back-off for a runtime that is not there: a connect that fails costs some 20 us."""
_GUESSES = 3
"""How often a runtime is asked for what only might be a container of its own."""
_NEVER_S = float("inf")
_SETTLED_S = 1.0
"""After an event of a change, until it is asked for once more: Podman tells of health before inspect has it."""
_OF_USER_S = 0.01
"""Shortest time from one question to a user's engine to the next: no user decides how busy we are."""
_SLICE = re.compile(r"/user\.slice/user-(\d{1,10})\.slice(?:/|$)")


def user_of(path: str) -> int:
    """The user in whose slice the cgroup lies, 0 if in none. Only root and that user's systemd can make one there."""
    found = _SLICE.match(path)
    return int(found[1]) if found else 0


class Entry:
    """One container. Under the binder's lock, but for what never changes."""

    def __init__(self, path: str, instance: str, refs: Sequence[tuple[str, RuntimeRef]]) -> None:
        self.path = path
        self.instance = instance
        self.user = user_of(path)
        self.refs = dict(refs)
        """Name of the asker -> what it is asked for."""
        self.ref: RuntimeRef | None = None
        """The one that was answered."""
        self.said: Metadata | None = None
        self.sent: Mapping[str, Any] = {}
        self.exit_code: int | None = None
        self.is_gone = False
        self.has_departed = False
        """True: nothing more is said of it."""
        self.backoff = {name: Backoff(*_UNKNOWN_S) for name in self.refs}
        self.unknown = dict.fromkeys(self.refs, 0)
        """How often in a row each runtime did not know it."""

    @property
    def is_waiting(self) -> bool:
        """True: its last records wait for an exit code."""
        return self.is_gone and self.exit_code is None


class Asker:
    """One runtime: a thread that asks for containers that are due, and one that follows its events once it has any."""

    def __init__(self, name: str, runtime: Describer, binder: "Binder", user: int = 0) -> None:
        self.name = name
        self.user = user
        """For whose containers alone it asks; 0: for those of no user's slice."""
        self.errors = 0
        self.asks = 0
        self.is_connected = False
        self.is_absent = False
        self._runtime = runtime
        self._binder = binder
        self._changed = threading.Condition(binder.lock)
        self._due_s: dict[Entry, float] = {}
        self._told_of: set[Entry] = set()
        """Those that an event says have changed, and that were not asked for since."""
        self._pause_s = 0.0
        self._wakes_s = _NEVER_S
        """Until when the thread waits; in the past while it is at work."""
        self._absent = Backoff(*_ABSENT_S)
        self._disconnected = Backoff(*_ABSENT_S)
        self._is_failing = False
        self._is_ending = False
        self._is_surveying = False
        self._prints: Mapping[str, object] = {}

    @property
    def tells_exit_codes(self) -> bool:
        return isinstance(self._runtime, Watcher)

    def start(self) -> None:
        threading.Thread(target=self._work, name=f"runtime {self.name}", daemon=True).start()
        if isinstance(self._runtime, Watcher):
            threading.Thread(target=self._follow, args=(self._runtime,), name=f"events {self.name}", daemon=True).start()

    def survey(self) -> None:
        """Has those containers asked for that are not as at the last survey."""
        runtime = self._runtime
        with self._binder.lock:
            if not isinstance(runtime, Watcher) or self._is_surveying or not self._binder.entries(self.name):
                return
            self._is_surveying = True
        prints: Mapping[str, object] | None = None
        try:
            prints = runtime.survey()
        except NoData:
            pass
        except Exception as exc:  # noqa: BLE001 - a plug-in's error is counted and leaves the others alone
            self._failed(exc)
        with self._binder.lock:
            self._is_surveying = False
            if prints is None:
                return
            for entry in self._binder.entries(self.name):
                id_ = entry.refs[self.name].id
                if id_ in prints and self._prints.get(id_, prints[id_]) != prints[id_]:
                    self.ask(entry)
            self._prints = prints

    # Under the lock.

    def ask(self, entry: Entry, in_s: float = 0.0) -> None:
        due_s = self._due_s[entry] = min(time.monotonic() + in_s, self._due_s.get(entry, _NEVER_S))
        if max(due_s, self._pause_s) < self._wakes_s:
            self._wakes_s = due_s  # once is enough: a thousand new containers do not wake it a thousand times
            self._changed.notify_all()

    def forget(self, entry: Entry) -> None:
        self._due_s.pop(entry, None)
        self._told_of.discard(entry)

    def end(self) -> None:
        """Has its threads end."""
        self._is_ending = True
        self._changed.notify_all()

    # Threads.

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            try:
                self._answered(entry, self._runtime.describe(entry.refs[self.name]))
            except NoData as exc:
                self._missed(entry, exc)
            except Exception as exc:  # noqa: BLE001 - see survey
                self._failed(exc)
                with self._binder.lock:
                    self._again(entry)

    def _next(self) -> Entry | None:
        """The container that is to be asked for now; None when it is to stop."""
        with self._binder.lock:
            while not self._is_ending:
                now_s = time.monotonic()
                entry = min(self._due_s, key=self._due_s.__getitem__, default=None)
                self._wakes_s = _NEVER_S if entry is None else max(self._due_s[entry], self._pause_s)
                if entry is not None and self._wakes_s <= now_s:
                    del self._due_s[entry]
                    if entry in self._told_of:
                        self._told_of.discard(entry)
                        self._due_s[entry] = now_s + _SETTLED_S
                    self.asks += 1
                    return entry
                self._changed.wait(None if entry is None else self._wakes_s - now_s)
            return None

    def _answered(self, entry: Entry, said: Metadata | None) -> None:
        self._worked()
        with self._binder.lock:
            entry.unknown[self.name] = 0 if said is not None else entry.unknown[self.name] + 1
            if said is not None:
                self._binder.described(entry, self.name, said)
            else:
                self._binder.unknown(entry)
            if said is not None and said.is_running:
                entry.backoff[self.name].reset()
            if entry.refs[self.name].namespace and entry.unknown[self.name] >= _GUESSES:
                return
            is_settled = entry.ref is not None if said is None else said.is_running
            if entry.is_waiting or not (is_settled or entry.is_gone):
                self._again(entry)

    def _again(self, entry: Entry) -> None:
        if self._binder.has(entry):
            self.ask(entry, entry.backoff[self.name].next_s())

    def _missed(self, entry: Entry, exc: NoData) -> None:
        """The runtime is not there: all its containers wait together, and this one is the next to be tried."""
        with self._binder.lock:
            if not self.is_absent:
                _LOG.debug("runtime %s: %s", self.name, exc)
            self.is_absent = True
            self._pause_s = time.monotonic() + self._absent.next_s()
            if self._binder.has(entry):
                self.ask(entry)

    def _failed(self, exc: Exception) -> None:
        with self._binder.lock:
            self.errors += 1
            is_first, self._is_failing = not self._is_failing, True
        if is_first:
            _LOG.warning("runtime %s does not answer as it should: %s", self.name, exc)

    def _worked(self) -> None:
        with self._binder.lock:
            was_failing, self._is_failing = self._is_failing, False
            self.is_absent = False
            self._pause_s = time.monotonic() + _OF_USER_S if self.user else 0.0
            self._absent.reset()
        if was_failing:
            _LOG.info("runtime %s answers again", self.name)

    def _follow(self, runtime: Watcher) -> None:
        while self._has_entries():
            try:
                runtime.watch(self._told, lambda: self._is_ending)
            except NoData:
                pass
            except Exception as exc:  # noqa: BLE001 - see survey
                self._failed(exc)
            with self._binder.lock:
                self.is_connected = False
                self._changed.wait_for(lambda: self._is_ending, self._disconnected.next_s())

    def _has_entries(self) -> bool:
        """Waits for the first container: until then nobody is asked for events. False when it is to stop."""
        with self._binder.lock:
            while not self._is_ending and not self._binder.entries(self.name):
                self._changed.wait()
            return not self._is_ending

    def _told(self, news: RuntimeNews) -> None:
        with self._binder.lock:
            if news.kind == "exited":
                self._binder.exited(self.name, news.id, news.exit_code)
                return
            if news.kind == "connected":
                self.is_connected = True
                self._disconnected.reset()
                self.is_absent = False
                self._pause_s = 0.0
            for entry in self._binder.entries(self.name, news.id or None):
                self.ask(entry)
                if news.kind == "changed":
                    self._told_of.add(entry)
                    self._binder.changed(entry.instance)
