"""Space that a container's writable layer and logs take.

Source: `_layers` for where the layer lies (the kernel's list of mounts), `_disk_walk` for its size (a project quota where the
layer has one, else a walk). Privileges: to look at /proc/PID/mountinfo of others and into their layers, in practice root.

A walk costs the disk something, so it is done with care: one at a time over all containers, in a child process with the lowest
priorities for CPU and disk, resting most of the time, ended at a deadline; the next of the same container waits for a
multiple of what the last one cost.
"""

import glob
import heapq
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from tidegauge.collectors._disk_walker import Failed, Found, Walker
from tidegauge.collectors._layers import Layer, Layers, device_of
from tidegauge.collectors.cgroup_paths import find_mounts
from tidegauge.collectors.runtimes._paths import locate
from tidegauge.pipeline.records import MAX_INT, Container, TableRow, TableRows, Value

_LOG = logging.getLogger(__name__)
_MAX_WAIT_S = 1200.0
_FIRST_S = 1.0
"""Wait before a layer that is not there yet is looked for again; doubled each time."""

Positive = Annotated[float, msgspec.Meta(gt=0)]


class DiskUsageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    rootfs: Path = Path("/")
    interval_s: Positive = 60.0
    """Seconds between two walks of one container, at least."""
    rest_factor: Annotated[float, msgspec.Meta(ge=0)] = 100.0
    """A container is not walked again before this many times the work of its last walk; at most 20 minutes."""
    share_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 10.0
    """Share of the time that a walk is at work; the rest of it, it sleeps."""
    deadline_s: Positive = 120.0
    """A walk that is not done by then is given up."""
    logs: tuple[str, ...] = (
        "{root}/containers/{id}",
        "/var/lib/docker/containers/{id}",
        "/var/log/containers/*-{id}.log",
        "{root}/overlay-containers/{id}",
        "{root}/vfs-containers/{id}",
    )
    """Where logs lie: shell patterns, the first with a match holds. `{id}`: the container's; `{root}`: the storage's
    folder, three above the layer."""


class _Entry:
    """One container. `rows` is replaced as a whole; all else belongs to the thread that walks."""

    def __init__(self, path: str, id_: str) -> None:
        self.path = path
        self.id = id_
        self.rows: TableRows | None = None
        self.wait_s = 0.0
        """After errors in a row."""
        self.is_gone = False


class Rounds:
    """Measures containers one after another, each when it is due, on a thread of its own."""

    def __init__(self, config: DiskUsageConfig, layers: Layers, walker: Walker) -> None:
        self.failures = 0
        self.walks = 0
        self.complaint: str | None = None
        self._config = config
        self._layers = layers
        self._walker = walker
        self._due: list[tuple[float, int, _Entry]] = []
        self._count = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def add(self, entry: _Entry) -> None:
        """Has the container measured soon, and from then on."""
        with self._changed:
            if self._thread is None and not self._is_stopping:
                self._thread = threading.Thread(target=self._work, name="disk usage", daemon=True)
                self._thread.start()
            self._push(entry, 0.0)
            self._changed.notify()

    def close(self) -> None:
        """Ends what is under way. A walk that hangs in the kernel is left behind."""
        with self._changed:
            self._is_stopping = True
            thread = self._thread
            self._changed.notify()
        self._walker.stop()
        if thread is not None:
            thread.join(5.0)
            if not thread.is_alive():
                self._walker.close()

    def _push(self, entry: _Entry, in_s: float) -> None:
        self._count += 1
        heapq.heappush(self._due, (time.monotonic() + in_s, self._count, entry))

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            try:
                wait_s = self.measure(entry)
            except Exception as exc:  # noqa: BLE001 - one container's oddity must not end the figures of all
                wait_s = self._failed(entry, f"{type(exc).__name__}: {exc}")
            with self._changed:
                self._push(entry, wait_s)

    def _next(self) -> _Entry | None:
        """Waits for the next one that is due and still there; None at the end."""
        with self._changed:
            while not self._is_stopping:
                while self._due and self._due[0][2].is_gone:
                    heapq.heappop(self._due)
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait_s)
        return None

    def measure(self, entry: _Entry) -> float:
        """Brings the container's rows up to date; seconds until it is to be done again. Blocks as long as a walk may take."""
        seen = self._layers.own_mounts()
        layer = self._layers.find(entry.path, seen)
        if layer is None:
            entry.rows = None
            entry.wait_s = min(entry.wait_s * 2 or _FIRST_S, self._config.interval_s)
            return entry.wait_s
        rootfs = str(self._config.rootfs).rstrip("/")
        found = self._walker.measure(rootfs + layer.path, self._log_patterns(entry.id, layer, rootfs), layer.owner)
        if isinstance(found, Failed):
            if found.is_gone:
                entry.rows, self.complaint = None, None
                return max(self._config.interval_s, _FIRST_S)
            return self._failed(entry, f"{layer.path}: {found.reason}")
        self.walks += 1
        self.complaint = None
        entry.wait_s = 0.0
        entry.rows = rows_of(found, lambda path: device_of(path.removeprefix(rootfs) or "/", seen))
        return max(self._config.interval_s, min(found.work_s * self._config.rest_factor, _MAX_WAIT_S))

    def _failed(self, entry: _Entry, reason: str) -> float:
        if not self._is_stopping:
            self.failures += 1
            self.complaint = f"{entry.path}: {reason}"
        entry.rows = None
        entry.wait_s = min(max(entry.wait_s, self._config.interval_s) * 2, max(_MAX_WAIT_S, self._config.interval_s))
        return entry.wait_s

    def _log_patterns(self, id_: str, layer: Layer, rootfs: str) -> list[str]:
        if layer.owner is not None:
            return []  # of a user's runtime: what it says of its layer was checked, a guess at its logs is not
        root = Path(layer.path).parents[2] if layer.path.count("/") > 3 else Path(layer.path)
        words = {"{root}": glob.escape(str(root)), "{id}": id_}
        patterns = []
        for pattern in self._config.logs:
            for word, text in words.items():
                pattern = pattern.replace(word, text)
            patterns.append(glob.escape(rootfs) + pattern)
        return patterns


def rows_of(found: Found, device: Callable[[str], str]) -> TableRows:
    """Rows of the table `disk_usage`, sorted by device: the layer with the logs on its device, and logs that lie elsewhere."""
    layer = found.layer
    name = device(layer.path)
    totals = {name: layer.bytes}
    limits = {name: layer.limit_bytes}
    for logs in found.logs:
        where = device(logs.path)
        totals[where] = totals.get(where, 0) + logs.bytes
        limits.setdefault(where, logs.limit_bytes)
    rows: list[TableRow] = []
    for where in sorted(totals):
        own: tuple[Value, Value] = (layer.bytes, layer.inodes) if where == name else (None, None)
        values: tuple[Value, ...] = (totals[where], *own, limits[where])
        rows.append((where, *(v if v is not None and 0 <= v <= MAX_INT else None for v in values)))
    return tuple(rows)


class DiskUsageReader:
    """The figures of each walk, once. Called from the worker thread of slow collectors."""

    def __init__(self, entry: _Entry) -> None:
        self._entry = entry
        self._rows: TableRows | None = None

    def read(self) -> tuple[()] | None:
        """None: no walk has ended since the last call."""
        rows, before = self._entry.rows, self._rows
        self._rows = rows
        return None if rows is None or rows is before else ()

    def read_tables(self) -> tuple[TableRows | None]:
        return (self._rows,)

    def close(self) -> None:
        self._entry.is_gone = True


class DiskUsageCollector:
    """Table `disk_usage`: bytes of layer and logs, bytes and inodes of the layer, size of the filesystem, by device."""

    Config = DiskUsageConfig
    groups = ("disk",)
    metrics: tuple[str, ...] = ()
    tables = ("disk_usage",)
    is_slow = True

    def __init__(self, config: DiskUsageConfig) -> None:
        self.interval_s = config.interval_s
        layers = Layers(find_mounts(config.sys, config.proc), config.proc, config.rootfs)
        self._rounds = Rounds(config, layers, Walker(config.share_percent / 100, config.deadline_s))

    def reader(self, container: Container) -> DiskUsageReader | None:
        """A reader for what is a container by its path; not for cgroups within it, which share its layer."""
        place = locate(container.path)
        if place is None or place.part:
            return None
        entry = _Entry(container.path, place.id)
        self._rounds.add(entry)
        return DiskUsageReader(entry)

    def counters(self) -> Mapping[str, int]:
        return {"walks": self._rounds.walks, "failed_walks": self._rounds.failures}

    def complaint(self) -> str | None:
        return self._rounds.complaint

    def close(self) -> None:
        self._rounds.close()
