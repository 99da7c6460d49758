"""Where a container's writable layer lies, told by the kernel alone: from the mounts of its processes. No runtime is asked.

Source: proc_pid_mountinfo(5), overlayfs.rst. The container's root is an overlay, of which the writable layer is `upperdir`
(Docker with overlay2 and with containerd's image store, containerd, CRI-O, Podman, LXC), or a directory of one of the host's
filesystems, which is then all of the container's own (vfs, btrfs). What a container says of its own root is not believed: a
process in it may have mounted what it liked. Only the mount's device number is taken from there; `upperdir` is read from
the same mount as it is seen outside of the container.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tidegauge.collectors.cgroup_paths import CgroupMounts

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_CANDIDATES = 8
_ANCESTORS = 32
_FOLDERS = 64
"""Cgroups below a container's own that are searched for a process."""


class Mount(NamedTuple):
    device: bytes
    """`major:minor`"""
    root: str
    """Which directory of the filesystem is mounted."""
    point: str
    type: str
    source: str
    options: bytes
    """Of the filesystem, as they are escaped in the file."""


class Layer(NamedTuple):
    path: str
    """As the host names it."""
    owner: int | None
    """The user whose it has to be, where it was a user's own process that told; None: root said so."""


def parse(text: bytes) -> Iterator[Mount]:
    """The mounts of a mountinfo file, in order; what is no mount is passed over."""
    for line in text.split(b"\n"):
        head, separator, tail = line.partition(b" - ")
        words, rest = head.split(b" "), tail.split(b" ")
        if separator and len(words) >= 6 and len(rest) >= 3:
            yield Mount(words[2], _text(words[3]), _text(words[4]), _text(rest[0]), _text(rest[1]), rest[2])


def _text(word: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda m: bytes([int(m[1], 8) & 255]), word))


def root_of(mounts: Iterable[Mount]) -> Mount | None:
    """What is mounted at `/`: the last one covers the others."""
    found = None
    for mount in mounts:
        if mount.point == "/":
            found = mount
    return found


def upper_of(mount: Mount) -> str | None:
    """The writable layer of an overlay mount, absolute; None for one without."""
    for option in mount.options.split(b","):
        if option.startswith(b"upperdir="):  # a comma in a path is written in octal too
            upper = _text(option.removeprefix(b"upperdir="))
            # engines give a relative one, as seen from the folder of all layers, where the options would be too long
            return upper if upper.startswith("/") else os.path.normpath(f"{mount.point}/../../{upper}")
    return None


def device_of(path: str, mounts: Iterable[Mount]) -> str:
    """What the filesystem at this path is called: its source, or its mount point where the source says nothing."""
    best = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(point + "/")) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    if best is None:
        return ""
    return best.source if "/" in best.source or best.type in ("zfs", "nfs", "nfs4") else best.point


class Layers:
    """Finds layers below `proc`. Blocks for no disk: procfs and cgroupfs alone are read. One thread."""

    def __init__(self, mounts: CgroupMounts, proc: Path, rootfs: Path = Path("/")) -> None:
        self._cgroups = mounts
        self._proc = proc
        self._rootfs = str(rootfs).rstrip("/")

    def own_mounts(self) -> tuple[Mount, ...]:
        """The host's mounts as far as this process sees them, named as the host names them."""
        mounts, root = self._mounts("self"), self._rootfs
        if not root:
            return mounts
        below = [m for m in mounts if m.point == root or m.point.startswith(root + "/")]
        return tuple(m._replace(point=m.point[len(root) :] or "/") for m in below)

    def find(self, path: str, seen: tuple[Mount, ...]) -> Layer | None:
        """The layer of the container at this cgroup path; `seen` are our own mounts. None: not known (yet)."""
        pids = list(self._pids(path))
        for pid in pids[:_CANDIDATES]:
            root = root_of(self._mounts(str(pid)))
            if root is None:
                continue
            outside, owner = self._outside(pid, path)
            for mounts, of in ((seen, 0), (outside, owner)):
                if (layer := _layer(root, mounts, of)) is not None:
                    return layer
        return None

    def _pids(self, path: str) -> Iterator[int]:
        """Processes of the container and of the cgroups in it, those nearest to its own first."""
        for directory in self._cgroups.directories(path):
            for folder, below, _ in islice(os.walk(directory), _FOLDERS):
                below.sort()
                if pids := _numbers(f"{folder}/cgroup.procs"):
                    yield from pids
                    return

    def _outside(self, pid: int, path: str) -> tuple[tuple[Mount, ...], int]:
        """Mounts as the nearest ancestor outside of the container sees them (containerd's shim, conmon ...), and its user."""
        for _ in range(_ANCESTORS):
            status = _status(f"{self._proc}/{pid}/status")
            pid = int(status.get(b"PPid", b"0"))
            if pid <= 0:
                break
            if not self._is_inside(pid, path):
                user = _status(f"{self._proc}/{pid}/status").get(b"Uid", b"").split()
                return self._mounts(str(pid)), int(user[0]) if user else 0
        return (), 0

    def _is_inside(self, pid: int, path: str) -> bool:
        try:
            raw = Path(f"{self._proc}/{pid}/cgroup").read_bytes()
        except OSError:
            return True  # nothing is believed of whom nothing is known
        places = [line.split(b":", 2)[2] for line in raw.split(b"\n") if line.count(b":") >= 2]
        inside = os.fsencode(path)
        return not places or any(p == inside or p.startswith(inside + b"/") for p in places)

    def _mounts(self, pid: str) -> tuple[Mount, ...]:
        try:
            return _parsed(Path(f"{self._proc}/{pid}/mountinfo").read_bytes())
        except OSError:
            return ()


@lru_cache(maxsize=4)  # the shims of all containers see the same
def _parsed(text: bytes) -> tuple[Mount, ...]:
    return tuple(parse(text))


def _layer(root: Mount, outside: tuple[Mount, ...], user: int) -> Layer | None:
    above = root_of(outside)
    if above is None or (above.device, above.root) == (root.device, root.root):
        return None  # it has not changed its root yet, or never does
    if root.type == "overlay":
        same = (m for m in outside if m.device == root.device and m.type == "overlay")
        upper = next((u for m in same if (u := upper_of(m)) is not None), None)
        return None if upper is None else Layer(upper, user or None)
    if root.root == "/":
        return None
    # a directory of a filesystem that is mounted outside too, of all or of a part of it
    for mount in sorted(outside, key=lambda m: len(m.root)):
        if mount.device == root.device:
            part = mount.root.rstrip("/")
            if root.root.startswith(part + "/"):
                return Layer(mount.point.rstrip("/") + root.root[len(part) :], user or None)
    return None


def _numbers(file: str) -> list[int]:
    try:
        with open(file, "rb", buffering=0) as f:
            words = f.read(4096).split(b"\n")[:-1]
    except OSError:
        return []
    return [int(w) for w in words if w.isdigit() and w != b"0"]


def _status(file: str) -> Mapping[bytes, bytes]:
    try:
        raw = Path(file).read_bytes()
    except OSError:
        return {}
    return {k: v.strip() for k, colon, v in (line.partition(b":") for line in raw.split(b"\n")) if colon}
