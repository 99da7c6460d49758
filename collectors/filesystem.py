"""Size and use of the host's filesystems, from /proc/self/mountinfo (proc(5)) and statvfs(3). No privileges.

With `rootfs` elsewhere than `/` (the host's root mounted into a container, read-only and rslave so that new mounts arrive)
the mounts below it count, named as the host names them. One row a source, by its first mount; filesystems whose source says
nothing (overlay, tmpfs) bear their mount point instead.

A filesystem can hang for ever (a network server that is gone), so each is asked on a thread of its own under a deadline. A
thread that misses it is not waited for; its mount has a row without values and is left alone until that thread returns.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.records import MAX_INT, Container, TableRow, TableRows, Values

# fmt: off
_KEPT_TYPES = (
    "bcachefs", "btrfs", "exfat", "ext*", "f2fs", "fuseblk", "hfs*", "iso9660", "jfs", "msdos", "nfs", "nfs4", "ntfs*",
    "reiserfs", "squashfs", "udf", "vfat", "xfs", "zfs",
)
# fmt: on
_WITHOUT_SOURCE = frozenset({"aufs", "overlay", "ramfs", "rootfs", "tmpfs"})
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class FilesystemConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proc: Path = Path("/proc")
    rootfs: Path = Path("/")
    types: tuple[str, ...] = _KEPT_TYPES
    """Shell patterns of the filesystem types that are kept; add `tmpfs` to have these by mount point. `/` always is."""
    deadline_s: float = 2.0
    """How long a round waits for its filesystems, all together."""


class Mount(NamedTuple):
    id: int
    device: str
    """Source, or mount point where the source says nothing: the instance of the row."""
    path: str
    """Where this process reaches it."""
    point: str
    """Where the host has it."""
    type: str


class StatvfsResult(Protocol):
    """The fields of os.statvfs_result that are read, so that tests can answer for a filesystem."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bfree(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_ffree(self) -> int: ...


class _Line(NamedTuple):
    id: int
    parent: int
    path: str
    type: str
    source: str


def parse(text: bytes, rootfs: str, types: tuple[str, ...]) -> tuple[Mount, ...]:
    """Mounts at and below `rootfs` that are kept and can be reached, the first one of each device. CollectError: no mountinfo.

    A mount can be reached if no later one, other than those it is mounted on, covers its path.
    """
    # Only a newline ends a line here: the kernel leaves a carriage return in a name as it is.
    lines = [_parse_line(line) for line in text.split(b"\n") if line]
    parents = {line.id: line.parent for line in lines}
    root = rootfs.rstrip("/")
    found: dict[str, Mount] = {}
    for place, line in enumerate(lines):
        inside = _below(line.path, root)
        if inside is None or not (inside == "/" or any(fnmatchcase(line.type, t) for t in types)):
            continue
        device = inside if line.type in _WITHOUT_SOURCE or not line.source else line.source
        if device in found:
            continue
        under = _ancestors(line.id, parents)
        if not any(_below(line.path, later.path.rstrip("/")) and later.id not in under for later in lines[place + 1 :]):
            found[device] = Mount(line.id, device, line.path, inside, line.type)
    return tuple(found.values())


def _parse_line(line: bytes) -> _Line:
    head, separator, tail = line.partition(b" - ")
    words, rest = head.split(b" "), tail.split(b" ")
    if not separator or len(words) < 6 or len(rest) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        raise CollectError(f"mountinfo: expected a mount, got {line[:80]!r}")
    return _Line(int(words[0]), int(words[1]), _name(words[4]), _name(rest[0]), _name(rest[1]))


def _name(word: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda m: bytes([int(m[1], 8) & 255]), word))


def _below(path: str, root: str) -> str | None:
    """`path` as seen from `root` (without a slash at its end), or None if it is elsewhere."""
    if path == root:
        return "/"
    return path[len(root) :] if path.startswith(root + "/") else None


def _ancestors(mount: int, parents: dict[int, int]) -> set[int]:
    seen: set[int] = set()
    while mount in parents and mount not in seen:
        seen.add(mount)
        mount = parents[mount]
    return seen


def values(answer: StatvfsResult) -> tuple[int | None, ...]:
    """Limit, usage, available bytes, inodes, free inodes; no inodes where the filesystem does not count them (btrfs, vfat)."""
    size = answer.f_frsize
    inodes = (answer.f_files, answer.f_ffree) if answer.f_files else (None, None)
    numbers = (answer.f_blocks * size, (answer.f_blocks - answer.f_bfree) * size, answer.f_bavail * size, *inodes)
    return tuple(n if n is not None and 0 <= n <= MAX_INT else None for n in numbers)


class MountFaults:
    """Mounts that gave nothing, over all rounds. Written by the worker thread, read by any."""

    def __init__(self) -> None:
        self.hanging_mounts = 0
        """Rows without values since the filesystem did not answer in time, in each round anew."""
        self.unreadable_mounts = 0
        """Rows without values since the filesystem could not be asked: no right to, or gone since."""
        self.complaint: str | None = None
        """Of the last round."""


class _Question(threading.Thread):
    """One statvfs on a thread of its own. A daemon, so that one that hangs does not hold the program at its end."""

    def __init__(self, mount: Mount, ask: Callable[[str], StatvfsResult]) -> None:
        super().__init__(name=f"statvfs {mount.path}", daemon=True)
        self.mount = mount
        self._ask = ask
        self.answer: StatvfsResult | None = None
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self.answer = self._ask(self.mount.path)
        except OSError as exc:
            self.error = exc


class FilesystemReader:
    """Called from one worker thread. `ask` is os.statvfs; tests give one that hangs."""

    def __init__(
        self,
        mountinfo: Path,
        rootfs: str,
        types: tuple[str, ...],
        deadline_s: float,
        ask: Callable[[str], StatvfsResult] = os.statvfs,
        faults: MountFaults | None = None,
    ) -> None:
        if not mountinfo.exists():
            raise NoData(f"{mountinfo} does not exist")
        self._mountinfo = mountinfo
        self._rootfs = rootfs
        self._types = types
        self._deadline_s = deadline_s
        self._ask = ask
        self._faults = faults or MountFaults()
        self._pending: dict[int, _Question] = {}
        self._rows: TableRows | None = None
        self.mounts: tuple[Mount, ...] = ()
        """Of the last reading, in the order of its rows."""

    @property
    def hanging(self) -> tuple[str, ...]:
        """Devices whose filesystem has not answered yet."""
        return tuple(q.mount.device for q in self._pending.values() if q.is_alive())

    def read(self) -> Values:
        self._rows = None
        try:
            text = self._mountinfo.read_bytes()
        except OSError as exc:
            raise CollectError(f"read {self._mountinfo}: {exc.strerror}") from exc
        self.mounts = mounts = parse(text, self._rootfs, self._types)
        here = {m.id for m in mounts}
        self._pending = {i: q for i, q in self._pending.items() if i in here and q.is_alive()}
        asked: dict[int, _Question] = {}
        for m in mounts:
            if m.id not in self._pending:
                asked[m.id] = _Question(m, self._ask)
                asked[m.id].start()
        deadline = time.monotonic() + self._deadline_s
        for question in asked.values():
            question.join(max(0.0, deadline - time.monotonic()))
        self._pending |= {i: q for i, q in asked.items() if q.is_alive()}
        self._count(asked)
        self._rows = tuple(_row(m, asked.get(m.id)) for m in mounts)
        return ()

    def _count(self, asked: dict[int, _Question]) -> None:
        errors = [(q.mount.path, e) for q in asked.values() if (e := q.error) is not None]
        self._faults.hanging_mounts += len(self._pending)
        self._faults.unreadable_mounts += len(errors)
        complaints = [f"{q.mount.path}: no answer within {self._deadline_s:g} s" for q in self._pending.values()]
        self._faults.complaint = next(iter([*complaints, *(f"{path}: {exc.strerror}" for path, exc in errors)]), None)

    def read_tables(self) -> tuple[TableRows | None, ...]:
        return (self._rows,)

    def close(self) -> None:
        """Holds nothing open; a thread that hangs ends when its filesystem answers or with the program."""


def _row(mount: Mount, question: _Question | None) -> TableRow:
    answer = None if question is None else question.answer
    return (mount.device, *((None,) * 5 if answer is None else values(answer)))


class FilesystemCollector:
    """Table `filesystem`: limit, usage and available bytes, inodes and free inodes of each device that is mounted."""

    Config = FilesystemConfig
    groups = ("filesystem",)
    metrics = ()
    tables = ("filesystem",)
    is_slow = True

    def __init__(self, config: FilesystemConfig) -> None:
        self._config = config
        self._faults = MountFaults()

    def counters(self) -> Mapping[str, int]:
        return {"hanging_mounts": self._faults.hanging_mounts, "unreadable_mounts": self._faults.unreadable_mounts}

    def complaint(self) -> str | None:
        return self._faults.complaint

    def reader(self, container: Container) -> FilesystemReader | None:
        if not container.is_host:
            return None
        c = self._config
        return FilesystemReader(c.proc / "self" / "mountinfo", str(c.rootfs), c.types, c.deadline_s, faults=self._faults)
