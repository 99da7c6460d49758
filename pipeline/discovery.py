"""Which cgroup directories there are: inotify watches on every hierarchy, confirmed now and then by a full walk.

An event is taken as a hint to look at the directory and never as the truth: events are late, and a path may have been removed
and made again since. A watch is added before the directory is scanned, so that of `mkdir -p a/b/c` nothing is missed. When
the kernel's event queue overflows or watches run out (`fs.inotify.max_user_watches`), the walk finds what was missed.

Needs the right to read the hierarchy's directories, no more.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from inotify_simple import INotify, flags

from tidegauge.pipeline.plugin import Hierarchy

_LOG = logging.getLogger(__name__)
_MASK = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ONLYDIR | flags.DONT_FOLLOW
_LEAF_LINKS = 2
"""Links of a kernfs directory without directories in it; such a one is not scanned."""

Walked: TypeAlias = Sequence[Mapping[str, int]]
"""For each hierarchy, cgroup path -> inode."""
IsPruned: TypeAlias = Callable[[str], bool]


def full_path(root: str, path: str) -> str:
    """Where a cgroup path lies in a hierarchy mounted at `root`."""
    return root if path == "/" else root + path


def _is_text(name: str) -> bool:
    """False for a name that is not UTF-8: no store could hold it, so such a directory is left out."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


def _children(root: str, path: str) -> list[str]:
    """cgroup paths of the directories in a directory; none if it is gone or cannot be read."""
    prefix = "" if path == "/" else path
    try:
        with os.scandir(full_path(root, path)) as entries:
            return [f"{prefix}/{e.name}" for e in entries if e.is_dir(follow_symlinks=False) and _is_text(e.name)]
    except OSError:
        return []


def walk(hierarchies: Sequence[Hierarchy], is_pruned: IsPruned) -> Walked:
    """Every directory that there is now. Touches no state: for a worker thread, its result goes to `Discovery.reconcile`."""
    found: list[dict[str, int]] = []
    for hierarchy in hierarchies:
        root = str(hierarchy.root)
        tree: dict[str, int] = {}
        stack = ["/"]
        while stack:
            path = stack.pop()
            if is_pruned(path):
                continue
            try:
                status = os.stat(full_path(root, path), follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                continue
            tree[path] = status.st_ino
            if status.st_nlink != _LEAF_LINKS:
                stack.extend(_children(root, path))
        found.append(tree)
    return found


def _inotify() -> INotify | None:
    """None if this user has no more inotify instances (`fs.inotify.max_user_instances`)."""
    try:
        return INotify()
    except OSError as exc:
        _LOG.warning("no inotify (%s): new containers are found by walking alone", exc)
        return None


class Discovery:
    """The directories of all hierarchies as last seen. One thread.

    Every method that looks returns the cgroup paths at which something changed, each once; `pairs` then says what is there.
    """

    def __init__(self, hierarchies: Sequence[Hierarchy], is_pruned: IsPruned) -> None:
        self.hierarchies = tuple(hierarchies)
        self._roots = [str(h.root) for h in self.hierarchies]
        self._trees: list[dict[str, int]] = [{} for _ in self.hierarchies]
        self._is_pruned = is_pruned
        self._inotify = _inotify()
        self._silence = os.eventfd(0, os.EFD_CLOEXEC)
        """Stands in for inotify where there is none: never readable."""
        self._watched: dict[int, tuple[int, str]] = {}
        self._watches: dict[tuple[int, str], int] = {}
        self.needs_walk = False
        """True after events were lost; whoever starts a walk sets it back."""
        self.overflows = 0
        self.unwatched = 0
        """Times that a directory got no watch; only walks find what is made in it."""

    @property
    def is_pruned(self) -> IsPruned:
        return self._is_pruned

    def fileno(self) -> int:
        """Becomes readable when something changed."""
        fd: int = self._silence if self._inotify is None else self._inotify.fileno()
        return fd

    def pairs(self, path: str) -> dict[str, int]:
        """hierarchy -> inode of the directories at this path, in order of preference; empty if it is gone."""
        return {h.name: t[path] for h, t in zip(self.hierarchies, self._trees, strict=True) if path in t}

    def paths(self) -> set[str]:
        """Every path that there is."""
        return {path for tree in self._trees for path in tree}

    def created_ms(self, path: str) -> int | None:
        """Upper bound of when the directory was made: the kernel's time of its inode, in ms UTC. None if it is gone."""
        for root, tree in zip(self._roots, self._trees, strict=True):
            if path in tree:
                try:
                    return os.stat(full_path(root, path)).st_ctime_ns // 1_000_000
                except OSError:
                    continue
        return None

    def begin(self) -> Iterable[str]:
        """Watches and scans all hierarchies."""
        touched: dict[str, None] = {}
        for h in range(len(self.hierarchies)):
            self._add(h, "/", touched)
        return touched

    def read(self) -> Iterable[str]:
        """Takes the events that wait. Does not block."""
        touched: dict[str, None] = {}
        if self._inotify is None:
            return touched
        for wd, mask, _cookie, name in self._inotify.read(timeout=0):
            if mask & flags.Q_OVERFLOW:
                self.overflows += 1
                self.needs_walk = True
            elif mask & flags.IGNORED:
                place = self._watched.pop(wd, None)
                if place is not None and self._watches.get(place) == wd:
                    del self._watches[place]
            elif mask & flags.ISDIR and name and wd in self._watched and _is_text(name):
                h, parent = self._watched[wd]
                path = f"/{name}" if parent == "/" else f"{parent}/{name}"
                self._look(h, path, touched)
                if mask & flags.MOVED_FROM:
                    self._look_below(h, path, touched)
        return touched

    def check(self, path: str) -> Iterable[str]:
        """Looks at the directories of one path."""
        touched: dict[str, None] = {}
        for h in range(len(self.hierarchies)):
            if path in self._trees[h]:
                self._look(h, path, touched)
        return touched

    def reconcile(self, walked: Walked) -> Iterable[str]:
        """Takes over a walk's result. It may be stale: each difference is looked at."""
        touched: dict[str, None] = {}
        for h, (tree, found) in enumerate(zip(self._trees, walked, strict=True)):
            differ = [p for p, inode in found.items() if tree.get(p) != inode]
            differ += [p for p in tree if p not in found]
            for path in differ:
                self._look(h, path, touched)
        return touched

    def prune(self, is_pruned: IsPruned) -> Iterable[str]:
        """Changes what is left out, and looks at everything again."""
        self._is_pruned = is_pruned
        return self.reconcile(walk(self.hierarchies, is_pruned))

    def close(self) -> None:
        """Safe twice."""
        if self._inotify is not None:
            self._inotify.close()
        if self._silence >= 0:
            os.close(self._silence)
            self._silence = -1

    def _look(self, h: int, path: str, touched: dict[str, None]) -> None:
        inode: int | None = None
        if not self._is_pruned(path):
            try:
                inode = os.stat(full_path(self._roots[h], path), follow_symlinks=False).st_ino
            except OSError:
                inode = None
        if inode is None:
            self._unwatch(h, path)
            if self._trees[h].pop(path, None) is not None:
                touched[path] = None
        elif self._trees[h].get(path) != inode:
            self._add(h, path, touched)

    def _add(self, h: int, path: str, touched: dict[str, None]) -> None:
        root, tree = self._roots[h], self._trees[h]
        stack = [path]
        while stack:
            path = stack.pop()
            if self._is_pruned(path):
                continue
            full = full_path(root, path)
            self._watch(h, path, full)
            try:
                status = os.stat(full, follow_symlinks=False)
            except OSError:
                self._unwatch(h, path)
                continue
            if not stat.S_ISDIR(status.st_mode):
                continue
            if tree.get(path) != status.st_ino:
                tree[path] = status.st_ino
                touched[path] = None
            if status.st_nlink != _LEAF_LINKS:
                stack.extend(_children(root, path))

    def _watch(self, h: int, path: str, full: str) -> None:
        if self._inotify is None:
            self.unwatched += 1
            return
        try:
            wd = self._inotify.add_watch(full, _MASK)
            if self._watches.get((h, path)) != wd:
                self._unwatch(h, path)
            self._watches[h, path] = wd
            self._watched[wd] = (h, path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            if not self.unwatched:
                _LOG.warning("no watch on %s (%s): what is made in such directories is found by walking alone", full, exc)
            self.unwatched += 1

    def _unwatch(self, h: int, path: str) -> None:
        """Gives back the watch of a directory that is gone: kernfs keeps it, and the inode, until it is asked to let go.

        Events of it that wait are still understood, as they stand before the one that tells of the watch's end.
        """
        wd = self._watches.pop((h, path), None)
        if wd is None or self._watched.get(wd) != (h, path) or self._inotify is None:
            return
        try:
            self._inotify.rm_watch(wd)
        except OSError:
            pass  # the kernel let it go by itself

    def _look_below(self, h: int, path: str, touched: dict[str, None]) -> None:
        """What lay below a directory that was renamed tells nothing of itself; one that is removed is empty."""
        for child in [p for p in self._trees[h] if p.startswith(path + "/")]:
            self._look(h, child, touched)
