"""Which container a cgroup path belongs to, by the layouts that runtimes use; pure, no I/O.

Source: the runtimes' own code and documentation. Seen on real hosts: docker and podman with the cgroupfs driver, containerd
by `ctr`. The systemd driver, Kubernetes, CRI-O, rootless and LXC layouts are known from documentation.
"""

import re
from functools import lru_cache
from typing import NamedTuple

UNIT = re.compile(r".+\.(service|scope|slice|socket|swap|target|timer|device)")
"""A systemd unit that may have a cgroup; `.mount` is left out as no container."""

_ID = re.compile(r"(?:(?P<prefix>.*)[-:])?(?P<id>[0-9a-f]{64})(?:\.scope|\.service)?")
_OWNERS = {
    "docker": ("docker",),
    "libpod": ("podman",),
    "libpod-payload": ("podman",),
    "cri-containerd": ("containerd",),
    "nerdctl": ("containerd",),
    "crio": ("crio",),
    "": ("containerd", "docker"),
}
"""What stands before the id -> runtimes that may have made it. Below `kubepods` or a custom parent, a bare id is either's."""
_BARE = {"docker": ("docker",), "libpod_parent": ()}
"""Who a bare id directly below these belongs to: docker's usual parent; podman's pods, which are no containers."""
_POD = re.compile(r"(?:kubepods(?:-besteffort|-burstable)?-)?pod(?P<uid>[0-9a-f][0-9a-f_-]{30,34}[0-9a-f])(?:\.slice)?")
_PODMAN_POD = re.compile(r"(?:.*libpod_pod_)?(?P<uid>[0-9a-f]{64})(?:\.slice)?")
_LXC_ROOTS = ("lxc", "lxc.payload")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


class Place(NamedTuple):
    """The innermost container on a path."""

    runtimes: tuple[str, ...]
    """Those that may have made it."""
    id: str
    part: str
    """The path below the container's own cgroup, without a slash at its ends."""
    pod_uid: str | None


@lru_cache(maxsize=256)  # every runtime asks for the same path, one after another
def locate(path: str) -> Place | None:
    """The container that this cgroup is or lies in; None if no part of the path names one."""
    names = path.strip("/").split("/")
    for i in range(len(names) - 1, -1, -1):
        above = names[i - 1] if i else ""
        part = "/".join(names[i + 1 :])
        if found := _ID.fullmatch(names[i]):
            # "kubepods-podUID.slice:cri-containerd:ID": what a runtime makes of a systemd path without the systemd driver
            prefix = (found["prefix"] or "").rpartition(":")[2]
            owners = _BARE.get(above, _OWNERS[""]) if not prefix else _OWNERS.get(prefix, ())
            if owners:
                return Place(owners, found["id"], part, _pod_above(names[: i + 1]))
        elif names[i].startswith("lxc.payload.") or (i == 1 and above in _LXC_ROOTS):
            return Place(("lxc",), names[i].removeprefix("lxc.payload."), part, None)
    return None


def pod_uid(name: str) -> str | None:
    """The uid in the name of a Kubernetes pod's cgroup, with hyphens; None for any other name."""
    found = _POD.fullmatch(name)
    return found["uid"].replace("_", "-") if found else None


def _pod_above(names: list[str]) -> str | None:
    if len(names) < 2:
        return None
    if found := _PODMAN_POD.fullmatch(names[-2]):
        return found["uid"] if "libpod" in names[-1] else None
    # the pod's name may stand in the container's own: see ":" above
    return pod_uid(names[-2]) or pod_uid(names[-1].partition(":")[0])


def unescape(unit: str) -> str:
    """A unit's name with its \\xHH replaced; unchanged if that is no text."""
    try:
        return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), unit).encode("latin-1").decode()
    except UnicodeError:
        return unit
