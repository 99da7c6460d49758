"""Memory bandwidth and last-level cache of each container, from the monitoring groups of resctrl (Intel RDT, AMD QoS).

Source: kernel documentation arch/x86/resctrl.rst. Privileges: to read SYS/fs/resctrl, which is root's, and for `create_groups`
to write there. resctrl knows tasks, not cgroups: a container has figures if a group holds its tasks and no others, such as the
one that runc makes from a container's `intelRdt`, or with `create_groups` one that is made for it.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tidegauge.collectors._kernel_text import Faults, Faulty
from tidegauge.collectors.cgroup_paths import CgroupMounts, Mode, find_mounts
from tidegauge.pipeline.errors import NoData
from tidegauge.pipeline.records import Container, TableRow, TableRows, Value

_PREFIX = "tidegauge-"
_FILES = ("mbm_total_bytes", "mbm_local_bytes", "llc_occupancy")
"""In the order of the table `resctrl`."""
_NOT_GROUPS = frozenset({"info", "mon_data", "mon_groups"})
_LOOK_AGAIN_S = 5.0


class ResctrlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    create_groups: bool = False
    """Make a monitoring group for each container that has none of its own, and remove those that were made."""


def control_groups(root: Path) -> list[Path]:
    """The root and every control group."""
    try:
        return [root, *sorted(p for p in root.iterdir() if p.name not in _NOT_GROUPS and p.is_dir())]
    except OSError:
        return [root]


def groups(root: Path) -> Iterator[Path]:
    """Every group that can be a container's own: control groups but the root, and the monitoring groups of all."""
    for control in control_groups(root):
        if control != root:
            yield control
        try:
            yield from sorted(p for p in (control / "mon_groups").iterdir() if p.is_dir())
        except OSError:
            continue


def numbers(path: Path) -> frozenset[int]:
    """Task numbers of a `tasks` file or its like; none if it is gone."""
    try:
        return frozenset(int(word) for word in path.read_bytes().split() if word.isdigit())
    except OSError:
        return frozenset()


def monitored(group: Path, faults: Faults) -> TableRows:
    """Rows of the L3 caches of a group, by their number. None where the kernel says `Unavailable`, `Error` or `Unassigned`."""
    rows: list[tuple[int, tuple[Value, ...]]] = []
    try:
        domains = [p for p in (group / "mon_data").iterdir() if p.name.startswith("mon_L3_")]
    except OSError:
        return ()
    for domain in domains:
        number = domain.name.removeprefix("mon_L3_")
        if number.isdigit():
            rows.append((int(number), tuple(_value(domain / name, faults) for name in _FILES)))
    table: list[TableRow] = [(str(number), *values) for number, values in sorted(rows)]
    return tuple(table)


def _value(path: Path, faults: Faults) -> Value:
    try:
        raw = path.read_bytes().strip()
    except OSError as exc:
        if not isinstance(exc, FileNotFoundError):  # the kernel counts some of them only
            faults.unreadable(str(path), exc)
        return None
    return None if raw.isalpha() else faults.number(raw)


class ResctrlReader:
    """Rows of one container, one an L3 cache; None while no group is its own."""

    __slots__ = ("_collector", "_container", "_group", "_is_made")

    def __init__(self, collector: "ResctrlCollector", container: Container) -> None:
        self._collector = collector
        self._container = container
        self._group: Path | None = collector.root if container.is_host else None
        self._is_made = False

    def read(self) -> tuple[()]:
        return ()

    def read_tables(self) -> tuple[TableRows | None]:
        collector = self._collector
        if not self._container.is_host:
            if self._is_made and self._group is not None and not self._group.is_dir():
                self._group, self._is_made = None, False
            if self._is_made:
                assert self._group is not None
                collector.move(self._container, self._group)
            else:
                self._group = collector.own_group(self._container, self._group)
            if self._group is None and collector.creates_groups:
                self._group = collector.make_group(self._container)
                self._is_made = self._group is not None
        return (None if self._group is None else monitored(self._group, collector.faults) or None,)

    def close(self) -> None:
        if self._is_made and self._group is not None:
            self._collector.remove(self._group)
            self._group, self._is_made = None, False


class ResctrlCollector(Faulty):
    """Table `resctrl`: bytes to and from memory, those of the own node, cache held, of each L3 cache.

    The host's row is that of the tasks that are in no group.
    """

    Config = ResctrlConfig
    groups = ("resctrl",)
    metrics: tuple[str, ...] = ()
    tables = ("resctrl",)
    is_slow = True

    def __init__(self, config: ResctrlConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = config.sys / "fs/resctrl"
        self.creates_groups = config.create_groups
        self.faults = self._faults = Faults()
        self._mounts = find_mounts(config.sys, config.proc)
        self._clock = clock
        self._holders: dict[int, set[Path]] = {}
        self._looked_s: float | None = None
        self._is_cleared = False

    def reader(self, container: Container) -> ResctrlReader:
        """NoData: resctrl is not mounted or monitors nothing."""
        if not (self.root / "mon_data").is_dir():
            raise NoData(f"{self.root}: not mounted, or this CPU does not monitor its caches")
        if self.creates_groups and not self._is_cleared:
            self._is_cleared = True
            for group in groups(self.root):
                if group.name.startswith(_PREFIX):
                    self.remove(group)
        return ResctrlReader(self, container)

    def own_group(self, container: Container, last: Path | None) -> Path | None:
        """The group that holds the tasks of the container and its child cgroups and no others. `last`: what it was before."""
        before = tasks_of(self._mounts, container.path, is_deep=True)
        if not before:
            return None
        candidates = self._holding(min(before)) if last is None else {last}
        held = {group: numbers(group / "tasks") for group in candidates}
        # a task that began or ended meanwhile is in one of the two
        after = tasks_of(self._mounts, container.path, is_deep=True)
        own = (g for g, tasks in held.items() if tasks and before & after <= tasks <= before | after)
        return next(own, None)

    def make_group(self, container: Container) -> Path | None:
        """A monitoring group for the tasks of the container itself; None if it has none, or there is no number left for it."""
        tasks = tasks_of(self._mounts, container.path, is_deep=False)
        if not tasks:
            return None
        first = min(tasks)
        control = next((g for g in self._holding(first) if g.parent.name != "mon_groups"), self.root)
        group = control / "mon_groups" / f"{_PREFIX}{container.instance}-{container.epoch}"
        try:
            _make(group)
        except OSError as exc:
            self.faults.unreadable(str(group), exc)
            return None
        self.move(container, group)
        return group

    def move(self, container: Container, group: Path) -> None:
        """Puts those tasks of the container into its group that are not there: children of a task begin where it is."""
        for task in tasks_of(self._mounts, container.path, is_deep=False) - numbers(group / "tasks"):
            try:
                _move(task, group)
            except ProcessLookupError:
                continue
            except OSError as exc:
                self.faults.unreadable(str(group / "tasks"), exc)
                return

    def remove(self, group: Path) -> None:
        """Removes a group that was made here; its tasks fall back to the group above."""
        try:
            _remove(group)
        except FileNotFoundError:
            return
        except OSError as exc:
            self.faults.unreadable(str(group), exc)

    def _holding(self, task: int) -> set[Path]:
        """Groups that hold the task, as of some seconds ago at most: one look serves all containers of a round."""
        now_s = self._clock()
        if self._looked_s is None or now_s - self._looked_s > _LOOK_AGAIN_S:
            self._looked_s = now_s
            self._holders = {}
            for group in groups(self.root):
                for number in numbers(group / "tasks"):
                    self._holders.setdefault(number, set()).add(group)
        return self._holders.get(task, set())


def _make(group: Path) -> None:
    group.mkdir(exist_ok=True)


def _move(task: int, group: Path) -> None:
    (group / "tasks").write_text(str(task))


def _remove(group: Path) -> None:
    group.rmdir()  # as with cgroups, what lies in it does not hinder


def tasks_of(mounts: CgroupMounts, path: str, is_deep: bool) -> frozenset[int]:
    """Threads of a container, `is_deep`: of its child cgroups too, from the first hierarchy that has any."""
    name = "cgroup.threads" if mounts.mode is Mode.V2 else "tasks"
    for where in mounts.directories(path):
        folders = [folder for folder, _, _ in os.walk(where)] if is_deep else [where]
        found = frozenset[int]().union(*(numbers(Path(folder) / name) for folder in folders))
        if found:
            return found
    return frozenset()
