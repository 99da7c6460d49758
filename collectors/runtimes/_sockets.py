"""Which sockets are asked for a user's containers, and which for all others. Nobody but their owner decides what listens there.

Whoever may put a socket somewhere answers what he likes. So what lies below /run/user/UID, and any socket that a user owns or
could exchange, is asked for that user's containers alone.
"""

import glob
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

_USERS = "/run/user/"
_MOST = 4
"""Sockets of one user: each may keep a question waiting for as long as an answer may take."""


def owner(path: Path) -> int:
    """The user who could have made the socket: 0 for root and for the user that we run as. OSError if it is not there."""
    real = Path(os.path.realpath(path))
    for part in (path, *path.parents, real, *real.parents):
        if (uid := os.lstat(part).st_uid) not in (0, os.geteuid()):
            return uid
    return 0


class Sockets:
    """Sockets by shell patterns of absolute paths.

    They are looked for below `rootfs`, and where nothing is there, as they are: a socket may be mounted into our own
    container at its usual place.
    """

    def __init__(self, patterns: Sequence[str], rootfs: Path) -> None:
        self._places = [("", list(patterns))]
        if below := str(rootfs).rstrip("/"):
            # /var/run is a link to /run: an absolute one, which below a mounted root would lead into our own container
            self._places.insert(0, (below, [p.replace("/var/run/", "/run/", 1) for p in patterns]))

    def of(self, user: int) -> list[Path]:
        """Those that exist now and are this user's; of 0 those that are no user's. Looks into no other user's folder."""
        for root, patterns in self._places:
            if found := [path for pattern in patterns for path in _matches(root, pattern, user)]:
                return found[:_MOST] if user else found
        return []


def _matches(root: str, pattern: str, user: int) -> list[Path]:
    before, users, after = pattern.partition(_USERS)
    if before not in ("", "/var") or not users:
        return [path for path in _found(root + pattern) if _is_of(path, user)]
    name, _, rest = after.partition("/")
    return _found(f"{root}{before}{users}{user}/{rest}") if fnmatchcase(str(user), name) else []


def _found(pattern: str) -> list[Path]:
    return [Path(p) for p in sorted(glob.glob(pattern))]


def _is_of(path: Path, user: int) -> bool:
    try:
        return owner(path) == user
    except OSError:
        return False
