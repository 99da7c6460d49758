"""Which cgroup hierarchies are mounted below the configured `/sys`, and where a container's directories are.

Source: proc_pid_mountinfo(5), cgroups(7). Reads PROC/self/mountinfo; no privileges. Where that file speaks of other places
than the configured root (a recorded tree, a copied root), the folders of SYS/fs/cgroup are taken by their names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tidegauge.pipeline.plugin import Hierarchy

CONTROLLERS = ("cpuacct", "cpu", "memory", "blkio", "pids")
"""v1 controllers that have values for us, in the order of preference for identity and for the probe."""
OPTIONAL_CONTROLLERS = ("cpuset", "hugetlb", "perf_event")
"""v1 controllers that optional groups are read from; containers are not found by them."""
_READ = frozenset({*CONTROLLERS, *OPTIONAL_CONTROLLERS})
_MOUNTABLE = frozenset(
    {*CONTROLLERS, "cpuset", "devices", "freezer", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"}
)
_UNIFIED_NAME = {"cpu": "cpu", "memory": "memory", "blkio": "io", "pids": "pids"}


class Mode(StrEnum):
    NONE = "none"
    V1 = "v1"
    HYBRID = "hybrid"
    """v1 controllers with a cgroup2 mount beside them."""
    V2 = "v2"


class Mount(NamedTuple):
    """One cgroup mount of mountinfo."""

    root: str
    """Which directory of the hierarchy is mounted; `/` for the whole."""
    point: str
    is_unified: bool
    controllers: frozenset[str]


@dataclass(frozen=True)
class CgroupMounts:
    """Where each v1 controller and the unified hierarchy are."""

    v1: Mapping[str, Path]
    """Controller -> mount point, among CONTROLLERS; joint controllers share one."""
    unified: Path | None
    unified_controllers: frozenset[str]
    """Controllers of the unified hierarchy by their v2 names (`io`, not `blkio`)."""
    optional: Mapping[str, Path] = field(default_factory=dict)
    """As `v1`, of OPTIONAL_CONTROLLERS."""

    @property
    def mode(self) -> Mode:
        if self.v1:
            return Mode.V1 if self.unified is None else Mode.HYBRID
        return Mode.NONE if self.unified is None else Mode.V2

    def lives_in_unified(self, controller: str) -> bool:
        """True if a v1 controller (by its v1 name) is driven by the unified hierarchy instead."""
        return controller not in self.v1 and _UNIFIED_NAME.get(controller) in self.unified_controllers

    def place(self, controller: str) -> Path | None:
        """Root of the hierarchy in which a controller lives; None: in none below `sys`. v2 names serve for the unified one."""
        if (root := {**self.v1, **self.optional}.get(controller)) is not None:
            return root
        # perf_event is in the unified hierarchy whenever it is in no other, and never listed there
        is_unified = controller == "perf_event" or controller in self.unified_controllers
        return self.unified if is_unified else None

    def hierarchies(self) -> tuple[Hierarchy, ...]:
        """Every hierarchy with values for us, once each, named after its first controller in the order of preference."""
        if self.mode is Mode.V2:
            assert self.unified is not None
            return (Hierarchy("unified", self.unified),)
        found: dict[Path, Hierarchy] = {}
        for controller in CONTROLLERS:
            if (root := self.v1.get(controller)) is not None:
                found.setdefault(root, Hierarchy(controller, root))
        if self.unified is not None and any(self.lives_in_unified(c) for c in CONTROLLERS):
            found[self.unified] = Hierarchy("unified", self.unified)
        return tuple(found.values())

    def directories(self, path: str) -> Iterator[str]:
        """Directories of the container `path` in every hierarchy, in order of preference, whether they exist or not."""
        for hierarchy in self.hierarchies():
            yield directory(hierarchy.root, path)


def directory(root: Path, path: str) -> str:
    """Directory of the container `path` (`/` for the host) below a hierarchy's root."""
    return f"{root}{path}".rstrip("/")


def find_mounts(sys: Path, proc: Path) -> CgroupMounts:
    """The hierarchies below `sys`; empty where there are none. Never raises for what it does not find."""
    try:
        text = (proc / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        text = ""
    below = str(sys).rstrip("/") + "/"
    mounts = [m for m in parse_mountinfo(text) if (m.point + "/").startswith(below)]
    return _from_mounts(mounts, below) if mounts else _from_folders(sys / "fs/cgroup")


def parse_mountinfo(text: str) -> list[Mount]:
    """The cgroup mounts of a mountinfo file, in order; what a later mount on the same point hides is left out."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, kind = head.split(" "), tail.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 3:
            continue
        point = _unescape(fields[4])
        found.pop(point, None)
        if kind[0] == "cgroup2":
            found[point] = Mount(_unescape(fields[3]), point, True, frozenset())
        elif kind[0] == "cgroup":
            found[point] = Mount(_unescape(fields[3]), point, False, _MOUNTABLE.intersection(kind[2].split(",")))
    return list(found.values())


def _unescape(field: str) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)


def _from_mounts(mounts: list[Mount], below: str) -> CgroupMounts:
    """Of several mounts of one controller the whole hierarchy wins over a part of it, then the usual place, then the first."""

    def rank(mount: Mount) -> tuple[bool, bool]:
        return mount.root != "/", not mount.point.startswith(below + "fs/cgroup")

    found: dict[str, Path] = {}
    unified: Path | None = None
    for mount in sorted(mounts, key=rank):
        if mount.is_unified:
            unified = unified or Path(mount.point)
        for controller in mount.controllers & _READ:
            found.setdefault(controller, Path(mount.point))
    return _sorted_out(found, unified)


def _from_folders(root: Path) -> CgroupMounts:
    if (root / "cgroup.controllers").exists():
        return CgroupMounts({}, root, _unified_controllers(root))
    found: dict[str, Path] = {}
    unified: Path | None = None
    try:
        folders = sorted(p for p in root.iterdir() if p.is_dir())
    except OSError:
        folders = []
    for folder in folders:
        if (folder / "cgroup.controllers").exists():
            unified = unified or folder
            continue
        for controller in folder.name.split(","):
            if controller in _READ:
                found.setdefault(controller, folder)
    return _sorted_out(found, unified)


def _sorted_out(found: Mapping[str, Path], unified: Path | None) -> CgroupMounts:
    v1 = {c: found[c] for c in CONTROLLERS if c in found}
    optional = {c: found[c] for c in OPTIONAL_CONTROLLERS if c in found}
    return CgroupMounts(v1, unified, _unified_controllers(unified), optional)


def _unified_controllers(unified: Path | None) -> frozenset[str]:
    if unified is None:
        return frozenset()
    try:
        return frozenset((unified / "cgroup.controllers").read_text().split())
    except OSError:
        return frozenset()
