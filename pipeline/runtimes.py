"""Binds names to containers, late: the sampling thread tells who came and went, threads of their own ask the runtimes.

A container is asked of every runtime that its path may belong to, each runtime by a thread of its own, so that one that hangs
holds up its own containers' names and nothing else. What is found goes back as a command to the sampling thread, which makes
a record of it. A runtime that is not there, does not know the container yet or fails is asked again with back-off, all its
containers at once when it is back; events tell of changes, and a survey now and then of those that were missed.

Users may run engines of their own, and these say what their users like, or nothing at all. So each user has askers of his own,
for the containers in his slice and for no others.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tidegauge.pipeline.metadata import MetadataConfig, bounded, described_fields, path_fields, pod_fields
from tidegauge.pipeline.naming import Parting
from tidegauge.pipeline.plugin import Describer, Metadata, PerUser, Runtime, RuntimeRef
from tidegauge.pipeline.records import Container
from tidegauge.pipeline.runtime_asker import Asker, Entry, user_of

_LOG = logging.getLogger(__name__)
_ASK_AGAIN_S = 0.1
"""After a container's end, until it is asked for the exit code that no event told."""
_MOST_OF_USERS = 32
"""Askers of users at a time; each has two threads and a few connections."""


class Binder:
    """The Naming that asks runtimes. `start` and `stop` by the owner; `resync` and `metadata` from any thread."""

    def __init__(self, runtimes: Sequence[tuple[str, Runtime]], config: MetadataConfig | None = None) -> None:
        self._runtimes = list(runtimes)
        self._config = config or MetadataConfig()
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._pods: dict[tuple[int, str], tuple[str, str | None]] = {}
        """User and uid -> name and namespace, as a container of the pod in the same slice had them."""
        self._unidentified: dict[str, int] = {}
        """Times that a plug-in failed over a path, by its name."""
        self._metadata_cut = 0
        self._is_running = False
        self._bind: Callable[[str, str, Mapping[str, Any]], None] = lambda path, instance, fields: None
        self._depart: Callable[[str, int | None], None] = lambda instance, exit_code: None
        self.changed: Callable[[str], None] = lambda instance: None
        """Called with the instance of a container that a runtime's event says has changed; any thread. Set before `start`."""
        self._askers = {name: Asker(name, r, self) for name, r in runtimes if isinstance(r, Describer)}
        """By the runtime's name; those of users by `NAME/UID`, made when the first container is there."""
        self._has_too_many = False

    # In the sampling thread.

    def attach(self, bind: Callable[[str, str, Mapping[str, Any]], None], depart: Callable[[str, int | None], None]) -> None:
        self._bind, self._depart = bind, depart

    def named(self, record: Container) -> Container:
        known = {k: v for k, v in path_fields([r for _, r in self._refs(record.path)]).items() if getattr(record, k) is None}
        return msgspec.structs.replace(record, **known) if known else record

    def appeared(self, record: Container) -> None:
        refs = self._refs(record.path)
        if not refs:
            return
        user = user_of(record.path)
        pod = refs[0][1].id if refs[0][1].runtime == "kubernetes" else None
        with self._lock:
            askers = [(asker.name, ref) for name, ref in refs if (asker := self._asker(name, user)) is not None]
            entry = Entry(record.path, record.instance, askers)
            if not entry.refs and pod is None:
                return
            self._entries[record.instance] = entry
            for name in entry.refs:
                self._askers[name].ask(entry)
            if pod is not None:
                entry.ref = refs[0][1]
                self._name_pod(user, pod)

    def _asker(self, name: str, user: int) -> Asker | None:
        """Who is asked for that user's containers of a runtime; None: nobody. Under the lock."""
        runtime = dict(self._runtimes)[name]
        if not user or not isinstance(runtime, PerUser):
            return self._askers.get(name)
        if (own := f"{name}/{user}") in self._askers:
            return self._askers[own]
        of_users = [n for n, a in self._askers.items() if a.user]
        if len(of_users) >= _MOST_OF_USERS:
            busy = {n for e in self._entries.values() for n in e.refs}
            idle = next((n for n in of_users if n not in busy), None)
            if idle is None:
                if not self._has_too_many:
                    _LOG.warning("%d engines of users are asked already: %s is not", len(of_users), own)
                self._has_too_many = True
                return None
            self._askers.pop(idle).end()
        made = self._askers[own] = Asker(own, runtime.of_user(user), self, user)
        if self._is_running:
            made.start()
        return made

    def gone(self, record: Container) -> Parting:
        with self._lock:
            entry = self._entries.get(record.instance)
            if entry is None:
                return Parting()
            askers = [self._askers[n] for n, ref in entry.refs.items() if not ref.part and not entry.unknown[n]]
            askers = [a for a in askers if a.tells_exit_codes]
            if entry.ref is not None:
                askers = [a for a in askers if entry.refs.get(a.name) is entry.ref]
            askers = [a for a in askers if not a.is_absent]
            is_told = entry.exit_code is not None and entry.said is not None
            if is_told or not askers or not self._config.exit_wait_s:
                return Parting(entry.exit_code)
            entry.is_gone = True
            for asker in askers:
                asker.ask(entry, _ASK_AGAIN_S if entry.exit_code is None else 0.0)
            return Parting(entry.exit_code, self._config.exit_wait_s)

    def forget(self, instance: str) -> None:
        with self._lock:
            entry = self._entries.pop(instance, None)
            if entry is None:
                return
            for name in entry.refs:
                self._askers[name].forget(entry)
            if entry.ref is not None and entry.ref.runtime == "kubernetes":
                self._pods.pop((entry.user, entry.ref.id), None)

    # From other threads.

    def start(self) -> None:
        with self._lock:
            self._is_running = True
            for asker in self._askers.values():
                asker.start()

    def stop(self) -> None:
        """Has the threads end; those that wait for a runtime are left to end by themselves. Safe twice."""
        with self._lock:
            self._is_running = False
            for asker in self._askers.values():
                asker.end()

    def reload(self, config: MetadataConfig) -> None:
        """Takes over other allow-lists; containers that are known already get records accordingly."""
        with self._lock:
            self._config = config
            for entry in self._entries.values():
                if entry.ref is not None and entry.said is not None:
                    self._send(entry, described_fields(entry.ref, entry.said, config))

    def resync(self) -> None:
        """Asks the runtimes whether anything changed unnoticed. Blocks as long as they take, but for the engines of users."""
        with self._lock:
            askers = list(self._askers.values())
        for asker in askers:
            if asker.user:
                threading.Thread(target=asker.survey, name=f"survey {asker.name}", daemon=True).start()
            else:
                asker.survey()

    def metadata(self, instance: str) -> Metadata | None:
        """All that the runtime said of a container, labels that are not recorded included."""
        with self._lock:
            entry = self._entries.get(instance)
            return entry.said if entry is not None else None

    def counters(self) -> dict[str, Any]:
        with self._lock:
            askers = self._askers.values()
            return {
                "runtime_errors": self._unidentified | {a.name: a.errors + self._unidentified.get(a.name, 0) for a in askers},
                "runtime_asks": {a.name: a.asks for a in askers},
                "runtime_connected": {a.name: a.is_connected for a in askers},
                # without those that only might be containers
                "metadata_cut": self._metadata_cut,
                "containers_unnamed": sum(
                    e.said is None and any(not r.namespace for r in e.refs.values()) for e in self._entries.values()
                ),
            }

    # Of the askers, under the lock.

    @property
    def lock(self) -> threading.Lock:
        return self._lock

    def has(self, entry: Entry) -> bool:
        return self._entries.get(entry.instance) is entry

    def entries(self, asker: str, id_: str | None = None) -> list[Entry]:
        """Those that this runtime is asked for, oldest first; with this id."""
        return [e for e in self._entries.values() if (r := e.refs.get(asker)) is not None and id_ in (None, r.id)]

    def described(self, entry: Entry, asker: str, said: Metadata) -> None:
        """A runtime knows the container."""
        if not self.has(entry):
            return
        ref = entry.refs[asker]
        if not entry.is_gone:
            # an answer may be older than the event that told the exit: only another start makes that one void
            if said.is_running and entry.said is not None and said.started_ms != entry.said.started_ms:
                entry.exit_code = None
        elif said.is_running:
            # what the runtime says now is of the next run of the same container
            said = msgspec.structs.replace(said, started_ms=None, restart_count=None, health=None)
        if not entry.is_gone or entry.said is None:
            entry.ref, entry.said = ref, said
            self._send(entry, described_fields(ref, said, self._config))
        uid = ref.pod_uid or said.pod_uid
        if uid is not None and said.pod is not None and self._pods.get((entry.user, uid)) != (said.pod, said.pod_namespace):
            self._pods[entry.user, uid] = (said.pod, said.pod_namespace)
            self._name_pod(entry.user, uid)
        if entry.is_waiting and not said.is_running and said.exit_code is not None:
            entry.exit_code = said.exit_code
        if entry.is_gone and entry.exit_code is not None:
            self._part(entry)

    def unknown(self, entry: Entry) -> None:
        """A runtime does not know the container. One that is gone and of which nobody knows more waits no longer."""
        if self.has(entry) and entry.is_gone and entry.exit_code is not None and all(entry.unknown.values()):
            self._part(entry)

    def exited(self, asker: str, id_: str, exit_code: int | None) -> None:
        """The main process ended: of the oldest one with this id, which may have been started again already."""
        entries = [e for e in self.entries(asker, id_) if not e.refs[asker].part]
        waiting = [e for e in entries if e.is_waiting]
        if exit_code is not None and entries:
            self._exited((waiting or entries[-1:])[0], exit_code)

    def _exited(self, entry: Entry, exit_code: int) -> None:
        entry.exit_code = exit_code
        if entry.is_gone and entry.said is not None:
            self._part(entry)
        elif entry.is_gone:
            # its name is asked for still, while the runtime knows it
            for name in entry.refs:
                self._askers[name].ask(entry)

    def _part(self, entry: Entry) -> None:
        if not entry.has_departed:
            entry.has_departed = True
            self._depart(entry.instance, entry.exit_code)

    def _send(self, entry: Entry, fields: Mapping[str, Any]) -> None:
        fields, cut = bounded(fields)
        if fields != entry.sent:
            entry.sent = fields
            if cut and not self._metadata_cut:
                _LOG.warning("%s has more metadata than a record takes: %d values are cut or left out", entry.path, cut)
            self._metadata_cut += cut
            self._bind(entry.path, entry.instance, fields)

    def _name_pod(self, user: int, uid: str) -> None:
        if (user, uid) in self._pods:
            for entry in self._entries.values():
                if (entry.user, entry.ref and (entry.ref.runtime, entry.ref.id)) == (user, ("kubernetes", uid)):
                    self._send(entry, pod_fields(*self._pods[user, uid]))

    def _refs(self, path: str) -> list[tuple[str, RuntimeRef]]:
        if path == "/":
            return []
        found = []
        for name, runtime in self._runtimes:
            try:
                ref = runtime.identify(path)
            except Exception:  # noqa: BLE001 - one plug-in's failure never stops the sampling thread
                if name not in self._unidentified:
                    _LOG.exception("runtime %s cannot tell what %s is", name, path)
                self._unidentified[name] = self._unidentified.get(name, 0) + 1
                continue
            if ref is not None:
                found.append((name, ref))
        return found
