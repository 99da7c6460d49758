"""Containers of this host as cAdvisor's clients name them: by path, or by a runtime's name, alias or id.

A snapshot of the store of newest values; made anew when something was written since. Any thread.
"""

import posixpath
import threading
from collections.abc import Mapping, Sequence

from tidegauge.api.cadvisor.errors import ApiError, Status
from tidegauge.api.cadvisor.reading import Reading, of_latest
from tidegauge.api.cadvisor.spec import aliases
from tidegauge.api.cadvisor.stats import Host
from tidegauge.pipeline.latest import KeepsLatest, Latest
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.records import Container


class Entry:
    """A container that lives, with its newest values. Kept from one catalog to the next while neither changes."""

    __slots__ = ("_reading", "container", "encoded", "latest")

    def __init__(self, container: Container, latest: Latest | None) -> None:
        self.container = container
        self.latest = latest
        self.encoded: tuple[object, bytes] | None = None
        """The newest sample's encoded form, and what else it depends on: for who makes it."""
        self._reading: Reading | None = None

    @property
    def path(self) -> str:
        return self.container.path

    def reading(self) -> Reading | None:
        """The newest values; None before the first sample."""
        if self._reading is None and self.latest is not None:
            self._reading = of_latest(self.latest, self.container.number)
        return self._reading


class Catalog:
    """All of them at one moment, ordered by path."""

    def __init__(self, entries: Sequence[Entry], before: "Catalog | None" = None) -> None:
        self.entries = entries
        self.by_path: Mapping[str, Entry] = {e.path: e for e in entries}
        root = self.by_path.get("/")
        self.machine: Machine | None = None if root is None else root.container.machine
        self.machine_ms = 0 if root is None else root.container.valid_from_ms
        self.host: Host = Host.of(self.machine) if before is None or before.machine is not self.machine else before.host
        self._children: dict[str, list[Entry]] | None = None

    def below(self, path: str, is_strict: bool) -> list[Entry]:
        """The container and everything below it. cAdvisor (`is_strict`) takes whatever begins with the same characters."""
        if path == "/":
            return list(self.entries)
        if is_strict:
            return [e for e in self.entries if e.path.startswith(path)]
        return [e for e in self.entries if e.path == path or e.path.startswith(f"{path}/")]

    def children(self, path: str) -> list[Entry]:
        if self._children is None:
            found: dict[str, list[Entry]] = {}
            for entry in self.entries:
                if entry.path != "/":
                    found.setdefault(posixpath.dirname(entry.path), []).append(entry)
            self._children = found
        return self._children.get(path, [])

    def of_runtime(self, namespace: str) -> list[Entry]:
        """Containers of a runtime, without the cgroups within them."""
        found = [e for e in self.entries if e.container.namespace == namespace and e.container.container_id is not None]
        paths = {(e.container.container_id, e.path) for e in found}

        def is_outermost(entry: Entry) -> bool:
            path, id_ = entry.path, entry.container.container_id
            while (path := posixpath.dirname(path)) != "/":
                if (id_, path) in paths:
                    return False
            return True

        return [e for e in found if is_outermost(e)]

    def named(self, word: str, namespace: str) -> Entry:
        """The container of a runtime with this alias or id, or beginning of its id or name. ApiError: none, or several."""
        entries = self.of_runtime(namespace)
        for entry in entries:
            if word in aliases(entry.container):
                return entry
        found = [e for e in entries if any(a.startswith(word) for a in aliases(e.container))]
        if len(found) == 1:
            return found[0]
        if found:
            raise ApiError(
                f'unable to find container in "{namespace}" namespace. Container "{word}" is not unique', Status.BAD_REQUEST
            )
        raise ApiError(f'unable to find container "{word}" in "{namespace}" namespace', Status.NOT_FOUND)


class Catalogs:
    """Gives the catalog of now; keeps it while nothing changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[KeepsLatest, int, Catalog] | None = None

    def now(self, store: KeepsLatest) -> Catalog:
        generation = store.generation
        with self._lock:
            known = self._known
        if known is not None and known[0] is store and known[1] == generation:
            return known[2]
        before = None if known is None else known[2]
        entries = {} if before is None else before.by_path
        living = [_entry(entries.get(c.path), c, latest) for c, latest in store.latest() if not c.remote]
        catalog = Catalog(living, before)
        with self._lock:
            self._known = (store, generation, catalog)
        return catalog


def _entry(known: Entry | None, container: Container, latest: Latest | None) -> Entry:
    is_same = known is not None and known.container is container and known.latest is latest
    return known if is_same and known is not None else Entry(container, latest)
